//! The memberships of one source: its group, joined on each interface that a route leads through.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use socket2::SockRef;

use super::socket_set::{BoundSocket, SocketSet};
use crate::net::listen::join_group;
use crate::net::multicast::no_interface;
use crate::net::options::Options;
use crate::net::routes::{REFRESH_INTERVAL, Route, RouteTable};
use crate::relay::stop::POLL_INTERVAL;
use crate::sys::set_receiver_multicast_loop;

#[derive(Debug)]
pub(super) struct Membership {
    routes: RouteTable,
    /// The version of the routes that the group is joined on.
    version: usize,
    options: Options,
    /// This program sends to the group too: this host's addresses are allowed.
    allow_own: bool,
    can_change: bool,
    /// When to join again on the interfaces where that has failed.
    retry_at: Option<Instant>,
}

impl Membership {
    pub(super) fn new(routes: &RouteTable, options: &Options, allow_own: bool) -> Self {
        Self {
            routes: routes.clone(),
            version: 0,
            options: options.clone(),
            allow_own,
            can_change: routes.can_change(),
            retry_at: None,
        }
    }

    pub(super) fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// Whether interfaces can come and go.
    pub(super) fn can_change(&self) -> bool {
        self.can_change
    }

    /// Whether the routes have changed, and the pause after a failed join is over.
    pub(super) fn is_due(&self) -> bool {
        self.routes.have_changed(self.version) && self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Joins the group on interfaces that have come, and leaves it on those that have gone. After an error the
    /// membership is due again in a while.
    pub(super) fn sync(&mut self, sockets: &mut SocketSet) -> io::Result<()> {
        self.retry_at = Some(Instant::now() + REFRESH_INTERVAL);
        let (version, routes) = self.routes.current();
        sockets.retain(|bound| routes.iter().any(|route| is_joined(bound, route)));
        let mut result = Ok(());
        for route in routes {
            result = result.and(self.join(route, sockets));
        }
        result = result.and(self.set_multicast_loop(sockets)).and(sockets.sync_blocking());
        if result.is_ok() {
            (self.version, self.retry_at) = (version, None);
        }
        result
    }

    /// Joins the group on the interface of the route, unless that is done; the interface may have other addresses.
    fn join(&self, route: Arc<Route>, sockets: &mut SocketSet) -> io::Result<()> {
        let mut options = self.options.clone();
        if self.allow_own && !options.allow.is_empty() {
            for address in route.interface.iter().flat_map(|interface| &interface.addresses) {
                options.allow.add(&address.to_string());
            }
        }
        if let Some(bound) = sockets.iter_mut().find(|bound| is_joined(bound, &route)) {
            bound.receiver.allow(options.allow);
            return Ok(());
        }
        let socket = join_group(self.routes.resolved(), &route, &options)?;
        let timeout = POLL_INTERVAL.or(self.can_change.then_some(REFRESH_INTERVAL));
        sockets.add(socket, Some(route), &options, timeout)
    }

    /// Has the first socket alone hear this host, where `IP_MULTICAST_LOOP` is up to the receiver.
    fn set_multicast_loop(&self, sockets: &SocketSet) -> io::Result<()> {
        if !self.allow_own {
            return Ok(());
        }
        let group = self.routes.resolved().addresses.first().copied().ok_or_else(no_interface)?;
        let mut result = Ok(());
        for (index, bound) in sockets.iter().enumerate() {
            result =
                result.and(set_receiver_multicast_loop(&SockRef::from(&*bound.socket), group, index == 0));
        }
        result
    }
}

/// Whether the socket has joined the group on the interface of the route.
fn is_joined(bound: &BoundSocket, route: &Route) -> bool {
    let index = |route: &Route| route.interface.as_ref().map(|interface| interface.index);
    bound.route.as_ref().is_some_and(|joined| index(joined) == index(route))
}
