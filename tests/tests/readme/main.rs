//! The README keeps its word.

// Its commands are those of a Unix shell.
#[cfg(unix)]
mod readme;
