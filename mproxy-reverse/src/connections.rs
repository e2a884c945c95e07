//! Accepted TCP connections: a thread for each, up to a limit.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mproxy_core::log::{self, LogLimiter};
use mproxy_core::{
    Allow, Connection, Error, EstablishError, Meter, Stop, Task, Transport, accept_each, spawn,
};

/// Handshakes at a time. They have a limit of their own: one that stalls takes no client's place.
const MAX_HANDSHAKES: usize = 1024;

/// A TCP endpoint that accepts connections, and how they are served.
pub(crate) struct Acceptor {
    /// What log messages call a connection.
    pub(crate) label: &'static str,
    /// Connections send data, rather than get it.
    pub(crate) is_input: bool,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) allow: Allow,
    pub(crate) meter: Meter,
    pub(crate) serve: Arc<Serve>,
}

impl Acceptor {
    /// Whether a connection has a handshake, which its peer can hold up.
    fn has_handshake(&self) -> bool {
        cfg!(feature = "tls") && self.transport.has_handshake()
    }
}

/// Makes the task of a connection, which runs until the connection's end.
pub(crate) type Serve = dyn Fn(Box<dyn Connection>, SocketAddr) -> Result<Task, Error> + Send + Sync;

/// The connections of all acceptors that share a limit, and their count.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    max: usize,
    open: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    log: Arc<Mutex<RefusalLog>>,
}

/// A log limiter for each reason of refusals.
#[derive(Debug)]
struct RefusalLog {
    /// The limit of connections or handshakes.
    limit: LogLimiter,
    /// A lack of resources of this host, such as descriptors.
    resources: LogLimiter,
    /// The handshake, each for its own reason.
    handshake: LogLimiter,
    /// The list of allowed addresses.
    allow: LogLimiter,
}

impl Default for RefusalLog {
    fn default() -> Self {
        /// Messages in ten seconds about refusals that peers bring about.
        const BURST: u32 = 10;
        Self {
            limit: LogLimiter::default(),
            resources: LogLimiter::default(),
            handshake: LogLimiter::with_burst(BURST),
            allow: LogLimiter::with_burst(BURST),
        }
    }
}

/// A permit to have a connection, or a handshake; dropped at its end.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn acquire(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
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
        Self { max, open: Arc::default(), handshakes: Arc::default(), log: Arc::default() }
    }

    /// Accepts connections until a stop is requested, then waits for their threads.
    pub(crate) fn accept(&self, acceptor: &Arc<Acceptor>, stop: &Stop) -> Result<(), Error> {
        let mut threads = Vec::new();
        let counters = acceptor.meter.counters();
        accept_each(&acceptor.listeners, stop, |stream, peer| {
            threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
            if !acceptor.allow.permits(peer.ip()) {
                counters.denied(1);
                if self.permits_log(|log| &mut log.allow) {
                    log::info(format_args!("{} {peer} refused: not an allowed address", acceptor.label));
                }
                return;
            }
            let handshake = acceptor.has_handshake();
            let permit = if handshake {
                Permit::acquire(&self.handshakes, MAX_HANDSHAKES)
            } else {
                Permit::acquire(&self.open, self.max)
            };
            let Some(permit) = permit else {
                return if handshake {
                    let reason = format!("{MAX_HANDSHAKES} others are in their handshakes");
                    self.refuse(acceptor, peer, &reason, |log| &mut log.limit);
                } else {
                    self.refuse_at_limit(acceptor, peer);
                };
            };
            let (this, shared, stop) = (self.clone(), acceptor.clone(), stop.clone());
            let run: Box<dyn FnOnce() + Send> = if handshake {
                Box::new(move || {
                    if let Some((task, permit)) = this.prepare(&shared, stream, peer, permit, &stop) {
                        run(&shared, peer, task, permit, &stop);
                    }
                })
            } else {
                // Without a handshake it is prepared here, so that its permit and descriptors are taken
                // before the next connection is accepted.
                let prepared = self.prepare(acceptor, stream, peer, permit, &stop);
                let Some((task, permit)) = prepared else { return };
                Box::new(move || run(&shared, peer, task, permit, &stop))
            };
            match spawn(peer.to_string(), run) {
                Ok(thread) => threads.push(thread),
                Err(error) => self.refuse_for_resources(acceptor, peer, &error),
            }
        })?;
        for thread in threads {
            // A panic has printed its own message.
            let _ = thread.join();
        }
        Ok(())
    }

    /// Establishes a connection and makes its task; none if it is refused.
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
            Err(error @ EstablishError::PortProbe) => {
                log::info(format_args!("{} {peer} has gone: {error}", acceptor.label));
                return None;
            }
            Err(error) => {
                self.refuse(acceptor, peer, &error, |log| &mut log.handshake);
                return None;
            }
        };
        if acceptor.has_handshake() {
            let Some(connection_permit) = Permit::acquire(&self.open, self.max) else {
                self.refuse_at_limit(acceptor, peer);
                return None;
            };
            permit = connection_permit;
        }
        match serve(connection, peer) {
            Ok(task) => Some((task, permit)),
            Err(error) => {
                self.refuse_for_resources(acceptor, peer, &error);
                None
            }
        }
    }

    fn refuse_at_limit(&self, acceptor: &Acceptor, peer: SocketAddr) {
        let reason = format!("{} are served already (--max-clients)", self.max);
        self.refuse(acceptor, peer, &reason, |log| &mut log.limit);
    }

    fn refuse_for_resources(&self, acceptor: &Acceptor, peer: SocketAddr, error: &Error) {
        self.refuse(acceptor, peer, error, |log| &mut log.resources);
    }

    fn refuse(
        &self,
        acceptor: &Acceptor,
        peer: SocketAddr,
        reason: &dyn Display,
        limiter: fn(&mut RefusalLog) -> &mut LogLimiter,
    ) {
        acceptor.meter.counters().failed(1);
        if self.permits_log(limiter) {
            log::warn(format_args!("{} {peer} refused: {reason}", acceptor.label));
        }
    }

    fn permits_log(&self, limiter: fn(&mut RefusalLog) -> &mut LogLimiter) -> bool {
        limiter(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner)).permits()
    }
}

/// Runs a connection's task.
fn run(acceptor: &Acceptor, peer: SocketAddr, task: Task, permit: Permit, stop: &Stop) {
    let label = acceptor.label;
    log::info(format_args!("{label} {peer} connected"));
    let ended = task();
    drop(permit);
    match ended {
        Ok(()) => log::info(format_args!("{label} {peer} has ended")),
        Err(error) if error.kind() == ErrorKind::TimedOut && !stop.requested() => {
            log::warn(format_args!("{label} {peer} dropped: {error}"));
        }
        // Without a close_notify its data may be cut off.
        Err(error) if acceptor.is_input && acceptor.has_handshake() => {
            log::warn(format_args!("{label} {peer} has gone: {error}"));
        }
        Err(error) => log::info(format_args!("{label} {peer} has gone: {error}")),
    }
}
