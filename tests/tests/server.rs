//! `mproxy-server`: what it receives, what is in its file, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mproxy_core::Interface;
use mproxy_tests::{
    Network, PATIENCE, Running, close, connected, eventually, file_with, free_port, loopback, loopback_group,
    needs_ipv6, needs_tools, path_text, pending, program, run, sender_to, start, start_piped,
};
use tempfile::TempDir;

const SERVER: &str = "mproxy-server";
const LISTEN: &str = "127.0.0.1:0";

/// The cause in a message about a port in use (EADDRINUSE).
const IN_USE: &str = if cfg!(windows) { "os error 10048" } else { "in use" };

/// A server that appends what comes to one listener to a file.
struct ToFile {
    server: Running,
    address: SocketAddr,
    directory: TempDir,
}

impl ToFile {
    fn start(options: &[&str]) -> Self {
        Self::on(LISTEN, options)
    }

    fn on(listen: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let arguments = ["--path", path.to_str().unwrap(), "--listen-addr", listen, "-v"];
        let server = start(SERVER, &[&arguments[..], options].concat());
        let address = server.udp_address(listen);
        // It listens before it opens the file, which may be named after its port.
        eventually("the file", || path.exists().then_some(()));
        Self { server, address, directory }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("out")
    }

    fn has(&self, bytes: usize) -> Vec<u8> {
        file_with(&self.path(), bytes)
    }
}

/// 128 bytes, of which whole ones fill a page: so not even a kill tears one.
fn record(number: usize) -> Vec<u8> {
    format!("{number:0127}\n").into_bytes()
}

/// Checks that the content is whole records in order, and returns their numbers.
fn records(content: &[u8]) -> Vec<usize> {
    let (whole, rest) = content.split_at(content.len() / 128 * 128);
    assert!(rest.is_empty(), "a part of a record at the end: {}", String::from_utf8_lossy(rest));
    let number = |record: &[u8]| std::str::from_utf8(record).unwrap().trim_end().parse().unwrap();
    let numbers: Vec<usize> = whole.chunks(128).map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "the records are out of order");
    numbers
}

/// Sends records as fast as it goes until it is dropped.
struct Fire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fire {
    fn at(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let socket = connected(address);
            for number in 0.. {
                // Refused once the server is gone.
                let _ = socket.send(&record(number));
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// A server whose standard output is a pipe that only the test reads.
fn start_with_pipe(arguments: &[&str]) -> (Running, PipeReader) {
    let (reader, stdout) = std::io::pipe().unwrap();
    let mut command = Command::new(program(SERVER));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout);
    (Running::spawn(&mut command), reader)
}

/// Waits until a pipe has little room left, or none: of the 16 pages of Linux a write that does not fit into the
/// rest of one begins another, so that each may be hardly more than half full. On Windows a pipe holds 4096
/// bytes, and a write that waits for room shows, too.
fn stalled(reader: &PipeReader) {
    let full = if cfg!(target_os = "linux") { 32_768 } else { 4096 };
    eventually("a full pipe", || (pending(reader).unwrap() >= full).then_some(()));
}

fn an_existing_file_is_appended_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    std::fs::write(&path, "before\n").unwrap();
    for (run, expected) in [("one\n", "before\none\n"), ("two\n", "before\none\ntwo\n")] {
        let mut server = start(SERVER, &["--path", path_text(&path), "--listen-addr", LISTEN, "-v"]);
        connected(server.udp_address(LISTEN)).send(run.as_bytes()).unwrap();
        assert_eq!(file_with(&path, expected.len()), expected.as_bytes());
        server.stop();
        assert_eq!(std::fs::read(&path).unwrap(), expected.as_bytes());
    }
}

fn a_dash_as_path_is_standard_output() {
    let directory = tempfile::tempdir().unwrap();
    for options in [&["--path", "-"][..], &["--tee"], &["--path", "-", "--tee"]] {
        let mut command = Command::new(program(SERVER));
        command.args(options).args(["--listen-addr", LISTEN, "-v"]).current_dir(&directory);
        let mut server = Running::new(command.stdin(Stdio::null()));
        let socket = connected(server.udp_address(LISTEN));
        for datagram in [&b"one\n"[..], b"\0\xff", b"\r\n\n"] {
            socket.send(datagram).unwrap();
        }
        assert_eq!(server.writes(9), b"one\n\0\xff\r\n\n");
        server.stop();
        assert_eq!(server.stdout(), b"one\n\0\xff\r\n\n", "{options:?}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "a file was made");
    }
}

fn a_tee_copies_what_the_file_gets() {
    let mut to_file = ToFile::start(&["-t"]);
    connected(to_file.address).send(b"for both\0\xff\n").unwrap();
    assert_eq!(to_file.has(11), b"for both\0\xff\n");
    assert_eq!(to_file.server.writes(11), b"for both\0\xff\n");
    to_file.server.stop();
}

fn many_senders_and_listeners_share_a_file_and_every_line_is_whole() {
    const SENDERS: usize = 2;
    // The lines of a listener's senders, all at once, that the smallest usual receive buffer holds.
    const LINES: usize = 120;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let listen = [1, 2, 3].map(loopback);
    let mut arguments = vec!["--path", path_text(&path), "-v"];
    for endpoint in &listen {
        arguments.extend(["--listen-addr", endpoint]);
    }
    let mut server = start(SERVER, &arguments);
    let mut threads = Vec::new();
    for endpoint in &listen {
        let address = server.udp_address(endpoint);
        for number in 0..SENDERS {
            let name = format!("{endpoint}/{number}");
            threads.push(std::thread::spawn(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                for line in 0..LINES {
                    let filler = "x".repeat(line * 7 % 300);
                    let datagram = format!("{name} {line} {filler}\n");
                    socket.send_to(datagram.as_bytes(), address).unwrap();
                }
            }));
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let expected = listen.len() * SENDERS * LINES;
    let content = eventually("all of the lines", || {
        let content = std::fs::read_to_string(&path).unwrap();
        (content.lines().count() == expected).then_some(content)
    });
    let mut next: HashMap<&str, usize> = HashMap::new();
    for line in content.lines() {
        let [name, number, filler] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("torn: {line}") };
        let expected = next.entry(name).or_default();
        assert_eq!(number.parse(), Ok(*expected), "{line}");
        assert_eq!(filler, "x".repeat(*expected * 7 % 300), "{line}");
        *expected += 1;
    }
    assert_eq!(next.len(), listen.len() * SENDERS);
    server.stop();
}

fn an_addr_in_the_path_gives_each_listener_its_own_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("{addr}.log");
    let group = loopback_group();
    let mut server = start(
        SERVER,
        &[
            "--path",
            path_text(&path),
            "--listen-addr",
            LISTEN,
            "--listen-addr",
            "localhost:0",
            "--listen-addr",
            &group,
            "-v",
        ],
    );
    let (by_address, by_name) = (server.udp_address(LISTEN), server.udp_address("localhost:0"));
    server.listens(&group);
    connected(by_address).send(b"by address\n").unwrap();
    connected(by_name).send(b"by name\n").unwrap();
    sender_to(&group).send(b"by group\n").unwrap();
    // A colon in the name of a file would begin the name of an alternate stream there.
    let own = |name: String| if cfg!(windows) { name.replace(':', "_") } else { name };
    let file = |name: String| directory.path().join(own(name) + ".log");
    assert_eq!(file_with(&file(by_address.to_string()), 11), b"by address\n");
    assert_eq!(file_with(&file(format!("localhost:{}", by_name.port())), 8), b"by name\n");
    assert_eq!(file_with(&file(group), 9), b"by group\n");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
    server.stop();
}

/// Every size that is a limit of something, each in a datagram of its own. With this framing the file
/// shows where each ended.
fn sizes(listen: &str, sizes: &[usize]) {
    let mut to_file = ToFile::on(listen, &["--framing", "lines"]);
    let socket = connected(to_file.address);
    let mut expected = Vec::new();
    for size in sizes {
        let datagram: Vec<u8> = (0..*size).map(|i| u8::try_from(i % 127).unwrap() | 0x80).collect();
        assert_eq!(socket.send(&datagram).unwrap(), *size);
        expected.extend(datagram);
        expected.push(b'\n');
        assert!(to_file.has(expected.len()) == expected, "{size} bytes were not the same");
    }
    socket.send(b"a newline of its own\n").unwrap();
    expected.extend(b"a newline of its own\n");
    assert!(to_file.has(expected.len()) == expected);
    to_file.server.stop();
    assert!(std::fs::read(to_file.path()).unwrap() == expected);
}

fn datagrams_of_any_size_are_written_unaltered() {
    sizes(LISTEN, &[0, 1, 0, 0, 2, 1472, 1473, 8192, 65_506, 65_507, 0]);
}

fn datagrams_of_any_size_are_written_unaltered_over_ipv6() {
    needs_ipv6();
    sizes("[::1]:0", &[0, 1, 1452, 1453, 65_507, 65_527, 0]);
}

fn without_framing_the_payloads_are_back_to_back() {
    for framing in ["auto", "blocks", "raw"] {
        let mut to_file = ToFile::start(&["--framing", framing]);
        let socket = connected(to_file.address);
        for datagram in [&b"one"[..], b"", b"\n", b"two\n\n", b"\0"] {
            socket.send(datagram).unwrap();
        }
        assert_eq!(to_file.has(10), b"one\ntwo\n\n\0");
        to_file.server.stop();
        assert_eq!(std::fs::read(to_file.path()).unwrap(), b"one\ntwo\n\n\0", "{framing}");
    }
}

fn two_servers_of_one_group_both_get_everything() {
    let group = loopback_group();
    let servers = [
        start(SERVER, &["--tee", "--listen-addr", &group, "-v"]),
        start(SERVER, &["--tee", "--listen-addr", &group, "-v"]),
    ];
    let interface = Interface::find("127.0.0.1").unwrap().to_string();
    for server in &servers {
        assert_eq!(server.joined_group(&group).interface, interface);
    }
    let input = b"one\ntwo\n\0\xff\nthree";
    let client = run("mproxy-client", &["--path", "-", "--server-addr", &group], input);
    assert_eq!((client.code, client.stderr.as_str()), (0, ""));
    for mut server in servers {
        assert_eq!(server.writes(input.len()), input);
        server.stop();
        assert_eq!(server.stdout(), input);
    }
}

fn a_group_listener_gets_nothing_but_its_group() {
    let group = loopback_group();
    let port = group.rsplit(':').next().unwrap();
    let other = format!("239.193.1.1%127.0.0.1:{port}");
    let unicast = format!("127.0.0.1:{port}");
    let listen = |endpoint: &str| {
        let server = start(SERVER, &["--tee", "--listen-addr", endpoint, "-v"]);
        server.listens(endpoint);
        server
    };
    // The host has joined the other group, and has a listener for the unicast address. Windows may give what is sent
    // there to a listener of the group, which must not take it.
    let mut others = listen(&other);
    let mut to_unicast = cfg!(unix).then(|| listen(&unicast));
    let mut server = listen(&group);
    sender_to(&other).send(b"other group\n").unwrap();
    connected(unicast.parse().unwrap()).send(b"unicast\n").unwrap();
    assert_eq!(others.writes(12), b"other group\n");
    if let Some(to_unicast) = &to_unicast {
        assert_eq!(to_unicast.writes(8), b"unicast\n");
    }
    sender_to(&group).send(b"marker\n").unwrap();
    assert_eq!(server.writes(7), b"marker\n");
    for server in [&mut server, &mut others].into_iter().chain(&mut to_unicast) {
        server.stop();
    }
    assert_eq!(server.stdout(), b"marker\n");
    assert_eq!(others.stdout(), b"other group\n");
    assert!(to_unicast.is_none_or(|server| server.stdout() == b"unicast\n"));
}

fn one_server_listens_to_several_groups_on_one_port_each_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("{addr}");
    let group = loopback_group();
    let other = format!("239.193.1.2%127.0.0.1:{}", group.rsplit(':').next().unwrap());
    let mut server =
        start(SERVER, &["--path", path_text(&path), "--listen-addr", &group, "--listen-addr", &other, "-v"]);
    for endpoint in [&group, &other] {
        server.listens(endpoint);
    }
    for text in ["one\n", "two\n"] {
        sender_to(&group).send(format!("group {text}").as_bytes()).unwrap();
        sender_to(&other).send(format!("other {text}").as_bytes()).unwrap();
    }
    let own = |group: &str| if cfg!(windows) { group.replace(':', "_") } else { group.to_owned() };
    assert_eq!(file_with(&directory.path().join(own(&group)), 20), b"group one\ngroup two\n");
    assert_eq!(file_with(&directory.path().join(own(&other)), 20), b"other one\nother two\n");
    server.stop();
}

fn source_specific_multicast_takes_one_source_only() {
    let port = free_port();
    let group = format!("232.1.1.1%127.0.0.1:{port}");
    let listen = format!("127.0.0.1@{group}");
    let mut server = start(SERVER, &["--tee", "--listen-addr", &listen, "-v"]);
    assert_eq!(server.joined_group(&listen).source, Some(Ipv4Addr::LOCALHOST.into()));
    if cfg!(target_os = "linux") {
        let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
        socket2::SockRef::from(&stranger).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        stranger.send_to(b"stranger\n", ("232.1.1.1", port)).unwrap();
    }
    sender_to(&group).send(b"marker\n").unwrap();
    assert_eq!(server.writes(7), b"marker\n");
    server.stop();
    assert_eq!(server.stdout(), b"marker\n");
}

fn a_unicast_address_cannot_be_listened_on_twice() {
    let to_file = ToFile::start(&[]);
    let address = to_file.address.to_string();
    let second = run(SERVER, &["--tee", "--listen-addr", &address], b"");
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains(&address) && second.stderr.contains(IN_USE), "{}", second.stderr);
    assert_eq!(second.stderr.lines().count(), 1, "{}", second.stderr);
    // Not even by one that would share it.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    #[cfg(unix)]
    socket.set_reuse_port(true).unwrap();
    assert!(socket.bind(&to_file.address.into()).is_err(), "the stream could be stolen");
}

fn a_name_is_listened_to_on_all_of_its_addresses() {
    let network = Network::loopback();
    network.set_names(
        0,
        "127.0.0.1 localhost\n127.9.8.6 several.test\n127.9.8.5 several.test\n::1 several.test\n",
    );
    let mut server = network.start(0, SERVER, &["--tee", "--listen-addr", "several.test:0", "-v"]);
    let mut len = 0;
    for ip in ["127.9.8.6:", "127.9.8.5:", "[::1]:"] {
        let address = server.udp_address_on("several.test:0", ip);
        network.on(0, || connected(address)).send(b"one\n").unwrap();
        len += 4;
        assert_eq!(server.writes(len), b"one\n".repeat(len / 4));
    }
    server.stop();
}

fn a_receive_buffer_is_made_as_large_as_was_asked_for() {
    for (text, bytes) in [("128k", 131_072), ("65536", 65_536)] {
        let to_file = ToFile::start(&["--recv-buffer", text]);
        assert_eq!(to_file.server.receive_buffer(LISTEN), bytes);
    }
}

/// The receive buffer is large, and nothing more comes in while it is emptied.
#[cfg(target_os = "linux")]
fn all_that_the_socket_holds_at_sigterm_is_in_the_file() {
    /// Buffer space that the system counts for a datagram of this size, and more.
    const ROOM: usize = 4096;
    const SIZE: usize = 1316;
    let mut to_file = ToFile::start(&[]);
    let buffer = to_file.server.receive_buffer(LISTEN);
    let sender = connected(to_file.address);
    sender.send(b"first").unwrap();
    to_file.has(5);
    to_file.server.signal(rustix::process::Signal::STOP);
    let count = 2 * buffer / ROOM;
    for number in 0..count {
        sender.send(&[u8::try_from(number % 256).unwrap(); SIZE]).unwrap();
    }
    to_file.server.interrupt();
    to_file.server.signal(rustix::process::Signal::CONT);
    assert_eq!(to_file.server.exit_code(), 0);
    let written = std::fs::read(to_file.path()).unwrap();
    assert_eq!(written.len(), 5 + count * SIZE, "{}", to_file.server.messages());
    for (number, datagram) in written[5..].chunks(SIZE).enumerate() {
        assert!(datagram.iter().all(|byte| usize::from(*byte) == number % 256), "datagram {number}");
    }
}

#[cfg(target_os = "linux")]
fn a_listener_of_several_threads_has_its_port_for_itself() {
    let to_file = ToFile::start(&["--threads", "2"]);
    let taken = to_file.address.to_string();
    for threads in ["1", "2"] {
        let mut second =
            start(SERVER, &["--path", "/dev/null", "--listen-addr", &taken, "--threads", threads]);
        assert_eq!(second.exit_code(), 1);
        assert!(second.messages().contains(&format!("cannot listen on {taken}: ")), "{}", second.messages());
    }
}

#[cfg(all(target_os = "linux", not(mproxy_portable)))]
fn what_the_system_drops_is_spoken_of_once() {
    let mut to_file = ToFile::start(&["--recv-buffer", "1"]);
    let sender = connected(to_file.address);
    let said = "the system has dropped some";
    eventually("a full receive buffer", || {
        for _ in 0..50 {
            sender.send(&[b'x'; 1000]).unwrap();
        }
        to_file.server.messages().contains(said).then_some(())
    });
    for _ in 0..500 {
        sender.send(&[b'x'; 1000]).unwrap();
    }
    to_file.server.stop();
    let messages = to_file.server.messages();
    assert_eq!(messages.matches(said).count(), 1, "{messages}");
}

fn a_full_device_ends_the_program_and_is_named() {
    needs_tools(&["/dev/full"]);
    let mut server = start(
        SERVER,
        &["--path", "/dev/full", "--listen-addr", "localhost:0", "--listen-addr", LISTEN, "-v"],
    );
    connected(server.udp_address(LISTEN)).send(b"no room\n").unwrap();
    assert_eq!(server.exit_code(), 1);
    let messages = server.messages();
    let last = messages.lines().last().unwrap();
    assert!(last.starts_with("mproxy-server: cannot write to /dev/full: "), "{messages}");
}

#[cfg(unix)]
fn a_file_that_can_grow_no_more_holds_whole_datagrams_from_the_start() {
    for (framing, record) in [("auto", &b"0123456789".repeat(10)[..]), ("lines", &b"012345678".repeat(11))] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut command = Command::new("bash");
        // 8 blocks of 1024 bytes.
        command.args(["-c", r#"ulimit -f 8; exec "$0" "$@""#]).arg(program(SERVER));
        command.args(["--path", path_text(&path), "--listen-addr", LISTEN, "-v", "--framing", framing]);
        let mut server = Running::new(command.stdin(Stdio::null()));
        let socket = connected(server.udp_address(LISTEN));
        for number in 0..100 {
            let mut datagram = record.to_vec();
            datagram[..3].copy_from_slice(format!("{number:03}").as_bytes());
            let _ = socket.send(&datagram);
        }
        assert_eq!(server.exit_code(), 1, "{}", server.messages());
        let messages = server.messages();
        let last = messages.lines().last().unwrap();
        assert!(last.contains("cannot write to") && last.contains(path_text(&path)), "{messages}");
        let content = std::fs::read(&path).unwrap();
        let size = if framing == "lines" { record.len() + 1 } else { record.len() };
        assert_eq!(content.len(), 8192 / size * size, "{framing}");
        for (number, datagram) in content.chunks(size).enumerate() {
            assert_eq!(&datagram[..3], format!("{number:03}").as_bytes());
            assert_eq!(&datagram[3..record.len()], &record[3..]);
        }
    }
}

fn a_file_that_was_truncated_is_appended_to_from_its_new_end() {
    let mut to_file = ToFile::start(&[]);
    let socket = connected(to_file.address);
    socket.send(b"before\n").unwrap();
    assert_eq!(to_file.has(7), b"before\n");
    File::options().write(true).open(to_file.path()).unwrap().set_len(0).unwrap();
    for text in ["after\n", "that\n"] {
        socket.send(text.as_bytes()).unwrap();
    }
    assert_eq!(to_file.has(11), b"after\nthat\n");
    to_file.server.stop();
    assert_eq!(std::fs::read(to_file.path()).unwrap(), b"after\nthat\n");
}

fn a_kill_in_mid_stream_leaves_an_exact_beginning_of_what_was_sent() {
    let mut to_file = ToFile::start(&[]);
    let socket = connected(to_file.address);
    // Never more on the way than any receive buffer holds, so that none is lost for want of room.
    let mut sent = 0;
    while sent < 2000 {
        let len = std::fs::metadata(to_file.path()).map_or(0, |meta| meta.len());
        if sent < usize::try_from(len).unwrap() / 128 + 50 {
            socket.send(&record(sent)).unwrap();
            sent += 1;
        }
    }
    to_file.server.kill();
    assert!(!to_file.server.wait().success());
    let numbers = records(&std::fs::read(to_file.path()).unwrap());
    assert!(numbers.len() >= 2000 - 50, "{} records", numbers.len());
    assert!(numbers.iter().copied().eq(0..numbers.len()), "not the beginning of what was sent");
}

fn what_was_received_is_in_the_file_at_once() {
    let mut to_file = ToFile::start(&[]);
    connected(to_file.address).send(b"a single datagram").unwrap();
    assert_eq!(to_file.has(17), b"a single datagram");
    to_file.server.kill();
    to_file.server.wait();
    assert_eq!(std::fs::read(to_file.path()).unwrap(), b"a single datagram");
}

fn a_stop_signal_under_fire_ends_the_program_with_whole_datagrams() {
    let stops: &[fn(&Running)] = &[
        Running::interrupt,
        #[cfg(unix)]
        |server| server.signal(rustix::process::Signal::INT),
    ];
    for stop in stops {
        let mut to_file = ToFile::start(&[]);
        let fire = Fire::at(to_file.address);
        to_file.has(100_000);
        let begin = Instant::now();
        stop(&to_file.server);
        assert_eq!(to_file.server.exit_code(), 0, "{}", to_file.server.messages());
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        drop(fire);
        assert!(records(&std::fs::read(to_file.path()).unwrap()).len() > 100);
    }
}

#[cfg(unix)]
fn a_stop_signal_lets_the_server_deliver_what_its_socket_holds() {
    let mut to_file = ToFile::start(&["--tee"]);
    let socket = connected(to_file.address);
    socket.send(&record(0)).unwrap();
    to_file.has(128);
    to_file.server.signal(rustix::process::Signal::STOP);
    for number in 1..200 {
        socket.send(&record(number)).unwrap();
    }
    to_file.server.interrupt();
    to_file.server.signal(rustix::process::Signal::CONT);
    assert_eq!(to_file.server.exit_code(), 0);
    let content = std::fs::read(to_file.path()).unwrap();
    assert!(records(&content).into_iter().eq(0..200));
    assert!(to_file.server.stdout() == content, "the tee lacks something");
}

#[cfg(unix)]
fn a_second_stop_signal_ends_the_program_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    assert!(mproxy_tests::output(Command::new("mkfifo").arg(&path)).status.success());
    // A FIFO that is open but never read holds the server up; opened so, it does not hold up the test.
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let mut codes = Vec::new();
    for again in [false, true] {
        let mut server = start(SERVER, &["--path", path_text(&path), "--listen-addr", LISTEN, "-v"]);
        let socket = connected(server.udp_address(LISTEN));
        for _ in 0..20 {
            socket.send(&[b'x'; 8000]).unwrap();
        }
        server.interrupt();
        // One right after the first counts as the same.
        eventually("the end of the server", || {
            if again {
                server.signal(rustix::process::Signal::INT);
            }
            server.has_ended().then_some(())
        });
        codes.push(server.exit_code());
    }
    // A single one ends even this, as well as it can.
    assert_eq!(codes[0], 0);
    assert_ne!(codes[1], 0, "the second signal was not heard");
    close(reader);
}

fn the_file_goes_on_when_the_reader_of_the_tee_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let (mut server, mut reader) =
        start_with_pipe(&["--path", path_text(&path), "--listen-addr", LISTEN, "--tee", "-v"]);
    let socket = connected(server.udp_address(LISTEN));
    socket.send(b"one\n").unwrap();
    let mut line = [0; 4];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"one\n");
    close(reader);
    for text in ["two\n", "three\n", "four\n"] {
        socket.send(text.as_bytes()).unwrap();
    }
    assert_eq!(file_with(&path, 19), b"one\ntwo\nthree\nfour\n");
    // A process that is just being started elsewhere may have held the pipe open until now.
    eventually("a warning", || {
        socket.send(b"more\n").unwrap();
        server.messages().contains("standard output").then_some(())
    });
    server.stop();
    assert_eq!(server.warnings().len(), 1, "{}", server.messages());
}

fn a_server_to_standard_output_alone_ends_quietly_with_its_reader() {
    for option in [&["--path", "-"][..], &["--tee"]] {
        let (mut server, mut reader) = start_with_pipe(
            &[option, &["--listen-addr", LISTEN, "--listen-addr", "localhost:0", "-v"]].concat(),
        );
        let socket = connected(server.udp_address(LISTEN));
        server.udp_address("localhost:0");
        socket.send(b"one\n").unwrap();
        let mut line = [0; 4];
        reader.read_exact(&mut line).unwrap();
        close(reader);
        // It finds out with what it writes next; when it has ended, its port refuses.
        eventually("its end", || {
            let _ = socket.send(b"two\n");
            server.has_ended().then_some(())
        });
        assert_eq!(server.exit_code(), 0);
        assert!(server.warnings().is_empty(), "{}", server.messages());
    }
}

fn a_stop_signal_ends_a_server_whose_tee_is_not_read_and_its_file_has_everything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let (mut server, reader) =
        start_with_pipe(&["--path", path_text(&path), "--listen-addr", LISTEN, "--tee", "-v"]);
    let socket = connected(server.udp_address(LISTEN));
    // More than a pipe holds, and what is left no more than a receive buffer does.
    let mut expected = Vec::new();
    for number in 0..160 {
        let datagram = record(number).repeat(7);
        socket.send(&datagram).unwrap();
        expected.extend(datagram);
    }
    stalled(&reader);
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(std::fs::read(&path).unwrap() == expected, "the file lacks something");
    close(reader);
}

fn a_stop_signal_ends_a_server_whose_standard_output_alone_is_not_read() {
    let (mut server, reader) = start_with_pipe(&["--path", "-", "--listen-addr", LISTEN, "-v"]);
    let socket = connected(server.udp_address(LISTEN));
    for _ in 0..100 {
        socket.send(&[b'x'; 1000]).unwrap();
    }
    stalled(&reader);
    server.stop();
}

fn a_hundred_megabytes_of_lines_arrive_byte_for_byte() {
    /// Bytes on the way: as many as the smallest usual receive buffer holds. The rate spreads them, and
    /// this keeps a busy machine from losing any, since UDP has no other way to wait for a receiver.
    const WINDOW: u64 = 128 * 1024;
    const TOTAL: usize = 100_000_000;

    let mut input = String::with_capacity(TOTAL + 200);
    let mut number = 0_u64;
    while input.len() < TOTAL {
        writeln!(
            input,
            "line {number} {}",
            &"abcdefghijklmnopqrstuvwxyz"[..usize::try_from(number % 27).unwrap()]
        )
        .unwrap();
        number += 1;
    }
    let input = input.into_bytes();

    let mut to_file = ToFile::start(&[]);
    let address = to_file.address.to_string();
    let (mut client, mut stdin) =
        start_piped("mproxy-client", &["--path", "-", "--server-addr", &address, "--rate", "1G"]);
    let written = File::open(to_file.path()).unwrap();
    let mut end = Instant::now() + PATIENCE;
    let mut sent = 0;
    let mut arrived = 0;
    for chunk in input.chunks(32 * 1024) {
        while sent > arrived + WINDOW {
            let len = written.metadata().unwrap().len();
            if len > arrived {
                (arrived, end) = (len, Instant::now() + PATIENCE);
            } else {
                assert!(Instant::now() < end, "{arrived} bytes of {sent} have arrived");
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        stdin.write_all(chunk).unwrap();
        sent += chunk.len() as u64;
    }
    drop(stdin);
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    let content = to_file.has(input.len());
    to_file.server.stop();
    assert!(content == input, "the bytes differ");
}

mproxy_tests::main!(
    an_existing_file_is_appended_to,
    a_dash_as_path_is_standard_output,
    a_tee_copies_what_the_file_gets,
    many_senders_and_listeners_share_a_file_and_every_line_is_whole,
    an_addr_in_the_path_gives_each_listener_its_own_file,
    datagrams_of_any_size_are_written_unaltered,
    datagrams_of_any_size_are_written_unaltered_over_ipv6,
    without_framing_the_payloads_are_back_to_back,
    two_servers_of_one_group_both_get_everything,
    a_group_listener_gets_nothing_but_its_group,
    one_server_listens_to_several_groups_on_one_port_each_by_itself,
    source_specific_multicast_takes_one_source_only,
    a_unicast_address_cannot_be_listened_on_twice,
    a_name_is_listened_to_on_all_of_its_addresses,
    a_receive_buffer_is_made_as_large_as_was_asked_for,
    #[cfg(target_os = "linux")]
    all_that_the_socket_holds_at_sigterm_is_in_the_file,
    #[cfg(target_os = "linux")]
    a_listener_of_several_threads_has_its_port_for_itself,
    #[cfg(all(target_os = "linux", not(mproxy_portable)))]
    what_the_system_drops_is_spoken_of_once,
    a_full_device_ends_the_program_and_is_named,
    #[cfg(unix)]
    a_file_that_can_grow_no_more_holds_whole_datagrams_from_the_start,
    a_file_that_was_truncated_is_appended_to_from_its_new_end,
    a_kill_in_mid_stream_leaves_an_exact_beginning_of_what_was_sent,
    what_was_received_is_in_the_file_at_once,
    a_stop_signal_under_fire_ends_the_program_with_whole_datagrams,
    #[cfg(unix)]
    a_stop_signal_lets_the_server_deliver_what_its_socket_holds,
    #[cfg(unix)]
    a_second_stop_signal_ends_the_program_at_once,
    the_file_goes_on_when_the_reader_of_the_tee_goes_away,
    a_server_to_standard_output_alone_ends_quietly_with_its_reader,
    a_stop_signal_ends_a_server_whose_tee_is_not_read_and_its_file_has_everything,
    a_stop_signal_ends_a_server_whose_standard_output_alone_is_not_read,
    a_hundred_megabytes_of_lines_arrive_byte_for_byte,
);
