//! A connection that bytes go through encrypted.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustls::{Connection as Session, ProtocolVersion};

use super::error as tls_error;
use crate::io::poll::Input;
use crate::io::poll::{Wait, wait};
use crate::log;
use crate::relay::stop::Stop;
use crate::tcp::connection::{Connection, ignore_raw};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// TLS over a TCP connection that does not block.
pub(super) struct TlsStream {
    /// None only when it is taken away.
    session: Option<Session>,
    socket: TcpStream,
    /// Payload that was decrypted and not read yet.
    held: usize,
    /// The peer has said that nothing more comes.
    ended: bool,
    /// What comes after the payload that was read.
    failed: Option<io::Error>,
    /// Nothing more can be sent: that was said, or the session has failed.
    closed: bool,
}

impl TlsStream {
    /// Shakes hands.
    pub(super) fn establish(session: Session, socket: TcpStream, stop: &Stop) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut stream =
            Self { session: Some(session), socket, held: 0, ended: false, failed: None, closed: false };
        if let Err(error) = stream.shake_hands(stop) {
            stream.take_leave(stop);
            return Err(error);
        }
        if let (Ok(peer), Ok(session)) = (stream.socket.peer_addr(), stream.session()) {
            let (version, suite) = (session.protocol_version(), session.negotiated_cipher_suite());
            if let (Some(version), Some(suite)) = (version, suite) {
                log::info(format_args!("{peer}: {version:?}, {:?}", suite.suite()));
            }
        }
        Ok(stream)
    }

    /// The session and the socket, without a goodbye.
    pub(super) fn into_parts(mut self) -> io::Result<(Session, TcpStream)> {
        let session = self.session.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok((session, self.socket.try_clone()?))
    }

    fn session(&mut self) -> io::Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Gives a peer that is refused the time to read why: with unread input a close would be a reset.
    fn take_leave(&mut self, stop: &Stop) {
        const LEAVE: Duration = Duration::from_secs(1);
        self.close();
        let end = Instant::now() + LEAVE;
        let mut goes_on = true;
        while goes_on {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            let ready = wait(&mut fds, Some(left), stop).is_ok_and(|wait| wait == Wait::Ready);
            goes_on = ready && !left.is_zero() && ignore_raw(&self.socket);
        }
    }

    fn shake_hands(&mut self, stop: &Stop) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE;
        let mut heard = false;
        loop {
            let session = self.session()?;
            let (wanted, moved) = if session.wants_write() {
                (PollFlags::OUT, self.push().map(|()| true))
            } else if session.is_handshaking() {
                (PollFlags::IN, self.pull())
            } else {
                return Ok(());
            };
            match moved {
                Ok(true) => heard |= wanted == PollFlags::IN,
                Ok(false) => {
                    // One that says nothing at all only wants to know whether somebody is here.
                    let kind = if heard { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::NotConnected };
                    let why = "the peer has closed the connection instead of a TLS handshake";
                    return Err(io::Error::new(kind, why));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let mut fds = [PollFd::new(&self.socket, wanted)];
                    let ready =
                        if left.is_zero() { Wait::TimedOut } else { wait(&mut fds, Some(left), stop)? };
                    match ready {
                        Wait::Ready => {}
                        Wait::TimedOut => {
                            return Err(io::Error::new(
                                io::ErrorKind::TimedOut,
                                format!("no TLS handshake in {} seconds", HANDSHAKE.as_secs()),
                            ));
                        }
                        Wait::Stopped => return Err(io::ErrorKind::Interrupted.into()),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes in what the peer has sent; false at the end of it.
    fn pull(&mut self) -> io::Result<bool> {
        let mut socket = &self.socket;
        let session = self.session.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let goes_on = session.read_tls(&mut socket)? > 0;
        let processed = session.process_new_packets();
        // An answer, such as an alert that says what was wrong.
        let _ = self.push();
        match processed {
            Ok(state) => {
                self.held = state.plaintext_bytes_to_read();
                self.ended = state.peer_has_closed();
                Ok(goes_on)
            }
            Err(error) => {
                self.closed = true;
                Err(tls_error::error(error))
            }
        }
    }

    /// Reads until the area is full, or to the end.
    fn fill(&mut self, area: &mut [u8], filled: &mut usize) -> io::Result<()> {
        while *filled < area.len() {
            match self.session()?.reader().read(&mut area[*filled..]) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    self.held = self.held.saturating_sub(len);
                    *filled += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(error) = self.failed.take() {
                        return Err(error);
                    }
                    match self.pull() {
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                        // What was good before it goes first.
                        Err(error) => self.failed = Some(error),
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

    /// Sends all that is encrypted.
    fn push(&mut self) -> io::Result<()> {
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

impl Input for TlsStream {
    /// As many records as are there: a TLS record is short, and the area has room for what makes whole
    /// offloaded sends.
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        match self.fill(area, &mut filled) {
            Err(error) if filled == 0 => Err(error),
            Err(error) => {
                self.failed = Some(error).filter(|error| error.kind() != io::ErrorKind::WouldBlock);
                Ok(filled)
            }
            Ok(()) => Ok(filled),
        }
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        if self.held > 0 || self.ended || self.failed.is_some() {
            return Ok(if stop.requested() { Wait::Stopped } else { Wait::Ready });
        }
        self.socket.wait(timeout, stop)
    }

    fn begin_drain(&self) -> bool {
        true
    }
}

impl Connection for TlsStream {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.session()?.writer().write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<usize> {
        let mut socket = &self.socket;
        let session = self.session.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if session.wants_write() { session.write_tls(&mut socket) } else { Ok(0) }
    }

    /// Before TLS 1.3 the peer's goodbye was that of both (RFC 5246, 7.2.1).
    fn is_over(&self) -> bool {
        let version = self.session.as_ref().and_then(|session| session.protocol_version());
        self.ended && version == Some(ProtocolVersion::TLSv1_2)
    }

    fn close(&mut self) {
        let Some(session) = &mut self.session else { return };
        if !std::mem::replace(&mut self.closed, true) {
            session.send_close_notify();
        }
        let _ = self.push();
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.close();
            // With unread input a close would be a reset, which may cost the peer what it has not read yet.
            ignore_raw(&self.socket);
        }
    }
}
