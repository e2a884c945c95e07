//! Polling (`poll(2)`, `WSAPoll`): Unix polls any descriptor, Windows only sockets.

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

pub(crate) use system::{CAN_POLL_FILES, file_poll_fd};

/// Polls the descriptors for at most `timeout`; `None` is for as long as it takes. Whether one is ready: false after a
/// signal, too.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    if let Some(pause) = system::empty_set_pause(fds, timeout) {
        std::thread::sleep(pause);
        return Ok(false);
    }
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(unix)]
mod system {
    use super::{Duration, File, PollFd, PollFlags, io};

    /// Whether files, pipes, terminals and devices can be polled.
    pub(crate) const CAN_POLL_FILES: bool = true;

    /// A file in a poll set.
    #[allow(clippy::unnecessary_wraps)] // Windows has none
    pub(crate) fn file_poll_fd(file: &File, events: PollFlags) -> io::Result<PollFd<'_>> {
        Ok(PollFd::new(file, events))
    }

    /// An empty poll set is a pause like any other.
    pub(super) fn empty_set_pause(_: &[PollFd<'_>], _: Option<Duration>) -> Option<Duration> {
        None
    }
}

#[cfg(windows)]
mod system {
    use super::{Duration, File, PollFd, PollFlags, io};

    /// Whether files, pipes, terminals and devices can be polled.
    pub(crate) const CAN_POLL_FILES: bool = false;

    /// The longest pause in place of an empty poll set: nothing interrupts it.
    const LONGEST_PAUSE: Duration = Duration::from_millis(200);

    /// A file in a poll set: there can be none (`WSAPoll`).
    pub(crate) fn file_poll_fd(_: &File, _: PollFlags) -> io::Result<PollFd<'_>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// `WSAPoll` refuses an empty set, as a group has whose interfaces have all gone: the pause to make instead.
    pub(super) fn empty_set_pause(fds: &[PollFd<'_>], timeout: Option<Duration>) -> Option<Duration> {
        fds.is_empty().then(|| timeout.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE))
    }
}
