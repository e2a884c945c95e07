//! The command line of `mproxy-client`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mproxy_client::Client;
use mproxy_core::Error;
use mproxy_core::cli::{Args, Command, ProgramSpec};

const COMMAND: Command = Command {
    program: ProgramSpec::CLIENT,
    version: env!("CARGO_PKG_VERSION"),
    about: "MPROXY client: sends a file or standard input as UDP datagrams to unicast,
broadcast and multicast endpoints.
",
    usage: "  mproxy-client --path FILE --server-addr HOST:PORT... [OPTIONS]
",
    notes: "HOST:PORT is a name or address, as in localhost:9920, [::1]:9920, 239.1.2.3:9920
or, with the interface of a group, 239.1.2.3%eth0:9920 and
[ff02::114%eth0]:9920.
",
    examples: "  tail -f feed.log | mproxy-client --path - --server-addr localhost:9920
  mproxy-client --path video.ts --framing blocks --datagram-size 1316 \\
                --rate 8M --server-addr 239.1.2.3:9920
",
};

fn main() -> ExitCode {
    COMMAND.run(read, Client::spawn)
}

fn read(args: &mut Args) -> Result<Client, Error> {
    let Some(path) = args.os_text("--path")? else {
        return Err(Error::usage("--path is missing (--path - sends standard input)"));
    };
    let mut client = Client::new(path).options(args.options()?).tee(args.flag("--tee")?);
    for endpoint in args.texts("--server-addr")? {
        client = client.target(endpoint);
    }
    if let Some(rate) = args.scaled("--rate", 1000, 1, u64::MAX)? {
        client = client.rate(rate);
    }
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_the_table_is_read() {
        let mut args = Args::parse(COMMAND.program, vec!["--path=-".into()]).unwrap();
        read(&mut args).unwrap();
        assert_eq!(args.unread(), ["--verbose", "--help", "--version"], "these are read for all programs");
    }
}
