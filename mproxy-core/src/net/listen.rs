//! UDP and TCP listeners.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::Error;
use crate::log;
use crate::net::multicast::{group_bind_address, groups, join, no_interface};
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{Route, RouteTable};
use crate::sys;

/// The default receive buffer (`SO_RCVBUF`), as far as the system allows: 8 MiB.
const RECV_BUFFER: usize = 8 << 20;

/// The listen backlog: connections that wait to be accepted. The system caps it.
pub(crate) const BACKLOG: i32 = 1024;

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

/// The unicast part of [`listen_udp`].
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
        sys::set_restartable(&socket)?;
        // Each connection inherits it.
        options.set_dscp(&socket, address)?;
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

/// A UDP socket to listen with, not bound yet, and how large its receive buffer became.
pub(crate) fn udp_listener(address: SocketAddr, options: &Options) -> io::Result<(Socket, usize)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // An IPv6 listener is one on every system; 0.0.0.0 is a listener of its own.
        socket.set_only_v6(true)?;
    }
    // A wildcard listener too would else hear each group that any socket of this host has joined.
    sys::set_multicast_all(&socket, address.is_ipv4(), false)?;
    sys::disable_connection_reset(&socket);
    let buffer = set_recv_buffer(&socket, options.recv_buffer)?;
    Ok((socket, buffer))
}

/// Joins the group of a route on its interface.
pub(crate) fn join_group(endpoint: &Resolved, route: &Route, options: &Options) -> io::Result<UdpSocket> {
    let (Some(group), Some(interface)) = (route.addresses.first(), &route.interface) else {
        return Err(no_interface());
    };
    let (socket, buffer) = udp_listener(*group, options)?;
    sys::set_reuse(&socket)?;
    if group.is_ipv6() {
        // Linux delivers IPv6 groups to every socket bound to them, whichever interface a membership is on.
        sys::bind_to_interface(&socket, &interface.name);
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

/// One socket, or several that share the port (`SO_REUSEPORT`). Then the system gives each sender to one of them, for
/// good, so that its datagrams stay in order.
fn listen_on(endpoint: &Resolved, address: SocketAddr, options: &Options) -> io::Result<Vec<Socket>> {
    let (mut sockets, mut bound, mut size) = (Vec::new(), address, 0);
    let several = options.threads > 1;
    while sockets.len() < options.threads {
        let (socket, buffer) = udp_listener(address, options)?;
        if several {
            // Senders would change from socket to socket while there are not all yet.
            sys::stop_input(&socket)?;
        }
        sys::set_reuse_port(&socket, !sockets.is_empty())?;
        sys::set_exclusive(&socket)?;
        socket.bind(&bound.into())?;
        bound = socket.local_addr()?.as_socket().unwrap_or(address);
        if several {
            // The first shares the port only now that it is nobody else's.
            sys::set_reuse_port(&socket, true)?;
        }
        size = buffer;
        sockets.push(socket);
    }
    if several {
        sockets.iter().try_for_each(sys::resume_input)?;
    } else if options.transparent {
        // A sender may have the same port as this listener has on all addresses.
        sockets.iter().try_for_each(|socket| sys::set_reuse_port(socket, true))?;
    }
    log::info(format_args!("{endpoint}: listening on {bound}, receive buffer {size} bytes"));
    Ok(sockets)
}

/// Sets the receive buffer (`SO_RCVBUF`) to the size that is asked for, or as large as the system allows. Returns its
/// size.
fn set_recv_buffer(socket: &Socket, wanted: Option<usize>) -> io::Result<usize> {
    let mut size = wanted.unwrap_or(RECV_BUFFER);
    let forced = sys::force_recv_buffer(socket, size);
    // Linux caps the size in silence (net.core.rmem_max), BSD and macOS refuse one that is too large.
    while !forced && socket.set_recv_buffer_size(size).is_err() && size > 65_536 {
        size /= 2;
    }
    sys::recv_buffer_size(socket)
}
