//! UDP: the source of a listener, the sink to all targets, and the pair of sockets between threads.

pub(crate) mod io;
mod linger;
mod membership;
pub(crate) mod pair;
mod room_wait;
mod route_sender;
mod send_error;
pub(crate) mod sink;
mod socket_set;
pub(crate) mod source;
pub(crate) mod target;
mod target_sender;
mod transparent;

use crate::error::Error;
use crate::net::options::Options;
use crate::udp::sink::UdpSink;

/// Checks the options, and whether this process may send transparently if that is asked for.
///
/// # Errors
/// See [`Options::check`]; a lack of the right to be [transparent](Options::transparent).
pub fn check_options(options: &Options) -> Result<(), Error> {
    options.check()?;
    if options.transparent { transparent::check() } else { Ok(()) }
}

/// The chosen datagram size, or the default for the targets of this sink: the largest payload that the path to each
/// of them takes without IP fragmentation, at most 8192 bytes, and 1452 where the path MTU is unknown.
#[must_use]
pub fn datagram_size(options: &Options, sink: &UdpSink) -> usize {
    const LARGEST: usize = 8192;
    /// An Ethernet frame's 1500 bytes, less the headers of IPv6 and UDP.
    const UNKNOWN: usize = 1452;
    let payloads = sink.path_payloads().map(|payload| payload.unwrap_or(UNKNOWN));
    options.datagram_size.unwrap_or_else(|| payloads.fold(LARGEST, usize::min))
}
