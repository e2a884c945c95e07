//! The stall watch: whether a client that has not taken everything reads slowly, has stalled, or cannot be reached.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::sys;

/// How long the network of a peer may be silent, as keepalive bounds it where nothing is unacknowledged.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(26);

/// What is known of one client: by how much its acknowledgements have moved, and when.
///
/// `TCP_USER_TIMEOUT` would not do: while the window is zero it counts until a whole segment fits, and so drops those who
/// read slowly.
#[derive(Debug, Default)]
pub(crate) struct StallWatch {
    /// Bytes that the peer has acknowledged, or, where the system does not tell, that the socket has taken.
    acknowledged: u64,
    /// When it has last acknowledged some; none while nothing is unacknowledged.
    progress: Option<Instant>,
}

impl StallWatch {
    /// Looks at a client, whose socket has taken so many bytes in all; to be called about every second. `is_lagging` is
    /// one for whom more is waiting. Whether there is anything that it has yet to acknowledge.
    ///
    /// # Errors
    /// `TimedOut` if it is to be dropped: it answers, but has taken nothing for `timeout`; or its network is silent.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        written: u64,
        is_lagging: bool,
        socket: &TcpStream,
        timeout: Duration,
    ) -> io::Result<bool> {
        let unacknowledged = sys::unacknowledged_bytes(socket);
        if unacknowledged == 0 && !is_lagging {
            self.progress = None;
            return Ok(false);
        }
        let acknowledged = written.saturating_sub(unacknowledged);
        let progress = match self.progress {
            Some(progress) if acknowledged == self.acknowledged => progress,
            _ => *self.progress.insert(now),
        };
        self.acknowledged = acknowledged;
        let stalled_for = now.duration_since(progress);
        if stalled_for < timeout.min(SILENCE_TIMEOUT) {
            return Ok(true);
        }
        let message = match sys::unanswered_for(socket) {
            // It may have been idle for longer than anything was unacknowledged.
            Some(silence) if silence.min(stalled_for) >= SILENCE_TIMEOUT => {
                format!("its network is silent: no answer for {} seconds", SILENCE_TIMEOUT.as_secs())
            }
            None if is_lagging && stalled_for >= timeout => {
                format!("it has taken nothing for {timeout:?} (--stall-timeout)")
            }
            // It still takes something, or the network may yet answer.
            _ => return Ok(true),
        };
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A connection that is full, its peer, and the bytes that it has taken.
    fn full() -> (TcpStream, TcpStream, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut socket = listener.accept().unwrap().0;
        socket.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(len) = socket.write(&[0; 8192]) {
            written += len as u64;
        }
        (socket, peer, written)
    }

    #[test]
    fn who_answers_but_takes_nothing_is_dropped_after_the_timeout() {
        let (socket, _peer, written) = full();
        let (mut watch, begin) = (StallWatch::default(), Instant::now());
        assert!(watch.check(begin, written, true, &socket, TIMEOUT).unwrap());
        assert!(watch.check(begin + TIMEOUT / 2, written, true, &socket, TIMEOUT).unwrap());
        let error = loop {
            // While its acknowledgement of what was sent last is on its way it may be unanswered.
            if let Err(error) = watch.check(begin + TIMEOUT, written, true, &socket, TIMEOUT) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("20s (--stall-timeout)"), "{error}");
    }

    #[test]
    fn who_reads_slowly_is_kept() {
        let (mut socket, mut peer, mut written) = full();
        let (mut watch, mut now) = (StallWatch::default(), Instant::now());
        assert!(watch.check(now, written, true, &socket, TIMEOUT).unwrap());
        for _ in 0..4 {
            // As much as opens the window.
            let before = watch.acknowledged;
            while written - sys::unacknowledged_bytes(&socket) <= before {
                let _ = peer.read(&mut [0; 8192]).unwrap();
                written += socket.write(&[0; 8192]).map_or(0, |len| len as u64);
            }
            now += TIMEOUT / 10 * 9;
            assert!(watch.check(now, written, true, &socket, TIMEOUT).unwrap());
        }
    }

    #[test]
    fn who_has_acknowledged_everything_is_no_matter() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        let (mut watch, now) = (StallWatch::default(), Instant::now());
        assert!(!watch.check(now, 0, false, &socket, TIMEOUT).unwrap());
        assert!(!watch.check(now + 2 * TIMEOUT, 0, false, &socket, TIMEOUT).unwrap());
    }
}
