//! The private channel of `mproxy-reverse`, a pair of UDP sockets on loopback for each output thread: another user of the
//! host can neither read it nor write to it, and datagrams of every size go through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use mproxy_tests::{
    Network, PATIENCE, Running, as_nobody, assert_empty, connected, datagram, loopback, needs_ipv6,
    share_port, start, udp, udp_on,
};
use socket2::{Domain, Socket, Type};

/// A proxy with two UDP listeners, which need a channel to reach a TCP client, and that client.
struct Proxy {
    running: Running,
    listeners: [SocketAddr; 2],
    client: TcpStream,
}

impl Proxy {
    /// A proxy whose listeners are on these endpoints.
    fn new(listeners: [&str; 2], options: &[&str]) -> Self {
        let inputs = ["--udp-listen-addr", listeners[0], "--udp-listen-addr", listeners[1]];
        let running = start("mproxy-reverse", &[&inputs[..], &OUTPUT, options].concat());
        let client = client(&running);
        Self { listeners: listeners.map(|listener| running.udp_address(listener)), running, client }
    }

    fn on_ipv4(options: &[&str]) -> Self {
        Self::new([&loopback(1), &loopback(2)], options)
    }

    fn on_ipv6() -> Self {
        needs_ipv6();
        let proxy = Self::new(["[::1]:0", &loopback(1)], &[]);
        assert!(proxy.channel()[0].is_ipv6(), "{}", proxy.running.messages());
        proxy
    }

    /// The addresses of the only channel: of the sending end, and of the receiving one.
    fn channel(&self) -> [SocketAddr; 2] {
        let channels = self.running.private_channels();
        assert_eq!(channels.len(), 1, "{}", self.running.messages());
        channels[0]
    }
}

/// An output whose client can tell one datagram from the next.
const OUTPUT: [&str; 5] = ["--tcp-output-addr", "127.0.0.1:0", "--framing", "length", "-v"];

fn client(running: &Running) -> TcpStream {
    let client = TcpStream::connect(running.tcp_address("127.0.0.1:0")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    running.serves(client.local_addr().unwrap());
    client
}

/// The next datagram of a TCP client.
fn frame(mut client: &TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    client.read_exact(&mut length).expect("no datagram came");
    let mut datagram = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut datagram).expect("a datagram came in part");
    datagram
}

/// A UDP socket with `SO_REUSEADDR` and `SO_REUSEPORT`, or neither, bound to the address.
fn bound(address: SocketAddr, shares: bool) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if shares {
        share_port(&socket);
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The loopback address of the family, and the wildcards that take it in: `[::]` takes IPv4, too.
fn addresses(family: IpAddr) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = match family {
        IpAddr::V4(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()],
        IpAddr::V6(_) => vec![Ipv6Addr::LOCALHOST.into()],
    };
    if UdpSocket::bind("[::1]:0").is_ok() {
        addresses.push(Ipv6Addr::UNSPECIFIED.into());
    }
    addresses
}

fn assert_taken(proxy: &Proxy) {
    let channel = proxy.channel();
    as_nobody(|| {
        for shares in [true, false] {
            for ip in addresses(channel[0].ip()) {
                // A port that is free can be had.
                bound((ip, 0).into(), shares).unwrap();
                for port in channel.map(|end| end.port()) {
                    let refused = bound((ip, port).into(), shares).map(|_| ()).map_err(|error| error.kind());
                    assert_eq!(refused, Err(ErrorKind::AddrInUse), "{ip} port {port}, sharing: {shares}");
                }
            }
        }
    });
}

fn another_user_can_bind_neither_port() {
    assert_taken(&Proxy::on_ipv4(&[]));
}

fn another_user_can_bind_neither_port_over_ipv6() {
    assert_taken(&Proxy::on_ipv6());
}

/// Sends to both ends from sockets on these addresses, as another user, and then through the proxy: only that comes out
/// at its client.
fn assert_nothing_gets_in(proxy: &Proxy, from: &[SocketAddr]) {
    let channel = proxy.channel();
    as_nobody(|| {
        let strangers: Vec<_> = from.iter().map(|from| bound(*from, true).unwrap()).collect();
        for stranger in &strangers {
            for end in channel {
                for _ in 0..100 {
                    stranger.send_to(b"injected", end).unwrap();
                }
            }
        }
        // Loopback keeps the order: what was sent before had come before.
        for listener in proxy.listeners {
            connected(listener).send(b"let through").unwrap();
            assert_eq!(frame(&proxy.client), b"let through");
        }
        strangers.iter().for_each(assert_empty);
    });
}

fn what_another_user_sends_never_comes_out() {
    let (output, address) = udp();
    let mut proxy = Proxy::on_ipv4(&["--udp-output-addr", &address.to_string()]);
    let mut from = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    if cfg!(target_os = "linux") {
        // The port of the peer, too: only the address differs.
        let ports = proxy.channel().map(|end| end.port());
        from.extend([0, ports[0], ports[1]].map(|port| SocketAddr::from(([127, 0, 0, 2], port))));
    }
    assert_nothing_gets_in(&proxy, &from);
    for _ in proxy.listeners {
        assert_eq!(datagram(&output), b"let through");
    }
    assert_empty(&output);
    proxy.running.stop();
    assert!(proxy.running.warnings().is_empty(), "{}", proxy.running.messages());
}

fn what_another_user_sends_over_ipv6_never_comes_out() {
    let mut proxy = Proxy::on_ipv6();
    assert_nothing_gets_in(&proxy, &["[::1]:0".parse().unwrap()]);
    proxy.running.stop();
    assert!(proxy.running.warnings().is_empty(), "{}", proxy.running.messages());
}

/// Sends datagrams of these sizes to the first listener, each of which comes out whole at the client.
fn assert_sizes(proxy: &Proxy, sizes: impl Iterator<Item = usize>) {
    let from = if proxy.listeners[0].is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let (sender, _) = udp_on(from);
    sender.connect(proxy.listeners[0]).unwrap();
    for size in sizes {
        // The content of each one differs, as do its bytes.
        let sent: Vec<_> = (size..2 * size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        sender.send(&sent).unwrap();
        let received = frame(&proxy.client);
        assert!(received == sent, "{} bytes of {size}", received.len());
    }
}

fn datagrams_of_every_size_go_through() {
    let sizes = || (0..200).chain((200..65_507).step_by(97)).chain(65_480..=65_507);
    assert_sizes(&Proxy::on_ipv4(&[]), sizes());
}

fn datagrams_of_every_size_go_through_over_ipv6() {
    let sizes = || (0..200).chain((200..65_507).step_by(97)).chain(65_480..=65_527);
    assert_sizes(&Proxy::on_ipv6(), sizes());
}

/// A UDP socket of a program: its own address, and its peer's; in hexadecimal, as `/proc/net/udp` has them.
type UdpAddresses = [String; 2];

/// The UDP sockets of a program that is alone on its host.
fn udp_sockets(network: &Network) -> Vec<UdpAddresses> {
    let rows = network.succeeds(0, "cat", &["/proc/net/udp", "/proc/net/udp6"]);
    let rows = rows.lines().filter(|line| !line.contains("local_address"));
    rows.map(|row| {
        let columns: Vec<_> = row.split_whitespace().collect();
        [columns[1], columns[2]].map(str::to_owned)
    })
    .collect()
}

/// The memberships of a host, IPv4 and IPv6.
fn memberships(network: &Network) -> String {
    network.succeeds(0, "cat", &["/proc/net/igmp", "/proc/net/igmp6"])
}

/// Sends through the proxy, and waits until that comes out.
fn assert_goes_through(network: &Network, proxy: &Running, listeners: &[String]) {
    network.on(0, || {
        let client = client(proxy);
        for listener in listeners {
            connected(proxy.udp_address(listener)).send(b"let through").unwrap();
            assert_eq!(frame(&client), b"let through");
        }
    });
}

fn each_output_thread_has_a_pair_and_nobody_joins_a_group() {
    let network = Network::loopback();
    let groups = memberships(&network);
    let (listeners, second) = ([loopback(1), loopback(2)], loopback(3));
    let inputs = ["--udp-listen-addr", &listeners[0], "--udp-listen-addr", &listeners[1]];
    let outputs = ["--tcp-output-addr", &second, "--tee"];
    let proxy = network.start(0, "mproxy-reverse", &[&inputs[..], &outputs, &OUTPUT].concat());
    assert_goes_through(&network, &proxy, &listeners);
    assert_eq!(memberships(&network), groups);
    // Standard output is written to by the input threads.
    assert_eq!(proxy.private_channels().len(), 2, "{}", proxy.messages());
    // Each end has the other one for its peer.
    let (listening, mut ends): (Vec<_>, Vec<_>) =
        udp_sockets(&network).into_iter().partition(|[_, peer]| peer.ends_with(":0000"));
    assert_eq!((listening.len(), ends.len()), (2, 4));
    ends.sort();
    let mut peers: Vec<_> = ends.iter().cloned().map(|[own, peer]| [peer, own]).collect();
    peers.sort();
    assert_eq!(peers, ends);
}

fn one_listener_and_one_output_need_no_channel() {
    let network = Network::loopback();
    let groups = memberships(&network);
    let listener = loopback(1);
    let arguments = [&["--udp-listen-addr", &listener][..], &OUTPUT].concat();
    let proxy = network.start(0, "mproxy-reverse", &arguments);
    assert_goes_through(&network, &proxy, &[listener]);
    assert_eq!(memberships(&network), groups);
    assert!(proxy.private_channels().is_empty(), "{}", proxy.messages());
    let sockets = udp_sockets(&network);
    assert_eq!(sockets.len(), 1, "{sockets:?}");
}

mproxy_tests::main!(
    another_user_can_bind_neither_port,
    another_user_can_bind_neither_port_over_ipv6,
    what_another_user_sends_never_comes_out,
    what_another_user_sends_over_ipv6_never_comes_out,
    datagrams_of_every_size_go_through,
    datagrams_of_every_size_go_through_over_ipv6,
    each_output_thread_has_a_pair_and_nobody_joins_a_group,
    one_listener_and_one_output_need_no_channel,
);
