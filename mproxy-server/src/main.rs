//! The command line of `mproxy-server`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::{Error, Handle};
use mproxy_core::command::{Args, Command, FRAMING, INTERFACE, Opt, RECV_BUFFER, TEE, TTL};
use mproxy_server::Server;

const PATH: Opt = Opt::value(
    "--path",
    "FILE",
    "The file to append to; - is standard output. {addr} in it\nstands for the listener's address: a file for each",
);
const LISTEN_ADDR: Opt = Opt::value("--listen-addr", "HOST:PORT", "Where to receive; may be repeated");

const COMMAND: Command = Command {
    name: "mproxy-server",
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY server: receives UDP datagrams, unicast and multicast, into a file and to\n\
            standard output.",
    options: &[PATH, LISTEN_ADDR, TEE, FRAMING, INTERFACE, TTL, RECV_BUFFER],
    notes: "\
HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920,
239.1.2.3:9920 or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920. SOURCE@GROUP:PORT takes one sender only, as in
10.0.0.5@232.1.1.1:5000. A name is listened to on all of its addresses, an IPv6
address on IPv6 only.

EXAMPLES:
  mproxy-server --path feed.log --listen-addr localhost:9920 --tee
  mproxy-server --path 'feed-{addr}.log' --listen-addr 0.0.0.0:9920 \\
                --listen-addr 239.1.2.3:9921
",
};

fn main() -> ExitCode {
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let mut server = Server::new()
        .tee(args.flag(TEE))
        .framing(args.framing()?)
        .socket_options(args.socket_options()?);
    if let Some(path) = args.os_value(PATH)? {
        server = server.path(path);
    }
    for endpoint in args.values(LISTEN_ADDR)? {
        server = server.listen(endpoint);
    }
    args.finish()?;
    server.spawn()
}
