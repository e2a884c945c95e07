//! The channel: the multicast group that every input is sent to and every output has joined.

use std::net::{Ipv4Addr, UdpSocket};

use mproxy_core::{
    Allow, Direction, Endpoint, Error, Meter, Options, Registry, Resolved, Role, Stop, UdpSink, UdpSource,
    UdpTarget, reserve_group,
};

/// A group with the options that it is sent to and joined with, and further groups that get the same.
#[derive(Debug)]
pub(crate) struct Channel {
    group: Resolved,
    targets: Vec<UdpTarget>,
    received: Meter,
    /// Where it is counted what others send to the group, and may not.
    denials: Meter,
    /// The networks that may send to the group: this proxy too. None if everyone may.
    allow: Allow,
    /// Keeps a private group's port from all others.
    _reserved: Option<UdpSocket>,
}

impl Channel {
    /// The channel through the first of the groups, or a private one.
    pub(crate) fn open(
        groups: &[Resolved],
        options: &Options,
        registry: &Registry,
        has_inputs: bool,
    ) -> Result<Self, Error> {
        let (group, options, reserved) = match groups.first() {
            Some(group) => (group.clone(), options.clone(), None),
            None => private()?,
        };
        let mut targets =
            vec![UdpTarget::new(group.clone(), &options, registry.endpoint(&group, Direction::Channel))];
        for further in groups.iter().skip(1) {
            let meter = registry.endpoint(further, Direction::Out);
            targets.push(UdpTarget::new(further.clone(), &options, meter));
        }
        // Without inputs of its own, what the proxy receives comes from the group.
        let (received, denials) = if has_inputs {
            (unlisted(&group), registry.endpoint(&group, Direction::Channel))
        } else {
            let input = registry.endpoint(&group, Direction::In);
            (input.clone(), input)
        };
        let mut allow = options.allowed().clone();
        if has_inputs
            && !allow.is_empty()
            && let Some(own) = targets[0].open().local_addr()
        {
            // What the inputs send to the group comes from here.
            allow.add(&own.ip().to_string());
        }
        Ok(Self { group, targets, received, denials, allow, _reserved: reserved })
    }

    /// Sinks for one more input.
    pub(crate) fn sinks(&self) -> Vec<UdpSink> {
        self.targets.iter().map(UdpTarget::open).collect()
    }

    /// A source for one more output, with a membership of its own.
    pub(crate) fn source(&self, options: &Options, stop: &Stop) -> Result<UdpSource, Error> {
        let options = options.clone().allow_only(self.allow.clone());
        let mut sources = UdpSource::open(&self.group, &options, &self.received, stop)?;
        let source = sources.pop().map(|source| source.with_denials(&self.denials));
        source.ok_or_else(|| Error::io("listen on", &self.group, std::io::ErrorKind::AddrNotAvailable.into()))
    }
}

/// A group of this process alone: drawn at random from the organisation-local scope (RFC 2365), on
/// loopback, with TTL 0. IPv4, since that works on every host, and IPv6 multicast on no loopback.
fn private() -> Result<(Resolved, Options, Option<UdpSocket>), Error> {
    let group = Ipv4Addr::new(239, 255, fastrand::u8(..), fastrand::u8(1..255));
    let (reserved, address) = reserve_group(group)?;
    let options = Options::new().ttl(0);
    let endpoint = Endpoint::parse(&format!("{group}%127.0.0.1:{}", address.port()), Role::Channel)?;
    Ok((endpoint.resolve(&options)?, options, Some(reserved)))
}

/// A meter that no statistics show: what passes the channel is counted where it comes in and goes out.
fn unlisted(name: &Resolved) -> Meter {
    Registry::default().endpoint(name, Direction::Channel)
}
