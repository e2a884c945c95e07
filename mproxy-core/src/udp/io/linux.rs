//! Many datagrams in each system call, and many in each buffer: `recvmmsg` with generic receive offload (`UDP_GRO`),
//! `sendmmsg` with segmentation offload (GSO, `UDP_SEGMENT`). Batched calls alone gain next to nothing; offload does.

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

/// Slots of a listener's batch.
pub(crate) const SLOTS: usize = MESSAGES;

/// Offloaded sends of one batch at most: more of them gain nothing, and their megabytes would not stay in the
/// processor's cache from the receive to the send.
const SENDS: usize = 16;

/// Fills batches from a socket.
#[derive(Debug)]
pub(crate) struct Receiver {
    incoming: Incoming,
    /// Slots to offer to the next receive.
    offered: usize,
    /// The last receive has used all of them.
    was_full: bool,
    /// The last batch touched more memory than is worth keeping.
    must_release: bool,
    /// The socket's running total of drops (`SO_RXQ_OVFL`).
    dropped: u32,
    allow: Allow,
    with_senders: bool,
}

impl Receiver {
    /// A receiver for this socket, of datagrams from allowed addresses, with or without their senders. The socket of
    /// a group is bound to it, so nothing else comes.
    pub(crate) fn new(socket: &UdpSocket, _: Option<IpAddr>, allow: Allow, with_senders: bool) -> Self {
        receive_coalesced(socket);
        Self::single(allow, with_senders)
    }

    /// Without generic receive offload.
    pub(super) fn single(allow: Allow, with_senders: bool) -> Self {
        let incoming = Incoming::new(with_senders || !allow.is_empty());
        Self { incoming, offered: 1, was_full: false, must_release: false, dropped: 0, allow, with_senders }
    }

    /// Changes the allowed addresses. An empty list must stay empty.
    pub(crate) fn allow(&mut self, allow: Allow) {
        self.allow = allow;
    }

    /// Whether the last receive may have left datagrams.
    pub(crate) fn may_have_left_some(&self) -> bool {
        self.was_full
    }

    /// Receives the datagrams that are there into the empty batch: none only when the socket was shut down, or their
    /// senders are not allowed. Blocks for the first one if the socket does.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        if std::mem::take(&mut self.must_release) {
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
        self.must_release = batch.bytes() > SENDS * SLOT;
        self.was_full = received >= self.offered;
        // Twice as many slots while all are filled, else half way to those that were: a lone datagram does not
        // wait for the preparation of many slots, and the next burst finds some.
        let next =
            if received < self.offered { usize::midpoint(self.offered, received) } else { 2 * received };
        self.offered = next.min(max_messages(longest));
        let dropped = dropped.wrapping_sub(std::mem::replace(&mut self.dropped, dropped));
        Ok(Missed { dropped, denied })
    }
}

/// Messages of this length in one receive at most: as many as make whole offloaded sends.
fn max_messages(len: usize) -> usize {
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
    /// A sender for this socket, and for others of the same offload.
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        let limits = if can_send_segmented(socket) { Limits::OFFLOAD } else { Limits::SINGLE };
        Self { outgoing: Outgoing::default(), offload: Offload::new(limits) }
    }

    /// Without segmentation offload.
    #[cfg(test)]
    pub(crate) fn without_offload(socket: &UdpSocket) -> Self {
        Self { offload: Offload::new(Limits::SINGLE), ..Self::new(socket) }
    }

    /// Sends the datagrams of one sender from the cursor on, to this address or the one that the socket is connected
    /// to, and moves the cursor behind those that were sent. After an error [`skip_send`](Self::skip_send) moves it
    /// over the datagrams of the send that failed, unless the error is an earlier datagram's (`SO_ERROR`).
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        to: Option<SocketAddr>,
        batch: &Batch,
        at: &mut Cursor,
    ) -> io::Result<()> {
        let from = *at;
        self.offload.renew();
        // The cursor where the offload may have failed, or an earlier datagram.
        let mut failed_at = None;
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
                    // The error that ended sendmmsg is lost. The error queue has that of an earlier datagram;
                    // any other comes again.
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
                    // The first time it may be an earlier datagram's (SO_ERROR).
                    if failed_at.replace(*at) == Some(*at) {
                        self.reduce_offload(&error, segments);
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves the cursor over the datagrams of one send. Returns how many.
    pub(crate) fn skip_send(&self, batch: &Batch, at: &mut Cursor) -> usize {
        let Some(group) = gather(batch, *at, self.offload.limits(), &mut drop) else { return 0 };
        *at = group.end;
        group.datagrams
    }

    /// Reduces the offload to what has not failed, for a while.
    fn reduce_offload(&mut self, error: &io::Error, segment: usize) {
        self.offload.reduce(match Errno::from_io_error(error) {
            Some(Errno::IO) => Limits::SINGLE,
            _ => self.offload.limits().below(segment),
        });
    }
}

/// Whether the error may come from the offload: the device has no checksum offload (EIO), or a segment is longer than
/// the path MTU (EINVAL, EMSGSIZE).
fn is_of_offload(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::INVAL | Errno::MSGSIZE))
}
