//! Datagram sources and sinks: UDP listeners and targets.

pub(crate) mod io;
pub(crate) mod route_sender;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod transparent;

use crate::error::Error;
use crate::net::options::Options;
use crate::relay::flow::Sinks;
use crate::udp::sink::UdpSink;

/// Checks the options, and whether this process may send as others do if that is asked for.
///
/// # Errors
/// See [`Options::check`]; a lack of the right to be [transparent](Options::transparent).
pub fn check_options(options: &Options) -> Result<(), Error> {
    options.check()?;
    if options.transparent { transparent::check() } else { Ok(()) }
}

/// The same targets, as [`Sinks`].
#[must_use]
pub fn boxed(targets: Vec<UdpSink>) -> Sinks {
    let mut sinks: Sinks = Vec::new();
    for target in targets {
        sinks.push(Box::new(target));
    }
    sinks
}

/// The chosen datagram size, or the default for these targets: the largest payload that the path to each of
/// them takes without IP fragmentation, at most 8192 bytes, and 1452 where that is unknown.
#[must_use]
pub fn datagram_size(options: &Options, targets: &[UdpSink]) -> usize {
    const LARGEST: usize = 8192;
    /// An Ethernet frame's 1500 bytes, less the headers of IPv6 and UDP.
    const UNKNOWN: usize = 1452;
    let each = targets.iter().map(|target| target.path_payload().unwrap_or(UNKNOWN));
    options.datagram_size.unwrap_or_else(|| each.fold(LARGEST, usize::min))
}
