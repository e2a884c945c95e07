//! Multicast groups: joining them, and sending to them through an interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;

use crate::net::interface::Interface;
use crate::net::resolve::Resolved;
use crate::net::routes::NO_INTERFACE;
use crate::sys;

/// The error of a group that no interface leads to.
pub(crate) fn no_interface() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkUnreachable, NO_INTERFACE)
}

/// The endpoint once for each group that it stands for.
pub(crate) fn groups(endpoint: &Resolved) -> Vec<Resolved> {
    let groups = endpoint.addresses.iter().filter(|address| address.ip().is_multicast());
    groups.map(|group| Resolved { addresses: vec![*group], ..endpoint.clone() }).collect()
}

/// Joins a group on the interface (`IP_ADD_MEMBERSHIP`, `IPV6_ADD_MEMBERSHIP`), of one source only
/// (`IP_ADD_SOURCE_MEMBERSHIP`, `MCAST_JOIN_SOURCE_GROUP`) or of all (RFC 3376, RFC 3810).
pub(crate) fn join(
    socket: &Socket,
    group: IpAddr,
    source: Option<IpAddr>,
    interface: &Interface,
) -> io::Result<()> {
    match (group, source) {
        (IpAddr::V4(group), Some(IpAddr::V4(source))) => {
            socket.join_ssm_v4(&source, &group, &interface.require_ipv4()?)
        }
        (IpAddr::V4(group), _) => socket.join_multicast_v4(&group, &interface.require_ipv4()?),
        (IpAddr::V6(group), Some(IpAddr::V6(source))) => {
            sys::join_source_v6(socket, group, source, interface.index)
        }
        (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, interface.index),
    }
}

/// Whether this host hears what it sends to groups (`IP_MULTICAST_LOOP`).
pub(crate) fn set_multicast_loop(socket: &Socket, family: SocketAddr, on: bool) -> io::Result<()> {
    if family.is_ipv4() { socket.set_multicast_loop_v4(on) } else { socket.set_multicast_loop_v6(on) }
}

/// Sets the interface that multicast leaves through (`IP_MULTICAST_IF`).
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
pub(crate) fn group_bind_address(group: SocketAddr) -> SocketAddr {
    match group {
        SocketAddr::V4(v4) if !sys::CAN_BIND_GROUPS => (Ipv4Addr::UNSPECIFIED, v4.port()).into(),
        SocketAddr::V6(v6) if !sys::CAN_BIND_GROUPS => (Ipv6Addr::UNSPECIFIED, v6.port()).into(),
        group => group,
    }
}
