//! The command line of `mproxy-reverse`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::{Error, Handle};
use mproxy_core::command::{
    self, Args, Command, DATAGRAM_SIZE, FRAMING, INTERFACE, Opt, RECV_BUFFER, TEE, TTL,
};
use mproxy_reverse::Reverse;

const UDP_LISTEN_ADDR: Opt =
    Opt::value("--udp-listen-addr", "HOST:PORT", "Where to receive UDP; may be repeated");
const TCP_LISTEN_ADDR: Opt = Opt::value(
    "--tcp-listen-addr",
    "HOST:PORT",
    "Where to accept TCP connections that send data;\nmay be repeated",
);
const MULTICAST_ADDR: Opt = Opt::value(
    "--multicast-addr",
    "GROUP:PORT",
    "The channel: the multicast group to route through, which\nothers can join and send to. By default it is private",
);
const TCP_OUTPUT_ADDR: Opt = Opt::value(
    "--tcp-output-addr",
    "HOST:PORT",
    "Where to accept TCP clients that get everything;\nmay be repeated",
);
const UDP_OUTPUT_ADDR: Opt =
    Opt::value("--udp-output-addr", "HOST:PORT", "Where to send everything; may be repeated");
const MAX_CLIENTS: Opt = Opt::value(
    "--max-clients",
    "N",
    "TCP clients at a time (default 1024), and as many TCP inputs;\none more is closed at once",
);

const COMMAND: Command = Command {
    name: "mproxy-reverse",
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY reverse: gathers UDP endpoints and accepted TCP connections in one\n\
            multicast channel, and hands it out to many TCP clients and UDP endpoints.",
    options: &[
        UDP_LISTEN_ADDR,
        TCP_LISTEN_ADDR,
        MULTICAST_ADDR,
        TCP_OUTPUT_ADDR,
        UDP_OUTPUT_ADDR,
        MAX_CLIENTS,
        TEE,
        FRAMING,
        DATAGRAM_SIZE,
        INTERFACE,
        TTL,
        RECV_BUFFER,
    ],
    notes: "\
Without --multicast-addr the channel is private to this process: a group drawn at
random from 239.255.0.0/16, on the loopback interface with TTL 0. It works on any
host, never leaves it, and two proxies side by side never mix.

HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920; a
GROUP may name its interface: 239.1.2.3%eth0:9918, [ff02::114%eth0]:9918.

EXAMPLES:
  mproxy-reverse --udp-listen-addr 0.0.0.0:9920 --tcp-output-addr 0.0.0.0:9921
  mproxy-reverse --tcp-listen-addr 0.0.0.0:9920 --multicast-addr 239.1.2.3:9918
",
};

fn main() -> ExitCode {
    command::raise_descriptor_limit();
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let mut reverse = Reverse::new()
        .tee(args.flag(TEE))
        .framing(args.framing()?)
        .socket_options(args.socket_options()?);
    for endpoint in args.values(UDP_LISTEN_ADDR)? {
        reverse = reverse.udp_listen(endpoint);
    }
    for endpoint in args.values(TCP_LISTEN_ADDR)? {
        reverse = reverse.tcp_listen(endpoint);
    }
    if let Some(group) = args.value(MULTICAST_ADDR, |text| Ok(text.to_owned()))? {
        reverse = reverse.multicast(group);
    }
    for endpoint in args.values(TCP_OUTPUT_ADDR)? {
        reverse = reverse.tcp_output(endpoint);
    }
    for endpoint in args.values(UDP_OUTPUT_ADDR)? {
        reverse = reverse.udp_output(endpoint);
    }
    if let Some(clients) = args.value(MAX_CLIENTS, |text| command::number(text, 1, 1_000_000))? {
        reverse = reverse.max_clients(clients);
    }
    if let Some(bytes) = args.datagram_size()? {
        reverse = reverse.datagram_size(bytes);
    }
    args.finish()?;
    reverse.spawn()
}
