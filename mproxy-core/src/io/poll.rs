//! Waiting until a descriptor is ready, for a time, or until a stop is requested.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::relay::stop::{POLL_INTERVAL, Stop};
use crate::sys;

/// The write timeout at a stop: how long a reader that has stalled still holds it up.
pub(crate) const WRITE_TIMEOUT_AT_STOP: Duration = Duration::from_millis(300);

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The descriptor is ready, has an error, or was hung up: a read or write will not block.
    Ready,
    /// The timeout is over.
    TimedOut,
    /// A stop was requested.
    Stopped,
}

/// A byte stream to read from that can be waited for.
pub trait Input {
    /// Reads some bytes into the area; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` and `Interrupted` are tried again; another one ends the stream.
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize>;

    /// Waits until a read will not block, until the timeout is over, or until a stop is requested.
    ///
    /// # Errors
    /// If it cannot be waited for.
    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait>;

    /// Whether a read never waits for a writer, so that there is no need to wait before it.
    fn never_blocks(&self) -> bool {
        false
    }

    /// From now on a read gives bytes that have already arrived, and `WouldBlock` after them. False if none are to
    /// be read any more.
    fn begin_drain(&self) -> bool;
}

impl<I: Input + ?Sized> Input for Box<I> {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        (**self).read(area)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        (**self).wait(timeout, stop)
    }

    fn never_blocks(&self) -> bool {
        (**self).never_blocks()
    }

    fn begin_drain(&self) -> bool {
        (**self).begin_drain()
    }
}

impl Input for Arc<TcpStream> {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &**self, area)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        wait(&mut [PollFd::new(&**self, PollFlags::IN)], timeout, stop)
    }

    fn begin_drain(&self) -> bool {
        self.set_nonblocking(true).is_ok()
    }
}

/// Polls until one of the descriptors is ready, and leaves the events in them.
///
/// Once a stop was requested this returns [`Wait::Stopped`] at once.
pub(crate) fn wait<'a>(
    fds: &mut [PollFd<'a>],
    timeout: Option<Duration>,
    stop: &'a Stop,
) -> io::Result<Wait> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        if stop.requested() {
            return Ok(Wait::Stopped);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = match stop.poll_fd() {
            Some(stop) => poll_with(stop, fds, left)?,
            None => poll_for(fds, left.into_iter().chain(POLL_INTERVAL).min())?,
        };
        if ready {
            return Ok(if stop.requested() { Wait::Stopped } else { Wait::Ready });
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Wait::TimedOut);
        }
    }
}

/// Polls the descriptors and one more.
fn poll_with<'a>(other: PollFd<'a>, fds: &mut [PollFd<'a>], timeout: Option<Duration>) -> io::Result<bool> {
    let mut set = fds.to_vec();
    set.push(other);
    let ready = poll_for(&mut set, timeout)?;
    fds.clone_from_slice(&set[..fds.len()]);
    Ok(ready)
}

/// Polls without regard to a stop request: for writes that may still take a moment after one.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    sys::poll(fds, timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_poll_set_times_out() {
        let stop = Stop::new().unwrap();
        let (begin, time) = (Instant::now(), Duration::from_millis(30));
        assert_eq!(wait(&mut [], Some(time), &stop).unwrap(), Wait::TimedOut);
        assert!(begin.elapsed() >= time);
        assert!(!poll_for(&mut [], Some(Duration::ZERO)).unwrap());
        stop.request();
        assert_eq!(wait(&mut [], None, &stop).unwrap(), Wait::Stopped);
    }
}
