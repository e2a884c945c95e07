//! UDP listeners.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use crate::error::Error;
use crate::io::poll::wait;
use crate::log;
use crate::net::listen::listen_unicast;
use crate::net::multicast::{groups, join_group, no_interface};
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{REFRESH_INTERVAL, Route, RouteTable};
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::limits::SLOT;
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::POLL_INTERVAL;
use crate::relay::stop::Stop;
use crate::sys::set_receiver_loop;
use crate::udp::io::{Missed, Receiver, SLOTS, WAITS_FIRST};

/// Receive errors without a datagram in between after which a listener gives up.
const MAX_ERRORS: u32 = 1000;

/// A UDP listener on one address; at a group, on each of its interfaces.
#[derive(Debug)]
pub struct UdpSource {
    /// One, but at a group one for each interface that can be used.
    entries: Vec<Entry>,
    /// The one to look at first.
    next: usize,
    membership: Option<Membership>,
    endpoint: String,
    /// Others may share its address, and come after it.
    first: bool,
    /// Somebody else waits for it.
    polled: bool,
    stop: Stop,
    draining: bool,
    errors: u32,
    /// Datagrams that found no room in the receive buffer.
    overflow: log::LogLimiter,
    /// Datagrams from elsewhere than allowed.
    foreign: log::LogLimiter,
    counters: Arc<Counters>,
    /// Where to count what is not allowed.
    denials: Arc<Counters>,
}

/// A socket, and what it is for.
#[derive(Debug)]
struct Entry {
    socket: Arc<UdpSocket>,
    receiver: Receiver,
    route: Option<Arc<Route>>,
}

/// What the interfaces of a group take.
#[derive(Debug)]
struct Membership {
    routes: RouteTable,
    version: usize,
    options: Options,
    /// This program sends to the group too, whatever is allowed.
    own: bool,
    can_change: bool,
    /// When to join again what could not be joined.
    retry_at: Option<Instant>,
}

impl UdpSource {
    /// Opens a listener on each address of the endpoint, one for each thread that is to receive there.
    ///
    /// # Errors
    /// If one cannot be opened; see [`listen_udp`](crate::net::socket::listen_udp).
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
            let mut source = Self::new(endpoint, None, meter, stop);
            let address = socket.local_addr().ok();
            source.first = last != address;
            last = address;
            source.enter(socket, None, options, POLL_INTERVAL).map_err(|e| source.cannot_listen(e))?;
            sources.push(source);
        }
        Ok(sources)
    }

    /// Joins a group on those of its interfaces that can be used, and on the others when they can be. With `own`
    /// this host's addresses there may send to it whatever else is allowed.
    ///
    /// # Errors
    /// If it cannot be joined on one, or there is none to wait for.
    pub fn join(
        routes: &RouteTable,
        options: &Options,
        own: bool,
        meter: &Meter,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let (routes, options, can_change) = (routes.clone(), options.clone(), routes.can_change());
        let group = Membership { routes, version: 0, options, own, can_change, retry_at: None };
        let mut source = Self::new(group.routes.resolved(), None, meter, stop);
        let lacking = group.routes.lack_an_interface();
        source.membership = Some(group);
        if lacking {
            return Err(source.cannot_listen(no_interface()));
        }
        source.sync_memberships().map_err(|error| source.cannot_listen(error))?;
        Ok(source)
    }

    fn new(endpoint: &Resolved, membership: Option<Membership>, meter: &Meter, stop: &Stop) -> Self {
        let counters = meter.counters();
        Self {
            entries: Vec::new(),
            next: 0,
            membership,
            endpoint: endpoint.to_string(),
            first: true,
            polled: false,
            stop: stop.clone(),
            draining: false,
            errors: 0,
            overflow: log::LogLimiter::default(),
            foreign: log::LogLimiter::default(),
            denials: counters.clone(),
            counters,
        }
    }

    fn cannot_listen(&self, error: io::Error) -> Error {
        Error::io("listen on", &self.endpoint, error)
    }

    fn enter(
        &mut self,
        socket: UdpSocket,
        route: Option<Arc<Route>>,
        options: &Options,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        socket.set_read_timeout(timeout)?;
        if self.polled || WAITS_FIRST {
            socket.set_nonblocking(true)?;
        }
        let group = route.as_ref().and_then(|route| route.addresses.first()).map(SocketAddr::ip);
        let receiver = Receiver::new(&socket, group, options.allow.clone(), options.transparent);
        let socket = Arc::new(socket);
        self.stop.watch(&socket);
        self.entries.push(Entry { socket, receiver, route });
        Ok(())
    }

    /// Joins the group on interfaces that have come, and leaves it on those that have gone.
    fn sync_memberships(&mut self) -> io::Result<()> {
        let Some(group) = &mut self.membership else { return Ok(()) };
        let (version, routes) = group.routes.current();
        let index = |route: &Route| route.interface.as_ref().map(|interface| interface.index);
        let is_one = |entry: &Entry| {
            let own = entry.route.as_ref().map(|route| index(route));
            routes.iter().any(|route| own == Some(index(route)))
        };
        self.entries.retain(is_one);
        let (options, own) = (group.options.clone(), group.own);
        let resolved = group.routes.resolved().clone();
        let timeout = POLL_INTERVAL.or(group.can_change.then_some(REFRESH_INTERVAL));
        let mut failed = Ok(());
        for route in routes {
            let mut options = options.clone();
            if let Some(interface) = route.interface.as_ref().filter(|_| own && !options.allow.is_empty()) {
                for address in &interface.addresses {
                    options.allow.add(&address.to_string());
                }
            }
            let joined =
                |entry: &&mut Entry| entry.route.as_ref().is_some_and(|known| index(known) == index(&route));
            let entered = match self.entries.iter_mut().find(joined) {
                Some(entry) => {
                    entry.receiver.allow(options.allow);
                    Ok(())
                }
                None => join_group(&resolved, &route, &options)
                    .and_then(|socket| self.enter(socket, Some(route), &options, timeout)),
            };
            failed = failed.and(entered);
        }
        // Whether a host hears itself is up to the receiver there (Winsock's IP_MULTICAST_LOOP): once is enough.
        for (index, entry) in self.entries.iter().enumerate().filter(|_| own) {
            let family = resolved.addresses.first().copied().ok_or_else(no_interface);
            let set = |family| set_receiver_loop(&SockRef::from(&*entry.socket), family, index == 0);
            failed = failed.and(family.and_then(set));
        }
        // Several are waited for together.
        for entry in &self.entries {
            let alone = self.entries.len() == 1 && !self.polled && !WAITS_FIRST;
            failed = failed.and(entry.socket.set_nonblocking(!alone));
        }
        failed?;
        if let Some(group) = &mut self.membership {
            (group.version, group.retry_at) = (version, None);
        }
        Ok(())
    }

    /// Takes over what has changed.
    fn refresh(&mut self) {
        let Some(group) = &mut self.membership else { return };
        if self.draining
            || !group.routes.have_changed(group.version)
            || group.retry_at.is_some_and(|at| Instant::now() < at)
        {
            return;
        }
        group.retry_at = Some(Instant::now() + REFRESH_INTERVAL);
        if let Err(error) = self.sync_memberships() {
            log::warn(format_args!("{}; trying again", self.cannot_listen(error)));
        }
    }

    /// Counts what is not allowed there, rather than where all else is counted.
    #[must_use]
    pub fn with_denials(mut self, meter: &Meter) -> Self {
        self.denials = meter.counters();
        self
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// If the system does not tell it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match (self.entries.first(), &self.membership) {
            (Some(entry), _) => entry.socket.local_addr(),
            (None, Some(group)) => {
                group.routes.resolved().addresses.first().copied().ok_or_else(no_interface)
            }
            (None, None) => Err(no_interface()),
        }
    }

    /// The interfaces that come and go; none but of a group.
    pub(crate) fn routes(&self) -> Option<&RouteTable> {
        self.membership.as_ref().map(|group| &group.routes)
    }

    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// From now on somebody else waits, for what [`poll`](Self::poll) tells: a receive does not.
    pub(crate) fn poll_from_outside(&mut self) -> io::Result<()> {
        self.polled = true;
        self.entries.iter().try_for_each(|entry| entry.socket.set_nonblocking(true))
    }

    /// What to wait for before a receive.
    pub(crate) fn poll(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.entries.iter().map(|entry| PollFd::new(&*entry.socket, PollFlags::IN))
    }

    /// How long to wait for that at most.
    pub(crate) fn patience(&self) -> Option<Duration> {
        /// Without a socket nothing tells of a stop.
        const UNWATCHED: Duration = Duration::from_millis(200);
        match &self.membership {
            _ if self.entries.is_empty() => Some(UNWATCHED),
            Some(group) if group.can_change => Some(REFRESH_INTERVAL),
            _ => POLL_INTERVAL,
        }
    }

    #[cold]
    fn missed(&mut self, missed: Missed) {
        self.counters.dropped(missed.dropped);
        self.denials.denied(missed.denied);
        if missed.dropped > 0 && self.overflow.permits() {
            log::warn(format_args!(
                "{}: data comes faster than it is taken: the system has dropped some",
                self.endpoint
            ));
        }
        if missed.denied > 0 && self.foreign.permits() {
            log::info(format_args!("{}: dropped what came from elsewhere than allowed", self.endpoint));
        }
    }

    /// Waits until one of several sockets has something, or for a while.
    fn wait(&self) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = self.poll().collect();
        wait(&mut fds, self.patience(), &self.stop).map(drop)
    }

    fn take(&mut self, batch: &mut Batch) -> io::Result<Missed> {
        let count = self.entries.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let entry = &mut self.entries[index];
            match entry.receiver.receive(&entry.socket, batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    // The others come first then.
                    self.next = index + 1;
                    return result;
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Source for UdpSource {
    fn capacity(&self) -> usize {
        SLOTS * SLOT
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        self.refresh();
        match self.take(batch) {
            Ok(missed) => {
                if missed != Missed::default() {
                    self.missed(missed);
                }
                self.errors = 0;
                self.counters.passed(batch.count(), batch.bytes());
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if self.draining => return Ok(Flow::End),
                io::ErrorKind::WouldBlock if !self.polled && (WAITS_FIRST || self.entries.len() != 1) => {
                    self.wait().map_err(|error| Error::io("wait for", &self.endpoint, error))?;
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                // What ICMP or the interface reports passes, and must not end a listener.
                _ if self.errors < MAX_ERRORS => {
                    self.errors += 1;
                    self.counters.failed(1);
                    if self.errors == 1 {
                        log::warn(format_args!("{}: receiving: {error}", self.endpoint));
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
        let mut closed = true;
        for entry in &self.entries {
            if let Err(error) = entry.socket.set_nonblocking(true) {
                log::warn(format_args!("{}: {error}", self.endpoint));
            }
            closed &= sys::stop_input(&SockRef::from(&*entry.socket)).is_ok();
        }
        closed
    }
}
