//! Connections: what goes on between opening a TCP connection and moving bytes through it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::io::poll::Input;
use crate::relay::stop::Stop;

/// A connection that bytes go through in both directions. It never blocks: [`Input::wait`] waits for
/// something to read, polling the [socket](Self::socket) for room to write.
pub trait Connection: Input + Send {
    /// The TCP connection itself.
    fn socket(&self) -> &TcpStream;

    /// Takes some or all of the bytes to send. All that was taken before must be [flushed](Self::flush).
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now; else the connection is lost.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Gives some of what was taken to the system, and tells how much: 0 if nothing is left.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now; else the connection is lost.
    fn flush(&mut self) -> io::Result<usize>;

    /// Whether the peer has ended the connection in both directions, and has said so.
    fn is_over(&self) -> bool {
        false
    }

    /// Tells the peer that nothing more will come.
    fn close(&mut self);
}

/// How bytes go through a TCP connection: as they are, or through TLS.
pub trait Transport: Send + Sync {
    /// Whether the peer has to prove something before it is served.
    fn has_handshake(&self) -> bool;

    /// Prepares a fresh connection for data; this may take as long as the peer takes, within limits.
    ///
    /// # Errors
    /// If the connection fails or the peer is refused, with the reason.
    fn establish(&self, stream: TcpStream, stop: &Stop) -> io::Result<Box<dyn Connection>>;
}

/// TCP as it is.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Transport for Plain {
    fn has_handshake(&self) -> bool {
        false
    }

    fn establish(&self, stream: TcpStream, _: &Stop) -> io::Result<Box<dyn Connection>> {
        stream.set_nonblocking(true)?;
        Ok(Box::new(stream))
    }
}

impl Connection for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    fn close(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Reads what the peer has sent, and forgets it; whether it may send more.
pub(crate) fn ignore(read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
    // Bounded, so that a peer that floods does not keep its own data waiting.
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

/// As [`ignore`], past all that a connection would make of it.
pub(crate) fn ignore_raw(mut socket: &TcpStream) -> bool {
    ignore(&mut |area| socket.read(area)).unwrap_or(false)
}
