//! Sockets that send, connected to where they send to: UDP targets and TCP servers.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::error::Error;
use crate::log;
use crate::net::multicast::{join, no_interface, send_through, set_multicast_loop};
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{Route, RouteTable};
use crate::sys;

/// The send buffer (`SO_SNDBUF`) of what does not wait, as far as the system allows: 4 MiB.
const SEND_BUFFER: usize = 4 << 20;

/// Opens a socket that is connected to the address, so that the system looks the route up once and
/// reports what ICMP says of it. Its sends do not block.
pub(crate) fn connect_udp(route: &Route, address: SocketAddr, options: &Options) -> io::Result<UdpSocket> {
    let socket = target_udp(route, address, options)?;
    sys::enable_error_queue(&socket, address.is_ipv6())?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Makes the send buffer large enough for a burst: what it has no room for is dropped. It takes memory only for what it
/// holds.
pub(crate) fn enlarge_send_buffer(socket: &Socket) {
    let mut size = SEND_BUFFER;
    let forced = sys::force_send_buffer(socket, size);
    // Linux caps the size in silence (net.core.wmem_max), BSD and macOS refuse one that is too large.
    while !forced && socket.set_send_buffer_size(size).is_err() && size > 65_536 {
        size /= 2;
    }
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
    sys::raise_send_buffer(&socket);
    set_up_sender(&socket, address, options)?;
    if let Some(interface) = &route.interface {
        send_through(&socket, address, interface)?;
        if address.is_ipv4() && !address.ip().is_multicast() {
            // The socket's own address has broadcast leave through its interface; on macOS the index does.
            sys::set_broadcast_interface(&socket, interface.index)?;
            socket.bind(&SocketAddr::from((interface.require_ipv4()?, 0)).into())?;
        }
        if address.ip().is_multicast() && options.ttl == 0 {
            // TTL 0: the system drops the datagrams unless the sender itself is a member of the group.
            sys::set_multicast_all(&socket, address.is_ipv4(), false)?;
            join(&socket, address.ip(), None, interface)?;
        }
    }
    Ok(socket.into())
}

/// Sets the options that are the same for all addresses of the family: DSCP, TTL, `IP_MULTICAST_LOOP`, broadcast.
pub(crate) fn set_up_sender(socket: &Socket, family: SocketAddr, options: &Options) -> io::Result<()> {
    options.set_dscp(socket, family)?;
    if family.is_ipv4() {
        socket.set_broadcast(true)?;
        socket.set_multicast_ttl_v4(options.ttl.into())?;
    } else {
        socket.set_multicast_hops_v6(options.ttl.into())?;
    }
    set_multicast_loop(socket, family, options.multicast_loop)
}

/// Logs where a target's datagrams go.
pub(crate) fn log_target(target: &Resolved, route: &Route, address: SocketAddr, options: &Options) {
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

/// ICMP's port unreachable that a datagram to this host itself has met, if nobody listens there. Linux has it at once,
/// others soon after.
pub(crate) fn wait_for_port_unreachable(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    let end = Instant::now() + sys::PORT_UNREACHABLE_DELAY;
    loop {
        let error = sys::pending_socket_error(socket)?;
        if error.is_some() || Instant::now() >= end {
            return Ok(error);
        }
        // No poll of the socket: under Wine that would take the error away.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The largest payload that the path takes without IP fragmentation: the path MTU less the headers, where the system
/// tells it.
pub(crate) fn path_payload(socket: &UdpSocket) -> Option<usize> {
    const IPV4_AND_UDP: usize = 20 + 8;
    const IPV6_AND_UDP: usize = 40 + 8;
    let ipv4 = socket.local_addr().ok()?.is_ipv4();
    let headers = if ipv4 { IPV4_AND_UDP } else { IPV6_AND_UDP };
    usize::try_from(sys::path_mtu(socket, ipv4).ok()?).ok()?.checked_sub(headers)
}

/// Sends small writes at once (`TCP_NODELAY`), and finds out within half a minute that the peer has vanished.
///
/// # Errors
/// If the connection has failed already.
pub(crate) fn set_up_stream(stream: &TcpStream) -> io::Result<()> {
    // Keepalive rests while data is not acknowledged, and the system would try for a quarter of an hour. With
    // this limit, which holds for keepalive too, the last probe is due, and so is the seventh retransmission: an
    // outage may last nearly as long.
    sys::set_user_timeout(stream, Duration::from_secs(26))?;
    set_up_slow_stream(stream)
}

/// The same for a peer that may read slowly, which a stall watch has to look after while data is not acknowledged.
pub(crate) fn set_up_slow_stream(stream: &TcpStream) -> io::Result<()> {
    const PROBES: u32 = 6;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(8)).with_interval(Duration::from_secs(3));
    sys::set_keepalive(stream, keepalive, PROBES)?;
    sys::bound_retransmission_timeout(stream);
    stream.set_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_unreachable_is_found_and_what_is_heard_is_none() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(listener.local_addr().unwrap()).unwrap();
        sender.send(b"heard").unwrap();
        assert!(wait_for_port_unreachable(&sender).unwrap().is_none());
        // An answer, of which as much as fits is taken, is no error.
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
