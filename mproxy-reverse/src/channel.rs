//! The channel: how what comes in at all inputs gets to all output threads.

use mproxy_core::{
    Direction, Error, Meter, Options, Program, Resolved, RouteTable, Stop, UdpPair, UdpSink, UdpSource,
    UdpTarget,
};

use crate::Reverse;
use crate::plan::{Kind, Plan};

/// What the output threads receive from, and all targets of the inputs.
#[derive(Debug)]
pub(crate) struct Channel {
    /// The interfaces of the group; none if the channel is private.
    routes: Option<RouteTable>,
    /// The targets of each input: the channel, further groups, and UDP outputs of a private channel.
    targets: Vec<UdpTarget>,
    /// The meter of the outputs' receives.
    received: Meter,
    /// The meter of what is lost in the channel, and of datagrams from addresses that are not allowed.
    losses: Meter,
    /// This proxy sends to the group too.
    has_inputs: bool,
    /// The inputs receive over IPv6, which carries longer datagrams.
    has_ipv6: bool,
}

impl Channel {
    /// The channel through the first of the groups, or a private one.
    pub(crate) fn open(reverse: &Reverse, plan: &Plan, program: &mut Program) -> Self {
        let (groups, registry) = (plan.of(Kind::Channel), program.registry().clone());
        let has_inputs = reverse.has_inputs();
        let has_ipv6 =
            plan.of(Kind::UdpListen).iter().flat_map(|e| &e.addresses).any(std::net::SocketAddr::is_ipv6);
        let mut targets = Vec::new();
        let mut add = |target: &Resolved| {
            let meter = registry.endpoint(target, Direction::Out);
            let target = UdpTarget::new(target, &reverse.options, meter);
            program.sends_to(&target);
            targets.push(target);
        };
        let Some(group) = groups.first() else {
            // No other program sends to a private channel: inputs can send to UDP outputs directly.
            plan.of(Kind::UdpOutput).iter().for_each(&mut add);
            program.avoids(plan.of(Kind::UdpListen));
            let meter = registry.endpoint("private channel", Direction::Channel);
            let received = meter.clone();
            return Self { routes: None, targets, received, losses: meter, has_inputs, has_ipv6 };
        };
        groups[1..].iter().for_each(&mut add);
        let sent = registry.endpoint(group, Direction::Channel);
        let channel = UdpTarget::new(group, &reverse.options, sent).multicast_loop_once();
        program.sends_to(&channel);
        program.avoids(plan.of(Kind::UdpListen));
        program.avoids(&groups[..1]);
        let routes = Some(channel.routes().clone());
        targets.insert(0, channel);
        // Without inputs, the group itself is the proxy's input.
        let (received, losses) = if has_inputs {
            (unlisted(group), registry.endpoint(group, Direction::Channel))
        } else {
            let input = registry.endpoint(group, Direction::In);
            (input.clone(), input)
        };
        Self { routes, targets, received, losses, has_inputs, has_ipv6 }
    }

    /// A sink for one more input thread, after the sources of all outputs.
    pub(crate) fn sink(&self) -> UdpSink {
        UdpSink::open(&self.targets)
    }

    /// A source for one more output thread: its own membership of the group, or a pair of its own.
    pub(crate) fn source(&mut self, options: &Options, stop: &Stop) -> Result<UdpSource, Error> {
        let Some(routes) = &self.routes else {
            let pair = UdpPair::open(options, self.has_ipv6)?;
            let (target, source) = pair.into_ends(&self.losses, stop)?;
            self.targets.insert(0, target);
            return Ok(source);
        };
        // With inputs, this host's own addresses are allowed whatever the list says.
        let source = UdpSource::join(routes, options, self.has_inputs, &self.received, stop)?;
        Ok(source.with_losses(&self.losses))
    }
}

/// A meter outside the statistics: what passes the channel is counted at inputs and outputs.
fn unlisted(name: &Resolved) -> Meter {
    mproxy_core::Registry::default().endpoint(name, Direction::Channel)
}
