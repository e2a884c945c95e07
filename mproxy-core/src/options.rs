//! The options that all programs have in common.

use crate::stream::MAX_DATAGRAM;
use crate::{Allow, Error, Framing, Interface, UdpSink, datagram_size};

/// Threads of a listener: more than any machine has use for.
pub(crate) const MAX_THREADS: usize = 256;

/// How sockets are set up, and how datagrams are delimited where they meet a byte stream.
///
/// ```
/// use mproxy_core::{Framing, Options};
///
/// let options = Options::new().interface("127.0.0.1").ttl(4).framing(Framing::Lines);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    interface: Option<String>,
    pub(crate) ttl: u8,
    pub(crate) recv_buffer: Option<usize>,
    pub(crate) threads: usize,
    pub(crate) allow: Allow,
    framing: Framing,
    datagram_size: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interface: None,
            ttl: 1,
            recv_buffer: None,
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

    /// The interface for multicast: its name, its index, or one of its addresses. A zone in an address
    /// comes before it. By default the one that the system routes a group to.
    #[must_use]
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.interface = Some(name.into());
        self
    }

    /// The TTL (hop limit) of multicast: 0 keeps it on this host, 1, the default, on this link. Unicast
    /// keeps the system's own.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The size of each receive buffer in bytes. By default as large as the system allows, up to 8 MiB;
    /// for `mproxy-server` 64 MiB.
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

    /// How many threads receive at each unicast UDP listener, 1 by default: for a listener that many
    /// senders keep busier than one thread can serve. Each sender stays with one of them, so that its
    /// datagrams keep their order. More than one needs Linux, and lets other processes of the same user
    /// share the port.
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
    /// Wrong use if there is no such interface, network, number of threads or datagram size.
    pub fn check(&self) -> Result<(), Error> {
        self.chosen_interface()?;
        self.allow.check()?;
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return Err(Error::usage(format!("{} threads: 1 to {MAX_THREADS} can be", self.threads)));
        }
        if self.threads > 1 && !cfg!(target_os = "linux") {
            return Err(Error::usage("only Linux divides a listener's senders among several threads"));
        }
        match self.datagram_size {
            Some(size) if !(1..=MAX_DATAGRAM).contains(&size) => {
                Err(Error::usage(format!("{size} is no datagram size: 1 to {MAX_DATAGRAM} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Looks up the chosen interface.
    ///
    /// # Errors
    /// Wrong use if there is no such interface.
    pub fn chosen_interface(&self) -> Result<Option<Interface>, Error> {
        self.interface.as_deref().map(Interface::find).transpose()
    }

    /// The networks that may send.
    #[must_use]
    pub fn allowed(&self) -> &Allow {
        &self.allow
    }

    /// The chosen framing.
    #[must_use]
    pub fn chosen_framing(&self) -> Framing {
        self.framing
    }

    /// The chosen datagram size, or the default for these targets.
    #[must_use]
    pub fn chosen_datagram_size(&self, targets: &[UdpSink]) -> usize {
        self.datagram_size.unwrap_or_else(|| datagram_size(targets))
    }
}
