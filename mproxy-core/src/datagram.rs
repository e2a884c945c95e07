//! Receiving and sending batches of datagrams: the seam between the systems.
//!
//! Each implementation has a `Receiver`, which fills a batch from a socket, and a `Sender`, which sends as
//! much of a batch as goes to one target, and may be called again for the rest. `linux.rs` moves many
//! datagrams with each system call, coalesced by the kernel where it can; `portable.rs` one, with nothing
//! but the standard library. They are the same to all that can be seen of them, and tested by the same
//! tests; `--cfg mproxy_portable` builds everything with the portable one.

#[cfg(all(target_os = "linux", any(test, not(mproxy_portable))))]
mod gather;
#[cfg(all(target_os = "linux", any(test, not(mproxy_portable))))]
#[cfg_attr(mproxy_portable, allow(dead_code))]
mod linux;
#[cfg(any(test, mproxy_portable, not(target_os = "linux")))]
#[cfg_attr(all(target_os = "linux", not(mproxy_portable)), allow(dead_code))]
mod portable;
#[cfg(test)]
mod tests;

/// What a receive has not put into the batch, but can tell of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// Datagrams that the system has dropped since it told last.
    pub(crate) dropped: u32,
    /// Datagrams from addresses that are not allowed.
    pub(crate) denied: usize,
}

#[cfg(all(target_os = "linux", not(mproxy_portable)))]
pub(crate) use linux::{Receiver, SLOTS, Sender};
#[cfg(any(mproxy_portable, not(target_os = "linux")))]
pub(crate) use portable::{Receiver, SLOTS, Sender};
