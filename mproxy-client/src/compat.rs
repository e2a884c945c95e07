//! The functions of mproxy 0.1.8, deprecated: thin wrappers over [`Client`].

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use mproxy_core::{Endpoint, Options, Role, open_target};

use crate::Client;

/// Opens a socket to send to the endpoint with, and returns it with the endpoint's address. For a
/// multicast group its interface and TTL are set.
///
/// # Errors
/// If the address is malformed, does not resolve, or cannot be reached from this host.
#[deprecated(since = "0.3.0", note = "use `Client` with `target`, or `mproxy_core::open_target`")]
#[allow(clippy::ptr_arg)] // the signature of 0.1.8
pub fn target_socket_interface(server_addr: &String) -> io::Result<(SocketAddr, UdpSocket)> {
    let options = Options::default();
    let target = Endpoint::parse(server_addr, Role::UdpTarget)?.resolve(&options)?;
    Ok(open_target(&target, &options)?)
}

/// Sends what `path` holds (`-` is standard input) to all of the endpoints, with `tee` to standard output
/// too, and returns at its end.
///
/// # Errors
/// See [`Client::spawn`].
#[deprecated(since = "0.3.0", note = "use `Client`, and `join` its handle")]
#[allow(clippy::ptr_arg)] // the signature of 0.1.8
pub fn client_socket_stream(path: &PathBuf, server_addrs: Vec<String>, tee: bool) -> io::Result<()> {
    let client = server_addrs.into_iter().fold(Client::new(path).tee(tee), Client::target);
    client.spawn()?.join()?;
    Ok(())
}
