//! The command line of `mproxy-client`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_client::Client;
use mproxy_core::cli::{Args, Command};
use mproxy_core::{Error, Handle, datagram_size_help, flags_help, options_help};

const COMMAND: Command = Command {
    name: "mproxy-client",
    version: env!("CARGO_PKG_VERSION"),
    help: concat!(
        "MPROXY client: sends a file or standard input as UDP datagrams to unicast,
broadcast and multicast endpoints.

USAGE:
  mproxy-client --path FILE --server-addr HOST:PORT... [OPTIONS]

OPTIONS:
      --path FILE             What to send: a file, FIFO or device; - is standard
\tinput
      --server-addr HOST:PORT
\tWhere to send it; may be repeated
",
        "      --rate BITS             Payload bits a second at most, such as 64k or 10M,
\tevenly spread
",
        options_help!(),
        datagram_size_help!(),
        flags_help!(),
        "
HOST:PORT is a name or address, as in localhost:9920, [::1]:9920, 239.1.2.3:9920
or, with the interface of a group, 239.1.2.3%eth0:9920 and [ff02::114%eth0]:9920.

EXAMPLES:
  tail -f feed.log | mproxy-client --path - --server-addr localhost:9920
  mproxy-client --path video.ts --framing blocks --datagram-size 1316 --rate 8M \\
                --server-addr 239.1.2.3:9920
"
    ),
};

fn main() -> ExitCode {
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let path = args.os_text("--path")?;
    let mut options = args.stream_options()?;
    let mut client = Client::new(path.clone().unwrap_or_default());
    for endpoint in args.texts("--server-addr")? {
        client = client.target(endpoint);
    }
    if let Some(rate) = args.scaled("--rate", 1000, u64::MAX)? {
        client = client.rate(rate);
    }
    args.loops(&mut options);
    client = client.options(options).tee(args.flag("--tee", "-t"));
    args.finish()?;
    if path.is_none() {
        return Err(Error::usage("--path is missing (--path - sends standard input)"));
    }
    client.spawn()
}
