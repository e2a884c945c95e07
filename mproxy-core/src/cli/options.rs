//! The one table of the options of all programs. The parsing of a command line and its help are made of it.

use std::ffi::OsStr;

use Feature::Tls;
use Section::{Access, Endpoints, Framing, General, Multicast, Security, Sockets, Transparency};

/// A program that has a command line: its name, and its rows of the table.
#[derive(Debug, Clone, Copy)]
pub struct ProgramSpec {
    name: &'static str,
    options: &'static [OptionSpec],
}

impl ProgramSpec {
    /// `mproxy-client`.
    pub const CLIENT: Self = Self { name: "mproxy-client", options: &rows::<{ count(CLIENT) }>(CLIENT) };
    /// `mproxy-server`.
    pub const SERVER: Self = Self { name: "mproxy-server", options: &rows::<{ count(SERVER) }>(SERVER) };
    /// `mproxy-forward`.
    pub const FORWARD: Self = Self { name: "mproxy-forward", options: &rows::<{ count(FORWARD) }>(FORWARD) };
    /// `mproxy-reverse`.
    pub const REVERSE: Self = Self { name: "mproxy-reverse", options: &rows::<{ count(REVERSE) }>(REVERSE) };

    /// The name of the executable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The options of this program, in the order of its help.
    #[must_use]
    pub const fn options(self) -> &'static [OptionSpec] {
        self.options
    }
}

/// How many rows of the table these programs have.
const fn count(programs: Programs) -> usize {
    let (mut count, mut index) = (0, 0);
    while index < OPTIONS.len() {
        count += OPTIONS[index].programs.overlap(programs) as usize;
        index += 1;
    }
    count
}

/// The rows of these programs, of which there are so many: a program holds no other.
const fn rows<const COUNT: usize>(programs: Programs) -> [OptionSpec; COUNT] {
    let (mut rows, mut filled, mut index) = ([OPTIONS[0]; COUNT], 0, 0);
    while index < OPTIONS.len() {
        if OPTIONS[index].programs.overlap(programs) {
            rows[filled] = OPTIONS[index];
            filled += 1;
        }
        index += 1;
    }
    rows
}

/// A set of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Programs(u8);

impl Programs {
    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn overlap(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The section of the help that an option belongs to. The options of a section stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What data comes from and goes to.
    Endpoints,
    /// TLS.
    Security,
    /// Multicast sections and interfaces.
    Multicast,
    /// Sockets and addresses.
    Sockets,
    /// Datagrams in a byte stream.
    Framing,
    /// Who may send and connect, and how many at a time.
    Access,
    /// Transparent sending.
    Transparency,
    /// Messages and help.
    General,
}

/// A cargo feature that an option needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The feature `tls`.
    Tls,
}

impl Feature {
    /// Whether this build has it.
    #[must_use]
    pub const fn is_built_in(self) -> bool {
        match self {
            Tls => cfg!(feature = "tls"),
        }
    }
}

/// An option of one program or several: a row of the table.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// The long name, such as `--tee`.
    pub long: &'static str,
    /// The short name, such as `-t`.
    pub short: Option<&'static str>,
    /// The name of the value in the help; none for a flag.
    pub value: Option<&'static str>,
    /// Whether the option may be given with several values.
    pub repeats: bool,
    /// The value that stands for none given, where it is the same for all programs.
    pub default: Option<&'static str>,
    /// The programs that have the option.
    pub programs: Programs,
    /// The feature that it needs.
    pub feature: Option<Feature>,
    /// The section that it belongs to.
    pub section: Section,
    /// The help text, without a full stop at the end: the help adds the default and whether it repeats.
    pub help: &'static str,
}

impl OptionSpec {
    /// Whether this build has what the option needs.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.feature.is_none_or(Feature::is_built_in)
    }

    /// Whether an argument is the long or the short name.
    pub(crate) fn is_named(&self, argument: &OsStr) -> bool {
        argument == self.long || self.short.is_some_and(|short| argument == short)
    }

    const fn short(mut self, short: &'static str) -> Self {
        self.short = Some(short);
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn needs(mut self, feature: Feature) -> Self {
        self.feature = Some(feature);
        self
    }

    const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }
}

const fn flag(long: &'static str, section: Section, programs: Programs) -> OptionSpec {
    OptionSpec {
        long,
        short: None,
        value: None,
        repeats: false,
        default: None,
        programs,
        feature: None,
        section,
        help: "",
    }
}

const fn value(long: &'static str, value: &'static str, section: Section, programs: Programs) -> OptionSpec {
    OptionSpec { value: Some(value), ..flag(long, section, programs) }
}

/// An option that may be repeated.
const fn values(long: &'static str, name: &'static str, section: Section, programs: Programs) -> OptionSpec {
    OptionSpec { repeats: true, ..value(long, name, section, programs) }
}

const CLIENT: Programs = Programs(1);
const SERVER: Programs = Programs(2);
const FORWARD: Programs = Programs(4);
const REVERSE: Programs = Programs(8);
const RELAYS: Programs = FORWARD.and(REVERSE);
/// The programs with listeners.
const LISTENING: Programs = SERVER.and(RELAYS);
/// The programs that make datagrams from a byte stream.
const STREAMING: Programs = CLIENT.and(RELAYS);
const ALL: Programs = LISTENING.and(CLIENT);

/// All options, in the order of the help.
const OPTIONS: &[OptionSpec] = &[
    value("--path", "FILE", Endpoints, CLIENT)
        .help("What to send: a file, FIFO or device; - is standard input"),
    value("--path", "FILE", Endpoints, SERVER).help(
        "The file to append to; - is standard output. {addr} in it stands for the listener's address: \
         a file for each",
    ),
    values("--server-addr", "HOST:PORT", Endpoints, CLIENT).help("Where to send it"),
    values("--listen-addr", "HOST:PORT", Endpoints, SERVER).help("Where to receive"),
    values("--udp-listen-addr", "HOST:PORT", Endpoints, RELAYS).help("Where to receive UDP"),
    values("--tcp-connect-addr", "HOST:PORT", Endpoints, FORWARD)
        .help("A TCP server to connect to, again whenever it is lost"),
    values("--udp-downstream-addr", "HOST:PORT", Endpoints, FORWARD).help("Where to send everything"),
    values("--tcp-listen-addr", "HOST:PORT", Endpoints, REVERSE).help("Where to accept TCP that sends data"),
    values("--multicast-addr", "GROUP:PORT", Endpoints, REVERSE).help(
        "The channel: the multicast group to route through, which others can join and send to. By default \
         one that is private to this process and never leaves the host. Further ones get what comes in, too",
    ),
    values("--tcp-output-addr", "HOST:PORT", Endpoints, REVERSE).help("Where TCP clients get everything"),
    values("--udp-output-addr", "HOST:PORT", Endpoints, REVERSE).help("Where to send everything"),
    values("--tls-connect-addr", "HOST:PORT", Security, FORWARD)
        .needs(Tls)
        .help("As --tcp-connect-addr, a TLS server"),
    values("--tls-listen-addr", "HOST:PORT", Security, REVERSE)
        .needs(Tls)
        .help("As --tcp-listen-addr, with TLS"),
    values("--tls-output-addr", "HOST:PORT", Security, REVERSE)
        .needs(Tls)
        .help("As --tcp-output-addr, with TLS"),
    value("--tls-ca", "FILE", Security, FORWARD).needs(Tls).help(
        "The authorities to trust (PEM), rather than those of the file SSL_CERT_FILE or, by default, of \
         the web",
    ),
    value("--tls-server-name", "NAME", Security, FORWARD)
        .needs(Tls)
        .help("Whom its certificate must be for, if not HOST"),
    value("--tls-cert", "FILE", Security, RELAYS)
        .needs(Tls)
        .help("The certificate to show, with those it rests on (PEM)"),
    value("--tls-key", "FILE", Security, RELAYS).needs(Tls).help("Its private key (PEM)"),
    value("--tls-client-ca", "FILE", Security, REVERSE)
        .needs(Tls)
        .help("Let in only those whose certificate is of one of these authorities (PEM)"),
    values("--interface", "NAME|INDEX|ADDRESS|all", Multicast, ALL)
        .help("The network interface for multicast. A zone in an address comes before it"),
    value("--ttl", "N", Multicast, ALL).default("1").help(
        "How far multicast goes, unicast is not affected: 0 stays on this host, 1 on this link, more \
         crosses routers",
    ),
    flag("--no-loop", Multicast, ALL).help("This host does not hear its own multicast (not on Windows)"),
    value("--dscp", "N", Sockets, ALL)
        .default("0")
        .help("The mark (DSCP) of what is sent, 0 to 63 (not on Windows)"),
    value("--resolve-interval", "TIME", Sockets, ALL)
        .default("60s")
        .help("How often the names of targets are resolved again; 0 is never"),
    value("--recv-buffer", "BYTES", Sockets, ALL).help(
        "Receive buffer of each UDP socket, such as 512k or 4M. By default as large as the system allows, up \
         to 8M (mproxy-server: 64M)",
    ),
    value("--linger", "TIME", Sockets, SERVER.and(FORWARD)).default("0").help(
        "How long a UDP listener waits for more after a first datagram, such as 500us or 2ms, at most \
         100ms (a bare number is microseconds); what fills a send goes at once",
    ),
    value("--linger", "TIME", Sockets, REVERSE).default("0").help(
        "How long what comes in waits for more after a first datagram, such as 500us or 2ms, at most \
         100ms (a bare number is microseconds); what fills a send goes at once",
    ),
    value("--framing", "MODE", Framing, ALL).default("auto").help(
        "Datagrams in a byte stream: auto ends one at a newline, lines waits for whole lines, blocks has \
         a fixed size, raw is one a read, length has its length before each (RFC 4571)",
    ),
    value("--datagram-size", "BYTES", Framing, STREAMING).help(
        "The largest datagram made from a byte stream. By default what the path takes whole, at most \
         8192, or 1452 if that is not known",
    ),
    value("--rate", "BITS", Framing, CLIENT)
        .help("Payload bits a second at most, such as 64k or 10M, evenly spread"),
    values("--allow", "NETWORK", Access, LISTENING).help(
        "Take datagrams and connections from there only, such as 10.1.0.0/16, 2001:db8::/32 or an address",
    ),
    value("--max-clients", "N", Access, REVERSE).default("1024").help(
        "TCP and TLS clients at a time, and as many inputs; one more is closed at once, unless one that has \
         closed its sending side gives way",
    ),
    value("--client-buffer", "BYTES", Access, REVERSE).default("4M").help(
        "The lag that a TCP or TLS client may have, from 128k to 1G, for each output thread; one that lags \
         further misses whole datagrams",
    ),
    value("--stall-timeout", "TIME", Access, REVERSE)
        .default("60s")
        .help("How long a TCP or TLS client that answers may take nothing before it is dropped"),
    value("--threads", "N", Access, SERVER.and(FORWARD)).default("1").help(
        "Threads that receive at each unicast UDP listener, for many senders at full speed; each sender \
         stays with one of them (more than one need Linux)",
    ),
    value("--threads", "N", Access, REVERSE).default("1").help(
        "Threads that receive at each unicast UDP listener, for many senders at full speed; each sender \
         stays with one of them. As many share the clients of each TCP or TLS output (more than one need \
         Linux)",
    ),
    flag("--transparent", Transparency, RELAYS)
        .help("Datagrams leave with the address and port of their sender (Linux, needs CAP_NET_ADMIN)"),
    value("--max-sources", "N", Transparency, RELAYS).default("4096").help("Senders at a time for that"),
    flag("--tee", General, ALL).short("-t").help("Copy all data to standard output too"),
    flag("--verbose", General, ALL).short("-v").help("Say on stderr what each endpoint became"),
    flag("--help", General, ALL).short("-h").help("Print this help"),
    flag("--version", General, ALL).short("-V").help("Print the version"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_in_each_program_and_sections_stand_together() {
        for program in [ProgramSpec::CLIENT, ProgramSpec::SERVER, ProgramSpec::FORWARD, ProgramSpec::REVERSE]
        {
            let mut names = Vec::new();
            let mut sections = Vec::new();
            for option in program.options() {
                names.push(option.long);
                names.extend(option.short);
                sections.push(option.section);
            }
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}: {names:?}", program.name());
            sections.dedup();
            for (index, section) in sections.iter().enumerate() {
                assert!(!sections[..index].contains(section), "{}: {section:?} stands twice", program.name());
            }
        }
    }

    #[test]
    fn rows_are_whole() {
        for option in OPTIONS {
            assert!(option.long.starts_with("--") && option.long.is_ascii(), "{option:?}");
            assert!(option.programs.overlap(ALL), "{option:?}");
            assert!(!option.help.is_empty() && !option.help.ends_with('.'), "{option:?}");
            assert!(option.value.is_some() || !option.repeats && option.default.is_none(), "{option:?}");
            if let Some(short) = option.short {
                assert!(short.len() == 2 && short.starts_with('-') && option.value.is_none(), "{option:?}");
            }
        }
    }
}
