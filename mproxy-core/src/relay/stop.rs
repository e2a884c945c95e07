//! Stopping: one request that every thread of a program hears, whatever it is waiting for.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::PollFd;

use crate::error::Error;
use crate::sys::{self, PollSet, StopPipe};

/// How often a wait looks for a stop request where nothing can interrupt it.
pub(crate) const POLL_INTERVAL: Option<Duration> =
    if sys::SHUTDOWN_WAKES_READERS { None } else { Some(Duration::from_millis(200)) };

/// A request to stop, shared by the threads it concerns. Clones stand for the same request.
#[derive(Debug, Clone)]
pub struct Stop(Arc<State>);

#[derive(Debug)]
struct State {
    requested: AtomicBool,
    when: OnceLock<Instant>,
    /// Sockets whose blocked readers must be woken. Weak: a socket closes when its thread ends.
    sockets: Mutex<Vec<Weak<UdpSocket>>>,
    /// Poll sets whose waits must end.
    poll_sets: Mutex<Vec<Weak<PollSet>>>,
    sleepers: Condvar,
    pipe: StopPipe,
}

impl Stop {
    /// A request that has not been made yet.
    ///
    /// # Errors
    /// If the process has run out of descriptors.
    pub fn new() -> Result<Self, Error> {
        Ok(Self(Arc::new(State {
            requested: AtomicBool::new(false),
            when: OnceLock::new(),
            sockets: Mutex::default(),
            poll_sets: Mutex::default(),
            sleepers: Condvar::new(),
            pipe: StopPipe::new().map_err(|e| Error::io("create", "a pipe", e))?,
        })))
    }

    /// Makes the request; more than once is the same as once.
    pub fn request(&self) {
        let state = &*self.0;
        let mut sockets = self.lock();
        state.when.get_or_init(Instant::now);
        if state.requested.swap(true, Ordering::SeqCst) {
            return;
        }
        state.pipe.request();
        for socket in sockets.drain(..).filter_map(|weak| weak.upgrade()) {
            wake(&socket);
        }
        state.sleepers.notify_all();
        for set in self.lock_poll_sets().drain(..).filter_map(|weak| weak.upgrade()) {
            set.wake();
        }
    }

    /// Whether the request was made.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.requested.load(Ordering::Relaxed)
    }

    /// How long ago the request was made.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.when.get().map(Instant::elapsed)
    }

    /// Sleeps, but wakes at the request.
    pub fn sleep(&self, duration: Duration) {
        // A wait may end late, a sleep does not.
        if duration < sys::SHORTEST_WAIT {
            if !self.requested() {
                std::thread::sleep(duration);
            }
            return;
        }
        let end = Instant::now() + duration;
        let mut guard = self.lock();
        while !self.requested() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            guard = match self.0.sleepers.wait_timeout(guard, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Has the reader of this socket woken at the request; at once if it was made already.
    pub(crate) fn watch(&self, socket: &Arc<UdpSocket>) {
        let mut sockets = self.lock();
        if self.requested() {
            wake(socket);
        } else {
            sockets.retain(|weak| weak.strong_count() > 0);
            sockets.push(Arc::downgrade(socket));
        }
    }

    /// Ends the wait for this poll set at the request; the next one if it was made already.
    pub(crate) fn watch_poll_set(&self, set: &Arc<PollSet>) {
        let mut sets = self.lock_poll_sets();
        if self.requested() {
            set.wake();
        } else {
            sets.retain(|weak| weak.strong_count() > 0);
            sets.push(Arc::downgrade(set));
        }
    }

    /// What becomes readable at the request, for a poll set; none where the system polls only sockets.
    pub(crate) fn poll_fd(&self) -> Option<PollFd<'_>> {
        self.0.pipe.poll_fd()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<UdpSocket>>> {
        self.0.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_poll_sets(&self) -> MutexGuard<'_, Vec<Weak<PollSet>>> {
        self.0.poll_sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shuts the socket down for reading: a blocked `recv` returns at once, and none blocks from then on; datagrams in the
/// receive buffer can still be read. Elsewhere the receive time-out (`SO_RCVTIMEO`) ends it: see [`POLL_INTERVAL`].
fn wake(socket: &UdpSocket) {
    if sys::SHUTDOWN_WAKES_READERS {
        let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Read);
    }
}

/// Requests a stop when the last clone of an [`Arc`] around it is dropped: how the end of all inputs
/// lets the outputs finish. The last datagrams on their way through the kernel get a moment to arrive.
#[derive(Debug)]
pub struct StopOnDrop(pub Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // On a busy host the kernel delivers on loopback not in the send itself but a little later.
        std::thread::sleep(Duration::from_millis(100));
        self.0.request();
    }
}
