//! Files as sinks.

use std::fs::File;
use std::io::{IoSlice, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::write::write_all;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::sys;

/// A file to append to, shared by the threads that write to it.
#[derive(Debug, Clone)]
pub struct Output {
    /// Locked for one batch: a large write to a FIFO is not atomic, and a partial datagram must be the last to be
    /// taken back. The system lets only one write to a file at a time anyway.
    file: Arc<Mutex<File>>,
    path: PathBuf,
    framing: Framing,
    meter: Meter,
}

impl Output {
    /// Opens the file for appending, and creates it if there is none.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path, framing: Framing, meter: Meter) -> Result<Self, Error> {
        let file = sys::open_to_append(path).map_err(|error| Error::io("open", path.display(), error))?;
        Ok(Self { file: Arc::new(Mutex::new(file)), path: path.to_owned(), framing, meter })
    }

    /// A sink for one more thread.
    #[must_use]
    pub fn sink(&self) -> FileSink {
        FileSink { output: self.clone(), counters: self.meter.counters() }
    }

    /// The file's path, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Appends each batch to a file in one write, so that several writers of a file never tear a datagram.
///
/// There is no buffer: when [`send`](Sink::send) returns, the system has all of the batch.
#[derive(Debug)]
pub struct FileSink {
    output: Output,
    counters: Arc<Counters>,
}

impl Sink for FileSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let Output { file, path, framing, .. } = &self.output;
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = |slices: &[IoSlice<'_>]| sys::write_at_once(&file, slices);
        match write_all(&mut write, &mut framing.slices(batch, &mut Vec::new())) {
            Ok(_) => {
                self.counters.passed(batch.count(), batch.bytes());
                Ok(())
            }
            Err((written, error)) => {
                self.counters.failed(1);
                take_back(&file, path, written - framing.whole_datagrams_len(batch, written));
                Err(Error::io("write to", path.display(), error))
            }
        }
    }
}

/// Cuts off the partial datagram, of so many bytes, that was written before the disk was full (ENOSPC).
fn take_back(mut file: &File, path: &Path, partial: usize) {
    let Ok(end) = file.stream_position() else { return };
    // Only if no other process has appended behind it. If this fails too, the first error is the one to tell.
    if partial > 0 && file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == end) {
        let _ = sys::set_file_len(file, path, end - partial as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::relay::stats::{Direction, Registry};

    fn batch(payloads: &[&[u8]]) -> Batch {
        let mut batch = Batch::with_capacity(1024);
        for payload in payloads {
            batch.spare()[..payload.len()].copy_from_slice(payload);
            batch.push(payload.len());
        }
        batch
    }

    #[test]
    fn a_torn_datagram_is_taken_back_and_whole_ones_stay() {
        let path = std::env::temp_dir().join(format!("mproxy-core-torn-{}", std::process::id()));
        let output = Output::open(&path, Framing::Auto, meter()).unwrap();
        let batch = batch(&[b"one", b"two", b"three"]);
        output.sink().send(&batch).unwrap();
        // As if only 8 of the 11 bytes of a second batch had found room.
        let mut file = output.file.lock().unwrap();
        file.write_all(b"onetwoth").unwrap();
        take_back(&file, &path, 8 - Framing::Auto.whole_datagrams_len(&batch, 8));
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwothreeonetwo");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_failed_write_is_an_error_that_names_the_file() {
        let path = std::env::current_exe().unwrap();
        // Open to be read only: a write fails (EBADF).
        let file = File::open(&path).unwrap();
        let file = Arc::new(Mutex::new(file));
        let output = Output { file, path: path.clone(), framing: Framing::Auto, meter: meter() };
        let error = output.sink().send(&batch(&[b"x"])).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot write to {}: ", path.display())), "{error}");
    }

    fn meter() -> Meter {
        Registry::default().endpoint("file", Direction::Out)
    }
}
