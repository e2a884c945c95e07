//! Opening sockets: listeners and targets, with all that multicast needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::report;
use crate::{Error, Interface, Options, Resolved};

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
    let sockets = bind_each(endpoint, &|address| {
        if address.ip().is_multicast() {
            join_group(endpoint, address, options)
        } else {
            listen_on(endpoint, address, options)
        }
    })?;
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Opens a TCP socket for every address of the endpoint, as [`listen_udp`] does.
///
/// # Errors
/// The first failure.
pub fn listen_tcp(endpoint: &Resolved) -> Result<Vec<TcpListener>, Error> {
    let sockets = bind_each(endpoint, &|address| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // So that a restart need not wait for old connections. On Windows it would let others in.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        report::info(format_args!("{endpoint}: accepting TCP connections on {bound}"));
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
            report::info(format_args!("{endpoint}: not listening on {address}: {error}"));
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
    let buffer = set_recv_buffer(&socket, options.recv_buffer)?;
    Ok((socket, buffer))
}

fn join_group(endpoint: &Resolved, address: SocketAddr, options: &Options) -> io::Result<Vec<Socket>> {
    let (socket, buffer) = listener(address, options)?;
    let interface = interface_for(endpoint, address)?;
    // Several receivers on one host may share a group; a unicast stream could be stolen so.
    socket.set_reuse_address(true)?;
    #[cfg(all(
        unix,
        not(any(target_os = "linux", target_os = "android", target_os = "solaris", target_os = "illumos"))
    ))]
    socket.set_reuse_port(true)?;
    socket.bind(&group_bind_address(address, &interface).into())?;
    join(&socket, address.ip(), endpoint.source, &interface)?;
    let from = endpoint.source.map(|source| format!(" from source {source}")).unwrap_or_default();
    report::info(format_args!(
        "{endpoint}: listening to group {address}{from} on interface {interface}, receive buffer {buffer} bytes"
    ));
    Ok(vec![socket])
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
    }
    report::info(format_args!("{endpoint}: listening on {bound}, receive buffer {size} bytes"));
    Ok(sockets)
}

/// Opens a socket that is connected to the address, so that the system looks the route up once and
/// reports what ICMP says of it.
pub(crate) fn connect_udp(
    target: &Resolved,
    address: SocketAddr,
    options: &Options,
) -> io::Result<UdpSocket> {
    let (address, socket) = target_udp(target, address, options)?;
    #[cfg(target_os = "linux")]
    {
        crate::sys::report_errors(&socket, address.is_ipv6())?;
        // Bounds what the system keeps of errors; nothing else is received here.
        SockRef::from(&socket).set_recv_buffer_size(0)?;
    }
    socket.connect(address)?;
    Ok(socket)
}

/// A socket to send with, not connected, and the first address of the endpoint that can be used.
///
/// # Errors
/// If none of its addresses can be reached from this host.
pub fn open_target(target: &Resolved, options: &Options) -> Result<(SocketAddr, UdpSocket), Error> {
    let mut last_error = io::ErrorKind::AddrNotAvailable.into();
    for address in &target.addresses {
        // A connected socket shows whether there is a way; another one stays open to other addresses.
        match connect_udp(target, *address, options).and_then(|_| target_udp(target, *address, options)) {
            Ok(opened) => return Ok(opened),
            Err(error) => last_error = error,
        }
    }
    Err(Error::io("send to", target, last_error))
}

fn target_udp(
    target: &Resolved,
    mut address: SocketAddr,
    options: &Options,
) -> io::Result<(SocketAddr, UdpSocket)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip().is_multicast() {
        let interface = interface_for(target, address)?;
        send_through(&socket, &mut address, &interface)?;
        if address.is_ipv4() {
            socket.set_multicast_ttl_v4(options.ttl.into())?;
        } else {
            socket.set_multicast_hops_v6(options.ttl.into())?;
        }
        if options.ttl == 0 {
            // Without a membership of its own host the system drops what may not leave it.
            only_own_groups(&socket, address)?;
            join(&socket, address.ip(), None, &interface)?;
        }
    } else if address.is_ipv4() {
        socket.set_broadcast(true)?;
    }
    Ok((address, socket.into()))
}

/// Says where a target's datagrams go.
pub(crate) fn tell_target(target: &Resolved, address: SocketAddr, options: &Options) {
    if !address.ip().is_multicast() {
        report::info(format_args!("{target}: sending to {address}"));
    } else if let Ok(interface) = interface_for(target, address) {
        let ttl = options.ttl;
        report::info(format_args!(
            "{target}: sending to group {address} on interface {interface}, TTL {ttl}"
        ));
    }
}

fn interface_for(endpoint: &Resolved, group: SocketAddr) -> io::Result<Interface> {
    match &endpoint.interface {
        Some(interface) => Ok(interface.clone()),
        None => Interface::for_group(group),
    }
}

fn send_through(socket: &Socket, address: &mut SocketAddr, interface: &Interface) -> io::Result<()> {
    match address {
        // By address, not by index: through `lo` by index the source would be 0.0.0.0.
        SocketAddr::V4(_) => {
            socket.set_multicast_if_v4(&interface.require_ipv4()?)?;
            socket.set_multicast_loop_v4(true)
        }
        SocketAddr::V6(v6) => {
            v6.set_scope_id(interface.require_ipv6()?);
            socket.set_multicast_if_v6(interface.index)?;
            socket.set_multicast_loop_v6(true)
        }
    }
}

/// The group itself, so that datagrams for other groups on the port stay out. Windows has no such bind.
fn group_bind_address(group: SocketAddr, interface: &Interface) -> SocketAddr {
    match group {
        SocketAddr::V4(v4) if cfg!(windows) => (Ipv4Addr::UNSPECIFIED, v4.port()).into(),
        SocketAddr::V6(v6) if cfg!(windows) => (Ipv6Addr::UNSPECIFIED, v6.port()).into(),
        SocketAddr::V4(v4) => v4.into(),
        SocketAddr::V6(mut v6) => {
            v6.set_scope_id(interface.index);
            v6.into()
        }
    }
}

/// Keeps out groups that other sockets of this host have joined. Only Linux delivers those.
fn only_own_groups(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return if address.is_ipv4() {
        socket.set_multicast_all_v4(false)
    } else {
        socket.set_multicast_all_v6(false)
    };
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (socket, address);
        Ok(())
    }
}

fn join(socket: &Socket, group: IpAddr, source: Option<Ipv4Addr>, interface: &Interface) -> io::Result<()> {
    match (group, source) {
        (IpAddr::V4(group), None) => socket.join_multicast_v4(&group, &interface.require_ipv4()?),
        (IpAddr::V4(group), Some(source)) => socket.join_ssm_v4(&source, &group, &interface.require_ipv4()?),
        (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, interface.require_ipv6()?),
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
    let interface = Interface::find("127.0.0.1")?;
    let reserve = || {
        let address = SocketAddr::from((group, 0));
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Exclusive at first, so that the port is free; shared then, for the receivers to come.
        socket.bind(&group_bind_address(address, &interface).into())?;
        socket.set_reuse_address(true)?;
        only_own_groups(&socket, address)?;
        let socket = UdpSocket::from(socket);
        let port = socket.local_addr()?.port();
        Ok((socket, SocketAddr::from((group, port))))
    };
    reserve().map_err(|error| Error::io("reserve the private group", group, error))
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
    #[cfg(not(target_os = "linux"))]
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
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    // Keepalive rests while data is not acknowledged, and the system would try for a quarter of an hour. With
    // this limit, which holds for keepalive too, the last probe is due, and so is what would be sent again
    // for the seventh time: an outage may last nearly as long.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(stream).set_tcp_user_timeout(Some(Duration::from_secs(26)))?;
    #[cfg(target_os = "linux")]
    crate::sys::retry_often(stream);
    stream.set_nodelay(true)
}
