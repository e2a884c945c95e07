//! `--transparent`: each datagram leaves with the address and the port of its original sender. Needs root
//! on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use mproxy_forward::{Forward, Options};
use mproxy_tests::{
    Network, PATIENCE, Running, assert_empty, datagram_from, eventually, force_receive_buffer, is_warning,
    needs_tools, output, program, segment, share_port, skip,
};
use socket2::{Domain, SockRef, Socket, Type};

const SENDER: usize = 0;
const PROXY: usize = 1;
const RECEIVER: usize = 2;

/// An ordinary user: nobody, everywhere.
const UNPRIVILEGED: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// A program, and its option for a target.
type Proxy = (&'static str, &'static str);
const FORWARD: Proxy = ("mproxy-forward", "--udp-downstream-addr");
const REVERSE: Proxy = ("mproxy-reverse", "--udp-output-addr");

/// Skips the test of a build that has no transparent sockets.
fn needs_transparent() {
    if cfg!(mproxy_portable) {
        skip("the portable build sends nothing transparently");
    }
}

/// A sender, a proxy and a receiver on one segment.
fn three_hosts() -> Network {
    needs_transparent();
    Network::new(3)
}

/// A socket on the host on which this runs.
fn bound(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    // A process that another test is just starting may have a copy of the one that had the port before.
    eventually("a port", || match socket.bind(&address.into()) {
        Ok(()) => Some(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => panic!("{address}: {error}"),
    });
    let socket = UdpSocket::from(socket);
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    force_receive_buffer(&socket, 64 << 20);
    socket
}

/// A socket of this test on a host of a [`Network`], which sends to groups through that host's `eth0`.
fn socket(network: &Network, host: usize, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = network.on(host, || bound(address));
    let options = SockRef::from(&socket);
    if address.is_ipv4() {
        options.set_multicast_if_v4(&Network::ipv4(host).parse().unwrap()).unwrap();
    } else {
        options.set_multicast_if_v6(network.interface_index(host, "eth0")).unwrap();
    }
    socket
}

/// A socket of this test that has joined a group on a host.
fn member(network: &Network, host: usize, group: &str) -> UdpSocket {
    let socket = socket(network, host, group);
    match group.parse::<SocketAddr>().unwrap().ip() {
        IpAddr::V4(group) => {
            let interface: Ipv4Addr = Network::ipv4(host).parse().unwrap();
            socket.join_multicast_v4(&group, &interface).unwrap();
        }
        IpAddr::V6(group) => {
            socket.join_multicast_v6(&group, network.interface_index(host, "eth0")).unwrap();
        }
    }
    socket
}

/// Starts a transparent proxy, and waits until it hears all that it listens to.
fn transparent(network: &Network, host: usize, program: &str, arguments: &[&str]) -> Running {
    let running = network.start(host, program, &[&["--transparent", "-v"], arguments].concat());
    running.is_ready(arguments);
    running
}

/// The next datagram, and where it seems to come from.
fn next(socket: &UdpSocket) -> (String, SocketAddr) {
    let (datagram, from) = datagram_from(socket);
    (String::from_utf8_lossy(&datagram).into_owned(), from)
}

/// The next datagram has come from there.
#[track_caller]
fn receives(socket: &UdpSocket, text: &str, from: &UdpSocket) {
    assert_eq!(next(socket), (text.to_owned(), from.local_addr().unwrap()));
}

/// The proxy has nothing to complain of, and ends as it should.
fn ends_without_a_word(mut proxy: Running) {
    proxy.stop();
    assert!(proxy.warnings().is_empty(), "{}", proxy.messages());
}

/// Gives a host a second address of each family: `10.77.0.101` and `fd77::101`.
fn second_address(network: &Network, host: usize) {
    network.succeeds(host, "ip", &["addr", "add", "10.77.0.101/24", "dev", "eth0"]);
    network.succeeds(host, "ip", &["addr", "add", "fd77::101/64", "dev", "eth0", "nodad"]);
}

/// Lets the sender's host have each address in `10.80.0.0/16` and `fd80::/64`, and the others answer there.
fn many_addresses(network: &Network) {
    network.succeeds(SENDER, "ip", &["route", "add", "local", "10.80.0.0/16", "dev", "lo"]);
    network.succeeds(SENDER, "sh", &["-c", "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind"]);
    for host in [PROXY, RECEIVER] {
        network.succeeds(host, "ip", &["route", "add", "10.80.0.0/16", "via", &Network::ipv4(SENDER)]);
        network.succeeds(host, "ip", &["-6", "route", "add", "fd80::/64", "via", &Network::ipv6(SENDER)]);
    }
}

/// Listeners, the addresses that senders send to, and targets, of one family.
struct Endpoints {
    senders: [&'static str; 3],
    listeners: &'static [&'static str],
    inputs: &'static [&'static str],
    targets: &'static [&'static str],
    receivers: &'static [&'static str],
    group: &'static str,
}

const IPV4: Endpoints = Endpoints {
    senders: ["10.77.0.1:5000", "10.77.0.1:5001", "10.77.0.101:5000"],
    listeners: &["0.0.0.0:9920", "239.1.2.3%eth0:9921", "10.77.0.255:9922"],
    inputs: &["10.77.0.2:9920", "10.77.0.255:9920", "239.1.2.3:9921", "10.77.0.255:9922"],
    targets: &["10.77.0.3:9930", "239.1.2.4%eth0:9931", "10.77.0.255:9932"],
    receivers: &["10.77.0.3:9930", "0.0.0.0:9932"],
    group: "239.1.2.4:9931",
};

const IPV6: Endpoints = Endpoints {
    senders: ["[fd77::1]:5000", "[fd77::1]:5001", "[fd77::101]:5000"],
    listeners: &["[::]:9920", "[ff15::3%eth0]:9921"],
    inputs: &["[fd77::2]:9920", "[ff15::3]:9921"],
    targets: &["[fd77::3]:9930", "[ff15::4%eth0]:9931"],
    receivers: &["[fd77::3]:9930"],
    group: "[ff15::4]:9931",
};

/// From each kind of listener to each kind of target, with whatever the proxy's host thinks of addresses
/// that come and go on interfaces where it would not look for them.
fn every_target_sees_every_sender((program, option): Proxy, endpoints: &Endpoints, settings: &[&str]) {
    let network = three_hosts();
    second_address(&network, SENDER);
    for setting in settings {
        network.succeeds(PROXY, "sh", &["-c", setting]);
    }
    let mut arguments = Vec::new();
    arguments.extend(endpoints.listeners.iter().flat_map(|listener| ["--udp-listen-addr", *listener]));
    arguments.extend(endpoints.targets.iter().flat_map(|target| [option, *target]));
    let proxy = transparent(&network, PROXY, program, &arguments);
    let mut receivers = vec![member(&network, RECEIVER, endpoints.group)];
    receivers.extend(endpoints.receivers.iter().map(|address| socket(&network, RECEIVER, address)));
    let senders = endpoints.senders.map(|address| socket(&network, SENDER, address));
    // The second time with whatever the proxy keeps of the first.
    for round in [1, 2] {
        for input in endpoints.inputs {
            for (number, sender) in senders.iter().enumerate() {
                let text = format!("{round}: from {number} to {input}");
                sender.send_to(text.as_bytes(), input).unwrap();
                for receiver in &receivers {
                    receives(receiver, &text, sender);
                }
            }
        }
    }
    receivers.iter().for_each(assert_empty);
    ends_without_a_word(proxy);
}

fn forward_over_ipv4() {
    every_target_sees_every_sender(FORWARD, &IPV4, &[]);
}

fn forward_over_ipv6() {
    every_target_sees_every_sender(FORWARD, &IPV6, &[]);
}

fn reverse_with_a_private_channel_over_ipv4() {
    every_target_sees_every_sender(REVERSE, &IPV4, &[]);
}

fn reverse_with_a_private_channel_over_ipv6() {
    every_target_sees_every_sender(REVERSE, &IPV6, &[]);
}

/// Many systems drop what comes in where its sender would not be looked for.
fn strict_reverse_path_filters_on_the_proxys_host() {
    let strict = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done";
    for proxy in [FORWARD, REVERSE] {
        every_target_sees_every_sender(proxy, &IPV4, &[strict]);
    }
}

/// Such an address means nothing without its interface.
fn a_sender_with_a_link_local_address() {
    let network = three_hosts();
    for host in [SENDER, RECEIVER] {
        let address = format!("fe80::77:{host}/64");
        network.succeeds(host, "ip", &["addr", "add", &address, "dev", "eth0", "nodad"]);
    }
    let local = |host: usize, port| {
        let address = format!("fe80::77:{host}").parse().unwrap();
        let eth0 = network.interface_index(host, "eth0");
        network.on(host, || bound(SocketAddrV6::new(address, port, 0, eth0).into()))
    };
    let (sender, local_receiver) = (local(SENDER, 5000), local(RECEIVER, 9931));
    let receiver = socket(&network, RECEIVER, "[fd77::3]:9930");
    let group = member(&network, RECEIVER, "[ff15::4]:9932");
    for (program, option) in [FORWARD, REVERSE] {
        let arguments =
            [option, "[fd77::3]:9930", option, "[fe80::77:2%eth0]:9931", option, "[ff15::4%eth0]:9932"];
        let arguments = [&["--udp-listen-addr", "[::]:9920"], &arguments[..]].concat();
        let proxy = transparent(&network, PROXY, program, &arguments);
        for text in ["one", "two"] {
            sender.send_to(text.as_bytes(), "[fd77::2]:9920").unwrap();
            for receiver in [&receiver, &local_receiver, &group] {
                let (came, from) = next(receiver);
                assert_eq!((came.as_str(), from.ip()), (text, sender.local_addr().unwrap().ip()));
                assert_eq!(from.port(), 5000);
            }
        }
        ends_without_a_word(proxy);
    }
}

/// Beyond the link such an address leads nowhere: a failure of this sender, not of the target.
fn a_sender_that_cannot_be_sent_on_costs_the_others_nothing() {
    needs_transparent();
    let network = Network::snooping(&[&[SENDER, PROXY], &[PROXY, RECEIVER]]);
    network.ip(SENDER, "addr add fe80::77:0/64 dev eth0 nodad");
    let receiver = network.on(RECEIVER, || bound("[fd78::3]:9930".parse().unwrap()));
    let address = "fe80::77:0".parse().unwrap();
    let eth0 = network.interface_index(SENDER, "eth0");
    let local = network.on(SENDER, || bound(SocketAddrV6::new(address, 5001, 0, eth0).into()));
    let sender = socket(&network, SENDER, "[fd77::1]:5000");
    for (program, option) in [FORWARD, REVERSE] {
        let arguments = ["--udp-listen-addr", "[::]:9920", option, "[fd78::3]:9930"];
        let mut proxy = transparent(&network, PROXY, program, &arguments);
        // Several of each are received together.
        proxy.hold();
        for number in 0..100 {
            sender.send_to(number.to_string().as_bytes(), "[fd77::2]:9920").unwrap();
            if number % 10 == 0 {
                local.send_to(b"local", "[fd77::2]:9920").unwrap();
                local.send_to(b"local", "[fd77::2]:9920").unwrap();
            }
        }
        proxy.release();
        for number in 0..100 {
            receives(&receiver, &number.to_string(), &sender);
        }
        let warning = proxy.says("[fe80::77:0");
        assert!(is_warning(&warning) && warning.contains("[fd78::3]:9930"), "{warning}");
        proxy.stop();
        assert_empty(&receiver);
        assert_eq!(proxy.warnings().len(), 1, "{}", proxy.messages());
    }
}

/// The proxy hears its own channel through one of them only.
fn a_channel_on_two_interfaces_brings_a_tcp_client_each_datagram_once() {
    needs_transparent();
    let network = Network::snooping(&[&[SENDER, PROXY], &[PROXY, RECEIVER]]);
    let sender = socket(&network, SENDER, "10.77.0.1:5000");
    let both = ["--interface", "eth0", "--interface", "eth1"];
    let endpoints = ["--udp-listen-addr", "0.0.0.0:9920", "--tcp-output-addr", "0.0.0.0:9921"];
    for options in [&["-v"][..], &["-v", "--transparent"]] {
        for (group, channel) in [("239.1.2.3", "239.1.2.3:9918"), ("ff15::3", "[ff15::3]:9918")] {
            // No datagram of one IP version leaves as from a sender of the other.
            if options.len() > 1 && group.contains(':') {
                continue;
            }
            let arguments = [options, &endpoints, &["--multicast-addr", channel], &both].concat();
            let mut reverse = network.start(PROXY, "mproxy-reverse", &arguments);
            reverse.accepts("0.0.0.0:9921");
            let mut client = network.on(RECEIVER, || TcpStream::connect("10.78.0.2:9921")).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            for segment in [0, 1] {
                network.switched(segment, PROXY, group, true);
            }
            let lines = (0..20).map(|number| format!("line {number}\n")).collect::<Vec<_>>();
            for line in &lines {
                sender.send_to(line.as_bytes(), "10.77.0.2:9920").unwrap();
            }
            let mut came = vec![0; lines.concat().len()];
            client.read_exact(&mut came).unwrap();
            assert_eq!(String::from_utf8(came).unwrap(), lines.concat(), "{options:?}");
            // After what is behind all of them, no copy can come any more.
            reverse.stop();
            let mut rest = String::new();
            client.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "", "{options:?}");
            network.switched(0, PROXY, group, false);
        }
    }
}

/// Though they have closed their sockets by then: this host must neither take the port nor keep it.
fn a_sender_at_any_address_of_the_proxys_host_is_left_out_and_keeps_its_port() {
    let network = three_hosts();
    second_address(&network, PROXY);
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    let receiver_v6 = socket(&network, RECEIVER, "[fd77::3]:9930");
    let other = socket(&network, SENDER, "10.77.0.1:5000");
    let other_v6 = socket(&network, SENDER, "[fd77::1]:5000");
    for (own, input, receiver, other) in [
        ("10.77.0.2:5000", "10.77.0.2:9920", &receiver, &other),
        ("10.77.0.101:5000", "10.77.0.2:9920", &receiver, &other),
        ("127.0.0.1:5000", "127.0.0.1:9920", &receiver, &other),
        ("127.0.0.2:5000", "127.0.0.1:9920", &receiver, &other),
        ("[fd77::101]:5000", "[fd77::2]:9920", &receiver_v6, &other_v6),
        ("[::1]:5000", "[::1]:9920", &receiver_v6, &other_v6),
    ] {
        let target = receiver.local_addr().unwrap().to_string();
        for (program, option) in [FORWARD, REVERSE] {
            let listen = if other.local_addr().unwrap().is_ipv6() { "[::]:9920" } else { "0.0.0.0:9920" };
            let arguments = ["--udp-listen-addr", listen, option, &target];
            let mut proxy = transparent(&network, PROXY, program, &arguments);
            proxy.hold();
            let once = network.on(PROXY, || bound(own.parse().unwrap()));
            once.send_to(b"own", input).unwrap();
            drop(once);
            proxy.release();
            let there = if listen == "[::]:9920" { "[fd77::2]:9920" } else { "10.77.0.2:9920" };
            other.send_to(b"other", there).unwrap();
            receives(receiver, "other", other);
            let warning = proxy.says(own);
            assert!(is_warning(&warning) && warning.contains(&target), "{warning}");
            drop(network.on(PROXY, || bound(own.parse().unwrap())));
            proxy.stop();
            assert_empty(receiver);
        }
    }
}

/// A copy of a program that everybody may run. Linux ties capabilities to the file, not to its name.
fn copy(directory: &Path, name: &str) -> String {
    let path = directory.canonicalize().unwrap().join(name).to_str().unwrap().to_owned();
    // Not by this process: another thread's child could hold it open for writing while it is to be run.
    succeeds(Command::new("install").args(["-m", "755"]).arg(program(name)).arg(&path));
    succeeds(Command::new("chmod").arg("755").arg(directory));
    path
}

fn succeeds(command: &mut Command) {
    let out = output(command);
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn without_the_capability_it_says_how_to_get_it_and_ends() {
    needs_transparent();
    let network = Network::loopback();
    let directory = tempfile::tempdir().unwrap();
    for (program, option) in [FORWARD, REVERSE] {
        let path = copy(directory.path(), program);
        let arguments = ["--transparent", "--udp-listen-addr", "127.0.0.1:0", option, "127.0.0.1:9"];
        for bounding in [&[][..], &["--bounding-set=-all"]] {
            let mut command = network.command(0, "setpriv");
            let out = output(command.args(UNPRIVILEGED).args(bounding).arg(&path).args(arguments));
            let messages = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(1), "{messages}");
            assert_eq!(messages.lines().count(), 1, "{messages}");
            assert!(messages.contains("CAP_NET_ADMIN"), "{messages}");
            assert!(messages.contains(&format!("setcap cap_net_admin+ep {path}")), "{messages}");
            assert!(out.stdout.is_empty());
        }
    }
}

fn with_the_capability_an_ordinary_user_may_run_it() {
    let directory = tempfile::tempdir().unwrap();
    let network = three_hosts();
    let sender = socket(&network, SENDER, "10.77.0.1:5000");
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    for (program, option) in [FORWARD, REVERSE] {
        let path = copy(directory.path(), program);
        succeeds(Command::new("setcap").args(["cap_net_admin+ep", &path]));
        let arguments = ["--udp-listen-addr", "0.0.0.0:9920", option, "10.77.0.3:9930"];
        let mut command = network.command(PROXY, "setpriv");
        command.args(UNPRIVILEGED).args([&path, "--transparent", "-v"]).args(arguments);
        let proxy = Running::new(command.stdin(Stdio::null()));
        proxy.is_ready(&arguments);
        for text in ["one", "two"] {
            sender.send_to(text.as_bytes(), "10.77.0.2:9920").unwrap();
            receives(&receiver, text, &sender);
        }
        ends_without_a_word(proxy);
    }
}

/// A sender whose port is another process's on the proxy's host: rather nothing than a wrong sender.
fn a_sender_whose_port_is_taken((program, option): Proxy, taken: &UdpSocket, network: &Network) {
    let others = ["10.77.0.1:5000", "10.77.0.1:5001"].map(|address| socket(network, SENDER, address));
    let receiver = socket(network, RECEIVER, "10.77.0.3:9930");
    let mut proxy = transparent(
        network,
        PROXY,
        program,
        &["--udp-listen-addr", "0.0.0.0:9920", option, "10.77.0.3:9930"],
    );
    for number in 0..20 {
        let text = format!("{number}");
        // Before one that arrives: when that is there, this was dealt with.
        taken.send_to(b"from the same host", "10.77.0.2:9920").unwrap();
        for other in &others {
            other.send_to(text.as_bytes(), "10.77.0.2:9920").unwrap();
        }
        for other in &others {
            receives(&receiver, &text, other);
        }
    }
    let address = taken.local_addr().unwrap().to_string();
    let warning = proxy.says(&address);
    assert!(is_warning(&warning) && warning.contains("10.77.0.3:9930"), "{warning}");
    replies_still_find(network, taken);
    proxy.stop();
    assert_empty(&receiver);
    assert_eq!(proxy.warnings().len(), 1, "{}", proxy.messages());
}

fn a_sender_whose_port_is_taken_is_left_out_and_told_once_by_forward() {
    let network = three_hosts();
    let taken = socket(&network, PROXY, "10.77.0.2:5000");
    a_sender_whose_port_is_taken(FORWARD, &taken, &network);
}

fn a_sender_whose_port_is_taken_is_left_out_and_told_once_by_reverse() {
    let network = three_hosts();
    let taken = socket(&network, PROXY, "10.77.0.2:5000");
    a_sender_whose_port_is_taken(REVERSE, &taken, &network);
}

/// The port that a sender elsewhere uses can be another process's on the proxy's host too.
fn a_sender_whose_port_is_taken_on_all_addresses_is_left_out_and_told_once() {
    let network = three_hosts();
    let _taken = network.on(PROXY, || bound(([0, 0, 0, 0], 5002).into()));
    a_sender_whose_port_is_taken(FORWARD, &socket(&network, SENDER, "10.77.0.1:5002"), &network);
}

/// With the library, which tells what was counted.
fn what_a_sender_whose_port_is_taken_has_sent_counts_as_errors() {
    let network = three_hosts();
    let taken = socket(&network, PROXY, "10.77.0.2:5000");
    let other = socket(&network, SENDER, "10.77.0.1:5000");
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    // Its threads are on the host of the one that starts them.
    let proxy = network.on(PROXY, || {
        let options = Options::new().transparent();
        let proxy = Forward::new().udp_listen("0.0.0.0:9920").target("10.77.0.3:9930").options(options);
        proxy.spawn().unwrap()
    });
    for _ in 0..7 {
        taken.send_to(b"taken", "10.77.0.2:9920").unwrap();
        other.send_to(b"other", "10.77.0.2:9920").unwrap();
        receives(&receiver, "other", &other);
    }
    proxy.stop();
    let stats = proxy.join().unwrap();
    assert_eq!((stats.received(), stats.sent(), stats.errors()), (14, 7, 7), "{stats:?}");
}

/// Replies to the sender reach its own socket, from any port.
fn replies_still_find(network: &Network, sender: &UdpSocket) {
    for port in 9940..9960 {
        let receiver = socket(network, RECEIVER, &format!("10.77.0.3:{port}"));
        receiver.send_to(b"reply", sender.local_addr().unwrap()).unwrap();
        receives(sender, "reply", &receiver);
    }
}

/// One on the proxy's own host that would share its port must not lose what is sent to it to the proxy.
fn a_sender_that_would_share_its_port_keeps_its_replies() {
    let network = three_hosts();
    let shared = network.on(PROXY, || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        share_port(&socket);
        socket.bind(&"10.77.0.2:5000".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        UdpSocket::from(socket)
    });
    let other = socket(&network, SENDER, "10.77.0.1:5000");
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    let arguments = ["--udp-listen-addr", "0.0.0.0:9920", FORWARD.1, "10.77.0.3:9930"];
    let mut proxy = transparent(&network, PROXY, FORWARD.0, &arguments);
    shared.send_to(b"shared", "10.77.0.2:9920").unwrap();
    other.send_to(b"other", "10.77.0.2:9920").unwrap();
    // It may leave as it should, or not at all.
    let (mut text, mut from) = next(&receiver);
    if from == shared.local_addr().unwrap() {
        (text, from) = next(&receiver);
    }
    assert_eq!((text.as_str(), from), ("other", other.local_addr().unwrap()));
    replies_still_find(&network, &shared);
    proxy.stop();
}

/// No datagram of one IP version has a sender of the other: rather nothing than a wrong sender.
fn a_target_of_the_other_ip_version_gets_nothing() {
    let network = three_hosts();
    for (this, that) in [(&IPV4, &IPV6), (&IPV6, &IPV4)] {
        let (listen, input) = (this.listeners[0], this.inputs[0]);
        let sender = socket(&network, SENDER, this.senders[0]);
        let [receiver, other] = [this, that].map(|of| socket(&network, RECEIVER, of.targets[0]));
        for (program, option) in [FORWARD, REVERSE] {
            let targets = [option, that.targets[0], option, this.targets[0]];
            let arguments = [&["--udp-listen-addr", listen], &targets[..]].concat();
            let mut proxy = transparent(&network, PROXY, program, &arguments);
            for number in 0..5 {
                let text = number.to_string();
                sender.send_to(text.as_bytes(), input).unwrap();
                receives(&receiver, &text, &sender);
            }
            let warning = proxy.says(this.senders[0]);
            assert!(is_warning(&warning) && warning.contains(that.targets[0]), "{warning}");
            proxy.stop();
            assert_empty(&other);
            assert_eq!(proxy.warnings().len(), 1, "{}", proxy.messages());
        }
    }
}

/// The address of each of many senders.
fn many(i: usize, ipv6: bool) -> SocketAddr {
    let port = 4000 + i % 1000;
    let (high, low) = (i / 200, i % 200 + 1);
    let text = if ipv6 { format!("[fd80::{i:x}]:{port}") } else { format!("10.80.{high}.{low}:{port}") };
    text.parse().unwrap()
}

/// The number of descriptors that a process has open.
fn descriptors(running: &Running) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", running.id())).unwrap().count()
}

/// The soft limit of descriptors that most systems set (`RLIMIT_NOFILE`).
const USUAL: &str = "-Sn 1024";

/// Twice a datagram from each of 6000 senders, of which the proxy can remember some only.
fn flood((program, option): Proxy, most: Option<usize>, ipv6: bool, limit: &str) {
    const SENDERS: usize = 6000;
    /// A number that every queue between the hosts holds.
    const AT_ONCE: usize = 250;
    let network = three_hosts();
    many_addresses(&network);
    let (listen, input, target) = if ipv6 {
        ("[::]:9920", "[fd77::2]:9920", "[fd77::3]:9930")
    } else {
        ("0.0.0.0:9920", "10.77.0.2:9920", "10.77.0.3:9930")
    };
    let receiver = socket(&network, RECEIVER, target);
    let bound_on_sources = most.map(|most| most.to_string());
    let mut arguments = vec!["--udp-listen-addr", listen, option, target];
    if let Some(most) = &bound_on_sources {
        arguments.extend(["--max-sources", most]);
    }
    let mut command = network.command(PROXY, "sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]).arg(self::program(program));
    let proxy = Running::new(command.args(["--transparent", "-v"]).args(&arguments).stdin(Stdio::null()));
    proxy.is_ready(&arguments);
    // Until the hosts know each other's hardware address few datagrams wait.
    let first = socket(&network, SENDER, if ipv6 { "[fd77::1]:5000" } else { "10.77.0.1:5000" });
    first.send_to(b"first", input).unwrap();
    receives(&receiver, "first", &first);

    // The second time in another order, so that it matters who was forgotten.
    let order: Vec<_> = (0..SENDERS).chain((0..SENDERS).map(|i| i * 7 % SENDERS)).collect();
    for some in order.chunks(AT_ONCE) {
        let mut expected = network.on(SENDER, || {
            let send = |i: &usize| {
                let sender = bound(many(*i, ipv6));
                sender.send_to(i.to_string().as_bytes(), input).unwrap();
                (i.to_string(), many(*i, ipv6))
            };
            some.iter().map(send).collect::<Vec<_>>()
        });
        let mut came: Vec<_> = some.iter().map(|_| next(&receiver)).collect();
        expected.sort();
        came.sort();
        assert!(came == expected, "sent {expected:?}\ncame {came:?}");
        let (open, most) = (descriptors(&proxy), most.unwrap_or(4096));
        assert!(open <= most + 64, "{open} descriptors with room for {most} senders");
    }
    assert_empty(&receiver);
    ends_without_a_word(proxy);
}

fn a_flood_of_senders_through_forward_with_room_for_100() {
    flood(FORWARD, Some(100), false, USUAL);
}

fn a_flood_of_senders_through_forward_with_room_for_1() {
    flood(FORWARD, Some(1), false, USUAL);
}

fn a_flood_of_senders_through_forward_with_the_usual_room() {
    flood(FORWARD, None, false, USUAL);
}

/// Less than the usual room needs: what there is must do.
fn a_flood_of_senders_through_forward_with_few_descriptors() {
    flood(FORWARD, None, false, "-n 256");
}

fn a_flood_of_senders_through_forward_over_ipv6() {
    flood(FORWARD, Some(100), true, USUAL);
}

fn a_flood_of_senders_through_reverse_with_room_for_100() {
    flood(REVERSE, Some(100), false, USUAL);
}

fn a_flood_of_senders_through_reverse_with_the_usual_room() {
    flood(REVERSE, None, false, USUAL);
}

/// The proxy's listener is on that port of all addresses itself.
fn a_sender_may_send_from_the_port_on_which_the_proxy_listens() {
    let network = three_hosts();
    second_address(&network, SENDER);
    for (listen, senders, input, target) in [
        ("0.0.0.0:9920", IPV4.senders, "10.77.0.2:9920", "10.77.0.3:9920"),
        ("10.77.0.2:9920", IPV4.senders, "10.77.0.2:9920", "10.77.0.3:9930"),
        ("239.1.2.3%eth0:9920", IPV4.senders, "239.1.2.3:9920", "239.1.2.4%eth0:9920"),
        ("[::]:9920", IPV6.senders, "[fd77::2]:9920", "[fd77::3]:9920"),
        ("[ff15::3%eth0]:9920", IPV6.senders, "[ff15::3]:9920", "[ff15::4%eth0]:9920"),
    ] {
        let receiver = match target.split_once("%eth0") {
            Some((group, port)) => member(&network, RECEIVER, &[group, port].concat()),
            None => socket(&network, RECEIVER, target),
        };
        // The third, whose port is another one, shows that the listener still hears everybody.
        let addresses =
            [senders[0].replace("5000", "9920"), senders[2].replace("5000", "9920"), senders[1].to_owned()];
        let senders = addresses.map(|address| socket(&network, SENDER, &address));
        for (program, option) in [FORWARD, REVERSE] {
            let proxy = transparent(&network, PROXY, program, &["--udp-listen-addr", listen, option, target]);
            for number in 0..10 {
                for sender in &senders {
                    let text = format!("{number} through {program} on {listen}");
                    sender.send_to(text.as_bytes(), input).unwrap();
                    receives(&receiver, &text, sender);
                }
            }
            ends_without_a_word(proxy);
        }
    }
}

/// Each listener has a thread of its own, but the sender's address and port can be had only once.
fn a_sender_may_send_to_several_listeners() {
    let network = three_hosts();
    let sender = socket(&network, SENDER, "10.77.0.1:5000");
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    for (program, option) in [FORWARD, REVERSE] {
        let listeners = ["--udp-listen-addr", "0.0.0.0:9920", "--udp-listen-addr", "0.0.0.0:9921"];
        let arguments = [&listeners[..], &[option, "10.77.0.3:9930", "--threads", "2"]].concat();
        let proxy = transparent(&network, PROXY, program, &arguments);
        for number in 0..10 {
            for input in ["10.77.0.2:9920", "10.77.0.2:9921"] {
                let text = format!("{number} to {input} through {program}");
                sender.send_to(text.as_bytes(), input).unwrap();
                receives(&receiver, &text, &sender);
            }
        }
        ends_without_a_word(proxy);
    }
}

/// The datagrams of each sender, in order: sent ones, and received ones by their source address.
#[derive(Default)]
struct Sent(HashMap<SocketAddr, Vec<String>>);

impl Sent {
    fn note(&mut self, from: SocketAddr, text: String) {
        self.0.entry(from).or_default().push(text);
    }

    fn is_what_comes(&self, receiver: &UdpSocket) {
        let mut came = Self::default();
        for _ in 0..self.0.values().map(Vec::len).sum() {
            let (text, from) = next(receiver);
            came.note(from, text);
        }
        for (sender, expected) in &self.0 {
            let came = came.0.get(sender).unwrap_or_else(|| panic!("nothing from {sender}"));
            let brief = |all: &Vec<String>| {
                all.iter().map(|text| text.chars().take(12).collect()).collect::<Vec<String>>()
            };
            assert!(came == expected, "{sender} sent {:?}\nand {:?} came", brief(expected), brief(came));
        }
        assert_eq!(came.0.len(), self.0.len(), "more senders came than were there");
    }
}

/// Bursts of many senders, of which most are forgotten in between, or in the middle of a batch.
fn order_holds_within_each_source((program, option): Proxy, options: &[&str]) {
    let network = three_hosts();
    many_addresses(&network);
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    let arguments = ["--udp-listen-addr", "0.0.0.0:9920", option, "10.77.0.3:9930"];
    let proxy = transparent(&network, PROXY, program, &[&arguments, options].concat());
    let senders = network.on(SENDER, || (0..50).map(|i| bound(many(i, false))).collect::<Vec<_>>());
    senders[0].send_to(b"first", "10.77.0.2:9920").unwrap();
    receives(&receiver, "first", &senders[0]);
    for burst in 0..20 {
        let mut sent = Sent::default();
        // One after the other, and then each many times.
        for number in 0..250 {
            let sender = &senders[if burst % 2 == 0 { number % 50 } else { number / 5 * 7 % 50 }];
            let text = format!("{burst}.{number} {}", "x".repeat(number % 3 * 100));
            sender.send_to(text.as_bytes(), "10.77.0.2:9920").unwrap();
            sent.note(sender.local_addr().unwrap(), text);
        }
        sent.is_what_comes(&receiver);
    }
    ends_without_a_word(proxy);
}

fn order_holds_within_each_source_through_forward() {
    for options in [&[][..], &["--max-sources", "7"], &["--threads", "4", "--max-sources", "7"]] {
        order_holds_within_each_source(FORWARD, options);
    }
}

fn order_holds_within_each_source_through_reverse() {
    for options in [&[][..], &["--max-sources", "7"]] {
        order_holds_within_each_source(REVERSE, options);
    }
}

/// Buffers that the kernel has coalesced of one sender's datagrams stand between those of another one's, all
/// of the same size, so that nothing but the sender tells where one that goes on must end.
fn coalesced_bursts((program, option): Proxy, endpoints: &Endpoints) {
    const SIZE: u16 = 1000;
    let network = three_hosts();
    let (listen, input, target) = (endpoints.listeners[0], endpoints.inputs[0], endpoints.targets[0]);
    let receiver = socket(&network, RECEIVER, target);
    let proxy = transparent(&network, PROXY, program, &["--udp-listen-addr", listen, option, target]);
    let senders = [0, 1].map(|i| socket(&network, SENDER, endpoints.senders[i]));
    for sender in &senders {
        segment(sender, SIZE);
    }
    senders[0].send_to(b"first", input).unwrap();
    receives(&receiver, "first", &senders[0]);
    let mut number = 0;
    for round in 0..30 {
        let mut sent = Sent::default();
        // From whom, how many together, and how much of the last one.
        for (sender, count, last) in [
            (0, 20, SIZE),
            (1, 20, SIZE),
            (0, 1, SIZE),
            (1, 1, SIZE),
            (0, 1, SIZE),
            (1, 7, 300),
            (0, 7, 300),
            (0, 3, SIZE),
            (1, 64, SIZE),
            (0, 1, 300),
        ] {
            let mut all = String::new();
            for i in 1..=count {
                number += 1;
                let len = if i == count { last } else { SIZE };
                let text: String = format!("{round}.{number} ").chars().cycle().take(len.into()).collect();
                all += &text;
                sent.note(senders[sender].local_addr().unwrap(), text);
            }
            senders[sender].send_to(all.as_bytes(), input).unwrap();
        }
        sent.is_what_comes(&receiver);
    }
    assert_empty(&receiver);
    ends_without_a_word(proxy);
}

fn coalesced_bursts_of_two_senders_through_forward() {
    coalesced_bursts(FORWARD, &IPV4);
    coalesced_bursts(FORWARD, &IPV6);
}

fn coalesced_bursts_of_two_senders_through_reverse() {
    coalesced_bursts(REVERSE, &IPV4);
    coalesced_bursts(REVERSE, &IPV6);
}

/// Also those that are cut up on their way.
fn datagrams_of_every_size() {
    let network = three_hosts();
    for endpoints in [&IPV4, &IPV6] {
        let (listen, input, target) = (endpoints.listeners[0], endpoints.inputs[0], endpoints.targets[0]);
        let receiver = socket(&network, RECEIVER, target);
        let sender = socket(&network, SENDER, endpoints.senders[0]);
        for (program, option) in [FORWARD, REVERSE] {
            let proxy = transparent(&network, PROXY, program, &["--udp-listen-addr", listen, option, target]);
            for size in [0, 1, 1452, 1472, 1473, 9000, 65_507] {
                let text: String = ('a'..='z').cycle().take(size).collect();
                sender.send_to(text.as_bytes(), input).unwrap();
                let (came, from) = next(&receiver);
                assert!(came == text && from == sender.local_addr().unwrap(), "{size} bytes from {from}");
            }
            ends_without_a_word(proxy);
        }
    }
}

fn a_shared_group_and_the_outputs_that_it_feeds_see_the_original_senders() {
    let network = three_hosts();
    for (group, member_of, listen, input, target, senders) in [
        (
            "239.1.2.3%eth0:9918",
            "239.1.2.3:9918",
            "0.0.0.0:9920",
            "10.77.0.2:9920",
            "10.77.0.3:9930",
            IPV4.senders,
        ),
        (
            "[ff15::3%eth0]:9918",
            "[ff15::3]:9918",
            "[::]:9920",
            "[fd77::2]:9920",
            "[fd77::3]:9930",
            IPV6.senders,
        ),
    ] {
        let members = [SENDER, RECEIVER].map(|host| member(&network, host, member_of));
        let receiver = socket(&network, RECEIVER, target);
        let [one, stranger] = [senders[0], senders[1]].map(|address| socket(&network, SENDER, address));
        let tcp = listen.replace("9920", "9921");
        let proxy = transparent(
            &network,
            PROXY,
            "mproxy-reverse",
            &[
                "--udp-listen-addr",
                listen,
                "--tcp-listen-addr",
                &tcp,
                "--multicast-addr",
                group,
                "--udp-output-addr",
                target,
            ],
        );
        let inputs: SocketAddr = input.parse().unwrap();
        let mut stream = network.on(SENDER, || TcpStream::connect((inputs.ip(), 9921)).unwrap());
        for number in 0..3 {
            let text = format!("{number} to the proxy");
            one.send_to(text.as_bytes(), input).unwrap();
            // IPv4 takes nothing in that has the host's own address, as it comes back to the sender's.
            receives(&members[1], &text, &one);
            receives(&receiver, &text, &one);

            let text = format!("{number} to the group");
            stranger.send_to(text.as_bytes(), member_of).unwrap();
            receives(&members[1], &text, &stranger);
            receives(&receiver, &text, &stranger);

            // A byte stream has no sender: this is the proxy's own.
            let text = format!("{number} over TCP\n");
            stream.write_all(text.as_bytes()).unwrap();
            for socket in [&members[1], &receiver] {
                let (came, from) = next(socket);
                assert_eq!((came, from.ip()), (text.clone(), inputs.ip()));
            }
        }
        assert_empty(&receiver);
        ends_without_a_word(proxy);
    }
}

fn two_reverse_proxies_with_a_group_in_between_pass_the_sender_on() {
    needs_transparent();
    let network = Network::new(4);
    for (group, listen, input, target, senders) in [
        ("239.1.2.3%eth0:9918", "0.0.0.0:9920", "10.77.0.2:9920", "10.77.0.4:9930", IPV4.senders),
        ("[ff15::3%eth0]:9918", "[::]:9920", "[fd77::2]:9920", "[fd77::4]:9930", IPV6.senders),
    ] {
        let into = ["--udp-listen-addr", listen, "--multicast-addr", group];
        let out = ["--multicast-addr", group, "--udp-output-addr", target];
        let proxies = [(1, &into), (2, &out)]
            .map(|(host, arguments)| transparent(&network, host, "mproxy-reverse", arguments));
        let receiver = socket(&network, 3, target);
        for (number, address) in senders[..2].iter().enumerate() {
            let sender = socket(&network, SENDER, address);
            let text = format!("{number} from {address}");
            sender.send_to(text.as_bytes(), input).unwrap();
            receives(&receiver, &text, &sender);
        }
        proxies.into_iter().for_each(ends_without_a_word);
    }
}

fn what_comes_over_tcp_leaves_with_the_proxys_own_address() {
    let network = three_hosts();
    let receiver = socket(&network, RECEIVER, "10.77.0.3:9930");
    let sender = socket(&network, SENDER, "10.77.0.1:5000");
    let through = |mut stream: TcpStream, proxy: Running| {
        for number in 0..3 {
            let text = format!("{number} over TCP\n");
            stream.write_all(text.as_bytes()).unwrap();
            let (came, from) = next(&receiver);
            assert_eq!((came, from.ip().to_string()), (text, Network::ipv4(PROXY)));
            sender.send_to(b"over UDP", "10.77.0.2:9920").unwrap();
            receives(&receiver, "over UDP", &sender);
        }
        // While the stream is still open: its end would be worth a warning.
        ends_without_a_word(proxy);
    };
    let common = |option| ["--udp-listen-addr", "0.0.0.0:9920", option, "10.77.0.3:9930"];

    let arguments = [&common(REVERSE.1)[..], &["--tcp-listen-addr", "0.0.0.0:9921"]].concat();
    let proxy = transparent(&network, PROXY, REVERSE.0, &arguments);
    let stream = network.on(SENDER, || TcpStream::connect("10.77.0.2:9921").unwrap());
    through(stream, proxy);

    let listener = network.on(SENDER, || TcpListener::bind("10.77.0.1:9921").unwrap());
    let arguments = [&common(FORWARD.1)[..], &["--tcp-connect-addr", "10.77.0.1:9921"]].concat();
    let proxy = transparent(&network, PROXY, FORWARD.0, &arguments);
    let stream = listener.accept().unwrap().0;
    through(stream, proxy);
}

/// The receiver replies to whom it believes to have heard, and that one hears it.
fn replies_arrive(sender: &UdpSocket, input: &str, receiver: &UdpSocket) {
    for number in 0..5 {
        let text = format!("{number} to {input}");
        sender.send_to(text.as_bytes(), input).unwrap();
        let (came, from) = next(receiver);
        assert_eq!((came.as_str(), from), (text.as_str(), sender.local_addr().unwrap()));
        // More than once, since the proxy's host may have learnt from the first.
        for reply in ["a reply", "another one", "a third"] {
            receiver.send_to(reply.as_bytes(), from).unwrap();
            receives(sender, reply, receiver);
        }
    }
}

fn replies_reach_the_sender_on_the_same_network() {
    let network = three_hosts();
    for endpoints in [&IPV4, &IPV6] {
        let (listen, input, target) = (endpoints.listeners[0], endpoints.inputs[0], endpoints.targets[0]);
        let sender = socket(&network, SENDER, endpoints.senders[0]);
        let receiver = socket(&network, RECEIVER, target);
        for (program, option) in [FORWARD, REVERSE] {
            let proxy = transparent(&network, PROXY, program, &["--udp-listen-addr", listen, option, target]);
            replies_arrive(&sender, input, &receiver);
            ends_without_a_word(proxy);
        }
    }
}

/// A reply comes by the proxy's host then, which has a socket with just that address and port: it must pass
/// the reply on all the same.
fn replies_reach_the_sender_through_the_proxys_host_as_their_router() {
    const ROUTER: usize = 4;
    // The gateways of the sites are the hosts here, next to the router.
    let [from, to] = [1, 3];
    needs_transparent();
    let network = Network::two_sites();
    network.succeeds(ROUTER, "sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"]);
    for (site, host) in [from, to].into_iter().enumerate() {
        let (near, far, interface) =
            (format!("fd8{site}::2/64"), format!("fd8{site}::1/64"), format!("wan{site}"));
        network.succeeds(host, "ip", &["addr", "add", &near, "dev", "wan0", "nodad"]);
        network.succeeds(ROUTER, "ip", &["addr", "add", &far, "dev", &interface, "nodad"]);
        network.succeeds(host, "ip", &["-6", "route", "add", "default", "via", &format!("fd8{site}::1")]);
    }
    let at = |site, last| Network::site_address(site, "wan0", last);
    for (listen, sender, input, target) in [
        (
            "0.0.0.0:9920",
            format!("{}:5000", at(0, 2)),
            format!("{}:9920", at(0, 1)),
            format!("{}:9930", at(1, 2)),
        ),
        ("[::]:9920", "[fd80::2]:5000".into(), "[fd80::1]:9920".into(), "[fd81::2]:9930".into()),
    ] {
        let [sender, receiver] = [(from, sender), (to, target.clone())]
            .map(|(host, address)| network.on(host, || bound(address.parse().unwrap())));
        // Without the proxy, to know that the hosts reach each other at all.
        eventually("a way between the hosts", || {
            sender.set_nonblocking(true).unwrap();
            receiver.send_to(b"there?", sender.local_addr().unwrap()).unwrap();
            let came = sender.recv(&mut [0; 16]).is_ok();
            sender.set_nonblocking(false).unwrap();
            came.then_some(())
        });
        for (program, option) in [FORWARD, REVERSE] {
            let proxy =
                transparent(&network, ROUTER, program, &["--udp-listen-addr", listen, option, &target]);
            // Probes of the route may still arrive.
            eventually("silence", || {
                sender.set_nonblocking(true).unwrap();
                let silent = sender.recv(&mut [0; 16]).is_err();
                sender.set_nonblocking(false).unwrap();
                silent.then_some(())
            });
            replies_arrive(&sender, &input, &receiver);
            ends_without_a_word(proxy);
        }
    }
}

/// It measures only where the first datagram is answered, from where it was sent to: the receiver's host has
/// to pretend that.
fn iperf3_measures_through_a_transparent_forward() {
    needs_tools(&["iperf3", "nft", "socat"]);
    let network = three_hosts();
    let addresses = [PROXY, RECEIVER].map(Network::ipv4);
    let [input, target] = addresses.each_ref().map(|address| format!("{address}:5201"));
    let pretend = format!("add rule ip test out udp sport 5201 ip saddr set {}", addresses[0]);
    let chain = "add chain ip test out { type filter hook output priority -300; }";
    for rule in ["add table ip test", chain, &pretend] {
        network.succeeds(RECEIVER, "nft", &[rule]);
    }
    let run = |host, program: &str, arguments: &[&str]| {
        Running::new(network.command(host, program).args(arguments).stdin(Stdio::null()))
    };
    let server = run(RECEIVER, "iperf3", &["--server", "--one-off", "--forceflush"]);
    eventually("iperf3", || String::from_utf8_lossy(&server.stdout()).contains("listening").then_some(()));
    // iperf3's control connection: TCP, beside the proxy.
    let tcp = run(PROXY, "socat", &["-d", "-d", "TCP-LISTEN:5201,reuseaddr,fork", &format!("TCP:{target}")]);
    tcp.says("listening on");
    let mut proxy =
        transparent(&network, PROXY, FORWARD.0, &["--udp-listen-addr", &input, FORWARD.1, &target]);
    let options = ["--udp", "--length", "1316", "--bitrate", "4M", "--bytes", "1M"];
    let out = network.run(SENDER, "iperf3", &[&["--client", &addresses[0]], &options[..]].concat());
    let printed = String::from_utf8_lossy(&out.stdout);
    let receiver = printed.lines().find(|line| line.ends_with("receiver"));
    assert!(receiver.is_some_and(|line| line.contains("(0%)")), "{printed}");
    proxy.stop();
}

mproxy_tests::main!(
    forward_over_ipv4,
    forward_over_ipv6,
    reverse_with_a_private_channel_over_ipv4,
    reverse_with_a_private_channel_over_ipv6,
    strict_reverse_path_filters_on_the_proxys_host,
    a_sender_with_a_link_local_address,
    a_sender_that_cannot_be_sent_on_costs_the_others_nothing,
    a_channel_on_two_interfaces_brings_a_tcp_client_each_datagram_once,
    a_sender_at_any_address_of_the_proxys_host_is_left_out_and_keeps_its_port,
    without_the_capability_it_says_how_to_get_it_and_ends,
    with_the_capability_an_ordinary_user_may_run_it,
    a_sender_whose_port_is_taken_is_left_out_and_told_once_by_forward,
    a_sender_whose_port_is_taken_is_left_out_and_told_once_by_reverse,
    a_sender_whose_port_is_taken_on_all_addresses_is_left_out_and_told_once,
    what_a_sender_whose_port_is_taken_has_sent_counts_as_errors,
    a_sender_that_would_share_its_port_keeps_its_replies,
    a_target_of_the_other_ip_version_gets_nothing,
    a_flood_of_senders_through_forward_with_room_for_100,
    a_flood_of_senders_through_forward_with_room_for_1,
    a_flood_of_senders_through_forward_with_the_usual_room,
    a_flood_of_senders_through_forward_with_few_descriptors,
    a_flood_of_senders_through_forward_over_ipv6,
    a_flood_of_senders_through_reverse_with_room_for_100,
    a_flood_of_senders_through_reverse_with_the_usual_room,
    a_sender_may_send_from_the_port_on_which_the_proxy_listens,
    a_sender_may_send_to_several_listeners,
    order_holds_within_each_source_through_forward,
    order_holds_within_each_source_through_reverse,
    coalesced_bursts_of_two_senders_through_forward,
    coalesced_bursts_of_two_senders_through_reverse,
    datagrams_of_every_size,
    a_shared_group_and_the_outputs_that_it_feeds_see_the_original_senders,
    two_reverse_proxies_with_a_group_in_between_pass_the_sender_on,
    what_comes_over_tcp_leaves_with_the_proxys_own_address,
    replies_reach_the_sender_on_the_same_network,
    replies_reach_the_sender_through_the_proxys_host_as_their_router,
    iperf3_measures_through_a_transparent_forward,
);
