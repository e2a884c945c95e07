//! UDP targets, as all threads know them, and the sink of one thread to all of them.

use std::sync::Arc;

use super::target_sender::TargetSender;
use super::transparent::SourceSockets;
use crate::error::Error;
use crate::log;
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{NO_INTERFACE, RouteTable};
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};

/// A UDP target as all threads of a program know it; each [opens](UdpSink::open) a sink of its own.
#[derive(Debug, Clone)]
pub struct UdpTarget {
    routes: RouteTable,
    multicast_loop_once: bool,
    options: Options,
    meter: Meter,
}

impl UdpTarget {
    /// Takes the target; nothing is opened yet.
    #[must_use]
    pub fn new(resolved: &Resolved, options: &Options, meter: Meter) -> Self {
        let routes = RouteTable::new(resolved);
        if routes.lack_an_interface() {
            log::warn(format_args!("cannot send to {resolved}: {NO_INTERFACE}; going on when there is one"));
        }
        Self { routes, multicast_loop_once: false, options: options.clone(), meter }
    }

    /// Turns `IP_MULTICAST_LOOP` on for one interface of a group alone: this host hears each datagram once,
    /// though it may listen on several interfaces.
    #[must_use]
    pub fn multicast_loop_once(mut self) -> Self {
        self.multicast_loop_once = true;
        self
    }

    /// The routes to the target, which change.
    #[doc(hidden)]
    #[must_use]
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn has_multicast_loop_once(&self) -> bool {
        self.multicast_loop_once
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        self.meter.counters()
    }
}

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
        let transparent = targets.iter().find(|target| target.options.transparent);
        Self {
            targets: targets.iter().map(TargetSender::open).collect(),
            source_sockets: transparent.map(|target| SourceSockets::new(&target.options)),
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
