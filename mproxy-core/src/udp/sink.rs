//! UDP targets, as all threads know them and as each sends to them.

use std::sync::{Arc, Mutex};

use super::route_sender::Way;
use crate::error::Error;
use crate::log;
use crate::net::endpoint::Resolved;
use crate::net::options::Options;
use crate::net::routes::{NO_INTERFACE, Routes};
use crate::relay::batch::Batch;
use crate::relay::flow::Sink;
use crate::relay::stats::{Counters, Meter};
use crate::udp::transparent::Origins;

/// A UDP target as all threads of a program know it; each [opens](open_all) sinks of its own.
#[derive(Debug, Clone)]
pub struct UdpTarget {
    routes: Routes,
    heard_once: bool,
    options: Options,
    meter: Meter,
}

impl UdpTarget {
    /// Takes the target; nothing is opened yet.
    #[must_use]
    pub fn new(resolved: &Resolved, options: &Options, meter: Meter) -> Self {
        let routes = Routes::new(resolved);
        if routes.lack_an_interface() {
            log::warn(format_args!("cannot send to {resolved}: {NO_INTERFACE}; going on when there is one"));
        }
        Self { routes, heard_once: false, options: options.clone(), meter }
    }

    /// Has this host hear what is sent to a group only once, though it may listen on several interfaces.
    #[must_use]
    pub fn heard_once(mut self) -> Self {
        self.heard_once = true;
        self
    }

    /// The ways to it, which change.
    #[must_use]
    pub fn routes(&self) -> &Routes {
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
    let origins = transparent.map(|target| Arc::new(Mutex::new(Origins::new(&target.options))));
    targets.iter().map(|target| UdpSink::open(target, origins.as_ref())).collect()
}

/// Sends to one UDP target; to a group through each of its interfaces.
#[derive(Debug)]
pub struct UdpSink {
    target: UdpTarget,
    version: usize,
    ways: Vec<Way>,
    counters: Arc<Counters>,
    /// Where this thread's sinks have the sockets that send as others do.
    origins: Option<Arc<Mutex<Origins>>>,
}

impl UdpSink {
    fn open(target: &UdpTarget, origins: Option<&Arc<Mutex<Origins>>>) -> Self {
        let counters = target.meter.counters();
        let origins = origins.filter(|_| target.options.transparent).cloned();
        let mut sink = Self { target: target.clone(), version: 0, ways: Vec::new(), counters, origins };
        sink.take_over();
        sink
    }

    /// Goes on with the ways that there are now; those that are still there go on as they are.
    fn take_over(&mut self) {
        let (version, routes) = self.target.routes.current();
        self.version = version;
        let mut before = std::mem::take(&mut self.ways);
        let later = self.target.heard_once && !before.is_empty();
        for route in routes {
            let known = before.iter().position(|way| way.serves(&route));
            let way = if let Some(index) = known {
                let mut way = before.swap_remove(index);
                way.follow(route);
                way
            } else {
                let UdpTarget { routes, options, .. } = &self.target;
                let (counters, origins) = (self.counters.clone(), self.origins.clone());
                let mut way = Way::open(routes.resolved(), options, route, counters, origins);
                // Those who listen may not have joined it there yet.
                if later {
                    way.set_heard(false);
                }
                way
            };
            self.ways.push(way);
        }
        self.be_heard_once();
    }

    /// Through the way that is heard now, as long as it works.
    fn be_heard_once(&mut self) {
        if self.target.heard_once && self.target.options.hears_itself {
            let heard = self.ways.iter().position(Way::is_heard);
            let heard = heard.or_else(|| self.ways.iter().position(Way::works)).unwrap_or(0);
            for (index, way) in self.ways.iter_mut().enumerate() {
                way.set_heard(index == heard);
            }
        }
    }

    /// The largest payload that reaches the target without IP fragmentation, where that is known.
    #[must_use]
    pub fn path_payload(&self) -> Option<usize> {
        self.ways.iter().filter_map(Way::path_payload).min()
    }
}

impl Sink for UdpSink {
    fn send(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.target.routes.have_changed(self.version) {
            self.take_over();
        }
        for way in &mut self.ways {
            way.send(batch);
        }
        if self.ways.len() > 1 && !self.ways.iter().any(Way::is_heard) {
            self.be_heard_once();
        }
        if self.ways.is_empty() {
            self.counters.failed(batch.count());
        }
        Ok(())
    }
}
