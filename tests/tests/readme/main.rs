//! The README keeps its word.

use std::process::ExitCode;

// Its commands are those of a Unix shell.
#[cfg(unix)]
mod readme;

fn main() -> ExitCode {
    #[cfg(unix)]
    return readme::main();
    #[cfg(not(unix))]
    ExitCode::SUCCESS
}
