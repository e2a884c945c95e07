//! The scenarios with many TCP connections of one endpoint: one group to all of them (fan-out), and lines
//! of all of them to one UDP target (fan-in).

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use crate::candidates::Candidate;
use crate::clients::Protocol;
use crate::load::{Load, Mode};
use crate::measures::{Measure, Sample};
use crate::processes::{Process, bound};
use crate::scenarios::{GROUP, LINE, Stage, fresh, send};
use crate::writers::{Lines, TICK};
use crate::{Outcome, parts};

/// Of MPEG's transport stream, seven packets.
const SIZE: usize = 1316;

/// The linger where there is one.
const LINGER: Duration = Duration::from_millis(2);

/// Clients, and the pace of the group: in datagrams a second, and in Mbit/s.
const FAN_OUTS: [(usize, u32, &str); 3] = [(8, 3_799, "40"), (100, 760, "8"), (1000, 47, "0.5")];

const WRITERS: usize = 1000;

/// Lines of all writers together in a millisecond.
const LINES_IN_A_TICK: usize = 10;

/// The direction of a fan, with its load.
#[derive(Clone, Copy)]
pub(crate) enum Fan {
    Out { clients: usize, pace: u32, linger: Option<Duration> },
    In { linger: Option<Duration> },
}

/// All of them, with name and title.
pub(crate) fn all() -> Vec<(String, String, Fan)> {
    let mut all = Vec::new();
    let lingers = [(None, "", ""), (Some(LINGER), "-linger", ", linger 2 ms")];
    for (clients, pace, rate) in FAN_OUTS {
        for (linger, name, how) in lingers {
            // At the slowest pace datagrams are further apart than the linger.
            if linger.is_none_or(|linger| linger * pace > Duration::from_secs(1)) {
                all.push((
                    format!("fan-out-{clients}{name}"),
                    format!("fan-out, {clients} TCP clients, {rate} Mbit/s{how}"),
                    Fan::Out { clients, pace, linger },
                ));
            }
        }
    }
    for (linger, name, how) in lingers {
        all.push((
            format!("fan-in-{WRITERS}{name}"),
            format!("fan-in, {WRITERS} TCP connections, 10000 lines/s{how}"),
            Fan::In { linger },
        ));
    }
    all
}

impl Stage {
    /// Runs a scenario once; none if the candidate has nothing for it.
    pub(crate) fn fan(&self, candidate: &Candidate, fan: Fan) -> Outcome<Option<Sample>> {
        match fan {
            Fan::Out { clients, pace, linger } => {
                self.fan_out(candidate, clients, self.load(SIZE, Mode::Single, Some(pace)), linger)
            }
            Fan::In { linger } => self.fan_in(candidate, linger),
        }
    }

    fn fan_out(
        &self,
        candidate: &Candidate,
        number: usize,
        load: Load,
        linger: Option<Duration>,
    ) -> Outcome<Option<Sample>> {
        let (group, on) = (fresh(GROUP), fresh(Ipv4Addr::LOCALHOST));
        let Some(command) = candidate.fan_out(group, on) else { return Ok(None) };
        let Some(command) = candidate.with_linger("mproxy-reverse", command, linger) else { return Ok(None) };
        let mut program = Process::quiet(&command, Stdio::null())?;
        // A server may join the group when the first client asks for it: probes tell when all are served.
        program.ready(|| bound("tcp", on, 1))?;
        let path = format!("/udp/{group}");
        let protocol = if candidate.is_http_server() { Protocol::Http(&path) } else { Protocol::Tcp };
        let mut clients = Process::part(&mut parts::clients(on, group, number, self.patience(), protocol))?;
        clients.line()?;
        let before = program.tree_usage()?;
        let sent = send(group, load)?;
        let got = clients.next_figures()?;
        let used = program.tree_usage()?;
        let expected = sent.datagrams * load.size as f64;
        Ok(Some(vec![
            (Measure::ProcessorShare, 100.0 * (used.seconds - before.seconds) / sent.seconds),
            (Measure::Least, 100.0 * got.get("least")? / expected),
            (Measure::MedianClient, 100.0 * got.get("median")? / expected),
            (Measure::OwnMemory, used.memory),
        ]))
    }

    fn fan_in(&self, candidate: &Candidate, linger: Option<Duration>) -> Outcome<Option<Sample>> {
        let (on, to) = (fresh(Ipv4Addr::LOCALHOST), fresh(Ipv4Addr::LOCALHOST));
        let Some(command) = candidate.fan_in(on, to) else { return Ok(None) };
        let Some(command) = candidate.with_linger("mproxy-reverse", command, linger) else { return Ok(None) };
        let mut program = Process::quiet(&command, Stdio::null())?;
        program.ready(|| bound("tcp", on, 1))?;
        let ticks = Duration::from_secs_f64(self.seconds).as_millis() / TICK.as_millis();
        let lines = Lines { connections: WRITERS, in_a_tick: LINES_IN_A_TICK, ticks: u32::try_from(ticks)? };
        let mut writers = Process::part(&mut parts::writers(on, to, lines, self.patience()))?;
        writers.line()?;
        let before = program.tree_usage()?;
        let got = writers.next_figures()?;
        let used = program.tree_usage()?;
        let bytes = got.get("bytes")?;
        let arrived = bytes / LINE.len() as f64;
        Ok(Some(vec![
            (Measure::ProcessorPerLine, (used.seconds - before.seconds) / arrived.max(1.0)),
            (Measure::Arrived, 100.0 * arrived / got.get("lines")?),
            (Measure::OwnMemory, used.memory),
        ]))
    }
}
