//! The options that all programs have in common.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::Socket;

use crate::error::Error;
use crate::io::framing::Framing;
use crate::net::allow::Allow;
use crate::net::select::Choice;
use crate::relay::limits::MAX_DATAGRAM;
use crate::sys;

/// Threads of a listener: more than any machine has use for.
pub(crate) const MAX_THREADS: usize = 256;

/// The longest linger: what waits longer is no live data.
pub(crate) const MAX_LINGER: Duration = Duration::from_millis(100);

/// The sizes that a ring of clients can have: some datagrams of any size at least.
pub(crate) const CLIENT_BUFFER: RangeInclusive<usize> = 128 << 10..=1 << 30;

/// The stall timeouts that there can be.
pub(crate) const STALL_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(86_400);

/// How sockets are set up, and how datagrams are delimited where they meet a byte stream.
///
/// ```
/// use mproxy_core::{Framing, Options};
///
/// let options = Options::new().interface("127.0.0.1").ttl(4).framing(Framing::Lines);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub(crate) interfaces: Choice,
    pub(crate) ttl: u8,
    pub(crate) multicast_loop: bool,
    pub(crate) dscp: u8,
    pub(crate) resolve_interval: Duration,
    pub(crate) transparent: bool,
    pub(crate) max_sources: usize,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) linger: Duration,
    pub(crate) client_buffer: usize,
    pub(crate) stall_timeout: Duration,
    pub(crate) threads: usize,
    pub(crate) allow: Allow,
    pub(crate) framing: Framing,
    pub(crate) datagram_size: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interfaces: Choice::default(),
            ttl: 1,
            multicast_loop: true,
            dscp: 0,
            resolve_interval: Duration::from_secs(60),
            transparent: false,
            max_sources: 4096,
            recv_buffer: None,
            linger: Duration::ZERO,
            client_buffer: 4 << 20,
            stall_timeout: Duration::from_secs(60),
            threads: 1,
            allow: Allow::default(),
            framing: Framing::Auto,
            datagram_size: None,
        }
    }
}

impl Options {
    /// The defaults, as each option tells them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an interface for multicast: its name, its index, one of its addresses, or `all` for all but
    /// loopback. Each group is joined, and sent to, on each of them. One that is down, or not there while
    /// another is, is left out with a warning until it is up. A zone in an address comes before this. By
    /// default the rule of the README picks one.
    #[must_use]
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.interfaces.add(name);
        self
    }

    /// The TTL (hop limit) of multicast: 0 keeps it on this host, 1, the default, on this link. Unicast
    /// keeps the system's own.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Whether this host hears what it sends to groups itself (`IP_MULTICAST_LOOP`), as it does by default. Windows
    /// leaves that to each receiver, and takes no `false`.
    #[must_use]
    pub fn multicast_loop(mut self, on: bool) -> Self {
        self.multicast_loop = on;
        self
    }

    /// The option of 0.2.0 for [`multicast_loop(false)`](Self::multicast_loop).
    #[deprecated(since = "0.3.0", note = "use `multicast_loop(false)`")]
    #[must_use]
    pub fn no_loop(self) -> Self {
        self.multicast_loop(false)
    }

    /// The DSCP of all that is sent (RFC 2474), 0 to 63; by default 0, and no other on Windows.
    #[must_use]
    pub fn dscp(mut self, dscp: u8) -> Self {
        self.dscp = dscp;
        self
    }

    /// How often the name of a UDP target is resolved again, 60 seconds by default; zero is never.
    #[must_use]
    pub fn resolve_interval(mut self, interval: Duration) -> Self {
        self.resolve_interval = interval;
        self
    }

    /// Has each datagram leave with the address and port of the one who sent it here, rather than with this
    /// host's own. For `mproxy-forward` and `mproxy-reverse` on Linux; it needs the capability `CAP_NET_ADMIN`.
    #[must_use]
    pub fn transparent(mut self) -> Self {
        self.transparent = true;
        self
    }

    /// For how many senders a thread keeps sockets to be [transparent](Self::transparent) with; for one more
    /// that of the sender not heard for longest is closed. By default 4096.
    #[must_use]
    pub fn max_sources(mut self, sources: usize) -> Self {
        self.max_sources = sources;
        self
    }

    /// The size of the receive buffer of each UDP socket in bytes, also of those between the threads of
    /// `mproxy-reverse`. By default as large as the system allows, up to 8 MiB; for `mproxy-server` 64 MiB.
    #[must_use]
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.recv_buffer = Some(bytes);
        self
    }

    /// The same, with this size for the receive buffer if none was chosen.
    #[must_use]
    pub fn or_recv_buffer(mut self, bytes: usize) -> Self {
        self.recv_buffer.get_or_insert(bytes);
        self
    }

    /// How long a UDP listener waits for more datagrams after a first one, before it passes them on; at most 100 ms, by
    /// default not at all. What makes a full send goes at once. A lone datagram costs a wake-up, and so do many
    /// together. The TCP and TLS inputs of `mproxy-reverse` do the same.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// The lag in bytes that a TCP or TLS client of `mproxy-reverse` may have: the size of the ring that all clients
    /// of an output thread share, from 128 KiB to 1 GiB, 4 MiB by default. A client that lags further misses whole
    /// datagrams, which are counted as [`missed`](crate::EndpointStats::missed).
    #[must_use]
    pub fn client_buffer(mut self, bytes: usize) -> Self {
        self.client_buffer = bytes;
        self
    }

    /// How long a TCP or TLS client of `mproxy-reverse` that answers may take nothing before it is dropped: from 100 ms
    /// to 24 hours, 60 seconds by default. One that reads slowly is not dropped; one whose network is silent is after 26
    /// seconds, where the system tells (Linux).
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// How many threads receive at each unicast UDP listener, 1 by default: for a listener that many
    /// senders keep busier than one thread can serve. Each sender stays with one of them, so that its
    /// datagrams keep their order. In `mproxy-reverse` as many threads share the clients of each TCP or TLS output.
    /// More than one needs Linux, and lets other processes of the same user share the port.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Adds a network to take datagrams and connections from: `ADDRESS/PREFIX` or `ADDRESS`. What comes
    /// from elsewhere is dropped, and counted as [`denied`](crate::EndpointStats::denied). By default
    /// everyone may send.
    #[must_use]
    pub fn allow(mut self, network: &str) -> Self {
        self.allow.add(network);
        self
    }

    /// The same, with this list instead.
    #[must_use]
    pub fn allow_only(mut self, list: Allow) -> Self {
        self.allow = list;
        self
    }

    /// How datagrams are delimited in files, pipes and TCP streams, in both directions.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// The largest datagram that is made from a byte stream, from 1 to 65,507 bytes; with
    /// [`Framing::Blocks`] the size of each. By default what the path to every target takes without
    /// fragmentation, at most 8192, or 1452 where the system does not tell.
    #[must_use]
    pub fn datagram_size(mut self, bytes: usize) -> Self {
        self.datagram_size = Some(bytes);
        self
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// Wrong use if there is no such interface, network, number of threads or datagram size, or if it makes no
    /// sense here.
    pub fn check(&self) -> Result<(), Error> {
        self.interfaces.check()?;
        self.allow.check()?;
        if self.ttl == 0 && !self.multicast_loop {
            return Err(Error::usage("multicast with TTL 0 that its own host does not hear reaches nobody"));
        }
        if !self.multicast_loop && !sys::CAN_SET_MULTICAST_LOOP {
            return Err(Error::usage(
                "Windows has each receiver decide whether it hears its own host, not the sender (--no-loop)",
            ));
        }
        if self.dscp > 63 {
            return Err(Error::usage(format!("{} is no DSCP: 0 to 63", self.dscp)));
        }
        if self.dscp > 0 && !sys::CAN_SET_DSCP {
            return Err(Error::usage(
                "Windows lets no program mark its packets with a DSCP: a policy does, not --dscp (New-NetQosPolicy)",
            ));
        }
        if self.max_sources == 0 {
            return Err(Error::usage("at least one source must be allowed"));
        }
        if self.linger > MAX_LINGER {
            return Err(Error::usage(format!("a linger of {:?}: at most {MAX_LINGER:?}", self.linger)));
        }
        if !CLIENT_BUFFER.contains(&self.client_buffer) {
            return Err(Error::usage(format!(
                "{} bytes are no size of a client buffer: {} to {}",
                self.client_buffer,
                CLIENT_BUFFER.start(),
                CLIENT_BUFFER.end()
            )));
        }
        if !STALL_TIMEOUT.contains(&self.stall_timeout) {
            return Err(Error::usage(format!(
                "a stall timeout of {:?}: {:?} to {:?}",
                self.stall_timeout,
                STALL_TIMEOUT.start(),
                STALL_TIMEOUT.end()
            )));
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return Err(Error::usage(format!("{} threads: 1 to {MAX_THREADS} can be", self.threads)));
        }
        if self.threads > 1 && !sys::CAN_DIVIDE_SENDERS {
            return Err(Error::usage(
                "only Linux divides a listener's senders among several threads (--threads)",
            ));
        }
        match self.datagram_size {
            Some(size) if !(1..=MAX_DATAGRAM).contains(&size) => {
                Err(Error::usage(format!("{size} is no datagram size: 1 to {MAX_DATAGRAM} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Sets the DSCP of what is sent (RFC 2474): the upper six bits of the old type of service (`IP_TOS`), or of the
    /// traffic class (`IPV6_TCLASS`).
    pub(crate) fn set_dscp(&self, socket: &Socket, family: SocketAddr) -> io::Result<()> {
        let field = u32::from(self.dscp) << 2;
        if field == 0 {
            return Ok(());
        }
        if family.is_ipv4() { socket.set_tos_v4(field) } else { sys::set_traffic_class(socket, field) }
    }

    /// Whether this host hears what it sends to groups (`IP_MULTICAST_LOOP`).
    #[must_use]
    pub fn has_multicast_loop(&self) -> bool {
        self.multicast_loop
    }

    /// The networks that may send.
    #[must_use]
    pub fn allowed(&self) -> &Allow {
        &self.allow
    }

    /// The chosen number of threads.
    #[must_use]
    pub fn chosen_threads(&self) -> usize {
        self.threads
    }

    /// The chosen linger.
    #[must_use]
    pub fn chosen_linger(&self) -> Duration {
        self.linger
    }

    /// The chosen framing.
    #[must_use]
    pub fn chosen_framing(&self) -> Framing {
        self.framing
    }
}
