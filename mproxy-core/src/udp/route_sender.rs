//! Sends along one route: to the first of a host's addresses that can be used, or to a group through one interface.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::io::Sender;
use super::room_wait::RoomWait;
use super::send_error::{Full, SendError, Situation};
use super::target::UdpTarget;
use super::transparent::{OwnAddress, SourceSockets};
use crate::error::hint::with_os_hint;
use crate::log;
use crate::net::connect::{
    connect_udp, enlarge_send_buffer, log_target, path_payload, wait_for_port_unreachable,
};
use crate::net::health::Health;
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::Route;
use crate::relay::batch::{Batch, Cursor};
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;
use crate::sys::{SEND_TAKES_SOCKET_ERROR, pending_socket_error};

/// The pause after a send for which no address could be used.
const RETRY: Duration = Duration::from_millis(250);

/// How often to take the pending socket error (`SO_ERROR`) where no send fails of it.
const SOCKET_ERROR_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct RouteSender {
    target: Resolved,
    options: Options,
    route: Arc<Route>,
    counters: Arc<Counters>,
    /// The socket of a pair, in place of one of its own.
    pair: Option<Arc<UdpSocket>>,
    /// The index of the address in use.
    current: usize,
    connected: Option<Connected>,
    /// The address that was logged last.
    logged_address: Option<SocketAddr>,
    /// Datagrams that no path takes (EMSGSIZE).
    too_long: log::LogLimiter,
    /// Datagrams that cannot leave with the address of their sender.
    not_transparent: log::LogLimiter,
    /// The first datagram met no port unreachable at this address.
    probed: bool,
    /// When to try again, if no address could be used.
    retry_at: Option<Instant>,
    /// Some send has failed, and the target has not recovered.
    failing: bool,
    /// The wait for room, if the source can wait.
    wait: Option<RoomWait>,
    /// With transparency alone.
    source_sockets: Option<SourceSockets>,
    /// The target takes nothing, and is not waited for.
    stalled: log::LogLimiter,
}

/// A socket that is connected to the address in use, and the sender of batches for it.
#[derive(Debug)]
struct Connected {
    socket: Arc<UdpSocket>,
    sender: Sender,
    /// When the pending socket error was taken last.
    error_taken: Instant,
    /// With transparency alone.
    _own_address: Option<OwnAddress>,
}

impl Connected {
    /// Fails of the pending socket error (`SO_ERROR`) where a send does not.
    fn take_socket_error(&mut self) -> io::Result<()> {
        if SEND_TAKES_SOCKET_ERROR || self.error_taken.elapsed() < SOCKET_ERROR_INTERVAL {
            return Ok(());
        }
        self.error_taken = Instant::now();
        pending_socket_error(&self.socket)?.map_or(Ok(()), Err)
    }
}

impl RouteSender {
    /// Connects to the first address that can be used. If there is none, the next send tries again.
    pub(super) fn open(
        target: &UdpTarget,
        route: Arc<Route>,
        counters: Arc<Counters>,
        stop: Option<&Stop>,
        source_sockets: Option<SourceSockets>,
    ) -> Self {
        let mut sender = Self {
            target: target.routes().resolved().clone(),
            options: target.options().clone(),
            route,
            counters,
            pair: target.pair().cloned(),
            current: 0,
            connected: None,
            logged_address: None,
            too_long: log::LogLimiter::default(),
            not_transparent: log::LogLimiter::default(),
            probed: false,
            retry_at: None,
            failing: false,
            wait: stop.map(RoomWait::new),
            source_sockets,
            stalled: log::LogLimiter::default(),
        };
        let mut last_error = None;
        for _ in 0..sender.route.addresses.len() {
            match sender.connected() {
                Ok(_) => return sender,
                Err(error) => last_error = Some(error),
            }
            sender.next_address();
        }
        if let Some(error) = last_error {
            sender.failed(&error);
        }
        sender
    }

    /// Whether this is the sender for the route, whose addresses may have changed.
    pub(super) fn is_for(&self, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.route, route) || self.route.interface.is_none() && route.interface.is_none()
    }

    /// Takes the addresses of the route, and keeps the one in use if it is among them.
    pub(super) fn set_route(&mut self, route: Arc<Route>) {
        if Arc::ptr_eq(&self.route, &route) {
            return;
        }
        let used = self.address();
        self.route = route;
        let index = self.route.addresses.iter().position(|address| Some(*address) == used);
        self.current = index.unwrap_or(0);
        if index.is_none() {
            (self.connected, self.retry_at, self.probed) = (None, None, false);
        }
    }

    /// Whether this host hears what leaves here (`IP_MULTICAST_LOOP`), as long as it leaves.
    pub(super) fn has_multicast_loop(&self) -> bool {
        self.options.multicast_loop && self.is_usable()
    }

    /// Whether an address could be used last.
    pub(super) fn is_usable(&self) -> bool {
        self.retry_at.is_none()
    }

    pub(super) fn set_multicast_loop(&mut self, on: bool) {
        if std::mem::replace(&mut self.options.multicast_loop, on) != on {
            self.connected = None;
        }
    }

    /// The largest payload that the path MTU has room for, where it is known.
    pub(super) fn path_payload(&self) -> Option<usize> {
        path_payload(&self.connected.as_ref()?.socket)
    }

    /// Sends the batch; with transparency each datagram leaves with the address of its sender. What cannot be sent
    /// is counted, logged and skipped.
    pub(super) fn send(&mut self, batch: &Batch) {
        let mut source_sockets = self.source_sockets.take();
        let mut cursor = Cursor::default();
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.retry_at = None;
            while batch.remaining(cursor).is_some() && self.retry_at.is_none() {
                let is_sent = match &mut source_sockets {
                    Some(sockets) => self.send_transparent(sockets, batch, &mut cursor),
                    None => false,
                };
                if !is_sent {
                    self.send_connected(batch, &mut cursor);
                }
            }
        }
        self.source_sockets = source_sockets;
        if self.retry_at.is_some() {
            self.counters.failed(batch.count() - batch.counts_before(cursor).0);
        }
        if self.failing {
            self.failing = !self.health(Health::passed);
        }
    }

    /// Sends the datagrams of one sender with its address; false if they must leave with this host's. An error is
    /// this sender's alone.
    fn send_transparent(&mut self, sockets: &mut SourceSockets, batch: &Batch, cursor: &mut Cursor) -> bool {
        let (Some(from), Some(to)) = (batch.sender(*cursor), self.address()) else { return false };
        let (route, multicast_loop) = (self.route.clone(), self.options.multicast_loop);
        let before = batch.counts_before(*cursor);
        let sent = match sockets.socket(from, to, route.interface.as_ref(), multicast_loop) {
            Ok(None) => return false,
            // The connected socket holds the membership that TTL 0 needs; its sender knows the offload of the path.
            Ok(Some(socket)) => {
                self.connected().and_then(|connected| connected.sender.send(socket, Some(to), batch, cursor))
            }
            Err(error) => Err(error),
        };
        self.count_sent(batch, before, *cursor);
        let Err(error) = sent else { return true };
        let meaning = SendError::classify(&error, Situation::Transparent);
        let is_error = !matches!(meaning, SendError::Interrupted | SendError::Full(_));
        if is_error && self.not_transparent.permits() {
            let target = &self.target;
            log::warn(format_args!("cannot send to {target} as {from}: {error}; dropped"));
        }
        match meaning {
            SendError::Interrupted => {}
            SendError::TooLong => drop(self.skip_datagram(batch, cursor)),
            SendError::ThisSend => self.skip_send(batch, cursor),
            SendError::Full(full) => self.drop_for_lack_of_room(full, batch, cursor),
            SendError::Address | SendError::EarlierDatagram | SendError::ThisDatagram => {
                let first = *cursor;
                while batch.same_sender(first, *cursor) {
                    self.skip_datagram(batch, cursor);
                }
            }
        }
        true
    }

    /// Sends the datagrams of one sender through the connected socket.
    fn send_connected(&mut self, batch: &Batch, cursor: &mut Cursor) {
        let mut addresses_left = self.route.addresses.len();
        let first = *cursor;
        // An error that may be of an earlier datagram, and the cursor where the send has failed of it.
        let mut earlier: Option<(Cursor, io::Error)> = None;
        while batch.same_sender(first, *cursor) || earlier.is_some() {
            let before = batch.counts_before(*cursor);
            let result = self.try_send(batch, cursor);
            self.count_sent(batch, before, *cursor);
            let mut repeated = false;
            if let Some((failed_at, error)) = earlier.take() {
                repeated = failed_at == *cursor && result.is_err();
                if !repeated {
                    self.failed(&error);
                    self.counters.failed(1);
                }
            }
            let Err(error) = result else { return };
            match SendError::classify(&error, self.situation(repeated)) {
                SendError::Interrupted => {}
                SendError::EarlierDatagram => earlier = Some((*cursor, error)),
                SendError::Address => {
                    self.next_address();
                    addresses_left = addresses_left.saturating_sub(1);
                    if addresses_left == 0 {
                        self.failed(&error);
                        self.retry_at = Some(Instant::now() + RETRY);
                        return;
                    }
                }
                SendError::TooLong => {
                    let len = self.skip_datagram(batch, cursor);
                    if self.too_long.permits() {
                        let target = &self.target;
                        let error = with_os_hint(&error);
                        log::warn(format_args!("cannot send {len} bytes to {target}: {error}"));
                    }
                }
                SendError::ThisSend => {
                    self.failed(&error);
                    self.skip_send(batch, cursor);
                }
                SendError::Full(full) => {
                    if !self.wait_for_room(full) {
                        self.drop_for_lack_of_room(full, batch, cursor);
                    }
                }
                SendError::ThisDatagram => {
                    self.failed(&error);
                    self.skip_datagram(batch, cursor);
                }
            }
        }
    }

    fn situation(&self, repeated: bool) -> Situation {
        if self.connected.is_none() {
            return Situation::Unconnected;
        }
        Situation::Connected { has_other_addresses: self.has_other_addresses(), repeated }
    }

    /// Sends as many datagrams of one sender as leave without an error, and moves the cursor behind them.
    fn try_send(&mut self, batch: &Batch, cursor: &mut Cursor) -> io::Result<()> {
        let (has_other_addresses, waits) = (self.has_other_addresses(), self.wait.is_some());
        let must_probe = !self.probed && (has_other_addresses || waits);
        let connected = self.connected()?;
        connected.take_socket_error()?;
        let Connected { socket, sender, .. } = connected;
        let mut probed = false;
        if must_probe && let Some(datagram) = batch.datagram(*cursor) {
            socket.send(datagram)?;
            // On this host a port unreachable comes at once, and the next address may not refuse.
            if has_other_addresses && let Some(refused) = wait_for_port_unreachable(socket)? {
                return Err(refused);
            }
            *cursor = batch.advance(*cursor, datagram.len());
            probed = true;
            if waits {
                self.probed = true;
                self.wait_for_departure();
                return Ok(());
            }
        }
        let result = sender.send(socket, None, batch, cursor);
        self.probed |= probed;
        result
    }

    /// Counts the datagrams from the cursor `before` on.
    fn count_sent(&mut self, batch: &Batch, before: (usize, usize), cursor: Cursor) {
        let (datagrams, bytes) = batch.counts_before(cursor);
        self.counters.passed(datagrams - before.0, bytes - before.1);
        if let Some(wait) = &mut self.wait
            && datagrams > before.0
        {
            wait.reset();
        }
    }

    /// Waits until there may be room again. False if the source cannot wait, or the target has taken nothing for too
    /// long: one that fails is not waited for.
    fn wait_for_room(&mut self, full: Full) -> bool {
        if self.failing {
            return false;
        }
        self.wait_with(|wait, socket| wait.wait(socket, full))
    }

    /// Waits until the first datagram has left.
    fn wait_for_departure(&mut self) {
        self.wait_with(RoomWait::wait_for_departure);
    }

    /// The result of a wait; false if the source cannot wait.
    fn wait_with(&mut self, wait_for: impl FnOnce(&mut RoomWait, &UdpSocket) -> bool) -> bool {
        let (Some(wait), Some(connected)) = (&mut self.wait, &self.connected) else { return false };
        let goes_on = wait_for(wait, &connected.socket);
        if !goes_on && wait.has_given_up() && self.stalled.permits() {
            let target = &self.target;
            log::warn(format_args!(
                "cannot send to {target}: it has taken nothing for a second; going on without it"
            ));
        }
        goes_on
    }

    /// Moves the cursor over what there is no room for, and counts that as missed: the datagrams of one send, and all
    /// of the sender where its send buffer is full.
    fn drop_for_lack_of_room(&mut self, full: Full, batch: &Batch, cursor: &mut Cursor) {
        let (first, before) = (*cursor, batch.counts_before(*cursor));
        match (full, &self.connected) {
            (Full::DeviceQueue, Some(connected)) => drop(connected.sender.skip_send(batch, cursor)),
            _ => {
                while batch.same_sender(first, *cursor)
                    && let Some(datagram) = batch.datagram(*cursor)
                {
                    *cursor = batch.advance(*cursor, datagram.len());
                }
            }
        }
        let (datagrams, bytes) = batch.counts_before(*cursor);
        let (datagrams, bytes) = ((datagrams - before.0) as u64, (bytes - before.1) as u64);
        self.counters.missed(datagrams, bytes);
        let reason = match full {
            Full::SendBuffer => "its send buffer is full: the link is too slow, or the host does not answer",
            Full::DeviceQueue => "the queue of the network interface is full",
        };
        self.health(|health| health.dropped(datagrams, reason));
    }

    /// Moves the cursor over the datagrams of one send, and counts them as failed.
    fn skip_send(&mut self, batch: &Batch, cursor: &mut Cursor) {
        match &self.connected {
            Some(connected) => self.counters.failed(connected.sender.skip_send(batch, cursor)),
            None => drop(self.skip_datagram(batch, cursor)),
        }
    }

    /// Moves the cursor over one datagram, and counts it as failed. Returns its length.
    fn skip_datagram(&mut self, batch: &Batch, cursor: &mut Cursor) -> usize {
        let len = batch.datagram(*cursor).map_or(0, <[u8]>::len);
        *cursor = batch.advance(*cursor, len);
        self.counters.failed(1);
        len
    }

    /// The connected socket, opened if there is none.
    fn connected(&mut self) -> io::Result<&mut Connected> {
        let connected = if let Some(connected) = self.connected.take() {
            connected
        } else {
            self.probed = false;
            let socket = match &self.pair {
                Some(socket) => socket.clone(),
                None => self.connect()?,
            };
            let own_address = if self.options.transparent { Some(OwnAddress::new(&socket)?) } else { None };
            Connected {
                sender: Sender::new(&socket),
                socket,
                error_taken: Instant::now(),
                _own_address: own_address,
            }
        };
        Ok(self.connected.insert(connected))
    }

    fn connect(&mut self) -> io::Result<Arc<UdpSocket>> {
        let address = self.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = connect_udp(&self.route, address, &self.options)?;
        if self.wait.is_none() {
            enlarge_send_buffer(&SockRef::from(&socket));
        }
        if self.logged_address.replace(address) != Some(address) {
            log_target(&self.target, &self.route, address, &self.options);
        }
        Ok(Arc::new(socket))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.route.addresses.get(self.current).copied()
    }

    /// Closes the socket, and chooses the next address; the same one, if it is the only one.
    fn next_address(&mut self) {
        self.connected = None;
        self.current = (self.current + 1) % self.route.addresses.len().max(1);
    }

    fn has_other_addresses(&self) -> bool {
        self.route.addresses.len() > 1
    }

    fn health<T>(&self, report: impl FnOnce(&mut Health) -> T) -> T {
        report(&mut self.route.health.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&mut self, error: &io::Error) {
        self.failing = true;
        self.health(|health| health.failed(error));
    }
}
