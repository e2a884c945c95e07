//! The command line of the benchmark.

use std::path::PathBuf;

use pico_args::Arguments;

pub(crate) const HELP: &str = "\
Measures the four programs, built for release, against the limit of this kernel.
Needs root on Linux: all of it happens in a network namespace of its own.

USAGE:
  cargo bench -p mproxy-bench -- [OPTIONS]

OPTIONS:
      --peer [NAME=]DIR       Another directory with the four programs, to be measured
                              beside ours; may be repeated
      --peer-cmd NAME=COMMAND A UDP relay, to be measured beside mproxy-forward; may be
                              repeated. In the command line, which is split at spaces,
                              {listen} and {target} stand for HOST:PORT, {listen_host},
                              {listen_port}, {target_host}, {target_port} for their
                              parts, and the words {targets} and {targets_slash} for
                              all targets, as HOST:PORT and as HOST/PORT: without one
                              of these two it is left out where there are 8.
                              With {group}, HOST:PORT, it is a server instead, to be
                              measured beside mproxy-reverse: its clients connect to
                              {port} and ask for /udp/{group} over HTTP. {if} stands for
                              the interface
      --runs N                Times that everything is measured; the medians count.
                              Default 3
      --seconds S             How long each load lasts; default 1.5
      --only NAME,...         Only the scenarios whose names begin so; may be repeated
      --svg FILE              Where to draw the chart; default target/bench/network.svg
      --json FILE             Where to write all figures
      --list                  Print the names of the scenarios
  -h, --help                  Print this help

The table goes to standard output. Paths start at the root of the workspace. With
MPROXY_BIN_DIR set the programs in that directory are measured, and nothing is built;
with MPROXY_TLS_BIN_DIR, those in that one where there is TLS. socat, if there is one,
is measured beside mproxy-forward and mproxy-reverse with TCP and TLS; how it relays UDP
is up to a --peer-cmd socat=COMMAND.
";

// Elsewhere they are only checked.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) struct Options {
    /// Name, if one is given, and directory.
    pub(crate) peers: Vec<(Option<String>, PathBuf)>,
    /// Name and words of the command line, of a relay or an HTTP server.
    pub(crate) commands: Vec<(String, Vec<String>)>,
    pub(crate) runs: u32,
    pub(crate) seconds: f64,
    pub(crate) only: Vec<String>,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) list: bool,
    pub(crate) help: bool,
}

impl Options {
    pub(crate) fn parse(mut args: Arguments) -> Result<Self, String> {
        let fault = |error: pico_args::Error| error.to_string();
        let only: Vec<String> = args.values_from_str("--only").map_err(fault)?;
        let peers: Vec<String> = args.values_from_str("--peer").map_err(fault)?;
        let commands: Vec<String> = args.values_from_str("--peer-cmd").map_err(fault)?;
        let options = Self {
            peers: peers.iter().map(|peer| Self::peer(peer)).collect(),
            commands: commands.iter().map(|command| Self::command(command)).collect::<Result<_, _>>()?,
            runs: args.opt_value_from_str("--runs").map_err(fault)?.unwrap_or(3),
            seconds: args.opt_value_from_str("--seconds").map_err(fault)?.unwrap_or(1.5),
            only: only.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect(),
            svg: args.opt_value_from_str("--svg").map_err(fault)?,
            json: args.opt_value_from_str("--json").map_err(fault)?,
            list: args.contains("--list"),
            help: args.contains(["-h", "--help"]),
        };
        if let Some(rest) = args.finish().first() {
            return Err(format!("what is '{}'?", rest.display()));
        }
        if !(1..=100).contains(&options.runs) || !(0.1..=60.0).contains(&options.seconds) {
            return Err("--runs is from 1 to 100, --seconds from 0.1 to 60".into());
        }
        Ok(options)
    }

    fn peer(text: &str) -> (Option<String>, PathBuf) {
        match text.split_once('=') {
            Some((name, directory)) => (Some(name.to_owned()), directory.into()),
            None => (None, text.into()),
        }
    }

    fn command(text: &str) -> Result<(String, Vec<String>), String> {
        let (name, line) = text.split_once('=').ok_or("--peer-cmd wants NAME=COMMAND LINE")?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            Err(format!("--peer-cmd {name}: no command"))
        } else {
            Ok((name.to_owned(), words))
        }
    }
}
