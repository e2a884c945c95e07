//! Byte streams: framing, files, pipes and standard output.

pub(crate) mod file;
pub(crate) mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod poll;
#[cfg(any(test, windows))]
pub(crate) mod reader_thread;
pub(crate) mod stream;
#[cfg(any(test, windows))]
pub(crate) mod writer_thread;
