//! The fan-out of `mproxy-reverse`: many TCP clients, of which some are slow, stalled or gone, and what each of them gets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use mproxy_reverse::{Direction, EndpointStats, Handle, Options, Reverse, Stats};
use mproxy_tests::{
    Feed, Network, PATIENCE, Running, Tally, TcpReader, connect, eventually, loopback, needs_descriptors,
    read_to_end, read_up_to, run, start, udp,
};
use mproxy_tests::{Pki, TlsOptions, TlsPeer};
use socket2::SockRef;

/// The smallest `--client-buffer`, and the default.
const SMALLEST_BUFFER: usize = 128 << 10;
const DEFAULT_BUFFER: usize = 4 << 20;

/// Fewer clients where system calls are slow, as under an emulator; and macOS lets a process open 256 descriptors.
const MANY: usize = if cfg!(target_os = "linux") { 2000 } else { 60 };

/// The receive buffer of a client that has little room for what it does not read: it does not grow. With a smaller one the
/// sender would wait for its persist timer again and again.
const NARROW: Option<usize> = Some(65_536);

/// A proxy with a UDP input and an output for TCP clients, both on 127.0.0.1.
struct Proxy {
    running: Running,
    sender: UdpSocket,
    output: SocketAddr,
}

impl Proxy {
    fn new(options: &[&str]) -> Self {
        let arguments = ["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", "127.0.0.1:0", "-v"];
        let running = start("mproxy-reverse", &[&arguments, options].concat());
        let sender = sender_to(running.udp_address("127.0.0.1:0"));
        let output = running.tcp_address("127.0.0.1:0");
        Self { running, sender, output }
    }

    fn client(&self, receive_buffer: Option<usize>) -> TcpStream {
        let stream = connect(self.output, receive_buffer);
        self.running.serves(stream.local_addr().unwrap());
        stream
    }

    /// So many clients more, all of them served.
    fn clients(&self, clients: usize) -> Vec<TcpStream> {
        let before = self.running.served_peers();
        let streams = (0..clients).map(|_| connect(self.output, None)).collect();
        eventually("all clients", || (self.running.served_peers() == before + clients).then_some(()));
        streams
    }
}

fn sender_to(address: SocketAddr) -> UdpSocket {
    let (sender, _) = udp();
    sender.connect(address).unwrap();
    sender
}

fn readers<'a>(
    streams: impl IntoIterator<Item = TcpStream>,
    feed: &'a Feed,
    framing: &'a str,
) -> Vec<TcpReader<'a>> {
    streams.into_iter().map(|stream| TcpReader::new(stream, Tally::new(feed, framing, 0))).collect()
}

/// Sends a feed's datagrams, no more of them at a time than buffers hold, while these clients read it: they lose nothing. After each
/// portion the test goes on in `meanwhile`.
fn pump(
    datagrams: &[Vec<u8>],
    sender: &UdpSocket,
    clients: &mut [TcpReader<'_>],
    portion: usize,
    mut meanwhile: impl FnMut(),
) {
    let mut sent = 0;
    for datagrams in datagrams.chunks(portion) {
        for datagram in datagrams {
            sender.send(datagram).unwrap();
        }
        sent += datagrams.len();
        read_up_to(sent, clients);
        meanwhile();
    }
}

#[track_caller]
fn assert_all(feed: &Feed, clients: &[TcpReader<'_>]) {
    for client in clients {
        let tally = &client.tally;
        assert_eq!((tally.datagrams, tally.bytes), (feed.len(), feed.bytes()));
        assert!(tally.resumed.is_empty() && tally.is_whole());
    }
}

fn thousands_of_clients_each_get_every_byte_of_a_paced_stream() {
    needs_descriptors(MANY as u64 + 200);
    let feed = Feed::new(100, |number| 500 + number * 31 % 900);
    let mut proxy = Proxy::new(&["--max-clients", "2500"]);
    let mut clients = readers(proxy.clients(MANY), &feed, "auto");
    // Those that say something are no different, nor those that say that they have nothing more to say.
    for client in clients.iter().step_by(7) {
        (&client.stream).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    for client in clients.iter().step_by(10) {
        client.stream.shutdown(Shutdown::Write).unwrap();
    }
    pump(feed.datagrams(), &proxy.sender, &mut clients, 10, || ());
    proxy.running.stop();
    read_to_end(&mut clients);
    assert_all(&feed, &clients);
    assert!(proxy.running.warnings().is_empty(), "{:?}", proxy.running.warnings());
}

/// The messages of the proxies in this process, of all tests.
static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Messages;

impl log::Log for Messages {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        MESSAGES.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// A proxy with a UDP input on 127.0.0.1 and an output for TCP clients, in this process: its statistics can be read.
struct Library {
    handle: Handle,
    sender: UdpSocket,
    output: SocketAddr,
}

impl Library {
    fn new(output: &str, options: Options) -> Self {
        if log::set_logger(&Messages).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
        }
        let reverse = Reverse::new().udp_listen("127.0.0.1:0").tcp_output(format!("{output}:0"));
        let handle = reverse.options(options).spawn().unwrap();
        let [input, output] = *handle.local_addrs() else { panic!("{handle:?}") };
        Self { handle, sender: sender_to(input), output }
    }

    /// So many clients more, all of them served.
    fn clients(&self, clients: usize, receive_buffer: Option<usize>) -> Vec<TcpStream> {
        let streams: Vec<_> = (0..clients).map(|_| connect(self.output, receive_buffer)).collect();
        for stream in &streams {
            let connected = format!("TCP client {} connected", stream.local_addr().unwrap());
            eventually(&connected, || MESSAGES.lock().unwrap().contains(&connected).then_some(()));
        }
        streams
    }

    /// Sends these, no more at a time than the receive buffer holds.
    fn send(&self, datagrams: &[Vec<u8>]) {
        let before = self.input().datagrams;
        let mut sent = 0;
        for datagrams in datagrams.chunks(50) {
            for datagram in datagrams {
                self.sender.send(datagram).unwrap();
            }
            sent += datagrams.len();
            eventually("the datagrams", || (self.input().datagrams - before == sent as u64).then_some(()));
        }
    }

    fn input(&self) -> EndpointStats {
        self.handle
            .stats()
            .endpoints
            .into_iter()
            .find(|endpoint| endpoint.direction == Direction::In)
            .unwrap()
    }

    fn output(&self) -> EndpointStats {
        output_of(self.handle.stats())
    }

    /// Asks for the end and waits for it. What the output has counted.
    fn stop(self) -> EndpointStats {
        self.handle.stop();
        output_of(self.handle.join().unwrap())
    }
}

fn output_of(stats: Stats) -> EndpointStats {
    stats.endpoints.into_iter().find(|endpoint| endpoint.direction == Direction::Out).unwrap()
}

fn slow_stalled_and_vanished_clients_cost_the_others_nothing() {
    const PROXY: usize = 0;
    const VANISHING: usize = 1;
    needs_descriptors(1000);
    let network = Network::new(2);
    let feed = Feed::new(700, |number| 7900 + number * 31 % 400);
    let options = Options::new().client_buffer(SMALLEST_BUFFER);
    let library = network.on(PROXY, || Library::new(&Network::ipv4(PROXY), options));
    let clients = |host, clients, buffer| network.on(host, || library.clients(clients, buffer));
    let (healthy, slow) = (clients(PROXY, 100, None), clients(PROXY, 100, NARROW));
    let stalled = clients(PROXY, 50, NARROW);
    let [mut healthy, mut slow, mut stalled] = [healthy, slow, stalled].map(|s| readers(s, &feed, "auto"));
    let read_a_little =
        |slow: &mut [TcpReader<'_>]| slow.iter_mut().for_each(|client| client.read(&mut [0; 500]));
    pump(feed.datagrams(), &library.sender, &mut healthy, 5, || read_a_little(&mut slow));
    assert_all(&feed, &healthy);
    // They go on when they can, with what there is still: the newest datagrams.
    read_up_to(feed.len(), &mut slow);
    read_up_to(feed.len(), &mut stalled);
    let all = || healthy.iter().chain(&slow).chain(&stalled).map(|client| &client.tally);
    assert!(slow.iter().chain(&stalled).all(|client| !client.tally.resumed.is_empty()), "nothing was missed");
    let sum = |field: fn(&Tally<'_>) -> usize| all().map(field).sum::<usize>() as u64;
    let (datagrams, bytes) = (sum(|tally| tally.datagrams), sum(|tally| tally.bytes));
    let counted = eventually("the figures", || {
        let counted = library.output();
        (counted.datagrams == datagrams).then_some(counted)
    });
    assert_eq!(counted.bytes, bytes);
    assert_eq!(counted.missed, (all().count() * feed.len()) as u64 - datagrams);
    assert_eq!(counted.missed_bytes, (all().count() * feed.bytes()) as u64 - bytes);
    assert_eq!(counted.gone, 0);

    // Now others are there whose link is dropped without a word.
    let vanished = clients(VANISHING, 50, None);
    network.cut_off(VANISHING);
    for client in healthy.iter_mut().chain(&mut slow).chain(&mut stalled) {
        client.tally = Tally::new(&feed, "auto", 0);
    }
    pump(feed.datagrams(), &library.sender, &mut healthy, 5, || read_a_little(&mut slow));
    assert_all(&feed, &healthy);
    for clients in [&mut slow, &mut stalled] {
        read_up_to(feed.len(), clients);
    }
    let received = datagrams
        + healthy
            .iter()
            .chain(&slow)
            .chain(&stalled)
            .map(|client| client.tally.datagrams as u64)
            .sum::<u64>();
    let input = library.input();
    assert_eq!((input.datagrams, input.dropped), (2 * feed.len() as u64, 0));
    let counted = library.stop();
    let taken_by_vanished = counted.datagrams - received;
    assert!(taken_by_vanished < 50 * feed.len() as u64, "{counted:?}, {received} received");
    assert_eq!(
        counted.datagrams + counted.missed + counted.gone,
        (feed.len() * (250 + 300)) as u64,
        "{counted:?}"
    );
    assert!(counted.gone > 0, "{counted:?}");
    drop(vanished);
}

fn a_burst_as_large_as_the_buffer_loses_nothing() {
    // Of 3.5 MiB and, where there is not room enough, more than the buffers of a connection hold.
    for (buffer, is_enough, kilobytes) in [(DEFAULT_BUFFER, true, 3584), (SMALLEST_BUFFER, false, 7168)] {
        let feed = Feed::new(kilobytes, |_| 1024);
        let mut options = Options::new();
        if !is_enough {
            options = options.client_buffer(buffer);
        }
        let library = Library::new("127.0.0.1", options);
        let mut clients = readers(library.clients(3, NARROW), &feed, "auto");
        library.send(feed.datagrams());
        read_up_to(feed.len(), &mut clients);
        let missed = clients.iter().map(|client| feed.len() - client.tally.datagrams).sum::<usize>();
        assert_eq!(missed == 0, is_enough, "{missed} datagrams with {buffer} bytes");
        assert_eq!(library.stop().missed, missed as u64);
    }
}

/// Reads from a connection, with or without TLS, into the buffer.
type Reading<'a> = Box<dyn FnMut(&mut [u8]) -> usize + 'a>;

/// A client and what it has got. Reading from it waits.
struct Peer<'a> {
    tally: Tally<'a>,
    read: Reading<'a>,
}

impl<'a> Peer<'a> {
    fn new(feed: &'a Feed, framing: &'a str, read: impl FnMut(&mut [u8]) -> usize + 'a) -> Self {
        Self { tally: Tally::new(feed, framing, 0), read: Box::new(read) }
    }

    fn read_up_to(&mut self, next: usize) {
        let (mut buffer, end) = (vec![0; 65_536], Instant::now() + PATIENCE);
        while self.tally.next() < next {
            assert!(Instant::now() < end, "{} of {next} datagrams came", self.tally.next());
            let len = (self.read)(&mut buffer);
            assert!(len > 0, "the end after datagram {}", self.tally.next());
            self.tally.take(&buffer[..len]);
        }
    }
}

/// Has a client lag far behind and catch up, again and again, while another one keeps up and loses nothing.
fn catch_up(feed: &Feed, sender: &UdpSocket, steady: &mut Peer<'_>, lagging: &mut Peer<'_>) {
    // Each third is more than the buffers of the connection and the ring hold.
    let third = feed.len() / 3;
    for round in 0..3 {
        for number in round * third..(round + 1) * third {
            let datagram = &feed.datagrams()[number];
            sender.send(datagram).unwrap();
            if number % 10 == 9 && !datagram.is_empty() {
                steady.read_up_to(number + 1);
            }
        }
        // Empty ones leave no trace.
        let is_there = |number: &usize| !feed.datagrams()[*number].is_empty();
        let last = (0..(round + 1) * third).rfind(is_there).unwrap();
        steady.read_up_to(last + 1);
        lagging.read_up_to(last + 1);
        assert!(lagging.tally.resumed.len() > round, "nothing was missed: {:?}", lagging.tally.resumed);
    }
    assert!(steady.tally.resumed.is_empty(), "{:?}", steady.tally.resumed);
}

/// The largest datagrams but some, empty ones, and lines of which each takes three datagrams.
fn mixed_feed() -> Feed {
    Feed::in_parts(3000, 3, |number| match number {
        number if number % 15 == 7 => 60_000,
        number if number % 11 == 3 => 0,
        number => 900 + number * 31 % 900,
    })
}

const FRAMINGS: [&str; 5] = ["auto", "lines", "blocks", "raw", "length"];

fn a_lagging_client_catches_up_with_whole_datagrams_of_every_framing() {
    let feed = mixed_feed();
    for framing in FRAMINGS {
        let proxy = Proxy::new(&["--framing", framing, "--client-buffer", "128k"]);
        let [mut steady, mut lagging] = [None, NARROW].map(|buffer| {
            let mut client = proxy.client(buffer);
            Peer::new(&feed, framing, move |buffer| client.read(buffer).unwrap())
        });
        catch_up(&feed, &proxy.sender, &mut steady, &mut lagging);
    }
}

fn a_lagging_tls_client_catches_up_with_whole_datagrams_of_every_framing() {
    let (feed, pki) = (mixed_feed(), Pki::new());
    for framing in FRAMINGS {
        let arguments = ["--udp-listen-addr", "127.0.0.1:0", "--tls-output-addr", "127.0.0.1:0", "-v"];
        let options = ["--framing", framing, "--client-buffer", "128k"];
        let arguments = [&arguments[..], &pki.server.options(), &options].concat();
        let running = start("tls/mproxy-reverse", &arguments);
        let sender = sender_to(running.udp_address("127.0.0.1:0"));
        let output = running.tcp_address("127.0.0.1:0");
        let [mut steady, mut lagging] = [None, NARROW].map(|buffer| {
            let mut client = tls_client(&running, output, &pki, buffer);
            Peer::new(&feed, framing, move |buffer| client.read(buffer).unwrap())
        });
        catch_up(&feed, &sender, &mut steady, &mut lagging);
    }
}

fn tls_client(running: &Running, output: SocketAddr, pki: &Pki, receive_buffer: Option<usize>) -> TlsPeer {
    let options = TlsOptions { authority: Some(&pki.authority.path), ..TlsOptions::default() };
    let peer = TlsPeer::connect_over(connect(output, receive_buffer), options).unwrap();
    running.serves(peer.socket.local_addr().unwrap());
    peer
}

/// The figures of the last message that this client is too slow: datagrams and bytes.
fn missed(messages: &str, client: SocketAddr) -> Option<(usize, usize)> {
    let before = format!("TCP client {client} is too slow: it has missed ");
    let figures = messages.lines().filter_map(|line| line.split_once(&before)).next_back()?.1;
    let (datagrams, rest) = figures.split_once(" datagrams, ").unwrap();
    Some((datagrams.parse().unwrap(), rest.split_once(" bytes").unwrap().0.parse().unwrap()))
}

fn what_a_lagging_client_misses_is_told_and_it_goes_on_with_a_new_line() {
    for framing in ["auto", "lines"] {
        let feed = Feed::in_parts(20_000, 3, |number| 500 + number * 31 % 100);
        let options = Options::new().framing(framing.parse().unwrap()).client_buffer(SMALLEST_BUFFER);
        let library = Library::new("127.0.0.1", options);
        let [mut steady, mut lagging] =
            [None, NARROW].map(|buffer| readers(library.clients(1, buffer), &feed, framing));
        let address = lagging[0].stream.local_addr().unwrap();
        // It is told before others get what it has missed.
        let told = || missed(&MESSAGES.lock().unwrap().join("\n"), address);
        let mut sent = 0;
        while told().is_none() {
            for datagram in &feed.datagrams()[sent..sent + 20] {
                library.sender.send(datagram).unwrap();
            }
            sent += 20;
            read_up_to(sent, &mut steady);
        }
        read_up_to(sent, &mut lagging);
        let tally = &lagging[0].tally;
        let bytes = feed.datagrams()[..sent].iter().map(Vec::len).sum::<usize>() - tally.bytes;
        assert_eq!(told(), Some((sent - tally.datagrams, bytes)));
        assert!(!tally.resumed.is_empty());
        // With `lines`, each datagram has got a newline.
        let begins_line = |number: &usize| framing == "lines" || number.is_multiple_of(3);
        assert!(tally.resumed.iter().all(begins_line), "{:?}", tally.resumed);
        assert!(steady[0].tally.resumed.is_empty());
        library.stop();
    }
}

/// Its threads, its descriptors, and its own memory in kilobytes.
#[cfg(target_os = "linux")]
fn resources(running: &Running) -> (usize, usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", running.id())).unwrap().count();
    let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", running.id())).unwrap();
    let memory = memory.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    (count("task"), count("fd"), memory.trim().trim_end_matches(" kB").parse().unwrap())
}

#[cfg(target_os = "linux")]
fn five_thousand_connections_leave_nothing_behind() {
    const BATCH: usize = 100;
    let mut proxy = Proxy::new(&[]);
    let mut connected = 0;
    let mut connect_and_go = |batches: usize| {
        for _ in 0..batches {
            let clients = proxy.clients(BATCH);
            connected += BATCH;
            for (number, client) in clients.into_iter().enumerate() {
                match number % 3 {
                    // A reset, and a FIN before or with the end.
                    0 => SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap(),
                    1 => client.shutdown(Shutdown::Write).unwrap(),
                    _ => {}
                }
            }
            eventually("the end of the connections", || {
                proxy.sender.send(b"is anyone there?\n").unwrap();
                std::thread::sleep(Duration::from_millis(1));
                (proxy.running.count(" has gone: ") == connected).then_some(())
            });
        }
        resources(&proxy.running)
    };
    let (threads, descriptors, memory) = connect_and_go(5);
    let after = connect_and_go(45);
    assert_eq!((after.0, after.1), (threads, descriptors));
    assert!(after.2 < memory + 1024, "{memory} kB have become {} kB", after.2);
    proxy.running.stop();
}

/// Bytes that repeat after a number of them that is prime.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(1_000_003).collect()
}

/// Writes as many bytes of the pattern.
fn write_pattern(mut to: &TcpStream, pattern: &[u8], bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let piece = &pattern[..left.min(pattern.len())];
        to.write_all(piece).unwrap();
        left -= piece.len();
    }
}

/// Reads as many bytes, which must be those of the pattern.
#[track_caller]
fn read_pattern(pattern: &[u8], bytes: usize, mut read: impl FnMut(&mut [u8]) -> usize) {
    let (mut buffer, mut done) = (vec![0; 1 << 18], 0);
    while done < bytes {
        let len = read(&mut buffer);
        assert!(len > 0, "the end after {done} bytes");
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            let expected = &pattern[done % pattern.len()..];
            let len = expected.len().min(rest.len());
            assert!(rest[..len] == expected[..len], "something is missing or altered after {done} bytes");
            rest = &rest[len..];
            done += len;
        }
    }
    assert_eq!(done, bytes);
}

/// Sends a stream at full speed into the TCP input at `input`, while a client reads it, and returns how long that takes.
fn full_speed(input: SocketAddr, bytes: usize, read: impl FnMut(&mut [u8]) -> usize) -> Duration {
    let (pattern, input) = (pattern(), connect(input, None));
    let since = Instant::now();
    scope(|scope| {
        scope.spawn(|| write_pattern(&input, &pattern, bytes));
        read_pattern(&pattern, bytes, read);
    });
    since.elapsed()
}

/// A proxy from a TCP input to an output for TCP clients.
fn tcp_to_tcp(options: &[&str]) -> (Running, SocketAddr, SocketAddr) {
    let output = loopback(2);
    let arguments = ["--tcp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", &output, "-v"];
    let running = start("mproxy-reverse", &[&arguments, options].concat());
    let (input, output) = (running.tcp_address("127.0.0.1:0"), running.tcp_address(&output));
    (running, input, output)
}

fn a_client_that_always_reads_loses_nothing_of_a_tcp_input_at_full_speed() {
    const BYTES: usize = 200_000_000;
    let (running, input, output) = tcp_to_tcp(&["--framing", "raw"]);
    let mut client = connect(output, None);
    running.serves(client.local_addr().unwrap());
    let alone = full_speed(input, BYTES, |buffer| client.read(buffer).unwrap());
    // Nor is it held up by one that never reads.
    let stalled = connect(output, None);
    running.serves(stalled.local_addr().unwrap());
    let beside = full_speed(input, BYTES, |buffer| client.read(buffer).unwrap());
    assert_not_held_up(alone, beside);
    assert!(missed(&running.messages(), client.local_addr().unwrap()).is_none(), "{}", running.messages());
    assert!(missed(&running.messages(), stalled.local_addr().unwrap()).is_some(), "{}", running.messages());
}

/// Linux alone tells what a peer has acknowledged.
#[cfg(target_os = "linux")]
fn a_client_that_reads_slowly_but_steadily_loses_nothing_of_a_tcp_input() {
    const BYTES: usize = 40_000_000;
    // So slow that its socket has no room for seconds: it has some only once a third of the send buffer is free.
    const SLOW: Duration = Duration::from_secs(4);
    const BYTES_PER_MILLISECOND: usize = 300;
    let (running, input, output) = tcp_to_tcp(&["--framing", "raw", "--client-buffer", "128k"]);
    // A larger receive buffer opens the window in steps that take more than a second each, at this pace.
    let mut client = connect(output, Some(1 << 16));
    running.serves(client.local_addr().unwrap());
    let (since, mut read) = (Instant::now(), 0);
    full_speed(input, BYTES, |buffer| {
        let due = Duration::from_millis((read / BYTES_PER_MILLISECOND) as u64);
        let room = if due < SLOW { 9_000 } else { buffer.len() };
        std::thread::sleep(due.min(SLOW).saturating_sub(since.elapsed()));
        let len = client.read(&mut buffer[..room]).unwrap();
        read += len;
        len
    });
    assert!(missed(&running.messages(), client.local_addr().unwrap()).is_none(), "{}", running.messages());
}

fn a_slow_client_of_a_tcp_input_holds_up_no_udp_output() {
    // At the pace of the client, 3 MB a second, it would take a quarter of a minute.
    const BYTES: usize = 60_000_000;
    let (_target, address) = udp();
    let (running, input, output) =
        tcp_to_tcp(&["--framing", "raw", "--udp-output-addr", &address.to_string()]);
    let mut client = connect(output, None);
    running.serves(client.local_addr().unwrap());
    let (pattern, input, is_written) = (pattern(), connect(input, None), AtomicBool::new(false));
    let since = Instant::now();
    scope(|scope| {
        scope.spawn(|| {
            write_pattern(&input, &pattern, BYTES);
            is_written.store(true, Ordering::Relaxed);
        });
        let mut buffer = vec![0; 30_000];
        while !is_written.load(Ordering::Relaxed) {
            assert!(client.read(&mut buffer).unwrap() > 0);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

fn a_linger_does_not_slow_a_tcp_input_down() {
    // For 1.5 seconds. With a receive window for each linger it would take ten times as long.
    const PORTIONS: u32 = 1500;
    const PORTION: usize = 20_000;
    let (running, input, output) = tcp_to_tcp(&["--framing", "raw", "--linger", "100ms"]);
    let mut client = connect(output, None);
    running.serves(client.local_addr().unwrap());
    let (pattern, mut input) = (pattern(), connect(input, None));
    let feed = pattern.repeat(1 + PORTION * PORTIONS as usize / pattern.len());
    let since = Instant::now();
    scope(|scope| {
        scope.spawn(|| {
            for (number, portion) in (0..PORTIONS).zip(feed.chunks(PORTION)) {
                // A feed has a pace.
                let due = Duration::from_millis(1) * number;
                std::thread::sleep(due.saturating_sub(since.elapsed()));
                input.write_all(portion).unwrap();
            }
        });
        let bytes = PORTION * PORTIONS as usize;
        read_pattern(&pattern, bytes, |buffer| client.read(buffer).unwrap());
    });
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

fn a_tls_client_that_always_reads_loses_nothing_of_a_tcp_input_at_full_speed() {
    const BYTES: usize = 30_000_000;
    let (pki, output) = (Pki::new(), loopback(2));
    let arguments = ["--tcp-listen-addr", "127.0.0.1:0", "--tls-output-addr", &output, "-v"];
    // Little room, so that the input has to wait for it.
    let options = ["--framing", "raw", "--client-buffer", "128k"];
    let arguments = [&arguments[..], &pki.server.options(), &options].concat();
    let running = start("tls/mproxy-reverse", &arguments);
    let (input, output) = (running.tcp_address("127.0.0.1:0"), running.tcp_address(&output));
    let mut client = tls_client(&running, output, &pki, None);
    let alone = full_speed(input, BYTES, |buffer| client.read(buffer).unwrap());
    let _stalled = tls_client(&running, output, &pki, None);
    let beside = full_speed(input, BYTES, |buffer| client.read(buffer).unwrap());
    assert_not_held_up(alone, beside);
}

#[track_caller]
fn assert_not_held_up(alone: Duration, beside: Duration) {
    let limit = alone * 3 + Duration::from_secs(2);
    assert!(beside < limit, "{alone:?} alone, {beside:?} beside a client that is stalled");
}

#[cfg(unix)]
fn clients_that_drain_their_lag_at_once_hold_up_nobody() {
    // Megabytes of lag for each, beyond what its connection holds, and then a lone datagram.
    const LAGGING: usize = 50;
    const LAG: usize = 1200;
    const BOUND: usize = 100_000_000;
    needs_descriptors(500);
    let feed = Feed::new(LAG + 1, |number| if number < LAG { 8000 } else { 100 });
    let proxy = Proxy::new(&["--client-buffer", "16M"]);
    let mut steady = readers(proxy.clients(1), &feed, "auto");
    let streams: Vec<_> = (0..LAGGING).map(|_| proxy.client(NARROW)).collect();
    let mut lagging = readers(streams, &feed, "auto");
    pump(&feed.datagrams()[..LAG], &proxy.sender, &mut steady, 5, || ());
    // While it stands still, the connections empty, and get room for all of the lag.
    proxy.running.hold();
    for client in &lagging {
        SockRef::from(&client.stream).set_recv_buffer_size(4 << 20).unwrap();
    }
    let mut received = || {
        mproxy_tests::read_what_is_there(&mut lagging);
        lagging.iter().map(|client| client.tally.bytes).sum::<usize>()
    };
    let before = received();
    assert!(LAGGING * LAG * 8000 - before > 2 * BOUND, "{before} bytes need no buffer of the proxy");
    proxy.sender.send(&feed.datagrams()[LAG]).unwrap();
    proxy.running.release();
    read_up_to(LAG + 1, &mut steady);
    proxy.running.hold();
    let meanwhile = received() - before;
    assert!(meanwhile < BOUND, "{meanwhile} bytes went to others first");
    proxy.running.release();
    read_up_to(LAG + 1, &mut lagging);
    assert_all(&feed, &lagging);
}

/// How many clients each thread of the outputs serves, as the epoll instances of the process tell.
#[cfg(target_os = "linux")]
fn clients_of_threads(running: &Running) -> Vec<usize> {
    let directory = format!("/proc/{}/fdinfo", running.id());
    let texts = std::fs::read_dir(directory).unwrap().flatten();
    let texts = texts.map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default());
    let counts = texts.map(|text| text.lines().filter(|line| line.starts_with("tfd:")).count());
    counts.filter(|count| *count >= 10).collect()
}

#[cfg(target_os = "linux")]
fn the_number_of_threads_does_not_depend_on_the_clients() {
    const FIRST: usize = 10;
    let mut threads_of = Vec::new();
    for (threads, per_thread) in [("1", 50), ("2", 25)] {
        let second = loopback(2);
        let proxy = Proxy::new(&["--tcp-output-addr", &second, "--threads", threads]);
        let second = proxy.running.tcp_address(&second);
        let both = |clients: usize, served: usize| {
            let mut streams = proxy.clients(clients);
            streams.extend((0..clients).map(|_| connect(second, None)));
            eventually("all clients", || (proxy.running.served_peers() == served).then_some(()));
            streams
        };
        // With a datagram on its way through, all threads are there. One that has no client yet may get it later.
        let feed = Feed::new(100, |_| 1000);
        let mut first = readers(both(1, 2), &feed, "auto");
        pump(&feed.datagrams()[..FIRST], &proxy.sender, &mut first, FIRST, || ());
        let (before, ..) = resources(&proxy.running);
        drop(first);
        let mut clients = readers(both(50, 102), &feed, "auto");
        for number in FIRST..feed.len() {
            proxy.sender.send(&feed.datagrams()[number]).unwrap();
            read_up_to(number + 1, &mut clients);
        }
        assert!(clients.iter().flat_map(|client| &client.tally.resumed).all(|number| *number <= FIRST));
        let (after, ..) = resources(&proxy.running);
        assert_eq!(after, before);
        threads_of.push(after);
        // The threads of an output share its clients evenly. Beside them each watches its source, and what wakes it; and
        // those that have gone may be there still.
        let shared = clients_of_threads(&proxy.running);
        let is_even = |count: &usize| (per_thread..per_thread + 10).contains(count);
        assert!(shared.iter().all(is_even) && shared.len() == 100 / per_thread, "{shared:?}");
    }
    // One thread more for the listener, and one for each output.
    assert_eq!(threads_of[1], threads_of[0] + 3);
}

fn four_hosts_serve_one_group_to_all_of_their_clients() {
    const HOSTS: std::ops::RangeInclusive<usize> = 1..=4;
    const CLIENTS: usize = 500;
    needs_descriptors(2200);
    let network = Network::new(5);
    let group = "239.192.14.14%eth0:9914";
    let mut proxies: Vec<_> = HOSTS
        .map(|host| {
            let arguments = ["--multicast-addr", group, "--tcp-output-addr", "127.0.0.1:0", "-v"];
            (host, network.start(host, "mproxy-reverse", &arguments))
        })
        .collect();
    let feed = Feed::new(100, |number| 500 + number * 31 % 900);
    let mut clients = Vec::new();
    for (host, proxy) in &proxies {
        let output = proxy.tcp_address("127.0.0.1:0");
        let streams: Vec<_> = network.on(*host, || (0..CLIENTS).map(|_| connect(output, None)).collect());
        eventually("all clients", || (proxy.served_peers() == CLIENTS).then_some(()));
        clients.extend(readers(streams, &feed, "auto"));
    }
    let sender = network.on(0, || UdpSocket::bind((Network::ipv4(0), 0)).unwrap());
    SockRef::from(&sender).set_multicast_if_v4(&Network::ipv4(0).parse().unwrap()).unwrap();
    sender.connect("239.192.14.14:9914").unwrap();
    pump(feed.datagrams(), &sender, &mut clients, 10, || ());
    for (_, proxy) in &mut proxies {
        proxy.stop();
        assert!(proxy.warnings().is_empty(), "{:?}", proxy.warnings());
    }
    read_to_end(&mut clients);
    assert_all(&feed, &clients);
}

/// Linux alone tells what a peer has acknowledged.
#[cfg(target_os = "linux")]
fn a_slow_client_is_kept_and_a_stalled_one_dropped_after_the_stall_timeout() {
    const STALL_TIMEOUT: Duration = Duration::from_secs(4);
    const TIME: Duration = Duration::from_secs(14);
    let proxy = Proxy::new(&["--stall-timeout", "4s", "--client-buffer", "128k"]);
    // 400 kB/s, of which they take 10 kB/s and more.
    let feed = Feed::new(400 * 20, |_| 1000);
    let mut pacer = readers([proxy.client(None)], &feed, "auto");
    let slow = [(4096, 10_000), (16_384, 10_000), (16_384, 50_000), (65_536, 100_000)];
    let mut slow = slow.map(|(buffer, rate)| {
        let client = TcpReader::new(proxy.client(Some(buffer)), Tally::new(&feed, "auto", 0));
        (client, rate / 50)
    });
    let stalled = proxy.client(NARROW);
    let dropped = format!("TCP client {} dropped: ", stalled.local_addr().unwrap());
    let mut dropped_after = None;
    let since = Instant::now();
    let mut buffer = [0; 4096];
    let portions = TIME.as_millis() / 20;
    for (portion, datagrams) in (1..=portions).zip(feed.datagrams().chunks(8)) {
        for datagram in datagrams {
            proxy.sender.send(datagram).unwrap();
        }
        read_up_to(usize::try_from(portion).unwrap() * 8, &mut pacer);
        for (client, bytes) in &mut slow {
            client.read(&mut buffer[..*bytes]);
        }
        if dropped_after.is_none() && proxy.running.count(&dropped) > 0 {
            dropped_after = Some(since.elapsed());
        }
        // A feed has a pace.
        let due = Duration::from_millis(20) * u32::try_from(portion).unwrap();
        std::thread::sleep(due.saturating_sub(since.elapsed()));
    }
    let messages = proxy.running.messages();
    assert_eq!(messages.matches(" dropped: ").count(), 1, "{messages}");
    let dropped_after = dropped_after.expect("the stalled client was not dropped");
    assert!((STALL_TIMEOUT..TIME).contains(&dropped_after), "{dropped_after:?}");
    assert!(proxy.running.warnings().iter().any(|line| line.contains(&dropped)));
}

fn a_stalled_client_is_dropped_after_two_seconds_if_that_is_asked_for() {
    let proxy = Proxy::new(&["--stall-timeout", "2s"]);
    let feed = Feed::new(5000, |_| 1000);
    let mut pacer = readers([proxy.client(None)], &feed, "auto");
    let stalled = proxy.client(NARROW);
    pump(feed.datagrams(), &proxy.sender, &mut pacer, 20, || ());
    let since = Instant::now();
    proxy.running.says(&format!("TCP client {} dropped: ", stalled.local_addr().unwrap()));
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    let mut end = vec![0; 65_536];
    eventually("the end of the connection", || match (&stalled).read(&mut end) {
        Ok(0) => Some(()),
        Ok(_) => None,
        Err(error) => (error.kind() == ErrorKind::ConnectionReset).then_some(()),
    });
}

fn a_client_buffer_takes_memory_only_when_it_is_filled() {
    for buffer in ["128k", "131072", "1G"] {
        let mut proxy = Proxy::new(&["--client-buffer", buffer]);
        let feed = Feed::new(100, |_| 1000);
        let mut clients = readers(proxy.clients(2), &feed, "auto");
        pump(feed.datagrams(), &proxy.sender, &mut clients, 10, || ());
        assert_all(&feed, &clients);
        #[cfg(target_os = "linux")]
        assert!(resources(&proxy.running).2 < 20_000, "{:?}", resources(&proxy.running));
        proxy.running.stop();
    }
    for wrong in ["131071", "127k", "1025M", "0", "-1", "1.5M", "4MB", ""] {
        let arguments = ["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", "127.0.0.1:0"];
        let option = format!("--client-buffer={wrong}");
        let outcome = run("mproxy-reverse", &[&arguments[..], &[&option]].concat(), b"");
        assert_eq!(outcome.code, 2, "{option}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("--client-buffer"), "{option}: {}", outcome.stderr);
    }
}

mproxy_tests::main!(
    thousands_of_clients_each_get_every_byte_of_a_paced_stream,
    slow_stalled_and_vanished_clients_cost_the_others_nothing,
    a_burst_as_large_as_the_buffer_loses_nothing,
    a_lagging_client_catches_up_with_whole_datagrams_of_every_framing,
    a_lagging_tls_client_catches_up_with_whole_datagrams_of_every_framing,
    what_a_lagging_client_misses_is_told_and_it_goes_on_with_a_new_line,
    #[cfg(target_os = "linux")]
    five_thousand_connections_leave_nothing_behind,
    a_client_that_always_reads_loses_nothing_of_a_tcp_input_at_full_speed,
    #[cfg(target_os = "linux")]
    a_client_that_reads_slowly_but_steadily_loses_nothing_of_a_tcp_input,
    a_slow_client_of_a_tcp_input_holds_up_no_udp_output,
    a_linger_does_not_slow_a_tcp_input_down,
    a_tls_client_that_always_reads_loses_nothing_of_a_tcp_input_at_full_speed,
    #[cfg(unix)]
    clients_that_drain_their_lag_at_once_hold_up_nobody,
    #[cfg(target_os = "linux")]
    the_number_of_threads_does_not_depend_on_the_clients,
    four_hosts_serve_one_group_to_all_of_their_clients,
    #[cfg(target_os = "linux")]
    a_slow_client_is_kept_and_a_stalled_one_dropped_after_the_stall_timeout,
    a_stalled_client_is_dropped_after_two_seconds_if_that_is_asked_for,
    a_client_buffer_takes_memory_only_when_it_is_filled,
);
