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

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::time::Duration;

    use super::*;
    use crate::sys::Events;
    use crate::tcp::places::Places;

    /// A handshake of one byte: `y` or `n`.
    struct OneByte(Arc<TcpStream>);

    impl Handshake for OneByte {
        fn socket(&self) -> &Arc<TcpStream> {
            &self.0
        }

        fn proceed(&mut self) -> Result<Step, EstablishError> {
            let mut byte = [0];
            match (&*self.0).read(&mut byte) {
                Ok(1) if byte == *b"y" => Ok(Step::Done),
                Ok(0) => Err(EstablishError::PortProbe),
                Ok(_) => Err(EstablishError::Refused("no".into())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::Read),
                Err(error) => Err(error.into()),
            }
        }

        fn abort(&mut self) {
            (&*self.0).write_all(b"alert").unwrap();
            self.0.shutdown(Shutdown::Write).unwrap();
        }

        fn into_connection(self: Box<Self>) -> Box<dyn Connection> {
            Box::new(self.0)
        }
    }

    struct Table {
        listener: TcpListener,
        set: Arc<PollSet>,
        places: Places,
        handshakes: Handshakes,
    }

    impl Table {
        /// The keys below are others'.
        const FIRST_KEY: usize = 3;

        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let set = PollSet::new().unwrap();
            let handshakes = Handshakes::new(&set, Self::FIRST_KEY);
            Self { listener, set, places: Places::new(1), handshakes }
        }

        /// A peer that has sent these bytes, and what became of its handshake so far.
        fn connect(&mut self, bytes: &[u8]) -> (TcpStream, Option<Outcome>) {
            let mut peer = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            peer.write_all(bytes).unwrap();
            let (socket, address) = self.listener.accept().unwrap();
            if !bytes.is_empty() {
                socket.peek(&mut [0]).unwrap();
            }
            socket.set_nonblocking(true).unwrap();
            let permit = self.places.begin_handshake().unwrap();
            let outcome = self.handshakes.add(Box::new(OneByte(Arc::new(socket))), address, permit);
            (peer, outcome)
        }

        /// Waits until sockets are ready, and goes on with their handshakes.
        fn turn(&mut self) -> Vec<Outcome> {
            let mut events = Events::new();
            self.set.wait(&mut events, Some(Duration::from_secs(30))).unwrap();
            let keys: Vec<_> = events.iter().map(|(key, _)| key).collect();
            assert!(!keys.is_empty() && keys.iter().all(|key| *key >= Self::FIRST_KEY), "{keys:?}");
            keys.into_iter().filter_map(|key| self.handshakes.ready(key)).collect()
        }

        fn len(&self) -> usize {
            let len = self.handshakes.entries.iter().flatten().count();
            assert_eq!(len, self.handshakes.deadlines.len());
            assert_eq!(len + self.handshakes.free.len(), self.handshakes.entries.len());
            len
        }
    }

    fn is_done(outcome: &Outcome, of: &TcpStream) -> bool {
        matches!(outcome, Outcome::Done(_, peer) if *peer == of.local_addr().unwrap())
    }

    fn is_refused(outcome: &Outcome, of: &TcpStream) -> bool {
        let address = of.local_addr().unwrap();
        matches!(outcome, Outcome::Failed(EstablishError::Refused(_), peer) if *peer == address)
    }

    fn rest(mut peer: &TcpStream) -> Vec<u8> {
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        rest
    }

    #[test]
    fn those_whose_peers_are_quick_are_done_first() {
        let mut table = Table::new();
        let (at_once, outcome) = table.connect(b"y");
        assert!(is_done(&outcome.unwrap(), &at_once));
        assert_eq!(table.len(), 0);
        let [(mut slow, _), (mut quick, _)] = [(); 2].map(|()| table.connect(b""));
        assert_eq!(table.len(), 2);
        for peer in [&mut quick, &mut slow] {
            peer.write_all(b"y").unwrap();
            let outcomes = table.turn();
            assert!(is_done(&outcomes[0], peer) && outcomes.len() == 1);
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_failed_one_lingers_until_its_peer_has_closed_too() {
        let mut table = Table::new();
        let (at_once, outcome) = table.connect(b"n and more that nobody reads");
        assert!(is_refused(&outcome.unwrap(), &at_once));
        let (mut later, none) = table.connect(b"");
        assert!(none.is_none());
        later.write_all(b"n").unwrap();
        while !table.turn().iter().any(|outcome| is_refused(outcome, &later)) {}
        assert_eq!(table.len(), 2);
        for peer in [at_once, later] {
            assert_eq!(rest(&peer), b"alert");
            let before = table.len();
            drop(peer);
            while table.len() == before {
                assert_eq!(table.turn().len(), 0);
            }
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn time_is_up_once_for_the_handshake_and_once_for_the_linger() {
        let mut table = Table::new();
        let peer = table.connect(b"").0;
        let deadline = table.handshakes.deadline().unwrap();
        assert!(table.handshakes.expire(Instant::now()).is_none());
        let Some(Outcome::Failed(error, address)) = table.handshakes.expire(deadline) else {
            panic!("it goes on");
        };
        assert_eq!(
            (error.to_string().as_str(), address),
            ("no TLS handshake in 10 seconds", peer.local_addr().unwrap())
        );
        assert_eq!(rest(&peer), b"alert");
        assert_eq!(table.len(), 1);
        let deadline = table.handshakes.deadline().unwrap();
        assert!(table.handshakes.expire(deadline).is_none());
        assert_eq!((table.len(), table.handshakes.deadline()), (0, None));
    }

    #[test]
    fn the_oldest_is_displaced_and_those_that_linger_first() {
        let mut table = Table::new();
        let [(oldest, _), (younger, _), (failed, _)] =
            [&b""[..], b"", b"n"].map(|bytes| table.connect(bytes));
        for (peer, has_failed) in [(&failed, true), (&oldest, false), (&younger, false)] {
            let (_permit, displaced) = table.handshakes.displace().unwrap();
            assert_eq!(displaced, (!has_failed).then(|| peer.local_addr().unwrap()));
            assert_eq!(rest(peer), if has_failed { &b"alert"[..] } else { b"" });
        }
        assert!(table.handshakes.displace().is_none());
        // The indexes are used again.
        let (mut peer, _) = table.connect(b"");
        assert_eq!((table.len(), table.handshakes.entries.len()), (1, 3));
        peer.write_all(b"y").unwrap();
        assert!(is_done(&table.turn()[0], &peer));
    }
}
