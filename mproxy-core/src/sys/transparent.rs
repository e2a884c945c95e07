//! Transparent sockets, which send with the address of another host (`ip(7)`, `IP_TRANSPARENT`). Only Linux has them.

#[cfg(not(target_os = "linux"))]
pub(crate) use fallback::*;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use rustix::io::Errno;
    use rustix::process::{Resource, getrlimit};
    use socket2::{Domain, Protocol, SockRef, Socket, Type};

    pub(crate) const CAN_SEND_TRANSPARENT: bool = true;

    /// A UDP socket that can be bound to an address of another host (`IP_TRANSPARENT`), and to a port that others
    /// have (`SO_REUSEPORT`): other threads have the same senders, and a listener may have their port. Its error
    /// queue (`IP_RECVERR`) is on, and bounded by the smallest receive buffer.
    pub(crate) fn open_transparent(family: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(family), Type::DGRAM, Some(Protocol::UDP))?;
        if family.is_ipv4() {
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_ip_transparent_v6(true)?;
        }
        socket.set_reuse_port(true)?;
        let socket = UdpSocket::from(socket);
        crate::sys::enable_error_queue(&socket, family.is_ipv6())?;
        SockRef::from(&socket).set_recv_buffer_size(0)?;
        Ok(socket.into())
    }

    /// Has IPv4 unicast and broadcast leave through this interface (`IP_UNICAST_IF`); 0: through that of the route.
    pub(crate) fn set_unicast_interface(socket: &UdpSocket, index: u32) -> io::Result<()> {
        crate::sys::broadcast_through(socket.as_fd(), index)
    }

    /// How many descriptors the process may have (`RLIMIT_NOFILE`).
    pub(crate) fn descriptor_limit() -> usize {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// Whether the process or the system has no descriptor left (`EMFILE`, `ENFILE`).
    pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
    }
}

#[cfg(not(target_os = "linux"))]
mod fallback {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};

    use socket2::Socket;

    pub(crate) const CAN_SEND_TRANSPARENT: bool = false;

    pub(crate) fn open_transparent(_: SocketAddr) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn set_unicast_interface(_: &UdpSocket, _index: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn descriptor_limit() -> usize {
        usize::MAX
    }

    pub(crate) fn is_out_of_descriptors(_: &io::Error) -> bool {
        false
    }
}
