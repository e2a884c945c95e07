//! The limit: what each program does at its core, in the tightest loops that one blocking thread can have
//! on this kernel. It checks nothing, and every failure but a full queue ends it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, poll};

use crate::Outcome;
use crate::packets::{self, Coalesced, LARGEST, Receiver, SEGMENTS, SLOTS, Sender};

/// UDP to UDP, until it is ended.
pub(crate) fn relay(from: SocketAddrV4, to: &[SocketAddrV4], linger: Option<Duration>) -> Outcome {
    let mut receiver = Receiver::new(packets::listen(from)?);
    let mut senders = Vec::new();
    for target in to {
        senders.push(Sender::new(packets::connect(*target)?));
    }
    let mut runs = Vec::with_capacity(SLOTS);
    loop {
        if let Some(linger) = linger {
            poll(&mut [PollFd::new(receiver.socket(), PollFlags::IN)], None)?;
            std::thread::sleep(linger);
        }
        let (slots, batch) = receiver.receive()?;
        let bytes: [_; SLOTS] = std::array::from_fn(|slot| match batch.get(slot) {
            Some(held) => IoSlice::new(slots.bytes(slot, *held)),
            None => IoSlice::new(&[]),
        });
        gather(batch, &mut runs);
        let messages: [&[IoSlice<'_>]; SLOTS] =
            std::array::from_fn(|n| runs.get(n).map_or(&[][..], |run| &bytes[run.slots.clone()]));
        for sender in &mut senders {
            // Runs of one segment size go in one call.
            let mut next = 0;
            for alike in runs.chunk_by(|a, b| a.segment == b.segment) {
                sender.send(&messages[next..][..alike.len()], alike[0].segment);
                next += alike.len();
            }
        }
    }
}

/// A group to all who connect, until it is ended: one thread that waits once, and writes once for each
/// client and batch. What a client does not take at once is lost.
pub(crate) fn fan_out(group: SocketAddrV4, on: SocketAddrV4, linger: Option<Duration>) -> Outcome {
    let mut receiver = Receiver::small(packets::listen_plain(group)?);
    let listener = TcpListener::bind(on)?;
    let mut clients: Vec<TcpStream> = Vec::new();
    loop {
        let mut sockets =
            [PollFd::new(receiver.socket(), PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        poll(&mut sockets, None)?;
        let [has_datagram, has_client] = sockets.map(|socket| !socket.revents().is_empty());
        if has_client {
            let (client, _) = listener.accept()?;
            client.set_nonblocking(true)?;
            client.set_nodelay(true)?;
            clients.push(client);
        }
        if !has_datagram {
            continue;
        }
        if let Some(linger) = linger {
            std::thread::sleep(linger);
        }
        let (slots, batch) = receiver.receive()?;
        let bytes: [_; SLOTS] = std::array::from_fn(|slot| match batch.get(slot) {
            Some(held) => IoSlice::new(slots.bytes(slot, *held)),
            None => IoSlice::new(&[]),
        });
        clients.retain_mut(|client| match client.write_vectored(&bytes[..batch.len()]) {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        });
    }
}

/// Slots that go out in one send, and the size it is to be cut at if they are several datagrams.
struct Run {
    slots: Range<usize>,
    segment: Option<u16>,
}

/// Gathers the batch into as few sends as the kernel allows: equal datagrams, of which the last may be
/// shorter.
fn gather(batch: &[Coalesced], runs: &mut Vec<Run>) {
    runs.clear();
    let mut start = 0;
    while let Some(first) = batch.get(start) {
        let size = first.segment;
        let (mut bytes, mut datagrams) = (first.len, first.datagrams());
        let mut end = start + 1;
        let mut open = size > 0 && bytes % size == 0;
        while open && let Some(next) = batch.get(end) {
            let alike = next.segment == size || next.datagrams() == 1 && next.len < size;
            let fits = bytes + next.len <= LARGEST && datagrams + next.datagrams() <= SEGMENTS;
            if !alike || !fits || next.len == 0 {
                break;
            }
            bytes += next.len;
            datagrams += next.datagrams();
            end += 1;
            open = bytes % size == 0;
        }
        let segment = if datagrams > 1 { u16::try_from(size).ok() } else { None };
        runs.push(Run { slots: start..end, segment });
        start = end;
    }
}

/// UDP to the end of a file, until it is ended.
pub(crate) fn to_file(from: SocketAddrV4, path: &str) -> Outcome {
    let mut receiver = Receiver::new(packets::listen(from)?);
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    loop {
        let (slots, batch) = receiver.receive()?;
        let mut bytes: [_; SLOTS] = std::array::from_fn(|slot| match batch.get(slot) {
            Some(held) => IoSlice::new(slots.bytes(slot, *held)),
            None => IoSlice::new(&[]),
        });
        let mut rest = &mut bytes[..batch.len()];
        while !rest.is_empty() {
            let written = file.write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, written);
        }
    }
}

/// A file to UDP, in datagrams of one size.
pub(crate) fn from_file(path: &str, to: SocketAddrV4, size: usize) -> Outcome {
    let socket: UdpSocket = packets::connect(to)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(size)?)?;
    let mut file = File::open(path)?;
    let mut buffer = vec![0; size * packets::in_one_send(size)];
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        while let Err(error) = socket.send(&buffer[..len]) {
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ECONNREFUSED | Errno::ENOBUFS | Errno::EINTR) => {}
                _ => return Err(error.into()),
            }
        }
    }
}
