//! The endpoints of a proxy, checked and resolved before anything is opened.

use mproxy_core::{Endpoint, Error, Resolved, Role, check_options, refuse_loops};

use crate::Reverse;

/// The kind of a proxy's endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A UDP listener.
    UdpListen,
    /// A TCP listener whose connections send data.
    TcpListen,
    /// The same, with TLS.
    TlsListen,
    /// A multicast group: the first is the channel, others are sent to.
    Channel,
    /// A TCP listener whose clients get everything.
    TcpOutput,
    /// The same, with TLS.
    TlsOutput,
    /// A UDP target that gets everything.
    UdpOutput,
}

impl Kind {
    const COUNT: usize = Self::UdpOutput as usize + 1;

    fn role(self) -> Role {
        match self {
            Self::UdpListen => Role::UdpListener,
            Self::Channel => Role::Channel,
            Self::UdpOutput => Role::UdpTarget,
            Self::TcpListen | Self::TlsListen | Self::TcpOutput | Self::TlsOutput => Role::TcpListener,
        }
    }
}

/// The resolved endpoints, by kind.
#[derive(Debug)]
pub(crate) struct Plan([Vec<Resolved>; Kind::COUNT]);

impl Plan {
    pub(crate) fn new(reverse: &Reverse) -> Result<Self, Error> {
        use Kind::{Channel, TcpListen, TcpOutput, TlsListen, TlsOutput, UdpListen, UdpOutput};
        reverse.tls.check(reverse.has(&[TlsListen, TlsOutput]))?;
        let inputs = reverse.has_inputs();
        let outputs = reverse.has(&[TcpOutput, TlsOutput, UdpOutput]) || reverse.tee;
        match (inputs, outputs, reverse.has(&[Channel])) {
            (false, false, _) => {
                return Err(Error::usage("nothing to do: give an input, or a group, and an output"));
            }
            (false, true, false) => {
                return Err(Error::usage(
                    "no input: give an address to listen on, or a multicast group to join",
                ));
            }
            (true, false, false) => {
                return Err(Error::usage(
                    "no output: give an output address, or a multicast group to send to",
                ));
            }
            _ => {}
        }
        let groups = reverse.endpoints.iter().filter(|(kind, _)| *kind == Channel).count();
        if !inputs && groups > 1 {
            return Err(Error::usage(
                "several groups (--multicast-addr) need an input to send to them; to gather groups, listen to them",
            ));
        }
        if inputs && outputs && groups > 0 && !reverse.options.has_multicast_loop() {
            return Err(Error::usage(
                "outputs get what comes in by way of the group, which this host is not to hear (--no-loop)",
            ));
        }
        if reverse.max_clients == Some(0) {
            return Err(Error::usage("at least one TCP client must be allowed"));
        }
        // All are parsed before the first is resolved.
        let mut parsed = Vec::new();
        for (kind, text) in &reverse.endpoints {
            parsed.push((*kind, Endpoint::parse(text, kind.role())?));
        }
        check_options(&reverse.options)?;
        let mut plan = Self(Default::default());
        let mut outputs = Vec::new();
        for (kind, endpoint) in parsed {
            if kind == UdpOutput {
                outputs.push(endpoint);
            } else {
                plan.0[kind as usize].push(endpoint.resolve(&reverse.options)?);
            }
        }
        plan.0[UdpOutput as usize] = Endpoint::resolve_targets(&outputs, &reverse.options)?;
        for kind in [TcpListen, TlsListen, TcpOutput, TlsOutput] {
            plan.of(kind).iter().try_for_each(Resolved::require_unicast)?;
        }
        refuse_loops(plan.of(UdpListen), plan.of(Channel))?;
        refuse_loops(plan.of(UdpListen), plan.of(UdpOutput))?;
        // Only the first group is read from.
        refuse_loops(&plan.of(Channel)[..plan.of(Channel).len().min(1)], plan.of(UdpOutput))?;
        Ok(plan)
    }

    /// Whether one thread can receive what comes in and hand it out, without a channel: with one input endpoint and one
    /// output thread at most.
    pub(crate) fn is_direct(&self, reverse: &Reverse) -> bool {
        use Kind::{Channel, TcpListen, TcpOutput, TlsListen, TlsOutput, UdpListen};
        let count = |kinds: &[Kind]| kinds.iter().map(|kind| self.of(*kind).len()).sum::<usize>();
        let threads = reverse.options.chosen_threads();
        let inputs = count(&[UdpListen]) * threads + count(&[TcpListen, TlsListen]);
        inputs == 1 && count(&[TcpOutput, TlsOutput]) * threads <= 1 && count(&[Channel]) == 0
    }

    pub(crate) fn of(&self, kind: Kind) -> &[Resolved] {
        &self.0[kind as usize]
    }
}
