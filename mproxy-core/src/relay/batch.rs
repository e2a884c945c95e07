//! A batch: many datagrams that move from a source to its sinks together.

use std::net::SocketAddr;

use crate::relay::limits::SLOT;

/// Datagrams in the order in which they arrived, with the payload area they lie in.
///
/// A source writes into [`spare`](Self::spare) and adds what it wrote: back to back with [`push`](Self::push) and
/// [`push_coalesced`](Self::push_coalesced), or with [`push_slot`](Self::push_slot) in slots that hold any datagram.
/// A sink reads [`runs`](Self::runs), or the single [`datagrams`](Self::datagrams). The area is used again for every
/// batch, and only its pages that data reaches are touched.
///
/// ```
/// use mproxy_core::Batch;
///
/// let mut batch = Batch::with_capacity(1024);
/// batch.spare()[..5].copy_from_slice(b"hello");
/// batch.push(5);
/// assert_eq!(batch.datagrams().collect::<Vec<_>>(), [b"hello"]);
/// ```
#[derive(Debug)]
pub struct Batch {
    area: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
    /// The sender of each run; empty if senders are not recorded.
    senders: Vec<SocketAddr>,
    limit: usize,
}

/// Datagrams back to back, all of `segment` bytes but the last, which may be shorter: as generic receive offload (GRO)
/// delivers them and segmentation offload (GSO) takes them. An empty run is one empty datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: usize,
    len: usize,
    segment: usize,
}

impl Run {
    fn datagrams(&self) -> usize {
        count(self.len, self.segment)
    }

    /// Whether datagrams of `segment` bytes, `len` bytes in all from `start` in the area, can be part of the run.
    fn can_extend(&self, start: usize, len: usize, segment: usize) -> bool {
        let full = len > 0 && self.segment > 0 && self.len.is_multiple_of(self.segment);
        full && self.start + self.len == start
            && (segment == self.segment || len == segment && len < self.segment)
    }
}

/// A position between two datagrams of a batch; by default before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    run: usize,
    offset: usize,
}

impl Batch {
    /// A batch with a payload area of `capacity` bytes, as [`Source::capacity`](crate::Source::capacity) asks for.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        // A large zeroed allocation is mapped lazily: what is never written costs no memory.
        Self { area: vec![0; capacity], used: 0, runs: Vec::new(), senders: Vec::new(), limit: usize::MAX }
    }

    /// Makes the area of an empty batch this large at least.
    pub(crate) fn grow(&mut self, capacity: usize) {
        if self.area.len() < capacity {
            self.area = vec![0; capacity];
        }
    }

    /// Removes all datagrams; the area stays.
    pub fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
        self.senders.clear();
    }

    /// The most payload bytes that a source should put into one batch; pacing sets it.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets [`limit`](Self::limit): 1 at least.
    pub fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes.max(1);
    }

    /// The unused part of the area.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.area[self.used..]
    }

    /// Adds one datagram: the first `len` bytes of [`spare`](Self::spare). It may be empty.
    ///
    /// # Panics
    /// If `len` is more than the spare area holds.
    pub fn push(&mut self, len: usize) {
        self.push_coalesced(len, len);
    }

    /// Adds the first `len` bytes of [`spare`](Self::spare) as datagrams of `segment` bytes each; the last may be
    /// shorter. A `segment` of 0 means one datagram.
    ///
    /// # Panics
    /// If `len` is more than the spare area holds.
    pub fn push_coalesced(&mut self, len: usize, segment: usize) {
        assert!(len <= self.area.len() - self.used, "a datagram beyond the payload area");
        let segment = if segment == 0 { len } else { segment.min(len) };
        let start = self.used;
        self.used += len;
        match self.runs.last_mut() {
            Some(run) if run.can_extend(start, len, segment) => run.len += len,
            _ => self.runs.push(Run { start, len, segment }),
        }
    }

    /// As [`push_coalesced`](Self::push_coalesced), and uses up the first [`SLOT`] bytes of the spare area.
    ///
    /// # Panics
    /// If the spare area is smaller, or `len` is larger than a slot.
    pub fn push_slot(&mut self, len: usize, segment: usize) {
        let end = self.used + SLOT;
        assert!(len <= SLOT && end <= self.area.len(), "a datagram beyond its slot");
        self.push_coalesced(len, segment);
        self.used = end;
    }

    /// Adds the sender of the run that was pushed last, which must not extend the run before it.
    pub(crate) fn push_sender(&mut self, sender: SocketAddr) {
        self.senders.push(sender);
    }

    /// Leaves out the first `len` bytes of [`spare`](Self::spare), which are no payload.
    ///
    /// # Panics
    /// If `len` is more than the spare area holds.
    pub fn skip(&mut self, len: usize) {
        assert!(len <= self.area.len() - self.used, "a gap beyond the payload area");
        self.used += len;
    }

    /// Whether there is no datagram.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The number of datagrams.
    #[must_use]
    pub fn count(&self) -> usize {
        self.runs.iter().map(Run::datagrams).sum()
    }

    /// The payload bytes of all datagrams together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// Runs of equal datagrams: the payload of each run, and the length of its datagrams; the last may be shorter.
    pub fn runs(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.runs.iter().map(|run| (&self.area[run.start..run.start + run.len], run.segment))
    }

    /// The single datagrams.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.runs().flat_map(|(payload, segment)| Segments { rest: Some(payload), segment })
    }

    /// The rest of the run at the cursor: its payload, and the length of its datagrams; the last may be shorter. None at
    /// the end of the batch.
    pub(crate) fn remaining(&self, cursor: Cursor) -> Option<(&[u8], usize)> {
        let run = self.runs.get(cursor.run)?;
        Some((&self.area[run.start + cursor.offset..run.start + run.len], run.segment))
    }

    /// The same, but only as far as the cursor `end`; none if that is not behind `cursor`.
    pub(crate) fn remaining_before(&self, cursor: Cursor, end: Cursor) -> Option<(&[u8], usize)> {
        let (rest, segment) = self.remaining(cursor).filter(|_| cursor < end)?;
        let len = if end.run == cursor.run { end.offset - cursor.offset } else { rest.len() };
        Some((&rest[..len], segment))
    }

    /// The datagram at the cursor; none at the end of the batch.
    pub(crate) fn datagram(&self, cursor: Cursor) -> Option<&[u8]> {
        let (rest, segment) = self.remaining(cursor)?;
        Some(&rest[..segment.min(rest.len())])
    }

    /// The sender of the datagram at the cursor, if it was recorded.
    pub(crate) fn sender(&self, cursor: Cursor) -> Option<SocketAddr> {
        self.senders.get(cursor.run).copied()
    }

    /// Whether there is a datagram at `cursor`, of the same sender as the one at `other`.
    pub(crate) fn same_sender(&self, other: Cursor, cursor: Cursor) -> bool {
        cursor.run < self.runs.len()
            && (other.run == cursor.run || self.senders.get(other.run) == self.senders.get(cursor.run))
    }

    /// The cursor moved over `len` bytes of the [`remaining`](Self::remaining): whole datagrams.
    pub(crate) fn advance(&self, cursor: Cursor, len: usize) -> Cursor {
        let offset = cursor.offset + len;
        match self.runs.get(cursor.run) {
            Some(run) if offset < run.len => Cursor { run: cursor.run, offset },
            _ => Cursor { run: cursor.run + 1, offset: 0 },
        }
    }

    /// The number of datagrams before the cursor, and of their bytes.
    pub(crate) fn counts_before(&self, cursor: Cursor) -> (usize, usize) {
        let runs = &self.runs[..cursor.run.min(self.runs.len())];
        let current = self.runs.get(cursor.run).filter(|_| cursor.offset > 0);
        let datagrams = current.map_or(0, |run| count(cursor.offset, run.segment));
        runs.iter().fold((datagrams, cursor.offset), |(datagrams, bytes), run| {
            (datagrams + run.datagrams(), bytes + run.len)
        })
    }
}

/// How many datagrams of `segment` bytes make up `len` bytes.
fn count(len: usize, segment: usize) -> usize {
    if segment == 0 { 1 } else { len.div_ceil(segment) }
}

/// The datagrams of one run; an empty run is one empty datagram.
struct Segments<'a> {
    rest: Option<&'a [u8]>,
    segment: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (datagram, rest) = rest.split_at(self.segment.min(rest.len()));
        self.rest = (!rest.is_empty()).then_some(rest);
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(batch: &mut Batch, bytes: &[u8]) {
        batch.spare()[..bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn single_empty_and_coalesced_datagrams_keep_their_boundaries() {
        let mut batch = Batch::with_capacity(64);
        filled(&mut batch, b"one");
        batch.push(3);
        batch.push(0);
        filled(&mut batch, b"aabbc");
        batch.push_coalesced(5, 2);
        let got: Vec<&[u8]> = batch.datagrams().collect();
        assert_eq!(got, [&b"one"[..], b"", b"aa", b"bb", b"c"]);
        assert_eq!(batch.bytes(), 8);
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.spare().len(), 64);
    }

    #[test]
    fn a_run_that_divides_evenly_has_no_empty_tail() {
        let mut batch = Batch::with_capacity(8);
        filled(&mut batch, b"aabb");
        batch.push_coalesced(4, 2);
        assert_eq!(batch.datagrams().count(), 2);
    }

    #[test]
    fn equal_datagrams_back_to_back_become_one_run() {
        let mut batch = Batch::with_capacity(64);
        for len in [3, 3, 2, 3, 0, 0, 3] {
            batch.push(len);
        }
        let runs: Vec<_> = batch.runs().map(|(payload, segment)| (payload.len(), segment)).collect();
        assert_eq!(runs, [(8, 3), (3, 3), (0, 0), (0, 0), (3, 3)]);
        assert_eq!((batch.count(), batch.datagrams().count(), batch.bytes()), (7, 7, 14));
    }

    #[test]
    fn slots_do_not_touch_each_other() {
        let mut batch = Batch::with_capacity(2 * SLOT);
        filled(&mut batch, b"one");
        batch.push_slot(3, 3);
        filled(&mut batch, b"two");
        batch.push_slot(3, 0);
        assert_eq!(batch.datagrams().collect::<Vec<_>>(), [b"one", b"two"]);
        assert!(batch.spare().is_empty());
    }

    #[test]
    fn a_gap_divides_datagrams() {
        let mut batch = Batch::with_capacity(8);
        filled(&mut batch, b"ab__ab");
        batch.push(2);
        batch.skip(2);
        batch.push(2);
        assert_eq!(batch.datagrams().collect::<Vec<_>>(), [b"ab", b"ab"]);
        assert_eq!((batch.runs().count(), batch.bytes()), (2, 4));
    }

    #[test]
    fn a_second_cursor_ends_what_remains() {
        let mut batch = Batch::with_capacity(64);
        filled(&mut batch, b"aabbc");
        batch.push_coalesced(5, 2);
        batch.push(3);
        let start = Cursor::default();
        let middle = batch.advance(start, 4);
        let next = batch.advance(start, 5);
        assert_eq!(batch.remaining_before(start, middle), Some((&b"aabb"[..], 2)));
        assert_eq!(batch.remaining_before(middle, next), Some((&b"c"[..], 2)));
        assert_eq!(batch.remaining_before(start, batch.advance(next, 3)), Some((&b"aabbc"[..], 2)));
        assert_eq!(batch.remaining_before(middle, middle), None);
        assert_eq!(batch.remaining_before(next, start), None);
    }

    #[test]
    fn a_cursor_counts_the_datagrams_before_it() {
        let mut batch = Batch::with_capacity(64);
        batch.push(0);
        batch.push_coalesced(5, 2);
        let (mut cursor, mut before) = (Cursor::default(), vec![]);
        while let Some((rest, segment)) = batch.remaining(cursor) {
            before.push(batch.counts_before(cursor));
            cursor = batch.advance(cursor, segment.min(rest.len()));
        }
        assert_eq!(before, [(0, 0), (1, 0), (2, 2), (3, 4)]);
        assert_eq!(batch.counts_before(cursor), (4, 5));
    }
}
