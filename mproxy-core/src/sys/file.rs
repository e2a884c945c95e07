//! Files: where the systems differ in opening, reading and writing them.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::path::Path;

use crate::sys::stdio;

#[cfg(test)]
pub(crate) use system::pipe_file;
pub(crate) use system::{PIPE_BUF, blocking_reader, is_on_disk, open_to_append, set_file_len, write_at_once};

#[cfg(unix)]
mod system {
    use super::{File, IoSlice, OpenOptions, Path, Write, io, stdio};

    /// Bytes that a pipe which polls as writable takes without blocking, and that it takes whole or not at all (POSIX
    /// has it 512 at least).
    pub(crate) const PIPE_BUF: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

    /// Opens a file to append to (`O_APPEND`), and creates it if there is none.
    pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
        stdio::open(OpenOptions::new().append(true).create(true), path)
    }

    /// Writes some or all of the slices in one call (`writev(2)`).
    pub(crate) fn write_at_once(mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        file.write_vectored(slices)
    }

    /// Shortens a file that is open to append to.
    pub(crate) fn set_file_len(file: &File, _: &Path, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    /// Whether it is a regular file: no pipe, terminal or other device.
    pub(crate) fn is_on_disk(file: &File) -> bool {
        file.metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// The file for a thread that blocks in its reads.
    pub(crate) fn blocking_reader(file: File) -> impl io::Read + Send + 'static {
        file
    }

    /// The end of a pipe as a file.
    #[cfg(test)]
    pub(crate) fn pipe_file(reader: io::PipeReader) -> File {
        File::from(std::os::fd::OwnedFd::from(reader))
    }
}

#[cfg(windows)]
mod system {
    use std::os::windows::io::AsRawHandle;

    use windows_sys::Win32::Devices::Communication::{COMMTIMEOUTS, SetCommTimeouts};
    use windows_sys::Win32::Foundation::{ERROR_OPERATION_ABORTED, ERROR_PIPE_NOT_CONNECTED};
    use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};

    use super::{File, IoSlice, OpenOptions, Path, Write, io, stdio};

    /// The most bytes of a write to a pipe. Windows polls none, and takes more than it has room for in parts.
    pub(crate) const PIPE_BUF: usize = 65_536;

    /// Opens a file to append to, and creates it if there is none. A pipe or device is opened to be written to: the
    /// right to append to a pipe is the right to make another instance of it (`FILE_CREATE_PIPE_INSTANCE`).
    pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
        match stdio::open(OpenOptions::new().write(true), path) {
            Ok(file) if !is_on_disk(&file) => Ok(file),
            _ => stdio::open(OpenOptions::new().append(true).create(true), path),
        }
    }

    /// Writes some or all of the slices in one call: several are copied into one, since a vectored write takes only
    /// the first.
    pub(crate) fn write_at_once(mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [slice] => file.write(slice),
            _ => file.write(&slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>()),
        }
    }

    /// Shortens a file that is open to append to: that takes `GENERIC_WRITE`, so it is opened again.
    pub(crate) fn set_file_len(_: &File, path: &Path, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.set_len(len)
    }

    /// Whether it is a file on a disk: no pipe, console or other device, whose metadata may be the same.
    pub(crate) fn is_on_disk(file: &File) -> bool {
        // SAFETY: the handle is open as long as the file is.
        unsafe { GetFileType(file.as_raw_handle()) == FILE_TYPE_DISK }
    }

    /// The file for a thread that blocks in its reads: a serial port gives what has come.
    pub(crate) fn blocking_reader(file: File) -> impl io::Read + Send + 'static {
        let is_serial = !is_on_disk(&file) && set_serial_timeouts(&file);
        BlockingReader { file, is_serial }
    }

    struct BlockingReader {
        file: File,
        is_serial: bool,
    }

    impl io::Read for BlockingReader {
        fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
            let read = self.file.read(area);
            match read.as_ref().map_err(|error| error.raw_os_error().map(i32::cast_unsigned)) {
                // The end: the server of a named pipe has disconnected this client (`DisconnectNamedPipe`), or Ctrl-C
                // was pressed at the console.
                Err(Some(ERROR_PIPE_NOT_CONNECTED | ERROR_OPERATION_ABORTED)) => Ok(0),
                // A serial port has no end: its read has timed out.
                Ok(0) if self.is_serial => Err(io::ErrorKind::Interrupted.into()),
                _ => read,
            }
        }
    }

    /// Has each read of a serial port give what has come, and wait only while there is nothing: by default a read
    /// waits until its whole area is full. Whether the file is a serial port.
    fn set_serial_timeouts(file: &File) -> bool {
        let timeouts = COMMTIMEOUTS {
            ReadIntervalTimeout: u32::MAX,
            ReadTotalTimeoutMultiplier: u32::MAX,
            // The longest: 49 days.
            ReadTotalTimeoutConstant: u32::MAX - 1,
            WriteTotalTimeoutMultiplier: 0,
            WriteTotalTimeoutConstant: 0,
        };
        // SAFETY: the handle is open as long as the file is, and the time-outs outlive the call, which fails where
        // the file is no serial port.
        unsafe { SetCommTimeouts(file.as_raw_handle(), &raw const timeouts) != 0 }
    }

    /// The end of a pipe as a file.
    #[cfg(test)]
    pub(crate) fn pipe_file(reader: io::PipeReader) -> File {
        File::from(std::os::windows::io::OwnedHandle::from(reader))
    }
}
