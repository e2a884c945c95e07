//! The scenarios with a byte stream on one side, and UDP on the other: TCP and TLS, in and out.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::str::FromStr;

use crate::candidates::Candidate;
use crate::clients::Protocol;
use crate::feed::Feed;
use crate::load::{Load, Mode, text};
use crate::measures::{Measure, Sample};
use crate::processes::{Figures, Process, Usage, bound};
use crate::scenarios::{Stage, fresh, fresh_ports, listener, send};
use crate::tls::Certificates;
use crate::{Outcome, parts};

/// Of MPEG's transport stream, seven packets.
const SIZE: usize = 1316;

/// Bytes that socat takes at a time by default, and `mproxy-forward` at most.
const LARGE: usize = 8192;

/// Both must be able to take it: 500 Mbit/s.
const PACE: u32 = 47_500;

/// The framing: how datagrams are delimited in the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// All are of one size.
    Blocks,
    /// One read, one datagram.
    Raw,
    /// By a length before each.
    Length,
}

impl Framing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Raw => "raw",
            Self::Length => "length",
        }
    }

    /// A datagram of this size, as it is in the stream.
    pub(crate) fn framed(self, size: usize) -> Vec<u8> {
        let datagram = text(size, 1);
        match (self, u16::try_from(size)) {
            (Self::Length, Ok(length)) => [&length.to_be_bytes()[..], &datagram].concat(),
            _ => datagram,
        }
    }
}

impl FromStr for Framing {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Blocks, Self::Raw, Self::Length]
            .into_iter()
            .find(|framing| framing.name() == name)
            .ok_or_else(|| format!("no framing '{name}'"))
    }
}

/// The protocol, framing and direction of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Streamed {
    pub(crate) tls: bool,
    framing: Framing,
    direction: Direction,
}

#[derive(Clone, Copy)]
enum Direction {
    /// From a server, to be cut into datagrams of this size.
    In(usize),
    /// To a client.
    Out(Mode, Option<u32>),
}

/// All of them, with name and title.
pub(crate) fn all() -> Vec<(String, String, Streamed)> {
    let mut all = Vec::new();
    for tls in [false, true] {
        let (name, title) = if tls { ("tls", "TLS") } else { ("tcp", "TCP") };
        let mut add = |what: &str, how: String, framing, direction| {
            all.push((
                format!("{name}-{what}"),
                format!("{title} {how}"),
                Streamed { tls, framing, direction },
            ));
        };
        for size in [SIZE, LARGE] {
            let how = format!("in, blocks of {size} B");
            add(&format!("in-{size}"), how, Framing::Blocks, Direction::In(size));
        }
        if !tls {
            add("in-raw", format!("in, reads of {SIZE} B"), Framing::Raw, Direction::In(SIZE));
            add("in-length", format!("in, lengths, {SIZE} B"), Framing::Length, Direction::In(SIZE));
        }
        for mode in [Mode::Plain, Mode::Coalesced] {
            let how = format!("out, {SIZE} B, {}", mode.name());
            add(&format!("out-{}", mode.name()), how, Framing::Raw, Direction::Out(mode, None));
        }
        if !tls {
            let how = format!("out, lengths, {SIZE} B, coalesced");
            add("out-length", how, Framing::Length, Direction::Out(Mode::Coalesced, None));
        }
        let how = "out, 500 Mbit/s".to_owned();
        add("out-paced", how, Framing::Raw, Direction::Out(Mode::Single, Some(PACE)));
    }
    all
}

impl Stage {
    /// Runs a scenario once; none if the candidate has nothing for it.
    pub(crate) fn streamed(&self, candidate: &Candidate, streamed: Streamed) -> Outcome<Option<Sample>> {
        let Streamed { tls, framing, direction } = streamed;
        let certificates = if tls { Some(self.certificates()?) } else { None };
        match direction {
            Direction::In(size) => self.stream_in(candidate, framing, size, certificates),
            Direction::Out(mode, pace) => {
                let load = self.load(SIZE, mode, pace);
                self.stream_out(candidate, framing, load, certificates)
            }
        }
    }

    fn stream_in(
        &self,
        candidate: &Candidate,
        framing: Framing,
        size: usize,
        tls: Option<&Certificates>,
    ) -> Outcome<Option<Sample>> {
        let server = fresh(Ipv4Addr::LOCALHOST);
        let to = fresh_ports(1);
        let Some(command) = candidate.stream_in(server, to[0], (framing, size), tls) else {
            return Ok(None);
        };
        let mut sinks = self.sinks(&to)?;
        let feed = Feed { framing, size, seconds: self.seconds };
        let mut feed = Process::part(&mut parts::feed(server, feed, tls))?;
        feed.ready(|| bound("tcp", server, 1))?;
        let mut program = Process::quiet(&command, Stdio::null())?;
        // The listener, and the connection.
        program.ready(|| bound("tcp", server, 2))?;
        feed.line()?;
        let before = program.usage()?;
        let sent = feed.next_figures()?.get("bytes")?;
        let got = sinks.remove(0).figures()?;
        let used = program.usage()?;
        Passed { got, framed: size, size, sent, before, used }.sample(false)
    }

    fn stream_out(
        &self,
        candidate: &Candidate,
        framing: Framing,
        load: Load,
        tls: Option<&Certificates>,
    ) -> Outcome<Option<Sample>> {
        let from = fresh(Ipv4Addr::LOCALHOST);
        let on = fresh(Ipv4Addr::LOCALHOST);
        let Some(command) = candidate.stream_out(from, on, framing, tls) else { return Ok(None) };
        let mut program = listener(&command, from)?;
        program.ready(|| bound("tcp", on, 1))?;
        let protocol = tls.map_or(Protocol::Tcp, |tls| Protocol::Tls(&tls.authority));
        let mut clients = Process::part(&mut parts::clients(on, from, 1, self.patience(), protocol))?;
        clients.line()?;
        let before = program.usage()?;
        let sent = send(from, load)?;
        let got = clients.next_figures()?;
        let used = program.usage()?;
        let (size, framed) = (load.size, framing.framed(load.size).len());
        let sent = sent.datagrams * size as f64;
        Passed { got, framed, size, sent, before, used }.sample(load.pace.is_some())
    }
}

/// The stream that has passed through a program.
struct Passed {
    /// Among others, the bytes that came and the seconds from the first to the last.
    got: Figures,
    /// Bytes that came for each datagram, ...
    framed: usize,
    /// ... and of its payload.
    size: usize,
    /// Payload.
    sent: f64,
    before: Usage,
    used: Usage,
}

impl Passed {
    fn sample(&self, paced: bool) -> Outcome<Option<Sample>> {
        let bytes = self.got.get("bytes")? / self.framed as f64 * self.size as f64;
        if bytes <= 0.0 {
            return Err("nothing arrived".into());
        }
        let arrived = (Measure::Arrived, 100.0 * bytes / self.sent);
        let seconds = self.used.seconds - self.before.seconds;
        let processor = (Measure::ProcessorPerGigabyte, seconds / (bytes / 1e9));
        let memory = (Measure::Memory, self.used.memory);
        // Not by the time of sending: as much as arrives then may still wait in queues. At a pace it would
        // only say what that was.
        let throughput = (Measure::Throughput, bytes * 8.0 / self.got.get("seconds")?);
        Ok(Some(if paced {
            vec![processor, arrived, memory]
        } else {
            vec![throughput, arrived, processor, memory]
        }))
    }
}
