//! `--linger`: listeners that wait for more after a first datagram.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use mproxy_tests::{Running, assert_empty, connected, datagram, file_with, start, udp};

/// The longest that there is.
#[cfg(unix)]
const LONGEST: Duration = Duration::from_millis(100);

/// A forward that lingers, a socket that sends to it, and its target.
fn forward(linger: &str) -> (Running, UdpSocket, UdpSocket) {
    let (target, address) = udp();
    let arguments = ["--udp-listen-addr", "127.0.0.1:0", "-v", "--linger", linger];
    let running =
        start("mproxy-forward", &[&arguments[..], &["--udp-downstream-addr", &address.to_string()]].concat());
    let sender = connected(running.udp_address("127.0.0.1:0"));
    (running, sender, target)
}

/// The shortest of some tries: a busy machine prolongs each, but not all of them.
fn shortest(mut attempt: impl FnMut() -> Duration) -> Duration {
    (0..5).map(|_| attempt()).min().unwrap()
}

fn datagrams_that_linger_arrive_whole_and_in_order() {
    for linger in ["300us", "2ms", "100ms"] {
        let (mut running, sender, target) = forward(linger);
        // No more of them wait than the smallest receive buffer holds.
        for burst in [1, 2, 90, 1, 40, 7] {
            let payload = |number: usize| vec![u8::try_from(number).unwrap(); number * 37 % 1400];
            for number in 0..burst {
                sender.send(&payload(number)).unwrap();
            }
            for number in 0..burst {
                assert_eq!(datagram(&target), payload(number), "{linger}, {number} of {burst}");
            }
        }
        running.stop();
        assert_empty(&target);
    }
}

fn a_lone_datagram_waits_for_as_long_as_it_is_told() {
    // A bare number is microseconds.
    for (option, linger) in [("60000", 60), ("0.02s", 20)] {
        let linger = Duration::from_millis(linger);
        let waited = shortest(|| {
            let (_running, sender, target) = forward(option);
            let begin = Instant::now();
            sender.send(b"lone").unwrap();
            assert_eq!(datagram(&target), b"lone");
            let waited = begin.elapsed();
            assert!(waited >= linger, "{option}: {waited:?}");
            waited
        });
        assert!(waited < linger + Duration::from_millis(20), "{option}: {waited:?}");
    }
}

/// Windows may tell the next datagram of a receive queue alone.
#[cfg(unix)]
fn what_makes_a_full_send_goes_at_once() {
    let (_running, sender, target) = forward("100ms");
    let waited = shortest(|| {
        let begin = Instant::now();
        for _ in 0..3 {
            sender.send(&vec![b'x'; 30_000]).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(datagram(&target).len(), 30_000);
        }
        begin.elapsed()
    });
    assert!(waited < LONGEST / 2, "{waited:?}");
}

/// Elsewhere an interrupt takes its time.
#[cfg(unix)]
fn a_stop_ends_a_linger_at_once_and_loses_nothing() {
    let waited = shortest(|| {
        let (mut running, sender, target) = forward("100ms");
        let datagrams = [&b"one"[..], b"", b"three"];
        let begin = Instant::now();
        for payload in datagrams {
            sender.send(payload).unwrap();
        }
        running.interrupt();
        for payload in datagrams {
            assert_eq!(datagram(&target), payload);
        }
        let waited = begin.elapsed();
        assert_eq!(running.exit_code(), 0);
        assert_empty(&target);
        waited
    });
    assert!(waited < LONGEST / 2, "{waited:?}");
}

fn a_server_writes_what_lingers_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let arguments =
        ["--listen-addr", "127.0.0.1:0", "-v", "--linger", "5ms", "--path", path.to_str().unwrap()];
    let mut running = start("mproxy-server", &arguments);
    let sender = connected(running.udp_address("127.0.0.1:0"));
    let mut expected = Vec::new();
    for burst in 0..20 {
        for number in 0..burst {
            let line = format!("{burst} {number}\n");
            sender.send(line.as_bytes()).unwrap();
            expected.extend(line.bytes());
        }
        assert!(file_with(&path, expected.len()) == expected, "burst {burst}");
    }
    running.stop();
    assert!(std::fs::read(&path).unwrap() == expected);
}

fn a_tcp_client_gets_what_has_lingered() {
    let arguments =
        ["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", "127.0.0.1:0", "-v", "--linger", "5ms"];
    let mut running = start("mproxy-reverse", &arguments);
    let sender = connected(running.udp_address("127.0.0.1:0"));
    let mut client = TcpStream::connect(running.tcp_address("127.0.0.1:0")).unwrap();
    running.serves_a_client();
    for burst in 1..20 {
        let mut expected = Vec::new();
        for number in 0..burst {
            let line = format!("{burst} {number}\n");
            sender.send(line.as_bytes()).unwrap();
            expected.extend(line.bytes());
        }
        let mut received = vec![0; expected.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == expected, "burst {burst}");
    }
    running.stop();
}

mproxy_tests::main!(
    datagrams_that_linger_arrive_whole_and_in_order,
    a_lone_datagram_waits_for_as_long_as_it_is_told,
    #[cfg(unix)]
    what_makes_a_full_send_goes_at_once,
    #[cfg(unix)]
    a_stop_ends_a_linger_at_once_and_loses_nothing,
    a_server_writes_what_lingers_in_order,
    a_tcp_client_gets_what_has_lingered,
);
