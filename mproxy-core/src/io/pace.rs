//! Pacing: a source at a limited rate.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::stop::Stop;
use crate::sys::MAX_OVERSLEEP;

/// Slows a source down to a number of payload bits a second, without bursts.
#[derive(Debug)]
pub struct Paced<S> {
    source: S,
    bits_per_second: u64,
    /// When the next batch may go.
    due: Option<Instant>,
    stop: Stop,
}

/// The time that one batch is for: as many bytes go at once as the rate allows in it.
const QUANTUM: Duration = Duration::from_millis(1);

impl<S: Source> Paced<S> {
    /// Paces `source` to a rate in bits a second; 0 is taken as 1.
    pub fn new(source: S, bits_per_second: u64, stop: &Stop) -> Self {
        Self { source, bits_per_second: bits_per_second.max(1), due: None, stop: stop.clone() }
    }

    #[allow(clippy::cast_precision_loss)] // far below a nanosecond for any real rate
    fn duration(&self, bytes: usize) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 * 8.0 / self.bits_per_second as f64).unwrap_or(Duration::MAX)
    }
}

impl<S: Source> Source for Paced<S> {
    fn capacity(&self) -> usize {
        self.source.capacity()
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        if let Some(due) = self.due {
            self.stop.sleep(due.saturating_duration_since(Instant::now()));
        }
        let quantum = u128::from(self.bits_per_second) * QUANTUM.as_micros() / 8_000_000;
        let limit = if self.stop.requested() {
            usize::MAX
        } else {
            usize::try_from(quantum).unwrap_or(usize::MAX).max(1)
        };
        batch.set_limit(limit);
        let flow = self.source.receive(batch)?;
        if !batch.is_empty() {
            let now = Instant::now();
            // A sleep that ended late is made up for, but not a source that was slow: that would be a burst.
            let slept_late = |due: &Instant| now.saturating_duration_since(*due) < MAX_OVERSLEEP;
            let from = self.due.filter(slept_late).unwrap_or(now);
            self.due = from.checked_add(self.duration(batch.bytes()));
        }
        Ok(flow)
    }

    fn drain(&mut self) -> bool {
        self.source.drain()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::io::framing::Framing;
    use crate::io::stream::tests::{receive, receive_all, source};

    #[test]
    fn a_paced_stream_sends_line_by_line_and_loses_nothing_when_stopped() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (inner, stop) = source(reader, Framing::Auto);
        let mut paced = Paced::new(inner, 8_000, &stop);
        writer.write_all(b"a\nb\nc\nd").unwrap();
        assert_eq!(receive(&mut paced), (vec![b"a\n".to_vec()], Flow::More));
        assert_eq!(receive(&mut paced), (vec![b"b\n".to_vec()], Flow::More));
        stop.request();
        paced.drain();
        assert_eq!(receive_all(&mut paced), [b"c\n".to_vec(), b"d".to_vec()]);
    }
}
