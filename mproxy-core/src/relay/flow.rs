//! The one idea: batches flow from a source to many sinks, on one thread that owns them all.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::stop::Stop;

/// How long a stopped relay goes on at most to deliver what its source already holds, ...
const DRAIN: Duration = Duration::from_millis(750);

/// ... and if nothing tells that from what is still coming.
const DRAIN_OPEN: Duration = Duration::from_millis(300);

/// Whether a source may have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// More may come; what the batch holds now, perhaps nothing, can be passed on.
    More,
    /// The batch holds the last of it.
    End,
}

/// Where datagrams come from.
pub trait Source {
    /// The payload area that a batch needs for this source, in bytes.
    fn capacity(&self) -> usize;

    /// Waits until there is something, and puts it into the empty batch. It may also come back with
    /// nothing, as it must when a stop is requested.
    ///
    /// # Errors
    /// If nothing can be received any more.
    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error>;

    /// From now on the source waits for nothing more, gives what it already holds, and ends. Returns
    /// whether it will for sure: that nothing more can come in.
    fn drain(&mut self) -> bool;
}

/// Where datagrams go to.
pub trait Sink {
    /// Delivers the batch, in order.
    ///
    /// # Errors
    /// Only if the relay cannot go on: what a sink can recover from, such as an unreachable target, it
    /// counts and reports itself.
    fn send(&mut self, batch: &Batch) -> Result<(), Error>;
}

/// All the sinks of one source.
pub type Sinks = Vec<Box<dyn Sink + Send>>;

/// Moves batches from the source to each sink until the source ends; after a stop request, until what
/// the source already holds is delivered.
///
/// # Errors
/// The first error of the source, or of a sink.
pub fn relay(source: &mut dyn Source, sinks: &mut Sinks, stop: &Stop) -> Result<(), Error> {
    let mut batch = Batch::with_capacity(source.capacity());
    // When to end at the latest; none before a stop.
    let mut deadline: Option<Instant> = None;
    let mut closed = false;
    loop {
        batch.clear();
        let flow = source.receive(&mut batch)?;
        if !batch.is_empty() {
            for sink in &mut *sinks {
                sink.send(&batch)?;
            }
        }
        if flow == Flow::End {
            return Ok(());
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            if closed {
                log::warn(format_args!("stopped before all that had been received was delivered"));
            }
            return Ok(());
        }
        if deadline.is_none() && stop.requested() {
            closed = source.drain();
            deadline = Some(Instant::now() + if closed { DRAIN } else { DRAIN_OPEN });
        }
    }
}
