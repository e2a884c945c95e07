//! Sends a file, standard input or any descriptor as UDP datagrams to unicast, broadcast and multicast
//! endpoints.
//!
//! ```no_run
//! use std::net::SocketAddr;
//!
//! use mproxy_client::Client;
//!
//! # fn main() -> Result<(), mproxy_client::Error> {
//! let address = SocketAddr::from(([127, 0, 0, 1], 9920));
//! let client = Client::new("feed.log").target(address).target("239.1.2.3:9920").spawn()?;
//! let stats = client.join()?;
//! println!("{} datagrams sent", stats.sent());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod compat;

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

#[allow(deprecated)]
pub use compat::{client_socket_stream, target_socket_interface};
pub use mproxy_core::{Allow, Direction, EndpointStats, Error, Framing, Handle, Options, Stats, Stopper};
use mproxy_core::{
    Endpoint, Paced, Program, Role, Sinks, Stdout, StreamSource, UdpSink, UdpTarget, check_options,
    datagram_size, pollable, relay, stdio,
};

/// What to send, and where to. An endpoint is a text or a [`SocketAddr`](std::net::SocketAddr). See the
/// [crate's](crate) example.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    targets: Vec<String>,
    tee: bool,
    rate: Option<u64>,
    options: Options,
}

impl Client {
    /// Sends what `path` holds: a file, FIFO, named pipe or device, or standard input if it is `-`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), targets: Vec::new(), tee: false, rate: None, options: Options::default() }
    }

    /// Adds an endpoint to send to: `HOST[%ZONE]:PORT`.
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

    /// The most payload bits to send in a second, evenly spread. By default as fast as it goes.
    #[must_use]
    pub fn rate(mut self, bits_per_second: u64) -> Self {
        self.rate = Some(bits_per_second);
        self
    }

    /// How sockets are set up, and how the bytes are cut into datagrams.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Opens everything and starts to send. [`Handle::join`] waits for the end of the input.
    ///
    /// # Errors
    /// Wrong use, a name that does not resolve, or a file that cannot be opened. Joining the handle fails
    /// if reading does, or if not one datagram could be sent to any target.
    pub fn spawn(&self) -> Result<Handle, Error> {
        if self.targets.is_empty() && !self.tee {
            return Err(Error::usage(
                "nothing to do: give a target to send to, or tee to copy to standard output",
            ));
        }
        if self.rate == Some(0) {
            return Err(Error::usage("a rate of 0 would never end"));
        }
        let endpoints = Endpoint::parse_all(&self.targets, Role::UdpTarget)?;
        check_options(&self.options)?;
        let resolved = Endpoint::resolve_targets(&endpoints, &self.options)?;

        let mut program = Program::new()?;
        let stop = program.stop().clone();
        let registry = program.registry().clone();
        let name = if self.path.as_os_str() == "-" {
            "standard input".into()
        } else {
            self.path.display().to_string()
        };
        let input = open(&self.path).map_err(|error| Error::io("open", &name, error))?;
        let meter = registry.endpoint(&name, Direction::In);
        let mut targets = Vec::new();
        for target in &resolved {
            let meter = registry.endpoint(target, Direction::Out);
            let target = UdpTarget::new(target, &self.options, meter);
            program.sends_to(&target);
            targets.push(target);
        }
        let sink = UdpSink::waiting(&targets, &stop);
        let size = datagram_size(&self.options, &sink);
        let framing = self.options.chosen_framing();
        let has_targets = !targets.is_empty();
        let mut sinks: Sinks = vec![Box::new(sink)];
        if self.tee {
            let meter = registry.endpoint("standard output", Direction::Out);
            sinks.push(Box::new(Stdout::open(framing, !has_targets, meter)?.wait_while_read().sink(&stop)));
        }
        let input = pollable(input, size)?;
        let mut source = StreamSource::new(input, name, framing, size, &stop, meter.counters());
        let (rate, endpoints) = (self.rate, self.targets.clone());
        let run = move || {
            match rate {
                Some(rate) => relay(&mut Paced::new(source, rate, &stop), &mut sinks, &stop)?,
                None => relay(&mut source, &mut sinks, &stop)?,
            }
            let stats = registry.snapshot();
            let mut targets = stats.endpoints.iter().filter(|e| endpoints.contains(&e.endpoint));
            if has_targets
                && stats.received() > 0
                && !stop.requested()
                && targets.all(|target| target.datagrams == 0)
            {
                let reason = std::io::Error::other("not one datagram could be sent");
                return Err(Error::io("send to", "any target", reason));
            }
            Ok(())
        };
        program.thread("client".to_owned(), Box::new(run))?;
        Ok(program.handle())
    }
}

/// Standard input without the buffer that `std` has behind it, or the file.
fn open(path: &Path) -> std::io::Result<File> {
    if path.as_os_str() == "-" { stdio::stdin() } else { stdio::open(File::options().read(true), path) }
}
