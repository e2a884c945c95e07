//! The main job for a visitor to see: a whole network of the real programs on this machine's loopback
//! interface, what was sent into it, and what arrived where. Ends by itself, with 0 if all of it arrived.
#![allow(clippy::print_stdout)] // its output is what it is for
#![allow(clippy::unwrap_used, clippy::expect_used)] // of what only a broken machine could refuse

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mproxy_tests::{Running, loopback_group, program, start, start_piped};

const LINES: usize = 2000;

/// How long to wait for what does not arrive.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    println!("MPROXY demo: a whole network on loopback, on ports that the system chooses.");
    println!("Building the four programs first.\n");
    program("mproxy-client");

    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("received.log");
    let group = loopback_group();

    println!("Started, from the far end to the near one:\n");
    let mut server = launch(
        "mproxy-server",
        &["--path", log.to_str().unwrap(), "--listen-addr", "127.0.0.1:0", "--verbose"],
    );
    let to_server = server.udp_address("127.0.0.1:0").to_string();
    let mut reverse = launch(
        "mproxy-reverse",
        &[
            "--udp-listen-addr",
            "127.0.0.1:0",
            "--tcp-output-addr",
            "127.0.0.1:0",
            "--udp-output-addr",
            &to_server,
            "--verbose",
        ],
    );
    let to_reverse = reverse.udp_address("127.0.0.1:0").to_string();
    let tcp = reverse.tcp_address("127.0.0.1:0");
    let mut forward = launch(
        "mproxy-forward",
        &["--udp-listen-addr", &group, "--udp-downstream-addr", &to_reverse, "--verbose"],
    );
    forward.says("listening to group");

    let feed = feed();
    let clients = [1, 2].map(|_| connect(tcp, &reverse, feed.len()));
    draw(&group, &to_reverse, tcp, &to_server);

    let began = Instant::now();
    println!("  $ mproxy-client --path - --server-addr {group} --rate 20M");
    let (mut client, mut stdin) =
        start_piped("mproxy-client", &["--path", "-", "--server-addr", &group, "--rate", "20M"]);
    stdin.write_all(&feed).unwrap();
    drop(stdin);
    let client_code = client.exit_code();
    println!("\nSent into mproxy-client ({}):\n", size(&feed));
    for line in String::from_utf8_lossy(&feed).lines().take(3) {
        println!("    {line}");
    }
    println!("    ... {} more lines\n", LINES - 3);

    println!("What arrived:\n");
    let mut good = client_code == 0;
    for (number, client) in (1..).zip(clients) {
        let received = client.join().unwrap_or_default();
        good &= compare(&format!("TCP client {number} of mproxy-reverse"), &feed, &received);
    }
    good &= compare("file of mproxy-server", &feed, &read_file(&log, feed.len()));
    println!("\n  {} ms from the first byte in to the last byte out.", began.elapsed().as_millis());

    for (name, running) in
        [("mproxy-forward", &mut forward), ("mproxy-reverse", &mut reverse), ("mproxy-server", &mut server)]
    {
        // SIGTERM, and then exit code 0.
        running.stop();
        println!("  {name} stopped.");
    }
    if good {
        println!("\nEverything arrived, byte for byte.");
        ExitCode::SUCCESS
    } else {
        println!("\nSomething did NOT arrive. The client's messages:\n{}", client.messages());
        ExitCode::FAILURE
    }
}

fn launch(name: &str, arguments: &[&str]) -> Running {
    println!("  $ {name} {}", arguments.join(" "));
    start(name, arguments)
}

/// Numbered sentences, as a ship's receiver might say them.
fn feed() -> Vec<u8> {
    let mut feed = String::new();
    for i in 0..LINES {
        let knots = 5 + i % 13;
        let _ =
            writeln!(feed, "$SHIP,{i:04},lat=44.{:04},lon=-63.{:04},knots={knots}", 6000 + i, 5000 + 2 * i);
    }
    feed.into_bytes()
}

/// Connects a client and reads as many bytes on a thread of its own; it is served when this returns.
fn connect(tcp: SocketAddr, reverse: &Running, bytes: usize) -> JoinHandle<Vec<u8>> {
    let mut stream = TcpStream::connect(tcp).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    reverse.says(&format!("{} connected", stream.local_addr().unwrap()));
    std::thread::spawn(move || {
        let (mut received, mut buffer) = (Vec::new(), [0; 8192]);
        let end = Instant::now() + PATIENCE;
        while received.len() < bytes && Instant::now() < end {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => received.extend_from_slice(&buffer[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        received
    })
}

/// What the file holds once it has as many bytes, or as many as came.
fn read_file(path: &Path, bytes: usize) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    loop {
        // The server may not have made it yet.
        let content = std::fs::read(path).unwrap_or_default();
        if content.len() >= bytes || Instant::now() > end {
            return content;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn size(bytes: &[u8]) -> String {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
    format!("{lines} lines, {} bytes", bytes.len())
}

fn compare(what: &str, sent: &[u8], received: &[u8]) -> bool {
    let same = sent == received;
    let verdict = if same { "identical" } else { "DIFFERENT" };
    println!("  {what:<30} {:<26} {verdict}", size(received));
    same
}

fn draw(group: &str, to_reverse: &str, tcp: SocketAddr, to_server: &str) {
    println!(
        "
      mproxy-client
            │  multicast group {group}
            ▼
      mproxy-forward
            │  UDP {to_reverse}
            ▼
      mproxy-reverse
            ║
            ╠══▶ TCP {tcp} ──▶ client 1
            ╠══▶ TCP {tcp} ──▶ client 2
            ╚══▶ UDP {to_server} ──▶ mproxy-server ──▶ received.log
"
    );
}
