//! The channel: the multicast group that all inputs send to and all outputs have joined.

use std::net::{Ipv4Addr, UdpSocket};

use mproxy_core::{
    Direction, Endpoint, Error, Meter, Options, Program, Resolved, Role, RouteTable, Stop, UdpSink,
    UdpSource, UdpTarget, reserve_group,
};

use crate::Reverse;
use crate::plan::{Kind, Plan};

/// The channel's group, and all targets of the inputs.
#[derive(Debug)]
pub(crate) struct Channel {
    /// The interfaces of the group.
    routes: RouteTable,
    /// The targets of each input: the group, further groups, and UDP outputs of a private channel.
    targets: Vec<UdpTarget>,
    /// The meter of the outputs' receives from the group.
    received: Meter,
    /// The meter of datagrams from addresses that are not allowed.
    denials: Meter,
    /// This proxy sends to the group too.
    has_inputs: bool,
    /// The socket that has a private group's port, so that no other program can bind it.
    reserved: Option<UdpSocket>,
}

impl Channel {
    /// The channel through the first of the groups, or a private one.
    pub(crate) fn open(reverse: &Reverse, plan: &Plan, program: &mut Program) -> Result<Self, Error> {
        let (groups, registry) = (plan.of(Kind::Channel), program.registry().clone());
        let (group, options, reserved) = match groups.first() {
            Some(group) => (group.clone(), reverse.options.clone(), None),
            None => private()?,
        };
        let sent = registry.endpoint(&group, Direction::Channel);
        let channel = UdpTarget::new(&group, &options, sent).multicast_loop_once();
        let routes = channel.routes().clone();
        let mut other_targets = groups.iter().skip(1).collect::<Vec<_>>();
        if reserved.is_some() {
            // No other program sends to a private group: inputs can send to UDP outputs directly.
            other_targets.extend(plan.of(Kind::UdpOutput));
        }
        let mut targets = Vec::new();
        if reserved.is_none() || reverse.has(&[Kind::TcpOutput, Kind::TlsOutput]) || reverse.tee {
            if reserved.is_none() {
                program.sends_to(&channel);
            }
            targets.push(channel);
        }
        for target in other_targets {
            let meter = registry.endpoint(target, Direction::Out);
            let target = UdpTarget::new(target, &reverse.options, meter);
            program.sends_to(&target);
            targets.push(target);
        }
        program.avoids(plan.of(Kind::UdpListen));
        program.avoids(&groups[..groups.len().min(1)]);
        // Without inputs, the group itself is the proxy's input.
        let has_inputs = reverse.has_inputs();
        let (received, denials) = if has_inputs {
            (unlisted(&group), registry.endpoint(&group, Direction::Channel))
        } else {
            let input = registry.endpoint(&group, Direction::In);
            (input.clone(), input)
        };
        Ok(Self { routes, targets, received, denials, has_inputs, reserved })
    }

    /// Whether the group is this process's own.
    pub(crate) fn is_private(&self) -> bool {
        self.reserved.is_some()
    }

    /// A sink for one more input.
    pub(crate) fn sink(&self) -> UdpSink {
        UdpSink::open(&self.targets)
    }

    /// A source for one more output, with its own membership of the group.
    pub(crate) fn source(&self, options: &Options, stop: &Stop) -> Result<UdpSource, Error> {
        // With inputs, this host's own addresses are allowed whatever the list says.
        let source = UdpSource::join(&self.routes, options, self.has_inputs, &self.received, stop)?;
        Ok(source.with_denials(&self.denials))
    }
}

/// A private group: drawn at random from the organisation-local scope (RFC 2365), on loopback, with TTL 0.
/// IPv4, which every host has; IPv6 multicast works on no loopback.
fn private() -> Result<(Resolved, Options, Option<UdpSocket>), Error> {
    let group = Ipv4Addr::new(239, 255, fastrand::u8(..), fastrand::u8(1..255));
    let (reserved, address) = reserve_group(group)?;
    let options = Options::new().ttl(0);
    let endpoint = Endpoint::parse(&format!("{group}%127.0.0.1:{}", address.port()), Role::Channel)?;
    Ok((endpoint.resolve(&options)?, options, Some(reserved)))
}

/// A meter outside the statistics: what passes the channel is counted at inputs and outputs.
fn unlisted(name: &Resolved) -> Meter {
    mproxy_core::Registry::default().endpoint(name, Direction::Channel)
}
