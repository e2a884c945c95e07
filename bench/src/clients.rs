//! Many TCP clients in one process: what each gets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::{Outcome, tls};

/// The interval of probes while some client has not got one yet.
const PROBE: Duration = Duration::from_millis(50);

/// Without a byte for so long, the probes have all arrived; and the load is over.
const QUIET: Duration = Duration::from_millis(400);

/// What clients speak, before the stream comes.
#[derive(Clone, Copy)]
pub(crate) enum Protocol<'a> {
    Tcp,
    /// With the authority in the file.
    Tls(&'a str),
    /// A request for the path.
    Http(&'a str),
}

/// A client's connection, which does not block.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tls::Client>),
}

struct Clients {
    epoll: OwnedFd,
    streams: Vec<Stream>,
    bytes: Vec<u64>,
    /// When the last of them came.
    last: Instant,
    buffer: Vec<u8>,
}

/// Connects, sends probes until every client is served, says `ready`, counts what comes from then on
/// until no more does, or nothing has come within `patience`, and says what came. The connections stay
/// then, since their end would be that of some programs, too.
pub(crate) fn count(
    on: SocketAddrV4,
    probes: SocketAddrV4,
    number: usize,
    patience: Duration,
    protocol: Protocol<'_>,
) -> Outcome {
    let mut clients = Clients::connect(on, number, protocol)?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    let started = Instant::now();
    // One that is never served counts as such in the end.
    while clients.bytes.contains(&0) && started.elapsed() < patience {
        sender.send_to(b"\n", probes)?;
        let last = Instant::now();
        while let Some(left) = PROBE.checked_sub(last.elapsed()) {
            clients.read(left)?;
        }
    }
    while clients.read(QUIET)? {}
    clients.bytes.fill(0);
    println!("ready");
    std::io::stdout().flush()?;

    let started = Instant::now();
    while clients.bytes.iter().all(|&bytes| bytes == 0) && started.elapsed() < patience {
        clients.read(QUIET)?;
    }
    let first = clients.last;
    while clients.read(QUIET)? {}
    let bytes: u64 = clients.bytes.iter().sum();
    clients.bytes.sort_unstable();
    let least = clients.bytes.first().copied().unwrap_or_default();
    let median = clients.bytes.get(number / 2).copied().unwrap_or_default();
    let seconds = (clients.last - first).as_secs_f64();
    println!("bytes={bytes} least={least} median={median} seconds={seconds}");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// Reads into the buffer, again and again where not all that is there would be announced again.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let stream = match self {
            Self::Plain(stream) => return stream.read(buffer),
            Self::Tls(stream) => stream,
        };
        let mut all = 0;
        loop {
            match stream.read(buffer) {
                Ok(0) => return Ok(all),
                Ok(len) => all += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock && all > 0 => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Clients {
    fn connect(on: SocketAddrV4, number: usize, protocol: Protocol<'_>) -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut streams = Vec::with_capacity(number);
        for n in 0..number {
            let mut stream = TcpStream::connect(on)?;
            let stream = match protocol {
                Protocol::Tcp => Stream::Plain(stream),
                Protocol::Tls(authority) => Stream::Tls(Box::new(tls::connect(stream, authority)?)),
                Protocol::Http(path) => {
                    // In one write: not every server waits for the rest of a request.
                    let request = format!("GET {path} HTTP/1.1\r\nHost: {on}\r\n\r\n");
                    stream.write_all(request.as_bytes())?;
                    Stream::Plain(stream)
                }
            };
            let socket = stream.socket();
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, socket, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN)?;
            streams.push(stream);
        }
        let (bytes, last) = (vec![0; number], Instant::now());
        Ok(Self { epoll, streams, bytes, last, buffer: vec![0; 1 << 20] })
    }

    /// Reads what there is, after waiting for it at most this long; false if nothing came.
    fn read(&mut self, wait: Duration) -> std::io::Result<bool> {
        let wait = Timespec::try_from(wait).map_err(|_| ErrorKind::InvalidInput)?;
        let mut events = Vec::with_capacity(64);
        epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait))?;
        for event in &events {
            let n = usize::try_from(event.data.u64()).map_err(|_| ErrorKind::InvalidData)?;
            match self.streams[n].read(&mut self.buffer) {
                Ok(len @ 1..) => {
                    self.bytes[n] += len as u64;
                    self.last = Instant::now();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                // Closed: its count stays as it is.
                Ok(0) | Err(_) => epoll::delete(&self.epoll, self.streams[n].socket())?,
            }
        }
        Ok(!events.is_empty())
    }
}
