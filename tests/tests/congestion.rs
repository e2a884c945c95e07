//! Targets without room: one that is switched off, or on a slow link, or behind a full device queue, costs the others
//! nothing, and what it misses is counted and told. A client waits for the slowest. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use mproxy_forward::Forward;
use mproxy_tests::{
    Feed, Network, PATIENCE, Running, Tally, TcpReader, connect, datagram, datagram_from, eventually,
    force_receive_buffer, path_text, read_up_to, temporary_file, udp_on,
};

/// A link of 100 Mbit/s with a queue that has room for more than any send buffer: that one is full first.
const SLOW: &str = "rate 100mbit burst 20000 limit 100000000";

/// A link of 100 Mbit/s with a short queue: that one is full first.
const CONGESTED: &str = "rate 100mbit burst 100000 limit 300000";

/// Feeds of 100 MB.
fn large_datagrams() -> Feed {
    Feed::new(12_500, |_| 8000)
}

fn small_datagrams() -> Feed {
    Feed::new(100_000, |_| 1000)
}

/// Host 0 with host 1 on a link, and host 2 on another one.
fn two_links() -> Network {
    Network::snooping(&[&[0, 1], &[0, 2]])
}

/// A listener on a host that has room for the portions of [`pump`].
fn listener(network: &Network, host: usize, address: &str) -> UdpSocket {
    let (socket, _) = network.on(host, || udp_on(address));
    force_receive_buffer(&socket, 64 << 20);
    socket
}

/// Sends a feed to the address from host 0, no more at a time than buffers hold, while the listener gets all of it in
/// order.
#[track_caller]
fn pump(network: &Network, feed: &Feed, to: &str, listener: &UdpSocket) {
    let sender = network.on(0, || UdpSocket::bind("127.0.0.1:0").unwrap());
    pump_from(&sender, feed, to, listener);
}

#[track_caller]
fn pump_from(sender: &UdpSocket, feed: &Feed, to: &str, listener: &UdpSocket) {
    let portion = if feed.datagrams()[0].len() > 1000 { 32 } else { 128 };
    let mut slowest = Duration::ZERO;
    for datagrams in feed.datagrams().chunks(portion) {
        let begin = Instant::now();
        for datagram in datagrams {
            sender.send_to(datagram, to).unwrap();
        }
        for expected in datagrams {
            assert!(datagram(listener) == *expected, "another datagram than the next one came");
        }
        slowest = slowest.max(begin.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "a pause of {slowest:?}");
}

/// How many datagrams a target has missed, as the messages of a program that has ended tell it.
fn dropped(messages: &str, target: &str) -> usize {
    let told = messages.lines().rfind(|line| line.contains(target) && line.contains(" datagrams dropped "));
    let told = told.unwrap_or_else(|| panic!("nothing is told of {target}: {messages}"));
    let number = told.split(" datagrams dropped ").next().and_then(|text| text.rsplit(' ').next());
    number.unwrap().parse().unwrap()
}

/// A forwarder on host 0 from 127.0.0.1 to these targets.
fn forward(network: &Network, targets: &[&str]) -> Running {
    forward_with(network, &[], targets)
}

fn forward_with(network: &Network, options: &[&str], targets: &[&str]) -> Running {
    let mut arguments = [&["--udp-listen-addr", "127.0.0.1:9900", "-v"], options].concat();
    for target in targets {
        arguments.extend(["--udp-downstream-addr", target]);
    }
    let running = network.start(0, "mproxy-forward", &arguments);
    running.listens("127.0.0.1:9900");
    running
}

fn a_target_that_is_switched_off_costs_the_others_nothing() {
    let network = Network::new(3);
    network.cut_off(2);
    for (good, dead) in [
        (format!("{}:9920", Network::ipv4(1)), format!("{}:9920", Network::ipv4(2))),
        (format!("[{}]:9920", Network::ipv6(1)), format!("[{}]:9920", Network::ipv6(2))),
    ] {
        let receiver = listener(&network, 1, &good);
        let mut running = forward(&network, &[&dead, &good]);
        for feed in [large_datagrams(), small_datagrams()] {
            pump(&network, &feed, "127.0.0.1:9900", &receiver);
        }
        running.stop();
    }
}

fn a_target_on_a_slow_link_misses_whole_datagrams_and_costs_the_others_nothing() {
    for link in [SLOW, CONGESTED] {
        let network = two_links();
        network.limit_queue(0, "eth1", link);
        for (good, slow) in [
            (format!("{}:9920", Network::ipv4_on(0, 1)), format!("{}:9920", Network::ipv4_on(1, 2))),
            (format!("[{}]:9920", Network::ipv6_on(0, 1)), format!("[{}]:9920", Network::ipv6_on(1, 2))),
        ] {
            for feed in [large_datagrams(), small_datagrams()] {
                let receiver = listener(&network, 1, &good);
                let mut running = forward(&network, &[&slow, &good]);
                pump(&network, &feed, "127.0.0.1:9900", &receiver);
                running.stop();
                let dropped = dropped(&running.messages(), &slow);
                assert!((1..feed.len()).contains(&dropped), "{dropped}");
            }
        }
    }
}

fn what_a_target_got_and_what_it_missed_is_all_that_came() {
    let network = two_links();
    network.limit_queue(0, "eth1", SLOW);
    for (good, slow) in [
        (format!("{}:9920", Network::ipv4_on(0, 1)), format!("{}:9920", Network::ipv4_on(1, 2))),
        (format!("[{}]:9920", Network::ipv6_on(0, 1)), format!("[{}]:9920", Network::ipv6_on(1, 2))),
    ] {
        for feed in [large_datagrams(), small_datagrams()] {
            let [receiver, slow_receiver] =
                [(1, &good), (2, &slow)].map(|(host, address)| listener(&network, host, address));
            let forward = Forward::new().udp_listen("127.0.0.1:9900").target(&slow).target(&good);
            let handle = network.on(0, || forward.spawn().unwrap());
            pump(&network, &feed, "127.0.0.1:9900", &receiver);
            handle.stop();
            let stats = handle.join().unwrap();
            let of = |name: &str| stats.endpoints.iter().find(|endpoint| endpoint.endpoint == name).unwrap();
            let (counted, all) = (of(&good), feed.len() as u64);
            assert_eq!((counted.datagrams, counted.missed, counted.errors), (all, 0, 0));
            let counted = of(&slow);
            assert_eq!((counted.datagrams + counted.missed, counted.errors), (all, 0));
            assert_eq!(counted.bytes + counted.missed_bytes, feed.bytes() as u64);
            assert!(counted.missed > 0 && stats.missed() == counted.missed);
            for _ in 0..counted.datagrams {
                datagram(&slow_receiver);
            }
        }
    }
}

fn a_group_reaches_its_members_beside_an_interface_that_is_stuck() {
    let network = two_links();
    // A hundred datagrams a second.
    network.limit_queue(0, "eth1", "rate 1mbit burst 20000 limit 100000000");
    let index = network.interface_index(1, "eth0");
    for group in ["239.1.2.3:9920", "[ff15::1234]:9920"] {
        let address: SocketAddr = group.parse().unwrap();
        let member = listener(&network, 1, group);
        match address.ip() {
            IpAddr::V4(group) => member.join_multicast_v4(&group, &Network::ipv4_on(0, 1).parse().unwrap()),
            IpAddr::V6(group) => member.join_multicast_v6(&group, index),
        }
        .unwrap();
        let reported = match address.ip() {
            IpAddr::V4(_) => "239.1.2.3",
            IpAddr::V6(_) => "ff15::1234",
        };
        network.switched(0, 1, reported, true);
        let mut running = forward_with(&network, &["--interface", "eth1", "--interface", "eth0"], &[group]);
        pump(&network, &Feed::new(2500, |_| 8000), "127.0.0.1:9900", &member);
        pump(&network, &Feed::new(20_000, |_| 1000), "127.0.0.1:9900", &member);
        running.stop();
        assert!(dropped(&running.messages(), &format!("{group} on eth1")) > 0);
    }
}

fn a_transparent_target_on_a_slow_link_costs_the_others_nothing() {
    let network = Network::snooping(&[&[0, 1, 3], &[0, 2]]);
    network.limit_queue(0, "eth1", SLOW);
    // It has no way back to the sender, and need not.
    network.succeeds(
        2,
        "sysctl",
        &["-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth1.rp_filter=0"],
    );
    let (good, slow) =
        (format!("{}:9920", Network::ipv4_on(0, 1)), format!("{}:9920", Network::ipv4_on(1, 2)));
    let [receiver, slow_receiver] =
        [(1, &good), (2, &slow)].map(|(host, address)| listener(&network, host, address));
    let input = format!("{}:9900", Network::ipv4_on(0, 0));
    let mut running = network.start(
        0,
        "mproxy-forward",
        &[
            "--udp-listen-addr",
            &input,
            "--transparent",
            "-v",
            "--udp-downstream-addr",
            &slow,
            "--udp-downstream-addr",
            &good,
        ],
    );
    running.listens(&input);
    let sender = network.on(3, || udp_on(&format!("{}:0", Network::ipv4_on(0, 3)))).0;
    let feed = large_datagrams();
    pump_from(&sender, &feed, &input, &receiver);
    running.stop();
    let dropped = dropped(&running.messages(), &slow);
    assert!(dropped > 0);
    for _ in dropped..feed.len() {
        assert_eq!(datagram_from(&slow_receiver).1, sender.local_addr().unwrap());
    }
}

fn clients_of_reverse_get_everything_beside_a_udp_output_on_a_slow_link() {
    let network = two_links();
    network.limit_queue(0, "eth1", SLOW);
    let slow = format!("{}:9920", Network::ipv4_on(1, 2));
    // One input is received by the thread of the output; of two each sends by itself.
    for inputs in [&["127.0.0.1:9900"][..], &["127.0.0.1:9900", "127.0.0.1:9901"]] {
        let mut arguments = vec!["--tcp-output-addr", "0.0.0.0:9930", "--udp-output-addr", &slow, "-v"];
        for input in inputs {
            arguments.extend(["--udp-listen-addr", input]);
        }
        let mut running = network.start(0, "mproxy-reverse", &arguments);
        running.tcp_address("0.0.0.0:9930");
        for input in inputs {
            running.listens(input);
        }
        let output = format!("{}:9930", Network::ipv4_on(0, 0)).parse().unwrap();
        let stream = network.on(1, || connect(output, None));
        running.serves(stream.local_addr().unwrap());
        let feed = large_datagrams();
        let mut readers = [TcpReader::new(stream, Tally::new(&feed, "auto", 0))];
        let sender = network.on(0, || UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut sent = 0;
        for datagrams in feed.datagrams().chunks(32) {
            for datagram in datagrams {
                sender.send_to(datagram, inputs[0]).unwrap();
            }
            sent += datagrams.len();
            read_up_to(sent, &mut readers);
        }
        running.stop();
        assert!(dropped(&running.messages(), &slow) > 0);
        assert!(readers[0].tally.resumed.is_empty());
    }
}

/// A client on host 0 that sends a feed of datagrams of one size to these targets, to its end.
fn send_file(network: &Network, feed: &Feed, options: &[&str], targets: &[&str]) -> Running {
    let (_directory, path) = temporary_file(&feed.datagrams().concat());
    let size = feed.datagrams()[0].len().to_string();
    let mut arguments = vec!["--path", path_text(&path), "--framing", "blocks", "--datagram-size", &size];
    arguments.extend(options);
    for target in targets {
        arguments.extend(["--server-addr", target]);
    }
    let mut client = network.start(0, "mproxy-client", &arguments);
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    client
}

/// Receives the feed, all of it and in order.
#[track_caller]
fn receive_all(listener: &UdpSocket, feed: &Feed) {
    for (number, expected) in feed.datagrams().iter().enumerate() {
        assert!(datagram(listener) == *expected, "another datagram than number {number} came");
    }
}

fn a_client_waits_for_the_slowest_target() {
    for (link, feeds) in [
        (SLOW, vec![Feed::new(2500, |_| 8000), Feed::new(20_000, |_| 1000)]),
        (CONGESTED, vec![Feed::new(20_000, |_| 1000)]),
    ] {
        let network = two_links();
        network.limit_queue(0, "eth1", link);
        for addresses in [
            [
                (1, format!("{}:9920", Network::ipv4_on(0, 1))),
                (2, format!("{}:9920", Network::ipv4_on(1, 2))),
            ],
            [
                (1, format!("[{}]:9920", Network::ipv6_on(0, 1))),
                (2, format!("[{}]:9920", Network::ipv6_on(1, 2))),
            ],
        ] {
            let targets = addresses.each_ref().map(|(_, address)| address.as_str());
            for feed in &feeds {
                let listeners =
                    addresses.each_ref().map(|(host, address)| listener(&network, *host, address));
                let client = thread::scope(|scope| {
                    for listener in &listeners {
                        scope.spawn(|| receive_all(listener, feed));
                    }
                    send_file(&network, feed, &[], &targets)
                });
                assert_eq!(client.messages(), "", "{link}");
            }
        }
    }
}

fn a_client_goes_on_without_a_target_that_takes_nothing() {
    let network = Network::new(2);
    for (size, nobody) in [(8000, 100), (1000, 101)] {
        for [good, dead] in [
            [1, nobody].map(|host| format!("{}:9920", Network::ipv4(host))),
            [1, nobody].map(|host| format!("[{}]:9920", Network::ipv6(host))),
        ] {
            let feed = Feed::new(100_000_000 / size, |_| size);
            let receiver = listener(&network, 1, &good);
            let begin = Instant::now();
            let client = thread::scope(|scope| {
                scope.spawn(|| receive_all(&receiver, &feed));
                send_file(&network, &feed, &["--rate", "1G"], &[&dead, &good])
            });
            client.says(&format!(
                "cannot send to {dead}: it has taken nothing for a second; going on without it"
            ));
            assert!(begin.elapsed() < PATIENCE, "it took {:?}", begin.elapsed());
        }
    }
}

/// The system keeps some datagrams while ARP or neighbour discovery is not answered, and drops the oldest.
fn a_client_loses_nothing_before_a_host_has_answered_arp() {
    let network = Network::new(3);
    for address in [Network::ipv4(2), format!("[{}]", Network::ipv6(2))].map(|ip| format!("{ip}:9920")) {
        // Asked for ten times a second.
        let family = if address.starts_with('[') { "ipv6" } else { "ipv4" };
        for setting in ["retrans_time_ms=100", "mcast_solicit=100"] {
            network.succeeds(0, "sysctl", &["-qw", &format!("net.{family}.neigh.eth0.{setting}")]);
        }
        network.ip(0, "neigh flush dev eth0");
        network.cut_off(2);
        let listener = listener(&network, 2, &address);
        let feed = Feed::new(20_000, |_| 1000);
        let client = thread::scope(|scope| {
            scope.spawn(|| receive_all(&listener, &feed));
            scope.spawn(|| {
                eventually("a question for the host", || {
                    network.succeeds(0, "ip", &["neigh", "show"]).contains("INCOMPLETE").then_some(())
                });
                network.restore(2);
            });
            send_file(&network, &feed, &[], &[&address])
        });
        assert_eq!(client.messages(), "");
    }
}

mproxy_tests::main!(
    a_target_that_is_switched_off_costs_the_others_nothing,
    a_target_on_a_slow_link_misses_whole_datagrams_and_costs_the_others_nothing,
    what_a_target_got_and_what_it_missed_is_all_that_came,
    a_group_reaches_its_members_beside_an_interface_that_is_stuck,
    a_transparent_target_on_a_slow_link_costs_the_others_nothing,
    clients_of_reverse_get_everything_beside_a_udp_output_on_a_slow_link,
    a_client_waits_for_the_slowest_target,
    a_client_goes_on_without_a_target_that_takes_nothing,
    a_client_loses_nothing_before_a_host_has_answered_arp,
);
