//! The command line of `mproxy-forward`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::cli::{Args, Command, raise_descriptor_limit};
use mproxy_core::{
    Error, Handle, datagram_size_help, flags_help, listeners_help, options_help, transparency_help,
};
use mproxy_forward::Forward;

#[cfg(feature = "tls")]
macro_rules! tls_help {
    () => {
        "      --tls-connect-addr HOST:PORT
\tAs --tcp-connect-addr, a TLS server; may be repeated
      --tls-ca FILE           The authorities to trust (PEM), rather than those of
\tthe file SSL_CERT_FILE or, by default, of the web
      --tls-server-name NAME  Whom its certificate must be for, if not HOST
      --tls-cert FILE         The certificate to show where one is asked for, with
\tthose it rests on (PEM)
      --tls-key FILE          Its private key (PEM)
"
    };
}

#[cfg(not(feature = "tls"))]
macro_rules! tls_help {
    () => {
        "      --tls-connect-addr, --tls-ca, --tls-server-name, --tls-cert, --tls-key
\tTLS, in a build with cargo's --features tls
"
    };
}

const COMMAND: Command = Command {
    name: "mproxy-forward",
    version: env!("CARGO_PKG_VERSION"),
    help: concat!(
        "MPROXY forward: sends what arrives at UDP endpoints and from TCP and TLS servers to
many UDP endpoints, unicast, broadcast and multicast.

USAGE:
  mproxy-forward --udp-listen-addr HOST:PORT... --udp-downstream-addr HOST:PORT... [OPTIONS]

OPTIONS:
      --udp-listen-addr HOST:PORT
\tWhere to receive UDP; may be repeated
      --tcp-connect-addr HOST:PORT
\tA TCP server to connect to, again whenever it is
\tlost; may be repeated
      --udp-downstream-addr HOST:PORT
\tWhere to send everything; may be repeated
",
        tls_help!(),
        options_help!(),
        datagram_size_help!(),
        listeners_help!(),
        transparency_help!(),
        flags_help!(),
        "
HOST:PORT is a name or address, as in localhost:9920, 0.0.0.0:9920, [::]:9920,
239.1.2.3:9920 or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920. SOURCE@GROUP:PORT listens to one sender only.

EXAMPLES:
  mproxy-forward --udp-listen-addr 0.0.0.0:9920 \\
                 --udp-downstream-addr 10.0.0.7:9920 --udp-downstream-addr [::1]:9921
  mproxy-forward --tcp-connect-addr feed.example.org:5631 \\
                 --udp-downstream-addr 239.1.2.3:9920
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
    let mut forward = Forward::new();
    for endpoint in args.texts("--udp-listen-addr")? {
        forward = forward.udp_listen(endpoint);
    }
    for endpoint in args.texts("--tcp-connect-addr")? {
        forward = forward.tcp_connect(endpoint);
    }
    for endpoint in args.texts("--tls-connect-addr")? {
        forward = forward.tls_connect(endpoint);
    }
    let mut tls = args.tls("--tls-ca")?;
    if let Some(name) = args.text("--tls-server-name")? {
        tls = tls.server_name(name);
    }
    forward = forward.tls(tls);
    for endpoint in args.texts("--udp-downstream-addr")? {
        forward = forward.target(endpoint);
    }
    args.transparency(&mut options)?;
    args.loops(&mut options);
    forward = forward.options(options).tee(args.flag("--tee", "-t"));
    args.finish()?;
    forward.spawn()
}
