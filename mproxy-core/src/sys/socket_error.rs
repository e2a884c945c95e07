//! The pending socket error (`SO_ERROR`): what ICMP has reported of datagrams that were sent earlier.

use std::io;
use std::net::UdpSocket;

/// Whether a send fails of the pending socket error. On Windows only a receive does.
pub(crate) const SEND_TAKES_SOCKET_ERROR: bool = cfg!(not(windows));

/// Takes the pending socket error (`SO_ERROR`).
#[cfg(not(windows))]
pub(crate) fn pending_socket_error(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    socket.take_error()
}

/// Takes the pending socket errors, and returns the last. Windows queues them between the datagrams that came in, so
/// these are received too, and dropped.
#[cfg(windows)]
pub(crate) fn pending_socket_error(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    use rustix::io::Errno;
    /// Bounded, so that who sends to this socket does not keep it from sending.
    const AT_ONCE: usize = 1000;
    // A datagram that is longer than the room for it (WSAEMSGSIZE).
    let is_cut = |error: &io::Error| error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error());
    socket.set_nonblocking(true)?;
    let mut last = None;
    for _ in 0..AT_ONCE {
        match socket.recv(&mut [0]) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused => last = Some(error),
                _ if is_cut(&error) => {}
                _ => break,
            },
        }
    }
    socket.set_nonblocking(false)?;
    Ok(last)
}
