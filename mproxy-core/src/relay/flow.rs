//! Source, sinks, and the loop between them.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::stop::Stop;

/// The drain timeout: how long after a stop request a source that takes nothing more in may deliver what it has.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(750);

/// The drain timeout of a source that still takes data in.
const OPEN_DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Whether a source may have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// More may come. The batch can be passed on; it may be empty.
    More,
    /// This batch is the last; it may be empty.
    End,
}

/// A source of datagrams.
pub trait Source {
    /// The payload area that a batch needs for this source, in bytes.
    fn capacity(&self) -> usize;

    /// Waits for datagrams, and puts them into the batch, which is empty. It may also return with none, as it must when
    /// a stop is requested.
    ///
    /// # Errors
    /// If nothing can be received any more. The batch is not passed on then.
    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error>;

    /// After a stop request: from now on the source waits for nothing, gives the datagrams that have already arrived,
    /// and ends.
    ///
    /// False if it cannot tell those from what is still arriving, so that it may never end by itself.
    fn drain(&mut self) -> bool;
}

/// A sink of datagrams.
pub trait Sink {
    /// Delivers the batch, in order.
    ///
    /// # Errors
    /// Only if the relay cannot go on. Errors that a sink can recover from, such as an unreachable target, it counts and
    /// logs itself.
    fn send(&mut self, batch: &Batch) -> Result<(), Error>;
}

/// All the sinks of one source.
pub type Sinks = Vec<Box<dyn Sink + Send>>;

/// Moves batches from the source to each sink until the source ends; after a stop request, until the source is
/// [drained](Source::drain).
///
/// # Errors
/// The first error of the source, or of a sink.
pub fn relay(source: &mut dyn Source, sinks: &mut Sinks, stop: &Stop) -> Result<(), Error> {
    let mut batch = Batch::with_capacity(source.capacity());
    // The end of the drain; none before a stop request.
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
            deadline = Some(Instant::now() + if closed { DRAIN_TIMEOUT } else { OPEN_DRAIN_TIMEOUT });
        }
    }
}
