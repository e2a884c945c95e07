//! Connections: from a fresh TCP connection to one that carries data.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use crate::io::poll::Input;
use crate::relay::stop::Stop;

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

    /// Whether the peer has closed both directions, not only its own.
    fn is_closed_by_peer(&self) -> bool {
        false
    }

    /// Closes the sending direction (FIN; with TLS a `close_notify` before it): half-closed from then on.
    fn close(&mut self);
}

/// Why a fresh connection does not come to carry data.
#[derive(Debug)]
#[non_exhaustive]
pub enum EstablishError {
    /// A port probe: the peer has closed the connection without a byte of the handshake.
    PortProbe,
    /// A check of the handshake has failed; the reason in words.
    Refused(String),
    /// The connection has failed.
    Io(io::Error),
}

impl EstablishError {
    pub(crate) const NO_HANDSHAKE: &str = "the peer has closed the connection instead of a TLS handshake";
}

impl fmt::Display for EstablishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortProbe => f.write_str(Self::NO_HANDSHAKE),
            Self::Refused(reason) => f.write_str(reason),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for EstablishError {}

impl From<io::Error> for EstablishError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<EstablishError> for io::Error {
    fn from(error: EstablishError) -> Self {
        match error {
            EstablishError::PortProbe => Self::new(io::ErrorKind::NotConnected, error),
            EstablishError::Refused(reason) => Self::new(io::ErrorKind::InvalidData, reason),
            EstablishError::Io(error) => error,
        }
    }
}

/// How a TCP connection carries bytes: as they are, or through TLS.
pub trait Transport: Send + Sync {
    /// Whether there is a handshake, which the peer can hold up.
    fn has_handshake(&self) -> bool;

    /// Makes a fresh connection ready for data. This takes as long as the peer takes, up to a timeout.
    ///
    /// # Errors
    /// See [`EstablishError`].
    fn establish(&self, stream: TcpStream, stop: &Stop) -> Result<Box<dyn Connection>, EstablishError>;
}

/// TCP as it is.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Transport for Plain {
    fn has_handshake(&self) -> bool {
        false
    }

    fn establish(&self, stream: TcpStream, _: &Stop) -> Result<Box<dyn Connection>, EstablishError> {
        stream.set_nonblocking(true)?;
        Ok(Box::new(Arc::new(stream)))
    }
}

impl Connection for Arc<TcpStream> {
    fn socket(&self) -> &Self {
        self
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&**self).write_vectored(slices)
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
