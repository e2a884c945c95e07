//! The four crates as libraries: the functions of mproxy 0.1.8 with the signatures they had, and the
//! builders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread::JoinHandle;

use mproxy_client::Client;
use mproxy_client::{Framing, Options};
use mproxy_forward::Forward;
use mproxy_reverse::Reverse;
use mproxy_server::Server;
use mproxy_tests::{
    PATIENCE, datagram, eventually, file_with, free_port, loopback_group, temporary_file, udp,
};

/// `127.0.0.1` with a port that is free now: the functions of 0.1.8 do not tell what port 0 became.
fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn send(text: &str, to: impl std::net::ToSocketAddrs) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(text.as_bytes(), to).unwrap();
}

/// Sends to `GROUP%127.0.0.1:PORT`.
fn send_to_group(text: &str, group: &str) {
    let group: SocketAddrV4 = group.replace("%127.0.0.1", "").parse().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket.send_to(text.as_bytes(), group).unwrap();
}

fn connect(address: impl std::net::ToSocketAddrs) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that has joined in: it gets what `repeat` sends until then, and then nothing of it any more.
fn joined(address: impl std::net::ToSocketAddrs, mut repeat: impl FnMut(&str)) -> TcpStream {
    let stream = connect(address);
    stream.set_nonblocking(true).unwrap();
    eventually("the first datagram for a client", || {
        repeat(".");
        (&stream).read(&mut [0]).ok().filter(|len| *len == 1)
    });
    stream.set_nonblocking(false).unwrap();
    stream
}

/// The next line, without the dots that [`joined`] left.
fn line(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("no line came");
        line.push(byte[0].into());
    }
    line.trim_start_matches('.').to_owned()
}

#[allow(deprecated)]
#[test]
fn the_clients_functions_of_0_1_8_work() {
    let target: fn(&String) -> io::Result<(SocketAddr, UdpSocket)> = mproxy_client::target_socket_interface;
    let stream: fn(&PathBuf, Vec<String>, bool) -> io::Result<()> = mproxy_client::client_socket_stream;

    let (socket, address) = udp();
    let (to, sender) = target(&address.to_string()).unwrap();
    assert_eq!(to, address);
    sender.send_to(b"by hand\n", to).unwrap();
    assert_eq!(datagram(&socket), b"by hand\n");

    let group = loopback_group();
    let (_, receiver) = mproxy_server::upstream_socket_interface(group.clone()).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let (to, sender) = target(&group).unwrap();
    assert!(to.ip().is_multicast());
    sender.send_to(b"to a group\n", to).unwrap();
    assert_eq!(datagram(&receiver), b"to a group\n");

    let (_directory, path) = temporary_file(b"a file\n");
    let (second, second_address) = udp();
    stream(&path, vec![address.to_string(), second_address.to_string()], false).unwrap();
    assert_eq!(datagram(&socket), b"a file\n");
    assert_eq!(datagram(&second), b"a file\n");

    for wrong in ["127.0.0.1", "127.0.0.1:0", "name.invalid:9920"] {
        assert!(target(&wrong.to_owned()).is_err(), "{wrong}");
        assert!(stream(&path, vec![wrong.to_owned()], false).is_err(), "{wrong}");
    }
    assert_eq!(stream(&path, vec![], false).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let missing = path.with_extension("missing");
    let error = stream(&missing, vec![address.to_string()], false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
}

#[allow(deprecated)]
#[test]
fn the_servers_functions_of_0_1_8_work() {
    let upstream: fn(String) -> io::Result<(SocketAddr, UdpSocket)> =
        mproxy_server::upstream_socket_interface;
    let listener: fn(String, PathBuf, bool) -> JoinHandle<()> = mproxy_server::listener;

    let (address, socket) = upstream("127.0.0.1:0".to_owned()).unwrap();
    assert_eq!(address, socket.local_addr().unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    send("by hand\n", address);
    assert_eq!(datagram(&socket), b"by hand\n");
    let group = loopback_group();
    let (_, receiver) = upstream(group.clone()).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    send_to_group("to a group\n", &group);
    assert_eq!(datagram(&receiver), b"to a group\n");
    assert!(upstream(address.to_string()).is_err(), "an address in use was bound again");

    let (_directory, path) = temporary_file(b"before\n");
    let address = free_address();
    let thread = listener(address.clone(), path.clone(), false);
    // The address is bound already.
    send("after\n", &address);
    assert_eq!(file_with(&path, 13), b"before\nafter\n");
    assert!(!thread.is_finished());

    // A failure ends the thread.
    listener("127.0.0.1".to_owned(), path, false).join().unwrap();
}

/// The targets, then the listeners.
type Gateway = fn(&[String], &[String], bool) -> Vec<JoinHandle<()>>;

#[allow(deprecated)]
#[test]
fn the_forwards_functions_of_0_1_8_work() {
    let forward: fn(String, &[String], bool) -> JoinHandle<()> = mproxy_forward::forward_udp;
    let gateway: Gateway = mproxy_forward::proxy_gateway;
    let tcp: fn(String, String) -> JoinHandle<()> = mproxy_forward::proxy_tcp_udp;

    let targets = [udp(), udp()];
    let downstream: Vec<String> = targets.iter().map(|(_, address)| address.to_string()).collect();
    let address = free_address();
    let thread = forward(address.clone(), &downstream, false);
    send("forwarded\n", &address);
    for (socket, _) in &targets {
        assert_eq!(datagram(socket), b"forwarded\n");
    }
    assert!(!thread.is_finished());
    // A failure ends the thread: the address is in use.
    forward(address, &downstream, false).join().unwrap();

    let addresses = [free_address(), free_address(), free_address()];
    let threads = gateway(&downstream, &addresses, false);
    assert_eq!(threads.len(), 3);
    for address in &addresses {
        send(address, address);
        for (socket, _) in &targets {
            assert_eq!(datagram(socket), address.as_bytes());
        }
    }

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let _thread = tcp(server.local_addr().unwrap().to_string(), downstream[0].clone());
    let (mut stream, _) = server.accept().unwrap();
    stream.write_all(b"over TCP\n").unwrap();
    assert_eq!(datagram(&targets[0].0), b"over TCP\n");
}

#[allow(deprecated)]
#[test]
fn the_reverse_proxys_functions_of_0_1_8_work() {
    let udp_tcp: fn(String, String) -> JoinHandle<()> = mproxy_reverse::reverse_proxy_udp_tcp;
    let udp_udp: fn(String, String) -> JoinHandle<()> = mproxy_reverse::reverse_proxy_udp;
    let tcp_udp: fn(String, String) -> JoinHandle<()> = mproxy_reverse::reverse_proxy_tcp_udp;

    let (group, output) = (loopback_group(), free_address());
    let _thread = udp_tcp(group.clone(), output.clone());
    let mut client = joined(&output, |dot| send_to_group(dot, &group));
    send_to_group("to a client\n", &group);
    assert_eq!(line(&mut client), "to a client\n");

    // Input of TCP connections goes to the same group, and from it to the client.
    let input = free_address();
    let _thread = tcp_udp(input.clone(), group.clone());
    connect(&input).write_all(b"from a connection\n").unwrap();
    assert_eq!(line(&mut client), "from a connection\n");

    let (socket, address) = udp();
    let input = free_address();
    let _thread = tcp_udp(input.clone(), address.to_string());
    connect(&input).write_all(b"to a target\n").unwrap();
    assert_eq!(datagram(&socket), b"to a target\n");

    let input = free_address();
    let _thread = udp_udp(input.clone(), address.to_string());
    send("from UDP to UDP\n", &input);
    assert_eq!(datagram(&socket), b"from UDP to UDP\n");

    // Failures end the threads.
    udp_tcp("127.0.0.1:9".to_owned(), free_address()).join().unwrap();
    udp_udp("127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()).join().unwrap();
    tcp_udp("127.0.0.1".to_owned(), address.to_string()).join().unwrap();
}

#[test]
fn a_client_is_built_joined_and_tells_its_totals() {
    let (_directory, path) = temporary_file(b"one\ntwo\n");
    let (socket, address) = udp();
    let client = Client::new(&path)
        .target(address)
        .rate(1_000_000)
        .options(Options::new().ttl(0).framing(Framing::Lines).datagram_size(4))
        .spawn()
        .unwrap();
    assert!(client.local_addrs().is_empty());
    assert_eq!(datagram(&socket), b"one\n");
    assert_eq!(datagram(&socket), b"two\n");
    let stats = client.join().unwrap();
    assert_eq!((stats.received(), stats.sent(), stats.errors()), (2, 2, 0));
    let target = stats.endpoints.iter().find(|e| e.endpoint == address.to_string()).unwrap();
    assert_eq!((target.datagrams, target.bytes), (2, 8));
}

#[cfg(unix)]
#[test]
fn a_client_without_an_end_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    assert!(mproxy_tests::output(std::process::Command::new("mkfifo").arg(&path)).status.success());
    let (socket, address) = udp();
    // Opened for both, so that opening waits for nobody.
    let mut writer = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let client = Client::new(&path).target(address).spawn().unwrap();
    writer.write_all(b"one\n").unwrap();
    assert_eq!(datagram(&socket), b"one\n");
    client.stop();
    assert_eq!(client.join().unwrap().sent(), 1);
}

#[test]
fn a_server_is_built_and_tells_its_ports_and_statistics() {
    let (_directory, path) = temporary_file(b"");
    let server = Server::new()
        .path(&path)
        .listen("127.0.0.1:0")
        .listen("localhost:0")
        .options(Options::new().recv_buffer(1 << 20).framing(Framing::Lines))
        .spawn()
        .unwrap();
    let addresses = server.local_addrs().to_vec();
    assert!(addresses.len() >= 2 && addresses.iter().all(|a| a.port() != 0), "{addresses:?}");
    send("one", addresses[0]);
    assert_eq!(file_with(&path, 4), b"one\n");
    send("two", addresses[1]);
    assert_eq!(file_with(&path, 8), b"one\ntwo\n");
    let stats = eventually("the statistics", || Some(server.stats()).filter(|s| s.sent() == 2));
    assert_eq!((stats.received(), stats.errors()), (2, 0));
    let stopper = server.stopper();
    std::thread::spawn(move || stopper.stop()).join().unwrap();
    let total = server.join().unwrap();
    assert_eq!((total.received(), total.sent()), (2, 2));
    // The port is free again.
    UdpSocket::bind(addresses[0]).unwrap();
}

#[test]
fn a_forward_is_built_and_tells_its_ports_and_statistics() {
    let (socket, address) = udp();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = Forward::new()
        .udp_listen("127.0.0.1:0")
        .tcp_connect(upstream.local_addr().unwrap())
        .target(address)
        .options(Options::new().framing(Framing::Raw).datagram_size(100))
        .spawn()
        .unwrap();
    let [listener] = forward.local_addrs() else { panic!("{:?}", forward.local_addrs()) };
    assert_ne!(listener.port(), 0);
    send("one\n", listener);
    assert_eq!(datagram(&socket), b"one\n");
    let (mut stream, _) = upstream.accept().unwrap();
    stream.write_all(b"two\n").unwrap();
    assert_eq!(datagram(&socket), b"two\n");
    eventually("the statistics", || (forward.stats().sent() == 2).then_some(()));
    forward.stop();
    let total = forward.join().unwrap();
    assert_eq!((total.received(), total.sent(), total.errors()), (2, 2, 0));
}

#[test]
fn a_reverse_proxy_is_built_and_tells_its_ports_and_statistics() {
    let (socket, address) = udp();
    let reverse = Reverse::new()
        .udp_listen("127.0.0.1:0")
        .tcp_listen("127.0.0.1:0")
        .tcp_output("127.0.0.1:0")
        .udp_output(address)
        .max_clients(3)
        .spawn()
        .unwrap();
    let [udp_input, tcp_input, output] = *reverse.local_addrs() else {
        panic!("{:?}", reverse.local_addrs())
    };
    let mut client = joined(output, |dot| send(dot, udp_input));
    send("one\n", udp_input);
    assert_eq!(line(&mut client), "one\n");
    connect(tcp_input).write_all(b"two\n").unwrap();
    assert_eq!(line(&mut client), "two\n");
    while datagram(&socket) != b"two\n" {}
    assert!(reverse.stats().received() >= 3);
    reverse.stop();
    let total = reverse.join().unwrap();
    // Two outputs got the two lines, and at least one dot before them.
    assert!(total.received() >= 3 && total.sent() >= 6, "{total:?}");
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0, "the client's connection is still open");
}

#[test]
fn a_reverse_proxy_can_route_through_a_group_that_others_use() {
    let group = loopback_group();
    let reverse = Reverse::new().multicast(&group).tcp_output("127.0.0.1:0").spawn().unwrap();
    let output = reverse.local_addrs()[0];
    let mut client = joined(output, |dot| send_to_group(dot, &group));
    send_to_group("from elsewhere\n", &group);
    assert_eq!(line(&mut client), "from elsewhere\n");
    reverse.stop();
    assert!(reverse.join().unwrap().received() >= 2);
}

#[test]
fn a_program_goes_on_when_its_handle_is_dropped() {
    let (socket, address) = udp();
    let forward = Forward::new().udp_listen("127.0.0.1:0").target(address).spawn().unwrap();
    let listener = forward.local_addrs()[0];
    drop(forward);
    send("one\n", listener);
    assert_eq!(datagram(&socket), b"one\n");
}

#[cfg(target_os = "linux")]
#[test]
fn joining_tells_the_failure_that_ended_the_program() {
    let server = Server::new().path("/dev/full").listen("127.0.0.1:0").spawn().unwrap();
    send("no room\n", server.local_addrs()[0]);
    let error = server.join().unwrap_err();
    assert!(!error.is_usage());
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("/dev/full"), "{error}");
}

#[test]
fn nonsense_is_wrong_use_and_the_network_is_not() {
    let (_directory, path) = temporary_file(b"");
    let local = "127.0.0.1:9";
    let missing = path.with_extension("missing");
    let wrong = [
        ("no target", Client::new(&path).spawn()),
        ("no port", Client::new(&path).target("127.0.0.1").spawn()),
        ("port 0", Client::new(&path).target("127.0.0.1:0").spawn()),
        (
            "an unknown interface",
            Client::new(&path).target(local).options(Options::new().interface("no-such")).spawn(),
        ),
        ("nothing at all", Server::new().spawn()),
        ("no listener", Server::new().path(&missing).spawn()),
        ("no path", Server::new().listen("127.0.0.1:0").spawn()),
        ("no host", Server::new().path(&missing).listen(":0").spawn()),
        ("nothing at all", Forward::new().spawn()),
        ("no target", Forward::new().udp_listen("127.0.0.1:0").spawn()),
        ("no input", Forward::new().target(local).spawn()),
        ("a loop", Forward::new().udp_listen(local).target(local).spawn()),
        ("a group for TCP", Forward::new().tcp_connect("239.1.2.3:9").target(local).spawn()),
        ("nothing at all", Reverse::new().spawn()),
        ("no output", Reverse::new().udp_listen("127.0.0.1:0").spawn()),
        ("no input", Reverse::new().tcp_output("127.0.0.1:0").spawn()),
        ("no group", Reverse::new().multicast(local).tcp_output("127.0.0.1:0").spawn()),
        (
            "no clients",
            Reverse::new().udp_listen("127.0.0.1:0").tcp_output("127.0.0.1:0").max_clients(0).spawn(),
        ),
        ("a loop", Reverse::new().udp_listen(local).udp_output(local).spawn()),
    ];
    for (what, spawned) in wrong {
        let error = spawned.expect_err(what);
        assert!(error.is_usage(), "{what}: {error}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{what}");
        assert!(!error.to_string().contains('\n'), "{what}: {error}");
    }
    assert!(!missing.exists());

    let (_socket, taken) = udp();
    let taken = taken.to_string();
    let failures = [
        ("name.invalid:9", Client::new(&path).target("name.invalid:9").spawn()),
        (missing.to_str().unwrap(), Client::new(&missing).target(local).spawn()),
        (&taken, Server::new().path(&path).listen(&taken).spawn()),
        (&taken, Forward::new().udp_listen(&taken).target(local).spawn()),
        (&taken, Reverse::new().udp_listen(&taken).tcp_output("127.0.0.1:0").spawn()),
    ];
    for (name, spawned) in failures {
        let error = spawned.expect_err(name);
        assert!(!error.is_usage() && error.to_string().contains(name), "{name}: {error}");
        let as_io = io::Error::from(error);
        assert!(as_io.to_string().contains(name), "{as_io}");
    }
}

#[test]
fn sizes_and_rates_out_of_range_are_wrong_use() {
    let (_directory, path) = temporary_file(b"");
    let client = || Client::new(&path).target("127.0.0.1:9");
    let forward = || Forward::new().tcp_connect("127.0.0.1:9").target("127.0.0.1:9");
    let reverse = || Reverse::new().tcp_listen("127.0.0.1:0").tcp_output("127.0.0.1:0");
    for size in [0, 65_508] {
        let options = Options::new().datagram_size(size);
        for (what, spawned) in [
            ("client", client().options(options.clone()).spawn()),
            ("forward", forward().options(options.clone()).spawn()),
            ("reverse", reverse().options(options).spawn()),
        ] {
            assert!(spawned.is_err_and(|error| error.is_usage()), "{what}: a datagram size of {size}");
        }
    }
    assert!(client().rate(0).spawn().is_err_and(|error| error.is_usage()), "a rate of 0");
    for threads in [0, 257] {
        let options = Options::new().threads(threads);
        let spawned = Forward::new().udp_listen("127.0.0.1:0").target("127.0.0.1:9").options(options).spawn();
        assert!(spawned.is_err_and(|error| error.is_usage()), "{threads} threads");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_of_several_threads_has_one_address() {
    let (_directory, path) = temporary_file(b"");
    let options = Options::new().threads(3);
    let server = Server::new().path(&path).listen("127.0.0.1:0").options(options.clone()).spawn().unwrap();
    let reverse =
        Reverse::new().udp_listen("127.0.0.1:0").tcp_output("127.0.0.1:0").options(options).spawn().unwrap();
    assert_eq!((server.local_addrs().len(), reverse.local_addrs().len()), (1, 2));
    // Each sender may come to another thread, and all of them write to the one file.
    for _ in 0..20 {
        send("one", server.local_addrs()[0]);
    }
    eventually("twenty datagrams", || (server.stats().received() == 20).then_some(()));
    for program in [server, reverse] {
        program.stop();
        program.join().unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one".repeat(20));
}
