//! The sink of one thread to all UDP targets.

use super::target::UdpTarget;
use super::target_sender::TargetSender;
use super::transparent::SourceSockets;
use crate::error::Error;
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;

/// Sends to UDP targets, to one after another. It belongs to one thread.
#[derive(Debug)]
pub struct UdpSink {
    targets: Vec<TargetSender>,
    /// The transparent sockets, which all targets have in common.
    source_sockets: Option<SourceSockets>,
}

impl UdpSink {
    /// Opens a sink to all of the targets, for one thread. A target that cannot be reached now may be later, so this
    /// never fails.
    #[must_use]
    pub fn open(targets: &[UdpTarget]) -> Self {
        let transparent = targets.iter().find(|target| target.options().transparent);
        Self {
            targets: targets.iter().map(TargetSender::open).collect(),
            source_sockets: transparent.map(|target| SourceSockets::new(target.options())),
        }
    }

    /// For each target the largest payload that reaches it without IP fragmentation, where that is known.
    pub(super) fn path_payloads(&self) -> impl Iterator<Item = Option<usize>> {
        self.targets.iter().map(TargetSender::path_payload)
    }
}

impl Sink for UdpSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        for target in &mut self.targets {
            target.send(batch, self.source_sockets.as_mut());
        }
        Ok(())
    }
}
