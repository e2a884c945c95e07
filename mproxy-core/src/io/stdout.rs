//! Standard output as a sink.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::error::Error;
use crate::io::blocking::writer_thread::{Count, WriterThread};
use crate::io::framing::Framing;
use crate::io::poll::{WRITE_TIMEOUT_AT_STOP, Wait, poll_for, wait};
use crate::io::write::write_all;
use crate::log::{self, LogLimiter};
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys::{self, stdio};

/// How long a sender that can wait does so for a reader that takes nothing, and the end of a program for what is left.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The most messages in ten seconds about a reader that is too slow.
const BURST: u32 = 2;

/// Standard output, shared by the threads of a program: each writes whole datagrams.
///
/// Where there are other outputs, a reader that has stalled does not hold them up: what it is too slow for waits in a
/// queue of 4 MiB, and what that has no room for is missed, and counted.
#[derive(Debug, Clone)]
pub struct Stdout {
    stream: Arc<Stream>,
    framing: Framing,
    only: bool,
    /// How long a sender waits for a reader that takes nothing.
    patience: Duration,
    meter: Meter,
    missed: Arc<Mutex<Missed>>,
}

/// What the reader has missed so far.
#[derive(Debug)]
struct Missed {
    count: Count,
    /// The datagrams that a message has told of.
    told: u64,
    limiter: LogLimiter,
}

impl Stdout {
    /// Takes standard output, without the buffer of `std`.
    ///
    /// `only` means that there is no other output: then all waits for its reader, and a failed write ends the program,
    /// but is a warning otherwise.
    ///
    /// # Errors
    /// If standard output is closed, or the system has no room for a thread.
    pub fn open(framing: Framing, only: bool, meter: Meter) -> Result<Self, Error> {
        let file = stdio::stdout().map_err(|error| Error::io("open", "standard output", error))?;
        let stream = Arc::new(Stream::new(file, only, &meter)?);
        let patience = if only { Duration::MAX } else { Duration::ZERO };
        let limiter = LogLimiter::with_burst(BURST);
        let missed = Arc::new(Mutex::new(Missed { count: Count::default(), told: 0, limiter }));
        Ok(Self { stream, framing, only, patience, meter, missed })
    }

    /// Has a sender wait for the reader while it reads on, though there are other outputs, since the input can wait: for
    /// one second at most in which it takes nothing.
    #[must_use]
    pub fn wait_while_read(mut self) -> Self {
        self.patience = self.patience.max(STALL_TIMEOUT);
        self
    }

    /// A sink for one more thread.
    #[must_use]
    pub fn sink(&self, stop: &Stop) -> StdoutSink {
        if let Stream::Queued(writer) = &*self.stream {
            writer.add_sender();
        }
        StdoutSink { stdout: self.clone(), counters: self.meter.counters(), stop: stop.clone() }
    }
}

/// Copies each batch to standard output.
///
/// The last one that is dropped waits until what is queued is written, for a reader that reads on.
#[derive(Debug)]
pub struct StdoutSink {
    stdout: Stdout,
    counters: Arc<Counters>,
    stop: Stop,
}

impl Sink for StdoutSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        match &*self.stdout.stream {
            Stream::Disk(file) => {
                self.write(file, batch, &mut |file, slices| sys::write_at_once(file, slices))
            }
            Stream::Polled(file) => {
                self.write(file, batch, &mut |file, slices| write_polled(file, slices, &self.stop))
            }
            Stream::Queued(writer) => {
                let Stdout { framing, patience, only, .. } = self.stdout;
                let missed = writer.push(batch, framing, patience, &self.stop);
                if missed.datagrams > 0 {
                    self.miss(missed);
                }
                if !only {
                    return Ok(());
                }
                match writer.flush(patience, &self.stop) {
                    Ok(true) => Ok(()),
                    Ok(false) => end(stalled()),
                    Err(error) => end(error),
                }
            }
        }
    }
}

impl StdoutSink {
    /// Writes the batch from this thread.
    fn write(
        &self,
        file: &Mutex<Option<File>>,
        batch: &Batch,
        write: &mut dyn FnMut(&File, &[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Result<(), Error> {
        let mut shared = file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &*shared else { return Ok(()) };
        let mut write = |slices: &[IoSlice<'_>]| write(file, slices);
        match write_all(&mut write, &mut self.stdout.framing.slices(batch, &mut Vec::new())) {
            Ok(_) => {
                self.counters.passed(batch.count(), batch.bytes());
                Ok(())
            }
            Err((_, error)) => {
                *shared = None;
                self.counters.failed(1);
                if self.stdout.only {
                    return end(error);
                }
                warn_of_failure(&error);
                Ok(())
            }
        }
    }

    fn miss(&self, missed: Count) {
        self.counters.missed(missed.datagrams, missed.bytes);
        let mut all = self.stdout.missed.lock().unwrap_or_else(PoisonError::into_inner);
        all.count.datagrams += missed.datagrams;
        all.count.bytes += missed.bytes;
        if all.limiter.permits() {
            all.told = all.count.datagrams;
            log::warn(format_args!(
                "standard output: its reader is too slow: it has missed {} datagrams, {} bytes",
                all.count.datagrams, all.count.bytes
            ));
        }
    }
}

impl Drop for StdoutSink {
    fn drop(&mut self) {
        let Stream::Queued(writer) = &*self.stdout.stream else { return };
        if !writer.remove_sender() {
            return;
        }
        if let Ok(false) = writer.flush(self.stdout.patience.max(STALL_TIMEOUT), &self.stop) {
            let gone = writer.close();
            self.counters.gone(gone as u64);
            log::warn(format_args!(
                "standard output: its reader has stalled: {gone} datagrams were not taken"
            ));
        }
        let all = self.stdout.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if all.count.datagrams > all.told {
            log::warn(format_args!(
                "standard output: its reader has missed {} datagrams, {} bytes in all",
                all.count.datagrams, all.count.bytes
            ));
        }
    }
}

/// How standard output is written to, so that a stalled reader holds up neither a stop nor other outputs.
#[derive(Debug)]
enum Stream {
    /// A file on a disk, which has no reader. None after a failed write.
    Disk(Mutex<Option<File>>),
    /// The only output, a pipe, terminal or device that the system polls: the same without a copy.
    Polled(Mutex<Option<File>>),
    /// One of several outputs, or one that the system cannot poll.
    Queued(WriterThread),
}

impl Stream {
    fn new(file: File, only: bool, meter: &Meter) -> Result<Self, Error> {
        if sys::is_on_disk(&file) {
            Ok(Self::Disk(Mutex::new(Some(file))))
        } else if only && sys::CAN_POLL_FILES {
            Ok(Self::Polled(Mutex::new(Some(file))))
        } else {
            let tell = if only { |_: &io::Error| {} } else { warn_of_failure };
            WriterThread::new(file, meter.counters(), tell).map(Self::Queued)
        }
    }
}

/// Ends the program, which has no other output.
fn end(error: io::Error) -> Result<(), Error> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => {}
        // The program is being stopped: no reason to fail.
        io::ErrorKind::TimedOut => {
            log::warn(format_args!("standard output: {error}: some data was not taken"));
        }
        _ => return Err(Error::io("write to", "standard output", error)),
    }
    Err(Error::stdout_closed())
}

/// Tells that a failed write has ended the copy, but not the program.
fn warn_of_failure(error: &io::Error) {
    if error.kind() == io::ErrorKind::BrokenPipe {
        log::warn(format_args!("nobody reads standard output any more: going on without --tee"));
    } else {
        log::warn(format_args!("cannot write to standard output: {error}: going on without --tee"));
    }
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its reader has stalled")
}

/// Writes as much as the reader takes without blocking, and gives up on a stalled reader at a stop.
fn write_polled(file: &File, slices: &[IoSlice<'_>], stop: &Stop) -> io::Result<usize> {
    let mut fds = [sys::file_poll_fd(file, PollFlags::OUT)?];
    if wait(&mut fds, None, stop)? == Wait::Stopped {
        let left = WRITE_TIMEOUT_AT_STOP.saturating_sub(stop.elapsed().unwrap_or_default());
        if !poll_for(&mut fds, Some(left))? {
            return Err(stalled());
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
