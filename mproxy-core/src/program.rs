//! A running program, and the signals that end it.

pub(crate) mod monitor;
#[allow(clippy::module_inception)] // the program itself, beside what surrounds it
pub(crate) mod program;
pub(crate) mod signals;
