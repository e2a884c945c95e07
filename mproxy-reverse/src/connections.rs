//! TCP connections that are accepted: each is served on a thread of its own, so many at a time.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mproxy_core::report::{self, Few};
use mproxy_core::{Allow, Connection, Error, Meter, Stop, Task, Transport, accept_each, spawn};

/// Handshakes at a time: one that never ends takes no client's place.
const MAX_HANDSHAKES: usize = 1024;

/// Where connections come in, and which.
pub(crate) struct Entrance {
    /// What messages call a connection.
    pub(crate) what: &'static str,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) allow: Allow,
    pub(crate) meter: Meter,
    pub(crate) serve: Arc<Serve>,
}

/// Prepares the service of a connection; what it returns runs until the connection's end.
pub(crate) type Serve = dyn Fn(Box<dyn Connection>, SocketAddr) -> Result<Task, Error> + Send + Sync;

/// How many connections there may be, and are, at all listeners that share the limit.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    max: usize,
    open: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    refusals: Arc<Mutex<Few>>,
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
        Self { max, open: Arc::default(), handshakes: Arc::default(), refusals: Arc::default() }
    }

    /// Accepts connections until a stop is requested, then waits for their threads.
    pub(crate) fn accept(&self, entrance: &Arc<Entrance>, stop: &Stop) -> Result<(), Error> {
        let mut threads = Vec::new();
        let counters = entrance.meter.counters();
        accept_each(&entrance.listeners, stop, |stream, peer| {
            threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
            if !entrance.allow.permits(peer.ip()) {
                counters.denied(1);
                if self.may_tell() {
                    report::info(format_args!("{} {peer} refused: not an allowed address", entrance.what));
                }
                return;
            }
            let slot = if entrance.transport.has_handshake() {
                Slot::of(&self.handshakes, MAX_HANDSHAKES)
            } else {
                Slot::of(&self.open, self.max)
            };
            let Some(slot) = slot else { return self.refuse(entrance, peer, &self.full()) };
            let (this, through, stop) = (self.clone(), entrance.clone(), stop.clone());
            let run = move || this.serve(&through, stream, peer, slot, &stop);
            match spawn(peer.to_string(), Box::new(run)) {
                Ok(thread) => threads.push(thread),
                Err(error) => self.refuse(entrance, peer, &error.to_string()),
            }
        })?;
        for thread in threads {
            // Its panic would have been reported by the panic itself.
            let _ = thread.join();
        }
        Ok(())
    }

    /// Serves a connection to its end.
    fn serve(&self, entrance: &Entrance, stream: TcpStream, peer: SocketAddr, mut slot: Slot, stop: &Stop) {
        let Entrance { what, transport, .. } = entrance;
        let connection = match transport.establish(stream, stop) {
            Ok(connection) => connection,
            Err(_) if stop.requested() => return,
            Err(error) => return self.refuse(entrance, peer, &error.to_string()),
        };
        if transport.has_handshake() {
            let Some(own) = Slot::of(&self.open, self.max) else {
                return self.refuse(entrance, peer, &self.full());
            };
            slot = own;
        }
        let run = match (entrance.serve)(connection, peer) {
            Ok(run) => run,
            Err(error) => return self.refuse(entrance, peer, &error.to_string()),
        };
        report::info(format_args!("{what} {peer} connected"));
        let ended = run();
        drop(slot);
        match ended {
            Ok(()) => report::info(format_args!("{what} {peer} has ended")),
            Err(error) if error.kind() == ErrorKind::TimedOut && !stop.requested() => {
                report::warn(format_args!("{what} {peer} dropped: {error}"));
            }
            Err(error) => report::info(format_args!("{what} {peer} has gone: {error}")),
        }
    }

    fn full(&self) -> String {
        format!("{} are served already (--max-clients)", self.max)
    }

    fn refuse(&self, entrance: &Entrance, peer: SocketAddr, why: &str) {
        entrance.meter.counters().failed(1);
        if self.may_tell() {
            report::warn(format_args!("{} {peer} refused: {why}", entrance.what));
        }
    }

    fn may_tell(&self) -> bool {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).now()
    }
}
