//! Receives UDP datagrams, unicast and multicast, into a file and to standard output.
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use mproxy_server::Server;
//!
//! # fn main() -> Result<(), mproxy_server::Error> {
//! # let file = std::env::temp_dir().join(format!("mproxy-server-doc-{}", std::process::id()));
//! let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
//! let server = Server::new().path(&file).listen(any_port).spawn()?;
//! println!("listening on {}", server.local_addrs()[0]);
//! server.stop();
//! let stats = server.join()?;
//! assert_eq!(stats.received(), 0);
//! # std::fs::remove_file(file).unwrap();
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod compat;

use std::fmt::Display;
use std::path::{Path, PathBuf};

#[allow(deprecated)]
pub use compat::{listener, upstream_socket_interface};
pub use mproxy_core::{Allow, Direction, EndpointStats, Error, Framing, Handle, Options, Stats, Stopper};
use mproxy_core::{Endpoint, Output, Program, Role, Sinks, Stdout, UdpSource, check_options, stdio};

/// Receive buffer of a listener, as far as the system allows: a file system takes its time now and then,
/// and what comes meanwhile must wait. Nothing of it is used as long as the file keeps up.
const RECV_BUFFER: usize = 64 << 20;

/// Where to receive, and where to write. An endpoint is a text or a [`SocketAddr`](std::net::SocketAddr).
/// See the [crate's](crate) example.
#[derive(Debug, Clone, Default)]
pub struct Server {
    path: Option<PathBuf>,
    listen: Vec<String>,
    tee: bool,
    options: Options,
}

impl Server {
    /// A server without endpoints.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The file to append to, or standard output if it is `-`. An `{addr}` in it stands for the
    /// listener's endpoint, so that each has a file of its own; on Windows with `_` for what the name of a
    /// file may not hold.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Adds an endpoint to receive on: `[SOURCE@]HOST[%ZONE]:PORT`. Port 0 is one that the system
    /// chooses; [`Handle::local_addrs`] tells it.
    #[must_use]
    pub fn listen(mut self, endpoint: impl Display) -> Self {
        self.listen.push(endpoint.to_string());
        self
    }

    /// Copies everything to standard output too.
    #[must_use]
    pub fn tee(mut self, tee: bool) -> Self {
        self.tee = tee;
        self
    }

    /// How sockets are set up, and how datagrams are written one behind the other: with
    /// [`Framing::Lines`] a newline is added to those that lack one, otherwise they are back to back.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Opens everything and starts to receive.
    ///
    /// # Errors
    /// Wrong use, a name that does not resolve, an address in use, or a file that cannot be opened.
    /// Joining the handle fails if a write does.
    pub fn spawn(&self) -> Result<Handle, Error> {
        if self.listen.is_empty() {
            return Err(Error::usage("nothing to do: give an address to listen on"));
        }
        let file = self.path.as_deref().filter(|path| path.as_os_str() != "-");
        let to_stdout = self.tee || self.path.is_some() && file.is_none();
        if file.is_none() && !to_stdout {
            return Err(Error::usage(
                "nothing to do: give a path to write to, or tee to copy to standard output",
            ));
        }
        let endpoints = Endpoint::parse_all(&self.listen, Role::UdpListener)?;
        check_options(&self.options)?;
        let resolved = Endpoint::resolve_all(&endpoints, &self.options)?;

        let mut program = Program::new()?;
        let stop = program.stop().clone();
        let registry = program.registry().clone();
        let mut sources = Vec::new();
        let options = self.options.clone().or_recv_buffer(RECV_BUFFER);
        for listener in &resolved {
            let meter = registry.endpoint(listener, Direction::In);
            for source in UdpSource::open(listener, &options, &meter, &stop)? {
                let bound = source.local_addr();
                // The port that the system chose, so that a file can be named after it.
                let port = bound.as_ref().map_or(listener.endpoint.port(), std::net::SocketAddr::port);
                program.receives_with(&source);
                sources.push((listener.endpoint.with_port(port), source));
            }
        }
        let stdout = if to_stdout {
            let meter = registry.endpoint("standard output", Direction::Out);
            Some(Stdout::open(self.options.chosen_framing(), file.is_none(), meter)?)
        } else {
            None
        };
        let (mut relays, mut files) = (Vec::new(), Vec::<Output>::new());
        for (endpoint, source) in sources {
            let mut sinks: Sinks = Vec::new();
            if let Some(path) = file {
                let path = own_path(path, &endpoint);
                let opened = files.iter().position(|output| output.path() == path);
                let index = if let Some(index) = opened {
                    index
                } else {
                    let meter = registry.endpoint(path.display(), Direction::Out);
                    files.push(Output::open(&path, self.options.chosen_framing(), meter)?);
                    files.len() - 1
                };
                sinks.push(Box::new(files[index].sink()));
            }
            if let Some(stdout) = &stdout {
                sinks.push(Box::new(stdout.sink(&stop)));
            }
            relays.push((endpoint, source, sinks));
        }
        for (endpoint, source, sinks) in relays {
            program.relay(endpoint.to_string(), Box::new(source), sinks)?;
        }
        Ok(program.handle())
    }
}

/// The path with `{addr}` replaced, with an underscore for each character that no file name may hold. On Windows a colon
/// would have the data written to an alternate stream that hardly anything shows.
fn own_path(path: &Path, endpoint: &Endpoint) -> PathBuf {
    let address = endpoint.to_string().replace(stdio::FORBIDDEN_IN_FILE_NAMES, "_");
    match path.to_str() {
        Some(text) => text.replace("{addr}", &address).into(),
        None => path.to_owned(),
    }
}
