//! Threads with a small stack.

use std::thread;

use crate::error::Error;

/// The stack size of a thread, in bytes. Only the pages that it touches count.
const STACK_SIZE: usize = 256 * 1024;

/// The body of a thread, with its result.
pub type Task = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// Starts a thread with a small stack.
///
/// # Errors
/// If the system has no room for it.
pub fn spawn(name: String, run: Box<dyn FnOnce() + Send>) -> Result<thread::JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name).stack_size(STACK_SIZE);
    thread.spawn(run).map_err(|error| Error::io("start", "a thread", error))
}
