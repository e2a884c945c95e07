//! Transports: from a fresh TCP connection to one that carries data.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::io::poll::{Wait, wait};
use crate::relay::stop::Stop;
use crate::tcp::connection::{Connection, discard_socket_input};

/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The linger timeout after a failed handshake.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

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

    /// The error of a handshake after [`HANDSHAKE_TIMEOUT`].
    pub(crate) fn timed_out() -> Self {
        let error = format!("no TLS handshake in {} seconds", HANDSHAKE_TIMEOUT.as_secs());
        Self::Io(io::Error::new(io::ErrorKind::TimedOut, error))
    }
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
    /// Whether there is a handshake, which the peer can hold up. Without one a connection is
    /// [ready](Handshake::into_connection) as soon as it has begun.
    fn has_handshake(&self) -> bool;

    /// Begins to make a fresh connection ready for data. This does not wait for the peer, and neither does the
    /// handshake.
    ///
    /// # Errors
    /// See [`EstablishError`].
    fn begin(&self, stream: TcpStream) -> Result<Box<dyn Handshake>, EstablishError>;
}

/// A connection in its handshake. It never blocks: its owner waits for what each [step](Self::proceed) asks for, and
/// keeps the time.
pub trait Handshake: Send {
    /// The TCP connection itself.
    fn socket(&self) -> &Arc<TcpStream>;

    /// Goes on as far as that is possible now.
    ///
    /// # Errors
    /// See [`EstablishError`]. The owner [aborts](Self::abort) it then.
    fn proceed(&mut self) -> Result<Step, EstablishError>;

    /// Sends the peer what tells it of the failure (a TLS alert), and closes the sending direction (FIN). A close of
    /// the socket with unread input would be a reset (RST), which may cost the peer that: the owner lingers first,
    /// until the peer has closed too.
    fn abort(&mut self);

    /// The connection, after [`Step::Done`].
    fn into_connection(self: Box<Self>) -> Box<dyn Connection>;
}

/// What a handshake waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes from the peer.
    Read,
    /// Room in the send buffer.
    Write,
    /// Nothing: the connection is ready for data.
    Done,
}

/// Makes a fresh connection ready for data. This takes as long as the peer takes, up to a timeout.
pub(crate) fn establish(
    transport: &dyn Transport,
    stream: TcpStream,
    stop: &Stop,
) -> Result<Box<dyn Connection>, EstablishError> {
    let mut handshake = transport.begin(stream)?;
    complete(&mut *handshake, stop)?;
    Ok(handshake.into_connection())
}

/// Completes the handshake; lingers if it fails.
pub(crate) fn complete(handshake: &mut dyn Handshake, stop: &Stop) -> Result<(), EstablishError> {
    let result = wait_until_done(handshake, stop);
    if result.is_err() {
        handshake.abort();
        linger(handshake.socket(), stop);
    }
    result
}

fn wait_until_done(handshake: &mut dyn Handshake, stop: &Stop) -> Result<(), EstablishError> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    loop {
        let interest = match handshake.proceed()? {
            Step::Read => PollFlags::IN,
            Step::Write => PollFlags::OUT,
            Step::Done => return Ok(()),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match wait(&mut [PollFd::new(&**handshake.socket(), interest)], Some(left), stop)? {
            Wait::Ready if !left.is_zero() => {}
            Wait::Ready | Wait::TimedOut => return Err(EstablishError::timed_out()),
            Wait::Stopped => return Err(io::Error::from(io::ErrorKind::Interrupted).into()),
        }
    }
}

/// Waits until the peer has closed too, up to the linger timeout.
fn linger(socket: &TcpStream, stop: &Stop) {
    let end = Instant::now() + LINGER_TIMEOUT;
    let mut open = true;
    while open {
        let left = end.saturating_duration_since(Instant::now());
        let ready = wait(&mut [PollFd::new(socket, PollFlags::IN)], Some(left), stop);
        open =
            ready.is_ok_and(|ready| ready == Wait::Ready) && !left.is_zero() && discard_socket_input(socket);
    }
}

/// TCP as it is.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Transport for Plain {
    fn has_handshake(&self) -> bool {
        false
    }

    fn begin(&self, stream: TcpStream) -> Result<Box<dyn Handshake>, EstablishError> {
        stream.set_nonblocking(true)?;
        Ok(Box::new(Arc::new(stream)))
    }
}

impl Handshake for Arc<TcpStream> {
    fn socket(&self) -> &Self {
        self
    }

    fn proceed(&mut self) -> Result<Step, EstablishError> {
        Ok(Step::Done)
    }

    fn abort(&mut self) {}

    fn into_connection(self: Box<Self>) -> Box<dyn Connection> {
        self
    }
}
