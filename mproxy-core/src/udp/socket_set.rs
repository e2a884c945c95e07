//! The bound sockets of one source, which are received from in turn.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use super::io::{Missed, POLL_BEFORE_RECEIVE, Receiver};
use crate::io::poll::wait;
use crate::net::options::Options;
use crate::net::routes::Route;
use crate::relay::batch::Batch;
use crate::relay::stop::Stop;
use crate::sys;

#[derive(Debug)]
pub(super) struct SocketSet {
    /// One at a unicast address; at a group one for each interface that has joined.
    sockets: Vec<BoundSocket>,
    /// The index of the socket to receive from first.
    next: usize,
    /// The owner of the source polls: a receive does not.
    external_poll: bool,
    stop: Stop,
}

#[derive(Debug)]
pub(super) struct BoundSocket {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) receiver: Receiver,
    /// The group and the interface that has joined it.
    pub(super) route: Option<Arc<Route>>,
}

impl SocketSet {
    pub(super) fn new(stop: &Stop) -> Self {
        Self { sockets: Vec::new(), next: 0, external_poll: false, stop: stop.clone() }
    }

    /// Adds a socket, whose blocking receive returns at a stop, and after the time-out.
    pub(super) fn add(
        &mut self,
        socket: UdpSocket,
        route: Option<Arc<Route>>,
        options: &Options,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        socket.set_read_timeout(timeout)?;
        if self.external_poll || POLL_BEFORE_RECEIVE {
            socket.set_nonblocking(true)?;
        }
        let group = route.as_ref().and_then(|route| route.addresses.first()).map(SocketAddr::ip);
        let receiver = Receiver::new(&socket, group, options.allow.clone(), options.transparent);
        let socket = Arc::new(socket);
        self.stop.watch(&socket);
        self.sockets.push(BoundSocket { socket, receiver, route });
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

    /// From now on the owner polls, and a receive neither polls nor blocks.
    pub(super) fn use_external_poll(&mut self) -> io::Result<()> {
        self.external_poll = true;
        self.set_all_nonblocking()
    }

    /// Has a receive block where nobody polls: a single socket's; several are polled together.
    pub(super) fn sync_blocking(&self) -> io::Result<()> {
        let nonblocking = self.external_poll || self.must_poll();
        self.each(|bound| bound.socket.set_nonblocking(nonblocking))
    }

    /// Whether a receive that would block is followed by a [`poll`](Self::poll).
    pub(super) fn must_poll(&self) -> bool {
        !self.external_poll && (POLL_BEFORE_RECEIVE || self.sockets.len() != 1)
    }

    /// What to poll.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.sockets.iter().map(|bound| PollFd::new(&*bound.socket, PollFlags::IN))
    }

    /// Waits until a socket is readable, for a stop, or for the time-out.
    pub(super) fn poll(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = self.poll_fds().collect();
        wait(&mut fds, timeout, &self.stop).map(drop)
    }

    /// Receives from the first socket that has something; the others come first next time.
    pub(super) fn receive(&mut self, batch: &mut Batch) -> io::Result<Missed> {
        let count = self.sockets.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let bound = &mut self.sockets[index];
            match bound.receiver.receive(&bound.socket, batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
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
