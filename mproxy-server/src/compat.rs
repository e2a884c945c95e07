//! The functions of mproxy 0.1.8, deprecated: thin wrappers over [`Server`].

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::thread::JoinHandle;

use mproxy_core::{Endpoint, Handle, Options, Role, listen_udp};

use crate::Server;

/// Opens a socket that receives on the endpoint, joined if it is a multicast group, and returns it with
/// its address. Of a name with several addresses it is the first.
///
/// # Errors
/// If the address is malformed, does not resolve, or cannot be bound.
#[deprecated(since = "0.3.0", note = "use `Server` with `listen`, or `mproxy_core::listen_udp`")]
#[allow(clippy::needless_pass_by_value)] // the signature of 0.1.8
pub fn upstream_socket_interface(listen_addr: String) -> io::Result<(SocketAddr, UdpSocket)> {
    let options = Options::default();
    let endpoint = Endpoint::parse(&listen_addr, Role::UdpListener)?.resolve(&options)?;
    let socket = listen_udp(&endpoint, &options)?.into_iter().next();
    let socket = socket.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok((socket.local_addr()?, socket))
}

/// Appends what arrives at the endpoint to a file, with `tee` to standard output too. The address is
/// bound when this returns; a failure is printed on stderr, and ends the thread.
#[deprecated(since = "0.3.0", note = "use `Server` with `listen`, `path` and `tee`")]
#[must_use]
pub fn listener(addr: String, logfile: PathBuf, tee: bool) -> JoinHandle<()> {
    Handle::detach(Server::new().listen(addr).path(logfile).tee(tee).spawn())
}
