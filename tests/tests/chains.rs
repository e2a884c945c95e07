//! Bytes and boundaries through every chain of two and of three of the programs, in every way to join them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::net::UdpSocket;
use std::path::PathBuf;

use mproxy_tests::{
    Running, datagram, file_with, framed, loopback_group, member, needs_ipv6, run, start, udp, udp_on,
};
use tempfile::TempDir;

/// Payloads: none, the least, one Ethernet frame of IPv6 and of IPv4, one byte more, a jumbo frame, the largest.
const SIZES: [usize; 7] = [0, 1, 1452, 1472, 1473, 9000, 65_507];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Client,
    Server,
    Forward,
    Reverse,
}
use Program::{Client, Forward, Reverse, Server};

/// The joint between a program and the next, or the test's own socket at the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Joint {
    Unicast,
    Ipv6,
    Group,
    /// A group that is the channel of each reverse proxy on either side.
    Channel,
    /// TCP from a reverse to a forward proxy, and unicast elsewhere.
    Tcp,
}

/// Every chain of two and three programs: a client only begins one, a server only ends one.
fn chains() -> Vec<Vec<Program>> {
    let mut chains = Vec::new();
    for first in [Client, Forward, Reverse] {
        for last in [Forward, Reverse, Server] {
            chains.push(vec![first, last]);
            chains.extend([Forward, Reverse].map(|middle| vec![first, middle, last]));
        }
    }
    chains
}

/// The `number`th datagram of a chain: no two are alike, nor two stretches of one.
fn payload(number: usize, len: usize) -> Vec<u8> {
    let byte = |i: usize| (number * 0x0001_0001 + i).wrapping_mul(0x9e37_79b9).to_le_bytes()[3];
    (0..len).map(byte).collect()
}

/// Datagrams that are sent and awaited together: each size by itself, then all several times, in disorder.
fn lots() -> Vec<Vec<Vec<u8>>> {
    let copies = |size: &usize| if *size > 9000 { 2 } else { 5 };
    let mut burst: Vec<_> = SIZES.iter().flat_map(|size| vec![*size; copies(size)]).enumerate().collect();
    burst.sort_by_key(|(number, _)| number.pow(3) % 103);
    // Some that are alike stand together, as those do that the kernel takes and gives as one.
    assert!(burst.windows(2).any(|pair| pair[0].1 == pair[1].1));
    let alone = SIZES.iter().enumerate().map(|(number, size)| vec![payload(number, *size)]);
    let together = burst.iter().map(|(number, size)| payload(SIZES.len() + number, *size)).collect();
    alone.chain([together]).collect()
}

/// A chain of programs that run, but for a client, which runs anew for each lot.
struct Chain {
    directory: TempDir,
    /// The endpoint of the first program, which datagrams are sent to.
    entry: String,
    client: bool,
    sender: UdpSocket,
    receiver: UdpSocket,
    record: Option<PathBuf>,
    recorded: usize,
    running: Vec<Running>,
}

impl Chain {
    /// Starts a chain from its end, since each program must know where the next one listens.
    fn new(programs: &[Program], joint: Joint) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let any = if joint == Joint::Ipv6 { "[::1]:0" } else { "127.0.0.1:0" };
        let (sender, _) = udp_on(any);
        let (receiver, mut entry) = receiver(joint);
        let mut chain = Self {
            directory,
            client: programs[0] == Client,
            sender,
            receiver,
            record: None,
            recorded: 0,
            running: Vec::new(),
            entry: String::new(),
        };
        let mut rest = programs;
        while let [before @ .., program] = rest {
            rest = before;
            let first = before.is_empty();
            // The test's own socket sends to an address like any other.
            let listen = match joint {
                Joint::Group | Joint::Channel if !first => loopback_group(),
                _ => any.to_owned(),
            };
            entry = match program {
                Client => entry,
                Server => {
                    let path = chain.directory.path().join("record");
                    let record = path.to_str().unwrap().to_owned();
                    chain.record = Some(path);
                    chain.start("mproxy-server", &["--listen-addr", &listen, "--path", &record], &listen)
                }
                Forward if joint == Joint::Tcp && before.last() == Some(&Reverse) => {
                    rest = &before[..before.len() - 1];
                    let arguments = ["--udp-listen-addr", any, "--tcp-output-addr", any];
                    let listens = chain.start("mproxy-reverse", &arguments, any);
                    let reverse = chain.running.len() - 1;
                    let server = chain.running[reverse].tcp_address(any).to_string();
                    let arguments = ["--tcp-connect-addr", &server, "--udp-downstream-addr", &entry];
                    chain.start("mproxy-forward", &arguments, &server);
                    // From here on it gets everything.
                    chain.running[reverse].serves_a_client();
                    listens
                }
                Forward => {
                    let arguments = ["--udp-listen-addr", &listen, "--udp-downstream-addr", &entry];
                    chain.start("mproxy-forward", &arguments, &listen)
                }
                Reverse => {
                    let (hears, sends) = match joint {
                        Joint::Channel if first => ("--udp-listen-addr", "--multicast-addr"),
                        Joint::Channel => ("--multicast-addr", "--udp-output-addr"),
                        _ => ("--udp-listen-addr", "--udp-output-addr"),
                    };
                    chain.start("mproxy-reverse", &[hears, &listen, sends, &entry], &listen)
                }
            };
        }
        chain.entry = entry;
        chain
    }

    /// Starts one of the programs, and waits until it is ready. Returns where it listens.
    fn start(&mut self, program: &str, arguments: &[&str], listen: &str) -> String {
        let running = start(program, &[&["-v", "--framing", "length"], arguments].concat());
        let address = if arguments[0] == "--tcp-connect-addr" {
            running.is_connected(listen);
            listen.to_owned()
        } else if listen.contains('%') {
            running.listens(listen);
            listen.to_owned()
        } else {
            running.udp_address(listen).to_string()
        };
        self.running.push(running);
        address
    }

    fn send(&self, lot: &[Vec<u8>]) {
        if self.client {
            let path = self.directory.path().join("lot");
            std::fs::write(&path, framed(lot)).unwrap();
            let arguments =
                ["--framing", "length", "--path", path.to_str().unwrap(), "--server-addr", &self.entry];
            let outcome = run("mproxy-client", &arguments, b"");
            assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        } else {
            for datagram in lot {
                self.sender.send_to(datagram, &self.entry).unwrap();
            }
        }
    }

    /// These come out of the chain next, and nothing else.
    fn gives(&mut self, lot: &[Vec<u8>]) {
        let number = |n: usize| format!("no. {n} of {:?}", lot.iter().map(Vec::len).collect::<Vec<_>>());
        if let Some(path) = &self.record {
            let expected = framed(lot);
            let record = file_with(path, self.recorded + expected.len());
            assert!(record[self.recorded..] == expected, "the record differs: {}", number(0));
            self.recorded = record.len();
        } else {
            for (n, expected) in lot.iter().enumerate() {
                assert!(datagram(&self.receiver) == *expected, "{}", number(n));
            }
        }
    }

    /// Stops the programs: there is neither a datagram too many nor a warning.
    fn ends(mut self) {
        // The last first, and one after the other: a TCP client would warn of the end of its server.
        for running in self.running.iter_mut().rev() {
            running.stop();
            assert!(running.warnings().is_empty(), "{}", running.messages());
        }
        self.receiver.set_nonblocking(true).unwrap();
        assert!(self.receiver.recv(&mut [0; 16]).is_err(), "one datagram more than was sent");
        if let Some(path) = &self.record {
            assert_eq!(std::fs::metadata(path).unwrap().len(), self.recorded as u64);
        }
    }
}

/// The test's own socket at the end of a chain, and how a program names it.
fn receiver(joint: Joint) -> (UdpSocket, String) {
    let (socket, address) = match joint {
        Joint::Ipv6 => udp_on("[::1]:0"),
        Joint::Unicast | Joint::Tcp => udp(),
        Joint::Group | Joint::Channel => {
            let group = loopback_group();
            return (member(&group), group);
        }
    };
    (socket, address.to_string())
}

/// All lots through all chains of which this is true.
fn all_get_through(joint: Joint, chosen: impl Fn(&[Program]) -> bool) {
    let lots = lots();
    let all: Vec<_> = chains().into_iter().filter(|programs| chosen(programs)).collect();
    assert!(!all.is_empty());
    for programs in all {
        // Standard output is shown when the test fails.
        println!("{programs:?}, joined by {joint:?}");
        let mut chain = Chain::new(&programs, joint);
        for lot in &lots {
            chain.send(lot);
            chain.gives(lot);
        }
        chain.ends();
    }
}

fn every_size_gets_through_every_chain_joined_by_unicast() {
    assert_eq!(chains().len(), 9 + 18);
    all_get_through(Joint::Unicast, |_| true);
}

fn every_size_gets_through_every_chain_joined_by_ipv6() {
    needs_ipv6();
    all_get_through(Joint::Ipv6, |_| true);
}

fn every_size_gets_through_every_chain_joined_by_groups() {
    all_get_through(Joint::Group, |_| true);
}

fn every_size_gets_through_every_chain_joined_by_the_channels_of_reverse_proxies() {
    all_get_through(Joint::Channel, |programs| programs.contains(&Reverse));
}

fn every_size_gets_through_every_chain_joined_by_tcp() {
    all_get_through(Joint::Tcp, |programs| programs.windows(2).any(|pair| pair == [Reverse, Forward]));
}

mproxy_tests::main!(
    every_size_gets_through_every_chain_joined_by_unicast,
    every_size_gets_through_every_chain_joined_by_ipv6,
    every_size_gets_through_every_chain_joined_by_groups,
    every_size_gets_through_every_chain_joined_by_the_channels_of_reverse_proxies,
    every_size_gets_through_every_chain_joined_by_tcp,
);
