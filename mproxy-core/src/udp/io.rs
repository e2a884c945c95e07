//! Receiving and sending batches of datagrams: the seam between the systems.
//!
//! Each implementation has a `Receiver`, which fills a batch from a socket, and a `Sender`, which sends as
//! much of a batch as goes to one target, and may be called again for the rest. `linux.rs` moves many
//! datagrams with each system call, coalesced by the kernel where it can; `windows.rs` sends many with each,
//! and receives all that are there before it goes on; `portable.rs` moves one, with nothing but the standard
//! library. They are the same to all that can be seen of them, and tested by the same tests; `--cfg
//! mproxy_portable` builds everything with the portable one.
//!
//! macOS has the portable one: what moves several datagrams there (`sendmsg_x`, `recvmsg_x`) is no public
//! interface, and may change with each release.

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

/// What a receive has not put into the batch, but can tell of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// Datagrams that the system has dropped since it told last.
    pub(crate) dropped: u32,
    /// Datagrams from addresses that are not allowed.
    pub(crate) denied: usize,
}

/// Whether a listener waits before it receives, from a socket that does not block, rather than while it does: on
/// Windows a socket is in no dependable state when the time of a receive is over (`SO_RCVTIMEO`), and its
/// `Receiver` takes all that is there.
pub(crate) const POLL_BEFORE_RECEIVE: bool = cfg!(windows);

/// What a failed receive has missed, if the socket has not failed and only this receive is over: Windows has
/// it fail for what ICMP reports of datagrams that had been sent from the socket, which are none of those that
/// come in, and for a datagram that is larger than the room for it, of which the rest is lost.
#[cfg(any(test, mproxy_portable, not(target_os = "linux")))]
fn passing(error: io::Error) -> io::Result<Missed> {
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
