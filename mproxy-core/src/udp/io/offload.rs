//! What of the offload is used: less for a while where it has failed.

use std::time::{Duration, Instant};

use super::gather::Limits;

/// How long to do without what failed: a path may change for a while only.
const DO_WITHOUT: Duration = Duration::from_secs(10);

/// What a sender may use.
#[derive(Debug)]
pub(crate) struct Offload {
    limits: Limits,
    /// What the system offers, and when the limits became less than that.
    able: Limits,
    limited: Option<Instant>,
}

impl Offload {
    /// All that the system offers.
    pub(crate) fn new(able: Limits) -> Self {
        Self { limits: able, able, limited: None }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// All of it again, if what failed was left alone for long enough.
    pub(crate) fn renew(&mut self) {
        if self.limited.is_some_and(|since| since.elapsed() > DO_WITHOUT) {
            (self.limits, self.limited) = (self.able, None);
        }
    }

    /// Only this, for a while.
    pub(crate) fn reduce(&mut self, limits: Limits) {
        self.limits = limits;
        self.limited = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_left_alone_for_a_while() {
        let mut offload = Offload::new(Limits::OFFLOAD);
        offload.reduce(Limits::SINGLE);
        offload.renew();
        assert_eq!(offload.limits(), Limits::SINGLE);
        offload.limited = Instant::now().checked_sub(DO_WITHOUT * 2);
        let long_ago = offload.limited.is_some();
        offload.renew();
        assert!(!long_ago || offload.limits() == Limits::OFFLOAD);
    }
}
