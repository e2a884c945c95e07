//! A running program: its threads, how to stop it, and what became of it.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Registry, Sinks, Source, Stats, Stop, relay};

/// How long a stopped program is waited for: what it still holds must be delivered in this time.
const GRACE: Duration = Duration::from_millis(850);

/// Stack of a relay thread. It needs little; only the pages that it touches count.
const STACK: usize = 256 * 1024;

/// A program that is being put together: its threads start one by one.
#[derive(Debug)]
pub struct Program {
    stop: Stop,
    events: (Sender<Event>, Receiver<Event>),
    threads: usize,
    registry: Registry,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
enum Event {
    Stopping,
    Ended(Result<(), Error>),
}

impl Program {
    /// A program without threads.
    ///
    /// # Errors
    /// If the process has run out of descriptors.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            stop: Stop::new()?,
            events: channel(),
            threads: 0,
            registry: Registry::default(),
            addresses: Vec::new(),
        })
    }

    /// The stop request that [`Handle::stop`] makes.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Where its endpoints count.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds an address that the program listens on.
    pub fn listens_on(&mut self, address: std::io::Result<SocketAddr>) {
        self.addresses.extend(address);
    }

    /// Starts a thread. When one fails, all are stopped.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn thread(
        &mut self,
        name: impl Into<String>,
        run: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let mut report = Report { events: self.events.0.clone(), result: None };
        let run = move || {
            let report = &mut report;
            report.result = Some(run());
        };
        spawn(name, run)?;
        self.threads += 1;
        Ok(())
    }

    /// Starts a thread that relays from the source to the sinks until the program is stopped.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn relay(
        &mut self,
        name: impl Into<String>,
        mut source: impl Source + Send + 'static,
        mut sinks: Sinks,
    ) -> Result<(), Error> {
        let stop = self.stop.clone();
        self.thread(name, move || relay(&mut source, &mut sinks, &stop))
    }

    /// The handle of the program as it runs now.
    #[must_use]
    pub fn handle(self) -> Handle {
        Handle(self)
    }
}

/// Starts a thread with a small stack.
///
/// # Errors
/// If the system has no room for it.
pub fn spawn(
    name: impl Into<String>,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
    thread.spawn(run).map_err(|error| Error::io("start", "a thread", error))
}

/// Tells the end of a thread, however it ends.
struct Report {
    events: Sender<Event>,
    result: Option<Result<(), Error>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let panicked = || Err(Error::io("go on with", "a thread", std::io::Error::other("it panicked")));
        // Nobody listens once the handle was dropped.
        let _ = self.events.send(Event::Ended(self.result.take().unwrap_or_else(panicked)));
    }
}

/// A running program. Dropping it leaves the program running by itself.
#[derive(Debug)]
pub struct Handle(Program);

impl Handle {
    /// Asks the program to stop: listeners close, what their sockets hold is delivered, files are
    /// complete. [`join`](Self::join) waits for that.
    pub fn stop(&self) {
        self.stopper().stop();
    }

    /// What can stop the program from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.0.stop.clone(), events: self.0.events.0.clone() }
    }

    /// Waits until the program ends: at the end of its input, by a stop, or by a failure. After a stop
    /// this takes less than a second: a thread that some peer still holds up is then left behind.
    ///
    /// # Errors
    /// The first failure that ended the program.
    pub fn join(self) -> Result<Stats, Error> {
        let Program { stop, events: (_keep, events), threads, registry, .. } = self.0;
        let mut running = threads;
        let mut outcome = Ok(());
        let mut deadline = None;
        while running > 0 {
            let event = match deadline {
                None => events.recv().ok(),
                Some(deadline) => events.recv_timeout(Instant::saturating_duration_since(&deadline, Instant::now())).ok(),
            };
            match event {
                None => break,
                Some(Event::Stopping) => {
                    deadline.get_or_insert_with(|| Instant::now() + GRACE);
                }
                Some(Event::Ended(result)) => {
                    running -= 1;
                    if let Err(error) = result {
                        stop.request();
                        deadline.get_or_insert_with(|| Instant::now() + GRACE);
                        if outcome.is_ok() && !error.is_stdout_closed() {
                            outcome = Err(error);
                        }
                    }
                }
            }
        }
        outcome.map(|()| registry.snapshot())
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
    pub fn detach(started: Result<Self, Error>) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            if let Err(error) = started.and_then(Self::join) {
                crate::command::say(&error);
            }
        })
    }
}

/// Stops a program from any thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    stop: Stop,
    events: Sender<Event>,
}

impl Stopper {
    /// See [`Handle::stop`].
    pub fn stop(&self) {
        self.stop.request();
        let _ = self.events.send(Event::Stopping);
    }
}
