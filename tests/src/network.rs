//! Hosts of their own: network namespaces on a bridge, so that multicast is real and never leaves the
//! machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Running, eventually, output, program, skipped, try_launch};

/// Whether this process may make network namespaces. Where it may not, a test that needs them says so
/// and passes; under CI it must not come to that, so there this panics instead.
pub fn can_make_networks(test: &str) -> bool {
    let able = cfg!(target_os = "linux")
        && rustix::process::geteuid().is_root()
        && try_launch(Command::new("ip").args(["netns", "list"]).stdout(Stdio::null()))
            .and_then(|mut ip| ip.wait())
            .is_ok_and(|status| status.success());
    if !able {
        assert!(std::env::var_os("CI").is_none(), "{test}: network namespaces are needed under CI");
        skipped(test, "making network namespaces needs root and iproute2 on Linux");
    }
    able
}

/// Hosts `0..n` with the addresses `10.77.0.(1+i)/24` and `fd77::(1+i)/64` on their interface `eth0`,
/// joined by a bridge that floods multicast. All of it goes when this is dropped.
pub struct Network {
    name: String,
    hosts: usize,
}

impl Network {
    /// Makes the hosts.
    pub fn new(hosts: usize) -> Self {
        let mut network = Self::unlinked();
        let switch = network.namespace(None);
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for i in 0..hosts {
            let host = network.add();
            let port = format!("p{i}");
            ip(&[
                "-n", &host, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &switch,
            ]);
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &host, "addr", "add", &format!("{}/24", Self::ipv4(i)), "dev", "eth0"]);
            ip(&["-n", &host, "addr", "add", &format!("{}/64", Self::ipv6(i)), "dev", "eth0", "nodad"]);
            ip(&["-n", &host, "link", "set", "eth0", "up"]);
        }
        // An IPv6 interface cannot send before its link-local address is settled.
        for i in 0..hosts {
            eventually("IPv6 addresses", || {
                let out = network.run(i, "ip", &["-6", "addr", "show", "dev", "eth0", "scope", "link"]);
                let text = String::from_utf8_lossy(&out.stdout).into_owned();
                (text.contains("fe80") && !text.contains("tentative")).then_some(())
            });
        }
        network
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

    /// The IPv4 address of a host.
    pub fn ipv4(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// The IPv6 address of a host.
    pub fn ipv6(host: usize) -> String {
        format!("fd77::{}", host + 1)
    }

    fn namespace(&self, host: Option<usize>) -> String {
        match host {
            Some(host) => format!("{}-h{host}", self.name),
            None => format!("{}-sw", self.name),
        }
    }

    /// The file that stands for the host's namespace, for a thread of the test to enter.
    pub fn namespace_file(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(Some(host)))
    }

    /// Has the switch pass nothing to or from the host any more, without a word to anyone.
    pub fn cut_off(&self, host: usize) {
        let (switch, port) = (self.namespace(None), format!("p{host}"));
        ip(&["netns", "exec", &switch, "bridge", "link", "set", "dev", &port, "state", "0"]);
    }

    /// Has the switch keep multicast from passing between hosts, as the Internet does.
    pub fn without_multicast(&self) {
        for host in 0..self.hosts {
            let switch = self.namespace(None);
            let port = format!("p{host}");
            ip(&["netns", "exec", &switch, "bridge", "link", "set", "dev", &port, "mcast_flood", "off"]);
        }
    }

    /// Gives the host an `/etc/hosts` of its own.
    pub fn set_names(&self, host: usize, hosts: &str) {
        let directory = self.configuration(host);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts"), hosts).unwrap();
    }

    /// Where iproute2 looks for the files of a namespace that stand in for those of the machine.
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

    /// Runs a command on the host to its end, which must be a success.
    pub fn succeeds(&self, host: usize, program: &str, arguments: &[&str]) {
        let out = self.run(host, program, arguments);
        let messages = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program} {arguments:?}: {messages}");
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

fn ip(arguments: &[&str]) {
    let out = output(Command::new("ip").args(arguments));
    assert!(out.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}
