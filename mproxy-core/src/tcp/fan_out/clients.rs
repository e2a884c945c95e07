//! The clients of a fan-out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::ring::{Counts, Position, Ring};
use crate::log::{self, LogLimiter};
use crate::relay::flow::PollKeys;
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;
use crate::sys::{Interest, PollSet};
use crate::tcp::connection::Connection;
use crate::tcp::fan_out::client::{Client, Input};
use crate::tcp::fan_out::handle::FanOutHandle;
use crate::tcp::label::Label;
use crate::tcp::places::Permit;

/// The most bytes that a client gets in one turn, so that none holds up the others.
const TURN: usize = 1 << 18;

/// The most bytes that those who lag get between two receives, so that they do not hold up the others.
const ROUND: usize = 1 << 20;

/// Messages in ten seconds about clients that are too slow.
const BURST: u32 = 10;

/// A table of clients: the index of each is that of its key in the poll set.
pub(super) struct Clients {
    table: Vec<Option<Client>>,
    free: Vec<usize>,
    keys: PollKeys,
    next_id: u64,
    label: Label,
    /// How many are served, for whoever hands out new ones.
    count: Arc<AtomicUsize>,
    lagging: usize,
    /// Something was sent since the last check, or had not been acknowledged by then.
    unchecked: bool,
    /// No cursor is before it.
    low: Position,
    /// When one that lags has last taken something.
    progress: Instant,
    /// What those that lag had acknowledged when that was last looked at.
    acknowledged: u64,
    /// What those that lag may still get before the next receive.
    round: usize,
    missed_log: LogLimiter,
    counters: Arc<Counters>,
    stop: Stop,
}

impl Clients {
    pub(super) fn new(
        keys: PollKeys,
        label: Label,
        count: Arc<AtomicUsize>,
        counters: Arc<Counters>,
        stop: &Stop,
    ) -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            keys,
            next_id: 0,
            label,
            count,
            lagging: 0,
            unchecked: false,
            low: Position::default(),
            progress: Instant::now(),
            acknowledged: 0,
            round: ROUND,
            missed_log: LogLimiter::with_burst(BURST),
            counters,
            stop: stop.clone(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.table.len()
    }

    pub(super) fn are_lagging(&self) -> bool {
        self.lagging > 0
    }

    /// Whether there is none that has taken everything.
    pub(super) fn all_lag(&self) -> bool {
        self.lagging == self.table.len() - self.free.len()
    }

    /// Looks whether one that lags reads on. Its socket need not have taken anything for that: it tells room (EPOLLOUT)
    /// only once a third of the send buffer is free.
    pub(super) fn look_for_progress(&mut self) {
        let lagging = self.table.iter().flatten().filter(|client| client.is_lagging);
        let acknowledged = lagging.map(Client::acknowledged).sum();
        if std::mem::replace(&mut self.acknowledged, acknowledged) != acknowledged {
            self.progress = Instant::now();
        }
    }

    /// When one that lags has last taken something.
    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    pub(super) fn add(
        &mut self,
        connection: Box<dyn Connection>,
        peer: SocketAddr,
        permit: Permit,
        ring: &Ring,
        set: &Arc<PollSet>,
    ) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() - 1
        });
        self.next_id += 1;
        match Client::new(connection, peer, permit, ring, (set, self.keys.key(index), self.next_id)) {
            Ok(client) => {
                self.label.log_connected(peer);
                self.unchecked = true;
                self.table[index] = Some(client);
            }
            Err(error) => {
                self.free.push(index);
                self.count.fetch_sub(1, Ordering::Relaxed);
                self.counters.failed(1);
                let error = Error::io("set up the connection of", peer, error);
                log::warn(format_args!("{} {peer} refused: {error}", self.label));
            }
        }
    }

    /// Writes what is new to those that had taken everything before.
    pub(super) fn send_new(&mut self, ring: &Ring) {
        self.unchecked = true;
        let mut passed = Counts::default();
        for index in 0..self.table.len() {
            if let Some(client) = &mut self.table[index]
                && !client.is_lagging
            {
                let written = client.write(ring, TURN, &mut passed);
                self.settle(index, ring, written.map_err(|error| ("send to", error)), false);
            }
        }
        self.count_passed(passed);
    }

    /// Begins a round: those that lag may get something again.
    pub(super) fn begin_round(&mut self) {
        self.round = ROUND;
    }

    /// Takes an event: reads what the client sends, and writes what it lacks.
    pub(super) fn serve(&mut self, index: usize, ready: Interest, ring: &Ring, handle: &FanOutHandle) {
        let Some(client) = self.table.get_mut(index).and_then(Option::as_mut) else { return };
        let was_lagging = client.is_lagging;
        if ready.read {
            match client.read() {
                Ok(Input::Open) => {}
                Ok(Input::HalfClosed) => {
                    self.unchecked = true;
                    let (handle, id) = (handle.clone(), client.id);
                    client.permit().half_closed(Box::new(move || handle.remove(index, id)));
                }
                Err(error) => return self.settle(index, ring, Err(("receive from", error)), was_lagging),
            }
        }
        if ready.write && client.is_lagging && self.round > 0 {
            let (mut passed, before) = (Counts::default(), client.written());
            let written = client.write(ring, TURN, &mut passed);
            let len = client.written() - before;
            if len > 0 {
                self.progress = Instant::now();
                self.round = self.round.saturating_sub(usize::try_from(len).unwrap_or(usize::MAX));
            }
            self.count_passed(passed);
            self.settle(index, ring, written.map_err(|error| ("send to", error)), was_lagging);
        }
    }

    /// Follows what a write has changed.
    fn settle(
        &mut self,
        index: usize,
        ring: &Ring,
        written: Result<(), (&'static str, io::Error)>,
        was_lagging: bool,
    ) {
        let Some(client) = &self.table[index] else { return };
        match (was_lagging, client.is_lagging) {
            (false, true) => {
                self.low = if self.lagging == 0 { client.cursor() } else { self.low.min(client.cursor()) };
                self.lagging += 1;
                if self.lagging == 1 {
                    self.progress = Instant::now();
                }
            }
            (true, false) => self.lagging -= 1,
            _ => {}
        }
        if let Err((operation, error)) = written {
            self.end(index, ring, Some((operation, error)));
        }
    }

    /// Has those go on later in the ring whose cursors are before its tail, before their bytes are overwritten.
    pub(super) fn give_up_before(&mut self, tail: Position, ring: &Ring) {
        if self.lagging == 0 || self.low >= tail {
            return;
        }
        self.low = ring.head();
        let (mut missed, mut slow) = (Counts::default(), Vec::new());
        for (index, client) in self.table.iter_mut().enumerate() {
            let Some(client) = client.as_mut().filter(|client| client.is_lagging) else { continue };
            if client.cursor() < tail {
                missed += client.overrun(ring);
                slow.push((client.told, index));
            }
            self.low = self.low.min(client.cursor());
        }
        self.counters.missed(missed.datagrams, missed.bytes);
        // Those that have not been told of for longest first.
        slow.sort_unstable();
        for (_, index) in slow {
            let Some(client) = &mut self.table[index] else { continue };
            if !self.missed_log.permits() {
                break;
            }
            client.told = Some(Instant::now());
            let (peer, missed) = (client.peer, client.missed);
            log::warn(format_args!(
                "{} {peer} is too slow: it has missed {} datagrams, {} bytes (--client-buffer)",
                self.label, missed.datagrams, missed.bytes
            ));
        }
    }

    /// Whether one would miss something if `len` more bytes were appended.
    pub(super) fn would_miss(&self, len: usize, ring: &Ring) -> bool {
        let room = (ring.capacity() - len) as u64;
        let lags = |cursor| ring.head().bytes_since(cursor) > room;
        let mut lagging = self.table.iter().flatten().filter(|client| client.is_lagging);
        self.lagging > 0 && lags(self.low) && lagging.any(|client| lags(client.cursor()))
    }

    /// Drops those that have taken nothing for too long.
    pub(super) fn check_stalls(&mut self, now: Instant, ring: &Ring, timeout: Duration) {
        self.unchecked = false;
        for index in 0..self.table.len() {
            let Some(client) = &mut self.table[index] else { continue };
            match client.check_stall(now, timeout) {
                Ok(unacknowledged) => self.unchecked |= unacknowledged,
                Err(error) => {
                    let is_stalled = error.kind() == io::ErrorKind::TimedOut;
                    let operation = if is_stalled { "send to" } else { "receive from" };
                    self.end(index, ring, Some((operation, error)));
                }
            }
        }
    }

    /// Whether there is anything to check: data that somebody has yet to acknowledge.
    pub(super) fn need_checks(&self) -> bool {
        self.unchecked && !self.is_empty()
    }

    /// Ends a client that gives way to another one.
    pub(super) fn remove(&mut self, index: usize, id: u64, ring: &Ring) {
        if self.table.get(index).and_then(Option::as_ref).is_some_and(|client| client.id == id) {
            let error = io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it has closed, and another one needs its place",
            );
            self.end(index, ring, Some(("go on with", error)));
        }
    }

    /// Ends all of them.
    pub(super) fn close(&mut self, ring: &Ring) {
        for index in 0..self.table.len() {
            self.end(index, ring, None);
        }
    }

    fn end(&mut self, index: usize, ring: &Ring, error: Option<(&'static str, io::Error)>) {
        let Some(client) = self.table[index].take() else { return };
        self.free.push(index);
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.lagging -= usize::from(client.is_lagging);
        let (peer, left, missed) = (client.peer, client.left(ring), client.missed);
        self.counters.gone(left.datagrams);
        drop(client);
        if missed.datagrams > 0 {
            log::info(format_args!(
                "{} {peer} has missed {} datagrams, {} bytes in all (--client-buffer)",
                self.label, missed.datagrams, missed.bytes
            ));
        }
        let ended = error.map_or(Ok(()), |(operation, error)| {
            self.counters.failed(usize::from(operation == "send to"));
            Err(Error::io(operation, peer, error))
        });
        self.label.log_ended(peer, &ended, &self.stop);
    }

    fn count_passed(&self, passed: Counts) {
        if passed != Counts::default() {
            self.counters.passed_in_all(passed.datagrams, passed.bytes);
        }
    }
}
