//! The systems: each has every name of the others, so that nothing above asks which one it is. The one module with
//! `unsafe` code: system calls that no library offers in a safe form.
//!
//! Most of it lies in a file for each system: `linux` and `bsd` (with macOS) beside what all Unix systems share, `unix`, and
//! `windows`; `fallback` is what only Linux has, for all others. Files, polling and the standard streams are a file
//! each, with all systems in it.
#![allow(unsafe_code)]

#[cfg(all(unix, not(target_os = "linux")))]
mod bsd;
mod descriptors;
#[cfg(not(target_os = "linux"))]
mod fallback;
mod file;
#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
mod groups;
#[cfg(target_os = "linux")]
mod linux;
mod os_str;
mod poll;
mod readiness;
pub mod stdio;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use bsd::*;
pub(crate) use descriptors::descriptor_limit;
pub use descriptors::raise_descriptor_limit;
#[cfg(not(target_os = "linux"))]
pub(crate) use fallback::*;
#[cfg(test)]
pub(crate) use file::pipe_file;
pub(crate) use file::{PIPE_BUF, blocking_reader, is_on_disk, open_to_append, set_file_len, write_at_once};
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
pub(crate) use os_str::split_at_equals;
pub(crate) use poll::{CAN_POLL_FILES, file_poll_fd, poll};
pub(crate) use readiness::{Events, Interest};
pub use readiness::{PollSet, Registration};
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// The name of the system, such as `linux`.
pub(crate) const NAME: &str = std::env::consts::OS;
