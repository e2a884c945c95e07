//! TCP connections that are accepted: each is served on a thread of its own, so many at a time.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mproxy_core::{Error, Stop, Task, accept_each, report, spawn};

/// How many connections there may be, and are, at all listeners that share the limit.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    what: &'static str,
    max: usize,
    open: Arc<AtomicUsize>,
}

/// Held by the thread of a connection while it lasts.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connections {
    /// At most `max` connections, which messages call `what`.
    pub(crate) fn new(what: &'static str, max: usize) -> Self {
        Self { what, max, open: Arc::default() }
    }

    fn slot(&self) -> Option<Slot> {
        let others = self.open.fetch_add(1, Ordering::SeqCst);
        let slot = Slot(self.open.clone());
        (others < self.max).then_some(slot)
    }

    /// Accepts connections until a stop is requested, then waits for their threads. `serve` prepares
    /// the service of one, and what it returns runs on the connection's thread.
    pub(crate) fn accept(
        &self,
        listeners: &[TcpListener],
        stop: &Stop,
        serve: &dyn Fn(TcpStream, SocketAddr) -> Result<Task, Error>,
    ) -> Result<(), Error> {
        let (what, max) = (self.what, self.max);
        let mut threads = Vec::new();
        let (mut full, mut failing) = (report::Seldom::default(), report::Seldom::default());
        accept_each(listeners, stop, |stream, peer| {
            threads.retain(|thread: &std::thread::JoinHandle<()>| !thread.is_finished());
            let Some(slot) = self.slot() else {
                if full.now() {
                    report::warn(format_args!(
                        "{what} {peer} refused: {max} are served already (--max-clients)"
                    ));
                }
                return;
            };
            let served = serve(stream, peer).and_then(|run| {
                let stop = stop.clone();
                let run = move || {
                    let _slot = slot;
                    report::info(format_args!("{what} {peer} connected"));
                    match run() {
                        Ok(()) => report::info(format_args!("{what} {peer} has ended")),
                        Err(error) if error.kind() == ErrorKind::TimedOut && !stop.requested() => {
                            report::warn(format_args!("{what} {peer} dropped: {error}"));
                        }
                        Err(error) => report::info(format_args!("{what} {peer} has gone: {error}")),
                    }
                };
                spawn(peer.to_string(), Box::new(run))
            });
            match served {
                Ok(thread) => threads.push(thread),
                Err(error) if failing.now() => {
                    report::warn(format_args!("{what} {peer} cannot be served: {error}"));
                }
                Err(_) => {}
            }
        })?;
        for thread in threads {
            // Its panic would have been reported by the panic itself.
            let _ = thread.join();
        }
        Ok(())
    }
}
