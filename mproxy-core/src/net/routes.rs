//! The ways to an endpoint as they are at the moment: addresses change with their names, interfaces come and
//! go. Somebody looks for that in the background; who uses the endpoint takes over what has changed when it
//! suits, and never waits for it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::net::endpoint::has_interface;
use crate::net::endpoint::{Resolved, refuse_loops};
use crate::net::health::Health;
use crate::net::interface::Interface;
use crate::net::select::Chosen;
use crate::relay::stop::Stop;
use crate::relay::thread::spawn;

/// How often interfaces are looked at, and looked for by those who wait at a group.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_millis(1500);

/// What is wrong where no interface can be picked.
pub(crate) const NO_INTERFACE: &str = "no network interface is up with an address of its IP version";

/// How soon a name that does not resolve is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// One way: the addresses of a host in order of preference, or a group through one interface.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) interface: Option<Interface>,
    /// Touched by senders when something fails or has failed, never while all is well.
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

    fn is(&self, other: &Self) -> bool {
        let at = |route: &Self| {
            let (interface, address) = (route.interface.as_ref()?, route.addresses.first()?);
            Some((interface.index, interface.own(address.ip())))
        };
        self.addresses == other.addresses && at(self) == at(other)
    }
}

/// The ways to an endpoint. Clones are the same.
#[derive(Debug, Clone)]
pub struct RouteTable(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    resolved: Resolved,
    /// Changes with the routes.
    version: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Vec<SocketAddr>,
    routes: Vec<Arc<Route>>,
    /// The first interface, when there was one last.
    last: Option<Interface>,
    /// Interfaces that are left out.
    dead: Vec<String>,
    /// The name did not resolve when it was tried last, ...
    unresolved: bool,
    /// ... which was then.
    tried: Option<Instant>,
}

impl RouteTable {
    /// Looks for the ways to the endpoint.
    pub(crate) fn new(resolved: &Resolved) -> Self {
        let addresses = resolved.addresses.clone();
        let tried = Some(Instant::now());
        let state = State { unresolved: addresses.is_empty(), addresses, tried, ..State::default() };
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

    /// Whether no interface was named, and none can be picked.
    pub(crate) fn lack_an_interface(&self) -> bool {
        let state = self.0.lock();
        !state.addresses.is_empty() && state.routes.is_empty() && state.dead.is_empty()
    }

    /// Whether the interfaces can change. The loopback interface alone always stays.
    pub(crate) fn can_change(&self) -> bool {
        let state = self.0.lock();
        let of_loopback = |route: &Arc<Route>| route.interface.as_ref().is_some_and(Interface::is_loopback);
        state.addresses.first().is_some_and(|address| has_interface(address.ip()))
            && !(self.0.resolved.choice.is_one() && state.routes.iter().any(of_loopback))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the interfaces.
    fn refresh(&self) {
        let state = &mut *self.lock();
        let (resolved, name) = (&self.resolved, self.resolved.to_string());
        let mut chosen = Chosen::default();
        let (mut routes, mut usable) = (Vec::new(), Vec::new());
        match state.addresses.first() {
            Some(first) if has_interface(first.ip()) => {
                // If the interfaces cannot be listed now, they can be later.
                let Ok(found) = resolved.choice.choose(*first, state.last.as_ref()) else { return };
                chosen = found;
                let several = chosen.usable.len() + chosen.dead.len() > 1;
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
        // What has gone for good, if it was not named.
        let used = state.routes.iter().filter_map(|route| route.interface.as_ref());
        let used = used.filter(|interface| !interface.is_loopback()).map(|interface| &interface.name);
        let mut dead = chosen.dead;
        for before in used.chain(&state.dead) {
            if !resolved.choice.is_named() && !dead.contains(before) && !usable.contains(before) {
                dead.push(before.clone());
            }
        }
        for dead in dead.iter().filter(|dead| !state.dead.contains(dead)) {
            log::warn(format_args!("{name}: interface {dead} cannot be used; going on without it"));
        }
        for alive in state.dead.iter().filter(|before| !dead.contains(before)) {
            log::warn(format_args!("{name}: interface {alive} can be used again"));
        }
        state.dead = dead;
        if let Some(interface) = routes.first().and_then(|route| route.interface.clone()) {
            state.last = Some(interface);
        }
        let unchanged = routes.len() == state.routes.len()
            && routes.iter().zip(&state.routes).all(|(new, old)| new.is(old));
        if unchanged {
            return;
        }
        let known = |route: Route| {
            state.routes.iter().find(|old| old.is(&route)).cloned().unwrap_or_else(|| Arc::new(route))
        };
        state.routes = routes.into_iter().map(known).collect();
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether to resolve the name now.
    fn is_due(&self, interval: Option<Duration>) -> bool {
        let state = self.lock();
        let retry = state.unresolved.then_some(RETRY);
        let after = interval.into_iter().chain(retry).min();
        after.zip(state.tried).is_some_and(|(after, tried)| tried.elapsed() >= after)
    }

    /// Resolves the name again. A target that would come back to one of the listeners is none.
    fn resolve(&self, listeners: &[Resolved]) {
        let found = self.resolved.endpoint.look_up().map_err(|e| Error::io("resolve", &self.resolved, e));
        let found = found.and_then(|addresses| {
            let resolved = Resolved { addresses, ..self.resolved.clone() };
            refuse_loops(listeners, std::slice::from_ref(&resolved)).map(|()| resolved.addresses)
        });
        let mut state = self.lock();
        state.tried = Some(Instant::now());
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

/// Those endpoints of a program whose routes can change.
#[derive(Debug, Default)]
pub(crate) struct RouteMonitor {
    /// Groups, and what else is bound to an interface.
    placed: Vec<Weak<Shared>>,
    /// Targets by name.
    named: Vec<Weak<Shared>>,
    /// What no target may come back to.
    listeners: Vec<Resolved>,
    interval: Option<Duration>,
}

impl RouteMonitor {
    /// Adds a target, whose name is resolved again in such intervals, or never if that is zero.
    pub(crate) fn target(&mut self, routes: &RouteTable, interval: Duration) {
        self.listener(routes);
        if routes.resolved().endpoint.is_name() {
            self.named.push(Arc::downgrade(&routes.0));
            self.interval = Some(interval).filter(|interval| !interval.is_zero());
        }
    }

    /// Adds a listener.
    pub(crate) fn listener(&mut self, routes: &RouteTable) {
        if routes.can_change() || routes.resolved().endpoint.is_name() {
            self.placed.push(Arc::downgrade(&routes.0));
        }
    }

    /// Adds what targets may not come back to.
    pub(crate) fn avoid(&mut self, listeners: &[Resolved]) {
        self.listeners.extend_from_slice(listeners);
    }

    /// Looks at all of them from now on, as long as somebody uses them: a name server may take its time, which
    /// must not hold up the look at the interfaces.
    pub(crate) fn start(self, stop: &Stop) -> Result<(), Error> {
        let Self { placed, named, listeners, interval } = self;
        if !placed.is_empty() {
            let stop = stop.clone();
            let refresh = move || each(&placed, REFRESH_INTERVAL, &stop, &mut |routes| routes.refresh());
            spawn("interfaces".to_owned(), Box::new(refresh))?;
        }
        if !named.is_empty() {
            let stop = stop.clone();
            let mut resolve = move |routes: &Shared| {
                if routes.is_due(interval) {
                    routes.resolve(&listeners);
                }
            };
            let run = move || each(&named, REFRESH_INTERVAL / 3, &stop, &mut resolve);
            spawn("names".to_owned(), Box::new(run))?;
        }
        Ok(())
    }
}

/// Does that with all of them now and then, until they are all gone.
fn each(all: &[Weak<Shared>], period: Duration, stop: &Stop, what: &mut dyn FnMut(&Shared)) {
    while !stop.requested() {
        stop.sleep(period);
        let mut used = false;
        for routes in all {
            if let Some(routes) = routes.upgrade() {
                used = true;
                what(&routes);
            }
        }
        if !used {
            return;
        }
    }
}
