//! The command line of `mproxy-forward`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_core::command::{Args, Command};
use mproxy_core::{Error, Handle, datagram_size_help, flags_help, options_help, listeners_help};
use mproxy_forward::Forward;

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
                              Where to receive UDP; may be repeated
      --tcp-connect-addr HOST:PORT
                              A TCP server to connect to, again whenever it is
                              lost; may be repeated
      --tls-connect-addr HOST:PORT
                              As that, a TLS server; may be repeated. TLS options
                              need a build with --features tls
      --tls-ca FILE           Authorities to trust (PEM), rather than SSL_CERT_FILE
                              or those of the web
      --tls-server-name NAME  Whom the certificate must be for, rather than HOST
      --tls-cert FILE, --tls-key FILE
                              What to show to servers that ask for a certificate
      --udp-downstream-addr HOST:PORT
                              Where to send everything; may be repeated
",
        options_help!(),
        datagram_size_help!(),
        listeners_help!(),
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
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let options = args.stream_options()?;
    let mut forward = Forward::new().options(args.listeners(options)?);
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
    forward = forward.tee(args.flag("--tee", "-t"));
    args.finish()?;
    forward.spawn()
}
