//! The sink of one thread to all UDP targets.

use super::target::UdpTarget;
use super::target_sender::TargetSender;
use crate::error::Error;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stop::Stop;

/// Sends to UDP targets, to one after another. It belongs to one thread.
#[derive(Debug)]
pub struct UdpSink {
    targets: Vec<TargetSender>,
}

impl UdpSink {
    /// Opens a sink to all of the targets, for one thread. A target that cannot be reached now may be later, so this
    /// never fails. It never waits: what the send buffer of a target has no room for is dropped for that target alone,
    /// and counted as [`missed`](crate::EndpointStats::missed).
    #[must_use]
    pub fn open(targets: &[UdpTarget]) -> Self {
        Self::open_with(targets, None)
    }

    /// The same for a source that can wait, as a file can: each send waits until the slowest target has room, one that
    /// has taken nothing for a second excepted, until it takes something again. A stop request ends that wait.
    #[must_use]
    pub fn waiting(targets: &[UdpTarget], stop: &Stop) -> Self {
        Self::open_with(targets, Some(stop))
    }

    fn open_with(targets: &[UdpTarget], stop: Option<&Stop>) -> Self {
        let open = |target| TargetSender::open(target, stop, targets.len());
        Self { targets: targets.iter().map(open).collect() }
    }

    /// For each target the largest payload that reaches it without IP fragmentation, where that is known.
    pub(super) fn path_payloads(&self) -> impl Iterator<Item = Option<usize>> {
        self.targets.iter().map(TargetSender::path_payload)
    }
}

impl Sink for UdpSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        for target in &mut self.targets {
            target.send(batch);
        }
        Ok(())
    }
}
