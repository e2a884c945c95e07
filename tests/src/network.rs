//! Hosts of their own: network namespaces on a bridge, so that multicast is real and never leaves the
//! machine. The only place where namespaces are made and entered.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::needs::{needs_namespaces, needs_tools, skip};
use crate::{PATIENCE, Running, close, eventually, output, piped, program};

/// Hosts `0..n`, joined by switches that are one segment each. A host `i` on segment `s` has there the interface
/// `eth<s>` with the addresses `10.(77+s).0.(1+i)/24` and `fd(77+s)::(1+i)/64`. All of it goes when this is
/// dropped. Where this process may not make them, the test is skipped.
pub struct Network {
    name: String,
    hosts: usize,
}

impl Network {
    /// Makes hosts on one segment, whose switch floods multicast.
    pub fn new(hosts: usize) -> Self {
        let all: Vec<_> = (0..hosts).collect();
        Self::segments(&[&all], false)
    }

    /// Makes host 0 alone, with no network but the loopback interface, as most containers have.
    pub fn loopback() -> Self {
        let mut network = Self::unlinked();
        network.add();
        network
    }

    /// Makes these hosts, those of each segment. The switches snoop: they pass a group on to those only who have
    /// reported that they joined it, and ask for such reports all the time.
    pub fn snooping(segments: &[&[usize]]) -> Self {
        Self::segments(segments, true)
    }

    fn segments(segments: &[&[usize]], snooping: bool) -> Self {
        let mut network = Self::unlinked();
        ip(&["netns", "add", &network.namespace(None)]);
        let hosts = segments.iter().flat_map(|hosts| hosts.iter()).max().map_or(0, |last| last + 1);
        for _ in 0..hosts {
            network.add();
        }
        for (segment, hosts) in segments.iter().enumerate() {
            network.add_switch(segment, snooping);
            for host in *hosts {
                network.attach(*host, segment);
            }
        }
        for (segment, hosts) in segments.iter().enumerate() {
            for host in *hosts {
                network.settled(*host, segment);
            }
            if snooping {
                network.snoops(segment);
            }
        }
        network
    }

    fn add_switch(&self, segment: usize, snooping: bool) {
        let (switch, bridge) = (self.namespace(None), format!("br{segment}"));
        ip(&["-n", &switch, "link", "add", &bridge, "type", "bridge", "mcast_snooping", "0"]);
        if snooping {
            let set = |options: &str| {
                let change = ["-n", &switch, "link", "set", &bridge, "type", "bridge"];
                ip(&[&change[..], &options.split_whitespace().collect::<Vec<_>>()].concat());
            };
            // Times are in hundredths of a second.
            set("mcast_snooping 1 mcast_igmp_version 3 mcast_mld_version 2 mcast_stats_enabled 1 \
                 mcast_query_response_interval 10 mcast_query_interval 100 mcast_last_member_interval 10 \
                 mcast_startup_query_interval 100 mcast_query_use_ifaddr 1");
            // It floods until the time for answers is over, the one that is set at this moment. And it asks with
            // its own address, so that it needs one.
            set("mcast_querier 1");
            ip(&["-n", &switch, "addr", "add", &format!("10.{}.0.254/24", 77 + segment), "dev", &bridge]);
        }
        ip(&["-n", &switch, "link", "set", &bridge, "up"]);
    }

    /// Waits until the segment's switch passes on what is asked for only.
    fn snoops(&self, segment: usize) {
        let (switch, bridge) = (self.namespace(None), format!("br{segment}"));
        eventually("queries of the switch", || {
            let mut command = Command::new("ip");
            command.args(["-n", &switch, "link", "xstats", "type", "bridge", "igmp", "dev", &bridge]);
            let text = String::from_utf8(output(&mut command).stdout).unwrap();
            // Each query is counted as received, too. MLD ones come when the address of the bridge has settled.
            let asked = |kind: &str, version: &str| {
                let counts = text.split(kind).nth(1)?.lines().find(|line| line.contains("RX:"))?;
                Some(!counts.split(version).nth(1)?.starts_with(" 0"))
            };
            (asked("IGMP queries", "v3")? && asked("MLD queries", "v2")?).then_some(())
        });
    }

    /// Gives the host its interface on the segment, up. To be used again after that was deleted.
    pub fn attach(&self, host: usize, segment: usize) {
        let (name, switch) = (self.namespace(Some(host)), self.namespace(None));
        let (interface, port) = (interface(segment), port(segment, host));
        ip(&[
            "-n", &name, "link", "add", &interface, "type", "veth", "peer", "name", &port, "netns", &switch,
        ]);
        ip(&["-n", &switch, "link", "set", &port, "master", &format!("br{segment}"), "up"]);
        self.address(host, segment);
        ip(&["-n", &name, "link", "set", &interface, "up"]);
    }

    /// Gives the host's interface on the segment its addresses, IPv4 and IPv6. To be used again after these were
    /// taken away.
    pub fn address(&self, host: usize, segment: usize) {
        let interface = interface(segment);
        self.ip(host, &format!("addr replace {}/24 dev {interface}", Self::ipv4_on(segment, host)));
        self.ip(host, &format!("addr replace {}/64 dev {interface} nodad", Self::ipv6_on(segment, host)));
    }

    /// Waits until the host can send over IPv6 on the segment, which it cannot before its link-local address is
    /// settled.
    pub fn settled(&self, host: usize, segment: usize) {
        self.interface_settled(host, &interface(segment));
    }

    /// The same of any interface of the host.
    pub fn interface_settled(&self, host: usize, interface: &str) {
        eventually("IPv6 addresses", || {
            let out = self.run(host, "ip", &["-6", "addr", "show", "dev", interface, "scope", "link"]);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            (text.contains("fe80") && !text.contains("tentative")).then_some(())
        });
    }

    /// Instead of hosts on a bridge, two sites that are far from each other: host 0 with its gateway 1, and
    /// host 2 with its gateway 3. Between the gateways is a router, 4, that passes on no multicast. The
    /// interfaces of hosts and gateways are `lan0`, in `192.168.0.0/24` at the one site and in
    /// `192.168.1.0/24` at the other, and `wan0`; those of the router are `wan0` and `wan1`.
    pub fn two_sites() -> Self {
        let mut network = Self::unlinked();
        let names: Vec<_> = std::iter::repeat_with(|| network.add()).take(5).collect();
        for site in [0, 1] {
            let (host, gateway, far) = (2 * site, 2 * site + 1, format!("wan{site}"));
            let address = |interface: &str, last| Self::site_address(site, interface, last) + "/24";
            for [near, far] in [
                [(host, "lan0", address("lan0", 10)), (gateway, "lan0", address("lan0", 1))],
                [(gateway, "wan0", address("wan0", 2)), (4, &far, address("wan0", 1))],
            ] {
                let peer = ["type", "veth", "peer", "name", far.1, "netns", &names[far.0]];
                ip(&[&["-n", &names[near.0], "link", "add", near.1], &peer[..]].concat());
                for (host, interface, address) in [near, far] {
                    ip(&["-n", &names[host], "addr", "add", &address, "dev", interface]);
                    ip(&["-n", &names[host], "link", "set", interface, "up"]);
                }
            }
            network.route_to_the_other_site(site);
        }
        network.succeeds(4, "sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        network
    }

    /// The IPv4 address of a host (10) or gateway (1) of a [site](Self::two_sites) on its interface `lan0`,
    /// or of the gateway (2) or the router (1) on `wan0`.
    pub fn site_address(site: usize, interface: &str, last: u8) -> String {
        let network = match interface {
            "lan0" => format!("192.168.{site}"),
            _ => ["198.51.100", "203.0.113"][site].to_owned(),
        };
        format!("{network}.{last}")
    }

    /// Makes the route of a site's gateway to the other site, which goes when its interface goes down.
    pub fn route_to_the_other_site(&self, site: usize) {
        let router = Self::site_address(site, "wan0", 1);
        self.succeeds(2 * site + 1, "ip", &["route", "replace", "default", "via", &router]);
    }

    fn unlinked() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        needs_namespaces();
        let name = format!("mp{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { name, hosts: 0 }
    }

    /// Adds a host that is linked to no other. Returns the name of its namespace.
    fn add(&mut self) -> String {
        let host = self.namespace(Some(self.hosts));
        ip(&["netns", "add", &host]);
        self.hosts += 1;
        ip(&["-n", &host, "link", "set", "lo", "up"]);
        host
    }

    /// The IPv4 address of a host on segment 0.
    pub fn ipv4(host: usize) -> String {
        Self::ipv4_on(0, host)
    }

    /// The IPv6 address of a host on segment 0.
    pub fn ipv6(host: usize) -> String {
        Self::ipv6_on(0, host)
    }

    /// The IPv4 address of a host on a segment.
    pub fn ipv4_on(segment: usize, host: usize) -> String {
        format!("10.{}.0.{}", 77 + segment, host + 1)
    }

    /// The IPv6 address of a host on a segment.
    pub fn ipv6_on(segment: usize, host: usize) -> String {
        format!("fd{}::{}", 77 + segment, host + 1)
    }

    fn namespace(&self, host: Option<usize>) -> String {
        match host {
            Some(host) => format!("{}-h{host}", self.name),
            None => format!("{}-sw", self.name),
        }
    }

    /// Runs a closure on a host, in the test's own process. The sockets and threads that it makes stay there.
    pub fn on<T: Send>(&self, host: usize, act: impl FnOnce() -> T + Send) -> T {
        let namespace = Path::new("/run/netns").join(self.namespace(Some(host)));
        let there = move || {
            enter(&namespace);
            act()
        };
        let done = std::thread::scope(|scope| scope.spawn(there).join());
        done.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }

    /// The index of a host's interface.
    pub fn interface_index(&self, host: usize, interface: &str) -> u32 {
        let index = self.run(host, "cat", &[&format!("/sys/class/net/{interface}/ifindex")]);
        String::from_utf8(index.stdout).unwrap().trim().parse().unwrap()
    }

    /// Takes IPv6 away from the host.
    pub fn without_ipv6(&self, host: usize) {
        let disable = "! test -e /proc/sys/net/ipv6 || echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        self.succeeds(host, "sh", &["-c", disable]);
    }

    /// The switch passes nothing to or from the host any more, and nobody is told.
    pub fn cut_off(&self, host: usize) {
        let (switch, port) = (self.namespace(None), port(0, host));
        ip(&["netns", "exec", &switch, "bridge", "link", "set", "dev", &port, "state", "0"]);
    }

    /// The switch passes on what is to or from the host again.
    pub fn restore(&self, host: usize) {
        let (switch, port) = (self.namespace(None), port(0, host));
        ip(&["netns", "exec", &switch, "bridge", "link", "set", "dev", &port, "state", "3"]);
    }

    /// Pulls the cable out of the host's interface on the segment: it stays up, but has no carrier.
    pub fn unplug(&self, host: usize, segment: usize) {
        ip(&["-n", &self.namespace(None), "link", "set", &port(segment, host), "down"]);
        // The host is told so up to a second later.
        let state = format!("/sys/class/net/{}/operstate", interface(segment));
        eventually("the loss of the carrier", || {
            (self.run(host, "cat", &[&state]).stdout != b"up\n").then_some(())
        });
    }

    /// Puts the cable back.
    pub fn plug(&self, host: usize, segment: usize) {
        ip(&["-n", &self.namespace(None), "link", "set", &port(segment, host), "up"]);
    }

    /// Gives the host a bridge `docker0` as container engines make it: with an address, and a running container
    /// on it, but without any interface of the machine.
    pub fn container_bridge(&mut self, host: usize) {
        self.ip(host, "link add docker0 type bridge");
        self.ip(host, "addr add 172.17.0.1/16 dev docker0");
        self.ip(host, "addr add fd17::1/64 dev docker0 nodad");
        let container = self.add();
        self.ip(host, &format!("link add veth0 type veth peer name eth0 netns {container}"));
        ip(&["-n", &container, "link", "set", "eth0", "up"]);
        self.ip(host, "link set veth0 master docker0 up");
        self.ip(host, "link set docker0 up");
    }

    /// Gives the host a tunnel as `OpenVPN` makes it, `tun0` or `tap0`, that works and leads nowhere. It goes with
    /// what this returns.
    pub fn tunnel(&self, host: usize, kind: &str) -> Running {
        needs_tools(&["socat", "/dev/net/tun"]);
        let tunnel = format!("TUN:10.9.0.1/24,tun-type={kind},tun-name={kind}0,iff-up,iff-no-pi");
        let running = Running::new(
            self.command(host, "socat").args(["-u", &tunnel, "GOPEN:/dev/null"]).stdin(Stdio::null()),
        );
        eventually("the tunnel", || {
            let out = self.run(host, "ip", &["link", "show", "dev", &format!("{kind}0")]);
            String::from_utf8_lossy(&out.stdout).contains("UP,LOWER_UP").then_some(())
        });
        running
    }

    /// Makes the host a multicast router with these rules, lines of an `smcroute.conf`.
    pub fn multicast_router(&self, host: usize, rules: &str) -> MulticastRouter {
        needs_tools(&["smcrouted"]);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("conf"), rules).unwrap();
        let mut command = self.command(host, "smcrouted");
        command.args(["-n", "-l", "info", "-f"]).arg(path("conf"));
        // Beside others on this machine.
        command.arg("-u").arg(path("socket")).arg("-P").arg(path("pid"));
        let running = Running::new(command.stdin(Stdio::null()));
        running.says("Ready");
        let messages = running.messages();
        assert!(!messages.contains("error"), "{messages}");
        MulticastRouter { _running: running, _directory: directory }
    }

    /// Waits until the [snooping](Self::snooping) switch knows that the host has joined the group, or has left it,
    /// which it learns some milliseconds later. A group from one source is `GROUP src SOURCE`.
    pub fn switched(&self, segment: usize, host: usize, group: &str, joined: bool) {
        let switch = self.namespace(None);
        let entry = format!("port {} grp {group} ", port(segment, host));
        eventually(&format!("'{entry}' on the switch to be {joined}"), || {
            let out =
                output(Command::new("ip").args(["netns", "exec", &switch, "bridge", "-d", "mdb"])).stdout;
            (String::from_utf8(out).unwrap().contains(&entry) == joined).then_some(())
        });
    }

    /// The switch keeps multicast from passing between hosts, as the Internet does.
    pub fn without_multicast(&self) {
        for host in 0..self.hosts {
            let switch = self.namespace(None);
            let port = port(0, host);
            ip(&["netns", "exec", &switch, "bridge", "link", "set", "dev", &port, "mcast_flood", "off"]);
        }
    }

    /// Limits what leaves through the host's interface, with these parameters of a token bucket filter. Where the kernel
    /// has none, the test is skipped.
    pub fn limit_queue(&self, host: usize, interface: &str, parameters: &str) {
        let queue = ["qdisc", "add", "dev", interface, "root", "tbf"];
        let parameters: Vec<_> = parameters.split(' ').collect();
        if !self.run(host, "tc", &[&queue[..], &parameters].concat()).status.success() {
            skip("this system cannot limit a queue");
        }
    }

    /// Gives the host an `/etc/hosts` of its own.
    pub fn set_names(&self, host: usize, hosts: &str) {
        let directory = self.configuration(host);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts"), hosts).unwrap();
    }

    /// The directory of iproute2 with the files of a namespace that stand in for those of the machine.
    fn configuration(&self, host: usize) -> PathBuf {
        Path::new("/etc/netns").join(self.namespace(Some(host)))
    }

    /// A command that runs on the host.
    pub fn command(&self, host: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(Some(host))]).arg(program);
        command
    }

    /// Runs a command on the host to its end.
    pub fn run(&self, host: usize, program: &str, arguments: &[&str]) -> Output {
        output(self.command(host, program).args(arguments))
    }

    /// Runs a command on the host to its end, which must be a success. Returns what it prints.
    pub fn succeeds(&self, host: usize, program: &str, arguments: &[&str]) -> String {
        let out = self.run(host, program, arguments);
        let messages = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program} {arguments:?}: {messages}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs `ip` with these arguments on the host, which must be a success.
    pub fn ip(&self, host: usize, arguments: &str) {
        ip(&[&["-n", &self.namespace(Some(host))], &arguments.split(' ').collect::<Vec<_>>()[..]].concat());
    }

    /// Starts one of the programs on the host, with standard input closed.
    pub fn start(&self, host: usize, name: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(host, program(name));
        Running::new(command.args(arguments).stdin(Stdio::null()))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in (0..self.hosts).map(Some).chain([None]) {
            output(Command::new("ip").args(["netns", "delete", &self.namespace(host)]));
            if let Some(host) = host {
                let _ = std::fs::remove_dir_all(self.configuration(host));
            }
        }
    }
}

/// A host that is a [multicast router](Network::multicast_router), until this is dropped.
pub struct MulticastRouter {
    _running: Running,
    _directory: TempDir,
}

/// Runs the client on a host to its end, with this input. It must have nothing to say.
pub fn send(network: &Network, host: usize, arguments: &[&str], input: &str) {
    let (mut client, mut stdin) =
        piped(network.command(host, program("mproxy-client")).args(["--path", "-"]).args(arguments));
    stdin.write_all(input.as_bytes()).unwrap();
    close(stdin);
    let code = client.exit_code();
    let messages = client.messages();
    assert!(code == 0 && messages.is_empty(), "client {arguments:?}: {messages}");
}

/// A server on a host that writes to its standard output, listening.
pub fn server(network: &Network, host: usize, arguments: &[&str]) -> Running {
    let server = network.start(host, "mproxy-server", &[&["--path", "-", "-v"], arguments].concat());
    server.is_ready(arguments);
    server
}

/// Waits until the program's output is just this.
pub fn receives(server: &Running, expected: &str) {
    let end = Instant::now() + PATIENCE;
    while server.stdout().len() < expected.len() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(String::from_utf8_lossy(&server.stdout()), expected);
}

/// Moves the calling thread to the namespace.
#[cfg(target_os = "linux")]
fn enter(namespace: &Path) {
    use nix::sched::{CloneFlags, setns};
    setns(std::fs::File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
}

#[cfg(not(target_os = "linux"))]
fn enter(namespace: &Path) {
    panic!("there can be no {}", namespace.display());
}

/// The name of each host's interface on the segment.
fn interface(segment: usize) -> String {
    format!("eth{segment}")
}

/// The name of the switch's end of the cable.
fn port(segment: usize, host: usize) -> String {
    format!("s{segment}h{host}")
}

fn ip(arguments: &[&str]) {
    let out = output(Command::new("ip").args(arguments));
    assert!(out.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}
