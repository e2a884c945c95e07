//! The fan-out: what its sources receive, to many TCP clients, on one thread.

mod client;
mod clients;
pub(crate) mod handle;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::poll::WRITE_TIMEOUT_AT_STOP;
use crate::io::ring::Ring;
use crate::log;
use crate::net::options::Options;
use crate::relay::batch::{Batch, Cursor};
use crate::relay::flow::{Flow, PollKeys, PolledSource, Source, drain_timeout};
use crate::relay::stats::Meter;
use crate::relay::stop::{POLL_INTERVAL, Stop};
use crate::sys::{Events, PollSet};
use crate::tcp::fan_out::clients::Clients;
use crate::tcp::fan_out::handle::{FanOutHandle, Message, SourceId};
use crate::tcp::label::Label;

/// How often clients are looked at, whether they still take anything.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a source waits for room in the ring while no client takes anything: a second with the last look.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(900);

/// How often it is looked meanwhile whether one does.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A source that hands what its own sources receive to many TCP or TLS clients, and then to the sinks of its relay.
///
/// It owns one ring, which is the only queue, and for each client a cursor into it. Nothing waits for a client: one that
/// has fallen out of the ring goes on at a later datagram, and what it has missed is counted. Only a source that can
/// [pause](PolledSource::pause) waits, while all clients lag and until the ring has room. Sources and clients may come and
/// go while it runs, by way of its [handle](Self::handle); without any source, and after the end of the last, it ends.
///
/// A source of your own is one over another source, to which it passes on how it is waited for. Here everything that a
/// listener receives gets to the clients in capitals:
///
/// ```
/// use std::io::Read;
/// use std::net::{TcpStream, UdpSocket};
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
///
/// use mproxy_core::{
///     Acceptor, Allow, Batch, Direction, Endpoint, Error, FanOut, Flow, Label, Options, Places, Plain, PollKeys,
///     PollSet, PolledSource, Program, Role, Source, UdpSource, listen_tcp,
/// };
///
/// /// Passes datagrams on in capitals.
/// struct Capitals {
///     listener: UdpSource,
///     received: Batch,
/// }
///
/// impl Source for Capitals {
///     fn capacity(&self) -> usize {
///         self.listener.capacity()
///     }
///
///     fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
///         self.received.clear();
///         let flow = self.listener.receive(&mut self.received)?;
///         for datagram in self.received.datagrams() {
///             let area = &mut batch.spare()[..datagram.len()];
///             area.copy_from_slice(datagram);
///             area.make_ascii_uppercase();
///             batch.push(datagram.len());
///         }
///         Ok(flow)
///     }
///
///     fn drain(&mut self) -> bool {
///         self.listener.drain()
///     }
/// }
///
/// impl PolledSource for Capitals {
///     fn poll_with(&mut self, set: &Arc<PollSet>, keys: PollKeys) -> Result<(), Error> {
///         self.listener.poll_with(set, keys)
///     }
///
///     fn ready(&mut self, key: usize) {
///         self.listener.ready(key);
///     }
///
///     fn deadline(&self) -> Option<Instant> {
///         self.listener.deadline()
///     }
///
///     fn pause(&mut self, paused: bool) -> bool {
///         self.listener.pause(paused)
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = Options::new();
/// let input = Endpoint::parse("127.0.0.1:0", Role::UdpListener)?.resolve(&options)?;
/// let output = Endpoint::parse("127.0.0.1:0", Role::TcpListener)?.resolve(&options)?;
///
/// let mut program = Program::new()?;
/// let (registry, stop) = (program.registry().clone(), program.stop().clone());
/// let (transport, received) = (Arc::new(Plain), registry.endpoint(&input, Direction::In));
/// let label = Label::new(false, &*transport);
/// let mut fan_out = FanOut::new(&options, label, &registry.endpoint(&output, Direction::Out), &stop)?;
/// for listener in UdpSource::open(&input, &options, &received, &stop)? {
///     program.receives_with(&listener);
///     let received = Batch::with_capacity(listener.capacity());
///     fan_out.add_source(Box::new(Capitals { listener, received }))?;
/// }
///
/// let listeners = listen_tcp(&output, &options)?;
/// listeners.iter().for_each(|listener| program.listens_on(listener.local_addr()));
/// let places = Places::new(100);
/// let meter = registry.endpoint(&output, Direction::Out);
/// let (allow, clients) = (Allow::default(), places.clone());
/// let acceptor = Acceptor { label, listeners, transport, allow, meter, places, clients };
/// let clients = fan_out.handle();
/// program.thread("accept".to_owned(), Box::new(move || {
///     acceptor.run(&stop, &mut |connection, peer, permit| {
///         clients.add_client(connection, peer, permit);
///         Ok(())
///     })
/// }))?;
/// let clients = fan_out.handle();
/// program.relay("fan-out".to_owned(), Box::new(fan_out), Vec::new())?;
///
/// let handle = program.handle();
/// let [udp, tcp] = handle.local_addrs() else { panic!("two listeners") };
/// let mut client = TcpStream::connect(tcp)?;
/// while clients.clients() == 0 {
///     std::thread::sleep(Duration::from_millis(1));
/// }
/// UdpSocket::bind("127.0.0.1:0")?.send_to(b"hello", udp)?;
/// let mut text = [0; 5];
/// client.read_exact(&mut text)?;
/// assert_eq!(&text, b"HELLO");
///
/// handle.stop();
/// handle.join()?;
/// # Ok(())
/// # }
/// ```
pub struct FanOut {
    set: Arc<PollSet>,
    events: Events,
    sources: Vec<Option<Inlet>>,
    /// The index of the source to receive from first.
    next: usize,
    ring: Ring,
    clients: Clients,
    handle: FanOutHandle,
    stop: Stop,
    stall_timeout: Duration,
    next_check: Instant,
    /// Sources that can wait do, until there is room in the ring.
    paused: bool,
    /// When to look next whether clients that lack room read on.
    next_look: Instant,
    /// No source waits: something else gets the batches, too, and keeps up.
    never_waits: bool,
    draining: bool,
    capacity: usize,
}

/// A source, and whether it is to be received from.
struct Inlet {
    id: SourceId,
    source: Box<dyn PolledSource + Send>,
    is_ready: bool,
    /// It can be had wait.
    can_pause: bool,
    /// It is being removed: until when it may deliver what it has.
    removed_at: Option<Instant>,
}

impl fmt::Debug for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOut").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl FanOut {
    /// A fan-out without sources and clients. Messages call a client by the label.
    ///
    /// # Errors
    /// If the process has run out of descriptors.
    pub fn new(options: &Options, label: Label, meter: &Meter, stop: &Stop) -> Result<Self, Error> {
        let set = PollSet::new().map_err(|error| Error::io("set up", "the clients of an output", error))?;
        stop.watch_poll_set(&set);
        let handle = FanOutHandle::new(set.clone());
        let keys = PollKeys::default();
        Ok(Self {
            events: Events::new(),
            sources: Vec::new(),
            next: 0,
            ring: Ring::new(options.client_buffer, options.framing),
            clients: Clients::new(keys, label, handle.count(), meter.counters(), stop),
            handle,
            stop: stop.clone(),
            stall_timeout: options.stall_timeout,
            next_check: Instant::now(),
            paused: false,
            next_look: Instant::now(),
            never_waits: false,
            draining: false,
            capacity: 0,
            set,
        })
    }

    /// Has no source wait for room in the ring, since the relay has sinks, which keep up: to be called before sources are
    /// added.
    #[must_use]
    pub fn never_wait(mut self) -> Self {
        self.never_waits = true;
        self
    }

    /// Hands clients and sources over while it runs.
    #[must_use]
    pub fn handle(&self) -> FanOutHandle {
        self.handle.clone()
    }

    /// Adds a source, which the [handle](Self::handle) can remove.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn add_source(&mut self, source: Box<dyn PolledSource + Send>) -> Result<SourceId, Error> {
        let id = self.handle.next_source();
        self.add_source_as(id, source).map(|()| id)
    }

    fn add_source_as(&mut self, id: SourceId, mut source: Box<dyn PolledSource + Send>) -> Result<(), Error> {
        let free = self.sources.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.sources.push(None);
            self.sources.len() - 1
        });
        let full = || std::io::Error::from(std::io::ErrorKind::QuotaExceeded);
        let keys = PollKeys::of(index + 1).ok_or_else(|| Error::io("add", "a source", full()))?;
        source.poll_with(&self.set, keys)?;
        self.capacity = self.capacity.max(source.capacity());
        let can_pause = source.pause(false) && !self.never_waits;
        if self.draining {
            source.drain();
        }
        self.sources[index] = Some(Inlet { id, source, is_ready: true, can_pause, removed_at: None });
        Ok(())
    }

    /// Waits until a source or a client is ready, and serves the clients.
    fn wait(&mut self) -> Result<(), Error> {
        let timeout = self.timeout();
        self.set
            .wait(&mut self.events, timeout)
            .map_err(|error| Error::io("wait for", "the clients of an output", error))?;
        self.clients.begin_round();
        for (key, ready) in self.events.iter() {
            match PollKeys::split(key) {
                (0, index) => self.clients.serve(index, ready, &self.ring, &self.handle),
                (owner, _) => {
                    if let Some(Some(inlet)) = self.sources.get_mut(owner - 1) {
                        inlet.source.ready(key);
                        inlet.is_ready = true;
                    }
                }
            }
        }
        if self.clients.need_checks() {
            let now = Instant::now();
            if now >= self.next_check {
                self.clients.check_stalls(now, &self.ring, self.stall_timeout);
                self.next_check = now + CHECK_INTERVAL;
            }
        }
        Ok(())
    }

    /// Takes what was handed over. After a receive: a client that was handed over before a datagram came gets it.
    fn take_messages(&mut self) {
        for message in self.handle.take() {
            match message {
                Message::Client(connection, peer, permit) => {
                    self.clients.add(connection, peer, permit, &self.ring, &self.set);
                }
                Message::Remove(index, id) => self.clients.remove(index, id, &self.ring),
                Message::Source(id, source) => {
                    if let Err(error) = self.add_source_as(id, source) {
                        log::warn(format_args!("{error}"));
                    }
                }
                Message::RemoveSource(id) => {
                    let mut inlets = self.sources.iter_mut().flatten();
                    if let Some(inlet) = inlets.find(|inlet| inlet.id == id && inlet.removed_at.is_none()) {
                        let closed = inlet.source.drain();
                        inlet.removed_at = Some(Instant::now() + drain_timeout(closed));
                    }
                }
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if self.has_ended() {
            let left = self.time_to_finish();
            return Some(if self.clients.are_lagging() { left } else { Duration::ZERO });
        }
        if self.sources.iter().flatten().any(|inlet| self.is_due(inlet)) {
            return Some(Duration::ZERO);
        }
        let deadlines = self.sources.iter().flatten().filter_map(|inlet| inlet.source.deadline());
        let check = self.clients.need_checks().then_some(self.next_check);
        let look = self.paused.then_some(self.next_look);
        let deadline = deadlines.chain(check).chain(look).min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.into_iter().chain(POLL_INTERVAL).min()
    }

    /// Whether to receive from the source now.
    fn is_due(&self, inlet: &Inlet) -> bool {
        (inlet.is_ready || self.draining || inlet.removed_at.is_some()) && !(self.paused && inlet.can_pause)
    }

    /// Has the sources that can wait do so while the clients lack room, and go on as soon as there is some.
    fn pause_or_resume(&mut self) {
        let lacks_room = self.clients.all_lag() && self.clients.would_miss(self.portion(), &self.ring);
        let now = Instant::now();
        if lacks_room && now >= self.next_look {
            self.clients.look_for_progress();
            self.next_look = now + LOOK_INTERVAL;
        }
        let has_time = if self.draining {
            !self.time_to_finish().is_zero()
        } else {
            now.saturating_duration_since(self.clients.progress()) < WAIT_FOR_ROOM
        };
        let pause = lacks_room && has_time;
        if self.paused != pause {
            self.paused = pause;
            for inlet in self.sources.iter_mut().flatten().filter(|inlet| inlet.can_pause) {
                inlet.source.pause(pause);
            }
        }
    }

    /// How many bytes are appended at a time.
    fn portion(&self) -> usize {
        self.ring.capacity() / 4
    }

    /// The index of the source to receive from.
    fn due_source(&mut self) -> Option<usize> {
        let count = self.sources.len();
        let due = (0..count).map(|turn| (self.next + turn) % count).find(|index| {
            self.sources[*index].as_ref().is_some_and(|inlet| {
                self.is_due(inlet) || inlet.source.deadline().is_some_and(|at| Instant::now() >= at)
            })
        })?;
        self.next = due + 1;
        Some(due)
    }

    /// Appends the batch to the ring, and writes it to all that have taken what came before.
    fn hand_out(&mut self, batch: &Batch) {
        let mut from = Cursor::default();
        while !self.clients.is_empty() {
            let (len, to) = self.ring.measure(batch, from, self.portion());
            if from == to {
                return;
            }
            let tail = self.ring.make_room(len);
            self.clients.give_up_before(tail, &self.ring);
            self.ring.append(batch, from, to);
            self.clients.send_new(&self.ring);
            from = to;
        }
    }

    /// Whether all sources have come to their end, and no other one can come.
    fn has_ended(&self) -> bool {
        self.draining && self.sources.iter().all(Option::is_none)
    }

    /// How long the clients that lag may still take what is left after the end.
    fn time_to_finish(&self) -> Duration {
        let since = self.stop.elapsed().unwrap_or_else(|| self.clients.progress().elapsed());
        WRITE_TIMEOUT_AT_STOP.saturating_sub(since)
    }

    /// Whether there is nothing left to do.
    fn finish(&mut self) -> bool {
        if !self.has_ended() || self.clients.are_lagging() && !self.time_to_finish().is_zero() {
            return false;
        }
        self.clients.close(&self.ring);
        true
    }
}

impl Drop for FanOut {
    /// Clients that are left when the time to finish is over are counted, too.
    fn drop(&mut self) {
        self.handle.close();
        self.clients.close(&self.ring);
    }
}

impl Source for FanOut {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        self.pause_or_resume();
        self.wait()?;
        // A source that was added meanwhile may need more than the relay has asked for.
        batch.grow(self.capacity);
        let Some(index) = self.due_source() else {
            self.take_messages();
            return Ok(if self.finish() { Flow::End } else { Flow::More });
        };
        let Some(inlet) = &mut self.sources[index] else { return Ok(Flow::More) };
        inlet.is_ready = false;
        // No more at a time than it was had wait for.
        batch.set_limit(if inlet.can_pause { self.ring.capacity() / 4 } else { usize::MAX });
        let flow = inlet.source.receive(batch)?;
        let is_removed = inlet.removed_at.is_some_and(|at| Instant::now() >= at);
        self.take_messages();
        if !batch.is_empty() {
            self.hand_out(batch);
        }
        if flow == Flow::End || is_removed {
            self.sources[index] = None;
            self.draining |= self.sources.iter().all(Option::is_none);
        }
        Ok(Flow::More)
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        self.sources
            .iter_mut()
            .flatten()
            .map(|inlet| inlet.source.drain())
            .fold(true, std::ops::BitAnd::bitand)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;
    use crate::relay::stats::{Direction, Registry};
    use crate::tcp::connection::Connection;
    use crate::tcp::places::{Permit, Places};
    use crate::tcp::transport::{Plain, Transport};

    /// A source that hands over a client before its only datagram.
    struct Introducing(Option<(Box<dyn Connection>, SocketAddr, Permit)>, FanOutHandle);

    impl Source for Introducing {
        fn capacity(&self) -> usize {
            8
        }

        fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
            if let Some((connection, peer, permit)) = self.0.take() {
                self.1.add_client(connection, peer, permit);
                batch.spare()[..2].copy_from_slice(b"hi");
                batch.push(2);
            }
            Ok(Flow::End)
        }

        fn drain(&mut self) -> bool {
            true
        }
    }

    impl PolledSource for Introducing {
        fn poll_with(&mut self, _: &Arc<PollSet>, _: PollKeys) -> Result<(), Error> {
            Ok(())
        }

        fn ready(&mut self, _: usize) {}

        fn deadline(&self) -> Option<Instant> {
            None
        }

        fn pause(&mut self, _: bool) -> bool {
            false
        }
    }

    #[test]
    fn a_client_gets_what_comes_once_it_is_handed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let connection = Plain.begin(stream).unwrap().into_connection();
        let permit = Places::new(1).acquire().unwrap();
        let meter = Registry::default().endpoint("clients", Direction::Out);
        let label = Label::new(false, &Plain);
        let mut fan_out = FanOut::new(&Options::new(), label, &meter, &Stop::new().unwrap()).unwrap();
        let source = Introducing(Some((connection, peer, permit)), fan_out.handle());
        fan_out.add_source(Box::new(source)).unwrap();
        let mut batch = Batch::with_capacity(fan_out.capacity());
        while fan_out.receive(&mut batch).unwrap() == Flow::More {
            batch.clear();
        }
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"hi");
    }
}
