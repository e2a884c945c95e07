//! Winsock's `IP_MULTICAST_LOOP`, which the receiver sets.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;

/// Whether the receiver hears what this host sends to groups: up to the sender but on Windows.
#[cfg(windows)]
pub(crate) fn set_receiver_loop(socket: &Socket, family: SocketAddr, on: bool) -> io::Result<()> {
    if family.is_ipv4() { socket.set_multicast_loop_v4(on) } else { socket.set_multicast_loop_v6(on) }
}

#[cfg(not(windows))]
#[allow(clippy::unnecessary_wraps)] // the signature of Windows's
pub(crate) fn set_receiver_loop(_: &Socket, _family: SocketAddr, _on: bool) -> io::Result<()> {
    Ok(())
}
