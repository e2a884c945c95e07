//! The limits of segmentation offload (GSO, USO): smaller for a while where it has failed.

use std::time::{Duration, Instant};

use super::gather::Limits;

/// How long the limits stay reduced: the path may have changed for a while only.
const REDUCED: Duration = Duration::from_secs(10);

/// The offload of a sender.
#[derive(Debug)]
pub(crate) struct Offload {
    limits: Limits,
    /// The limits of the system.
    system: Limits,
    /// When the limits became smaller than the system's.
    reduced: Option<Instant>,
}

impl Offload {
    /// With the limits of the system.
    pub(crate) fn new(system: Limits) -> Self {
        Self { limits: system, system, reduced: None }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes the system's limits again after a while.
    pub(crate) fn renew(&mut self) {
        if self.reduced.is_some_and(|since| since.elapsed() > REDUCED) {
            (self.limits, self.reduced) = (self.system, None);
        }
    }

    /// Takes smaller limits for a while.
    pub(crate) fn reduce(&mut self, limits: Limits) {
        self.limits = limits;
        self.reduced = Some(Instant::now());
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
        offload.reduced = Instant::now().checked_sub(REDUCED * 2);
        let long_ago = offload.reduced.is_some();
        offload.renew();
        assert!(!long_ago || offload.limits() == Limits::OFFLOAD);
    }
}
