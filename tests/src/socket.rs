//! Socket options that not every system has.

use std::net::UdpSocket;

use socket2::Socket;

/// Sets `SO_REUSEADDR` and, where there is one, `SO_REUSEPORT`.
pub fn share_port(socket: &Socket) {
    socket.set_reuse_address(true).unwrap();
    #[cfg(unix)]
    socket.set_reuse_port(true).unwrap();
}

/// Sets the receive buffer, on Linux beyond the system's limit (`SO_RCVBUFFORCE`), which needs root.
pub fn force_receive_buffer(socket: &UdpSocket, bytes: usize) {
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, bytes).unwrap();
    #[cfg(not(target_os = "linux"))]
    socket2::SockRef::from(socket).set_recv_buffer_size(bytes).unwrap();
}

/// `UDP_SEGMENT`: each send of more than these bytes becomes several datagrams. Linux only.
pub fn segment(socket: &UdpSocket, bytes: u16) {
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::UdpGsoSegment, &bytes.into()).unwrap();
    #[cfg(not(target_os = "linux"))]
    panic!("no segments of {bytes} bytes here: {socket:?}");
}
