//! Sockets that send as others do: with the address and port of whoever has sent the datagram here.
//!
//! They are bound, but not connected: to a connected one the system would deliver the replies that only pass
//! through this host on their way to the sender (early demultiplexing), and drop them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::error::Error;
use crate::net::connect::set_up_sender;
use crate::net::interface::{Interface, is_own};
use crate::net::multicast::{send_through, set_multicast_loop};
use crate::net::options::Options;
use crate::sys;
use crate::sys::broadcast_through;

/// The sockets of this process that send as this host does, while transparency is asked for: what they send to a
/// group may come in again, and is sent on as this host does then.
static OWN: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// The address of such a socket.
#[derive(Debug)]
pub(crate) struct Own(SocketAddr);

impl Own {
    pub(crate) fn new(socket: &UdpSocket) -> io::Result<Self> {
        let own = Self(socket.local_addr()?);
        Self::all().push(own.0);
        Ok(own)
    }

    fn all() -> MutexGuard<'static, Vec<SocketAddr>> {
        OWN.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        Self::all().retain(|own| *own != self.0);
    }
}

/// One socket for each sender, of so many who were heard last. It belongs to one thread.
#[derive(Debug)]
pub(crate) struct SourceSockets {
    /// None for a socket of this process.
    sockets: LruCache<SocketAddr, Option<SourceSocket>>,
    most: usize,
    options: Options,
}

#[derive(Debug)]
struct SourceSocket {
    socket: UdpSocket,
    /// The interface that was chosen last for groups, whether this host hears it there, ...
    multicast: (u32, bool),
    /// ... and the one for all else, 0 if the system is to choose.
    other: u32,
}

impl SourceSockets {
    pub(crate) fn new(options: &Options) -> Self {
        // Whatever is asked for, listeners and connections must find descriptors, too.
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = options.max_sources.min(usize::try_from(descriptors / 4).unwrap_or(usize::MAX));
        Self { sockets: LruCache::unbounded(), most, options: options.clone() }
    }

    /// The socket to send as the sender with, to this address through this interface, for this host to hear or
    /// not; none if the sender is this process.
    pub(crate) fn socket(
        &mut self,
        sender: SocketAddr,
        to: SocketAddr,
        interface: Option<&Interface>,
        heard: bool,
    ) -> io::Result<Option<&UdpSocket>> {
        if !self.sockets.contains(&sender) {
            while self.sockets.len() >= self.most.max(1) {
                self.sockets.pop_lru();
            }
            let origin = loop {
                match open(sender, &self.options) {
                    // What the process may have is less than what was asked for.
                    Err(error) if is_full(&error) && self.sockets.pop_lru().is_some() => {}
                    opened => break opened?,
                }
            };
            self.sockets.push(sender, origin);
        }
        let Some(Some(origin)) = self.sockets.get_mut(&sender) else { return Ok(None) };
        if sender.is_ipv4() != to.is_ipv4() {
            return Err(io::Error::other("the target has the other IP version"));
        }
        let index = interface.map_or(0, |interface| interface.index);
        if to.ip().is_multicast() {
            if let Some(interface) = interface
                && std::mem::replace(&mut origin.multicast, (index, heard)) != (index, heard)
            {
                let socket = SockRef::from(&origin.socket);
                set_multicast_loop(&socket, to, heard)?;
                send_through(&socket, to, interface)?;
            }
        } else if to.is_ipv4() && std::mem::replace(&mut origin.other, index) != index {
            broadcast_through(origin.socket.as_fd(), index)?;
        }
        Ok(Some(&origin.socket))
    }
}

fn open(sender: SocketAddr, options: &Options) -> io::Result<Option<SourceSocket>> {
    if sender.port() == 0 {
        return Err(io::Error::other("no port can be 0"));
    }
    if Own::all().contains(&sender) {
        return Ok(None);
    }
    if is_own(sender) {
        return Err(io::Error::other("the sender is on this host, and needs its port itself"));
    }
    let socket = transparent(sender)?;
    // Targets of other threads may have the same senders, and a listener may have their port.
    socket.set_reuse_port(true)?;
    socket.bind(&sender.into())?;
    set_up_sender(&socket, sender, options)?;
    let socket = UdpSocket::from(socket);
    sys::enable_error_queue(&socket, sender.is_ipv6())?;
    Ok(Some(SourceSocket { socket, multicast: (0, options.multicast_loop), other: 0 }))
}

/// A socket that may be bound to an address of another host (`ip(7)`, `IP_TRANSPARENT`).
fn transparent(family: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(family), Type::DGRAM, Some(Protocol::UDP))?;
    if family.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    Ok(socket)
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether this process may send as others do.
///
/// # Errors
/// If it may not, with the command that changes that.
pub(crate) fn check() -> Result<(), Error> {
    let Err(error) = transparent(SocketAddr::from(([0, 0, 0, 0], 0))) else { return Ok(()) };
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
