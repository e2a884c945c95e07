//! Many messages in a system call: `recvmmsg(2)` and `sendmmsg(2)`, and the error queue.

use std::io;
use std::marker::PhantomData;
use std::mem::{offset_of, zeroed};
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_uint, cmsghdr, iovec, mmsghdr, msghdr};

/// Messages of one call at most: of plain datagrams, two or more offloaded sends. More gain less than the
/// memory costs that they take.
pub(crate) const MESSAGES: usize = 128;

#[allow(clippy::cast_possible_truncation)] // a few bytes
pub(super) const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// The last of the errors that were reported of datagrams that had gone out already, and forgets them all
/// (`ip(7)`, `MSG_ERRQUEUE`).
pub(crate) fn drain_error_queue(socket: &UdpSocket) -> Option<io::Error> {
    let mut last = None;
    loop {
        let mut control = [Control([0; CONTROL]); 4];
        let mut nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut header = message(ptr::null_mut()).msg_hdr;
        // One that is empty, not none: QEMU's user mode does not ask the system then, and knows of no error.
        header.msg_iov = &raw mut nothing;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the descriptor is open; the header has one empty vector, and control room of the size
        // that is told; both live for the call.
        let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE) };
        if result < 0 {
            return last;
        }
        each_control(&header, |level, kind, payload| {
            if (level, kind) == (libc::IPPROTO_IP, libc::IP_RECVERR)
                || (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            {
                // `ee_errno` comes first.
                last = i32::try_from(payload).ok().map(io::Error::from_raw_os_error);
            }
        });
    }
}

/// Gives memory back to the system; it reads as zeros from now on.
pub(crate) fn release(area: &mut [u8]) {
    /// The largest page size there is; a smaller one divides it.
    const PAGE: usize = 65_536;
    let before = area.as_ptr().align_offset(PAGE).min(area.len());
    let len = (area.len() - before) / PAGE * PAGE;
    // SAFETY: the range is part of the area, which is borrowed for good, and holds whole pages. If it is
    // not private memory the call may fail, and nothing has changed.
    unsafe {
        libc::madvise(area.as_mut_ptr().add(before).cast(), len, libc::MADV_DONTNEED);
    }
}

/// A received message: its length, and its control messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) len: usize,
    /// The size of the datagrams that were coalesced; 0 for a single one.
    pub(crate) segment: usize,
    /// How many datagrams the socket had dropped before this one, ever, if any.
    pub(crate) dropped: Option<u32>,
    /// It has a sender, as even an empty datagram has.
    pub(crate) sent: bool,
    /// Who that is, if it was asked for.
    pub(crate) sender: Option<SocketAddr>,
}

/// Room for what accompanies a received message: the segment size and the drops, with their headers.
const CONTROL: usize = 64;

#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
struct Control([u8; CONTROL]);

/// The largest address of the internet families.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy)]
struct Name([u8; size_of::<libc::sockaddr_in6>()]);

impl Name {
    const NONE: Self = Self([0; size_of::<libc::sockaddr_in6>()]);

    /// The address as the system lays it out.
    fn new(address: SocketAddr) -> Self {
        let mut name = Self::NONE;
        let bytes = &mut name.0;
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(offset_of!(libc::sockaddr_in, sin_port), &address.port().to_be_bytes());
        let family = match address {
            SocketAddr::V4(v4) => {
                put(offset_of!(libc::sockaddr_in, sin_addr), &v4.ip().octets());
                libc::AF_INET
            }
            SocketAddr::V6(v6) => {
                put(offset_of!(libc::sockaddr_in6, sin6_addr), &v6.ip().octets());
                put(offset_of!(libc::sockaddr_in6, sin6_scope_id), &v6.scope_id().to_ne_bytes());
                libc::AF_INET6
            }
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 2 or 10
        put(0, &(family as libc::sa_family_t).to_ne_bytes());
        name
    }

    fn address(&self) -> Option<SocketAddr> {
        let family = libc::sa_family_t::from_ne_bytes(*self.0.first_chunk()?);
        let from = |at: usize| &self.0[at..];
        let port = u16::from_be_bytes(*from(offset_of!(libc::sockaddr_in, sin_port)).first_chunk()?);
        match c_int::from(family) {
            libc::AF_INET => {
                let ip = from(offset_of!(libc::sockaddr_in, sin_addr)).first_chunk::<4>()?;
                Some(SocketAddr::from((*ip, port)))
            }
            libc::AF_INET6 => {
                let ip = from(offset_of!(libc::sockaddr_in6, sin6_addr)).first_chunk::<16>()?;
                let scope = from(offset_of!(libc::sockaddr_in6, sin6_scope_id)).first_chunk()?;
                Some(SocketAddrV6::new((*ip).into(), port, 0, u32::from_ne_bytes(*scope)).into())
            }
            _ => None,
        }
    }
}

/// Receives many messages in a call.
#[derive(Debug)]
pub(crate) struct Incoming {
    headers: Vec<mmsghdr>,
    vectors: Vec<iovec>,
    controls: Vec<Control>,
    /// Room for the senders of all messages, or of the first only.
    names: Vec<Name>,
    with_senders: bool,
}

// SAFETY: the pointers are set before each call, from what is borrowed then, and not followed after it
// but to `controls`, which belongs to this.
unsafe impl Send for Incoming {}

impl Incoming {
    /// For messages whose senders are to be told, or are not.
    pub(crate) fn new(with_senders: bool) -> Self {
        let named = if with_senders { MESSAGES } else { 1 };
        Self {
            headers: Vec::new(),
            vectors: Vec::new(),
            controls: Vec::new(),
            names: vec![Name::NONE; named],
            with_senders,
        }
    }

    /// Waits for a message, unless the socket does not block, and takes at most `most` that are there
    /// (`recvmmsg(2)`, `MSG_WAITFORONE`), each into a slot of `size` bytes of the area.
    ///
    /// Returns how many there are; [`arrival`](Self::arrival) tells of each.
    pub(crate) fn receive(
        &mut self,
        socket: &UdpSocket,
        area: &mut [u8],
        size: usize,
        most: usize,
    ) -> io::Result<usize> {
        self.headers.clear();
        self.vectors.clear();
        self.vectors.extend(area.chunks_exact_mut(size).take(most.min(MESSAGES)).map(to_vector));
        self.controls.resize(self.vectors.len(), Control([0; CONTROL]));
        for (vector, control) in self.vectors.iter_mut().zip(&mut self.controls) {
            let mut header = message(vector);
            header.msg_hdr.msg_control = (&raw mut control.0).cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
            self.headers.push(header);
        }
        if self.headers.is_empty() {
            // The call would return at once, for ever.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // At least for the first: without a name it is no datagram, but the end that a shutdown gives a blocked
        // reader.
        for (header, name) in self.headers.iter_mut().zip(&mut self.names) {
            header.msg_hdr.msg_name = (&raw mut name.0).cast();
            header.msg_hdr.msg_namelen = socklen::<Name>();
        }
        let flags = libc::MSG_WAITFORONE as _;
        // SAFETY: the descriptor is open; there are as many headers as told, each with a vector to a part
        // of the area of its own, with control room, and some with room for a name, of the size that is
        // told; all of it lives, in place, for the call.
        let received = unsafe {
            let count = c_uint::try_from(self.headers.len()).unwrap_or(0);
            libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags, ptr::null_mut())
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// The message at `index`, which is less than the count that the last receive returned.
    #[allow(clippy::unnecessary_cast)] // the C libraries differ in these types
    pub(crate) fn arrival(&self, index: usize) -> Arrival {
        let message = &self.headers[index];
        let header = &message.msg_hdr;
        let len = message.msg_len as usize;
        let sent = index > 0 || header.msg_namelen > 0;
        let mut arrival = Arrival { len, segment: 0, dropped: None, sent, sender: None };
        if self.with_senders && sent {
            arrival.sender = self.names.get(index).and_then(Name::address);
        }
        each_control(header, |level, kind, payload| match (level, kind) {
            (libc::IPPROTO_UDP, libc::UDP_GRO) => arrival.segment = payload as usize,
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => arrival.dropped = Some(payload),
            _ => {}
        });
        arrival
    }
}

/// Tells the level, the type and the first four bytes of each control message that the kernel has put into
/// a header's control room.
#[allow(clippy::unnecessary_cast)] // the C libraries differ in these types
fn each_control(header: &msghdr, mut tell: impl FnMut(c_int, c_int, u32)) {
    // SAFETY: every header that comes here was filled by a receive, into control room that is still there,
    // untouched and aligned: `msg_controllen` bytes of it are control messages, and CMSG_NXTHDR stays within
    // them. A payload is read only if its `cmsg_len` says that it is there, alignment unassumed.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_len as usize >= libc::CMSG_LEN(4) as usize {
                #[allow(clippy::cast_ptr_alignment)]
                let payload = libc::CMSG_DATA(control).cast::<u32>();
                tell((*control).cmsg_level, (*control).cmsg_type, payload.read_unaligned());
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}

fn to_vector(slot: &mut [u8]) -> iovec {
    iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() }
}

/// A message of one vector, without a name and control messages.
fn message(vector: *mut iovec) -> mmsghdr {
    // SAFETY: all of its fields are integers and raw pointers, for which zero is a value.
    let mut message: mmsghdr = unsafe { zeroed() };
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// The control message that tells the size of the datagrams, laid out as `CMSG_DATA` has it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Segmented {
    header: cmsghdr,
    size: u16,
}

/// Sends many messages in a call.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    headers: Vec<mmsghdr>,
    vectors: Vec<iovec>,
    controls: Vec<Option<Segmented>>,
}

// SAFETY: the pointers are set before each call, from what is borrowed then, and not followed after it.
unsafe impl Send for Outgoing {}

impl Outgoing {
    /// Begins anew. Payloads are borrowed until the messages are sent, or dropped.
    pub(crate) fn messages(&mut self) -> Messages<'_, '_> {
        self.headers.clear();
        self.vectors.clear();
        self.controls.clear();
        Messages { out: self, begun: 0, payloads: PhantomData }
    }
}

/// Messages that are put together to be sent.
pub(crate) struct Messages<'o, 'p> {
    out: &'o mut Outgoing,
    /// The first vector of the message that is being put together.
    begun: usize,
    payloads: PhantomData<&'p [u8]>,
}

impl<'p> Messages<'_, 'p> {
    /// Whether another message, of up to [`MESSAGES`] parts, has room.
    pub(crate) fn have_room(&self) -> bool {
        self.out.headers.len() < MESSAGES && self.out.vectors.len() < MESSAGES
    }

    /// Adds a part of a message.
    pub(crate) fn add(&mut self, payload: &'p [u8]) {
        let base = payload.as_ptr().cast_mut().cast();
        self.out.vectors.push(iovec { iov_base: base, iov_len: payload.len() });
    }

    /// Ends the message: one datagram, or as many of `segment` bytes as it makes.
    pub(crate) fn end(&mut self, segment: Option<u16>) {
        let mut message = message(ptr::null_mut());
        message.msg_hdr.msg_iovlen = (self.out.vectors.len() - self.begun) as _;
        self.begun = self.out.vectors.len();
        self.out.headers.push(message);
        self.out.controls.push(segment.map(|size| {
            // SAFETY: all of its fields are integers, for which zero is a value.
            let mut header: cmsghdr = unsafe { zeroed() };
            header.cmsg_level = libc::IPPROTO_UDP;
            header.cmsg_type = libc::UDP_SEGMENT;
            header.cmsg_len = (offset_of!(Segmented, size) + size_of::<u16>()) as _;
            Segmented { header, size }
        }));
    }

    /// Sends them (`sendmmsg(2)`) to this address, or to what the socket is connected to. Returns how many were
    /// sent, which is at least one; if not all were, the reason is lost. An error came up at the first, of which
    /// it may tell, or of a datagram that had gone out earlier.
    #[allow(clippy::unnecessary_cast)] // the C libraries differ in these types
    pub(crate) fn send(self, socket: &UdpSocket, to: Option<SocketAddr>) -> io::Result<usize> {
        let mut name = to.map(Name::new);
        let Outgoing { headers, vectors, controls } = self.out;
        let mut parts = vectors.as_mut_slice();
        for (header, control) in headers.iter_mut().zip(controls) {
            let header = &mut header.msg_hdr;
            let (of_this, rest) = parts.split_at_mut(header.msg_iovlen as usize);
            header.msg_iov = of_this.as_mut_ptr();
            parts = rest;
            if let Some(name) = &mut name {
                header.msg_name = (&raw mut name.0).cast();
                header.msg_namelen = if to.is_some_and(|to| to.is_ipv4()) {
                    socklen::<libc::sockaddr_in>()
                } else {
                    socklen::<libc::sockaddr_in6>()
                };
            }
            if let Some(control) = control {
                header.msg_control = ptr::from_mut(control).cast();
                header.msg_controllen = size_of::<Segmented>() as _;
            }
        }
        // SAFETY: the descriptor is open; there are as many headers as told, each with vectors of its own
        // to payloads that are borrowed as long as `self` lives, and perhaps a control message and the one
        // name, of which as much is told as its family has, all in place for the call, which writes only to the
        // headers.
        let sent = unsafe {
            let count = c_uint::try_from(headers.len()).unwrap_or(0);
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
