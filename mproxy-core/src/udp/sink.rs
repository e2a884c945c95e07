//! UDP targets, as all threads know them and as each sends to them.

use std::sync::{Arc, Mutex};

use super::route_sender::RouteSender;
use crate::error::Error;
use crate::log;
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{NO_INTERFACE, RouteTable};
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::udp::transparent::SourceSockets;

/// A UDP target as all threads of a program know it; each [opens](open_all) sinks of its own.
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

    /// Has this host hear what is sent to a group only once, though it may listen on several interfaces.
    #[must_use]
    pub fn multicast_loop_once(mut self) -> Self {
        self.multicast_loop_once = true;
        self
    }

    /// The ways to it, which change.
    #[must_use]
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }
}

/// Opens a sink to each of the targets, for one thread. A target that cannot be reached now may be later, so
/// this never fails.
#[must_use]
pub fn open_all(targets: &[UdpTarget]) -> Vec<UdpSink> {
    let transparent = targets.iter().find(|target| target.options.transparent);
    let source_sockets = transparent.map(|target| Arc::new(Mutex::new(SourceSockets::new(&target.options))));
    targets.iter().map(|target| UdpSink::open(target, source_sockets.as_ref())).collect()
}

/// Sends to one UDP target; to a group through each of its interfaces.
#[derive(Debug)]
pub struct UdpSink {
    target: UdpTarget,
    version: usize,
    ways: Vec<RouteSender>,
    counters: Arc<Counters>,
    /// Where this thread's sinks have the sockets that send as others do.
    source_sockets: Option<Arc<Mutex<SourceSockets>>>,
}

impl UdpSink {
    fn open(target: &UdpTarget, source_sockets: Option<&Arc<Mutex<SourceSockets>>>) -> Self {
        let counters = target.meter.counters();
        let source_sockets = source_sockets.filter(|_| target.options.transparent).cloned();
        let mut sink =
            Self { target: target.clone(), version: 0, ways: Vec::new(), counters, source_sockets };
        sink.sync_routes();
        sink
    }

    /// Goes on with the ways that there are now; those that are still there go on as they are.
    fn sync_routes(&mut self) {
        let (version, routes) = self.target.routes.current();
        self.version = version;
        let mut before = std::mem::take(&mut self.ways);
        let later = self.target.multicast_loop_once && !before.is_empty();
        for route in routes {
            let known = before.iter().position(|way| way.serves(&route));
            let way = if let Some(index) = known {
                let mut way = before.swap_remove(index);
                way.follow(route);
                way
            } else {
                let UdpTarget { routes, options, .. } = &self.target;
                let (counters, source_sockets) = (self.counters.clone(), self.source_sockets.clone());
                let mut way = RouteSender::open(routes.resolved(), options, route, counters, source_sockets);
                // Those who listen may not have joined it there yet.
                if later {
                    way.set_multicast_loop(false);
                }
                way
            };
            self.ways.push(way);
        }
        self.sync_multicast_loop();
    }

    /// Through the way that is heard now, as long as it works.
    fn sync_multicast_loop(&mut self) {
        if self.target.multicast_loop_once && self.target.options.multicast_loop {
            let heard = self.ways.iter().position(RouteSender::has_multicast_loop);
            let heard = heard.or_else(|| self.ways.iter().position(RouteSender::works)).unwrap_or(0);
            for (index, way) in self.ways.iter_mut().enumerate() {
                way.set_multicast_loop(index == heard);
            }
        }
    }

    /// The largest payload that reaches the target without IP fragmentation, where that is known.
    #[must_use]
    pub fn path_payload(&self) -> Option<usize> {
        self.ways.iter().filter_map(RouteSender::path_payload).min()
    }
}

impl Sink for UdpSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.target.routes.have_changed(self.version) {
            self.sync_routes();
        }
        for way in &mut self.ways {
            way.send(batch);
        }
        if self.ways.len() > 1 && !self.ways.iter().any(RouteSender::has_multicast_loop) {
            self.sync_multicast_loop();
        }
        if self.ways.is_empty() {
            self.counters.failed(batch.count());
        }
        Ok(())
    }
}
