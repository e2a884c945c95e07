//! The command line of `mproxy-forward`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::{Error, Handle};
use mproxy_core::command::{Args, Command, DATAGRAM_SIZE, FRAMING, INTERFACE, Opt, RECV_BUFFER, TEE, TTL};
use mproxy_forward::Forward;

const UDP_LISTEN_ADDR: Opt =
    Opt::value("--udp-listen-addr", "HOST:PORT", "Where to receive UDP; may be repeated");
const TCP_CONNECT_ADDR: Opt = Opt::value(
    "--tcp-connect-addr",
    "HOST:PORT",
    "A TCP server to connect to, again whenever it is lost;\nmay be repeated",
);
const UDP_DOWNSTREAM_ADDR: Opt =
    Opt::value("--udp-downstream-addr", "HOST:PORT", "Where to send everything; may be repeated");

const COMMAND: Command = Command {
    name: "mproxy-forward",
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY forward: sends what arrives at UDP endpoints and from TCP servers to many\n\
            UDP endpoints, unicast, broadcast and multicast.",
    options: &[
        UDP_LISTEN_ADDR,
        TCP_CONNECT_ADDR,
        UDP_DOWNSTREAM_ADDR,
        TEE,
        FRAMING,
        DATAGRAM_SIZE,
        INTERFACE,
        TTL,
        RECV_BUFFER,
    ],
    notes: "\
HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920,
239.1.2.3:9920 or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920. SOURCE@GROUP:PORT listens to one sender only.

EXAMPLES:
  mproxy-forward --udp-listen-addr 0.0.0.0:9920 \\
                 --udp-downstream-addr 10.0.0.7:9920 --udp-downstream-addr [::1]:9921
  mproxy-forward --tcp-connect-addr feed.example.org:5631 \\
                 --udp-downstream-addr 239.1.2.3:9920
",
};

fn main() -> ExitCode {
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let mut forward = Forward::new()
        .tee(args.flag(TEE))
        .framing(args.framing()?)
        .socket_options(args.socket_options()?);
    for endpoint in args.values(UDP_LISTEN_ADDR)? {
        forward = forward.udp_listen(endpoint);
    }
    for endpoint in args.values(TCP_CONNECT_ADDR)? {
        forward = forward.tcp_connect(endpoint);
    }
    for endpoint in args.values(UDP_DOWNSTREAM_ADDR)? {
        forward = forward.target(endpoint);
    }
    if let Some(bytes) = args.datagram_size()? {
        forward = forward.datagram_size(bytes);
    }
    args.finish()?;
    forward.spawn()
}
