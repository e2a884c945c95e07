//! The relay core of MPROXY, a multicast network dispatcher and proxy.
//!
//! One idea carries all four programs: a [`Batch`] of datagrams flows from one [`Source`] to many
//! [`Sink`]s, on one thread that owns all three, through one loop, [`relay`](relay::relay). Threads share
//! nothing on the way; what must reach many of them is sent to a multicast group that each has joined.
//!
//! Messages go to the [`log`] facade: warnings for what a user should know, info for what an endpoint
//! became.

mod accept;
#[cfg(any(test, windows))]
mod ahead;
mod allow;
pub mod batch;
#[cfg(any(test, windows))]
mod behind;
mod client;
pub mod command;
mod connection;
mod datagram;
mod endpoint;
mod error;
mod explain;
mod file;
mod framing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod interface;
mod limits;
mod options;
#[cfg_attr(not(target_os = "linux"), path = "origin/elsewhere.rs")]
mod origin;
mod program;
pub mod relay;
pub mod report;
mod routes;
mod signals;
mod socket;
mod stats;
pub mod stdio;
mod stop;
mod stream;
#[cfg_attr(mproxy_portable, allow(dead_code))]
mod sys;
mod thread;
mod tls;
mod udp;
mod upstream;
mod wait;

pub use accept::accept_each;
pub use allow::Allow;
pub use batch::Batch;
pub use client::{ClientSink, ClientSource};
pub use connection::{Connection, Plain, Transport};
pub use endpoint::{Endpoint, Resolved, Role, refuse_loops};
pub use error::Error;
pub use file::{FileSink, Output, Stdout, StdoutSink};
pub use framing::Framing;
pub use interface::{Choice, Interface};
pub use limits::{MAX_DATAGRAM, SLOT};
pub use options::Options;
pub use program::{Handle, Program, Stopper};
pub use relay::{Flow, Sink, Sinks, Source, relay};
pub use routes::Routes;
pub use socket::{listen_tcp, listen_udp, open_target, reserve_group};
pub use stats::{Counters, Direction, EndpointStats, Meter, Registry, Stats};
pub use stop::{Stop, StopOnDrop};
pub use stream::{Paced, StreamSource};
pub use thread::{Task, spawn};
pub use tls::{Reload, Reloadable, Tls};
#[cfg(feature = "tls")]
pub use tls::{TlsClient, TlsServer};
pub use udp::{UdpSink, UdpSource, UdpTarget, boxed, check_options, datagram_size, open_all};
pub use upstream::TcpServerSource;
pub use wait::{Input, pollable};
