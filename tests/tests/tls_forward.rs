//! `mproxy-forward` as a TLS client: OpenSSL's and socat's servers on the other side, good ones and bad.
// Its `/proc` tells when a server listens.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use mproxy_tests::{
    Authority, Certificate, Pki, Running, Valid, assert_empty, datagram, eventually, free_port, piped,
    program, start, tls_forward, tls_refusal, udp,
};
use rcgen::ExtendedKeyUsagePurpose;
use rustix::process::Signal;

const FORWARD: &str = "tls/mproxy-forward";

/// OpenSSL's server: what is written to it goes to its client.
struct Server {
    running: Running,
    input: ChildStdin,
    port: u16,
}

impl Server {
    fn openssl(certificate: &Certificate, options: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-quiet", "-naccept", "100"]);
        command.args(["-cert", &certificate.path, "-cert_chain", &certificate.path]);
        command.args(["-key", &certificate.key]).args(options);
        Self::of(&mut command, port)
    }

    fn socat(certificate: &Certificate, options: &str) -> Self {
        let port = free_port();
        let Certificate { path, key, .. } = certificate;
        let listen = format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,cert={path},key={key},verify=0{options}");
        Self::of(Command::new("socat").args(["-t", "30", "-", &listen]), port)
    }

    fn of(command: &mut Command, port: u16) -> Self {
        let (running, input) = piped(command);
        // It must not be asked by a connection, which some would take for their only client.
        let socket = format!("0100007F:{port:04X} 00000000:0000 0A");
        eventually("a listening server", || {
            std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&socket).then_some(())
        });
        Self { running, input, port }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

#[track_caller]
fn assert_refused(server: &str, options: &[&str], why: &str) {
    let line = tls_refusal(&server, options, || ());
    assert!(line.contains(why) && line.contains(server), "'{why}' is not said: {line}");
}

#[test]
fn it_takes_what_an_openssl_server_sends_with_either_version() {
    let pki = Pki::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut server = Server::openssl(&pki.server, &[version]);
        for host in ["localhost", "127.0.0.1"] {
            let address = format!("{host}:{}", server.port);
            let (mut running, target) = tls_forward(&address, &["--tls-ca", &pki.authority.path]);
            running.is_connected(&address);
            let expected = if version == "-tls1_2" { "TLSv1_2" } else { "TLSv1_3" };
            assert!(running.messages().contains(expected), "{}", running.messages());
            for line in [&b"one\n"[..], b"two\n"] {
                server.input.write_all(line).unwrap();
                assert_eq!(datagram(&target), line);
            }
            running.stop();
        }
    }
}

#[test]
fn it_takes_more_than_any_buffer_holds_without_a_change() {
    let pki = Pki::new();
    let mut server = Server::socat(&pki.server, "");
    let bytes: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let sent = bytes.clone();
    let name = format!("localhost:{}", server.port);
    let options = ["--tls-connect-addr", &name, "--tls-ca", &pki.authority.path, "--tee", "--framing", "raw"];
    let mut running = start(FORWARD, &options);
    let sender = std::thread::spawn(move || {
        server.input.write_all(&sent).unwrap();
        drop(server.input);
        // Kept until it has ended by itself: its goodbye comes last.
        assert_eq!(server.running.exit_code(), 0, "{}", server.running.messages());
    });
    assert!(running.writes(bytes.len()) == bytes, "it was altered");
    running.says(&format!("{name} has closed the connection; connecting again"));
    sender.join().unwrap();
    running.stop();
}

#[test]
fn every_check_of_the_servers_certificate_has_its_own_words() {
    let pki = Pki::new();
    let ca = ["--tls-ca", &pki.authority.path];
    let names = &["localhost", "127.0.0.1"];
    let certify = |name: &str, names: &[&str], valid| pki.authority.certify(name, names, valid);
    let stranger = Authority::new(pki.path(), "stranger");
    for (certificate, why) in [
        (certify("expired", names, Valid::Before), "certificate has expired"),
        (certify("later", names, Valid::Later), "certificate is not valid yet"),
        (certify("named", &["example.org"], Valid::Now), "is for example.org, not for 127.0.0.1"),
        (stranger.certify("strange", names, Valid::Now), "is not of a trusted authority"),
        (
            pki.authority.certify_for(
                "client-only",
                names,
                Valid::Now,
                &[ExtendedKeyUsagePurpose::ClientAuth],
            ),
            "is made for another purpose",
        ),
    ] {
        assert_refused(&Server::openssl(&certificate, &[]).address(), &ca, why);
    }

    // A name that the certificate does have can be asked for.
    let mut other = Server::openssl(&certify("named", &["example.org"], Valid::Now), &[]);
    let (mut running, target) =
        tls_forward(&other.address(), &[&ca[..], &["--tls-server-name", "example.org"]].concat());
    other.input.write_all(b"right\n").unwrap();
    assert_eq!(datagram(&target), b"right\n");
    running.stop();
    assert_refused(
        &other.address(),
        &[&ca[..], &["--tls-server-name", "example.com"]].concat(),
        "not for example.com",
    );

    let by_hand = pki.path().join("by-hand.pem").to_str().unwrap().to_owned();
    let by_hand = Certificate::by_hand(&by_hand);
    let own_ca = ["--tls-ca", &by_hand.path];
    assert_refused(&Server::openssl(&by_hand, &[]).address(), &own_ca, "is that of an authority (CA:TRUE)");

    let revoked = certify("revoked", names, Valid::Now);
    pki.authority.revoke(&[&revoked]);
    assert_refused(&Server::openssl(&revoked, &[]).address(), &ca, "certificate was revoked");
    // All else is taken as before.
    let mut good = Server::openssl(&pki.server, &[]);
    let (_running, target) = tls_forward(&good.address(), &ca);
    good.input.write_all(b"good\n").unwrap();
    assert_eq!(datagram(&target), b"good\n");
}

#[test]
fn the_authorities_of_the_environment_are_trusted_and_by_default_those_of_the_web_only() {
    let pki = Pki::new();
    let mut server = Server::openssl(&pki.server, &[]);
    assert_refused(&server.address(), &[], "is not of a trusted authority");
    let (target, address) = udp();
    let mut command = Command::new(program(FORWARD));
    command.args(["--tls-connect-addr", &server.address(), "--udp-downstream-addr", &address.to_string()]);
    let mut running = Running::new(command.env("SSL_CERT_FILE", &pki.authority.path).stdin(Stdio::null()));
    server.input.write_all(b"trusted\n").unwrap();
    assert_eq!(datagram(&target), b"trusted\n");
    running.stop();
    // The option comes before the environment.
    let mut command = Command::new(program(FORWARD));
    let stranger = Authority::new(pki.path(), "stranger");
    command.args(["--tls-connect-addr", &server.address(), "--udp-downstream-addr", &address.to_string()]);
    command.args(["--tls-ca", &stranger.path]).env("SSL_CERT_FILE", &pki.authority.path);
    Running::new(command.stdin(Stdio::null())).says("is not of a trusted authority");
}

#[test]
fn a_server_that_wants_a_certificate_gets_it_and_refuses_others() {
    let pki = Pki::new();
    let options = ["-Verify", "1", "-verify_return_error", "-CAfile", &pki.authority.path];
    let own = pki.authority.certify("own", &[], Valid::Now);
    let strange = Authority::new(pki.path(), "stranger").certify("strange", &[], Valid::Now);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut server = Server::openssl(&pki.server, &[&options[..], &[version]].concat());
        let ca = ["--tls-ca", &pki.authority.path];
        let with = |certificate: &Certificate| {
            [&ca[..], &["--tls-cert", &certificate.path, "--tls-key", &certificate.key]]
                .concat()
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<String>>()
        };
        let address = server.address();
        let refused = |options: &[String]| {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            tls_refusal(&address, &options, || ())
        };
        let missing = refused(&ca.map(str::to_owned));
        assert!(missing.contains("wants a certificate to let this in"), "{missing}");
        let other = refused(&with(&strange));
        assert!(other.contains("does not accept the certificate shown to it: UnknownCA"), "{other}");
        let options = with(&own);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let (_running, target) = tls_forward(&address, &options);
        server.input.write_all(b"welcome\n").unwrap();
        assert_eq!(datagram(&target), b"welcome\n");
    }
}

#[test]
fn a_server_that_refuses_again_and_again_is_spoken_of_once() {
    let pki = Pki::new();
    let options = ["-Verify", "1", "-verify_return_error", "-CAfile", &pki.authority.path, "-tls1_3"];
    let server = Server::openssl(&pki.server, &options);
    let (mut running, _target) = tls_forward(&server.address(), &["--tls-ca", &pki.authority.path]);
    // With TLS 1.3 each connection seems to be there, and then is not.
    eventually("three connections", || (running.connections() >= 3).then_some(()));
    running.stop();
    assert_eq!(running.warnings().len(), 1, "{}", running.messages());
}

#[test]
fn an_old_version_of_tls_is_refused() {
    let pki = Pki::new();
    for version in ["-tls1_1", "-tls1"] {
        let server = Server::openssl(&pki.server, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert_refused(&server.address(), &["--tls-ca", &pki.authority.path], "1.2");
    }
}

#[test]
fn a_stream_that_is_cut_off_is_told_from_one_that_ends() {
    let pki = Pki::new();
    let options = ["--tls-ca", &pki.authority.path, "--framing", "length"];
    let mut ending = Server::socat(&pki.server, "");
    let (running, target) = tls_forward(&ending.address(), &options);
    ending.input.write_all(b"\0\x03one\0\x03tw").unwrap();
    assert_eq!(datagram(&target), b"one");
    drop(ending.input);
    running.says(&format!("127.0.0.1:{}: ends inside a frame: 4 bytes discarded", ending.port));
    running.says("has closed the connection");

    let mut truncated = Server::openssl(&pki.server, &[]);
    let (running, target) = tls_forward(&truncated.address(), &options);
    truncated.input.write_all(b"\0\0\0\x03one\0").unwrap();
    assert_eq!(datagram(&target), b"");
    assert_eq!(datagram(&target), b"one");
    truncated.running.signal(Signal::KILL);
    let line = running.says("connecting again until it works");
    assert!(line.contains("cut off: the connection ended without TLS's close_notify"), "{line}");
    running.says("ends inside a frame: 1 bytes discarded");
    assert_empty(&target);
}

#[test]
fn at_a_stop_it_says_goodbye() {
    let pki = Pki::new();
    // One client, and then the end: with a complaint if that is gone without one.
    let mut server = Server::openssl(&pki.server, &["-naccept", "1"]);
    let (mut running, target) = tls_forward(&server.address(), &["--tls-ca", &pki.authority.path]);
    server.input.write_all(b"here\n").unwrap();
    assert_eq!(datagram(&target), b"here\n");
    running.stop();
    server.running.wait();
    assert!(!server.running.messages().contains("unexpected eof"), "{}", server.running.messages());
}

#[test]
fn a_renewed_certificate_is_shown_from_the_next_connection_on() {
    let pki = Pki::new();
    let old = pki.authority.certify("own", &[], Valid::Before);
    let options = ["-Verify", "1", "-verify_return_error", "-CAfile", &pki.authority.path];
    let mut server = Server::openssl(&pki.server, &options);
    let (running, target) = tls_forward(
        &server.address(),
        &["--tls-ca", &pki.authority.path, "--tls-cert", &old.path, "--tls-key", &old.key],
    );
    running.says("does not accept the certificate shown to it: CertificateExpired");
    pki.authority.certify("own", &[], Valid::Now);
    server.input.write_all(b"renewed\n").unwrap();
    assert_eq!(datagram(&target), b"renewed\n");
    running.says("TLS certificates read again");
}
