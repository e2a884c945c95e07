//! The functions of mproxy 0.1.8: thin wrappers over [`Forward`].

use std::thread::JoinHandle;

use mproxy_core::Handle;

use crate::Forward;

/// Forwards what arrives at a UDP endpoint to all of the targets, with `tee` to standard output too. The
/// address is bound when this returns; a failure is said on stderr, and ends the thread. A function of
/// mproxy 0.1.8: a wrapper over [`Forward`].
#[must_use]
pub fn forward_udp(listen_addr: String, downstream_addrs: &[String], tee: bool) -> JoinHandle<()> {
    let forward = Forward::new().udp_listen(listen_addr).tee(tee);
    Handle::detach(downstream_addrs.iter().fold(forward, Forward::target).spawn())
}

/// Forwards each of the UDP endpoints to all of the targets, as [`forward_udp`] does, with a thread to
/// join for each endpoint. A function of mproxy 0.1.8: a wrapper over [`Forward`].
#[must_use]
pub fn proxy_gateway(listen_addrs: &[String], downstream_addrs: &[String], tee: bool) -> Vec<JoinHandle<()>> {
    listen_addrs.iter().map(|listen_addr| forward_udp(listen_addr.clone(), downstream_addrs, tee)).collect()
}

/// Connects to a TCP server, again whenever the connection ends, and sends what it sends to a UDP
/// endpoint. A failure to start is said on stderr, and ends the thread. A function of mproxy 0.1.8: a
/// wrapper over [`Forward`].
#[must_use]
pub fn proxy_tcp_udp(upstream_tcp: String, downstream_udp: String) -> JoinHandle<()> {
    Handle::detach(Forward::new().tcp_connect(upstream_tcp).target(downstream_udp).spawn())
}

/// Connects to a TLS server, again whenever the connection ends, and sends what it sends to a UDP endpoint:
/// what [`proxy_tcp_udp`] does for TCP. The server's certificate must be valid, for its name, and of an
/// authority that is built in or in the file that the environment variable `SSL_CERT_FILE` names. A function
/// of mproxy 0.1.8: a wrapper over [`Forward`]. Needs the feature `tls`.
#[cfg(feature = "tls")]
#[must_use]
pub fn proxy_tls_udp(upstream_tls: String, downstream_udp: String) -> JoinHandle<()> {
    Handle::detach(Forward::new().tls_connect(upstream_tls).target(downstream_udp).spawn())
}

/// Connects to a TLS server, `HOST:PORT`, and shakes hands with it. Both parts together are a stream
/// ([`rustls::Stream`]), which blocks. The certificate is checked as for [`proxy_tls_udp`]. A function of
/// mproxy 0.1.8. Needs the feature `tls`.
///
/// # Errors
/// If the address is malformed, the connection fails, or the server's certificate is not valid.
#[cfg(feature = "tls")]
#[allow(clippy::needless_pass_by_value)] // the signature of 0.1.8
pub fn tls_connection(
    server: String,
) -> Result<(rustls::ClientConnection, std::net::TcpStream), Box<dyn std::error::Error>> {
    Ok(mproxy_core::TlsClient::dial(&server)?)
}
