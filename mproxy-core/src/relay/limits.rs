//! Sizes that sources, sinks and the systems' datagram I/O agree on.

/// The bytes of a slot that any UDP datagram fits into: 65,527 with IPv6, rounded up.
pub const SLOT: usize = 65_536;

/// The payload bytes of the largest datagram that IPv4 carries: 65,535 less the headers of IP and UDP.
pub const MAX_DATAGRAM: usize = 65_507;

/// The most bytes of a byte stream in one read, and the most that are pending.
pub(crate) const READ: usize = 65_536;

/// The most datagrams of one offloaded send (`udp(7)`, `UDP_SEGMENT`).
pub(crate) const OFFLOADED: usize = 64;
