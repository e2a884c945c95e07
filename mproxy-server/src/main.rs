//! The command line of `mproxy-server`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::cli::{Args, Command};
use mproxy_core::{Error, Handle, flags_help, listeners_help, options_help};
use mproxy_server::Server;

const COMMAND: Command = Command {
    name: "mproxy-server",
    version: env!("CARGO_PKG_VERSION"),
    help: concat!(
        "MPROXY server: receives UDP datagrams, unicast and multicast, into a file and to
standard output.

USAGE:
  mproxy-server --path FILE --listen-addr HOST:PORT... [OPTIONS]

OPTIONS:
      --path FILE             The file to append to; - is standard output. {addr}
\tin it stands for the listener's address: a file for
\teach
      --listen-addr HOST:PORT
\tWhere to receive; may be repeated
",
        options_help!(),
        listeners_help!(),
        flags_help!(),
        "
HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920,
239.1.2.3:9920 or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920. SOURCE@GROUP:PORT takes one sender only, as in
10.0.0.5@232.1.1.1:5000. A name is listened to on all of its addresses, an IPv6
address on IPv6 only.

EXAMPLES:
  mproxy-server --path feed.log --listen-addr localhost:9920 --tee
  mproxy-server --path 'feed-{addr}.log' --listen-addr 0.0.0.0:9920 \\
                --listen-addr 239.1.2.3:9921
"
    ),
};

fn main() -> ExitCode {
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let mut options = args.options()?;
    args.listeners(&mut options)?;
    let mut server = Server::new();
    if let Some(path) = args.os_text("--path")? {
        server = server.path(path);
    }
    for endpoint in args.texts("--listen-addr")? {
        server = server.listen(endpoint);
    }
    args.loops(&mut options);
    server = server.options(options).tee(args.flag("--tee", "-t"));
    args.finish()?;
    server.spawn()
}
