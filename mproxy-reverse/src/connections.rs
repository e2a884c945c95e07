//! TCP connections that are accepted: each is served on a thread of its own, so many at a time.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mproxy_core::log::{self, Few, Seldom};
use mproxy_core::{Allow, Connection, Error, Meter, Stop, Task, Transport, accept_each, spawn};

/// Handshakes at a time: one that never ends takes no client's place.
const MAX_HANDSHAKES: usize = 1024;

/// Where connections come in, and which.
pub(crate) struct Entrance {
    /// What messages call a connection.
    pub(crate) what: &'static str,
    /// Connections send data, rather than get it.
    pub(crate) inward: bool,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) allow: Allow,
    pub(crate) meter: Meter,
    pub(crate) serve: Arc<Serve>,
}

impl Entrance {
    /// Whether a connection has to be waited for after it was accepted.
    fn has_handshake(&self) -> bool {
        cfg!(feature = "tls") && self.transport.has_handshake()
    }
}

/// Prepares the service of a connection; what it returns runs until the connection's end.
pub(crate) type Serve = dyn Fn(Box<dyn Connection>, SocketAddr) -> Result<Task, Error> + Send + Sync;

/// How many connections there may be, and are, at all listeners that share the limit.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    max: usize,
    open: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    told: Arc<Mutex<Told>>,
}

/// Which refusals were told of lately.
#[derive(Debug, Default)]
struct Told {
    full: Seldom,
    /// This host lacks something.
    lacking: Seldom,
    /// The peer is not let in, each for its own reason.
    peers: Few,
    /// The peer is not asked at all.
    denied: Few,
}

/// Held by the thread of a connection while it lasts.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn of(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let others = count.fetch_add(1, Ordering::SeqCst);
        let slot = Self(count.clone());
        (others < max).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connections {
    /// At most `max` connections.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, open: Arc::default(), handshakes: Arc::default(), told: Arc::default() }
    }

    /// Accepts connections until a stop is requested, then waits for their threads.
    pub(crate) fn accept(&self, entrance: &Arc<Entrance>, stop: &Stop) -> Result<(), Error> {
        let mut threads = Vec::new();
        let counters = entrance.meter.counters();
        accept_each(&entrance.listeners, stop, |stream, peer| {
            threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
            if !entrance.allow.permits(peer.ip()) {
                counters.denied(1);
                if self.may_tell(|told| told.denied.now()) {
                    log::info(format_args!("{} {peer} refused: not an allowed address", entrance.what));
                }
                return;
            }
            let handshake = entrance.has_handshake();
            let slot = if handshake {
                Slot::of(&self.handshakes, MAX_HANDSHAKES)
            } else {
                Slot::of(&self.open, self.max)
            };
            let Some(slot) = slot else {
                return if handshake {
                    let why = format_args!("{MAX_HANDSHAKES} others are in their handshakes");
                    self.refuse(entrance, peer, &why, |told| told.full.now());
                } else {
                    self.full(entrance, peer);
                };
            };
            let (this, through, stop) = (self.clone(), entrance.clone(), stop.clone());
            let run: Box<dyn FnOnce() + Send> = if handshake {
                Box::new(move || {
                    if let Some((task, slot)) = this.prepare(&through, stream, peer, slot, &stop) {
                        run(&through, peer, task, slot, &stop);
                    }
                })
            } else {
                // Nothing to wait for: what this connection takes is known before the next is accepted.
                let prepared = self.prepare(entrance, stream, peer, slot, &stop);
                let Some((task, slot)) = prepared else { return };
                Box::new(move || run(&through, peer, task, slot, &stop))
            };
            match spawn(peer.to_string(), run) {
                Ok(thread) => threads.push(thread),
                Err(error) => self.lacking(entrance, peer, &error),
            }
        })?;
        for thread in threads {
            // Its panic would have been reported by the panic itself.
            let _ = thread.join();
        }
        Ok(())
    }

    /// Makes a connection ready to be served; none if it is refused.
    fn prepare(
        &self,
        entrance: &Entrance,
        stream: TcpStream,
        peer: SocketAddr,
        mut slot: Slot,
        stop: &Stop,
    ) -> Option<(Task, Slot)> {
        let Entrance { transport, serve, .. } = entrance;
        let connection = match transport.establish(stream, stop) {
            Ok(connection) => connection,
            Err(_) if stop.requested() => return None,
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                log::info(format_args!("{} {peer} has gone: {error}", entrance.what));
                return None;
            }
            Err(error) => {
                self.refuse(entrance, peer, &error, |told| told.peers.now());
                return None;
            }
        };
        if entrance.has_handshake() {
            let Some(own) = Slot::of(&self.open, self.max) else {
                self.full(entrance, peer);
                return None;
            };
            slot = own;
        }
        match serve(connection, peer) {
            Ok(task) => Some((task, slot)),
            Err(error) => {
                self.lacking(entrance, peer, &error);
                None
            }
        }
    }

    fn full(&self, entrance: &Entrance, peer: SocketAddr) {
        let why = format_args!("{} are served already (--max-clients)", self.max);
        self.refuse(entrance, peer, &why, |told| told.full.now());
    }

    fn lacking(&self, entrance: &Entrance, peer: SocketAddr, what: &Error) {
        self.refuse(entrance, peer, what, |told| told.lacking.now());
    }

    fn refuse(&self, entrance: &Entrance, peer: SocketAddr, why: &dyn Display, told: fn(&mut Told) -> bool) {
        entrance.meter.counters().failed(1);
        if self.may_tell(told) {
            log::warn(format_args!("{} {peer} refused: {why}", entrance.what));
        }
    }

    fn may_tell(&self, told: fn(&mut Told) -> bool) -> bool {
        told(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves a connection to its end.
fn run(entrance: &Entrance, peer: SocketAddr, task: Task, slot: Slot, stop: &Stop) {
    let what = entrance.what;
    log::info(format_args!("{what} {peer} connected"));
    let ended = task();
    drop(slot);
    match ended {
        Ok(()) => log::info(format_args!("{what} {peer} has ended")),
        Err(error) if error.kind() == ErrorKind::TimedOut && !stop.requested() => {
            log::warn(format_args!("{what} {peer} dropped: {error}"));
        }
        // Without the goodbye of TLS some of what it sent may be missing.
        Err(error) if entrance.inward && entrance.has_handshake() => {
            log::warn(format_args!("{what} {peer} has gone: {error}"));
        }
        Err(error) => log::info(format_args!("{what} {peer} has gone: {error}")),
    }
}
