//! The health of a target: one warning when it begins to fail, one when it has recovered.

use std::io;
use std::time::{Duration, Instant};

use crate::error::hint::with_os_hint;
use crate::log;

/// How long no send may fail before a target counts as recovered. Hosts limit ICMP to about one message a second:
/// in between, a refused datagram looks like a delivered one.
const RECOVERY: Duration = Duration::from_millis(1500);

/// The same for a host that does not answer ARP or neighbour discovery: that takes the system some three seconds, in
/// which it accepts datagrams.
const SILENT_RECOVERY: Duration = Duration::from_secs(5);

/// How often at most a warning tells of dropped datagrams.
const DROPPED_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Health {
    target: String,
    last_error: Option<Instant>,
    recovery: Duration,
    failed: u64,
    /// Datagrams that there was no room for, and how many of them the last warning has told.
    dropped: u64,
    dropped_told: u64,
    /// When that was.
    told_at: Option<Instant>,
}

impl Health {
    pub(crate) fn new(target: String) -> Self {
        Self {
            target,
            last_error: None,
            recovery: RECOVERY,
            failed: 0,
            dropped: 0,
            dropped_told: 0,
            told_at: None,
        }
    }

    /// Records an error.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        if self.last_error.is_none() {
            let error = with_os_hint(error);
            log::warn(format_args!("cannot send to {}: {error}; going on without it", self.target));
            self.failed = 0;
        }
        self.failed += 1;
        let silent = error.kind() == io::ErrorKind::HostUnreachable;
        self.recovery = if silent { SILENT_RECOVERY } else { RECOVERY };
        self.last_error = Some(Instant::now());
    }

    /// Records datagrams that there was no room for, for this reason.
    pub(crate) fn dropped(&mut self, datagrams: u64, reason: &str) {
        self.dropped += datagrams;
        if self.told_at.is_none_or(|at| at.elapsed() > DROPPED_INTERVAL) {
            self.told_at = Some(Instant::now());
            self.dropped_told = self.dropped;
            log::warn(format_args!(
                "cannot send to {}: {reason}; {} datagrams dropped so far",
                self.target, self.dropped
            ));
        }
    }

    /// Records a send that did not fail. Whether the target is well, or well again.
    pub(crate) fn passed(&mut self) -> bool {
        match self.last_error {
            Some(last) if last.elapsed() < self.recovery => false,
            Some(_) => {
                self.last_error = None;
                log::warn(format_args!(
                    "sending to {} works again after {} errors",
                    self.target, self.failed
                ));
                true
            }
            None => true,
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if self.dropped > self.dropped_told {
            log::warn(format_args!("{}: {} datagrams dropped in all", self.target, self.dropped));
        }
    }
}
