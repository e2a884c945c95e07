//! Accepting TCP connections: the listeners of an endpoint and all handshakes, on one thread.

use std::fmt::{self, Display};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::net::allow::Allow;
use crate::net::connect::{set_up_slow_stream, set_up_stream};
use crate::net::listen::BACKLOG;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys::{Events, Interest, PollSet, Registration};
use crate::tcp::connection::Connection;
use crate::tcp::handshakes::{Handshakes, Outcome};
use crate::tcp::label::Label;
use crate::tcp::places::{HandshakePermit, MAX_HANDSHAKES, Permit, Places, Refusal};
use crate::tcp::transport::{EstablishError, Transport};

/// Connections of a listener that are accepted in one turn, so that handshakes go on meanwhile.
const ACCEPTS: i32 = 16;

/// How long no connection is accepted after a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The same after a client was told to give way, which takes a moment.
const GIVE_WAY_PAUSE: Duration = Duration::from_millis(5);

/// A TCP endpoint that accepts connections.
pub struct Acceptor {
    /// What messages call a connection.
    pub label: Label,
    /// Its listeners, which do not block.
    pub listeners: Vec<TcpListener>,
    /// How its connections carry bytes.
    pub transport: Arc<dyn Transport>,
    /// From where connections are accepted.
    pub allow: Allow,
    /// The meter of connections that are refused.
    pub meter: Meter,
    /// The limit of connections.
    pub places: Places,
    /// The places of those clients among which the half-closed give way when there are no descriptors: the program's
    /// outputs.
    pub clients: Places,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// Takes a connection that is ready for data, its peer's address, and its permit, which is to be kept until its end. An
/// error is a lack of resources, and the connection is refused.
pub type Accepted<'a> = dyn FnMut(Box<dyn Connection>, SocketAddr, Permit) -> Result<(), Error> + 'a;

impl Acceptor {
    /// Accepts connections until a stop is requested, and completes their handshakes. The backlog at that time is
    /// accepted, too, where there is no handshake; handshakes under way are dropped.
    ///
    /// Silent and slow peers cost an entry of a table, until their time is up. If there are too many the oldest ones
    /// give way. A lack of descriptors (EMFILE, ENFILE) or memory is waited out.
    ///
    /// # Errors
    /// If the listeners cannot be polled.
    pub fn run(self, stop: &Stop, accepted: &mut Accepted<'_>) -> Result<(), Error> {
        let failed = |error| Error::io("wait for", "TCP connections", error);
        let mut accepting = Accepting::new(self, stop, accepted).map_err(failed)?;
        let mut events = Events::new();
        loop {
            accepting.wait(&mut events).map_err(failed)?;
            if stop.requested() {
                accepting.accept_backlog();
                return Ok(());
            }
            for (key, _) in events.iter() {
                if key < accepting.listeners.len() {
                    accepting.accept(key, ACCEPTS);
                } else if let Some(outcome) = accepting.handshakes.ready(key) {
                    accepting.settle(outcome);
                }
            }
            let now = Instant::now();
            while let Some(outcome) = accepting.handshakes.expire(now) {
                accepting.settle(outcome);
            }
            accepting.resume(now).map_err(failed)?;
        }
    }
}

/// An acceptor while it runs.
struct Accepting<'a, 'b> {
    label: Label,
    transport: Arc<dyn Transport>,
    allow: Allow,
    places: Places,
    clients: Places,
    counters: Arc<Counters>,
    accepted: &'a mut Accepted<'b>,
    set: Arc<PollSet>,
    /// Their keys are their indexes.
    listeners: Vec<Registration<TcpListener>>,
    handshakes: Handshakes,
    failures: log::LogLimiter,
    /// When accepting goes on after a lack of descriptors.
    resume_at: Option<Instant>,
    /// When a client was last told to give way, if no connection could be accepted since.
    gave_way: Option<Instant>,
}

impl<'a, 'b> Accepting<'a, 'b> {
    fn new(acceptor: Acceptor, stop: &Stop, accepted: &'a mut Accepted<'b>) -> io::Result<Self> {
        let set = PollSet::new()?;
        stop.watch_poll_set(&set);
        let mut listeners = Vec::new();
        for (key, listener) in acceptor.listeners.into_iter().enumerate() {
            listeners.push(Registration::new(&Arc::new(listener), &set, key, Interest::READ)?);
        }
        Ok(Self {
            label: acceptor.label,
            transport: acceptor.transport,
            allow: acceptor.allow,
            places: acceptor.places,
            clients: acceptor.clients,
            counters: acceptor.meter.counters(),
            accepted,
            handshakes: Handshakes::new(&set, listeners.len()),
            set,
            listeners,
            failures: log::LogLimiter::default(),
            resume_at: None,
            gave_way: None,
        })
    }

    fn wait(&self, events: &mut Events) -> io::Result<()> {
        let deadline = self.resume_at.into_iter().chain(self.handshakes.deadline()).min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        self.set.wait(events, timeout)
    }

    /// Accepts up to `most` connections of a listener.
    fn accept(&mut self, listener: usize, most: i32) {
        for _ in 0..most {
            match self.listeners[listener].socket().accept() {
                Ok((stream, peer)) => {
                    self.gave_way = None;
                    let set_up = if self.label.is_input() { set_up_stream } else { set_up_slow_stream };
                    match set_up(&stream) {
                        Ok(()) => self.begin(stream, peer),
                        Err(error) => log::info(format_args!("{peer}: gone before it was served: {error}")),
                    }
                }
                Err(error) => {
                    if !is_of_connection(&error) {
                        self.pause(&error);
                    }
                    return;
                }
            }
        }
    }

    /// At a stop: without a handshake, what was connected in time is served.
    fn accept_backlog(&mut self) {
        if !self.label.has_handshake() {
            for listener in 0..self.listeners.len() {
                self.accept(listener, BACKLOG);
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        if !self.allow.permits(peer.ip()) {
            self.counters.denied(1);
            if self.places.permits_log(Refusal::Address) {
                log::info(format_args!("{} {peer} refused: not an allowed address", self.label));
            }
            return;
        }
        let outcome = if self.label.has_handshake() {
            let Some(permit) = self.places.begin_handshake().or_else(|| self.displace()) else {
                return self.refuse_handshake(peer);
            };
            match self.transport.begin(stream) {
                Ok(handshake) => self.handshakes.add(handshake, peer, permit),
                Err(error) => Some(Outcome::Failed(error, peer)),
            }
        } else {
            let begun = self.transport.begin(stream);
            Some(match begun {
                Ok(handshake) => Outcome::Done(handshake.into_connection(), peer),
                Err(error) => Outcome::Failed(error, peer),
            })
        };
        if let Some(outcome) = outcome {
            self.settle(outcome);
        }
    }

    /// Has the oldest handshake give way: a newcomer may be quicker, and whoever keeps the table full with silent
    /// connections shuts nobody out.
    fn displace(&mut self) -> Option<HandshakePermit> {
        let (permit, peer) = self.handshakes.displace()?;
        if let Some(peer) = peer {
            self.refuse_handshake(peer);
        }
        Some(permit)
    }

    /// Hands a connection over that is ready, and logs the failure of one that is not.
    fn settle(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done(connection, peer) => {
                let Some(permit) = self.places.acquire() else {
                    let reason = format!("{} are served already (--max-clients)", self.places.max());
                    return self.refuse(peer, &reason, Refusal::Limit);
                };
                if let Err(error) = (self.accepted)(connection, peer, permit) {
                    self.refuse(peer, &error, Refusal::Resources);
                    // Room for the next one.
                    self.clients.give_way();
                }
            }
            Outcome::Failed(error @ EstablishError::PortProbe, peer) => {
                log::info(format_args!("{} {peer} has gone: {error}", self.label));
            }
            Outcome::Failed(error, peer) => self.refuse(peer, &error, Refusal::Handshake),
        }
    }

    fn refuse_handshake(&self, peer: SocketAddr) {
        let reason = format!("{MAX_HANDSHAKES} others are in their handshakes");
        self.refuse(peer, &reason, Refusal::Limit);
    }

    fn refuse(&self, peer: SocketAddr, reason: &dyn Display, refusal: Refusal) {
        self.counters.failed(1);
        if self.places.permits_log(refusal) {
            log::warn(format_args!("{} {peer} refused: {reason}", self.label));
        }
    }

    /// Accepts nothing for a while, since the system lacks what a connection takes. The half-closed client with the
    /// oldest FIN gives way, if there is one.
    fn pause(&mut self, error: &io::Error) {
        let now = Instant::now();
        let waits = self.gave_way.is_some_and(|since| now.duration_since(since) < PAUSE);
        let pause = if waits {
            GIVE_WAY_PAUSE
        } else if self.clients.give_way() {
            self.gave_way = Some(now);
            GIVE_WAY_PAUSE
        } else {
            if self.failures.permits() {
                log::warn(format_args!("cannot accept a connection: {error}; trying again until it works"));
            }
            PAUSE
        };
        for listener in &mut self.listeners {
            // If this fails, it spins until there are descriptors.
            let _ = listener.set_interest(Interest::NONE);
        }
        self.resume_at = Some(now + pause);
    }

    /// Accepts again after a pause.
    fn resume(&mut self, now: Instant) -> io::Result<()> {
        if self.resume_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.resume_at = None;
        self.listeners.iter_mut().try_for_each(|listener| listener.set_interest(Interest::READ))
    }
}

/// Whether an error of `accept` is the connection's, or there is none to accept, rather than this host's.
/// Windows says ECONNRESET for ECONNABORTED.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::relay::stats::{Direction, Registry};
    use crate::tcp::transport::Plain;

    #[test]
    fn at_a_stop_the_backlog_is_accepted_as_far_as_there_are_places() {
        const BACKLOG: usize = 40;
        const PLACES: usize = 30;
        let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        let (registry, stop, places) = (Registry::default(), Stop::new().unwrap(), Places::new(PLACES));
        let acceptor = Acceptor {
            label: Label::new(false, &Plain),
            listeners,
            transport: Arc::new(Plain),
            allow: Allow::default(),
            meter: registry.endpoint("clients", Direction::Out),
            places: places.clone(),
            clients: places.clone(),
        };
        let peers: Vec<_> = (0..BACKLOG).map(|i| TcpStream::connect(addresses[i % 2]).unwrap()).collect();
        stop.request();
        let mut accepted = Vec::new();
        let take = &mut |connection, peer, permit| {
            accepted.push((connection, peer, permit));
            Ok(())
        };
        acceptor.run(&stop, take).unwrap();
        assert_eq!((accepted.len(), registry.snapshot().errors()), (PLACES, (BACKLOG - PLACES) as u64));
        assert!(places.acquire().is_none());
        for mut peer in peers {
            let is_accepted = accepted.iter().any(|(_, address, _)| *address == peer.local_addr().unwrap());
            peer.set_nonblocking(is_accepted).unwrap();
            let read = peer.read(&mut [0]);
            assert_eq!(read.ok(), (!is_accepted).then_some(0));
        }
        assert!(TcpStream::connect(addresses[0]).is_err(), "it still listens");
        drop(accepted);
        assert!(places.acquire().is_some());
    }
}
