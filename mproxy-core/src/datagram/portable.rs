//! One datagram at a time, with nothing but the standard library.

use std::io;
use std::net::UdpSocket;

use super::Missed;
use crate::Allow;
use crate::batch::{Batch, Place};

/// Slots that a listener's batch has.
pub(crate) const SLOTS: usize = 1;

/// Fills batches from a socket.
#[derive(Debug)]
pub(crate) struct Receiver {
    allow: Allow,
}

impl Receiver {
    /// Prepares to receive from this socket, but only what these allow.
    pub(crate) fn new(_socket: &UdpSocket, allow: Allow) -> Self {
        Self { allow }
    }

    /// Waits for a datagram, unless the socket does not block, and takes it into the empty batch if its
    /// sender is allowed. What the system has dropped nobody tells.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        let (len, sender) = socket.recv_from(batch.spare())?;
        if self.allow.permits(sender.ip()) {
            batch.push(len);
            return Ok(Missed::default());
        }
        Ok(Missed { dropped: 0, denied: 1 })
    }
}

/// Sends batches to what its socket is connected to.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: UdpSocket,
}

impl Sender {
    /// Takes a connected socket.
    pub(crate) fn new(socket: UdpSocket) -> Self {
        Self { socket }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends the batch from the place on, and moves the place behind what was sent. After an error it is
    /// where [`skip`](Self::skip) passes over what the error concerns.
    pub(crate) fn send(&mut self, batch: &Batch, at: &mut Place) -> io::Result<()> {
        while let Some(datagram) = batch.datagram(*at) {
            match self.socket.send(datagram) {
                Ok(_) => *at = batch.after(*at, datagram.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the place over what one send takes. Returns how many datagrams that are.
    #[allow(clippy::unused_self)] // the interface of linux.rs
    pub(crate) fn skip(&self, batch: &Batch, at: &mut Place) -> usize {
        let Some(datagram) = batch.datagram(*at) else { return 0 };
        *at = batch.after(*at, datagram.len());
        1
    }
}
