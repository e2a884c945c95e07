//! UDP listeners.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::io::{Missed, SLOTS};
use super::linger::{Pause, Reason};
use super::membership::Membership;
use super::socket_set::SocketSet;
use crate::error::Error;
use crate::io::poll::Wait;
use crate::log;
use crate::net::listen::listen_unicast;
use crate::net::multicast::{groups, no_interface};
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{REFRESH_INTERVAL, RouteTable};
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, PollKeys, PolledSource, Source};
use crate::relay::limits::SLOT;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::{POLL_INTERVAL, Stop};
use crate::sys::{Interest, PollSet};

/// Receive errors without a datagram in between after which a listener gives up.
const MAX_ERRORS: u32 = 1000;

/// The pause after a receive error.
const RETRY: Duration = Duration::from_millis(10);

/// A UDP listener on one address; at a group, on each of its interfaces.
#[derive(Debug)]
pub struct UdpSource {
    sockets: SocketSet,
    /// At a group.
    membership: Option<Membership>,
    endpoint: String,
    /// No source before has the same address: several threads may share one.
    is_first_at_address: bool,
    stop: Stop,
    draining: bool,
    /// With a poll set of the owner: its sockets do not wake the owner until then.
    pause: Option<Pause>,
    /// A socket has become ready since the last receive.
    is_ready: bool,
    /// When to look for changed routes.
    refresh_at: Option<Instant>,
    /// Receive errors since the last datagram.
    errors: u32,
    /// Datagrams that the receive buffer had no room for (`SO_RXQ_OVFL`).
    overflow: log::LogLimiter,
    /// Datagrams from addresses that are not allowed.
    denied: log::LogLimiter,
    counters: Arc<Counters>,
    /// Counts the datagrams that the receive buffer had no room for, and those from addresses that are not allowed.
    losses: Arc<Counters>,
    /// The sending end of a pair, open as long as this one: nobody else can have its port, and send from there.
    _sender: Option<Arc<UdpSocket>>,
}

impl UdpSource {
    /// Opens a listener on each address of the endpoint, one for each thread that is to receive there.
    ///
    /// # Errors
    /// If one cannot be opened: an address in use, one that this host does not have, no interface for a group.
    pub fn open(
        endpoint: &Resolved,
        options: &Options,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<Vec<Self>, Error> {
        let (mut sources, mut last) = (Vec::new(), None);
        for group in groups(endpoint) {
            sources.push(Self::join(&RouteTable::new(&group), options, false, meter, stop)?);
        }
        if sources.len() == endpoint.addresses.len() {
            return Ok(sources);
        }
        for socket in listen_unicast(endpoint, options)? {
            let mut source = Self::new(endpoint.to_string(), None, options, meter, stop);
            let address = socket.local_addr().ok();
            source.is_first_at_address = last != address;
            last = address;
            let added = source.sockets.add(socket, None, options, POLL_INTERVAL);
            added.map_err(|error| source.cannot_listen(error))?;
            sources.push(source);
        }
        Ok(sources)
    }

    /// Joins a group on those of its interfaces that can be used, and on the others when they can be. With
    /// `allow_own` this host's addresses there may send to it whatever else is allowed.
    ///
    /// # Errors
    /// If it cannot be joined on one, or there is none to wait for.
    #[doc(hidden)]
    pub fn join(
        routes: &RouteTable,
        options: &Options,
        allow_own: bool,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let membership = Membership::new(routes, options, allow_own);
        let mut source = Self::new(routes.resolved().to_string(), Some(membership), options, meter, stop);
        if routes.lack_an_interface() {
            return Err(source.cannot_listen(no_interface()));
        }
        source.sync_memberships().map_err(|error| source.cannot_listen(error))?;
        Ok(source)
    }

    /// The receiving end of a [pair](crate::udp::pair::UdpPair).
    pub(super) fn of_pair(
        receiver: Arc<UdpSocket>,
        sender: Arc<UdpSocket>,
        name: String,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<Self, Error> {
        // What comes has lingered at the input.
        let options = Options::default();
        let mut source = Self { _sender: Some(sender), ..Self::new(name, None, &options, meter, stop) };
        let added = source.sockets.add(receiver, None, &options, POLL_INTERVAL);
        added.map_err(|error| source.cannot_listen(error))?;
        Ok(source)
    }

    fn new(
        endpoint: String,
        membership: Option<Membership>,
        options: &Options,
        meter: &Meter,
        stop: &Stop,
    ) -> Self {
        let counters = meter.counters();
        Self {
            sockets: SocketSet::new(options.linger, stop),
            membership,
            endpoint,
            is_first_at_address: true,
            stop: stop.clone(),
            draining: false,
            pause: None,
            is_ready: false,
            refresh_at: None,
            errors: 0,
            overflow: log::LogLimiter::default(),
            denied: log::LogLimiter::default(),
            losses: counters.clone(),
            counters,
            _sender: None,
        }
    }

    fn cannot_listen(&self, error: io::Error) -> Error {
        Error::io("listen on", &self.endpoint, error)
    }

    fn sync_memberships(&mut self) -> io::Result<()> {
        self.membership.as_mut().map_or(Ok(()), |membership| membership.sync(&mut self.sockets))
    }

    /// Follows the routes of a group, if they have changed.
    fn sync_if_due(&mut self) {
        let is_due = self.membership.as_ref().is_some_and(Membership::is_due);
        if is_due
            && !self.draining
            && let Err(error) = self.sync_memberships()
        {
            log::warn(format_args!("{}; trying again", self.cannot_listen(error)));
        }
    }

    /// Counts there, rather than at the source's own meter, what was not received: the datagrams that the system has
    /// dropped, and those from addresses that are not allowed.
    #[must_use]
    pub fn with_losses(mut self, meter: &Meter) -> Self {
        self.losses = meter.counters();
        self
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// If the system does not tell it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets.local_addr().unwrap_or_else(|| {
            let group = self.routes().and_then(|routes| routes.resolved().addresses.first());
            group.copied().ok_or_else(no_interface)
        })
    }

    /// The routes of a group, which change.
    pub(crate) fn routes(&self) -> Option<&RouteTable> {
        self.membership.as_ref().map(Membership::routes)
    }

    pub(crate) fn is_first_at_address(&self) -> bool {
        self.is_first_at_address
    }

    /// How long to poll at most.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        /// Without a socket a stop wakes nothing.
        const WITHOUT_SOCKETS: Duration = Duration::from_millis(200);
        if self.sockets.is_empty() {
            Some(WITHOUT_SOCKETS)
        } else if self.membership.as_ref().is_some_and(Membership::can_change) {
            Some(REFRESH_INTERVAL)
        } else if self.sockets.has_poll_set() {
            // A stop ends the wait for a poll set.
            None
        } else {
            POLL_INTERVAL
        }
    }

    #[cold]
    fn count_missed(&mut self, missed: Missed) {
        self.losses.dropped(missed.dropped);
        self.losses.denied(missed.denied);
        if missed.dropped > 0 && self.overflow.permits() {
            log::warn(format_args!(
                "{}: data comes faster than it is taken: the system has dropped some",
                self.endpoint
            ));
        }
        if missed.denied > 0 && self.denied.permits() {
            log::info(format_args!("{}: dropped what came from elsewhere than allowed", self.endpoint));
        }
    }

    /// Takes an error of a receive, which ICMP or the interface may have caused: it passes, and must not end a
    /// listener, unless it comes again and again.
    fn count_error(&mut self, error: io::Error) -> Result<(), Error> {
        if self.errors >= MAX_ERRORS {
            return Err(Error::io("receive on", &self.endpoint, error));
        }
        self.errors += 1;
        self.counters.failed(1);
        if self.errors == 1 {
            log::warn(format_args!("{}: receiving: {error}", self.endpoint));
        }
        if self.sockets.has_poll_set() {
            self.pause = Some(Pause::after_error(RETRY));
            return self.set_interest(Interest::NONE);
        }
        self.stop.sleep(RETRY);
        Ok(())
    }

    fn set_interest(&mut self, interest: Interest) -> Result<(), Error> {
        self.sockets.set_interest(interest).map_err(|error| self.cannot_wait(error))
    }

    fn cannot_wait(&self, error: io::Error) -> Error {
        Error::io("wait for", &self.endpoint, error)
    }

    /// Waits for a first datagram, and for more. Whether there may be one.
    fn wait_and_linger(&mut self) -> Result<bool, Error> {
        let waited = self.sockets.poll(self.poll_timeout()).map_err(|error| self.cannot_wait(error))?;
        if waited != Wait::Ready {
            return Ok(false);
        }
        let end = self.sockets.linger_end();
        while !self.stop.requested()
            && let Some(slice) = self.sockets.next_slice(end)
        {
            self.stop.sleep(slice);
        }
        self.sockets.set_undrained();
        Ok(true)
    }

    /// The same for the owner, who waits: begins or continues a pause. Whether to receive now.
    fn is_receive_due(&mut self) -> Result<bool, Error> {
        let is_ready = std::mem::take(&mut self.is_ready);
        let (end, reason) = match self.pause {
            Some(pause) if Instant::now() < pause.until => return Ok(false),
            Some(pause) => (pause.end, pause.reason),
            None if is_ready && self.sockets.lingers() && self.sockets.are_drained() => {
                (self.sockets.linger_end(), Reason::Linger)
            }
            None => return Ok(true),
        };
        let slice = self.sockets.next_slice(end);
        self.pause = slice.map(|slice| Pause { until: Instant::now() + slice, end, reason });
        if self.pause.is_some() {
            self.set_interest(Interest::NONE)?;
        } else {
            self.sockets.set_undrained();
        }
        Ok(self.pause.is_none())
    }

    /// After a receive: the sockets wake the owner again, unless a receive is due anyway.
    fn end_receive(&mut self) -> Result<(), Error> {
        self.refresh_at = self.poll_timeout().map(|timeout| Instant::now() + timeout);
        if self.pause.is_none() && (!self.sockets.lingers() || self.sockets.are_drained()) {
            self.set_interest(Interest::READ)?;
        }
        Ok(())
    }

    fn receive_now(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        match self.sockets.receive(batch) {
            Ok(missed) => {
                if missed != Missed::default() {
                    self.count_missed(missed);
                }
                self.errors = 0;
                self.counters.passed(batch.count(), batch.bytes());
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if self.draining => return Ok(Flow::End),
                io::ErrorKind::WouldBlock if self.sockets.must_poll() => {
                    let polled = self.sockets.poll(self.poll_timeout());
                    polled.map_err(|error| self.cannot_wait(error))?;
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                _ => self.count_error(error)?,
            },
        }
        Ok(Flow::More)
    }
}

impl Source for UdpSource {
    fn capacity(&self) -> usize {
        SLOTS * SLOT
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        self.sync_if_due();
        if self.sockets.has_poll_set() {
            if !self.draining && !self.is_receive_due()? {
                return Ok(Flow::More);
            }
            let flow = self.receive_now(batch)?;
            self.end_receive()?;
            return Ok(flow);
        }
        let waits = self.sockets.lingers() && self.sockets.are_drained() && !self.draining;
        if waits && !self.wait_and_linger()? {
            return Ok(Flow::More);
        }
        self.receive_now(batch)
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        self.pause = None;
        if let Err(error) = self.sockets.set_all_nonblocking() {
            log::warn(format_args!("{}: {error}", self.endpoint));
        }
        self.sockets.stop_input()
    }
}

impl PolledSource for UdpSource {
    fn poll_with(&mut self, set: &Arc<PollSet>, keys: PollKeys) -> Result<(), Error> {
        self.sockets.poll_with(set, keys).map_err(|error| self.cannot_wait(error))?;
        self.refresh_at = self.poll_timeout().map(|timeout| Instant::now() + timeout);
        Ok(())
    }

    fn ready(&mut self, _key: usize) {
        self.is_ready = true;
        // The sockets have no interest in a pause: it is an error (POLLERR), which is told again until it is received,
        // or a socket that has just been added.
        if self.pause.is_some_and(|pause| pause.reason == Reason::Linger) {
            self.pause = None;
            self.sockets.set_undrained();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let is_due = self.sockets.lingers() && !self.sockets.are_drained() && !self.sockets.is_empty();
        match self.pause {
            _ if self.draining => Some(Instant::now()),
            Some(pause) => Some(pause.until),
            None if is_due => Some(Instant::now()),
            None => self.refresh_at,
        }
    }

    /// The senders of UDP do not wait.
    fn pause(&mut self, _paused: bool) -> bool {
        false
    }
}
