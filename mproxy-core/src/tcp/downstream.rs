//! The fan-in: the TCP connections of an input endpoint as one source, read on one thread.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::deframer::Deframer;
use crate::io::framing::Framing;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, PollKeys, PolledSource, Source};
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys::{Events, Interest, PollSet, Registration};
use crate::tcp::connection::Connection;
use crate::tcp::transport::Transport;

/// The bytes within a linger that make full sends: half of what the smallest receive window lets in.
const FULL: usize = 32_768;

/// How long a drain waits at a time for those that may still add a connection.
const DRAIN_WAIT: Duration = Duration::from_millis(50);

/// All connections of a TCP or TLS input endpoint, which are [added](FanInHandle::add) while it runs.
///
/// In each round every connection that has something to read gets one turn, of one read. What one connection sends
/// stays in order, and no datagram has bytes of two. A connection costs memory only for an unfinished datagram. Its end,
/// and its errors, end nothing but itself. Without connections the source waits for the first; after a stop request it
/// ends when all that had arrived is read and no [handle](Self::handle) is left.
pub struct FanIn {
    /// What log messages call a connection.
    label: &'static str,
    is_tls: bool,
    framing: Framing,
    size: usize,
    /// The connections by their index in the poll set, and the indices that are free.
    connections: Vec<Option<Box<InputConnection>>>,
    free: Vec<usize>,
    /// The connections that are to have a turn, each once.
    ready: VecDeque<usize>,
    /// When unfinished datagrams go, the earliest first, as the timeout is the same for all. An entry is void once the
    /// connection has another deadline.
    deadlines: VecDeque<(Instant, usize)>,
    inbox: Arc<Inbox>,
    poll: Option<Poll>,
    rounds_without_wait: u8,
    paused: bool,
    /// How long what comes waits for more, and until when it does now.
    linger: Duration,
    linger_until: Option<Instant>,
    /// What was taken within the present period of the linger's length, and whether a full send was within the last.
    period: Period,
    draining: bool,
    stop: Stop,
    counters: Arc<Counters>,
}

/// How many rounds in a row go without a look at the poll set, whose wait costs several system calls, while connections
/// are to have another turn anyway.
const ROUNDS_WITHOUT_WAIT: u8 = 3;

/// A period of the linger's length: its end, what was taken since it began, and whether the one before made full sends.
#[derive(Debug, Default)]
struct Period {
    end: Option<Instant>,
    bytes: usize,
    is_busy: bool,
}

/// Where a fan-in's sockets are waited for.
struct Poll {
    set: Arc<PollSet>,
    keys: PollKeys,
    /// The events, if the set is the fan-in's own, so that it waits by itself.
    events: Option<Events>,
}

/// One connection, and its framing state.
struct InputConnection {
    /// None while a pause holds up the connection, and after its end.
    registration: Option<Registration<TcpStream>>,
    connection: Box<dyn Connection>,
    peer: SocketAddr,
    deframer: Deframer,
    /// When an unfinished datagram goes, unless further bytes come.
    flush_at: Option<Instant>,
    /// It is in the queue of those that are to have a turn.
    is_ready: bool,
    end: Option<End>,
    /// Dropped after the connection: a permit.
    keep_alive: Box<dyn Any + Send>,
}

/// How a connection ended.
enum End {
    /// The end of the stream, or of a drain.
    Clean,
    Failed(io::Error),
}

/// Connections on their way from the threads that accept them.
#[derive(Debug, Default)]
struct Inbox(Mutex<InboxState>);

#[derive(Default)]
struct InboxState {
    arrivals: Vec<Arrival>,
    handles: usize,
    /// What the fan-in waits for; none before its first wait.
    set: Option<Arc<PollSet>>,
    /// The fan-in has ended.
    closed: bool,
}

struct Arrival {
    connection: Box<dyn Connection>,
    peer: SocketAddr,
    keep_alive: Box<dyn Any + Send>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for InboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrivals = self.arrivals.len();
        f.debug_struct("InboxState").field("arrivals", &arrivals).finish_non_exhaustive()
    }
}

/// Adds connections to a [`FanIn`], from any thread.
#[derive(Debug)]
pub struct FanInHandle(Arc<Inbox>);

impl FanInHandle {
    /// Adds a connection, which is read from now on. `keep_alive` is dropped after it has been closed.
    pub fn add(&self, connection: Box<dyn Connection>, peer: SocketAddr, keep_alive: Box<dyn Any + Send>) {
        let mut inbox = self.0.lock();
        if !inbox.closed {
            inbox.arrivals.push(Arrival { connection, peer, keep_alive });
            inbox.wake();
        }
    }
}

impl Clone for FanInHandle {
    fn clone(&self) -> Self {
        self.0.lock().handles += 1;
        Self(self.0.clone())
    }
}

impl Drop for FanInHandle {
    fn drop(&mut self) {
        let mut inbox = self.0.lock();
        inbox.handles -= 1;
        inbox.wake();
    }
}

impl InboxState {
    fn wake(&self) {
        if let Some(set) = &self.set {
            set.wake();
        }
    }
}

impl fmt::Debug for FanIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanIn")
            .field("label", &self.label)
            .field("connections", &(self.connections.len() - self.free.len()))
            .finish_non_exhaustive()
    }
}

impl FanIn {
    /// A source without connections, whose datagrams have at most `size` bytes. `transport` is what connections have been
    /// established with.
    #[must_use]
    pub fn new(transport: &dyn Transport, framing: Framing, size: usize, meter: &Meter, stop: &Stop) -> Self {
        let is_tls = cfg!(feature = "tls") && transport.has_handshake();
        Self {
            label: if is_tls { "TLS input" } else { "TCP input" },
            is_tls,
            framing,
            size,
            connections: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            deadlines: VecDeque::new(),
            inbox: Arc::default(),
            poll: None,
            rounds_without_wait: 0,
            paused: false,
            linger: Duration::ZERO,
            linger_until: None,
            period: Period::default(),
            draining: false,
            stop: stop.clone(),
            counters: meter.counters(),
        }
    }

    /// The same, and what comes waits that long for more to go with it, as long as the connections keep up.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// A handle to add connections with. After a stop request the source ends once all handles are dropped.
    #[must_use]
    pub fn handle(&self) -> FanInHandle {
        self.inbox.lock().handles += 1;
        FanInHandle(self.inbox.clone())
    }

    fn connection(&mut self, index: usize) -> Option<&mut InputConnection> {
        self.connections.get_mut(index)?.as_deref_mut()
    }

    /// Whether there is anything to do that no socket tells.
    fn has_work(&self) -> bool {
        let inbox = self.inbox.lock();
        !inbox.arrivals.is_empty() || !self.is_held() && !self.ready.is_empty() || self.is_drained(&inbox)
    }

    /// Whether nothing is to be read now: what shows ready is taken out of the poll set.
    fn is_held(&self) -> bool {
        self.paused || self.linger_until.is_some()
    }

    /// Whether what shows ready now is to wait for more. Not at a rate that makes full sends anyway: while nothing is
    /// read, the receive window would hold up the peers.
    fn is_linger_due(&mut self) -> bool {
        if self.linger.is_zero() || self.draining || !self.ready.is_empty() {
            return false;
        }
        let now = Instant::now();
        if self.period.end.is_none_or(|end| now >= end) {
            let is_busy = self.period.bytes >= FULL;
            self.period = Period { end: Some(now + self.linger), bytes: 0, is_busy };
        }
        !self.period.is_busy && self.period.bytes < FULL
    }

    /// Has those wait for their turns again that were held, unless something still holds them.
    fn release(&mut self) {
        if self.is_held() {
            return;
        }
        for index in self.ready.clone() {
            if self.connection(index).is_some_and(|it| it.registration.is_none()) {
                self.register(index);
            }
        }
    }

    fn is_drained(&self, inbox: &InboxState) -> bool {
        self.draining && inbox.handles == 0 && self.connections.len() == self.free.len()
    }

    /// Waits for connections, and for something to read from them.
    fn wait(&mut self) -> io::Result<()> {
        if self.poll.is_none() {
            let set = PollSet::new()?;
            self.stop.watch_poll_set(&set);
            self.set_poll(Poll { set, keys: PollKeys::default(), events: Some(Events::new()) });
        }
        if !self.ready.is_empty() && self.rounds_without_wait < ROUNDS_WITHOUT_WAIT {
            self.rounds_without_wait += 1;
            return Ok(());
        }
        self.rounds_without_wait = 0;
        let deadline = self.deadline();
        let Some(Poll { set, events, .. }) = &mut self.poll else { return Ok(()) };
        let Some(mut events) = events.take() else { return Ok(()) };
        let set = set.clone();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = timeout.into_iter().chain(self.draining.then_some(DRAIN_WAIT)).min();
        let mut waited = set.wait(&mut events, timeout);
        if waited.is_ok() && events.iter().next().is_some() && self.is_linger_due() {
            // The set is its own, and nothing else is to be waited for.
            self.stop.sleep(self.linger);
            waited = set.wait(&mut events, Some(Duration::ZERO));
        }
        if waited.is_ok() {
            for (key, _) in events.iter() {
                self.give_turn(PollKeys::split(key).1);
            }
        }
        if let Some(poll) = &mut self.poll {
            poll.events = Some(events);
        }
        waited
    }

    /// Has the sockets waited for elsewhere.
    fn set_poll(&mut self, poll: Poll) {
        self.inbox.lock().set = Some(poll.set.clone());
        self.poll = Some(poll);
        for index in 0..self.connections.len() {
            if let Some(connection) = self.connection(index) {
                connection.registration = None;
                self.register(index);
            }
        }
    }

    /// Adds the connection's socket to the poll set.
    fn register(&mut self, index: usize) {
        let Some(Poll { set, keys, .. }) = &self.poll else { return };
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        if connection.end.is_some() {
            return;
        }
        match Registration::new(connection.connection.socket(), set, keys.key(index), Interest::READ) {
            Ok(registration) => connection.registration = Some(registration),
            Err(error) => {
                self.counters.failed(1);
                connection.end = Some(End::Failed(error));
                self.give_turn(index);
            }
        }
    }

    /// Takes the connections in that have been added.
    fn take_arrivals(&mut self) {
        let arrivals = std::mem::take(&mut self.inbox.lock().arrivals);
        for Arrival { connection, peer, keep_alive } in arrivals {
            log::info(format_args!("{} {peer} connected", self.label));
            // Bytes that came with the handshake.
            let has_input = connection.has_pending_input();
            let index = self.free.pop().unwrap_or(self.connections.len());
            let connection = Some(Box::new(InputConnection {
                registration: None,
                connection,
                peer,
                deframer: Deframer::new(self.framing, self.size),
                flush_at: None,
                is_ready: false,
                end: None,
                keep_alive,
            }));
            match self.connections.get_mut(index) {
                Some(place) => *place = connection,
                None => self.connections.push(connection),
            }
            self.register(index);
            if self.draining {
                self.drain_connection(index);
            } else if has_input {
                self.give_turn(index);
            }
        }
    }

    fn give_turn(&mut self, index: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(index)
            && !std::mem::replace(&mut connection.is_ready, true)
        {
            self.ready.push_back(index);
        }
    }

    /// A turn for each connection whose flush timeout is over: it reads once more first.
    fn expire(&mut self) {
        if self.deadlines.is_empty() || self.is_held() {
            return;
        }
        let now = Instant::now();
        while let Some((deadline, index)) = self.next_deadline()
            && deadline <= now
        {
            self.deadlines.pop_front();
            self.give_turn(index);
        }
    }

    /// The earliest deadline, once those before it that are void are removed.
    fn next_deadline(&mut self) -> Option<(Instant, usize)> {
        loop {
            let (deadline, index) = *self.deadlines.front()?;
            if self.connection(index).is_some_and(|it| it.flush_at == Some(deadline)) {
                return Some((deadline, index));
            }
            self.deadlines.pop_front();
        }
    }

    /// One turn for each connection that is ready, as long as the batch has room.
    fn round(&mut self, batch: &mut Batch) {
        if self.is_held() {
            return;
        }
        let limit = batch.limit();
        let mut taken = 0;
        for _ in 0..self.ready.len() {
            if taken >= limit || batch.spare().len() < Deframer::TURN {
                return;
            }
            let Some(index) = self.ready.pop_front() else { return };
            let before = batch.spare().len();
            if self.turn(index, batch, limit - taken) {
                self.give_turn(index);
            }
            taken += before - batch.spare().len();
            self.period.bytes = self.period.bytes.saturating_add(before - batch.spare().len());
        }
    }

    /// One read of a connection, or its close. Whether it needs another turn, though its socket may not become ready.
    fn turn(&mut self, index: usize, batch: &mut Batch, limit: usize) -> bool {
        let Some(Some(it)) = self.connections.get_mut(index) else { return false };
        it.is_ready = false;
        if it.end.is_some() && it.deframer.is_empty() {
            self.close(index);
            return false;
        }
        let (mut read, mut flush, mut again) = (0, false, self.draining);
        if it.end.is_none() && !it.deframer.has_datagram() {
            let room = it.deframer.room(batch, limit);
            match it.connection.read(room) {
                Ok(0) => it.end = Some(End::Clean),
                Ok(len) => {
                    read = len;
                    // There is more, or it costs one read in vain.
                    again |= len == room.len();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock if self.draining => it.end = Some(End::Clean),
                    io::ErrorKind::WouldBlock => flush = it.flush_at.is_some_and(|at| at <= Instant::now()),
                    io::ErrorKind::Interrupted => again = true,
                    _ => it.end = Some(End::Failed(error)),
                },
            }
        }
        flush |= it.end.is_some();
        it.deframer.cut(batch, read, flush, limit, &it.peer, &self.counters);
        if it.end.is_some() {
            // The end would be told as long as it waits for its turns.
            it.registration = None;
            it.deframer.discard_partial_frame(self.draining, &it.peer, &self.counters);
            return true;
        }
        if it.deframer.is_empty() {
            it.flush_at = None;
        } else if read > 0
            && let Some(timeout) = self.framing.flush_timeout()
        {
            let deadline = Instant::now() + timeout;
            it.flush_at = Some(deadline);
            self.deadlines.push_back((deadline, index));
        }
        again || it.deframer.has_datagram() || it.connection.has_pending_input()
    }

    /// Closes a connection that has ended.
    fn close(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::take) else { return };
        self.free.push(index);
        let InputConnection { registration, connection, peer, end, keep_alive, .. } = *connection;
        drop(registration);
        drop(connection);
        drop(keep_alive);
        let label = self.label;
        let Some(End::Failed(error)) = end else {
            log::info(format_args!("{label} {peer} has ended"));
            return;
        };
        let is_timeout = error.kind() == io::ErrorKind::TimedOut;
        let error = Error::io("read", peer, error);
        if is_timeout && !self.stop.requested() {
            log::warn(format_args!("{label} {peer} dropped: {error}"));
        } else if self.is_tls {
            // Without a close_notify its data may be cut off.
            log::warn(format_args!("{label} {peer} has gone: {error}"));
        } else {
            log::info(format_args!("{label} {peer} has gone: {error}"));
        }
    }

    /// Reads from the connection until nothing more has arrived.
    fn drain_connection(&mut self, index: usize) {
        if let Some(connection) = self.connection(index) {
            if !connection.connection.begin_drain() {
                connection.end.get_or_insert(End::Clean);
            }
            self.give_turn(index);
        }
    }
}

impl Source for FanIn {
    fn capacity(&self) -> usize {
        Deframer::CAPACITY
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        self.wait().map_err(|error| Error::io("wait for", "TCP connections", error))?;
        self.take_arrivals();
        if self.linger_until.is_some_and(|until| self.draining || until <= Instant::now()) {
            self.linger_until = None;
            self.release();
        }
        self.expire();
        self.round(batch);
        self.next_deadline();
        if !batch.is_empty() {
            self.counters.passed(batch.count(), batch.bytes());
        }
        Ok(if self.is_drained(&self.inbox.lock()) { Flow::End } else { Flow::More })
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        for index in 0..self.connections.len() {
            self.drain_connection(index);
        }
        false
    }
}

impl PolledSource for FanIn {
    fn poll_with(&mut self, set: &Arc<PollSet>, keys: PollKeys) -> Result<(), Error> {
        self.set_poll(Poll { set: set.clone(), keys, events: None });
        Ok(())
    }

    fn ready(&mut self, key: usize) {
        let (_, index) = PollKeys::split(key);
        if !self.is_held() && self.is_linger_due() {
            self.linger_until = Some(Instant::now() + self.linger);
        }
        if self.is_held()
            && let Some(connection) = self.connection(index)
        {
            // Out of the poll set: without any interest its failure would be told again and again.
            connection.registration = None;
        }
        self.give_turn(index);
    }

    fn deadline(&self) -> Option<Instant> {
        if self.has_work() {
            return Some(Instant::now());
        }
        let flush = self.deadlines.front().map(|(deadline, _)| *deadline);
        self.linger_until.or(flush).filter(|_| !self.paused)
    }

    fn pause(&mut self, paused: bool) -> bool {
        if std::mem::replace(&mut self.paused, paused) {
            self.release();
        }
        true
    }
}

impl Drop for FanIn {
    fn drop(&mut self) {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        let arrivals = std::mem::take(&mut inbox.arrivals);
        drop(inbox);
        drop(arrivals);
        for index in 0..self.connections.len() {
            self.close(index);
        }
    }
}
