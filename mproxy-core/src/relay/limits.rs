//! Sizes that sources, sinks and the systems' datagram I/O agree on.

/// Bytes that any UDP datagram fits into: 65,527 with IPv6, rounded up.
pub const SLOT: usize = 65_536;

/// The largest datagram that IPv4 carries: 65,535 less the headers of IP and UDP.
pub const MAX_DATAGRAM: usize = 65_507;

/// Bytes of a byte stream that are held, or read at a time, at most.
pub(crate) const READ: usize = 65_536;

/// Datagrams of one offloaded send at most (`udp(7)`, `UDP_SEGMENT`).
pub(crate) const OFFLOADED: usize = 64;
