//! How a program speaks to its caller: messages and exit codes. Messages go by way of the [`log`] facade;
//! functions, since a macro's expansion at every message would
//! make up a good part of a small binary.

use std::fmt::{Arguments, Display};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::sys::stdio;

/// What a user should know.
#[inline(never)]
pub fn warn(message: Arguments<'_>) {
    ::log::warn!("{message}");
}

/// What a user who asks may want to know.
#[inline(never)]
pub fn info(message: Arguments<'_>) {
    ::log::info!("{message}");
}

/// How often a message may be logged. By default once, and again only after its cause has rested for a while.
#[derive(Debug)]
pub struct LogLimiter {
    burst: u32,
    since: Option<Instant>,
    logged: u32,
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self::with_burst(1)
    }
}

impl LogLimiter {
    /// The time that one message or a burst of them is good for.
    const INTERVAL: Duration = Duration::from_secs(10);

    /// So many messages in ten seconds, of a cause that differs each time.
    #[must_use]
    pub fn with_burst(burst: u32) -> Self {
        Self { burst, since: None, logged: 0 }
    }

    /// Whether to log now. To be asked each time the cause is there.
    pub fn permits(&mut self) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) > Self::INTERVAL) {
            (self.since, self.logged) = (Some(now), 0);
        } else if self.burst == 1 {
            // The same cause goes on.
            self.since = Some(now);
        }
        self.logged = self.logged.saturating_add(1);
        self.logged <= self.burst
    }
}

/// One line on stderr, in one write; nothing if stderr is closed. What a user or a file name put into it
/// cannot make it two.
pub(crate) fn say(message: &dyn Display) {
    let mut line = message.to_string().replace(char::is_control, "?");
    line.push('\n');
    let _ = stdio::write_stderr(&line);
}

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    WrongUse = 2,
}

impl From<Exit> for i32 {
    fn from(exit: Exit) -> Self {
        exit as i32
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
