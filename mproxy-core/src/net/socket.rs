//! Opening sockets: listeners and targets, with all that multicast needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::error::Error;
use crate::log;
use crate::net::endpoint::Resolved;
use crate::net::interface::Interface;
use crate::net::options::Options;
use crate::net::routes::{NO_INTERFACE, Route, RouteTable};

/// What a receive buffer is made to hold by default, as far as the system allows: 8 MiB.
const RECV_BUFFER: usize = 8 << 20;

/// Connections that wait to be accepted. The system caps it.
pub(crate) const BACKLOG: i32 = 1024;

/// Has the system deliver nothing more to the socket; what it holds stays. Only Linux can do that.
pub(crate) fn close_entry(socket: &Socket) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        /// The instruction that takes so many bytes of a datagram (`BPF_RET`, bpf(4)): none.
        const RETURN: u16 = 0x06;
        socket.attach_filter(&[socket2::SockFilter::new(RETURN, 0, 0, 0)])
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = socket;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Opens a UDP socket for every address of the endpoint; as many as there are to be threads
/// ([`Options::threads`]) for each that is unicast.
///
/// An address that this host does not have (a name's `::1` where IPv6 is off) is passed over if another
/// one works; each of the others must.
///
/// # Errors
/// The first failure, naming the operation and the endpoint.
pub fn listen_udp(endpoint: &Resolved, options: &Options) -> Result<Vec<UdpSocket>, Error> {
    let mut sockets = Vec::new();
    for group in groups(endpoint) {
        let group = &group;
        let (_, routes) = RouteTable::new(group).current();
        if routes.is_empty() {
            return Err(Error::io("listen on", group, no_interface()));
        }
        for route in routes {
            sockets.push(join_group(group, &route, options).map_err(|e| Error::io("listen on", group, e))?);
        }
    }
    sockets.extend(listen_unicast(endpoint, options)?);
    Ok(sockets)
}

/// What no interface leads to.
pub(crate) fn no_interface() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkUnreachable, NO_INTERFACE)
}

/// The endpoint once for each group that it stands for.
pub(crate) fn groups(endpoint: &Resolved) -> Vec<Resolved> {
    let groups = endpoint.addresses.iter().filter(|address| address.ip().is_multicast());
    groups.map(|group| Resolved { addresses: vec![*group], ..endpoint.clone() }).collect()
}

/// Opens a socket for each address of the endpoint that is no group, as [`listen_udp`] does.
pub(crate) fn listen_unicast(endpoint: &Resolved, options: &Options) -> Result<Vec<UdpSocket>, Error> {
    let sockets = bind_each(endpoint, &|address| {
        if address.ip().is_multicast() { Ok(Vec::new()) } else { listen_on(endpoint, address, options) }
    })?;
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Opens a TCP socket for every address of the endpoint, as [`listen_udp`] does.
///
/// # Errors
/// The first failure.
pub fn listen_tcp(endpoint: &Resolved, options: &Options) -> Result<Vec<TcpListener>, Error> {
    let sockets = bind_each(endpoint, &|address| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // So that a restart need not wait for old connections. On Windows it would let others in, as nothing would.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        #[cfg(windows)]
        crate::sys::set_exclusive(&socket)?;
        // Each connection gets it from here.
        set_dscp(&socket, address, options)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        log::info(format_args!("{endpoint}: accepting TCP connections on {bound}"));
        Ok(vec![socket])
    })?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

fn bind_each(
    endpoint: &Resolved,
    bind: &dyn Fn(SocketAddr) -> io::Result<Vec<Socket>>,
) -> Result<Vec<Socket>, Error> {
    let mut bound = Vec::new();
    let mut absent = None;
    for address in &endpoint.addresses {
        match bind(*address) {
            Ok(sockets) => bound.extend(sockets),
            Err(error) if is_absent(&error) => absent = Some((address, error)),
            Err(error) => return Err(bind_error(endpoint, *address, error)),
        }
    }
    match absent {
        Some((address, error)) if bound.is_empty() => Err(bind_error(endpoint, *address, error)),
        Some((address, error)) => {
            log::info(format_args!("{endpoint}: not listening on {address}: {error}"));
            Ok(bound)
        }
        None => Ok(bound),
    }
}

/// Whether the error says that this host has no such address, or not the whole family.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let family = error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error());
    family || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn bind_error(endpoint: &Resolved, address: SocketAddr, error: io::Error) -> Error {
    let text = endpoint.to_string();
    if text == address.to_string() {
        Error::io("listen on", text, error)
    } else {
        Error::io("listen on", format!("{text} ({address})"), error)
    }
}

/// A socket to listen with, not bound yet, and how large its receive buffer became.
fn listener(address: SocketAddr, options: &Options) -> io::Result<(Socket, usize)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // An IPv6 listener is one on every system; 0.0.0.0 is a listener of its own.
        socket.set_only_v6(true)?;
    }
    // A wildcard listener too would else hear each group that any socket of this host has joined.
    only_own_groups(&socket, address)?;
    #[cfg(windows)]
    crate::sys::ignore_reports(&socket);
    let buffer = set_recv_buffer(&socket, options.recv_buffer)?;
    Ok((socket, buffer))
}

/// Joins the group of a route on its interface.
pub(crate) fn join_group(endpoint: &Resolved, route: &Route, options: &Options) -> io::Result<UdpSocket> {
    let (Some(group), Some(interface)) = (route.addresses.first(), &route.interface) else {
        return Err(no_interface());
    };
    let (socket, buffer) = listener(*group, options)?;
    set_reuse(&socket)?;
    #[cfg(target_os = "linux")]
    if group.is_ipv6() {
        // Or it would hear what others on this host have joined the group for on other interfaces. Kernels
        // before 5.7 do not let everyone.
        let _ = socket.bind_device(Some(interface.name.as_bytes()));
    }
    socket.bind(&group_bind_address(*group).into())?;
    let source = endpoint.endpoint.source();
    join(&socket, group.ip(), source, interface)?;
    let from = source.map(|source| format!(" from source {source}")).unwrap_or_default();
    log::info(format_args!(
        "{endpoint}: listening to group {group}{from} on interface {interface}, receive buffer {buffer} bytes"
    ));
    Ok(socket.into())
}

/// Lets several receivers on this host share a group and its port. A unicast stream could be stolen so.
fn set_reuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    // What BSD, and so macOS, asks of all who share.
    #[cfg(all(
        unix,
        not(any(target_os = "linux", target_os = "android", target_os = "solaris", target_os = "illumos"))
    ))]
    socket.set_reuse_port(true)?;
    Ok(())
}

/// One socket, or several that share the port. Then the system gives each sender to one of them, for
/// good, so that its datagrams stay in order.
fn listen_on(endpoint: &Resolved, address: SocketAddr, options: &Options) -> io::Result<Vec<Socket>> {
    let (mut sockets, mut bound, mut size) = (Vec::new(), address, 0);
    while sockets.len() < options.threads {
        let (socket, buffer) = listener(address, options)?;
        if options.threads > 1 {
            // Senders would change from socket to socket while there are not all yet.
            close_entry(&socket)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_reuse_port(!sockets.is_empty())?;
        #[cfg(windows)]
        crate::sys::set_exclusive(&socket)?;
        socket.bind(&bound.into())?;
        bound = socket.local_addr()?.as_socket().unwrap_or(address);
        #[cfg(target_os = "linux")]
        if options.threads > 1 {
            // The first shares the port only now that it is nobody else's.
            socket.set_reuse_port(true)?;
        }
        size = buffer;
        sockets.push(socket);
    }
    #[cfg(target_os = "linux")]
    if options.threads > 1 {
        sockets.iter().try_for_each(Socket::detach_filter)?;
    } else if options.transparent {
        // A sender may have the same port as this listener has on all addresses.
        sockets.iter().try_for_each(|socket| socket.set_reuse_port(true))?;
    }
    log::info(format_args!("{endpoint}: listening on {bound}, receive buffer {size} bytes"));
    Ok(sockets)
}

/// Opens a socket that is connected to the address, so that the system looks the route up once and
/// reports what ICMP says of it.
pub(crate) fn connect_udp(route: &Route, address: SocketAddr, options: &Options) -> io::Result<UdpSocket> {
    let socket = target_udp(route, address, options)?;
    #[cfg(target_os = "linux")]
    enable_error_queue(&socket, address)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Has the socket report errors, and bounds what the system keeps of them; nothing else is received there.
#[cfg(target_os = "linux")]
pub(crate) fn enable_error_queue(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    crate::sys::enable_error_queue(socket, address.is_ipv6())?;
    SockRef::from(socket).set_recv_buffer_size(0)
}

/// A socket to send with, not connected, and the first address of the endpoint that can be used.
///
/// # Errors
/// If none of its addresses can be reached from this host.
pub fn open_target(target: &Resolved, options: &Options) -> Result<(SocketAddr, UdpSocket), Error> {
    let mut last_error = no_interface();
    for route in RouteTable::new(target).current().1 {
        for address in &route.addresses {
            // A connected socket shows whether there is a way; another one stays open to other addresses.
            let connected = connect_udp(&route, *address, options);
            match connected.and_then(|_| target_udp(&route, *address, options)) {
                Ok(socket) => return Ok((*address, socket)),
                Err(error) => last_error = error,
            }
        }
    }
    Err(Error::io("send to", target, last_error))
}

fn target_udp(route: &Route, address: SocketAddr, options: &Options) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    send_whole(&socket);
    set_up_sender(&socket, address, options)?;
    if let Some(interface) = &route.interface {
        send_through(&socket, address, interface)?;
        if address.is_ipv4() && !address.ip().is_multicast() {
            // Its own address is what has broadcast leave through an interface; on macOS, its index is.
            #[cfg(target_vendor = "apple")]
            socket.bind_device_by_index_v4(std::num::NonZeroU32::new(interface.index))?;
            socket.bind(&SocketAddr::from((interface.require_ipv4()?, 0)).into())?;
        }
        if address.ip().is_multicast() && options.ttl == 0 {
            // Without a membership of its own host the system drops what may not leave it.
            only_own_groups(&socket, address)?;
            join(&socket, address.ip(), None, interface)?;
        }
    }
    Ok(socket.into())
}

/// Has the socket take datagrams of every size. On macOS and BSD none may be larger than its send buffer, of
/// 9216 bytes by default (`net.inet.udp.maxdgram`, udp(4)).
#[cfg(all(unix, not(target_os = "linux")))]
fn send_whole(socket: &Socket) {
    // What IPv6 carries is some more than what IPv4 does.
    const LARGEST: usize = 65_535;
    if socket.send_buffer_size().is_ok_and(|size| size < LARGEST) {
        // Where it may not be so large, the send that fails tells.
        let _ = socket.set_send_buffer_size(LARGEST);
    }
}

#[cfg(not(all(unix, not(target_os = "linux"))))]
fn send_whole(_: &Socket) {}

/// What is the same for all addresses of the family.
pub(crate) fn set_up_sender(socket: &Socket, family: SocketAddr, options: &Options) -> io::Result<()> {
    set_dscp(socket, family, options)?;
    if family.is_ipv4() {
        socket.set_broadcast(true)?;
        socket.set_multicast_ttl_v4(options.ttl.into())?;
    } else {
        socket.set_multicast_hops_v6(options.ttl.into())?;
    }
    set_multicast_loop(socket, family, options.multicast_loop)
}

/// Whether this host hears what it sends to groups.
pub(crate) fn set_multicast_loop(socket: &Socket, family: SocketAddr, heard: bool) -> io::Result<()> {
    if family.is_ipv4() { socket.set_multicast_loop_v4(heard) } else { socket.set_multicast_loop_v6(heard) }
}

/// Marks what is sent (RFC 2474): the upper six bits of the old type of service, or of the traffic class.
pub(crate) fn set_dscp(socket: &Socket, family: SocketAddr, options: &Options) -> io::Result<()> {
    let field = u32::from(options.dscp) << 2;
    if field == 0 {
        return Ok(());
    }
    if family.is_ipv4() {
        return socket.set_tos_v4(field);
    }
    #[cfg(unix)]
    return socket.set_tclass_v6(field);
    // Refused by the options' check.
    #[cfg(not(unix))]
    Err(io::ErrorKind::Unsupported.into())
}

/// Says where a target's datagrams go.
pub(crate) fn tell_target(target: &Resolved, route: &Route, address: SocketAddr, options: &Options) {
    match &route.interface {
        Some(interface) if address.ip().is_multicast() => {
            let ttl = options.ttl;
            log::info(format_args!(
                "{target}: sending to group {address} on interface {interface}, TTL {ttl}"
            ));
        }
        Some(interface) => {
            log::info(format_args!("{target}: sending to {address} on interface {interface}"));
        }
        None => log::info(format_args!("{target}: sending to {address}")),
    }
}

/// Has what is sent to a group leave through the interface.
pub(crate) fn send_through(socket: &Socket, group: SocketAddr, interface: &Interface) -> io::Result<()> {
    match group {
        // By address, not by index: through `lo` by index the source would be 0.0.0.0.
        SocketAddr::V4(v4) if v4.ip().is_multicast() => {
            socket.set_multicast_if_v4(&interface.require_ipv4()?)
        }
        SocketAddr::V6(v6) if v6.ip().is_multicast() => socket.set_multicast_if_v6(interface.index),
        _ => Ok(()),
    }
}

/// The group itself, so that datagrams for other groups on the port stay out. Windows has no such bind.
fn group_bind_address(group: SocketAddr) -> SocketAddr {
    match group {
        SocketAddr::V4(v4) if cfg!(windows) => (Ipv4Addr::UNSPECIFIED, v4.port()).into(),
        SocketAddr::V6(v6) if cfg!(windows) => (Ipv6Addr::UNSPECIFIED, v6.port()).into(),
        group => group,
    }
}

/// Keeps out groups that other sockets of this host have joined. Only Linux delivers those.
#[cfg(target_os = "linux")]
fn only_own_groups(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let set = if address.is_ipv4() {
        socket.set_multicast_all_v4(false)
    } else {
        socket.set_multicast_all_v6(false)
    };
    // IPv6 has it since Linux 4.20. Before, what is bound to a group still hears only that one.
    set.or_else(|error| if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(()) } else { Err(error) })
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps)] // the interface of Linux's
fn only_own_groups(_: &Socket, _: SocketAddr) -> io::Result<()> {
    Ok(())
}

/// Joins a group on the interface, of one source only or of all (RFC 3376, RFC 3810).
fn join(socket: &Socket, group: IpAddr, source: Option<IpAddr>, interface: &Interface) -> io::Result<()> {
    match (group, source) {
        (IpAddr::V4(group), Some(IpAddr::V4(source))) => {
            socket.join_ssm_v4(&source, &group, &interface.require_ipv4()?)
        }
        (IpAddr::V4(group), _) => socket.join_multicast_v4(&group, &interface.require_ipv4()?),
        #[cfg(any(target_os = "linux", windows, target_os = "macos", target_os = "freebsd"))]
        (IpAddr::V6(group), Some(IpAddr::V6(source))) => {
            crate::sys::join_source_v6(socket, group, source, interface.index)
        }
        #[cfg(not(any(target_os = "linux", windows, target_os = "macos", target_os = "freebsd")))]
        (IpAddr::V6(_), Some(_)) => Err(io::ErrorKind::Unsupported.into()),
        (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, interface.index),
    }
}

/// Makes the receive buffer as large as asked, or as large as the system allows; what it became.
fn set_recv_buffer(socket: &Socket, wanted: Option<usize>) -> io::Result<usize> {
    let mut size = wanted.unwrap_or(RECV_BUFFER);
    #[cfg(target_os = "linux")]
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, size).is_ok();
    #[cfg(not(target_os = "linux"))]
    let forced = false;
    // Linux caps the size in silence, BSD and macOS refuse what is too much.
    while !forced && socket.set_recv_buffer_size(size).is_err() && size > 65_536 {
        size /= 2;
    }
    // Linux doubles the size, for its own bookkeeping, and tells the double.
    let obtained = socket.recv_buffer_size()?;
    Ok(if cfg!(target_os = "linux") { obtained / 2 } else { obtained })
}

/// A group on loopback that no other socket of this host uses, and the socket that keeps it so.
///
/// It must live as long as the group is used; it receives nothing itself.
///
/// # Errors
/// If the group cannot be bound.
pub fn reserve_group(group: Ipv4Addr) -> Result<(UdpSocket, SocketAddr), Error> {
    let reserve = || {
        let address = SocketAddr::from((group, 0));
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Exclusive at first, so that the port is free; shared then, for the receivers to come. Windows gives a
        // free one anyway, and will not share it later.
        if cfg!(windows) {
            set_reuse(&socket)?;
        }
        socket.bind(&group_bind_address(address).into())?;
        if cfg!(not(windows)) {
            set_reuse(&socket)?;
        }
        only_own_groups(&socket, address)?;
        let socket = UdpSocket::from(socket);
        let port = socket.local_addr()?.port();
        Ok((socket, SocketAddr::from((group, port))))
    };
    reserve().map_err(|error| Error::io("reserve the private group", group, error))
}

/// What this host says of a datagram that went to itself, if nobody listens there. Linux says it at once, the others
/// soon after.
pub(crate) fn wait_for_port_unreachable(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    const SOON: Duration = Duration::from_millis(if cfg!(target_os = "linux") { 0 } else { 50 });
    let end = std::time::Instant::now() + SOON;
    loop {
        let refused = reported(socket)?;
        if refused.is_some() || cfg!(target_os = "linux") || std::time::Instant::now() >= end {
            return Ok(refused);
        }
        // No wait for the socket: under Wine that would take the error away.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the system has reported of datagrams that had been sent.
#[cfg(not(windows))]
pub(crate) fn reported(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    socket.take_error()
}

/// The same of Windows, which reports each to a receive alone.
#[cfg(windows)]
pub(crate) fn reported(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    use rustix::io::Errno;
    /// Bounded, so that who sends to this socket does not keep it from sending.
    const AT_ONCE: usize = 1000;
    let is_cut = |error: &io::Error| error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error());
    socket.set_nonblocking(true)?;
    let mut last = None;
    for _ in 0..AT_ONCE {
        match socket.recv(&mut [0]) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused => last = Some(error),
                // A datagram, of which there is more.
                _ if is_cut(&error) => {}
                _ => break,
            },
        }
    }
    socket.set_nonblocking(false)?;
    Ok(last)
}

/// The largest payload that the path takes without fragmentation, where the system tells it.
pub(crate) fn path_payload(socket: &UdpSocket) -> Option<usize> {
    const IPV4_AND_UDP: usize = 20 + 8;
    const IPV6_AND_UDP: usize = 40 + 8;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
        let ipv4 = socket.local_addr().ok()?.is_ipv4();
        let (mtu, headers) =
            if ipv4 { (ip_mtu(socket), IPV4_AND_UDP) } else { (ipv6_mtu(socket), IPV6_AND_UDP) };
        usize::try_from(mtu.ok()?).ok()?.checked_sub(headers)
    }
    #[cfg(windows)]
    {
        let ipv4 = socket.local_addr().ok()?.is_ipv4();
        let headers = if ipv4 { IPV4_AND_UDP } else { IPV6_AND_UDP };
        usize::try_from(crate::sys::path_mtu(socket, ipv4).ok()?).ok()?.checked_sub(headers)
    }
    #[cfg(not(any(target_os = "linux", windows)))]
    {
        let _ = (socket, IPV4_AND_UDP, IPV6_AND_UDP);
        None
    }
}

/// Sends small writes at once, and finds out within half a minute that the peer has vanished.
///
/// # Errors
/// If the connection has failed already.
pub(crate) fn set_up_stream(stream: &TcpStream) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(8)).with_interval(Duration::from_secs(3));
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris")))]
    let keepalive = keepalive.with_retries(6);
    let set = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    // Windows has known the number of probes, which is set last, since 2017 only; before, it is ten.
    if cfg!(not(windows)) {
        set?;
    }
    // Keepalive rests while data is not acknowledged, and the system would try for a quarter of an hour. With
    // this limit, which holds for keepalive too, the last probe is due, and so is what would be sent again
    // for the seventh time: an outage may last nearly as long.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(stream).set_tcp_user_timeout(Some(Duration::from_secs(26)))?;
    #[cfg(target_os = "linux")]
    crate::sys::retry_often(stream);
    stream.set_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_meets_a_closed_port_is_told_and_what_is_heard_is_not() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(listener.local_addr().unwrap()).unwrap();
        sender.send(b"heard").unwrap();
        assert!(wait_for_port_unreachable(&sender).unwrap().is_none());
        // What comes from there, of which all that fits is taken, is no report.
        listener.send_to(b"an answer", sender.local_addr().unwrap()).unwrap();
        assert!(wait_for_port_unreachable(&sender).unwrap().is_none());
        drop(listener);
        let refused = (0..100).find_map(|_| {
            sender.send(b"not heard").and_then(|_| wait_for_port_unreachable(&sender)).unwrap_or_else(Some)
        });
        let kind = refused.unwrap().kind();
        assert!(
            matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused),
            "{kind:?}"
        );
    }
}
