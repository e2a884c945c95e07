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

#[derive(Debug)]
pub(crate) struct Health {
    target: String,
    last_error: Option<Instant>,
    recovery: Duration,
    failed: u64,
}

impl Health {
    pub(crate) fn new(target: String) -> Self {
        Self { target, last_error: None, recovery: RECOVERY, failed: 0 }
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
