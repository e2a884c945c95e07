//! Packets on the wire, as tshark prints them.

use std::net::IpAddr;
use std::process::Stdio;

use tempfile::TempDir;

use crate::{Network, Running, eventually, needs_tools};

/// The packets to capture: UDP and TCP, but not those that an ICMP error cites, and membership reports.
const FILTER: &str = "igmp.type == 0x22 || icmpv6.type == 143 || (udp || tcp) && !(icmp || icmpv6)";

/// The fields of each packet to print: of each pair the one that its family has.
const FIELDS: [[&str; 2]; 10] = [
    ["ip.src", "ipv6.src"],
    ["ip.dst", "ipv6.dst"],
    ["ip.ttl", "ipv6.hlim"],
    ["ip.dsfield.dscp", "ipv6.tclass.dscp"],
    ["udp.srcport", "tcp.srcport"],
    ["udp.dstport", "tcp.dstport"],
    ["udp.payload", "tcp.payload"],
    ["igmp.record_type", "icmpv6.mldr.mar.record_type"],
    ["igmp.maddr", "icmpv6.mldr.mar.multicast_address"],
    ["igmp.num_src", "icmpv6.mldr.mar.nb_sources"],
];

/// The sources of all records in a row.
const SOURCES: [&str; 2] = ["igmp.saddr", "icmpv6.mldr.mar.source_address"];

/// A running capture of what a host sends and receives on an interface.
pub struct Capture {
    tshark: Running,
    // Dropped after it: its temporary files.
    _directory: TempDir,
}

/// A datagram, a TCP segment, or a report of memberships.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The TTL or hop limit.
    pub ttl: u8,
    /// The differentiated services code point.
    pub dscp: u8,
    /// The source port; 0 of a report.
    pub source_port: u16,
    /// The destination port; 0 of a report.
    pub port: u16,
    /// The payload of UDP or TCP.
    pub payload: String,
    /// The group records of an `IGMPv3` or `MLDv2` report.
    pub reports: Vec<Report>,
}

/// A group record: the membership of a host in one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The kind: how the sources are meant.
    pub record: Record,
    /// The group.
    pub group: IpAddr,
    /// The sources, in order.
    pub sources: Vec<IpAddr>,
}

/// The kinds of records, as `IGMPv3` and `MLDv2` name and count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// `MODE_IS_INCLUDE`, in answer to a query: from these sources only.
    IsInclude = 1,
    /// `MODE_IS_EXCLUDE`, in answer to a query: from all sources but these.
    IsExclude,
    /// `CHANGE_TO_INCLUDE_MODE`: from now on from these sources only, or without any not at all.
    ToInclude,
    /// `CHANGE_TO_EXCLUDE_MODE`: from now on from all sources but these.
    ToExclude,
    /// `ALLOW_NEW_SOURCES`: from these sources too.
    Allow,
    /// `BLOCK_OLD_SOURCES`: from these sources no more.
    Block,
}

impl Capture {
    /// Starts to capture on the host's interface. What happens after this has returned is captured.
    /// Coalesced datagrams are one packet, as the kernel hands them on.
    pub fn new(network: &Network, host: usize, interface: &str) -> Self {
        needs_tools(&["tshark"]);
        let directory = tempfile::tempdir().unwrap();
        let mut command = network.command(host, "tshark");
        command.env("TMPDIR", directory.path()).stdin(Stdio::null());
        command.args(["-i", interface, "-l", "-n", "-Y", FILTER, "-T", "fields"]);
        for field in FIELDS.iter().chain([&SOURCES]).flatten() {
            command.args(["-e", field]);
        }
        let tshark = Running::new(&mut command);
        // Said when the interface is open and the filter is set, unlike 'Capturing on'.
        tshark.says("Capture started");
        Self { tshark, _directory: directory }
    }

    /// The packets so far.
    pub fn packets(&self) -> Vec<Packet> {
        let out = String::from_utf8(self.tshark.stdout()).unwrap();
        // Behind the last newline is an unfinished line, or nothing.
        let whole = out.rfind('\n').map_or("", |end| &out[..end]);
        whole.lines().map(Packet::read).collect()
    }

    /// Waits for a packet of which this is true, and returns the first.
    pub fn sees(&self, what: &str, is: impl Fn(&Packet) -> bool) -> Packet {
        let mut packets = Vec::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                packets = self.packets();
                packets.iter().find(|packet| is(packet)).cloned()
            })
        }));
        found.unwrap_or_else(|_| panic!("{what} was not captured, but {packets:#?}"))
    }

    /// Waits for a datagram or segment with this payload.
    pub fn sees_payload(&self, payload: &str) -> Packet {
        self.sees(&format!("'{payload}'"), |packet| packet.payload == payload)
    }

    /// Waits for a report about the group of which this is true.
    pub fn sees_report(&self, what: &str, group: &str, is: impl Fn(&Report) -> bool) -> Packet {
        let group: IpAddr = group.parse().unwrap();
        self.sees(what, |packet| packet.reports.iter().any(|report| report.group == group && is(report)))
    }

    /// All that was reported about the group so far.
    pub fn reports(&self, group: &str) -> Vec<Report> {
        let group: IpAddr = group.parse().unwrap();
        let reports = self.packets().into_iter().flat_map(|packet| packet.reports);
        reports.filter(|report| report.group == group).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Killed, it would leave its child behind, which has the interface open.
        self.tshark.interrupt();
        let end = std::time::Instant::now() + crate::PATIENCE;
        while !self.tshark.has_ended() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Packet {
    /// Reads a line of tshark's.
    fn read(line: &str) -> Self {
        let mut columns = line.split('\t');
        // Both columns have something of what is carried over another family.
        let mut next = || {
            let pair = [columns.next(), columns.next()].map(Option::unwrap_or_default);
            if pair[0].is_empty() { pair[1] } else { pair[0] }
        };
        let [source, destination, ttl, dscp, source_port, port, payload, records, groups, counts, sources] =
            std::array::from_fn(|_| next());
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("'{text}' in '{line}'"));
        let port_number = |text: &str| if text.is_empty() { 0 } else { number(text) };
        let byte = |text: &str| u8::try_from(number(text)).unwrap();
        let address = |text: &str| text.parse().unwrap_or_else(|_| panic!("'{text}' in '{line}'"));
        let list = |text: &'_ str| -> Vec<String> {
            text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        let (records, groups, counts) = (list(records), list(groups), list(counts));
        let mut sources = list(sources).into_iter().map(|source| address(&source));
        let reports = records.iter().zip(&groups).zip(&counts).map(|((record, group), count)| Report {
            record: Record::read(record),
            group: address(group),
            sources: sources.by_ref().take(number(count).into()).collect(),
        });
        Self {
            source: address(source),
            destination: address(destination),
            ttl: byte(ttl),
            dscp: byte(dscp),
            source_port: port_number(source_port),
            port: port_number(port),
            payload: unhex(payload),
            reports: reports.collect(),
        }
    }
}

impl Record {
    fn read(text: &str) -> Self {
        match text {
            "1" => Self::IsInclude,
            "2" => Self::IsExclude,
            "3" => Self::ToInclude,
            "4" => Self::ToExclude,
            "5" => Self::Allow,
            "6" => Self::Block,
            _ => panic!("there is no record type {text}"),
        }
    }
}

/// The text that these hexadecimal digits stand for.
fn unhex(digits: &str) -> String {
    // Some versions put colons between them.
    let digits: Vec<_> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let bytes: Vec<_> = digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
