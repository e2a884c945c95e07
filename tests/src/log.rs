//! The programs' log lines that tests read: warnings, and where a program listens, sends and is connected. Their words,
//! and how to parse them, are here only. All but warnings need `-v`. An endpoint is as the command line has it.

use std::net::{IpAddr, SocketAddr};

use crate::Running;

/// The group of a listener or a target.
#[derive(Debug)]
pub struct GroupLine {
    /// The endpoint, which the program may have chosen itself.
    pub endpoint: String,
    /// The group's address and port.
    pub group: SocketAddr,
    /// The only source that is heard.
    pub source: Option<IpAddr>,
    /// The interface.
    pub interface: String,
    /// The TTL or hop limit with which is sent.
    pub ttl: Option<u32>,
}

/// Whether this line is a warning.
pub fn is_warning(line: &str) -> bool {
    line.contains("warning: ")
}

impl Running {
    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.messages().lines().filter(|line| is_warning(line)).map(str::to_owned).collect()
    }

    /// Waits until the program listens to all that these arguments of it name.
    pub fn is_ready(&self, arguments: &[&str]) {
        // Without an output nobody listens to the channel.
        let channel_is_heard = arguments.contains(&"--udp-output-addr");
        for pair in arguments.windows(2) {
            match pair[0] {
                "--listen-addr" | "--udp-listen-addr" => self.listens(pair[1]),
                "--tcp-listen-addr" | "--tcp-output-addr" | "--tls-output-addr" => self.accepts(pair[1]),
                "--multicast-addr" if channel_is_heard => self.listens(pair[1]),
                _ => {}
            }
        }
    }

    /// Waits until the program listens to the UDP endpoint, an address or a group.
    pub fn listens(&self, endpoint: &str) {
        self.says(&format!(" {endpoint}: listening "));
    }

    /// Waits until the program accepts TCP or TLS connections at the endpoint.
    pub fn accepts(&self, endpoint: &str) {
        self.says(&format!(" {endpoint}: accepting TCP connections on "));
    }

    /// Waits until the target is sent to.
    pub fn sends(&self, target: &str) {
        self.says(&format!(" {target}: sending to "));
    }

    /// Whether the program has said that a target is reached again.
    pub fn has_recovered(&self, target: &str) -> bool {
        self.count(&format!("sending to {target} works again")) > 0
    }

    /// The address of a target that is no group.
    pub fn target_address(&self, target: &str) -> SocketAddr {
        let before = format!(" {target}: sending to ");
        address(between(&self.says(&before), &before, " on interface "))
    }

    /// The address that a UDP listener got, whose endpoint has port 0 for example.
    pub fn udp_address(&self, endpoint: &str) -> SocketAddr {
        self.udp_address_on(endpoint, "")
    }

    /// The address that the UDP listener got whose endpoint is a name, of those that begin with this: `[::1]:` for
    /// example.
    pub fn udp_address_on(&self, endpoint: &str, ip: &str) -> SocketAddr {
        let before = format!(" {endpoint}: listening on ");
        let line = self.says(&format!("{before}{ip}"));
        address(between(&line, &before, ","))
    }

    /// The address that a TCP or TLS listener got.
    pub fn tcp_address(&self, endpoint: &str) -> SocketAddr {
        let before = format!(" {endpoint}: accepting TCP connections on ");
        address(between(&self.says(&before), &before, "\n"))
    }

    /// The number of UDP listeners so far.
    pub fn listeners(&self) -> usize {
        self.count(": listening ")
    }

    /// The size of a UDP listener's receive buffer.
    pub fn receive_buffer(&self, endpoint: &str) -> usize {
        let line = self.says(&format!(" {endpoint}: listening "));
        between(&line, ", receive buffer ", " bytes").parse().unwrap()
    }

    /// The group of a listener.
    pub fn joined_group(&self, endpoint: &str) -> GroupLine {
        GroupLine::read(&self.says(&format!(" {endpoint}: listening to group ")))
    }

    /// The group of a target.
    pub fn target_group(&self, endpoint: &str) -> GroupLine {
        GroupLine::read(&self.says(&format!(" {endpoint}: sending to group ")))
    }

    /// The group of a reverse proxy's only channel.
    pub fn channel(&self) -> GroupLine {
        GroupLine::read(&self.says(": sending to group "))
    }

    /// The addresses of each private channel so far: of the sending end, and of the receiving one.
    pub fn private_channels(&self) -> Vec<[SocketAddr; 2]> {
        let messages = self.messages();
        let lines = messages.lines().filter(|line| line.contains(" private channel from "));
        let ends = |line| [between(line, " from ", " to "), between(line, " to ", ",")].map(address);
        lines.map(ends).collect()
    }

    /// Waits until a TCP or TLS client is served.
    pub fn serves_a_client(&self) {
        self.says(" connected");
    }

    /// The number of TCP and TLS peers, clients and inputs, that have been served so far.
    pub fn served_peers(&self) -> usize {
        self.count(" connected\n")
    }

    /// Waits until this TCP or TLS peer, a client or an input, is served.
    pub fn serves(&self, peer: SocketAddr) {
        self.says(&format!(" {peer} connected"));
    }

    /// Waits until the program is connected to this TCP or TLS server.
    pub fn is_connected(&self, server: &str) {
        self.says(&format!(" {server}: connected to "));
    }

    /// The number of connections to TCP and TLS servers so far.
    pub fn connections(&self) -> usize {
        self.count(": connected to ")
    }
}

impl GroupLine {
    fn read(line: &str) -> Self {
        let before = line.split(" to group ").next().unwrap_or_default();
        let endpoint = before.split_whitespace().nth_back(1).unwrap_or_default();
        let source =
            line.contains(" from source ").then(|| between(line, " from source ", " ").parse().unwrap());
        let ttl = line.contains(", TTL ").then(|| between(line, ", TTL ", "\n").parse().unwrap());
        Self {
            endpoint: endpoint.trim_end_matches(':').to_owned(),
            group: address(between(line, " to group ", " ")),
            source,
            interface: between(line, " on interface ", ",").to_owned(),
            ttl,
        }
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("'{text}': {error}"))
}

/// The text of the line behind `before`, up to `after` or the line's end.
fn between<'a>(line: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = line.split_once(before).unwrap_or_else(|| panic!("no '{before}' in '{line}'"));
    rest.split(after).next().unwrap_or(rest)
}
