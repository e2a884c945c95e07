//! The rule by which an interface is picked for a group when the user chose none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};

use getifaddrs::InterfaceFlags;

use super::Listed;

/// The interface that a route for the group itself names; else, of those that are up and carry multicast (or
/// broadcast), one that is no tunnel and no bridge without hardware, that the default route uses, and that was
/// there first, in this order; for IPv4 at last loopback.
pub(super) fn pick(all: &[Listed], group: IpAddr) -> Option<&Listed> {
    let able = || all.iter().filter(|i| i.found.is_usable(group) && i.found.carries(group));
    if let Some(name) = routed_to(group)
        && let Some(routed) = able().find(|i| i.found.name == name)
    {
        return Some(routed);
    }
    let default = default_source(group);
    able().min_by_key(|i| {
        let by_default = default.is_some_and(|own| i.addresses.contains(&own));
        (i.found.is_loopback(), is_inward(all, i), !by_default, i.found.index)
    })
}

/// Whether the interface leads into a tunnel, or only to what runs on this host: what VPNs, containers and
/// virtual machines bring along, whoever has the default route.
fn is_inward(all: &[Listed], interface: &Listed) -> bool {
    let name = &interface.found.name;
    interface.found.flags.contains(InterfaceFlags::POINTTOPOINT)
        || has(name, "tun_flags")
        || has(name, "bridge") && !leads_to_hardware(all, name, 4)
}

/// Whether there is a device behind the interface, or behind one that it is made of: the port of a bridge, the
/// base of a VLAN.
fn leads_to_hardware(all: &[Listed], name: &str, depth: u8) -> bool {
    has(name, "device")
        || depth > 0
            && all.iter().any(|below| {
                let below = &below.found.name;
                has(name, &format!("lower_{below}")) && leads_to_hardware(all, below, depth - 1)
            })
}

/// Whether Linux says that the interface has a link.
pub(super) fn has_carrier(name: &str) -> bool {
    cfg!(target_os = "linux") && std::fs::read(shown(name, "carrier")).is_ok_and(|told| told.starts_with(b"1"))
}

/// Whether Linux shows that of an interface.
fn has(name: &str, what: &str) -> bool {
    cfg!(target_os = "linux") && shown(name, what).exists()
}

/// Where Linux shows what is to be known of an interface (`sysfs(5)`).
fn shown(name: &str, what: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name).join(what)
}

/// The interface of the narrowest route within the multicast range that covers the group: what somebody has
/// set up, unlike a default route (`proc(5)`, /proc/net/route). IPv4 on Linux.
fn routed_to(group: IpAddr) -> Option<String> {
    let IpAddr::V4(group) = group else { return None };
    if !cfg!(target_os = "linux") {
        return None;
    }
    let table = std::fs::read_to_string("/proc/net/route").ok()?;
    let mut best: Option<(u32, &str)> = None;
    for line in table.lines() {
        let field = |n| line.split_ascii_whitespace().nth(n);
        // As the bytes lie in memory.
        let address = |n| Some(Ipv4Addr::from(u32::from_str_radix(field(n)?, 16).ok()?.to_ne_bytes()));
        let (Some(name), Some(network), Some(mask)) = (field(0), address(1), address(7)) else { continue };
        let mask = u32::from(mask);
        if network.is_multicast()
            && u32::from(group) & mask == u32::from(network)
            && best.is_none_or(|(narrowest, _)| mask > narrowest)
        {
            best = Some((mask, name));
        }
    }
    best.map(|(_, name)| name.to_owned())
}

/// This host's address on the way to everywhere else; nothing is sent.
fn default_source(family: IpAddr) -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): no route but the default one leads there.
    let (wildcard, elsewhere): (IpAddr, IpAddr) = match family {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        IpAddr::V6(_) => {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
        }
    };
    let socket = UdpSocket::bind((wildcard, 0)).ok()?;
    socket.connect((elsewhere, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
