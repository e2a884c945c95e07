//! The relay: batches flow from one source to many sinks, on one thread that owns them all.

pub(crate) mod batch;
pub(crate) mod flow;
pub(crate) mod limits;
pub(crate) mod sink_set;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod thread;
