//! Datagram sources and sinks: UDP listeners and targets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::SockRef;

use crate::batch::Place;
use crate::datagram::{Missed, Receiver, SLOTS, Sender};
use crate::health::Health;
use crate::report;
use crate::socket::{close_entry, connect_udp, path_payload, tell_target};
use crate::stats::{Counters, Meter};
use crate::stop::POLL_INTERVAL;
use crate::{Allow, Batch, Error, Flow, Options, Resolved, SLOT, Sink, Sinks, Source, Stop, listen_udp};

/// Receive errors without a datagram in between after which a listener gives up.
const MAX_ERRORS: u32 = 1000;

/// A UDP listener on one address.
#[derive(Debug)]
pub struct UdpSource {
    socket: Arc<UdpSocket>,
    receiver: Receiver,
    endpoint: String,
    /// Others may share its address, and come after it.
    first: bool,
    stop: Stop,
    draining: bool,
    errors: u32,
    /// Datagrams that found no room in the receive buffer.
    overflow: report::Seldom,
    /// Datagrams from elsewhere than allowed.
    foreign: report::Seldom,
    counters: Arc<Counters>,
    /// Where to count what is not allowed.
    denials: Arc<Counters>,
}

impl UdpSource {
    /// Opens a listener on each address of the endpoint, one for each thread that is to receive there.
    ///
    /// # Errors
    /// If one cannot be opened; see [`listen_udp`].
    pub fn open(
        endpoint: &Resolved,
        options: &Options,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<Vec<Self>, Error> {
        let (mut sources, mut last) = (Vec::new(), None);
        for socket in listen_udp(endpoint, options)? {
            let mut source = Self::new(socket, endpoint.to_string(), options.allow.clone(), meter, stop)?;
            let address = source.socket.local_addr().ok();
            source.first = last != address;
            last = address;
            sources.push(source);
        }
        Ok(sources)
    }

    fn new(
        socket: UdpSocket,
        endpoint: String,
        allow: Allow,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<Self, Error> {
        socket.set_read_timeout(POLL_INTERVAL).map_err(|e| Error::io("set up", &endpoint, e))?;
        let receiver = Receiver::new(&socket, allow);
        let socket = Arc::new(socket);
        stop.watch(&socket);
        let counters = meter.counters();
        Ok(Self {
            socket,
            receiver,
            endpoint,
            first: true,
            stop: stop.clone(),
            draining: false,
            errors: 0,
            overflow: report::Seldom::default(),
            foreign: report::Seldom::default(),
            denials: counters.clone(),
            counters,
        })
    }

    /// Counts what is not allowed there, rather than where all else is counted.
    #[must_use]
    pub fn with_denials(mut self, meter: &Meter) -> Self {
        self.denials = meter.counters();
        self
    }

    /// The socket, to learn its address or wait for it.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    #[cold]
    fn missed(&mut self, missed: Missed) {
        self.counters.dropped(missed.dropped);
        self.denials.denied(missed.denied);
        if missed.dropped > 0 && self.overflow.now() {
            report::warn(format_args!(
                "{}: data comes faster than it is taken: the system has dropped some",
                self.endpoint
            ));
        }
        if missed.denied > 0 && self.foreign.now() {
            report::info(format_args!("{}: dropped what came from elsewhere than allowed", self.endpoint));
        }
    }
}

impl Source for UdpSource {
    fn capacity(&self) -> usize {
        SLOTS * SLOT
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        match self.receiver.receive(&self.socket, batch) {
            Ok(missed) => {
                if missed != Missed::default() {
                    self.missed(missed);
                }
                self.errors = 0;
                self.counters.passed(batch.count(), batch.bytes());
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if self.draining => return Ok(Flow::End),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                // What ICMP or the interface reports passes, and must not end a listener.
                _ if self.errors < MAX_ERRORS => {
                    self.errors += 1;
                    self.counters.failed(1);
                    if self.errors == 1 {
                        report::warn(format_args!("{}: receiving: {error}", self.endpoint));
                    }
                    self.stop.sleep(Duration::from_millis(10));
                }
                _ => return Err(Error::io("receive on", &self.endpoint, error)),
            },
        }
        Ok(Flow::More)
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        if let Err(error) = self.socket.set_nonblocking(true) {
            report::warn(format_args!("{}: {error}", self.endpoint));
        }
        close_entry(&SockRef::from(&*self.socket)).is_ok()
    }
}

/// A UDP target as all threads of a program know it; each [opens](Self::open) a sink of its own.
#[derive(Debug, Clone)]
pub struct UdpTarget {
    resolved: Arc<Resolved>,
    options: Options,
    meter: Meter,
    /// Touched when something fails or has failed, never while all is well.
    health: Arc<Mutex<Health>>,
}

impl UdpTarget {
    /// Takes the target; nothing is opened yet.
    #[must_use]
    pub fn new(resolved: Resolved, options: &Options, meter: Meter) -> Self {
        let health = Health::new(resolved.to_string());
        Self {
            resolved: Arc::new(resolved),
            options: options.clone(),
            meter,
            health: Arc::new(Mutex::new(health)),
        }
    }

    /// Opens a sink. A target that cannot be reached now may be later, so this never fails.
    #[must_use]
    pub fn open(&self) -> UdpSink {
        let mut sink = UdpSink {
            target: self.clone(),
            counters: self.meter.counters(),
            current: 0,
            sender: None,
            told: None,
            too_long: report::Seldom::default(),
            proven: false,
            retry_at: None,
            failing: false,
        };
        let mut last_error = None;
        for _ in 0..self.resolved.addresses.len() {
            match sink.open() {
                Ok(_) => return sink,
                Err(error) => last_error = Some(error),
            }
            sink.leave_address();
        }
        if let Some(error) = last_error {
            sink.failed(&error);
        }
        sink
    }

    fn health(&self, report: impl FnOnce(&mut Health)) {
        report(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Sends to one UDP target: the first of its addresses that can be used.
#[derive(Debug)]
pub struct UdpSink {
    target: UdpTarget,
    counters: Arc<Counters>,
    /// The address in use.
    current: usize,
    sender: Option<Sender>,
    /// The address that was told last.
    told: Option<usize>,
    /// Datagrams that no path can carry.
    too_long: report::Seldom,
    /// The address did not refuse the first datagram.
    proven: bool,
    /// When to try again, if no address could be used.
    retry_at: Option<Instant>,
    failing: bool,
}

/// How long to leave a target alone of which no address could be used.
const RETRY: Duration = Duration::from_millis(250);

impl UdpSink {
    /// The largest payload that reaches the target without IP fragmentation, where that is known.
    #[must_use]
    pub fn path_payload(&self) -> Option<usize> {
        self.sender.as_ref().and_then(|sender| path_payload(sender.socket()))
    }

    /// Sends what goes at once, and moves the place behind it.
    fn advance(&mut self, batch: &Batch, at: &mut Place) -> io::Result<()> {
        let doubtful = self.has_others() && !self.proven;
        let sender = self.open()?;
        let proven = match batch.datagram(*at) {
            Some(first) if doubtful => {
                sender.socket().send(first)?;
                // On this host a refusal is known at once, and another address may not refuse.
                if let Some(refused) = sender.socket().take_error()? {
                    return Err(refused);
                }
                *at = batch.after(*at, first.len());
                true
            }
            _ => false,
        };
        let result = sender.send(batch, at);
        self.proven |= proven;
        result
    }

    /// Sends the batch from the place on; what cannot be sent is counted, reported, and passed over.
    fn send_from(&mut self, batch: &Batch, at: &mut Place) {
        let mut addresses_left = self.target.resolved.addresses.len();
        // An error that may have been reported of a datagram that had gone out, and where it came up.
        let mut doubt: Option<(Place, io::Error)> = None;
        loop {
            let result = self.advance_counted(batch, at);
            let mut again = false;
            if let Some((place, error)) = doubt.take() {
                again = place == *at && result.is_err();
                if !again {
                    self.failed(&error);
                    self.counters.failed(1);
                }
            }
            let Err(error) = result else { return };
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            if !again && self.may_be_of_another(&error) {
                doubt = Some((*at, error));
            } else if self.is_unusable(&error) {
                self.leave_address();
                addresses_left -= 1;
                if addresses_left == 0 {
                    self.failed(&error);
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
            } else if is(&error, Errno::MSGSIZE) {
                let len = self.pass_over(batch, at);
                if self.too_long.now() {
                    let target = &self.target.resolved;
                    report::warn(format_args!("cannot send {len} bytes to {target}: {error}"));
                }
            } else {
                self.failed(&error);
                if concerns_this(&error) {
                    let skipped = self.sender.as_ref().map_or(0, |sender| sender.skip(batch, at));
                    self.counters.failed(skipped);
                } else {
                    self.pass_over(batch, at);
                }
            }
        }
    }

    /// Whether the error may have been reported of an earlier datagram, so that this one was not tried.
    fn may_be_of_another(&self, error: &io::Error) -> bool {
        self.sender.is_some() && !concerns_this(error) && !(self.has_others() && is_refused(error))
    }

    fn advance_counted(&mut self, batch: &Batch, at: &mut Place) -> io::Result<()> {
        let (datagrams, bytes) = batch.before(*at);
        let result = self.advance(batch, at);
        let (datagrams_now, bytes_now) = batch.before(*at);
        self.counters.passed(datagrams_now - datagrams, bytes_now - bytes);
        result
    }

    /// Leaves out one datagram. Returns its length.
    fn pass_over(&mut self, batch: &Batch, at: &mut Place) -> usize {
        let len = batch.datagram(*at).map_or(0, <[u8]>::len);
        *at = batch.after(*at, len);
        self.counters.failed(1);
        len
    }

    /// The sender, opened if it is not.
    fn open(&mut self) -> io::Result<&mut Sender> {
        let sender = if let Some(sender) = self.sender.take() {
            sender
        } else {
            let resolved = &self.target.resolved;
            self.proven = false;
            let (address, options) = (resolved.addresses[self.current], &self.target.options);
            let socket = connect_udp(resolved, address, options)?;
            if self.told.replace(self.current) != Some(self.current) {
                tell_target(resolved, address, options);
            }
            Sender::new(socket)
        };
        Ok(self.sender.insert(sender))
    }

    /// The address that it sends from, if it could be opened.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.sender.as_ref()?.socket().local_addr().ok()
    }

    /// Closes the socket, so that the next send opens the next address; the same, if it is the only one.
    fn leave_address(&mut self) {
        self.sender = None;
        self.current = (self.current + 1) % self.target.resolved.addresses.len();
    }

    fn has_others(&self) -> bool {
        self.target.resolved.addresses.len() > 1
    }

    /// Whether the route, this host's own address or the target's stand against every datagram, so that
    /// another address or a new socket may do better.
    fn is_unusable(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{
            AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, Unsupported,
        };
        let lasting = matches!(
            error.kind(),
            AddrNotAvailable
                | HostUnreachable
                | InvalidInput
                | NetworkDown
                | NetworkUnreachable
                | Unsupported
        );
        self.sender.is_none() || lasting || self.has_others() && is_refused(error)
    }

    fn failed(&mut self, error: &io::Error) {
        self.failing = true;
        self.target.health(|health| health.failed(error));
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// A full queue and a filter refuse the datagram at hand; all else may tell of an earlier one.
fn concerns_this(error: &io::Error) -> bool {
    is(error, Errno::NOBUFS) || error.kind() == io::ErrorKind::PermissionDenied
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

impl Sink for UdpSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut at = Place::default();
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.retry_at = None;
            self.send_from(batch, &mut at);
        }
        if self.retry_at.is_some() {
            self.counters.failed(batch.count() - batch.before(at).0);
        }
        if self.failing {
            let mut well = false;
            self.target.health(|health| well = health.passed());
            self.failing = !well;
        }
        Ok(())
    }
}

/// The same targets, as [`Sinks`].
#[must_use]
pub fn boxed(targets: Vec<UdpSink>) -> Sinks {
    let mut sinks: Sinks = Vec::new();
    for target in targets {
        sinks.push(Box::new(target));
    }
    sinks
}

/// The default datagram size for these targets: the largest payload that the path to each of them takes
/// without IP fragmentation, at most 8192 bytes, and 1452 where that is unknown.
#[must_use]
pub fn datagram_size(targets: &[UdpSink]) -> usize {
    const LARGEST: usize = 8192;
    /// An Ethernet frame's 1500 bytes, less the headers of IPv6 and UDP.
    const UNKNOWN: usize = 1452;
    let each = targets.iter().map(|target| target.path_payload().unwrap_or(UNKNOWN));
    each.fold(LARGEST, usize::min)
}
