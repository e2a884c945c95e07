//! The channel: how what comes in at all inputs gets to all output threads.

use std::net::SocketAddr;
use std::time::Duration;

use mproxy_core::{
    Direction, Error, Meter, Options, Program, Registry, Resolved, RouteTable, Stop, UdpPair, UdpSink,
    UdpSource, UdpTarget,
};

use crate::Reverse;
use crate::plan::{Kind, Plan};

/// What the output threads receive from, and all targets of the inputs.
#[derive(Debug)]
pub(crate) struct Channel {
    /// The group; none if the channel is private.
    group: Option<Group>,
    /// The targets of each input: the channel, further groups, and UDP outputs of a private channel.
    targets: Vec<UdpTarget>,
    registry: Registry,
    /// The inputs receive over IPv6, which carries longer datagrams.
    has_ipv6: bool,
}

/// A group that all output threads join.
#[derive(Debug)]
struct Group {
    routes: RouteTable,
    /// This proxy sends to the group too.
    has_inputs: bool,
    /// The meter of the outputs' receives.
    received: Meter,
    /// The meter of what is lost on the way, and of datagrams from addresses that are not allowed.
    losses: Meter,
}

impl Channel {
    /// The channel through the first of the groups, or a private one.
    pub(crate) fn open(reverse: &Reverse, plan: &Plan, program: &mut Program) -> Self {
        let (groups, registry) = (plan.of(Kind::Channel), program.registry().clone());
        let mut targets = Vec::new();
        let mut group = None;
        let mut outputs = plan.of(Kind::UdpOutput);
        if let Some((first, others)) = groups.split_first() {
            let sent = registry.endpoint(first, Direction::Channel);
            let channel = UdpTarget::new(first, &reverse.options, sent).multicast_loop_once();
            program.sends_to(&channel);
            program.avoids(&groups[..1]);
            group = Some(Group::new(first, channel.routes().clone(), reverse.has_inputs(), &registry));
            targets.push(channel);
            outputs = others;
        }
        // No other program sends to a private channel: inputs can send to UDP outputs directly.
        for output in outputs {
            let target = UdpTarget::new(output, &reverse.options, registry.endpoint(output, Direction::Out));
            program.sends_to(&target);
            targets.push(target);
        }
        let listeners = plan.of(Kind::UdpListen);
        program.avoids(listeners);
        let has_ipv6 = listeners.iter().flat_map(|listener| &listener.addresses).any(SocketAddr::is_ipv6);
        Self { group, targets, registry, has_ipv6 }
    }

    /// A sink for one more input thread, after the sources of all outputs.
    pub(crate) fn sink(&self) -> UdpSink {
        UdpSink::open(&self.targets)
    }

    /// Whether inputs send to nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// A source for one more output thread: its own membership of the group, or a pair of its own.
    pub(crate) fn source(&mut self, options: &Options, stop: &Stop) -> Result<UdpSource, Error> {
        if let Some(group) = &self.group {
            return group.join(options, stop);
        }
        let pair = UdpPair::open(options, self.has_ipv6)?;
        let name = format!("private channel {}", pair.address());
        let (target, source) = pair.into_ends(&self.registry.endpoint(name, Direction::Channel), stop)?;
        self.targets.insert(0, target);
        Ok(source)
    }
}

impl Group {
    fn new(group: &Resolved, routes: RouteTable, has_inputs: bool, registry: &Registry) -> Self {
        // Without inputs, the group itself is the proxy's input; else what passes it is counted at inputs and outputs.
        let (received, losses) = if has_inputs {
            let unlisted = Registry::default().endpoint(group, Direction::Channel);
            (unlisted, registry.endpoint(group, Direction::Channel))
        } else {
            let input = registry.endpoint(group, Direction::In);
            (input.clone(), input)
        };
        Self { routes, has_inputs, received, losses }
    }

    fn join(&self, options: &Options, stop: &Stop) -> Result<UdpSource, Error> {
        let mut options = options.clone();
        if self.has_inputs {
            // It has lingered at the input.
            options = options.linger(Duration::ZERO);
        }
        // With inputs, this host's own addresses are allowed whatever the list says.
        let source = UdpSource::join(&self.routes, &options, self.has_inputs, &self.received, stop)?;
        Ok(source.with_losses(&self.losses))
    }
}
