//! Groups that are carried from one site to another: two networks with a gateway each, and between the
//! gateways one that passes on no multicast. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mproxy_tests::{
    Authority, Certificate, Network, PATIENCE, Running, Valid, datagram, eventually, force_receive_buffer,
    framed,
};
use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

/// The sites.
const A: usize = 0;
const B: usize = 1;

const NAMES: [&str; 2] = ["site-a.example.org", "site-b.example.org"];

const PORT: u16 = 9918;

/// The largest datagram.
const LARGEST: usize = 65_507;

/// The header of each datagram in a record: its length.
const HEADER: usize = 2;

fn host(site: usize) -> usize {
    2 * site
}

fn gateway(site: usize) -> usize {
    2 * site + 1
}

const ROUTER: usize = 4;

/// The address of a site's host and of its gateway in the site's own network.
fn lan(site: usize, last: u8) -> Ipv4Addr {
    Network::site_address(site, "lan0", last).parse().unwrap()
}

fn zoned(group: Ipv4Addr) -> String {
    format!("{group}%lan0:{PORT}")
}

/// The sites of the README, with their names and certificates.
struct Sites {
    network: Network,
    directory: TempDir,
    authority: Authority,
    certificates: [Certificate; 2],
}

/// The protocol of a connection between the sites.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Tcp,
    Tls,
}

impl Sites {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(directory.path(), "ca");
        let certificates =
            [A, B].map(|site| authority.certify(&format!("site-{site}"), &[NAMES[site]], Valid::Now));
        let network = Network::two_sites();
        let names =
            [A, B].map(|site| format!("{} {}\n", Network::site_address(site, "wan0", 2), NAMES[site]));
        for site in [A, B] {
            network.set_names(gateway(site), &names.concat());
        }
        Self { network, directory, authority, certificates }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Carries a group from this site to the other one, with the commands of the README.
    fn bridge(&self, from: usize, group: Ipv4Addr, through: Through, options: &[&str]) -> Bridge {
        let (kind, programs) = match through {
            Through::Tcp => ("tcp", ["mproxy-reverse", "mproxy-forward"]),
            Through::Tls => ("tls", ["tls/mproxy-reverse", "tls/mproxy-forward"]),
        };
        let group = zoned(group);
        let identity = |site: usize, ca: &'static str| {
            let Certificate { path, key, .. } = &self.certificates[site];
            let tls = [ca, &self.authority.path, "--tls-cert", path, "--tls-key", key];
            tls.into_iter().filter(|_| through == Through::Tls).map(str::to_owned).collect::<Vec<_>>()
        };
        let start = |site: usize, program: &str, arguments: &[&str], identity: &[String]| {
            let mut all = vec!["--framing", "length", "-v"];
            all.extend(arguments);
            all.extend(identity.iter().map(String::as_str));
            self.network.start(gateway(site), program, &all)
        };

        let output = format!("--{kind}-output-addr");
        let arguments = [&["--multicast-addr", &group, &output, "0.0.0.0:9443"], options].concat();
        let reverse = start(from, programs[0], &arguments, &identity(from, "--tls-client-ca"));
        reverse.accepts("0.0.0.0:9443");

        let to = 1 - from;
        let (connect, server) = (format!("--{kind}-connect-addr"), format!("{}:9443", NAMES[from]));
        let arguments = [&connect, &server, "--udp-downstream-addr", &group];
        let forward = start(to, programs[1], &arguments, &identity(to, "--tls-ca"));
        forward.is_connected(&server);
        // From here on the client gets everything.
        reverse.serves_a_client();
        Bridge { reverse, forward }
    }

    /// A socket of this test on a host or gateway, bound to that address.
    fn socket(&self, host: usize, address: Ipv4Addr, port: u16) -> UdpSocket {
        self.network.on(host, || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            // Beside a program that receives from the same group.
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddr::from((address, port)).into()).unwrap();
            socket.into()
        })
    }

    /// A socket that sends to the group from a site's host.
    fn sender(&self, site: usize, group: Ipv4Addr) -> UdpSocket {
        let socket = self.socket(host(site), lan(site, 10), 0);
        SockRef::from(&socket).set_multicast_if_v4(&lan(site, 10)).unwrap();
        socket.connect((group, PORT)).unwrap();
        socket
    }

    /// A socket that receives from the group at a site's host.
    fn receiver(&self, site: usize, group: Ipv4Addr) -> UdpSocket {
        let socket = self.socket(host(site), group, PORT);
        force_receive_buffer(&socket, 64 << 20);
        socket.join_multicast_v4(&group, &lan(site, 10)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Waits until all that a gateway has sent over TCP is acknowledged.
    fn all_is_answered(&self, gateway: usize) {
        eventually("acknowledgements", || {
            let out = self.network.run(gateway, "ss", &["-tnH", "state", "established"]).stdout;
            let text = String::from_utf8(out).unwrap();
            // Columns: bytes to be read, bytes that are not acknowledged, addresses.
            text.lines().all(|line| line.split_whitespace().nth(1) == Some("0")).then_some(())
        });
    }

    /// Records the group at a site's host.
    fn record(&self, site: usize, group: Ipv4Addr, path: &str) -> Running {
        let group = zoned(group);
        let arguments = ["--framing", "length", "-v", "--path", path, "--listen-addr", &group];
        let recording = self.network.start(host(site), "mproxy-server", &arguments);
        recording.listens(&group);
        recording
    }

    /// Replays a record to the group at a site, from its host or gateway.
    fn replay(&self, from: usize, group: Ipv4Addr, path: &str) -> Running {
        let arguments =
            ["--framing", "length", "--rate", "50M", "--path", path, "--server-addr", &zoned(group)];
        self.network.start(from, "mproxy-client", &arguments)
    }
}

/// The two programs that carry a group to another site.
struct Bridge {
    reverse: Running,
    forward: Running,
}

impl Bridge {
    /// The two had nothing to complain of, and have used one and the same connection all the time.
    fn was_undisturbed(&self) {
        self.was_one_connection();
        for program in [&self.reverse, &self.forward] {
            assert!(program.warnings().is_empty(), "{}", program.messages());
        }
    }

    /// The two have used one and the same connection all the time.
    fn was_one_connection(&self) {
        let messages = self.reverse.messages();
        assert_eq!(self.reverse.served_peers(), 1, "more than one has connected:\n{messages}");
        assert!(!messages.contains(" dropped: ") && !messages.contains(" has ended"), "{messages}");
        assert_eq!(self.forward.connections(), 1);
    }
}

/// Numbers that look like random ones and are the same at each run (`SplitMix64`).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn upto(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % (most as u64 + 1)).unwrap()
    }
}

/// A datagram of a stream, which has a number where it is long enough. Most are such as an Ethernet carries;
/// some are empty, some larger, and a few as large as any can be.
fn numbered(stream: u32, number: u32) -> Vec<u8> {
    let mut numbers = Numbers(u64::from(stream) << 32 | u64::from(number));
    let len = match number % 10_000 {
        5_000 => LARGEST,
        n if n % 100 == 20 => 1400 + numbers.upto(7600),
        n if n % 50 == 10 => 0,
        _ => numbers.upto(1400),
    };
    let mut bytes = number.to_be_bytes().to_vec();
    while bytes.len() < len {
        bytes.extend(numbers.next().to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The number of such a datagram.
fn number(datagram: &[u8]) -> Option<u32> {
    datagram.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The datagrams that a record holds.
fn datagrams_of(mut record: &[u8]) -> Vec<&[u8]> {
    let mut datagrams = Vec::new();
    while let Some((len, rest)) = record.split_first_chunk::<HEADER>() {
        let (datagram, rest) = rest.split_at(u16::from_be_bytes(*len).into());
        datagrams.push(datagram);
        record = rest;
    }
    assert!(record.is_empty(), "half a header at the end of a record");
    datagrams
}

/// The number of sent datagrams that are missing. The others must have arrived as they were, in order
/// and only once.
fn missing(sent: &[impl AsRef<[u8]>], received: &[impl AsRef<[u8]>]) -> usize {
    let mut to_come = sent.iter();
    for (n, datagram) in received.iter().map(AsRef::as_ref).enumerate() {
        let (len, number) = (datagram.len(), number(datagram));
        let was_sent = to_come.any(|sent| sent.as_ref() == datagram);
        assert!(
            was_sent,
            "no. {n} that arrived, {len} bytes with number {number:?}, is torn or out of order"
        );
    }
    sent.len() - received.len()
}

/// The content of a record, once it has as many bytes or has not grown for some time.
fn record_of(path: &str, bytes: usize) -> Vec<u8> {
    let len = || fs::metadata(path).map_or(0, |meta| usize::try_from(meta.len()).unwrap());
    let (mut last, mut since) = (len(), Instant::now());
    while last < bytes && since.elapsed() < PATIENCE / 3 {
        thread::sleep(Duration::from_millis(5));
        if len() > last {
            (last, since) = (len(), Instant::now());
        }
    }
    fs::read(Path::new(path)).unwrap()
}

/// The record is to become just this one.
fn becomes(path: &str, expected: &[u8]) {
    let record = record_of(path, expected.len());
    let (sent, received) = (datagrams_of(expected), datagrams_of(&record));
    let missing = missing(&sent, &received);
    assert_eq!(missing, 0, "of {} that were sent", sent.len());
    assert!(record == expected);
}

/// Datagrams that are hard to carry: empty ones, the largest, several like one, and one like a header.
fn awkward() -> Vec<Vec<u8>> {
    let mut datagrams =
        vec![vec![], vec![b'\n'], vec![], vec![], b"two\nlines\n".to_vec(), vec![0; 4], vec![0xff; LARGEST]];
    for len in [1, 1471, 1472, 1473, 8192, 9000, LARGEST - 1, LARGEST, 0] {
        datagrams.push((0..=250).cycle().take(len).collect());
    }
    datagrams.extend((0..200).map(|number| numbered(9, number)));
    datagrams.push(vec![]);
    datagrams
}

/// Datagrams of the one site arrive at the other, for sockets that are not of the programs.
fn carries_what_is_awkward(through: Through) {
    let sites = Sites::new();
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let bridge = sites.bridge(A, group, through, &[]);
    let (sender, listener) = (sites.sender(A, group), sites.receiver(B, group));
    for (n, sent) in awkward().into_iter().enumerate() {
        assert_eq!(sender.send(&sent).unwrap(), sent.len());
        // One by one, so that only what is carried wrongly can fail.
        assert!(datagram(&listener) == sent, "no. {n}, {} bytes, arrived otherwise", sent.len());
    }
    // At once, so that they share system calls and TLS records.
    let all = awkward();
    for sent in &all {
        sender.send(sent).unwrap();
    }
    let received: Vec<_> = all.iter().map(|_| datagram(&listener)).collect();
    assert_eq!(missing(&all, &received), 0);
    bridge.was_undisturbed();
}

fn every_datagram_gets_through_tls_as_it_was() {
    carries_what_is_awkward(Through::Tls);
}

fn every_datagram_gets_through_plain_tcp_as_it_was() {
    carries_what_is_awkward(Through::Tcp);
}

fn both_directions_at_once_lose_none_of_100_000_datagrams() {
    const EACH_WAY: u32 = 50_000;
    let sites = Sites::new();
    let directions = [A, B].map(|from| {
        let group = Ipv4Addr::new(239, 1, 2, if from == A { 3 } else { 4 });
        let (feed, path) = (sites.path(&format!("feed-{from}")), sites.path(&format!("record-{from}")));
        let stream = u32::try_from(from).unwrap();
        let sent = framed(&(0..EACH_WAY).map(|number| numbered(stream, number)).collect::<Vec<_>>());
        fs::write(&feed, &sent).unwrap();
        let bridge = sites.bridge(from, group, Through::Tls, &["--client-buffer", "64M"]);
        let recording = sites.record(1 - from, group, &path);
        (group, feed, sent, path, bridge, recording)
    });
    let mut clients = Vec::new();
    for (from, (group, feed, ..)) in directions.iter().enumerate() {
        clients.push(sites.replay(host(from), *group, feed));
    }
    for (_, _, sent, path, bridge, recording) in &directions {
        becomes(path, sent);
        bridge.was_undisturbed();
        assert!(recording.warnings().is_empty(), "{}", recording.messages());
    }
    for mut client in clients {
        assert_eq!((client.exit_code(), client.messages()), (0, String::new()));
    }
}

fn a_record_replayed_at_another_site_is_what_was_recorded() {
    let sites = Sites::new();
    let groups = [Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(239, 1, 2, 4)];
    let paths = [A, B].map(|site| sites.path(&format!("{site}.rec")));
    let datagrams = awkward();
    let expected = framed(&datagrams);

    let _recording = sites.record(A, groups[A], &paths[A]);
    let sender = sites.sender(A, groups[A]);
    for datagram in &datagrams {
        sender.send(datagram).unwrap();
    }
    becomes(&paths[A], &expected);

    let _recording = sites.record(B, groups[B], &paths[B]);
    let listener = sites.receiver(B, groups[B]);
    let mut client = sites.replay(gateway(B), groups[B], &paths[A]);
    assert_eq!((client.exit_code(), client.messages()), (0, String::new()));
    becomes(&paths[B], &expected);
    let received: Vec<_> = datagrams.iter().map(|_| datagram(&listener)).collect();
    assert_eq!(missing(&datagrams, &received), 0);
}

/// The result of a stream that an outage has interrupted.
struct Interrupted {
    bridge: Bridge,
    _sites: Sites,
    /// Up to the last that has a number.
    sent: Vec<Vec<u8>>,
    arrived: Vec<Vec<u8>>,
}

/// A stream, and what happens to it.
struct Outage {
    bits_per_second: f64,
    /// The host and its interface that goes down.
    interface: (usize, &'static str),
    seconds: u64,
    /// It goes down while nothing is on its way, so that nothing is left unanswered: what comes then cannot
    /// even be sent.
    at_rest: bool,
}

/// Sends a stream through TLS that an outage interrupts.
fn interrupted(sites: Sites, options: &[&str], outage: &Outage) -> Interrupted {
    const STREAM: u32 = 2;
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let bridge = sites.bridge(A, group, Through::Tls, options);
    let (sender, listener) = (sites.sender(A, group), sites.receiver(B, group));
    let (sent, sending, enough) = (AtomicU32::new(0), Mutex::new(()), AtomicBool::new(false));
    let last_with_number = |sent| (0..sent).rev().find(|n| number(&numbered(STREAM, *n)).is_some()).unwrap();
    let (mut arrived, mut last) = (Vec::new(), None);
    let mut receive_until = |number_at_least: u32| {
        while last < Some(number_at_least) {
            let datagram = datagram(&listener);
            last = last.max(number(&datagram));
            arrived.push(datagram);
        }
    };
    let feed = || {
        let mut due = Instant::now();
        while !enough.load(Ordering::SeqCst) {
            let datagram = numbered(STREAM, sent.load(Ordering::SeqCst));
            {
                let _may_send = sending.lock().unwrap();
                sender.send(&datagram).unwrap();
                sent.fetch_add(1, Ordering::SeqCst);
            }
            #[allow(clippy::cast_precision_loss)] // few enough
            let bits = 8.0 * datagram.len() as f64;
            due += Duration::from_secs_f64(bits / outage.bits_per_second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    };
    thread::scope(|scope| {
        // If this panics, the thread must end all the same.
        let _enough = StoreOnDrop(&enough);
        scope.spawn(feed);
        receive_until(500);
        let at_rest = outage.at_rest.then(|| {
            let waits = sending.lock().unwrap();
            receive_until(last_with_number(sent.load(Ordering::SeqCst)));
            sites.all_is_answered(gateway(A));
            waits
        });
        let (host, interface) = outage.interface;
        let link = |state| sites.network.succeeds(host, "ip", &["link", "set", interface, state]);
        link("down");
        drop(at_rest);
        thread::sleep(Duration::from_secs(outage.seconds));
        link("up");
        sites.network.route_to_the_other_site(A);
        let back = Instant::now();
        receive_until(sent.load(Ordering::SeqCst));
        assert!(back.elapsed() < PATIENCE, "what was sent then arrived after {:?}", back.elapsed());
        receive_until(sent.load(Ordering::SeqCst) + 500);
    });
    let last = last_with_number(sent.into_inner());
    receive_until(last);
    let sent = (0..=last).map(|number| numbered(STREAM, number)).collect();
    Interrupted { bridge, _sites: sites, sent, arrived }
}

/// Becomes true when this is dropped.
struct StoreOnDrop<'a>(&'a AtomicBool);

impl Drop for StoreOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn a_large_client_buffer_carries_a_stream_across_an_outage() {
    let outage = Outage { bits_per_second: 10e6, interface: (ROUTER, "wan0"), seconds: 10, at_rest: false };
    let result = interrupted(Sites::new(), &["--client-buffer", "64M"], &outage);
    assert_eq!(missing(&result.sent, &result.arrived), 0, "of {}", result.sent.len());
    result.bridge.was_undisturbed();
}

fn an_outage_costs_whole_datagrams_and_not_the_connection() {
    // The gateway gets an ICMP error: no route to the other site.
    let outage = Outage { bits_per_second: 10e6, interface: (ROUTER, "wan1"), seconds: 10, at_rest: false };
    let result = interrupted(Sites::new(), &[], &outage);
    assert!(missing(&result.sent, &result.arrived) > 0, "all fitted into small buffers");
    result.bridge.reverse.says(" is too slow: it has missed ");
    result.bridge.was_one_connection();
}

fn a_gateway_that_loses_its_own_interface_keeps_the_connection() {
    let outage =
        Outage { bits_per_second: 10e6, interface: (gateway(A), "wan0"), seconds: 10, at_rest: true };
    let result = interrupted(Sites::new(), &["--client-buffer", "64M"], &outage);
    assert_eq!(missing(&result.sent, &result.arrived), 0, "of {}", result.sent.len());
    result.bridge.was_undisturbed();
}

fn a_slow_link_is_given_time_after_an_outage() {
    let sites = Sites::new();
    sites.network.limit_queue(ROUTER, "wan1", "rate 6mbit burst 20000 limit 1000000");
    let outage = Outage { bits_per_second: 3e6, interface: (ROUTER, "wan1"), seconds: 13, at_rest: false };
    let result = interrupted(sites, &["--client-buffer", "64M"], &outage);
    assert_eq!(missing(&result.sent, &result.arrived), 0, "of {}", result.sent.len());
    result.bridge.was_undisturbed();
}

mproxy_tests::main!(
    every_datagram_gets_through_tls_as_it_was,
    every_datagram_gets_through_plain_tcp_as_it_was,
    both_directions_at_once_lose_none_of_100_000_datagrams,
    a_record_replayed_at_another_site_is_what_was_recorded,
    a_large_client_buffer_carries_a_stream_across_an_outage,
    an_outage_costs_whole_datagrams_and_not_the_connection,
    a_gateway_that_loses_its_own_interface_keeps_the_connection,
    a_slow_link_is_given_time_after_an_outage,
);
