//! What the four command lines have in common.

mod command;

pub use command::{Args, Command, raise_descriptor_limit};
