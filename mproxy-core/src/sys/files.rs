//! What Windows tells of a file that is open.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::windows::io::AsRawHandle;

use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};

/// Whether it is on a disk: no pipe, console or other device, of which the metadata may tell the same.
pub(crate) fn is_on_disk(file: &File) -> bool {
    // SAFETY: the handle is open as long as the file is.
    unsafe { GetFileType(file.as_raw_handle()) == FILE_TYPE_DISK }
}
