//! Targets that are given by name, while what the name stands for changes. Needs root on Linux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mproxy_tests::{Network, Running, eventually, is_warning, receives, send, server};

fn name(host: usize) -> String {
    format!("{} feed\n", Network::ipv4(host))
}

/// A forward on host 0 from this address, with these targets.
fn forward(network: &Network, listen: &str, targets: &[&str], options: &[&str]) -> Running {
    let mut arguments = vec!["-v", "--udp-listen-addr", listen];
    for target in targets {
        arguments.extend(["--udp-downstream-addr", target]);
    }
    let forward = network.start(0, "mproxy-forward", &[&arguments, options].concat());
    forward.listens(listen);
    forward
}

fn a_target_that_moves_is_followed_without_loss() {
    let network = Network::new(3);
    network.set_names(0, &name(1));
    let ports = ["0.0.0.0:9920", "0.0.0.0:9921"];
    let servers = [1, 2].map(|host| ports.map(|port| server(&network, host, &["--listen-addr", port])));
    let [old, new] = [0, 1].map(|host: usize| &servers[host]);
    let _follows = forward(&network, "127.0.0.1:9900", &["feed:9920"], &["--resolve-interval", "1"]);
    let _stays = forward(&network, "127.0.0.1:9901", &["feed:9921"], &["--resolve-interval", "0"]);
    let mut sent = 0;
    let mut send_one = || {
        let line = format!("{sent}\n");
        sent += 1;
        for to in ["127.0.0.1:9900", "127.0.0.1:9901"] {
            send(&network, 0, &["--server-addr", to], &line);
        }
        sent
    };
    for _ in 0..20 {
        send_one();
    }
    for (host, to) in [(2, new), (1, old)] {
        network.set_names(0, &name(host));
        let before = to[0].stdout().len();
        eventually("the move", || {
            send_one();
            (to[0].stdout().len() > before).then_some(())
        });
    }
    // Each came once, to one of the two.
    let count = send_one();
    let all = (0..count).map(|n| n.to_string() + "\n").collect::<Vec<_>>().concat();
    eventually("the last", || (old[0].stdout().len() + new[0].stdout().len() >= all.len()).then_some(()));
    let both = old[0].text() + &new[0].text();
    let mut lines: Vec<usize> = both.lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert!(lines.iter().copied().eq(0..count), "{lines:?}");
    // The other one never asked again.
    receives(&old[1], &all);
    assert_eq!(new[1].text(), "");
}

fn a_name_that_has_gone_keeps_its_address() {
    let network = Network::new(2);
    network.set_names(0, &(name(1) + "127.0.0.1 probe\n"));
    let there = server(&network, 1, &["--listen-addr", "0.0.0.0:9920"]);
    let probe = server(&network, 0, &["--listen-addr", "127.0.0.2:9921"]);
    let options = ["--resolve-interval", "1"];
    let _forward = forward(&network, "127.0.0.1:9900", &["feed:9920", "probe:9921"], &options);
    network.set_names(0, "127.0.0.2 probe\n");
    // When the probe has moved, the other name was asked for, too.
    let mut expected = String::new();
    eventually("the probe's move", || {
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "line\n");
        expected += "line\n";
        (probe.stdout().len() > 20).then_some(())
    });
    receives(&there, &expected);
}

fn a_name_without_address_is_tried_until_it_has_one_but_not_if_it_is_all_there_is() {
    let network = Network::new(3);
    network.set_names(0, "127.0.0.1 localhost\n");
    for (name, arguments) in [
        ("mproxy-client", &["--path", "/dev/null", "--server-addr", "feed:9920"][..]),
        ("mproxy-forward", &["--udp-listen-addr", "127.0.0.1:9900", "--udp-downstream-addr", "feed:9920"]),
    ] {
        let mut program = network.start(0, name, arguments);
        assert_eq!(program.exit_code(), 1, "{}", program.messages());
        let messages = program.messages();
        assert!(messages.contains("feed:9920"), "{messages}");
    }

    let [works, late] = [1, 2].map(|host| server(&network, host, &["--listen-addr", "0.0.0.0:9920"]));
    let target = format!("{}:9920", Network::ipv4(1));
    let forward = forward(&network, "127.0.0.1:9900", &[&target, "feed:9920"], &[]);
    let warning = forward.says("feed:9920");
    assert!(is_warning(&warning), "{warning}");
    let mut expected = String::new();
    for n in 0..10 {
        let line = format!("{n}\n");
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], &line);
        expected += &line;
        receives(&works, &expected);
    }
    network.set_names(0, &name(2));
    eventually("the name's first datagram", || {
        send(&network, 0, &["--server-addr", "127.0.0.1:9900"], "more\n");
        expected += "more\n";
        (!late.stdout().is_empty()).then_some(())
    });
    receives(&works, &expected);
    let messages = forward.messages();
    assert_eq!(messages.matches("cannot resolve feed:9920").count(), 1, "{messages}");
}

mproxy_tests::main!(
    a_target_that_moves_is_followed_without_loss,
    a_name_that_has_gone_keeps_its_address,
    a_name_without_address_is_tried_until_it_has_one_but_not_if_it_is_all_there_is,
);
