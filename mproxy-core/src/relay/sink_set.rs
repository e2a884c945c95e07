//! Sinks that come and go while their relay runs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;

/// A sink that passes each batch on to all that are in the set at that time. Clones are the same set: whoever has one adds
/// and removes sinks, between two batches.
#[derive(Clone, Default)]
pub struct SinkSet(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sinks: Vec<(u64, Box<dyn Sink + Send>)>,
    next_id: u64,
}

impl fmt::Debug for SinkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkSet").field("sinks", &self.lock().sinks.len()).finish_non_exhaustive()
    }
}

impl SinkSet {
    /// Adds a sink, which gets every batch from now on, and returns what [`remove`](Self::remove) calls it.
    #[allow(clippy::must_use_candidate)]
    pub fn add(&self, sink: Box<dyn Sink + Send>) -> u64 {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.sinks.push((id, sink));
        id
    }

    /// Removes a sink, which has got everything up to now. Whether it was there.
    #[allow(clippy::must_use_candidate)]
    pub fn remove(&self, id: u64) -> bool {
        let mut state = self.lock();
        let index = state.sinks.iter().position(|(other, _)| *other == id);
        let removed = index.map(|index| state.sinks.remove(index));
        drop(state);
        // It may take its time to close, while batches go on.
        removed.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for SinkSet {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        self.lock().sinks.iter_mut().try_for_each(|(_, sink)| sink.send(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Arc<Mutex<usize>>);

    impl Sink for Count {
        fn send(&mut self, batch: &Batch) -> Result<(), Error> {
            *self.0.lock().unwrap() += batch.count();
            Ok(())
        }
    }

    #[test]
    fn a_sink_gets_what_comes_while_it_is_in_the_set() {
        let (mut set, counts) = (SinkSet::default(), [(); 2].map(|()| Arc::new(Mutex::new(0))));
        let mut batch = Batch::with_capacity(8);
        batch.push(1);
        let first = set.add(Box::new(Count(counts[0].clone())));
        set.send(&batch).unwrap();
        set.clone().add(Box::new(Count(counts[1].clone())));
        set.send(&batch).unwrap();
        assert!(set.remove(first) && !set.remove(first));
        set.send(&batch).unwrap();
        assert_eq!(counts.map(|count| *count.lock().unwrap()), [2, 2]);
    }
}
