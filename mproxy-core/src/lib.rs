//! The relay core of MPROXY, a multicast network dispatcher and proxy.
//!
//! One idea carries all four programs: a [`Batch`] of datagrams flows from one [`Source`] to many
//! [`Sink`]s, on one thread that owns all three, through one loop, [`relay`](relay::flow::relay). Threads share
//! nothing on the way; what must reach many of them is sent to a multicast group that each has joined.
//!
//! Messages go to the [`log`](::log) facade: warnings for what a user should know, info for what an endpoint
//! became.

// From the lowest to the highest: each imports only from those above it here, and from itself.
#[cfg_attr(mproxy_portable, allow(dead_code))]
mod sys;

mod error;
pub mod log;

pub mod relay;

mod io;

mod net;

mod udp;

mod tcp;

mod program;

pub mod cli;

pub use error::Error;
pub use io::file::{FileSink, Output};
pub use io::framing::Framing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use io::fuzzing;
pub use io::input::pollable;
pub use io::pace::Paced;
pub use io::poll::Input;
#[doc(hidden)]
pub use io::poll::Wait;
pub use io::stdout::{Stdout, StdoutSink};
pub use io::stream::StreamSource;
pub use net::allow::Allow;
pub use net::connect::open_target;
pub use net::endpoint::{Endpoint, Role};
pub use net::interface::Interface;
pub use net::listen::{listen_tcp, listen_udp};
pub use net::multicast::reserve_group;
pub use net::options::Options;
pub use net::resolve::{Resolved, refuse_loops};
pub use net::routes::RouteTable;
pub use net::select::Choice;
pub use program::program::{Handle, Program, Stopper};
pub use relay::batch::Batch;
pub use relay::flow::{Flow, Sink, Sinks, Source, relay};
pub use relay::limits::{MAX_DATAGRAM, SLOT};
pub use relay::stats::{Counters, Direction, EndpointStats, Meter, Registry, Stats};
pub use relay::stop::{Stop, StopOnDrop};
pub use relay::thread::{Task, spawn};
pub use sys::stdio;
pub use tcp::accept::accept_each;
pub use tcp::client::TcpClient;
pub use tcp::connection::{Connection, EstablishError, Plain, Transport};
#[cfg(feature = "tls")]
pub use tcp::tls::transport::{TlsClient, TlsServer};
pub use tcp::tls::{Reload, Reloadable, Tls};
pub use tcp::upstream::TcpServerSource;
pub use udp::sink::{UdpSink, UdpTarget, open_all};
pub use udp::source::UdpSource;
pub use udp::{boxed, check_options, datagram_size};
