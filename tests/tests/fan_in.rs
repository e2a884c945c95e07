//! The fan-in of `mproxy-reverse`: many TCP inputs, whose lines go on together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::scope;

use mproxy_tests::{Running, connect, eventually, loopback, needs_descriptors, start};

/// A proxy from a TCP input to an output for TCP clients, in lines.
struct Proxy {
    running: Running,
    input: SocketAddr,
    client: TcpStream,
}

impl Proxy {
    fn new() -> Self {
        let output = loopback(2);
        let arguments = ["--tcp-listen-addr", "127.0.0.1:0", "--tcp-output-addr", &output];
        let running = start("mproxy-reverse", &[&arguments[..], &["--framing", "lines", "-v"]].concat());
        let input = running.tcp_address("127.0.0.1:0");
        let client = connect(running.tcp_address(&output), None);
        running.serves(client.local_addr().unwrap());
        Self { running, input, client }
    }

    /// So many inputs, all of them served.
    fn inputs(&self, inputs: usize) -> Vec<TcpStream> {
        let before = self.running.served_peers();
        let streams = (0..inputs).map(|_| {
            let stream = connect(self.input, None);
            stream.set_nodelay(true).unwrap();
            stream
        });
        let streams = streams.collect();
        eventually("all inputs", || (self.running.served_peers() == before + inputs).then_some(()));
        streams
    }
}

/// A line that shows whose it is, and if it is torn or altered.
fn line(input: usize, number: usize) -> Vec<u8> {
    let mut line = format!("{input:04} {number:04} ").repeat(10).into_bytes();
    line.truncate(40 + (input * 7 + number * 13) % 60);
    line.push(b'\n');
    line
}

fn a_thousand_inputs_keep_their_lines_whole_and_in_order() {
    // As many as the program takes by default; and macOS lets a process open 256 descriptors.
    const INPUTS: usize = if cfg!(target_os = "linux") { 1000 } else { 60 };
    const LINES: usize = 12;
    needs_descriptors(INPUTS as u64 + 200);
    let mut proxy = Proxy::new();
    let mut inputs = proxy.inputs(INPUTS);
    let mut next = vec![0; INPUTS];
    scope(|scope| {
        scope.spawn(|| {
            for number in 0..LINES {
                let cut = |input: usize| (input + number) % 40;
                // The beginnings of all lines, and then the rest of each with the beginning of another.
                for (input, stream) in inputs.iter_mut().enumerate() {
                    stream.write_all(&line(input, number)[..cut(input)]).unwrap();
                }
                for (input, stream) in inputs.iter_mut().enumerate() {
                    stream.write_all(&line(input, number)[cut(input)..]).unwrap();
                }
            }
        });
        let (mut buffer, mut unfinished) = (vec![0; 65_536], Vec::new());
        for _ in 0..INPUTS * LINES {
            let end = loop {
                if let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
                    break end + 1;
                }
                let len = proxy.client.read(&mut buffer).expect("not everything came");
                assert!(len > 0, "the end");
                unfinished.extend_from_slice(&buffer[..len]);
            };
            let text: Vec<u8> = unfinished.drain(..end).collect();
            let shown = String::from_utf8_lossy(&text).into_owned();
            let input: usize = shown.get(..4).and_then(|number| number.parse().ok()).expect(&shown);
            assert!(text == line(input, next[input]), "{shown:?} is not line {} of {input}", next[input]);
            next[input] += 1;
        }
        assert!(unfinished.is_empty());
    });
    assert!(next.iter().all(|lines| *lines == LINES));
    drop(inputs);
    eventually("the ends of all", || (proxy.running.count(" has ended\n") == INPUTS).then_some(()));
    proxy.running.stop();
    assert!(proxy.running.warnings().is_empty(), "{:?}", proxy.running.warnings());
}

/// With everything that one connection holds at hand, the lines of others come after a part of it.
#[cfg(unix)]
fn an_input_that_floods_holds_up_no_other_one() {
    const OTHERS: usize = 20;
    const FLOOD: usize = 60_000_000;
    // A few turns of it: far less than the connection holds.
    const BOUND: usize = 300_000;
    let mut proxy = Proxy::new();
    let mut flooding = proxy.inputs(1).remove(0);
    let mut others = proxy.inputs(OTHERS);
    let flood = [&[b'x'; 999][..], b"\n"].concat().repeat(100);
    // The receive buffer grows to megabytes while it is read from.
    flooding.write_all(&flood.repeat(100)).unwrap();
    proxy.client.read_exact(&mut vec![0; 100 * 100_000]).unwrap();
    proxy.running.hold();
    flooding.set_nonblocking(true).unwrap();
    let mut written = 0;
    loop {
        match flooding.write(&flood[written % flood.len()..]) {
            Ok(len) => written += len,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    flooding.set_nonblocking(false).unwrap();
    for (number, stream) in others.iter_mut().enumerate() {
        stream.write_all(format!("other {number}\n").as_bytes()).unwrap();
    }
    proxy.running.release();
    let mut first = Vec::new();
    scope(|scope| {
        scope.spawn(|| {
            while written < FLOOD {
                written += flooding.write(&flood[written % flood.len()..]).unwrap();
            }
        });
        let mut buffer = vec![0; 65_536];
        let mut received = 0;
        while received < FLOOD {
            let len = proxy.client.read(&mut buffer).unwrap();
            assert!(len > 0, "the end");
            received += len;
            if first.len() < BOUND {
                first.extend_from_slice(&buffer[..len]);
            }
        }
    });
    let first = String::from_utf8(first).unwrap();
    let lines = first.lines().filter(|line| line.starts_with("other ")).count();
    assert_eq!(lines, OTHERS, "came within the first {} bytes", first.len());
}

mproxy_tests::main!(
    a_thousand_inputs_keep_their_lines_whole_and_in_order,
    #[cfg(unix)]
    an_input_that_floods_holds_up_no_other_one,
);
