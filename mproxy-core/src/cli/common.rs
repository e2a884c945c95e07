//! The options that several programs have, as the settings that they stand for.

use std::time::Duration;

use crate::cli::args::Args;
use crate::error::Error;
use crate::net::options::{CLIENT_BUFFER, MAX_LINGER, MAX_THREADS, Options, STALL_TIMEOUT};
use crate::relay::limits::MAX_DATAGRAM;
use crate::tcp::tls::Tls;

const MAX_RESOLVE_INTERVAL: Duration = Duration::from_secs(1_000_000);

impl Args {
    /// How sockets are set up, and how datagrams are delimited: all of it that the program has options for.
    ///
    /// # Errors
    /// Wrong use if one is malformed.
    pub fn options(&mut self) -> Result<Options, Error> {
        let mut options = Options::new();
        for name in self.names() {
            match name {
                "--interface" => {
                    for interface in self.texts(name)? {
                        options.interfaces.add(interface);
                    }
                }
                "--ttl" => {
                    if let Some(ttl) = self.number(name, 0, u8::MAX.into())? {
                        options.ttl = u8::try_from(ttl).unwrap_or(u8::MAX);
                    }
                }
                "--no-loop" => options.multicast_loop = !self.flag(name)?,
                "--dscp" => {
                    if let Some(dscp) = self.number(name, 0, 63)? {
                        options.dscp = u8::try_from(dscp).unwrap_or(u8::MAX);
                    }
                }
                "--resolve-interval" => {
                    if let Some(interval) = self.duration(name, "s", Duration::ZERO, MAX_RESOLVE_INTERVAL)? {
                        options.resolve_interval = interval;
                    }
                }
                "--recv-buffer" => {
                    // The system takes the size as a C int.
                    if let Some(bytes) = self.scaled(name, 1024, 1, 0x7fff_ffff)? {
                        options.recv_buffer = usize::try_from(bytes).ok();
                    }
                }
                "--linger" => {
                    if let Some(linger) = self.duration(name, "us", Duration::ZERO, MAX_LINGER)? {
                        options.linger = linger;
                    }
                }
                "--framing" => {
                    if let Some(text) = self.text(name)? {
                        let framing = text.parse();
                        options.framing =
                            framing.map_err(|error| Error::usage(format!("{name}: {error}")))?;
                    }
                }
                "--datagram-size" => options.datagram_size = self.number(name, 1, MAX_DATAGRAM)?,
                "--allow" => {
                    for network in self.texts(name)? {
                        options.allow.add(&network);
                    }
                }
                "--client-buffer" => {
                    let (min, max) = (*CLIENT_BUFFER.start() as u64, *CLIENT_BUFFER.end() as u64);
                    if let Some(bytes) = self.scaled(name, 1024, min, max)? {
                        options.client_buffer = usize::try_from(bytes).unwrap_or(usize::MAX);
                    }
                }
                "--stall-timeout" => {
                    let (min, max) = STALL_TIMEOUT.into_inner();
                    if let Some(timeout) = self.duration(name, "s", min, max)? {
                        options.stall_timeout = timeout;
                    }
                }
                "--threads" => {
                    if let Some(threads) = self.number(name, 1, MAX_THREADS)? {
                        options.threads = threads;
                    }
                }
                "--transparent" => options.transparent = self.flag(name)?,
                "--max-sources" => {
                    if let Some(sources) = self.number(name, 1, 1_000_000)? {
                        options.max_sources = sources;
                    }
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// What TLS needs to know: all of it that the program has options for.
    ///
    /// # Errors
    /// Wrong use if a certificate lacks its key.
    pub fn tls(&mut self) -> Result<Tls, Error> {
        let mut tls = Tls::new();
        let (mut certificate, mut key) = (None, None);
        for name in self.names() {
            match name {
                "--tls-ca" | "--tls-client-ca" => {
                    if let Some(path) = self.os_text(name)? {
                        tls = tls.ca(path);
                    }
                }
                "--tls-server-name" => {
                    if let Some(server) = self.text(name)? {
                        tls = tls.server_name(server);
                    }
                }
                "--tls-cert" => certificate = self.os_text(name)?,
                "--tls-key" => key = self.os_text(name)?,
                _ => {}
            }
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(tls.identity(certificate, key)),
            (None, None) => Ok(tls),
            _ => Err(Error::usage("--tls-cert and --tls-key need each other")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::ProgramSpec;
    use crate::io::framing::Framing;

    fn args(program: ProgramSpec, list: &[&str]) -> Args {
        Args::parse(program, list.iter().map(Into::into).collect()).unwrap()
    }

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_options() {
        for program in [ProgramSpec::CLIENT, ProgramSpec::SERVER, ProgramSpec::FORWARD, ProgramSpec::REVERSE]
        {
            for option in program.options() {
                let Some(default) = option.default else { continue };
                let options = args(program, &[option.long, default]).options().unwrap();
                assert_eq!(options, Options::new(), "{} {}", program.name(), option.long);
            }
        }
    }

    #[test]
    fn each_option_sets_what_it_stands_for() {
        let mut all = args(
            ProgramSpec::FORWARD,
            &[
                "--interface=127.0.0.1",
                "--ttl=7",
                "--no-loop",
                "--dscp=46",
                "--resolve-interval=9",
                "--recv-buffer=512k",
                "--linger=250",
                "--framing=lines",
                "--datagram-size=1316",
                "--allow=10.0.0.0/8",
                "--threads=3",
                "--transparent",
                "--max-sources=5",
            ],
        );
        let mut expected = Options::new();
        expected.interfaces.add("127.0.0.1");
        expected.allow.add("10.0.0.0/8");
        let expected = Options {
            ttl: 7,
            multicast_loop: false,
            dscp: 46,
            resolve_interval: Duration::from_secs(9),
            recv_buffer: Some(512 * 1024),
            linger: Duration::from_micros(250),
            framing: Framing::Lines,
            datagram_size: Some(1316),
            threads: 3,
            transparent: true,
            max_sources: 5,
            ..expected
        };
        assert_eq!(all.options().unwrap(), expected);
        let mut of_clients = args(ProgramSpec::REVERSE, &["--client-buffer=128k", "--stall-timeout=1.5min"]);
        let expected =
            Options { client_buffer: 128 * 1024, stall_timeout: Duration::from_secs(90), ..Options::new() };
        assert_eq!(of_clients.options().unwrap(), expected);
    }
}
