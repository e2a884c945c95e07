//! A running program: its threads, how to stop it, and what became of it.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::net::resolve::Resolved;
use crate::program::monitor::RouteMonitor;
use crate::relay::flow::{Sinks, Source, relay};
use crate::relay::stats::{Registry, Stats};
use crate::relay::stop::Stop;
use crate::relay::thread::{Task, spawn};
use crate::tcp::tls::Reload;
use crate::udp::source::UdpSource;
use crate::udp::target::UdpTarget;

/// The grace period of a stop, in which the threads deliver what their sockets hold.
const GRACE: Duration = Duration::from_millis(850);

/// A program that is being put together: its threads start one by one. Dropped without a
/// [handle](Self::handle), it goes on with those.
pub struct Program {
    stop: Stop,
    threads: Arc<Threads>,
    registry: Registry,
    addresses: Vec<SocketAddr>,
    reloads: Vec<Reload>,
    monitor: RouteMonitor,
}

/// The threads of a program, as they come to their ends.
#[derive(Debug, Default)]
struct Threads {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    failure: Option<Error>,
    /// When a join stops waiting for the threads that still run; set by a stop.
    deadline: Option<Instant>,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, stop: &Stop) {
        self.lock().deadline.get_or_insert_with(|| Instant::now() + GRACE);
        stop.request();
        self.changed.notify_all();
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Program {
    /// A program without threads.
    ///
    /// # Errors
    /// If the process has run out of descriptors.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            stop: Stop::new()?,
            threads: Arc::default(),
            registry: Registry::default(),
            addresses: Vec::new(),
            reloads: Vec::new(),
            monitor: RouteMonitor::default(),
        })
    }

    /// Adds a function that reads certificates again.
    pub fn reloads_with(&mut self, reload: Reload) {
        self.reloads.push(reload);
    }

    /// The stop request that [`Handle::stop`] makes.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// The registry in which its endpoints count.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds an address that the program listens on.
    pub fn listens_on(&mut self, address: std::io::Result<SocketAddr>) {
        self.addresses.extend(address);
    }

    /// Adds the address of a UDP listener, once for all of its threads.
    pub fn receives_with(&mut self, source: &UdpSource) {
        if source.is_first_at_address() {
            self.listens_on(source.local_addr());
        }
        if let Some(routes) = source.routes() {
            self.monitor.listener(routes);
        }
    }

    /// Adds a target: its route table is refreshed, and its name resolved again, in the background.
    pub fn sends_to(&mut self, target: &UdpTarget) {
        self.monitor.target(target.routes(), target.options().resolve_interval);
    }

    /// Adds listeners that no target may come back to when its name gets another address.
    pub fn avoids(&mut self, listeners: &[Resolved]) {
        self.monitor.avoid(listeners);
    }

    /// Starts a thread. When one fails, all are stopped.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn thread(&self, name: String, run: Task) -> Result<(), Error> {
        self.threads.lock().running += 1;
        let mut end = End { threads: self.threads.clone(), stop: self.stop.clone(), result: None };
        let run = move || {
            let end = &mut end;
            end.result = Some(run());
        };
        // If it cannot start, the end of the closure counts as the end of the thread.
        spawn(name, Box::new(run)).map(drop)
    }

    /// Starts a thread that relays from the source to the sinks until the program is stopped.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn relay(
        &self,
        name: String,
        mut source: Box<dyn Source + Send>,
        mut sinks: Sinks,
    ) -> Result<(), Error> {
        let stop = self.stop.clone();
        self.thread(name, Box::new(move || relay(&mut *source, &mut sinks, &stop)))
    }

    /// The handle of the program as it runs now.
    #[must_use]
    pub fn handle(mut self) -> Handle {
        if let Err(error) = std::mem::take(&mut self.monitor).start(&self.stop) {
            crate::log::warn(format_args!("{error}: changes of names and interfaces go unnoticed"));
        }
        Handle(self)
    }
}

/// Records the end of a thread, however it ends.
struct End {
    threads: Arc<Threads>,
    stop: Stop,
    result: Option<Result<(), Error>>,
}

impl Drop for End {
    fn drop(&mut self) {
        let panicked = || Err(Error::io("go on with", "a thread", std::io::Error::other("it panicked")));
        let result = self.result.take().unwrap_or_else(panicked);
        let failed = result.is_err();
        {
            let mut state = self.threads.lock();
            state.running -= 1;
            match result {
                Err(error) if !error.is_stdout_closed() => {
                    state.failure.get_or_insert(error);
                }
                _ => {}
            }
        }
        if failed {
            self.threads.stop(&self.stop);
        }
        self.threads.changed.notify_all();
    }
}

/// A running program. Dropping it leaves the program running by itself.
pub struct Handle(Program);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("local_addrs", &self.0.addresses).finish_non_exhaustive()
    }
}

impl Handle {
    /// Asks the program to stop: listeners close, what their sockets hold is delivered, files are
    /// complete. [`join`](Self::join) waits for that.
    pub fn stop(&self) {
        self.0.threads.stop(&self.0.stop);
    }

    /// Reads all certificates again, for the connections to come. Without this they are read again when a
    /// file has changed by the next connection. If one cannot be used there is a warning, and what was read
    /// before stays.
    pub fn reload(&self) {
        for reload in &self.0.reloads {
            reload();
        }
    }

    /// The functions that read certificates again.
    pub(crate) fn reloads(&self) -> &[Reload] {
        &self.0.reloads
    }

    /// A handle that only stops the program, from any thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.0.stop.clone(), threads: self.0.threads.clone() }
    }

    /// Waits until the program ends: at the end of its input, by a stop, or by a failure. After a stop
    /// this takes less than a second: a thread that some peer still holds up is then left behind.
    ///
    /// # Errors
    /// The first failure that ended the program.
    pub fn join(self) -> Result<Stats, Error> {
        let Program { threads, registry, .. } = self.0;
        let mut state = threads.lock();
        while state.running > 0 {
            let left = state.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            // A stop wakes this; an hour is as good as for ever.
            let left = left.unwrap_or(Duration::from_secs(3600));
            state = threads.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        match state.failure.take() {
            Some(error) => Err(error),
            None => Ok(registry.snapshot()),
        }
    }

    /// What passed each endpoint so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.registry.snapshot()
    }

    /// The addresses that the program listens on, with the ports that the system chose where port 0 was
    /// asked for, in the order of the endpoints.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// Lets the program run by itself, as the functions of mproxy 0.1.8 did: a failure to start, or a
    /// later one, is said on stderr.
    #[must_use]
    pub fn detach(started: Result<Self, Error>) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            if let Err(error) = started.and_then(Self::join) {
                crate::log::say(&error);
            }
        })
    }
}

/// Stops a program from any thread.
#[derive(Clone)]
pub struct Stopper {
    stop: Stop,
    threads: Arc<Threads>,
}

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopper").field("requested", &self.stop.requested()).finish_non_exhaustive()
    }
}

impl Stopper {
    /// See [`Handle::stop`].
    pub fn stop(&self) {
        self.threads.stop(&self.stop);
    }
}
