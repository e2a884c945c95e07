//! The functions of mproxy 0.1.8, deprecated: thin wrappers over [`Forward`].
#![allow(deprecated)] // they use each other

use std::thread::JoinHandle;

use mproxy_core::Handle;

use crate::Forward;

/// Forwards a UDP endpoint to all of the targets, with `tee` to standard output too. The address is bound
/// when this returns; a failure is printed on stderr, and ends the thread.
#[deprecated(since = "0.3.0", note = "use `Forward` with `udp_listen`, `target` and `tee`")]
#[must_use]
pub fn forward_udp(listen_addr: String, downstream_addrs: &[String], tee: bool) -> JoinHandle<()> {
    let forward = Forward::new().udp_listen(listen_addr).tee(tee);
    Handle::detach(downstream_addrs.iter().fold(forward, Forward::target).spawn())
}

/// Forwards each of the UDP endpoints `listen_addrs` to all of the targets `downstream_addrs`, as
/// [`forward_udp`] does, with a thread to join for each endpoint.
#[deprecated(since = "0.3.0", note = "use one `Forward` with several `udp_listen` and `target`")]
#[must_use]
pub fn proxy_gateway(downstream_addrs: &[String], listen_addrs: &[String], tee: bool) -> Vec<JoinHandle<()>> {
    listen_addrs.iter().map(|listen_addr| forward_udp(listen_addr.clone(), downstream_addrs, tee)).collect()
}

/// Forwards what a TCP server sends to a UDP endpoint, and connects again whenever the connection ends. A
/// failure to start is printed on stderr, and ends the thread.
#[deprecated(since = "0.3.0", note = "use `Forward` with `tcp_connect` and `target`")]
#[must_use]
pub fn proxy_tcp_udp(upstream_tcp: String, downstream_udp: String) -> JoinHandle<()> {
    Handle::detach(Forward::new().tcp_connect(upstream_tcp).target(downstream_udp).spawn())
}

/// Forwards what a TLS server sends to a UDP endpoint, as [`proxy_tcp_udp`] does for TCP. The server's
/// certificate must be valid, for its name, and of an authority that is built in or in the file that the
/// environment variable `SSL_CERT_FILE` names. Needs the feature `tls`.
#[cfg(feature = "tls")]
#[deprecated(since = "0.3.0", note = "use `Forward` with `tls_connect` and `target`")]
#[must_use]
pub fn proxy_tls_udp(upstream_tls: String, downstream_udp: String) -> JoinHandle<()> {
    Handle::detach(Forward::new().tls_connect(upstream_tls).target(downstream_udp).spawn())
}

/// Connects to a TLS server, `HOST:PORT`, and completes the handshake. Both parts together are a stream
/// ([`rustls::Stream`]), which blocks. The certificate is checked as for [`proxy_tls_udp`]. Needs the feature
/// `tls`.
///
/// # Errors
/// If the address is malformed, the connection fails, or the server's certificate is not valid.
#[cfg(feature = "tls")]
#[deprecated(since = "0.3.0", note = "use `Forward` with `tls_connect`, or rustls itself")]
#[allow(clippy::needless_pass_by_value)] // the signature of 0.1.8
pub fn tls_connection(
    server: String,
) -> Result<(rustls::ClientConnection, std::net::TcpStream), Box<dyn std::error::Error>> {
    Ok(mproxy_core::TlsClient::connect(&server)?)
}
