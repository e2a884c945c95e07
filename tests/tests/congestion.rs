//! Targets without room: one that is switched off, or on a slow link, or behind a full device queue, costs the others
//! nothing, and what it misses is counted and told. A client waits for the slowest. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Feed, Network, PATIENCE, Running, datagram, force_receive_buffer, path_text, temporary_file, udp_on,
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

/// Sends a feed to the address from a host, no more at a time than buffers hold, while the listener gets all of it in
/// order.
#[track_caller]
fn pump(network: &Network, feed: &Feed, to: &str, listener: &UdpSocket) {
    let sender = network.on(0, || UdpSocket::bind("127.0.0.1:0").unwrap());
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
    let mut arguments = vec!["--udp-listen-addr", "127.0.0.1:9900", "-v"];
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
    let network = Network::new(3);
    network.cut_off(2);
    for [good, dead] in [
        [1, 2].map(|host| format!("{}:9920", Network::ipv4(host))),
        [1, 2].map(|host| format!("[{}]:9920", Network::ipv6(host))),
    ] {
        for feed in [large_datagrams(), small_datagrams()] {
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

mproxy_tests::main!(
    a_target_that_is_switched_off_costs_the_others_nothing,
    a_target_on_a_slow_link_misses_whole_datagrams_and_costs_the_others_nothing,
    a_client_waits_for_the_slowest_target,
    a_client_goes_on_without_a_target_that_takes_nothing,
);
