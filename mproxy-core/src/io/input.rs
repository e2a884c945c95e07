//! Files, pipes, terminals and devices as inputs.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::error::Error;
use crate::io::blocking::reader_thread::ReaderThread;
use crate::io::poll::{Input, Wait, wait};
use crate::relay::stop::Stop;
use crate::sys;

/// The file as an input that can be waited for. Where the system polls only sockets, as Windows does, a thread blocks
/// in the reads, each of whole datagrams of `size` bytes.
///
/// # Errors
/// If the system has no room for the thread.
pub fn pollable(file: File, size: usize) -> Result<Box<dyn Input + Send>, Error> {
    if sys::CAN_POLL_FILES {
        return Ok(Box::new(PolledFile(file)));
    }
    let never_blocks = sys::is_on_disk(&file);
    Ok(Box::new(ReaderThread::new(sys::blocking_reader(file), never_blocks, size)?))
}

/// A file that the system polls.
struct PolledFile(File);

impl Input for PolledFile {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        self.0.read(area)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        wait(&mut [sys::file_poll_fd(&self.0, PollFlags::IN)?], timeout, stop)
    }

    fn never_blocks(&self) -> bool {
        // Some files that the kernel shows as empty fill up with time (`/proc/kmsg`), and are waited for.
        self.0.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
    }

    /// Nothing is drained: a file would not end in time, and what was not read stays in the pipe.
    fn begin_drain(&self) -> bool {
        false
    }
}
