//! UDP targets, as all threads of a program know them.

use std::net::UdpSocket;
use std::sync::Arc;

use crate::log;
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::net::routes::{NO_INTERFACE, RouteTable};
use crate::relay::stats::{Counters, Meter};

/// A UDP target as all threads of a program know it; each [opens](crate::udp::sink::UdpSink::open) a sink of its own.
#[derive(Debug, Clone)]
pub struct UdpTarget {
    routes: RouteTable,
    multicast_loop_once: bool,
    options: Options,
    meter: Meter,
    pair: Option<SendingEnd>,
}

/// The sending end of a [pair](crate::udp::pair::UdpPair), which all threads share.
#[derive(Debug, Clone)]
pub(super) struct SendingEnd {
    pub(super) socket: Arc<UdpSocket>,
    /// Open as long as the other one: nobody else can have its port, and get what is still sent there.
    pub(super) _receiver: Arc<UdpSocket>,
}

impl UdpTarget {
    /// Takes the target; nothing is opened yet.
    #[must_use]
    pub fn new(resolved: &Resolved, options: &Options, meter: Meter) -> Self {
        let routes = RouteTable::new(resolved);
        if routes.lack_an_interface() {
            log::warn(format_args!("cannot send to {resolved}: {NO_INTERFACE}; going on when there is one"));
        }
        Self { routes, multicast_loop_once: false, options: options.clone(), meter, pair: None }
    }

    /// Turns `IP_MULTICAST_LOOP` on for one interface of a group alone: this host hears each datagram once,
    /// though it may listen on several interfaces.
    #[must_use]
    pub fn multicast_loop_once(mut self) -> Self {
        self.multicast_loop_once = true;
        self
    }

    /// Sends through the pair, whatever happens.
    pub(super) fn through(mut self, pair: SendingEnd) -> Self {
        self.pair = Some(pair);
        self
    }

    /// The socket of a pair.
    pub(super) fn pair(&self) -> Option<&Arc<UdpSocket>> {
        self.pair.as_ref().map(|pair| &pair.socket)
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
