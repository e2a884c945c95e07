//! Threads, all of which have a small stack.

use std::thread;

use crate::error::Error;

/// Stack of a thread. It needs little; only the pages that it touches count.
const STACK: usize = 256 * 1024;

/// What a thread does, and how it ends.
pub type Task = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// Starts a thread with a small stack.
///
/// # Errors
/// If the system has no room for it.
pub fn spawn(name: String, run: Box<dyn FnOnce() + Send>) -> Result<thread::JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name).stack_size(STACK);
    thread.spawn(run).map_err(|error| Error::io("start", "a thread", error))
}
