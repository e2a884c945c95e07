//! The relay: batches flow from one source to many sinks, on one thread that owns them all.

pub mod batch;
pub mod flow;
pub mod limits;
pub mod stats;
pub mod stop;
pub mod thread;
