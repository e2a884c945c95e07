//! Endpoints: addresses as the user writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::Error;
use crate::net::interface::Interface;

/// `[SOURCE@]HOST[%ZONE]:PORT`, with an IPv6 host in brackets and its zone inside them.
///
/// ```
/// use mproxy_core::Endpoint;
///
/// for text in ["localhost:9920", "[::1]:9921", "239.1.2.3%eth0:9920", "[ff02::114%2]:9918"] {
///     let endpoint: Endpoint = text.parse().unwrap();
///     assert_eq!(endpoint.to_string(), text);
/// }
/// assert!("localhost".parse::<Endpoint>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) text: String,
    source: Option<IpAddr>,
    pub(super) host: Host,
    pub(super) zone: Option<String>,
    pub(super) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    Name(String),
}

/// What an endpoint is used for; each use allows other addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// A UDP address to receive on.
    UdpListener,
    /// A UDP address to send to.
    UdpTarget,
    /// A multicast group that is both sent to and received from.
    Channel,
    /// A TCP address to accept connections on.
    TcpListener,
    /// A TCP address to connect to.
    TcpServer,
}

impl Endpoint {
    /// Reads an endpoint and checks that it can serve in that role, without asking the network.
    ///
    /// # Errors
    /// Wrong use: an address that is malformed, lacks a port, or makes no sense in the role.
    pub fn parse(text: &str, role: Role) -> Result<Self, Error> {
        let endpoint: Self = text.parse()?;
        let wrong = |why: &str| Err(Error::usage(format!("'{text}' {why}")));
        let ip = match endpoint.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) => None,
        };
        let multicast = ip.is_some_and(|ip| ip.is_multicast());
        match role {
            Role::UdpTarget | Role::Channel | Role::TcpServer if endpoint.port == 0 => {
                return wrong("has port 0, which cannot be sent to");
            }
            Role::TcpListener | Role::TcpServer if multicast => {
                return wrong("is a multicast group, but TCP needs a unicast address");
            }
            Role::Channel if !multicast => {
                return wrong("is not a multicast group (224.0.0.0 to 239.255.255.255, or [ff00::]/8)");
            }
            _ => {}
        }
        if let Some(source) = endpoint.source {
            if role != Role::UdpListener {
                return wrong("names a source, which only a UDP listener can choose");
            }
            if !multicast {
                return wrong("names a source, but is not a multicast group");
            }
            if ip.is_some_and(|ip| ip.is_ipv4() != source.is_ipv4()) {
                return wrong("names a source of the other IP version");
            }
            if source.is_multicast() || source.is_unspecified() {
                return wrong("names a source that cannot be one");
            }
        }
        if endpoint.zone.is_some() && ip.is_some_and(|ip| ip.is_ipv4() && !needs_interface(ip)) {
            return wrong("has a zone, which an IPv4 address has only for multicast and broadcast");
        }
        let link_local = matches!(ip, Some(IpAddr::V6(ip)) if ip.is_unicast_link_local());
        if link_local && endpoint.zone.is_none() {
            return wrong("is a link-local address, which needs a zone, as in [fe80::1%eth0]:9920");
        }
        endpoint.interface()?;
        Ok(endpoint)
    }

    /// [Parses](Self::parse) each.
    ///
    /// # Errors
    /// The first error.
    pub fn parse_all(texts: &[String], role: Role) -> Result<Vec<Self>, Error> {
        let mut endpoints = Vec::new();
        for text in texts {
            endpoints.push(Self::parse(text, role)?);
        }
        Ok(endpoints)
    }

    /// The name, or the address without its zone and brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same endpoint with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        let mut other = self.clone();
        let host = self.text.rfind(':').map_or(self.text.as_str(), |colon| &self.text[..colon]);
        other.text = format!("{host}:{port}");
        other.port = port;
        other
    }

    /// The interface that the zone names.
    pub(super) fn interface(&self) -> Result<Option<Interface>, Error> {
        let Some(zone) = &self.zone else { return Ok(None) };
        Interface::find(zone).map(Some).map_err(|error| {
            if error.is_usage() { Error::usage(format!("'{}': {error}", self.text)) } else { error }
        })
    }

    /// Whether the host is a name, whose addresses may change.
    pub(crate) fn is_name(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }

    /// The only sender whose datagrams to the group are wanted (RFC 4607).
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.source
    }
}

/// Whether an address is reached through an interface that must be chosen: a group, limited broadcast, or a link-local
/// address.
pub(crate) fn needs_interface(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unicast_link_local(),
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::usage(format!("'{text}' is not an address: {why}"));
        let (source, rest) = match text.split_once('@') {
            Some((source, rest)) => {
                let bare = source.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(source);
                let ip = bare.parse().map_err(|_| wrong("the source before '@' must be an IP address"))?;
                (Some(ip), rest)
            }
            None => (None, text),
        };
        let (host, zone, port, bracketed) = if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = inner.split_once(']').ok_or_else(|| wrong("the closing ']' is missing"))?;
            let port = after.strip_prefix(':').ok_or_else(|| wrong("the port is missing (HOST:PORT)"))?;
            let (host, zone) = split_zone(inside);
            (host, zone, port, true)
        } else {
            let (before, port) =
                rest.rsplit_once(':').ok_or_else(|| wrong("the port is missing (HOST:PORT)"))?;
            let (host, zone) = split_zone(before);
            (host, zone, port, false)
        };
        if !bracketed && host.contains(':') {
            return Err(wrong("an IPv6 address needs brackets, as in [::1]:9920"));
        }
        if host.is_empty() {
            return Err(wrong("the host is missing (HOST:PORT)"));
        }
        if zone.is_some_and(str::is_empty) {
            return Err(wrong("the zone after '%' is missing"));
        }
        let number =
            |port: &str| port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        let port: u16 = number(port).ok_or_else(|| wrong("the port must be a number from 0 to 65535"))?;
        let host = match host.parse::<IpAddr>() {
            Ok(ip) if bracketed && ip.is_ipv4() => return Err(wrong("brackets are for IPv6 addresses")),
            Ok(ip) => Host::Ip(ip),
            Err(_) if bracketed => return Err(wrong("what the brackets hold is not an IPv6 address")),
            Err(_) if host.bytes().any(|b| b.is_ascii_control() || b" /[]@".contains(&b)) => {
                return Err(wrong("that is no host name"));
            }
            Err(_) => Host::Name(host.to_owned()),
        };
        Ok(Self { text: text.to_owned(), source, host, zone: zone.map(str::to_owned), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn split_zone(host: &str) -> (&str, Option<&str>) {
    match host.split_once('%') {
        Some((host, zone)) => (host, Some(zone)),
        None => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, role: Role) -> String {
        let error = Endpoint::parse(text, role).unwrap_err();
        assert!(error.is_usage(), "{text}");
        error.to_string()
    }

    #[test]
    fn malformed_addresses_say_what_is_wrong() {
        for (text, why) in [
            ("localhost", "port is missing"),
            ("[::1]", "port is missing"),
            ("::1:9920", "needs brackets"),
            ("[::1:9920", "closing ']'"),
            (":9920", "host is missing"),
            ("localhost:", "0 to 65535"),
            ("localhost:70000", "0 to 65535"),
            ("localhost:+1", "0 to 65535"),
            ("239.1.2.3%:9920", "zone"),
            ("[127.0.0.1]:1", "brackets are for IPv6"),
            ("[example]:1", "not an IPv6 address"),
            ("me@239.1.2.3:1", "source"),
            ("a b:1", "host name"),
            ("a]:1", "host name"),
            ("127.0.0.1@a@b:1", "host name"),
        ] {
            let message = refused(text, Role::UdpListener);
            assert!(message.contains(why) && message.contains(text), "{text}: {message}");
        }
    }

    #[test]
    fn roles_refuse_what_they_cannot_use() {
        for (text, role) in [
            ("127.0.0.1:0", Role::UdpTarget),
            ("239.1.2.3:1", Role::TcpListener),
            ("[ff02::1]:1", Role::TcpServer),
            ("10.0.0.1:1", Role::Channel),
            ("127.0.0.1@239.1.2.3:1", Role::UdpTarget),
            ("127.0.0.1@127.0.0.1:1", Role::UdpListener),
            ("10.0.0.1@[ff05::1]:1", Role::UdpListener),
            ("[::1]@239.1.2.3:1", Role::UdpListener),
            ("239.1.2.4@239.1.2.3:1", Role::UdpListener),
            ("127.0.0.1%lo:1", Role::UdpListener),
            ("[fe80::1]:1", Role::UdpTarget),
            ("239.1.2.3%no-such-interface:1", Role::UdpListener),
        ] {
            refused(text, role);
        }
        assert!(Endpoint::parse("127.0.0.1:0", Role::UdpListener).is_ok());
        assert!(Endpoint::parse("127.0.0.1@232.1.1.1:5000", Role::UdpListener).is_ok());
        assert!(Endpoint::parse("[::1]@[ff35::1]:5000", Role::UdpListener).is_ok());
        assert!(Endpoint::parse("255.255.255.255%127.0.0.1:5000", Role::UdpTarget).is_ok());
    }

    #[test]
    fn a_host_is_told_without_what_surrounds_it() {
        for (text, host) in [
            ("example.org:1", "example.org"),
            ("192.0.2.1:1", "192.0.2.1"),
            ("[fe80::1%lo]:1", "fe80::1"),
            ("10.0.0.5@239.1.2.3%lo:1", "239.1.2.3"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().host(), host);
        }
    }

    #[test]
    fn a_port_can_be_replaced() {
        let endpoint: Endpoint = "[::1]:0".parse().unwrap();
        assert_eq!(endpoint.with_port(7).to_string(), "[::1]:7");
    }
}
