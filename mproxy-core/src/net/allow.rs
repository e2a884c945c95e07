//! Allow lists: from which networks datagrams and connections are taken.

use std::net::IpAddr;

use cidr::IpInet;

use crate::error::Error;

/// The networks that may send; an empty list allows everyone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    networks: Vec<IpInet>,
    /// The first that is none.
    malformed: Option<String>,
}

impl Allow {
    /// Adds `ADDRESS/PREFIX` or `ADDRESS`.
    pub fn add(&mut self, text: &str) {
        match network(text) {
            Some(network) => self.networks.push(network),
            None => drop(self.malformed.get_or_insert_with(|| text.to_owned())),
        }
    }

    /// Checks that all of it are networks.
    ///
    /// # Errors
    /// Wrong use if something is no network.
    pub fn check(&self) -> Result<(), Error> {
        match &self.malformed {
            Some(text) => Err(Error::usage(format!(
                "'{text}' is no network to allow: ADDRESS/PREFIX or ADDRESS, as in 10.1.0.0/16"
            ))),
            None => Ok(()),
        }
    }

    /// Whether everyone is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether this address is allowed.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.is_empty() || self.networks.iter().any(|network| network.contains(&address))
    }
}

fn network(text: &str) -> Option<IpInet> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let written: IpAddr = address.parse().ok()?;
    // IPv4 within IPv6 is compared as IPv4, of which it holds the last 32 bits.
    let address = written.to_canonical();
    match prefix {
        None => Some(IpInet::new_host(address)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let before = if written == address { 0 } else { 96 };
            IpInet::new(address, digits.parse::<u8>().ok()?.checked_sub(before)?).ok()
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Result<Allow, Error> {
        let mut allow = Allow::default();
        for text in texts {
            allow.add(text);
        }
        allow.check().map(|()| allow)
    }

    #[test]
    fn networks_and_addresses_of_both_families_are_told_apart() {
        let allow = list(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "::1", "10.9.9.9/24"]).unwrap();
        for (address, allowed) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::1", true),
            ("::2", false),
            ("10.9.9.1", true),
            ("::ffff:10.1.2.3", true),
            ("::ffff:10.2.0.1", false),
        ] {
            assert_eq!(allow.permits(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(list(&["::ffff:10.1.0.0/112"]).unwrap().permits("10.1.2.3".parse().unwrap()));
        assert!(!list(&["::ffff:10.1.0.1"]).unwrap().permits("10.1.2.3".parse().unwrap()));
        assert!(list(&[]).unwrap().permits("192.0.2.1".parse().unwrap()));
        assert!(!list(&["0.0.0.0/0"]).unwrap().permits("::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::ffff:10.0.0.0/8",
            "1.2.3.4:5",
        ] {
            let error = list(&["::1", text]).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(&format!("'{text}'")), "{error}");
        }
    }
}
