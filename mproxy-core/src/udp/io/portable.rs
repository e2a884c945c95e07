//! One datagram at a time, with nothing but the standard library.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::{Missed, classify_receive_error};
use crate::net::allow::Allow;
use crate::relay::batch::{Batch, Cursor};

/// Slots that a listener's batch has.
pub(crate) const SLOTS: usize = 1;

/// Fills batches from a socket.
#[derive(Debug)]
pub(crate) struct Receiver {
    allow: Allow,
    with_senders: bool,
}

impl Receiver {
    /// A receiver for this socket, of datagrams from allowed addresses, with or without their senders. Where the
    /// socket is not bound to the group, datagrams to other addresses come too.
    pub(crate) fn new(_socket: &UdpSocket, _: Option<IpAddr>, allow: Allow, with_senders: bool) -> Self {
        Self { allow, with_senders }
    }

    /// Changes the allowed addresses. An empty list must stay empty.
    pub(crate) fn allow(&mut self, allow: Allow) {
        self.allow = allow;
    }

    /// Whether the last receive may have left datagrams.
    #[allow(clippy::unused_self)] // the interface of linux.rs
    pub(crate) fn may_have_left_some(&self) -> bool {
        true
    }

    /// Receives one datagram, into the empty batch if its sender is allowed; blocks if the socket does. Drops of the
    /// receive buffer are not known.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        let (len, sender) = match socket.recv_from(batch.spare()) {
            Ok(received) => received,
            Err(error) => return classify_receive_error(error),
        };
        if self.allow.permits(sender.ip()) {
            batch.push(len);
            if self.with_senders {
                batch.push_sender(sender);
            }
            return Ok(Missed::default());
        }
        Ok(Missed { dropped: 0, denied: 1 })
    }
}

/// Sends batches.
#[derive(Debug)]
pub(crate) struct Sender;

impl Sender {
    /// A sender for this socket, and for others of the same offload.
    pub(crate) fn new(_socket: &UdpSocket) -> Self {
        Self
    }

    /// Sends the datagrams of one sender from the cursor on, to this address or the one that the socket is connected
    /// to, and moves the cursor behind those that were sent. After an error [`skip_send`](Self::skip_send) moves it
    /// over the datagrams of the send that failed.
    #[allow(clippy::unused_self)] // the interface of linux.rs
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        to: Option<SocketAddr>,
        batch: &Batch,
        at: &mut Cursor,
    ) -> io::Result<()> {
        let from = *at;
        while batch.same_sender(from, *at)
            && let Some(datagram) = batch.datagram(*at)
        {
            let sent = match to {
                Some(to) => socket.send_to(datagram, to),
                None => socket.send(datagram),
            };
            match sent {
                Ok(_) => *at = batch.advance(*at, datagram.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the cursor over the datagrams of one send. Returns how many.
    #[allow(clippy::unused_self)] // the interface of linux.rs
    pub(crate) fn skip_send(&self, batch: &Batch, at: &mut Cursor) -> usize {
        let Some(datagram) = batch.datagram(*at) else { return 0 };
        *at = batch.advance(*at, datagram.len());
        1
    }
}
