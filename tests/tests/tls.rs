//! TLS both ways on every system: peers of the library that the programs themselves use, good ones and bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use mproxy_tests::{
    Authority, Certificate, PATIENCE, Pki, Running, TLS_VERSIONS, TlsOptions, TlsPeer, TlsServer, Valid,
    assert_empty, datagram, eventually, is_warning, program, run, start, tls_forward, tls_refusal, udp,
};
use rcgen::ExtendedKeyUsagePurpose;

const FORWARD: &str = "tls/mproxy-forward";
const REVERSE: &str = "tls/mproxy-reverse";

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A server that shows this.
fn showing(certificate: &Certificate) -> TlsServer {
    TlsServer::new(TlsOptions { identity: Some(certificate), ..TlsOptions::default() })
}

#[track_caller]
fn assert_refused(server: &TlsServer, options: &[&str], why: &str) {
    let line = tls_refusal(&server.address(), options, || {
        // With TLS 1.3 the client may find fault when all is done here.
        let _ = server.try_accept().and_then(|mut peer| peer.rest());
    });
    assert!(
        line.contains(why) && line.contains(&server.address().to_string()),
        "'{why}' is not said: {line}"
    );
}

#[test]
fn forward_takes_what_a_server_sends_with_either_version() {
    let pki = Pki::new();
    for (version, words) in TLS_VERSIONS {
        // The protocols of the server (ALPN) do not matter to a client that names none.
        let options = TlsOptions {
            version: Some(version),
            identity: Some(&pki.server),
            protocols: &["h2"],
            ..TlsOptions::default()
        };
        let server = TlsServer::new(options);
        for host in NAMES {
            let (target, address) = udp();
            let name = format!("{host}:{}", server.address().port());
            let arguments =
                ["--tls-connect-addr", &name, "--udp-downstream-addr", &address.to_string(), "-v"];
            let mut running = start(FORWARD, &[&arguments[..], &["--tls-ca", &pki.authority.path]].concat());
            let mut peer = server.accept();
            running.is_connected(&name);
            assert!(running.messages().contains(words), "{}", running.messages());
            for line in [&b"one\n"[..], b"two\n"] {
                peer.send(line);
                assert_eq!(datagram(&target), line);
            }
            running.stop();
            assert_eq!(peer.rest().expect("it did not say goodbye"), b"");
        }
    }
}

#[test]
fn forward_takes_more_than_any_buffer_holds_without_a_change() {
    let pki = Pki::new();
    let server = showing(&pki.server);
    let bytes: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let name = server.address().to_string();
    let options = ["--tls-connect-addr", &name, "--tls-ca", &pki.authority.path, "--tee", "--framing", "raw"];
    let mut running = start(FORWARD, &options);
    let mut peer = server.accept();
    peer.send(&bytes);
    peer.close();
    assert!(running.writes(bytes.len()) == bytes, "it was altered");
    running.says(&format!("{name} has closed the connection; connecting again"));
    running.stop();
}

#[test]
fn every_check_of_a_servers_certificate_has_its_own_words() {
    let pki = Pki::new();
    let ca = ["--tls-ca", &pki.authority.path];
    let certify = |name: &str, names: &[&str], valid| pki.authority.certify(name, names, valid);
    let stranger = Authority::new(pki.path(), "stranger");
    let for_clients = [ExtendedKeyUsagePurpose::ClientAuth];
    for (certificate, why) in [
        (certify("expired", &NAMES, Valid::Before), "certificate has expired"),
        (certify("later", &NAMES, Valid::Later), "certificate is not valid yet"),
        (certify("named", &["example.org"], Valid::Now), "is for example.org, not for 127.0.0.1"),
        (stranger.certify("strange", &NAMES, Valid::Now), "is not of a trusted authority"),
        (
            pki.authority.certify_for("client-only", &NAMES, Valid::Now, &for_clients),
            "is made for another purpose",
        ),
    ] {
        assert_refused(&showing(&certificate), &ca, why);
    }

    // A name that the certificate does have can be asked for.
    let other = showing(&certify("named", &["example.org"], Valid::Now));
    let (mut running, target) =
        tls_forward(&other.address(), &[&ca[..], &["--tls-server-name", "example.org"]].concat());
    other.accept().send(b"right\n");
    assert_eq!(datagram(&target), b"right\n");
    running.stop();
    let wrong = [&ca[..], &["--tls-server-name", "example.com"]].concat();
    assert_refused(&other, &wrong, "not for example.com");

    let revoked = certify("revoked", &NAMES, Valid::Now);
    pki.authority.revoke(&[&revoked]);
    assert_refused(&showing(&revoked), &ca, "certificate was revoked");
    // All else is taken as before.
    let good = showing(&pki.server);
    let (_running, target) = tls_forward(&good.address(), &ca);
    good.accept().send(b"good\n");
    assert_eq!(datagram(&target), b"good\n");
}

#[test]
fn the_authorities_of_the_environment_are_trusted_and_by_default_those_of_the_web_only() {
    let pki = Pki::new();
    let server = showing(&pki.server);
    assert_refused(&server, &[], "is not of a trusted authority");
    let (target, address) = udp();
    let with_environment = |options: &[&str]| {
        let mut command = Command::new(program(FORWARD));
        command.args(["--tls-connect-addr", &server.address().to_string()]);
        command.args(["--udp-downstream-addr", &address.to_string()]).args(options);
        Running::new(command.env("SSL_CERT_FILE", &pki.authority.path).stdin(Stdio::null()))
    };
    let mut running = with_environment(&[]);
    server.accept_good().send(b"trusted\n");
    assert_eq!(datagram(&target), b"trusted\n");
    running.stop();
    // The option comes before the environment.
    let stranger = Authority::new(pki.path(), "stranger");
    let running = with_environment(&["--tls-ca", &stranger.path]);
    let _ = server.try_accept();
    running.says("is not of a trusted authority");
}

#[test]
fn a_server_that_wants_a_certificate_gets_it_and_refuses_others() {
    let pki = Pki::new();
    let own = pki.authority.certify("own", &[], Valid::Now);
    let strange = Authority::new(pki.path(), "stranger").certify("strange", &[], Valid::Now);
    let ca = ["--tls-ca", &pki.authority.path];
    for (version, _) in TLS_VERSIONS {
        let server = TlsServer::new(TlsOptions {
            version: Some(version),
            identity: Some(&pki.server),
            authority: Some(&pki.authority.path),
            ..TlsOptions::default()
        });
        let refused = |options: &[&str]| {
            tls_refusal(&server.address(), options, || {
                assert!(server.try_accept().is_err(), "a client was let in with {options:?}");
            })
        };
        let missing = refused(&ca);
        assert!(missing.contains("wants a certificate to let this in"), "{missing}");
        let other = refused(&[&ca[..], &strange.options()].concat());
        assert!(other.contains("does not accept the certificate shown to it: UnknownCA"), "{other}");
        let (_running, target) = tls_forward(&server.address(), &[&ca[..], &own.options()].concat());
        let mut peer = server.accept();
        assert_eq!(peer.shown(), own.chain()[0]);
        peer.send(b"welcome\n");
        assert_eq!(datagram(&target), b"welcome\n");
    }
}

/// A server that does this to each connection.
fn rogue(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(serve));
    address
}

#[test]
fn forward_tells_what_is_no_tls_at_all() {
    let garbage = rogue(|mut stream| {
        let _ = stream.write_all(b"220 mail.example.org ESMTP at your service\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let line = tls_refusal(&garbage, &[], || ());
    assert!(line.contains("does not speak TLS") && line.contains(&garbage.to_string()), "{line}");
    let closing = rogue(drop);
    let line = tls_refusal(&closing, &[], || ());
    assert!(line.contains(&closing.to_string()), "{line}");
    if cfg!(target_os = "linux") {
        let closed = "closed the connection instead of a TLS handshake";
        assert!(line.contains(closed) || line.contains("reset"), "{line}");
    }
}

#[test]
fn a_server_that_stalls_is_given_up_after_ten_seconds_and_holds_up_nobody() {
    let pki = Pki::new();
    let silent = rogue(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let good = showing(&pki.server);
    let silent = silent.to_string();
    let options = ["--tls-ca", &pki.authority.path, "--tls-connect-addr", &silent];
    let (mut running, target) = tls_forward(&good.address(), &options);
    let mut peer = good.accept();
    peer.send(b"meanwhile\n");
    assert_eq!(datagram(&target), b"meanwhile\n");
    assert!(running.warnings().is_empty(), "{}", running.messages());
    let line = eventually("a warning", || running.warnings().into_iter().next());
    assert!(line.contains("no TLS handshake in 10 seconds") && line.contains(&silent), "{line}");
    // The next attempt is under way: it holds up no stop.
    running.stop();
}

#[test]
fn a_server_that_is_cut_off_is_told_from_one_that_ends() {
    let pki = Pki::new();
    let options = ["--tls-ca", &pki.authority.path, "--framing", "length"];
    let server = showing(&pki.server);
    let (running, target) = tls_forward(&server.address(), &options);
    let mut ending = server.accept();
    ending.send(b"\0\x03one\0\x03tw");
    assert_eq!(datagram(&target), b"one");
    ending.close();
    running.says(&format!("{}: ends inside a frame: 4 bytes discarded", server.address()));
    running.says("has closed the connection");

    let server = showing(&pki.server);
    let (running, target) = tls_forward(&server.address(), &options);
    let mut truncated = server.accept();
    truncated.send(b"\0\0\0\x03one\0");
    assert_eq!(datagram(&target), b"");
    assert_eq!(datagram(&target), b"one");
    truncated.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let line = running.says("connecting again until it works");
    assert!(line.contains("cut off: the connection ended without TLS's close_notify"), "{line}");
    running.says("ends inside a frame: 1 bytes discarded");
    assert_empty(&target);
}

#[test]
fn what_a_tls_server_has_sent_before_a_stop_is_delivered() {
    let pki = Pki::new();
    let server = showing(&pki.server);
    let (mut running, target) =
        tls_forward(&server.address(), &["--tls-ca", &pki.authority.path, "--framing", "length"]);
    let mut peer = server.accept();
    // It runs, and is not still starting.
    peer.send(b"\0\x05first");
    assert_eq!(datagram(&target), b"first");
    running.hold();
    for number in 0..200_u16 {
        peer.send(&[&[0, 2], &number.to_be_bytes()[..]].concat());
    }
    running.interrupt();
    running.release();
    for number in 0..200_u16 {
        assert_eq!(datagram(&target), number.to_be_bytes());
    }
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn a_renewed_certificate_is_shown_to_a_server_from_the_next_connection_on() {
    let pki = Pki::new();
    let old = pki.authority.certify("own", &[], Valid::Before);
    let server = TlsServer::new(TlsOptions {
        identity: Some(&pki.server),
        authority: Some(&pki.authority.path),
        ..TlsOptions::default()
    });
    let options = [&["--tls-ca", &pki.authority.path][..], &old.options()].concat();
    let (running, target) = tls_forward(&server.address(), &options);
    assert!(server.try_accept().is_err());
    running.says("does not accept the certificate shown to it: CertificateExpired");
    let new = pki.authority.certify("own", &[], Valid::Now);
    let mut peer = server.accept_good();
    assert_eq!(peer.shown(), new.chain()[0]);
    peer.send(b"renewed\n");
    assert_eq!(datagram(&target), b"renewed\n");
    running.says("TLS certificates read again");
}

/// The functions of mproxy 0.1.8 trust what the environment names, which a process can set only for another.
#[test]
fn the_functions_of_0_1_8_do_the_same() {
    const NAME: &str = "MPROXY_TEST_TLS_SERVER";
    if let Ok(server) = std::env::var(NAME) {
        return old_functions(&server);
    }
    let pki = Pki::new();
    let server = showing(&pki.server);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_functions_of_0_1_8_do_the_same", "--nocapture"]);
    command.env(NAME, format!("localhost:{}", server.address().port()));
    command.env("SSL_CERT_FILE", &pki.authority.path);
    let mut running = Running::new(command.stdin(Stdio::null()));
    // Each for one of its connections.
    let _peers = [(), ()].map(|()| {
        let mut peer = server.accept();
        peer.send(b"over TLS\n");
        peer
    });
    assert_eq!(running.exit_code(), 0, "{}", String::from_utf8_lossy(&running.stdout()));
}

#[allow(deprecated)]
fn old_functions(server: &str) {
    use std::io::{BufRead, BufReader};

    let (mut session, mut socket) = mproxy_forward::tls_connection(server.to_owned()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(rustls::Stream::new(&mut session, &mut socket)).read_line(&mut line).unwrap();
    assert_eq!(line, "over TLS\n");
    drop(socket);
    let (target, address) = udp();
    let _forever = mproxy_forward::proxy_tls_udp(server.to_owned(), address.to_string());
    assert_eq!(datagram(&target), b"over TLS\n");
    let error = mproxy_forward::tls_connection("localhost".to_owned()).unwrap_err();
    assert!(error.to_string().contains("the port is missing"), "{error}");
}

/// A proxy with UDP in and TLS out, on 127.0.0.1.
struct Output {
    running: Running,
    sender: UdpSocket,
    address: SocketAddr,
}

impl Output {
    fn new(pki: &Pki, options: &[&str]) -> Self {
        let arguments = ["--udp-listen-addr", "127.0.0.1:0", "--tls-output-addr", "127.0.0.1:0", "-v"];
        let running = start(REVERSE, &[&arguments[..], &pki.server.options(), options].concat());
        let (sender, _) = udp();
        sender.connect(running.udp_address("127.0.0.1:0")).unwrap();
        let address = running.tcp_address("127.0.0.1:0");
        Self { running, sender, address }
    }

    fn send(&self, payload: &[u8]) {
        self.sender.send(payload).unwrap();
    }

    /// A client that was let in. It checks the certificate itself.
    fn client(&self, pki: &Pki, options: TlsOptions<'_>) -> TlsPeer {
        let peer = self.try_client(pki, options).unwrap();
        self.running.serves(peer.socket.local_addr().unwrap());
        peer
    }

    fn try_client(&self, pki: &Pki, options: TlsOptions<'_>) -> std::io::Result<TlsPeer> {
        TlsPeer::connect(self.address, TlsOptions { authority: Some(&pki.authority.path), ..options })
    }

    /// A client that must be refused, for this reason, and gets nothing.
    #[track_caller]
    fn refuses(&self, pki: &Pki, options: TlsOptions<'_>, why: &str) {
        let before = self.running.count(why);
        let got = self.try_client(pki, options).and_then(|mut peer| peer.rest());
        assert!(got.is_err(), "{why}: let in");
        eventually(why, || (self.running.count(why) > before).then_some(()));
    }
}

/// A proxy with TLS in and UDP out, where it listens, and what comes out.
fn input(pki: &Pki, options: &[&str]) -> (Running, SocketAddr, UdpSocket) {
    let (target, to) = udp();
    let to = to.to_string();
    let arguments = ["--tls-listen-addr", "127.0.0.1:0", "--udp-output-addr", &to, "-v"];
    let running = start(REVERSE, &[&arguments[..], &pki.server.options(), options].concat());
    let address = running.tcp_address("127.0.0.1:0");
    (running, address, target)
}

#[test]
fn clients_of_a_reverse_proxy_get_everything_and_a_goodbye() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &["--framing", "length"]);
    // One that offers a protocol is served without.
    let mut clients = TLS_VERSIONS.map(|(version, _)| {
        let options = TlsOptions { version: Some(version), protocols: &["h2"], ..TlsOptions::default() };
        output.client(&pki, options)
    });
    let mut expected = Vec::new();
    for payload in [&b"one"[..], b"", b"t\nwo", &[0xff; 2000]] {
        output.send(payload);
        expected.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        expected.extend(payload);
    }
    for client in &mut clients {
        assert_eq!(client.receive(expected.len()), expected);
    }
    for (_, words) in TLS_VERSIONS {
        output.running.says(words);
    }
    // Datagrams that come with the stop are not lost.
    output.running.hold();
    for number in 0..50_u16 {
        output.send(&number.to_be_bytes());
    }
    output.running.interrupt();
    output.running.release();
    let last: Vec<u8> = (0..50_u16).flat_map(|n| [[0, 2], n.to_be_bytes()].concat()).collect();
    for client in &mut clients {
        assert_eq!(client.rest().expect("it did not say goodbye"), last);
    }
    assert_eq!(output.running.exit_code(), 0);
    assert_eq!(output.running.count(" has ended\n"), 2, "{}", output.running.messages());
}

#[test]
fn what_clients_send_to_a_reverse_proxy_comes_in() {
    let pki = Pki::new();
    let (mut running, address, target) = input(&pki, &["--framing", "length"]);
    for (version, _) in TLS_VERSIONS {
        let options = TlsOptions {
            version: Some(version),
            authority: Some(&pki.authority.path),
            ..TlsOptions::default()
        };
        let mut peer = TlsPeer::connect(address, options).unwrap();
        // In pieces that end anywhere.
        peer.send(b"\0\x03one\0");
        assert_eq!(datagram(&target), b"one");
        peer.send(b"\0\0\x05t\nwo");
        assert_eq!(datagram(&target), b"");
        peer.send(b"\n\0\x01");
        assert_eq!(datagram(&target), b"t\nwo\n");
        peer.close();
        running.says(&format!("{} has ended", peer.socket.local_addr().unwrap()));
    }
    running.stop();
    let messages = running.messages();
    assert_eq!(messages.matches("ends inside a frame: 2 bytes discarded").count(), 2, "{messages}");
    assert!(!messages.contains("cut off"), "{messages}");
}

#[test]
fn an_input_that_is_cut_off_is_told() {
    let pki = Pki::new();
    let (running, address, target) = input(&pki, &[]);
    let options = TlsOptions { authority: Some(&pki.authority.path), ..TlsOptions::default() };
    let mut peer = TlsPeer::connect(address, options).unwrap();
    peer.send(b"before\n");
    assert_eq!(datagram(&target), b"before\n");
    peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let line = running.says(" has gone: ");
    assert!(is_warning(&line) && line.contains("cut off"), "{line}");
}

/// Data before a broken record goes on, though both came at once.
#[test]
fn what_came_before_a_broken_record_is_not_lost() {
    let pki = Pki::new();
    let (mut running, address, target) = input(&pki, &[]);
    let broken = [&b"\x17\x03\x03\0\x20garbage garbage garbage garbage!"[..], b"\x17\x03\x03\0\x02no"];
    for (number, broken) in broken.into_iter().enumerate() {
        let options = TlsOptions { authority: Some(&pki.authority.path), ..TlsOptions::default() };
        let mut peer = TlsPeer::connect(address, options).unwrap();
        running.serves(peer.socket.local_addr().unwrap());
        let line = "a line that is good\n".repeat(100);
        let bytes = [&peer.record(line.as_bytes()), broken].concat();
        peer.socket.write_all(&bytes).unwrap();
        let mut got = Vec::new();
        while got.len() < line.len() {
            got.extend(datagram(&target));
        }
        assert_eq!(got, line.as_bytes());
        let of_input = |line: &String| line.contains(": TLS input");
        let warnings = || running.warnings().into_iter().filter(of_input).count();
        eventually("a warning", || (warnings() == number + 1).then_some(()));
    }
    running.stop();
}

#[test]
fn a_client_that_goes_frees_its_place_with_a_goodbye_and_without() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &["--max-clients", "1"]);
    for (version, _) in TLS_VERSIONS {
        let options = TlsOptions { version: Some(version), ..TlsOptions::default() };
        let reset = output.client(&pki, options);
        let address = reset.socket.local_addr().unwrap();
        // At once, that is as a reset.
        socket_of(&reset).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(reset);
        output.running.says(&format!("TLS client {address} has gone: "));
    }
    // Before TLS 1.3 a goodbye is that of both; TCP alone would not tell before the next datagram.
    let mut leaving =
        output.client(&pki, TlsOptions { version: Some(TLS_VERSIONS[0].0), ..TlsOptions::default() });
    leaving.close();
    output.running.says(&format!("TLS client {} has gone: ", leaving.socket.local_addr().unwrap()));
    let mut next = output.client(&pki, TlsOptions::default());
    output.send(b"welcome\n");
    assert_eq!(next.receive(8), b"welcome\n");
    output.running.stop();
    assert!(output.running.warnings().is_empty(), "{}", output.running.messages());
}

fn socket_of(peer: &TlsPeer) -> socket2::SockRef<'_> {
    socket2::SockRef::from(&peer.socket)
}

#[test]
fn only_clients_with_a_certificate_of_that_authority_get_in() {
    let pki = Pki::new();
    let clients = Authority::new(pki.path(), "clients");
    let branch = clients.authority("branch");
    let good = clients.certify("good", &[], Valid::Now);
    let of_branch = branch.certify("of-branch", &[], Valid::Now);
    let expired = clients.certify("expired", &[], Valid::Before);
    let strange = pki.authority.certify("strange", &[], Valid::Now);
    let revoked = clients.certify("revoked", &[], Valid::Now);
    clients.revoke(&[&revoked]);
    let mut output = Output::new(&pki, &["--tls-client-ca", &clients.path]);
    for (version, _) in TLS_VERSIONS {
        let nobody = TlsOptions { version: Some(version), ..TlsOptions::default() };
        for (certificate, why) in [
            (&expired, "refused: the peer's certificate has expired"),
            (&strange, "refused: the peer's certificate is not of a trusted authority"),
            (&revoked, "refused: the peer's certificate was revoked"),
        ] {
            output.refuses(&pki, TlsOptions { identity: Some(certificate), ..nobody }, why);
        }
        output.refuses(&pki, nobody, "refused: the peer shows no certificate");
        // A chain with an intermediate authority is as good.
        for certificate in [&good, &of_branch] {
            let mut client = output.client(&pki, TlsOptions { identity: Some(certificate), ..nobody });
            output.send(b"welcome\n");
            assert_eq!(client.receive(8), b"welcome\n");
        }
    }
    // Until that one is revoked, which the next connection finds out.
    clients.revoke_authority(&branch);
    let with = |certificate| TlsOptions { identity: Some(certificate), ..TlsOptions::default() };
    output.refuses(&pki, with(&of_branch), "refused: the peer's certificate was revoked");
    output.client(&pki, with(&good));
    // An authority that is no longer in the file has certified nobody.
    std::fs::copy(&pki.authority.path, &clients.path).unwrap();
    output.refuses(&pki, with(&good), "refused: the peer's certificate is not of a trusted authority");
    output.client(&pki, with(&strange));
    output.running.stop();
}

#[test]
fn garbage_is_refused_with_its_reason() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &[]);
    let mut garbage = TcpStream::connect(output.address).unwrap();
    garbage.set_read_timeout(Some(PATIENCE)).unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let line = output.running.says("does not speak TLS");
    assert!(line.contains(&garbage.local_addr().unwrap().to_string()), "{line}");
    // It gets an alert, and then the end.
    let mut answer = Vec::new();
    garbage.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first(), Some(&21), "{answer:?}");

    drop(TcpStream::connect(output.address).unwrap());
    output.running.says("has closed the connection instead of a TLS handshake");
    output.client(&pki, TlsOptions::default());
    output.running.stop();
}

#[test]
fn a_silent_connection_costs_nobody_anything_and_ends_after_ten_seconds() {
    let pki = Pki::new();
    let mut output = Output::new(&pki, &["--max-clients", "1"]);
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(output.address).unwrap()).collect();
    // Half of a first message, and no more.
    let mut dribbling = TcpStream::connect(output.address).unwrap();
    dribbling.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    // The only permit is still free for one who can shake hands.
    let mut client = output.client(&pki, TlsOptions::default());
    output.send(b"at once\n");
    assert_eq!(client.receive(8), b"at once\n");
    assert!(output.running.warnings().is_empty(), "{}", output.running.messages());
    for mut stream in silent.into_iter().chain([dribbling]) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    output.running.says("refused: no TLS handshake in 10 seconds");
    output.send(b"later\n");
    assert_eq!(client.receive(6), b"later\n");
    output.running.stop();
}

#[test]
fn one_client_more_than_allowed_is_refused_after_its_handshake() {
    let pki = Pki::new();
    let output = Output::new(&pki, &["--max-clients", "1"]);
    let mut client = output.client(&pki, TlsOptions::default());
    let mut second = output.try_client(&pki, TlsOptions::default()).unwrap();
    output.running.says("refused: 1 are served already (--max-clients)");
    let _ = second.rest();
    output.send(b"to the first\n");
    assert_eq!(client.receive(13), b"to the first\n");
}

#[test]
fn renewed_certificates_are_shown_without_a_restart_and_broken_ones_are_not() {
    let pki = Pki::new();
    let read = |path: &str| Certificate::chain_of(path).remove(0);
    let mut output = Output::new(&pki, &[]);
    let shown = || output.try_client(&pki, TlsOptions::default()).unwrap().shown();
    let first = read(&pki.server.path);
    let mut client = output.client(&pki, TlsOptions::default());
    assert_eq!(client.shown(), first);

    // Both files have changed: the next connection finds out.
    pki.authority.certify("server", &NAMES, Valid::Now);
    let second = read(&pki.server.path);
    assert_ne!(first, second);
    assert_eq!(shown(), second);

    // A certificate whose key is not there yet: what there was is shown, and it is said once.
    let next = pki.authority.certify("next", &NAMES, Valid::Now);
    std::fs::copy(&next.path, &pki.server.path).unwrap();
    for _ in 0..2 {
        assert_eq!(shown(), second);
    }
    let complaint = "the private key is not the certificate's; going on with what was read before";
    assert_eq!(output.running.count(complaint), 1, "{}", output.running.messages());
    std::fs::copy(&next.key, &pki.server.key).unwrap();
    assert_eq!(shown(), read(&next.path));

    // A file that cannot be read now is read as soon as it can be.
    std::fs::rename(&pki.server.key, pki.path().join("away")).unwrap();
    let third = pki.authority.certify("third", &NAMES, Valid::Now);
    std::fs::copy(&third.path, &pki.server.path).unwrap();
    assert_eq!(shown(), read(&next.path));
    output.running.says(&format!("cannot read {}: ", pki.server.key));
    std::fs::copy(&third.key, &pki.server.key).unwrap();
    assert_eq!(shown(), read(&third.path));

    // The connection from before has noticed nothing.
    output.send(b"still here\n");
    assert_eq!(client.receive(11), b"still here\n");
    output.running.stop();
}

#[test]
fn what_tls_lacks_is_wrong_use_and_what_its_files_lack_names_them() {
    let pki = Pki::new();
    let Certificate { path, key, .. } = &pki.server;
    let listen = ["--tls-listen-addr", "127.0.0.1:0", "--tee"];
    let other = pki.authority.certify("other", &[], Valid::Now);
    let file = |name: &str| pki.path().join(name).to_str().unwrap().to_owned();
    let (empty, missing) = (file("empty"), file("missing"));
    std::fs::write(&empty, "").unwrap();
    assert!(!Path::new(&missing).exists());
    let not_found = format!("cannot read {missing}: ");
    for (options, code, why) in [
        (vec![], 2, "--tls-cert, --tls-key"),
        (vec!["--tls-cert", path], 2, "need each other"),
        (vec!["--tls-key", key], 2, "need each other"),
        (vec!["--tls-cert", &missing, "--tls-key", key], 1, &not_found[..]),
        (vec!["--tls-cert", &empty, "--tls-key", key], 1, "it holds no certificate"),
        (vec!["--tls-cert", key, "--tls-key", key], 1, "it holds no certificate"),
        (vec!["--tls-cert", path, "--tls-key", path], 1, "it holds no private key"),
        (vec!["--tls-cert", path, "--tls-key", &other.key], 1, "the private key is not the certificate's"),
        (
            vec!["--tls-cert", path, "--tls-key", key, "--tls-client-ca", &empty],
            1,
            "it holds no certificate of an",
        ),
    ] {
        let outcome = run(REVERSE, &[&listen[..], &options].concat(), b"");
        assert_eq!(
            (outcome.code, outcome.stderr.lines().count()),
            (code, 1),
            "{options:?}: {}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains(why), "{options:?}: {}", outcome.stderr);
    }
    let no_use = ["--udp-listen-addr", "127.0.0.1:0", "--tee", "--tls-cert", path, "--tls-key", key];
    let outcome = run(REVERSE, &no_use, b"");
    assert!(outcome.code == 2 && outcome.stderr.contains("no endpoint"), "{}", outcome.stderr);
    let no_name = ["--tls-connect-addr", "no_\u{fc}mlaut:1", "--tee"];
    let outcome = run("tls/mproxy-forward", &no_name, b"");
    assert!(outcome.code != 0 && outcome.stderr.lines().count() == 1, "{}", outcome.stderr);
}

#[test]
fn without_the_feature_each_option_says_how_to_get_it() {
    for (program, options) in [
        ("mproxy-forward", &["--tls-connect-addr", "--tls-ca", "--tls-server-name"][..]),
        ("mproxy-reverse", &["--tls-listen-addr", "--tls-output-addr", "--tls-client-ca"]),
    ] {
        for option in options {
            let arguments = ["--udp-listen-addr", "127.0.0.1:0", "--tee", option, "127.0.0.1:1"];
            let outcome = run(program, &arguments, b"");
            assert!(
                outcome.code == 2 && outcome.stderr.contains("--features tls"),
                "{option}: {}",
                outcome.stderr
            );
        }
        // Alone too, whatever else is missing.
        for options in [&["--tls-cert", "a", "--tls-key", "b"][..], &["--tls-cert", "a"], &["--tls-key", "b"]]
        {
            let outcome = run(program, options, b"");
            assert!(outcome.code == 2 && outcome.stderr.contains("--features tls"), "{}", outcome.stderr);
        }
    }
}
