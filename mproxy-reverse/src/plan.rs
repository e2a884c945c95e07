//! What a proxy is to do, checked before anything is opened.

use mproxy_core::{Endpoint, Error, Resolved, Role, check_datagram_size, refuse_loops};

use crate::Reverse;

/// Every endpoint, checked and resolved.
pub(crate) struct Plan {
    pub(crate) udp_listen: Vec<Resolved>,
    pub(crate) tcp_listen: Vec<Resolved>,
    pub(crate) channel: Option<Resolved>,
    pub(crate) tcp_output: Vec<Resolved>,
    pub(crate) udp_output: Vec<Resolved>,
}

impl Plan {
    pub(crate) fn new(reverse: &Reverse) -> Result<Self, Error> {
        let inputs = !reverse.udp_listen.is_empty() || !reverse.tcp_listen.is_empty();
        let outputs = !reverse.tcp_output.is_empty() || !reverse.udp_output.is_empty() || reverse.tee;
        match (inputs, outputs, reverse.multicast.is_some()) {
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
        if reverse.max_clients == 0 {
            return Err(Error::usage("at least one TCP client must be allowed"));
        }
        check_datagram_size(reverse.datagram_size)?;
        let udp_listen = Endpoint::parse_all(&reverse.udp_listen, Role::UdpListener)?;
        let tcp_listen = Endpoint::parse_all(&reverse.tcp_listen, Role::TcpListener)?;
        let channel = Endpoint::parse_all(reverse.multicast.as_slice(), Role::Channel)?;
        let tcp_output = Endpoint::parse_all(&reverse.tcp_output, Role::TcpListener)?;
        let udp_output = Endpoint::parse_all(&reverse.udp_output, Role::UdpTarget)?;
        reverse.options.chosen_interface()?;

        let channel = Endpoint::resolve_all(&channel, &reverse.options)?;
        let plan = Self {
            udp_listen: Endpoint::resolve_all(&udp_listen, &reverse.options)?,
            tcp_listen: Endpoint::resolve_all(&tcp_listen, &reverse.options)?,
            tcp_output: Endpoint::resolve_all(&tcp_output, &reverse.options)?,
            udp_output: Endpoint::resolve_all(&udp_output, &reverse.options)?,
            channel: channel.first().cloned(),
        };
        for endpoint in plan.tcp_listen.iter().chain(&plan.tcp_output) {
            endpoint.require_unicast()?;
        }
        refuse_loops(&plan.udp_listen, &channel)?;
        refuse_loops(&plan.udp_listen, &plan.udp_output)?;
        refuse_loops(&channel, &plan.udp_output)?;
        Ok(plan)
    }

    pub(crate) fn has_inputs(&self) -> bool {
        !self.udp_listen.is_empty() || !self.tcp_listen.is_empty()
    }
}
