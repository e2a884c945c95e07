//! IPv4 and IPv6 side by side: a listener on `[::]` is one of IPv6 alone, on every system, so that both have a
//! wildcard listener of their own on one port.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};

use mproxy_tests::{PATIENCE, datagram, free_port, needs_ipv6, start, udp_on};

fn both_wildcards_can_be_listened_on_at_one_port() {
    needs_ipv6();
    let port = free_port();
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    let mut server =
        start("mproxy-server", &["--path", "-", "--listen-addr", &v6, "--listen-addr", &v4, "-v"]);
    for listen in [&v4, &v6] {
        assert_eq!(server.udp_address(listen).to_string(), *listen);
    }
    for (from, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
        let before = server.stdout().len();
        UdpSocket::bind(from).unwrap().send_to(to.as_bytes(), (to, port)).unwrap();
        assert_eq!(&server.writes(before + to.len())[before..], to.as_bytes());
    }
    server.stop();
}

fn a_udp_listener_on_ipv6_takes_no_ipv4() {
    needs_ipv6();
    let port = free_port();
    let listen = format!("[::]:{port}");
    let mut server = start("mproxy-server", &["--path", "-", "--listen-addr", &listen, "-v"]);
    server.listens(&listen);
    // Free for others, who get all of IPv4.
    let (other, _) = udp_on(&format!("0.0.0.0:{port}"));
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"four", ("127.0.0.1", port)).unwrap();
    assert_eq!(datagram(&other), b"four");
    UdpSocket::bind("[::1]:0").unwrap().send_to(b"six", ("::1", port)).unwrap();
    assert_eq!(server.writes(3), b"six");
    server.stop();
}

fn a_tcp_listener_on_ipv6_takes_no_ipv4() {
    needs_ipv6();
    let port = free_port();
    let (listen, other) = (format!("[::]:{port}"), TcpListener::bind(("0.0.0.0", port)).unwrap());
    let mut reverse = start(
        "mproxy-reverse",
        &["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", &listen, "--verbose"],
    );
    let input = reverse.udp_address("127.0.0.1:0");
    reverse.accepts(&listen);
    let four = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(other.accept().unwrap().1, four.local_addr().unwrap());
    let mut six = TcpStream::connect(("::1", port)).unwrap();
    six.set_read_timeout(Some(PATIENCE)).unwrap();
    reverse.serves(six.local_addr().unwrap());
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"six", input).unwrap();
    let mut taken = [0; 3];
    six.read_exact(&mut taken).unwrap();
    assert_eq!(&taken, b"six");
    reverse.stop();
}

mproxy_tests::main!(
    both_wildcards_can_be_listened_on_at_one_port,
    a_udp_listener_on_ipv6_takes_no_ipv4,
    a_tcp_listener_on_ipv6_takes_no_ipv4,
);
