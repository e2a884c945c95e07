//! The standard streams as plain descriptors, without the buffers and locks that `std` puts before them:
//! data must be in the system when a write is done, and what is not linked makes a small binary.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

pub use system::{FORBIDDEN_IN_FILE_NAMES, open, stdin, stdout};
pub(crate) use system::{write_stderr, write_stdout};

#[cfg(unix)]
mod system {
    use super::{File, OpenOptions, Path, io};
    use rustix::fd::BorrowedFd;

    /// Characters of an endpoint that no file name may hold: none.
    pub const FORBIDDEN_IN_FILE_NAMES: &[char] = &[];

    /// Opens a file, or anything else that has a path.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        options.open(path)
    }

    /// Standard input.
    ///
    /// # Errors
    /// If it is closed, or descriptors have run out.
    pub fn stdin() -> io::Result<File> {
        Ok(File::from(rustix::stdio::stdin().try_clone_to_owned()?))
    }

    /// Standard output.
    ///
    /// # Errors
    /// As [`stdin`].
    pub fn stdout() -> io::Result<File> {
        Ok(File::from(rustix::stdio::stdout().try_clone_to_owned()?))
    }

    /// Writes a text whole; it takes no descriptor, so that a lack of them can be told.
    pub(crate) fn write_stdout(text: &str) -> io::Result<()> {
        write_all(rustix::stdio::stdout(), text.as_bytes())
    }

    /// As [`write_stdout`].
    pub(crate) fn write_stderr(text: &str) -> io::Result<()> {
        write_all(rustix::stdio::stderr(), text.as_bytes())
    }

    fn write_all(stream: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(stream, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(windows)]
mod system {
    use super::{File, OpenOptions, Path, io};
    use std::io::Write;
    use std::os::windows::fs::OpenOptionsExt;
    use std::os::windows::io::AsHandle;

    use windows_sys::Win32::Storage::FileSystem::SECURITY_IDENTIFICATION;

    /// Characters of an endpoint that no file name may hold.
    pub const FORBIDDEN_IN_FILE_NAMES: &[char] = &['<', '>', ':', '"', '/', '\\', '|', '?', '*'];

    /// Opens a file, or a named pipe, whose server learns who opens it and cannot act in that name.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
        options.security_qos_flags(SECURITY_IDENTIFICATION).open(path)
    }

    /// Standard input.
    ///
    /// # Errors
    /// If it is closed.
    pub fn stdin() -> io::Result<File> {
        Ok(File::from(io::stdin().as_handle().try_clone_to_owned()?))
    }

    /// Standard output.
    ///
    /// # Errors
    /// As [`stdin`].
    pub fn stdout() -> io::Result<File> {
        Ok(File::from(io::stdout().as_handle().try_clone_to_owned()?))
    }

    /// Writes a text whole.
    pub(crate) fn write_stdout(text: &str) -> io::Result<()> {
        let mut stream = io::stdout().lock();
        stream.write_all(text.as_bytes()).and_then(|()| stream.flush())
    }

    /// As [`write_stdout`].
    pub(crate) fn write_stderr(text: &str) -> io::Result<()> {
        io::stderr().write_all(text.as_bytes())
    }
}
