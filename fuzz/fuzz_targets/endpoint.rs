//! Addresses as users write them: endpoints, and the networks of allow lists. Nothing is resolved.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::{Corpus, fuzz_target};
use mproxy_core::{Allow, Endpoint, Role};

const ROLES: [Role; 5] =
    [Role::UdpListener, Role::UdpTarget, Role::Channel, Role::TcpListener, Role::TcpServer];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else { return Corpus::Reject };
    endpoint(text);
    allow(text);
    Corpus::Keep
});

fn endpoint(text: &str) {
    let parsed: Result<Endpoint, _> = text.parse();
    if let Err(error) = &parsed {
        assert!(error.is_usage() && error.to_string().contains(text), "{error}");
    }
    // A zone has the system asked for all its interfaces: now and then will do.
    if !text.contains('%') || text.bytes().fold(0, u8::wrapping_add) % 32 == 0 {
        for role in ROLES {
            match (Endpoint::parse(text, role), &parsed) {
                (Ok(endpoint), Ok(parsed)) => assert_eq!(endpoint, *parsed),
                (Ok(_), Err(error)) => panic!("{role:?} lets pass what nothing else does: {error}"),
                (Err(error), Ok(_)) => assert!(error.to_string().contains(text), "{error}"),
                (Err(_), Err(_)) => {}
            }
        }
    }
    let Ok(endpoint) = parsed else { return };
    assert_eq!(endpoint.to_string(), text);
    let port = text.rsplit(':').next().unwrap_or_default();
    assert!(port.bytes().all(|byte| byte.is_ascii_digit()), "{text:?}");
    assert_eq!(port.parse().ok(), Some(endpoint.port()), "{text:?}");
    // An address is told as it is written best.
    let written = host(text).parse().map_or_else(|_| host(text).to_owned(), |ip: IpAddr| ip.to_string());
    assert_eq!(endpoint.host(), written, "{text:?}");
    assert!(!endpoint.host().is_empty(), "{text:?}");
    for port in [endpoint.port(), 0, 9, u16::MAX] {
        let other = endpoint.with_port(port);
        assert_eq!(other.port(), port);
        assert_eq!(other.host(), endpoint.host());
        assert_eq!(other.to_string().parse::<Endpoint>().as_ref().ok(), Some(&other), "{text:?}");
    }
    let again = endpoint.with_port(9).with_port(endpoint.port());
    assert_eq!((again.host(), again.port()), (endpoint.host(), endpoint.port()));
}

/// The host of a text that parses: what is left without source, port, brackets and zone.
fn host(text: &str) -> &str {
    let rest = text.split_once('@').map_or(text, |(_, rest)| rest);
    let host = match rest.strip_prefix('[') {
        Some(inside) => inside.split(']').next(),
        None => rest.rsplit_once(':').map(|(host, _)| host),
    };
    host.and_then(|host| host.split('%').next()).unwrap_or_default()
}

/// The text is a list with commas.
fn allow(text: &str) {
    let texts = || text.split(',');
    let mut allow = Allow::default();
    texts().for_each(|text| allow.add(text));
    let networks: Vec<Network> = texts().filter_map(Network::read).collect();
    assert_eq!(allow.check().is_ok(), networks.len() == texts().count(), "{text:?}");
    assert_eq!(allow.is_empty(), networks.is_empty(), "{text:?}");

    let of_the_text = networks.iter().flat_map(Network::around);
    let others = ["0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "fe80::1"]
        .map(|text| text.parse().expect("an address"));
    for address in of_the_text.chain(others) {
        let permitted = networks.is_empty() || networks.iter().any(|network| network.contains(address));
        assert_eq!(allow.permits(address), permitted, "{address} in {text:?}");
    }
}

/// A network by the book: an address, of which as many bits count.
struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().ok()?;
        let most = bits(address).1;
        let prefix = match prefix {
            // A sign is no digit, though `parse` takes it.
            Some(digits) if digits.contains('+') => return None,
            Some(digits) => digits.parse().ok().filter(|prefix| *prefix <= most)?,
            None => most,
        };
        // IPv4 within IPv6 is IPv4, and less than all of that within it is nothing.
        match address.to_canonical() {
            v4 if v4 != address => Some(Self { address: v4, prefix: prefix.checked_sub(96)? }),
            _ => Some(Self { address, prefix }),
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        // An IPv4 peer of an IPv6 socket is told as an IPv4 address.
        let ((own, most), (other, bits)) = (bits(self.address), bits(address.to_canonical()));
        most == bits && (own ^ other).checked_shr(most - self.prefix).unwrap_or(0) == 0
    }

    /// The address, and those whose bit at the prefix, or before, differs.
    fn around(&self) -> Vec<IpAddr> {
        let most = bits(self.address).1;
        let flipped = |bit: u32| match self.address {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() ^ 1 << bit).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() ^ 1 << bit).into()),
        };
        let bit = most - self.prefix;
        let inside = bit.checked_sub(1).map(flipped);
        let outside = (bit < most).then(|| flipped(bit));
        [Some(self.address), inside, outside].into_iter().flatten().collect()
    }
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(ip) => (ip.to_bits().into(), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}
