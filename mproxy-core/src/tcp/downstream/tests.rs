//! The fan-in, with real sockets.

use std::collections::HashMap;
use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::Weak;

use socket2::SockRef;

use super::*;
use crate::io::poll::{Input, Wait};
use crate::relay::limits::READ;
use crate::relay::stats::{Direction, Registry};
use crate::tcp::transport::Plain;

/// A fan-in, and what a test needs to connect to it.
struct Rig {
    source: FanIn,
    handle: FanInHandle,
    listener: TcpListener,
    stop: Stop,
    batch: Batch,
}

/// Both ends of a connection.
struct Peer {
    client: TcpStream,
    server: Arc<TcpStream>,
    permit: Weak<()>,
}

impl Peer {
    fn send(&self, bytes: &[u8]) {
        (&self.client).write_all(bytes).unwrap();
    }

    /// Sends, and waits until the bytes can be read.
    fn send_until_readable(&self, bytes: &[u8]) {
        self.send(bytes);
        while self.server.peek(&mut [0]).is_err() {
            std::thread::yield_now();
        }
    }
}

impl Rig {
    fn new(framing: Framing, size: usize) -> Self {
        let stop = Stop::new().unwrap();
        let meter = Registry::default().endpoint("test", Direction::In);
        let source = FanIn::new(&Plain, framing, size, &meter, &stop);
        Self {
            handle: source.handle(),
            batch: Batch::with_capacity(source.capacity()),
            source,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            stop,
        }
    }

    /// A connection that is not taken in yet.
    fn add(&self) -> Peer {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (server, address) = self.listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let (server, permit) = (Arc::new(server), Arc::new(()));
        let peer = Peer { client, server: server.clone(), permit: Arc::downgrade(&permit) };
        self.handle.add(Box::new(server), address, Box::new(permit));
        peer
    }

    fn connect(&mut self) -> Peer {
        let peer = self.add();
        let connections = self.connections() + 1;
        while self.connections() < connections {
            assert_eq!(self.receive(), (vec![], Flow::More));
        }
        peer
    }

    fn connections(&self) -> usize {
        self.source.connections.iter().flatten().count()
    }

    /// What one receive gives.
    fn receive(&mut self) -> (Vec<Vec<u8>>, Flow) {
        self.batch.clear();
        let flow = self.source.receive(&mut self.batch).unwrap();
        (self.batch.datagrams().map(<[u8]>::to_vec).collect(), flow)
    }

    /// What comes until it is so many datagrams.
    fn receive_datagrams(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.receive().0);
        }
        all
    }
}

#[test]
fn a_flood_gets_its_turn_and_no_more() {
    let mut rig = Rig::new(Framing::Auto, 1024);
    let flood = rig.connect();
    let slow: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    let mut client = flood.client.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let block = b"flood\n".repeat(10_000);
        while client.write_all(&block).is_ok() {}
    });
    for _ in 0..50 {
        for peer in &slow {
            peer.send_until_readable(b"slow\n");
        }
        let (mut taken, mut missing) = (0, slow.len());
        while missing > 0 {
            for datagram in rig.receive().0 {
                match &datagram[..] {
                    b"slow\n" => missing -= 1,
                    _ => taken += datagram.len(),
                }
            }
            assert!(
                taken <= (2 + usize::from(ROUNDS_WITHOUT_WAIT)) * READ,
                "{missing} wait while the flood has sent {taken} bytes"
            );
        }
    }
    drop((rig, flood));
    writer.join().unwrap();
}

#[test]
fn lines_of_many_connections_come_in_order_and_untorn() {
    const LINES: usize = 100;
    let mut rig = Rig::new(Framing::Lines, 512);
    let peers: Vec<_> = (0..200).map(|_| rig.connect()).collect();
    let line = |id: usize, n: usize| format!("{id} {n} {}\n", "x".repeat(n));
    let text = |id: usize| (0..LINES).map(|n| line(id, n)).collect::<Vec<_>>().concat();
    let writers: Vec<_> = peers
        .chunks(50)
        .enumerate()
        .map(|(writer, peers)| {
            let mut open: Vec<_> =
                peers.iter().map(|peer| peer.client.try_clone().unwrap()).enumerate().collect();
            let mut texts: Vec<_> = (0..open.len()).map(|at| text(writer * 50 + at).into_bytes()).collect();
            let mut random = fastrand::Rng::with_seed(writer as u64);
            std::thread::spawn(move || {
                while !open.is_empty() {
                    let at = random.usize(..open.len());
                    let (index, client) = &mut open[at];
                    let text = &mut texts[*index];
                    let len = random.usize(1..200).min(text.len());
                    client.write_all(&text.drain(..len).collect::<Vec<_>>()).unwrap();
                    if text.is_empty() {
                        open.swap_remove(at);
                    }
                }
            })
        })
        .collect();
    let mut received: HashMap<usize, String> = HashMap::new();
    let total: usize = (0..peers.len()).map(|id| text(id).len()).sum();
    while received.values().map(String::len).sum::<usize>() < total {
        for datagram in rig.receive().0 {
            let lines = String::from_utf8(datagram).unwrap();
            assert!(lines.ends_with('\n') && lines.len() <= 512, "{lines}");
            let ids: Vec<usize> =
                lines.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
            assert!(ids.iter().all(|id| *id == ids[0]), "{lines}");
            *received.entry(ids[0]).or_default() += &lines;
        }
    }
    for writer in writers {
        writer.join().unwrap();
    }
    for id in 0..peers.len() {
        assert_eq!(received[&id], text(id));
    }
    assert!(rig.source.connections.iter().flatten().all(|it| it.deframer.is_empty()));
}

#[test]
fn frames_are_whole_wherever_their_bytes_are_divided() {
    let mut rig = Rig::new(Framing::Length, 1);
    let peers = [rig.connect(), rig.connect()];
    let streams = [&b"\0\x03a\nb\0\0\0\x01c"[..], b"\0\0\0\x04defg\0\x02hi"];
    let mut expected = vec![&b"a\nb"[..], b"", b"c", b"", b"defg", b"hi"];
    expected.sort_unstable();
    for at in 1..streams[0].len() {
        let mut got = Vec::new();
        for part in 0..2 {
            for (peer, stream) in peers.iter().zip(streams) {
                peer.send_until_readable(if part == 0 { &stream[..at] } else { &stream[at..] });
                got.extend(rig.receive().0);
            }
        }
        let missing = expected.len().saturating_sub(got.len());
        got.extend(rig.receive_datagrams(missing));
        got.sort_unstable();
        assert_eq!(got, expected, "divided after {at} bytes");
    }
}

#[test]
fn an_unfinished_line_goes_once_nothing_follows_for_the_flush_timeout() {
    let timeout = Framing::Auto.flush_timeout().unwrap();
    let mut rig = Rig::new(Framing::Auto, 1024);
    let (peer, quiet) = (rig.connect(), rig.connect());
    let begin = Instant::now();
    peer.send_until_readable(b"ab\ncd");
    assert_eq!(rig.receive().0, [b"ab\n"]);
    assert_eq!(rig.receive_datagrams(1), [b"cd"]);
    assert!(begin.elapsed() >= timeout);
    assert_eq!(rig.source.deadline(), None);

    // Bytes that are there when the time is over are part of it, and begin it anew.
    peer.send_until_readable(b"e");
    assert_eq!(rig.receive().0, [b""; 0]);
    let deadline = rig.source.deadline().unwrap();
    peer.send_until_readable(b"f");
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    assert_eq!(rig.receive().0, [b""; 0]);
    assert!(rig.source.deadline().unwrap() > deadline);
    assert_eq!(rig.receive_datagrams(1), [b"ef"]);

    // A line that was finished in time leaves no deadline.
    peer.send_until_readable(b"g");
    rig.receive();
    peer.send_until_readable(b"h\n");
    let mut rest = rig.receive_datagrams(1).concat();
    if rest == b"g" {
        rest.extend(rig.receive_datagrams(1).concat());
    }
    assert_eq!(rest, b"gh\n");
    assert_eq!(rig.source.deadline(), None);
    drop(quiet);
}

#[test]
fn the_end_of_one_connection_releases_its_line_and_its_permit() {
    let mut rig = Rig::new(Framing::Lines, 1024);
    let (ends, resets, stays) = (rig.connect(), rig.connect(), rig.connect());
    ends.send(b"ab\ncd");
    ends.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.receive_datagrams(2), [&b"ab\n"[..], b"cd"]);
    SockRef::from(&resets.client).set_linger(Some(Duration::ZERO)).unwrap();
    let (server, permit) = (resets.server.clone(), resets.permit.clone());
    drop((resets, server));
    while rig.connections() > 1 {
        assert_eq!(rig.receive(), (vec![], Flow::More));
    }
    assert!(ends.permit.upgrade().is_none() && permit.upgrade().is_none());
    drop(ends.server);
    assert_eq!((&ends.client).read(&mut [0]).unwrap(), 0);
    stays.send(b"still here\n");
    assert_eq!(rig.receive_datagrams(1), [b"still here\n"]);
    assert!(stays.permit.upgrade().is_some());
    // Its place is used again.
    let next = rig.connect();
    assert_eq!(rig.source.connections.len(), 3);
    next.send(b"next\n");
    assert_eq!(rig.receive_datagrams(1), [b"next\n"]);
}

#[test]
fn after_a_stop_all_that_has_arrived_comes_and_the_last_handle_ends_it() {
    let mut rig = Rig::new(Framing::Lines, 1024);
    let taken = rig.connect();
    taken.send_until_readable(b"pending");
    assert_eq!(rig.receive(), (vec![], Flow::More));
    taken.send_until_readable(b" and unread");
    let added = rig.add();
    added.send_until_readable(b"not taken in yet");
    rig.stop.request();
    assert!(!rig.source.drain());
    let mut got = rig.receive_datagrams(2);
    got.sort_unstable();
    assert_eq!(got, [&b"not taken in yet"[..], b"pending and unread"]);
    while rig.connections() > 0 {
        assert_eq!(rig.receive(), (vec![], Flow::More));
    }
    assert_eq!(rig.receive(), (vec![], Flow::More));
    let late = rig.add();
    assert_eq!(rig.receive().1, Flow::More);
    drop(std::mem::replace(&mut rig.handle, Rig::new(Framing::Lines, 1).handle));
    while rig.receive().1 == Flow::More {}
    assert!(late.permit.upgrade().is_none());
}

#[test]
fn nothing_is_read_during_a_pause_and_nothing_is_lost() {
    let mut rig = Rig::new(Framing::Lines, 1024);
    let set = PollSet::new().unwrap();
    rig.source.poll_with(&set, PollKeys::of(3).unwrap()).unwrap();
    let mut events = Events::new();
    let mut wait = |source: &mut FanIn, timeout: Duration| {
        set.wait(&mut events, Some(timeout)).unwrap();
        let keys: Vec<_> = events.iter().map(|(key, _)| key).collect();
        for key in &keys {
            source.ready(*key);
        }
        keys.len()
    };
    let (soon, long) = (Duration::from_millis(20), Duration::from_secs(60));
    // A connection that is added wakes the owner, which has a receive to do.
    let (one, other) = (rig.connect(), rig.connect());
    while wait(&mut rig.source, soon) > 0 {}
    assert_eq!(rig.source.deadline(), None);

    assert!(rig.source.pause(true));
    one.send(b"held back\n");
    assert_eq!(wait(&mut rig.source, long), 1);
    // It is told once; the other costs nothing.
    assert_eq!(wait(&mut rig.source, soon), 0);
    let registered = |source: &FanIn| {
        source.connections.iter().flatten().map(|it| it.registration.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(registered(&rig.source), [false, true]);
    assert_eq!(rig.source.deadline(), None);
    assert_eq!(rig.receive(), (vec![], Flow::More));
    SockRef::from(&other.client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(other);
    assert_eq!(wait(&mut rig.source, long), 1);
    assert_eq!(wait(&mut rig.source, soon), 0);

    assert!(rig.source.pause(false));
    assert!(rig.source.deadline().unwrap() <= Instant::now());
    assert_eq!(rig.receive(), (vec![b"held back\n".to_vec()], Flow::More));
    while rig.connections() > 1 {
        rig.receive();
    }
    one.send(b"goes on\n");
    assert_eq!(wait(&mut rig.source, long), 1);
    assert_eq!(rig.receive(), (vec![b"goes on\n".to_vec()], Flow::More));
}

/// A connection that holds input, which its socket does not show.
struct Held {
    socket: Arc<TcpStream>,
    input: usize,
}

impl Input for Held {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        if self.input == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = area.len().min(self.input);
        self.input -= len;
        Ok(len)
    }

    fn wait(&self, timeout: Option<Duration>, stop: &Stop) -> io::Result<Wait> {
        self.socket.wait(timeout, stop)
    }

    fn begin_drain(&self) -> bool {
        true
    }
}

impl Connection for Held {
    fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    fn has_pending_input(&self) -> bool {
        self.input > 0
    }

    fn write(&mut self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    fn close(&mut self) {}
}

#[test]
fn input_that_a_connection_holds_is_read_though_its_socket_is_quiet() {
    const HELD: usize = 3 * READ;
    let mut rig = Rig::new(Framing::Raw, 1000);
    let client = TcpStream::connect(rig.listener.local_addr().unwrap()).unwrap();
    let (server, address) = rig.listener.accept().unwrap();
    rig.handle.add(Box::new(Held { socket: Arc::new(server), input: HELD }), address, Box::new(()));
    let mut got = 0;
    while got < HELD {
        rig.receive();
        assert!(rig.batch.bytes() <= READ);
        got += rig.batch.bytes();
    }
    drop(client);
}
