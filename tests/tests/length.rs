//! `--framing length`: every boundary survives a byte stream, in files and through TCP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use mproxy_client::{Client, Framing, Options};
use mproxy_tests::{
    PATIENCE, Running, datagram, eventually, file_with, framed, is_warning, loopback_group, run, start,
    start_piped, udp,
};

/// Datagrams of every kind: empty, with newlines, binary, larger than any link takes.
fn datagrams() -> Vec<Vec<u8>> {
    let mut all = vec![b"one\n".to_vec(), vec![], vec![], b"no newline".to_vec(), b"\0\x03abc".to_vec()];
    for len in [1, 255, 256, 1452, 1472, 1473, 1473, 9000, 65_507, 65_506] {
        all.push((0..len).map(|i| u8::try_from(i % 251).unwrap()).collect());
    }
    all.push(vec![]);
    all
}

#[track_caller]
fn assert_receives(target: &UdpSocket, expected: &[Vec<u8>]) {
    for (number, expected) in expected.iter().enumerate() {
        assert!(datagram(target) == *expected, "datagram {number}");
    }
}

#[test]
fn what_is_recorded_is_replayed_datagram_for_datagram() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feed.rec");
    let record = path.to_str().unwrap();
    let mut server = start(
        "mproxy-server",
        &["--path", record, "--listen-addr", "127.0.0.1:0", "--framing", "length", "--tee", "-v"],
    );
    let (sender, _) = udp();
    sender.connect(server.udp_address("127.0.0.1:0")).unwrap();
    let sent = datagrams();
    let expected = framed(&sent);
    let mut so_far = 0;
    for datagram in &sent {
        sender.send(datagram).unwrap();
        so_far += datagram.len() + 2;
        file_with(&path, so_far);
    }
    assert!(server.writes(expected.len()) == expected, "standard output differs");
    server.stop();
    assert!(std::fs::read(&path).unwrap() == expected, "the file differs");

    for options in [&[][..], &["--rate", "100M"], &["--datagram-size", "1"]] {
        let (target, address) = udp();
        let to = address.to_string();
        let mut client = start(
            "mproxy-client",
            &[&["--path", record, "--server-addr", &to, "--framing", "length", "--tee"], options].concat(),
        );
        assert_receives(&target, &sent);
        assert_eq!(client.exit_code(), 0, "{}", client.messages());
        assert_eq!(client.messages(), "");
        assert!(client.stdout() == expected, "standard output differs");
    }
}

#[test]
fn many_small_ones_stay_apart_though_they_go_out_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("small.rec");
    let sent: Vec<Vec<u8>> = (0..20_000_u32).map(|i| i.to_be_bytes()[..(i % 5) as usize].to_vec()).collect();
    std::fs::write(&path, framed(&sent)).unwrap();
    let (target, address) = udp();
    let receiver = std::thread::spawn(move || {
        assert_receives(&target, &sent);
    });
    // Slow enough for a socket of the size that any system allows.
    let client = Client::new(&path)
        .target(address.to_string())
        .rate(2_000_000)
        .options(Options::new().framing(Framing::Length))
        .spawn()
        .unwrap();
    assert_eq!(client.join().unwrap().sent(), 20_000);
    receiver.join().unwrap();
}

#[test]
fn a_frame_may_come_in_any_pieces_and_what_it_lacks_at_the_end_is_told() {
    let (target, address) = udp();
    let arguments = ["--path", "-", "--server-addr", &address.to_string(), "--framing", "length", "-v"];
    let (mut client, mut stdin) = start_piped("mproxy-client", &arguments);
    for byte in framed(&[b"byte by byte".to_vec(), vec![]]) {
        stdin.write_all(&[byte]).unwrap();
        stdin.flush().unwrap();
    }
    assert_receives(&target, &[b"byte by byte".to_vec(), vec![]]);
    // A frame that claims more than will ever come holds up nothing but itself.
    stdin.write_all(b"\xff\xffonly this").unwrap();
    drop(stdin);
    assert_eq!(client.exit_code(), 0);
    let line = client.says("ends inside a frame: 11 bytes discarded");
    assert!(is_warning(&line) && line.contains(": standard input: "), "{line}");
    target.set_nonblocking(true).unwrap();
    assert!(target.recv(&mut [0; 16]).is_err(), "a part of a frame came through");
}

#[test]
fn a_frame_that_no_datagram_can_carry_is_left_out_and_told() {
    let (target, address) = udp();
    let input =
        [framed(&[b"before".to_vec()]), b"\xff\xff".to_vec(), vec![0; 65_535], framed(&[b"after".to_vec()])];
    let arguments = ["--path", "-", "--server-addr", &address.to_string(), "--framing", "length"];
    let outcome = run("mproxy-client", &arguments, &input.concat());
    assert_eq!(outcome.code, 0);
    assert!(outcome.stderr.contains("cannot send 65535 bytes to "), "{}", outcome.stderr);
    assert_receives(&target, &[b"before".to_vec(), b"after".to_vec()]);
}

#[test]
fn boundaries_survive_from_udp_through_tcp_to_udp_and_back() {
    // UDP → reverse → TCP → forward → UDP, and from the same TCP output → TCP input of a second reverse → UDP.
    let first = start(
        "mproxy-reverse",
        &[
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--tcp-output-addr",
            "127.0.0.1:0",
            "--framing",
            "length",
            "-v",
        ],
    );
    let (target, address) = udp();
    let server = first.tcp_address("127.0.0.1:0").to_string();
    let second = start(
        "mproxy-reverse",
        &[
            "--tcp-listen-addr",
            "127.0.0.1:0",
            "--udp-output-addr",
            &address.to_string(),
            "--framing",
            "length",
            "-v",
        ],
    );
    let input = second.tcp_address("127.0.0.1:0");
    // The stream of the one goes to the other unchanged: TCP to TCP.
    let mut from = TcpStream::connect(&server).unwrap();
    let mut to = TcpStream::connect(input).unwrap();
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let (forwarded, address) = udp();
    let forward = start(
        "mproxy-forward",
        &[
            "--tcp-connect-addr",
            &server,
            "--udp-downstream-addr",
            &address.to_string(),
            "--framing",
            "length",
            "-v",
        ],
    );
    forward.is_connected(&server);
    eventually("two clients", || (first.served_peers() == 2 && second.served_peers() > 0).then_some(()));
    let (sender, _) = udp();
    sender.connect(first.udp_address("127.0.0.1:0")).unwrap();
    for datagram in datagrams() {
        sender.send(&datagram).unwrap();
        assert_receives(&target, std::slice::from_ref(&datagram));
        assert_receives(&forwarded, &[datagram]);
    }
}

#[test]
fn a_server_that_ends_inside_a_frame_is_told_and_the_next_connection_begins_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let (target, address) = udp();
    let mut forward = start(
        "mproxy-forward",
        &[
            "--tcp-connect-addr",
            &server,
            "--udp-downstream-addr",
            &address.to_string(),
            "--framing",
            "length",
        ],
    );
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"\0\x03one\0\x08tw").unwrap();
    drop(stream);
    assert_receives(&target, &[b"one".to_vec()]);
    let line = forward.says(&format!(" {server}: ends inside a frame: 4 bytes discarded"));
    assert!(is_warning(&line), "{line}");
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"\0\x03two").unwrap();
    assert_receives(&target, &[b"two".to_vec()]);
    forward.stop();
}

#[test]
fn a_stop_inside_a_frame_is_no_warning() {
    let group = loopback_group();
    let mut reverse: Running = start(
        "mproxy-reverse",
        &["--tcp-listen-addr", "127.0.0.1:0", "--multicast-addr", &group, "--framing", "length", "-v"],
    );
    let address = reverse.tcp_address("127.0.0.1:0");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"\0\x03one\0\x08tw").unwrap();
    reverse.serves_a_client();
    reverse.stop();
    assert!(reverse.warnings().is_empty(), "{}", reverse.messages());
    reverse.says("ends inside a frame: 4 bytes discarded");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.read(&mut [0]);
}

#[test]
fn cuts_through_lines_that_are_too_long_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lines");
    std::fs::write(&path, b"short\n0123456789abcdef0123\nshort\n").unwrap();
    for framing in [Framing::Auto, Framing::Lines] {
        let (target, address) = udp();
        let options = Options::new().framing(framing).datagram_size(8);
        let client = Client::new(&path).target(address.to_string()).options(options).spawn().unwrap();
        let stats = client.join().unwrap();
        assert_eq!(stats.endpoints[0].cut, 2, "{framing}");
        for expected in ["short\n", "01234567", "89abcdef", "0123\n", "short\n"] {
            assert_eq!(datagram(&target), expected.as_bytes());
        }
    }
    let arguments = ["--path", path.to_str().unwrap(), "--tee", "--framing", "lines", "--datagram-size", "8"];
    let stderr = run("mproxy-client", &[&arguments[..], &["-v"]].concat(), b"").stderr;
    assert!(
        stderr.contains("a line longer than 8 bytes is cut") && stderr.contains(": 2 cut where no line ends"),
        "{stderr}"
    );
    // Without -v there is no message.
    assert_eq!(run("mproxy-client", &arguments, b"").stderr, "");
}
