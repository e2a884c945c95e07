//! System calls that no library offers in a safe form: the one module with `unsafe` code.
#![allow(unsafe_code)]

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
mod groups;
#[cfg(target_os = "linux")]
mod linux;
pub mod stdio;
#[cfg(windows)]
mod windows;

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
pub(crate) use groups::join_source_v6;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(windows)]
pub(crate) use windows::*;
