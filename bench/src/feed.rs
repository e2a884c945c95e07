//! A feed: a TCP server, with TLS or without, that has more for the one who connects than that one takes.

use std::io::{Write, stdout};
use std::net::{SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use crate::streams::Framing;
use crate::{Outcome, tls};

/// A pause before the first byte, in which the usage for the connection is measured.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes that are written at a time, about.
const WRITTEN: usize = 256 << 10;

/// The stream for the client that connects.
#[derive(Clone, Copy)]
pub(crate) struct Feed {
    pub(crate) framing: Framing,
    /// Of the datagrams that are to be made of it.
    pub(crate) size: usize,
    pub(crate) seconds: f64,
}

/// Serves the first who connects, says `ready` before the first byte, and how much it was after the last.
/// Then the connection stays, since its end would be that of some programs, too.
pub(crate) fn serve(on: SocketAddrV4, feed: Feed, identity: Option<[&str; 2]>) -> Outcome {
    let listener = TcpListener::bind(on)?;
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Write> = match identity {
        Some(identity) => Box::new(tls::accept(stream, identity)?),
        None => Box::new(stream),
    };
    println!("ready");
    stdout().flush()?;
    std::thread::sleep(PAUSE);

    let count = (WRITTEN / feed.size.max(1)).max(1);
    let content = feed.framing.framed(feed.size).repeat(count);
    let started = Instant::now();
    let mut datagrams = 0;
    while started.elapsed().as_secs_f64() < feed.seconds {
        // Never a part of a datagram, of which nobody could tell whether it was lost.
        stream.write_all(&content)?;
        datagrams += count;
    }
    stream.flush()?;
    println!("bytes={}", datagrams * feed.size);
    stdout().flush()?;
    loop {
        std::thread::park();
    }
}
