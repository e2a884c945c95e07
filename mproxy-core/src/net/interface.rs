//! Network interfaces, as the system lists them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use getifaddrs::{Address, InterfaceFlags};

use crate::error::Error;
use crate::sys;

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
    /// The name in the system's tools, if it is another one: `Ethernet` for `ethernet_32768`.
    alias: Option<String>,
    /// The broadcast addresses of its subnets.
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

    /// The name that its user knows, for messages.
    fn shown_name(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }

    /// Whether it is up (`IFF_UP`) and has a carrier (`IFF_RUNNING`).
    pub(crate) fn is_up(&self) -> bool {
        let linked = self.flags.contains(InterfaceFlags::RUNNING) || sys::has_carrier(&self.name);
        self.flags.contains(InterfaceFlags::UP) && linked
    }

    /// Whether it is up with an address of that family.
    pub(crate) fn is_usable(&self, address: IpAddr) -> bool {
        self.own(address).is_some() && self.is_up()
    }

    /// Its first address of that family. Joining an IPv6 group works without one; sending does not.
    pub(crate) fn own(&self, family: IpAddr) -> Option<IpAddr> {
        match family {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.addresses.iter().copied().find(IpAddr::is_ipv6),
        }
    }

    /// Whether it can carry multicast (`IFF_MULTICAST`), or broadcast if the address is that, and is no port of a bridge or
    /// bond.
    pub(crate) fn can_carry(&self, address: IpAddr) -> bool {
        let needed =
            if address.is_multicast() { InterfaceFlags::MULTICAST } else { InterfaceFlags::BROADCAST };
        // Loopback carries IPv4 multicast without the flag, and no IPv6 multicast.
        (self.flags.contains(needed) || self.is_loopback() && address.is_ipv4() && address.is_multicast())
            && !is_part(&self.name)
    }

    pub(crate) fn is_point_to_point(&self) -> bool {
        self.flags.contains(InterfaceFlags::POINTTOPOINT)
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

pub(crate) fn unknown(text: &str) -> Error {
    Error::usage(format!("no network interface has the name, index or address '{text}'"))
}

/// Whether this host has the address.
pub(crate) fn is_own(mut address: SocketAddr) -> bool {
    address.set_port(0);
    // A bind is quick, and right where it fails; where the system binds any address (127.0.0.0/8, AnyIP) the list tells.
    std::net::UdpSocket::bind(address).is_ok()
        && (address.ip().is_loopback()
            || list().is_ok_and(|all| all.iter().any(|i| i.addresses.contains(&address.ip()))))
}

/// Whether a wildcard listener on this host hears what is sent to this address: one of its own, or a broadcast
/// address.
pub(crate) fn reaches_wildcard_listener(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return true;
    }
    list().is_ok_and(|all| all.iter().any(|i| i.addresses.contains(&ip) || i.broadcasts.contains(&ip)))
}

pub(crate) fn find_in(all: &[Interface], text: &str) -> Option<Interface> {
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

pub(crate) fn list_all() -> Result<Vec<Interface>, Error> {
    list().map_err(|error| Error::io("list", "the network interfaces", error))
}

/// All interfaces, each once.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
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
                alias: sys::interface_alias(&row),
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
                // Computed from the netmask: the interface may lack its broadcast address.
                if let Some(mask) = network.netmask {
                    interface.broadcasts.push(IpAddr::V4(network.address | !mask));
                }
            }
            Address::V6(network) => {
                let address = network.address;
                let address = if sys::EMBEDS_ZONES { without_embedded_zone(address) } else { address };
                interface.addresses.push(IpAddr::V6(address));
            }
            Address::Mac(_) => {}
        }
    }
    Ok(all)
}

/// The address as it goes over the wire: BSD, and so macOS, may keep the zone of a link-local one in bytes that
/// are zero elsewhere (RFC 4291, 2.5.6).
fn without_embedded_zone(address: Ipv6Addr) -> Ipv6Addr {
    let mut segments = address.segments();
    if address.is_unicast_link_local() {
        segments[1] = 0;
    }
    segments.into()
}

/// Whether the interface is a port of a bridge or of a bond, which groups go through then.
fn is_part(name: &str) -> bool {
    sys::has_attribute(name, "brport") || sys::has_attribute(name, "bonding_slave")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_has_no_zone_in_it() {
        let without_embedded_zone = |text: &str| without_embedded_zone(text.parse().unwrap()).to_string();
        assert_eq!(without_embedded_zone("fe80:4::1:2"), "fe80::1:2");
        assert_eq!(without_embedded_zone("fd00:4::1:2"), "fd00:4::1:2");
    }

    #[test]
    fn loopback_is_found_by_address_name_and_index() {
        let by_address = Interface::find("127.0.0.1").unwrap();
        assert_eq!(by_address.ipv4, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(Interface::find(&by_address.name).unwrap(), by_address);
        assert_eq!(Interface::find(&by_address.index.to_string()).unwrap(), by_address);
        assert!(Interface::find("no-such-interface").unwrap_err().is_usage());
    }
}
