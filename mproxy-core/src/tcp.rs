//! TCP: accepting connections, clients as sinks, and servers that are connected to again and again.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::report;
use crate::socket::{BACKLOG, set_up_stream};
use crate::stats::{Counters, Meter};
use crate::stop::POLL_INTERVAL;
use crate::wait::{STALLED_AT_STOP, Wait, poll_for, wait};
use crate::{
    Batch, Error, Flow, Framing, Options, Resolved, SLOT, Sink, Source, Stop, StreamSource, UdpSource,
};

/// A client that accepts nothing for this long is dropped.
const STALLED: Duration = Duration::from_secs(10);

/// How long to wait for room before a write is tried all the same: Linux tells of room only when a third
/// of the buffer is free, which takes a slow client long, but takes a write as soon as there is some.
const RETRY_WRITE: Duration = Duration::from_millis(250);

/// Accepts connections on all of the listeners until a stop is requested, those that wait by then too,
/// and hands each to `accepted`.
///
/// A lack of descriptors or memory is waited out.
///
/// # Errors
/// If the listeners cannot be waited for.
pub fn accept_each(
    listeners: &[TcpListener],
    stop: &Stop,
    mut accepted: impl FnMut(TcpStream, SocketAddr),
) -> Result<(), Error> {
    let mut lacking = report::Seldom::default();
    loop {
        let mut fds: Vec<_> = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        let ready = wait(&mut fds, None, stop).map_err(|e| Error::io("wait for", "TCP connections", e))?;
        for listener in listeners {
            // Each in turn, but at a stop each to its end: what waits was connected in time.
            for _ in 0..if ready == Wait::Stopped { BACKLOG } else { 1 } {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        // The listener does not block; on some systems its connections inherit that.
                        match stream.set_nonblocking(false).and_then(|()| set_up_stream(&stream)) {
                            Ok(()) => accepted(stream, peer),
                            Err(error) => {
                                report::info(format_args!("{peer}: gone before it was served: {error}"));
                            }
                        }
                    }
                    Err(error) => {
                        if !is_passing(&error) {
                            if lacking.now() {
                                report::warn(format_args!(
                                    "cannot accept a connection: {error}; trying again until it works"
                                ));
                            }
                            stop.sleep(Duration::from_millis(100));
                        }
                        break;
                    }
                }
            }
        }
        if ready == Wait::Stopped {
            return Ok(());
        }
    }
}

/// Whether the error concerns the connection that was to be accepted, or none at all, rather than this
/// host.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// A TCP client as a sink. A slow one blocks only its own thread; what it misses meanwhile are whole
/// datagrams that the kernel drops at the source.
#[derive(Debug)]
pub struct ClientSink {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    framing: Framing,
    stop: Stop,
    counters: Arc<Counters>,
}

impl ClientSink {
    /// Takes the connection, and a source that watches it.
    ///
    /// # Errors
    /// If the connection has failed already.
    pub fn new(
        stream: TcpStream,
        peer: SocketAddr,
        framing: Framing,
        channel: UdpSource,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<(Self, ClientSource), Error> {
        let failed = |error| Error::io("set up the connection of", peer, error);
        stream.set_nonblocking(true).map_err(failed)?;
        channel.socket().set_nonblocking(true).map_err(failed)?;
        let stream = Arc::new(stream);
        let source =
            ClientSource { channel, stream: stream.clone(), peer, sending: true, stop: stop.clone() };
        Ok((Self { stream, peer, framing, stop: stop.clone(), counters: meter.counters() }, source))
    }
}

impl Sink for ClientSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut slices = self.framing.slices(batch);
        let mut out = Patient { stream: &self.stream, stop: &self.stop };
        match crate::file::write_all(&mut out, &mut slices) {
            Ok(written) => {
                self.counters.passed(batch.count(), written);
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
struct Patient<'a> {
    stream: &'a TcpStream,
    stop: &'a Stop,
}

impl Patient<'_> {
    fn wait(&self, since: Instant) -> io::Result<()> {
        let mut fds = [PollFd::new(self.stream, PollFlags::OUT)];
        let left = STALLED.saturating_sub(since.elapsed());
        let ready = match wait(&mut fds, Some(left.min(RETRY_WRITE)), self.stop)? {
            Wait::Ready => true,
            Wait::TimedOut => !left.is_zero(),
            Wait::Stopped => {
                let left = STALLED_AT_STOP.saturating_sub(self.stop.elapsed().unwrap_or_default());
                poll_for(&mut fds, Some(left))?
            }
        };
        if ready {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it accepts nothing any more"))
        }
    }

    fn patiently(&self, mut write: impl FnMut(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            match write(self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(since)?,
                result => return result,
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|mut stream| stream.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.patiently(|mut stream| stream.write_vectored(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The channel as one TCP client receives it, while the connection is watched: what the client sends is
/// read and forgotten, and when it is gone this ends.
#[derive(Debug)]
pub struct ClientSource {
    channel: UdpSource,
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    /// The client may still send something.
    sending: bool,
    stop: Stop,
}

impl ClientSource {
    /// Reads what the client has sent.
    fn ignore_input(&mut self) -> io::Result<()> {
        // Bounded, so that a client that floods does not keep its own data waiting.
        for _ in 0..16 {
            match (&*self.stream).read(&mut [0; 4096]) {
                Ok(0) => {
                    self.sending = false;
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
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
        let gone = |error| Error::io("receive from", self.peer, error);
        // One that only has shut down its sending side still gets everything: then only an error or a
        // reset, which are always reported, say that it is gone.
        let interest = if self.sending { PollFlags::IN } else { PollFlags::empty() };
        let mut fds =
            [PollFd::new(self.channel.socket(), PollFlags::IN), PollFd::new(&*self.stream, interest)];
        if !self.stop.requested() {
            // A stop wakes this by way of the channel's socket: all clients' threads would else queue up at
            // one pipe for each datagram.
            poll_for(&mut fds, POLL_INTERVAL).map_err(gone)?;
        }
        let events = fds[1].revents();
        if events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            let error = self.stream.take_error().map_err(gone)?;
            return Err(gone(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())));
        }
        if events.contains(PollFlags::IN) {
            let peer = self.peer;
            self.ignore_input().map_err(|error| Error::io("receive from", peer, error))?;
        }
        self.channel.receive(batch)
    }

    fn drain(&mut self) -> bool {
        self.channel.drain()
    }
}

impl Drop for ClientSource {
    fn drop(&mut self) {
        // With unread input a close would be a reset, which may cost the client what it has not read yet.
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.ignore_input();
    }
}

/// A TCP server that is connected to, and connected to again whenever the connection ends.
#[derive(Debug)]
pub struct TcpServerSource {
    endpoint: Resolved,
    framing: Framing,
    size: usize,
    stop: Stop,
    meter: Meter,
    counters: Arc<Counters>,
    connection: Option<(StreamSource<TcpStream>, Instant)>,
    backoff: Backoff,
    /// What to wait for before the next connection.
    pause: Duration,
    failing: bool,
    /// Tried before: a name is resolved anew from then on.
    tried: bool,
    draining: bool,
}

impl TcpServerSource {
    /// Takes the server; the first connection is made by the first receive.
    #[must_use]
    pub fn new(endpoint: Resolved, framing: Framing, size: usize, meter: Meter, stop: &Stop) -> Self {
        Self {
            endpoint,
            framing,
            size,
            stop: stop.clone(),
            counters: meter.counters(),
            meter,
            connection: None,
            backoff: Backoff::default(),
            pause: Duration::ZERO,
            failing: false,
            tried: false,
            draining: false,
        }
    }

    fn connect(&mut self) -> Result<StreamSource<TcpStream>, Error> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        if std::mem::replace(&mut self.tried, true) {
            self.endpoint = self.endpoint.endpoint.resolve(&Options::default())?;
            self.endpoint.require_unicast()?;
        }
        let mut last_error = io::ErrorKind::AddrNotAvailable.into();
        for address in &self.endpoint.addresses {
            if self.stop.requested() {
                break;
            }
            let connected = TcpStream::connect_timeout(address, TIMEOUT)
                .and_then(|stream| set_up_stream(&stream).map(|()| stream));
            match connected {
                Ok(stream) => {
                    report::info(format_args!("{}: connected to {address}", self.endpoint));
                    let name = self.endpoint.to_string();
                    let counters = self.meter.counters();
                    return Ok(StreamSource::new(
                        stream,
                        name,
                        self.framing,
                        self.size,
                        &self.stop,
                        counters,
                    ));
                }
                Err(error) => last_error = error,
            }
        }
        Err(Error::io("connect to", &self.endpoint, last_error))
    }

    /// Says once that there is no connection, and has the next attempt wait.
    fn back_off(&mut self, why: &str) {
        self.counters.failed(1);
        if !std::mem::replace(&mut self.failing, true) {
            report::warn(format_args!("{why}; connecting again until it works"));
        }
        self.pause = self.backoff.next();
    }
}

impl Source for TcpServerSource {
    fn capacity(&self) -> usize {
        StreamSource::<TcpStream>::CAPACITY
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        if self.draining && self.connection.is_none() {
            return Ok(Flow::End);
        }
        let Some((stream, since)) = &mut self.connection else {
            self.stop.sleep(std::mem::take(&mut self.pause));
            if self.stop.requested() {
                return Ok(Flow::More);
            }
            match self.connect() {
                Ok(stream) => {
                    if std::mem::replace(&mut self.failing, false) {
                        report::warn(format_args!("connected to {} again", self.endpoint));
                    }
                    self.connection = Some((stream, Instant::now()));
                }
                Err(error) => self.back_off(&error.to_string()),
            }
            return Ok(Flow::More);
        };
        let ended = match stream.receive(batch) {
            Ok(Flow::More) => return Ok(Flow::More),
            Ok(Flow::End) => None,
            Err(error) => Some(error),
        };
        if self.draining {
            return Ok(Flow::End);
        }
        let lasted = since.elapsed();
        self.connection = None;
        if lasted >= Backoff::GOOD {
            self.backoff = Backoff::default();
        }
        match ended {
            Some(error) => self.back_off(&error.to_string()),
            None => self.back_off(&format!("{} has closed the connection", self.endpoint)),
        }
        Ok(Flow::More)
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        self.connection.as_mut().is_none_or(|(stream, _)| stream.drain())
    }
}

/// Exponential backoff with jitter.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A connection that lasted this long makes up for earlier failures.
    const GOOD: Duration = Duration::from_secs(60);
    const FIRST: Duration = Duration::from_millis(500);
    /// With the jitter no more than 30 seconds.
    const LONGEST: Duration = Duration::from_secs(24);

    fn next(&mut self) -> Duration {
        let base = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        base.mul_f64(1.0 + fastrand::f64() / 4.0)
    }
}
