//! Gathers UDP endpoints and accepted TCP connections in one multicast channel, and hands the channel
//! out to many TCP clients and UDP endpoints.
//!
//! ```
//! use mproxy_reverse::Reverse;
//!
//! # fn main() -> Result<(), mproxy_reverse::Error> {
//! let reverse = Reverse::new().udp_listen("127.0.0.1:0").tcp_output("127.0.0.1:0").spawn()?;
//! let [udp, tcp] = reverse.local_addrs() else { panic!() };
//! println!("datagrams for {udp} reach every TCP client of {tcp}");
//! reverse.stop();
//! reverse.join()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod channel;
mod compat;
mod connections;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

pub use compat::{reverse_proxy_tcp_udp, reverse_proxy_udp, reverse_proxy_udp_tcp};
use mproxy_core::{
    ClientSink, Direction, Endpoint, Program, Registry, Resolved, Role, Sinks, Source, Stdout, Stop,
    StopOnDrop, StreamSource, Task, UdpSource, UdpTarget, datagram_size, listen_tcp, refuse_loops, relay,
};
pub use mproxy_core::{Error, Framing, Handle, SocketOptions, Stats};

use crate::channel::Channel;
use crate::connections::Connections;

/// TCP clients that are served at the same time, unless told otherwise.
const MAX_CLIENTS: usize = 1024;

/// Receive buffer of a TCP client's channel socket: modest, so that many stalled clients together do
/// not take all the memory that the host has for UDP.
const CLIENT_RECV_BUFFER: usize = 1 << 20;

/// What to gather, and whom to hand it out to. See the [crate's](crate) example.
#[derive(Debug, Clone)]
pub struct Reverse {
    udp_listen: Vec<String>,
    tcp_listen: Vec<String>,
    multicast: Option<String>,
    tcp_output: Vec<String>,
    udp_output: Vec<String>,
    tee: bool,
    framing: Framing,
    datagram_size: Option<usize>,
    max_clients: usize,
    options: SocketOptions,
}

impl Default for Reverse {
    fn default() -> Self {
        Self {
            udp_listen: Vec::new(),
            tcp_listen: Vec::new(),
            multicast: None,
            tcp_output: Vec::new(),
            udp_output: Vec::new(),
            tee: false,
            framing: Framing::default(),
            datagram_size: None,
            max_clients: MAX_CLIENTS,
            options: SocketOptions::default(),
        }
    }
}

impl Reverse {
    /// A reverse proxy without endpoints.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a UDP endpoint to receive on: `[SOURCE@]HOST[%ZONE]:PORT`. Port 0 is one that the system
    /// chooses; [`Handle::local_addrs`] tells it, as it does for the TCP endpoints.
    #[must_use]
    pub fn udp_listen(mut self, endpoint: impl Into<String>) -> Self {
        self.udp_listen.push(endpoint.into());
        self
    }

    /// Adds a TCP endpoint on which to accept connections that send data: `HOST:PORT`.
    #[must_use]
    pub fn tcp_listen(mut self, endpoint: impl Into<String>) -> Self {
        self.tcp_listen.push(endpoint.into());
        self
    }

    /// The multicast group to route through: `GROUP[%ZONE]:PORT`. Others on the network can join it, and
    /// what they send to it is handed out too. By default the channel is private to this process: an
    /// IPv4 group drawn at random, which never leaves the loopback interface.
    #[must_use]
    pub fn multicast(mut self, group: impl Into<String>) -> Self {
        self.multicast = Some(group.into());
        self
    }

    /// Adds a TCP endpoint on which to accept clients that get everything: `HOST:PORT`.
    #[must_use]
    pub fn tcp_output(mut self, endpoint: impl Into<String>) -> Self {
        self.tcp_output.push(endpoint.into());
        self
    }

    /// Adds a UDP endpoint to send everything to: `HOST[%ZONE]:PORT`.
    #[must_use]
    pub fn udp_output(mut self, endpoint: impl Into<String>) -> Self {
        self.udp_output.push(endpoint.into());
        self
    }

    /// Copies everything to standard output too.
    #[must_use]
    pub fn tee(mut self, tee: bool) -> Self {
        self.tee = tee;
        self
    }

    /// How datagrams are delimited in TCP streams, in both directions.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// The largest datagram made from TCP bytes, from 1 to 65,507. By default what the path to the
    /// channel takes without fragmentation, at most 8192, or 1452 where the system does not tell.
    #[must_use]
    pub fn datagram_size(mut self, bytes: usize) -> Self {
        self.datagram_size = Some(bytes);
        self
    }

    /// How many TCP clients are served at the same time, and how many TCP connections are read from;
    /// one more is closed at once. The default is 1024.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// The interface and TTL for multicast, and the size of the receive buffers.
    #[must_use]
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.options = options;
        self
    }

    /// Opens everything and starts.
    ///
    /// # Errors
    /// Wrong use, such as an output that is the proxy's own input; a name that does not resolve; an
    /// address in use.
    pub fn spawn(&self) -> Result<Handle, Error> {
        let plan = self.plan()?;
        let mut program = Program::new()?;
        let inputs = program.stop().clone();
        // The outputs go on until the last input has delivered what it held.
        let outputs = if plan.has_inputs() { Stop::new()? } else { inputs.clone() };
        let last_input = plan.has_inputs().then(|| Arc::new(StopOnDrop(outputs.clone())));
        let registry = program.registry().clone();
        let channel =
            Arc::new(Channel::open(plan.channel.clone(), &self.options, &registry, plan.has_inputs())?);

        // Listeners are opened before any thread is started, and outputs before inputs.
        let mut udp_inputs = Vec::new();
        for listener in &plan.udp_listen {
            let meter = registry.endpoint(listener, Direction::In);
            udp_inputs.extend(UdpSource::open(listener, &self.options, &meter, &inputs)?);
        }
        for source in &udp_inputs {
            program.listens_on(source.socket().local_addr());
        }
        let mut connections = |endpoints: &[Resolved]| {
            let mut all = Vec::new();
            for endpoint in endpoints {
                let listeners = listen_tcp(endpoint)?;
                for listener in &listeners {
                    program.listens_on(listener.local_addr());
                }
                all.push((endpoint.clone(), listeners));
            }
            Ok::<_, Error>(all)
        };
        let tcp_inputs = connections(&plan.tcp_listen)?;
        let tcp_outputs = connections(&plan.tcp_output)?;

        if !plan.udp_output.is_empty() {
            let mut sinks: Sinks = Vec::new();
            for target in plan.udp_output {
                let meter = registry.endpoint(&target, Direction::Out);
                sinks.push(Box::new(UdpTarget::new(target, &self.options, meter).open()));
            }
            let source = channel.source(&self.options, &outputs)?;
            program.thread("udp output".to_owned(), task(source, sinks, &outputs, None))?;
        }
        if self.tee {
            let meter = registry.endpoint("standard output", Direction::Out);
            let only = self.tcp_output.is_empty() && self.udp_output.is_empty() && self.multicast.is_none();
            let stdout = Stdout::open(self.framing, only, meter)?.sink(&outputs);
            let source = channel.source(&self.options, &outputs)?;
            program.thread("tee".to_owned(), task(source, vec![Box::new(stdout)], &outputs, None))?;
        }
        let clients = Connections::new("TCP client", self.max_clients);
        for (endpoint, listeners) in tcp_outputs {
            let meter = registry.endpoint(&endpoint, Direction::Out);
            let options = self.options.clone().or_recv_buffer(CLIENT_RECV_BUFFER);
            let (channel, outputs, framing) = (channel.clone(), outputs.clone(), self.framing);
            let serve = move |stream: TcpStream, peer: SocketAddr| {
                let source = channel.source(&options, &outputs)?;
                let (sink, source) = ClientSink::new(stream, peer, framing, source, &meter, &outputs)?;
                Ok(task(source, vec![Box::new(sink)], &outputs, None))
            };
            let (clients, stop) = (clients.clone(), inputs.clone());
            let accept = move || clients.accept(&listeners, &stop, &serve);
            program.thread(endpoint.to_string(), Box::new(accept))?;
        }

        let senders = Connections::new("TCP input", self.max_clients);
        for (endpoint, listeners) in tcp_inputs {
            let meter = registry.endpoint(&endpoint, Direction::In);
            let (channel, stop, last_input) = (channel.clone(), inputs.clone(), last_input.clone());
            let (framing, size) = (self.framing, self.datagram_size);
            let serve = move |stream: TcpStream, peer: SocketAddr| {
                let sink = channel.sink();
                let size = size.unwrap_or_else(|| datagram_size(std::slice::from_ref(&sink)));
                let source =
                    StreamSource::new(stream, peer.to_string(), framing, size, &stop, meter.counters());
                Ok(task(source, vec![Box::new(sink)], &stop, last_input.clone()))
            };
            let (senders, stop) = (senders.clone(), inputs.clone());
            let accept = move || senders.accept(&listeners, &stop, &serve);
            program.thread(endpoint.to_string(), Box::new(accept))?;
        }
        for source in udp_inputs {
            let sinks: Sinks = vec![Box::new(channel.sink())];
            program.thread("udp input".to_owned(), task(source, sinks, &inputs, last_input.clone()))?;
        }
        Ok(program.handle())
    }

    /// Checks everything that can be checked without opening anything.
    fn plan(&self) -> Result<Plan, Error> {
        let inputs = !self.udp_listen.is_empty() || !self.tcp_listen.is_empty();
        let outputs = !self.tcp_output.is_empty() || !self.udp_output.is_empty() || self.tee;
        match (inputs, outputs, self.multicast.is_some()) {
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
        if self.max_clients == 0 {
            return Err(Error::usage("at least one TCP client must be allowed"));
        }
        let udp_listen = Endpoint::parse_all(&self.udp_listen, Role::UdpListener)?;
        let tcp_listen = Endpoint::parse_all(&self.tcp_listen, Role::TcpListener)?;
        let channel = Endpoint::parse_all(self.multicast.as_slice(), Role::Channel)?;
        let tcp_output = Endpoint::parse_all(&self.tcp_output, Role::TcpListener)?;
        let udp_output = Endpoint::parse_all(&self.udp_output, Role::UdpTarget)?;
        self.options.chosen_interface()?;

        let channel = Endpoint::resolve_all(&channel, &self.options)?;
        let plan = Plan {
            udp_listen: Endpoint::resolve_all(&udp_listen, &self.options)?,
            tcp_listen: Endpoint::resolve_all(&tcp_listen, &self.options)?,
            tcp_output: Endpoint::resolve_all(&tcp_output, &self.options)?,
            udp_output: Endpoint::resolve_all(&udp_output, &self.options)?,
            channel: channel.first().cloned(),
        };
        refuse_loops(&plan.udp_listen, &channel)?;
        refuse_loops(&plan.udp_listen, &plan.udp_output)?;
        refuse_loops(&channel, &plan.udp_output)?;
        Ok(plan)
    }
}

/// Every endpoint, checked and resolved.
struct Plan {
    udp_listen: Vec<Resolved>,
    tcp_listen: Vec<Resolved>,
    channel: Option<Resolved>,
    tcp_output: Vec<Resolved>,
    udp_output: Vec<Resolved>,
}

impl Plan {
    fn has_inputs(&self) -> bool {
        !self.udp_listen.is_empty() || !self.tcp_listen.is_empty()
    }
}

/// One relay, to run on a thread of its own; an input holds on to `last_input` until its end.
fn task(
    mut source: impl Source + Send + 'static,
    mut sinks: Sinks,
    stop: &Stop,
    last_input: Option<Arc<StopOnDrop>>,
) -> Task {
    let stop = stop.clone();
    Box::new(move || {
        let _until_the_end = last_input;
        relay(&mut source, &mut sinks, &stop)
    })
}

/// A meter that no statistics show.
fn unlisted(name: &Resolved) -> mproxy_core::Meter {
    Registry::default().endpoint(name, Direction::Channel)
}
