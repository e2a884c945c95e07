//! Which interfaces a group is joined and sent on: those that were named, as they come and go, and the one that
//! is taken where none was. Hosts are on two segments. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Capture, Network, Running, close, eventually, needs_tools, piped, program, receives, send, server,
};

/// Within this an interface that has come up is used. As long again is for a slow machine.
const PROMISED: Duration = Duration::from_secs(5);

const BOTH: [&str; 4] = ["--interface", "eth0", "--interface", "eth1"];

/// The groups that host 0 listens to, and those that it sends to.
const HEARD: [(&str, &str); 2] = [("239.1.2.3", "239.1.2.3:9920"), ("ff15::3", "[ff15::3]:9920")];
const SENT: [(&str, &str); 2] = [("239.1.2.4", "239.1.2.4:9921"), ("ff15::4", "[ff15::4]:9921")];

/// Host 0 on two segments, with host 1 on segment 0 and host 2 on segment 1.
fn multihomed() -> Network {
    Network::snooping(&[&[0, 1], &[0, 2]])
}

/// Listens on a host to groups, on these interfaces, and waits until the switches of the segments know.
fn member(
    network: &Network,
    host: usize,
    segments: &[usize],
    groups: [(&str, &str); 2],
    options: &[&str],
) -> Running {
    let listen = groups.map(|(_, endpoint)| ["--listen-addr", endpoint]).concat();
    let server = server(network, host, &[&listen[..], options].concat());
    for (group, _) in groups {
        for segment in segments {
            network.switched(*segment, host, group, true);
        }
    }
    server
}

fn every_interface_that_is_named_is_joined_and_sent_on() {
    let network = multihomed();
    let hears = member(&network, 0, &[0, 1], HEARD, &BOTH);
    let away = [1, 2].map(|host| member(&network, host, &[host - 1], SENT, &[]));
    let mut expected = String::new();
    for (n, (_, target)) in HEARD.into_iter().enumerate() {
        for host in [1, 2] {
            let text = format!("{n} from {host}\n");
            send(&network, host, &["--server-addr", target], &text);
            expected += &text;
            receives(&hears, &expected);
        }
    }
    let targets = SENT.map(|(_, target)| ["--udp-downstream-addr", target]).concat();
    let listen = ["-v", "--udp-listen-addr", "127.0.0.1:9900"];
    let forward = network.start(0, "mproxy-forward", &[&listen[..], &targets, &BOTH].concat());
    forward.listens("127.0.0.1:9900");
    let mut expected = String::new();
    for (_, target) in SENT {
        send(&network, 0, &[&["--server-addr", target], &BOTH[..]].concat(), target);
        expected += target;
        for server in &away {
            receives(server, &expected);
        }
    }
    send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "through\n");
    // Once for each group.
    expected += "through\nthrough\n";
    for server in &away {
        receives(server, &expected);
    }
}

fn all_interfaces_are_all_but_loopback() {
    let network = multihomed();
    let all = ["--interface", "all"];
    let hears = member(&network, 0, &[0, 1], HEARD, &all);
    let away = [1, 2].map(|host| member(&network, host, &[host - 1], SENT, &[]));
    for (n, (_, target)) in HEARD.into_iter().enumerate() {
        for host in [1, 2] {
            send(&network, host, &["--server-addr", target], &format!("{n}{host}\n"));
            receives(&hears, &["01\n", "02\n", "11\n", "12\n"][..2 * n + host].concat());
        }
    }
    let loopback = server(&network, 0, &["--listen-addr", "239.1.2.4%lo:9921"]);
    for (n, (_, target)) in SENT.into_iter().enumerate() {
        send(&network, 0, &[&["--server-addr", target], &all[..]].concat(), &format!("{n}\n"));
        for server in &away {
            receives(server, &["0\n", "1\n"][..=n].concat());
        }
    }
    send(&network, 0, &["--server-addr", "239.1.2.4%lo:9921"], "loopback\n");
    receives(&loopback, "loopback\n");
}

/// The program hears its own datagrams in the channel, but not on each interface.
fn a_channel_on_two_interfaces_brings_each_datagram_once() {
    let network = multihomed();
    let away = [1, 2].map(|host| member(&network, host, &[host - 1], SENT, &[]));
    let mut sent = String::new();
    for (group, channel) in SENT {
        let options = ["-v", "--tee", "--udp-listen-addr", "127.0.0.1:9900", "--multicast-addr", channel];
        let mut reverse = network.start(0, "mproxy-reverse", &[&options[..], &BOTH].concat());
        reverse.listens("127.0.0.1:9900");
        network.switched(0, 0, group, true);
        network.switched(1, 0, group, true);
        let mut expected = String::new();
        for n in 0..3 {
            let text = format!("{n} through {channel}\n");
            send(&network, 0, &["--server-addr", "127.0.0.1:9900"], &text);
            expected += &text;
            sent += &text;
            receives(&reverse, &expected);
            for server in &away {
                receives(server, &sent);
            }
        }
        reverse.stop();
    }
}

fn interfaces_none_of_which_exists_are_wrong_use() {
    let network = Network::loopback();
    let neither = ["--interface", "eth7", "--interface", "eth8"];
    for (name, endpoints) in [
        ("mproxy-client", &["--path", "/dev/null", "--server-addr", "239.1.2.3:9920"][..]),
        ("mproxy-server", &["--path", "-", "--listen-addr", "239.1.2.3:9920"]),
        ("mproxy-forward", &["--udp-listen-addr", "127.0.0.1:0", "--udp-downstream-addr", "239.1.2.3:9920"]),
        ("mproxy-reverse", &["--udp-listen-addr", "127.0.0.1:0", "--multicast-addr", "239.1.2.3:9920"]),
    ] {
        let mut program = network.start(0, name, &[endpoints, &neither].concat());
        assert_eq!(program.exit_code(), 2, "{}", program.messages());
        let messages = program.messages();
        assert!(messages.contains("eth7"), "{messages}");
    }
}

/// Lines that a host sends all the time, some hundred a second.
struct Stream {
    name: &'static str,
    client: Running,
    stop: Arc<AtomicBool>,
    writer: JoinHandle<usize>,
}

impl Stream {
    fn new(network: &Network, host: usize, target: &str, name: &'static str) -> Self {
        let mut command = network.command(host, program("mproxy-client"));
        command.args(["--path", "-", "--framing", "lines", "--server-addr", target]);
        let (client, mut stdin) = piped(&mut command);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                writeln!(stdin, "{name} {count}").unwrap();
                count += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            close(stdin);
            count
        });
        Self { name, client, stop, writer }
    }

    /// Stops it, and waits until all of it has arrived, once and in order.
    fn arrives(self, at: &Running) {
        let name = self.name;
        let (count, lines) = self.ends(at);
        assert!(lines.iter().copied().eq(0..count), "of {count} lines of {name} there are {}", lines.len());
    }

    /// Stops it, and waits until its last line has arrived. Returns how many lines it had, and which arrived.
    fn ends(mut self, at: &Running) -> (usize, Vec<usize>) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.writer.join().unwrap();
        assert_eq!(self.client.exit_code(), 0);
        let last = format!("{} {}\n", self.name, count - 1);
        eventually("the last line", || at.text().contains(&last).then_some(()));
        (count, arrived(self.name, at))
    }

    /// Waits until one that is sent from now on has arrived, and returns it.
    fn goes_on(&self, at: &Running) -> usize {
        let before = arrived(self.name, at).len();
        eventually("another line", || arrived(self.name, at).get(before).copied())
    }
}

/// The numbers of the stream's lines that have arrived so far.
fn arrived(name: &str, at: &Running) -> Vec<usize> {
    let output = at.text();
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    whole.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse().ok()).collect()
}

/// Host 0 in the middle: it listens to groups and sends to others, on both of its interfaces.
struct Middle<'a> {
    network: &'a Network,
    hears: Running,
    /// Each sends to one of the groups what comes in at its address.
    forwards: [(&'static str, Running); 2],
    /// Listening at the other ends of `eth0` and `eth1`.
    away: [Running; 2],
    stage: usize,
}

impl<'a> Middle<'a> {
    /// Starts the programs, and waits until the listener is known on these segments.
    fn new(network: &'a Network, segments: &[usize]) -> Self {
        let away = [1, 2].map(|host| member(network, host, &[host - 1], SENT, &[]));
        let hears = member(network, 0, segments, HEARD, &BOTH);
        let forwards =
            [("127.0.0.1:9900", SENT[0].1), ("127.0.0.1:9901", SENT[1].1)].map(|(listen, target)| {
                let endpoints = ["-v", "--udp-listen-addr", listen, "--udp-downstream-addr", target];
                let forward = network.start(0, "mproxy-forward", &[&endpoints[..], &BOTH].concat());
                forward.listens(listen);
                (listen, forward)
            });
        Self { network, hears, forwards, away, stage: 0 }
    }

    /// Waits until the groups of both families go to and from the host at the other end. Returns what was sent
    /// there.
    fn works(&mut self, segment: usize) -> [String; 2] {
        self.stage += 1;
        let text = |what: &str| format!("stage {}, {what}, eth{segment}\n", self.stage);
        for (_, target) in HEARD {
            eventually(&format!("{target} from eth{segment}"), || {
                send(self.network, segment + 1, &["--server-addr", target], &text(target));
                self.hears.text().contains(&text(target)).then_some(())
            });
        }
        for (listen, _) in &self.forwards {
            eventually(&format!("what {listen} sends on eth{segment}"), || {
                send(self.network, 0, &["--server-addr", listen], &text(listen));
                self.away[segment].text().contains(&text(listen)).then_some(())
            });
        }
        [text(self.forwards[0].0), text(self.forwards[1].0)]
    }

    /// As [`works`](Self::works), within the time that is promised from now on.
    fn works_soon(&mut self, what: &str, segment: usize) -> [String; 2] {
        let start = Instant::now();
        let texts = self.works(segment);
        let took = start.elapsed();
        assert!(took < 2 * PROMISED, "{what}: it took {took:?}");
        texts
    }
}

/// The programs start while the second interface is as `disable` leaves it, and use it after `enable`.
fn a_dead_interface(what: &str, disable: impl FnOnce(&Network), enable: impl FnOnce(&Network)) {
    let network = multihomed();
    disable(&network);
    let mut middle = Middle::new(&network, &[0]);
    for (_, endpoint) in HEARD {
        warns(&middle.hears, endpoint);
    }
    for ((_, forward), (_, endpoint)) in middle.forwards.iter().zip(SENT) {
        warns(forward, endpoint);
    }
    middle.works(0);
    enable(&network);
    middle.works_soon(what, 1);
    middle.works(0);
}

/// Waits for a warning about the second interface.
fn warns(program: &Running, endpoint: &str) {
    eventually(&format!("a warning about eth1 and {endpoint}"), || {
        let about = |line: &String| line.contains("eth1") && line.contains(endpoint);
        program.warnings().iter().any(about).then_some(())
    });
}

fn an_interface_that_is_down_is_used_when_it_comes_up() {
    a_dead_interface(
        "an_interface_that_is_down_is_used_when_it_comes_up",
        |network| network.ip(0, "link set eth1 down"),
        |network| network.ip(0, "link set eth1 up"),
    );
}

fn an_interface_without_carrier_is_used_when_it_has_one() {
    a_dead_interface(
        "an_interface_without_carrier_is_used_when_it_has_one",
        |network| network.unplug(0, 1),
        |network| network.plug(0, 1),
    );
}

fn an_interface_without_addresses_is_used_when_it_has_some() {
    a_dead_interface(
        "an_interface_without_addresses_is_used_when_it_has_some",
        |network| network.ip(0, "addr flush dev eth1"),
        |network| network.address(0, 1),
    );
}

fn an_interface_that_does_not_exist_is_used_when_it_does() {
    a_dead_interface(
        "an_interface_that_does_not_exist_is_used_when_it_does",
        |network| network.ip(0, "link delete eth1"),
        |network| network.attach(0, 1),
    );
}

/// On the other interface nothing is lost meanwhile.
fn an_interface_is_used_again_after_all_that_may_become_of_it() {
    let network = multihomed();
    let mut middle = Middle::new(&network, &[0, 1]);
    let streams = [
        (Stream::new(&network, 1, HEARD[0].1, "in"), false),
        (Stream::new(&network, 0, "127.0.0.1:9900", "out"), true),
    ];
    middle.works(1);
    network.ip(0, "link delete eth1");
    network.attach(0, 1);
    middle.works_soon("created anew", 1);

    network.ip(0, "link set eth1 down");
    network.ip(0, "link set eth1 up");
    network.address(0, 1);
    middle.works_soon("down and up", 1);

    network.unplug(0, 1);
    network.plug(0, 1);
    middle.works_soon("without carrier and with it again", 1);

    network.ip(0, "addr del 10.78.0.1/24 dev eth1");
    network.ip(0, "addr add 10.78.0.9/24 dev eth1");
    // Not before: the streams fill it.
    let wire = Capture::new(&network, 2, "eth1");
    let [sent, _] = middle.works_soon("with another address", 1);
    assert_eq!(wire.sees_payload(&sent).source.to_string(), "10.78.0.9");

    for (stream, out) in streams {
        stream.arrives(if out { &middle.away[0] } else { &middle.hears });
    }
}

/// A client hears the channel through one of the interfaces. When that fails, what is lost before the proxy has
/// noticed is in one piece, and when it is back nothing is.
fn a_channel_stays_heard_while_its_interfaces_come_and_go() {
    needs_tools(&["socat"]);
    let network = multihomed();
    let (group, channel) = SENT[0];
    let listen = ["-v", "--udp-listen-addr", "127.0.0.1:9900", "--tcp-output-addr", "127.0.0.1:9902"];
    let options = [&listen[..], &["--multicast-addr", channel], &BOTH].concat();
    let reverse = network.start(0, "mproxy-reverse", &options);
    reverse.accepts("127.0.0.1:9902");
    let mut socat = network.command(0, "socat");
    let client = Running::new(socat.args(["-u", "TCP4:127.0.0.1:9902", "-"]).stdin(Stdio::null()));
    reverse.serves_a_client();
    for segment in [0, 1] {
        network.switched(segment, 0, group, true);
    }
    let stream = Stream::new(&network, 0, "127.0.0.1:9900", "line");
    let mut gone = Vec::new();
    for segment in [0, 1] {
        let name = format!("eth{segment}");
        let before = stream.goes_on(&client);
        network.ip(0, &format!("link set {name} down"));
        tells(&reverse, 1, channel, &format!("{name} cannot be used"));
        gone.push(before..stream.goes_on(&client));
        network.ip(0, &format!("link set {name} up"));
        network.address(0, segment);
        tells(&reverse, 1, channel, &format!("{name} can be used again"));
        network.switched(segment, 0, group, true);
        stream.goes_on(&client);
    }
    let (count, lines) = stream.ends(&client);
    assert!(lines.is_sorted_by(|one, next| one < next), "not in order, or twice: {lines:?}");
    let lost: Vec<_> = (0..count).filter(|line| lines.binary_search(line).is_err()).collect();
    let pieces = lost.windows(2).filter(|pair| pair[0] + 1 < pair[1]).count();
    let meanwhile = lost.iter().all(|line| gone.iter().any(|gone| gone.contains(line)));
    assert!(meanwhile && pieces < gone.len(), "lost {lost:?} of {count}, gone at {gone:?}");
}

/// A host that sends to groups and to all without saying on which interface, and those who may hear it.
struct Chooser<'a> {
    network: &'a Network,
    /// By segment, with all that is expected of it.
    away: Vec<(Running, String)>,
}

/// Targets: a group of each family, and broadcast.
const TARGETS: [&str; 3] = [SENT[0].1, SENT[1].1, "255.255.255.255:9922"];

impl<'a> Chooser<'a> {
    fn new(network: &'a Network, segments: usize) -> Self {
        let away = (0..segments).map(|segment| {
            let all = ["--listen-addr", "0.0.0.0:9922"];
            (member(network, segment + 1, &[segment], SENT, &all), String::new())
        });
        Self { network, away: away.collect() }
    }

    /// Datagrams to each target must leave on the segment that is given for it, and a listener to groups of both
    /// families must join them there.
    fn chooses(&mut self, what: &str, segments: [usize; 3]) {
        for (target, segment) in TARGETS.into_iter().zip(segments) {
            let text = format!("{what}, to {target}\n");
            send(self.network, 0, &["--server-addr", target], &text);
            let (server, expected) = &mut self.away[segment];
            *expected += &text;
            receives(server, expected);
        }
        let listener = self.network.start(0, "mproxy-server", &listening());
        for ((_, endpoint), segment) in HEARD.into_iter().zip(segments) {
            joins(&listener, endpoint, &format!("eth{segment}"));
        }
    }

    /// None may have got what was sent to another.
    fn nothing_else(mut self) {
        for (segment, (server, expected)) in self.away.iter_mut().enumerate() {
            let end = ["--server-addr", SENT[0].1, "--interface", &format!("eth{segment}")];
            send(self.network, 0, &end, "end\n");
            *expected += "end\n";
            receives(server, expected);
        }
    }
}

/// Listening to groups of both families.
fn listening() -> Vec<&'static str> {
    let listen = HEARD.map(|(_, endpoint)| ["--listen-addr", endpoint]).concat();
    [&["--path", "-", "-v"], &listen[..]].concat()
}

/// Waits until the listener tells that it joined its group on this interface.
fn joins(listener: &Running, endpoint: &str, interface: &str) {
    assert_eq!(listener.joined_group(endpoint).interface, interface);
}

fn of_equal_interfaces_the_one_of_the_default_route_is_chosen_and_a_route_for_the_group_comes_first() {
    let network = multihomed();
    let ip = |arguments: &str| network.ip(0, arguments);
    let mut chooser = Chooser::new(&network, 2);
    chooser.chooses("no route", [0, 0, 0]);
    ip("route add default via 10.78.0.3 dev eth1");
    chooser.chooses("a default route of IPv4 alone", [1, 1, 1]);
    ip("-6 route add default via fd78::3 dev eth1");
    chooser.chooses("a default route", [1, 1, 1]);
    ip("route add 239.0.0.0/8 dev eth0");
    chooser.chooses("a route for groups", [0, 1, 1]);
    ip("route replace 239.0.0.0/8 dev eth1");
    ip("route add 239.1.2.0/24 dev eth0");
    chooser.chooses("a better route for groups", [0, 1, 1]);
    chooser.nothing_else();
}

fn an_interface_that_cannot_carry_the_group_is_not_chosen() {
    let network = multihomed();
    let ip = |arguments: &str| network.ip(0, arguments);
    let mut chooser = Chooser::new(&network, 2);
    ip("route add default via 10.78.0.3 dev eth1");
    ip("-6 route add default via fd78::3 dev eth1");
    network.unplug(0, 1);
    chooser.chooses("eth1 has no carrier", [0, 0, 0]);
    network.plug(0, 1);
    ip("link set eth1 down");
    chooser.chooses("eth1 is down", [0, 0, 0]);
    ip("link set eth1 up");
    network.address(0, 1);
    network.settled(0, 1);
    ip("-4 addr flush dev eth0");
    chooser.chooses("eth0 has no IPv4 address", [1, 0, 1]);
    network.address(0, 0);
    ip("-6 addr flush dev eth0");
    chooser.chooses("eth0 has no IPv6 address", [0, 1, 0]);
    ip("link set eth0 multicast off");
    ip("link set eth1 multicast on");
    chooser.chooses("eth0 carries no multicast, but broadcast", [1, 1, 0]);
    chooser.nothing_else();
}

/// Though they have the default route, and came first.
fn tunnels_and_bridges_of_containers_come_after_all_others() {
    let mut network = Network::snooping(&[&[0, 1]]);
    network.ip(0, "link delete eth0");
    let _tunnels = ["tun", "tap"].map(|kind| network.tunnel(0, kind));
    network.container_bridge(0);
    network.ip(0, "addr add fd09::1/64 dev tun0 nodad");
    network.attach(0, 0);
    network.settled(0, 0);
    let ip = |arguments: &str| network.ip(0, arguments);

    let mut chooser = Chooser::new(&network, 1);
    chooser.chooses("no route", [0, 0, 0]);
    for device in ["tun0", "tap0", "docker0"] {
        ip(&format!("route replace default dev {device}"));
        ip(&format!("-6 route replace default dev {device}"));
        chooser.chooses(&format!("a default route to {device}"), [0, 0, 0]);
    }
    // OpenVPN's, which are better than any default route.
    ip("route add 0.0.0.0/1 dev tun0");
    ip("route add 128.0.0.0/1 dev tun0");
    chooser.chooses("all routes to tun0", [0, 0, 0]);
    chooser.nothing_else();

    ip("route del 0.0.0.0/1 dev tun0");
    ip("route del 128.0.0.0/1 dev tun0");
    network.unplug(0, 0);
    let listener = network.start(0, "mproxy-server", &listening());
    joins(&listener, HEARD[0].1, "docker0");
}

/// A bridge's ports have IPv6 addresses, too, but what arrives there goes to the bridge, and what is sent there
/// goes out beside it.
fn the_port_of_a_bridge_is_neither_chosen_nor_one_of_all() {
    let network = Network::snooping(&[&[0, 1]]);
    let ip = |arguments: &str| network.ip(0, arguments);
    ip("link add lan0 type bridge");
    ip("link set eth0 master lan0");
    ip("link set lan0 up");
    ip("addr flush dev eth0 scope global");
    ip("addr add 10.77.0.1/24 dev lan0");
    ip("addr add fd77::1/64 dev lan0 nodad");
    network.interface_settled(0, "lan0");
    let there = member(&network, 1, &[0], SENT, &[]);
    let mut expected = String::new();
    for options in [&[][..], &["--interface", "all"]] {
        let hears = member(&network, 0, &[0], HEARD, options);
        let mut arrived = String::new();
        for ((_, target), (_, here)) in SENT.into_iter().zip(HEARD) {
            // Once more shows whether the first one came twice.
            for n in 0..2 {
                let text = format!("{n} with {options:?} to {target}\n");
                send(&network, 0, &[&["--server-addr", target], options].concat(), &text);
                expected += &text;
                receives(&there, &expected);
                send(&network, 1, &["--server-addr", here], &text);
                arrived += &text;
                receives(&hears, &arrived);
            }
        }
    }
}

/// Linux hands an IPv6 group to every socket that has joined it, whatever the interface.
fn listeners_on_two_interfaces_of_a_host_hear_each_their_own() {
    let network = multihomed();
    for (group, [eth0, eth1], target) in [
        ("239.1.2.3", ["239.1.2.3%eth0:9920", "239.1.2.3%eth1:9920"], "239.1.2.3:9920"),
        ("ff15::3", ["[ff15::3%eth0]:9920", "[ff15::3%eth1]:9920"], "[ff15::3]:9920"),
    ] {
        let servers = [eth0, eth1].map(|listen| server(&network, 0, &["--listen-addr", listen]));
        let mut expected = [String::new(), String::new()];
        for segment in [0, 1] {
            network.switched(segment, 0, group, true);
        }
        for text in ["first\n", "second\n"] {
            for (segment, server) in servers.iter().enumerate() {
                send(&network, segment + 1, &["--server-addr", target], text);
                expected[segment] += text;
                receives(server, &expected[segment]);
            }
        }
        assert_eq!(servers.each_ref().map(Running::text), expected);
    }
}

/// Of a single one: its one interface has gone, and loopback is no substitute.
fn the_interface_that_was_picked_is_used_again_when_it_is_back() {
    let network = Network::snooping(&[&[0, 1]]);
    let hears = member(&network, 0, &[0], HEARD, &[]);
    let away = member(&network, 1, &[0], SENT, &[]);
    let forward = picking_forward(&network);
    for (stage, what) in ["down", "deleted"].into_iter().enumerate() {
        network.ip(0, if stage == 0 { "link set eth0 down" } else { "link delete eth0" });
        for (_, endpoint) in HEARD {
            tells(&hears, stage + 1, endpoint, "eth0 cannot be used");
        }
        for (_, endpoint) in SENT {
            tells(&forward, stage + 1, endpoint, "eth0 cannot be used");
        }
        if stage == 0 {
            network.ip(0, "link set eth0 up");
            network.address(0, 0);
        } else {
            network.attach(0, 0);
        }
        network.settled(0, 0);
        works_soon_on_eth0(&network, &hears, &away, what);
    }
    for program in [hears, forward] {
        assert!(!program.messages().contains("interface lo"), "{}", program.messages());
    }
}

/// At boot there is often loopback only, which carries IPv4 groups.
fn what_began_on_loopback_moves_to_the_first_interface_that_comes() {
    let network = Network::snooping(&[&[0, 1]]);
    let away = member(&network, 1, &[0], SENT, &[]);
    network.ip(0, "addr flush dev eth0");
    let [(group, listen), (_, target)] = [HEARD[0], SENT[0]];
    let hears = server(&network, 0, &["--listen-addr", listen]);
    joins(&hears, listen, "lo");
    let options = ["-v", "--udp-listen-addr", "127.0.0.1:9900", "--udp-downstream-addr", target];
    let forward = network.start(0, "mproxy-forward", &options);
    forward.listens("127.0.0.1:9900");
    send(&network, 0, &["--server-addr", listen], "on loopback\n");
    receives(&hears, "on loopback\n");

    network.address(0, 0);
    let start = Instant::now();
    network.switched(0, 0, group, true);
    eventually("a datagram on eth0", || {
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "out\n");
        away.text().contains("out\n").then_some(())
    });
    assert!(start.elapsed() < 2 * PROMISED, "it took {:?}", start.elapsed());
    send(&network, 1, &["--server-addr", listen], "from eth0\n");
    receives(&hears, "on loopback\nfrom eth0\n");
}

/// Sends to groups of both families what comes in at `127.0.0.1:9900`, through whatever interface it picks.
fn picking_forward(network: &Network) -> Running {
    let targets = SENT.map(|(_, target)| ["--udp-downstream-addr", target]).concat();
    let listen = ["-v", "--udp-listen-addr", "127.0.0.1:9900"];
    let forward = network.start(0, "mproxy-forward", &[&listen[..], &targets].concat());
    forward.listens("127.0.0.1:9900");
    forward
}

/// Within the time that is promised both groups are heard from the other host, and sent there.
fn works_soon_on_eth0(network: &Network, hears: &Running, away: &Running, what: &str) {
    let start = Instant::now();
    for (_, target) in HEARD {
        let text = format!("to {target} after {what}\n");
        eventually(&text, || {
            send(network, 1, &["--server-addr", target], &text);
            hears.text().contains(&text).then_some(())
        });
    }
    let text = format!("from host 0 after {what}\n");
    eventually(&text, || {
        send(network, 0, &["--server-addr", "127.0.0.1:9900"], &text);
        // Once through each group.
        let arrived = away.text().matches(&text).count();
        (arrived > 0 && arrived % 2 == 0).then_some(())
    });
    assert!(start.elapsed() < 2 * PROMISED, "{what}: it took {:?}", start.elapsed());
}

/// Waits until the program has told this of the endpoint so often.
fn tells(program: &Running, times: usize, endpoint: &str, what: &str) {
    eventually(&format!("'{endpoint} ... {what}', {times} times"), || {
        let messages = program.messages();
        let lines = messages.lines().filter(|line| line.contains(endpoint) && line.contains(what)).count();
        (lines >= times).then_some(())
    });
}

/// An interface that is not named is missed all the same.
fn of_all_interfaces_one_that_is_deleted_is_told_and_told_again_when_it_is_back() {
    let network = multihomed();
    let hears = member(&network, 0, &[0, 1], HEARD, &["--interface", "all"]);
    network.ip(0, "link delete eth1");
    for (_, endpoint) in HEARD {
        tells(&hears, 1, endpoint, "eth1 cannot be used");
    }
    assert!(!hears.messages().contains("again"), "{}", hears.messages());
    network.attach(0, 1);
    for (group, endpoint) in HEARD {
        tells(&hears, 1, endpoint, "eth1 can be used again");
        network.switched(1, 0, group, true);
    }
}

/// Both times as it was named.
fn an_interface_that_was_named_by_its_address_is_told_once_and_told_again_when_it_is_back() {
    let network = multihomed();
    let endpoint = HEARD[0].1;
    let options = ["--listen-addr", endpoint, "--interface", "10.77.0.1", "--interface", "10.78.0.1"];
    let hears = server(&network, 0, &options);
    for times in [1, 2] {
        network.ip(0, "addr del 10.78.0.1/24 dev eth1");
        tells(&hears, times, endpoint, "10.78.0.1 cannot be used");
        network.ip(0, "addr add 10.78.0.1/24 dev eth1");
        tells(&hears, times, endpoint, "10.78.0.1 can be used again");
    }
    assert!(!hears.messages().contains("interface eth1 can"), "{}", hears.messages());
}

/// One that cannot be joined costs the others nothing, and is tried until it works.
fn a_group_that_the_system_lets_nobody_join_is_joined_when_it_does() {
    let network = multihomed();
    let (group, endpoint) = HEARD[0];
    let options = [&["--listen-addr", endpoint], &BOTH[..]].concat();
    let hears = server(&network, 0, &options);
    let memberships = |most: u32| {
        let set = format!("echo {most} > /proc/sys/net/ipv4/igmp_max_memberships");
        network.succeeds(0, "sh", &["-c", &set]);
    };
    memberships(0);
    network.ip(0, "link delete eth1");
    network.attach(0, 1);
    // The warning comes with each attempt: some of them, with few awakenings between.
    hears.says("trying again");
    let wakes = hears.wakes();
    tells(&hears, 3, endpoint, "trying again");
    if let Some((before, after)) = wakes.zip(hears.wakes()) {
        assert!(after - before < 50, "woken {} times", after - before);
    }
    send(&network, 1, &["--server-addr", endpoint], "meanwhile\n");
    receives(&hears, "meanwhile\n");
    memberships(20);
    network.switched(1, 0, group, true);
    send(&network, 2, &["--server-addr", endpoint], "after\n");
    receives(&hears, "meanwhile\nafter\n");
}

/// As a service that blocks strange networks has them: they say nothing of where the rest goes.
fn a_route_that_leads_nowhere_does_not_hide_the_default_route() {
    let network = Network::snooping(&[&[0, 1]]);
    let _tunnel = network.tunnel(0, "tun");
    network.ip(0, "-6 addr add fd09::1/64 dev tun0 nodad");
    network.ip(0, "route add default dev tun0");
    let mut chooser = Chooser::new(&network, 1);
    for kind in ["blackhole", "unreachable"] {
        network.ip(0, &format!("route replace {kind} 192.0.2.0/24"));
        chooser.chooses(kind, [0, 0, 0]);
    }
    chooser.nothing_else();
}

/// The address is one of a family that chooses by index: what is sent must have the new one all the same.
fn what_is_sent_to_an_ipv6_group_leaves_from_the_address_that_the_interface_has_now() {
    let network = Network::snooping(&[&[0, 1]]);
    let _away = member(&network, 1, &[0], SENT, &[]);
    let wire = Capture::new(&network, 0, "eth0");
    let _forward = picking_forward(&network);
    let leaves_from = |source: &str| {
        let payload = format!("from {source}\n");
        let start = Instant::now();
        eventually(&payload, || {
            send(&network, 0, &["--server-addr", "127.0.0.1:9900"], &payload);
            let packets = wire.packets().into_iter();
            let mut sources =
                packets.filter(|packet| packet.payload == payload).map(|packet| packet.source.to_string());
            sources.any(|found| found == source).then_some(())
        });
        assert!(start.elapsed() < 2 * PROMISED, "{source}: it took {:?}", start.elapsed());
    };
    leaves_from("fd77::1");
    network.ip(0, "addr add fd77::9/64 dev eth0 nodad");
    network.ip(0, "addr del fd77::1/64 dev eth0");
    leaves_from("fd77::9");
}

mproxy_tests::main!(
    every_interface_that_is_named_is_joined_and_sent_on,
    all_interfaces_are_all_but_loopback,
    a_channel_on_two_interfaces_brings_each_datagram_once,
    interfaces_none_of_which_exists_are_wrong_use,
    an_interface_that_is_down_is_used_when_it_comes_up,
    an_interface_without_carrier_is_used_when_it_has_one,
    an_interface_without_addresses_is_used_when_it_has_some,
    an_interface_that_does_not_exist_is_used_when_it_does,
    an_interface_is_used_again_after_all_that_may_become_of_it,
    a_channel_stays_heard_while_its_interfaces_come_and_go,
    of_equal_interfaces_the_one_of_the_default_route_is_chosen_and_a_route_for_the_group_comes_first,
    an_interface_that_cannot_carry_the_group_is_not_chosen,
    tunnels_and_bridges_of_containers_come_after_all_others,
    the_port_of_a_bridge_is_neither_chosen_nor_one_of_all,
    listeners_on_two_interfaces_of_a_host_hear_each_their_own,
    the_interface_that_was_picked_is_used_again_when_it_is_back,
    what_began_on_loopback_moves_to_the_first_interface_that_comes,
    of_all_interfaces_one_that_is_deleted_is_told_and_told_again_when_it_is_back,
    an_interface_that_was_named_by_its_address_is_told_once_and_told_again_when_it_is_back,
    a_group_that_the_system_lets_nobody_join_is_joined_when_it_does,
    a_route_that_leads_nowhere_does_not_hide_the_default_route,
    what_is_sent_to_an_ipv6_group_leaves_from_the_address_that_the_interface_has_now,
);
