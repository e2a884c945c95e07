//! One way to a UDP target: the first of its addresses that can be used, or a group through one interface.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::hint::with_os_hint;
use crate::log;
use crate::net::connect::{connect_udp, log_target, path_payload, wait_for_port_unreachable};
use crate::net::health::Health;
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::Route;
use crate::net::socket::{connect_udp, path_payload, tell_target, wait_for_port_unreachable};
use crate::relay::batch::Batch;
use crate::relay::batch::Cursor;
use crate::relay::stats::Counters;
use crate::sys::{SEND_TAKES_SOCKET_ERROR, pending_socket_error};
use crate::udp::io::Sender;
use crate::udp::transparent::{OwnAddress, SourceSockets};

/// How long to leave a target alone of which no address could be used.
const RETRY: Duration = Duration::from_millis(250);

/// How often to take the pending socket error (`SO_ERROR`) where no send fails of it.
const SOCKET_ERROR_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct RouteSender {
    target: Resolved,
    options: Options,
    route: Arc<Route>,
    counters: Arc<Counters>,
    source_sockets: Option<Arc<Mutex<SourceSockets>>>,
    /// The address in use.
    current: usize,
    opened: Option<Opened>,
    /// The address that was told last.
    told: Option<SocketAddr>,
    /// Datagrams that no path can carry.
    too_long: log::LogLimiter,
    /// Datagrams that cannot leave as from their senders.
    not_as: log::LogLimiter,
    /// The address did not refuse the first datagram.
    proven: bool,
    /// When to try again, if no address could be used.
    retry_at: Option<Instant>,
    failing: bool,
}

/// The socket, and what sends with it.
#[derive(Debug)]
struct Opened {
    socket: UdpSocket,
    sender: Sender,
    /// When the pending socket error was taken last.
    error_taken: Instant,
    _own: Option<OwnAddress>,
}

impl Opened {
    /// Fails of the pending socket error (`SO_ERROR`) where the send does not.
    fn take_socket_error(&mut self) -> io::Result<()> {
        if SEND_TAKES_SOCKET_ERROR || self.error_taken.elapsed() < SOCKET_ERROR_INTERVAL {
            return Ok(());
        }
        self.error_taken = Instant::now();
        pending_socket_error(&self.socket)?.map_or(Ok(()), Err)
    }
}

impl RouteSender {
    pub(super) fn open(
        target: &Resolved,
        options: &Options,
        route: Arc<Route>,
        counters: Arc<Counters>,
        source_sockets: Option<Arc<Mutex<SourceSockets>>>,
    ) -> Self {
        let mut way = Self {
            target: target.clone(),
            options: options.clone(),
            route,
            counters,
            source_sockets,
            current: 0,
            opened: None,
            told: None,
            too_long: log::LogLimiter::default(),
            not_as: log::LogLimiter::default(),
            proven: false,
            retry_at: None,
            failing: false,
        };
        let mut last_error = None;
        for _ in 0..way.route.addresses.len() {
            match way.opened() {
                Ok(_) => return way,
                Err(error) => last_error = Some(error),
            }
            way.leave_address();
        }
        if let Some(error) = last_error {
            way.failed(&error);
        }
        way
    }

    /// Whether this is the way that the route describes, perhaps with other addresses by now.
    pub(super) fn serves(&self, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.route, route) || self.route.interface.is_none() && route.interface.is_none()
    }

    /// Goes on with the addresses of the route: with the one in use, if it is still among them.
    pub(super) fn follow(&mut self, route: Arc<Route>) {
        if Arc::ptr_eq(&self.route, &route) {
            return;
        }
        let used = self.address();
        self.route = route;
        let still = self.route.addresses.iter().position(|address| Some(*address) == used);
        self.current = still.unwrap_or(0);
        if still.is_none() {
            (self.opened, self.retry_at, self.proven) = (None, None, false);
        }
    }

    /// Whether this host hears what goes this way, and it goes well.
    pub(super) fn has_multicast_loop(&self) -> bool {
        self.options.multicast_loop && self.works()
    }

    pub(super) fn works(&self) -> bool {
        self.retry_at.is_none()
    }

    /// Has this host hear it or not.
    pub(super) fn set_multicast_loop(&mut self, heard: bool) {
        if std::mem::replace(&mut self.options.multicast_loop, heard) != heard {
            self.opened = None;
        }
    }

    pub(super) fn path_payload(&self) -> Option<usize> {
        path_payload(&self.opened.as_ref()?.socket)
    }

    pub(super) fn send(&mut self, batch: &Batch) {
        let mut at = Cursor::default();
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.retry_at = None;
            self.send_from(batch, &mut at);
        }
        if self.retry_at.is_some() {
            self.counters.failed(batch.count() - batch.counts_before(at).0);
        }
        if self.failing {
            self.failing = !self.health(Health::passed);
        }
    }

    /// Sends the batch from the place on; what cannot be sent is counted, reported, and passed over.
    fn send_from(&mut self, batch: &Batch, at: &mut Cursor) {
        while batch.remaining(*at).is_some() && self.retry_at.is_none() {
            if !self.send_as_sender(batch, at) {
                self.send_of_one(batch, at);
            }
        }
    }

    /// Sends as the sender, as far as the datagrams have the same; false if they are to leave as from this
    /// host. An error concerns this sender alone.
    fn send_as_sender(&mut self, batch: &Batch, at: &mut Cursor) -> bool {
        let (Some(source_sockets), Some(from), Some(to)) =
            (self.source_sockets.clone(), batch.sender(*at), self.address())
        else {
            return false;
        };
        let (route, heard) = (self.route.clone(), self.options.multicast_loop);
        let mut source_sockets = lock(&source_sockets);
        let before = batch.counts_before(*at);
        let sent = match source_sockets.socket(from, to, route.interface.as_ref(), heard) {
            Ok(None) => return false,
            // The other one holds the membership that TTL 0 needs, and knows what the path can.
            Ok(Some(socket)) => {
                self.opened().and_then(|opened| opened.sender.send(socket, Some(to), batch, at))
            }
            Err(error) => Err(error),
        };
        self.count(batch, before, *at);
        let Err(error) = sent else { return true };
        if error.kind() == io::ErrorKind::Interrupted {
            return true;
        }
        if self.not_as.permits() {
            let target = &self.target;
            log::warn(format_args!("cannot send to {target} as {from}: {error}; dropped"));
        }
        if is(&error, Errno::MSGSIZE) {
            self.pass_over(batch, at);
        } else if is(&error, Errno::NOBUFS) {
            self.skip(batch, at);
        } else {
            let from = *at;
            while batch.same_sender(from, *at) {
                self.pass_over(batch, at);
            }
        }
        true
    }

    /// Sends what goes at once, and moves the place behind it.
    fn advance(&mut self, batch: &Batch, at: &mut Cursor) -> io::Result<()> {
        let doubtful = self.has_others() && !self.proven;
        let opened = self.opened()?;
        opened.take_socket_error()?;
        let Opened { socket, sender, .. } = opened;
        let proven = match batch.datagram(*at) {
            Some(first) if doubtful => {
                socket.send(first)?;
                // On this host a wait_for_port_unreachable is known at once, and another address may not refuse.
                if let Some(refused) = wait_for_port_unreachable(socket)? {
                    return Err(refused);
                }
                *at = batch.advance(*at, first.len());
                true
            }
            _ => false,
        };
        let result = sender.send(socket, None, batch, at);
        self.proven |= proven;
        result
    }

    /// Sends as far as the datagrams have the same sender, as [`send_from`](Self::send_from) does.
    fn send_of_one(&mut self, batch: &Batch, at: &mut Cursor) {
        let mut addresses_left = self.route.addresses.len();
        // An error that may have been reported of a datagram that had gone out, and where it came up.
        let mut doubt: Option<(Cursor, io::Error)> = None;
        let from = *at;
        while batch.same_sender(from, *at) || doubt.is_some() {
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
                if self.too_long.permits() {
                    let target = &self.target;
                    let error = with_os_hint(&error);
                    log::warn(format_args!("cannot send {len} bytes to {target}: {error}"));
                }
            } else {
                self.failed(&error);
                if concerns_this(&error) {
                    self.skip(batch, at);
                } else {
                    self.pass_over(batch, at);
                }
            }
        }
    }

    /// Whether the error may have been reported of an earlier datagram, so that this one was not tried.
    fn may_be_of_another(&self, error: &io::Error) -> bool {
        self.opened.is_some() && !concerns_this(error) && !(self.has_others() && is_refused(error))
    }

    fn advance_counted(&mut self, batch: &Batch, at: &mut Cursor) -> io::Result<()> {
        let before = batch.counts_before(*at);
        let result = self.advance(batch, at);
        self.count(batch, before, *at);
        result
    }

    fn count(&self, batch: &Batch, (datagrams, bytes): (usize, usize), at: Cursor) {
        let (datagrams_now, bytes_now) = batch.counts_before(at);
        self.counters.passed(datagrams_now - datagrams, bytes_now - bytes);
    }

    /// Leaves out what would have gone together.
    fn skip(&mut self, batch: &Batch, at: &mut Cursor) {
        match &self.opened {
            Some(opened) => self.counters.failed(opened.sender.skip(batch, at)),
            None => drop(self.pass_over(batch, at)),
        }
    }

    /// Leaves out one datagram. Returns its length.
    fn pass_over(&mut self, batch: &Batch, at: &mut Cursor) -> usize {
        let len = batch.datagram(*at).map_or(0, <[u8]>::len);
        *at = batch.advance(*at, len);
        self.counters.failed(1);
        len
    }

    /// The socket and what sends with it, opened if it is not.
    fn opened(&mut self) -> io::Result<&mut Opened> {
        let opened = if let Some(opened) = self.opened.take() {
            opened
        } else {
            self.proven = false;
            let address = self.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let socket = connect_udp(&self.route, address, &self.options)?;
            if self.told.replace(address) != Some(address) {
                log_target(&self.target, &self.route, address, &self.options);
            }
            let own = if self.options.transparent { Some(OwnAddress::new(&socket)?) } else { None };
            Opened { sender: Sender::new(&socket), socket, error_taken: Instant::now(), _own: own }
        };
        Ok(self.opened.insert(opened))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.route.addresses.get(self.current).copied()
    }

    /// Closes the socket, so that the next send opens the next address; the same, if it is the only one.
    fn leave_address(&mut self) {
        self.opened = None;
        self.current = (self.current + 1) % self.route.addresses.len().max(1);
    }

    fn has_others(&self) -> bool {
        self.route.addresses.len() > 1
    }

    /// Whether the route, this host's own address or the target's stand against every datagram, so that
    /// another address or a new socket may do better.
    fn is_unusable(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{
            AddrNotAvailable, HostUnreachable, InvalidInput, NetworkDown, NetworkUnreachable, NotFound,
            Unsupported,
        };
        let lasting = matches!(
            error.kind(),
            AddrNotAvailable
                | HostUnreachable
                | InvalidInput
                | NetworkDown
                | NetworkUnreachable
                | NotFound
                | Unsupported
        );
        self.opened.is_none() || lasting || self.has_others() && is_refused(error)
    }

    fn health<T>(&self, report: impl FnOnce(&mut Health) -> T) -> T {
        report(&mut self.route.health.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&mut self, error: &io::Error) {
        self.failing = true;
        self.health(|health| health.failed(error));
    }
}

/// Only one thread has it.
fn lock(source_sockets: &Mutex<SourceSockets>) -> MutexGuard<'_, SourceSockets> {
    source_sockets.lock().unwrap_or_else(PoisonError::into_inner)
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
