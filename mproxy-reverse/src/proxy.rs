//! A proxy while it starts: its channel, and the threads of its inputs and outputs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use mproxy_core::{
    Acceptor, Connection, Direction, Error, FanIn, FanOut, FanOutHandle, Handle, Label, Meter, Permit,
    Places, Plain, PolledSource, Program, Registry, Resolved, Sinks, Source, Stdout, Stop, StopOnDrop, Task,
    Transport, UdpSink, UdpSource, UdpTarget, check_descriptor_limit, datagram_size, listen_tcp, relay,
};

use crate::Reverse;
use crate::channel::Channel;
use crate::plan::{Kind, Plan};

pub(crate) struct Proxy<'a> {
    reverse: &'a Reverse,
    program: Program,
    registry: Registry,
    /// One thread receives what comes in and hands it out: there is no channel.
    is_direct: bool,
    /// The places of all TCP and TLS clients, and those of all connections that send data.
    clients: Places,
    senders: Places,
    /// The transport of the TLS endpoints.
    tls: Arc<dyn Transport>,
    /// The stop request of the inputs.
    inputs: Stop,
    /// The stop request of the outputs: made once the last input is drained.
    outputs: Stop,
    /// A reference for each input until it is drained; the last one stops the outputs.
    last_input: Option<Arc<StopOnDrop>>,
}

/// A TCP endpoint and its listeners.
pub(crate) struct TcpEndpoint {
    endpoint: Resolved,
    listeners: Vec<TcpListener>,
    transport: Arc<dyn Transport>,
}

/// All listeners, opened before any thread is started.
pub(crate) struct Listeners {
    udp_inputs: Vec<UdpSource>,
    tcp_inputs: Vec<TcpEndpoint>,
    tcp_outputs: Vec<TcpEndpoint>,
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
        let is_direct = plan.is_direct(reverse);
        let has_channel = reverse.has_inputs() && !is_direct;
        let outputs = if has_channel { Stop::new()? } else { inputs.clone() };
        let last_input = has_channel.then(|| Arc::new(StopOnDrop(outputs.clone())));
        let max = reverse.max_clients_or_default();
        let limits = [[Kind::TcpListen, Kind::TlsListen], [Kind::TcpOutput, Kind::TlsOutput]];
        check_descriptor_limit(limits.iter().filter(|kinds| reverse.has(&kinds[..])).count(), max);
        let (clients, senders) = (Places::new(max), Places::new(max));
        Ok(Self { reverse, program, registry, is_direct, clients, senders, tls, inputs, outputs, last_input })
    }

    pub(crate) fn listen(&mut self, plan: &Plan) -> Result<Listeners, Error> {
        let mut udp_inputs = Vec::new();
        for endpoint in plan.of(Kind::UdpListen) {
            let meter = self.registry.endpoint(endpoint, Direction::In);
            for source in UdpSource::open(endpoint, &self.reverse.options, &meter, &self.inputs)? {
                self.program.receives_with(&source);
                udp_inputs.push(source);
            }
        }
        let tcp_inputs = self.listen_tcp(plan, [Kind::TcpListen, Kind::TlsListen])?;
        let tcp_outputs = self.listen_tcp(plan, [Kind::TcpOutput, Kind::TlsOutput])?;
        Ok(Listeners { udp_inputs, tcp_inputs, tcp_outputs })
    }

    /// Listens on the endpoints of two kinds: without TLS, and with it.
    fn listen_tcp(&mut self, plan: &Plan, kinds: [Kind; 2]) -> Result<Vec<TcpEndpoint>, Error> {
        let mut all = Vec::new();
        for (kind, transport) in kinds.into_iter().zip([Arc::new(Plain), self.tls.clone()]) {
            for endpoint in plan.of(kind) {
                let listeners = listen_tcp(endpoint, &self.reverse.options)?;
                for listener in &listeners {
                    self.program.listens_on(listener.local_addr());
                }
                let (endpoint, transport) = (endpoint.clone(), transport.clone());
                all.push(TcpEndpoint { endpoint, listeners, transport });
            }
        }
        Ok(all)
    }

    /// Starts all threads: outputs before inputs.
    pub(crate) fn start(&mut self, plan: &Plan, listeners: Listeners) -> Result<(), Error> {
        let mut channel = Channel::open(self.reverse, plan, &mut self.program);
        let stdout = if self.reverse.tee { Some(self.stdout()?) } else { None };
        if self.is_direct {
            return self.start_direct(&channel, stdout.as_ref(), listeners);
        }
        // Others may send to a group: what comes from it is copied by a thread that has joined it.
        let has_group = !plan.of(Kind::Channel).is_empty();
        let (mut of_output, of_inputs) = if has_group { (stdout, None) } else { (None, stdout) };
        if has_group {
            self.start_udp_output(plan, &mut channel, &mut of_output)?;
        }
        for endpoint in listeners.tcp_outputs {
            let mut handles = Vec::new();
            for _ in 0..self.reverse.options.chosen_threads() {
                let mut fan_out = self.fan_out(&endpoint)?;
                fan_out.add_source(Box::new(channel.source(&self.reverse.options, &self.outputs)?))?;
                handles.push(fan_out.handle());
                self.start_output("clients", fan_out, tee(of_output.take().as_ref(), &self.outputs))?;
            }
            self.accept_clients(endpoint, handles)?;
        }
        if let Some(stdout) = of_output {
            let source = channel.source(&self.reverse.options, &self.outputs)?;
            self.start_output("tee", source, tee(Some(&stdout), &self.outputs))?;
        }
        for endpoint in listeners.tcp_inputs {
            let sink = channel.sink();
            let fan_in = self.accept_senders(endpoint, &sink)?;
            self.start_input("tcp input", fan_in, self.input_sinks(sink, of_inputs.as_ref()))?;
        }
        for source in listeners.udp_inputs {
            let sinks = self.input_sinks(channel.sink(), of_inputs.as_ref());
            self.start_input("udp input", source, sinks)?;
        }
        Ok(())
    }

    /// Starts all outputs on the thread of the only input.
    fn start_direct(
        &self,
        channel: &Channel,
        stdout: Option<&Stdout>,
        listeners: Listeners,
    ) -> Result<(), Error> {
        let mut sources: Vec<Box<dyn PolledSource + Send>> = Vec::new();
        for endpoint in listeners.tcp_inputs {
            sources.push(Box::new(self.accept_senders(endpoint, &channel.sink())?));
        }
        for source in listeners.udp_inputs {
            sources.push(Box::new(source));
        }
        for endpoint in listeners.tcp_outputs {
            let mut fan_out = self.fan_out(&endpoint)?;
            if !channel.is_empty() || stdout.is_some() {
                // No client holds up UDP outputs and standard output.
                fan_out = fan_out.never_wait();
            }
            for source in sources.drain(..) {
                fan_out.add_source(source)?;
            }
            self.accept_clients(endpoint, vec![fan_out.handle()])?;
            self.start_input("clients", fan_out, self.input_sinks(channel.sink(), stdout))?;
        }
        for source in sources {
            self.start_input("input", source, self.input_sinks(channel.sink(), stdout))?;
        }
        Ok(())
    }

    /// One thread for all UDP outputs of a group. Without a group the inputs send to them.
    fn start_udp_output(
        &mut self,
        plan: &Plan,
        channel: &mut Channel,
        stdout: &mut Option<Stdout>,
    ) -> Result<(), Error> {
        let targets = plan.of(Kind::UdpOutput);
        if targets.is_empty() {
            return Ok(());
        }
        let mut all = Vec::new();
        for target in targets {
            let meter = self.registry.endpoint(target, Direction::Out);
            let target = UdpTarget::new(target, &self.reverse.options, meter);
            self.program.sends_to(&target);
            all.push(target);
        }
        let source = channel.source(&self.reverse.options, &self.outputs)?;
        let mut sinks: Sinks = vec![Box::new(UdpSink::open(&all))];
        sinks.extend(tee(stdout.take().as_ref(), &self.outputs));
        self.start_output("udp output", source, sinks)
    }

    /// The sinks of an input thread.
    fn input_sinks(&self, sink: UdpSink, stdout: Option<&Stdout>) -> Sinks {
        let mut sinks: Sinks = vec![Box::new(sink)];
        sinks.extend(tee(stdout, &self.inputs));
        sinks
    }

    fn stdout(&self) -> Result<Stdout, Error> {
        let reverse = self.reverse;
        let meter = self.registry.endpoint("standard output", Direction::Out);
        let only = !reverse.has(&[Kind::TcpOutput, Kind::TlsOutput, Kind::UdpOutput, Kind::Channel]);
        Stdout::open(reverse.options.chosen_framing(), only, meter)
    }

    fn fan_out(&self, endpoint: &TcpEndpoint) -> Result<FanOut, Error> {
        let meter = self.registry.endpoint(&endpoint.endpoint, Direction::Out);
        let label = Label::new(false, &*endpoint.transport);
        FanOut::new(&self.reverse.options, label, &meter, &self.outputs)
    }

    /// Starts the thread that accepts the clients of an output, which the fan-outs share.
    fn accept_clients(&self, endpoint: TcpEndpoint, fan_outs: Vec<FanOutHandle>) -> Result<(), Error> {
        let meter = self.registry.endpoint(&endpoint.endpoint, Direction::Out);
        self.accept(endpoint, false, meter, move |connection, peer, permit| {
            if let Some(fan_out) = fan_outs.iter().min_by_key(|fan_out| fan_out.clients()) {
                fan_out.add_client(connection, peer, permit);
            }
            Ok(())
        })
    }

    /// The connections of an input, and the thread that accepts them.
    fn accept_senders(&self, endpoint: TcpEndpoint, sink: &UdpSink) -> Result<FanIn, Error> {
        let options = &self.reverse.options;
        let meter = self.registry.endpoint(&endpoint.endpoint, Direction::In);
        let size = datagram_size(options, sink);
        let fan_in = FanIn::new(&*endpoint.transport, options.chosen_framing(), size, &meter, &self.inputs)
            .linger(options.chosen_linger());
        let handle = fan_in.handle();
        self.accept(endpoint, true, meter, move |connection, peer, permit| {
            handle.add(connection, peer, Box::new(permit));
            Ok(())
        })?;
        Ok(fan_in)
    }

    fn accept(
        &self,
        endpoint: TcpEndpoint,
        is_input: bool,
        meter: Meter,
        mut accepted: impl FnMut(Box<dyn Connection>, SocketAddr, Permit) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let TcpEndpoint { endpoint, listeners, transport } = endpoint;
        let acceptor = Acceptor {
            label: Label::new(is_input, &*transport),
            listeners,
            transport,
            allow: self.reverse.options.allowed().clone(),
            meter,
            places: if is_input { &self.senders } else { &self.clients }.clone(),
            clients: self.clients.clone(),
        };
        let stop = self.inputs.clone();
        self.program.thread(endpoint.to_string(), Box::new(move || acceptor.run(&stop, &mut accepted)))
    }

    fn start_input(
        &self,
        name: &str,
        source: impl Source + Send + 'static,
        sinks: Sinks,
    ) -> Result<(), Error> {
        self.program.thread(name.to_owned(), task(source, sinks, &self.inputs, self.last_input.clone()))
    }

    fn start_output(
        &self,
        name: &str,
        source: impl Source + Send + 'static,
        sinks: Sinks,
    ) -> Result<(), Error> {
        self.program.thread(name.to_owned(), task(source, sinks, &self.outputs, None))
    }

    pub(crate) fn handle(self) -> Handle {
        self.program.handle()
    }
}

/// A sink to standard output, where there is to be one.
fn tee(stdout: Option<&Stdout>, stop: &Stop) -> Sinks {
    stdout.map(|stdout| Box::new(stdout.sink(stop)) as Box<_>).into_iter().collect()
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
