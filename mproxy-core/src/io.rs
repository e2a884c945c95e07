//! Byte streams: framing, files, pipes and standard output.

pub(crate) mod blocking;
pub(crate) mod deframer;
pub(crate) mod file;
pub(crate) mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod input;
pub(crate) mod pace;
pub(crate) mod poll;
pub(crate) mod ring;
pub(crate) mod stdout;
pub(crate) mod stream;
pub(crate) mod write;
