//! The command line of the four programs: one table of options, arguments, help, messages and exit codes.

mod args;
mod command;
mod common;
mod help;
mod options;

pub use args::Args;
pub use command::Command;
pub use options::ProgramSpec;

pub use crate::sys::raise_descriptor_limit;
