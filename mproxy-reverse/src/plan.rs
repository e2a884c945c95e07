//! What a proxy is to do, checked before anything is opened.

use mproxy_core::{Endpoint, Error, Resolved, Role, refuse_loops};

use crate::Reverse;

/// Every endpoint, checked and resolved.
pub(crate) struct Plan {
    pub(crate) udp_listen: Vec<Resolved>,
    pub(crate) tcp_listen: Vec<Resolved>,
    pub(crate) tls_listen: Vec<Resolved>,
    pub(crate) channel: Vec<Resolved>,
    pub(crate) tcp_output: Vec<Resolved>,
    pub(crate) tls_output: Vec<Resolved>,
    pub(crate) udp_output: Vec<Resolved>,
}

impl Plan {
    pub(crate) fn new(reverse: &Reverse) -> Result<Self, Error> {
        let given = |lists: &[&[String]]| lists.iter().any(|list| !list.is_empty());
        let inputs = given(&[&reverse.udp_listen, &reverse.tcp_listen, &reverse.tls_listen]);
        let outputs = given(&[&reverse.tcp_output, &reverse.tls_output, &reverse.udp_output]) || reverse.tee;
        match (inputs, outputs, !reverse.multicast.is_empty()) {
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
        if !inputs && reverse.multicast.len() > 1 {
            return Err(Error::usage(
                "several groups (--multicast-addr) need an input to send to them; to gather groups, listen to them",
            ));
        }
        if reverse.max_clients == 0 {
            return Err(Error::usage("at least one TCP client must be allowed"));
        }
        // All of them are checked before the first is looked up.
        let mut parsed: [Vec<Endpoint>; 7] = Default::default();
        for (endpoints, (texts, role)) in parsed.iter_mut().zip([
            (&reverse.udp_listen, Role::UdpListener),
            (&reverse.tcp_listen, Role::TcpListener),
            (&reverse.tls_listen, Role::TcpListener),
            (&reverse.multicast, Role::Channel),
            (&reverse.tcp_output, Role::TcpListener),
            (&reverse.tls_output, Role::TcpListener),
            (&reverse.udp_output, Role::UdpTarget),
        ]) {
            *endpoints = Endpoint::parse_all(texts, role)?;
        }
        reverse.options.check()?;
        reverse.tls.check(given(&[&reverse.tls_listen, &reverse.tls_output]))?;
        let mut resolved: [Vec<Resolved>; 7] = Default::default();
        for (resolved, endpoints) in resolved.iter_mut().zip(&parsed) {
            *resolved = Endpoint::resolve_all(endpoints, &reverse.options)?;
        }
        let [udp_listen, tcp_listen, tls_listen, channel, tcp_output, tls_output, udp_output] = resolved;
        for endpoints in [&tcp_listen, &tls_listen, &tcp_output, &tls_output] {
            endpoints.iter().try_for_each(Resolved::require_unicast)?;
        }
        let plan = Self { udp_listen, tcp_listen, tls_listen, channel, tcp_output, tls_output, udp_output };
        refuse_loops(&plan.udp_listen, &plan.channel)?;
        refuse_loops(&plan.udp_listen, &plan.udp_output)?;
        // Only the first group is read from.
        refuse_loops(&plan.channel[..plan.channel.len().min(1)], &plan.udp_output)?;
        Ok(plan)
    }

    pub(crate) fn uses_tls(&self) -> bool {
        !self.tls_listen.is_empty() || !self.tls_output.is_empty()
    }

    pub(crate) fn has_inputs(&self) -> bool {
        [&self.udp_listen, &self.tcp_listen, &self.tls_listen].iter().any(|list| !list.is_empty())
    }
}
