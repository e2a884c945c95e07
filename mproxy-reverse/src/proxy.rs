//! A proxy while it starts: its channel, and the threads of its inputs and outputs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use mproxy_core::{
    Acceptor, Connection, Direction, Error, Handle, Label, Meter, Permit, Places, Plain, Program, Registry,
    Resolved, Sinks, Source, Stdout, Stop, StopOnDrop, StreamSource, Task, TcpClient, Transport, UdpSink,
    UdpSource, UdpTarget, check_descriptor_limit, datagram_size, listen_tcp, relay, spawn,
};

use crate::Reverse;
use crate::channel::Channel;
use crate::plan::{Kind, Plan};

/// Receive buffer (`SO_RCVBUF`) of a TCP client's channel socket: modest, so that many stalled clients do not
/// take all of the host's memory for UDP.
const CLIENT_RECV_BUFFER: usize = 1 << 20;

pub(crate) struct Proxy<'a> {
    reverse: &'a Reverse,
    program: Program,
    registry: Registry,
    channel: Arc<Channel>,
    /// The places of all TCP and TLS clients.
    clients: Places,
    /// The transport of the TLS endpoints.
    tls: Arc<dyn Transport>,
    /// The stop request of the inputs.
    inputs: Stop,
    /// The stop request of the outputs: made once the last input is drained.
    outputs: Stop,
    /// A reference for each input until it is drained; the last one stops the outputs.
    last_input: Option<Arc<StopOnDrop>>,
}

/// Makes the task of a connection, which has its permit.
type Serve = dyn FnMut(Box<dyn Connection>, SocketAddr, Permit) -> Result<Task, Error> + Send;

/// A TCP endpoint and its listeners.
pub(crate) struct TcpEndpoint {
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
        let max_clients = reverse.max_clients_or_default();
        let limits = [[Kind::TcpListen, Kind::TlsListen], [Kind::TcpOutput, Kind::TlsOutput]];
        check_descriptor_limit(limits.iter().filter(|kinds| reverse.has(&kinds[..])).count(), max_clients);
        let clients = Places::new(max_clients);
        Ok(Self { reverse, program, registry, channel, clients, tls, inputs, outputs, last_input })
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
        all: &mut Vec<TcpEndpoint>,
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
            all.push(TcpEndpoint { endpoint: endpoint.clone(), listeners, transport: transport.clone() });
        }
        Ok(())
    }

    /// One thread for all UDP outputs; none with a private channel, whose inputs send to them.
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
        self.start_output("udp output", vec![Box::new(UdpSink::open(&all))])
    }

    /// One thread for standard output, with its own membership of the channel, so that it holds up no other
    /// output.
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

    /// One thread for each endpoint, which accepts, and one for each of its clients.
    pub(crate) fn start_tcp_outputs(&self, all: Vec<TcpEndpoint>) -> Result<(), Error> {
        if !all.is_empty() {
            // A channel that cannot be joined fails now, rather than for each client.
            drop(self.channel.source(&self.reverse.options, &self.outputs)?);
        }
        let options = Arc::new(self.reverse.options.clone().or_recv_buffer(CLIENT_RECV_BUFFER));
        let framing = options.chosen_framing();
        for tcp_endpoint in all {
            let meter = self.registry.endpoint(&tcp_endpoint.endpoint, Direction::Out);
            let (channel, outputs, options) = (self.channel.clone(), self.outputs.clone(), options.clone());
            let counted = meter.clone();
            let serve = move |connection: Box<dyn Connection>, peer: SocketAddr, permit: Permit| {
                let source = channel.source(&options, &outputs)?;
                let client = TcpClient::new(connection, peer, framing, source, &counted, &outputs, permit)?;
                Ok(task(client, Vec::new(), &outputs, None))
            };
            self.start_accepting(tcp_endpoint, meter, &self.clients, false, Box::new(serve))?;
        }
        Ok(())
    }

    /// One thread for each endpoint, which accepts, and one for each connection.
    pub(crate) fn start_tcp_inputs(&self, all: Vec<TcpEndpoint>) -> Result<(), Error> {
        let senders = Places::new(self.reverse.max_clients_or_default());
        for tcp_endpoint in all {
            let meter = self.registry.endpoint(&tcp_endpoint.endpoint, Direction::In);
            let counted = meter.clone();
            let (channel, stop, last_input) =
                (self.channel.clone(), self.inputs.clone(), self.last_input.clone());
            let options = self.reverse.options.clone();
            let serve = move |connection: Box<dyn Connection>, peer: SocketAddr, permit: Permit| {
                let sink = channel.sink();
                let size = datagram_size(&options, &sink);
                let source = StreamSource::new(
                    connection,
                    peer.to_string(),
                    options.chosen_framing(),
                    size,
                    &stop,
                    counted.counters(),
                );
                let task = task(source, vec![Box::new(sink)], &stop, last_input.clone());
                let with_permit: Task = Box::new(move || {
                    let _permit = permit;
                    task()
                });
                Ok(with_permit)
            };
            self.start_accepting(tcp_endpoint, meter, &senders, true, Box::new(serve))?;
        }
        Ok(())
    }

    fn start_accepting(
        &self,
        tcp_endpoint: TcpEndpoint,
        meter: Meter,
        places: &Places,
        is_input: bool,
        mut serve: Box<Serve>,
    ) -> Result<(), Error> {
        let stop = self.inputs.clone();
        let TcpEndpoint { endpoint, listeners, transport } = tcp_endpoint;
        let label = Label::new(is_input, &*transport);
        let acceptor = Acceptor {
            label,
            listeners,
            transport,
            allow: self.reverse.options.allowed().clone(),
            meter,
            places: places.clone(),
            clients: self.clients.clone(),
        };
        let accept = move || {
            let mut threads = Vec::new();
            acceptor.run(&stop, &mut |connection, peer, permit| {
                threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
                let (task, stop) = (serve(connection, peer, permit)?, stop.clone());
                let run = move || {
                    label.log_connected(peer);
                    label.log_ended(peer, &task(), &stop);
                };
                threads.push(spawn(peer.to_string(), Box::new(run))?);
                Ok(())
            })?;
            for thread in threads {
                // A panic has printed its own message.
                let _ = thread.join();
            }
            Ok(())
        };
        self.program.thread(endpoint.to_string(), Box::new(accept))
    }

    /// One thread for each listener.
    pub(crate) fn start_udp_inputs(&self, sources: Vec<UdpSource>) -> Result<(), Error> {
        for source in sources {
            let task =
                task(source, vec![Box::new(self.channel.sink())], &self.inputs, self.last_input.clone());
            self.program.thread("udp input".to_owned(), task)?;
        }
        Ok(())
    }

    pub(crate) fn handle(self) -> Handle {
        self.program.handle()
    }
}

/// The task of a relay's thread. An input's holds `last_input` until its end.
fn task(
    mut source: impl Source + Send + 'static,
    mut sinks: Sinks,
    stop: &Stop,
    last_input: Option<Arc<StopOnDrop>>,
) -> Task {
    let stop = stop.clone();
    Box::new(move || {
        let _last_input = last_input;
        relay(&mut source, &mut sinks, &stop)
    })
}
