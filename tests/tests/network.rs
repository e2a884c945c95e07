//! Multicast between hosts: network namespaces on a bridge. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mproxy_tests::{
    Authority, Network, Running, Valid, close, eventually, piped, program, receives, send, server,
};

fn a_group_reaches_every_host_that_has_joined_it() {
    let network = Network::new(3);
    for group in ["239.1.2.3%eth0:9920", "239.1.2.3:9920", "[ff15::1234%eth0]:9920", "[ff02::1234]:9920"] {
        let here = server(&network, 0, &["--listen-addr", group]);
        let there = [1, 2].map(|host| server(&network, host, &["--listen-addr", group]));
        send(&network, 0, &["--server-addr", group], "to all\n");
        for server in there.iter().chain([&here]) {
            receives(server, "to all\n");
        }
    }
}

fn the_interface_option_chooses_by_name_index_and_address_and_a_zone_comes_before_it() {
    let network = Network::new(2);
    let index = String::from_utf8(network.run(0, "cat", &["/sys/class/net/eth0/ifindex"]).stdout).unwrap();
    let group = "239.1.2.4:9920";
    let there = server(&network, 1, &["--listen-addr", group, "--interface", "eth0"]);
    let mut expected = String::new();
    for (i, interface) in ["eth0", index.trim(), &Network::ipv4(0)].into_iter().enumerate() {
        let line = format!("{i}\n");
        send(&network, 0, &["--server-addr", group, "--interface", interface], &line);
        expected += &line;
        receives(&there, &expected);
    }
    // On loopback it stays on the host, unless the zone says otherwise.
    send(&network, 0, &["--server-addr", group, "--interface", "lo"], "stays\n");
    send(&network, 0, &["--server-addr", "239.1.2.4%eth0:9920", "--interface", "lo"], "goes\n");
    receives(&there, &(expected + "goes\n"));
}

fn ttl_0_keeps_multicast_on_the_host() {
    let network = Network::new(2);
    for group in ["239.1.2.5%eth0:9920", "[ff15::5%eth0]:9920"] {
        let here = server(&network, 0, &["--listen-addr", group]);
        let there = server(&network, 1, &["--listen-addr", group]);
        send(&network, 0, &["--server-addr", group, "--ttl", "0"], "here\n");
        receives(&here, "here\n");
        send(&network, 0, &["--server-addr", group], "there\n");
        receives(&here, "here\nthere\n");
        receives(&there, "there\n");
    }
}

fn a_source_specific_listener_hears_that_source_alone() {
    let network = Network::new(3);
    let listen = format!("{}@232.1.1.1%eth0:5000", Network::ipv4(0));
    let listener = server(&network, 2, &["--listen-addr", &listen]);
    send(&network, 1, &["--server-addr", "232.1.1.1%eth0:5000"], "other\n");
    send(&network, 0, &["--server-addr", "232.1.1.1%eth0:5000"], "chosen\n");
    receives(&listener, "chosen\n");
}

fn unicast_and_broadcast_reach_another_host() {
    let network = Network::new(2);
    let listener = server(&network, 1, &["--listen-addr", "0.0.0.0:9920", "--listen-addr", "[::]:9920"]);
    listener.listens("[::]:9920");
    let mut expected = String::new();
    let unicast = format!("{}:9920", Network::ipv4(1));
    let unicast6 = format!("[{}]:9920", Network::ipv6(1));
    for target in [&unicast, &unicast6, "10.77.0.255:9920"] {
        let line = format!("{target}\n");
        send(&network, 0, &["--server-addr", target], &line);
        expected += &line;
        receives(&listener, &expected);
    }
}

fn a_reverse_proxy_shares_its_channel_with_the_network() {
    let network = Network::new(3);
    let channel = "239.1.2.6:9918";
    let receiver = server(&network, 2, &["--listen-addr", channel]);
    let reverse = network.start(
        1,
        "mproxy-reverse",
        &["--udp-listen-addr", "0.0.0.0:9920", "--multicast-addr", channel, "--tee", "-v"],
    );
    reverse.listens(channel);
    reverse.listens("0.0.0.0:9920");
    send(&network, 0, &["--server-addr", &format!("{}:9920", Network::ipv4(1))], "through\n");
    receives(&receiver, "through\n");
    receives(&reverse, "through\n");
    send(&network, 0, &["--server-addr", channel], "into the channel\n");
    receives(&reverse, "through\ninto the channel\n");
}

fn a_private_channel_never_leaves_the_host() {
    let network = Network::new(2);
    let mut reverse =
        network.start(0, "mproxy-reverse", &["--udp-listen-addr", "127.0.0.1:9920", "--tee", "-v"]);
    reverse.listens("127.0.0.1:9920");
    let sent = |network: &Network| {
        let out = network.run(0, "cat", &["/sys/class/net/eth0/statistics/tx_bytes"]);
        String::from_utf8(out.stdout).unwrap().trim().parse::<u64>().unwrap()
    };
    let before = sent(&network);
    let lines = "0123456789\n".repeat(10_000);
    send(&network, 0, &["--server-addr", "127.0.0.1:9920", "--rate", "20M"], &lines);
    receives(&reverse, &lines);
    // IPv6 sends a packet of its own now and then.
    assert!(sent(&network) - before < 10_000, "the channel was seen on eth0");
    reverse.stop();
}

fn a_target_without_a_route_costs_the_others_nothing_and_recovers_with_the_route() {
    let network = Network::new(2);
    let (good, bad) = (format!("{}:9920", Network::ipv4(1)), "10.78.0.2:9921");
    let listener = server(&network, 1, &["--listen-addr", "0.0.0.0:9920", "--listen-addr", "0.0.0.0:9921"]);
    listener.listens("0.0.0.0:9921");
    let forward = network.start(
        0,
        "mproxy-forward",
        &[
            "--udp-listen-addr",
            "127.0.0.1:9900",
            "--udp-downstream-addr",
            bad,
            "--udp-downstream-addr",
            &good,
            "-v",
        ],
    );
    forward.listens("127.0.0.1:9900");
    let line = |n: usize| format!("{n}\n");
    let mut expected = String::new();
    for n in 0..20 {
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], &line(n));
        expected += &line(n);
        receives(&listener, &expected);
    }
    network.run(1, "ip", &["addr", "add", "10.78.0.2/24", "dev", "eth0"]);
    network.run(0, "ip", &["addr", "add", "10.78.0.1/24", "dev", "eth0"]);
    eventually("the target's recovery", || {
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "more\n");
        forward.messages().contains("10.78.0.2:9921 works again").then_some(())
    });
    let messages = forward.messages();
    assert_eq!(messages.matches("cannot send to 10.78.0.2:9921").count(), 1, "{messages}");
    let out = listener.text();
    assert!(out.matches("more\n").count() > 1, "{out}");
}

fn a_host_with_nothing_but_loopback_still_has_multicast() {
    let network = Network::new(1);
    network.run(0, "ip", &["link", "delete", "eth0"]);
    let listener = server(&network, 0, &["--listen-addr", "239.1.2.7:9920"]);
    send(&network, 0, &["--server-addr", "239.1.2.7:9920"], "alone\n");
    receives(&listener, "alone\n");
    let none = network.start(0, "mproxy-server", &["--path", "-", "--listen-addr", "[ff15::7]:9920"]);
    none.says("cannot listen on [ff15::7]:9920");
}

fn a_listener_on_a_name_binds_all_its_addresses_and_a_sender_takes_the_first_that_works() {
    let network = Network::new(1);
    network.set_names(0, "::1 both\n127.0.0.1 both\n10.99.99.99 far\n127.0.0.1 far\n");
    let both = server(&network, 0, &["--listen-addr", "both:9920"]);
    for address in ["127.0.0.1:9920", "[::1]:9920"] {
        both.udp_address_on("both:9920", address);
    }
    send(&network, 0, &["--server-addr", "127.0.0.1:9920"], "4\n");
    receives(&both, "4\n");
    send(&network, 0, &["--server-addr", "[::1]:9920"], "6\n");
    receives(&both, "4\n6\n");

    // One that refuses, and one without a route: nothing is lost on either.
    let only = server(&network, 0, &["--listen-addr", "127.0.0.1:9921"]);
    send(&network, 0, &["--server-addr", "both:9921"], "refused\n");
    receives(&only, "refused\n");
    send(&network, 0, &["--server-addr", "far:9921"], "unreachable\n");
    receives(&only, "refused\nunreachable\n");
}

fn a_tcp_server_is_resolved_anew_for_each_connection() {
    let network = Network::new(3);
    let name = |host| format!("{} feed\n", Network::ipv4(host));
    let feed = |host| {
        let feed = network.start(
            host,
            "mproxy-reverse",
            &["--udp-listen-addr", "127.0.0.1:9920", "--tcp-output-addr", "0.0.0.0:9921", "-v"],
        );
        feed.accepts("0.0.0.0:9921");
        feed
    };
    network.set_names(0, &name(1));
    let mut old = feed(1);
    let forward = network.start(0, "mproxy-forward", &["--tcp-connect-addr", "feed:9921", "--tee", "-v"]);
    old.serves_a_client();
    send(&network, 1, &["--server-addr", "127.0.0.1:9920"], "old\n");
    receives(&forward, "old\n");
    let new = feed(2);
    network.set_names(0, &name(2));
    old.stop();
    new.serves_a_client();
    send(&network, 2, &["--server-addr", "127.0.0.1:9920"], "new\n");
    receives(&forward, "old\nnew\n");
    assert_eq!(forward.warnings().len(), 2, "{}", forward.messages());
}

fn a_wildcard_listener_does_not_hear_the_groups_that_its_host_has_joined() {
    let network = Network::new(1);
    // With TTL 0 the sender has joined its group too; the other member is on another port.
    let _member = server(&network, 0, &["--listen-addr", "239.1.2.8%lo:9921"]);
    let forward = network.start(
        0,
        "mproxy-forward",
        &[
            "--udp-listen-addr",
            "0.0.0.0:9920",
            "--udp-downstream-addr",
            "239.1.2.8%lo:9920",
            "--ttl",
            "0",
            "--tee",
            "-v",
        ],
    );
    forward.listens("0.0.0.0:9920");
    // Each comes in once: if the listener heard what goes out, it would go round for ever.
    for (n, expected) in ["1\n", "1\n2\n", "1\n2\n3\n"].into_iter().enumerate() {
        send(&network, 0, &["--server-addr", "127.0.0.1:9920"], &format!("{}\n", n + 1));
        receives(&forward, expected);
    }
}

fn a_silent_host_is_noticed_and_said_once() {
    let network = Network::new(2);
    let mut forward = network.start(
        0,
        "mproxy-forward",
        &["--udp-listen-addr", "127.0.0.1:9900", "--udp-downstream-addr", "10.77.0.200:9920", "-v"],
    );
    forward.listens("127.0.0.1:9900");
    eventually("a warning", || {
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "anyone there?\n");
        forward.messages().contains("cannot send to 10.77.0.200:9920").then_some(())
    });
    forward.stop();
    assert_eq!(forward.warnings().len(), 1, "{}", forward.messages());
}

/// Segmentation offload cannot send what is larger than the path takes: it must go all the same.
fn datagrams_above_the_path_mtu_arrive_whole() {
    let network = Network::new(2);
    let target = format!("{}:9920", Network::ipv4(1));
    // A newline behind each datagram shows where it ends.
    let there = server(&network, 1, &["--listen-addr", &target, "--framing", "lines"]);
    let mut forward = network.start(
        0,
        "mproxy-forward",
        &["-v", "--udp-listen-addr", "127.0.0.1:9921", "--udp-downstream-addr", &target],
    );
    forward.listens("127.0.0.1:9921");
    let mut expected = String::new();
    for (to, size) in
        [(target.as_str(), 4000), ("127.0.0.1:9921", 4000), ("127.0.0.1:9921", 1400), (&target, 1400)]
    {
        let content: String = ('a'..='z').cycle().take(20 * size + 100).collect();
        send(
            &network,
            0,
            &["--server-addr", to, "--framing", "blocks", "--datagram-size", &size.to_string()],
            &content,
        );
        for block in content.as_bytes().chunks(size) {
            expected += std::str::from_utf8(block).unwrap();
            expected += "\n";
        }
        receives(&there, &expected);
    }
    forward.stop();
    assert!(!forward.messages().contains("cannot send"), "{}", forward.messages());
}

/// An ICMP error of one datagram, which the kernel returns from a later send, is no reason to leave out that one.
fn one_datagram_that_is_refused_on_its_way_costs_no_other() {
    let network = Network::new(3);
    // Host 1 routes from host 0 to an address of host 2.
    let ip = |host: usize, arguments: &str| network.ip(host, arguments);
    // All of it, and without the advice to leave it out.
    let settings = "cd /proc/sys/net/ipv4 && echo 1 > ip_forward && \
                    for name in all eth0; do echo 0 > conf/$name/send_redirects; done";
    assert!(network.run(1, "sh", &["-c", settings]).status.success());
    ip(0, &format!("route add 10.78.0.1 via {}", Network::ipv4(1)));
    ip(1, &format!("route add 10.78.0.1 via {}", Network::ipv4(2)));
    ip(2, "addr add 10.78.0.1/32 dev lo");
    let there = server(&network, 2, &["--listen-addr", "10.78.0.1:9920", "--framing", "lines"]);
    let mut forward = network.start(
        0,
        "mproxy-forward",
        &["-v", "--udp-listen-addr", "127.0.0.1:9921", "--udp-downstream-addr", "10.78.0.1:9920"],
    );
    forward.listens("127.0.0.1:9921");
    let to_forward = |text: &str| {
        send(&network, 0, &["--server-addr", "127.0.0.1:9921", "--framing", "raw"], text);
    };
    to_forward("first");
    receives(&there, "first\n");
    let refusals = || {
        let snmp = network.run(0, "cat", &["/proc/net/snmp"]).stdout;
        let text = String::from_utf8(snmp).unwrap();
        let rows: Vec<Vec<_>> =
            text.lines().filter(|l| l.starts_with("Icmp:")).map(|l| l.split(' ').collect()).collect();
        let column = rows[0].iter().position(|name| *name == "InDestUnreachs").unwrap();
        rows[1][column].parse::<u32>().unwrap()
    };
    let before = refusals();
    ip(1, "route replace unreachable 10.78.0.1");
    to_forward("lost");
    eventually("the router's refusal", || (refusals() > before).then_some(()));
    ip(1, &format!("route replace 10.78.0.1 via {}", Network::ipv4(2)));
    let mut expected = "first\n".to_owned();
    for text in ["next", "and", "so", "on"] {
        to_forward(text);
        expected += text;
        expected += "\n";
    }
    receives(&there, &expected);
    forward.stop();
}

/// A call that sends many datagrams tells no error but that of its first; the others must be asked for.
fn a_closed_port_is_spoken_of_whatever_is_sent_to_it() {
    let network = Network::new(2);
    let target = format!("{}:9920", Network::ipv4(1));
    let mut command = network.command(0, program("mproxy-client"));
    let (mut running, mut input) = piped(command.args(["--path", "-", "--server-addr", &target]));
    eventually("a warning", || {
        // Lines of all lengths make datagrams of all lengths.
        let mut lines = String::new();
        for len in 1..400 {
            lines += &"x".repeat(len * 37 % 500);
            lines.push('\n');
        }
        std::io::Write::write_all(&mut input, lines.as_bytes()).unwrap();
        running.messages().contains(&format!("cannot send to {target}")).then_some(())
    });
    close(input);
    assert_eq!(running.exit_code(), 0);
}

/// With and without data under way: nothing here waits for longer than half a minute.
fn a_peer_that_has_vanished_is_given_up_within_half_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let certificate = authority.certify("server", &[&Network::ipv4(0)], Valid::Now);
    let network = Network::new(2);
    let mut reverses = [("9920", "9921", "9922"), ("9930", "9931", "9932")].map(|(input, tcp, tls)| {
        let [input, tcp, tls] =
            [format!("127.0.0.1:{input}"), format!("0.0.0.0:{tcp}"), format!("0.0.0.0:{tls}")];
        let arguments =
            ["-v", "--udp-listen-addr", &input, "--tcp-output-addr", &tcp, "--tls-output-addr", &tls];
        let identity = ["--tls-cert", &certificate.path, "--tls-key", &certificate.key];
        let reverse = network.start(0, "tls/mproxy-reverse", &[&arguments[..], &identity].concat());
        reverse.tcp_address(&tls);
        reverse
    });
    let servers = ["9921", "9931", "9922", "9932"].map(|port| format!("{}:{port}", Network::ipv4(0)));
    let mut arguments = vec!["-v", "--tee", "--tls-ca", &authority.path];
    for (server, option) in servers.iter().zip(["tcp", "tcp", "tls", "tls"]) {
        arguments.extend([if option == "tcp" { "--tcp-connect-addr" } else { "--tls-connect-addr" }, server]);
    }
    let mut forward = network.start(1, "tls/mproxy-forward", &arguments);
    for reverse in &reverses {
        eventually("two clients", || (reverse.served_peers() == 2).then_some(()));
    }
    network.cut_off(1);
    // The first has something to send to them, the other one has not.
    let sent = network.run(0, "bash", &["-c", "echo lost > /dev/udp/127.0.0.1/9920"]);
    assert!(sent.status.success());
    eventually("all connections given up", || {
        let given_up = forward.messages().matches("connecting again until it works").count();
        let ended = |reverse: &Running| {
            reverse.messages().matches(" dropped: ").count()
                + reverse.messages().matches(" has gone: ").count()
        };
        (given_up == 4 && reverses.iter().map(ended).sum::<usize>() == 4).then_some(())
    });
    forward.stop();
    reverses.iter_mut().for_each(Running::stop);
}

mproxy_tests::main!(
    a_group_reaches_every_host_that_has_joined_it,
    the_interface_option_chooses_by_name_index_and_address_and_a_zone_comes_before_it,
    ttl_0_keeps_multicast_on_the_host,
    a_source_specific_listener_hears_that_source_alone,
    unicast_and_broadcast_reach_another_host,
    a_reverse_proxy_shares_its_channel_with_the_network,
    a_private_channel_never_leaves_the_host,
    a_target_without_a_route_costs_the_others_nothing_and_recovers_with_the_route,
    a_host_with_nothing_but_loopback_still_has_multicast,
    a_listener_on_a_name_binds_all_its_addresses_and_a_sender_takes_the_first_that_works,
    a_tcp_server_is_resolved_anew_for_each_connection,
    a_wildcard_listener_does_not_hear_the_groups_that_its_host_has_joined,
    a_silent_host_is_noticed_and_said_once,
    datagrams_above_the_path_mtu_arrive_whole,
    one_datagram_that_is_refused_on_its_way_costs_no_other,
    a_closed_port_is_spoken_of_whatever_is_sent_to_it,
    a_peer_that_has_vanished_is_given_up_within_half_a_minute,
);
