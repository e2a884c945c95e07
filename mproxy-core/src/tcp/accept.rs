//! Accepting TCP connections.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::error::Error;
use crate::io::poll::{Wait, wait};
use crate::log;
use crate::net::connect::set_up_stream;
use crate::net::listen::BACKLOG;
use crate::relay::stop::Stop;

/// Accepts connections on all of the listeners until a stop is requested, the backlog at that time included,
/// and hands each to `accepted`.
///
/// A lack of descriptors (EMFILE, ENFILE) or memory is waited out.
///
/// # Errors
/// If the listeners cannot be polled.
pub fn accept_each(
    listeners: &[TcpListener],
    stop: &Stop,
    mut accepted: impl FnMut(TcpStream, SocketAddr),
) -> Result<(), Error> {
    let mut failures = log::LogLimiter::default();
    loop {
        let mut fds: Vec<_> = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        let ready = wait(&mut fds, None, stop).map_err(|e| Error::io("wait for", "TCP connections", e))?;
        for listener in listeners {
            // One of each listener in turn, but at a stop the whole backlog: it was connected in time.
            for _ in 0..if ready == Wait::Stopped { BACKLOG } else { 1 } {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        // Some systems' connections inherit O_NONBLOCK from the listener.
                        match stream.set_nonblocking(false).and_then(|()| set_up_stream(&stream)) {
                            Ok(()) => accepted(stream, peer),
                            Err(error) => {
                                log::info(format_args!("{peer}: gone before it was served: {error}"));
                            }
                        }
                    }
                    Err(error) => {
                        if !is_of_connection(&error) {
                            if failures.permits() {
                                log::warn(format_args!(
                                    "cannot accept a connection: {error}; trying again until it works"
                                ));
                            }
                            stop.sleep(Duration::from_millis(100));
                        }
                        break;
                    }
                }
            }
        }
        if ready == Wait::Stopped {
            return Ok(());
        }
    }
}

/// Whether an error of `accept` is the connection's, or there is none to accept, rather than this host's.
/// Windows says ECONNRESET for ECONNABORTED.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
