//! Files as sinks.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::write::write_all;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::sys::stdio;

/// A file to append to, as all threads that write to it share it.
#[derive(Debug, Clone)]
pub struct Output {
    /// Locked for one batch: a FIFO would tear large writes, and a torn one must be the last to be taken
    /// back. Where many write, the system has them wait for each other anyway.
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
        let file = open_to_append(path);
        let file = file.map_err(|error| Error::io("open", path.display(), error))?;
        Ok(Self { file: Arc::new(Mutex::new(file)), path: path.to_owned(), framing, meter })
    }

    /// A sink for one more thread.
    #[must_use]
    pub fn sink(&self) -> FileSink {
        FileSink { output: self.clone(), counters: self.meter.counters() }
    }

    /// Which file it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Appends each batch to a file in one write, so that several writers of a file never tear a datagram.
///
/// Nothing is kept in memory: when [`send`](Sink::send) is done, the system has it all.
#[derive(Debug)]
pub struct FileSink {
    output: Output,
    counters: Arc<Counters>,
}

impl Sink for FileSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let Output { file, path, framing, .. } = &self.output;
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = |slices: &[IoSlice<'_>]| write_at_once(&file, slices);
        match write_all(&mut write, &mut framing.slices(batch, &mut Vec::new())) {
            Ok(_) => {
                self.counters.passed(batch.count(), batch.bytes());
                Ok(())
            }
            Err((written, error)) => {
                self.counters.failed(1);
                take_back(&file, path, written - framing.whole(batch, written));
                Err(Error::io("write to", path.display(), error))
            }
        }
    }
}

#[cfg(unix)]
fn open_to_append(path: &Path) -> io::Result<File> {
    stdio::open(OpenOptions::new().append(true).create(true), path)
}

/// What is not on a disk is opened to be written to: the right to append to a pipe is that to make another one.
#[cfg(windows)]
fn open_to_append(path: &Path) -> io::Result<File> {
    match stdio::open(OpenOptions::new().write(true), path) {
        Ok(file) if !crate::sys::is_on_disk(&file) => Ok(file),
        _ => stdio::open(OpenOptions::new().append(true).create(true), path),
    }
}

#[cfg(unix)]
fn write_at_once(mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    file.write_vectored(slices)
}

/// Windows writes no more than one slice at once.
#[cfg(windows)]
pub(crate) fn write_at_once(mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [slice] => file.write(slice),
        _ => file.write(&slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>()),
    }
}

/// Takes back the part of a datagram that was written before the disk was full.
fn take_back(mut file: &File, path: &Path, torn: usize) {
    let Ok(end) = file.stream_position() else { return };
    // Only if no other process has appended behind it; and if this fails too, the first error is the one
    // to tell.
    if torn > 0 && file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == end) {
        let _ = shorten(file, path, end - torn as u64);
    }
}

#[cfg(unix)]
fn shorten(file: &File, _: &Path, len: u64) -> io::Result<()> {
    file.set_len(len)
}

/// Windows has another right for that than the one to append.
#[cfg(windows)]
fn shorten(_: &File, path: &Path, len: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(len)
}

#[cfg(test)]
mod tests {
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
        take_back(&file, &path, 8 - Framing::Auto.whole(&batch, 8));
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwothreeonetwo");
        std::fs::remove_file(&path).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error_that_names_it() {
        let output = Output::open(Path::new("/dev/full"), Framing::Auto, meter()).unwrap();
        let error = output.sink().send(&batch(&[b"x"])).unwrap_err();
        assert!(error.to_string().starts_with("cannot write to /dev/full: "), "{error}");
    }

    fn meter() -> Meter {
        Registry::default().endpoint("file", Direction::Out)
    }
}
