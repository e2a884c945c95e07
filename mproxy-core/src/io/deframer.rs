//! The deframer: what cuts the bytes of one stream into datagrams.

use std::fmt::Display;

use crate::io::framing::{Framing, MAX_FRAME};
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::limits::{MAX_DATAGRAM, OFFLOADED, READ};
use crate::relay::stats::Counters;

/// The framing state of one stream.
///
/// In turns: read into the [`room`](Self::room) in a batch, then [`cut`](Self::cut) what was read.
#[derive(Debug)]
pub(crate) struct Deframer {
    framing: Framing,
    size: usize,
    /// Bytes that were read and not passed on: an unfinished datagram or, at a limited rate, those not yet due.
    pending: Vec<u8>,
    /// The pending bytes begin with a whole datagram.
    has_datagram: bool,
    long_line_log: log::LogLimiter,
}

impl Deframer {
    /// The payload area that a batch needs: one read behind the pending bytes, which never are more than one read.
    pub(crate) const CAPACITY: usize = 2 * READ;

    /// The bytes that a batch must have to [spare](Batch::spare) for one turn.
    pub(crate) const TURN: usize = MAX_FRAME;

    /// Cuts datagrams of at most `size` bytes, which is brought into the range from 1 to [`MAX_DATAGRAM`].
    pub(crate) fn new(framing: Framing, size: usize) -> Self {
        Self {
            framing,
            size: size.clamp(1, MAX_DATAGRAM),
            pending: Vec::new(),
            has_datagram: false,
            long_line_log: log::LogLimiter::default(),
        }
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether there are no pending bytes.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether there are whole datagrams among the pending bytes, which need no read.
    pub(crate) fn has_datagram(&self) -> bool {
        self.has_datagram
    }

    /// The bytes to have for one turn: whole datagrams that fill whole offloaded sends, and at a limited rate no more
    /// than are due.
    fn fill_len(&self, limit: usize) -> usize {
        let due = MAX_DATAGRAM.min(limit).max(self.size);
        let datagrams = due / self.size;
        match self.framing {
            Framing::Auto | Framing::Lines => due,
            Framing::Blocks if datagrams > OFFLOADED => datagrams / OFFLOADED * OFFLOADED * self.size,
            Framing::Blocks | Framing::Raw => datagrams * self.size,
            Framing::Length => MAX_FRAME,
        }
    }

    /// Where to read into: behind the place of the pending bytes. At most `limit` bytes are passed on.
    pub(crate) fn room<'a>(&self, batch: &'a mut Batch, limit: usize) -> &'a mut [u8] {
        let filled = self.pending.len();
        let room = self.fill_len(limit).saturating_sub(filled).max(1);
        &mut batch.spare()[filled..filled + room]
    }

    /// Adds the datagrams that are whole to the batch, `limit` bytes or one more datagram. `read` bytes are in the
    /// [`room`](Self::room). With `flush`, an unfinished datagram waits for no more.
    pub(crate) fn cut(
        &mut self,
        batch: &mut Batch,
        read: usize,
        flush: bool,
        limit: usize,
        name: &dyn Display,
        counters: &Counters,
    ) {
        let before = self.pending.len();
        let filled = before + read;
        let (framing, size) = (self.framing, self.size);
        let waits = !flush && !self.has_datagram;
        if waits && framing.is_unfinished(&self.pending, &batch.spare()[before..filled], size) {
            // What is pending stays where it is: a stream that dribbles costs no more than its bytes.
            self.keep(&batch.spare()[before..filled]);
            return;
        }
        batch.spare()[..before].copy_from_slice(&self.pending);
        let mut start = 0;
        let next_frame = |rest: &[u8], flush| framing.next_frame(rest, size, limit, flush);
        while start < limit
            && let Some(frame) = next_frame(&batch.spare()[..filled - start], flush)
        {
            batch.skip(frame.header);
            batch.push_coalesced(frame.len, frame.segment);
            start += frame.header + frame.len;
            if frame.cuts_line {
                self.count_cut_line(name, counters);
            }
        }
        self.has_datagram = start >= limit && next_frame(&batch.spare()[..filled - start], false).is_some();
        self.pending.clear();
        if start == filled {
            self.pending = Vec::new();
        } else {
            self.keep(&batch.spare()[..filled - start]);
        }
    }

    /// At the end of the stream: discards a partial frame, of which nothing can be passed on. `was_stopped`: a stop ended
    /// the stream, not its writer.
    pub(crate) fn discard_partial_frame(
        &mut self,
        was_stopped: bool,
        name: &dyn Display,
        counters: &Counters,
    ) {
        if self.framing != Framing::Length || self.has_datagram || self.pending.is_empty() {
            return;
        }
        let message = format!("{name}: ends inside a frame: {} bytes discarded", self.pending.len());
        self.pending = Vec::new();
        counters.failed(1);
        if was_stopped {
            log::info(format_args!("{message}"));
        } else {
            log::warn(format_args!("{message}"));
        }
    }

    /// Adds to the pending bytes, in no more memory than a datagram takes.
    fn keep(&mut self, bytes: &[u8]) {
        let longest = if self.framing == Framing::Length { MAX_FRAME } else { self.size };
        let len = self.pending.len() + bytes.len();
        if len > self.pending.capacity() {
            let capacity = len.next_power_of_two().min(longest).max(len);
            self.pending.reserve_exact(capacity - self.pending.len());
        }
        self.pending.extend_from_slice(bytes);
    }

    #[cold]
    fn count_cut_line(&mut self, name: &dyn Display, counters: &Counters) {
        counters.cut();
        // In other framings it may as well be binary data.
        if self.framing == Framing::Lines && self.long_line_log.permits() {
            log::info(format_args!("{name}: a line longer than {} bytes is cut", self.size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_bytes_take_no_more_than_a_datagram_and_nothing_once_it_is_passed_on() {
        for (framing, len) in [(Framing::Length, MAX_FRAME), (Framing::Blocks, 3000), (Framing::Lines, 3000)]
        {
            let mut deframer = Deframer::new(framing, 3000);
            let mut batch = Batch::with_capacity(Deframer::CAPACITY);
            let mut longest = 0;
            for _ in 0..len {
                assert!(batch.is_empty() && !deframer.has_datagram());
                deframer.room(&mut batch, usize::MAX)[0] = u8::MAX;
                deframer.cut(&mut batch, 1, false, usize::MAX, &"test", &Counters::default());
                longest = longest.max(deframer.pending.capacity());
            }
            assert!(longest <= len, "{framing}: {longest}");
            assert_eq!((batch.count(), deframer.pending.capacity()), (1, 0), "{framing}");
        }
    }

    #[test]
    fn whole_datagrams_beyond_the_limit_stay_and_need_no_read() {
        let mut deframer = Deframer::new(Framing::Lines, 8);
        let mut batch = Batch::with_capacity(Deframer::CAPACITY);
        deframer.room(&mut batch, 8)[..8].copy_from_slice(b"ab\ncd\nef");
        let mut cut = |deframer: &mut Deframer, read, limit| {
            deframer.cut(&mut batch, read, false, limit, &"test", &Counters::default());
            (batch.count(), deframer.has_datagram(), deframer.is_empty())
        };
        assert_eq!(cut(&mut deframer, 8, 3), (1, true, false));
        assert_eq!(cut(&mut deframer, 0, 3), (2, false, false));
        assert_eq!(cut(&mut deframer, 0, 3), (2, false, false));
    }
}
