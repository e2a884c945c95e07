//! Places: how many connections there may be, and which one gives way to another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::{self, LogLimiter};
use crate::sys;

/// Handshakes at a time. They have a limit of their own: one that stalls takes no client's place.
pub(crate) const MAX_HANDSHAKES: usize = 1024;

/// Descriptors that a program has besides those of its connections, at most as a rule.
const OTHER_DESCRIPTORS: usize = 64;

/// Has a half-closed client give way: it is to be closed soon. Called once at most, by any thread.
pub(crate) type GiveWay = Box<dyn FnOnce() + Send>;

/// The places of all endpoints that share a limit of connections (`--max-clients`). Clones are the same places.
///
/// A client that has closed its sending side (FIN) may have closed the other one, too: only sending to it would tell.
/// It is served on, but gives way as soon as there is no place for another one, the oldest FIN first.
#[derive(Debug, Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    max: usize,
    state: Mutex<State>,
    handshakes: Arc<AtomicUsize>,
    refusals: Mutex<RefusalLog>,
}

#[derive(Default)]
struct State {
    /// Places that are taken.
    taken: usize,
    /// The half-closed clients that have a place, in the order of their FINs.
    half_closed: BTreeMap<u64, GiveWay>,
    /// The number of the next FIN.
    next: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("max", &self.max).finish_non_exhaustive()
    }
}

/// The right to one of the places; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    places: Arc<Shared>,
    /// The number of the FIN.
    half_closed: Option<u64>,
}

/// The right to one of the handshakes at a time; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit(Arc<AtomicUsize>);

/// The reasons of refusals, each with a log limiter of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refusal {
    /// The limit of connections or handshakes.
    Limit,
    /// A lack of resources of this host, such as descriptors.
    Resources,
    /// The handshake has failed, for reasons that differ.
    Handshake,
    /// The address is not allowed.
    Address,
}

struct RefusalLog {
    limit: LogLimiter,
    resources: LogLimiter,
    handshake: LogLimiter,
    address: LogLimiter,
}

impl Default for RefusalLog {
    fn default() -> Self {
        /// Messages in ten seconds about refusals that peers bring about.
        const BURST: u32 = 10;
        Self {
            limit: LogLimiter::default(),
            resources: LogLimiter::default(),
            handshake: LogLimiter::with_burst(BURST),
            address: LogLimiter::with_burst(BURST),
        }
    }
}

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let (state, refusals) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { max, state, handshakes: Arc::default(), refusals }))
    }

    /// The number of places.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }

    /// Takes a place: a free one, or else that of the half-closed client with the oldest FIN.
    #[must_use]
    pub fn acquire(&self) -> Option<Permit> {
        let give_way = {
            let mut state = self.0.lock();
            if state.taken < self.0.max {
                state.taken += 1;
                None
            } else {
                // The count stays as it is: this place changes hands.
                Some(state.half_closed.pop_first()?.1)
            }
        };
        // Not under the lock, which its owner may be about to take.
        if let Some(give_way) = give_way {
            give_way();
        }
        Some(Permit { places: self.0.clone(), half_closed: None })
    }

    /// Has the half-closed client with the oldest FIN give way, though nobody takes its place. False if there is none.
    pub(crate) fn give_way(&self) -> bool {
        let give_way = {
            let mut state = self.0.lock();
            let oldest = state.half_closed.pop_first();
            state.taken -= usize::from(oldest.is_some());
            oldest
        };
        let Some((_, give_way)) = give_way else { return false };
        give_way();
        true
    }

    pub(crate) fn begin_handshake(&self) -> Option<HandshakePermit> {
        let others = self.0.handshakes.fetch_add(1, Ordering::SeqCst);
        let permit = HandshakePermit(self.0.handshakes.clone());
        (others < MAX_HANDSHAKES).then_some(permit)
    }

    /// Whether to log one more refusal of this kind.
    pub(crate) fn permits_log(&self, refusal: Refusal) -> bool {
        let mut log = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = match refusal {
            Refusal::Limit => &mut log.limit,
            Refusal::Resources => &mut log.resources,
            Refusal::Handshake => &mut log.handshake,
            Refusal::Address => &mut log.address,
        };
        limiter.permits()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The client has closed its sending side: from now on it gives way when its place is needed, and `give_way` is
    /// called. That has it closed, from whatever thread it is called on, but does not wait for it. Once is enough.
    pub(crate) fn half_closed(&mut self, give_way: GiveWay) {
        if self.half_closed.is_none() {
            let mut state = self.places.lock();
            let number = state.next;
            state.next += 1;
            state.half_closed.insert(number, give_way);
            self.half_closed = Some(number);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        // A half-closed client that is not among them any more has given way: its place is another's.
        let own = self.half_closed.is_none_or(|number| state.half_closed.remove(&number).is_some());
        state.taken -= usize::from(own);
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Warns if this process may not have as many descriptors as the connections of so many `Places` with `max` each need.
pub fn check_descriptor_limit(places: usize, max: usize) {
    let (limit, needed) =
        (sys::descriptor_limit(), places.saturating_mul(max).saturating_add(OTHER_DESCRIPTORS));
    if places > 0 && limit < needed {
        log::warn(format_args!(
            "--max-clients {max} needs {needed} descriptors, and the limit is {limit} (ulimit -n)"
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Takes all places; permits at even indexes are those of half-closed clients, in the order `fins`.
    fn full(places: &Places, fins: &[usize]) -> (Vec<Option<Permit>>, Receiver<usize>) {
        let (told, given_way) = channel();
        let mut permits: Vec<_> = (0..places.max()).map(|_| Some(places.acquire().unwrap())).collect();
        for &index in fins {
            let told = told.clone();
            let permit = permits[index].as_mut().unwrap();
            permit.half_closed(Box::new(move || told.send(index).unwrap()));
            permit.half_closed(Box::new(|| panic!("registered twice")));
        }
        (permits, given_way)
    }

    fn taken(places: &Places) -> usize {
        places.0.lock().taken
    }

    #[test]
    fn the_oldest_fin_gives_way_first_and_its_place_changes_hands_once() {
        let places = Places::new(4);
        let (mut permits, given_way) = full(&places, &[2, 0]);
        let new = [places.acquire().unwrap(), places.acquire().unwrap()];
        assert_eq!(given_way.try_iter().collect::<Vec<_>>(), [2, 0]);
        assert!(places.acquire().is_none());
        // Those that have given way free no place when they end, the others do.
        permits[2] = None;
        permits[0] = None;
        assert_eq!(taken(&places), 4);
        assert!(places.acquire().is_none());
        permits[1] = None;
        let next = places.acquire().unwrap();
        assert!(places.acquire().is_none());
        drop((new, next, permits));
        assert_eq!(taken(&places), 0);
    }

    #[test]
    fn a_free_place_is_taken_before_anybody_gives_way() {
        let places = Places::new(2);
        let (mut permits, given_way) = full(&places, &[0]);
        permits[1] = None;
        let _free = places.acquire().unwrap();
        assert_eq!(given_way.try_iter().count(), 0);
        // A half-closed client that has ended is told nothing, and its place is free.
        permits[0] = None;
        let _last = places.acquire().unwrap();
        assert!(places.acquire().is_none());
        assert_eq!(given_way.try_iter().count(), 0);
    }

    #[test]
    fn a_lack_of_descriptors_frees_the_place_at_once() {
        let places = Places::new(3);
        let (permits, given_way) = full(&places, &[1, 0]);
        assert!(places.give_way());
        assert_eq!((given_way.try_iter().collect::<Vec<_>>(), taken(&places)), (vec![1], 2));
        assert!(places.give_way());
        assert!(!places.give_way());
        assert_eq!((given_way.try_iter().collect::<Vec<_>>(), taken(&places)), (vec![0], 1));
        drop(permits);
        assert_eq!(taken(&places), 0);
    }

    #[test]
    fn handshakes_have_a_limit_of_their_own() {
        let places = Places::new(0);
        let mut permits: Vec<_> =
            std::iter::repeat_with(|| places.begin_handshake()).map_while(|permit| permit).collect();
        assert_eq!(permits.len(), MAX_HANDSHAKES);
        permits.pop();
        assert!(places.begin_handshake().is_some());
    }
}
