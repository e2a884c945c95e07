//! Multicast and broadcast on the wire: hosts on switches that snoop, packets as tshark sees them, routers, and
//! other programs at the other end. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;
use std::process::Stdio;

use mproxy_tests::{
    Capture, Network, Packet, Record, Report, Running, eventually, needs_tools, piped, receives, send, server,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Starts a command that is no program of ours on a host.
fn peer(network: &Network, host: usize, command: &str) -> Running {
    let mut words = command.split(' ');
    let mut command = network.command(host, words.next().unwrap());
    Running::new(command.args(words).stdin(Stdio::null()))
}

/// A broadcast from a host, which every other one gets: behind it nothing is on its way any more.
fn mark(network: &Network, host: usize, text: &str) {
    send(network, host, &["--server-addr", "10.77.0.255:9999"], text);
}

/// All packets to the group, when this mark has been seen, which every switch lets through.
fn before(mark: &str, capture: &Capture, group: &str) -> Vec<Packet> {
    capture.sees_payload(mark);
    let packets = capture.packets().into_iter();
    packets.filter(|packet| packet.destination == ip(group) && !packet.payload.is_empty()).collect()
}

fn a_datagram_leaves_with_the_address_of_its_interface_and_the_ttl_that_was_asked_for() {
    let network = Network::snooping(&[&[0, 1]]);
    let capture = Capture::new(&network, 0, "eth0");
    for (target, group, source) in [
        ("239.1.2.3%eth0:9920", "239.1.2.3", "10.77.0.1"),
        ("[ff15::1234%eth0]:9920", "ff15::1234", "fd77::1"),
        ("[ff02::1234%eth0]:9920", "ff02::1234", "fe80:"),
    ] {
        for (ttl, options) in [(1, &[][..]), (8, &["--ttl", "8"]), (255, &["--ttl", "255"])] {
            let text = format!("{group} {ttl}\n");
            send(&network, 0, &[&["--server-addr", target], options].concat(), &text);
            let packet = capture.sees_payload(&text);
            assert_eq!((packet.destination, packet.port), (ip(group), 9920));
            assert_eq!((packet.ttl, packet.dscp), (ttl, 0));
            assert!(packet.source.to_string().starts_with(source), "{packet:?}");
        }
    }
}

fn all_that_is_sent_has_the_dscp_that_was_asked_for() {
    let network = Network::snooping(&[&[0, 1]]);
    let capture = Capture::new(&network, 1, "eth0");
    let there = Network::ipv4(1);
    let sink = server(&network, 1, &["--listen-addr", "0.0.0.0:9920", "--listen-addr", "[::]:9920"]);
    sink.listens("[::]:9920");
    let groups = ["--listen-addr", "239.1.2.3:9921", "--listen-addr", "[ff15::1%eth0]:9921"];
    let group_sink = server(&network, 1, &groups);
    group_sink.listens("[ff15::1%eth0]:9921");
    network.switched(0, 1, "239.1.2.3", true);
    network.switched(0, 1, "ff15::1", true);
    let targets = [
        &format!("{there}:9920"),
        "[fd77::2]:9920",
        "239.1.2.3:9920",
        "[ff15::1%eth0]:9920",
        "10.77.0.255:9920",
    ];

    let wrong = ["--path", "/dev/null", "--server-addr", targets[0], "--dscp", "64"];
    assert_eq!(network.start(0, "mproxy-client", &wrong).exit_code(), 2);
    for (n, target) in targets.into_iter().enumerate() {
        let text = format!("client to {target}\n");
        let dscp = [46, 0, 63, 8, 34][n];
        send(&network, 0, &["--server-addr", target, "--dscp", &dscp.to_string()], &text);
        assert_eq!(capture.sees_payload(&text).dscp, dscp, "{target}");
    }

    let udp = targets.map(|target| ["--udp-downstream-addr", target]).concat();
    let options = ["-v", "--udp-listen-addr", "127.0.0.1:9900", "--dscp", "46"];
    let forward = network.start(0, "mproxy-forward", &[&options[..], &udp].concat());
    forward.listens("127.0.0.1:9900");
    let udp = targets.map(|target| ["--udp-output-addr", target]).concat();
    let options = ["-v", "--udp-listen-addr", "127.0.0.1:9901", "--tcp-output-addr", "0.0.0.0:9902"];
    let channel = ["--multicast-addr", "239.1.2.9%eth0:9918", "--dscp", "34"];
    let reverse = network.start(0, "mproxy-reverse", &[&options[..], &channel, &udp].concat());
    reverse.accepts("0.0.0.0:9902");
    let client = peer(&network, 1, &format!("socat -u TCP4:{}:9902 -", Network::ipv4(0)));
    reverse.serves_a_client();
    for (to, dscp, copies) in [("127.0.0.1:9900", 46, 5), ("127.0.0.1:9901", 34, 7)] {
        let text = format!("through {to}\n");
        send(&network, 0, &["--server-addr", to], &text);
        // Of the reverse proxy the channel and the TCP client, too; the channel stays away, as nobody there has
        // joined it, and the capture is there.
        let copies = if dscp == 34 { copies - 1 } else { copies };
        eventually("all copies", || {
            let packets = capture.packets();
            let seen = packets.iter().filter(|packet| packet.payload == text && packet.dscp == dscp).count();
            assert!(
                packets.iter().all(|packet| packet.payload != text || packet.dscp == dscp),
                "{packets:#?}"
            );
            (seen == copies).then_some(())
        });
    }
    receives(&client, "through 127.0.0.1:9901\n");
}

/// Of a connection that it makes, too: that is, of its acknowledgments.
fn what_forward_sends_to_a_server_has_the_dscp_that_was_asked_for() {
    let network = Network::snooping(&[&[0, 1]]);
    let capture = Capture::new(&network, 1, "eth0");
    let sink = server(&network, 0, &["--listen-addr", "127.0.0.1:9920"]);
    let listen = ["-v", "--udp-listen-addr", "127.0.0.1:9900"];
    for (n, address) in [Network::ipv4(1), format!("[{}]", Network::ipv6(1))].into_iter().enumerate() {
        let upstream = format!("{address}:9902");
        let options = [&listen[..], &["--tcp-output-addr", &upstream]].concat();
        let mut reverse = network.start(1, "mproxy-reverse", &options);
        reverse.accepts(&upstream);
        let target = ["--udp-downstream-addr", "127.0.0.1:9920", "--dscp", "46"];
        let options = [&["-v", "--tcp-connect-addr", &upstream][..], &target].concat();
        let mut forward = network.start(0, "mproxy-forward", &options);
        forward.is_connected(&upstream);
        reverse.serves_a_client();
        send(&network, 1, &["--server-addr", "127.0.0.1:9900"], "line\n");
        receives(&sink, &"line\n".repeat(n + 1));
        let from = [ip(&Network::ipv4(0)), ip(&Network::ipv6(0))][n];
        capture.sees("a marked segment", |packet| {
            packet.source == from && packet.port == 9902 && packet.dscp == 46
        });
        forward.stop();
        reverse.stop();
    }
}

fn a_listener_reports_its_membership_and_leaves_its_group_when_it_stops() {
    let network = Network::snooping(&[&[0, 1]]);
    let capture = Capture::new(&network, 1, "eth0");
    for (group, text, routers) in
        [("239.1.2.3", "239.1.2.3%eth0:9920", "224.0.0.22"), ("ff15::3", "[ff15::3%eth0]:9920", "ff02::16")]
    {
        let mut listener = server(&network, 1, &["--listen-addr", text]);
        let any_source = |report: &Report| report.record == Record::ToExclude && report.sources.is_empty();
        let report = capture.sees_report("a report of joining", group, any_source);
        assert_eq!((report.destination, report.ttl), (ip(routers), 1));
        let no_source = |report: &Report| report.record == Record::ToInclude && report.sources.is_empty();
        assert!(!capture.reports(group).iter().any(no_source), "{:?}", capture.reports(group));
        listener.stop();
        capture.sees_report("a report of leaving", group, no_source);
    }
}

/// The switch, too, lets through what was asked for only.
fn sources_of_a_group_are_reported_heard_and_left_each_by_itself() {
    let network = Network::snooping(&[&[0, 1, 2, 3]]);
    let capture = Capture::new(&network, 3, "eth0");
    for (group, target, sources) in [
        ("232.1.1.1", "232.1.1.1:5000", [0, 1].map(Network::ipv4)),
        ("ff3e::4321", "[ff3e::4321]:5000", [0, 1].map(|host| format!("[{}]", Network::ipv6(host)))),
    ] {
        let listen = sources.clone().map(|source| format!("{source}@{target}"));
        let options = ["--listen-addr", &listen[0], "--listen-addr", &listen[1]];
        let mut listener = server(&network, 3, &options);
        listener.listens(&listen[1]);
        let sources = sources.map(|source| ip(source.trim_matches(['[', ']'])));
        for source in sources {
            network.switched(0, 3, &format!("{group} src {source}"), true);
            let asks = |report: &Report| report.sources.contains(&source) && report.record != Record::Block;
            capture.sees_report(&format!("a report that asks for {source}"), group, asks);
        }
        let mut expected = String::new();
        for round in 0..2 {
            for host in [2, 0, 2, 1] {
                let text = format!("{round} from {host} to {group}\n");
                send(&network, host, &["--server-addr", target], &text);
                if host != 2 {
                    expected += &text;
                    receives(&listener, &expected);
                }
            }
        }
        mark(&network, 2, &format!("end of {group}\n"));
        for packet in before(&format!("end of {group}\n"), &capture, group) {
            assert!(sources.contains(&packet.source), "the switch let through {packet:?}");
        }
        let reports = capture.reports(group);
        let exclude = |report: &Report| matches!(report.record, Record::IsExclude | Record::ToExclude);
        assert!(!reports.iter().any(exclude), "{reports:?}");

        listener.stop();
        let mut left = Vec::new();
        eventually("reports of leaving", || {
            for report in capture.reports(group) {
                match report.record {
                    Record::ToInclude if report.sources.is_empty() => left.extend(sources),
                    Record::Block => left.extend(report.sources),
                    _ => {}
                }
            }
            sources.iter().all(|source| left.contains(source)).then_some(())
        });
        assert_eq!(listener.text(), expected);
    }
}

fn forward_and_reverse_take_a_group_from_one_source_too() {
    let network = Network::snooping(&[&[0, 1, 2]]);
    let sources = [
        ("232.1.1.2:5000", "10.77.0.1@232.1.1.2%eth0:5000", "232.1.1.2 src 10.77.0.1"),
        ("[ff3e::2%eth0]:5000", "[fd77::1]@[ff3e::2%eth0]:5000", "ff3e::2 src fd77::1"),
    ];
    for name in ["mproxy-forward", "mproxy-reverse"] {
        let listen = sources.map(|(_, listen, _)| ["--udp-listen-addr", listen]).concat();
        let target: &[_] =
            if name == "mproxy-forward" { &["--udp-downstream-addr", "127.0.0.1:9"] } else { &[] };
        let proxy = network.start(2, name, &[&["-v", "--tee"], &listen[..], target].concat());
        for (_, listen, group) in sources {
            proxy.listens(listen);
            network.switched(0, 2, group, true);
        }
        for (target, ..) in sources {
            send(&network, 1, &["--server-addr", target], "other\n");
            send(&network, 0, &["--server-addr", target], "chosen\n");
        }
        receives(&proxy, "chosen\nchosen\n");
    }
}

fn a_host_that_has_not_joined_a_group_sees_nothing_of_it_on_its_wire() {
    let network = Network::snooping(&[&[0, 1, 2]]);
    let wire = Capture::new(&network, 2, "eth0");
    for (group, endpoint) in [("239.1.2.3", "239.1.2.3%eth0:9920"), ("ff15::3", "[ff15::3%eth0]:9920")] {
        let member = server(&network, 1, &["--listen-addr", endpoint]);
        network.switched(0, 1, group, true);
        let text = |n: usize| format!("{n} to {group}\n");
        let (one, two) = (text(1), text(2));
        send(&network, 0, &["--server-addr", endpoint], &one);
        receives(&member, &one);
        let end = format!("nothing of {group}\n");
        mark(&network, 0, &end);
        assert_eq!(before(&end, &wire, group), []);

        // It joins, and leaves again.
        let mut joining = server(&network, 2, &["--listen-addr", endpoint]);
        network.switched(0, 2, group, true);
        send(&network, 0, &["--server-addr", endpoint], &two);
        receives(&joining, &two);
        joining.stop();
        network.switched(0, 2, group, false);
        send(&network, 0, &["--server-addr", endpoint], &text(3));
        receives(&member, &(one + &two + &text(3)));
        let end = format!("nothing of {group} any more\n");
        mark(&network, 0, &end);
        assert!(!before(&end, &wire, group).iter().any(|packet| packet.payload == text(3)));
    }
}

fn no_loop_keeps_multicast_from_the_senders_own_host() {
    let network = Network::snooping(&[&[0, 1]]);
    for (ip, group) in [("239.1.2.3", "239.1.2.3%eth0:9920"), ("ff15::3", "[ff15::3%eth0]:9920")] {
        let [here, there] = [0, 1].map(|host| server(&network, host, &["--listen-addr", group]));
        network.switched(0, 1, ip, true);
        let start = |listen: &str, options: &[&str]| {
            let endpoints = ["-v", "--udp-listen-addr", listen, "--udp-downstream-addr", group];
            let forward = network.start(0, "mproxy-forward", &[&endpoints, options].concat());
            forward.listens(listen);
            forward
        };
        let _silent = start("127.0.0.1:9900", &["--no-loop"]);
        let _loud = start("127.0.0.1:9901", &[]);
        send(&network, 0, &["--server-addr", group, "--no-loop"], "client, away\n");
        receives(&there, "client, away\n");
        send(&network, 0, &["--server-addr", group], "client, all\n");
        receives(&there, "client, away\nclient, all\n");
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "forward, away\n");
        receives(&there, "client, away\nclient, all\nforward, away\n");
        send(&network, 0, &["--server-addr", "127.0.0.1:9901"], "forward, all\n");
        receives(&there, "client, away\nclient, all\nforward, away\nforward, all\n");
        receives(&here, "client, all\nforward, all\n");
    }
}

fn a_broadcast_needs_neither_an_option_nor_a_route() {
    let network = Network::snooping(&[&[0, 1], &[0, 2]]);
    let wire = Capture::new(&network, 0, "eth0");
    let [near, far] = [1, 2].map(|host| server(&network, host, &["--listen-addr", "0.0.0.0:9920"]));
    let forward =
        ["-v", "--udp-listen-addr", "127.0.0.1:9900", "--udp-downstream-addr", "255.255.255.255:9920"];
    let forward = network.start(0, "mproxy-forward", &forward);
    forward.listens("127.0.0.1:9900");
    let mut expected = String::new();
    for (to, destination) in [
        ("255.255.255.255:9920", "255.255.255.255"),
        ("127.0.0.1:9900", "255.255.255.255"),
        ("10.77.0.255:9920", "10.77.0.255"),
    ] {
        let text = format!("near, to {to}\n");
        send(&network, 0, &["--server-addr", to], &text);
        expected += &text;
        receives(&near, &expected);
        let packet = wire.sees_payload(&text);
        assert_eq!((packet.source, packet.destination), (ip("10.77.0.1"), ip(destination)));
    }
    send(&network, 0, &["--server-addr", "10.78.0.255:9920"], "far\n");
    receives(&far, "far\n");
    send(&network, 0, &["--server-addr", "255.255.255.255:9920", "--interface", "eth1"], "far again\n");
    receives(&far, "far\nfar again\n");
    assert_eq!(near.text(), expected);
}

fn a_multicast_router_passes_on_what_has_ttl_to_spare() {
    let network = Network::snooping(&[&[0, 1], &[1, 2]]);
    network.ip(2, "route add default via 10.78.0.2");
    network.ip(2, "-6 route add default via fd78::2");
    // Either group also from one source only, which the router asks for by itself.
    let rules = "mgroup from eth0 group 239.1.2.3\n\
                 mroute from eth0 group 239.1.2.3 to eth1\n\
                 mgroup from eth0 source 10.77.0.1 group 232.1.1.1\n\
                 mroute from eth0 source 10.77.0.1 group 232.1.1.1 to eth1\n\
                 mgroup from eth0 group ff15::3\n\
                 mroute from eth0 group ff15::3 to eth1\n";
    let _router = network.multicast_router(1, rules);
    for group in ["239.1.2.3", "232.1.1.1 src 10.77.0.1", "ff15::3"] {
        network.switched(0, 1, group, true);
    }
    let wire = Capture::new(&network, 2, "eth1");
    for (group, from, target, listen) in [
        ("239.1.2.3", "", "239.1.2.3:9920", "239.1.2.3:9920"),
        ("232.1.1.1", " src 10.77.0.1", "232.1.1.1:9920", "10.77.0.1@232.1.1.1:9920"),
        ("ff15::3", "", "[ff15::3]:9920", "[ff15::3]:9920"),
    ] {
        let listener = server(&network, 2, &["--listen-addr", listen]);
        network.switched(1, 2, &format!("{group}{from}"), true);
        let text = |text: &str| format!("{text} to {group}\n");
        send(&network, 0, &["--server-addr", target], &text("nearby"));
        send(&network, 0, &["--server-addr", target, "--ttl", "1"], &text("nearby"));
        send(&network, 0, &["--server-addr", target, "--ttl", "8"], &text("far"));
        receives(&listener, &text("far"));
        let packet = wire.sees_payload(&text("far"));
        assert_eq!(packet.ttl, 7);
        let source = if group.contains(':') { Network::ipv6(0) } else { Network::ipv4(0) };
        assert_eq!((packet.source, packet.destination), (ip(&source), ip(group)));
        assert!(!wire.packets().iter().any(|packet| packet.payload == text("nearby")));
    }
}

fn forward_carries_a_group_from_one_interface_to_another() {
    let network = Network::snooping(&[&[0, 1], &[1, 2]]);
    for (group, near, far) in [
        ("239.1.2.3", "239.1.2.3%eth0:9920", "239.1.2.3%eth1:9920"),
        ("ff15::3", "[ff15::3%eth0]:9920", "[ff15::3%eth1]:9920"),
    ] {
        let listener = server(&network, 2, &["--listen-addr", far]);
        network.switched(1, 2, group, true);
        let options = ["-v", "--udp-listen-addr", near, "--udp-downstream-addr", far, "--tee"];
        let forward = network.start(1, "mproxy-forward", &options);
        forward.listens(near);
        network.switched(0, 1, group, true);
        // If what it sends came back to it, it would be sent again: a member on its host makes it come back there.
        let here = server(&network, 1, &["--listen-addr", far]);
        let mut expected = String::new();
        for text in ["one\n", "two\n", "three\n"] {
            send(&network, 0, &["--server-addr", near], text);
            expected += text;
            receives(&listener, &expected);
            receives(&here, &expected);
        }
        receives(&forward, &expected);
    }
}

fn what_would_go_round_for_ever_is_refused() {
    let network = Network::snooping(&[&[0], &[0]]);
    let forward = |listen: &'static str, target: &'static str, options: &[&'static str]| {
        let endpoints = ["--udp-listen-addr", listen, "--udp-downstream-addr", target];
        let mut program = network.start(0, "mproxy-forward", &[&["-v"], &endpoints[..], options].concat());
        (listen, target, program.exit_code(), program.messages())
    };
    let reverse = |listen: &'static str, option: &'static str, target: &'static str| {
        let endpoints = ["--udp-listen-addr", listen, option, target];
        let mut program = network.start(0, "mproxy-reverse", &[&["-v"], &endpoints[..]].concat());
        (listen, target, program.exit_code(), program.messages())
    };
    let both = ["--interface", "eth0", "--interface", "eth1"];
    for (listen, target, code, messages) in [
        forward("239.1.2.3:9920", "239.1.2.3:9920", &[]),
        forward("239.1.2.3%eth1:9920", "239.1.2.3%eth1:9920", &[]),
        forward("239.1.2.3%eth1:9920", "239.1.2.3:9920", &both),
        forward("239.1.2.3:9920", "239.1.2.3%eth1:9920", &both),
        forward("239.1.2.3:9920", "239.1.2.3%10.78.0.1:9920", &["--interface", "all"]),
        // Whatever is picked at the start, it may be another one later.
        forward("239.1.2.3:9920", "239.1.2.3%eth0:9920", &[]),
        forward("239.1.2.3:9920", "239.1.2.3%eth1:9920", &[]),
        forward("239.1.2.3%eth1:9920", "239.1.2.3:9920", &[]),
        forward("[ff15::3]:9920", "[ff15::3%eth1]:9920", &[]),
        forward("[ff15::3%eth0]:9920", "[ff15::3%eth0]:9920", &[]),
        forward("[ff15::3%eth1]:9920", "[ff15::3]:9920", &both),
        forward("127.0.0.1:9920", "127.0.0.1:9920", &[]),
        forward("127.0.0.1:9920", "localhost:9920", &[]),
        forward("0.0.0.0:9920", "127.0.0.1:9920", &[]),
        forward("0.0.0.0:9920", "10.77.0.1:9920", &[]),
        forward("0.0.0.0:9920", "10.78.0.255:9920", &[]),
        forward("0.0.0.0:9920", "255.255.255.255:9920", &[]),
        forward("[::]:9920", "[fd78::1]:9920", &[]),
        reverse("239.1.2.3:9920", "--multicast-addr", "239.1.2.3:9920"),
        reverse("239.1.2.3:9920", "--udp-output-addr", "239.1.2.3:9920"),
        reverse("0.0.0.0:9920", "--udp-output-addr", "10.77.0.1:9920"),
    ] {
        assert_eq!(code, 2, "{listen} to {target}: {messages}");
        assert!(messages.contains(listen) && messages.contains(target), "{listen} to {target}: {messages}");
    }

    for (listen, target, options) in [
        ("239.1.2.3%eth0:9920", "239.1.2.3%eth1:9920", &[][..]),
        // No other interface turns to loopback.
        ("239.1.2.3%lo:9920", "239.1.2.3:9920", &[]),
        ("239.1.2.3:9920", "239.1.2.3%lo:9920", &[]),
        ("[ff15::3%eth0]:9920", "[ff15::3%eth1]:9920", &[]),
        ("239.1.2.3:9920", "239.1.2.4:9920", &both),
        ("239.1.2.3:9920", "239.1.2.3:9921", &both),
        ("239.1.2.3%lo:9920", "239.1.2.3:9920", &["--interface", "all"]),
        ("0.0.0.0:9920", "10.77.0.9:9920", &[]),
        ("0.0.0.0:9920", "239.1.2.3:9920", &both),
        ("10.77.0.1:9920", "10.78.0.1:9920", &[]),
    ] {
        let endpoints = ["-v", "--udp-listen-addr", listen, "--udp-downstream-addr", target];
        let mut program = network.start(0, "mproxy-forward", &[&endpoints[..], options].concat());
        program.listens(listen);
        program.stop();
    }

    // Without an address on any other interface the one that is picked is loopback.
    for segment in ["eth0", "eth1"] {
        network.ip(0, &format!("-4 addr flush dev {segment}"));
    }
    let (_, _, code, messages) = forward("239.1.2.3%lo:9920", "239.1.2.3:9920", &[]);
    assert_eq!(code, 2, "{messages}");
}

fn socat_sends_and_receives_groups_with_us() {
    needs_tools(&["socat"]);
    let network = Network::snooping(&[&[0, 1]]);
    for (group, ours, receive, to) in [
        (
            "239.1.2.3",
            "239.1.2.3:9920",
            "UDP4-RECV:9920,bind=239.1.2.3,ip-add-membership=239.1.2.3:eth0",
            "UDP4-DATAGRAM:239.1.2.3:9920,ip-multicast-if=10.77.0.2",
        ),
        (
            "ff15::3",
            "[ff15::3]:9920",
            "UDP6-RECV:9920,ipv6-join-group=[ff15::3]:eth0",
            "UDP6-DATAGRAM:[ff15::3]:9920,so-bindtodevice=eth0",
        ),
    ] {
        let theirs = peer(&network, 1, &format!("socat -u {receive} -"));
        network.switched(0, 1, group, true);
        send(&network, 0, &["--server-addr", ours], "from us\n");
        receives(&theirs, "from us\n");
        drop(theirs);
        network.switched(0, 1, group, false);

        let listener = server(&network, 0, &["--listen-addr", ours]);
        network.switched(0, 0, group, true);
        let (mut socat, mut input) = piped(network.command(1, "socat").args(["-u", "-", to]));
        std::io::Write::write_all(&mut input, b"from socat\n").unwrap();
        mproxy_tests::close(input);
        receives(&listener, "from socat\n");
        assert_eq!(socat.exit_code(), 0);
    }
}

/// It knows transport streams only.
fn multicat_sends_and_receives_groups_with_us() {
    needs_tools(&["multicat"]);
    let network = Network::snooping(&[&[0, 1]]);
    let directory = tempfile::tempdir().unwrap();
    let (packets, datagrams) = (70, 10);
    let stream: Vec<u8> = (0..packets)
        .flat_map(|n: u8| {
            let head = [0x47, 1, 0, 0x10 + n % 16];
            head.into_iter().chain(std::iter::repeat_n(n, 184))
        })
        .collect();
    let file = directory.path().join("stream.ts");
    std::fs::write(&file, &stream).unwrap();

    let theirs = peer(&network, 1, "multicat -u -U @239.1.2.3:9920/ifaddr=10.77.0.2 /dev/stdout");
    network.switched(0, 1, "239.1.2.3", true);
    let mut client = network.start(
        0,
        "mproxy-client",
        &[
            "--path",
            file.to_str().unwrap(),
            "--framing",
            "blocks",
            "--datagram-size",
            "1316",
            "--server-addr",
            "239.1.2.3:9920",
        ],
    );
    assert_eq!(client.exit_code(), 0);
    assert_eq!(theirs.writes(stream.len()), stream);
    drop(theirs);

    // A length before each datagram shows what each was.
    let listener = server(&network, 0, &["--listen-addr", "239.1.2.4:9920", "--framing", "length"]);
    network.switched(0, 0, "239.1.2.4", true);
    let mut command = network.command(1, "multicat");
    command.args(["-u", "-U", "/dev/stdin", "239.1.2.4:9920@10.77.0.2"]);
    let (_multicat, mut input) = piped(&mut command);
    std::io::Write::write_all(&mut input, &stream).unwrap();
    let out = listener.writes(stream.len() + 2 * datagrams);
    for (record, datagram) in out.chunks(1318).zip(stream.chunks(1316)) {
        assert_eq!(record, [&1316_u16.to_be_bytes(), datagram].concat());
    }
}

mproxy_tests::main!(
    a_datagram_leaves_with_the_address_of_its_interface_and_the_ttl_that_was_asked_for,
    all_that_is_sent_has_the_dscp_that_was_asked_for,
    what_forward_sends_to_a_server_has_the_dscp_that_was_asked_for,
    a_listener_reports_its_membership_and_leaves_its_group_when_it_stops,
    sources_of_a_group_are_reported_heard_and_left_each_by_itself,
    forward_and_reverse_take_a_group_from_one_source_too,
    a_host_that_has_not_joined_a_group_sees_nothing_of_it_on_its_wire,
    no_loop_keeps_multicast_from_the_senders_own_host,
    a_broadcast_needs_neither_an_option_nor_a_route,
    a_multicast_router_passes_on_what_has_ttl_to_spare,
    forward_carries_a_group_from_one_interface_to_another,
    what_would_go_round_for_ever_is_refused,
    socat_sends_and_receives_groups_with_us,
    multicat_sends_and_receives_groups_with_us,
);
