//! `mproxy-reverse`: UDP and TCP inputs through the channel to TCP clients and UDP endpoints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Network, PATIENCE, Running, datagram, eventually, loopback, loopback_group, member, needs_ipv6,
    sender_to, start, udp, udp_on,
};
use socket2::{Domain, SockRef, Socket, Type};

/// A proxy with a UDP input and an output for TCP clients, both on 127.0.0.1.
struct Proxy {
    running: Running,
    sender: UdpSocket,
    output: SocketAddr,
}

impl Proxy {
    fn new(options: &[&str]) -> Self {
        let mut arguments =
            vec!["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", "127.0.0.1:0", "-v"];
        arguments.extend(options);
        Self::of(start("mproxy-reverse", &arguments))
    }

    fn of(running: Running) -> Self {
        let (sender, _) = udp();
        sender.connect(running.udp_address("127.0.0.1:0")).unwrap();
        let output = running.tcp_address("127.0.0.1:0");
        Self { running, sender, output }
    }

    fn client(&self) -> TcpStream {
        client(&self.running, self.output)
    }

    fn clients<const N: usize>(&self) -> [TcpStream; N] {
        std::array::from_fn(|_| self.client())
    }

    /// A client that has little room for what it does not read.
    fn narrow_client(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.output.into()).unwrap();
        served(&self.running, socket.into())
    }

    fn send(&self, payload: &[u8]) {
        self.sender.send(payload).unwrap();
    }

    /// Sends until the messages contain the text.
    fn send_until_it_says(&self, text: &str) {
        eventually(&format!("'{text}'"), || {
            self.send(b"is anyone gone?\n");
            sleep(Duration::from_millis(10));
            self.running.messages().contains(text).then_some(())
        });
    }
}

/// A client that is served: from here on it gets everything.
fn client(running: &Running, output: SocketAddr) -> TcpStream {
    served(running, TcpStream::connect(output).unwrap())
}

fn served(running: &Running, stream: TcpStream) -> TcpStream {
    running.serves(stream.local_addr().unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection to a TCP input.
fn input(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

#[track_caller]
fn assert_reads(mut stream: &TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("not everything came");
    assert!(got == expected, "{} came", String::from_utf8_lossy(&got));
}

/// Everything up to the end of the stream.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    got
}

/// A line of 901 bytes that shows if it was torn or altered.
fn line(number: usize) -> String {
    format!("{number:08} ").repeat(100) + "\n"
}

/// Sends these lines while the client reads them, with no more on the way than any buffer holds.
fn pump(proxy: &Proxy, client: &TcpStream, numbers: std::ops::Range<usize>) {
    const UNDER_WAY: usize = 32;
    for number in numbers.start..numbers.end + UNDER_WAY {
        if number < numbers.end {
            proxy.send(line(number).as_bytes());
        }
        if number >= numbers.start + UNDER_WAY {
            assert_reads(client, line(number - UNDER_WAY).as_bytes());
        }
    }
}

/// Whether no thread of the program wakes while nothing happens.
#[track_caller]
fn assert_asleep(running: &Running) {
    // Events from before may still come; a program that polls never sees a quiet second.
    eventually("a second without a wake-up", || {
        let before = running.wakes();
        sleep(Duration::from_secs(1));
        (running.wakes() == before).then_some(())
    });
}

/// Whether the program uses next to no processor time while nothing happens.
#[cfg(unix)]
#[track_caller]
fn assert_idle(running: &Running) {
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
    };
    let before = ticks();
    sleep(Duration::from_secs(1));
    let used = ticks() - before;
    // A thread that spins uses 100 of them.
    assert!(used <= 5, "{used} ticks in a second");
}

fn udp_reaches_every_tcp_client_byte_for_byte_and_in_order() {
    let mut proxy = Proxy::new(&[]);
    let clients: [TcpStream; 4] = proxy.clients();
    let mut sent = Vec::new();
    for number in 0..1000 {
        let payload = match number % 4 {
            0 => line(number).into_bytes(),
            1 => vec![],
            2 => vec![0, 255, b'\n', b'\n'],
            _ => vec![u8::try_from(number % 256).unwrap(); 5000],
        };
        proxy.send(&payload);
        assert_reads(&clients[0], &payload);
        sent.extend(payload);
    }
    for client in &clients[1..] {
        assert_reads(client, &sent);
    }
    proxy.running.stop();
    for client in &clients {
        assert_eq!(rest(client), b"");
    }
}

fn the_largest_datagram_reaches_tcp_and_udp_outputs() {
    let (output, address) = udp();
    let proxy = Proxy::new(&["--udp-output-addr", &address.to_string()]);
    let client = proxy.client();
    for size in [65_507, 0, 1, 9000, 1473, 1472, 1452] {
        let payload: Vec<u8> = (0..size).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
        proxy.send(&payload);
        assert!(datagram(&output) == payload, "{size} bytes were altered");
        assert_reads(&client, &payload);
    }
}

fn tcp_inputs_reach_tcp_clients_without_a_torn_line() {
    let output = loopback(2);
    let running = start(
        "mproxy-reverse",
        &["-v", "--framing", "lines", "--tcp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", &output],
    );
    let client = client(&running, running.tcp_address(&output));
    let mut inputs = [running.tcp_address("127.0.0.1:0"); 2].map(input);
    let mut lines = BufReader::new(&client).lines();
    for number in 0..10 {
        for (i, input) in inputs.iter_mut().enumerate() {
            write!(input, "input {i}, ").unwrap();
        }
        // Longer than `auto` would wait.
        sleep(Duration::from_millis(40));
        for input in &mut inputs {
            writeln!(input, "line {number}").unwrap();
        }
        let mut pair = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
        pair.sort();
        assert_eq!(pair, [0, 1].map(|i| format!("input {i}, line {number}")));
    }
}

fn lines_framing_ends_each_datagram_of_a_tcp_client_with_a_newline() {
    let (output, address) = udp();
    let proxy = Proxy::new(&["--framing=lines", "--udp-output-addr", &address.to_string()]);
    let client = proxy.client();
    for (payload, line) in [(&b"a"[..], &b"a\n"[..]), (b"b\n", b"b\n"), (b"c\nd", b"c\nd\n")] {
        proxy.send(payload);
        assert_reads(&client, line);
        // A UDP output has no need of one.
        assert_eq!(datagram(&output), payload);
    }
}

fn blocks_framing_cuts_tcp_inputs_into_exact_datagrams() {
    let (output, address) = udp();
    let running = start(
        "mproxy-reverse",
        &[
            "-v",
            "--framing",
            "blocks",
            "--datagram-size",
            "4",
            "--tcp-listen-addr",
            "127.0.0.1:0",
            "--udp-output-addr",
            &address.to_string(),
        ],
    );
    let mut input = input(running.tcp_address("127.0.0.1:0"));
    for piece in [&b"a\n"[..], b"cdefg", b"hij"] {
        input.write_all(piece).unwrap();
        // Longer than `auto` would wait.
        sleep(Duration::from_millis(40));
    }
    drop(input);
    for block in [&b"a\ncd"[..], b"efgh", b"ij"] {
        assert_eq!(datagram(&output), block);
    }
}

fn every_address_option_can_be_repeated() {
    let ((udp_one, to_one), (udp_two, to_two)) = (udp(), udp());
    let groups = [loopback_group(), loopback_group()];
    let members = groups.clone().map(|group| member(&group));
    let [udp_inputs, tcp_inputs, tcp_outputs] = [[1, 2], [3, 4], [5, 6]].map(|two| two.map(loopback));
    let mut arguments = vec!["-v".to_owned()];
    for (option, values) in [
        ("--udp-listen-addr", [&udp_inputs[0], &udp_inputs[1]]),
        ("--tcp-listen-addr", [&tcp_inputs[0], &tcp_inputs[1]]),
        ("--tcp-output-addr", [&tcp_outputs[0], &tcp_outputs[1]]),
        ("--udp-output-addr", [&to_one.to_string(), &to_two.to_string()]),
        ("--multicast-addr", [&groups[0], &groups[1]]),
    ] {
        for value in values {
            arguments.extend([option.to_owned(), value.to_owned()]);
        }
    }
    let mut running = start("mproxy-reverse", &arguments);
    let clients = tcp_outputs.map(|a| client(&running, running.tcp_address(&a)));
    let mut inputs = tcp_inputs.map(|a| input(running.tcp_address(&a)));
    let (sender, _) = udp();
    let everywhere = |text: &[u8]| {
        for client in &clients {
            assert_reads(client, text);
        }
        for output in [&udp_one, &udp_two, &members[0], &members[1]] {
            assert_eq!(datagram(output), text);
        }
    };
    for address in udp_inputs {
        sender.send_to(address.as_bytes(), running.udp_address(&address)).unwrap();
        everywhere(address.as_bytes());
    }
    for (input, text) in inputs.iter_mut().zip(["one\n", "two\n"]) {
        input.write_all(text.as_bytes()).unwrap();
        everywhere(text.as_bytes());
    }
    running.stop();
}

fn ipv6_inputs_and_outputs() {
    needs_ipv6();
    let (output, address) = udp_on("[::1]:0");
    let mut running = start(
        "mproxy-reverse",
        &[
            "-v",
            "--udp-listen-addr",
            "[::1]:0",
            "--tcp-output-addr",
            "[::1]:0",
            "--tcp-output-addr",
            "127.0.0.1:0",
            "--udp-output-addr",
            &address.to_string(),
        ],
    );
    let clients = ["[::1]:0", "127.0.0.1:0"].map(|a| client(&running, running.tcp_address(a)));
    udp_on("[::1]:0").0.send_to(b"hello", running.udp_address("[::1]:0")).unwrap();
    assert_eq!(datagram(&output), b"hello");
    for client in &clients {
        assert_reads(client, b"hello");
    }
    running.stop();
}

fn standard_output_gets_everything_with_tee() {
    let mut proxy = Proxy::new(&["--tee"]);
    let client = proxy.client();
    pump(&proxy, &client, 0..500);
    proxy.running.stop();
    assert!(proxy.running.stdout() == (0..500).map(line).collect::<String>().into_bytes());
}

fn an_input_with_tee_only_needs_no_other_output() {
    let mut running = start("mproxy-reverse", &["-v", "-t", "--udp-listen-addr", "127.0.0.1:0"]);
    udp().0.send_to(b"hello", running.udp_address("127.0.0.1:0")).unwrap();
    assert_eq!(running.writes(5), b"hello");
    running.stop();
}

fn what_others_send_to_a_chosen_group_is_handed_out() {
    let group = loopback_group();
    let (output, address) = udp();
    let mut running = start(
        "mproxy-reverse",
        &[
            "-v",
            "--tee",
            "--multicast-addr",
            &group,
            "--tcp-output-addr",
            "127.0.0.1:0",
            "--udp-output-addr",
            &address.to_string(),
        ],
    );
    let clients = [running.tcp_address("127.0.0.1:0"); 2].map(|a| client(&running, a));
    let sender = sender_to(&group);
    for text in [&b"one"[..], b"two\n"] {
        sender.send(text).unwrap();
        assert_eq!(datagram(&output), text);
        for client in &clients {
            assert_reads(client, text);
        }
    }
    assert_eq!(running.writes(7), b"onetwo\n");
    running.stop();
}

fn inputs_alone_feed_a_chosen_group() {
    let group = loopback_group();
    let member = member(&group);
    let mut running = start(
        "mproxy-reverse",
        &[
            "-v",
            "--multicast-addr",
            &group,
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--tcp-listen-addr",
            "127.0.0.1:0",
        ],
    );
    udp().0.send_to(b"udp", running.udp_address("127.0.0.1:0")).unwrap();
    assert_eq!(datagram(&member), b"udp");
    input(running.tcp_address("127.0.0.1:0")).write_all(b"tcp\n").unwrap();
    assert_eq!(datagram(&member), b"tcp\n");
    assert_eq!(running.channel().ttl, Some(1));
    running.stop();
}

fn a_chosen_group_joins_inputs_outputs_and_strangers() {
    let group = loopback_group();
    let member = member(&group);
    // Two proxies, of which one has the inputs and the other the outputs, and a third with both.
    let inputs = start(
        "mproxy-reverse",
        &["-v", "--multicast-addr", &group, "--udp-listen-addr", "127.0.0.1:0", "--ttl", "0"],
    );
    let outputs =
        start("mproxy-reverse", &["-v", "--multicast-addr", &group, "--tcp-output-addr", "127.0.0.1:0"]);
    let both = Proxy::new(&["--multicast-addr", &group]);
    let clients = [client(&outputs, outputs.tcp_address("127.0.0.1:0")), both.client()];
    let everywhere = |text: &[u8]| {
        assert_eq!(datagram(&member), text);
        for client in &clients {
            assert_reads(client, text);
        }
    };
    udp().0.send_to(b"from the first", inputs.udp_address("127.0.0.1:0")).unwrap();
    everywhere(b"from the first");
    both.send(b"from the third");
    everywhere(b"from the third");
    sender_to(&group).send(b"from a stranger").unwrap();
    everywhere(b"from a stranger");
}

fn private_channels_side_by_side_never_mix() {
    // With two listeners, one output needs a channel.
    let second = loopback(2);
    let proxies: Vec<_> = (0..4).map(|_| Proxy::new(&["--udp-listen-addr", &second])).collect();
    let clients: Vec<_> = proxies.iter().map(Proxy::client).collect();
    for number in 0..100 {
        for (i, proxy) in proxies.iter().enumerate() {
            proxy.send(format!("{i} {number}\n").as_bytes());
        }
        for (i, client) in clients.iter().enumerate() {
            assert_reads(client, format!("{i} {number}\n").as_bytes());
        }
    }
    for (mut proxy, client) in proxies.into_iter().zip(&clients) {
        assert_eq!(proxy.running.private_channels().len(), 1, "{}", proxy.running.messages());
        proxy.running.stop();
        assert_eq!(rest(client), b"");
    }
}

fn it_works_on_a_host_that_has_only_loopback_with_and_without_ipv6() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    let text: String = (0..100).map(line).collect();
    std::fs::write(&path, &text).unwrap();
    let path = path.to_str().unwrap();
    for without_ipv6 in [false, true] {
        let network = Network::loopback();
        if without_ipv6 {
            network.without_ipv6(0);
            assert_eq!(network.succeeds(0, "ip", &["-6", "addr"]), "");
        }
        let mut proxy = network.start(
            0,
            "mproxy-reverse",
            &["-v", "--udp-listen-addr", "localhost:0", "--tcp-output-addr", "localhost:0"],
        );
        let output = proxy.tcp_address("localhost:0").to_string();
        let clients =
            [0, 1].map(|_| network.start(0, "mproxy-forward", &["--tcp-connect-addr", &output, "-t"]));
        eventually("two clients", || (proxy.served_peers() == 2).then_some(()));
        let address = proxy.udp_address("localhost:0").to_string();
        let mut sender = network.start(0, "mproxy-client", &["--path", path, "--server-addr", &address]);
        assert_eq!(sender.exit_code(), 0, "{}", sender.messages());
        for client in &clients {
            assert!(client.writes(text.len()) == text.as_bytes());
        }
        proxy.stop();
    }
}

fn many_clients_each_get_every_byte_of_a_paced_stream() {
    // Fewer where system calls are slow, as under an emulator, which would take minutes; and macOS lets this process
    // open 256 descriptors.
    const CLIENTS: usize = if cfg!(target_os = "linux") { 200 } else { 20 };
    const LINES: usize = 2400;
    const UNDER_WAY: usize = 50 * 901;
    let mut proxy = Proxy::new(&[]);
    let clients: [TcpStream; CLIENTS] = proxy.clients();
    let expected: String = (0..LINES).map(line).collect();
    let received: [AtomicUsize; CLIENTS] = std::array::from_fn(|_| AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (mut client, received) in clients.iter().zip(&received) {
            let expected = expected.as_bytes();
            let read = move || {
                let (mut buffer, mut len) = (vec![0; 16_384], 0);
                loop {
                    let more = client.read(&mut buffer).unwrap();
                    if more == 0 {
                        break;
                    }
                    assert!(expected[len..].starts_with(&buffer[..more]), "altered after {len} bytes");
                    len += more;
                    received.store(len, Ordering::Relaxed);
                }
                assert_eq!(len, expected.len());
            };
            std::thread::Builder::new().stack_size(65_536).spawn_scoped(scope, read).unwrap();
        }
        for (number, payload) in expected.as_bytes().chunks(901).enumerate() {
            proxy.send(payload);
            // As fast as the slowest client takes it.
            eventually("the slowest client", || {
                let slowest = received.iter().map(|len| len.load(Ordering::Relaxed)).min().unwrap();
                (slowest + UNDER_WAY > number * 901).then_some(())
            });
        }
        // The end of the stream ends the readers.
        proxy.running.stop();
    });
}

fn a_slow_client_holds_up_nobody_and_loses_whole_lines_only() {
    const LINES: usize = 9000;
    let proxy = Proxy::new(&["--client-buffer", "256k"]);
    let (slow, fast) = (proxy.narrow_client(), proxy.client());
    // More than all buffers on the way to the slow one hold.
    pump(&proxy, &fast, 0..LINES);

    let done = AtomicBool::new(false);
    let mut numbers = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                proxy.send(b"END\n");
                sleep(Duration::from_millis(5));
            }
        });
        for text in BufReader::new(&slow).lines() {
            let text = text.unwrap() + "\n";
            if text == "END\n" {
                break;
            }
            let number: usize = text[..8].parse().unwrap();
            assert!(text == line(number), "a torn line: {text}");
            numbers.push(number);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order");
    assert!(numbers.len() > 100 && numbers.len() < LINES, "{} lines", numbers.len());
    assert_eq!(numbers[..100], (0..100).collect::<Vec<_>>());
}

fn a_client_that_reads_slowly_but_steadily_is_kept() {
    let proxy = Proxy::new(&[]);
    let mut client = proxy.client();
    let (end, mut read) = (Instant::now() + Duration::from_secs(14), 0);
    let mut buffer = [0; 2000];
    // More comes all the time than the client takes, so that its buffers are always full.
    while Instant::now() < end {
        for _ in 0..120 {
            proxy.send(&[b'x'; 8000]);
        }
        read += client.read(&mut buffer).unwrap();
        sleep(Duration::from_millis(100));
    }
    let messages = proxy.running.messages();
    assert!(read > 0 && !messages.contains("dropped"), "{messages}");
}

fn a_client_that_takes_nothing_for_the_stall_timeout_is_dropped() {
    let mut proxy = Proxy::new(&["--max-clients", "2", "--client-buffer", "256k", "--stall-timeout", "2s"]);
    let (stalled, other) = (proxy.narrow_client(), proxy.client());
    let since = Instant::now();
    pump(&proxy, &other, 0..6000);
    let address = stalled.local_addr().unwrap();
    let client = format!("TCP client {address}");
    let dropped =
        format!("{client} dropped: cannot send to {address}: it has taken nothing for 2s (--stall-timeout)");
    let mut number = 6000;
    eventually("the drop", || {
        pump(&proxy, &other, number..number + 10);
        number += 10;
        sleep(Duration::from_millis(50));
        proxy.running.messages().contains(&dropped).then_some(())
    });
    assert!(since.elapsed() >= Duration::from_secs(2), "after {:?}", since.elapsed());
    // Its permit is free, and the other one has missed nothing.
    let next = proxy.client();
    proxy.send(b"next\n");
    assert_reads(&next, b"next\n");
    assert_reads(&other, b"next\n");
    proxy.running.stop();
    // It was told before that it was missing something, and nobody else was.
    let (slow, mut others) = (format!("{client} is too slow: "), proxy.running.warnings());
    assert!(others.iter().any(|line| line.contains(&slow)), "{others:?}");
    others.retain(|line| !line.contains(&slow));
    assert!(others.len() == 1 && others[0].contains(&dropped), "{others:?}");
}

fn what_a_client_sends_is_ignored() {
    let (output, address) = udp();
    let mut proxy = Proxy::new(&["--tee", "--udp-output-addr", &address.to_string()]);
    let mut clients: [TcpStream; 2] = proxy.clients();
    for number in 0..20 {
        // More than the buffers on the way hold, if nobody reads it.
        clients[0].write_all(&vec![b'!'; 500_000]).unwrap();
        proxy.send(line(number).as_bytes());
        assert_eq!(datagram(&output), line(number).as_bytes());
        for client in &clients {
            assert_reads(client, line(number).as_bytes());
        }
    }
    proxy.running.stop();
    for client in &clients {
        assert_eq!(rest(client), b"");
    }
    assert_eq!(proxy.running.stdout().len(), 20 * 901);
}

fn a_client_that_only_shuts_down_its_sending_side_still_gets_everything() {
    let mut proxy = Proxy::new(&[]);
    let (half_closed, other) = (proxy.client(), proxy.client());
    half_closed.shutdown(Shutdown::Write).unwrap();
    pump(&proxy, &other, 0..50);
    // That it has nothing more to say costs nothing.
    assert_asleep(&proxy.running);
    pump(&proxy, &other, 50..100);
    assert_reads(&half_closed, (0..100).map(line).collect::<String>().as_bytes());
    proxy.running.stop();
    assert_eq!(rest(&half_closed), b"");
}

fn half_closed_clients_give_way_to_new_ones_the_oldest_fin_first() {
    let mut proxy = Proxy::new(&["--max-clients", "4"]);
    let [open, later, earlier, idle]: [TcpStream; 4] = proxy.clients();
    for client in [&earlier, &later] {
        client.shutdown(Shutdown::Write).unwrap();
        // The proxy has seen it, and has nothing else to do.
        assert_asleep(&proxy.running);
    }
    let all_read = |clients: &[&TcpStream], text: &[u8]| {
        proxy.send(text);
        for client in clients {
            assert_reads(client, text);
        }
    };
    all_read(&[&open, &later, &earlier, &idle], b"all are served\n");
    let first = proxy.client();
    assert_eq!(rest(&earlier), b"");
    all_read(&[&open, &later, &idle, &first], b"the first FIN has given way\n");
    let second = proxy.client();
    assert_eq!(rest(&later), b"");
    // Nobody else does.
    let refused = TcpStream::connect(proxy.output).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(rest(&refused), b"");
    all_read(&[&open, &idle, &first, &second], b"those that are open stay\n");
    // The places of those that gave way were not given back, too: one ends, and one gets in.
    first.shutdown(Shutdown::Write).unwrap();
    assert_asleep(&proxy.running);
    let third = proxy.client();
    all_read(&[&open, &idle, &second, &third], b"four as ever\n");
    proxy.running.stop();
    assert_eq!(proxy.running.count("4 are served already (--max-clients)"), 1);
}

#[cfg(unix)]
fn half_closed_clients_give_way_when_descriptors_are_short() {
    let mut proxy = with_descriptors(40);
    let open = proxy.client();
    let connect = || {
        let client = TcpStream::connect(proxy.output).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    };
    let _half_closed: Vec<_> = (0..40).map(|_| connect()).collect();
    let mut served = Vec::new();
    for _ in 0..20 {
        let client = connect();
        proxy.running.serves(client.local_addr().unwrap());
        served.push(client);
    }
    pump(&proxy, &open, 0..20);
    proxy.running.stop();
}

fn a_client_that_is_gone_is_freed_at_the_next_datagrams() {
    let proxy = Proxy::new(&["--max-clients", "1"]);
    for _ in 0..3 {
        let client = proxy.client();
        let address = client.local_addr().unwrap();
        drop(client);
        proxy.send_until_it_says(&format!("TCP client {address} has "));
    }
}

fn a_client_that_resets_is_freed_at_once_on_an_idle_channel() {
    let proxy = Proxy::new(&[]);
    for half_closed in [false, true] {
        let client = proxy.client();
        let address = client.local_addr().unwrap();
        if half_closed {
            client.shutdown(Shutdown::Write).unwrap();
        }
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        proxy.running.says(&format!("TCP client {address} has "));
    }
}

fn a_tcp_input_at_its_end_is_done_and_does_not_spin() {
    let output = loopback(2);
    let mut running =
        start("mproxy-reverse", &["-v", "--tcp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", &output]);
    let client = client(&running, running.tcp_address(&output));
    let address = running.tcp_address("127.0.0.1:0");
    let mut inputs: Vec<_> = (0..5).map(|_| input(address)).collect();
    for input in &mut inputs {
        input.write_all(b"unfinished").unwrap();
        input.shutdown(Shutdown::Write).unwrap();
        assert_reads(&client, b"unfinished");
        running.says(&format!("TCP input {} has ended", input.local_addr().unwrap()));
        // The proxy has closed its side too.
        assert_eq!(rest(input), b"");
    }
    assert_asleep(&running);
    input(address).write_all(b"one more\n").unwrap();
    assert_reads(&client, b"one more\n");
    running.stop();
}

fn an_idle_proxy_uses_no_processor_time() {
    let output = loopback(2);
    let mut running = start(
        "mproxy-reverse",
        &[
            "-v",
            "--tee",
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--tcp-listen-addr",
            "127.0.0.1:0",
            "--tcp-output-addr",
            &output,
            "--udp-output-addr",
            "127.0.0.1:9",
        ],
    );
    let clients = [running.tcp_address(&output); 10].map(|a| client(&running, a));
    let inputs = [running.tcp_address("127.0.0.1:0"); 10].map(input);
    eventually("the inputs", || (running.count("TCP input") == 10).then_some(()));
    assert_asleep(&running);
    drop((clients, inputs));
    assert_asleep(&running);
    running.stop();
}

fn one_client_more_than_allowed_is_closed_at_once_with_one_warning() {
    let mut proxy = Proxy::new(&["--max-clients", "2"]);
    let [one, two] = proxy.clients();
    let warning = "(--max-clients)";
    for _ in 0..3 {
        let refused = TcpStream::connect(proxy.output).unwrap();
        refused.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(rest(&refused), b"");
    }
    proxy.running.says(warning);
    pump(&proxy, &one, 0..20);
    assert_reads(&two, (0..20).map(line).collect::<String>().as_bytes());

    let address = two.local_addr().unwrap();
    drop(two);
    proxy.send_until_it_says(&format!("TCP client {address} has "));
    let three = proxy.client();
    proxy.send(b"welcome\n");
    assert_reads(&three, b"welcome\n");
    proxy.running.stop();
    assert_eq!(proxy.running.count(warning), 1, "{}", proxy.running.messages());
}

#[cfg(unix)]
fn a_lack_of_descriptors_neither_ends_nor_spins_it() {
    // More than the proxy has at rest, one for each client.
    const LIMIT: u32 = 24;
    let mut proxy = with_descriptors(LIMIT);
    let first = proxy.client();
    let mut others: Vec<_> = (0..29).map(|_| TcpStream::connect(proxy.output).unwrap()).collect();
    let warnings = |proxy: &Proxy| proxy.running.warnings().len();
    proxy.running.says(&format!("needs 1088 descriptors, and the limit is {LIMIT} (ulimit -n)"));
    eventually("a warning", || (warnings(&proxy) > 1).then_some(()));
    assert_idle(&proxy.running);
    assert_eq!(warnings(&proxy), 2, "{}", proxy.running.messages());

    // Clients that are served miss nothing.
    others.retain(|stream| {
        let connected = format!("TCP client {} connected", stream.local_addr().unwrap());
        proxy.running.messages().contains(&connected)
    });
    assert!(!others.is_empty(), "{}", proxy.running.messages());
    pump(&proxy, &first, 0..20);
    let expected = (0..20).map(line).collect::<String>();
    for stream in &others {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_reads(stream, expected.as_bytes());
    }

    // When some have gone, new ones are served: after those that had come before, and have gone meanwhile.
    drop(others);
    let connect = || {
        let stream = TcpStream::connect(proxy.output).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream
    };
    let mut new = connect();
    eventually("data for a new client", || {
        proxy.send(b"more\n");
        match new.read(&mut [0; 5]) {
            Ok(5) => return Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // It came too early to be served.
            _ => new = connect(),
        }
        None
    });
    drop(new);
    proxy.running.stop();
}

/// A proxy that may have so many descriptors.
#[cfg(unix)]
fn with_descriptors(limit: u32) -> Proxy {
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
    command.arg(mproxy_tests::program("mproxy-reverse"));
    command.args(["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", "127.0.0.1:0", "-v"]);
    Proxy::of(Running::new(command.stdin(std::process::Stdio::null())))
}

fn what_the_udp_input_holds_at_a_stop_reaches_every_client_before_the_end() {
    const LINES: usize = 120;
    // All of them within the second that a stop may take.
    const CLIENTS: usize = if cfg!(windows) { 5 } else { 20 };
    let (output, address) = udp();
    let mut proxy = Proxy::new(&["--tee", "--udp-output-addr", &address.to_string()]);
    let clients: [TcpStream; CLIENTS] = proxy.clients();
    proxy.running.hold();
    for number in 0..LINES {
        proxy.send(line(number).as_bytes());
    }
    let since = Instant::now();
    proxy.running.interrupt();
    proxy.running.release();
    assert_eq!(proxy.running.exit_code(), 0);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let expected = (0..LINES).map(line).collect::<String>();
    for client in &clients {
        assert!(rest(client) == expected.as_bytes());
    }
    assert!(proxy.running.stdout() == expected.as_bytes());
    for number in 0..LINES {
        assert_eq!(datagram(&output), line(number).as_bytes());
    }
}

fn what_tcp_inputs_hold_at_a_stop_reaches_every_client_before_the_end() {
    let output = loopback(2);
    let mut running =
        start("mproxy-reverse", &["-v", "--tcp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", &output]);
    let clients = [running.tcp_address(&output); 5].map(|a| client(&running, a));
    let mut input = input(running.tcp_address("127.0.0.1:0"));
    running.says("TCP input");
    running.hold();
    let text: String = (0..60).map(line).collect::<String>() + "unfinished";
    input.write_all(text.as_bytes()).unwrap();
    running.interrupt();
    running.release();
    assert_eq!(running.exit_code(), 0);
    for client in &clients {
        assert!(rest(client) == text.as_bytes());
    }
}

fn what_a_chosen_group_holds_at_a_stop_reaches_every_client_before_the_end() {
    const LINES: usize = 60;
    let group = loopback_group();
    let mut running =
        start("mproxy-reverse", &["-v", "--multicast-addr", &group, "--tcp-output-addr", "127.0.0.1:0"]);
    let clients = [running.tcp_address("127.0.0.1:0"); 5].map(|a| client(&running, a));
    let sender = sender_to(&group);
    running.hold();
    for number in 0..LINES {
        sender.send(line(number).as_bytes()).unwrap();
    }
    running.interrupt();
    running.release();
    assert_eq!(running.exit_code(), 0);
    for client in &clients {
        assert!(rest(client) == (0..LINES).map(line).collect::<String>().as_bytes());
    }
}

fn a_stalled_client_does_not_hold_up_the_end() {
    let mut proxy = Proxy::new(&["--client-buffer", "256k"]);
    let (stalled, other) = (proxy.narrow_client(), proxy.client());
    pump(&proxy, &other, 0..6000);
    proxy.running.hold();
    for number in 6000..6100 {
        proxy.send(line(number).as_bytes());
    }
    let since = Instant::now();
    proxy.running.interrupt();
    proxy.running.release();
    assert_eq!(proxy.running.exit_code(), 0);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert!(rest(&other) == (6000..6100).map(line).collect::<String>().as_bytes());
    drop(stalled);
}

fn a_stop_ends_a_proxy_under_fire() {
    let mut proxy = Proxy::new(&[]);
    let clients: [TcpStream; 4] = proxy.clients();
    let sender = proxy.sender.try_clone().unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let _ = sender.send(line(1).as_bytes());
            }
        });
        for client in &clients {
            scope.spawn(|| {
                let got = rest(client);
                assert!(got.chunks(901).all(|text| text == line(1).as_bytes()), "a torn line");
            });
        }
        eventually("some of it", || (clients[0].peek(&mut [0]).unwrap() > 0).then_some(()));
        let since = Instant::now();
        proxy.running.interrupt();
        let status = proxy.running.wait();
        ended.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0));
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    });
}

mproxy_tests::main!(
    udp_reaches_every_tcp_client_byte_for_byte_and_in_order,
    the_largest_datagram_reaches_tcp_and_udp_outputs,
    tcp_inputs_reach_tcp_clients_without_a_torn_line,
    lines_framing_ends_each_datagram_of_a_tcp_client_with_a_newline,
    blocks_framing_cuts_tcp_inputs_into_exact_datagrams,
    every_address_option_can_be_repeated,
    ipv6_inputs_and_outputs,
    standard_output_gets_everything_with_tee,
    an_input_with_tee_only_needs_no_other_output,
    what_others_send_to_a_chosen_group_is_handed_out,
    inputs_alone_feed_a_chosen_group,
    a_chosen_group_joins_inputs_outputs_and_strangers,
    private_channels_side_by_side_never_mix,
    it_works_on_a_host_that_has_only_loopback_with_and_without_ipv6,
    many_clients_each_get_every_byte_of_a_paced_stream,
    a_slow_client_holds_up_nobody_and_loses_whole_lines_only,
    a_client_that_reads_slowly_but_steadily_is_kept,
    a_client_that_takes_nothing_for_the_stall_timeout_is_dropped,
    what_a_client_sends_is_ignored,
    a_client_that_only_shuts_down_its_sending_side_still_gets_everything,
    half_closed_clients_give_way_to_new_ones_the_oldest_fin_first,
    #[cfg(unix)]
    half_closed_clients_give_way_when_descriptors_are_short,
    a_client_that_is_gone_is_freed_at_the_next_datagrams,
    a_client_that_resets_is_freed_at_once_on_an_idle_channel,
    a_tcp_input_at_its_end_is_done_and_does_not_spin,
    an_idle_proxy_uses_no_processor_time,
    one_client_more_than_allowed_is_closed_at_once_with_one_warning,
    #[cfg(unix)]
    a_lack_of_descriptors_neither_ends_nor_spins_it,
    what_the_udp_input_holds_at_a_stop_reaches_every_client_before_the_end,
    what_tcp_inputs_hold_at_a_stop_reaches_every_client_before_the_end,
    what_a_chosen_group_holds_at_a_stop_reaches_every_client_before_the_end,
    a_stalled_client_does_not_hold_up_the_end,
    a_stop_ends_a_proxy_under_fire,
);
