//! A sink: counts what arrives, and how long it took.

use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::load::{HEAD, now};
use crate::packets::{self, Receiver};

/// After this long without a datagram it is over.
const IDLE: Duration = Duration::from_millis(400);

/// The most latencies that are kept; a paced load has fewer.
const LATENCIES: usize = 1 << 20;

#[derive(Default)]
struct Count {
    datagrams: u64,
    bytes: u64,
    next: u64,
    reordered: u64,
    latencies: Vec<u32>,
    /// When the first came, and the last.
    first: Option<u64>,
    last: u64,
}

/// Counts until nothing comes any more, or nothing has come within `patience`, and says what came.
pub(crate) fn count(on: SocketAddrV4, patience: Duration) -> Outcome {
    let mut receiver = Receiver::new(packets::listen(on)?);
    receiver.socket().set_read_timeout(Some(IDLE))?;
    let started = Instant::now();
    let mut count = Count { latencies: Vec::with_capacity(LATENCIES), ..Count::default() };
    loop {
        let (slots, batch) = match receiver.receive() {
            Ok(batch) => batch,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if count.datagrams > 0 || started.elapsed() > patience {
                    break;
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let time = now()?;
        count.first.get_or_insert(time);
        count.last = time;
        for (slot, held) in batch.iter().enumerate() {
            count.datagrams += held.datagrams() as u64;
            count.bytes += held.len as u64;
            for datagram in slots.bytes(slot, *held).chunks(held.segment.max(1)) {
                count.take(datagram, time);
            }
        }
    }
    count.latencies.sort_unstable();
    let Count { datagrams, bytes, next, reordered, latencies, first, last } = count;
    let seconds = Duration::from_nanos(last - first.unwrap_or(last)).as_secs_f64();
    let share = |percent| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
    println!(
        "datagrams={datagrams} bytes={bytes} highest={next} reordered={reordered} seconds={seconds} p50={} p99={}",
        share(50),
        share(99)
    );
    Ok(())
}

impl Count {
    fn take(&mut self, datagram: &[u8], time: u64) {
        let Some(head) = datagram.first_chunk::<HEAD>() else { return };
        let (number, sent) = (word(head, 0), word(head, 8));
        if number >= self.next {
            self.next = number.saturating_add(1);
        } else {
            self.reordered += 1;
        }
        if self.latencies.len() < LATENCIES
            && let Ok(latency) = u32::try_from(time.wrapping_sub(sent))
        {
            self.latencies.push(latency);
        }
    }
}

fn word(head: &[u8; HEAD], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}
