//! Transports: from a fresh TCP connection to one that carries data.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use crate::relay::stop::Stop;
use crate::tcp::connection::Connection;

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
