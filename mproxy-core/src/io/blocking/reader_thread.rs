//! Reading what cannot be waited for: on Windows, anything but sockets.

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::poll::Input;
use crate::io::poll::{Wait, WaitResult};
use crate::relay::limits::{MAX_DATAGRAM, READ};
use crate::relay::stop::POLL_INTERVAL;
use crate::relay::stop::Stop;

/// An input with a thread of its own, which is blocked in the reads, and reads no more than once ahead: so what
/// has been read can be waited for, as on systems that poll any descriptor.
///
/// A read that never comes back holds up its thread and the file that is read, and nothing else.
#[derive(Debug)]
pub(crate) struct ReaderThread {
    shared: Arc<Shared>,
    never_blocks: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What one read gave, ...
    bytes: Box<[u8]>,
    /// ... and what of it is there still: from here, ...
    start: usize,
    /// ... up to here.
    end: usize,
    /// The last read gave this: the end of the file, or why it cannot be read.
    over: Option<io::Result<()>>,
    /// Nothing will be there unless the system comes back with it.
    blocked: bool,
    /// No read is begun any more.
    held: bool,
}

impl ReaderThread {
    /// Begins to read. Each read is of whole datagrams of that size. A file on a disk `never_blocks`: the rest
    /// of a line is only as far away as the disk.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub(crate) fn new(
        input: impl Read + Send + 'static,
        never_blocks: bool,
        size: usize,
    ) -> Result<Self, Error> {
        let size = size.clamp(1, MAX_DATAGRAM);
        let area = || vec![0; READ / size * size].into_boxed_slice();
        let state = State { bytes: area(), start: 0, end: 0, over: None, blocked: true, held: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (reader, spare) = (shared.clone(), area());
        crate::relay::thread::spawn("input".to_owned(), Box::new(move || reader.run(input, spare)))?;
        Ok(Self { shared, never_blocks })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn run(&self, mut input: impl Read, mut area: Box<[u8]>) {
        loop {
            let read = input.read(&mut area);
            if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
                continue;
            }
            let mut state = self.lock();
            state.blocked = false;
            while !state.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let more = match read {
                Ok(len @ 1..) => {
                    std::mem::swap(&mut state.bytes, &mut area);
                    (state.start, state.end) = (0, len);
                    !state.held
                }
                end => {
                    state.over = Some(end.map(drop));
                    false
                }
            };
            state.blocked = true;
            drop(state);
            self.changed.notify_all();
            if !more {
                return;
            }
        }
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn is_ready(&self) -> bool {
        !self.is_empty() || self.over.is_some()
    }
}

impl Input for ReaderThread {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        while !state.is_ready() {
            if state.blocked && state.held {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_empty() {
            return match &mut state.over {
                Some(Err(error)) => Err(std::mem::replace(error, error.kind().into())),
                _ => Ok(0),
            };
        }
        let there = &state.bytes[state.start..state.end];
        let len = there.len().min(area.len());
        area[..len].copy_from_slice(&there[..len]);
        state.start += len;
        if state.is_empty() {
            self.shared.changed.notify_all();
        }
        Ok(len)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<WaitResult> {
        let deadline = timeout.filter(|_| !self.never_blocks).map(|timeout| Instant::now() + timeout);
        let mut state = self.shared.lock();
        loop {
            if stop.requested() {
                return Ok(WaitResult(Wait::Stopped));
            }
            if state.is_ready() {
                return Ok(WaitResult(Wait::Ready));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(WaitResult(Wait::TimedOut));
            }
            let time = left.into_iter().chain(POLL_INTERVAL).min().unwrap_or(Duration::from_secs(1));
            state = self.shared.wait(state, time);
        }
    }

    /// What has been read is all there is.
    fn hold(&self) -> bool {
        self.shared.lock().held = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(30));

    fn wait(input: &ReaderThread, timeout: Option<Duration>, stop: &Stop) -> Wait {
        input.wait(timeout, stop).unwrap().0
    }

    #[test]
    fn what_has_been_read_is_waited_for_like_what_is_polled() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut input = ReaderThread::new(reader, false, 3).unwrap();
        let stop = Stop::new().unwrap();
        let mut area = [0; 8];
        assert_eq!(wait(&input, Some(Duration::from_millis(1)), &stop), Wait::TimedOut);
        writer.write_all(b"one").unwrap();
        assert_eq!(wait(&input, LONG, &stop), Wait::Ready);
        assert_eq!(input.read(&mut area[..2]).unwrap(), 2);
        assert_eq!(wait(&input, LONG, &stop), Wait::Ready);
        assert_eq!(input.read(&mut area[2..]).unwrap(), 1);
        assert_eq!(&area[..3], b"one");
        assert_eq!(wait(&input, Some(Duration::from_millis(1)), &stop), Wait::TimedOut);
        drop(writer);
        for _ in 0..2 {
            assert_eq!(wait(&input, LONG, &stop), Wait::Ready);
            assert_eq!(input.read(&mut area).unwrap(), 0);
        }
        stop.request();
        assert_eq!(wait(&input, LONG, &stop), Wait::Stopped);
    }

    #[test]
    fn after_a_stop_all_that_was_read_comes_and_then_nothing() {
        /// Each byte by itself, as often as it is asked for, and then none for ever.
        struct Bytes(std::sync::mpsc::Receiver<u8>);
        impl Read for Bytes {
            fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
                area[0] = self.0.recv().map_err(io::Error::other)?;
                Ok(1)
            }
        }
        let (sender, bytes) = std::sync::mpsc::channel();
        let mut input = ReaderThread::new(Bytes(bytes), false, 1).unwrap();
        let stop = Stop::new().unwrap();
        for byte in b"abc" {
            sender.send(*byte).unwrap();
        }
        let mut area = [0; 8];
        assert_eq!(wait(&input, LONG, &stop), Wait::Ready);
        assert_eq!(input.read(&mut area).unwrap(), 1);
        assert_eq!(wait(&input, LONG, &stop), Wait::Ready);
        assert!(input.hold());
        let mut drained = Vec::new();
        loop {
            match input.read(&mut area) {
                Ok(len) => drained.extend_from_slice(&area[..len]),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        // The one that was there, and the one that may have been read ahead.
        assert!(drained == b"b" || drained == b"bc", "{drained:?}");
    }

    #[test]
    fn a_failure_comes_after_what_was_read_before_it() {
        struct Fails(bool);
        impl Read for Fails {
            fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                area[0] = b'x';
                Ok(1)
            }
        }
        let mut input = ReaderThread::new(Fails(false), true, 1).unwrap();
        assert_eq!(input.read(&mut [0; 8]).unwrap(), 1);
        assert_eq!(input.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
