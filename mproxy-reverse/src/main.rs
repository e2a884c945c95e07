//! The command line of `mproxy-reverse`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::Error;
use mproxy_core::cli::{Args, Command, ProgramSpec, raise_descriptor_limit};
use mproxy_reverse::{Kind, Reverse};

const COMMAND: Command = Command {
    program: ProgramSpec::REVERSE,
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY reverse: gathers UDP endpoints and accepted TCP connections in one
channel, and hands it out to many TCP clients and UDP endpoints.
",
    usage: "  mproxy-reverse --udp-listen-addr HOST:PORT... \\
                 --tcp-output-addr HOST:PORT... [OPTIONS]
",
    notes: "HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920; a
GROUP may name its interface: 239.1.2.3%eth0:9918, [ff02::114%eth0]:9918.
",
    examples: "  mproxy-reverse --udp-listen-addr 0.0.0.0:9920 --tcp-output-addr 0.0.0.0:9921
",
};

fn main() -> ExitCode {
    raise_descriptor_limit();
    COMMAND.run(read, Reverse::spawn)
}

fn read(args: &mut Args) -> Result<Reverse, Error> {
    let mut reverse = Reverse::new().options(args.options()?).tls(args.tls()?).tee(args.flag("--tee")?);
    for (name, kind) in [
        ("--udp-listen-addr", Kind::UdpListen),
        ("--tcp-listen-addr", Kind::TcpListen),
        ("--tls-listen-addr", Kind::TlsListen),
        ("--multicast-addr", Kind::Channel),
        ("--tcp-output-addr", Kind::TcpOutput),
        ("--tls-output-addr", Kind::TlsOutput),
        ("--udp-output-addr", Kind::UdpOutput),
    ] {
        for endpoint in args.texts(name)? {
            reverse = reverse.endpoint(kind, endpoint);
        }
    }
    if let Some(clients) = args.number("--max-clients", 1, 1_000_000)? {
        reverse = reverse.max_clients(clients);
    }
    Ok(reverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_the_table_is_read() {
        let mut args = Args::parse(COMMAND.program, Vec::new()).unwrap();
        read(&mut args).unwrap();
        assert_eq!(args.unread(), ["--verbose", "--help", "--version"], "these are read for all programs");
    }
}
