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

    /// Two sites, far from each other, instead of the hosts on a bridge: host 0 and its gateway 1, host 4
    /// and its gateway 3, and between the gateways the Internet, which is the router 2 and passes on no
    /// multicast. The interfaces of hosts and gateways are `lan0`, with `192.168.1.0/24` at the one site
    /// and `192.168.2.0/24` at the other, and `wan0`.
    pub fn two_sites() -> Self {
        let mut network = Self::unlinked();
        let [host_a, gate_a, router, gate_b, host_b] = std::array::from_fn(|_| network.add());
        let link = |from: [&str; 3], to: [&str; 3]| {
            let [near, far] = [from, to].map(|[namespace, interface, _]| [namespace, interface]);
            let peer = ["peer", "name", far[1], "netns", far[0]];
            ip(&[&["-n", near[0], "link", "add", near[1], "type", "veth"], &peer[..]].concat());
            for [namespace, interface, address] in [from, to] {
                ip(&["-n", namespace, "addr", "add", address, "dev", interface]);
                ip(&["-n", namespace, "link", "set", interface, "up"]);
            }
        };
        link([&host_a, "lan0", "192.168.1.10/24"], [&gate_a, "lan0", "192.168.1.1/24"]);
        link([&gate_a, "wan0", "198.51.100.2/24"], [&router, "a", "198.51.100.1/24"]);
        link([&gate_b, "wan0", "203.0.113.2/24"], [&router, "b", "203.0.113.1/24"]);
        link([&host_b, "lan0", "192.168.2.10/24"], [&gate_b, "lan0", "192.168.2.1/24"]);
        for (gate, next) in [(1, "198.51.100.1"), (3, "203.0.113.1")] {
            network.set_default_route(gate, next);
        }
        network.succeeds(2, "sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"]);
        network
    }

    /// Has the host reach all others by way of this one.
    pub fn set_default_route(&self, host: usize, next: &str) {
        self.succeeds(host, "ip", &["route", "replace", "default", "via", next]);
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
