//! TCP clients of an output endpoint: each has the channel and a connection, on a thread of its own.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::poll::{WRITE_TIMEOUT_AT_STOP, Wait, poll_for, wait};
use crate::io::write::write_all;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::limits::SLOT;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys;
use crate::tcp::connection::{Connection, discard_input, discard_socket_input};
use crate::tcp::places::Permit;
use crate::udp::source::UdpSource;

/// How long a client may acknowledge nothing before it is dropped.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for POLLOUT before a write is tried all the same. Linux reports POLLOUT only when a third
/// of the send buffer is free, which takes a slow client long; a write takes whatever room there is.
const RETRY_WRITE: Duration = Duration::from_millis(250);

/// How long to sleep where POLLHUP ends every poll for POLLOUT.
const POLLHUP_PAUSE: Duration = Duration::from_millis(20);

/// A TCP client: its source, the channel, and the connection that it is written to. Both are one object,
/// since a wait for either is a wait for both, so a relay of it needs no sink. A slow client blocks only its
/// own thread; what it misses are whole datagrams, dropped by the kernel at the channel's socket.
pub struct TcpClient {
    channel: UdpSource,
    connection: Box<dyn Connection>,
    peer: SocketAddr,
    framing: Framing,
    /// No FIN from the client yet.
    has_input: bool,
    stop: Stop,
    counters: Arc<Counters>,
    permit: Permit,
}

impl fmt::Debug for TcpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpClient").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl TcpClient {
    /// Takes the connection, and the channel that it gets.
    ///
    /// # Errors
    /// If the channel's socket cannot be set up.
    pub fn new(
        connection: Box<dyn Connection>,
        peer: SocketAddr,
        framing: Framing,
        mut channel: UdpSource,
        meter: &Meter,
        stop: &Stop,
        permit: Permit,
    ) -> Result<Self, Error> {
        let failed = |error| Error::io("set up the connection of", peer, error);
        channel.use_external_poll().map_err(failed)?;
        let (stop, counters) = (stop.clone(), meter.counters());
        Ok(Self { channel, connection, peer, framing, has_input: true, stop, counters, permit })
    }

    /// Polls the channel and the connection, discards the client's input, and fails if the client has gone.
    fn poll(&mut self) -> io::Result<()> {
        let socket = self.connection.socket();
        // After the client's FIN it still gets everything. Then only POLLERR and POLLHUP, which poll reports
        // unasked, tell that it has gone.
        let interest = if self.has_input { PollFlags::IN } else { PollFlags::empty() };
        let client = PollFd::new(socket, interest);
        let with_client = self.has_input || sys::POLLHUP_IS_BOTH_DIRECTIONS;
        let mut fds = if with_client { vec![client.clone()] } else { Vec::new() };
        fds.extend(self.channel.poll_fds());
        if !self.stop.requested() {
            // A stop wakes this by way of the channel's sockets. With the stop's pipe in each poll, all
            // clients' threads would queue up at that one pipe for each datagram.
            poll_for(&mut fds, self.channel.poll_timeout())?;
        }
        if !with_client {
            fds = vec![client];
            poll_for(&mut fds, Some(Duration::ZERO))?;
        }
        let events = fds[0].revents();
        let hung_up = events.contains(PollFlags::HUP);
        if events.intersects(PollFlags::ERR | PollFlags::NVAL) || hung_up && sys::POLLHUP_IS_BOTH_DIRECTIONS {
            // The pending socket error (SO_ERROR).
            let error = socket.take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        if !with_client && let Some(error) = socket.take_error()? {
            return Err(error);
        }
        drop(fds);
        if self.has_input && (hung_up || events.intersects(PollFlags::IN)) {
            self.has_input = discard_input(&mut |area| self.connection.read(area))?;
            if self.connection.is_closed_by_peer() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if !self.has_input {
                let socket = self.connection.socket().clone();
                self.permit.half_closed(Box::new(move || drop(socket.shutdown(Shutdown::Both))));
            }
        }
        Ok(())
    }

    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut headers = Vec::new();
        let mut slices = self.framing.slices(batch, &mut headers);
        let mut guard = StallGuard { connection: &mut *self.connection, unacknowledged: 0, stop: &self.stop };
        let mut write = |slices: &[IoSlice<'_>]| {
            let written = guard.retry(&mut |connection| connection.write(slices))?;
            while guard.retry(&mut |connection| connection.flush())? > 0 {}
            Ok(written)
        };
        match write_all(&mut write, &mut slices) {
            Ok(_) => {
                self.counters.passed(batch.count(), batch.bytes());
                Ok(())
            }
            Err((_, error)) => {
                self.counters.failed(1);
                Err(Error::io("send to", self.peer, error))
            }
        }
    }
}

impl Source for TcpClient {
    fn capacity(&self) -> usize {
        SLOT
    }

    /// Receives from the channel, and writes it to the connection.
    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        self.poll().map_err(|error| Error::io("receive from", self.peer, error))?;
        let flow = self.channel.receive(batch)?;
        if !batch.is_empty() {
            self.send(batch)?;
        }
        Ok(flow)
    }

    fn drain(&mut self) -> bool {
        self.channel.drain()
    }
}

impl Drop for TcpClient {
    fn drop(&mut self) {
        self.connection.close();
        discard_socket_input(self.connection.socket());
    }
}

/// Retries writes that would block, until a client has stalled for too long.
struct StallGuard<'a> {
    connection: &'a mut dyn Connection,
    /// Bytes in the send buffer that were not acknowledged when last asked.
    unacknowledged: i32,
    stop: &'a Stop,
}

impl StallGuard<'_> {
    fn retry(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Connection) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut progress = Instant::now();
        loop {
            match write(self.connection) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(&mut progress)?;
                }
                result => return result,
            }
        }
    }

    /// Waits for POLLOUT, or for [`RETRY_WRITE`]; `progress` becomes the time of the last acknowledgement.
    fn wait_for_room(&mut self, progress: &mut Instant) -> io::Result<()> {
        let socket = self.connection.socket();
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        let mut waited = wait(&mut fds, Some(RETRY_WRITE), self.stop)?;
        if waited == Wait::Ready && is_only_pollhup(&fds[0]) {
            self.stop.sleep(POLLHUP_PAUSE);
            waited = Wait::TimedOut;
        }
        let retry = match waited {
            Wait::Ready => true,
            Wait::TimedOut => {
                let before = std::mem::replace(&mut self.unacknowledged, sys::unacknowledged_bytes(socket));
                if self.unacknowledged != before {
                    *progress = Instant::now();
                }
                // A client that the network does not reach is left to TCP_USER_TIMEOUT.
                progress.elapsed() < STALL_TIMEOUT || sys::is_unanswered(socket)
            }
            Wait::Stopped => {
                let left = WRITE_TIMEOUT_AT_STOP.saturating_sub(self.stop.elapsed().unwrap_or_default());
                let ready = poll_for(&mut fds, Some(left))?;
                if is_only_pollhup(&fds[0]) {
                    std::thread::sleep(left.min(POLLHUP_PAUSE));
                    !left.is_zero()
                } else {
                    ready
                }
            }
        };
        if retry {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it accepts nothing any more"))
        }
    }
}

/// Whether a poll for POLLOUT ended with POLLHUP alone, of a client that is only half-closed.
fn is_only_pollhup(client: &PollFd<'_>) -> bool {
    !sys::POLLHUP_IS_BOTH_DIRECTIONS && client.revents() == PollFlags::HUP
}
