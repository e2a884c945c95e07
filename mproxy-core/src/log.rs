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

/// A message that is worth saying once, though its cause goes on: again only after a quiet time.
#[derive(Debug, Default)]
pub struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether to say it now. To be asked each time the cause is there.
    pub fn now(&mut self) -> bool {
        const QUIET: Duration = Duration::from_secs(10);
        self.0.replace(Instant::now()).is_none_or(|last| last.elapsed() > QUIET)
    }
}

/// A message whose cause comes from outside, as often as it likes: ten times in ten seconds at most.
#[derive(Debug, Default)]
pub struct Few {
    since: Option<Instant>,
    said: u32,
}

impl Few {
    /// Whether to say it now. To be asked each time.
    pub fn now(&mut self) -> bool {
        const SPAN: Duration = Duration::from_secs(10);
        const MOST: u32 = 10;
        if self.since.is_none_or(|since| since.elapsed() > SPAN) {
            *self = Self { since: Some(Instant::now()), said: 0 };
        }
        self.said = self.said.saturating_add(1);
        self.said <= MOST
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
