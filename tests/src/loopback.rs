//! The loopback interface, with what each system can do there.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use socket2::{Domain, SockRef, Socket, Type};

use crate::{PATIENCE, free_port, udp};

/// A listener's endpoint on loopback, with a port that the system chooses: of each number another one, so that
/// messages tell them apart. Not every system has more than one address there; on such a one the port differs.
pub fn loopback(number: u8) -> String {
    if number == 1 || cfg!(any(target_os = "linux", windows)) {
        format!("127.0.0.{number}:0")
    } else {
        format!("127.0.0.1:{}", free_port())
    }
}

/// The address and the port of a [`loopback_group`](crate::loopback_group).
fn address(group: &str) -> SocketAddrV4 {
    group.replace("%127.0.0.1", "").parse().unwrap()
}

/// A socket that has joined a [`loopback_group`](crate::loopback_group), with a receive time-out of [`PATIENCE`].
pub fn member(group: &str) -> UdpSocket {
    let group = address(group);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    #[cfg(all(unix, not(target_os = "linux")))]
    socket.set_reuse_port(true).unwrap();
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Windows binds no group.
    let ip = if cfg!(windows) { Ipv4Addr::UNSPECIFIED } else { *group.ip() };
    socket.bind(&SocketAddr::from((ip, group.port())).into()).unwrap();
    socket.join_multicast_v4(group.ip(), &Ipv4Addr::LOCALHOST).unwrap();
    socket.into()
}

/// A socket that sends to a [`loopback_group`](crate::loopback_group).
pub fn sender_to(group: &str) -> UdpSocket {
    let (socket, _) = udp();
    SockRef::from(&socket).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket.connect(address(group)).unwrap();
    socket
}
