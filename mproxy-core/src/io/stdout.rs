//! Standard output as a sink.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::PollFlags;

use crate::error::Error;
use crate::io::blocking::writer_thread::WriterThread;
use crate::io::framing::Framing;
use crate::io::poll::{WRITE_TIMEOUT_AT_STOP, Wait, poll_for, wait};
use crate::io::write::write_all;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys::{self, stdio};

/// Standard output, shared by the threads of a program: each writes whole batches.
#[derive(Debug, Clone)]
pub struct Stdout {
    /// None after a failed write.
    stream: Arc<Mutex<Option<Stream>>>,
    framing: Framing,
    only: bool,
    meter: Meter,
}

impl Stdout {
    /// Takes standard output, without the buffer of `std`.
    ///
    /// `only` means that there is no other output: a failed write then ends the program, and is a warning otherwise.
    ///
    /// # Errors
    /// If standard output is closed, or the system has no room for a thread.
    pub fn open(framing: Framing, only: bool, meter: Meter) -> Result<Self, Error> {
        let file = stdio::stdout().map_err(|error| Error::io("open", "standard output", error))?;
        let stream = Stream::new(file)?;
        Ok(Self { stream: Arc::new(Mutex::new(Some(stream))), framing, only, meter })
    }

    /// A sink for one more thread.
    #[must_use]
    pub fn sink(&self, stop: &Stop) -> StdoutSink {
        StdoutSink { stdout: self.clone(), counters: self.meter.counters(), stop: stop.clone() }
    }
}

/// Copies each batch to standard output.
#[derive(Debug)]
pub struct StdoutSink {
    stdout: Stdout,
    counters: Arc<Counters>,
    stop: Stop,
}

impl Sink for StdoutSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut shared = self.stdout.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = &*shared else { return Ok(()) };
        let mut write = |slices: &[IoSlice<'_>]| stream.write(slices, &self.stop);
        let error = match write_all(&mut write, &mut self.stdout.framing.slices(batch, &mut Vec::new())) {
            Ok(_) => {
                self.counters.passed(batch.count(), batch.bytes());
                return Ok(());
            }
            Err((_, error)) => error,
        };
        *shared = None;
        self.counters.failed(1);
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        if self.stdout.only && error.kind() == io::ErrorKind::TimedOut {
            // The program is being stopped: no reason to fail.
            log::warn(format_args!("standard output: {error}: some data was not taken"));
            return Err(Error::stdout_closed());
        }
        match (self.stdout.only, closed) {
            (true, true) => Err(Error::stdout_closed()),
            (true, false) => Err(Error::io("write to", "standard output", error)),
            (false, true) => {
                log::warn(format_args!("nobody reads standard output any more: going on without --tee"));
                Ok(())
            }
            (false, false) => {
                log::warn(format_args!("cannot write to standard output: {error}: going on without --tee"));
                Ok(())
            }
        }
    }
}

/// How standard output is written to, so that a stalled reader cannot hold up a stop.
#[derive(Debug)]
enum Stream {
    /// A file on a disk: it has no reader.
    Disk(File),
    /// A pipe, terminal or device that the system polls.
    Polled(File),
    /// One that the system cannot poll.
    Thread(WriterThread),
}

impl Stream {
    fn new(file: File) -> Result<Self, Error> {
        if sys::is_on_disk(&file) {
            Ok(Self::Disk(file))
        } else if sys::CAN_POLL_FILES {
            Ok(Self::Polled(file))
        } else {
            WriterThread::new(file).map(Self::Thread)
        }
    }

    /// Writes some or all of the slices.
    fn write(&self, slices: &[IoSlice<'_>], stop: &Stop) -> io::Result<usize> {
        match self {
            Self::Disk(file) => sys::write_at_once(file, slices),
            Self::Polled(file) => write_polled(file, slices, stop),
            Self::Thread(writer) => writer.write(slices, stop),
        }
    }
}

/// Writes as much as the reader takes without blocking, and gives up on a stalled reader at a stop.
fn write_polled(file: &File, slices: &[IoSlice<'_>], stop: &Stop) -> io::Result<usize> {
    let mut fds = [sys::file_poll_fd(file, PollFlags::OUT)?];
    if wait(&mut fds, None, stop)? == Wait::Stopped {
        let left = WRITE_TIMEOUT_AT_STOP.saturating_sub(stop.elapsed().unwrap_or_default());
        if !poll_for(&mut fds, Some(left))? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its reader has stalled"));
        }
    }
    let mut room = sys::PIPE_BUF;
    let mut fitting = Vec::new();
    for slice in slices {
        let part = &slice[..slice.len().min(room)];
        room -= part.len();
        fitting.push(IoSlice::new(part));
        if room == 0 {
            break;
        }
    }
    sys::write_at_once(file, &fitting)
}
