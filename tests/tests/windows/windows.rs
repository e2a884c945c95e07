//! Windows's own paths and devices, named pipes and console events, and that no text is translated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::windows::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mproxy_client::Client;
use mproxy_tests::{
    NamedPipe, Running, close, connected, datagram, eventually, file_with, is_wine, path_text, payload,
    program, run, skip, start, start_piped, udp,
};

const CLIENT: &str = "mproxy-client";
const SERVER: &str = "mproxy-server";
const LISTEN: &str = "127.0.0.1:0";

/// Every byte, and what text mode would change: line ends of all kinds, and Ctrl-Z, which once ended a text.
fn awkward() -> Vec<u8> {
    let mut bytes: Vec<u8> = b"\r\n\n\r\r\n\n\r\x1a\r\n\x1a\n".to_vec();
    bytes.extend(0..=255);
    bytes.extend(b"\xef\xbb\xbf\xff\xfe\0\x1a no end of line\r");
    bytes
}

/// A client, in this directory, sends the file of this path.
#[track_caller]
fn sends(path: &OsStr, directory: &Path, content: &[u8]) {
    let (socket, address) = udp();
    let mut command = Command::new(program(CLIENT));
    command.arg("--path").arg(path).args(["--server-addr", &address.to_string()]).current_dir(directory);
    let mut client = Running::new(command.stdin(Stdio::null()));
    assert_eq!(client.exit_code(), 0, "{}: {}", path.display(), client.messages());
    assert_eq!(client.messages(), "");
    assert_eq!(payload(&socket, content.len()), content, "{}", path.display());
}

/// A server, in this directory, appends to the file of this path until it is stopped.
#[track_caller]
fn appends(path: &OsStr, directory: &Path, content: &[u8]) {
    let mut command = Command::new(program(SERVER));
    command.arg("--path").arg(path).args(["--tee", "--listen-addr", LISTEN, "-v"]).current_dir(directory);
    let mut server = Running::new(command.stdin(Stdio::null()));
    connected(server.udp_address(LISTEN)).send(content).unwrap();
    server.writes(content.len());
    server.stop();
}

fn no_byte_is_translated_on_any_way() {
    let bytes = awkward();
    let directory = tempfile::tempdir().unwrap();
    let (input, out) = (directory.path().join("in.txt"), directory.path().join("out.txt"));
    std::fs::write(&input, &bytes).unwrap();
    for from in ["-", path_text(&input)] {
        let mut server = start(SERVER, &["--path", path_text(&out), "--tee", "--listen-addr", LISTEN, "-v"]);
        let address = server.udp_address(LISTEN).to_string();
        let client = run(CLIENT, &["--path", from, "--tee", "--server-addr", &address], &bytes);
        assert_eq!((client.code, client.stderr.as_str()), (0, ""));
        assert!(client.stdout == bytes, "the client's standard output: {:?}", client.stdout);
        assert!(file_with(&out, bytes.len()) == bytes, "the file");
        assert!(server.writes(bytes.len()) == bytes, "the server's standard output");
        server.stop();
        assert!(server.stdout() == bytes && std::fs::read(&out).unwrap() == bytes, "something was added");
        std::fs::remove_file(&out).unwrap();
    }
}

fn each_byte_arrives_by_itself_and_at_once() {
    let (socket, address) = udp();
    let arguments = ["--path", "-", "--framing", "raw", "--server-addr", &address.to_string()];
    let (mut client, mut stdin) = start_piped(CLIENT, &arguments);
    for byte in awkward() {
        stdin.write_all(&[byte]).unwrap();
        assert_eq!(datagram(&socket), [byte]);
    }
    drop(stdin);
    assert_eq!(client.exit_code(), 0);
}

fn standard_input_may_be_a_file_and_standard_output_too() {
    let bytes = awkward();
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in"), directory.path().join("out"));
    std::fs::write(&input, &bytes).unwrap();
    let mut command = Command::new(program(CLIENT));
    command.args(["--path", "-", "--tee"]).stdin(File::open(&input).unwrap());
    command.stdout(File::create(&output).unwrap());
    let mut client = Running::spawn(&mut command);
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(client.messages(), "");
    assert_eq!(std::fs::read(&output).unwrap(), bytes);
}

fn paths_are_what_windows_makes_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("a b").join("grüße, 世界 🚢");
    std::fs::create_dir_all(&below).unwrap();
    let file = below.join("ship 'positions' & more.log");
    let absolute = path_text(&file);
    let (drive, rest) = absolute.split_at(2);
    assert!(drive.ends_with(':') && rest.starts_with('\\'), "{absolute}");
    let paths = [
        absolute.to_owned(),
        absolute.replace('\\', "/"),
        // Relative to the directory, to its drive's directory, and to the root of the drive.
        r"grüße, 世界 🚢\ship 'positions' & more.log".to_owned(),
        r".\grüße, 世界 🚢\..\grüße, 世界 🚢/ship 'positions' & more.log".to_owned(),
        format!(r"{drive}grüße, 世界 🚢\ship 'positions' & more.log"),
        rest.to_owned(),
        format!(r"\\?\{absolute}"),
        format!(r"\\.\{absolute}"),
    ];
    let mut content = Vec::new();
    for path in paths {
        content.extend(format!("{path}\r\n").into_bytes());
        appends(path.as_ref(), &directory.path().join("a b"), format!("{path}\r\n").as_bytes());
        assert_eq!(std::fs::read(&file).unwrap(), content, "{path}");
        sends(path.as_ref(), &directory.path().join("a b"), &content);
    }
}

/// UTF-16 that no text is.
fn a_path_need_not_be_unicode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(OsString::from_wide(&[0xd800, u16::from(b'x')]));
    if let Err(error) = std::fs::write(&path, "") {
        // Wine has it where the file system below takes what is not UTF-8.
        assert!(is_wine(), "{error}");
        skip("this Wine has no such file");
    }
    appends(path.as_os_str(), directory.path(), b"data\n");
    sends(path.as_os_str(), directory.path(), b"data\n");
}

fn a_path_may_be_longer_than_260_characters() {
    let directory = tempfile::tempdir().unwrap();
    let mut long = PathBuf::from(format!(r"\\?\{}", path_text(directory.path())));
    for _ in 0..4 {
        long.push("x".repeat(100));
    }
    std::fs::create_dir_all(&long).unwrap();
    long.push("file");
    assert!(path_text(&long).len() > 400);
    appends(long.as_os_str(), directory.path(), b"data\n");
    sends(long.as_os_str(), directory.path(), b"data\n");
    // The standard library adds the prefix to what is absolute.
    let short = path_text(&long).strip_prefix(r"\\?\").unwrap();
    appends(short.as_ref(), directory.path(), b"more\n");
    sends(short.as_ref(), directory.path(), b"data\nmore\n");
}

fn what_is_not_there_is_named_with_exit_code_1() {
    for path in [
        r"C:\no\such\file",
        r"Q:\no-such-drive",
        r"\\?\C:\no\such",
        r"\\.\pipe\mproxy-no-such-pipe",
        r"\\.\no-such-device",
        r"\\127.0.0.1\mproxy-no-such-share\file",
        r"\\?\UNC\127.0.0.1\mproxy-no-such-share\file",
        r"C:\no|such*name?",
    ] {
        let client = run(CLIENT, &["--path", path, "--tee"], b"");
        let server = run(SERVER, &["--path", path, "--listen-addr", LISTEN], b"");
        for (name, outcome) in [(CLIENT, client), (SERVER, server)] {
            assert_eq!((outcome.code, outcome.stdout.len()), (1, 0), "{path}: {}", outcome.stderr);
            let begin = format!("{name}: cannot open {path}: ");
            assert!(outcome.stderr.starts_with(&begin), "{}", outcome.stderr);
            assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        }
    }
}

fn the_null_device_is_empty_and_takes_everything() {
    for path in ["NUL", r"\\.\NUL"] {
        let outcome = run(CLIENT, &["--path", path, "--tee"], b"not read");
        assert_eq!((outcome.code, outcome.stderr.as_str(), outcome.stdout.len()), (0, "", 0), "{path}");
        let mut server = start(SERVER, &["--path", path, "--tee", "--listen-addr", LISTEN, "-v"]);
        let socket = connected(server.udp_address(LISTEN));
        for _ in 0..3 {
            socket.send(b"away\r\n").unwrap();
        }
        assert_eq!(server.writes(18), b"away\r\n".repeat(3));
        server.stop();
    }
}

fn listeners_have_a_file_each_whose_name_windows_takes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feed-{addr}.log");
    let mut server = start(SERVER, &["--path", path_text(&path), "--listen-addr", LISTEN, "-v"]);
    let address = server.udp_address(LISTEN);
    connected(address).send(b"one\n").unwrap();
    // With a colon it would be an alternate stream of a file that stays empty.
    let name = format!("feed-127.0.0.1_{}.log", address.port());
    assert_eq!(file_with(&directory.path().join(&name), 4), b"one\n");
    server.stop();
    let names: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, [OsString::from(name)]);
}

/// Several servers append to one file, each batch in one write, the newline that a datagram lacked included.
fn servers_that_share_a_file_tear_no_line() {
    const LINES: usize = 300;
    if is_wine() {
        skip("Wine's processes append over each other");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let arguments = ["--path", path_text(&path), "--framing", "lines", "--listen-addr", LISTEN, "-v"];
    let mut servers = [start(SERVER, &arguments), start(SERVER, &arguments)];
    let sockets = [0, 1].map(|number: usize| connected(servers[number].udp_address(LISTEN)));
    let mut len = 0;
    for number in 0..LINES {
        for (name, socket) in ["first", "second"].into_iter().zip(&sockets) {
            let line = format!("{name} {number}");
            socket.send(line.as_bytes()).unwrap();
            len += line.len() + 1;
        }
        // Never more on the way than any receive buffer holds.
        if number % 50 == 49 {
            file_with(&path, len);
        }
    }
    let content = String::from_utf8(file_with(&path, len)).unwrap();
    for name in ["first ", "second "] {
        let numbers: Vec<usize> =
            content.lines().filter_map(|line| line.strip_prefix(name)).map(|n| n.parse().unwrap()).collect();
        assert!(numbers.into_iter().eq(0..LINES), "{name}");
    }
    for server in &mut servers {
        server.stop();
    }
}

fn a_named_pipe_goes_out_until_its_writer_closes_it() {
    let mut pipe = NamedPipe::new();
    let (socket, address) = udp();
    let mut client = start(CLIENT, &["--path", &pipe.path, "--server-addr", &address.to_string()]);
    pipe.connected();
    pipe.file.write_all(b"one\ntwo\nthr").unwrap();
    assert_eq!(payload(&socket, 8), b"one\ntwo\n");
    // The pipe stays open.
    assert_eq!(datagram(&socket), b"thr");
    let bytes = awkward();
    pipe.file.write_all(&bytes).unwrap();
    assert_eq!(payload(&socket, bytes.len()), bytes);
    assert!(!client.has_ended());
    close(pipe);
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(client.messages(), "");
}

fn a_named_pipe_whose_server_disconnects_is_at_its_end() {
    let mut pipe = NamedPipe::new();
    let (socket, address) = udp();
    let mut client = start(CLIENT, &["--path", &pipe.path, "--server-addr", &address.to_string()]);
    pipe.connected();
    pipe.file.write_all(b"one\n").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    pipe.disconnect();
    assert_eq!(client.exit_code(), 0, "{}", client.messages());
    assert_eq!(client.messages(), "");
}

fn a_named_pipe_that_another_has_open_is_busy() {
    let pipe = NamedPipe::new();
    let _other = File::open(&pipe.path).unwrap();
    let client = run(CLIENT, &["--path", &pipe.path, "--tee"], b"");
    let server = run(SERVER, &["--path", &pipe.path, "--listen-addr", LISTEN], b"");
    for outcome in [client, server] {
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("cannot open {}: ", pipe.path)), "{}", outcome.stderr);
        // ERROR_PIPE_BUSY
        assert!(outcome.stderr.contains("(os error 231)"), "{}", outcome.stderr);
    }
}

fn a_server_writes_to_a_named_pipe() {
    let mut pipe = NamedPipe::new();
    let mut server = start(SERVER, &["--path", &pipe.path, "--listen-addr", LISTEN, "-v"]);
    pipe.connected();
    let socket = connected(server.udp_address(LISTEN));
    let bytes = awkward();
    for datagram in [&bytes[..], b"one\r\n"] {
        socket.send(datagram).unwrap();
        let mut got = vec![0; datagram.len()];
        pipe.file.read_exact(&mut got).unwrap();
        assert_eq!(got, datagram);
    }
    close(pipe);
    eventually("the end of the server", || {
        let _ = socket.send(b"nobody\n");
        server.has_ended().then_some(())
    });
    assert_eq!(server.exit_code(), 1);
    assert!(server.messages().contains(r"cannot write to \\.\pipe\"), "{}", server.messages());
}

/// The console that the programs get here has no user: a read from it never returns, and output to it is not
/// seen.
fn the_console_is_a_path() {
    let (_socket, address) = udp();
    for path in ["CON", "CONIN$"] {
        let mut client = start(CLIENT, &["--path", path, "--server-addr", &address.to_string(), "-v"]);
        // The console is open by then.
        client.sends(&address.to_string());
        client.stop();
    }
    for path in ["CON", "CONOUT$"] {
        let mut server = start(SERVER, &["--path", path, "--tee", "--listen-addr", LISTEN, "-v"]);
        let socket = connected(server.udp_address(LISTEN));
        for _ in 0..3 {
            socket.send(b"seen\r\n").unwrap();
        }
        assert_eq!(server.writes(18), b"seen\r\n".repeat(3));
        server.stop();
    }
}

fn a_client_of_a_library_whose_pipe_stays_open_is_stopped() {
    let mut pipe = NamedPipe::new();
    let (socket, address) = udp();
    let client = Client::new(&pipe.path).target(address.to_string()).spawn().unwrap();
    pipe.connected();
    pipe.file.write_all(b"one\n").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    client.stop();
    assert_eq!(client.join().unwrap().sent(), 1);
}

/// Ends within the time that a program gives itself, with exit code 0.
#[track_caller]
fn stops(program: &mut Running) {
    let begin = Instant::now();
    program.stop();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

fn a_console_event_ends_every_wait_and_what_was_read_goes_out() {
    let (socket, address) = udp();
    let target = address.to_string();
    let arguments = ["--framing", "lines", "--server-addr", &target];

    let (mut client, mut stdin) = start_piped(CLIENT, &[&["--path", "-"], &arguments[..]].concat());
    stdin.write_all(b"one\ntw").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    stops(&mut client);
    assert_eq!(datagram(&socket), b"tw");
    assert_eq!(client.messages(), "");
    drop(stdin);

    let mut pipe = NamedPipe::new();
    let mut client = start(CLIENT, &[&["--path", &pipe.path], &arguments[..]].concat());
    pipe.connected();
    pipe.file.write_all(b"one\nthr").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    stops(&mut client);
    assert_eq!(datagram(&socket), b"thr");
    assert_eq!(client.messages(), "");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut server = start(SERVER, &["--path", path_text(&path), "--tee", "--listen-addr", LISTEN, "-v"]);
    let socket = connected(server.udp_address(LISTEN));
    for _ in 0..100 {
        socket.send(b"a line\r\n").unwrap();
    }
    stops(&mut server);
    assert!(std::fs::read(&path).unwrap() == b"a line\r\n".repeat(100), "the file lacks something");
    assert!(server.stdout() == b"a line\r\n".repeat(100), "standard output lacks something");

    // A pipe that is open but never read.
    let pipe = NamedPipe::new();
    let mut server = start(SERVER, &["--path", &pipe.path, "--listen-addr", LISTEN, "-v"]);
    pipe.connected();
    let socket = connected(server.udp_address(LISTEN));
    for _ in 0..20 {
        socket.send(&[b'x'; 8000]).unwrap();
    }
    stops(&mut server);
}

fn a_second_console_event_ends_a_program_at_once() {
    // A slow machine may press the second time when the program has ended after the first.
    let heard = (0..10).any(|_| {
        // A pipe that is open but never read holds up the server.
        let pipe = NamedPipe::new();
        let mut server = start(SERVER, &["--path", &pipe.path, "--listen-addr", LISTEN, "-v"]);
        pipe.connected();
        let socket = connected(server.udp_address(LISTEN));
        for _ in 0..20 {
            socket.send(&[b'x'; 8000]).unwrap();
        }
        server.interrupt();
        server.interrupt();
        server.exit_code() == 1
    });
    assert!(heard, "the second event was not heard");
}

mproxy_tests::main!(
    no_byte_is_translated_on_any_way,
    each_byte_arrives_by_itself_and_at_once,
    standard_input_may_be_a_file_and_standard_output_too,
    paths_are_what_windows_makes_of_them,
    a_path_need_not_be_unicode,
    a_path_may_be_longer_than_260_characters,
    what_is_not_there_is_named_with_exit_code_1,
    the_null_device_is_empty_and_takes_everything,
    listeners_have_a_file_each_whose_name_windows_takes,
    servers_that_share_a_file_tear_no_line,
    a_named_pipe_goes_out_until_its_writer_closes_it,
    a_named_pipe_whose_server_disconnects_is_at_its_end,
    a_named_pipe_that_another_has_open_is_busy,
    a_server_writes_to_a_named_pipe,
    the_console_is_a_path,
    a_client_of_a_library_whose_pipe_stays_open_is_stopped,
    a_console_event_ends_every_wait_and_what_was_read_goes_out,
    a_second_console_event_ends_a_program_at_once,
);
