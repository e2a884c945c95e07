//! The command line of `mproxy-server`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::Error;
use mproxy_core::cli::{Args, Command, ProgramSpec};
use mproxy_server::Server;

const COMMAND: Command = Command {
    program: ProgramSpec::SERVER,
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY server: receives UDP datagrams, unicast and multicast, into a file and to
standard output.
",
    usage: "  mproxy-server --path FILE --listen-addr HOST:PORT... [OPTIONS]
",
    notes: "HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920,
239.1.2.3:9920 or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920. SOURCE@GROUP:PORT takes one sender only, as in
10.0.0.5@232.1.1.1:5000. A name is listened to on all of its addresses, an IPv6
address on IPv6 only.
",
    examples: "  mproxy-server --path feed.log --listen-addr localhost:9920 --tee
  mproxy-server --path 'feed-{addr}.log' --listen-addr 0.0.0.0:9920 \\
                --listen-addr 239.1.2.3:9921
",
};

fn main() -> ExitCode {
    COMMAND.run(read, Server::spawn)
}

fn read(args: &mut Args) -> Result<Server, Error> {
    let mut server = Server::new().options(args.options()?).tee(args.flag("--tee")?);
    if let Some(path) = args.os_text("--path")? {
        server = server.path(path);
    }
    for endpoint in args.texts("--listen-addr")? {
        server = server.listen(endpoint);
    }
    Ok(server)
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
