//! The scenarios: what each program is for, driven from outside.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::candidates::Candidate;
use crate::clients::Protocol;
use crate::fans::{self, Fan};
use crate::load::{Load, Mode};
use crate::measures::{Measure, Sample};
use crate::processes::{Figures, Process, Usage, bound, set_deadline};
use crate::streams::{self, Streamed};
use crate::tls::Certificates;
use crate::{Outcome, parts};

/// A typical line of a ship-position feed.
pub(crate) const LINE: &[u8] = b"!AIVDM,1,1,,A,13HOI:0P0000VOHLCnHQKwvL05Ip,0*23\n";

const FILE_SIZE: usize = 512 << 20;
const PIPED: usize = 256_000_000;

/// A sender that outruns a server can fill the memory, if that is where the files are.
const MOST_TO_FILE: u64 = 8 << 30;

/// On Ethernet, and with room for tunnels.
const BLOCK: usize = 1452;

/// The linger of a relay.
const LINGER: Duration = Duration::from_millis(1);

pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 7);

/// The kind of a scenario, with its load.
#[derive(Clone, Copy)]
enum Kind {
    Relay { targets: usize, size: usize, mode: Mode },
    PacedRelay { linger: Option<Duration> },
    Transparent { mode: Mode },
    Latency,
    Client { block: Option<usize> },
    Server { mode: Mode, pace: Option<u32> },
    Pipe,
    Channel { receivers: usize, mode: Mode },
    Reverse { clients: usize, pace: u32, mode: Mode },
    Fan(Fan),
    Streamed(Streamed),
    Idle(&'static str),
}

/// One of the things that are measured.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) title: String,
    kind: Kind,
}

impl Scenario {
    /// The stream in it, if there is one.
    pub(crate) fn streamed(&self) -> Option<Streamed> {
        match self.kind {
            Kind::Streamed(streamed) => Some(streamed),
            _ => None,
        }
    }
}

/// All of them, in the order of the report.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |name: String, title: String, kind| all.push(Scenario { name, title, kind });
    let modes = [Mode::Plain, Mode::Coalesced];
    for targets in [1, 8] {
        for size in [64, 1316, 8000] {
            for mode in modes {
                let how = mode.name();
                add(
                    format!("relay-{targets}-{size}-{how}"),
                    format!("relay 1→{targets}, {size} B, {how}"),
                    Kind::Relay { targets, size, mode },
                );
            }
        }
    }
    for linger in [None, Some(LINGER)] {
        let (name, how) = if linger.is_some() { ("-linger", ", linger 1 ms") } else { ("", "") };
        let title = format!("relay 1→1, 20000/s of 1316 B{how}");
        add(format!("relay-paced{name}"), title, Kind::PacedRelay { linger });
    }
    for mode in modes {
        let how = mode.name();
        let title = format!("relay 1→1, 1316 B, {how}, transparent");
        add(format!("transparent-{how}"), title, Kind::Transparent { mode });
    }
    add("latency".into(), "relay 1→1, 10000/s of 256 B".into(), Kind::Latency);
    add("client-default".into(), "client, file, default framing".into(), Kind::Client { block: None });
    let title = format!("client, file, blocks of {BLOCK} B");
    add("client-blocks".into(), title, Kind::Client { block: Some(BLOCK) });
    for mode in modes {
        let how = mode.name();
        let kind = Kind::Server { mode, pace: None };
        add(format!("server-{how}"), format!("server, file, 1316 B, {how}"), kind);
    }
    let kind = Kind::Server { mode: Mode::Plain, pace: Some(47_500) };
    add("server-paced".into(), "server, file, 500 Mbit/s".into(), kind);
    add("pipe".into(), "stdin, client, server, file: 256 MB".into(), Kind::Pipe);
    for receivers in [1, 4, 16] {
        for mode in modes {
            let how = mode.name();
            add(
                format!("channel-{receivers}-{how}"),
                format!("channel, {}, 1316 B, {how}", several(receivers, "receiver")),
                Kind::Channel { receivers, mode },
            );
        }
    }
    for (clients, pace, mode) in [
        (1, 20_000, Mode::Single),
        (50, 2_000, Mode::Single),
        (50, 2_000, Mode::Plain),
        (500, 200, Mode::Single),
    ] {
        let (name, how) = if mode == Mode::Plain { ("-bursts", " in bursts of 64") } else { ("", "") };
        add(
            format!("reverse-{clients}{name}"),
            format!("reverse, {}, {pace}/s of 1316 B{how}", several(clients, "TCP client")),
            Kind::Reverse { clients, pace, mode },
        );
    }
    for (name, title, fan) in fans::all() {
        add(name, title, Kind::Fan(fan));
    }
    for (name, title, streamed) in streams::all() {
        add(name, title, Kind::Streamed(streamed));
    }
    for program in ["mproxy-client", "mproxy-server", "mproxy-forward", "mproxy-reverse"] {
        let name = program.replace("mproxy", "idle");
        add(name, format!("{program}, idle"), Kind::Idle(program));
    }
    all
}

fn several(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A port that no earlier run has used, so that nothing late of it arrives.
pub(crate) fn fresh(host: Ipv4Addr) -> SocketAddrV4 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let port = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000;
    SocketAddrV4::new(host, port)
}

pub(crate) fn fresh_ports(count: usize) -> Vec<SocketAddrV4> {
    (0..count).map(|_| fresh(Ipv4Addr::LOCALHOST)).collect()
}

/// The setting of all scenarios: seconds of a load, and files that are made once.
pub(crate) struct Stage {
    pub(crate) seconds: f64,
    input: OnceCell<File>,
    certificates: OnceCell<Certificates>,
}

impl Stage {
    pub(crate) fn new(seconds: f64) -> Self {
        Self { seconds, input: OnceCell::new(), certificates: OnceCell::new() }
    }

    /// Runs a scenario once; none if the candidate has nothing for it.
    pub(crate) fn run(&self, scenario: &Scenario, candidate: &Candidate) -> Outcome<Option<Sample>> {
        set_deadline(self.patience() + Duration::from_secs(40));
        let load = |size, mode, pace| self.load(size, mode, pace);
        match scenario.kind {
            Kind::Relay { targets, size, mode } => self.relay(candidate, targets, load(size, mode, None)),
            Kind::PacedRelay { linger } => {
                self.paced_relay(candidate, load(1316, Mode::Single, Some(20_000)), linger)
            }
            Kind::Transparent { mode } => {
                self.transparent(candidate, Load { from_afar: true, ..load(1316, mode, None) })
            }
            Kind::Latency => self.latency(candidate, load(256, Mode::Single, Some(10_000))),
            Kind::Client { block } => self.client(candidate, block),
            Kind::Server { mode, pace } => {
                let most = MOST_TO_FILE / 1316;
                server(candidate, Load { most, ..load(1316, mode, pace) })
            }
            Kind::Pipe => pipe(candidate),
            Kind::Channel { receivers, mode } => self.channel(candidate, receivers, load(1316, mode, None)),
            Kind::Reverse { clients, pace, mode } => {
                self.reverse(candidate, clients, load(1316, mode, Some(pace)))
            }
            Kind::Fan(fan) => self.fan(candidate, fan),
            Kind::Streamed(streamed) => self.streamed(candidate, streamed),
            Kind::Idle(program) => self.idle(candidate, program),
        }
    }

    pub(crate) fn load(&self, size: usize, mode: Mode, pace: Option<u32>) -> Load {
        Load { size, mode, pace, seconds: self.seconds, most: u64::MAX, from_afar: false }
    }

    pub(crate) fn certificates(&self) -> io::Result<&Certificates> {
        if let Some(certificates) = self.certificates.get() {
            return Ok(certificates);
        }
        let certificates = Certificates::new()?;
        Ok(self.certificates.get_or_init(|| certificates))
    }

    /// The time limit for datagrams that may never come: the load, and some more.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.seconds) + Duration::from_secs(8)
    }

    fn relay(&self, candidate: &Candidate, targets: usize, load: Load) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let to = fresh_ports(targets);
        let Some(command) = candidate.forward(from, &to) else { return Ok(None) };
        let sinks = self.sinks(&to)?;
        let relay = listener(&command, from)?;
        Ok(Some(pass(&relay, sinks, from, load)?.sample()))
    }

    fn paced_relay(
        &self,
        candidate: &Candidate,
        load: Load,
        linger: Option<Duration>,
    ) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let to = fresh_ports(1);
        let Some(command) = candidate.forward(from, &to) else { return Ok(None) };
        let Some(command) = candidate.with_linger("mproxy-forward", command, linger) else { return Ok(None) };
        let sinks = self.sinks(&to)?;
        let relay = listener(&command, from)?;
        let passed = pass(&relay, sinks, from, load)?;
        Ok(Some(vec![
            (Measure::Processor, passed.processor()),
            (Measure::Arrived, passed.arrived()),
            (Measure::Slowest, passed.p99),
        ]))
    }

    fn transparent(&self, candidate: &Candidate, load: Load) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let to = fresh_ports(1);
        let Some(command) = candidate.transparent(from, &to) else { return Ok(None) };
        let sinks = self.sinks(&to)?;
        let relay = listener(&command, from)?;
        Ok(Some(pass(&relay, sinks, from, load)?.sample()))
    }

    fn latency(&self, candidate: &Candidate, load: Load) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let to = fresh_ports(1);
        let Some(command) = candidate.forward(from, &to) else { return Ok(None) };
        let sinks = self.sinks(&to)?;
        let relay = listener(&command, from)?;
        let passed = pass(&relay, sinks, from, load)?;
        Ok(Some(vec![
            (Measure::Median, passed.p50),
            (Measure::Slowest, passed.p99),
            (Measure::Arrived, passed.arrived()),
            (Measure::Processor, passed.processor()),
        ]))
    }

    fn channel(&self, candidate: &Candidate, receivers: usize, load: Load) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let group = fresh(GROUP);
        let Some(command) = candidate.channel(from, group) else { return Ok(None) };
        let sinks = self.sinks(&vec![group; receivers])?;
        let channel = listener(&command, from)?;
        Ok(Some(pass(&channel, sinks, from, load)?.sample()))
    }

    fn client(&self, candidate: &Candidate, block: Option<usize>) -> Outcome<Option<Sample>> {
        let to = fresh_ports(1);
        let input = if let Some(input) = self.input.get() {
            input
        } else {
            let input = lines(FILE_SIZE)?;
            self.input.get_or_init(|| input)
        };
        let Some(mut command) = candidate.client(&path(input), to[0], block) else { return Ok(None) };
        let sinks = self.sinks(&to)?;
        let started = Instant::now();
        let (usage, well) = Process::once(&mut command, Stdio::null())?.end()?;
        let seconds = started.elapsed().as_secs_f64();
        if !well {
            return Err("it failed".into());
        }
        let size = input.metadata()?.len() as f64;
        let bytes = all_figures(sinks)?[0].get("bytes")?;
        Ok(Some(vec![
            (Measure::Throughput, bytes * 8.0 / seconds),
            (Measure::Arrived, 100.0 * bytes / size),
            (Measure::Sent, size * 8.0 / seconds),
            (Measure::ProcessorPerGigabyte, usage.seconds / (size / 1e9)),
            (Measure::Memory, usage.memory),
        ]))
    }

    fn reverse(&self, candidate: &Candidate, number: usize, load: Load) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let on = fresh(Ipv4Addr::LOCALHOST);
        let Some(command) = candidate.reverse(from, fresh(GROUP), Some(on)) else { return Ok(None) };
        let mut proxy = listener(&command, from)?;
        proxy.ready(|| bound("tcp", on, 1))?;
        let mut clients =
            Process::part(&mut parts::clients(on, from, number, self.patience(), Protocol::Tcp))?;
        clients.line()?;
        let before = proxy.usage()?;
        let sent = send(from, load)?;
        let got = clients.next_figures()?;
        let used = proxy.usage()?;
        let (size, number) = (load.size as f64, number as f64);
        let (bytes, expected) = (got.get("bytes")?, sent.datagrams * size);
        Ok(Some(vec![
            (Measure::Processor, (used.seconds - before.seconds) / (bytes / size).max(1.0)),
            (Measure::Arrived, 100.0 * bytes / (expected * number)),
            (Measure::Least, 100.0 * got.get("least")? / expected),
            (Measure::Memory, used.memory),
        ]))
    }

    fn idle(&self, candidate: &Candidate, program: &str) -> Outcome<Option<Sample>> {
        let Some(file) = candidate.program(program) else { return Ok(None) };
        let from = fresh(Ipv4Addr::LOCALHOST);
        let output = scratch()?;
        let command = match program {
            "mproxy-client" => candidate.client("-", from, None),
            "mproxy-server" => candidate.server(from, &path(&output)),
            "mproxy-forward" => candidate.forward(from, &fresh_ports(1)),
            _ => candidate.reverse(from, fresh(GROUP), Some(fresh(Ipv4Addr::LOCALHOST))),
        };
        let Some(command) = command else { return Ok(None) };
        let process = match program {
            // Its pipe stays open and empty.
            "mproxy-client" => Process::quiet(&command, Stdio::piped())?,
            _ => listener(&command, from)?,
        };
        // Idle is what it is after a while; there is nothing to wait for.
        std::thread::sleep(Duration::from_secs_f64(self.seconds.min(0.5)));
        let memory = process.usage()?.memory;
        Ok(Some(vec![(Measure::Memory, memory), (Measure::Size, file.metadata()?.len() as f64)]))
    }

    /// Sinks that are bound, one for each address.
    pub(crate) fn sinks(&self, on: &[SocketAddrV4]) -> Outcome<Vec<Process>> {
        let mut sinks = Vec::new();
        for address in on {
            sinks.push(Process::part(&mut parts::sink(*address, self.patience()))?);
        }
        for (sink, address) in sinks.iter_mut().zip(on) {
            let members = on.iter().filter(|other| *other == address).count();
            sink.ready(|| bound("udp", *address, members))?;
        }
        Ok(sinks)
    }
}

fn server(candidate: &Candidate, load: Load) -> Outcome<Option<Sample>> {
    let from = fresh(Ipv4Addr::LOCALHOST);
    let output = scratch()?;
    let Some(command) = candidate.server(from, &path(&output)) else { return Ok(None) };
    let server = listener(&command, from)?;
    let before = server.usage()?;
    let sent = send(from, load)?;
    let bytes = settled(&output)?;
    let used = server.usage()?;
    let size = load.size as f64;
    Ok(Some(vec![
        (Measure::Throughput, bytes * 8.0 / sent.seconds),
        (Measure::Arrived, 100.0 * bytes / (sent.datagrams * size)),
        (Measure::Processor, (used.seconds - before.seconds) / (bytes / size).max(1.0)),
        (Measure::Memory, used.memory),
    ]))
}

fn pipe(candidate: &Candidate) -> Outcome<Option<Sample>> {
    let from = fresh(Ipv4Addr::LOCALHOST);
    let output = scratch()?;
    let Some(mut client) = candidate.client("-", from, None) else { return Ok(None) };
    let Some(server) = candidate.server(from, &path(&output)) else { return Ok(None) };
    let server = listener(&server, from)?;
    let chunk = LINE.repeat((1 << 20) / LINE.len());
    let chunks = PIPED / chunk.len();
    let started = Instant::now();
    let mut client = Process::once(&mut client, Stdio::piped())?;
    let mut pipe = client.stdin().ok_or("no pipe")?;
    for _ in 0..chunks {
        pipe.write_all(&chunk)?;
    }
    drop(pipe);
    let (_, well) = client.end()?;
    let seconds = started.elapsed().as_secs_f64();
    if !well {
        return Err("it failed".into());
    }
    let bytes = settled(&output)?;
    let used = server.usage()?;
    Ok(Some(vec![
        (Measure::Arrived, 100.0 * bytes / (chunks * chunk.len()) as f64),
        (Measure::Throughput, bytes * 8.0 / seconds),
        (Measure::Memory, used.memory),
    ]))
}

/// Starts a program, and waits until it listens.
pub(crate) fn listener(command: &Command, on: SocketAddrV4) -> Outcome<Process> {
    let mut process = Process::quiet(command, Stdio::null())?;
    process.ready(|| bound("udp", on, 1))?;
    Ok(process)
}

pub(crate) struct Sent {
    pub(crate) datagrams: f64,
    pub(crate) seconds: f64,
}

/// Sends the load to its end.
pub(crate) fn send(to: SocketAddrV4, load: Load) -> Outcome<Sent> {
    let figures = Process::part(&mut parts::load(to, load))?.figures()?;
    Ok(Sent { datagrams: figures.get("datagrams")?, seconds: figures.get("seconds")? })
}

fn all_figures(sinks: Vec<Process>) -> Outcome<Vec<Figures>> {
    sinks.into_iter().map(Process::figures).collect()
}

/// Datagrams that have passed through a relay, and its usage.
struct Passed {
    sent: Sent,
    receivers: f64,
    datagrams: f64,
    bytes: f64,
    p50: f64,
    p99: f64,
    usage: Usage,
}

/// Sends the load through a relay to the sinks.
fn pass(relay: &Process, sinks: Vec<Process>, from: SocketAddrV4, load: Load) -> Outcome<Passed> {
    let before = relay.usage()?;
    let sent = send(from, load)?;
    let got = all_figures(sinks)?;
    let after = relay.usage()?;
    let sum = |key| got.iter().map(|figures| figures.get(key)).sum::<Outcome<f64>>();
    Ok(Passed {
        sent,
        receivers: got.len() as f64,
        datagrams: sum("datagrams")?,
        bytes: sum("bytes")?,
        p50: got[0].get("p50")? / 1e9,
        p99: got[0].get("p99")? / 1e9,
        usage: Usage { seconds: after.seconds - before.seconds, memory: after.memory },
    })
}

impl Passed {
    fn arrived(&self) -> f64 {
        100.0 * self.datagrams / (self.sent.datagrams * self.receivers)
    }

    fn processor(&self) -> f64 {
        self.usage.seconds / self.datagrams.max(1.0)
    }

    fn sample(&self) -> Sample {
        vec![
            (Measure::Throughput, self.bytes * 8.0 / self.sent.seconds),
            (Measure::Arrived, self.arrived()),
            (Measure::Processor, self.processor()),
            (Measure::Memory, self.usage.memory),
        ]
    }
}

/// A file in memory where there is such a place. It has no name, so that it goes whatever happens.
fn scratch() -> io::Result<File> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempfile_in(memory) } else { tempfile::tempfile() }
}

/// The path by which another process opens the file.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A file of lines.
fn lines(size: usize) -> io::Result<File> {
    let mut file = scratch()?;
    let chunk = LINE.repeat((1 << 20) / LINE.len());
    for _ in 0..size / chunk.len() {
        file.write_all(&chunk)?;
    }
    Ok(file)
}

/// The size of the file when it has stopped growing.
fn settled(file: &File) -> io::Result<f64> {
    let mut size = file.metadata()?.len();
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let before = std::mem::replace(&mut size, file.metadata()?.len());
        if size == before || Instant::now() > end {
            return Ok(size as f64);
        }
    }
}
