//! Messages, by way of the [`log`](::log) facade, and exit codes.
//!
//! Messages have functions: the facade's macros, expanded at every message, would be a good part of a small binary.

use std::fmt::{Arguments, Display};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::sys::stdio;

/// Logs a warning: what a user should know.
#[inline(never)]
pub fn warn(message: Arguments<'_>) {
    ::log::warn!("{message}");
}

/// Logs at level info: what a user sees with `--verbose`.
#[inline(never)]
pub fn info(message: Arguments<'_>) {
    ::log::info!("{message}");
}

/// A limit to how often a message is logged. By default once while its cause persists, and again when that has been
/// gone for ten seconds.
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
    /// The interval of one message, or of a burst of them.
    const INTERVAL: Duration = Duration::from_secs(10);

    /// At most `burst` messages in ten seconds, of causes that differ.
    #[must_use]
    pub fn with_burst(burst: u32) -> Self {
        Self { burst, since: None, logged: 0 }
    }

    /// Whether to log now. To be called each time there is the cause.
    pub fn permits(&mut self) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) > Self::INTERVAL) {
            (self.since, self.logged) = (Some(now), 0);
        } else if self.burst == 1 {
            // The same cause persists.
            self.since = Some(now);
        }
        self.logged = self.logged.saturating_add(1);
        self.logged <= self.burst
    }
}

/// Writes one line to stderr, in one write; nothing if stderr is closed. Control characters, as in a file name, become
/// question marks, so that it stays one line.
pub(crate) fn say(message: &dyn Display) {
    let mut line = message.to_string().replace(char::is_control, "?");
    line.push('\n');
    let _ = stdio::write_stderr(&line);
}

/// The exit code of a program.
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
