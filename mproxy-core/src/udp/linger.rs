//! Linger: a listener waits for more after a first datagram, since each wake-up costs more than a datagram.
//!
//! What waits is in the receive buffer, which must not overflow meanwhile. So the wait is made of slices, each short
//! enough for the buffer, and after each the receive queue is looked at: once it makes a full send, more of it
//! gains nothing, and it goes at once. A stream at full speed does not linger, then.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::sys;

/// The bytes of a receive queue that make a full send: what one offloaded send takes.
const FULL: usize = 65_536;

/// The shortest slice. One thread sends lone datagrams no faster than they fill the smallest receive buffer that
/// systems have by default in twice that.
const SHORTEST_SLICE: Duration = Duration::from_micros(250);

/// The bytes of the receive buffer for each nanosecond of a slice: 32 Gbit/s would fill it.
const BYTES_PER_NANOSECOND: usize = 4;

/// How long the receive queue can be left alone before the next look; none if it makes a full send, or is not told.
pub(super) fn slice(socket: &UdpSocket, buffer: usize) -> Option<Duration> {
    let queued = sys::receive_queue_bytes(socket).ok()?;
    let nanoseconds = u64::try_from(buffer / BYTES_PER_NANOSECOND).unwrap_or(u64::MAX);
    (queued < FULL.min(buffer / 4)).then(|| Duration::from_nanos(nanoseconds).max(SHORTEST_SLICE))
}

/// A pause of a source that its owner polls: its sockets do not wake the owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    /// When to look at the receive queues next.
    pub(super) until: Instant,
    pub(super) end: Instant,
    pub(super) reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Linger,
    /// A receive has failed.
    Error,
}

impl Pause {
    pub(super) fn after_error(pause: Duration) -> Self {
        let end = Instant::now() + pause;
        Self { until: end, end, reason: Reason::Error }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::net::endpoint::{Endpoint, Role};
    use crate::net::options::Options;
    use crate::relay::batch::Batch;
    use crate::relay::flow::{Flow, PollKeys, PolledSource, Source};
    use crate::relay::stats::{Direction, Registry};
    use crate::relay::stop::Stop;
    use crate::sys::{Events, PollSet};
    use crate::udp::source::UdpSource;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A source with a poll set of its own, and a socket that sends to it.
    struct Polled {
        source: UdpSource,
        set: Arc<PollSet>,
        events: Events,
        sender: UdpSocket,
        batch: Batch,
    }

    impl Polled {
        fn new(linger: Duration) -> Self {
            let options = Options::new().linger(linger);
            let endpoint =
                Endpoint::parse("127.0.0.1:0", Role::UdpListener).unwrap().resolve(&options).unwrap();
            let meter = Registry::default().endpoint("listener", Direction::In);
            let stop = Stop::new().unwrap();
            let mut source = UdpSource::open(&endpoint, &options, &meter, &stop).unwrap().remove(0);
            let set = PollSet::new().unwrap();
            source.poll_with(&set, PollKeys::of(3).unwrap()).unwrap();
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.connect(source.local_addr().unwrap()).unwrap();
            let batch = Batch::with_capacity(source.capacity());
            Self { source, set, events: Events::new(), sender, batch }
        }

        /// Waits for a socket, or for the deadline if there is one before the timeout; whether a socket was ready.
        fn wait(&mut self, timeout: Duration) -> bool {
            let deadline = self.source.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            self.set.wait(&mut self.events, Some(deadline.unwrap_or(timeout).min(timeout))).unwrap();
            let keys: Vec<_> = self.events.iter().map(|(key, _)| PollKeys::split(key)).collect();
            for (owner, index) in &keys {
                assert_eq!(*owner, 3);
                self.source.ready(*index);
            }
            !keys.is_empty()
        }

        fn receive(&mut self) -> usize {
            self.batch.clear();
            assert_eq!(self.source.receive(&mut self.batch).unwrap(), Flow::More);
            self.batch.count()
        }

        /// Receives until nothing is left.
        fn receive_rest(&mut self) {
            while self.source.deadline().is_some_and(|at| at <= Instant::now()) {
                assert_eq!(self.receive(), 0);
            }
        }
    }

    #[test]
    fn a_first_datagram_waits_for_more_without_a_wake_up() {
        let linger = Duration::from_millis(90);
        let mut polled = Polled::new(linger);
        for _ in 0..2 {
            let begin = Instant::now();
            polled.sender.send(b"one").unwrap();
            assert!(polled.wait(LONG));
            assert_eq!(polled.receive(), 0);
            polled.sender.send(b"two").unwrap();
            let mut received = 0;
            while received == 0 {
                assert!(!polled.wait(LONG), "its sockets wake nobody");
                received = polled.receive();
            }
            assert!(begin.elapsed() >= linger);
            while received < 2 {
                received += polled.receive();
            }
            polled.receive_rest();
        }
    }

    #[test]
    fn what_makes_a_full_send_goes_at_once() {
        if sys::NAME == "windows" {
            // FIONREAD may tell the next datagram alone.
            return;
        }
        let mut polled = Polled::new(Duration::from_millis(100));
        for _ in 0..3 {
            polled.sender.send(&vec![0; 30_000]).unwrap();
        }
        assert!(polled.wait(LONG));
        let begin = Instant::now();
        let mut received = 0;
        while received < 3 {
            received += polled.receive();
        }
        assert!(begin.elapsed() < Duration::from_millis(90));
    }

    #[test]
    fn without_linger_it_is_received_at_once() {
        let mut polled = Polled::new(Duration::ZERO);
        assert_eq!(polled.source.deadline(), None);
        for _ in 0..2 {
            polled.sender.send(b"one").unwrap();
            assert!(polled.wait(LONG));
            assert_eq!(polled.receive(), 1);
        }
        assert!(!polled.source.pause(true));
    }

    #[test]
    fn a_drain_gives_what_lingers_and_ends() {
        let mut polled = Polled::new(Duration::from_millis(100));
        polled.sender.send(b"one").unwrap();
        assert!(polled.wait(LONG));
        assert_eq!(polled.receive(), 0);
        polled.source.drain();
        assert!(polled.source.deadline().unwrap() <= Instant::now());
        assert_eq!(polled.receive(), 1);
        assert_eq!(polled.source.receive(&mut polled.batch).unwrap(), Flow::End);
    }
}
