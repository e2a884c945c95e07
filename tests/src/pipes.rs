//! Pipes: how full one is, and those of Windows that have names.

use std::io::{self, PipeReader};

/// The number of bytes that a pipe holds (FIONREAD).
///
/// # Errors
/// If the system does not tell.
#[cfg(unix)]
pub fn pending(reader: &PipeReader) -> io::Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(reader)?).unwrap())
}

#[cfg(windows)]
pub use windows::{NamedPipe, pending};

#[cfg(windows)]
#[allow(unsafe_code)] // nothing offers this in safe form
mod windows {
    use super::{PipeReader, io};
    use std::fs::File;
    use std::os::windows::io::{AsRawHandle, FromRawHandle};
    use std::ptr;
    use std::sync::atomic::{AtomicU32, Ordering};

    use windows_sys::Win32::Foundation::{ERROR_PIPE_CONNECTED, INVALID_HANDLE_VALUE};
    use windows_sys::Win32::Storage::FileSystem::PIPE_ACCESS_DUPLEX;
    use windows_sys::Win32::System::Pipes::{
        ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, PIPE_TYPE_BYTE, PIPE_WAIT, PeekNamedPipe,
    };

    /// The number of bytes that a pipe holds, with those of a write that waits for room.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn pending(reader: &PipeReader) -> io::Result<usize> {
        let mut there = 0;
        // SAFETY: the handle is open as long as the reader lives, and the number may be written to.
        let done = unsafe {
            PeekNamedPipe(
                reader.as_raw_handle(),
                ptr::null_mut(),
                0,
                ptr::null_mut(),
                &raw mut there,
                ptr::null_mut(),
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(there as usize) }
    }

    /// A pipe with a name that nothing else has, and the only instance of it.
    pub struct NamedPipe {
        /// `\\.\pipe\NAME`.
        pub path: String,
        /// This end of it.
        pub file: File,
    }

    impl NamedPipe {
        /// Makes the pipe.
        #[allow(clippy::new_without_default)]
        pub fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = format!(r"\\.\pipe\mproxy-tests-{}-{count}", std::process::id());
            let name: Vec<u16> = path.encode_utf16().chain([0]).collect();
            // SAFETY: the name ends with NUL, and the handle belongs to the file from here on.
            let file = unsafe {
                let mode = PIPE_TYPE_BYTE | PIPE_WAIT;
                let handle =
                    CreateNamedPipeW(name.as_ptr(), PIPE_ACCESS_DUPLEX, mode, 1, 4096, 4096, 0, ptr::null());
                assert!(handle != INVALID_HANDLE_VALUE, "{path}: {}", io::Error::last_os_error());
                File::from_raw_handle(handle)
            };
            Self { path, file }
        }

        /// Waits until the other end is open.
        pub fn connected(&self) {
            // SAFETY: the handle is open as long as the file.
            let done = unsafe { ConnectNamedPipe(self.file.as_raw_handle(), ptr::null_mut()) };
            let error = io::Error::last_os_error();
            let already = error.raw_os_error() == Some(ERROR_PIPE_CONNECTED.cast_signed());
            assert!(done != 0 || already, "{}: {error}", self.path);
        }

        /// Takes the other end away from who has it.
        pub fn disconnect(&self) {
            // SAFETY: as above.
            let done = unsafe { DisconnectNamedPipe(self.file.as_raw_handle()) };
            assert!(done != 0, "{}: {}", self.path, io::Error::last_os_error());
        }
    }
}
