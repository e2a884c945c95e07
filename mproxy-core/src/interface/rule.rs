//! The rule by which an interface is picked for a group when the user chose none.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use getifaddrs::InterfaceFlags;

use super::Interface;

/// The interface that the system's routes give to the group, if they do not give it to everything; else, of
/// those that are up and carry multicast (or broadcast), one that is no tunnel and no bridge without hardware,
/// that the default route uses, and that was there first, in this order; for IPv4 at last loopback.
pub(super) fn pick(all: &[Interface], group: IpAddr) -> Option<&Interface> {
    // The last before the groups, and one for documentation (RFC 3849): as good as none but the default
    // route leads there. Where IPv6 has no such route, macOS has interfaces to its own devices that came first.
    let default = || source_to(IpAddr::from([223, 255, 255, 254]));
    let default = match group {
        IpAddr::V4(_) => default(),
        IpAddr::V6(_) => source_to(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])).or_else(default),
    };
    // Every IPv6 interface has a route for all groups, which says nothing.
    let routed = if group.is_ipv4() { source_to(group).filter(|own| Some(*own) != default) } else { None };
    let able = all.iter().filter(|i| i.is_usable(group) && i.carries(group));
    able.min_by_key(|i| {
        let is_at = |own: Option<IpAddr>| own.is_some_and(|own| i.addresses.contains(&own));
        let rank = [!is_at(routed), i.is_loopback(), is_inward(all, i), !is_at(default)];
        (rank, i.index)
    })
}

/// This host's address on the way there; nothing is sent.
fn source_to(ip: IpAddr) -> Option<IpAddr> {
    let wildcard: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((wildcard, 0)).ok()?;
    socket.connect((ip, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether the interface leads into a tunnel, or only to what runs on this host: what VPNs, containers and
/// virtual machines bring along, whoever has the default route.
fn is_inward(all: &[Interface], interface: &Interface) -> bool {
    let name = &interface.name;
    interface.flags.contains(InterfaceFlags::POINTTOPOINT)
        || has(name, "tun_flags")
        || has(name, "bridge") && !leads_to_hardware(all, name, 4)
}

/// Whether the interface is a port of a bridge or of a bond: that is what groups go through then.
pub(super) fn is_part(name: &str) -> bool {
    has(name, "brport") || has(name, "bonding_slave")
}

/// Whether there is a device behind the interface, or behind one that it is made of: the port of a bridge, the
/// base of a VLAN.
fn leads_to_hardware(all: &[Interface], name: &str, depth: u8) -> bool {
    has(name, "device")
        || depth > 0
            && all.iter().any(|below| {
                let below = &below.name;
                has(name, &format!("lower_{below}")) && leads_to_hardware(all, below, depth - 1)
            })
}

/// Whether Linux does not deny that the interface has a link: its flag may come a second late.
pub(super) fn has_carrier(name: &str) -> bool {
    let mut told = [b'1'];
    let _ = File::open(shown(name, "carrier")).and_then(|mut file| file.read(&mut told));
    cfg!(target_os = "linux") && told == [b'1']
}

/// Whether Linux shows that of an interface.
fn has(name: &str, what: &str) -> bool {
    cfg!(target_os = "linux") && Path::new(&shown(name, what)).exists()
}

/// Where Linux shows what is known of an interface (`sysfs(5)`).
fn shown(name: &str, what: &str) -> String {
    format!("/sys/class/net/{name}/{what}")
}
