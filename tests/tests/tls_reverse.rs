//! `mproxy-reverse` as a TLS server: OpenSSL's and socat's clients on the other side, good ones and bad.
// Their abilities and messages differ from build to build; those of Linux are known.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{ChildStdin, Command};
use std::time::{Duration, Instant};

use mproxy_tests::{
    Authority, Certificate, PATIENCE, Pki, Running, Valid, close, datagram, eventually, is_warning, openssl,
    piped, start, udp,
};
use rustix::process::Signal;

const REVERSE: &str = "tls/mproxy-reverse";

/// A proxy with UDP in and TLS out, on 127.0.0.1.
struct Output {
    running: Running,
    sender: UdpSocket,
    address: SocketAddr,
}

impl Output {
    fn new(pki: &Pki, options: &[&str]) -> Self {
        Self::with(&pki.server.path, &pki.server.key, options)
    }

    fn with(certificate: &str, key: &str, options: &[&str]) -> Self {
        let mut arguments =
            vec!["--udp-listen-addr", "127.0.0.1:0", "--tls-output-addr", "localhost:0", "-v"];
        arguments.extend(["--tls-cert", certificate, "--tls-key", key]);
        arguments.extend(options);
        let running = start(REVERSE, &arguments);
        let (sender, _) = udp();
        sender.connect(running.udp_address("127.0.0.1:0")).unwrap();
        let address = running.tcp_address("localhost:0");
        Self { running, sender, address }
    }

    /// The number of clients that have been let in so far.
    fn let_in(&self) -> usize {
        self.running.served_peers()
    }

    /// A client that was let in. It checks the certificate itself.
    fn client(&self, pki: &Pki, options: &[&str]) -> (Running, ChildStdin) {
        let before = self.let_in();
        let client = self.try_client(pki, options);
        eventually("a client that is served", || (self.let_in() > before).then_some(()));
        client
    }

    fn try_client(&self, pki: &Pki, options: &[&str]) -> (Running, ChildStdin) {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &self.address.to_string(), "-quiet", "-verify_return_error"]);
        piped(command.args(["-verify_hostname", "localhost", "-CAfile", &pki.authority.path]).args(options))
    }

    fn send(&self, payload: &[u8]) {
        self.sender.send(payload).unwrap();
    }
}

fn identity(certificate: &Certificate) -> [&str; 4] {
    ["-cert", &certificate.path, "-key", &certificate.key]
}

#[test]
fn openssl_and_socat_clients_get_everything_and_a_goodbye() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &["--framing", "length"]);
    let mut clients: Vec<_> = ["-tls1_2", "-tls1_3"].map(|version| output.client(&pki, &[version])).into();
    let address = format!("OPENSSL:localhost:{},cafile={}", output.address.port(), pki.authority.path);
    clients.push(piped(Command::new("socat").args(["-u", &address, "-"])));
    eventually("three clients", || (output.let_in() == 3).then_some(()));
    let mut expected = Vec::new();
    for payload in [&b"one"[..], b"", b"t\nwo", &[0xff; 2000]] {
        output.send(payload);
        expected.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        expected.extend(payload);
    }
    for (client, _) in &clients {
        assert_eq!(client.writes(expected.len()), expected);
    }
    assert!(output.running.messages().contains("TLSv1_2") && output.running.messages().contains("TLSv1_3"));
    output.running.stop();
    for (client, _) in &mut clients {
        client.wait();
        assert!(!client.messages().contains("eof"), "{}", client.messages());
    }
    assert_eq!(output.running.count(" has ended\n"), 3, "{}", output.running.messages());
}

#[test]
fn what_openssl_and_socat_clients_send_comes_in() {
    let pki = Pki::new();
    let (target, target_address) = udp();
    let target_address = target_address.to_string();
    let (cert, key) = (&pki.server.path, &pki.server.key);
    let mut running = start(
        REVERSE,
        &[
            "--tls-listen-addr",
            "127.0.0.1:0",
            "--udp-output-addr",
            &target_address,
            "--framing",
            "length",
            "-v",
        ]
        .into_iter()
        .chain(["--tls-cert", cert, "--tls-key", key])
        .collect::<Vec<_>>(),
    );
    let address = running.tcp_address("127.0.0.1:0");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-connect",
        &address.to_string(),
        "-quiet",
        "-no_ign_eof",
        "-CAfile",
        &pki.authority.path,
    ]);
    let mut socat = Command::new("socat");
    socat.args(["-u", "-", &format!("OPENSSL:{address},cafile={}", pki.authority.path)]);
    for command in [&mut openssl, &mut socat] {
        let (client, mut stdin) = piped(command);
        // In pieces that end anywhere.
        stdin.write_all(b"\0\x03one\0").unwrap();
        assert_eq!(datagram(&target), b"one");
        stdin.write_all(b"\0\0\x05t\nwo").unwrap();
        assert_eq!(datagram(&target), b"");
        stdin.write_all(b"\n\0\x01").unwrap();
        assert_eq!(datagram(&target), b"t\nwo\n");
        let before = running.count("ends inside a frame: 2 bytes discarded");
        drop(stdin);
        eventually("a report", || {
            (running.count("ends inside a frame: 2 bytes discarded") > before).then_some(())
        });
        drop(client);
    }
    running.stop();
    // Both have said goodbye.
    assert_eq!(running.count("has ended"), 2, "{}", running.messages());
    assert!(!running.messages().contains("cut off"), "{}", running.messages());
}

#[test]
fn an_input_that_is_cut_off_is_told() {
    let pki = Pki::new();
    let (target, target_address) = udp();
    let Certificate { path, key, .. } = &pki.server;
    let target_address = target_address.to_string();
    let options = ["--tls-listen-addr", "127.0.0.1:0", "--udp-output-addr", &target_address, "-v"];
    let running = start(REVERSE, &[&options[..], &["--tls-cert", path, "--tls-key", key]].concat());
    let address = running.tcp_address("127.0.0.1:0").to_string();
    let mut command = Command::new("openssl");
    let (client, mut stdin) = piped(command.args(["s_client", "-connect", &address, "-quiet"]));
    stdin.write_all(b"before\n").unwrap();
    assert_eq!(datagram(&target), b"before\n");
    client.signal(Signal::KILL);
    let line = running.says("TLS input ");
    let line = if line.contains("gone") { line } else { running.says(" has gone: ") };
    assert!(is_warning(&line) && line.contains("cut off"), "{line}");
}

#[test]
fn a_client_that_goes_without_a_goodbye_is_worth_no_warning() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &[]);
    let (client, _stdin) = output.client(&pki, &[]);
    client.signal(Signal::KILL);
    output.running.says(" has gone: ");
    output.running.stop();
    assert!(output.running.warnings().is_empty(), "{}", output.running.messages());
}

/// Before TLS 1.3 a goodbye is that of both; TCP alone would not tell before the next datagram.
#[test]
fn a_client_that_says_goodbye_frees_its_place() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &["--max-clients", "1"]);
    let (mut client, stdin) = output.client(&pki, &["-tls1_2", "-no_ign_eof"]);
    close(stdin);
    output.running.says(" has gone: ");
    client.wait();
    let (next, _stdin) = output.client(&pki, &[]);
    output.send(b"welcome\n");
    assert_eq!(next.writes(8), b"welcome\n");
    output.running.stop();
    assert!(output.running.warnings().is_empty(), "{}", output.running.messages());
}

#[test]
fn silent_connections_cost_no_thread_and_shut_nobody_out() {
    const SILENT: usize = 1500;
    /// Handshakes at a time.
    const MOST: usize = 1024;
    mproxy_core::cli::raise_descriptor_limit();
    let pki = Pki::new();
    let mut output = Output::new(&pki, &[]);
    // All threads run once a client gets something.
    let (served, _stdin) = output.client(&pki, &[]);
    output.send(b"served\n");
    assert_eq!(served.writes(7), b"served\n");
    let process =
        |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", output.running.id())).unwrap().count();
    let (threads, descriptors) = (process("task"), process("fd"));
    let mut silent: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(output.address).unwrap()).collect();
    // The oldest give way, long before their time is up.
    for mut stream in silent.drain(..SILENT - MOST) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(output.running.count("refused: 1024 others are in their handshakes"), 1);
    assert_eq!(process("task"), threads);
    let since = Instant::now();
    let (client, stdin) = output.client(&pki, &[]);
    output.send(b"at once\n");
    assert_eq!(client.writes(8), b"at once\n");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(process("task"), threads);
    // Its handshake took the place of one more; the others still have theirs.
    silent[0].set_read_timeout(Some(PATIENCE)).unwrap();
    silent[0].read_to_end(&mut Vec::new()).unwrap();
    for stream in &silent[1..] {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    // Nothing is left of any of them.
    close((silent, stdin));
    drop(client);
    eventually("the descriptors", || {
        output.send(b"is anyone gone?\n");
        (process("fd") == descriptors).then_some(())
    });
    assert_eq!(process("task"), threads);
    output.running.stop();
}

#[test]
fn keys_of_every_form_are_read() {
    let pki = Pki::new();
    let path = |name: &str| pki.path().join(name).to_str().unwrap().to_owned();
    let sec1 = path("sec1.key");
    openssl(&["ec", "-in", &pki.server.key, "-out", &sec1]);
    assert!(std::fs::read_to_string(&sec1).unwrap().contains("BEGIN EC PRIVATE KEY"));
    let [rsa, certificate, pkcs1] = ["rsa.key", "rsa.pem", "pkcs1.key"].map(path);
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rsa"];
    openssl(&[&new[..], &["-keyout", &rsa, "-out", &certificate]].concat());
    openssl(&["rsa", "-in", &rsa, "-traditional", "-out", &pkcs1]);
    assert!(std::fs::read_to_string(&pkcs1).unwrap().contains("BEGIN RSA PRIVATE KEY"));
    for (certificate, key) in [
        (&pki.server.path, &pki.server.key),
        (&pki.server.path, &sec1),
        (&certificate, &rsa),
        (&certificate, &pkcs1),
    ] {
        let mut output = Output::with(certificate, key, &[]);
        let mut stream = Command::new("openssl");
        stream.args(["s_client", "-connect", &output.address.to_string(), "-quiet"]);
        let (client, _stdin) = piped(&mut stream);
        eventually("a client", || (output.let_in() == 1).then_some(()));
        output.send(b"in any form\n");
        assert_eq!(client.writes(12), b"in any form\n");
        output.running.stop();
    }
}

#[test]
fn only_clients_with_a_certificate_of_that_authority_get_in() {
    let pki = Pki::new();
    let clients = Authority::new(pki.path(), "clients");
    let branch = clients.authority("branch");
    let certify = |authority: &Authority, name: &str, valid| authority.certify(name, &[], valid);
    let good = certify(&clients, "good", Valid::Now);
    let of_branch = certify(&branch, "of-branch", Valid::Now);
    let expired = certify(&clients, "expired", Valid::Before);
    let strange = certify(&pki.authority, "strange", Valid::Now);
    let revoked = certify(&clients, "revoked", Valid::Now);
    clients.revoke(&[&revoked]);
    let mut output = Output::new(&pki, &["--tls-client-ca", &clients.path]);
    let refused = |options: &[&str], why: &str| {
        let before = output.running.count(why);
        let (mut client, _stdin) = output.try_client(&pki, options);
        eventually(why, || (output.running.count(why) > before).then_some(()));
        assert_ne!(client.wait().code(), Some(0));
        assert_eq!(client.stdout(), b"");
    };
    for version in ["-tls1_2", "-tls1_3"] {
        for (certificate, why) in [
            (&expired, "refused: the peer's certificate has expired"),
            (&strange, "refused: the peer's certificate is not of a trusted authority"),
            (&revoked, "refused: the peer's certificate was revoked"),
        ] {
            refused(&[&identity(certificate)[..], &[version]].concat(), why);
        }
        refused(&[version], "refused: the peer shows no certificate");
        // A chain with an intermediate authority is as good.
        for certificate in [&good, &of_branch] {
            let chain = ["-cert_chain", &certificate.path];
            let (client, _stdin) =
                output.client(&pki, &[&identity(certificate)[..], &chain, &[version]].concat());
            output.send(b"welcome\n");
            assert_eq!(client.writes(8), b"welcome\n");
        }
    }
    // Until that one is revoked, which the next connection finds out.
    clients.revoke_authority(&branch);
    let chain = ["-cert_chain", &of_branch.path];
    refused(&[&identity(&of_branch)[..], &chain].concat(), "refused: the peer's certificate was revoked");
    output.client(&pki, &identity(&good));
    // An authority that is no longer in the file has certified nobody.
    std::fs::copy(&pki.authority.path, &clients.path).unwrap();
    refused(&identity(&good), "refused: the peer's certificate is not of a trusted authority");
    output.client(&pki, &identity(&strange));
    output.running.stop();
}

#[test]
fn old_versions_are_refused_with_the_reason() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &[]);
    let (mut client, _stdin) = output.try_client(&pki, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    output.running.says("refused: the peer speaks neither TLS 1.2 nor 1.3");
    assert_ne!(client.wait().code(), Some(0));
    output.client(&pki, &[]);
    output.running.stop();
}

/// The serial number of the certificate that the server shows.
fn shown(output: &Output, pki: &Pki) -> String {
    let (client, stdin) = piped(Command::new("openssl").args([
        "s_client",
        "-connect",
        &output.address.to_string(),
        "-CAfile",
        &pki.authority.path,
    ]));
    let pem = eventually("a certificate", || {
        let out = String::from_utf8_lossy(&client.stdout()).into_owned();
        let (_, rest) = out.split_once("-----BEGIN CERTIFICATE-----")?;
        let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
        Some(format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n"))
    });
    drop(stdin);
    let path = pki.path().join("shown.pem");
    std::fs::write(&path, pem).unwrap();
    openssl(&["x509", "-in", path.to_str().unwrap(), "-noout", "-serial"])
}

#[test]
fn renewed_certificates_are_shown_without_a_restart_and_broken_ones_are_not() {
    let pki = Pki::new();
    let serial = |path: &str| openssl(&["x509", "-in", path, "-noout", "-serial"]);
    let mut output = Output::new(&pki, &[]);
    let first = serial(&pki.server.path);
    let (client, _stdin) = output.client(&pki, &[]);
    assert_eq!(shown(&output, &pki), first);

    // Both files have changed: the next connection finds out.
    let names = ["localhost", "127.0.0.1"];
    pki.authority.certify("server", &names, Valid::Now);
    let second = serial(&pki.server.path);
    assert_ne!(first, second);
    assert_eq!(shown(&output, &pki), second);

    // A certificate whose key is not there yet: what there was is shown, and it is said once.
    let next = pki.authority.certify("next", &names, Valid::Now);
    std::fs::copy(&next.path, &pki.server.path).unwrap();
    for _ in 0..2 {
        assert_eq!(shown(&output, &pki), second);
    }
    let complaint = "the private key is not the certificate's; going on with what was read before";
    assert_eq!(output.running.count(complaint), 1, "{}", output.running.messages());
    std::fs::copy(&next.key, &pki.server.key).unwrap();
    assert_eq!(shown(&output, &pki), serial(&next.path));

    // SIGHUP reads them at once.
    std::fs::write(&pki.server.key, "nothing").unwrap();
    output.running.signal(Signal::HUP);
    output.running.says("it holds no private key in PEM form");
    std::fs::copy(&next.key, &pki.server.key).unwrap();
    let before = output.running.count("TLS certificates read again");
    output.running.signal(Signal::HUP);
    eventually("a word", || (output.running.count("TLS certificates read again") > before).then_some(()));

    // A file that cannot be read now is read as soon as it can be.
    std::fs::rename(&pki.server.key, pki.path().join("away")).unwrap();
    pki.authority.certify("third", &names, Valid::Now);
    std::fs::copy(pki.path().join("third.pem"), &pki.server.path).unwrap();
    assert_eq!(shown(&output, &pki), serial(&next.path));
    output.running.says("No such file");
    std::fs::copy(pki.path().join("third.key"), &pki.server.key).unwrap();
    assert_eq!(shown(&output, &pki), serial(&pki.server.path));

    // The connection from before has noticed nothing.
    output.send(b"still here\n");
    assert_eq!(client.writes(11), b"still here\n");
    output.running.stop();
}
