//! The relay core of MPROXY, a multicast network dispatcher and proxy.
//!
//! One idea carries all four programs: a [`Batch`] of datagrams flows from one [`Source`] to many
//! [`Sink`]s, on one thread that owns all three, through one loop, [`relay`]. Threads share nothing on the way but what
//! the kernel keeps for them: what must reach many is sent to each through a private pair of sockets, [`UdpPair`], or to a
//! multicast group that they have joined. Many TCP connections are served by one thread, too: a [`FanIn`] reads them, and a
//! [`FanOut`] writes to them.
//!
//! A program of your own is a choice of sources and sinks, and either can be yours. This one forwards a listener to a
//! target, but only the sentences that a ship's transponder has sent:
//!
//! ```
//! use mproxy_core::{
//!     Batch, Direction, Endpoint, Error, Options, Program, Role, Sink, Source, UdpSink, UdpSource, UdpTarget,
//! };
//!
//! /// Passes on the datagrams that begin with `!AIVDM`.
//! struct Filter {
//!     passed: Batch,
//!     target: UdpSink,
//! }
//!
//! impl Sink for Filter {
//!     fn send(&mut self, batch: &Batch) -> Result<(), Error> {
//!         self.passed.clear();
//!         for datagram in batch.datagrams().filter(|datagram| datagram.starts_with(b"!AIVDM")) {
//!             self.passed.spare()[..datagram.len()].copy_from_slice(datagram);
//!             self.passed.push(datagram.len());
//!         }
//!         if self.passed.is_empty() { Ok(()) } else { self.target.send(&self.passed) }
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let options = Options::new();
//! let listener = Endpoint::parse("127.0.0.1:0", Role::UdpListener)?.resolve(&options)?;
//! let target = Endpoint::parse("127.0.0.1:9921", Role::UdpTarget)?.resolve(&options)?;
//!
//! let mut program = Program::new()?;
//! let sent = program.registry().endpoint(&target, Direction::Out);
//! let target = UdpTarget::new(&target, &options, sent);
//! program.sends_to(&target);
//! let received = program.registry().endpoint(&listener, Direction::In);
//! for source in UdpSource::open(&listener, &options, &received, &program.stop().clone())? {
//!     program.receives_with(&source);
//!     let passed = Batch::with_capacity(source.capacity());
//!     let filter = Filter { passed, target: UdpSink::open(&[target.clone()]) };
//!     program.relay("filter".to_owned(), Box::new(source), vec![Box::new(filter)])?;
//! }
//! let handle = program.handle();
//! println!("listening on {}", handle.local_addrs()[0]);
//!
//! handle.stop(); // or from another thread, when it is time: see Handle::stopper
//! println!("{} datagrams sent", handle.join()?.sent());
//! # Ok(())
//! # }
//! ```
//!
//! - **Endpoints**: [`Endpoint`] is an address as a user writes it, in a [`Role`], and [`Resolved`] what it stands for;
//!   [`Options`] says how sockets are set up, [`Allow`] who may send.
//! - **Datagrams**: [`Batch`], [`Source`], [`Sink`], [`relay`] and [`Stop`]; a [`SinkSet`] has sinks come and go. A
//!   [`PolledSource`] is waited for by its owner, in a [`PollSet`], under its [`PollKeys`].
//! - **UDP**: [`UdpSource`], [`UdpTarget`] and [`UdpSink`]; [`UdpPair`] between threads; [`listen_udp`] and
//!   [`open_target`] give plain sockets.
//! - **Byte streams**: [`StreamSource`] cuts an [`Input`] into datagrams by its [`Framing`]; [`Paced`] slows a source
//!   down. [`Output`] and [`Stdout`] are what [`FileSink`]s and [`StdoutSink`]s write to.
//! - **TCP and TLS**: an [`Acceptor`] on the listeners of [`listen_tcp`] has [`Places`] for so many connections, and hands
//!   each, a [`Connection`] with its [`Permit`], to a [`FanOut`] of clients or a [`FanIn`], by their [`FanOutHandle`] or
//!   [`FanInHandle`]; sources of a fan-out have a [`SourceId`]. A [`Label`] is what messages call a connection.
//!   [`TcpServerSource`] connects to servers. Both are over a [`Transport`]: [`Plain`], or that of [`Tls`].
//! - **Programs**: [`Program`], [`Handle`] and [`Stopper`]; [`Registry`], [`Meter`], [`Counters`] and [`Stats`].
//!
//! Messages go to the [`log`](::log) facade: warnings for what a user should know, info for what an endpoint
//! became. What the crates of the four programs need beyond this is hidden here, and may change at any time.

// From the lowest to the highest: each imports only from those above it here, and from itself.
#[cfg_attr(mproxy_portable, allow(dead_code))]
mod sys;

mod error;
#[doc(hidden)]
pub mod log;

mod relay;

mod io;

mod net;

mod udp;

mod tcp;

mod program;

#[doc(hidden)]
pub mod cli;

pub use error::Error;
pub use io::file::{FileSink, Output};
pub use io::framing::Framing;
pub use io::input::pollable;
pub use io::pace::Paced;
pub use io::poll::{Input, Wait};
pub use io::stdout::{Stdout, StdoutSink};
pub use io::stream::StreamSource;
pub use net::allow::Allow;
pub use net::connect::open_target;
pub use net::endpoint::{Endpoint, Role};
pub use net::listen::{listen_tcp, listen_udp};
pub use net::options::Options;
pub use net::resolve::{Resolved, refuse_loops};
pub use program::program::{Handle, Program, Stopper};
pub use relay::batch::Batch;
pub use relay::flow::{Flow, PollKeys, PolledSource, Sink, Sinks, Source, relay};
pub use relay::limits::{MAX_DATAGRAM, SLOT};
pub use relay::sink_set::SinkSet;
pub use relay::stats::{Counters, Direction, EndpointStats, Meter, Registry, Stats};
pub use relay::stop::Stop;
pub use relay::thread::Task;
pub use sys::{PollSet, Registration};
pub use tcp::accept::{Accepted, Acceptor};
pub use tcp::connection::Connection;
pub use tcp::downstream::{FanIn, FanInHandle};
pub use tcp::fan_out::FanOut;
pub use tcp::fan_out::handle::{FanOutHandle, SourceId};
pub use tcp::label::Label;
pub use tcp::places::{Permit, Places, check_descriptor_limit};
pub use tcp::tls::{Reload, Reloadable, Tls};
pub use tcp::transport::{EstablishError, Handshake, Plain, Step, Transport};
pub use tcp::upstream::TcpServerSource;
pub use udp::datagram_size;
pub use udp::pair::UdpPair;
pub use udp::sink::UdpSink;
pub use udp::source::UdpSource;
pub use udp::target::UdpTarget;

// For the crates of the programs.
#[cfg(fuzzing)]
#[doc(hidden)]
pub use io::fuzzing;
#[doc(hidden)]
pub use net::interface::Interface;
#[doc(hidden)]
pub use net::routes::RouteTable;
#[doc(hidden)]
pub use net::select::Choice;
#[doc(hidden)]
pub use relay::stop::StopOnDrop;
#[doc(hidden)]
pub use relay::thread::spawn;
#[doc(hidden)]
pub use sys::stdio;
#[cfg(feature = "tls")]
#[doc(hidden)]
pub use tcp::tls::transport::{TlsClient, TlsServer};
#[doc(hidden)]
pub use udp::check_options;
