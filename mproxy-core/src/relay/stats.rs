//! Statistics: counters of each endpoint.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counters of one thread at one endpoint. Only that thread writes them.
#[derive(Debug, Default)]
pub struct Counters {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
    denied: AtomicU64,
    cut: AtomicU64,
    missed: AtomicU64,
    missed_bytes: AtomicU64,
    gone: AtomicU64,
}

impl Counters {
    /// Counts datagrams that passed, and their payload bytes.
    pub fn passed(&self, datagrams: usize, bytes: usize) {
        self.passed_in_all(datagrams as u64, bytes as u64);
    }

    /// The same for many clients together, whose sum may be more than memory can hold.
    pub fn passed_in_all(&self, datagrams: u64, bytes: u64) {
        add(&self.datagrams, datagrams);
        add(&self.bytes, bytes);
    }

    /// Counts datagrams, or connections, that failed.
    pub fn failed(&self, n: usize) {
        add(&self.errors, n as u64);
    }

    /// Counts datagrams that the system has dropped before they could be received.
    pub fn dropped(&self, n: u32) {
        add(&self.dropped, n.into());
    }

    /// Counts datagrams, or connections, from addresses that are not allowed.
    pub fn denied(&self, n: usize) {
        add(&self.denied, n as u64);
    }

    /// Counts datagrams that a client, target or reader was too slow for, and their payload bytes.
    pub fn missed(&self, datagrams: u64, bytes: u64) {
        add(&self.missed, datagrams);
        add(&self.missed_bytes, bytes);
    }

    /// Counts datagrams that a client or reader had not taken when it left.
    pub fn gone(&self, datagrams: u64) {
        add(&self.gone, datagrams);
    }

    /// Counts a line cut that was longer than a datagram.
    pub fn cut(&self) {
        add(&self.cut, 1);
    }
}

/// Without an atomic addition: each counter has one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// The direction of data at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Direction {
    /// Into the program.
    In,
    /// Out of the program.
    Out,
    /// From the program's inputs to its outputs, by way of the channel.
    Channel,
}

/// The statistics of one endpoint so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// The endpoint or file, as it was written.
    pub endpoint: String,
    /// The direction of data there.
    pub direction: Direction,
    /// Datagrams received or sent; at the input of a byte stream, the datagrams it was cut into.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams that could not be sent, errors that the network reported of sent ones (ICMP), failed receives, and
    /// failed connections.
    pub errors: u64,
    /// Datagrams that the system dropped since the receive buffer was full. Only Linux counts them (`SO_RXQ_OVFL`): with
    /// the next datagram that finds room, and coalesced ones (GRO) as one.
    pub dropped: u64,
    /// Datagrams and connections from addresses that are not [allowed](crate::Options::allow).
    pub denied: u64,
    /// Cuts of lines of a byte stream that were longer than a datagram.
    pub cut: u64,
    /// Datagrams that a client, target or reader was too slow for: they left the buffer that a TCP client may lag by, or
    /// there was no room in the send buffer of a UDP target (`SO_SNDBUF`) or the queue of the network interface
    /// (ENOBUFS). As `datagrams`, the sum over all clients, or all interfaces of a group.
    pub missed: u64,
    /// Their payload bytes.
    pub missed_bytes: u64,
    /// Datagrams that TCP clients had not taken when they left, or the reader of standard output at the end.
    pub gone: u64,
}

/// The statistics of all endpoints of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Each endpoint by itself.
    pub endpoints: Vec<EndpointStats>,
}

impl Stats {
    /// Datagrams received at all endpoints.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.sum(Direction::In, |e| e.datagrams)
    }

    /// Datagrams sent, or written, at all endpoints.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sum(Direction::Out, |e| e.datagrams)
    }

    /// Errors at all endpoints.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.endpoints.iter().map(|e| e.errors).sum()
    }

    /// Datagrams dropped by the system at all endpoints.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.endpoints.iter().map(|e| e.dropped).sum()
    }

    /// Datagrams and connections from addresses that are not allowed, at all endpoints.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.endpoints.iter().map(|e| e.denied).sum()
    }

    /// Datagrams that clients, targets and readers were too slow for, at all endpoints.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.sum(Direction::Out, |e| e.missed)
    }

    /// Datagrams that TCP clients had not taken when they left, or the reader of standard output at the end, at all
    /// endpoints.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.sum(Direction::Out, |e| e.gone)
    }

    fn sum(&self, direction: Direction, field: impl Fn(&EndpointStats) -> u64) -> u64 {
        self.endpoints.iter().filter(|e| e.direction == direction).map(field).sum()
    }
}

/// The statistics of one program while it runs. Clones are the same registry; it is locked when a thread begins to use
/// an endpoint and for a [`snapshot`](Self::snapshot), never while data moves.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    total: EndpointStats,
    live: Vec<Arc<Counters>>,
}

/// One endpoint in a [`Registry`].
#[derive(Debug, Clone)]
pub struct Meter {
    registry: Registry,
    index: usize,
}

impl Registry {
    /// The endpoint's meter. Several listeners that write to one file share that file's.
    pub fn endpoint(&self, endpoint: impl fmt::Display, direction: Direction) -> Meter {
        let endpoint = endpoint.to_string();
        let mut entries = self.lock();
        let same = |entry: &Entry| entry.total.direction == direction && entry.total.endpoint == endpoint;
        if let Some(index) = entries.iter().position(same) {
            return Meter { registry: self.clone(), index };
        }
        let total = EndpointStats {
            endpoint,
            direction,
            datagrams: 0,
            bytes: 0,
            errors: 0,
            dropped: 0,
            denied: 0,
            cut: 0,
            missed: 0,
            missed_bytes: 0,
            gone: 0,
        };
        entries.push(Entry { total, live: Vec::new() });
        Meter { registry: self.clone(), index: entries.len() - 1 }
    }

    /// The statistics so far.
    #[must_use]
    pub fn snapshot(&self) -> Stats {
        let mut entries = self.lock();
        let endpoints = entries.iter_mut().map(|entry| {
            entry.settle();
            let mut sum = entry.total.clone();
            entry.live.iter().for_each(|counters| include(&mut sum, counters));
            sum
        });
        Stats { endpoints: endpoints.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter {
    /// Counters for one more thread that uses the endpoint.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        if let Some(entry) = self.registry.lock().get_mut(self.index) {
            entry.settle();
            entry.live.push(counters.clone());
        }
        counters
    }
}

impl Entry {
    /// Moves the counters of ended threads into the total.
    fn settle(&mut self) {
        let total = &mut self.total;
        self.live.retain(|counters| {
            let live = Arc::strong_count(counters) > 1;
            if !live {
                include(total, counters);
            }
            live
        });
    }
}

fn include(sum: &mut EndpointStats, counters: &Counters) {
    sum.datagrams += counters.datagrams.load(Ordering::Relaxed);
    sum.bytes += counters.bytes.load(Ordering::Relaxed);
    sum.errors += counters.errors.load(Ordering::Relaxed);
    sum.dropped += counters.dropped.load(Ordering::Relaxed);
    sum.denied += counters.denied.load(Ordering::Relaxed);
    sum.cut += counters.cut.load(Ordering::Relaxed);
    sum.missed += counters.missed.load(Ordering::Relaxed);
    sum.missed_bytes += counters.missed_bytes.load(Ordering::Relaxed);
    sum.gone += counters.gone.load(Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_threads_stay_in_the_total_and_hold_no_memory() {
        let registry = Registry::default();
        let meter = registry.endpoint("clients", Direction::Out);
        for _ in 0..3 {
            meter.counters().passed(2, 10);
        }
        let live = meter.counters();
        live.passed(1, 5);
        live.failed(1);
        let stats = registry.snapshot();
        assert_eq!((stats.sent(), stats.endpoints[0].bytes, stats.errors()), (7, 35, 1));
        assert_eq!(registry.lock()[0].live.len(), 1);
    }
}
