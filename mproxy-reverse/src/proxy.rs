//! A proxy that is being started: its channel, and the threads on either side of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use mproxy_core::{
    ClientSink, Connection, Direction, Error, Handle, Meter, Plain, Program, Registry, Resolved, Sinks,
    Source, Stdout, Stop, StopOnDrop, StreamSource, Task, Transport, UdpSource, UdpTarget, boxed,
    datagram_size, listen_tcp, open_all, relay,
};

use crate::Reverse;
use crate::channel::Channel;
use crate::connections::{Acceptor, Connections, Serve};
use crate::plan::{Kind, Plan};

/// Receive buffer of a TCP client's channel socket: modest, so that many stalled clients together do
/// not take all the memory that the host has for UDP.
const CLIENT_RECV_BUFFER: usize = 1 << 20;

pub(crate) struct Proxy<'a> {
    reverse: &'a Reverse,
    program: Program,
    registry: Registry,
    channel: Arc<Channel>,
    /// What the TLS endpoints use.
    tls: Arc<dyn Transport>,
    inputs: Stop,
    outputs: Stop,
    /// Held by each input until it has delivered what it held: then the outputs may stop.
    last_input: Option<Arc<StopOnDrop>>,
}

/// A TCP endpoint that is listened on.
pub(crate) struct Listening {
    endpoint: Resolved,
    listeners: Vec<TcpListener>,
    transport: Arc<dyn Transport>,
}

impl<'a> Proxy<'a> {
    pub(crate) fn open(reverse: &'a Reverse, plan: &Plan) -> Result<Self, Error> {
        let mut program = Program::new()?;
        let uses_tls = reverse.has(&[Kind::TlsListen, Kind::TlsOutput]);
        let mut tls: Arc<dyn Transport> = Arc::new(Plain);
        if uses_tls {
            let (acceptor, reload) = reverse.tls.acceptor()?;
            program.reloads_with(reload);
            tls = acceptor;
        }
        let registry = program.registry().clone();
        let inputs = program.stop().clone();
        let outputs = if reverse.has_inputs() { Stop::new()? } else { inputs.clone() };
        let last_input = reverse.has_inputs().then(|| Arc::new(StopOnDrop(outputs.clone())));
        let channel = Arc::new(Channel::open(reverse, plan, &mut program)?);
        Ok(Self { reverse, program, registry, channel, tls, inputs, outputs, last_input })
    }

    pub(crate) fn listen_udp(&mut self, endpoints: &[Resolved]) -> Result<Vec<UdpSource>, Error> {
        let mut sources = Vec::new();
        for endpoint in endpoints {
            let meter = self.registry.endpoint(endpoint, Direction::In);
            for source in UdpSource::open(endpoint, &self.reverse.options, &meter, &self.inputs)? {
                self.program.receives_with(&source);
                sources.push(source);
            }
        }
        Ok(sources)
    }

    pub(crate) fn listen_tcp(
        &mut self,
        plan: &Plan,
        kind: Kind,
        all: &mut Vec<Listening>,
    ) -> Result<(), Error> {
        let transport = match kind {
            Kind::TlsListen | Kind::TlsOutput => self.tls.clone(),
            _ => Arc::new(Plain),
        };
        for endpoint in plan.of(kind) {
            let listeners = listen_tcp(endpoint, &self.reverse.options)?;
            for listener in &listeners {
                self.program.listens_on(listener.local_addr());
            }
            all.push(Listening { endpoint: endpoint.clone(), listeners, transport: transport.clone() });
        }
        Ok(())
    }

    /// One thread for all targets, unless the inputs send to them.
    pub(crate) fn start_udp_output(&mut self, targets: &[Resolved]) -> Result<(), Error> {
        if targets.is_empty() || self.channel.is_private() {
            return Ok(());
        }
        let mut all = Vec::new();
        for target in targets {
            let meter = self.registry.endpoint(target, Direction::Out);
            let target = UdpTarget::new(target, &self.reverse.options, meter);
            self.program.sends_to(&target);
            all.push(target);
        }
        self.start_output("udp output", boxed(open_all(&all)))
    }

    /// Standard output is one more reader of the channel, so that it holds up nobody else.
    pub(crate) fn start_tee(&self) -> Result<(), Error> {
        let reverse = self.reverse;
        if !reverse.tee {
            return Ok(());
        }
        let meter = self.registry.endpoint("standard output", Direction::Out);
        let only = !reverse.has(&[Kind::TcpOutput, Kind::TlsOutput, Kind::UdpOutput, Kind::Channel]);
        let stdout = Stdout::open(reverse.options.chosen_framing(), only, meter)?.sink(&self.outputs);
        self.start_output("tee", vec![Box::new(stdout)])
    }

    fn start_output(&self, name: &str, sinks: Sinks) -> Result<(), Error> {
        let source = self.channel.source(&self.reverse.options, &self.outputs)?;
        self.program.thread(name.to_owned(), task(source, sinks, &self.outputs, None))
    }

    /// One thread for each endpoint, and one for each of its clients.
    pub(crate) fn start_tcp_outputs(&self, all: Vec<Listening>) -> Result<(), Error> {
        if !all.is_empty() {
            // What would fail for each client should fail now.
            drop(self.channel.source(&self.reverse.options, &self.outputs)?);
        }
        let clients = Connections::new(self.reverse.max_clients_or_default());
        let options = Arc::new(self.reverse.options.clone().or_recv_buffer(CLIENT_RECV_BUFFER));
        let framing = options.chosen_framing();
        for listening in all {
            let meter = self.registry.endpoint(&listening.endpoint, Direction::Out);
            let (channel, outputs, options) = (self.channel.clone(), self.outputs.clone(), options.clone());
            let counted = meter.clone();
            let serve = move |connection: Box<dyn Connection>, peer: SocketAddr| {
                let source = channel.source(&options, &outputs)?;
                let (sink, source) = ClientSink::new(connection, peer, framing, source, &counted, &outputs)?;
                Ok(task(source, vec![Box::new(sink)], &outputs, None))
            };
            self.start_accepting(listening, false, meter, &clients, Arc::new(serve))?;
        }
        Ok(())
    }

    /// One thread for each endpoint, and one for each connection.
    pub(crate) fn start_tcp_inputs(&self, all: Vec<Listening>) -> Result<(), Error> {
        let senders = Connections::new(self.reverse.max_clients_or_default());
        for listening in all {
            let meter = self.registry.endpoint(&listening.endpoint, Direction::In);
            let counted = meter.clone();
            let (channel, stop, last_input) =
                (self.channel.clone(), self.inputs.clone(), self.last_input.clone());
            let options = self.reverse.options.clone();
            let serve = move |connection: Box<dyn Connection>, peer: SocketAddr| {
                let sinks = channel.sinks();
                let size = datagram_size(&options, &sinks);
                let source = StreamSource::new(
                    connection,
                    peer.to_string(),
                    options.chosen_framing(),
                    size,
                    &stop,
                    counted.counters(),
                );
                Ok(task(source, boxed(sinks), &stop, last_input.clone()))
            };
            self.start_accepting(listening, true, meter, &senders, Arc::new(serve))?;
        }
        Ok(())
    }

    fn start_accepting(
        &self,
        listening: Listening,
        inward: bool,
        meter: Meter,
        connections: &Connections,
        serve: Arc<Serve>,
    ) -> Result<(), Error> {
        let (connections, stop) = (connections.clone(), self.inputs.clone());
        let Listening { endpoint, listeners, transport } = listening;
        let what = match (inward, transport.has_handshake()) {
            (true, true) => "TLS input",
            (true, false) => "TCP input",
            (false, true) => "TLS client",
            (false, false) => "TCP client",
        };
        let allow = self.reverse.options.allowed().clone();
        let acceptor = Arc::new(Acceptor { what, inward, listeners, transport, allow, meter, serve });
        let accept = move || connections.accept(&acceptor, &stop);
        self.program.thread(endpoint.to_string(), Box::new(accept))
    }

    /// One thread for each listener.
    pub(crate) fn start_udp_inputs(&self, sources: Vec<UdpSource>) -> Result<(), Error> {
        for source in sources {
            let task = task(source, boxed(self.channel.sinks()), &self.inputs, self.last_input.clone());
            self.program.thread("udp input".to_owned(), task)?;
        }
        Ok(())
    }

    pub(crate) fn handle(self) -> Handle {
        self.program.handle()
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
