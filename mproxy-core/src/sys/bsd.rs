//! BSD and macOS, and the other Unix systems but Linux.

use std::io;
use std::net::UdpSocket;

use socket2::Socket;

#[cfg(any(target_os = "macos", target_os = "freebsd"))]
pub(crate) use super::groups::join_source_v6;

/// The zone of a link-local address may lie in bytes that are zero elsewhere (RFC 4291, 2.5.6).
pub(crate) const EMBEDS_ZONES: bool = true;

/// The pending socket error (`SO_ERROR`), which is cleared by that.
pub(crate) fn pending_socket_error(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    socket.take_error()
}

/// The bytes in the receive queue (`FIONREAD`).
pub(crate) fn receive_queue_bytes(socket: &UdpSocket) -> io::Result<usize> {
    let bytes = rustix::io::ioctl_fionread(socket)?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Lets several receivers on this host share a group and its port: all of them must ask for `SO_REUSEPORT`, too. A
/// unicast stream could be stolen so.
pub(crate) fn set_reuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    #[cfg(not(any(target_os = "android", target_os = "solaris", target_os = "illumos")))]
    socket.set_reuse_port(true)?;
    Ok(())
}

/// Lets datagrams of every size leave: none may be larger than the send buffer, of 9216 bytes by default
/// (net.inet.udp.maxdgram, udp(4)). Where it may not be so large, the send that fails tells (EMSGSIZE).
pub(crate) fn raise_send_buffer(socket: &Socket) {
    /// What IPv6 carries is some more than what IPv4 does.
    const LARGEST: usize = 65_535;
    if socket.send_buffer_size().is_ok_and(|size| size < LARGEST) {
        let _ = socket.set_send_buffer_size(LARGEST);
    }
}

/// Has broadcast leave through the interface. Where its own address does not do that by itself, on macOS, the index
/// does (`IP_BOUND_IF`).
#[allow(clippy::unnecessary_wraps)] // macOS's can fail
pub(crate) fn set_broadcast_interface(socket: &Socket, index: u32) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    socket.bind_device_by_index_v4(std::num::NonZeroU32::new(index))?;
    #[cfg(not(target_vendor = "apple"))]
    let _ = (socket, index);
    Ok(())
}

/// The path MTU is not told.
pub(crate) fn path_mtu(_: &UdpSocket, _ipv4: bool) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A group for one source alone cannot be joined there.
#[cfg(not(any(target_os = "macos", target_os = "freebsd")))]
pub(crate) fn join_source_v6(
    _: &Socket,
    _group: std::net::Ipv6Addr,
    _source: std::net::Ipv6Addr,
    _index: u32,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
