//! The command line of `mproxy-reverse`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::cli::{Args, Command, raise_descriptor_limit};
use mproxy_core::{
    Error, Handle, datagram_size_help, flags_help, listeners_help, options_help, transparency_help,
};
use mproxy_reverse::{Kind, Reverse};

#[cfg(feature = "tls")]
macro_rules! tls_help {
    () => {
        "      --tls-listen-addr HOST:PORT
\tAs --tcp-listen-addr, with TLS; may be repeated
      --tls-output-addr HOST:PORT
\tAs --tcp-output-addr, with TLS; may be repeated
      --tls-cert FILE         The certificate for that, with those it rests on (PEM)
      --tls-key FILE          Its private key (PEM)
      --tls-client-ca FILE    Let in only those whose certificate is of one of these
\tauthorities (PEM)
"
    };
}

#[cfg(not(feature = "tls"))]
macro_rules! tls_help {
    () => {
        "      --tls-listen-addr, --tls-output-addr, --tls-cert, --tls-key, --tls-client-ca
\tTLS, in a build with cargo's --features tls
"
    };
}

const COMMAND: Command = Command {
    name: "mproxy-reverse",
    version: env!("CARGO_PKG_VERSION"),
    help: concat!(
        "MPROXY reverse: gathers UDP endpoints and accepted TCP connections in one
multicast channel, and hands it out to many TCP clients and UDP endpoints.

USAGE:
  mproxy-reverse --udp-listen-addr HOST:PORT... --tcp-output-addr HOST:PORT... [OPTIONS]

OPTIONS:
      --udp-listen-addr HOST:PORT
\tWhere to receive UDP; may be repeated
      --tcp-listen-addr HOST:PORT
\tWhere to accept TCP that sends data; may be repeated
      --multicast-addr GROUP:PORT
\tThe channel: the multicast group to route through,
\twhich others can join and send to. By default one
\tthat is private to this process and never leaves the
\thost. Further ones get what comes in, too
      --tcp-output-addr HOST:PORT
\tWhere TCP clients get everything; may be repeated
      --udp-output-addr HOST:PORT
\tWhere to send everything; may be repeated
      --max-clients N         TCP and TLS clients at a time (default 1024), and as
\tmany inputs; one more is closed at once
",
        tls_help!(),
        options_help!(),
        datagram_size_help!(),
        listeners_help!(),
        transparency_help!(),
        flags_help!(),
        "
HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920; a
GROUP may name its interface: 239.1.2.3%eth0:9918, [ff02::114%eth0]:9918. TCP
clients have receive buffers of 1M each unless --recv-buffer is given.

EXAMPLE:
  mproxy-reverse --udp-listen-addr 0.0.0.0:9920 --tcp-output-addr 0.0.0.0:9921
"
    ),
};

fn main() -> ExitCode {
    raise_descriptor_limit();
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let mut options = args.stream_options()?;
    args.listeners(&mut options)?;
    let mut reverse = Reverse::new();
    for (option, kind) in [
        ("--udp-listen-addr", Kind::UdpListen),
        ("--tcp-listen-addr", Kind::TcpListen),
        ("--tls-listen-addr", Kind::TlsListen),
        ("--multicast-addr", Kind::Channel),
        ("--tcp-output-addr", Kind::TcpOutput),
        ("--tls-output-addr", Kind::TlsOutput),
        ("--udp-output-addr", Kind::UdpOutput),
    ] {
        for endpoint in args.texts(option)? {
            reverse = reverse.endpoint(kind, endpoint);
        }
    }
    reverse = reverse.tls(args.tls("--tls-client-ca")?);
    if let Some(clients) = args.number("--max-clients", 1, 1_000_000)? {
        reverse = reverse.max_clients(clients);
    }
    args.transparency(&mut options)?;
    args.loops(&mut options);
    reverse = reverse.options(options).tee(args.flag("--tee", "-t"));
    args.finish()?;
    reverse.spawn()
}
