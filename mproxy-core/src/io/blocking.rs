//! Blocking reads and writes, each in a thread of its own: for descriptors that the system cannot poll.

pub(crate) mod reader_thread;
pub(crate) mod writer_thread;
