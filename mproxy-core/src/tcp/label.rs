//! Labels: what messages call the connections of an endpoint, and what they say of them.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;

use crate::error::Error;
use crate::log;
use crate::relay::stop::Stop;
use crate::tcp::transport::Transport;

/// What messages call the connections of an endpoint: `TLS client`, for one.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    is_input: bool,
    has_handshake: bool,
}

impl Label {
    /// The label of an endpoint with this transport. Connections of an input send data, those of an output get it.
    #[must_use]
    pub fn new(is_input: bool, transport: &dyn Transport) -> Self {
        Self { is_input, has_handshake: cfg!(feature = "tls") && transport.has_handshake() }
    }

    /// Whether connections send data.
    pub(crate) fn is_input(self) -> bool {
        self.is_input
    }

    /// Whether connections have a handshake, which their peers can hold up.
    pub(crate) fn has_handshake(self) -> bool {
        cfg!(feature = "tls") && self.has_handshake
    }

    /// Logs that a connection begins to be served.
    pub fn log_connected(self, peer: SocketAddr) {
        log::info(format_args!("{self} {peer} connected"));
    }

    /// Logs the end of a connection: a warning if it was dropped, or if data may be missing.
    pub fn log_ended(self, peer: SocketAddr, ended: &Result<(), Error>, stop: &Stop) {
        match ended {
            Ok(()) => log::info(format_args!("{self} {peer} has ended")),
            Err(error) if error.kind() == ErrorKind::TimedOut && !stop.requested() => {
                log::warn(format_args!("{self} {peer} dropped: {error}"));
            }
            // Without a close_notify its data may be cut off.
            Err(error) if self.is_input && self.has_handshake() => {
                log::warn(format_args!("{self} {peer} has gone: {error}"));
            }
            Err(error) => log::info(format_args!("{self} {peer} has gone: {error}")),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_input, self.has_handshake()) {
            (true, true) => "TLS input",
            (true, false) => "TCP input",
            (false, true) => "TLS client",
            (false, false) => "TCP client",
        })
    }
}
