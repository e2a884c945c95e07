//! The candidates: our programs, others of the same names, the limit, and relays of any kind.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::parts;
use crate::processes::Process;
use crate::streams::Framing;
use crate::tls::Certificates;

/// A candidate: they take turns in every scenario.
pub(crate) struct Candidate {
    pub(crate) name: String,
    kind: Kind,
}

/// The name of the relay that does more than UDP.
const SOCAT: &str = "socat";

/// The placeholder of the group in the command line of a server.
const GROUP: &str = "{group}";

/// The most clients of a program that has a limit for them.
const MAX_CLIENTS: &str = "2000";

/// Bytes that socat takes at a time by default.
const BUFFER: usize = 8192;

enum Kind {
    /// Programs with TLS may be in a directory of their own, or not be there at all.
    Programs {
        directory: PathBuf,
        tls: Option<PathBuf>,
        ours: bool,
    },
    Limit,
    Relay(Vec<String>),
    /// A server that hands a group to clients that ask for it over HTTP.
    HttpServer(Vec<String>),
}

impl Candidate {
    /// The programs of this workspace, also with TLS if that is needed.
    pub(crate) fn ours(with_tls: bool) -> Self {
        let directory = |name| mproxy_tests::program(name).parent().map(Path::to_owned);
        let tls = with_tls.then(|| directory("tls/mproxy-forward")).flatten();
        let directory = directory("mproxy-forward").unwrap_or_default();
        Self { name: "mproxy".to_owned(), kind: Kind::Programs { directory, tls, ours: true } }
    }

    /// Programs of the same names in another directory.
    pub(crate) fn peer(name: String, directory: &Path) -> Outcome<Self> {
        let directory =
            directory.canonicalize().map_err(|error| format!("{}: {error}", directory.display()))?;
        let tls = Some(directory.clone());
        Ok(Self { name, kind: Kind::Programs { directory, tls, ours: false } })
    }

    /// The limit.
    pub(crate) fn limit() -> Self {
        Self { name: "limit".to_owned(), kind: Kind::Limit }
    }

    /// A relay that is started with this command line, or a server if there is a group in it.
    pub(crate) fn command(name: String, words: Vec<String>) -> Self {
        let is_server = words.iter().any(|word| word.contains(GROUP));
        Self { name, kind: if is_server { Kind::HttpServer(words) } else { Kind::Relay(words) } }
    }

    /// socat, for scenarios with streams, if it is installed.
    pub(crate) fn socat() -> Option<Self> {
        Process::part(Command::new(SOCAT).arg("-V")).and_then(Process::output).ok()?;
        Some(Self::command(SOCAT.to_owned(), Vec::new()))
    }

    /// Whether this is socat, whatever it relays with.
    pub(crate) fn is_socat(&self) -> bool {
        matches!(self.kind, Kind::Relay(_)) && self.name == SOCAT
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Programs { ours: true, .. })
    }

    pub(crate) fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Programs { ours: false, .. })
    }

    /// Whether clients have to ask over HTTP.
    pub(crate) fn is_http_server(&self) -> bool {
        matches!(self.kind, Kind::HttpServer(_))
    }

    pub(crate) fn is_limit(&self) -> bool {
        matches!(self.kind, Kind::Limit)
    }

    /// The file of one of the programs, if this candidate has such a thing.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        match &self.kind {
            Kind::Programs { directory, .. } => Some(directory.join(name)),
            _ => None,
        }
    }

    /// The same, of those with TLS.
    fn tls_program(&self, name: &str) -> Option<PathBuf> {
        match &self.kind {
            Kind::Programs { tls, .. } => Some(tls.as_ref()?.join(name)),
            _ => None,
        }
    }

    /// Whether the program's help names the option.
    fn knows(&self, program: &str, option: &str) -> bool {
        self.program(program).is_some_and(|path| knows(&path, option))
    }

    /// UDP to UDP.
    pub(crate) fn forward(&self, from: SocketAddrV4, to: &[SocketAddrV4]) -> Option<Command> {
        match &self.kind {
            Kind::Programs { directory, .. } => {
                let mut command = Command::new(directory.join("mproxy-forward"));
                command.args(["--udp-listen-addr", &from.to_string()]);
                for target in to {
                    command.args(["--udp-downstream-addr", &target.to_string()]);
                }
                Some(command)
            }
            Kind::Limit => Some(parts::relay(from, to)),
            Kind::Relay(words) => fill(words, from, to),
            Kind::HttpServer(_) => None,
        }
    }

    /// The command of the program with a linger, if there is to be one; none if the program does not know
    /// the option.
    pub(crate) fn with_linger(
        &self,
        program: &str,
        mut command: Command,
        linger: Option<Duration>,
    ) -> Option<Command> {
        let Some(linger) = linger else { return Some(command) };
        match self.kind {
            Kind::Programs { .. } if !self.knows(program, "--linger") => {
                eprintln!("bench: {program} of {} has no --linger, and is left out", self.name);
                None
            }
            Kind::Programs { .. } | Kind::Limit => {
                command.args(["--linger", &format!("{}ms", linger.as_millis())]);
                Some(command)
            }
            Kind::Relay(_) | Kind::HttpServer(_) => None,
        }
    }

    /// The same, so that all datagrams keep their sender.
    pub(crate) fn transparent(&self, from: SocketAddrV4, to: &[SocketAddrV4]) -> Option<Command> {
        if !self.knows("mproxy-forward", "--transparent") {
            return None;
        }
        let mut command = self.forward(from, to)?;
        command.arg("--transparent");
        Some(command)
    }

    /// A file, or standard input, to UDP; with a size, cut into blocks of it.
    pub(crate) fn client(&self, path: &str, to: SocketAddrV4, size: Option<usize>) -> Option<Command> {
        match &self.kind {
            Kind::Programs { directory, .. } => {
                let mut command = Command::new(directory.join("mproxy-client"));
                command.args(["--path", path, "--server-addr", &to.to_string()]);
                if let Some(size) = size {
                    if !self.knows("mproxy-client", "--framing") {
                        return None;
                    }
                    command.args(["--framing", "blocks", "--datagram-size", &size.to_string()]);
                }
                Some(command)
            }
            // It takes what a path over Ethernet does, where nobody says anything else.
            Kind::Limit if path != "-" => Some(parts::from_file(path, to, size.unwrap_or(1452))),
            _ => None,
        }
    }

    /// UDP to a file.
    pub(crate) fn server(&self, from: SocketAddrV4, path: &str) -> Option<Command> {
        match &self.kind {
            Kind::Programs { directory, .. } => {
                let mut command = Command::new(directory.join("mproxy-server"));
                command.args(["--listen-addr", &from.to_string(), "--path", path]);
                Some(command)
            }
            Kind::Limit => Some(parts::to_file(from, path)),
            Kind::Relay(_) | Kind::HttpServer(_) => None,
        }
    }

    /// UDP to a group.
    pub(crate) fn channel(&self, from: SocketAddrV4, group: SocketAddrV4) -> Option<Command> {
        match &self.kind {
            Kind::Programs { .. } => self.reverse(from, group, None),
            Kind::Limit => Some(parts::relay(from, &[group])),
            Kind::Relay(_) | Kind::HttpServer(_) => None,
        }
    }

    /// UDP to a group, and from there to TCP clients.
    pub(crate) fn reverse(
        &self,
        from: SocketAddrV4,
        group: SocketAddrV4,
        clients: Option<SocketAddrV4>,
    ) -> Option<Command> {
        let mut command = Command::new(self.program("mproxy-reverse")?);
        command.args(["--udp-listen-addr", &from.to_string()]);
        command.args(["--multicast-addr", &self.on_loopback(group)]);
        if let Some(clients) = clients {
            command.args(["--tcp-output-addr", &clients.to_string()]);
        }
        Some(command)
    }

    /// The group on loopback, as `mproxy-reverse` takes it.
    fn on_loopback(&self, group: SocketAddrV4) -> String {
        // A program without interfaces takes the one that the group is routed to, which is the same here.
        let zone = if self.knows("mproxy-reverse", "--interface") { "%127.0.0.1" } else { "" };
        format!("{}{zone}:{}", group.ip(), group.port())
    }

    /// `mproxy-reverse` for as many clients as there are here.
    fn reverse_for_many(&self) -> Option<Command> {
        let mut command = Command::new(self.program("mproxy-reverse")?);
        if self.knows("mproxy-reverse", "--max-clients") {
            command.args(["--max-clients", MAX_CLIENTS]);
        }
        Some(command)
    }

    /// A group to all who connect.
    pub(crate) fn fan_out(&self, group: SocketAddrV4, on: SocketAddrV4) -> Option<Command> {
        match &self.kind {
            Kind::Programs { .. } => {
                let mut command = self.reverse_for_many()?;
                command.args(["--multicast-addr", &self.on_loopback(group)]);
                command.args(["--tcp-output-addr", &on.to_string()]);
                Some(command)
            }
            Kind::Limit => Some(parts::fan_out(group, on)),
            Kind::HttpServer(words) => {
                let (group, port) = (group.to_string(), on.port().to_string());
                let mut words = words
                    .iter()
                    .map(|word| word.replace(GROUP, &group).replace("{port}", &port).replace("{if}", "lo"));
                let mut command = Command::new(words.next()?);
                command.args(words);
                Some(command)
            }
            Kind::Relay(_) => None,
        }
    }

    /// Lines of all who connect to UDP.
    pub(crate) fn fan_in(&self, on: SocketAddrV4, to: SocketAddrV4) -> Option<Command> {
        let mut command = self.reverse_for_many()?;
        command.args(["--tcp-listen-addr", &on.to_string(), "--udp-output-addr", &to.to_string()]);
        Some(command)
    }

    /// A TCP server, or a TLS server whose authority is in the file, to UDP: cut into datagrams of a size.
    pub(crate) fn stream_in(
        &self,
        server: SocketAddrV4,
        to: SocketAddrV4,
        (framing, size): (Framing, usize),
        tls: Option<&Certificates>,
    ) -> Option<Command> {
        if self.is_socat() && framing != Framing::Length {
            let from = match tls {
                Some(tls) => format!("OPENSSL:{server},cafile={}", tls.authority),
                None => format!("TCP:{server}"),
            };
            return Some(socat(size, &from, &format!("UDP-SENDTO:{to}")));
        }
        let (program, option) = match tls {
            Some(_) => (self.tls_program("mproxy-forward")?, "--tls-connect-addr"),
            None => (self.program("mproxy-forward")?, "--tcp-connect-addr"),
        };
        let mut command = framed(program, option, framing)?;
        command.args([option, &server.to_string(), "--udp-downstream-addr", &to.to_string()]);
        if framing != Framing::Length {
            command.args(["--datagram-size", &size.to_string()]);
        }
        command.args(tls.iter().flat_map(|tls| ["--tls-ca", &tls.authority]));
        Some(command)
    }

    /// UDP to those who connect, with TLS if there are certificates.
    pub(crate) fn stream_out(
        &self,
        from: SocketAddrV4,
        clients: SocketAddrV4,
        framing: Framing,
        tls: Option<&Certificates>,
    ) -> Option<Command> {
        if self.is_socat() && framing != Framing::Length {
            let on = format!("{},bind={}", clients.port(), clients.ip());
            let to = match tls {
                Some(Certificates { certificate, key, .. }) => {
                    format!("OPENSSL-LISTEN:{on},cert={certificate},key={key},verify=0")
                }
                None => format!("TCP-LISTEN:{on}"),
            };
            let from = format!("UDP-RECV:{},bind={}", from.port(), from.ip());
            return Some(socat(BUFFER, &from, &to));
        }
        let (program, option) = match tls {
            Some(_) => (self.tls_program("mproxy-reverse")?, "--tls-output-addr"),
            None => (self.program("mproxy-reverse")?, "--tcp-output-addr"),
        };
        let mut command = framed(program, option, framing)?;
        command.args(["--udp-listen-addr", &from.to_string(), option, &clients.to_string()]);
        command.args(tls.iter().flat_map(|tls| ["--tls-cert", &tls.certificate, "--tls-key", &tls.key]));
        Some(command)
    }
}

/// Whether the program's help names the option.
fn knows(program: &Path, option: &str) -> bool {
    let help = Process::part(Command::new(program).arg("--help")).and_then(Process::output);
    help.is_ok_and(|help| help.contains(option))
}

/// The program with this framing; none if it does not know that, or the option.
fn framed(program: PathBuf, option: &str, framing: Framing) -> Option<Command> {
    let known = knows(&program, option) && knows(&program, "--framing");
    let mut command = Command::new(program);
    command.args(["--framing", framing.name()]);
    known.then_some(command)
}

/// One way only, at most so many bytes at a time.
fn socat(size: usize, from: &str, to: &str) -> Command {
    let mut command = Command::new(SOCAT);
    command.args(["-u", "-b", &size.to_string(), from, to]);
    command
}

/// The command line with its placeholders filled in; none if it has room for one target and there are more.
fn fill(words: &[String], from: SocketAddrV4, to: &[SocketAddrV4]) -> Option<Command> {
    let first = to.first()?;
    let pairs = [
        ("{listen}", from.to_string()),
        ("{listen_host}", from.ip().to_string()),
        ("{listen_port}", from.port().to_string()),
        ("{target}", first.to_string()),
        ("{target_host}", first.ip().to_string()),
        ("{target_port}", first.port().to_string()),
    ];
    let mut filled = Vec::new();
    let mut all = to.len() == 1;
    for word in words {
        match word.as_str() {
            "{targets}" => filled.extend(to.iter().map(ToString::to_string)),
            "{targets_slash}" => filled.extend(to.iter().map(|t| format!("{}/{}", t.ip(), t.port()))),
            _ => {
                filled.push(pairs.iter().fold(word.clone(), |word, (name, value)| word.replace(name, value)));
                continue;
            }
        }
        all = true;
    }
    let mut command = Command::new(filled.first()?);
    command.args(&filled[1..]);
    all.then_some(command)
}
