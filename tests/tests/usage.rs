//! Wrong use and failures at the start, of all four programs: the exit code, the one line on standard
//! error, and what was not touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use mproxy_tests::{Network, Outcome, eventually, is_wine, run, skip};

const PROGRAMS: [&str; 4] = ["mproxy-client", "mproxy-server", "mproxy-forward", "mproxy-reverse"];

/// A port that is taken for UDP and TCP as long as this lives.
struct Taken {
    port: u16,
    _udp: UdpSocket,
    _tcp: TcpListener,
}

fn taken() -> Taken {
    eventually("a port that is free for both", || {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("127.0.0.1", port)).ok()?;
        Some(Taken { port, _udp: udp, _tcp: tcp })
    })
}

/// Runs a table of command lines, each given as the program's name without `mproxy-`, its options, and
/// what the message must contain, separated by commas.
///
/// In the options PORT stands for a port that is taken, so that a program that opens a socket before it
/// has checked everything ends with another code, and FILE for one that must not come to be.
fn refused(table: &[(&str, &str, &str)]) {
    let taken = taken();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    for (name, options, words) in table {
        let fill_in = |text: &str| {
            text.replace("PORT", &taken.port.to_string()).replace("FILE", file.to_str().unwrap())
        };
        let options = fill_in(options);
        let case = format!("mproxy-{name} {options}");
        let arguments: Vec<&str> = options.split(' ').filter(|o| !o.is_empty()).collect();
        let outcome = run(&format!("mproxy-{name}"), &arguments, b"");
        let line = only_line(&case, &outcome);
        assert_eq!(outcome.code, 2, "{case}: {line}");
        assert!(line.starts_with(&format!("mproxy-{name}: ")) && line.contains("--help"), "{case}: {line}");
        for word in words.split(',') {
            assert!(line.contains(&fill_in(word)), "{case}: no '{word}' in: {line}");
        }
        assert!(!file.exists(), "{case} has made the file");
    }
}

/// The one line that is all of the output.
fn only_line(case: &str, outcome: &Outcome) -> String {
    assert!(outcome.stdout.is_empty(), "{case}: something on standard output");
    let line = outcome.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("{case}: no line"));
    assert!(!line.contains('\n'), "{case}: more than one line:\n{line}");
    line.to_owned()
}

/// As [`refused`], for options that all four programs have: the rest of each command line makes sense.
fn refused_by_all(table: &[(&str, &str)]) {
    let mut all = Vec::new();
    for (options, words) in table {
        for (name, sense) in [
            ("client", "--path FILE --server-addr 127.0.0.1:PORT"),
            ("server", "--path FILE --listen-addr 127.0.0.1:PORT"),
            ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 127.0.0.1:1"),
            ("reverse", "--udp-listen-addr 127.0.0.1:PORT --tcp-output-addr 127.0.0.1:PORT"),
        ] {
            all.push((name, format!("{sense} {options}"), *words));
        }
    }
    let table: Vec<_> = all.iter().map(|(name, options, words)| (*name, options.as_str(), *words)).collect();
    refused(&table);
}

fn options_that_are_unknown_malformed_or_lack_a_value_are_refused_by_all_programs() {
    refused_by_all(&[
        ("--bogus", "--bogus"),
        ("--bogus=1", "--bogus"),
        ("-x", "-x"),
        ("stray", "stray"),
        ("--tee=yes", "yes"),
        ("--framing bogus", "--framing,bogus"),
        ("--framing=", "--framing"),
        ("--framing", "--framing"),
        ("--framing --tee", "--framing,--tee"),
        ("--framing lines --framing raw", "--framing"),
        ("--ttl 256", "--ttl,256"),
        ("--ttl=-1", "--ttl"),
        ("--ttl 1.5", "--ttl,1.5"),
        ("--ttl one", "--ttl,one"),
        ("--ttl=", "--ttl"),
        ("--ttl 1 --ttl 1", "--ttl"),
        ("--recv-buffer 0", "--recv-buffer"),
        ("--recv-buffer 1T", "--recv-buffer,1T"),
        ("--recv-buffer 99G", "--recv-buffer,99G"),
        ("--recv-buffer -v", "--recv-buffer,-v"),
        ("--recv-buffer 1M --recv-buffer=1M", "--recv-buffer"),
        ("--interface", "--interface"),
        ("--interface=", "--interface"),
        ("--interface no-such-interface", "no-such-interface"),
        ("--interface 987654", "987654"),
        ("--interface 203.0.113.77", "203.0.113.77"),
        ("--interface no-such-interface --interface 987654", "no-such-interface"),
        ("--ttl 0 --no-loop", "reaches nobody"),
        ("--dscp 64", "--dscp"),
        ("--dscp EF", "--dscp"),
        ("--resolve-interval -1", "--resolve-interval"),
        ("--resolve-interval 1.5d", "--resolve-interval,1.5d,min"),
        ("--resolve-interval 1000001", "--resolve-interval,1000000s"),
    ]);
}

fn thread_counts_are_refused_by_all_programs_that_listen() {
    let mut table = Vec::new();
    for (name, sense) in [
        ("server", "--path FILE --listen-addr 127.0.0.1:PORT"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 127.0.0.1:1"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT --tcp-output-addr 127.0.0.1:PORT"),
    ] {
        for (threads, words) in
            [("0", "--threads,0"), ("257", "--threads,257"), ("-1", "--threads"), ("", "--threads")]
        {
            table.push((name, format!("{sense} --threads {threads}"), words));
        }
    }
    let table: Vec<_> =
        table.iter().map(|(name, options, words)| (*name, options.trim_end(), *words)).collect();
    refused(&table);
}

fn lingers_out_of_range_are_refused_by_all_programs_that_listen() {
    let mut table = Vec::new();
    for (name, sense) in [
        ("server", "--path FILE --listen-addr 127.0.0.1:PORT"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 127.0.0.1:1"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT --tcp-output-addr 127.0.0.1:PORT"),
    ] {
        for (linger, words) in [
            ("101ms", "--linger,101ms,0 to 100ms,us"),
            ("100001", "--linger,100001,0 to 100ms,us"),
            ("1d", "--linger,1d"),
            ("-1", "--linger"),
            ("", "--linger"),
        ] {
            table.push((name, format!("{sense} --linger {linger}"), words));
        }
    }
    let table: Vec<_> =
        table.iter().map(|(name, options, words)| (*name, options.trim_end(), *words)).collect();
    refused(&table);
    refused(&[("client", "--path FILE --tee --linger 1ms", "--linger")]);
}

fn what_a_system_does_not_have_is_refused_there_and_taken_elsewhere() {
    let forward = "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 127.0.0.1:1";
    let (threads, transparent) = (format!("{forward} --threads 2"), format!("{forward} --transparent"));
    if !cfg!(target_os = "linux") {
        refused(&[
            ("forward", &threads, "--threads,Linux"),
            ("forward", &transparent, "--transparent,Linux"),
        ]);
    }
    for option in [&["--dscp", "46"][..], &["--no-loop"], &["--resolve-interval", "1.5min"]] {
        let name = option[0];
        if cfg!(windows) && name != "--resolve-interval" {
            let options = format!("--path FILE --tee {}", option.join(" "));
            refused(&[("client", &options, &format!("{name},Windows"))]);
        } else {
            let taken = run("mproxy-client", &[&["--path", "-", "--tee"], option].concat(), b"one\n");
            assert_eq!(
                (taken.code, taken.stderr.as_str(), &taken.stdout[..]),
                (0, "", &b"one\n"[..]),
                "{name}"
            );
        }
    }
}

fn the_clients_wrong_uses_are_refused() {
    refused(&[
        ("client", "--path FILE", "nothing to do"),
        ("client", "--server-addr 127.0.0.1:PORT", "--path"),
        ("client", "--tee", "--path"),
        ("client", "-v", "--path"),
        ("client", "--path --tee", "--path,--tee"),
        ("client", "--path -t --server-addr 127.0.0.1:PORT", "--path,-t"),
        ("client", "--path --server-addr 127.0.0.1:PORT", "--path,--server-addr"),
        ("client", "--server-addr 127.0.0.1:PORT --path", "--path"),
        ("client", "--path= --tee", "--path"),
        ("client", "--path FILE --path FILE --tee", "--path"),
        ("client", "--path FILE --server-addr", "--server-addr"),
        ("client", "--path FILE --server-addr=", "--server-addr"),
        ("client", "--path FILE --server-addr 127.0.0.1", "127.0.0.1,port"),
        ("client", "--path FILE --server-addr localhost", "localhost,port"),
        ("client", "--path FILE --server-addr [::1]", "[::1],port"),
        ("client", "--path FILE --server-addr ::1:PORT", "::1:PORT,brackets"),
        ("client", "--path FILE --server-addr 127.0.0.1:0", "127.0.0.1:0,port 0"),
        ("client", "--path FILE --server-addr 127.0.0.1:65536", "127.0.0.1:65536,65535"),
        ("client", "--path FILE --server-addr 127.0.0.1:http", "127.0.0.1:http,port"),
        ("client", "--path FILE --server-addr :PORT", ":PORT,host"),
        ("client", "--path FILE --server-addr 127.0.0.1:PORT --server-addr 127.0.0.1:0", "127.0.0.1:0"),
        ("client", "--path FILE --server-addr 239.1.2.3%no-such-zone:PORT", "239.1.2.3,no-such-zone"),
        ("client", "--path FILE --server-addr [ff02::114%no-such-zone]:PORT", "ff02::114,no-such-zone"),
        ("client", "--path FILE --server-addr [fe80::1%no-such-zone]:PORT", "fe80::1,no-such-zone"),
        ("client", "--path FILE --server-addr 239.1.2.3%:PORT", "239.1.2.3%:PORT,zone"),
        ("client", "--path FILE --server-addr 127.0.0.1@232.1.1.1:PORT", "127.0.0.1@232.1.1.1:PORT"),
        ("client", "--path FILE --tee --datagram-size 0", "--datagram-size"),
        ("client", "--path FILE --tee --datagram-size 65508", "--datagram-size,65508,65507"),
        ("client", "--path FILE --tee --datagram-size 1k", "--datagram-size,1k"),
        ("client", "--path FILE --tee --datagram-size 9 --datagram-size 9", "--datagram-size"),
        ("client", "--path FILE --tee --rate 0", "--rate"),
        ("client", "--path FILE --tee --rate fast", "--rate,fast"),
        ("client", "--path FILE --tee --rate 1.5M", "--rate,1.5M"),
        ("client", "--path FILE --tee --rate", "--rate"),
        ("client", "--path FILE --tee --rate 1M --rate 1M", "--rate"),
        ("client", "--path FILE --tee --listen-addr 127.0.0.1:PORT", "--listen-addr"),
    ]);
}

fn the_servers_wrong_uses_are_refused() {
    refused(&[
        ("server", "--path FILE", "nothing to do"),
        ("server", "--listen-addr 127.0.0.1:PORT", "nothing to do"),
        ("server", "-v", "nothing to do"),
        ("server", "--tee", "nothing to do"),
        ("server", "--path --tee --listen-addr 127.0.0.1:PORT", "--path,--tee"),
        ("server", "--listen-addr 127.0.0.1:PORT --path", "--path"),
        ("server", "--path= --listen-addr 127.0.0.1:PORT", "--path"),
        ("server", "--path FILE --path FILE --listen-addr 127.0.0.1:PORT", "--path"),
        ("server", "--path FILE --listen-addr", "--listen-addr"),
        ("server", "--path FILE --listen-addr --tee", "--listen-addr,--tee"),
        ("server", "--path FILE --listen-addr=", "--listen-addr"),
        ("server", "--path FILE --listen-addr 127.0.0.1", "127.0.0.1,port"),
        ("server", "--path FILE --listen-addr 127.0.0.1:PORT --listen-addr localhost", "localhost,port"),
        ("server", "--path FILE --listen-addr 127.0.0.1:-1", "127.0.0.1:-1,port"),
        ("server", "--path FILE --listen-addr [127.0.0.1]:PORT", "[127.0.0.1]:PORT,brackets"),
        ("server", "--path FILE --listen-addr 239.1.2.3%no-such-zone:PORT", "239.1.2.3,no-such-zone"),
        ("server", "--path FILE --listen-addr 127.0.0.1%no-such-zone:PORT", "127.0.0.1%no-such-zone"),
        ("server", "--path FILE --listen-addr [fe80::1%no-such-zone]:PORT", "fe80::1,no-such-zone"),
        ("server", "--path FILE --listen-addr [::1]@239.1.2.3:PORT", "[::1]@239.1.2.3:PORT,IP version"),
        (
            "server",
            "--path FILE --listen-addr 127.0.0.1@[ff3e::1]:PORT",
            "127.0.0.1@[ff3e::1]:PORT,IP version",
        ),
        ("server", "--path FILE --listen-addr 127.0.0.1@127.0.0.1:PORT", "127.0.0.1@127.0.0.1:PORT"),
        ("server", "--path FILE --listen-addr somebody@232.1.1.1:PORT", "somebody@232.1.1.1:PORT"),
        ("server", "--path FILE --listen-addr 127.0.0.1:PORT --rate 1M", "--rate"),
        ("server", "--path FILE --listen-addr 127.0.0.1:PORT --server-addr 127.0.0.1:1", "--server-addr"),
    ]);
}

fn the_forwards_wrong_uses_are_refused() {
    refused(&[
        ("forward", "-v", "nothing to do"),
        ("forward", "--tee", "nothing to do"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT", "nothing to do"),
        ("forward", "--tcp-connect-addr 127.0.0.1:PORT", "nothing to do"),
        ("forward", "--udp-downstream-addr 127.0.0.1:PORT", "nothing to do"),
        ("forward", "--udp-listen-addr --tee", "--udp-listen-addr,--tee"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr", "--udp-downstream-addr"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr=", "--udp-downstream-addr"),
        ("forward", "--udp-listen-addr 127.0.0.1 --tee", "127.0.0.1,port"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 127.0.0.1", "127.0.0.1,port"),
        (
            "forward",
            "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 127.0.0.2:0",
            "127.0.0.2:0,port 0",
        ),
        ("forward", "--tee --tcp-connect-addr 127.0.0.1", "127.0.0.1,port"),
        ("forward", "--tee --tcp-connect-addr 127.0.0.1:0", "127.0.0.1:0,port 0"),
        ("forward", "--tee --tcp-connect-addr 239.1.2.3:PORT", "239.1.2.3:PORT,multicast,TCP"),
        ("forward", "--tee --tcp-connect-addr [ff02::114]:PORT", "[ff02::114]:PORT,multicast,TCP"),
        ("forward", "--tee --tcp-connect-addr 127.0.0.1:PORT --tcp-connect-addr 239.1.2.3:1", "239.1.2.3:1"),
        ("forward", "--tee --udp-listen-addr 239.1.2.3%no-such-zone:PORT", "239.1.2.3,no-such-zone"),
        (
            "forward",
            "--tee --udp-listen-addr 127.0.0.1@[ff3e::1]:PORT",
            "127.0.0.1@[ff3e::1]:PORT,IP version",
        ),
        (
            "forward",
            "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 10.0.0.1@232.1.1.1:1",
            "10.0.0.1@",
        ),
        ("forward", "--tee --udp-listen-addr 127.0.0.1:PORT --datagram-size 65508", "--datagram-size,65508"),
        ("forward", "--tee --udp-listen-addr 127.0.0.1:PORT --datagram-size 0", "--datagram-size"),
        ("forward", "--tee --udp-listen-addr 127.0.0.1:PORT --path FILE", "--path"),
    ]);
}

fn a_forward_to_its_own_listener_is_refused() {
    let loops = [
        ("127.0.0.1:PORT", "127.0.0.1:PORT"),
        ("0.0.0.0:PORT", "127.0.0.1:PORT"),
        ("0.0.0.0:PORT", "127.1.2.3:PORT"),
        ("0.0.0.0:PORT", "0.0.0.0:PORT"),
        ("localhost:PORT", "127.0.0.1:PORT"),
        ("127.0.0.1:PORT", "localhost:PORT"),
        ("0.0.0.0:PORT", "localhost:PORT"),
        ("[::1]:PORT", "[::1]:PORT"),
        ("[::]:PORT", "[::1]:PORT"),
        ("239.1.2.3%127.0.0.1:PORT", "239.1.2.3%127.0.0.1:PORT"),
        ("239.1.2.3%127.0.0.1:PORT", "239.1.2.3:PORT --interface 127.0.0.1"),
    ];
    for (listener, target) in loops {
        let options = format!("--udp-listen-addr {listener} --udp-downstream-addr {target}");
        let words = format!("{listener},{},loop", target.split(' ').next().unwrap());
        refused(&[("forward", &options, &words)]);
    }
    // Among others, wherever they stand.
    refused(&[(
        "forward",
        "--udp-listen-addr 127.0.0.2:PORT --udp-listen-addr 127.0.0.1:PORT \
         --udp-downstream-addr 127.0.0.3:PORT --udp-downstream-addr 127.0.0.1:PORT",
        "127.0.0.1:PORT,loop",
    )]);
}

/// On Linux what is sent to the wildcard address goes to 127.0.0.1, and what is broadcast comes to this
/// host's own wildcard listeners too.
#[cfg(target_os = "linux")]
fn a_forward_to_its_own_listener_in_disguise_is_refused() {
    refused(&[
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr 0.0.0.0:PORT", "loop"),
        ("forward", "--udp-listen-addr [::1]:PORT --udp-downstream-addr [::]:PORT", "loop"),
        ("forward", "--udp-listen-addr 127.0.0.1:PORT --udp-downstream-addr [::ffff:127.0.0.1]:PORT", "loop"),
        ("forward", "--udp-listen-addr 0.0.0.0:PORT --udp-downstream-addr 127.255.255.255:PORT", "loop"),
        ("forward", "--udp-listen-addr 0.0.0.0:PORT --udp-downstream-addr 255.255.255.255:PORT", "loop"),
    ]);
}

fn a_forward_that_would_hear_its_own_broadcast_is_refused() {
    let network = Network::new(1);
    for (listener, target) in [
        ("0.0.0.0:9920", "10.77.0.1:9920"),
        ("10.77.0.1:9920", "0.0.0.0:9921"),
        ("0.0.0.0:9920", "10.77.0.255:9920"),
        ("10.77.0.255:9920", "10.77.0.255:9920"),
    ] {
        let arguments = ["--udp-listen-addr", listener, "--udp-downstream-addr", target, "-v"];
        let mut forward = network.start(0, "mproxy-forward", &arguments);
        if target.ends_with(":9920") {
            assert_eq!(forward.exit_code(), 2, "{arguments:?}: {}", forward.messages());
            assert!(forward.messages().contains("loop"), "{}", forward.messages());
        } else {
            // Another port is no loop.
            forward.udp_address(listener);
            forward.stop();
        }
    }
}

fn the_reverse_proxys_wrong_uses_are_refused() {
    refused(&[
        ("reverse", "-v", "nothing to do"),
        ("reverse", "--multicast-addr 239.1.2.3%127.0.0.1:PORT", "nothing to do"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT", "output"),
        ("reverse", "--tcp-listen-addr 127.0.0.1:PORT", "output"),
        ("reverse", "--tcp-output-addr 127.0.0.1:PORT", "input"),
        ("reverse", "--udp-output-addr 127.0.0.1:PORT", "input"),
        ("reverse", "--tee", "input"),
        ("reverse", "--udp-listen-addr --tee", "--udp-listen-addr,--tee"),
        ("reverse", "--tee --udp-listen-addr=", "--udp-listen-addr"),
        ("reverse", "--tee --udp-listen-addr 127.0.0.1", "127.0.0.1,port"),
        ("reverse", "--tee --tcp-listen-addr 127.0.0.1", "127.0.0.1,port"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT --tcp-output-addr localhost", "localhost,port"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT --udp-output-addr localhost", "localhost,port"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT --udp-output-addr 127.0.0.1:0", "127.0.0.1:0,port 0"),
        ("reverse", "--tee --multicast-addr 239.1.2.3", "239.1.2.3,port"),
        ("reverse", "--tee --multicast-addr 239.1.2.3%127.0.0.1:0", "239.1.2.3%127.0.0.1:0,port 0"),
        ("reverse", "--tee --multicast-addr 127.0.0.1:PORT", "127.0.0.1:PORT,multicast"),
        ("reverse", "--tee --multicast-addr [::1]:PORT", "[::1]:PORT,multicast"),
        ("reverse", "--tee --multicast-addr localhost:PORT", "localhost:PORT,multicast"),
        (
            "reverse",
            "--tee --multicast-addr 239.1.2.3%127.0.0.1:1 --multicast-addr 239.1.2.3%127.0.0.1:1",
            "--multicast-addr",
        ),
        ("reverse", "--tee --multicast-addr 239.1.2.3%no-such-zone:PORT", "239.1.2.3,no-such-zone"),
        ("reverse", "--tee --multicast-addr 127.0.0.1@232.1.1.1:PORT", "127.0.0.1@232.1.1.1:PORT"),
        ("reverse", "--tee --udp-listen-addr [::1]@239.1.2.3:PORT", "[::1]@239.1.2.3:PORT,IP version"),
        ("reverse", "--tee --tcp-listen-addr 239.1.2.3:PORT", "239.1.2.3:PORT,multicast,TCP"),
        ("reverse", "--tee --tcp-listen-addr [ff02::114]:PORT", "[ff02::114]:PORT,multicast,TCP"),
        ("reverse", "--udp-listen-addr 127.0.0.1:PORT --tcp-output-addr 239.1.2.3:1", "239.1.2.3:1,TCP"),
        ("reverse", "--tee --udp-listen-addr 127.0.0.1:PORT --max-clients 0", "--max-clients"),
        ("reverse", "--tee --udp-listen-addr 127.0.0.1:PORT --max-clients all", "--max-clients,all"),
        (
            "reverse",
            "--tee --udp-listen-addr 127.0.0.1:PORT --max-clients 1 --max-clients 1",
            "--max-clients",
        ),
        (
            "reverse",
            "--tee --udp-listen-addr 127.0.0.1:PORT --client-buffer 127k",
            "--client-buffer,128k to 1G",
        ),
        (
            "reverse",
            "--tee --udp-listen-addr 127.0.0.1:PORT --client-buffer 2G",
            "--client-buffer,128k to 1G",
        ),
        ("reverse", "--tee --udp-listen-addr 127.0.0.1:PORT --client-buffer 1.5M", "--client-buffer,1.5M"),
        (
            "reverse",
            "--tee --udp-listen-addr 127.0.0.1:PORT --stall-timeout 0",
            "--stall-timeout,100ms,86400s",
        ),
        ("reverse", "--tee --udp-listen-addr 127.0.0.1:PORT --stall-timeout 25h", "--stall-timeout,25h"),
        ("reverse", "--tee --udp-listen-addr 127.0.0.1:PORT --stall-timeout 1x", "--stall-timeout,1x"),
        ("reverse", "--tee --tcp-listen-addr 127.0.0.1:PORT --datagram-size 65508", "--datagram-size,65508"),
    ]);
}

fn a_reverse_proxy_whose_output_is_its_input_is_refused() {
    refused(&[
        (
            "reverse",
            "--udp-listen-addr 127.0.0.1:PORT --udp-output-addr 127.0.0.1:PORT",
            "127.0.0.1:PORT,loop",
        ),
        ("reverse", "--udp-listen-addr 0.0.0.0:PORT --udp-output-addr localhost:PORT", "localhost:PORT,loop"),
        (
            "reverse",
            "--udp-listen-addr 239.1.2.3%127.0.0.1:PORT --multicast-addr 239.1.2.3%127.0.0.1:PORT --tee",
            "239.1.2.3%127.0.0.1:PORT,loop",
        ),
        (
            "reverse",
            "--multicast-addr 239.1.2.3%127.0.0.1:PORT --udp-output-addr 239.1.2.3%127.0.0.1:PORT",
            "239.1.2.3%127.0.0.1:PORT,loop",
        ),
    ]);
}

#[cfg(unix)]
fn an_address_that_is_not_utf8_is_refused() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStringExt;

    for argument in [b"\xff:9920".to_vec(), b"--server-addr=\xff:9920".to_vec()] {
        let argument = OsString::from_vec(argument);
        let mut arguments =
            vec![OsStr::new("--path"), OsStr::new("-"), OsStr::new("--server-addr"), &argument];
        if argument.as_encoded_bytes().starts_with(b"--") {
            arguments.remove(2);
        }
        let outcome = run("mproxy-client", &arguments, b"");
        let line = only_line("not UTF-8", &outcome);
        assert_eq!(outcome.code, 2, "{line}");
        assert!(line.contains("--server-addr") && line.contains("UTF-8"), "{line}");
    }
}

/// The message of a failure at run time: one line, with exit code 1, that contains all of the words.
fn fails(name: &str, options: &[&str], words: &[&str]) {
    let case = format!("mproxy-{name} {}", options.join(" "));
    let outcome = run(&format!("mproxy-{name}"), options, b"");
    let line = only_line(&case, &outcome);
    assert_eq!(outcome.code, 1, "{case}: {line}");
    assert!(line.starts_with(&format!("mproxy-{name}: ")), "{case}: {line}");
    for word in words {
        assert!(line.contains(word), "{case}: no '{word}' in: {line}");
    }
}

fn a_name_that_does_not_resolve_is_named() {
    let no = "name.invalid:9920";
    let words = ["resolve", no];
    fails("client", &["--path", "-", "--server-addr", no], &words);
    fails("client", &["--path", "-", "--server-addr", "other.invalid:9", "--server-addr", no], &words);
    fails("server", &["--path", "-", "--listen-addr", no], &words);
    fails("forward", &["--udp-listen-addr", no, "--tee"], &words);
    fails("forward", &["--udp-listen-addr", "127.0.0.1:0", "--udp-downstream-addr", no], &words);
    fails("forward", &["--tcp-connect-addr", no, "--tee"], &words);
    fails("reverse", &["--udp-listen-addr", no, "--tee"], &words);
    fails("reverse", &["--tcp-listen-addr", no, "--tee"], &words);
    fails("reverse", &["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", no], &words);
    fails("reverse", &["--udp-listen-addr", "127.0.0.1:0", "--udp-output-addr", no], &words);
}

fn a_port_in_use_is_named() {
    let taken = taken();
    let address = &format!("127.0.0.1:{}", taken.port);
    let in_use = if cfg!(windows) { "os error 10048" } else { "in use" };
    let words = ["listen on", address, in_use];
    fails("server", &["--path", "-", "--listen-addr", address], &words);
    fails("server", &["--tee", "--listen-addr", "127.0.0.1:0", "--listen-addr", address], &words);
    fails("forward", &["--udp-listen-addr", address, "--tee"], &words);
    fails("reverse", &["--udp-listen-addr", address, "--tee"], &words);
    fails("reverse", &["--tcp-listen-addr", address, "--tee"], &words);
    fails("reverse", &["--udp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", address], &words);
    let name = &format!("localhost:{}", taken.port);
    fails("server", &["--path", "-", "--listen-addr", name], &["listen on", name, "127.0.0.1", in_use]);
}

fn an_address_of_another_host_cannot_be_listened_on() {
    if is_wine() {
        skip("Wine binds any address");
    }
    let words = ["listen on", "203.0.113.77:0"];
    fails("server", &["--path", "-", "--listen-addr", "203.0.113.77:0"], &words);
    fails("forward", &["--tee", "--udp-listen-addr", "203.0.113.77:0"], &words);
    fails("reverse", &["--tee", "--tcp-listen-addr", "203.0.113.77:0"], &words);
}

fn a_path_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let below = &path(&directory.path().join("no").join("such"));
    let directory = &path(directory.path());
    fails("client", &["--path", below, "--tee"], &["open", below]);
    let opens = if cfg!(windows) { "open" } else { "read" };
    fails("client", &["--path", directory, "--tee"], &[opens, directory]);
    fails("server", &["--path", below, "--listen-addr", "127.0.0.1:0"], &["open", below]);
    fails("server", &["--path", directory, "--listen-addr", "127.0.0.1:0"], &["open", directory]);
}

fn help_and_version_go_to_standard_output() {
    for name in PROGRAMS {
        let help = run(name, &["--help"], b"");
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{name}");
        let text = String::from_utf8(help.stdout).unwrap();
        for option in
            ["--framing", "--interface", "--ttl", "--recv-buffer", "--tee", "--verbose", "--version"]
        {
            assert!(text.contains(option), "{name}: no {option} in the help");
        }
        assert!(text.contains(name) && text.ends_with('\n'), "{name}");
        for line in text.lines() {
            assert!(line.is_ascii() && line.len() <= 80, "{name}: more than 80 columns: {line}");
        }
        for options in [&["-h"][..], &["--bogus", "-h"], &["--path", "--help"], &["--tee", "--help", "-V"]] {
            let again = run(name, options, b"");
            assert_eq!((again.code, again.stderr.as_str()), (0, ""), "{name} {options:?}");
            assert_eq!(String::from_utf8(again.stdout).unwrap(), text, "{name} {options:?}");
        }
        for option in ["-V", "--version"] {
            let version = run(name, &[option], b"");
            assert_eq!((version.code, version.stderr.as_str()), (0, ""), "{name} {option}");
            assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("{name} 0.2.0\n"));
        }

        let nothing = run::<&str>(name, &[], b"");
        assert_eq!((nothing.code, nothing.stdout.as_slice()), (2, &b""[..]), "{name}");
        assert_eq!(nothing.stderr, text, "{name}");
    }
}

fn the_help_of_each_program_names_all_of_its_options() {
    for (name, options) in [
        ("mproxy-client", &["--path", "--server-addr", "--datagram-size", "--rate"][..]),
        ("mproxy-server", &["--path", "--listen-addr"]),
        (
            "mproxy-forward",
            &["--udp-listen-addr", "--tcp-connect-addr", "--udp-downstream-addr", "--datagram-size"],
        ),
        (
            "mproxy-reverse",
            &[
                "--udp-listen-addr",
                "--tcp-listen-addr",
                "--multicast-addr",
                "--tcp-output-addr",
                "--udp-output-addr",
                "--max-clients",
                "--datagram-size",
                "private",
            ],
        ),
    ] {
        let help = String::from_utf8(run(name, &["--help"], b"").stdout).unwrap();
        for option in options {
            assert!(help.contains(option), "{name}: no {option} in the help");
        }
    }
}

fn a_value_comes_after_a_space_or_an_equals_sign() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a=b 'c'");
    std::fs::write(&path, "data\n").unwrap();
    let path = path.to_str().unwrap();
    for arguments in [
        &["--path", path, "--framing", "lines", "--tee"][..],
        &[&format!("--path={path}"), "--framing=lines", "-t"],
        &["-t", &format!("--path={path}"), "--framing", "lines"],
    ] {
        let outcome = run("mproxy-client", arguments, b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
        assert_eq!(outcome.stdout, b"data\n", "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
fn a_path_need_not_be_utf8() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(OsString::from_vec(b"\xff\xfe".to_vec()));
    std::fs::write(&path, "data\n").unwrap();
    let mut joined = OsString::from("--path=");
    joined.push(&path);
    for arguments in [vec!["--path".into(), path.into_os_string(), "-t".into()], vec![joined, "-t".into()]] {
        let outcome = run("mproxy-client", &arguments, b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
        assert_eq!(outcome.stdout, b"data\n");
    }
}

mproxy_tests::main!(
    options_that_are_unknown_malformed_or_lack_a_value_are_refused_by_all_programs,
    thread_counts_are_refused_by_all_programs_that_listen,
    lingers_out_of_range_are_refused_by_all_programs_that_listen,
    what_a_system_does_not_have_is_refused_there_and_taken_elsewhere,
    the_clients_wrong_uses_are_refused,
    the_servers_wrong_uses_are_refused,
    the_forwards_wrong_uses_are_refused,
    a_forward_to_its_own_listener_is_refused,
    #[cfg(target_os = "linux")]
    a_forward_to_its_own_listener_in_disguise_is_refused,
    a_forward_that_would_hear_its_own_broadcast_is_refused,
    the_reverse_proxys_wrong_uses_are_refused,
    a_reverse_proxy_whose_output_is_its_input_is_refused,
    #[cfg(unix)]
    an_address_that_is_not_utf8_is_refused,
    a_name_that_does_not_resolve_is_named,
    a_port_in_use_is_named,
    an_address_of_another_host_cannot_be_listened_on,
    a_path_that_cannot_be_used_is_named,
    help_and_version_go_to_standard_output,
    the_help_of_each_program_names_all_of_its_options,
    a_value_comes_after_a_space_or_an_equals_sign,
    #[cfg(target_os = "linux")]
    a_path_need_not_be_utf8,
);
