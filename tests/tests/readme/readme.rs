//! The README keeps its word: its commands are run as they are written, on hosts of their own, since
//! their ports and groups are fixed.
//!
//! Each `sh` block has a name, in a comment before it that the page does not show:
//! `<!-- test: NAME -->`. The blocks `set-up`, `install`, `install with TLS`, `install from an archive`
//! and `benchmark` are run by `.ci/run`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mproxy_tests::{
    Capture, Network, Record, Running, eventually, file_with, needs_tools, output, program, receives, run,
    send, server,
};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const PROGRAMS: [&str; 4] = ["mproxy-client", "mproxy-server", "mproxy-forward", "mproxy-reverse"];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).unwrap()
}

/// The `sh` blocks of a page, each with the line before it.
fn sh_blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = page.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == "```sh" {
            let body: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((before.to_owned(), body.join("\n")));
        }
        before = line;
    }
    blocks
}

/// The README's `sh` blocks by name.
fn blocks() -> Vec<(String, String)> {
    let named = sh_blocks(&text("README.md")).into_iter().map(|(before, body)| {
        let name = before.strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->"));
        (name.unwrap_or_else(|| panic!("no test is named for\n{body}")).to_owned(), body)
    });
    named.collect()
}

fn block(name: &str) -> String {
    let found = blocks().into_iter().find(|(block, _)| block == name);
    found.unwrap_or_else(|| panic!("the README has no block '{name}'")).1
}

/// Three hosts, each with a directory of its own.
struct Site {
    network: Network,
    directory: TempDir,
}

impl Site {
    /// The hosts of the README, with its addresses.
    fn new() -> Self {
        let site = Self::on(Network::new(3));
        for host in 0..3 {
            site.network.ip(host, &format!("addr del {}/24 dev eth0", Network::ipv4(host)));
            site.network.ip(host, &format!("addr del {}/64 dev eth0", Network::ipv6(host)));
            site.network.ip(host, &format!("addr add 192.168.1.1{host}/24 dev eth0"));
            site.network.ip(host, &format!("addr add 2001:db8::1{host}/64 dev eth0 nodad"));
        }
        site
    }

    /// Three hosts, or less, of another network.
    fn on(network: Network) -> Self {
        let site = Self { network, directory: tempfile::tempdir().unwrap() };
        for host in 0..3 {
            std::fs::create_dir(site.path(host, "")).unwrap();
        }
        // Everybody here may do everything.
        std::fs::create_dir(site.bin()).unwrap();
        let sudo = site.bin().join("sudo");
        std::fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").unwrap();
        std::fs::set_permissions(&sudo, std::fs::Permissions::from_mode(0o755)).unwrap();
        site
    }

    /// The directory of programs that every shell finds first.
    fn bin(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    /// A file in the host's directory.
    fn path(&self, host: usize, file: &str) -> PathBuf {
        self.directory.path().join(host.to_string()).join(file)
    }

    fn write(&self, host: usize, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(host, file);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Types a block of the README into a terminal of the host.
    fn terminal(&self, host: usize, name: &str) -> Terminal {
        self.shell(host, &block(name), Stdio::null())
    }

    fn shell(&self, host: usize, commands: &str, stdin: Stdio) -> Terminal {
        self.shell_with(&["mproxy-client"], host, commands, stdin)
    }

    /// The same, with the programs that have TLS.
    fn tls_terminal(&self, host: usize, name: &str) -> Terminal {
        self.shell_with(&["tls/mproxy-forward", "mproxy-client"], host, &block(name), Stdio::null())
    }

    /// A shell that finds the programs where these are.
    fn shell_with(&self, programs: &[&str], host: usize, commands: &str, stdin: Stdio) -> Terminal {
        let mut path = self.bin().into_os_string();
        path.push(":");
        for name in programs {
            path.push(program(name).parent().unwrap());
            path.push(":");
        }
        path.push(std::env::var_os("PATH").unwrap());
        let mut command = self.network.command(host, "bash");
        command.args(["-c", commands]).current_dir(self.path(host, "")).env("PATH", path);
        Terminal(Running::new(command.stdin(stdin).process_group(0)))
    }

    /// A server on the host, once it listens; what it receives is its standard output.
    fn receiver(&self, host: usize, endpoint: &str) -> Running {
        let receiver =
            self.network.start(host, "mproxy-server", &["-v", "--path", "-", "--listen-addr", endpoint]);
        receiver.listens(endpoint);
        receiver
    }

    /// Sends these bytes from the host.
    fn send(&self, host: usize, endpoint: &str, bytes: &[u8]) {
        let file = self.write(host, "to-send", bytes);
        let arguments = ["--path", file.to_str().unwrap(), "--server-addr", endpoint];
        let mut client = self.network.start(host, "mproxy-client", &arguments);
        assert_eq!(client.exit_code(), 0, "{}", client.messages());
    }

    fn output(&self, host: usize, command: &str, arguments: &[&str]) -> String {
        String::from_utf8(self.network.run(host, command, arguments).stdout).unwrap()
    }

    /// Waits until a socket of the host listens on the UDP (or TCP) port, for each of the addresses as
    /// `/proc/net` writes them.
    fn listens(&self, host: usize, protocol: &str, port: u16, addresses: &[&str]) {
        for address in addresses {
            // 07 is a UDP socket that is not connected, 0A is a TCP socket that listens.
            let state = if protocol == "tcp" { "0A" } else { "07" };
            eventually(&format!("a listener on {protocol} port {port}"), || {
                let files = [format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")];
                let sockets = self.output(host, "cat", &[&files[0], &files[1]]);
                let local = format!(" {address}:{port:04X} ");
                sockets.lines().any(|l| l.contains(&local) && l.contains(&format!(" {state} "))).then_some(())
            });
        }
    }

    /// Waits until a program of the host has accepted as many connections to the TCP port; before that it is only the
    /// kernel that has.
    fn serves(&self, host: usize, port: u16, count: usize) {
        let filter = format!("sport = :{port}");
        eventually(&format!("{count} clients of port {port}"), || {
            let sockets = self.output(host, "ss", &["-Hntp", "state", "established", &filter]);
            let accepted = sockets.lines().filter(|line| line.contains("\"mproxy-reverse\"")).count();
            (accepted >= count).then_some(())
        });
    }

    /// Waits until as many sockets of the host are members of a group on the interface; the group may be
    /// the beginning of an address.
    fn members(&self, host: usize, interface: &str, group: &str, count: usize) {
        eventually(&format!("{count} members of {group}"), || {
            let groups = self.output(host, "ip", &["maddr", "show", "dev", interface]);
            let users = groups.lines().filter_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let ours = words.get(1).is_some_and(|address| address.starts_with(group));
                let users = match words.get(2) {
                    Some(&"users") => words[3].parse().unwrap(),
                    _ => 1,
                };
                ours.then_some(users)
            });
            (users.sum::<usize>() >= count).then_some(())
        });
    }
}

const ANY: &str = "00000000";
const ANY_IPV6: &str = "00000000000000000000000000000000";

/// A shell and what it runs, in a process group of their own.
struct Terminal(Running);

impl Terminal {
    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process_group(group, signal);
    }

    /// Ctrl-C.
    fn interrupt(mut self) {
        self.signal(Signal::INT);
        assert_eq!(self.0.exit_code(), 0, "{}", self.0.messages());
        assert_eq!(self.0.messages(), "");
    }

    /// Waits until the commands have ended by themselves, without a complaint. Returns what they printed.
    fn ends(mut self) -> String {
        assert_eq!(self.0.exit_code(), 0, "{}", self.0.messages());
        assert_eq!(self.0.messages(), "");
        self.0.text()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn every_command_of_the_readme_is_run_by_a_test_or_by_ci() {
    let names: Vec<_> = blocks().into_iter().map(|(name, _)| name).collect();
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), unique.len(), "two blocks have the same name: {names:?}");
    // The parts of this file that use a block name it.
    let this = include_str!("readme.rs");
    let by_ci = ["set-up", "install", "install with TLS", "install from an archive", "benchmark"];
    for name in names.iter().filter(|name| !by_ci.contains(&name.as_str())) {
        assert!(this.contains(&format!("\"{name}\")")), "no test runs the block '{name}'");
    }
    assert_eq!(block("set-up"), "cargo run --release --example demo\ncargo test --workspace");
    assert_eq!(block("benchmark"), "cargo bench -p mproxy-bench");
    let install = PROGRAMS.map(|name| format!("cargo install --path {name} --locked"));
    assert_eq!(block("install"), install.join("\n"));
    let with_tls = install[2..].iter().map(|line| format!("{line} --features tls"));
    assert_eq!(block("install with TLS"), with_tls.collect::<Vec<_>>().join("\n"));
    let from_archive = ["sha256sum --check --ignore-missing SHA256SUMS", "tar -xzf mproxy-*.tar.gz"];
    assert_eq!(block("install from an archive"), from_archive.join("\n"));
}

fn the_commands_of_the_crates_readmes_are_those_of_the_workspaces() {
    let tested: Vec<String> = blocks()
        .into_iter()
        .flat_map(|(_, body)| body.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for name in PROGRAMS {
        let blocks = sh_blocks(&text(&format!("{name}/README.md")));
        assert_eq!(blocks.len(), 2, "{name}: to install, and to use");
        for line in blocks.iter().flat_map(|(_, body)| body.lines()) {
            assert!(tested.iter().any(|tested| tested == line), "{name}: {line}");
        }
    }
}

/// The pages for those who change the project. What they say to run takes long, or is all of CI: here what it names is
/// looked for.
fn the_pages_for_maintainers_name_what_there_is() {
    let manifests = ["mproxy-core", "bench", "demo", "tests"].iter().chain(&PROGRAMS);
    let manifests: String = manifests.map(|directory| text(&format!("{directory}/Cargo.toml"))).collect();
    let mut commands = 0;
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md", "fuzz/README.md"] {
        let directory = workspace().join(page).parent().unwrap().to_owned();
        let text = text(page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let is_here = link.starts_with("http") || directory.join(file).exists();
            assert!(is_here, "{page}: there is no {link}");
        }
        for line in text.lines().map(str::trim) {
            let words: Vec<_> = line.split_whitespace().collect();
            if words.first().is_some_and(|word| *word == "cargo" || word.starts_with(".ci/")) {
                commands += 1;
                assert!(words[0] == "cargo" || workspace().join(words[0]).exists(), "{page}: {line}");
            }
            for pair in words.windows(2).filter(|pair| words[0] == "cargo" && pair[0] == "-p") {
                let name = format!("name = \"{}\"", pair[1]);
                assert!(manifests.contains(&name), "{page}: there is no package {}", pair[1]);
            }
        }
    }
    assert!(commands > 8, "{commands} commands");
}

/// Each source file of the core is a word of ARCHITECTURE.md: in its tree, or in the way of a datagram.
fn the_pages_of_the_architecture_name_every_file() {
    let page = text("ARCHITECTURE.md");
    let section = |title: &str| {
        let (_, rest) = page.split_once(&format!("\n## {title}\n")).unwrap();
        rest.split("\n## ").next().unwrap()
    };
    let sections = [section("The tree"), section("The way of a datagram")].concat();
    let named: BTreeSet<_> = sections.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let (mut directories, mut files) = (vec![workspace().join("mproxy-core/src")], 0);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            files += 1;
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let is_known = named.contains(stem) || ["tests", "fuzzing"].contains(&stem);
            assert!(is_known, "ARCHITECTURE.md does not name {}", path.display());
        }
    }
    assert!(files > 60, "{files} files");
}

fn the_table_lists_every_option_of_every_program_and_no_other() {
    let readme = text("README.md");
    let mut written = BTreeSet::new();
    for row in readme.lines().filter(|line| line.starts_with("| `-")) {
        let row = row.replace("\\|", "\u{1}");
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let option = cells[1].trim_matches('`').replace('\u{1}', "|");
        for (program, cell) in ["client", "server", "forward", "reverse"].iter().zip(&cells[2..6]) {
            assert!(["", "✓"].contains(cell), "{row}");
            if *cell == "✓" {
                assert!(written.insert((format!("mproxy-{program}"), option.clone())), "twice: {row}");
            }
        }
    }
    let mut offered = BTreeSet::new();
    for name in PROGRAMS {
        let plain = String::from_utf8(run(name, &["--help"], b"").stdout).unwrap();
        let help = if ["mproxy-forward", "mproxy-reverse"].contains(&name) {
            String::from_utf8(run(&format!("tls/{name}"), &["--help"], b"").stdout).unwrap()
        } else {
            plain.clone()
        };
        for option in help.split_whitespace().filter(|word| word.starts_with("--tls-")) {
            assert!(plain.contains(option.trim_end_matches(',')), "{name} says nothing of {option}");
        }
        let options = help.lines().skip_while(|line| *line != "OPTIONS:").skip(1);
        for line in options.take_while(|line| !line.is_empty()).map(str::trim) {
            if line.starts_with('-') {
                let option = line.split("  ").next().unwrap();
                offered.insert((name.to_owned(), option.to_owned()));
            }
        }
    }
    assert!(offered.len() > 40, "{offered:?}");
    assert_eq!(written, offered);
}

fn the_quick_start_works_in_two_terminals() {
    let site = Site::new();
    let server = site.terminal(0, "quick start, server");
    // The file comes after the last of localhost's addresses.
    let log = site.path(0, "streamoutput.log");
    eventually("the log", || log.exists().then_some(()));
    let typed = b"Hello\n\nis anybody there?\n";
    let stdin = File::open(site.write(0, "typed", typed)).unwrap();
    site.shell(0, &block("quick start, client"), stdin.into()).ends();
    assert_eq!(file_with(&log, typed.len()), typed);
    assert_eq!(server.0.writes(typed.len()), typed);
    server.interrupt();
}

fn the_client_recipes_work() {
    let site = Site::new();
    let one = site.receiver(1, "192.168.1.11:9920");
    let two = site.receiver(2, "192.168.1.12:9920");
    let group = site.receiver(2, "239.1.2.3:9920");
    let mut log = File::create(site.path(0, "feed.log")).unwrap();
    log.write_all(b"first\n").unwrap();
    let client = site.terminal(0, "client, one to many");
    for receiver in [&one, &two, &group] {
        assert_eq!(receiver.writes(6), b"first\n");
    }
    log.write_all(b"second\n").unwrap();
    for receiver in [&one, &two, &group] {
        assert_eq!(receiver.writes(13), b"first\nsecond\n");
    }
    drop(client);

    let video: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    site.write(0, "video.ts", &video);
    site.terminal(0, "client, paced").ends();
    assert!(group.writes(13 + video.len())[13..] == video);
}

fn the_server_recipes_work() {
    let site = Site::new();
    let server = site.terminal(1, "server, many to one");
    site.listens(1, "udp", 9920, &[ANY, ANY_IPV6]);
    site.members(1, "eth0", "239.1.2.3", 1);
    site.send(0, "192.168.1.11:9920", b"over IPv4\n");
    site.send(0, "[2001:db8::11]:9920", b"over IPv6\n");
    site.send(0, "239.1.2.3:9921", b"to a group\n");
    let all = String::from_utf8(file_with(&site.path(1, "all.log"), 31)).unwrap();
    let lines: BTreeSet<_> = all.lines().collect();
    assert_eq!(lines, BTreeSet::from(["over IPv4", "over IPv6", "to a group"]));
    server.interrupt();

    let server = site.terminal(1, "server, a file each");
    site.listens(1, "udp", 9920, &[ANY]);
    site.members(1, "eth0", "239.1.2.3", 1);
    site.send(0, "192.168.1.11:9920", b"one");
    site.send(0, "239.1.2.3:9921", b"two");
    assert_eq!(file_with(&site.path(1, "feed-0.0.0.0:9920.log"), 3), b"one");
    assert_eq!(file_with(&site.path(1, "feed-239.1.2.3:9921.log"), 3), b"two");
    server.interrupt();

    let filter = site.terminal(1, "server, pipe");
    site.members(1, "eth0", "239.1.2.3", 1);
    site.send(0, "239.1.2.3:9920", b"# a comment\n!AIVDM,1\n# another\n!AIVDM,2\n");
    assert_eq!(filter.0.writes(18), b"!AIVDM,1\n!AIVDM,2\n");
}

/// A TCP server on host 0, port 5631, that hands out what host 0 sends to its own UDP port 5630.
fn tcp_server(site: &Site) -> Running {
    let arguments = ["-v", "--udp-listen-addr", "127.0.0.1:5630", "--tcp-output-addr", "0.0.0.0:5631"];
    let server = site.network.start(0, "mproxy-reverse", &arguments);
    server.accepts("0.0.0.0:5631");
    server
}

fn the_forward_recipes_work() {
    let site = Site::new();
    let unicast = site.receiver(2, "192.168.1.12:9920");
    let group = site.receiver(2, "239.1.2.3:9921");
    let forward = site.terminal(1, "forward, one to many");
    site.listens(1, "udp", 9920, &[ANY]);
    site.send(0, "192.168.1.11:9920", b"to both\n");
    assert_eq!(unicast.writes(8), b"to both\n");
    assert_eq!(group.writes(8), b"to both\n");
    forward.interrupt();

    let server = tcp_server(&site);
    let forward = site.terminal(1, "forward, many to one");
    site.listens(1, "udp", 9920, &[ANY]);
    site.listens(1, "udp", 9921, &[ANY]);
    server.says("TCP client 192.168.1.11:");
    site.send(0, "192.168.1.11:9920", b"first\n");
    site.send(0, "192.168.1.11:9921", b"second\n");
    site.send(0, "127.0.0.1:5630", b"third\n");
    let merged = String::from_utf8(unicast.writes(27)).unwrap();
    let lines: BTreeSet<_> = merged.lines().collect();
    assert_eq!(lines, BTreeSet::from(["to both", "first", "second", "third"]));
    forward.interrupt();
    drop(server);

    let group = site.receiver(2, "239.1.2.3:9920");
    let server = tcp_server(&site);
    let forward = site.terminal(1, "forward, TCP to UDP");
    server.says("TCP client 192.168.1.11:");
    site.send(0, "127.0.0.1:5630", b"from TCP\n");
    assert_eq!(group.writes(9), b"from TCP\n");
    forward.interrupt();
}

fn the_reverse_recipes_work() {
    needs_tools(&["nc"]);
    let site = Site::new();
    let reverse = site.terminal(1, "reverse, UDP to many TCP");
    site.listens(1, "tcp", 9921, &[ANY]);
    site.listens(1, "udp", 9920, &[ANY]);
    let clients: Vec<_> = [0, 1, 2].map(|host| site.terminal(host, "reverse, TCP client")).into();
    site.serves(1, 9921, clients.len());
    site.send(0, "192.168.1.11:9920", b"to everyone\n");
    for client in &clients {
        assert_eq!(client.0.writes(12), b"to everyone\n");
    }
    reverse.interrupt();

    let into = site.terminal(0, "reverse, into a group");
    let out = site.terminal(1, "reverse, out of a group");
    site.listens(0, "tcp", 9920, &[ANY]);
    site.listens(1, "tcp", 9921, &[ANY]);
    let client = site.terminal(2, "reverse, TCP client");
    site.members(1, "eth0", "239.1.2.3", 1);
    site.serves(1, 9921, 1);
    let stdin = File::open(site.write(2, "typed", b"by way of a group\n")).unwrap();
    let _sender = site.shell(2, "nc 192.168.1.10 9920", stdin.into());
    assert_eq!(client.0.writes(18), b"by way of a group\n");
    into.interrupt();
    out.interrupt();
}

fn the_multicast_recipes_work_across_hosts() {
    let site = Site::new();
    site.write(0, "feed.log", b"over IPv4\n");
    let receivers = [1, 2].map(|host| site.terminal(host, "multicast, receiver"));
    for host in [1, 2] {
        site.members(host, "eth0", "239.1.2.3", 1);
    }
    let printed = site.terminal(1, "troubleshooting, membership").ends();
    assert!(printed.contains("inet  239.1.2.3\n"), "{printed}");
    assert!(printed.contains("239.1.2.3:9920 ") && printed.contains("\"mproxy-server\""), "{printed}");
    site.terminal(0, "multicast, sender").ends();
    for host in [1, 2] {
        assert_eq!(file_with(&site.path(host, "received.log"), 10), b"over IPv4\n");
    }
    receivers.into_iter().for_each(Terminal::interrupt);

    site.write(0, "feed.log", b"over IPv6\n");
    let receivers = [1, 2].map(|host| site.terminal(host, "multicast over IPv6, receiver"));
    for host in [1, 2] {
        site.members(host, "eth0", "ff02::114", 1);
    }
    site.terminal(0, "multicast over IPv6, sender").ends();
    for host in [1, 2] {
        assert_eq!(file_with(&site.path(host, "received.log"), 20)[10..], *b"over IPv6\n");
    }
    receivers.into_iter().for_each(Terminal::interrupt);

    let receiver = site.terminal(1, "multicast, one source");
    site.members(1, "eth0", "232.1.1.1", 1);
    site.send(2, "232.1.1.1%eth0:9920", b"from another\n");
    site.send(0, "232.1.1.1%eth0:9920", b"from the one\n");
    assert_eq!(file_with(&site.path(1, "received.log"), 33)[20..], *b"from the one\n");
    receiver.interrupt();

    let receiver = site.terminal(1, "multicast over IPv6, several sources");
    site.members(1, "eth0", "ff3e::8000:1", 2);
    // One that is heard shows that what was sent before was not.
    for (host, text) in [(1, "from itself\n"), (0, "from one\n"), (1, "from itself\n"), (2, "from two\n")] {
        site.send(host, "[ff3e::8000:1%eth0]:9920", text.as_bytes());
    }
    eventually("both sources", || {
        let log = std::fs::read(site.path(1, "received.log")).unwrap();
        let [one, two] = ["from one\n", "from two\n"];
        let heard = &log[33..];
        (heard == (one.to_owned() + two).as_bytes() || heard == (two.to_owned() + one).as_bytes())
            .then_some(())
    });
    receiver.interrupt();
}

fn a_group_reaches_another_site_over_tls_and_is_recorded_and_replayed() {
    let site = Site::new();
    site.network.without_multicast();
    site.network.set_names(1, "192.168.1.10 site-a.example.org\n");
    let mut certificates = site.terminal(0, "across the Internet, certificates");
    assert_eq!(certificates.0.exit_code(), 0, "{}", certificates.0.messages());
    for file in ["ca.pem", "site-b.pem", "site-b.key"] {
        std::fs::copy(site.path(0, file), site.path(1, file)).unwrap();
    }
    let at_a = site.tls_terminal(0, "across the Internet, site A");
    site.listens(0, "tcp", 9443, &[ANY]);
    let at_b = site.tls_terminal(1, "across the Internet, site B");
    let recording = site.terminal(1, "recording");
    site.members(1, "eth0", "239.1.2.3", 1);
    let recorded = eventually("a recording", || {
        site.send(0, "239.1.2.3%eth0:9918", b"to another site\n");
        std::fs::read(site.path(1, "feed.rec")).ok().filter(|bytes| !bytes.is_empty())
    });
    assert_eq!(recorded[..18], *b"\0\x10to another site\n");
    at_b.interrupt();
    at_a.interrupt();
    recording.interrupt();

    let receiver = site.receiver(1, "239.1.2.4%eth0:9918");
    site.terminal(1, "replaying").ends();
    assert_eq!(receiver.writes(16)[..16], *b"to another site\n");
}

fn the_commands_of_the_troubleshooting_work_on_one_host() {
    let site = Site::new();
    site.write(0, "feed.log", b"it works\n");
    let receiver = site.terminal(0, "troubleshooting, receiver");
    let joined = receiver.0.joined_group("239.1.2.3%127.0.0.1:9920");
    assert_eq!((joined.group.to_string().as_str(), joined.interface.as_str()), ("239.1.2.3:9920", "lo"));
    let mut sender = site.terminal(0, "troubleshooting, sender");
    assert_eq!(sender.0.exit_code(), 0);
    let sent = sender.0.channel();
    assert_eq!(sent.group.to_string(), "239.1.2.3:9920");
    assert_eq!((sent.interface.as_str(), sent.ttl), ("lo", Some(1)));
    assert_eq!(receiver.0.writes(9), b"it works\n");
}

/// The program is a copy, so that nothing of this machine is changed.
fn with_the_capability_forward_is_transparent() {
    needs_tools(&["setcap", "setpriv", "socat"]);
    let site = Site::new();
    let copy = site.bin().join("mproxy-forward");
    std::fs::copy(program("mproxy-forward"), &copy).unwrap();
    // For an ordinary user to get there.
    for directory in [site.directory.path(), &site.bin()] {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    site.terminal(1, "transparency, capability").ends();
    let capabilities = output(Command::new("getcap").arg(&copy)).stdout;
    assert!(String::from_utf8_lossy(&capabilities).contains("cap_net_admin=ep"));

    let wire = Capture::new(&site.network, 2, "eth0");
    let receiver = site.receiver(2, "192.168.1.12:9920");
    let nobody = "exec setpriv --reuid 65534 --regid 65534 --clear-groups ";
    let forward = site.shell(1, &(nobody.to_owned() + &block("transparency")), Stdio::null());
    site.listens(1, "udp", 9920, &[ANY]);
    let to = "UDP4-SENDTO:192.168.1.11:9920,bind=192.168.1.10:5555";
    site.shell(0, &format!("echo as itself | socat -u - {to}"), Stdio::null()).ends();
    receives(&receiver, "as itself\n");
    let packet = wire.sees_payload("as itself\n");
    assert_eq!((packet.source.to_string(), packet.source_port), ("192.168.1.10".to_owned(), 5555));
    forward.interrupt();
}

fn a_route_or_an_option_chooses_the_interface() {
    let site = Site::on(Network::snooping(&[&[0, 1], &[0, 2]]));
    let group = ["-v", "--path", "-", "--listen-addr", "239.1.2.3:9920"];
    let listener = site.network.start(0, "mproxy-server", &group);
    assert_eq!(listener.joined_group("239.1.2.3:9920").interface, "eth0");
    drop(listener);
    site.terminal(0, "which interface, route").ends();
    let listener = site.network.start(0, "mproxy-server", &group);
    assert_eq!(listener.joined_group("239.1.2.3:9920").interface, "eth1");
    drop(listener);

    let listener = site.terminal(0, "which interface, several");
    for (host, interface) in [(1, "eth0"), (2, "eth1")] {
        site.members(0, interface, "239.1.2.3", 1);
        site.network.switched(host - 1, 0, "239.1.2.3", true);
        site.send(host, "239.1.2.3:9920", b"heard\n");
        file_with(&site.path(0, "received.log"), 6 * host);
    }
    listener.interrupt();
}

fn a_group_is_routed_to_another_segment() {
    needs_tools(&["smcrouted"]);
    let site = Site::on(Network::snooping(&[&[0, 1], &[1, 2]]));
    site.network.ip(2, "route add default via 10.78.0.2");
    let far = server(&site.network, 2, &["--listen-addr", "239.1.2.3:9920"]);
    site.network.switched(1, 2, "239.1.2.3", true);
    site.write(0, "feed.log", b"far\n");
    for (name, client) in [
        ("router", block("router, sender")),
        ("router, forward", "mproxy-client --path feed.log --server-addr 239.1.2.3%eth0:9920".to_owned()),
    ] {
        let before = far.stdout().len();
        // Its /run is its own: a process of `ip netns` has mounts of its own.
        let commands = if name == "router" {
            "mount -t tmpfs none /run\n".to_owned() + &block("router")
        } else {
            block("router, forward")
        };
        let router = site.shell(1, &commands, Stdio::null());
        site.network.switched(0, 1, "239.1.2.3", true);
        eventually(name, || {
            site.shell(0, &client, Stdio::null()).ends();
            (far.stdout().len() > before).then_some(())
        });
        router.signal(Signal::INT);
        site.network.switched(0, 1, "239.1.2.3", false);
    }
    assert!(far.text().lines().all(|line| line == "far"));
}

fn a_bridge_tells_what_it_knows_and_asks_when_it_is_told_to() {
    let site = Site::on(Network::new(2));
    // Host 0 is a switch now, which waits a tenth of a second for answers, not ten.
    site.network.ip(0, "link add br0 type bridge mcast_query_response_interval 10");
    site.network.ip(0, "link set eth0 master br0");
    site.network.ip(0, "link set br0 up");
    site.network.interface_settled(0, "br0");
    let groups = ["--listen-addr", "239.1.2.3:9920", "--listen-addr", "[ff15::3]:9920"];
    let _listener = server(&site.network, 1, &groups);
    eventually("the groups on the bridge", || {
        let printed = site.terminal(0, "switch, to look").ends();
        assert!(printed.contains("mcast_snooping 1 ") && printed.contains("mcast_querier 0 "), "{printed}");
        let known = |group| printed.contains(&format!("port eth0 grp {group} "));
        (known("239.1.2.3") && known("ff15::3")).then_some(())
    });
    let wire = Capture::new(&site.network, 1, "eth0");
    site.terminal(0, "switch, querier").ends();
    for group in ["239.1.2.3", "ff15::3"] {
        wire.sees_report("an answer", group, |report| report.record == Record::IsExclude);
    }
    assert!(site.terminal(0, "switch, to look").ends().contains("mcast_querier 1 "));
}

fn tcpdump_shows_datagrams_and_reports_of_the_version_that_was_asked_for() {
    needs_tools(&["tcpdump"]);
    let site = Site::new();
    let shown = |seen: &[&str]| {
        let mut dump = site.terminal(1, "troubleshooting, wire");
        dump.0.says("listening on eth0");
        let groups = ["--listen-addr", "239.1.2.3:9920", "--listen-addr", "[ff15::3]:9920"];
        let listener = server(&site.network, 1, &groups);
        listener.listens("[ff15::3]:9920");
        site.send(0, "239.1.2.3:9920", b"seen\n");
        receives(&listener, "seen\n");
        // Its reports are repeated at some time within a second. What it tells is written at its end.
        std::thread::sleep(std::time::Duration::from_secs(1));
        dump.signal(Signal::INT);
        assert_eq!(dump.0.exit_code(), 0, "{}", dump.0.messages());
        let printed = dump.0.text();
        for text in seen {
            assert!(printed.contains(text), "no '{text}' in {printed}");
        }
    };
    shown(&[
        "> 224.0.0.22: igmp v3 report",
        "> 239.1.2.3.9920: UDP, length 5",
        "multicast listener report v2",
    ]);
    site.terminal(1, "switch, IGMPv2").ends();
    shown(&["> 239.1.2.3: igmp v2 report 239.1.2.3"]);
}

fn firewalls_let_in_the_port_and_the_queries() {
    needs_tools(&["nft", "iptables", "ip6tables"]);
    let nftables = "nft -f - <<'END'\n\
                    table inet filter {\n\
                    chain input { type filter hook input priority filter; policy drop; }\n\
                    }\n\
                    END";
    let iptables = "iptables -P INPUT DROP && ip6tables -P INPUT DROP";
    for (shut, open) in [(nftables, block("firewall, nftables")), (iptables, block("firewall, iptables"))] {
        let site = Site::on(Network::snooping(&[&[0, 1]]));
        // First, as tshark would wait long for what cannot reach it then.
        let wire = Capture::new(&site.network, 1, "eth0");
        site.shell(1, shut, Stdio::null()).ends();
        let groups = ["239.1.2.3:9920", "[ff15::3]:9920"];
        let listener = server(&site.network, 1, &["--listen-addr", groups[0], "--listen-addr", groups[1]]);
        for group in ["239.1.2.3", "ff15::3"] {
            site.network.switched(0, 1, group, true);
        }
        for group in groups {
            send(&site.network, 0, &["--server-addr", group], &format!("{group} shut\n"));
            wire.sees_payload(&format!("{group} shut\n"));
        }
        let answer = |report: &mproxy_tests::Report| report.record == Record::IsExclude;
        for group in ["239.1.2.3", "ff15::3"] {
            assert!(!wire.reports(group).iter().any(answer), "{:?}", wire.reports(group));
        }
        site.shell(1, &open, Stdio::null()).ends();
        let mut expected = String::new();
        for group in groups {
            let text = format!("{group} open\n");
            send(&site.network, 0, &["--server-addr", group], &text);
            expected += &text;
            receives(&listener, &expected);
        }
        for group in ["239.1.2.3", "ff15::3"] {
            wire.sees_report("an answer", group, answer);
        }
    }
}

fn the_reverse_path_filter_is_seen_and_loosened() {
    needs_tools(&["sysctl", "nstat"]);
    let site = Site::on(Network::snooping(&[&[0, 1], &[0, 2]]));
    // The sender is where the default route does not lead.
    site.network.ip(0, "route add default via 10.78.0.3");
    site.network.ip(1, "addr del 10.77.0.2/24 dev eth0");
    site.network.ip(1, "addr add 10.99.0.1/24 dev eth0");
    let listener = server(&site.network, 0, &["--listen-addr", "239.1.2.3%eth0:9920"]);
    site.network.switched(0, 0, "239.1.2.3", true);
    site.network.succeeds(0, "sysctl", &["net.ipv4.conf.all.rp_filter=1"]);
    let printed = site.terminal(0, "reverse path, to look").ends();
    assert!(printed.contains("net.ipv4.conf.all.rp_filter = 1\n"), "{printed}");
    assert!(printed.contains("net.ipv4.conf.eth0.rp_filter = "), "{printed}");
    let counted = |name: &str| -> u64 {
        let printed = site.terminal(0, "troubleshooting, counters").ends();
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{printed}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!((counted("UdpRcvbufErrors"), counted("Udp6RcvbufErrors")), (0, 0));
    let before = counted("TcpExtIPReversePathFilter");
    site.send(1, "239.1.2.3:9920", b"dropped\n");
    eventually("a count", || (counted("TcpExtIPReversePathFilter") > before).then_some(()));
    site.terminal(0, "reverse path, loose").ends();
    site.send(1, "239.1.2.3:9920", b"taken\n");
    receives(&listener, "taken\n");
}

fn a_unicast_hop_brings_a_group_to_a_container() {
    let mut network = Network::snooping(&[&[0, 1]]);
    network.container_bridge(0);
    network.ip(2, "addr add 172.17.0.2/16 dev eth0");
    let site = Site::on(network);
    let inside = site.receiver(2, "172.17.0.2:9920");
    let forward = site.terminal(0, "containers, a hop");
    site.network.switched(0, 0, "239.1.2.3", true);
    site.send(1, "239.1.2.3:9920", b"into a container\n");
    receives(&inside, "into a container\n");
    forward.interrupt();
}

mproxy_tests::main!(
    every_command_of_the_readme_is_run_by_a_test_or_by_ci,
    the_commands_of_the_crates_readmes_are_those_of_the_workspaces,
    the_pages_for_maintainers_name_what_there_is,
    the_pages_of_the_architecture_name_every_file,
    the_table_lists_every_option_of_every_program_and_no_other,
    the_quick_start_works_in_two_terminals,
    the_client_recipes_work,
    the_server_recipes_work,
    the_forward_recipes_work,
    the_reverse_recipes_work,
    the_multicast_recipes_work_across_hosts,
    a_group_reaches_another_site_over_tls_and_is_recorded_and_replayed,
    the_commands_of_the_troubleshooting_work_on_one_host,
    with_the_capability_forward_is_transparent,
    a_route_or_an_option_chooses_the_interface,
    a_group_is_routed_to_another_segment,
    a_bridge_tells_what_it_knows_and_asks_when_it_is_told_to,
    tcpdump_shows_datagrams_and_reports_of_the_version_that_was_asked_for,
    firewalls_let_in_the_port_and_the_queries,
    the_reverse_path_filter_is_seen_and_loosened,
    a_unicast_hop_brings_a_group_to_a_container,
);
