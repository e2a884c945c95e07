//! `mproxy-forward`: UDP listeners and TCP upstreams to many UDP targets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Network, Running, assert_empty, datagram, eventually, loopback, loopback_group, member, needs_ipv6,
    payload, program, run, sender_to, start, udp, udp_on,
};
use socket2::{Domain, Socket, Type};

/// Longer than `auto` waits for the rest of a line.
const LONGER_THAN_PATIENCE: Duration = Duration::from_millis(40);

/// A forward from 127.0.0.1 with these further options, and a socket that sends to it.
fn forward(options: &[&str]) -> (Running, UdpSocket) {
    let mut arguments = vec!["--udp-listen-addr", "127.0.0.1:0", "-v"];
    arguments.extend(options);
    let running = start("mproxy-forward", &arguments);
    let (sender, _) = udp();
    sender.connect(running.udp_address("127.0.0.1:0")).unwrap();
    (running, sender)
}

/// A forward from the TCP server to a target, with the connection accepted.
fn from_tcp(options: &[&str]) -> (Running, TcpListener, TcpStream, UdpSocket) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let (target, address) = udp();
    let (server_address, address) = (server.local_addr().unwrap().to_string(), address.to_string());
    let mut arguments = vec!["--tcp-connect-addr", &server_address, "--udp-downstream-addr", &address];
    arguments.extend(options);
    let running = start("mproxy-forward", &arguments);
    let connection = accept(&server);
    (running, server, connection, target)
}

fn accept(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    let connection = eventually("a connection", || server.accept().ok()).0;
    connection.set_nonblocking(false).unwrap();
    connection.set_nodelay(true).unwrap();
    connection
}

/// A forward feeds new targets at these addresses, and a group.
fn one_listener_feeds(addresses: &[&str]) {
    let group = loopback_group();
    let mut targets = vec![member(&group)];
    let mut options = vec!["--udp-downstream-addr".to_owned(), group];
    for address in addresses {
        let (target, address) = udp_on(address);
        options.extend(["--udp-downstream-addr".to_owned(), address.to_string()]);
        targets.push(target);
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let (mut running, sender) = forward(&options);
    for text in [&b"one\n"[..], b"", b"\0two\xff"] {
        sender.send(text).unwrap();
        for target in &targets {
            assert_eq!(datagram(target), text);
        }
    }
    running.stop();
    targets.iter().for_each(assert_empty);
}

fn one_listener_feeds_unicast_targets_and_a_group() {
    one_listener_feeds(&["127.0.0.1:0", "127.0.0.1:0", &loopback(2)]);
}

fn one_listener_feeds_unicast_targets_of_both_families_and_a_group() {
    needs_ipv6();
    one_listener_feeds(&["127.0.0.1:0", "127.0.0.1:0", &loopback(2), "[::1]:0"]);
}

fn an_ipv6_listener_feeds_targets_of_both_families() {
    needs_ipv6();
    let ((ipv4, to_ipv4), (ipv6, to_ipv6)) = (udp(), udp_on("[::1]:0"));
    let (to_ipv4, to_ipv6) = (to_ipv4.to_string(), to_ipv6.to_string());
    let mut running = start(
        "mproxy-forward",
        &[
            "--udp-listen-addr=[::1]:0",
            "--udp-downstream-addr",
            &to_ipv4,
            "--udp-downstream-addr",
            &to_ipv6,
            "-v",
        ],
    );
    let (sender, _) = udp_on("[::1]:0");
    sender.connect(running.udp_address("[::1]:0")).unwrap();
    sender.send(b"hello").unwrap();
    assert_eq!((datagram(&ipv4), datagram(&ipv6)), (b"hello".to_vec(), b"hello".to_vec()));
    // The largest that IPv6 carries, which IPv4 does not.
    let largest = vec![b'x'; 65_527];
    sender.send(&largest).unwrap();
    assert_eq!(datagram(&ipv6), largest);
    // The next one goes to both again.
    sender.send(b"after").unwrap();
    assert_eq!((datagram(&ipv4), datagram(&ipv6)), (b"after".to_vec(), b"after".to_vec()));
    running.stop();
}

fn several_listeners_feed_the_same_targets_and_each_keeps_its_order() {
    let ((one, to_one), (two, to_two)) = (udp(), udp());
    let (to_one, to_two) = (to_one.to_string(), to_two.to_string());
    let (group, other) = (loopback_group(), loopback(2));
    let mut running = start(
        "mproxy-forward",
        &[
            "-v",
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--udp-listen-addr",
            &other,
            "--udp-listen-addr",
            &group,
            "--udp-downstream-addr",
            &to_one,
            "--udp-downstream-addr",
            &to_two,
        ],
    );
    let senders = [udp().0, udp().0, sender_to(&group)];
    senders[0].connect(running.udp_address("127.0.0.1:0")).unwrap();
    senders[1].connect(running.udp_address(&other)).unwrap();
    running.listens(&group);
    let mut next = [[0; 3]; 2];
    for number in 0..300 {
        for (i, sender) in senders.iter().enumerate() {
            sender.send(format!("{i} {number}").as_bytes()).unwrap();
        }
        for (target, next) in [&one, &two].into_iter().zip(&mut next) {
            for _ in &senders {
                let text = String::from_utf8(datagram(target)).unwrap();
                let (i, number) = text.split_once(' ').unwrap();
                let next = &mut next[i.parse::<usize>().unwrap()];
                assert_eq!(number.parse::<i32>().unwrap(), *next);
                *next += 1;
            }
        }
    }
    assert_eq!(next, [[300; 3]; 2]);
    running.stop();
}

fn datagrams_of_any_size_go_through_one_for_one_unaltered_and_in_order() {
    let ((one, to_one), (two, to_two)) = (udp(), udp());
    let (mut running, sender) = forward(&[
        "--udp-downstream-addr",
        &to_one.to_string(),
        "--udp-downstream-addr",
        &to_two.to_string(),
    ]);
    for size in [0, 1, 1452, 0, 1472, 1473, 9000, 65_507, 1] {
        let payload: Vec<u8> = (0..size).map(|i| u8::try_from((i * 31 + size) % 251).unwrap()).collect();
        sender.send(&payload).unwrap();
        for target in [&one, &two] {
            let got = datagram(target);
            assert_eq!(got.len(), size);
            assert!(got == payload, "{size} bytes were altered");
        }
    }
    running.stop();
    assert_empty(&one);
    assert_empty(&two);
}

/// A client that cuts a file into equal datagrams sends them coalesced where the system can do that.
fn what_comes_coalesced_goes_on_datagram_by_datagram() {
    let (target, address) = udp();
    let (mut last, _) = forward(&["--udp-downstream-addr", &address.to_string()]);
    let to_last = last.udp_address("127.0.0.1:0").to_string();
    let (mut first, _) = forward(&["--udp-downstream-addr", &to_last]);
    let to_first = first.udp_address("127.0.0.1:0").to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    for size in [1, 7, 188, 1316, 1452, 8192, 32_753, 32_754, 65_507] {
        // Twice as many as go together, and a shorter one; no more than any buffer holds.
        let len = (size * 150).min(130_000) + size / 2;
        let content: Vec<u8> = (0..len).map(|i| u8::try_from((i * 31 + i / 251) % 251).unwrap()).collect();
        std::fs::write(&file, &content).unwrap();
        let size_text = size.to_string();
        let sent = run(
            "mproxy-client",
            &[
                "--path",
                file.to_str().unwrap(),
                "--framing",
                "blocks",
                "--datagram-size",
                &size_text,
                "--server-addr",
                &to_first,
            ],
            b"",
        );
        assert_eq!((sent.code, sent.stderr.as_str()), (0, ""));
        for block in content.chunks(size) {
            let got = datagram(&target);
            assert_eq!(got.len(), block.len(), "datagrams of {size} bytes");
            assert!(got == block, "{size} bytes were altered");
        }
    }
    for forward in [&mut first, &mut last] {
        forward.stop();
    }
    assert_empty(&target);
}

#[cfg(target_os = "linux")]
fn threads_divide_the_senders_and_each_keeps_its_order() {
    let (target, address) = udp();
    let (mut running, probe) = forward(&["--threads", "4", "--udp-downstream-addr", &address.to_string()]);
    let senders: Vec<_> = (0..16).map(|_| udp().0).collect();
    for sender in &senders {
        sender.connect(probe.peer_addr().unwrap()).unwrap();
    }
    let mut next = [0; 16];
    let mut from = std::collections::HashSet::new();
    for round in 0..50 {
        for (i, sender) in senders.iter().enumerate() {
            for number in 4 * round..4 * round + 4 {
                sender.send(format!("{i} {number}").as_bytes()).unwrap();
            }
        }
        for _ in 0..4 * senders.len() {
            let (datagram, source) = mproxy_tests::datagram_from(&target);
            from.insert(source);
            let text = std::str::from_utf8(&datagram).unwrap();
            let (i, number) = text.split_once(' ').unwrap();
            let next = &mut next[i.parse::<usize>().unwrap()];
            assert_eq!(number.parse::<i32>().unwrap(), *next, "sender {i}");
            *next += 1;
        }
    }
    assert_eq!(next, [200; 16]);
    // Each thread has a socket of its own to the target; that all senders fall to one happens once in 4^15.
    assert!(from.len() > 1 && from.len() <= 4, "{} threads", from.len());
    running.stop();
    assert_eq!(running.listeners(), 1);
}

fn ten_thousand_datagrams_arrive_in_order() {
    const DATAGRAMS: u32 = 10_000;
    const UNDER_WAY: u32 = 64;
    let (target, address) = udp();
    let (mut running, sender) = forward(&["--udp-downstream-addr", &address.to_string()]);
    for number in 0..DATAGRAMS + UNDER_WAY {
        if number < DATAGRAMS {
            sender.send(&number.to_be_bytes()).unwrap();
        }
        // No more under way than any buffer holds.
        if let Some(number) = number.checked_sub(UNDER_WAY) {
            assert_eq!(datagram(&target), number.to_be_bytes());
        }
    }
    running.stop();
    assert_empty(&target);
}

fn a_refused_target_costs_the_others_nothing_and_is_spoken_of_twice() {
    let ((one, to_one), (two, to_two)) = (udp(), udp());
    // On an address of its own, so that nobody else is given the port meanwhile.
    let (late, to_late) = udp_on(&loopback(45));
    drop(late);
    let (mut running, sender) = forward(&[
        "--udp-downstream-addr",
        &to_one.to_string(),
        "--udp-downstream-addr",
        &to_late.to_string(),
        "--udp-downstream-addr",
        &to_two.to_string(),
    ]);
    let mut number = 0u32;
    let send = |number: &mut u32| {
        sender.send(&number.to_be_bytes()).unwrap();
        for target in [&one, &two] {
            assert_eq!(datagram(target), number.to_be_bytes());
        }
        *number += 1;
    };
    for _ in 0..200 {
        send(&mut number);
    }
    let refused = format!("cannot send to {to_late}: ");
    running.says(&refused);
    assert_eq!(running.count(&refused), 1, "{}", running.messages());

    let (late, _) = udp_on(&to_late.to_string());
    eventually("the recovery", || {
        send(&mut number);
        sleep(Duration::from_millis(20));
        running.has_recovered(&to_late.to_string()).then_some(())
    });
    // Datagrams arrive from here on, and there is no more to say.
    while late.set_nonblocking(true).is_ok() && late.recv(&mut [0; 16]).is_ok() {}
    late.set_nonblocking(false).unwrap();
    for _ in 0..200 {
        send(&mut number);
        assert_eq!(datagram(&late), (number - 1).to_be_bytes());
    }
    running.stop();
    assert_eq!(running.warnings().len(), 2, "{}", running.messages());
}

fn a_target_that_nobody_hears_costs_the_others_nothing() {
    let ((one, to_one), (two, to_two)) = (udp(), udp());
    let (late, to_late) = udp_on(&loopback(45));
    drop(late);
    let targets = [to_one, to_late, to_two].map(|target| target.to_string());
    let options = targets.each_ref().map(|target| ["--udp-downstream-addr", target]).concat();
    let (mut running, sender) = forward(&options);
    let send = |number: u32| {
        sender.send(&number.to_be_bytes()).unwrap();
        for target in [&one, &two] {
            assert_eq!(datagram(target), number.to_be_bytes());
        }
    };
    (0..200).for_each(send);
    let (late, _) = udp_on(&to_late.to_string());
    late.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut number = 200;
    eventually("a datagram", || {
        send(number);
        number += 1;
        late.recv(&mut [0; 4]).ok()
    });
    running.stop();
    assert_empty(&one);
}

fn a_target_without_route_costs_the_others_nothing() {
    let network = Network::loopback();
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input");
    std::fs::write(&input, "hello\n").unwrap();
    let server = network.start(0, "mproxy-server", &["--path", "-", "--listen-addr", "127.0.0.1:0", "-v"]);
    let server_address = server.udp_address("127.0.0.1:0").to_string();
    let mut forward = network.start(
        0,
        "mproxy-forward",
        &[
            "--udp-listen-addr",
            "127.0.0.1:0",
            "-v",
            "--udp-downstream-addr",
            "10.1.2.3:9",
            "--udp-downstream-addr",
            "[fd77::99]:9",
            "--udp-downstream-addr",
            &server_address,
        ],
    );
    let address = forward.udp_address("127.0.0.1:0").to_string();
    for run in 1..4 {
        let path = input.to_str().unwrap();
        let mut client = network.start(0, "mproxy-client", &["--path", path, "--server-addr", &address]);
        assert_eq!(client.exit_code(), 0);
        server.writes(run * 6);
    }
    for target in ["10.1.2.3:9", "[fd77::99]:9"] {
        let warning = format!("cannot send to {target}: ");
        assert_eq!(forward.count(&warning), 1, "{}", forward.messages());
    }
    forward.stop();
    assert_eq!(server.stdout(), b"hello\nhello\nhello\n");
}

fn a_name_sends_to_the_first_address_that_can_be_used() {
    let network = Network::loopback();
    network.set_names(0, "::1 both.test\n127.0.0.1 both.test\n");
    let (target, address) = network.on(0, udp);
    // ::1 comes first, and nobody is there.
    let target_address = format!("both.test:{}", address.port());
    let running = network.start(
        0,
        "mproxy-forward",
        &["--udp-listen-addr", "127.0.0.1:0", "-v", "--udp-downstream-addr", &target_address],
    );
    let (sender, _) = network.on(0, udp);
    sender.connect(running.udp_address("127.0.0.1:0")).unwrap();
    assert_eq!(running.target_address(&target_address).ip(), Ipv6Addr::LOCALHOST);
    for number in 0..100u32 {
        sender.send(&number.to_be_bytes()).unwrap();
        assert_eq!(datagram(&target), number.to_be_bytes());
    }
}

fn a_listener_on_a_name_hears_all_of_its_addresses() {
    let network = Network::loopback();
    network.set_names(0, "::1 both.test\n127.0.0.1 both.test\n");
    let (target, address) = network.on(0, udp);
    let mut running = network.start(
        0,
        "mproxy-forward",
        &["--udp-listen-addr", "both.test:0", "-v", "--udp-downstream-addr", &address.to_string()],
    );
    let ((ipv4, _), (ipv6, _)) = network.on(0, || (udp(), udp_on("[::1]:0")));
    for (from, on) in [(ipv4, "127.0.0.1:"), (ipv6, "[::1]:")] {
        let to = running.udp_address_on("both.test:0", on);
        from.send_to(on.as_bytes(), to).unwrap();
        assert_eq!(datagram(&target), on.as_bytes());
    }
    running.stop();
}

fn a_listener_on_localhost_hears_ipv4() {
    let (target, address) = udp();
    let to = address.to_string();
    let mut running =
        start("mproxy-forward", &["--udp-listen-addr", "localhost:0", "--udp-downstream-addr", &to, "-v"]);
    let listener = running.udp_address_on("localhost:0", "127.0.0.1:");
    udp().0.send_to(b"hello", listener).unwrap();
    assert_eq!(datagram(&target), b"hello");
    running.stop();
}

fn what_was_received_is_on_standard_output_with_tee() {
    let (target, address) = udp();
    let (mut running, sender) = forward(&["--tee", "--udp-downstream-addr", &address.to_string()]);
    let mut sent = Vec::new();
    for number in 0..100 {
        let text = format!("{number}\n\n\0");
        sender.send(text.as_bytes()).unwrap();
        assert_eq!(datagram(&target), text.as_bytes());
        sent.extend(text.into_bytes());
    }
    running.stop();
    assert_eq!(running.stdout(), sent);
}

fn the_bytes_of_a_tcp_server_become_datagrams_at_every_target() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let ((one, to_one), (two, to_two)) = (udp(), udp());
    let running = start(
        "mproxy-forward",
        &[
            "--tcp-connect-addr",
            &server.local_addr().unwrap().to_string(),
            "--udp-downstream-addr",
            &to_one.to_string(),
            "--udp-downstream-addr",
            &to_two.to_string(),
            "-t",
        ],
    );
    let mut connection = accept(&server);
    let mut sent = Vec::new();
    for number in 0..50usize {
        // Binary, and longer than a datagram may be by default.
        let piece: Vec<u8> = (0..20_000).map(|i| u8::try_from((i * 7 + number) % 256).unwrap()).collect();
        connection.write_all(&piece).unwrap();
        for target in [&one, &two] {
            let mut got = Vec::new();
            while got.len() < piece.len() {
                let payload = datagram(target);
                assert!(!payload.is_empty() && payload.len() <= 8192, "{} bytes", payload.len());
                got.extend(payload);
            }
            assert!(got == piece, "piece {number} was altered");
        }
        sent.extend(piece);
    }
    assert!(running.writes(sent.len()) == sent);
}

fn a_tcp_server_on_ipv6_is_an_upstream_too() {
    needs_ipv6();
    let server = TcpListener::bind("[::1]:0").unwrap();
    let (target, address) = udp_on("[::1]:0");
    let (from, to) = (server.local_addr().unwrap().to_string(), address.to_string());
    let _running = start("mproxy-forward", &["--tcp-connect-addr", &from, "--udp-downstream-addr", &to]);
    accept(&server).write_all(b"hello\n").unwrap();
    assert_eq!(datagram(&target), b"hello\n");
}

fn an_upstream_with_tee_only_needs_no_target() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = server.local_addr().unwrap().to_string();
    let mut running = start("mproxy-forward", &["--tcp-connect-addr", &from, "--tee"]);
    accept(&server).write_all(b"one\ntwo").unwrap();
    assert_eq!(running.writes(7), b"one\ntwo");
    running.stop();
}

fn udp_and_tcp_inputs_reach_the_same_target() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let (target, address) = udp();
    let from = server.local_addr().unwrap().to_string();
    let (mut running, sender) =
        forward(&["--tcp-connect-addr", &from, "--udp-downstream-addr", &address.to_string()]);
    let mut connection = accept(&server);
    for _ in 0..20 {
        sender.send(b"udp").unwrap();
        assert_eq!(datagram(&target), b"udp");
        connection.write_all(b"tcp\n").unwrap();
        assert_eq!(datagram(&target), b"tcp\n");
    }
    running.stop();
}

fn auto_framing_ends_datagrams_at_newlines_and_holds_nothing_back() {
    let (_running, _server, mut connection, target) = from_tcp(&[]);
    connection.write_all(b"one\ntwo\nunfin").unwrap();
    assert_eq!(datagram(&target), b"one\ntwo\n");
    assert_eq!(datagram(&target), b"unfin");
    connection.write_all(b"ished\n\n\n").unwrap();
    assert_eq!(datagram(&target), b"ished\n\n\n");
}

fn lines_framing_tears_no_line_of_two_upstreams_that_dribble() {
    let (servers, (target, address)) = (["127.0.0.1:0"; 2].map(|a| TcpListener::bind(a).unwrap()), udp());
    let [one, two] = servers.each_ref().map(|server| server.local_addr().unwrap().to_string());
    let mut running = start(
        "mproxy-forward",
        &[
            "--framing",
            "lines",
            "--tcp-connect-addr",
            &one,
            "--tcp-connect-addr",
            &two,
            "--udp-downstream-addr",
            &address.to_string(),
        ],
    );
    let mut connections = servers.each_ref().map(accept);
    for number in 0..10 {
        for (i, connection) in connections.iter_mut().enumerate() {
            write!(connection, "server {i}, ").unwrap();
        }
        sleep(LONGER_THAN_PATIENCE);
        for connection in &mut connections {
            writeln!(connection, "line {number}").unwrap();
        }
        let mut lines = [datagram(&target), datagram(&target)];
        lines.sort();
        let expected = [0, 1].map(|i| format!("server {i}, line {number}\n").into_bytes());
        assert_eq!(lines, expected);
    }
    running.stop();
}

fn blocks_framing_gives_exact_blocks_and_a_short_last_one() {
    let (_running, _server, mut connection, target) =
        from_tcp(&["--framing", "blocks", "--datagram-size", "4"]);
    for piece in [&b"a\n"[..], b"cdefg", b"hij"] {
        connection.write_all(piece).unwrap();
        sleep(LONGER_THAN_PATIENCE);
    }
    drop(connection);
    for block in [&b"a\ncd"[..], b"efgh", b"ij"] {
        assert_eq!(datagram(&target), block);
    }
}

fn raw_framing_sends_each_read_as_it_is_cut_only_at_the_size() {
    let (_running, _server, mut connection, target) = from_tcp(&["--framing", "raw", "--datagram-size", "4"]);
    connection.write_all(b"a\nb").unwrap();
    assert_eq!(datagram(&target), b"a\nb");
    connection.write_all(b"c").unwrap();
    assert_eq!(datagram(&target), b"c");
    connection.write_all(b"defghij").unwrap();
    assert_eq!(payload(&target, 7), b"defghij");
}

fn an_unfinished_line_at_the_end_of_a_connection_arrives_and_stays_apart_from_the_next() {
    let (_running, server, mut connection, target) = from_tcp(&["--framing", "lines"]);
    connection.write_all(b"whole\ntail").unwrap();
    assert_eq!(datagram(&target), b"whole\n");
    drop(connection);
    assert_eq!(datagram(&target), b"tail");
    accept(&server).write_all(b"next\n").unwrap();
    assert_eq!(datagram(&target), b"next\n");
}

fn a_lost_server_is_connected_to_again_later_and_later_and_spoken_of_twice_each_time() {
    let (mut running, server, mut connection, target) = from_tcp(&[]);
    let address = server.local_addr().unwrap();
    let mut least = Duration::from_millis(500);
    for outage in 1..4 {
        connection.write_all(b"before\n").unwrap();
        assert_eq!(datagram(&target), b"before\n");
        let since = Instant::now();
        drop(connection);
        connection = accept(&server);
        assert!(since.elapsed() >= least, "outage {outage}: again after {:?}", since.elapsed());
        least *= 2;
        connection.write_all(b"after\n").unwrap();
        assert_eq!(datagram(&target), b"after\n");
        eventually("two messages", || (running.warnings().len() == 2 * outage).then_some(()));
    }
    running.stop();
    let messages = running.messages();
    for text in [format!("{address} has closed the connection"), format!("connected to {address} again")] {
        assert_eq!(messages.matches(&text).count(), 3, "{messages}");
    }
    assert_eq!(running.warnings().len(), 6, "{messages}");
}

fn an_upstream_that_is_not_there_at_the_start_is_tried_until_it_is() {
    // Bound but not listening: it refuses, and nobody else can have the port.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let server_address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    let (target, address) = udp();
    let mut running = start(
        "mproxy-forward",
        &["--tcp-connect-addr", &server_address, "--udp-downstream-addr", &address.to_string()],
    );
    let refused = format!("cannot connect to {server_address}: ");
    running.says(&refused);
    // More attempts, none of which says it again: between two of them the program sleeps.
    let before = running.wakes();
    eventually("more attempts", || {
        before.zip(running.wakes()).is_none_or(|(before, now)| now >= before + 2).then_some(())
    });
    socket.listen(8).unwrap();
    let mut connection = accept(&socket.into());
    connection.write_all(b"here\n").unwrap();
    assert_eq!(datagram(&target), b"here\n");
    running.says(&format!("connected to {server_address} again"));
    running.stop();
    assert_eq!(running.count(&refused), 1, "{}", running.messages());
}

fn a_reset_connection_is_made_again() {
    let (running, server, connection, target) = from_tcp(&[]);
    socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
    drop(connection);
    running.says("connecting again until it works");
    accept(&server).write_all(b"here\n").unwrap();
    assert_eq!(datagram(&target), b"here\n");
}

fn one_upstream_that_is_down_does_not_hold_up_another() {
    let down = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    down.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let down_address = down.local_addr().unwrap().as_socket().unwrap().to_string();
    let (running, _server, mut connection, target) = from_tcp(&["--tcp-connect-addr", &down_address]);
    running.says(&format!("cannot connect to {down_address}: "));
    for _ in 0..100 {
        connection.write_all(b"line\n").unwrap();
        assert_eq!(datagram(&target), b"line\n");
    }
}

fn a_servers_name_is_looked_up_again_for_each_connection() {
    let network = Network::loopback();
    network.set_names(0, "127.46.0.1 server.test\n");
    let (first, second, (target, address)) = network.on(0, || {
        let first = TcpListener::bind("127.46.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        (first, TcpListener::bind(("127.46.0.2", port)).unwrap(), udp())
    });
    let upstream = format!("server.test:{}", first.local_addr().unwrap().port());
    let _running = network.start(
        0,
        "mproxy-forward",
        &["--tcp-connect-addr", &upstream, "--udp-downstream-addr", &address.to_string()],
    );
    let connection = accept(&first);
    network.set_names(0, "127.46.0.2 server.test\n");
    drop(connection);
    accept(&second).write_all(b"moved\n").unwrap();
    assert_eq!(datagram(&target), b"moved\n");
}

fn what_the_udp_socket_holds_at_a_stop_is_delivered() {
    let (target, address) = udp();
    let (mut running, sender) = forward(&["--udp-downstream-addr", &address.to_string()]);
    // It runs, and is not still starting.
    sender.send(b"first").unwrap();
    assert_eq!(datagram(&target), b"first");
    running.hold();
    let datagrams: Vec<_> = (0..100).map(|number: usize| vec![b'x'; number % 7 * 50]).collect();
    for payload in &datagrams {
        sender.send(payload).unwrap();
    }
    running.interrupt();
    running.release();
    for payload in &datagrams {
        assert_eq!(&datagram(&target), payload);
    }
    assert_eq!(running.exit_code(), 0);
    assert_empty(&target);
}

fn what_the_tcp_socket_holds_at_a_stop_is_delivered() {
    for framing in ["auto", "lines", "blocks", "raw"] {
        let (mut running, _server, mut connection, target) =
            from_tcp(&["--framing", framing, "--datagram-size", "8192"]);
        // It runs, and is not still starting.
        let block = vec![b'\n'; 8192];
        connection.write_all(&block).unwrap();
        assert!(payload(&target, block.len()) == block);
        running.hold();
        let mut text = Vec::new();
        for number in 0..6000 {
            writeln!(text, "{number}").unwrap();
        }
        text.extend(b"unfinished");
        connection.write_all(&text).unwrap();
        running.interrupt();
        running.release();
        assert!(payload(&target, text.len()) == text, "{framing}");
        assert_eq!(running.exit_code(), 0);
        assert_empty(&target);
    }
}

fn a_stop_ends_a_forward_that_waits_for_anything() {
    let (mut idle, _server, _connection, _target) = from_tcp(&[]);
    idle.stop();

    let (mut backing_off, server, connection, _target) = from_tcp(&[]);
    drop((server, connection));
    backing_off.says("connecting again until it works");
    backing_off.stop();

    // A server that answers no connection: its backlog is full.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let server_address = full.local_addr().unwrap().as_socket().unwrap();
    let first = TcpStream::connect(server_address).unwrap();
    let (target, address) = udp();
    let (mut connecting, sender) = forward(&[
        "--tcp-connect-addr",
        &server_address.to_string(),
        "--udp-downstream-addr",
        &address.to_string(),
    ]);
    sender.send(b"meanwhile").unwrap();
    assert_eq!(datagram(&target), b"meanwhile");
    connecting.stop();
    drop(first);
}

fn a_stop_ends_a_forward_whose_standard_output_nobody_takes() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(program("mproxy-forward"));
    command.args(["--udp-listen-addr", "127.0.0.1:0", "--tee", "-v"]).stdin(Stdio::null());
    let mut running = Running::spawn(command.stdout(writer));
    let (sender, _) = udp();
    sender.connect(running.udp_address("127.0.0.1:0")).unwrap();
    for _ in 0..100 {
        sender.send(&[b'x'; 8000]).unwrap();
    }
    running.stop();
}

fn a_stop_ends_a_forward_under_fire() {
    let (_target, address) = udp();
    let (mut running, sender) = forward(&["--udp-downstream-addr", &address.to_string()]);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = sender.send(&[b'x'; 1000]);
            }
        });
        let since = Instant::now();
        running.interrupt();
        let status = running.wait();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(status.code(), Some(0));
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    });
}

mproxy_tests::main!(
    one_listener_feeds_unicast_targets_and_a_group,
    one_listener_feeds_unicast_targets_of_both_families_and_a_group,
    an_ipv6_listener_feeds_targets_of_both_families,
    several_listeners_feed_the_same_targets_and_each_keeps_its_order,
    datagrams_of_any_size_go_through_one_for_one_unaltered_and_in_order,
    what_comes_coalesced_goes_on_datagram_by_datagram,
    #[cfg(target_os = "linux")]
    threads_divide_the_senders_and_each_keeps_its_order,
    ten_thousand_datagrams_arrive_in_order,
    a_refused_target_costs_the_others_nothing_and_is_spoken_of_twice,
    a_target_that_nobody_hears_costs_the_others_nothing,
    a_target_without_route_costs_the_others_nothing,
    a_name_sends_to_the_first_address_that_can_be_used,
    a_listener_on_a_name_hears_all_of_its_addresses,
    a_listener_on_localhost_hears_ipv4,
    what_was_received_is_on_standard_output_with_tee,
    the_bytes_of_a_tcp_server_become_datagrams_at_every_target,
    a_tcp_server_on_ipv6_is_an_upstream_too,
    an_upstream_with_tee_only_needs_no_target,
    udp_and_tcp_inputs_reach_the_same_target,
    auto_framing_ends_datagrams_at_newlines_and_holds_nothing_back,
    lines_framing_tears_no_line_of_two_upstreams_that_dribble,
    blocks_framing_gives_exact_blocks_and_a_short_last_one,
    raw_framing_sends_each_read_as_it_is_cut_only_at_the_size,
    an_unfinished_line_at_the_end_of_a_connection_arrives_and_stays_apart_from_the_next,
    a_lost_server_is_connected_to_again_later_and_later_and_spoken_of_twice_each_time,
    an_upstream_that_is_not_there_at_the_start_is_tried_until_it_is,
    a_reset_connection_is_made_again,
    one_upstream_that_is_down_does_not_hold_up_another,
    a_servers_name_is_looked_up_again_for_each_connection,
    what_the_udp_socket_holds_at_a_stop_is_delivered,
    what_the_tcp_socket_holds_at_a_stop_is_delivered,
    a_stop_ends_a_forward_that_waits_for_anything,
    a_stop_ends_a_forward_whose_standard_output_nobody_takes,
    a_stop_ends_a_forward_under_fire,
);
