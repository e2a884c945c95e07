//! The monitor of route tables: refreshes them while the program runs.

use std::time::Duration;

use crate::error::Error;
use crate::net::resolve::Resolved;
use crate::net::routes::{REFRESH_INTERVAL, RouteTable, WeakRouteTable};
use crate::relay::stop::Stop;
use crate::relay::thread::spawn;

/// The route tables of a program that can change.
#[derive(Debug, Default)]
pub(crate) struct RouteMonitor {
    /// Of groups, and of whatever else goes through a chosen interface.
    by_interface: Vec<WeakRouteTable>,
    /// Of targets by name.
    by_name: Vec<WeakRouteTable>,
    /// No target may come back to these.
    listeners: Vec<Resolved>,
    interval: Option<Duration>,
}

impl RouteMonitor {
    /// Adds a target, whose name is resolved again in such intervals, or never if that is zero.
    pub(crate) fn target(&mut self, routes: &RouteTable, interval: Duration) {
        self.listener(routes);
        if routes.resolved().endpoint.is_name() {
            self.by_name.push(routes.downgrade());
            self.interval = Some(interval).filter(|interval| !interval.is_zero());
        }
    }

    /// Adds a listener.
    pub(crate) fn listener(&mut self, routes: &RouteTable) {
        if routes.can_change() || routes.resolved().endpoint.is_name() {
            self.by_interface.push(routes.downgrade());
        }
    }

    /// Adds listeners that no target may come back to.
    pub(crate) fn avoid(&mut self, listeners: &[Resolved]) {
        self.listeners.extend_from_slice(listeners);
    }

    /// Refreshes all of them from now on, as long as somebody uses them. Names have a thread of their own: a name server
    /// may take its time, which must not hold up the interfaces.
    pub(crate) fn start(self, stop: &Stop) -> Result<(), Error> {
        let Self { by_interface, by_name, listeners, interval } = self;
        if !by_interface.is_empty() {
            let stop = stop.clone();
            let run = move || each(&by_interface, REFRESH_INTERVAL, &stop, &mut RouteTable::refresh);
            spawn("interfaces".to_owned(), Box::new(run))?;
        }
        if !by_name.is_empty() {
            let stop = stop.clone();
            let mut resolve = move |routes: &RouteTable| routes.resolve_if_due(interval, &listeners);
            let run = move || each(&by_name, REFRESH_INTERVAL / 3, &stop, &mut resolve);
            spawn("names".to_owned(), Box::new(run))?;
        }
        Ok(())
    }
}

/// Refreshes each table once a period, until nobody uses any.
fn each(tables: &[WeakRouteTable], period: Duration, stop: &Stop, refresh: &mut dyn FnMut(&RouteTable)) {
    while !stop.requested() {
        stop.sleep(period);
        let mut used = false;
        for routes in tables {
            if let Some(routes) = routes.upgrade() {
                used = true;
                refresh(&routes);
            }
        }
        if !used {
            return;
        }
    }
}
