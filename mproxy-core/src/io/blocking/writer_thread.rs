//! A thread that blocks in writes: on Windows, to pipes and consoles.

use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::poll::WRITE_TIMEOUT_AT_STOP;
use crate::relay::stop::{POLL_INTERVAL, Stop};
use crate::relay::thread;

/// The least timeout of a write when a stop was requested long ago.
const LEAST_WRITE_TIMEOUT: Duration = Duration::from_millis(20);

/// An output with a thread of its own, which blocks in the writes: a reader that has stalled holds up that thread
/// alone. The result of each write is waited for, so there is no queue.
#[derive(Debug)]
pub(crate) struct WriterThread(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// The bytes are to be written.
    pending: bool,
    /// The result of the write.
    result: Option<io::Result<usize>>,
    closed: bool,
}

impl WriterThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub(crate) fn new(output: impl Write + Send + 'static) -> Result<Self, Error> {
        let shared = Arc::<Shared>::default();
        let writer = shared.clone();
        thread::spawn("output".to_owned(), Box::new(move || writer.run(output)))?;
        Ok(Self(shared))
    }

    /// Writes some or all of the slices. At a stop it gives up on a reader that has stalled; no further write is
    /// possible then.
    ///
    /// # Errors
    /// The error of the write, or `TimedOut`.
    pub(crate) fn write(&self, slices: &[IoSlice<'_>], stop: &Stop) -> io::Result<usize> {
        let Shared { changed, .. } = &*self.0;
        let mut state = self.0.lock();
        state.bytes.clear();
        for slice in slices {
            state.bytes.extend_from_slice(slice);
        }
        state.pending = true;
        changed.notify_all();
        let mut deadline = None;
        loop {
            if let Some(result) = state.result.take() {
                return result;
            }
            if let Some(elapsed) = stop.elapsed().filter(|_| deadline.is_none()) {
                let left = WRITE_TIMEOUT_AT_STOP.saturating_sub(elapsed).max(LEAST_WRITE_TIMEOUT);
                deadline = Some(Instant::now() + left);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its reader has stalled"));
            }
            let time = left.into_iter().chain(POLL_INTERVAL).min().unwrap_or(Duration::from_secs(1));
            state = changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut output: impl Write) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            if std::mem::take(&mut state.pending) {
                let bytes = std::mem::take(&mut state.bytes);
                drop(state);
                let result = output.write(&bytes);
                state = self.lock();
                state.bytes = bytes;
                state.result = Some(result);
                self.changed.notify_all();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn all_slices_are_written_and_a_stalled_reader_is_left_at_a_stop() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let output = WriterThread::new(writer).unwrap();
        let stop = Stop::new().unwrap();
        for _ in 0..2 {
            assert_eq!(output.write(&[IoSlice::new(b"one"), IoSlice::new(b"two")], &stop).unwrap(), 6);
        }
        let mut written = [0; 12];
        reader.read_exact(&mut written).unwrap();
        assert_eq!(&written, b"onetwoonetwo");
        let stopping = stop.clone();
        std::thread::spawn(move || stopping.request());
        let more_than_a_pipe_holds = vec![0; 1 << 20];
        let error = output.write(&[IoSlice::new(&more_than_a_pipe_holds)], &stop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(output);
        // With room in the pipe the thread ends, and closes it.
        let mut rest = Vec::new();
        assert!(reader.read_to_end(&mut rest).unwrap() > 0);
    }

    #[test]
    fn a_closed_pipe_is_an_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = WriterThread::new(writer).unwrap();
        let error = output.write(&[IoSlice::new(b"one")], &Stop::new().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
