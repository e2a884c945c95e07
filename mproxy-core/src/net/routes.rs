//! The route table of an endpoint, as it is at the moment: addresses change with their names, interfaces come and go.
//! A monitor refreshes it in the background; a sink or a source syncs with it when it suits, and never waits for that.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::net::endpoint::needs_interface;
use crate::net::health::Health;
use crate::net::interface::Interface;
use crate::net::resolve::{Resolved, refuse_loops};
use crate::net::select::Chosen;

/// How often route tables are refreshed, and how long a source waits for a group at most before it syncs.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_millis(1500);

/// The error where no interface can be picked.
pub(crate) const NO_INTERFACE: &str = "no network interface is up with an address of its IP version";

/// How soon a name that does not resolve is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A route: the addresses of a host in order of preference, or a group through one interface.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) interface: Option<Interface>,
    /// Shared by the senders of all threads: locked when a send fails or has failed, never while all is well.
    pub(crate) health: Arc<Mutex<Health>>,
}

impl Route {
    /// A group, broadcast or link-local address through an interface.
    fn through(name: String, mut address: SocketAddr, interface: Interface) -> Self {
        let health = Arc::new(Mutex::new(Health::new(name)));
        if let SocketAddr::V6(v6) = &mut address {
            v6.set_scope_id(interface.index);
        }
        Self { addresses: vec![address], interface: Some(interface), health }
    }

    fn is_same(&self, other: &Self) -> bool {
        let at = |route: &Self| {
            let (interface, address) = (route.interface.as_ref()?, route.addresses.first()?);
            Some((interface.index, interface.own(address.ip())))
        };
        self.addresses == other.addresses && at(self) == at(other)
    }
}

/// The routes to an endpoint. Clones are the same table.
#[derive(Debug, Clone)]
pub struct RouteTable(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    resolved: Resolved,
    /// The version of the routes, which grows with each change.
    version: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Vec<SocketAddr>,
    routes: Vec<Arc<Route>>,
    /// The first interface of the last routes that had one.
    last: Option<Interface>,
    /// Interfaces that are left out: down, without a carrier, or gone.
    unusable: Vec<String>,
    /// The last resolution of the name has failed.
    unresolved: bool,
    /// When that was.
    resolved_at: Option<Instant>,
}

impl RouteTable {
    /// Finds the routes to the endpoint.
    pub(crate) fn new(resolved: &Resolved) -> Self {
        let addresses = resolved.addresses.clone();
        let resolved_at = Some(Instant::now());
        let state = State { unresolved: addresses.is_empty(), addresses, resolved_at, ..State::default() };
        let shared =
            Shared { resolved: resolved.clone(), version: AtomicUsize::new(0), state: Mutex::new(state) };
        shared.refresh();
        Self(Arc::new(shared))
    }

    /// The endpoint.
    pub(crate) fn resolved(&self) -> &Resolved {
        &self.0.resolved
    }

    /// Whether the routes have changed since that version.
    pub(crate) fn have_changed(&self, since: usize) -> bool {
        self.0.version.load(Ordering::Relaxed) != since
    }

    /// The routes, and their version.
    pub(crate) fn current(&self) -> (usize, Vec<Arc<Route>>) {
        let state = self.0.lock();
        (self.0.version.load(Ordering::Relaxed), state.routes.clone())
    }

    /// A weak reference to the same table.
    pub(crate) fn downgrade(&self) -> WeakRouteTable {
        WeakRouteTable(Arc::downgrade(&self.0))
    }

    /// Chooses the interfaces again, and makes the routes anew if they have changed.
    pub(crate) fn refresh(&self) {
        self.0.refresh();
    }

    /// Resolves the name again if the interval is over, or soon after it did not resolve. A target that would come back
    /// to one of the listeners is none.
    pub(crate) fn resolve_if_due(&self, interval: Option<Duration>, listeners: &[Resolved]) {
        if self.0.is_due(interval) {
            self.0.resolve(listeners);
        }
    }

    /// Whether no interface was named, and none can be picked.
    pub(crate) fn lack_an_interface(&self) -> bool {
        let state = self.0.lock();
        !state.addresses.is_empty() && state.routes.is_empty() && state.unusable.is_empty()
    }

    /// Whether the interfaces can change. A named loopback interface stays.
    pub(crate) fn can_change(&self) -> bool {
        let state = self.0.lock();
        let of_loopback = |route: &Arc<Route>| route.interface.as_ref().is_some_and(Interface::is_loopback);
        state.addresses.first().is_some_and(|address| needs_interface(address.ip()))
            && !(self.0.resolved.choice.is_one() && state.routes.iter().any(of_loopback))
    }
}

/// A route table as its monitor knows it: as long as somebody uses it.
#[derive(Debug)]
pub(crate) struct WeakRouteTable(Weak<Shared>);

impl WeakRouteTable {
    pub(crate) fn upgrade(&self) -> Option<RouteTable> {
        self.0.upgrade().map(RouteTable)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses the interfaces again, and makes the routes anew.
    fn refresh(&self) {
        let state = &mut *self.lock();
        let (resolved, name) = (&self.resolved, self.resolved.to_string());
        let mut chosen = Chosen::default();
        let (mut routes, mut usable) = (Vec::new(), Vec::new());
        match state.addresses.first() {
            Some(first) if needs_interface(first.ip()) => {
                // If the interfaces cannot be listed now, they can be later.
                let Ok(found) = resolved.choice.choose(*first, state.last.as_ref()) else { return };
                chosen = found;
                let several = chosen.usable.len() + chosen.unusable.len() > 1;
                for interface in std::mem::take(&mut chosen.usable) {
                    usable.push(interface.name.clone());
                    let name = if several { format!("{name} on {interface}") } else { name.clone() };
                    routes.push(Route::through(name, *first, interface));
                }
            }
            Some(_) => {
                let health = state.routes.first().map(|route| route.health.clone());
                let health = health.unwrap_or_else(|| Arc::new(Mutex::new(Health::new(name.clone()))));
                routes.push(Route { addresses: state.addresses.clone(), interface: None, health });
            }
            None => {}
        }
        // Interfaces that have gone for good, if they were not named.
        let used = state.routes.iter().filter_map(|route| route.interface.as_ref());
        let used = used.filter(|interface| !interface.is_loopback()).map(|interface| &interface.name);
        let mut unusable = chosen.unusable;
        for before in used.chain(&state.unusable) {
            if !resolved.choice.is_named() && !unusable.contains(before) && !usable.contains(before) {
                unusable.push(before.clone());
            }
        }
        for lost in unusable.iter().filter(|lost| !state.unusable.contains(lost)) {
            log::warn(format_args!("{name}: interface {lost} cannot be used; going on without it"));
        }
        for back in state.unusable.iter().filter(|before| !unusable.contains(before)) {
            log::warn(format_args!("{name}: interface {back} can be used again"));
        }
        state.unusable = unusable;
        if let Some(interface) = routes.first().and_then(|route| route.interface.clone()) {
            state.last = Some(interface);
        }
        let unchanged = routes.len() == state.routes.len()
            && routes.iter().zip(&state.routes).all(|(new, old)| new.is_same(old));
        if unchanged {
            return;
        }
        let known = |route: Route| {
            state.routes.iter().find(|old| old.is_same(&route)).cloned().unwrap_or_else(|| Arc::new(route))
        };
        state.routes = routes.into_iter().map(known).collect();
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether to resolve the name now.
    fn is_due(&self, interval: Option<Duration>) -> bool {
        let state = self.lock();
        let retry = state.unresolved.then_some(RETRY);
        let after = interval.into_iter().chain(retry).min();
        after.zip(state.resolved_at).is_some_and(|(after, at)| at.elapsed() >= after)
    }

    fn resolve(&self, listeners: &[Resolved]) {
        let found = self.resolved.endpoint.look_up().map_err(|e| Error::io("resolve", &self.resolved, e));
        let found = found.and_then(|addresses| {
            let resolved = Resolved { addresses, ..self.resolved.clone() };
            refuse_loops(listeners, std::slice::from_ref(&resolved)).map(|()| resolved.addresses)
        });
        let mut state = self.lock();
        state.resolved_at = Some(Instant::now());
        match found {
            Ok(addresses) => {
                if std::mem::take(&mut state.unresolved) {
                    log::warn(format_args!("{}: the name resolves now", self.resolved));
                }
                // A name server gives the same ones in turn.
                let same = addresses.len() == state.addresses.len()
                    && addresses.iter().all(|address| state.addresses.contains(address));
                if same {
                    return;
                }
                state.addresses = addresses;
            }
            Err(error) => {
                if !std::mem::replace(&mut state.unresolved, true) {
                    log::warn(format_args!("{error}; going on with what it was"));
                }
                return;
            }
        }
        drop(state);
        self.refresh();
    }
}
