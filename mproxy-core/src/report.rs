//! Messages, by way of the [`log`] facade. Functions, since a macro's expansion at every message would
//! make up a good part of a small binary.

use std::fmt::Arguments;

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
