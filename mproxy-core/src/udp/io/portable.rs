//! One datagram at a time, with nothing but the standard library.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::{Missed, passing};
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
    /// Prepares to receive from this socket, but only what these allow, and to tell the senders or not. What was
    /// not sent to the group, on a system where that comes too, comes.
    pub(crate) fn new(_socket: &UdpSocket, _: Option<IpAddr>, allow: Allow, with_senders: bool) -> Self {
        Self { allow, with_senders }
    }

    /// From now on these are allowed. An empty list stays one.
    pub(crate) fn allow(&mut self, allow: Allow) {
        self.allow = allow;
    }

    /// Waits for a datagram, unless the socket does not block, and takes it into the empty batch if its
    /// sender is allowed. What the system has dropped nobody tells.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        let (len, sender) = match socket.recv_from(batch.spare()) {
            Ok(received) => received,
            Err(error) => return passing(error),
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
    /// For sockets that can do what this one can.
    pub(crate) fn new(_socket: &UdpSocket) -> Self {
        Self
    }

    /// Sends the batch from the place on, as far as its datagrams have the same sender, to this address, or to
    /// what the socket is connected to, and moves the place behind what was sent. After an error it is where
    /// [`skip_send`](Self::skip_send) passes over what the error concerns.
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

    /// Moves the place over what one send takes. Returns how many datagrams that are.
    #[allow(clippy::unused_self)] // the interface of linux.rs
    pub(crate) fn skip_send(&self, batch: &Batch, at: &mut Cursor) -> usize {
        let Some(datagram) = batch.datagram(*at) else { return 0 };
        *at = batch.advance(*at, datagram.len());
        1
    }
}
