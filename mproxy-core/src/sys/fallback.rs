//! What only Linux has, as the other systems have it: not at all.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::Socket;

pub(crate) const CAN_DIVIDE_SENDERS: bool = false;

pub(crate) const CAN_SEND_TRANSPARENT: bool = false;

/// A socket without interest is in no poll.
pub(crate) const TELLS_ERRORS_UNASKED: bool = false;

/// A shutdown may do nothing: the reader's time-out ends the wait.
pub(crate) const SHUTDOWN_WAKES_READERS: bool = false;

/// ICMP's port unreachable comes soon after the send.
pub(crate) const PORT_UNREACHABLE_DELAY: Duration = Duration::from_millis(50);

#[allow(clippy::unnecessary_wraps)] // the signature of Linux's
pub(crate) fn enable_error_queue(_: &UdpSocket, _ipv6: bool) -> io::Result<()> {
    Ok(())
}

pub(crate) fn stop_input(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn resume_input(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[allow(clippy::unnecessary_wraps)] // the signature of Linux's
pub(crate) fn set_reuse_port(_: &Socket, _on: bool) -> io::Result<()> {
    Ok(())
}

/// Other systems deliver only the groups that a socket has joined itself.
#[allow(clippy::unnecessary_wraps)] // the signature of Linux's
pub(crate) fn set_multicast_all(_: &Socket, _ipv4: bool, _on: bool) -> io::Result<()> {
    Ok(())
}

pub(crate) fn bind_to_interface(_: &Socket, _name: &str) {}

pub(crate) fn force_recv_buffer(_: &Socket, _size: usize) -> bool {
    false
}

pub(crate) fn force_send_buffer(_: &Socket, _size: usize) -> bool {
    false
}

pub(crate) fn recv_buffer_size(socket: &Socket) -> io::Result<usize> {
    socket.recv_buffer_size()
}

#[allow(clippy::unnecessary_wraps)] // the signature of Linux's
pub(crate) fn set_user_timeout(_: &TcpStream, _: Duration) -> io::Result<()> {
    Ok(())
}

pub(crate) fn bound_retransmission_timeout(_: &TcpStream) {}

/// The send queue is not told.
pub(crate) fn unacknowledged_bytes(_: &TcpStream) -> u64 {
    0
}

pub(crate) fn has_unsent(_: &UdpSocket) -> bool {
    false
}

/// Retransmissions and probes are not told.
pub(crate) fn unanswered_for(_: &TcpStream) -> Option<Duration> {
    None
}

/// `IFF_RUNNING` alone tells.
pub(crate) fn has_carrier(_interface: &str) -> bool {
    false
}

pub(crate) fn has_attribute(_interface: &str, _name: &str) -> bool {
    false
}

pub(crate) fn open_transparent(_: SocketAddr) -> io::Result<Socket> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn set_unicast_interface(_: &UdpSocket, _index: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nobody asks there.
pub(crate) fn is_out_of_descriptors(_: &io::Error) -> bool {
    false
}
