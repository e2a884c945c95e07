//! A TLS session over a TCP connection.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{Connection as Session, ProtocolVersion};

use crate::io::poll::{Input, Wait};
use crate::log;
use crate::relay::stop::Stop;
use crate::tcp::connection::{Connection, discard_socket_input};
use crate::tcp::tls::error::session_error;
use crate::tcp::transport::{EstablishError, Handshake, Step};

/// TLS over a non-blocking TCP connection.
pub(super) struct TlsStream {
    /// None only once [`into_parts`](Self::into_parts) has taken it.
    session: Option<Session>,
    socket: Arc<TcpStream>,
    /// The peer has sent something.
    has_received: bool,
    /// Bytes of plaintext that the session holds.
    plaintext: usize,
    /// The peer's `close_notify` has come.
    peer_closed: bool,
    /// The error that follows the plaintext already read.
    pending_error: Option<io::Error>,
    /// No `close_notify` is to be sent: it was, or the session has failed with an alert.
    write_closed: bool,
}

impl TlsStream {
    /// Begins the handshake.
    pub(super) fn begin(session: Session, socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            session: Some(session),
            socket: Arc::new(socket),
            has_received: false,
            plaintext: 0,
            peer_closed: false,
            pending_error: None,
            write_closed: false,
        })
    }

    /// The session and the socket, without a `close_notify`.
    pub(super) fn into_parts(mut self) -> io::Result<(Session, TcpStream)> {
        let session = self.session.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok((session, self.socket.try_clone()?))
    }

    fn log_handshake(&mut self) {
        if let (Ok(peer), Ok(session)) = (self.socket.peer_addr(), self.session()) {
            let (version, suite) = (session.protocol_version(), session.negotiated_cipher_suite());
            if let (Some(version), Some(suite)) = (version, suite) {
                log::info(format_args!("{peer}: {version:?}, {:?}", suite.suite()));
            }
        }
    }

    fn session(&mut self) -> io::Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Moves handshake messages in the one direction that is due; false once there is none.
    fn move_handshake(&mut self) -> Result<bool, EstablishError> {
        match self.handshake_step()? {
            Step::Write => self.send_records()?,
            Step::Read => {
                let open = self.receive_records()?;
                self.process_records()?;
                if !open {
                    return Err(if self.has_received {
                        let error = EstablishError::NO_HANDSHAKE;
                        io::Error::new(io::ErrorKind::UnexpectedEof, error).into()
                    } else {
                        EstablishError::PortProbe
                    });
                }
                self.has_received = true;
            }
            Step::Done => return Ok(false),
        }
        Ok(true)
    }

    /// What the handshake waits for.
    fn handshake_step(&mut self) -> io::Result<Step> {
        let session = self.session()?;
        Ok(if session.wants_write() {
            Step::Write
        } else if session.is_handshaking() {
            Step::Read
        } else {
            Step::Done
        })
    }

    /// Receives records from the socket; false at its end (FIN).
    fn receive_records(&mut self) -> io::Result<bool> {
        let mut socket = &*self.socket;
        let session = self.session.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(session.read_tls(&mut socket)? > 0)
    }

    /// Decrypts the records received, and sends what answers them: handshake messages, or an alert.
    fn process_records(&mut self) -> Result<(), rustls::Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let processed = session.process_new_packets();
        let _ = self.send_records();
        match processed {
            Ok(state) => {
                self.plaintext = state.plaintext_bytes_to_read();
                self.peer_closed = state.peer_has_closed();
                Ok(())
            }
            Err(error) => {
                self.write_closed = true;
                Err(error)
            }
        }
    }

    /// Reads plaintext until the area is full, or to the end.
    fn read_plaintext(&mut self, area: &mut [u8], filled: &mut usize) -> io::Result<()> {
        while *filled < area.len() {
            match self.session()?.reader().read(&mut area[*filled..]) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    self.plaintext = self.plaintext.saturating_sub(len);
                    *filled += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(error) = self.pending_error.take() {
                        return Err(error);
                    }
                    let received = self.receive_records();
                    match received.and_then(|_| self.process_records().map_err(session_error)) {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                        // The plaintext before it goes first.
                        Err(error) => self.pending_error = Some(error),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "cut off: the connection ended without TLS's close_notify",
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends all records that the session holds.
    fn send_records(&mut self) -> io::Result<()> {
        loop {
            match self.flush() {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Handshake for TlsStream {
    fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    fn proceed(&mut self) -> Result<Step, EstablishError> {
        loop {
            match self.move_handshake() {
                Ok(true) => {}
                Ok(false) => {
                    self.log_handshake();
                    return Ok(Step::Done);
                }
                Err(EstablishError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(self.handshake_step()?);
                }
                Err(EstablishError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn abort(&mut self) {
        self.close();
    }

    fn into_connection(self: Box<Self>) -> Box<dyn Connection> {
        self
    }
}

impl Input for TlsStream {
    /// Reads as many records as have come: a record is short, and the area has room for whole offloaded
    /// sends.
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        match self.read_plaintext(area, &mut filled) {
            Err(error) if filled == 0 => Err(error),
            Err(error) => {
                self.pending_error = Some(error).filter(|error| error.kind() != io::ErrorKind::WouldBlock);
                Ok(filled)
            }
            Ok(()) => Ok(filled),
        }
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        if self.has_pending_input() {
            return Ok(if stop.requested() { Wait::Stopped } else { Wait::Ready });
        }
        self.socket.wait(timeout, stop)
    }

    fn begin_drain(&self) -> bool {
        true
    }
}

impl Connection for TlsStream {
    fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.session()?.writer().write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<usize> {
        let mut socket = &*self.socket;
        let session = self.session.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if session.wants_write() { session.write_tls(&mut socket) } else { Ok(0) }
    }

    fn has_pending_input(&self) -> bool {
        self.plaintext > 0 || self.peer_closed || self.pending_error.is_some()
    }

    /// In TLS 1.2 a `close_notify` closes both directions (RFC 5246, 7.2.1), in 1.3 only the sender's (RFC
    /// 8446, 6.1).
    fn is_closed_by_peer(&self) -> bool {
        let version = self.session.as_ref().and_then(|session| session.protocol_version());
        self.peer_closed && version == Some(ProtocolVersion::TLSv1_2)
    }

    fn close(&mut self) {
        let Some(session) = &mut self.session else { return };
        if !std::mem::replace(&mut self.write_closed, true) {
            session.send_close_notify();
        }
        let _ = self.send_records();
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.close();
            discard_socket_input(&self.socket);
        }
    }
}
