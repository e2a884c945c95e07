//! The command line of `mproxy-client`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_client::Client;
use mproxy_core::{Error, Handle};
use mproxy_core::command::{
    Args, Command, DATAGRAM_SIZE, FRAMING, INTERFACE, Opt, RECV_BUFFER, TEE, TTL, scaled,
};

const PATH: Opt = Opt::value("--path", "FILE", "What to send: a file, FIFO or device; - is standard input");
const SERVER_ADDR: Opt = Opt::value("--server-addr", "HOST:PORT", "Where to send it; may be repeated");
const RATE: Opt = Opt::value("--rate", "BITS", "Payload bits a second at most, such as 64k or 10M,\nevenly spread");

const COMMAND: Command = Command {
    name: "mproxy-client",
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY client: sends a file or standard input as UDP datagrams to unicast,\n\
            broadcast and multicast endpoints.",
    options: &[PATH, SERVER_ADDR, TEE, FRAMING, DATAGRAM_SIZE, RATE, INTERFACE, TTL, RECV_BUFFER],
    notes: "\
HOST:PORT is a name or address, as in localhost:9920, [::1]:9920, 239.1.2.3:9920
or, with the interface of a group, 239.1.2.3%eth0:9920 and [ff02::114%eth0]:9920.

EXAMPLES:
  tail -f feed.log | mproxy-client --path - --server-addr localhost:9920
  mproxy-client --path video.ts --framing blocks --datagram-size 1316 --rate 8M \\
                --server-addr 239.1.2.3:9920
",
};

fn main() -> ExitCode {
    COMMAND.run(start)
}

fn start(mut args: Args) -> Result<Handle, Error> {
    let path = args.os_value(PATH)?;
    let path = path.ok_or_else(|| Error::usage("--path is missing (--path - sends standard input)"))?;
    let mut client = Client::new(path)
        .tee(args.flag(TEE))
        .framing(args.framing()?)
        .socket_options(args.socket_options()?);
    for endpoint in args.values(SERVER_ADDR)? {
        client = client.target(endpoint);
    }
    if let Some(bytes) = args.datagram_size()? {
        client = client.datagram_size(bytes);
    }
    if let Some(rate) = args.value(RATE, |text| scaled(text, 1000))? {
        client = client.rate(rate);
    }
    args.finish()?;
    client.spawn()
}
