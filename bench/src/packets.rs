//! UDP sockets that move many datagrams in a call: what the load, the sinks and the limit are made of.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use socket2::{Domain, Socket, Type};

/// Datagrams, or coalesced runs of them, in one call.
pub(crate) const SLOTS: usize = 64;

/// Segments that the kernel takes in one send, in every version that has the offload.
pub(crate) const SEGMENTS: usize = 64;

/// Payload of the largest IPv4 datagram, and so of the largest send.
pub(crate) const LARGEST: usize = 65_507;

const SLOT: usize = 65_536;

/// A slot for a datagram that fits into a frame of Ethernet.
const SMALL_SLOT: usize = 2048;

const SOCKET_BUFFER: usize = 4 << 20;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The number of datagrams of a size in one offloaded send (`UDP_SEGMENT`).
pub(crate) fn in_one_send(size: usize) -> usize {
    (LARGEST / size.max(1)).clamp(1, SEGMENTS)
}

/// A socket that takes coalesced datagrams (`UDP_GRO`).
pub(crate) fn listen(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = listen_plain(address)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    Ok(socket)
}

/// A socket that is bound to the address, and a member of it on loopback if it is a group.
pub(crate) fn listen_plain(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = open()?;
    if address.ip().is_multicast() {
        socket.set_reuse_address(true)?;
        socket.join_multicast_v4(address.ip(), &LOOPBACK)?;
    }
    socket.bind(&SocketAddr::V4(address).into())?;
    Ok(socket.into())
}

/// A socket that is connected to the address, through loopback if it is a group.
pub(crate) fn connect(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = open()?;
    if address.ip().is_multicast() {
        socket.set_multicast_if_v4(&LOOPBACK)?;
    }
    socket.connect(&SocketAddr::V4(address).into())?;
    Ok(socket.into())
}

/// A socket that is connected to the address, but not from one of this host.
pub(crate) fn connect_from_afar(address: SocketAddrV4) -> io::Result<UdpSocket> {
    /// For documentation (RFC 5737).
    const AFAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 5000);
    let socket = open()?;
    socket.set_ip_transparent_v4(true)?;
    // The relay has it too.
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::V4(AFAR).into())?;
    socket.connect(&SocketAddr::V4(address).into())?;
    Ok(socket.into())
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
    Ok(socket)
}

/// The content of a slot after a receive (`UDP_GRO`): datagrams of `segment` bytes back to back, of which the last
/// may be shorter.
#[derive(Clone, Copy, Default)]
pub(crate) struct Coalesced {
    pub(crate) len: usize,
    pub(crate) segment: usize,
}

impl Coalesced {
    /// The number of datagrams: an empty one is one too.
    pub(crate) fn datagrams(self) -> usize {
        self.len.div_ceil(self.segment.max(1)).max(1)
    }
}

/// The receiving side of a socket.
pub(crate) struct Receiver {
    socket: UdpSocket,
    buffer: Vec<u8>,
    /// Bytes of a slot.
    slot: usize,
    headers: Option<MultiHeaders<()>>,
    /// The number of slots that the next call may fill.
    room: usize,
    batch: [Coalesced; SLOTS],
}

impl Receiver {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        Self::with_slots(socket, SLOT)
    }

    /// For a socket of `listen_plain`, and datagrams that fit into a frame of Ethernet.
    pub(crate) fn small(socket: UdpSocket) -> Self {
        Self::with_slots(socket, SMALL_SLOT)
    }

    fn with_slots(socket: UdpSocket, slot: usize) -> Self {
        let batch = [Coalesced::default(); SLOTS];
        Self { socket, buffer: vec![0; SLOTS * slot], slot, headers: None, room: SLOTS, batch }
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Waits for one datagram and takes what else is there: each slot's bytes, and what they are.
    pub(crate) fn receive(&mut self) -> io::Result<(Slots<'_>, &[Coalesced])> {
        let mut parts = self.buffer.chunks_exact_mut(self.slot);
        let mut slots: [_; SLOTS] =
            std::array::from_fn(|_| [IoSliceMut::new(parts.next().unwrap_or_default())]);
        let coalesced = self.slot == SLOT;
        let headers = self.headers.get_or_insert_with(|| {
            MultiHeaders::preallocate(self.room, coalesced.then(|| cmsg_space!(std::ffi::c_int)))
        });
        let results = recvmmsg(self.socket.as_raw_fd(), headers, &mut slots, MsgFlags::MSG_WAITFORONE, None)?;
        let mut count = 0;
        let mut intact = true;
        for (result, slot) in results.zip(&mut self.batch) {
            let segment = result.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                _ => None,
            });
            intact &= segment.is_some() || !coalesced;
            *slot = Coalesced { len: result.bytes, segment: segment.unwrap_or(result.bytes) };
            count += 1;
        }
        // The kernel notes in a header how much of the control buffer it used, and would take that for
        // all there is: a header that came back without the message has no room for one any more. To make
        // 64 anew for every few datagrams would cost as much as the rest of it here.
        let room = (4 * count).clamp(16, SLOTS);
        if !intact || room > self.room {
            self.room = room;
            self.headers = None;
        }
        Ok((Slots { buffer: &self.buffer, slot: self.slot }, &self.batch[..count]))
    }
}

/// The bytes of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a> {
    buffer: &'a [u8],
    slot: usize,
}

impl<'a> Slots<'a> {
    /// The bytes of a slot that holds this.
    pub(crate) fn bytes(self, slot: usize, held: Coalesced) -> &'a [u8] {
        &self.buffer[slot * self.slot..][..held.len]
    }
}

/// The sending side of a connected socket.
pub(crate) struct Sender {
    socket: UdpSocket,
    single: MultiHeaders<()>,
    offloaded: MultiHeaders<()>,
}

impl Sender {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            single: MultiHeaders::preallocate(SLOTS, None),
            offloaded: MultiHeaders::preallocate(SLOTS, Some(cmsg_space!(u16))),
        }
    }

    /// Sends each message, cut into datagrams of `segment` bytes if there is one. One that is refused is
    /// left out. Returns how many were sent.
    pub(crate) fn send(&mut self, messages: &[&[IoSlice<'_>]], segment: Option<u16>) -> usize {
        let mut sent = 0;
        let mut rest = messages;
        while !rest.is_empty() {
            match self.send_some(rest, segment.as_ref()) {
                Ok(done) => {
                    sent += done;
                    rest = &rest[done..];
                }
                // Of an earlier send to a port that was closed; this one was not tried.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(_) => rest = &rest[1..],
            }
        }
        sent
    }

    fn send_some(&mut self, messages: &[&[IoSlice<'_>]], segment: Option<&u16>) -> nix::Result<usize> {
        let socket = self.socket.as_raw_fd();
        let connected = [None::<()>; SLOTS];
        let flags = MsgFlags::empty();
        let sent = match segment {
            None => sendmmsg(socket, &mut self.single, messages, connected, [], flags)?.count(),
            Some(size) => {
                let segment = [ControlMessage::UdpGsoSegments(size)];
                sendmmsg(socket, &mut self.offloaded, messages, connected, segment, flags)?.count()
            }
        };
        Ok(sent)
    }
}
