//! Tests for Windows only.

use std::process::ExitCode;

#[cfg(windows)]
mod windows;

fn main() -> ExitCode {
    #[cfg(windows)]
    return windows::main();
    #[cfg(not(windows))]
    ExitCode::SUCCESS
}
