//! Handshakes: a table of the connections that are in theirs, or linger after it has failed.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use crate::sys::{Interest, PollSet, Registration};
use crate::tcp::connection::{Connection, discard_socket_input};
use crate::tcp::places::HandshakePermit;
use crate::tcp::transport::{EstablishError, HANDSHAKE_TIMEOUT, Handshake, LINGER_TIMEOUT, Step};

/// The handshakes that one thread goes on with, as their peers do.
pub(crate) struct Handshakes {
    set: Arc<PollSet>,
    /// The key of the first entry in the poll set; those below are others'.
    first_key: usize,
    entries: Vec<Option<Entry>>,
    /// The indexes without an entry.
    free: Vec<usize>,
    /// The deadline and the index of each entry.
    deadlines: BTreeSet<(Instant, usize)>,
}

struct Entry {
    registration: Registration<TcpStream>,
    /// None if it has failed, and the connection lingers.
    handshake: Option<Box<dyn Handshake>>,
    peer: SocketAddr,
    deadline: Instant,
    permit: HandshakePermit,
}

/// What became of a handshake.
pub(crate) enum Outcome {
    Done(Box<dyn Connection>, SocketAddr),
    Failed(EstablishError, SocketAddr),
}

impl Handshakes {
    pub(crate) fn new(set: &Arc<PollSet>, first_key: usize) -> Self {
        let (entries, free, deadlines) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { set: set.clone(), first_key, entries, free, deadlines }
    }

    /// When to [expire](Self::expire) the next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Adds a handshake, and goes on with it as far as that is possible now.
    pub(crate) fn add(
        &mut self,
        mut handshake: Box<dyn Handshake>,
        peer: SocketAddr,
        permit: HandshakePermit,
    ) -> Option<Outcome> {
        let step = handshake.proceed();
        if matches!(step, Ok(Step::Done)) {
            return Some(Outcome::Done(handshake.into_connection(), peer));
        }
        let index = self.free.pop().unwrap_or(self.entries.len());
        let interest = step.as_ref().map_or(Interest::READ, |step| interest(*step));
        let registered = Registration::new(handshake.socket(), &self.set, self.first_key + index, interest);
        let registration = match registered {
            Ok(registration) => registration,
            Err(error) => {
                handshake.abort();
                if index < self.entries.len() {
                    self.free.push(index);
                }
                return Some(Outcome::Failed(error.into(), peer));
            }
        };
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let entry = Entry { registration, handshake: Some(handshake), peer, deadline, permit };
        if index == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[index] = Some(entry);
        self.deadlines.insert((deadline, index));
        step.err().and_then(|error| self.fail(index, error))
    }

    /// Goes on with the entry that has this key, since its socket is ready.
    pub(crate) fn ready(&mut self, key: usize) -> Option<Outcome> {
        let index = key.checked_sub(self.first_key)?;
        let entry = self.entries.get_mut(index)?.as_mut()?;
        let Some(handshake) = &mut entry.handshake else {
            if !discard_socket_input(entry.registration.socket()) {
                self.remove(index);
            }
            return None;
        };
        let step = handshake.proceed();
        if let Ok(Step::Done) = step {
            let Entry { registration, handshake, peer, .. } = self.remove(index)?;
            drop(registration);
            return Some(Outcome::Done(handshake?.into_connection(), peer));
        }
        let waiting = step.and_then(|step| Ok(entry.registration.set_interest(interest(step))?));
        waiting.err().and_then(|error| self.fail(index, error))
    }

    /// Ends an entry whose time is up: a handshake fails, and one that lingers is closed.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Outcome> {
        while let Some((_, index)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)
        {
            let failed = self.fail(index, EstablishError::timed_out());
            if failed.is_some() {
                return failed;
            }
            self.remove(index);
        }
        None
    }

    /// Drops the entry whose time is up first. Returns its permit, and its peer if the handshake had not failed yet.
    pub(crate) fn displace(&mut self) -> Option<(HandshakePermit, Option<SocketAddr>)> {
        let (_, index) = self.deadlines.first().copied()?;
        let Entry { handshake, peer, permit, .. } = self.remove(index)?;
        Some((permit, handshake.map(|_| peer)))
    }

    /// Has the connection linger; none if it does already.
    fn fail(&mut self, index: usize, error: EstablishError) -> Option<Outcome> {
        let entry = self.entries.get_mut(index)?.as_mut()?;
        let mut handshake = entry.handshake.take()?;
        handshake.abort();
        drop(handshake);
        self.deadlines.remove(&(entry.deadline, index));
        entry.deadline = Instant::now() + LINGER_TIMEOUT;
        self.deadlines.insert((entry.deadline, index));
        let peer = entry.peer;
        if entry.registration.set_interest(Interest::READ).is_err() {
            self.remove(index);
        }
        Some(Outcome::Failed(error, peer))
    }

    fn remove(&mut self, index: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(index)?.take()?;
        self.deadlines.remove(&(entry.deadline, index));
        self.free.push(index);
        Some(entry)
    }
}

fn interest(step: Step) -> Interest {
    match step {
        Step::Read => Interest::READ,
        Step::Write => Interest::WRITE,
        Step::Done => Interest::NONE,
    }
}
