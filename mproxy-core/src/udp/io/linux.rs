//! Many datagrams in each system call, and many in each buffer: `recvmmsg` with generic receive offload,
//! `sendmmsg` with segmentation offload. Batched calls alone gain next to nothing; offload does.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::io::Errno;

use super::Missed;
use super::gather::{Limits, gather};
use super::offload::Offload;
use crate::net::allow::Allow;
use crate::relay::batch::{Batch, Cursor};
use crate::relay::limits::SLOT;
use crate::relay::limits::{MAX_DATAGRAM, OFFLOADED};
use crate::sys::{
    Incoming, MESSAGES, Outgoing, can_send_segmented, drain_error_queue, receive_coalesced, release,
};

/// Slots that a listener's batch has.
pub(crate) const SLOTS: usize = MESSAGES;

/// Offloaded sends that a batch is to make at most: more of them gain nothing, and their megabytes would
/// not stay in the processor's cache from the receive to the send.
const SENDS: usize = 16;

/// Fills batches from a socket.
#[derive(Debug)]
pub(crate) struct Receiver {
    incoming: Incoming,
    /// How many slots to offer.
    offered: usize,
    /// The last batch took more memory than is worth keeping.
    heavy: bool,
    dropped: u32,
    allow: Allow,
    with_senders: bool,
}

impl Receiver {
    /// Prepares to receive from this socket, but only what these allow, and to tell the senders or not. It is bound
    /// to the group, if it is for one, so nothing else comes.
    pub(crate) fn new(socket: &UdpSocket, _: Option<IpAddr>, allow: Allow, with_senders: bool) -> Self {
        receive_coalesced(socket);
        Self::single(allow, with_senders)
    }

    /// As a kernel without generic receive offload has it.
    pub(super) fn single(allow: Allow, with_senders: bool) -> Self {
        let incoming = Incoming::new(with_senders || !allow.is_empty());
        Self { incoming, offered: 1, heavy: false, dropped: 0, allow, with_senders }
    }

    /// From now on these are allowed. An empty list stays one.
    pub(crate) fn allow(&mut self, allow: Allow) {
        self.allow = allow;
    }

    /// Waits for a datagram, unless the socket does not block, and takes those that are there into the
    /// empty batch: none only when the socket was shut down, or their senders are not allowed.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        if std::mem::take(&mut self.heavy) {
            release(batch.spare());
        }
        let received = self.incoming.receive(socket, batch.spare(), SLOT, self.offered)?;
        let mut dropped = self.dropped;
        let (mut longest, mut denied) = (0, 0);
        for arrival in (0..received).map(|index| self.incoming.arrival(index)) {
            let permitted = arrival.sender.is_none_or(|sender| self.allow.permits(sender.ip()));
            if arrival.sent && permitted {
                batch.push_slot(arrival.len, arrival.segment);
                if let Some(sender) = arrival.sender.filter(|_| self.with_senders) {
                    batch.push_sender(sender);
                }
            } else {
                // The slot is used all the same.
                batch.skip(SLOT);
            }
            if !permitted {
                denied += if arrival.segment == 0 { 1 } else { arrival.len.div_ceil(arrival.segment) };
            }
            longest = longest.max(arrival.len);
            dropped = arrival.dropped.unwrap_or(dropped);
        }
        self.heavy = batch.bytes() > SENDS * SLOT;
        // More if there may be more, else by and by what comes: after lone datagrams none is kept waiting by
        // a look for others, nor by the preparation of many slots, but the next burst finds some.
        let next =
            if received < self.offered { usize::midpoint(self.offered, received) } else { 2 * received };
        self.offered = next.min(worthwhile(longest));
        let dropped = dropped.wrapping_sub(std::mem::replace(&mut self.dropped, dropped));
        Ok(Missed { dropped, denied })
    }
}

/// How many messages of this length are worth receiving at once: as many as make whole offloaded sends.
fn worthwhile(len: usize) -> usize {
    let per_send = (MAX_DATAGRAM / len.max(1)).clamp(1, OFFLOADED);
    SENDS.min(SLOTS / per_send) * per_send
}

/// Sends batches.
#[derive(Debug)]
pub(crate) struct Sender {
    outgoing: Outgoing,
    pub(super) offload: Offload,
}

impl Sender {
    /// For sockets that can do what this one can.
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        let limits = if can_send_segmented(socket) { Limits::OFFLOAD } else { Limits::SINGLE };
        Self { outgoing: Outgoing::default(), offload: Offload::new(limits) }
    }

    /// As a kernel without segmentation offload has it.
    #[cfg(test)]
    pub(crate) fn without_offload(socket: &UdpSocket) -> Self {
        Self { offload: Offload::new(Limits::SINGLE), ..Self::new(socket) }
    }

    /// Sends the batch from the place on, as far as its datagrams have the same sender, to this address, or to
    /// what the socket is connected to, and moves the place behind what was sent. After an error it is where
    /// [`skip_send`](Self::skip_send) passes over what the error concerns, if it is not about a datagram that had gone
    /// out earlier.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        to: Option<SocketAddr>,
        batch: &Batch,
        at: &mut Cursor,
    ) -> io::Result<()> {
        let from = *at;
        self.offload.renew();
        // Where the offload seems to have failed.
        let mut doubted = None;
        while batch.same_sender(from, *at) {
            let mut messages = self.outgoing.messages();
            let (mut end, mut count, mut segments) = (*at, 0, 0);
            while messages.have_room()
                && batch.same_sender(from, end)
                && let Some(group) = gather(batch, end, self.offload.limits(), &mut |part| messages.add(part))
            {
                let together = group.datagrams > 1;
                messages.end(if together { u16::try_from(group.segment).ok() } else { None });
                if count == 0 && together {
                    segments = group.segment;
                }
                end = group.end;
                count += 1;
            }
            match messages.send(socket, to) {
                Ok(sent) if sent == count => *at = end,
                Ok(sent) => {
                    for _ in 0..sent {
                        self.skip_send(batch, at);
                    }
                    // What stopped it is known only if it was reported of an earlier one; all else comes
                    // up again.
                    if let Some(error) = drain_error_queue(socket) {
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    drain_error_queue(socket);
                    if segments == 0 || !is_of_offload(&error) {
                        return Err(error);
                    }
                    // Once, it may have been reported of an earlier one.
                    if doubted.replace(*at) == Some(*at) {
                        self.do_without(&error, segments);
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves the place over what one send takes. Returns how many datagrams that are.
    pub(crate) fn skip_send(&self, batch: &Batch, at: &mut Cursor) -> usize {
        let Some(group) = gather(batch, *at, self.offload.limits(), &mut drop) else { return 0 };
        *at = group.end;
        group.datagrams
    }

    /// Leaves the offload alone where it fails, for a while.
    fn do_without(&mut self, error: &io::Error, segment: usize) {
        self.offload.reduce(match Errno::from_io_error(error) {
            Some(Errno::IO) => Limits::SINGLE,
            _ => self.offload.limits().below(segment),
        });
    }
}

/// Whether the error may come from the offload: the device has no checksum offload (EIO), or the path is
/// too narrow for the datagrams (EINVAL, EMSGSIZE).
fn is_of_offload(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::INVAL | Errno::MSGSIZE))
}
