//! What is so on Windows only.

#[cfg(windows)]
mod windows;
