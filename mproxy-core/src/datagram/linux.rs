//! Many datagrams in each system call, and many in each buffer: `recvmmsg` with generic receive offload,
//! `sendmmsg` with segmentation offload. Batched calls alone gain next to nothing; offload does.

use std::io;
use std::net::UdpSocket;

use rustix::io::Errno;

use super::gather::{Limits, gather};
use crate::SLOT;
use crate::batch::{Batch, Place};
use crate::stream::MAX_DATAGRAM;
use crate::sys::{Incoming, MESSAGES, Outgoing, can_send_segmented, receive_coalesced};

/// Slots that a listener's batch has.
pub(crate) const SLOTS: usize = MESSAGES;

/// Offloaded sends that a batch is to make at most: more of them gain nothing, and their megabytes would
/// not stay in the processor's cache from the receive to the send.
const SENDS: usize = 16;

/// Fills batches from a socket.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    incoming: Incoming,
    /// How many slots to offer.
    offered: usize,
    dropped: u32,
}

impl Receiver {
    /// Prepares to receive from this socket.
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        receive_coalesced(socket);
        Self::default()
    }

    /// Waits for a datagram, unless the socket does not block, and takes those that are there into the
    /// empty batch: none only when the socket was shut down. Returns how many the system has dropped, for
    /// lack of room, since it told last.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<u32> {
        let received = self.incoming.receive(socket, batch.spare(), SLOT, self.offered.max(1))?;
        let mut dropped = self.dropped;
        let mut longest = 0;
        for arrival in (0..received).map(|index| self.incoming.arrival(index)) {
            if arrival.sent {
                batch.push_slot(arrival.len, arrival.segment);
            }
            longest = longest.max(arrival.len);
            dropped = arrival.dropped.unwrap_or(dropped);
        }
        // Some more than came now, so that a lone datagram is not kept waiting by the preparation of many.
        self.offered = (2 * received).min(worthwhile(longest));
        Ok(dropped.wrapping_sub(std::mem::replace(&mut self.dropped, dropped)))
    }
}

/// How many messages of this length are worth receiving at once: as many as make whole offloaded sends.
fn worthwhile(len: usize) -> usize {
    let per_send = (MAX_DATAGRAM / len.max(1)).clamp(1, SLOTS);
    SENDS.min(SLOTS / per_send) * per_send
}

/// Sends batches to what its socket is connected to.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: UdpSocket,
    outgoing: Outgoing,
    pub(super) limits: Limits,
}

impl Sender {
    /// Takes a connected socket.
    pub(crate) fn new(socket: UdpSocket) -> Self {
        let limits = if can_send_segmented(&socket) { Limits::OFFLOAD } else { Limits::SINGLE };
        Self { socket, outgoing: Outgoing::default(), limits }
    }

    /// As a kernel without segmentation offload has it.
    #[cfg(test)]
    pub(crate) fn without_offload(socket: UdpSocket) -> Self {
        Self { limits: Limits::SINGLE, ..Self::new(socket) }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends the batch from the place on, and moves the place behind what was sent. After an error it is
    /// where [`skip`](Self::skip) passes over what the error concerns.
    pub(crate) fn send(&mut self, batch: &Batch, at: &mut Place) -> io::Result<()> {
        while batch.rest(*at).is_some() {
            let mut messages = self.outgoing.messages();
            let (mut end, mut count, mut segments) = (*at, 0, 0);
            while messages.have_room()
                && let Some(group) = gather(batch, end, self.limits, &mut |part| messages.add(part))
            {
                let together = group.datagrams > 1;
                messages.end(if together { u16::try_from(group.segment).ok() } else { None });
                if count == 0 && together {
                    segments = group.segment;
                }
                end = group.end;
                count += 1;
            }
            match messages.send(&self.socket) {
                Ok(sent) if sent == count => *at = end,
                Ok(sent) => {
                    for _ in 0..sent {
                        self.skip(batch, at);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if segments > 0 && self.offload_failed(&error, segments) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the place over what one send takes. Returns how many datagrams that are.
    pub(crate) fn skip(&self, batch: &Batch, at: &mut Place) -> usize {
        let Some(group) = gather(batch, *at, self.limits, &mut drop) else { return 0 };
        *at = group.end;
        group.datagrams
    }

    /// Whether the error comes from the offload, which is then left alone where it fails: the device has
    /// no checksum offload (EIO), or the path is too narrow for the datagrams (EINVAL, EMSGSIZE).
    fn offload_failed(&mut self, error: &io::Error, segment: usize) -> bool {
        match Errno::from_io_error(error) {
            Some(Errno::IO) => self.limits = Limits::SINGLE,
            Some(Errno::INVAL | Errno::MSGSIZE) => self.limits.largest = segment - 1,
            _ => return false,
        }
        true
    }
}
