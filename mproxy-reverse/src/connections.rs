//! TCP connections that are accepted: each is served on a thread of its own, so many at a time.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mproxy_core::log::{self, LogLimiter};
use mproxy_core::{Allow, Connection, Error, Meter, Stop, Task, Transport, accept_each, spawn};

/// Handshakes at a time: one that never ends takes no client's place.
const MAX_HANDSHAKES: usize = 1024;

/// Where connections come in, and which.
pub(crate) struct Acceptor {
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

impl Acceptor {
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
    told: Arc<Mutex<RefusalLog>>,
}

/// Which refusals were told of lately.
#[derive(Debug)]
struct RefusalLog {
    full: LogLimiter,
    /// This host lacks something.
    lacking: LogLimiter,
    /// The peer is not let in, each for its own reason.
    peers: LogLimiter,
    /// The address is not allowed: nothing is asked of the peer.
    denied: LogLimiter,
}

impl Default for RefusalLog {
    fn default() -> Self {
        /// Refusals that peers bring about, in ten seconds.
        const BURST: u32 = 10;
        Self {
            full: LogLimiter::default(),
            lacking: LogLimiter::default(),
            peers: LogLimiter::with_burst(BURST),
            denied: LogLimiter::with_burst(BURST),
        }
    }
}

/// Held by the thread of a connection while it lasts.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn of(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let others = count.fetch_add(1, Ordering::SeqCst);
        let permit = Self(count.clone());
        (others < max).then_some(permit)
    }
}

impl Drop for Permit {
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
    pub(crate) fn accept(&self, acceptor: &Arc<Acceptor>, stop: &Stop) -> Result<(), Error> {
        let mut threads = Vec::new();
        let counters = acceptor.meter.counters();
        accept_each(&acceptor.listeners, stop, |stream, peer| {
            threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
            if !acceptor.allow.permits(peer.ip()) {
                counters.denied(1);
                if self.may_tell(|told| told.denied.permits()) {
                    log::info(format_args!("{} {peer} refused: not an allowed address", acceptor.what));
                }
                return;
            }
            let handshake = acceptor.has_handshake();
            let permit = if handshake {
                Permit::of(&self.handshakes, MAX_HANDSHAKES)
            } else {
                Permit::of(&self.open, self.max)
            };
            let Some(permit) = permit else {
                return if handshake {
                    let why = format_args!("{MAX_HANDSHAKES} others are in their handshakes");
                    self.refuse(acceptor, peer, &why, |told| told.full.permits());
                } else {
                    self.full(acceptor, peer);
                };
            };
            let (this, through, stop) = (self.clone(), acceptor.clone(), stop.clone());
            let run: Box<dyn FnOnce() + Send> = if handshake {
                Box::new(move || {
                    if let Some((task, permit)) = this.prepare(&through, stream, peer, permit, &stop) {
                        run(&through, peer, task, permit, &stop);
                    }
                })
            } else {
                // Nothing to wait for: what this connection takes is known before the next is accepted.
                let prepared = self.prepare(acceptor, stream, peer, permit, &stop);
                let Some((task, permit)) = prepared else { return };
                Box::new(move || run(&through, peer, task, permit, &stop))
            };
            match spawn(peer.to_string(), run) {
                Ok(thread) => threads.push(thread),
                Err(error) => self.lacking(acceptor, peer, &error),
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
        acceptor: &Acceptor,
        stream: TcpStream,
        peer: SocketAddr,
        mut permit: Permit,
        stop: &Stop,
    ) -> Option<(Task, Permit)> {
        let Acceptor { transport, serve, .. } = acceptor;
        let connection = match transport.establish(stream, stop) {
            Ok(connection) => connection,
            Err(_) if stop.requested() => return None,
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                log::info(format_args!("{} {peer} has gone: {error}", acceptor.what));
                return None;
            }
            Err(error) => {
                self.refuse(acceptor, peer, &error, |told| told.peers.permits());
                return None;
            }
        };
        if acceptor.has_handshake() {
            let Some(own) = Permit::of(&self.open, self.max) else {
                self.full(acceptor, peer);
                return None;
            };
            permit = own;
        }
        match serve(connection, peer) {
            Ok(task) => Some((task, permit)),
            Err(error) => {
                self.lacking(acceptor, peer, &error);
                None
            }
        }
    }

    fn full(&self, acceptor: &Acceptor, peer: SocketAddr) {
        let why = format_args!("{} are served already (--max-clients)", self.max);
        self.refuse(acceptor, peer, &why, |told| told.full.permits());
    }

    fn lacking(&self, acceptor: &Acceptor, peer: SocketAddr, what: &Error) {
        self.refuse(acceptor, peer, what, |told| told.lacking.permits());
    }

    fn refuse(
        &self,
        acceptor: &Acceptor,
        peer: SocketAddr,
        why: &dyn Display,
        told: fn(&mut RefusalLog) -> bool,
    ) {
        acceptor.meter.counters().failed(1);
        if self.may_tell(told) {
            log::warn(format_args!("{} {peer} refused: {why}", acceptor.what));
        }
    }

    fn may_tell(&self, told: fn(&mut RefusalLog) -> bool) -> bool {
        told(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves a connection to its end.
fn run(acceptor: &Acceptor, peer: SocketAddr, task: Task, permit: Permit, stop: &Stop) {
    let what = acceptor.what;
    log::info(format_args!("{what} {peer} connected"));
    let ended = task();
    drop(permit);
    match ended {
        Ok(()) => log::info(format_args!("{what} {peer} has ended")),
        Err(error) if error.kind() == ErrorKind::TimedOut && !stop.requested() => {
            log::warn(format_args!("{what} {peer} dropped: {error}"));
        }
        // Without the goodbye of TLS some of what it sent may be missing.
        Err(error) if acceptor.inward && acceptor.has_handshake() => {
            log::warn(format_args!("{what} {peer} has gone: {error}"));
        }
        Err(error) => log::info(format_args!("{what} {peer} has gone: {error}")),
    }
}
