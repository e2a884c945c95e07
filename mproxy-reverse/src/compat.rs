//! The functions of mproxy 0.1.8, deprecated: thin wrappers over [`Reverse`].

use std::thread::JoinHandle;

use mproxy_core::{Endpoint, Handle, Role};

use crate::Reverse;

/// Hands out a multicast group to every client that connects to the TCP endpoint. The address is bound
/// when this returns; a failure is printed on stderr, and ends the thread.
#[deprecated(since = "0.3.0", note = "use `Reverse` with `multicast` and `tcp_output`")]
#[must_use]
pub fn reverse_proxy_udp_tcp(multicast_addr: String, tcp_listen_addr: String) -> JoinHandle<()> {
    Handle::detach(Reverse::new().multicast(multicast_addr).tcp_output(tcp_listen_addr).spawn())
}

/// Forwards a UDP endpoint, which may be a multicast group, to another. The address is bound when this
/// returns; a failure is printed on stderr, and ends the thread.
#[deprecated(since = "0.3.0", note = "use `Reverse` with `udp_listen` and `udp_output`")]
#[must_use]
pub fn reverse_proxy_udp(udp_input_addr: String, udp_output_addr: String) -> JoinHandle<()> {
    // The channel is private, so the listener's thread sends to the target itself.
    Handle::detach(Reverse::new().udp_listen(udp_input_addr).udp_output(udp_output_addr).spawn())
}

/// Accepts TCP connections, and sends what they send to a UDP endpoint: a multicast group, as a rule,
/// which is then the channel. The address is bound when this returns; a failure is printed on stderr, and
/// ends the thread.
#[deprecated(since = "0.3.0", note = "use `Reverse` with `tcp_listen`, and `multicast` or `udp_output`")]
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
