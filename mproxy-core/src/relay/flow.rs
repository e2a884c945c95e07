//! Source, sinks, and the loop between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::stop::Stop;
use crate::sys::PollSet;

/// The drain timeout: how long after a stop request a source that takes nothing more in may deliver what it has.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(750);

/// The drain timeout of a source that still takes data in.
const OPEN_DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a source may deliver what it has, by what its [`drain`](Source::drain) tells.
pub(crate) fn drain_timeout(closed: bool) -> Duration {
    if closed { DRAIN_TIMEOUT } else { OPEN_DRAIN_TIMEOUT }
}

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

impl<S: Source + ?Sized> Source for Box<S> {
    fn capacity(&self) -> usize {
        (**self).capacity()
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        (**self).receive(batch)
    }

    fn drain(&mut self) -> bool {
        (**self).drain()
    }
}

/// A source that its owner waits for together with other sockets, as a fan-out does with its clients.
///
/// A source that is made of another one passes these on to it.
pub trait PolledSource: Source {
    /// Adds its sockets to the poll set, now and whenever it has further ones. From then on
    /// [`receive`](Source::receive) does not wait: it is called when one of the sockets is ready, and at the
    /// [deadline](Self::deadline).
    ///
    /// # Errors
    /// If the system has no room for it.
    fn poll_with(&mut self, set: &Arc<PollSet>, keys: PollKeys) -> Result<(), Error>;

    /// The socket with this key can be read from, or has failed.
    fn ready(&mut self, key: usize);

    /// When to receive at the latest, though no socket is ready.
    fn deadline(&self) -> Option<Instant>;

    /// Has no socket become ready until it is resumed, since there is no room for what would be received. False if
    /// that would lose data, as with UDP, whose senders do not wait: then nothing changes.
    fn pause(&mut self, paused: bool) -> bool;
}

/// The keys of one of the sources in a poll set: those of others are different.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PollKeys(u8);

impl PollKeys {
    /// Keys have the number of their owner in the lowest bits.
    const OWNER_BITS: u32 = 6;

    /// The keys of the owner with this number; none if there are too many owners.
    pub(crate) fn of(owner: usize) -> Option<Self> {
        u8::try_from(owner).ok().filter(|owner| u32::from(*owner) < (1 << Self::OWNER_BITS)).map(Self)
    }

    /// The owner's key for a socket with this index.
    #[must_use]
    pub fn key(self, index: usize) -> usize {
        index << Self::OWNER_BITS | usize::from(self.0)
    }

    /// The number of the owner, and the index.
    pub(crate) fn split(key: usize) -> (usize, usize) {
        (key & ((1 << Self::OWNER_BITS) - 1), key >> Self::OWNER_BITS)
    }
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
            deadline = Some(Instant::now() + drain_timeout(closed));
        }
    }
}
