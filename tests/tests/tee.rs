//! `--tee` beside other outputs: a reader of standard output that is slow, or has stalled, costs only itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Feed, PATIENCE, Running, Tally, connected, datagram, eventually, framed, loopback, loopback_group,
    path_text, program, temporary_file, udp,
};

const LISTEN: &str = "127.0.0.1:0";

/// The bytes of the large datagrams of a feed.
const LARGE: usize = 8000;

/// As many large datagrams as a queue of 4 MiB and a pipe have no room for together.
const FLOOD: usize = 1000;

/// Datagrams under way at a time: fewer than any receive buffer holds.
const UNDER_WAY: usize = 8;

/// Large datagrams, and then small ones.
fn feed() -> Feed {
    Feed::new(FLOOD + 2000, |number| if number < FLOOD { LARGE } else { 20 })
}

/// A program with `--framing length`, whose standard output is a pipe that only the test reads.
fn start(name: &str, arguments: &[&str]) -> (Running, PipeReader) {
    let (reader, stdout) = std::io::pipe().unwrap();
    let mut command = Command::new(program(name));
    command.args(arguments).args(["--tee", "--framing", "length", "-v"]).stdin(Stdio::null()).stdout(stdout);
    (Running::spawn(&mut command), reader)
}

/// Reads a pipe to its end.
struct Reading {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Reading {
    fn new(mut reader: PipeReader) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let into = bytes.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let len @ 1.. = reader.read(&mut buffer).unwrap() {
                into.lock().unwrap().extend_from_slice(&buffer[..len]);
            }
        });
        Self { bytes, thread }
    }

    fn ends_with(&self, bytes: &[u8]) -> bool {
        self.bytes.lock().unwrap().ends_with(bytes)
    }

    fn rest(self) -> Vec<u8> {
        self.thread.join().unwrap();
        Arc::into_inner(self.bytes).unwrap().into_inner().unwrap()
    }
}

/// An output beside standard output, which loses nothing.
enum Beside {
    Client(TcpStream),
    Target(UdpSocket),
    Path(File),
}

impl Beside {
    fn client(running: &Running, output: SocketAddr) -> Self {
        let stream = TcpStream::connect(output).unwrap();
        running.serves(stream.local_addr().unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::Client(stream)
    }

    fn path(path: &Path) -> Self {
        Self::Path(eventually("the file", || File::open(path).ok()))
    }

    /// Waits for the next datagram, which must be this one.
    #[track_caller]
    fn assert_gets(&mut self, expected: &[u8]) {
        let frame = framed(&[expected.to_vec()]);
        match self {
            Self::Client(stream) => {
                let mut got = vec![0; frame.len()];
                stream.read_exact(&mut got).unwrap();
                assert!(got == frame, "a client gets something else");
            }
            Self::Target(socket) => assert!(datagram(socket) == expected, "a target gets something else"),
            Self::Path(file) => {
                let (mut got, end) = (Vec::new(), Instant::now() + PATIENCE);
                while got.len() < frame.len() && Instant::now() < end {
                    file.take((frame.len() - got.len()) as u64).read_to_end(&mut got).unwrap();
                }
                assert!(got == frame, "the file gets something else");
            }
        }
    }
}

/// Sends datagrams, of which so few are under way at a time that no receive buffer is full, and checks that they get
/// to all outputs but standard output.
fn pump(sender: &UdpSocket, datagrams: &[Vec<u8>], outputs: &mut [Beside]) {
    for number in 0..datagrams.len() + UNDER_WAY {
        if let Some(datagram) = datagrams.get(number) {
            sender.send(datagram).unwrap();
        }
        if let Some(number) = number.checked_sub(UNDER_WAY) {
            for output in &mut *outputs {
                output.assert_gets(&datagrams[number]);
            }
        }
    }
}

/// What the program tells at its end of datagrams at standard output.
fn counted(running: &Running, what: &str) -> usize {
    let messages = running.messages();
    let before = messages.lines().find_map(|line| line.split_once(what)).map_or("0", |(before, _)| before);
    let number = before.rsplit_once("standard output: ").map_or(before, |(_, number)| number);
    number.trim().parse().unwrap()
}

/// The outputs beside standard output get everything while its reader has stalled. When it reads on, it gets what
/// waited for it, and what comes then.
fn assert_only_the_tee_misses(
    (mut running, reader): (Running, PipeReader),
    address: SocketAddr,
    outputs: &mut [Beside],
) {
    let (feed, sender) = (feed(), connected(address));
    pump(&sender, &feed.datagrams()[..FLOOD], outputs);
    running.says("standard output: its reader is too slow: it has missed ");
    let reading = Reading::new(reader);
    let mut rest = feed.datagrams()[FLOOD..].iter();
    let mut sent = FLOOD;
    eventually("what comes after the stall", || {
        let next = rest.next().unwrap();
        pump(&sender, std::slice::from_ref(next), outputs);
        sent += 1;
        std::thread::sleep(Duration::from_millis(5));
        reading.ends_with(next).then_some(())
    });
    running.stop();
    let mut tally = Tally::new(&feed, "length", 0);
    tally.take(&reading.rest());
    assert!(tally.is_whole());
    let missed = counted(&running, " missed by readers that were too slow");
    assert_eq!(tally.datagrams + missed, sent);
    assert!(missed > 400, "{missed}");
    assert_eq!(counted(&running, " not taken by readers that left"), 0);
}

#[test]
fn a_stalled_reader_holds_up_no_client_and_no_udp_output_of_a_reverse_proxy() {
    let (group, second) = (loopback_group(), loopback(2));
    for inputs in [&[][..], &["--udp-listen-addr", &second], &["--multicast-addr", &group]] {
        let (target, address) = udp();
        let arguments = ["--udp-listen-addr", LISTEN, "--tcp-output-addr", LISTEN, "--udp-output-addr"];
        let (running, reader) =
            start("mproxy-reverse", &[&arguments[..], &[&address.to_string()], inputs].concat());
        let client = Beside::client(&running, running.tcp_address(LISTEN));
        let input = running.udp_address(LISTEN);
        assert_only_the_tee_misses((running, reader), input, &mut [client, Beside::Target(target)]);
    }
}

#[test]
fn a_stalled_reader_holds_up_no_udp_output_that_is_alone_with_it() {
    let (target, address) = udp();
    let (running, reader) =
        start("mproxy-reverse", &["--udp-listen-addr", LISTEN, "--udp-output-addr", &address.to_string()]);
    let input = running.udp_address(LISTEN);
    assert_only_the_tee_misses((running, reader), input, &mut [Beside::Target(target)]);
}

#[test]
fn a_stalled_reader_holds_up_no_client_of_a_tcp_input() {
    let (running, _reader) =
        start("mproxy-reverse", &["--tcp-listen-addr", LISTEN, "--tcp-output-addr", "localhost:0"]);
    let mut client = Beside::client(&running, running.tcp_address("localhost:0"));
    let mut input = TcpStream::connect(running.tcp_address(LISTEN)).unwrap();
    let feed = feed();
    for datagram in &feed.datagrams()[..FLOOD] {
        input.write_all(&framed(std::slice::from_ref(datagram))).unwrap();
        client.assert_gets(datagram);
    }
    running.says("standard output: its reader is too slow: it has missed ");
}

#[test]
fn a_stalled_reader_holds_up_no_target_of_a_forward() {
    let (target, address) = udp();
    let (running, reader) = start(
        "mproxy-forward",
        &["--udp-listen-addr", LISTEN, "--udp-downstream-addr", &address.to_string()],
    );
    let input = running.udp_address(LISTEN);
    assert_only_the_tee_misses((running, reader), input, &mut [Beside::Target(target)]);
}

#[test]
fn a_stalled_reader_does_not_hold_up_the_file_of_a_server() {
    let (_directory, path) = temporary_file(b"");
    let (running, reader) = start("mproxy-server", &["--listen-addr", LISTEN, "--path", path_text(&path)]);
    let input = running.udp_address(LISTEN);
    assert_only_the_tee_misses((running, reader), input, &mut [Beside::path(&path)]);
}

#[test]
fn what_a_stalled_reader_has_not_taken_at_a_stop_is_counted() {
    let (_directory, path) = temporary_file(b"");
    let (mut running, reader) =
        start("mproxy-server", &["--listen-addr", LISTEN, "--path", path_text(&path)]);
    let feed = feed();
    pump(&connected(running.udp_address(LISTEN)), &feed.datagrams()[..FLOOD], &mut [Beside::path(&path)]);
    running.stop();
    running.says("standard output: its reader has stalled: ");
    let missed = counted(&running, " missed by readers that were too slow");
    let gone = counted(&running, " not taken by readers that left");
    assert!(missed > 400 && gone > 400, "{missed} {gone}");
    let stream = Reading::new(reader).rest();
    let mut tally = Tally::new(&feed, "length", 0);
    tally.take(&stream);
    // A write that waits has not begun, but on Windows.
    let taken = FLOOD - missed - gone;
    assert!(if cfg!(windows) { tally.datagrams >= taken } else { tally.datagrams == taken }, "{taken}");
}

#[test]
fn a_burst_waits_for_a_reader_that_comes_to_it_later() {
    let (_directory, path) = temporary_file(b"");
    let (mut running, reader) =
        start("mproxy-server", &["--listen-addr", LISTEN, "--path", path_text(&path)]);
    let feed = Feed::new(20_000, |_| 100);
    pump(&connected(running.udp_address(LISTEN)), feed.datagrams(), &mut [Beside::path(&path)]);
    let reading = Reading::new(reader);
    eventually("the burst", || reading.ends_with(&feed.datagrams()[feed.len() - 1]).then_some(()));
    running.stop();
    assert!(reading.rest() == framed(feed.datagrams()));
    assert_eq!(running.count("missed") + running.count("stalled"), 0, "{}", running.messages());
}

#[test]
fn datagrams_of_several_inputs_are_not_torn() {
    let inputs = [1, 2].map(loopback);
    let arguments = ["--udp-listen-addr", &inputs[0], "--udp-listen-addr", &inputs[1]];
    let (target, address) = udp();
    let output = ["--udp-output-addr", &address.to_string()];
    let (mut running, reader) = start("mproxy-reverse", &[&arguments[..], &output].concat());
    let reading = Reading::new(reader);
    let feeds = [Feed::new(2000, |number| 15 + number), Feed::new(2000, |_| 1000)];
    let senders = inputs.map(|input| connected(running.udp_address(&input)));
    for (first, second) in feeds[0].datagrams().iter().zip(feeds[1].datagrams()) {
        senders[0].send(first).unwrap();
        senders[1].send(second).unwrap();
        datagram(&target);
        datagram(&target);
    }
    running.stop();
    let stream = reading.rest();
    let mut tallies = [0, 1].map(|index| Tally::new(&feeds[index], "length", 0));
    let mut rest = &stream[..];
    while let Some((length, after)) = rest.split_first_chunk() {
        let (frame, after) = (&rest[..2 + usize::from(u16::from_be_bytes(*length))], after);
        let is_first = feeds[0].datagrams().get(tallies[0].next()).is_some_and(|next| frame[2..] == next[..]);
        tallies[usize::from(!is_first)].take(frame);
        rest = &after[frame.len() - 2..];
    }
    assert_eq!(tallies.map(|tally| tally.datagrams), [2000, 2000]);
}

/// Lines, and a client that sends them to standard output and a target, which has no room for all of them.
fn client(lines: usize) -> (Vec<u8>, UdpSocket, Running, PipeReader) {
    let content = Feed::new(lines, |_| 1000).datagrams().concat();
    let (_directory, path) = temporary_file(&content);
    let (target, address) = udp();
    let (reader, stdout) = std::io::pipe().unwrap();
    let mut command = Command::new(program("mproxy-client"));
    command.args(["--tee", "--path", path_text(&path), "--server-addr", &address.to_string(), "-v"]);
    let running = Running::spawn(command.stdin(Stdio::null()).stdout(stdout));
    running.sends(&address.to_string());
    (content, target, running, reader)
}

#[test]
fn a_client_waits_for_a_reader_that_reads_on() {
    let (content, _target, mut running, mut reader) = client(12_000);
    let (mut got, mut buffer) = (Vec::new(), vec![0; 200_000]);
    while let len @ 1.. = reader.read(&mut buffer).unwrap() {
        got.extend_from_slice(&buffer[..len]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(got == content, "{} of {} bytes", got.len(), content.len());
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn a_client_goes_on_without_a_reader_that_has_stalled() {
    let (content, _target, mut running, reader) = client(12_000);
    assert_eq!(running.exit_code(), 0);
    running.says("standard output: its reader has stalled: ");
    let (missed, gone) = (
        counted(&running, " missed by readers that were too slow"),
        counted(&running, " not taken by readers that left"),
    );
    assert!(missed > 0 && gone > 0, "{missed} {gone}");
    let got = Reading::new(reader).rest();
    // On Windows what a pipe holds can go with the process whose write has not returned.
    assert!(content.starts_with(&got) && (cfg!(windows) || !got.is_empty()));
}
