//! Datagram I/O, in batches: the seam between the systems.
//!
//! Each implementation has a `Receiver`, which fills a batch from a socket, and a `Sender`, which sends the datagrams
//! of one sender, and is called again for the rest. `linux.rs` moves many datagrams with each system call
//! (`recvmmsg`, `sendmmsg`), coalesced by the kernel where it can (GRO, GSO); `windows.rs` sends many with each (USO),
//! and receives until the socket would block; `portable.rs` moves one, with nothing but the standard library. They
//! behave the same, and have the same tests; `--cfg mproxy_portable` builds everything with the portable one.
//!
//! macOS has the portable one: its calls for several datagrams (`sendmsg_x`, `recvmsg_x`) are no public interface, and
//! may change with each release.

#[cfg(any(test, mproxy_portable, not(target_os = "linux")))]
use std::io;

#[cfg(any(windows, test))]
#[cfg_attr(any(mproxy_portable, not(windows)), allow(dead_code))]
mod control;
#[cfg(all(any(target_os = "linux", windows), any(test, not(mproxy_portable))))]
mod gather;
#[cfg(all(target_os = "linux", any(test, not(mproxy_portable))))]
#[cfg_attr(mproxy_portable, allow(dead_code))]
mod linux;
#[cfg(all(any(target_os = "linux", windows), any(test, not(mproxy_portable))))]
mod offload;
#[cfg(any(test, mproxy_portable, not(any(target_os = "linux", windows))))]
#[cfg_attr(all(any(target_os = "linux", windows), not(mproxy_portable)), allow(dead_code))]
mod portable;
#[cfg(test)]
mod tests;
#[cfg(all(windows, any(test, not(mproxy_portable))))]
#[cfg_attr(mproxy_portable, allow(dead_code))]
mod windows;

/// The datagrams that a receive has not put into the batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// Datagrams that the receive buffer had no room for, since the last receive (`SO_RXQ_OVFL`).
    pub(crate) dropped: u32,
    /// Datagrams from addresses that are not allowed.
    pub(crate) denied: usize,
}

/// Whether a listener polls before each receive, from a socket that does not block. On Windows a socket is in no
/// dependable state after a receive time-out (`SO_RCVTIMEO`), and its `Receiver` receives until it would block.
pub(crate) const POLL_BEFORE_RECEIVE: bool = cfg!(windows);

/// The datagrams missed by a receive whose error is not the socket's. On Windows a receive fails of ICMP's port
/// unreachable and TTL exceeded for datagrams that the socket has sent, and of a datagram longer than the room for it,
/// the rest of which is lost.
#[cfg(any(test, mproxy_portable, not(target_os = "linux")))]
fn classify_receive_error(error: io::Error) -> io::Result<Missed> {
    const WSAEMSGSIZE: i32 = 10_040;
    const WSAENETRESET: i32 = 10_052;
    const WSAECONNRESET: i32 = 10_054;
    // No other system has numbers like these.
    match error.raw_os_error() {
        Some(WSAENETRESET | WSAECONNRESET) => Ok(Missed::default()),
        Some(WSAEMSGSIZE) => Ok(Missed { dropped: 1, denied: 0 }),
        _ => Err(error),
    }
}

#[cfg(all(target_os = "linux", not(mproxy_portable)))]
pub(crate) use linux::{Receiver, SLOTS, Sender};
#[cfg(any(mproxy_portable, not(any(target_os = "linux", windows))))]
pub(crate) use portable::{Receiver, SLOTS, Sender};
#[cfg(all(windows, not(mproxy_portable)))]
pub(crate) use windows::{Receiver, SLOTS, Sender};
