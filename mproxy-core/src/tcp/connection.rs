//! Connections that carry data.

use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use socket2::SockRef;

use crate::io::poll::Input;

/// A connection that carries bytes in both directions. It never blocks: [`Input::wait`] waits for
/// something to read, polling the [socket](Self::socket) for room to write.
pub trait Connection: Input + Send {
    /// The TCP connection itself.
    fn socket(&self) -> &Arc<TcpStream>;

    /// Takes some or all of the bytes to send. All that was taken before must be [flushed](Self::flush).
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now; else the connection is lost.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes some of what was taken to the socket, and returns how much: 0 if nothing is left.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now; else the connection is lost.
    fn flush(&mut self) -> io::Result<usize>;

    /// Whether a read gives something that the connection holds already, the end or an error included, so that its socket
    /// need not become readable before it.
    fn has_pending_input(&self) -> bool {
        false
    }

    /// Whether the peer has closed both directions, not only its own.
    fn is_closed_by_peer(&self) -> bool {
        false
    }

    /// Closes the sending direction (FIN; with TLS a `close_notify` before it): half-closed from then on.
    fn close(&mut self);
}

impl Connection for Arc<TcpStream> {
    fn socket(&self) -> &Self {
        self
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // sendmsg: writev (`Write::write_vectored`) goes through the checks for files first.
        SockRef::from(&**self).send_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    fn close(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Reads and discards input; false at its end (FIN).
pub(crate) fn discard_input(read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
    // Bounded: a flood of input must not hold up the output.
    for _ in 0..16 {
        match read(&mut [0; 4096]) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Discards the socket's own input, below TLS; false at its end or an error. A close with unread input would
/// be a reset (RST), which may cost the peer what it has not read yet.
pub(crate) fn discard_socket_input(mut socket: &TcpStream) -> bool {
    discard_input(&mut |area| socket.read(area)).unwrap_or(false)
}
