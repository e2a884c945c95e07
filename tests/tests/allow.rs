//! `--allow`: what comes from elsewhere never gets in, and is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use mproxy_forward::{Forward, Options};
use mproxy_reverse::Reverse;
use mproxy_tests::{
    Network, PATIENCE, datagram, eventually, is_wine, loopback_group, needs_ipv6, needs_loopback_network,
    run, send, server, skip, start, udp, udp_on,
};
use socket2::{Domain, Socket, Type};

/// For datagrams from addresses of the loopback network other than 127.0.0.1.
fn needs_several_senders() {
    needs_loopback_network();
    if is_wine() {
        skip("under Wine datagrams leave from 127.0.0.1 only");
    }
}

fn sender(from: &str, to: SocketAddr) -> UdpSocket {
    let (socket, _) = udp_on(from);
    socket.connect(to).unwrap();
    socket
}

fn datagrams_from_elsewhere_reach_no_file_and_no_target() {
    needs_several_senders();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let listen = ["--listen-addr", "127.0.0.1:0", "--tee", "-v", "--path", path.to_str().unwrap()];
    let mut server =
        start("mproxy-server", &[&listen[..], &["--allow", "127.0.2.0/24", "--allow", "127.0.3.3"]].concat());
    let address = server.udp_address("127.0.0.1:0");
    let mut expected = String::new();
    for (from, allowed) in [
        ("127.0.0.1", false),
        ("127.0.2.9", true),
        ("127.0.3.2", false),
        ("127.0.3.3", true),
        ("127.0.4.1", false),
    ] {
        // Mixed with others, so that some are received together.
        for number in 0..20 {
            let line = format!("{from} {number}\n");
            sender(&format!("{from}:0"), address).send(line.as_bytes()).unwrap();
            if allowed {
                expected += &line;
            }
        }
    }
    assert_eq!(String::from_utf8(server.writes(expected.len())).unwrap(), expected);
    server.stop();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    server.says("127.0.0.1:0: dropped what came from elsewhere than allowed");
    server.says("127.0.0.1:0: 60 not allowed");
}

fn without_a_word_they_are_counted() {
    needs_several_senders();
    let (target, address) = udp();
    let forward = Forward::new()
        .udp_listen("127.0.0.1:0")
        .target(address.to_string())
        .options(Options::new().allow("127.0.2.0/24").threads(if cfg!(target_os = "linux") { 2 } else { 1 }))
        .spawn()
        .unwrap();
    let listener = forward.local_addrs()[0];
    for from in ["127.0.0.1:0", "127.0.2.1:0", "127.0.3.1:0"] {
        sender(from, listener).send(from.as_bytes()).unwrap();
    }
    assert_eq!(datagram(&target), b"127.0.2.1:0");
    eventually("two that are not allowed", || (forward.stats().denied() == 2).then_some(()));
    forward.stop();
    let stats = forward.join().unwrap();
    assert_eq!((stats.received(), stats.sent(), stats.denied()), (1, 1, 2));
}

fn ipv6_has_its_own_networks() {
    needs_ipv6();
    let (target, address) = udp();
    let target_address = address.to_string();
    for (network, allowed) in
        [("::1", true), ("::/64", true), ("2001:db8::/32", false), ("127.0.0.0/8", false)]
    {
        let arguments = ["--udp-listen-addr", "[::1]:0", "--udp-downstream-addr", &target_address, "-v"];
        let mut forward = start("mproxy-forward", &[&arguments[..], &["--allow", network]].concat());
        sender("[::1]:0", forward.udp_address("[::1]:0")).send(network.as_bytes()).unwrap();
        if allowed {
            assert_eq!(datagram(&target), network.as_bytes());
        } else {
            forward.says("elsewhere than allowed");
        }
        forward.stop();
    }
}

fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&from.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn connections_from_elsewhere_are_closed_at_once() {
    needs_loopback_network();
    let (target, address) = udp();
    let reverse = Reverse::new()
        .tcp_listen("127.0.0.1:0")
        .tcp_output("127.0.0.1:0")
        .udp_output(address.to_string())
        .options(mproxy_reverse::Options::new().allow("127.0.2.0/24"))
        .spawn()
        .unwrap();
    let [input, output] = reverse.local_addrs() else { panic!("two listeners") };
    for listener in [input, output] {
        let mut stream = connect("127.0.3.1:0", *listener);
        let _ = stream.write_all(b"from elsewhere\n");
        // The end, or a reset if that was quick enough to be in its way.
        assert!(!matches!(stream.read(&mut [0; 16]), Ok(1..)), "it was served");
    }
    let mut client = connect("127.0.2.1:0", *output);
    let mut sender = connect("127.0.2.2:0", *input);
    let mut buffer = [0; 64];
    client.set_nonblocking(true).unwrap();
    // The client may not be there for the first of them.
    let got = eventually("a line", || {
        sender.write_all(b"allowed\n").unwrap();
        client.read(&mut buffer).ok()
    });
    assert!(got > 0 && buffer.starts_with(b"allowed\n"));
    assert!(datagram(&target).starts_with(b"allowed\n"));
    assert_eq!(reverse.stats().denied(), 2);
    reverse.stop();
    let stats = reverse.join().unwrap();
    let denied: Vec<u64> = stats.endpoints.iter().filter(|e| e.denied > 0).map(|e| e.denied).collect();
    assert_eq!(denied, [1, 1], "{stats:?}");
}

fn nobody_shakes_hands_with_those_from_elsewhere() {
    use mproxy_tests::{Authority, Valid};

    needs_loopback_network();
    let directory = tempfile::tempdir().unwrap();
    let certificate = Authority::new(directory.path(), "ca").certify("server", &["localhost"], Valid::Now);
    let mut reverse = start(
        "tls/mproxy-reverse",
        &[
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--tls-output-addr",
            "127.0.0.1:0",
            "--tls-cert",
            &certificate.path,
            "--tls-key",
            &certificate.key,
            "--allow",
            "127.0.2.0/24",
            "-v",
        ],
    );
    let mut stream = connect("127.0.3.1:0", reverse.tcp_address("127.0.0.1:0"));
    let _ = stream.write_all(b"no handshake at all");
    assert!(!matches!(stream.read(&mut [0; 16]), Ok(1..)), "it got an answer");
    reverse.says(": not an allowed address");
    reverse.stop();
    assert!(!reverse.messages().contains("TLS: "), "{}", reverse.messages());
    assert!(reverse.warnings().is_empty(), "{}", reverse.messages());
}

/// The proxy's own datagrams to its group are allowed, whatever the list says.
fn a_shared_channel_takes_the_proxys_own_datagrams_and_no_others() {
    if cfg!(not(target_os = "linux")) {
        skip("only Linux delivers to a group of the loopback interface from all of its addresses");
    }
    let group = loopback_group();
    let (target, address) = udp();
    let mut reverse = start(
        "mproxy-reverse",
        &[
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--multicast-addr",
            &group,
            "--udp-output-addr",
            &address.to_string(),
            "--allow",
            "127.0.2.0/24",
            "-v",
        ],
    );
    let listener = reverse.udp_address("127.0.0.1:0");
    let endpoint: SocketAddr = group.replace("%127.0.0.1", "").parse().unwrap();
    let (stranger, _) = udp_on("127.0.3.1:0");
    socket2::SockRef::from(&stranger).set_multicast_if_v4(&std::net::Ipv4Addr::LOCALHOST).unwrap();
    stranger.send_to(b"stranger\n", endpoint).unwrap();
    reverse.says("elsewhere than allowed");
    sender("127.0.2.1:0", listener).send(b"own\n").unwrap();
    assert_eq!(datagram(&target), b"own\n");
    reverse.stop();
}

fn across_hosts_only_the_allowed_one_is_heard_by_unicast_and_multicast() {
    let network = Network::new(3);
    let allowed = Network::ipv4(1);
    let group = "239.7.7.7%eth0:7778";
    let arguments =
        ["--path", "-", "--listen-addr", "0.0.0.0:7777", "--listen-addr", group, "-v", "--allow", &allowed];
    let mut server = network.start(0, "mproxy-server", &arguments);
    server.is_ready(&arguments);
    for host in [2, 1] {
        for to in [format!("{}:7777", Network::ipv4(0)), group.to_owned()] {
            let script = format!(
                "echo from {host} | {} --path - --server-addr {to}",
                mproxy_tests::program("mproxy-client").display()
            );
            assert!(network.run(host, "sh", &["-c", &script]).status.success());
        }
    }
    assert_eq!(server.writes(14), b"from 1\nfrom 1\n");
    server.stop();
    assert_eq!(server.stdout(), b"from 1\nfrom 1\n");
}

/// They come from the address that the channel's interface has at the moment, and through whichever works.
fn a_shared_channel_takes_the_proxys_own_datagrams_after_its_interfaces_have_changed() {
    let network = Network::snooping(&[&[0, 1], &[0, 1]]);
    network.ip(0, "link delete eth1");
    let output = server(&network, 0, &["--listen-addr", "127.0.0.1:9930"]);
    let endpoints =
        ["--udp-listen-addr", "127.0.0.1:9900", "--multicast-addr", "239.7.7.7:9918", "--udp-output-addr"];
    let options = ["127.0.0.1:9930", "-v", "--interface", "eth0", "--interface", "eth1"];
    let allow = ["--allow", "127.0.0.1"];
    let reverse = network.start(0, "mproxy-reverse", &[&endpoints[..], &options, &allow].concat());
    reverse.listens("127.0.0.1:9900");
    network.switched(0, 0, "239.7.7.7", true);
    let passes = |what: &str| {
        let text = format!("{what}\n");
        eventually(what, || {
            send(&network, 0, &["--server-addr", "127.0.0.1:9900"], &text);
            output.text().contains(&text).then_some(())
        });
    };
    passes("as it began");
    network.ip(0, "addr del 10.77.0.1/24 dev eth0");
    network.ip(0, "addr add 10.77.0.9/24 dev eth0");
    passes("another address");
    network.attach(0, 1);
    network.switched(1, 0, "239.7.7.7", true);
    passes("two interfaces");
    network.ip(0, "link delete eth0");
    passes("the other interface");
    // Still not what others send.
    send(&network, 1, &["--server-addr", "239.7.7.7%eth1:9918"], "stranger\n");
    reverse.says("elsewhere than allowed");
    passes("afterwards");
    assert!(!output.text().contains("stranger"));
}

fn what_is_no_network_is_wrong_use() {
    for text in ["10.0.0.0/33", "localhost", "10.0.0.1:80", "10.0.0.0/8/8", "::/129", "10/8"] {
        let outcome = run("mproxy-server", &["--tee", "--listen-addr", "127.0.0.1:0", "--allow", text], b"");
        assert_eq!(outcome.code, 2);
        assert!(outcome.stderr.contains(&format!("'{text}' is no network")), "{}", outcome.stderr);
    }
    let outcome =
        run("mproxy-client", &["--path", "-", "--server-addr", "127.0.0.1:1", "--allow", "::1"], b"");
    assert!(outcome.code == 2 && outcome.stderr.contains("unknown option '--allow'"), "{}", outcome.stderr);
}

mproxy_tests::main!(
    datagrams_from_elsewhere_reach_no_file_and_no_target,
    without_a_word_they_are_counted,
    ipv6_has_its_own_networks,
    connections_from_elsewhere_are_closed_at_once,
    nobody_shakes_hands_with_those_from_elsewhere,
    a_shared_channel_takes_the_proxys_own_datagrams_and_no_others,
    across_hosts_only_the_allowed_one_is_heard_by_unicast_and_multicast,
    a_shared_channel_takes_the_proxys_own_datagrams_after_its_interfaces_have_changed,
    what_is_no_network_is_wrong_use,
);
