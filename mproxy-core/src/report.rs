//! Messages, by way of the [`log`] facade. Functions, since a macro's expansion at every message would
//! make up a good part of a small binary.

use std::fmt::Arguments;
use std::time::{Duration, Instant};

/// What a user should know.
#[inline(never)]
pub fn warn(message: Arguments<'_>) {
    log::warn!("{message}");
}

/// What a user who asks may want to know.
#[inline(never)]
pub fn info(message: Arguments<'_>) {
    log::info!("{message}");
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
