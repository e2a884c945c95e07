//! Sends to one UDP target: along each of its routes, of which a group has one for each interface.

use std::sync::Arc;

use super::route_sender::RouteSender;
use super::target::UdpTarget;
use super::transparent::SourceSockets;
use crate::relay::batch::Batch;
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;

#[derive(Debug)]
pub(super) struct TargetSender {
    target: UdpTarget,
    /// The version of the routes that these senders are for.
    version: usize,
    senders: Vec<RouteSender>,
    counters: Arc<Counters>,
    /// With it, sends wait for room, until a stop is requested.
    stop: Option<Stop>,
    /// How many targets the thread sends to.
    targets: usize,
}

impl TargetSender {
    pub(super) fn open(target: &UdpTarget, stop: Option<&Stop>, targets: usize) -> Self {
        let (counters, stop) = (target.counters(), stop.cloned());
        let mut sender =
            Self { target: target.clone(), version: 0, senders: Vec::new(), counters, stop, targets };
        sender.sync_routes();
        sender
    }

    /// Sends the batch along each route.
    pub(super) fn send(&mut self, batch: &Batch) {
        if self.target.routes().have_changed(self.version) {
            self.sync_routes();
        }
        for sender in &mut self.senders {
            sender.send(batch);
        }
        if self.senders.len() > 1 && !self.senders.iter().any(RouteSender::has_multicast_loop) {
            self.sync_multicast_loop();
        }
        if self.senders.is_empty() {
            self.counters.failed(batch.count());
        }
    }

    /// The largest payload that the path MTU of each route has room for, where one is known.
    pub(super) fn path_payload(&self) -> Option<usize> {
        self.senders.iter().filter_map(RouteSender::path_payload).min()
    }

    /// Opens a sender for each new route, keeps those of routes that stay, and drops the others.
    fn sync_routes(&mut self) {
        let (version, routes) = self.target.routes().current();
        self.version = version;
        let (options, caches) = (self.target.options(), self.targets * routes.len());
        let mut known = std::mem::take(&mut self.senders);
        let added_later = self.target.has_multicast_loop_once() && !known.is_empty();
        for route in routes {
            let index = known.iter().position(|sender| sender.is_for(&route));
            let sender = if let Some(index) = index {
                let mut sender = known.swap_remove(index);
                sender.set_route(route);
                sender
            } else {
                let sockets = options.transparent.then(|| SourceSockets::new(options, caches));
                let mut sender = RouteSender::open(
                    &self.target,
                    route,
                    self.counters.clone(),
                    self.stop.as_ref(),
                    sockets,
                );
                // The listeners may not have joined the group there yet.
                if added_later {
                    sender.set_multicast_loop(false);
                }
                sender
            };
            self.senders.push(sender);
        }
        self.sync_multicast_loop();
    }

    /// Leaves `IP_MULTICAST_LOOP` on at one route: where it is on, as long as that one is usable.
    fn sync_multicast_loop(&mut self) {
        if self.target.has_multicast_loop_once() && self.target.options().multicast_loop {
            let on = self.senders.iter().position(RouteSender::has_multicast_loop);
            let on = on.or_else(|| self.senders.iter().position(RouteSender::is_usable)).unwrap_or(0);
            for (index, sender) in self.senders.iter_mut().enumerate() {
                sender.set_multicast_loop(index == on);
            }
        }
    }
}
