//! Network interfaces: looking them up, and choosing those that a group goes through.

mod rule;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{fmt, io};

use getifaddrs::{Address, InterfaceFlags};

use crate::Error;

/// What stands for every interface.
const ALL: &str = "all";

/// A network interface, as far as multicast needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The system's name, such as `eth0`.
    pub name: String,
    /// The system's index, which is also the IPv6 zone; never 0.
    pub index: u32,
    /// The IPv4 address by which multicast chooses the interface.
    pub ipv4: Option<Ipv4Addr>,
    /// All of its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is called by the system's tools: `Ethernet`, where the system's name is `ethernet_32768`.
    #[cfg(windows)]
    alias: String,
    /// Where all hosts of its subnets hear.
    broadcasts: Vec<IpAddr>,
    flags: InterfaceFlags,
}

impl Interface {
    /// The interface that `text` names: by name, by index, or by one of its addresses.
    ///
    /// # Errors
    /// Wrong use if there is none; an I/O error if the interfaces cannot be listed.
    pub fn find(text: &str) -> Result<Self, Error> {
        find_in(&list_all()?, text).ok_or_else(|| unknown(text))
    }

    /// The name that its user knows.
    fn shown_name(&self) -> &str {
        #[cfg(windows)]
        return &self.alias;
        #[cfg(not(windows))]
        &self.name
    }

    /// Whether it is up with a link.
    fn is_up(&self) -> bool {
        let linked = self.flags.contains(InterfaceFlags::RUNNING) || rule::has_carrier(&self.name);
        self.flags.contains(InterfaceFlags::UP) && linked
    }

    /// Whether it is up with an address of that family.
    fn is_usable(&self, address: IpAddr) -> bool {
        self.own(address).is_some() && self.is_up()
    }

    /// Its first address of that family. Joining an IPv6 group works without one; sending does not.
    pub(crate) fn own(&self, family: IpAddr) -> Option<IpAddr> {
        match family {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.addresses.iter().copied().find(IpAddr::is_ipv6),
        }
    }

    /// Whether it is made for groups like this (for broadcast, if it is that), and is no part of another.
    fn carries(&self, address: IpAddr) -> bool {
        let needed =
            if address.is_multicast() { InterfaceFlags::MULTICAST } else { InterfaceFlags::BROADCAST };
        // IPv6 multicast does not work on loopback, IPv4 does without the flag.
        (self.flags.contains(needed) || self.is_loopback() && address.is_ipv4() && address.is_multicast())
            && !rule::is_part(&self.name)
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.flags.contains(InterfaceFlags::LOOPBACK)
    }

    /// The IPv4 address to send with.
    ///
    /// # Errors
    /// If the interface has none.
    pub(crate) fn require_ipv4(&self) -> io::Result<Ipv4Addr> {
        self.ipv4.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown_name())
    }
}

/// Which interfaces groups are to go through: those that were named, all, or one that the rule picks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice(Vec<String>);

/// What a choice comes to at the moment.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// The interfaces that can be used, each once.
    pub(crate) usable: Vec<Interface>,
    /// The names of the others.
    pub(crate) dead: Vec<String>,
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

    /// Checks that one of those that were named is there: the others may still come.
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

    /// The interfaces for a group, for broadcast, or for a link-local address. One that the rule picked
    /// `before` stays as long as it can be used, unless it is loopback; and what had another one does not turn
    /// to loopback, where it would meet what was meant to stay apart.
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
            let picked = all.iter().find(is_kept).or_else(|| rule::pick(&all, ip));
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
                // Of all, those without an address of the family were not meant.
                Some(found) if self.is_all() && found.is_up() => {}
                _ => chosen.dead.push(name),
            }
        }
        Ok(chosen)
    }

    /// The interfaces that were named; of all, or if none was, those that are made for it, loopback if there is
    /// no other.
    fn names(&self, all: &[Interface], ip: IpAddr) -> Vec<String> {
        if self.is_named() {
            return self.0.clone();
        }
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        for found in all {
            if found.carries(ip) {
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
    pub(crate) fn may_be(&self, group: SocketAddr) -> Vec<u32> {
        let Ok(all) = list() else { return Vec::new() };
        // Loopback, too, if that is picked as long as no other can be used.
        let picked = rule::pick(&all, group.ip()).filter(|_| self.0.is_empty()).map(|picked| picked.index);
        let names = self.names(&all, group.ip());
        names.iter().filter_map(|name| find_in(&all, name)).map(|found| found.index).chain(picked).collect()
    }
}

fn unknown(text: &str) -> Error {
    Error::usage(format!("no network interface has the name, index or address '{text}'"))
}

/// Whether it is an address of this host.
#[cfg(target_os = "linux")]
pub(crate) fn is_own(mut address: SocketAddr) -> bool {
    address.set_port(0);
    // Quick, and right for all others; where the system lets everything be bound the list tells.
    std::net::UdpSocket::bind(address).is_ok()
        && (address.ip().is_loopback()
            || list().is_ok_and(|all| all.iter().any(|i| i.addresses.contains(&address.ip()))))
}

/// Whether a listener on all addresses of this host hears what is sent to this one: one of its own, or
/// a broadcast address.
pub(crate) fn is_heard(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return true;
    }
    list().is_ok_and(|all| all.iter().any(|i| i.addresses.contains(&ip) || i.broadcasts.contains(&ip)))
}

fn find_in(all: &[Interface], text: &str) -> Option<Interface> {
    let address = text.parse::<IpAddr>().ok();
    let index = text.parse::<u32>().ok();
    let mut found = all
        .iter()
        .find(|interface| match address {
            Some(ip) => interface.addresses.contains(&ip),
            None => {
                [&interface.name, interface.shown_name()].contains(&text) || Some(interface.index) == index
            }
        })?
        .clone();
    if let Some(IpAddr::V4(ip)) = address {
        found.ipv4 = Some(ip);
    }
    Some(found)
}

fn list_all() -> Result<Vec<Interface>, Error> {
    list().map_err(|error| Error::io("list", "the network interfaces", error))
}

/// All interfaces, each once.
fn list() -> io::Result<Vec<Interface>> {
    let rows = getifaddrs::getifaddrs()?;
    let mut all: Vec<Interface> = Vec::new();
    for row in rows {
        let Some(index) = row.index else { continue };
        let position = all.iter().position(|i| i.index == index).unwrap_or_else(|| {
            let name = row.name.clone();
            let (addresses, broadcasts) = (Vec::new(), Vec::new());
            all.push(Interface {
                name,
                index,
                ipv4: None,
                addresses,
                #[cfg(windows)]
                alias: row.description.clone(),
                broadcasts,
                flags: row.flags,
            });
            all.len() - 1
        });
        let interface = &mut all[position];
        match row.address {
            Address::V4(network) => {
                interface.ipv4.get_or_insert(network.address);
                interface.addresses.push(IpAddr::V4(network.address));
                // Of the subnet: what the interface is told to be its broadcast address may lack.
                if let Some(mask) = network.netmask {
                    interface.broadcasts.push(IpAddr::V4(network.address | !mask));
                }
            }
            Address::V6(network) => {
                let address = network.address;
                let address = if cfg!(target_os = "linux") { address } else { without_zone(address) };
                interface.addresses.push(IpAddr::V6(address));
            }
            Address::Mac(_) => {}
        }
    }
    Ok(all)
}

/// The address as it goes over the wire: BSD, and so macOS, may keep the zone of a link-local one in bytes that
/// are zero elsewhere (RFC 4291, 2.5.6).
fn without_zone(address: Ipv6Addr) -> Ipv6Addr {
    let mut segments = address.segments();
    if address.is_unicast_link_local() {
        segments[1] = 0;
    }
    segments.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_has_no_zone_in_it() {
        let without_zone = |text: &str| without_zone(text.parse().unwrap()).to_string();
        assert_eq!(without_zone("fe80:4::1:2"), "fe80::1:2");
        assert_eq!(without_zone("fd00:4::1:2"), "fd00:4::1:2");
    }

    #[test]
    fn loopback_is_found_by_address_name_and_index() {
        let by_address = Interface::find("127.0.0.1").unwrap();
        assert_eq!(by_address.ipv4, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(Interface::find(&by_address.name).unwrap(), by_address);
        assert_eq!(Interface::find(&by_address.index.to_string()).unwrap(), by_address);
        assert!(Interface::find("no-such-interface").unwrap_err().is_usage());
    }

    #[test]
    fn those_that_are_named_are_chosen_once_and_the_missing_told() {
        let group = "239.1.2.3:9".parse().unwrap();
        let mut choice = Choice::of("127.0.0.1");
        choice.add("1");
        choice.add("no-such-interface");
        choice.check().unwrap();
        let chosen = choice.choose(group, None).unwrap();
        assert_eq!(chosen.usable.len(), 1);
        assert_eq!(chosen.dead, ["no-such-interface"]);
        assert!(Choice::of("no-such-interface").check().unwrap_err().is_usage());
    }
}
