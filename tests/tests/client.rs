//! `mproxy-client`: what it reads, how it cuts it into datagrams, and what it does about its targets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::UdpSocket;
#[cfg(unix)]
use std::path::Path;
use std::process::Command;
#[cfg(unix)]
use std::process::Stdio;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Network, Running, close, datagram, eventually, loopback_group, member, needs_ipv6, path_text, program,
    run, start, start_piped, temporary_file, udp, udp_on,
};

const CLIENT: &str = "mproxy-client";

/// Bytes that text handling would change: empty lines, NUL, carriage returns, invalid UTF-8, and no
/// newline at the end.
const AWKWARD: &[u8] = b"\n\none\r\n\0\0\n\xff\xfe\xc0\xaf\n\xe2\x82\n\x1b[0m\x04\x1a\n\n no newline";

#[cfg(unix)]
fn make_fifo(path: &Path) {
    assert!(mproxy_tests::output(Command::new("mkfifo").arg(path)).status.success());
}

/// Datagrams until they hold as many bytes.
fn datagrams(socket: &UdpSocket, bytes: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut len = 0;
    while len < bytes {
        all.push(datagram(socket));
        len += all.last().unwrap().len();
    }
    all
}

/// A client with pipes at both ends that the test holds.
fn piped_both_ways(arguments: &[&str]) -> (Running, PipeWriter, PipeReader) {
    let (stdin, input) = std::io::pipe().unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let mut command = Command::new(program(CLIENT));
    command.args(arguments).stdin(stdin).stdout(stdout);
    // The command and with it this process's copies of the program's ends are gone when this returns.
    (Running::spawn(&mut command), input, output)
}

/// An address on loopback that nobody listens on, nor will by chance: other sockets of the tests bind
/// 127.0.0.1, or a wildcard for a moment.
fn dead_address() -> String {
    let address = if cfg!(target_os = "linux") { "127.9.8.7:0" } else { "127.0.0.1:0" };
    UdpSocket::bind(address).unwrap().local_addr().unwrap().to_string()
}

fn lines_with<'a>(messages: &'a str, text: &str) -> Vec<&'a str> {
    messages.lines().filter(|line| line.contains(text)).collect()
}

fn standard_input_goes_out_byte_for_byte() {
    let (socket, address) = udp();
    let outcome = run(CLIENT, &["--path", "-", "--server-addr", &address.to_string()], AWKWARD);
    assert_eq!((outcome.code, outcome.stderr.as_str(), outcome.stdout.len()), (0, "", 0));
    assert_eq!(datagrams(&socket, AWKWARD.len()).concat(), AWKWARD);
}

fn a_file_goes_out_byte_for_byte() {
    let (_directory, path) = temporary_file(AWKWARD);
    let (socket, address) = udp();
    let arguments = ["--path", path_text(&path), "--server-addr", &address.to_string()];
    let outcome = run(CLIENT, &arguments, b"not read");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert_eq!(datagrams(&socket, AWKWARD.len()).concat(), AWKWARD);
}

fn a_file_goes_out_byte_for_byte_over_ipv4_and_ipv6() {
    needs_ipv6();
    let (_directory, path) = temporary_file(AWKWARD);
    let ((ipv4, to_ipv4), (ipv6, to_ipv6)) = (udp(), udp_on("[::1]:0"));
    let targets = [format!("--server-addr={to_ipv4}"), format!("--server-addr={to_ipv6}")];
    let outcome = run(CLIENT, &["--path", path_text(&path), &targets[0], &targets[1]], b"not read");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    for socket in [ipv4, ipv6] {
        assert_eq!(datagrams(&socket, AWKWARD.len()).concat(), AWKWARD);
    }
}

#[cfg(unix)]
fn a_fifo_goes_out_until_its_last_writer_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    make_fifo(&path);
    let (socket, address) = udp();
    let mut client = start(CLIENT, &["--path", path_text(&path), "--server-addr", &address.to_string()]);
    // Opening waits for the client.
    let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
    writer.write_all(b"one\n").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    writer.write_all(AWKWARD).unwrap();
    assert_eq!(datagrams(&socket, AWKWARD.len()).concat(), AWKWARD);
    drop(writer);
    assert_eq!(client.exit_code(), 0);
    assert_eq!(client.messages(), "");
}

#[cfg(target_os = "linux")]
fn a_signal_ends_a_client_whose_fifo_has_no_writer_yet() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    make_fifo(&path);
    let mut client = start(CLIENT, &["--path", path_text(&path), "--tee"]);
    let pid = client.id();
    eventually("the client to catch signals", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        (caught & (1 << (15 - 1)) != 0).then_some(())
    });
    client.stop();
}

#[cfg(unix)]
fn a_descriptor_and_a_device_can_be_the_path() {
    let (_directory, path) = temporary_file(AWKWARD);
    let (socket, address) = udp();
    let mut command = Command::new("bash");
    command.args(["-c", r#"exec "$0" --path /dev/fd/7 --server-addr "$1" 7<"$2""#]).args([
        program(CLIENT),
        address.to_string().into(),
        path,
    ]);
    let mut client = Running::new(command.stdin(Stdio::null()));
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(datagrams(&socket, AWKWARD.len()).concat(), AWKWARD);

    let empty = run(CLIENT, &["--path", "/dev/null", "--server-addr", &address.to_string()], b"");
    assert_eq!((empty.code, empty.stderr.as_str()), (0, ""));

    // A device without an end: it goes on until it is stopped.
    let mut zeros =
        start(CLIENT, &["--path", "/dev/zero", "--rate", "8M", "--server-addr", &address.to_string()]);
    for _ in 0..20 {
        assert!(datagram(&socket).iter().all(|byte| *byte == 0));
    }
    zeros.stop();
}

fn auto_framing_ends_datagrams_at_newlines_and_lets_an_unfinished_line_go() {
    let (socket, address) = udp();
    let (mut client, mut stdin) = start_piped(CLIENT, &["--path=-", "--server-addr", &address.to_string()]);
    stdin.write_all(b"one\ntwo\nthr").unwrap();
    assert_eq!(datagram(&socket), b"one\ntwo\n");
    // The pipe stays open.
    assert_eq!(datagram(&socket), b"thr");
    stdin.write_all(b"ee\n").unwrap();
    assert_eq!(datagram(&socket), b"ee\n");
    stdin.write_all(b"last").unwrap();
    drop(stdin);
    assert_eq!(datagram(&socket), b"last");
    assert_eq!(client.exit_code(), 0);
}

fn auto_framing_fills_a_datagram_with_whole_lines_and_cuts_a_line_that_is_too_long() {
    let (socket, address) = udp();
    let address = address.to_string();
    let arguments = ["--path", "-", "--server-addr", &address, "--datagram-size", "8"];
    for framing in ["auto", "lines"] {
        let outcome = run(
            CLIENT,
            &[&arguments[..], &["--framing", framing]].concat(),
            b"a\nbc\nde\nfgh\n0123456789\nx\n",
        );
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        for expected in [&b"a\nbc\nde\n"[..], b"fgh\n", b"01234567", b"89\nx\n"] {
            assert_eq!(datagram(&socket), expected, "{framing}");
        }
    }
}

fn a_dribbled_line_arrives_complete_and_in_order() {
    let (socket, address) = udp();
    let (mut client, mut stdin) =
        start_piped(CLIENT, &["--path", "-", "--server-addr", &address.to_string()]);
    let sentence = b"$GPGGA,092750.000,5321.6802,N,00630.3372,W,1,8,1.03,61.7,M,55.2,M,,*76\r\n";
    for byte in sentence {
        stdin.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let got = datagrams(&socket, sentence.len());
    assert_eq!(got.concat(), sentence);
    // A slow machine may make several of it, but not one of each byte.
    assert!(got.len() < sentence.len(), "{} datagrams", got.len());
    drop(stdin);
    assert_eq!(client.exit_code(), 0);
}

fn lines_framing_waits_for_the_newline_or_the_end() {
    let (socket, address) = udp();
    let (mut client, mut stdin) =
        start_piped(CLIENT, &["--path", "-", "--framing", "lines", "--server-addr", &address.to_string()]);
    stdin.write_all(b"one\ntw").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    // Time enough for an unfinished line to go wrongly; the rest of it is then the marker.
    std::thread::sleep(Duration::from_millis(150));
    stdin.write_all(b"o\nthr").unwrap();
    assert_eq!(datagram(&socket), b"two\n");
    std::thread::sleep(Duration::from_millis(150));
    drop(stdin);
    assert_eq!(datagram(&socket), b"thr");
    assert_eq!(client.exit_code(), 0);
}

fn blocks_framing_makes_exact_sizes_whatever_the_writes() {
    let (socket, address) = udp();
    let address = address.to_string();
    let arguments =
        ["--path", "-", "--framing", "blocks", "--datagram-size", "1316", "--server-addr", &address];
    let (mut client, mut stdin) = start_piped(CLIENT, &arguments);
    let input: Vec<u8> = (0..1316 * 5 + 100).map(|i| b"0123456789\n"[i % 11]).collect();
    let (first, rest) = input.split_at(1000);
    stdin.write_all(first).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    let (second, rest) = rest.split_at(1700);
    stdin.write_all(second).unwrap();
    assert_eq!(datagram(&socket), &input[..1316]);
    assert_eq!(datagram(&socket), &input[1316..2632]);
    stdin.write_all(rest).unwrap();
    drop(stdin);
    for expected in input[2632..].chunks(1316) {
        assert_eq!(datagram(&socket), expected);
    }
    assert_eq!(client.exit_code(), 0);
}

fn raw_framing_makes_one_datagram_of_each_write() {
    let (socket, address) = udp();
    let address = address.to_string();
    let arguments = ["--path", "-", "--framing", "raw", "--server-addr", &address];
    let (mut client, mut stdin) = start_piped(CLIENT, &arguments);
    for write in [&b"ab\ncd"[..], b"e", b"\n\n\n", b"\0\xff"] {
        stdin.write_all(write).unwrap();
        assert_eq!(datagram(&socket), write);
    }
    drop(stdin);
    assert_eq!(client.exit_code(), 0);

    let (mut client, mut stdin) = start_piped(CLIENT, &[&arguments[..], &["--datagram-size", "3"]].concat());
    stdin.write_all(b"abcdefg\n").unwrap();
    for expected in [&b"abc"[..], b"def", b"g\n"] {
        assert_eq!(datagram(&socket), expected);
    }
    drop(stdin);
    assert_eq!(client.exit_code(), 0);
}

fn raw_framing_of_a_file_cuts_at_the_size_alone() {
    let (socket, address) = udp();
    let content: Vec<u8> = (0..200_000).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (_directory, path) = temporary_file(&content);
    let address = address.to_string();
    let sent = run(
        CLIENT,
        &[
            "--path",
            path.to_str().unwrap(),
            "--framing",
            "raw",
            "--datagram-size",
            "1316",
            "--server-addr",
            &address,
        ],
        b"",
    );
    assert_eq!((sent.code, sent.stderr.as_str()), (0, ""));
    for block in content.chunks(1316) {
        assert!(datagram(&socket) == block);
    }
}

fn the_largest_datagram_of_ipv4_goes_through_and_the_default_is_at_most_8192() {
    let (socket, address) = udp();
    let content: Vec<u8> = (0..=65_507 * 2).map(|i| u8::try_from(i % 251).unwrap() | 0x80).collect();
    let (_directory, path) = temporary_file(&content);
    let address = address.to_string();
    let arguments = ["--path", path_text(&path), "--server-addr", &address];
    let largest = [&arguments[..], &["--framing", "blocks", "--datagram-size", "65507"]].concat();
    assert_eq!(run(CLIENT, &largest, b"").code, 0);
    for expected in content.chunks(65_507) {
        assert!(datagram(&socket) == expected);
    }

    let (_directory, path) = temporary_file(&content[..20_000]);
    assert_eq!(run(CLIENT, &["--path", path_text(&path), "--server-addr", &address], b"").code, 0);
    let first = datagram(&socket);
    // The path's payload is not known everywhere: Windows may tell it, Wine and macOS do not.
    let known = cfg!(target_os = "linux") || cfg!(windows) && first.len() > 1452;
    let size = if known { 8192 } else { 1452 };
    let mut expected = content[..20_000].chunks(size);
    assert!(expected.next() == Some(&first[..]));
    for expected in expected {
        assert!(datagram(&socket) == expected);
    }
}

fn the_default_datagram_size_fits_the_path() {
    let network = Network::new(2);
    // With this framing the server shows where a datagram without a newline ended.
    let listen = [format!("{}:0", Network::ipv4(1)), format!("[{}]:0", Network::ipv6(1))];
    let server =
        network.start(1, "mproxy-server", &["--tee", "--framing=lines", "--listen-addr", &listen[0], "-v"]);
    let server6 =
        network.start(1, "mproxy-server", &["--tee", "--framing=lines", "--listen-addr", &listen[1], "-v"]);
    let (_directory, path) = temporary_file(&[b'x'; 3000]);
    for (server, listen, size) in [(&server, &listen[0], 1472), (&server6, &listen[1], 1452)] {
        let target = server.udp_address(listen).to_string();
        let mut client = network.start(0, CLIENT, &["--path", path_text(&path), "--server-addr", &target]);
        assert_eq!(client.exit_code(), 0, "{}", client.messages());
        let out = server.writes(3003);
        let lengths: Vec<usize> = out.split(|b| *b == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [size, size, 3000 - 2 * size, 0]);
    }
}

fn every_target_and_the_tee_get_everything() {
    let targets = [udp(), udp(), udp()];
    let mut arguments = vec!["--path".to_owned(), "-".into(), "--tee".into()];
    for (_, address) in &targets {
        arguments.extend(["--server-addr".into(), address.to_string()]);
    }
    let outcome = run(CLIENT, &arguments, AWKWARD);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert_eq!(outcome.stdout, AWKWARD);
    for (socket, _) in &targets {
        assert_eq!(datagrams(socket, AWKWARD.len()).concat(), AWKWARD);
    }
}

fn a_target_given_by_name_and_a_group_are_reached() {
    let (socket, address) = udp();
    let group = loopback_group();
    let receiver = member(&group);
    let name = format!("localhost:{}", address.port());
    for (option, group) in [
        ("--verbose", group.clone()),
        ("--interface=127.0.0.1", group.replace("%127.0.0.1", "")),
        ("--ttl=0", group),
    ] {
        let arguments = ["--path", "-", "--server-addr", &name, "--server-addr", &group, option];
        let (mut client, mut stdin) = start_piped(CLIENT, &arguments);
        stdin.write_all(b"for all\n").unwrap();
        drop(stdin);
        assert_eq!(client.exit_code(), 0, "{}", client.messages());
        assert_eq!(datagram(&socket), b"for all\n");
        assert_eq!(datagram(&receiver), b"for all\n", "{option}");
        if option == "--verbose" {
            assert_eq!(client.target_address(&name), address);
            let line = client.target_group(&group);
            assert!(!line.interface.is_empty() && line.ttl == Some(1), "{line:?}");
        } else {
            assert_eq!(client.messages(), "");
        }
    }
}

fn a_tee_alone_copies_the_input_to_standard_output() {
    let content: Vec<u8> = (0..300_000_u32).flat_map(|i| (i * 7919).to_le_bytes()).collect();
    let (_directory, path) = temporary_file(&content);
    let outcome = run(CLIENT, &["--path", path_text(&path), "--tee"], b"");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    assert!(outcome.stdout == content, "the copy differs from the file");
}

fn the_job_goes_on_when_the_reader_of_the_tee_goes_away() {
    let (socket, address) = udp();
    let (mut client, mut input, mut output) =
        piped_both_ways(&["--path", "-", "--tee", "--server-addr", &address.to_string()]);
    input.write_all(b"one\n").unwrap();
    let mut line = [0; 4];
    output.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"one\n");
    assert_eq!(datagram(&socket), b"one\n");
    close(output);
    for text in ["two\n", "three\n", "four\n"] {
        input.write_all(text.as_bytes()).unwrap();
        assert_eq!(datagram(&socket), text.as_bytes());
    }
    client.says("standard output");
    drop(input);
    assert_eq!(client.exit_code(), 0);
    assert_eq!(client.messages().lines().count(), 1, "{}", client.messages());
}

fn a_tee_alone_ends_quietly_when_its_reader_goes_away() {
    let (mut client, mut input, mut output) = piped_both_ways(&["--path", "-", "--tee"]);
    input.write_all(b"one\n").unwrap();
    let mut line = [0; 4];
    output.read_exact(&mut line).unwrap();
    close(output);
    input.write_all(b"two\n").unwrap();
    assert_eq!(client.exit_code(), 0);
    assert_eq!(client.messages(), "");
}

#[cfg(unix)]
fn the_tee_goes_well_with_head() {
    let line = "a line of a file that does not fit into a pipe\n";
    let content = line.repeat(10_000);
    let (_directory, path) = temporary_file(content.as_bytes());
    let (_socket, address) = udp();
    for (target, messages) in [(None, 0), (Some(address), 1)] {
        let mut command = Command::new("bash");
        let script = r#"program=$1 path=$2; shift 2
            "$program" --path "$path" --tee "$@" | head -n 1; exit "${PIPESTATUS[0]}""#;
        command.args(["-c", script, "bash"]).args([program(CLIENT), path.clone()]);
        if let Some(target) = target {
            command.args(["--server-addr", &target.to_string()]);
        }
        let mut pipeline = Running::new(command.stdin(Stdio::null()));
        assert_eq!(pipeline.exit_code(), 0, "{}", pipeline.messages());
        assert_eq!(pipeline.stdout(), line.as_bytes());
        assert_eq!(pipeline.messages().lines().count(), messages, "{}", pipeline.messages());
    }
}

fn a_dead_target_costs_the_live_one_nothing_and_is_warned_about_once() {
    let dead = dead_address();
    let (socket, address) = udp();
    let address = address.to_string();
    let (mut client, mut stdin) =
        start_piped(CLIENT, &["--path", "-", "--server-addr", &dead, "--server-addr", &address]);
    for i in 0..100 {
        let line = format!("line {i}\n");
        stdin.write_all(line.as_bytes()).unwrap();
        assert_eq!(datagram(&socket), line.as_bytes());
    }
    client.says(&dead);
    drop(stdin);
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    let messages = client.messages();
    assert_eq!(messages.lines().count(), 1, "{messages}");
    assert!(messages.contains("cannot send to"), "{messages}");
    // Windows says that the connection was reset.
    assert!(cfg!(windows) || messages.contains("refused"), "{messages}");
}

fn a_target_that_comes_up_is_said_to_work_again_once() {
    let dead = dead_address();
    let (mut client, mut stdin) = start_piped(CLIENT, &["--path", "-", "--server-addr", &dead]);
    let mut tick = || {
        stdin.write_all(b"tick\n").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    };
    let warning = format!("cannot send to {dead}");
    eventually("the warning", || {
        tick();
        client.messages().contains(&warning).then_some(())
    });
    let (socket, _) = udp_on(&dead);
    let recovery = format!("{dead} works again");
    eventually("the recovery", || {
        tick();
        client.messages().contains(&recovery).then_some(())
    });
    for _ in 0..5 {
        tick();
    }
    assert_eq!(datagram(&socket), b"tick\n");
    drop(stdin);
    assert_eq!(client.exit_code(), 0);
    let messages = client.messages();
    assert_eq!(lines_with(&messages, &warning).len(), 1, "{messages}");
    assert_eq!(lines_with(&messages, &recovery).len(), 1, "{messages}");
    assert_eq!(messages.lines().count(), 2, "{messages}");
}

fn targets_without_a_route_end_the_client_with_1_only_if_there_is_no_other() {
    let network = Network::new(2);
    let (_directory, path) = temporary_file(b"one\ntwo\nthree\n");
    let nowhere =
        ["--path", path_text(&path), "--server-addr", "203.0.113.1:9", "--server-addr", "[2001:db8::1]:9"];
    let mut client = network.start(0, CLIENT, &nowhere);
    assert_eq!(client.exit_code(), 1, "{}", client.messages());
    let messages = client.messages();
    for target in ["203.0.113.1:9", "[2001:db8::1]:9"] {
        assert_eq!(lines_with(&messages, target).len(), 1, "{messages}");
    }
    assert_eq!(messages.lines().count(), 3, "{messages}");
    assert!(messages.lines().last().unwrap().contains("cannot send"), "{messages}");

    let listen = format!("{}:0", Network::ipv4(1));
    let server = network.start(1, "mproxy-server", &["--tee", "-v", "--listen-addr", &listen]);
    let live = server.udp_address(&listen).to_string();
    let mut client = network.start(0, CLIENT, &[&nowhere[..], &["--server-addr", &live]].concat());
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(server.writes(14), b"one\ntwo\nthree\n");

    // Nothing to send is no failure.
    let empty = ["--path", "/dev/null", "--server-addr", "203.0.113.1:9"];
    assert_eq!(network.start(0, CLIENT, &empty).exit_code(), 0);
    // Nor is a tee that took it all.
    let mut client = network.start(0, CLIENT, &[&nowhere[..], &["--tee"]].concat());
    assert_eq!(client.exit_code(), 1, "{}", client.messages());
    assert_eq!(client.stdout(), b"one\ntwo\nthree\n");
}

fn a_filtered_target_costs_the_others_nothing() {
    let network = Network::new(2);
    let (live, gone) = (Network::ipv4(1), "10.77.0.99:9");
    // A route that refuses is what a filter on the host looks like to a sender.
    for (kind, address) in
        [("prohibit", "203.0.113.1"), ("blackhole", "203.0.113.2"), ("unreachable", "203.0.113.3")]
    {
        assert!(network.run(0, "ip", &["route", "add", kind, address]).status.success());
    }
    let listen = format!("{live}:0");
    let server = network.start(1, "mproxy-server", &["--tee", "-v", "--listen-addr", &listen]);
    let live = server.udp_address(&listen).to_string();
    let mut content = String::new();
    for i in 0..200 {
        writeln!(content, "line {i}").unwrap();
    }
    let (_directory, path) = temporary_file(content.as_bytes());
    let mut arguments = vec!["--path", path_text(&path), "--datagram-size", "40", "--rate", "100k"];
    for target in ["203.0.113.1:9", "203.0.113.2:9", gone, "203.0.113.3:9", &live] {
        arguments.extend(["--server-addr", target]);
    }
    let mut client = network.start(0, CLIENT, &arguments);
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(server.writes(content.len()), content.as_bytes());
    let messages = client.messages();
    for target in ["203.0.113.1:9", "203.0.113.2:9", "203.0.113.3:9"] {
        assert_eq!(lines_with(&messages, target).len(), 1, "{messages}");
    }
    assert!(lines_with(&messages, gone).len() <= 1, "{messages}");
}

fn of_a_name_with_several_addresses_the_first_that_can_be_used_is_sent_to() {
    let network = Network::loopback();
    network.set_names(0, "127.0.0.1 localhost\n127.9.8.7 several.test\n127.9.8.6 several.test\n");
    let (_directory, path) = temporary_file(b"one\ntwo\nthree\nfour\n");
    let (socket, address) = network.on(0, || udp_on("127.9.8.6:0"));
    let target = format!("several.test:{}", address.port());
    // Nobody listens on 127.9.8.7.
    let mut client = network.start(
        0,
        CLIENT,
        &["--path", path_text(&path), "--server-addr", &target, "--datagram-size", "5", "--rate", "10k"],
    );
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(datagrams(&socket, 19).concat(), b"one\ntwo\nthree\nfour\n", "{}", client.messages());
    assert_eq!(client.messages(), "");
}

fn a_rate_is_kept_and_spread_evenly() {
    let (socket, address) = udp();
    let content = b"sixty-four bytes, the last of which is the end of this line ...\n".repeat(1000);
    assert_eq!(content.len(), 64_000);
    let (_directory, path) = temporary_file(&content);
    let begin = Instant::now();
    let mut client =
        start(CLIENT, &["--path", path_text(&path), "--rate", "1M", "--server-addr", &address.to_string()]);
    let mut got = Vec::new();
    let mut count = 0;
    while got.len() < content.len() {
        let datagram = datagram(&socket);
        // No datagram comes long before the rate allows all that went before it.
        let earliest = Duration::from_micros(8 * u64::try_from(got.len()).unwrap()).mul_f64(0.8);
        assert!(begin.elapsed() >= earliest, "byte {} after {:?}", got.len(), begin.elapsed());
        got.extend(datagram);
        count += 1;
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    // It is half a second's worth: a clock that ticks seldom must not slow it down.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(got == content, "the bytes differ");
    assert!(count >= 100, "only {count} datagrams: that is in bursts");
    assert_eq!(client.exit_code(), 0);
}

fn a_stop_signal_ends_the_wait_for_input_and_sends_what_was_read() {
    let stops: &[fn(&Running)] = &[
        Running::interrupt,
        #[cfg(unix)]
        |client| client.signal(rustix::process::Signal::INT),
    ];
    for stop in stops {
        let (socket, address) = udp();
        let (mut client, mut stdin) =
            start_piped(CLIENT, &["--path", "-", "--framing=lines", "--server-addr", &address.to_string()]);
        // In one write, so that what comes after the newline was read too.
        stdin.write_all(b"one\ntw").unwrap();
        assert_eq!(datagram(&socket), b"one\n");
        let begin = Instant::now();
        stop(&client);
        assert_eq!(client.exit_code(), 0);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        assert_eq!(datagram(&socket), b"tw");
        assert_eq!(client.messages(), "");
    }
}

fn a_stop_signal_ends_a_client_with_much_still_to_send() {
    let (socket, address) = udp();
    let content = b"a line\n".repeat(200_000);
    let (_directory, path) = temporary_file(&content);
    let mut client =
        start(CLIENT, &["--path", path_text(&path), "--rate", "100k", "--server-addr", &address.to_string()]);
    let first = datagram(&socket);
    assert!(content.starts_with(&first));
    let begin = Instant::now();
    client.stop();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

mproxy_tests::main!(
    standard_input_goes_out_byte_for_byte,
    a_file_goes_out_byte_for_byte,
    a_file_goes_out_byte_for_byte_over_ipv4_and_ipv6,
    #[cfg(unix)]
    a_fifo_goes_out_until_its_last_writer_is_gone,
    #[cfg(target_os = "linux")]
    a_signal_ends_a_client_whose_fifo_has_no_writer_yet,
    #[cfg(unix)]
    a_descriptor_and_a_device_can_be_the_path,
    auto_framing_ends_datagrams_at_newlines_and_lets_an_unfinished_line_go,
    auto_framing_fills_a_datagram_with_whole_lines_and_cuts_a_line_that_is_too_long,
    a_dribbled_line_arrives_complete_and_in_order,
    lines_framing_waits_for_the_newline_or_the_end,
    blocks_framing_makes_exact_sizes_whatever_the_writes,
    raw_framing_makes_one_datagram_of_each_write,
    raw_framing_of_a_file_cuts_at_the_size_alone,
    the_largest_datagram_of_ipv4_goes_through_and_the_default_is_at_most_8192,
    the_default_datagram_size_fits_the_path,
    every_target_and_the_tee_get_everything,
    a_target_given_by_name_and_a_group_are_reached,
    a_tee_alone_copies_the_input_to_standard_output,
    the_job_goes_on_when_the_reader_of_the_tee_goes_away,
    a_tee_alone_ends_quietly_when_its_reader_goes_away,
    #[cfg(unix)]
    the_tee_goes_well_with_head,
    a_dead_target_costs_the_live_one_nothing_and_is_warned_about_once,
    a_target_that_comes_up_is_said_to_work_again_once,
    targets_without_a_route_end_the_client_with_1_only_if_there_is_no_other,
    a_filtered_target_costs_the_others_nothing,
    of_a_name_with_several_addresses_the_first_that_can_be_used_is_sent_to,
    a_rate_is_kept_and_spread_evenly,
    a_stop_signal_ends_the_wait_for_input_and_sends_what_was_read,
    a_stop_signal_ends_a_client_with_much_still_to_send,
);
