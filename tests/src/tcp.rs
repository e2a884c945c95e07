//! Many TCP clients of the tests themselves, read on one thread.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::{PATIENCE, Tally};

/// The bytes that one client is read in a turn, at most.
const TURN: usize = 1 << 16;

/// A TCP connection to this address, with a receive buffer of so many bytes (`SO_RCVBUF`) if that matters.
pub fn connect(to: SocketAddr, receive_buffer: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    if let Some(bytes) = receive_buffer {
        // Before the handshake, which settles the scale of the window.
        socket.set_recv_buffer_size(bytes).unwrap();
        // A window of less than a segment would make it slow, too: then the sender waits for a timer (RFC 9293, 3.8.6.2.1).
        #[cfg(unix)]
        socket.set_tcp_mss(536).unwrap();
    }
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A TCP client that gets a [`Feed`](crate::Feed). Reading from it never blocks.
pub struct TcpReader<'a> {
    /// The connection.
    pub stream: TcpStream,
    /// What it has got.
    pub tally: Tally<'a>,
    has_ended: bool,
}

impl<'a> TcpReader<'a> {
    /// Of this connection, with what it has got so far.
    pub fn new(stream: TcpStream, tally: Tally<'a>) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream, tally, has_ended: false }
    }

    /// Reads what is there, as much as fits into the buffer.
    #[track_caller]
    pub fn read(&mut self, buffer: &mut [u8]) {
        match (&self.stream).read(buffer) {
            Ok(0) => self.has_ended = true,
            Ok(len) => self.tally.take(&buffer[..len]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

/// Reads from all of them until each has got the datagram before `next`, or its end.
#[track_caller]
pub fn read_up_to(next: usize, readers: &mut [TcpReader<'_>]) {
    let end = Instant::now() + PATIENCE;
    read_while(readers, |reader| {
        assert!(Instant::now() < end, "{} of {next} datagrams came", reader.tally.next());
        assert!(!reader.has_ended, "the end after {} of {next} datagrams", reader.tally.next());
        reader.tally.next() < next
    });
}

/// Reads from all of them until each has come to its end, with a whole datagram.
#[track_caller]
pub fn read_to_end(readers: &mut [TcpReader<'_>]) {
    let end = Instant::now() + PATIENCE;
    read_while(readers, |reader| {
        assert!(Instant::now() < end, "no end after {} datagrams", reader.tally.next());
        !reader.has_ended
    });
    assert!(readers.iter().all(|reader| reader.tally.is_whole()), "an unfinished datagram at the end");
}

/// Reads from all of them until nothing more comes for a moment.
#[track_caller]
pub fn read_what_is_there(readers: &mut [TcpReader<'_>]) {
    let mut all: Vec<_> = readers.iter_mut().collect();
    while read_ready(&mut all) {
        all.retain(|reader| !reader.has_ended);
    }
}

#[track_caller]
fn read_while(readers: &mut [TcpReader<'_>], mut wants: impl FnMut(&TcpReader<'_>) -> bool) {
    let mut all: Vec<_> = readers.iter_mut().collect();
    loop {
        all.retain(|reader| wants(reader));
        if all.is_empty() {
            return;
        }
        read_ready(&mut all);
    }
}

/// Reads from those that have something, as soon as one has. False if none has for a moment.
#[track_caller]
fn read_ready(readers: &mut [&mut TcpReader<'_>]) -> bool {
    let (mut buffer, ready) = (vec![0; TURN], readable(readers));
    for (reader, _) in readers.iter_mut().zip(&ready).filter(|(_, ready)| **ready) {
        reader.read(&mut buffer);
    }
    ready.contains(&true)
}

/// Which of them has something to read, as soon as one has or after a moment.
#[cfg(unix)]
fn readable(readers: &[&mut TcpReader<'_>]) -> Vec<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut all: Vec<_> = readers.iter().map(|reader| PollFd::new(&reader.stream, PollFlags::IN)).collect();
    match poll(&mut all, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("poll: {error}"),
    }
    all.iter().map(|one| !one.revents().is_empty()).collect()
}

#[cfg(not(unix))]
fn readable(readers: &[&mut TcpReader<'_>]) -> Vec<bool> {
    std::thread::sleep(std::time::Duration::from_millis(1));
    vec![true; readers.len()]
}

/// Lets this process, and the programs that it starts, have as many descriptors (`RLIMIT_NOFILE`).
#[cfg(unix)]
pub fn needs_descriptors(descriptors: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= descriptors) {
        return;
    }
    if limit.maximum.is_some_and(|maximum| maximum < descriptors) {
        crate::skip(format!("this process may not have {descriptors} descriptors"));
    }
    limit.current = Some(descriptors);
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Nothing limits them here.
#[cfg(not(unix))]
pub fn needs_descriptors(_: u64) {}
