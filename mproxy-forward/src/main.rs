//! The command line of `mproxy-forward`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::Error;
use mproxy_core::cli::{Args, Command, ProgramSpec, raise_descriptor_limit};
use mproxy_forward::Forward;

const COMMAND: Command = Command {
    program: ProgramSpec::FORWARD,
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY forward: sends what arrives at UDP endpoints and from TCP and TLS servers
to many UDP endpoints, unicast, broadcast and multicast.
",
    usage: "  mproxy-forward --udp-listen-addr HOST:PORT... \\
                 --udp-downstream-addr HOST:PORT... [OPTIONS]
",
    notes: "HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920,
239.1.2.3:9920 or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920. SOURCE@GROUP:PORT listens to one sender only.
",
    examples: "  mproxy-forward --udp-listen-addr 0.0.0.0:9920 \\
                 --udp-downstream-addr 10.0.0.7:9920 \\
                 --udp-downstream-addr [::1]:9921
  mproxy-forward --tcp-connect-addr feed.example.org:5631 \\
                 --udp-downstream-addr 239.1.2.3:9920
",
};

fn main() -> ExitCode {
    raise_descriptor_limit();
    COMMAND.run(read, Forward::spawn)
}

fn read(args: &mut Args) -> Result<Forward, Error> {
    let mut forward = Forward::new().options(args.options()?).tls(args.tls()?).tee(args.flag("--tee")?);
    for endpoint in args.texts("--udp-listen-addr")? {
        forward = forward.udp_listen(endpoint);
    }
    for endpoint in args.texts("--tcp-connect-addr")? {
        forward = forward.tcp_connect(endpoint);
    }
    for endpoint in args.texts("--tls-connect-addr")? {
        forward = forward.tls_connect(endpoint);
    }
    for endpoint in args.texts("--udp-downstream-addr")? {
        forward = forward.target(endpoint);
    }
    Ok(forward)
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
