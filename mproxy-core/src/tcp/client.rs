//! TCP clients that data is handed out to: each is a sink, and its channel a source.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::poll::{WRITE_TIMEOUT_AT_STOP, Wait, poll_for, wait};
use crate::io::write::write_all;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Sink, Source};
use crate::relay::limits::SLOT;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::sys;
use crate::tcp::connection::{Connection, ignore, ignore_raw};
use crate::udp::source::UdpSource;

/// A client that accepts nothing for this long is dropped.
const STALLED: Duration = Duration::from_secs(10);

/// How long to wait for room before a write is tried all the same: Linux tells of room only when a third
/// of the buffer is free, which takes a slow client long, but takes a write as soon as there is some.
const RETRY_WRITE: Duration = Duration::from_millis(250);

/// How long to wait for room where a hang-up ends each wait.
const HUNG_UP: Duration = Duration::from_millis(20);

/// A client's connection, as its sink and its source share it: on one thread, so that neither ever waits
/// for the other.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn Connection>>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Box<dyn Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP client as a sink. A slow one blocks only its own thread; what it misses meanwhile are whole
/// datagrams that the kernel drops at the source.
pub struct ClientSink {
    connection: Shared,
    peer: SocketAddr,
    framing: Framing,
    stop: Stop,
    counters: Arc<Counters>,
}

impl ClientSink {
    /// Takes the connection, and a source that watches it.
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
    ) -> Result<(Self, ClientSource), Error> {
        let failed = |error| Error::io("set up the connection of", peer, error);
        channel.poll_from_outside().map_err(failed)?;
        let connection = Shared(Arc::new(Mutex::new(connection)));
        let source =
            ClientSource { channel, connection: connection.clone(), peer, sending: true, stop: stop.clone() };
        Ok((Self { connection, peer, framing, stop: stop.clone(), counters: meter.counters() }, source))
    }
}

impl Sink for ClientSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut headers = Vec::new();
        let mut slices = self.framing.slices(batch, &mut headers);
        let mut connection = self.connection.lock();
        let mut client = StallGuard { connection: &mut **connection, left: 0, stop: &self.stop };
        let mut write = |slices: &[IoSlice<'_>]| {
            let written = client.patiently(&mut |to| to.write(slices))?;
            while client.patiently(&mut |to| to.flush())? > 0 {}
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

/// Waits for a client to accept more, but not for ever.
struct StallGuard<'a> {
    connection: &'a mut dyn Connection,
    /// What it had not acknowledged when that was looked at last.
    left: i32,
    stop: &'a Stop,
}

impl StallGuard<'_> {
    /// Waits for room, or for a while; `since` then is when the client has last taken something.
    fn wait(&mut self, since: &mut Instant) -> io::Result<()> {
        let socket = self.connection.socket();
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        let mut waited = wait(&mut fds, Some(RETRY_WRITE), self.stop)?;
        if waited == Wait::Ready && is_only_hung_up(&fds[0]) {
            self.stop.sleep(HUNG_UP);
            waited = Wait::TimedOut;
        }
        let ready = match waited {
            Wait::Ready => true,
            Wait::TimedOut => {
                let left = sys::unacknowledged_bytes(socket);
                if std::mem::replace(&mut self.left, left) != left {
                    *since = Instant::now();
                }
                // Where the network is at fault, the system gives up by itself.
                since.elapsed() < STALLED || sys::is_unanswered(socket)
            }
            Wait::Stopped => {
                let left = WRITE_TIMEOUT_AT_STOP.saturating_sub(self.stop.elapsed().unwrap_or_default());
                let ready = poll_for(&mut fds, Some(left))?;
                if is_only_hung_up(&fds[0]) {
                    std::thread::sleep(left.min(HUNG_UP));
                    !left.is_zero()
                } else {
                    ready
                }
            }
        };
        if ready {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it accepts nothing any more"))
        }
    }

    fn patiently(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Connection) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut since = Instant::now();
        loop {
            match write(self.connection) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(&mut since)?,
                result => return result,
            }
        }
    }
}

/// Whether a wait for room has found none, but a peer that sends nothing more.
fn is_only_hung_up(client: &PollFd<'_>) -> bool {
    !sys::POLLHUP_IS_BOTH_DIRECTIONS && client.revents() == PollFlags::HUP
}

/// The channel as one TCP client receives it, while the connection is watched: what the client sends is
/// read and forgotten, and when it is gone this ends.
pub struct ClientSource {
    channel: UdpSource,
    connection: Shared,
    peer: SocketAddr,
    /// The client may still send something.
    sending: bool,
    stop: Stop,
}

impl ClientSource {
    /// Waits for data or for the client, and looks whether it is still there.
    fn watch(&mut self) -> io::Result<()> {
        let mut connection = self.connection.lock();
        let socket = connection.socket();
        // One that only has shut down its sending side still gets everything: then only an error or a reset, which
        // are always reported, say that it is gone.
        let interest = if self.sending { PollFlags::IN } else { PollFlags::empty() };
        let client = PollFd::new(socket, interest);
        let waits = self.sending || sys::POLLHUP_IS_BOTH_DIRECTIONS;
        let mut fds = if waits { vec![client.clone()] } else { Vec::new() };
        fds.extend(self.channel.poll());
        if !self.stop.requested() {
            // A stop wakes this by way of the channel's sockets: all clients' threads would else queue up at one
            // pipe for each datagram.
            poll_for(&mut fds, self.channel.patience())?;
        }
        if !waits {
            fds = vec![client];
            poll_for(&mut fds, Some(Duration::ZERO))?;
        }
        let events = fds[0].revents();
        let hung_up = events.contains(PollFlags::HUP);
        if events.intersects(PollFlags::ERR | PollFlags::NVAL) || hung_up && sys::POLLHUP_IS_BOTH_DIRECTIONS {
            let error = socket.take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        if !waits && let Some(error) = socket.take_error()? {
            return Err(error);
        }
        drop(fds);
        if self.sending && (hung_up || events.intersects(PollFlags::IN)) {
            self.sending = ignore(&mut |area| connection.read(area))?;
            if connection.is_over() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(())
    }
}

impl Source for ClientSource {
    fn capacity(&self) -> usize {
        SLOT
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        self.watch().map_err(|error| Error::io("receive from", self.peer, error))?;
        self.channel.receive(batch)
    }

    fn drain(&mut self) -> bool {
        self.channel.drain()
    }
}

impl Drop for ClientSource {
    fn drop(&mut self) {
        let mut connection = self.connection.lock();
        connection.close();
        // With unread input a close would be a reset, which may cost the client what it has not read yet.
        ignore_raw(connection.socket());
    }
}
