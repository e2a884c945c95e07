//! Gathers UDP endpoints and accepted TCP and TLS connections in one channel, and hands it out to many TCP and
//! TLS clients and UDP endpoints. One thread reads all connections of an input, and one serves all clients of an
//! output.
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use mproxy_reverse::Reverse;
//!
//! # fn main() -> Result<(), mproxy_reverse::Error> {
//! let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
//! let reverse = Reverse::new().udp_listen(any_port).tcp_output("127.0.0.1:0").spawn()?;
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
mod plan;
mod proxy;

use std::fmt::Display;

#[allow(deprecated)]
pub use compat::{reverse_proxy_tcp_udp, reverse_proxy_udp, reverse_proxy_udp_tcp};
pub use mproxy_core::{
    Allow, Direction, EndpointStats, Error, Framing, Handle, Options, Stats, Stopper, Tls,
};

pub use crate::plan::Kind;
use crate::plan::Plan;
use crate::proxy::Proxy;

/// TCP clients that are served at the same time, unless told otherwise.
const MAX_CLIENTS: usize = 1024;

/// What to gather, and whom to hand it out to. An endpoint is a text or a
/// [`SocketAddr`](std::net::SocketAddr). See the [crate's](crate) example.
#[derive(Debug, Clone, Default)]
pub struct Reverse {
    endpoints: Vec<(Kind, String)>,
    tls: Tls,
    tee: bool,
    max_clients: Option<usize>,
    options: Options,
}

impl Reverse {
    /// A reverse proxy without endpoints.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an endpoint of a kind, as the functions below do.
    #[must_use]
    pub fn endpoint(mut self, kind: Kind, endpoint: impl Display) -> Self {
        self.endpoints.push((kind, endpoint.to_string()));
        self
    }

    /// Adds a UDP endpoint to receive on: `[SOURCE@]HOST[%ZONE]:PORT`. Port 0 is one that the system
    /// chooses; [`Handle::local_addrs`] tells it, as it does for the TCP endpoints: inputs before outputs,
    /// and UDP before TCP before TLS.
    #[must_use]
    pub fn udp_listen(self, endpoint: impl Display) -> Self {
        self.endpoint(Kind::UdpListen, endpoint)
    }

    /// Adds a TCP endpoint on which to accept connections that send data: `HOST:PORT`.
    #[must_use]
    pub fn tcp_listen(self, endpoint: impl Display) -> Self {
        self.endpoint(Kind::TcpListen, endpoint)
    }

    /// Adds a TLS endpoint on which to accept connections that send data: `HOST:PORT`. It needs a
    /// certificate, which [`tls`](Self::tls) names, and the feature `tls`: without it this is wrong use.
    #[must_use]
    pub fn tls_listen(self, endpoint: impl Display) -> Self {
        self.endpoint(Kind::TlsListen, endpoint)
    }

    /// The multicast group to route through: `GROUP[%ZONE]:PORT`. Others on the network can join it, and
    /// what they send to it is handed out too. By default the channel is private to this process: a pair of
    /// connected UDP sockets on the loopback interface for each output thread, which no other process can read or
    /// send into without raw sockets; and none with one input endpoint and one output thread, which is one thread
    /// then. Of several groups, the first is the channel, and what comes in is sent to the others too.
    #[must_use]
    pub fn multicast(self, group: impl Display) -> Self {
        self.endpoint(Kind::Channel, group)
    }

    /// Adds a TCP endpoint on which to accept clients that get everything: `HOST:PORT`.
    #[must_use]
    pub fn tcp_output(self, endpoint: impl Display) -> Self {
        self.endpoint(Kind::TcpOutput, endpoint)
    }

    /// Adds a TLS endpoint on which to accept clients that get everything: `HOST:PORT`. It needs what
    /// [`tls_listen`](Self::tls_listen) does.
    #[must_use]
    pub fn tls_output(self, endpoint: impl Display) -> Self {
        self.endpoint(Kind::TlsOutput, endpoint)
    }

    /// The certificate of the TLS endpoints, and whose certificate lets a client in: by default nobody
    /// needs one.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Adds a UDP endpoint to send everything to: `HOST[%ZONE]:PORT`.
    #[must_use]
    pub fn udp_output(self, endpoint: impl Display) -> Self {
        self.endpoint(Kind::UdpOutput, endpoint)
    }

    /// Copies everything to standard output too.
    #[must_use]
    pub fn tee(mut self, tee: bool) -> Self {
        self.tee = tee;
        self
    }

    /// How many TCP and TLS clients are served at the same time, and how many such connections are read
    /// from; one more is closed at once, unless a client that has closed its sending side (FIN) can give way.
    /// A client costs one descriptor and no thread. The default is 1024.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = Some(clients);
        self
    }

    /// How sockets are set up, how datagrams are delimited in TCP streams, in both directions, and what becomes of
    /// slow clients: [`Options::client_buffer`], [`Options::stall_timeout`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Opens everything and starts.
    ///
    /// # Errors
    /// Wrong use, such as an output that is the proxy's own input; a name that does not resolve; an
    /// address in use.
    pub fn spawn(&self) -> Result<Handle, Error> {
        let plan = Plan::new(self)?;
        let mut proxy = Proxy::open(self, &plan)?;
        let listeners = proxy.listen(&plan)?;
        proxy.start(&plan, listeners)?;
        Ok(proxy.handle())
    }

    /// Whether there is an endpoint of any of these kinds.
    fn has(&self, kinds: &[Kind]) -> bool {
        self.endpoints.iter().any(|(kind, _)| kinds.contains(kind))
    }

    fn has_inputs(&self) -> bool {
        self.has(&[Kind::UdpListen, Kind::TcpListen, Kind::TlsListen])
    }

    fn max_clients_or_default(&self) -> usize {
        self.max_clients.unwrap_or(MAX_CLIENTS)
    }
}
