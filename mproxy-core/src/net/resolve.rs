//! Name resolution: the addresses that an endpoint stands for, and loops that they would make.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::{fmt, io};

use crate::error::Error;
use crate::log;
use crate::net::endpoint::{Endpoint, Host};
use crate::net::interface::reaches_wildcard_listener;
use crate::net::options::Options;
use crate::net::select::Choice;

impl Endpoint {
    /// [Resolves](Self::resolve) each.
    ///
    /// # Errors
    /// The first error.
    pub fn resolve_all(endpoints: &[Self], options: &Options) -> Result<Vec<Resolved>, Error> {
        let mut all = Vec::new();
        for endpoint in endpoints {
            all.push(endpoint.resolve(options)?);
        }
        Ok(all)
    }

    /// [Resolves](Self::resolve) each target. If a name has no address now, but another target has, there is a
    /// warning, and an endpoint without addresses, to be resolved again.
    ///
    /// # Errors
    /// The first error, if none can be resolved; wrong use.
    pub fn resolve_targets(endpoints: &[Self], options: &Options) -> Result<Vec<Resolved>, Error> {
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            match endpoint.resolve(options) {
                Err(error) if !error.is_usage() => {
                    all.push(endpoint.resolved(Vec::new(), options));
                    failed.push(error);
                }
                result => all.push(result?),
            }
        }
        if failed.len() == all.len()
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        for error in failed {
            log::warn(format_args!("{error}; going on without it until it works"));
        }
        Ok(all)
    }

    /// Asks the system's resolver, and applies the zone.
    ///
    /// # Errors
    /// If the name has no address, or the zone is unknown.
    pub fn resolve(&self, options: &Options) -> Result<Resolved, Error> {
        let addresses = self.look_up().map_err(|error| Error::io("resolve", &self.text, error))?;
        let mut resolved = self.resolved(addresses, options);
        if let Some(zone) = self.interface()? {
            for address in &mut resolved.addresses {
                if let SocketAddr::V6(v6) = address {
                    v6.set_scope_id(zone.index);
                }
            }
        }
        Ok(resolved)
    }

    fn resolved(&self, addresses: Vec<SocketAddr>, options: &Options) -> Resolved {
        let choice = match &self.zone {
            Some(zone) => Choice::of(zone),
            None => options.interfaces.clone(),
        };
        Resolved { endpoint: self.clone(), addresses, choice }
    }

    /// The addresses that the host has now, each once.
    pub(crate) fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let name = match &self.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => name.as_str(),
        };
        let mut addresses = Vec::new();
        for address in (name, self.port).to_socket_addrs()? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }
}

/// An endpoint with the addresses it stands for.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The endpoint as it was written.
    pub endpoint: Endpoint,
    /// Its addresses in the order of the system's preference. Only a target may have none, for a while.
    pub addresses: Vec<SocketAddr>,
    /// The interfaces that were chosen for multicast.
    pub(crate) choice: Choice,
}

impl Resolved {
    /// Refuses groups, which TCP cannot use, now that names are known.
    ///
    /// # Errors
    /// Wrong use if one of the addresses is a group.
    pub fn require_unicast(&self) -> Result<(), Error> {
        match self.addresses.iter().find(|address| address.ip().is_multicast()) {
            Some(group) => Err(Error::usage(format!(
                "'{self}' is the multicast group {group}, but TCP needs a unicast address"
            ))),
            None => Ok(()),
        }
    }

    /// Whether what is sent to `target` comes back to this UDP listener.
    #[must_use]
    pub fn receives_from(&self, target: &Self) -> bool {
        self.addresses.iter().any(|own| target.addresses.iter().any(|to| self.covers(*own, *to, target)))
    }

    fn covers(&self, own: SocketAddr, to: SocketAddr, target: &Self) -> bool {
        let to = destination(to);
        if own.port() != to.port() || own.is_ipv4() != to.is_ipv4() {
            return false;
        }
        if to.ip().is_multicast() {
            return own.ip() == to.ip() && {
                let joined = self.choice.possible_indices(own);
                target.choice.possible_indices(to).iter().any(|index| joined.contains(index))
            };
        }
        if own.ip().is_unspecified() {
            reaches_wildcard_listener(to.ip())
        } else {
            own.ip() == to.ip() && same_zone(own, to)
        }
    }
}

/// The address as the system takes it for sending: IPv4-mapped IPv6 as IPv4, and the wildcard as loopback.
fn destination(to: SocketAddr) -> SocketAddr {
    let mut to = to;
    to.set_ip(match to.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    });
    to
}

fn same_zone(a: SocketAddr, b: SocketAddr) -> bool {
    let zone = |address| match address {
        SocketAddr::V6(v6) => SocketAddrV6::scope_id(&v6),
        SocketAddr::V4(_) => 0,
    };
    zone(a) == zone(b)
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// Refuses a program whose output would come back to its own input.
///
/// # Errors
/// Wrong use, naming both endpoints.
pub fn refuse_loops(listeners: &[Resolved], targets: &[Resolved]) -> Result<(), Error> {
    for listener in listeners {
        if let Some(target) = targets.iter().find(|target| listener.receives_from(target)) {
            return Err(Error::usage(format!(
                "what is sent to {target} would come back to the listener {listener}: an endless loop"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_seen_through_wildcards_but_not_across_ports() {
        let resolve = |text: &str| text.parse::<Endpoint>().unwrap().resolve(&Options::default()).unwrap();
        let returns = |listener, target| resolve(listener).receives_from(&resolve(target));
        assert!(returns("127.0.0.1:9", "127.0.0.1:9"));
        assert!(returns("0.0.0.0:9", "127.0.0.1:9"));
        assert!(returns("239.1.2.3%127.0.0.1:9", "239.1.2.3%127.0.0.1:9"));
        assert!(returns("127.0.0.1:9", "0.0.0.0:9"));
        assert!(returns("127.0.0.1:9", "[::ffff:127.0.0.1]:9"));
        assert!(returns("[::1]:9", "[::]:9"));
        assert!(returns("0.0.0.0:9", "255.255.255.255:9"));
        assert!(!returns("127.0.0.1:9", "255.255.255.255:9"));
        assert!(!returns("127.0.0.1:9", "127.0.0.1:8"));
        assert!(!returns("0.0.0.0:9", "239.1.2.3%127.0.0.1:9"));
        assert!(!returns("127.0.0.1:9", "127.0.0.2:9"));
        assert!(!returns("0.0.0.0:9", "198.51.100.1:9"));
    }
}
