//! The functions of mproxy 0.1.8: thin wrappers over [`Reverse`] and, for UDP to UDP, over
//! [`mproxy_forward::Forward`].

use std::thread::JoinHandle;

use mproxy_core::{Endpoint, Handle, Role};
use mproxy_forward::Forward;

use crate::Reverse;

/// Hands out what is sent to a multicast group to every client that connects to the TCP endpoint. The
/// address is bound when this returns; a failure is said on stderr, and ends the thread. A function of
/// mproxy 0.1.8: a wrapper over [`Reverse`].
#[must_use]
pub fn reverse_proxy_udp_tcp(multicast_addr: String, tcp_listen_addr: String) -> JoinHandle<()> {
    Handle::detach(Reverse::new().multicast(multicast_addr).tcp_output(tcp_listen_addr).spawn())
}

/// Forwards what arrives at a UDP endpoint, which may be a multicast group, to another. A function of
/// mproxy 0.1.8: a wrapper over [`Forward`].
#[must_use]
pub fn reverse_proxy_udp(udp_input_addr: String, udp_output_addr: String) -> JoinHandle<()> {
    Handle::detach(Forward::new().udp_listen(udp_input_addr).target(udp_output_addr).spawn())
}

/// Accepts TCP connections, and sends what they send to a UDP endpoint: a multicast group, as a rule,
/// which is then the channel. A function of mproxy 0.1.8: a wrapper over [`Reverse`].
#[must_use]
pub fn reverse_proxy_tcp_udp(upstream_tcp: String, downstream_udp: String) -> JoinHandle<()> {
    let reverse = Reverse::new().tcp_listen(upstream_tcp);
    let reverse = if Endpoint::parse(&downstream_udp, Role::Channel).is_ok() {
        reverse.multicast(downstream_udp)
    } else {
        reverse.udp_output(downstream_udp)
    };
    Handle::detach(reverse.spawn())
}
