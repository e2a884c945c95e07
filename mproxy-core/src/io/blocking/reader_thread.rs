//! A thread that blocks in reads: on Windows, of anything but sockets.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::poll::{Input, Wait};
use crate::relay::limits::{MAX_DATAGRAM, READ};
use crate::relay::stop::{POLL_INTERVAL, Stop};
use crate::relay::thread;

/// An input with a thread of its own, which blocks in the reads, and reads ahead once at most: its bytes can be waited
/// for, as on systems that poll any descriptor.
///
/// A read that never returns holds up its thread and keeps its file open, and nothing else.
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
    /// The bytes of one read, ...
    bytes: Box<[u8]>,
    /// ... and which of them are still to be taken.
    unread: Range<usize>,
    /// The end of the file, or the error of the last read.
    end: Option<io::Result<()>>,
    /// The thread is in a read.
    reading: bool,
    /// No further read is begun.
    draining: bool,
}

impl ReaderThread {
    /// Starts to read, whole datagrams of `size` bytes in each read. An input that `never_blocks` is a file on a disk:
    /// the end of an unfinished line is waited for without a timeout.
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
        let state = State { bytes: area(), unread: 0..0, end: None, reading: true, draining: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (reader, spare) = (shared.clone(), area());
        thread::spawn("input".to_owned(), Box::new(move || reader.run(input, spare)))?;
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
            state.reading = false;
            while !state.unread.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let more = match read {
                Ok(len @ 1..) => {
                    std::mem::swap(&mut state.bytes, &mut area);
                    state.unread = 0..len;
                    !state.draining
                }
                end => {
                    state.end = Some(end.map(drop));
                    false
                }
            };
            state.reading = true;
            drop(state);
            self.changed.notify_all();
            if !more {
                return;
            }
        }
    }
}

impl State {
    fn is_ready(&self) -> bool {
        !self.unread.is_empty() || self.end.is_some()
    }
}

impl Input for ReaderThread {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        while !state.is_ready() {
            if state.reading && state.draining {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.unread.is_empty() {
            return match &mut state.end {
                Some(Err(error)) => Err(std::mem::replace(error, error.kind().into())),
                _ => Ok(0),
            };
        }
        let unread = &state.bytes[state.unread.clone()];
        let len = unread.len().min(area.len());
        area[..len].copy_from_slice(&unread[..len]);
        state.unread.start += len;
        if state.unread.is_empty() {
            self.shared.changed.notify_all();
        }
        Ok(len)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        let deadline = timeout.filter(|_| !self.never_blocks).map(|timeout| Instant::now() + timeout);
        let mut state = self.shared.lock();
        loop {
            if stop.requested() {
                return Ok(Wait::Stopped);
            }
            if state.is_ready() {
                return Ok(Wait::Ready);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Wait::TimedOut);
            }
            let time = left.into_iter().chain(POLL_INTERVAL).min().unwrap_or(Duration::from_secs(1));
            state = self.shared.wait(state, time);
        }
    }

    /// Bytes that the thread has read are drained.
    fn begin_drain(&self) -> bool {
        self.shared.lock().draining = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(30));

    fn wait(input: &ReaderThread, timeout: Option<Duration>, stop: &Stop) -> Wait {
        input.wait(timeout, stop).unwrap()
    }

    #[test]
    fn bytes_that_were_read_ahead_are_waited_for() {
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
    fn a_drain_gives_the_bytes_that_were_read_and_no_more() {
        /// One byte a read; a read blocks when there is none.
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
        assert!(input.begin_drain());
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
        // The byte that was ready, and the one that may have been read ahead.
        assert!(drained == b"b" || drained == b"bc", "{drained:?}");
    }

    #[test]
    fn an_error_comes_after_the_bytes_before_it() {
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
