//! Forwards UDP endpoints, and TCP and TLS servers that it connects to, to many UDP endpoints.
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use mproxy_forward::Forward;
//!
//! # fn main() -> Result<(), mproxy_forward::Error> {
//! let forward = Forward::new()
//!     .udp_listen("127.0.0.1:0")
//!     .target("127.0.0.1:9921")
//!     .target(SocketAddr::from(([127, 0, 0, 1], 9922)))
//!     .spawn()?;
//! println!("listening on {}", forward.local_addrs()[0]);
//! forward.stop();
//! forward.join()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod compat;

use std::fmt::Display;
use std::sync::Arc;

#[allow(deprecated)]
pub use compat::{forward_udp, proxy_gateway, proxy_tcp_udp};
#[cfg(feature = "tls")]
#[allow(deprecated)]
pub use compat::{proxy_tls_udp, tls_connection};
pub use mproxy_core::{
    Allow, Direction, EndpointStats, Error, Framing, Handle, Options, Stats, Stopper, Tls,
};
use mproxy_core::{
    Endpoint, Plain, Program, Resolved, Role, Sinks, Stdout, Stop, TcpServerSource, Transport, UdpSink,
    UdpSource, UdpTarget, check_options, datagram_size, refuse_loops,
};
/// The version of it whose connection [`tls_connection`] returns.
#[cfg(feature = "tls")]
#[doc(no_inline)]
pub use rustls;

/// What to receive, and where to send it. An endpoint is a text or a [`SocketAddr`](std::net::SocketAddr).
/// See the [crate's](crate) example.
#[derive(Debug, Clone, Default)]
pub struct Forward {
    udp_listen: Vec<String>,
    tcp_connect: Vec<String>,
    tls_connect: Vec<String>,
    tls: Tls,
    targets: Vec<String>,
    tee: bool,
    options: Options,
}

impl Forward {
    /// A forward without endpoints.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a UDP endpoint to receive on: `[SOURCE@]HOST[%ZONE]:PORT`. Port 0 is one that the system
    /// chooses; [`Handle::local_addrs`] tells it.
    #[must_use]
    pub fn udp_listen(mut self, endpoint: impl Display) -> Self {
        self.udp_listen.push(endpoint.to_string());
        self
    }

    /// Adds a TCP server to connect to: `HOST:PORT`. When the connection ends it is made again, after
    /// half a second at first and 30 seconds at most, and the name is resolved again.
    #[must_use]
    pub fn tcp_connect(mut self, endpoint: impl Display) -> Self {
        self.tcp_connect.push(endpoint.to_string());
        self
    }

    /// Adds a TLS server to connect to: `HOST:PORT`, as [`tcp_connect`](Self::tcp_connect) does. Its
    /// certificate must be valid, of a trusted authority, and for that host, unless [`tls`](Self::tls) says
    /// for which name. Needs the feature `tls`: without it this is wrong use.
    #[must_use]
    pub fn tls_connect(mut self, endpoint: impl Display) -> Self {
        self.tls_connect.push(endpoint.to_string());
        self
    }

    /// Which authorities and name the certificates of TLS servers must have, and what to show to those
    /// that ask for a certificate.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Adds a UDP endpoint that everything is sent to: `HOST[%ZONE]:PORT`.
    #[must_use]
    pub fn target(mut self, endpoint: impl Display) -> Self {
        self.targets.push(endpoint.to_string());
        self
    }

    /// Copies everything to standard output too.
    #[must_use]
    pub fn tee(mut self, tee: bool) -> Self {
        self.tee = tee;
        self
    }

    /// How sockets are set up, and how the bytes of a TCP or TLS server are cut into datagrams, each
    /// server's by themselves.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Opens everything and starts to forward.
    ///
    /// # Errors
    /// Wrong use, such as a target that is the forward's own listener; a name that does not resolve; an
    /// address in use.
    pub fn spawn(&self) -> Result<Handle, Error> {
        self.tls.check(!self.tls_connect.is_empty())?;
        if self.udp_listen.is_empty() && self.tcp_connect.is_empty() && self.tls_connect.is_empty() {
            return Err(Error::usage(
                "nothing to do: give a UDP address to listen on, or a TCP server to connect to",
            ));
        }
        if self.targets.is_empty() && !self.tee {
            return Err(Error::usage(
                "nothing to do: give a UDP target to send to, or tee to copy to standard output",
            ));
        }
        let listeners = Endpoint::parse_all(&self.udp_listen, Role::UdpListener)?;
        let tcp_servers = Endpoint::parse_all(&self.tcp_connect, Role::TcpServer)?;
        let tls_servers = Endpoint::parse_all(&self.tls_connect, Role::TcpServer)?;
        let targets = Endpoint::parse_all(&self.targets, Role::UdpTarget)?;
        check_options(&self.options)?;
        let listeners = Endpoint::resolve_all(&listeners, &self.options)?;
        let tcp_servers = Endpoint::resolve_all(&tcp_servers, &self.options)?;
        let tls_servers = Endpoint::resolve_all(&tls_servers, &self.options)?;
        let targets = Endpoint::resolve_targets(&targets, &self.options)?;
        for server in tcp_servers.iter().chain(&tls_servers) {
            server.require_unicast()?;
        }
        refuse_loops(&listeners, &targets)?;

        let mut program = Program::new()?;
        let stop = program.stop().clone();
        let registry = program.registry().clone();
        let mut servers: Vec<(Resolved, Arc<dyn Transport>)> = Vec::new();
        for server in tcp_servers {
            servers.push((server, Arc::new(Plain)));
        }
        for server in tls_servers {
            let (transport, reload) = self.tls.connector(&server.endpoint)?;
            program.reloads_with(reload);
            servers.push((server, transport));
        }
        let mut udp = Vec::new();
        for listener in &listeners {
            let meter = registry.endpoint(listener, Direction::In);
            udp.extend(UdpSource::open(listener, &self.options, &meter, &stop)?);
        }
        let mut outputs = Outputs { targets: Vec::new(), stdout: None };
        for target in &targets {
            let meter = registry.endpoint(target, Direction::Out);
            let target = UdpTarget::new(target, &self.options, meter);
            program.sends_to(&target);
            outputs.targets.push(target);
        }
        program.avoids(&listeners);
        if self.tee {
            let meter = registry.endpoint("standard output", Direction::Out);
            outputs.stdout =
                Some(Stdout::open(self.options.chosen_framing(), self.targets.is_empty(), meter)?);
        }
        for source in udp {
            let address = source.local_addr();
            let name = address.as_ref().map_or_else(|_| "udp".to_owned(), ToString::to_string);
            program.receives_with(&source);
            program.relay(name, Box::new(source), outputs.sinks(outputs.open(), &stop))?;
        }
        for (server, transport) in servers {
            let meter = registry.endpoint(&server, Direction::In);
            let sink = outputs.open();
            let size = datagram_size(&self.options, &sink);
            let name = server.to_string();
            let source = TcpServerSource::new(server, transport, &self.options, size, meter, &stop);
            program.relay(name, Box::new(source), outputs.sinks(sink, &stop))?;
        }
        Ok(program.handle())
    }
}

/// Where everything goes; each thread has sinks of its own.
struct Outputs {
    targets: Vec<UdpTarget>,
    stdout: Option<Stdout>,
}

impl Outputs {
    fn open(&self) -> UdpSink {
        UdpSink::open(&self.targets)
    }

    fn sinks(&self, udp: UdpSink, stop: &Stop) -> Sinks {
        let mut sinks: Sinks = vec![Box::new(udp)];
        if let Some(stdout) = &self.stdout {
            sinks.push(Box::new(stdout.sink(stop)));
        }
        sinks
    }
}
