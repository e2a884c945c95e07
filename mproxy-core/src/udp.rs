//! Datagram sources and sinks: UDP listeners and targets.

mod source;
mod target;
mod way;

pub use source::UdpSource;
pub use target::{UdpSink, UdpTarget, open_all};

use crate::Sinks;

/// The same targets, as [`Sinks`].
#[must_use]
pub fn boxed(targets: Vec<UdpSink>) -> Sinks {
    let mut sinks: Sinks = Vec::new();
    for target in targets {
        sinks.push(Box::new(target));
    }
    sinks
}

/// The default datagram size for these targets: the largest payload that the path to each of them takes
/// without IP fragmentation, at most 8192 bytes, and 1452 where that is unknown.
#[must_use]
pub fn datagram_size(targets: &[UdpSink]) -> usize {
    const LARGEST: usize = 8192;
    /// An Ethernet frame's 1500 bytes, less the headers of IPv6 and UDP.
    const UNKNOWN: usize = 1452;
    let each = targets.iter().map(|target| target.path_payload().unwrap_or(UNKNOWN));
    each.fold(LARGEST, usize::min)
}
