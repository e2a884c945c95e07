//! Multicast on one host of any system: IPv4 groups on the loopback interface, and IPv6 groups where the loopback
//! interface carries them. Elsewhere an interface can be named for these in `MPROXY_TEST_INTERFACE`, by one of its
//! addresses: what is sent there must stay on this host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use mproxy_core::Interface;
use mproxy_tests::{
    Running, eventually, free_port, loopback_group, needs_source_specific_multicast, receives, run,
    sender_to, skip, start, udp, udp_on,
};

/// A server that writes what it hears to standard output, listening.
fn server(listen: &[&str], options: &[&str]) -> Running {
    let endpoints = listen.iter().flat_map(|endpoint| ["--listen-addr", endpoint]);
    let arguments: Vec<_> = ["--path", "-", "-v"].into_iter().chain(endpoints).collect();
    let server = start("mproxy-server", &[&arguments[..], options].concat());
    for endpoint in listen {
        server.listens(endpoint);
    }
    server
}

/// Runs the client to its end, with this input. It must have nothing to say.
fn send(to: &str, options: &[&str], input: &str) {
    let arguments = [&["--path", "-", "--server-addr", to], options].concat();
    let outcome = run("mproxy-client", &arguments, input.as_bytes());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
}

/// As [`loopback_group`], on the port of another group.
fn neighbour(group: &str) -> String {
    let (_, port) = group.rsplit_once(':').unwrap();
    let (ip, _) = group.split_once('%').unwrap();
    let (_, last) = ip.rsplit_once('.').unwrap();
    format!("239.193.1.{last}%127.0.0.1:{port}")
}

/// The names of an interface that an option takes; messages have one of them.
fn names(interface: &Interface, address: &str) -> [String; 4] {
    [interface.name.clone(), interface.to_string(), interface.index.to_string(), address.to_owned()]
}

/// An interface that carries IPv6 groups and is no way out of this host, and the address by which it was found. Where
/// there is none, the test is skipped.
fn ipv6_interface() -> (Interface, String) {
    if let Ok(address) = std::env::var("MPROXY_TEST_INTERFACE") {
        return (Interface::find(&address).unwrap(), address);
    }
    let found = Interface::find("127.0.0.1").unwrap();
    if !carries_ipv6_groups(&found) {
        skip("the loopback interface carries no IPv6 groups here");
    }
    (found, "127.0.0.1".to_owned())
}

/// Whether a datagram to a group that is good for one interface only comes back.
fn carries_ipv6_groups(interface: &Interface) -> bool {
    let group = Ipv6Addr::new(0xff11, 0, 0, 0, 0, 0, 0x4d50, 0x5258);
    let try_it = || -> std::io::Result<()> {
        let socket = UdpSocket::bind("[::]:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.join_multicast_v6(&group, interface.index)?;
        let port = socket.local_addr()?.port();
        socket.send_to(b"here?", SocketAddrV6::new(group, port, 0, interface.index))?;
        socket.recv(&mut [0; 8]).map(drop)
    };
    try_it().is_ok()
}

fn several_listeners_share_a_group() {
    let group = loopback_group();
    let servers = [0, 1, 2].map(|_| server(&[&group], &[]));
    let mut expected = String::new();
    for options in [&[][..], &["--ttl", "0"], &["--ttl", "8"]] {
        let text = format!("{options:?}\n");
        send(&group, options, &text);
        expected += &text;
        for server in &servers {
            receives(server, &expected);
        }
    }
}

/// Nor is what was sent to the port alone.
fn other_groups_on_the_port_are_not_heard() {
    let group = loopback_group();
    let other = neighbour(&group);
    let [here, there] = [&group, &other].map(|group| server(&[group], &[]));
    let (stranger, _) = udp();
    let mut expected = [String::new(), String::new()];
    for round in 0..3 {
        for (n, (to, server)) in [(&group, &here), (&other, &there)].into_iter().enumerate() {
            stranger.send_to(b"to nobody\n", ("127.0.0.1", port(&group))).unwrap();
            let text = format!("{round} to {to}\n");
            send(to, &[], &text);
            expected[n] += &text;
            receives(server, &expected[n]);
        }
    }
    // Once more, now that all of that has arrived.
    for (n, server) in [here, there].iter().enumerate() {
        receives(server, &expected[n]);
    }
}

fn port(group: &str) -> u16 {
    group.rsplit(':').next().unwrap().parse().unwrap()
}

fn one_program_hears_several_groups_on_one_port_each_once() {
    let group = loopback_group();
    let other = neighbour(&group);
    let hears = server(&[&group, &other], &[]);
    let mut expected = String::new();
    for to in [&group, &other, &group] {
        let text = format!("to {to}\n");
        send(to, &[], &text);
        expected += &text;
        receives(&hears, &expected);
    }
}

fn a_group_is_heard_from_the_chosen_source_only() {
    needs_source_specific_multicast();
    let (group, mark) = (loopback_group(), loopback_group());
    let (chosen, other) = (format!("127.0.0.1@{group}"), format!("127.0.0.9@{group}"));
    let hears = server(&[&chosen], &[]);
    let hears_not = server(&[&other, &mark], &[]);
    let sender = sender_to(&group);
    assert_eq!(sender.send(b"from 127.0.0.1\n").unwrap(), 15);
    receives(&hears, "from 127.0.0.1\n");
    send(&mark, &[], "end\n");
    receives(&hears_not, "end\n");
}

fn an_interface_is_named_by_name_index_or_address() {
    let group = loopback_group();
    let loopback = Interface::find("127.0.0.1").unwrap();
    for name in names(&loopback, "127.0.0.1") {
        let zoned = group.replace("%127.0.0.1", &format!("%{name}"));
        let bare = group.replace("%127.0.0.1", "");
        let interface = ["--interface", &name];
        let servers = [server(&[&zoned], &[]), server(&[&bare], &interface)];
        send(&zoned, &[], "with a zone\n");
        send(&bare, &interface, "with an option\n");
        for server in &servers {
            receives(server, "with a zone\nwith an option\n");
        }
    }
    let outcome = run("mproxy-client", &["--path", "-", "--server-addr", "239.1.2.3%no-such:9"], b"");
    assert!(outcome.code == 2 && outcome.stderr.contains("no-such"), "{}", outcome.stderr);
}

fn what_was_sent_to_a_group_before_a_stop_is_written() {
    let group = loopback_group();
    let mut hears = server(&[&group], &[]);
    let sender = sender_to(&group);
    hears.hold();
    let lines: Vec<_> = (0..100).map(|number| format!("line {number}\n")).collect();
    for line in &lines {
        sender.send(line.as_bytes()).unwrap();
    }
    hears.interrupt();
    hears.release();
    assert_eq!(hears.exit_code(), 0);
    assert_eq!(hears.text(), lines.concat());
}

fn forward_takes_one_group_to_another() {
    let (from, to) = (loopback_group(), loopback_group());
    let hears = server(&[&to], &[]);
    let mut forward =
        start("mproxy-forward", &["-v", "--udp-listen-addr", &from, "--udp-downstream-addr", &to]);
    forward.listens(&from);
    send(&from, &[], "through\n");
    receives(&hears, "through\n");
    forward.stop();
    let outcome = run("mproxy-forward", &["--udp-listen-addr", &from, "--udp-downstream-addr", &from], b"");
    assert!(outcome.code == 2 && outcome.stderr.contains("endless loop"), "{}", outcome.stderr);
}

fn ipv6_groups_are_shared_and_stay_apart() {
    let (interface, address) = ipv6_interface();
    let port = free_port();
    for zone in names(&interface, &address) {
        let group = |last: u16| format!("[ff15::{port:x}:{last}%{zone}]:{port}");
        let (one, two) = (group(1), group(2));
        let servers = [&one, &one, &two].map(|group| server(&[group], &[]));
        let (stranger, _) = udp_on("[::1]:0");
        let (mut to_one, mut to_two) = (String::new(), String::new());
        for round in 0..2 {
            stranger.send_to(b"to nobody\n", ("::1", port)).unwrap();
            for (to, expected) in [(&one, &mut to_one), (&two, &mut to_two)] {
                let text = format!("{round} to {to}\n");
                send(to, &[], &text);
                expected.push_str(&text);
            }
            for (server, expected) in servers.iter().zip([&to_one, &to_one, &to_two]) {
                receives(server, expected);
            }
        }
    }
}

fn an_ipv6_group_is_heard_from_the_chosen_source_only() {
    let (interface, _) = ipv6_interface();
    needs_source_specific_multicast();
    let (port, zone) = (free_port(), interface.index);
    let group = format!("[ff3e::{port:x}%{zone}]:{port}");
    let mark = format!("[ff15::{port:x}:9%{zone}]:{port}");
    // Of its addresses the system takes one: whichever, there is a listener for it.
    let sources: Vec<_> = interface.addresses.iter().filter(|address| address.is_ipv6()).collect();
    let chosen: Vec<_> = sources.iter().map(|source| format!("[{source}]@{group}")).collect();
    let hears = server(&chosen.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let hears_not = server(&[&format!("[2001:db8::9]@{group}"), &mark], &[]);
    send(&group, &[], "from here\n");
    receives(&hears, "from here\n");
    send(&mark, &[], "end\n");
    receives(&hears_not, "end\n");
}

fn a_link_local_address_is_listened_on_and_sent_to_in_its_zone() {
    let (interface, address) = ipv6_interface();
    let link_local = |ip: &IpAddr| match ip {
        IpAddr::V6(ip) => Some(*ip).filter(Ipv6Addr::is_unicast_link_local),
        IpAddr::V4(_) => None,
    };
    let Some(own) = interface.addresses.iter().find_map(link_local) else {
        skip("the interface has no link-local address");
    };
    eventually("an address that nobody else has", || {
        UdpSocket::bind(SocketAddrV6::new(own, 0, 0, interface.index)).ok()
    });
    for zone in names(&interface, &address) {
        let endpoint = format!("[{own}%{zone}]:{}", free_port());
        let hears = server(&[&endpoint], &[]);
        send(&endpoint, &[], "hello\n");
        receives(&hears, "hello\n");
    }
    let bare = run("mproxy-client", &["--path", "-", "--server-addr", &format!("[{own}]:9")], b"");
    assert!(bare.code == 2 && bare.stderr.contains("needs a zone"), "{}", bare.stderr);
}

mproxy_tests::main!(
    several_listeners_share_a_group,
    other_groups_on_the_port_are_not_heard,
    one_program_hears_several_groups_on_one_port_each_once,
    a_group_is_heard_from_the_chosen_source_only,
    an_interface_is_named_by_name_index_or_address,
    what_was_sent_to_a_group_before_a_stop_is_written,
    forward_takes_one_group_to_another,
    ipv6_groups_are_shared_and_stay_apart,
    an_ipv6_group_is_heard_from_the_chosen_source_only,
    a_link_local_address_is_listened_on_and_sent_to_in_its_zone,
);
