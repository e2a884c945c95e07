//! The choice of interfaces for a group: the named ones, or else the one that a rule picks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::error::Error;
use crate::net::interface::{Interface, find_in, list, list_all, unknown};
use crate::sys;

/// The name that stands for every interface.
const ALL: &str = "all";

/// The interfaces for groups: named ones, all, or one that the rule picks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice(Vec<String>);

/// The interfaces that a choice stands for at the moment.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// The interfaces that can be used, each once.
    pub(crate) usable: Vec<Interface>,
    /// The names of the others: down, without a carrier or an address, or not there.
    pub(crate) unusable: Vec<String>,
}

impl Choice {
    /// Adds an interface, by name, index or address; or all of them, as `all`.
    pub fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    /// The choice of one interface.
    pub(crate) fn of(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }

    /// Checks that one of the named interfaces is there: the others may still come.
    ///
    /// # Errors
    /// Wrong use if there is none; an I/O error if the interfaces cannot be listed.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_all() {
            return Ok(());
        }
        let Some(first) = self.0.first() else { return Ok(()) };
        let all = list_all()?;
        if self.0.iter().any(|text| find_in(&all, text).is_some()) { Ok(()) } else { Err(unknown(first)) }
    }

    /// The interfaces for a group, for limited broadcast, or for a link-local address. The one that the rule picked
    /// `before` stays as long as it can be used, unless it is loopback; and a group that had another one never moves
    /// to loopback, where it would meet traffic of this host.
    ///
    /// # Errors
    /// If the interfaces cannot be listed.
    pub(crate) fn choose(&self, address: SocketAddr, before: Option<&Interface>) -> io::Result<Chosen> {
        let all = list()?;
        let ip = address.ip();
        let mut chosen = Chosen::default();
        if self.0.is_empty() {
            let outward = before.filter(|before| !before.is_loopback());
            let is_kept = |i: &&Interface| outward.is_some_and(|o| o.index == i.index) && i.is_usable(ip);
            let picked = all.iter().find(is_kept).or_else(|| pick(&all, ip));
            let picked = picked.filter(|picked| outward.is_none() || !picked.is_loopback());
            chosen.usable.extend(picked.cloned());
            return Ok(chosen);
        }
        for name in self.names(&all, ip) {
            match find_in(&all, &name) {
                Some(found) if found.is_usable(ip) => {
                    if !chosen.usable.iter().any(|other| other.index == found.index) {
                        chosen.usable.push(found);
                    }
                }
                // `all` does not mean interfaces without an address of the family.
                Some(found) if self.is_all() && found.is_up() => {}
                _ => chosen.unusable.push(name),
            }
        }
        Ok(chosen)
    }

    /// The interfaces that were named. For `all`, or if none was, all that can carry the address: loopback only if
    /// there is no other.
    fn names(&self, all: &[Interface], ip: IpAddr) -> Vec<String> {
        if self.is_named() {
            return self.0.clone();
        }
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        for found in all {
            if found.can_carry(ip) {
                if found.is_loopback() { &mut inner } else { &mut outer }.push(found.name.clone());
            }
        }
        if outer.is_empty() { inner } else { outer }
    }

    /// Whether interfaces were named, whatever there is.
    pub(crate) fn is_named(&self) -> bool {
        !self.0.is_empty() && !self.is_all()
    }

    fn is_all(&self) -> bool {
        self.0.iter().any(|text| text == ALL)
    }

    /// Whether it is one interface that was named.
    pub(crate) fn is_one(&self) -> bool {
        matches!(&self.0[..], [name] if name != ALL)
    }

    /// The indices of the interfaces that a group may ever go through, up or not.
    pub(crate) fn possible_indices(&self, group: SocketAddr) -> Vec<u32> {
        let Ok(all) = list() else { return Vec::new() };
        // The rule picks loopback, too, as long as no other can be used.
        let picked = pick(&all, group.ip()).filter(|_| self.0.is_empty()).map(|picked| picked.index);
        let names = self.names(&all, group.ip());
        names.iter().filter_map(|name| find_in(&all, name)).map(|found| found.index).chain(picked).collect()
    }
}

/// The rule: the interface of the route to the group, if that is not the default route; else, of the interfaces that
/// are up and can carry multicast (or broadcast), one that is no tunnel and no bridge without hardware, that the
/// default route uses, and that has the lowest index, in this order; for IPv4 at last loopback.
fn pick(all: &[Interface], group: IpAddr) -> Option<&Interface> {
    // The last unicast address before the groups, and one for documentation (RFC 3849): only the default route leads
    // there. Where IPv6 has none, IPv4's decides: on macOS interfaces to its own devices have lower indices.
    let default = || source_to(IpAddr::from([223, 255, 255, 254]));
    let default = match group {
        IpAddr::V4(_) => default(),
        IpAddr::V6(_) => source_to(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])).or_else(default),
    };
    // IPv6 has a route for all groups on every interface, which says nothing.
    let routed = if group.is_ipv4() { source_to(group).filter(|own| Some(*own) != default) } else { None };
    let able = all.iter().filter(|i| i.is_usable(group) && i.can_carry(group));
    able.min_by_key(|i| {
        let is_at = |own: Option<IpAddr>| own.is_some_and(|own| i.addresses.contains(&own));
        let rank = [!is_at(routed), i.is_loopback(), is_virtual(all, i), !is_at(default)];
        (rank, i.index)
    })
}

/// The source address that the route to that address gives; nothing is sent.
fn source_to(ip: IpAddr) -> Option<IpAddr> {
    let wildcard: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((wildcard, 0)).ok()?;
    socket.connect((ip, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether the interface is a tunnel, or a bridge without hardware: what VPNs, containers and virtual machines bring
/// along, even with the default route.
fn is_virtual(all: &[Interface], interface: &Interface) -> bool {
    let name = &interface.name;
    interface.is_point_to_point()
        || sys::has_attribute(name, "tun_flags")
        || sys::has_attribute(name, "bridge") && !leads_to_hardware(all, name, 4)
}

/// Whether there is a device below the interface, or below a lower interface: the port of a bridge, the base of a
/// VLAN.
fn leads_to_hardware(all: &[Interface], name: &str, depth: u8) -> bool {
    sys::has_attribute(name, "device")
        || depth > 0
            && all.iter().any(|below| {
                let below = &below.name;
                sys::has_attribute(name, &format!("lower_{below}"))
                    && leads_to_hardware(all, below, depth - 1)
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_named_are_chosen_once_and_the_missing_told() {
        let group = "239.1.2.3:9".parse().unwrap();
        let mut choice = Choice::of("127.0.0.1");
        choice.add("1");
        choice.add("no-such-interface");
        choice.check().unwrap();
        let chosen = choice.choose(group, None).unwrap();
        assert_eq!(chosen.usable.len(), 1);
        assert_eq!(chosen.unusable, ["no-such-interface"]);
        assert!(Choice::of("no-such-interface").check().unwrap_err().is_usage());
    }
}
