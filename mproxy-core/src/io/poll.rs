//! Waiting until a descriptor is ready, for a time, or until a stop is requested.
//!
//! The seam between the systems: Unix polls any descriptor, Windows only sockets.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;
use crate::relay::stop::{POLL_INTERVAL, Stop};

/// How long a reader that has stalled may still hold up a stop.
pub(crate) const STALLED_AT_STOP: Duration = Duration::from_millis(300);

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The descriptor is ready, has an error, or was hung up: trying it will not block.
    Ready,
    /// The time is over.
    TimedOut,
    /// A stop was requested.
    Stopped,
}

/// Something that bytes are read from, and that can be waited for.
pub trait Input {
    /// Reads what is there, into some or all of the area; 0 is the end.
    #[doc(hidden)]
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize>;

    /// Waits until a read will not block.
    #[doc(hidden)]
    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<WaitResult>;

    /// Whether there is nothing to wait for before a read.
    #[doc(hidden)]
    fn never_blocks(&self) -> bool {
        false
    }

    /// Prepares to read what is already there and no more; false if nothing more is to be read.
    #[doc(hidden)]
    fn hold(&self) -> bool;
}

/// Hides [`Wait`] from the public interface.
#[doc(hidden)]
#[derive(Debug)]
pub struct WaitResult(pub(crate) Wait);

impl Input for std::net::TcpStream {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        io::Read::read(self, area)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<WaitResult> {
        wait(&mut [PollFd::new(self, PollFlags::IN)], timeout, stop).map(WaitResult)
    }

    fn hold(&self) -> bool {
        self.set_nonblocking(true).is_ok()
    }
}

/// Files, pipes, terminals and devices.
#[cfg(unix)]
impl Input for File {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        io::Read::read(self, area)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<WaitResult> {
        wait(&mut [PollFd::new(self, PollFlags::IN)], timeout, stop).map(WaitResult)
    }

    fn never_blocks(&self) -> bool {
        // Some of what the kernel shows as empty files fills up with time, and is waited for.
        self.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0)
    }

    /// A file would never end in time, and a pipe's writer still has what was not read.
    fn hold(&self) -> bool {
        false
    }
}

/// The file as an input that can be waited for: on Unix any can.
///
/// # Errors
/// None.
#[cfg(unix)]
pub fn pollable(file: File, _size: usize) -> Result<impl Input + Send, Error> {
    Ok(file)
}

/// The file as an input that can be waited for: by a thread that is blocked in its reads, each of whole datagrams
/// of that size.
///
/// # Errors
/// If the system has no room for a thread.
#[cfg(windows)]
pub fn pollable(file: File, size: usize) -> Result<impl Input + Send, Error> {
    let never_blocks = crate::sys::is_on_disk(&file);
    let is_serial = !never_blocks && crate::sys::read_promptly(&file);
    crate::io::blocking::reader_thread::ReaderThread::new(Readable { file, is_serial }, never_blocks, size)
}

#[cfg(windows)]
struct Readable {
    file: File,
    is_serial: bool,
}

#[cfg(windows)]
impl io::Read for Readable {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        use windows_sys::Win32::Foundation::{ERROR_OPERATION_ABORTED, ERROR_PIPE_NOT_CONNECTED};
        let read = self.file.read(area);
        match read.as_ref().map_err(|error| error.raw_os_error().map(i32::cast_unsigned)) {
            // The server of a named pipe has not closed it but ended this connection; or somebody has pressed
            // Ctrl-C at the console that is read.
            Err(Some(ERROR_PIPE_NOT_CONNECTED | ERROR_OPERATION_ABORTED)) => Ok(0),
            // A serial port has no end, but its time is over now and then.
            Ok(0) if self.is_serial => Err(io::ErrorKind::Interrupted.into()),
            _ => read,
        }
    }
}

/// Waits until one of the descriptors is ready, and leaves the events in them.
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
        let ready = match stop.poll() {
            Some(stop) => with_stop(fds, stop, left)?,
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

/// Polls the descriptors and the stop pipe.
fn with_stop<'a>(fds: &mut [PollFd<'a>], stop: PollFd<'a>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut set = fds.to_vec();
    set.push(stop);
    let ready = poll_for(&mut set, timeout)?;
    fds.clone_from_slice(&set[..fds.len()]);
    Ok(ready)
}

/// Waits without regard to a stop: for what may still take a moment after one.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    // Windows refuses to wait for nothing (`WSAPoll`), as a group does whose interfaces have all gone.
    #[cfg(windows)]
    if fds.is_empty() {
        std::thread::sleep(timeout.into_iter().chain(POLL_INTERVAL).min().unwrap_or_default());
        return Ok(false);
    }
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_waited_for_until_the_time_is_over() {
        let stop = Stop::new().unwrap();
        let (begin, time) = (Instant::now(), Duration::from_millis(30));
        assert_eq!(wait(&mut [], Some(time), &stop).unwrap(), Wait::TimedOut);
        assert!(begin.elapsed() >= time);
        assert!(!poll_for(&mut [], Some(Duration::ZERO)).unwrap());
        stop.request();
        assert_eq!(wait(&mut [], None, &stop).unwrap(), Wait::Stopped);
    }
}
