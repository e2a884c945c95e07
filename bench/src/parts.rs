//! The parts of the benchmark that run as processes of their own, so that what they use is not taken for
//! what the programs use. They are this executable, started with the name of a part.

use std::net::SocketAddrV4;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::clients::{self, Protocol};
use crate::feed::{self, Feed};
use crate::load::{self, Load};
use crate::tls::Certificates;
use crate::writers::{self, Lines};
use crate::{Outcome, limit, sink};

/// The first argument of a process that is a part.
pub(crate) const PART: &str = "--part";

fn part(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([PART, name]);
    command
}

/// The command, in a process that ends with this one.
pub(crate) fn bound(command: &Command) -> Command {
    let mut bound = part("bound");
    bound.arg(command.get_program()).args(command.get_args());
    bound
}

pub(crate) fn relay(from: SocketAddrV4, to: &[SocketAddrV4]) -> Command {
    let mut command = part("relay");
    command.arg(from.to_string()).args(to.iter().map(ToString::to_string));
    command
}

pub(crate) fn fan_out(group: SocketAddrV4, on: SocketAddrV4) -> Command {
    let mut command = part("fan-out");
    command.args([group.to_string(), on.to_string()]);
    command
}

pub(crate) fn to_file(from: SocketAddrV4, path: &str) -> Command {
    let mut command = part("to-file");
    command.args([&from.to_string(), path]);
    command
}

pub(crate) fn from_file(path: &str, to: SocketAddrV4, size: usize) -> Command {
    let mut command = part("from-file");
    command.args([path, &to.to_string(), &size.to_string()]);
    command
}

pub(crate) fn load(to: SocketAddrV4, load: Load) -> Command {
    let mut command = part("load");
    command.args([to.to_string(), load.size.to_string(), load.mode.name().to_owned()]);
    command.args([load.pace.unwrap_or(0).to_string(), load.seconds.to_string(), load.most.to_string()]);
    command.arg(load.from_afar.to_string());
    command
}

pub(crate) fn sink(on: SocketAddrV4, patience: Duration) -> Command {
    let mut command = part("sink");
    command.args([on.to_string(), patience.as_millis().to_string()]);
    command
}

pub(crate) fn feed(on: SocketAddrV4, feed: Feed, tls: Option<&Certificates>) -> Command {
    let mut command = part("feed");
    command.args([on.to_string(), feed.framing.name().to_owned()]);
    command.args([feed.size.to_string(), feed.seconds.to_string()]);
    command.args(tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]));
    command
}

pub(crate) fn clients(
    on: SocketAddrV4,
    probes: SocketAddrV4,
    number: usize,
    patience: Duration,
    protocol: Protocol<'_>,
) -> Command {
    let mut command = part("clients");
    command.args([on.to_string(), probes.to_string(), number.to_string(), patience.as_millis().to_string()]);
    match protocol {
        Protocol::Tcp => command.arg("tcp"),
        Protocol::Tls(authority) => command.args(["tls", authority]),
        Protocol::Http(path) => command.args(["http", path]),
    };
    command
}

pub(crate) fn writers(on: SocketAddrV4, output: SocketAddrV4, lines: Lines, patience: Duration) -> Command {
    let mut command = part("writers");
    command.args([on.to_string(), output.to_string(), lines.connections.to_string()]);
    command.args([lines.in_a_tick.to_string(), lines.ticks.to_string(), patience.as_millis().to_string()]);
    command
}

/// Runs the part that the arguments name, as the functions above put them.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    // Also when the benchmark is killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let patience = |millis: &str| millis.parse().map(Duration::from_millis);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The option of the programs, so that the limit is told as they are.
    let (arguments, linger) = match &arguments[..] {
        [arguments @ .., "--linger", time] if arguments.first() != Some(&"bound") => {
            (arguments, Some(patience(time.trim_end_matches("ms"))?))
        }
        arguments => (arguments, None),
    };
    match *arguments {
        ["bound", program, ref arguments @ ..] => Err(Command::new(program).args(arguments).exec().into()),
        ["relay", from, ref to @ ..] => {
            let to = to.iter().map(|to| SocketAddrV4::from_str(to)).collect::<Result<Vec<_>, _>>()?;
            limit::relay(from.parse()?, &to, linger)
        }
        ["fan-out", group, on] => limit::fan_out(group.parse()?, on.parse()?, linger),
        ["to-file", from, path] => limit::to_file(from.parse()?, path),
        ["from-file", path, to, size] => limit::from_file(path, to.parse()?, size.parse()?),
        ["load", to, size, mode, pace, seconds, most, from_afar] => {
            let pace = Some(pace.parse()?).filter(|&pace| pace > 0);
            let (size, seconds, most) = (size.parse()?, seconds.parse()?, most.parse()?);
            let (mode, from_afar) = (mode.parse()?, from_afar.parse()?);
            load::send(to.parse()?, Load { size, mode, pace, seconds, most, from_afar })
        }
        ["sink", on, millis] => sink::count(on.parse()?, patience(millis)?),
        ["feed", on, framing, size, seconds, ref identity @ ..] => {
            let (framing, size, seconds) = (framing.parse()?, size.parse()?, seconds.parse()?);
            feed::serve(on.parse()?, Feed { framing, size, seconds }, identity.try_into().ok())
        }
        ["clients", on, probes, number, millis, ref protocol @ ..] => {
            let protocol = match *protocol {
                ["tls", authority] => Protocol::Tls(authority),
                ["http", path] => Protocol::Http(path),
                _ => Protocol::Tcp,
            };
            clients::count(on.parse()?, probes.parse()?, number.parse()?, patience(millis)?, protocol)
        }
        ["writers", on, output, connections, in_a_tick, ticks, millis] => {
            let (connections, in_a_tick, ticks) = (connections.parse()?, in_a_tick.parse()?, ticks.parse()?);
            let lines = Lines { connections, in_a_tick, ticks };
            writers::send(on.parse()?, output.parse()?, lines, patience(millis)?)
        }
        _ => Err("no such part".into()),
    }
}
