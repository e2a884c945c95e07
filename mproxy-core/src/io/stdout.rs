//! Standard output as a sink.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::write::write_all;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys::stdio;

/// Standard output, as all threads of a program share it: each writes whole batches.
#[derive(Debug, Clone)]
pub struct Stdout {
    shared: Arc<Mutex<Option<Stream>>>,
    framing: Framing,
    only: bool,
    meter: Meter,
}

impl Stdout {
    /// Takes standard output, without the buffer that `std` has before it.
    ///
    /// `only` says that there is no other output: then its end is the end of the program, otherwise a
    /// warning.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn open(framing: Framing, only: bool, meter: Meter) -> Result<Self, Error> {
        let file = stdio::stdout().map_err(|error| Error::io("open", "standard output", error))?;
        let stream = stream(file)?;
        Ok(Self { shared: Arc::new(Mutex::new(Some(stream))), framing, only, meter })
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
        let mut shared = self.stdout.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = &*shared else { return Ok(()) };
        let mut write = |slices: &[IoSlice<'_>]| write_some(stream, slices, &self.stop);
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
            // The program is stopped, and this cannot be helped.
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

/// What standard output is written through.
#[cfg(unix)]
type Stream = File;

#[cfg(windows)]
#[derive(Debug)]
enum Stream {
    Disk(File),
    Other(crate::io::blocking::writer_thread::WriterThread),
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)] // elsewhere it can fail
fn stream(file: File) -> Result<Stream, Error> {
    Ok(file)
}

#[cfg(windows)]
fn stream(file: File) -> Result<Stream, Error> {
    if crate::sys::is_on_disk(&file) {
        return Ok(Stream::Disk(file));
    }
    crate::io::blocking::writer_thread::WriterThread::new(file).map(Stream::Other)
}

/// Writes as much as the reader takes without blocking, and gives up on a stalled one when stopped.
#[cfg(unix)]
fn write_some(mut file: &File, slices: &[IoSlice<'_>], stop: &Stop) -> io::Result<usize> {
    use std::io::Write;

    use crate::io::poll::{STALLED_AT_STOP, Wait, poll_for, wait};
    use rustix::event::{PollFd, PollFlags};

    /// What a pipe that polls as writable takes without blocking (POSIX `PIPE_BUF` is at least 512).
    const WITHOUT_BLOCKING: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

    if file.metadata()?.is_file() {
        return file.write_vectored(slices);
    }
    let mut fds = [PollFd::new(file, PollFlags::OUT)];
    if wait(&mut fds, None, stop)? == Wait::Stopped {
        let left = STALLED_AT_STOP.saturating_sub(stop.elapsed().unwrap_or_default());
        if !poll_for(&mut fds, Some(left))? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its reader has stalled"));
        }
    }
    let mut room = WITHOUT_BLOCKING;
    let mut fitting = Vec::new();
    for slice in slices {
        let part = &slice[..slice.len().min(room)];
        room -= part.len();
        fitting.push(IoSlice::new(part));
        if room == 0 {
            break;
        }
    }
    file.write_vectored(&fitting)
}

/// As above.
#[cfg(windows)]
fn write_some(stream: &Stream, slices: &[IoSlice<'_>], stop: &Stop) -> io::Result<usize> {
    match stream {
        Stream::Disk(file) => crate::io::file::write_at_once(file, slices),
        Stream::Other(output) => output.write(slices, stop),
    }
}
