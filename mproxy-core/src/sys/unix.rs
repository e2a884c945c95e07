//! What all Unix systems have alike: signals, the stop pipe, files, and options of sockets.

use std::fs::Metadata;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use socket2::{SockRef, Socket, TcpKeepalive};

/// Whether a socket can be bound to a group, so that it hears nothing else on the port.
pub(crate) const CAN_BIND_GROUPS: bool = true;

/// Whether the sender decides on `IP_MULTICAST_LOOP`.
pub(crate) const CAN_SET_MULTICAST_LOOP: bool = true;

/// Whether a program may set the DSCP of what it sends.
pub(crate) const CAN_SET_DSCP: bool = true;

/// Sleeps shorter than this must not be waits for something, which end too late.
pub(crate) const SHORTEST_WAIT: Duration = Duration::ZERO;

/// Whether a send fails of the pending socket error.
pub(crate) const SEND_TAKES_SOCKET_ERROR: bool = true;

/// How late a sleep may end.
pub(crate) const MAX_OVERSLEEP: Duration = Duration::from_millis(10);

/// A second signal that comes this soon is the same request: `timeout(1)`, for one, signals a program and then its
/// process group.
pub(crate) const SIGNAL_ECHO: Duration = Duration::from_millis(50);

/// Readable from the request to stop on, and never read: what every thread that polls adds to its set.
#[derive(Debug)]
pub(crate) struct StopPipe(PipeReader, PipeWriter);

impl StopPipe {
    pub(crate) fn new() -> io::Result<Self> {
        io::pipe().map(|(reader, writer)| Self(reader, writer))
    }

    /// Makes it readable.
    pub(crate) fn request(&self) {
        // One byte always fits into a fresh pipe.
        let _ = (&self.1).write(&[0]);
    }

    /// What to poll, if that can be polled.
    #[allow(clippy::unnecessary_wraps)] // the signature of Windows's
    pub(crate) fn poll_fd(&self) -> Option<PollFd<'_>> {
        Some(PollFd::new(&self.0, PollFlags::IN))
    }
}

/// SIGINT and SIGTERM, caught from its making on.
#[derive(Debug)]
pub(crate) struct StopSignals {
    caught: UnixStream,
    /// Kept open, so that the end of file never comes.
    _sender: UnixStream,
}

impl StopSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let (caught, sender) = UnixStream::pair()?;
        for signal in [Signal::INT, Signal::TERM] {
            signal_hook::low_level::pipe::register(signal.as_raw(), sender.try_clone()?)?;
        }
        // A file that reaches RLIMIT_FSIZE is an error of its write (EFBIG), not the end of the process.
        signal_hook::flag::register(Signal::XFSZ.as_raw(), Arc::default())?;
        Ok(Self { caught, _sender: sender })
    }

    /// Waits for the next signal, or for so long. Whether one came.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> bool {
        // Zero would be refused.
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        self.caught.set_read_timeout(timeout).and_then(|()| self.caught.read_exact(&mut [0])).is_ok()
    }
}

/// SIGHUP, caught from its making on.
#[derive(Debug)]
pub(crate) struct ReloadSignals(UnixStream);

impl ReloadSignals {
    /// None where there is no such signal.
    #[allow(clippy::unnecessary_wraps)] // the signature of Windows's
    pub(crate) fn catch() -> io::Result<Option<Self>> {
        let (caught, sender) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(Signal::HUP.as_raw(), sender)?;
        Ok(Some(Self(caught)))
    }

    /// Waits for the next one. Whether it came.
    pub(crate) fn wait(&mut self) -> bool {
        self.0.read_exact(&mut [0]).is_ok()
    }
}

/// What changes when a file is replaced or its access is changed: inode and ctime.
#[cfg_attr(not(feature = "tls"), allow(dead_code))] // only certificates are read again
pub(crate) fn file_identity(metadata: &Metadata) -> [i64; 3] {
    [metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
}

/// Keeps the address for this socket alone, as it is by default.
#[allow(clippy::unnecessary_wraps)] // the signature of Windows's
pub(crate) fn set_exclusive(_: &Socket) -> io::Result<()> {
    Ok(())
}

/// Lets a TCP listener have its port though old connections of it linger (`SO_REUSEADDR`).
pub(crate) fn set_restartable(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Turns keepalive on, with so many probes (`TCP_KEEPCNT`) where the system lets their number be set.
pub(crate) fn set_keepalive(stream: &TcpStream, keepalive: TcpKeepalive, probes: u32) -> io::Result<()> {
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris")))]
    let keepalive = keepalive.with_retries(probes);
    #[cfg(any(target_os = "openbsd", target_os = "haiku", target_os = "solaris"))]
    let _ = probes;
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Nothing that ICMP tells of an earlier send fails a receive of a socket that is not connected.
pub(crate) fn disable_connection_reset(_: &Socket) {}

/// Sets the traffic class (`IPV6_TCLASS`).
pub(crate) fn set_traffic_class(socket: &Socket, field: u32) -> io::Result<()> {
    socket.set_tclass_v6(field)
}

/// Each receiver hears what the sender lets it hear.
#[allow(clippy::unnecessary_wraps)] // the signature of Windows's
pub(crate) fn set_receiver_multicast_loop(_: &Socket, _family: SocketAddr, _on: bool) -> io::Result<()> {
    Ok(())
}

/// The interface's name as the system's tools show it, if that is another one.
pub(crate) fn interface_alias(_: &getifaddrs::Interface) -> Option<String> {
    None
}
