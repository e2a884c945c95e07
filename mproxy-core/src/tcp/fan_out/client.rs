//! One client of a fan-out: its connection, and its cursor into the ring.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::io::poll::poll_for;
use crate::io::ring::{Counts, Position, Ring};
use crate::sys::{self, Interest, PollSet, Registration};
use crate::tcp::connection::{Connection, discard_input, discard_socket_input};
use crate::tcp::places::Permit;
use crate::tcp::stall::StallWatch;

/// A client. Its connection never blocks, and its cursor is where in the stream it goes on.
pub(super) struct Client {
    connection: Box<dyn Connection>,
    registration: Registration<TcpStream>,
    pub(super) peer: SocketAddr,
    /// Tells it from the clients that had its place in the table before.
    pub(super) id: u64,
    cursor: Position,
    /// What ends at or before the cursor.
    before: Counts,
    /// The rest of a datagram that it has begun and that the ring does not have any more: it comes before the cursor.
    rest: Option<Box<Rest>>,
    /// What it was too slow for.
    pub(super) missed: Counts,
    /// Not everything was taken: it is written to when it has room.
    pub(super) is_lagging: bool,
    /// No FIN has come yet.
    has_input: bool,
    /// When a message has last told what it has missed.
    pub(super) told: Option<std::time::Instant>,
    /// Bytes that the socket has taken.
    written: u64,
    stall: StallWatch,
    permit: Permit,
}

/// The rest of a datagram.
struct Rest {
    bytes: Vec<u8>,
    sent: usize,
    /// That datagram.
    counts: Counts,
}

/// What came of an event.
pub(super) enum Input {
    /// The client goes on.
    Open,
    /// Its FIN has come: it is half-closed.
    HalfClosed,
}

impl Client {
    /// Takes a connection, which gets what comes from now on.
    pub(super) fn new(
        connection: Box<dyn Connection>,
        peer: SocketAddr,
        permit: Permit,
        ring: &Ring,
        (set, key, id): (&Arc<PollSet>, usize, u64),
    ) -> io::Result<Self> {
        connection.socket().set_nonblocking(true)?;
        let registration = Registration::new(connection.socket(), set, key, Interest::READ)?;
        let cursor = ring.head();
        Ok(Self {
            connection,
            registration,
            peer,
            id,
            cursor,
            before: ring.ended_by(cursor),
            rest: None,
            missed: Counts::default(),
            is_lagging: false,
            has_input: true,
            told: None,
            written: 0,
            stall: StallWatch::default(),
            permit,
        })
    }

    pub(super) fn permit(&mut self) -> &mut Permit {
        &mut self.permit
    }

    pub(super) fn cursor(&self) -> Position {
        self.cursor
    }

    /// Bytes that the peer has acknowledged; those that the socket has taken where the system does not tell.
    pub(super) fn acknowledged(&self) -> u64 {
        self.written.saturating_sub(sys::unacknowledged_bytes(self.connection.socket()))
    }

    /// Bytes that the socket has taken.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes what it lacks, `turn` bytes at most, and adds the datagrams that are complete by that to `passed`. From
    /// then on it is lagging if that is not all.
    pub(super) fn write(&mut self, ring: &Ring, turn: usize, passed: &mut Counts) -> io::Result<()> {
        let taken = self.take(ring, turn);
        let before = ring.ended_by(self.cursor);
        *passed += before - self.before;
        self.before = before;
        if let Some(rest) = self.rest.take_if(|rest| rest.sent == rest.bytes.len()) {
            *passed += rest.counts;
        }
        let caught_up = taken?;
        if caught_up == self.is_lagging {
            self.is_lagging = !caught_up;
            self.sync_interest()?;
        }
        Ok(())
    }

    /// Whether it has taken everything.
    fn take(&mut self, ring: &Ring, mut turn: usize) -> io::Result<bool> {
        if self.flush()?.is_none() {
            return Ok(false);
        }
        loop {
            let rest = self.rest.as_ref().map_or(&[][..], |rest| &rest.bytes[rest.sent..]);
            let [first, second] = if rest.is_empty() { ring.slices(self.cursor) } else { [rest, &[]] };
            if first.is_empty() {
                return Ok(true);
            }
            if turn == 0 {
                return Ok(false);
            }
            let first = &first[..first.len().min(turn)];
            let second = &second[..second.len().min(turn - first.len())];
            let offered = first.len() + second.len();
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            let len = match self.connection.write(&slices[..if second.is_empty() { 1 } else { 2 }]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            turn -= len;
            match &mut self.rest {
                Some(rest) if rest.sent < rest.bytes.len() => rest.sent += len,
                _ => self.cursor = self.cursor.advance(len),
            }
            match self.flush()? {
                None => return Ok(false),
                // Nothing was left to flush: the socket itself has taken it, and of a part that is all it has room for.
                Some(0) => {
                    self.written += len as u64;
                    if len < offered {
                        return Ok(false);
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Writes what the connection has taken to the socket, and returns how much; none if there is no room for all.
    fn flush(&mut self) -> io::Result<Option<u64>> {
        let mut flushed = 0;
        loop {
            match self.connection.flush() {
                Ok(0) => return Ok(Some(flushed)),
                Ok(len) => {
                    flushed += len as u64;
                    self.written += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves a cursor that has fallen out of the ring to where it goes on, and returns what it has missed. The rest of a
    /// datagram that it has begun is kept aside.
    pub(super) fn overrun(&mut self, ring: &Ring) -> Counts {
        let [first, second] = ring.rest_of_datagram(self.cursor);
        if !first.is_empty() {
            let end = self.cursor.advance(first.len() + second.len());
            let counts = ring.ended_by(end) - self.before;
            self.before = ring.ended_by(end);
            self.rest = Some(Box::new(Rest { bytes: [first, second].concat(), sent: 0, counts }));
        }
        self.cursor = ring.resume_position();
        let missed = ring.ended_by(self.cursor) - self.before;
        self.before = ring.ended_by(self.cursor);
        self.missed += missed;
        missed
    }

    /// What it has not taken, though it is in the ring or kept aside.
    pub(super) fn left(&self, ring: &Ring) -> Counts {
        let mut left = ring.ended_by(ring.head()) - self.before;
        if let Some(rest) = &self.rest {
            left += rest.counts;
        }
        left
    }

    /// Reads and discards what it sends. An error is the client's end.
    pub(super) fn read(&mut self) -> io::Result<Input> {
        if !self.has_input {
            // Told without being asked for: POLLERR, or POLLHUP of both directions.
            let error = self.connection.socket().take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        self.has_input = discard_input(&mut |area| self.connection.read(area))?;
        if self.connection.is_closed_by_peer() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.has_input {
            return Ok(Input::Open);
        }
        // Where a wait takes the pending socket error (SO_ERROR), a reset looks like a FIN.
        if let Some(error) = self.connection.socket().take_error()? {
            return Err(error);
        }
        self.sync_interest()?;
        Ok(Input::HalfClosed)
    }

    fn sync_interest(&mut self) -> io::Result<()> {
        self.registration.set_interest(Interest { read: self.has_input, write: self.is_lagging })
    }

    /// Fails if it has taken nothing for too long. Whether it is to be checked again.
    pub(super) fn check_stall(&mut self, now: Instant, timeout: Duration) -> io::Result<bool> {
        // Nothing else may tell of a reset.
        let is_untold = !sys::TELLS_ERRORS_UNASKED;
        if is_untold {
            self.poll_error()?;
        }
        let unacknowledged =
            self.stall.check(now, self.written, self.is_lagging, self.connection.socket(), timeout)?;
        Ok(unacknowledged || is_untold)
    }
}

impl Client {
    /// Polls for an error of the connection, which a poll set may not tell.
    fn poll_error(&self) -> io::Result<()> {
        let socket = self.connection.socket();
        let interest = if self.has_input { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(&**socket, interest)];
        poll_for(&mut fds, Some(Duration::ZERO))?;
        let has_failed = fds[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL);
        // The pending socket error (SO_ERROR).
        match socket.take_error()? {
            Some(error) => Err(error),
            None if has_failed => Err(io::ErrorKind::ConnectionReset.into()),
            None => Ok(()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.close();
        discard_socket_input(self.connection.socket());
    }
}
