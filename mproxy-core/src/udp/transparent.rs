//! Transparent sending (`ip(7)`, `IP_TRANSPARENT`): datagrams leave with the address and port of their sender.
//!
//! The sockets are bound, but not connected: to a connected one the system would deliver the replies that only pass
//! through this host on their way to the sender (early demultiplexing), and drop them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use socket2::SockRef;

use crate::error::Error;
use crate::net::connect::{enlarge_send_buffer, set_up_sender};
use crate::net::interface::{Interface, is_own};
use crate::net::multicast::{send_through, set_multicast_loop};
use crate::net::options::Options;
use crate::sys::{
    CAN_SEND_TRANSPARENT, descriptor_limit, is_out_of_descriptors, open_transparent, set_unicast_interface,
};

/// The addresses that this process sends from by itself while transparency is asked for. What it sends to a group
/// may come in again, and must leave from its own address then.
static OWN_ADDRESSES: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// The address of a socket that sends as this host, on the list as long as this lives.
#[derive(Debug)]
pub(crate) struct OwnAddress(SocketAddr);

impl OwnAddress {
    pub(crate) fn new(socket: &UdpSocket) -> io::Result<Self> {
        let own = Self(socket.local_addr()?);
        Self::all().push(own.0);
        Ok(own)
    }

    fn all() -> MutexGuard<'static, Vec<SocketAddr>> {
        OWN_ADDRESSES.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnAddress {
    fn drop(&mut self) {
        Self::all().retain(|own| *own != self.0);
    }
}

/// A cache of sockets, one for each of the senders heard last. It belongs to one route, so that what waits in a send buffer
/// for one target takes no room from another.
#[derive(Debug)]
pub(crate) struct SourceSockets {
    /// None for a sender that is this process.
    sockets: LruCache<SocketAddr, Option<SourceSocket>>,
    capacity: usize,
    options: Options,
}

/// A socket bound to the address of a sender, and the interfaces it is set to.
#[derive(Debug)]
struct SourceSocket {
    socket: UdpSocket,
    /// The index of the interface for groups, and `IP_MULTICAST_LOOP`.
    multicast: (u32, bool),
    /// The index of the interface for IPv4 unicast and broadcast; 0: that of the route.
    unicast: u32,
}

impl SourceSockets {
    /// One of so many caches.
    pub(crate) fn new(options: &Options, caches: usize) -> Self {
        // Listeners and connections must find descriptors too, whatever is asked for.
        let capacity = options.max_sources.min(descriptor_limit() / 4 / caches.max(1)).max(1);
        Self { sockets: LruCache::unbounded(), capacity, options: options.clone() }
    }

    /// The socket that sends as the sender, set to this interface and multicast loop; none if the sender is this
    /// process.
    pub(crate) fn socket(
        &mut self,
        sender: SocketAddr,
        to: SocketAddr,
        interface: Option<&Interface>,
        multicast_loop: bool,
    ) -> io::Result<Option<&UdpSocket>> {
        if !self.sockets.contains(&sender) {
            while self.sockets.len() >= self.capacity {
                self.sockets.pop_lru();
            }
            let source = loop {
                match open(sender, &self.options) {
                    Err(error) if is_out_of_descriptors(&error) && self.sockets.pop_lru().is_some() => {}
                    opened => break opened?,
                }
            };
            self.sockets.push(sender, source);
        }
        let Some(Some(source)) = self.sockets.get_mut(&sender) else { return Ok(None) };
        if sender.is_ipv4() != to.is_ipv4() {
            return Err(io::Error::other("the target has the other IP version"));
        }
        let index = interface.map_or(0, |interface| interface.index);
        if to.ip().is_multicast() {
            let multicast = (index, multicast_loop);
            if let Some(interface) = interface
                && std::mem::replace(&mut source.multicast, multicast) != multicast
            {
                let socket = SockRef::from(&source.socket);
                set_multicast_loop(&socket, to, multicast_loop)?;
                send_through(&socket, to, interface)?;
            }
        } else if to.is_ipv4() && std::mem::replace(&mut source.unicast, index) != index {
            set_unicast_interface(&source.socket, index)?;
        }
        Ok(Some(&source.socket))
    }
}

fn open(sender: SocketAddr, options: &Options) -> io::Result<Option<SourceSocket>> {
    if sender.port() == 0 {
        return Err(io::Error::other("no port can be 0"));
    }
    if OwnAddress::all().contains(&sender) {
        return Ok(None);
    }
    if is_own(sender) {
        return Err(io::Error::other("the sender is on this host, and needs its port itself"));
    }
    let socket = open_transparent(sender)?;
    socket.bind(&sender.into())?;
    set_up_sender(&socket, sender, options)?;
    enlarge_send_buffer(&socket);
    socket.set_nonblocking(true)?;
    Ok(Some(SourceSocket { socket: socket.into(), multicast: (0, options.multicast_loop), unicast: 0 }))
}

/// Whether this process may send transparently.
///
/// # Errors
/// If it may not: wrong use where the system cannot, or the command that grants the capability.
pub(crate) fn check() -> Result<(), Error> {
    if !CAN_SEND_TRANSPARENT {
        return Err(Error::usage(
            "only Linux lets datagrams leave with the address of their sender (--transparent)",
        ));
    }
    let Err(error) = open_transparent(SocketAddr::from(([0, 0, 0, 0], 0))) else { return Ok(()) };
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(Error::io("open", "a transparent socket", error));
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "PROGRAM".into());
    let reason = format!(
        "the capability CAP_NET_ADMIN is missing; this grants it: sudo setcap cap_net_admin+ep {}",
        program.display()
    );
    Err(Error::io("open", "a transparent socket", io::Error::new(error.kind(), reason)))
}
