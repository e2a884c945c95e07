//! The bound sockets of one source, which are received from in turn.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use super::io::{Missed, POLL_BEFORE_RECEIVE, Receiver};
use super::linger::slice;
use crate::io::poll::{Wait, wait};
use crate::net::options::Options;
use crate::net::routes::Route;
use crate::relay::batch::Batch;
use crate::relay::flow::PollKeys;
use crate::relay::stop::Stop;
use crate::sys::{self, Interest, PollSet, Registration};

#[derive(Debug)]
pub(super) struct SocketSet {
    /// One at a unicast address; at a group one for each interface that has joined.
    sockets: Vec<BoundSocket>,
    /// The index of the socket to receive from first.
    next: usize,
    /// The owner polls with this set.
    polled: Option<Polled>,
    /// How long to wait for more after a first datagram.
    linger: Duration,
    stop: Stop,
}

#[derive(Debug)]
pub(super) struct BoundSocket {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) receiver: Receiver,
    /// The group and the interface that has joined it.
    pub(super) route: Option<Arc<Route>>,
    /// The size of the receive buffer.
    buffer: usize,
    /// The last receive has left nothing; what has come since, a poll tells.
    is_drained: bool,
    registration: Option<Registration<UdpSocket>>,
}

/// The poll set of the owner.
#[derive(Debug)]
struct Polled {
    set: Arc<PollSet>,
    keys: PollKeys,
    /// Sockets that were added, ever: the index of the next one's key.
    added: usize,
}

impl Polled {
    fn register(&mut self, socket: &Arc<UdpSocket>) -> io::Result<Registration<UdpSocket>> {
        self.added += 1;
        Registration::new(socket, &self.set, self.keys.key(self.added), Interest::READ)
    }
}

impl SocketSet {
    pub(super) fn new(linger: Duration, stop: &Stop) -> Self {
        Self { sockets: Vec::new(), next: 0, polled: None, linger, stop: stop.clone() }
    }

    /// Adds a socket, whose blocking receive returns at a stop, and after the time-out.
    pub(super) fn add(
        &mut self,
        socket: impl Into<Arc<UdpSocket>>,
        route: Option<Arc<Route>>,
        options: &Options,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let socket = socket.into();
        socket.set_read_timeout(timeout)?;
        if POLL_BEFORE_RECEIVE || self.is_polled() || self.lingers() {
            socket.set_nonblocking(true)?;
        }
        let buffer = sys::recv_buffer_size(&SockRef::from(&socket))?;
        let group = route.as_ref().and_then(|route| route.addresses.first()).map(SocketAddr::ip);
        let receiver = Receiver::new(&socket, group, options.allow.clone(), options.transparent);
        self.stop.watch(&socket);
        let registration = self.polled.as_mut().map(|polled| polled.register(&socket)).transpose()?;
        self.sockets.push(BoundSocket { socket, receiver, route, buffer, is_drained: true, registration });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &BoundSocket> {
        self.sockets.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut BoundSocket> {
        self.sockets.iter_mut()
    }

    /// Closes the sockets for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&BoundSocket) -> bool) {
        self.sockets.retain(keep);
    }

    /// The address of the first socket; none if there is no socket.
    pub(super) fn local_addr(&self) -> Option<io::Result<SocketAddr>> {
        self.sockets.first().map(|bound| bound.socket.local_addr())
    }

    /// Adds the sockets to the poll set, now and when they come. From now on the owner polls, and a receive neither
    /// polls nor blocks.
    pub(super) fn poll_with(&mut self, set: &Arc<PollSet>, keys: PollKeys) -> io::Result<()> {
        let mut polled = Polled { set: set.clone(), keys, added: 0 };
        for bound in &mut self.sockets {
            bound.socket.set_nonblocking(true)?;
            bound.registration = Some(polled.register(&bound.socket)?);
        }
        self.polled = Some(polled);
        Ok(())
    }

    /// Has sockets in the owner's poll set wake the owner or not.
    pub(super) fn set_interest(&mut self, interest: Interest) -> io::Result<()> {
        for registration in self.sockets.iter_mut().filter_map(|bound| bound.registration.as_mut()) {
            registration.set_interest(interest)?;
        }
        Ok(())
    }

    /// Whether the owner polls with its poll set.
    pub(super) fn has_poll_set(&self) -> bool {
        self.polled.is_some()
    }

    fn is_polled(&self) -> bool {
        self.has_poll_set()
    }

    /// Whether a first datagram waits for more. Who polls the descriptors himself is not told when that is over.
    pub(super) fn lingers(&self) -> bool {
        !self.linger.is_zero()
    }

    /// When a linger that begins now is over.
    pub(super) fn linger_end(&self) -> Instant {
        Instant::now() + self.linger
    }

    /// How long to linger before the next look at the receive queues; none if it is over, or there is enough to go.
    pub(super) fn next_slice(&self, end: Instant) -> Option<Duration> {
        let mut shortest = end.saturating_duration_since(Instant::now());
        if shortest.is_zero() {
            return None;
        }
        for bound in &self.sockets {
            shortest = shortest.min(slice(&bound.socket, bound.buffer)?);
        }
        Some(shortest)
    }

    /// Whether the last receives have left nothing in any receive queue.
    pub(super) fn are_drained(&self) -> bool {
        self.sockets.iter().all(|bound| bound.is_drained)
    }

    /// Any receive queue may have something now.
    pub(super) fn set_undrained(&mut self) {
        for bound in &mut self.sockets {
            bound.is_drained = false;
        }
    }

    /// Has a receive block where nobody polls: a single socket's; several are polled together.
    pub(super) fn sync_blocking(&self) -> io::Result<()> {
        let nonblocking = self.is_polled() || self.lingers() || self.must_poll();
        self.each(|bound| bound.socket.set_nonblocking(nonblocking))
    }

    /// Whether a receive that would block is followed by a [`poll`](Self::poll). With linger the poll comes first.
    pub(super) fn must_poll(&self) -> bool {
        !self.is_polled() && !self.lingers() && (POLL_BEFORE_RECEIVE || self.sockets.len() != 1)
    }

    /// What to poll.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.sockets.iter().map(|bound| PollFd::new(&*bound.socket, PollFlags::IN))
    }

    /// Waits until a socket is readable, for a stop, or for the time-out.
    pub(super) fn poll(&self, timeout: Option<Duration>) -> io::Result<Wait> {
        let mut fds: Vec<PollFd<'_>> = self.poll_fds().collect();
        wait(&mut fds, timeout, &self.stop)
    }

    /// Receives from the first socket that has something; the others come first next time.
    pub(super) fn receive(&mut self, batch: &mut Batch) -> io::Result<Missed> {
        let count = self.sockets.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let bound = &mut self.sockets[index];
            match bound.receiver.receive(&bound.socket, batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => bound.is_drained = true,
                result => {
                    bound.is_drained = result.is_ok() && !bound.receiver.may_have_left_some();
                    self.next = index + 1;
                    return result;
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Has no receive block from now on.
    pub(super) fn set_all_nonblocking(&self) -> io::Result<()> {
        self.each(|bound| bound.socket.set_nonblocking(true))
    }

    /// Has the system deliver nothing more to the sockets. Whether it can do that.
    pub(super) fn stop_input(&self) -> bool {
        self.each(|bound| sys::stop_input(&SockRef::from(&*bound.socket))).is_ok()
    }

    /// Does it with each socket, and returns the first error.
    fn each(&self, what: impl Fn(&BoundSocket) -> io::Result<()>) -> io::Result<()> {
        let mut result = Ok(());
        for bound in &self.sockets {
            result = result.and(what(bound));
        }
        result
    }
}
