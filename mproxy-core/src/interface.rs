//! Network interfaces: looking them up, and choosing one for a multicast group.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::{fmt, io};

use getifaddrs::{Address, InterfaceFlags};

use crate::Error;

/// A network interface, as far as multicast needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The system's name, such as `eth0`.
    pub name: String,
    /// The system's index, which is also the IPv6 zone; never 0.
    pub index: u32,
    /// The IPv4 address by which multicast chooses the interface.
    pub ipv4: Option<Ipv4Addr>,
    /// Whether it has an IPv6 address. Joining an IPv6 group works without one; sending does not.
    pub ipv6: bool,
    flags: InterfaceFlags,
}

impl Interface {
    /// The interface that `text` names: by name, by index, or by one of its addresses.
    ///
    /// # Errors
    /// Wrong use if there is none; an I/O error if the interfaces cannot be listed.
    pub fn find(text: &str) -> Result<Self, Error> {
        let address = text.parse::<IpAddr>().ok();
        let index = text.parse::<u32>().ok();
        let all = list().map_err(|error| Error::io("list", "the network interfaces", error))?;
        for mut interface in all {
            let chosen = match address {
                Some(ip) => interface.addresses.contains(&ip),
                None => interface.found.name == text || Some(interface.found.index) == index,
            };
            if chosen {
                if let Some(IpAddr::V4(ip)) = address {
                    interface.found.ipv4 = Some(ip);
                }
                return Ok(interface.found);
            }
        }
        Err(Error::usage(format!("no network interface has the name, index or address '{text}'")))
    }

    /// The interface for a group when the user chose none: the one the system routes the group to, else
    /// the first that is up, carries multicast and has an address of the family, else for IPv4 loopback.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn for_group(group: SocketAddr) -> io::Result<Self> {
        let all = list()?;
        if let Some(local) = routed_from(group)
            && let Some(found) = all.iter().find(|i| i.addresses.contains(&local))
        {
            return Ok(found.found.clone());
        }
        let chosen = all
            .into_iter()
            .map(|interface| interface.found)
            .filter(|interface| interface.carries(group.ip()))
            .min_by_key(|interface| (interface.is_loopback(), interface.index));
        chosen.ok_or_else(|| {
            let reason = "no network interface is up with an address of the group's family";
            io::Error::new(io::ErrorKind::NetworkUnreachable, reason)
        })
    }

    fn carries(&self, group: IpAddr) -> bool {
        let addressed = match group {
            IpAddr::V4(_) => self.ipv4.is_some(),
            IpAddr::V6(_) => self.ipv6,
        };
        // IPv6 multicast does not work on loopback.
        let able = self.flags.contains(InterfaceFlags::MULTICAST) || self.is_loopback() && group.is_ipv4();
        self.flags.contains(InterfaceFlags::UP) && addressed && able
    }

    fn is_loopback(&self) -> bool {
        self.flags.contains(InterfaceFlags::LOOPBACK)
    }

    /// The IPv4 address to join and send with.
    ///
    /// # Errors
    /// If the interface has none.
    pub(crate) fn require_ipv4(&self) -> io::Result<Ipv4Addr> {
        self.ipv4.ok_or_else(|| self.lacks("IPv4"))
    }

    /// The index to join and send with.
    ///
    /// # Errors
    /// If the interface has no IPv6 address: the system would accept the join and fail each send.
    pub(crate) fn require_ipv6(&self) -> io::Result<u32> {
        if self.ipv6 { Ok(self.index) } else { Err(self.lacks("IPv6")) }
    }

    fn lacks(&self, family: &str) -> io::Error {
        let text = format!("interface {} has no {family} address", self.name);
        io::Error::new(io::ErrorKind::AddrNotAvailable, text)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Whether a listener on all addresses of this host hears what is sent to this one: one of its own, or
/// a broadcast address.
pub(crate) fn is_heard(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return true;
    }
    list().is_ok_and(|all| {
        all.iter().any(|interface| interface.addresses.contains(&ip) || interface.broadcasts.contains(&ip))
    })
}

struct Listed {
    found: Interface,
    addresses: Vec<IpAddr>,
    broadcasts: Vec<IpAddr>,
}

/// All interfaces, each once.
fn list() -> io::Result<Vec<Listed>> {
    let rows = getifaddrs::getifaddrs()?;
    let mut all: Vec<Listed> = Vec::new();
    for row in rows {
        let Some(index) = row.index else { continue };
        let position = all.iter().position(|i| i.found.index == index).unwrap_or_else(|| {
            all.push(Listed {
                found: Interface { name: row.name.clone(), index, ipv4: None, ipv6: false, flags: row.flags },
                addresses: Vec::new(),
                broadcasts: Vec::new(),
            });
            all.len() - 1
        });
        let interface = &mut all[position];
        match row.address {
            Address::V4(network) => {
                interface.found.ipv4.get_or_insert(network.address);
                interface.addresses.push(IpAddr::V4(network.address));
                // Of the subnet: what the interface is told to be its broadcast address may lack.
                if let Some(mask) = network.netmask {
                    interface.broadcasts.push(IpAddr::V4(network.address | !mask));
                }
            }
            Address::V6(network) => {
                interface.found.ipv6 = true;
                interface.addresses.push(IpAddr::V6(network.address));
            }
            Address::Mac(_) => {}
        }
    }
    Ok(all)
}

/// The source address that the system's routes give to datagrams for the group; nothing is sent.
fn routed_from(group: SocketAddr) -> Option<IpAddr> {
    let wildcard: IpAddr = match group {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((wildcard, 0)).ok()?;
    socket.connect(group).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_address_name_and_index() {
        let by_address = Interface::find("127.0.0.1").unwrap();
        assert_eq!(by_address.ipv4, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(Interface::find(&by_address.name).unwrap(), by_address);
        assert_eq!(Interface::find(&by_address.index.to_string()).unwrap(), by_address);
        assert!(Interface::find("no-such-interface").unwrap_err().is_usage());
    }
}
