//! Linux: socket options that no library knows or that other systems lack, TCP's own account of a connection, and
//! what sysfs shows of an interface.

mod message;

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read};
use std::mem::zeroed;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use message::socklen;
#[cfg_attr(mproxy_portable, allow(unused_imports))]
pub(crate) use message::{Incoming, MESSAGES, Outgoing, drain_error_queue, release};

pub(crate) use super::groups::join_source_v6;

/// Whether `SO_REUSEPORT` divides a listener's senders among its sockets.
pub(crate) const CAN_DIVIDE_SENDERS: bool = true;

/// Whether errors of a socket in a poll set are told whatever the interest in it is (`epoll_ctl(2)`, `EPOLLERR`).
pub(crate) const TELLS_ERRORS_UNASKED: bool = true;

/// Whether a shutdown wakes the blocked reader of a UDP socket. The standard library panics there, since what
/// comes has no sender: the portable datagram I/O uses it.
pub(crate) const SHUTDOWN_WAKES_READERS: bool = !cfg!(mproxy_portable);

/// Whether link-local addresses keep their zone in bytes that are zero elsewhere.
pub(crate) const EMBEDS_ZONES: bool = false;

/// How long ICMP's port unreachable takes at most to come back from this host: it is there when the send is done.
pub(crate) const PORT_UNREACHABLE_DELAY: Duration = Duration::ZERO;

fn set_option(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let (fd, value) = (fd.as_raw_fd(), &raw const value);
    // SAFETY: the descriptor is open as long as it is borrowed, and the option's value is an int
    // that outlives the call, of the size that is told.
    let result = unsafe { libc::setsockopt(fd, level, option, value.cast(), socklen::<c_int>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Turns the error queue on (`ip(7)`, `IP_RECVERR`): without it Linux takes a full queue of the device (ENOBUFS) for
/// success, and passes over ICMP's host and network unreachable. The receive buffer, which bounds the error queue,
/// becomes as small as it can be: nothing else is received on such a socket.
pub(crate) fn enable_error_queue(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    set_option(socket.as_fd(), level, option, 1)?;
    SockRef::from(socket).set_recv_buffer_size(0)
}

/// The pending socket error (`SO_ERROR`), which is cleared by that.
pub(crate) fn pending_socket_error(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    socket.take_error()
}

/// Turns generic receive offload (`UDP_GRO`) and the count of drops (`SO_RXQ_OVFL`) on. Kernels before 5.0 have no GRO
/// for UDP, and deliver each datagram by itself.
pub(crate) fn receive_coalesced(socket: &UdpSocket) {
    let _ = set_option(socket.as_fd(), libc::IPPROTO_UDP, libc::UDP_GRO, 1);
    let _ = set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
}

/// Whether the kernel has segmentation offload (`UDP_SEGMENT`, since 4.18). Asked for before it is used: an older one
/// would ignore the size of the datagrams, and send one large one.
pub(crate) fn can_send_segmented(socket: &UdpSocket) -> bool {
    let mut value: c_int = 0;
    let mut size = socklen::<c_int>();
    // SAFETY: the descriptor is open, and value and size outlive the call; the size is that of the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            libc::UDP_SEGMENT,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    result == 0
}

/// The memory that the receive queue holds (`SO_MEMINFO`): the payloads, and what the kernel keeps of each datagram.
pub(crate) fn receive_queue_bytes(socket: &UdpSocket) -> io::Result<usize> {
    let mut values = [0_u32; 9];
    let mut size = socklen::<[u32; 9]>();
    // SAFETY: the descriptor is open, and values and size outlive the call; the size is that of the values.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut values).cast(),
            &raw mut size,
        )
    };
    // `SK_MEMINFO_RMEM_ALLOC` comes first.
    if result == 0 { Ok(values[0] as usize) } else { Err(io::Error::last_os_error()) }
}

/// The path MTU of a connected socket (`IP_MTU`, `IPV6_MTU`).
pub(crate) fn path_mtu(socket: &UdpSocket, ipv4: bool) -> io::Result<u32> {
    use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
    Ok(if ipv4 { ip_mtu(socket) } else { ipv6_mtu(socket) }?)
}

/// Whether a socket can send with the address of another host.
pub(crate) const CAN_SEND_TRANSPARENT: bool = true;

/// A UDP socket that can be bound to an address of another host (`ip(7)`, `IP_TRANSPARENT`), and to a port that others
/// have (`SO_REUSEPORT`): other threads have the same senders, and a listener may have their port. Its error queue is on.
pub(crate) fn open_transparent(family: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(family), Type::DGRAM, Some(Protocol::UDP))?;
    if family.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    let socket = UdpSocket::from(socket);
    enable_error_queue(&socket, family.is_ipv6())?;
    Ok(socket.into())
}

/// Has IPv4 unicast and broadcast leave through this interface (`ip(7)`, `IP_UNICAST_IF`); 0: through that of the route.
pub(crate) fn set_unicast_interface(socket: &UdpSocket, index: u32) -> io::Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_UNICAST_IF, index.to_be().cast_signed())
}

/// Whether the process or the system has no descriptor left (`EMFILE`, `ENFILE`).
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Has the system deliver nothing more to the socket; what its receive buffer holds stays (`SO_ATTACH_FILTER`).
pub(crate) fn stop_input(socket: &Socket) -> io::Result<()> {
    /// The instruction that takes so many bytes of a datagram (`BPF_RET`, bpf(4)): none.
    const RETURN: u16 = 0x06;
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])
}

/// Takes a [`stop_input`] back.
pub(crate) fn resume_input(socket: &Socket) -> io::Result<()> {
    socket.detach_filter()
}

/// Lets other sockets of this user share the port, and the senders (`SO_REUSEPORT`).
pub(crate) fn set_reuse_port(socket: &Socket, on: bool) -> io::Result<()> {
    socket.set_reuse_port(on)
}

/// Lets several receivers on this host share a group and its port (`SO_REUSEADDR`). A unicast stream could be stolen
/// so.
pub(crate) fn set_reuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Whether the socket hears groups that other sockets of this host have joined (`IP_MULTICAST_ALL`). IPv6 has the
/// option since Linux 4.20; before, a socket bound to a group hears only that one all the same.
pub(crate) fn set_multicast_all(socket: &Socket, ipv4: bool, on: bool) -> io::Result<()> {
    let set = if ipv4 { socket.set_multicast_all_v4(on) } else { socket.set_multicast_all_v6(on) };
    set.or_else(|error| if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(()) } else { Err(error) })
}

/// Has the socket hear nothing from other interfaces (`SO_BINDTODEVICE`), as far as the kernel allows it: before 5.7
/// not everyone may.
pub(crate) fn bind_to_interface(socket: &Socket, name: &str) {
    let _ = socket.bind_device(Some(name.as_bytes()));
}

/// Linux's send buffer takes datagrams of every size.
pub(crate) fn raise_send_buffer(_: &Socket) {}

/// The socket's own address has broadcast leave through its interface.
#[allow(clippy::unnecessary_wraps)] // the signature of macOS's
pub(crate) fn set_broadcast_interface(_: &Socket, _index: u32) -> io::Result<()> {
    Ok(())
}

/// Makes the receive buffer larger than `net.core.rmem_max` allows (`SO_RCVBUFFORCE`), which takes `CAP_NET_ADMIN`.
/// Whether it could.
pub(crate) fn force_recv_buffer(socket: &Socket, size: usize) -> bool {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, size).is_ok()
}

/// Makes the send buffer larger than `net.core.wmem_max` allows (`SO_SNDBUFFORCE`), which takes `CAP_NET_ADMIN`.
/// Whether it could.
pub(crate) fn force_send_buffer(socket: &Socket, size: usize) -> bool {
    let size = c_int::try_from(size).unwrap_or(c_int::MAX);
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_ok()
}

/// The payload that the receive buffer has room for (`SO_RCVBUF`): Linux doubles the size that is set, for its own
/// bookkeeping, and tells the double.
pub(crate) fn recv_buffer_size(socket: &Socket) -> io::Result<usize> {
    Ok(socket.recv_buffer_size()? / 2)
}

/// Bounds how long unacknowledged data, or a probe, is waited for (`TCP_USER_TIMEOUT`).
pub(crate) fn set_user_timeout(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(timeout))
}

/// Bounds the pause between retransmissions to three seconds (`TCP_RTO_MAX_MS`), so that a connection goes on soon
/// after an outage. Kernels before 6.15 have no such option.
pub(crate) fn bound_retransmission_timeout(stream: &TcpStream) {
    const TCP_RTO_MAX_MS: c_int = 44;
    let _ = set_option(stream.as_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, 3000);
}

/// How many bytes the peer has not acknowledged yet (`tcp(7)`, `SIOCOUTQ`).
pub(crate) fn unacknowledged_bytes(stream: &TcpStream) -> u64 {
    send_queue_bytes(stream.as_fd())
}

/// Whether the device has not sent all that a UDP socket has taken (`udp(7)`, `SIOCOUTQ`), as while ARP or neighbour
/// discovery is not answered.
pub(crate) fn has_unsent(socket: &UdpSocket) -> bool {
    send_queue_bytes(socket.as_fd()) > 0
}

fn send_queue_bytes(socket: BorrowedFd<'_>) -> u64 {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open, and the int that the request fills outlives the call.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u64::try_from(bytes).unwrap_or(0)
}

/// How long ago the peer has last acknowledged anything, if it answers neither retransmissions nor window probes
/// (`tcp(7)`, `TCP_INFO`); none if it answers, as one does that only accepts no more.
pub(crate) fn unanswered_for(stream: &TcpStream) -> Option<Duration> {
    // SAFETY: all of its fields are integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut size = socklen::<libc::tcp_info>();
    // SAFETY: the descriptor is open, and value and size outlive the call; the size is that of the value,
    // of which an older kernel fills less.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    // The first probe has no answer yet.
    let is_unanswered = result == 0 && (info.tcpi_retransmits > 0 || info.tcpi_probes > 1);
    is_unanswered.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

/// Whether the interface does not lack a carrier: its flag `IFF_RUNNING` may come a second late.
pub(crate) fn has_carrier(interface: &str) -> bool {
    let mut carrier = [b'1'];
    let _ = File::open(attribute(interface, "carrier")).and_then(|mut file| file.read(&mut carrier));
    carrier == [b'1']
}

/// Whether sysfs has that attribute of the interface.
pub(crate) fn has_attribute(interface: &str, name: &str) -> bool {
    Path::new(&attribute(interface, name)).exists()
}

/// The path of an interface's attribute (`sysfs(5)`).
fn attribute(interface: &str, name: &str) -> String {
    format!("/sys/class/net/{interface}/{name}")
}
