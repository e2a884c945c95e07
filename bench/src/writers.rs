//! Many TCP connections in one process that send lines, and the UDP socket that the lines come to.

use std::io::{ErrorKind, Write, stdout};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::scenarios::LINE;
use crate::{Outcome, packets};

/// The interval at which lines are sent.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// A pause before the first line that counts, in which the usage up to then is measured.
const PAUSE: Duration = Duration::from_millis(50);

/// After this long without a datagram it is over.
const QUIET: Duration = Duration::from_millis(400);

/// The lines of all connections, which take turns.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) connections: usize,
    pub(crate) in_a_tick: usize,
    pub(crate) ticks: u32,
}

/// Connects, sends a line on each connection and waits until all have come, at most for `patience`; says
/// `ready`, sends the lines, and says how many that were and the bytes that came of them. The connections
/// stay then, so that the memory for them can be measured.
pub(crate) fn send(on: SocketAddrV4, output: SocketAddrV4, lines: Lines, patience: Duration) -> Outcome {
    let mut output = Output::open(output)?;
    let mut streams = Vec::with_capacity(lines.connections);
    for _ in 0..lines.connections {
        streams.push(TcpStream::connect(on)?);
    }
    for stream in &mut streams {
        stream.write_all(LINE)?;
    }
    let probes = lines.connections * LINE.len();
    let started = Instant::now();
    while output.bytes < probes && started.elapsed() < patience {
        output.wait_for_tick()?;
    }
    while output.last.elapsed() < QUIET {
        output.wait_for_tick()?;
    }
    output.bytes = 0;
    println!("ready");
    stdout().flush()?;
    std::thread::sleep(PAUSE);

    let started = Instant::now();
    let mut turns = streams.iter().cycle();
    for tick in 0..lines.ticks {
        if let Some(early) = (TICK * tick).checked_sub(started.elapsed()) {
            std::thread::sleep(early);
        }
        for mut stream in turns.by_ref().take(lines.in_a_tick) {
            stream.write_all(LINE)?;
        }
        output.read()?;
    }
    output.last = Instant::now();
    while output.last.elapsed() < QUIET {
        output.wait_for_tick()?;
    }
    println!("lines={} bytes={}", lines.in_a_tick as f64 * f64::from(lines.ticks), output.bytes);
    stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// The UDP socket, which does not block.
struct Output {
    socket: UdpSocket,
    buffer: Vec<u8>,
    bytes: usize,
    /// When the last of them came.
    last: Instant,
}

impl Output {
    fn open(on: SocketAddrV4) -> Outcome<Self> {
        let socket = packets::listen(on)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, buffer: vec![0; 1 << 16], bytes: 0, last: Instant::now() })
    }

    fn wait_for_tick(&mut self) -> Outcome {
        std::thread::sleep(TICK);
        self.read()
    }

    /// Reads all that there is.
    fn read(&mut self) -> Outcome {
        loop {
            match self.socket.recv(&mut self.buffer) {
                Ok(len) => {
                    self.bytes += len;
                    self.last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
