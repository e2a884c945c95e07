//! A batch: many datagrams that move from a source to its sinks together.

/// Bytes that any UDP datagram fits into: 65,527 with IPv6, rounded up.
pub const SLOT: usize = 65_536;

/// Datagrams in the order in which they arrived, with the payload area they lie in.
///
/// A source writes into [`spare`](Self::spare) and tells with [`push`](Self::push) or
/// [`push_coalesced`](Self::push_coalesced) what it put there; a sink reads
/// [`runs`](Self::runs), or the single [`datagrams`](Self::datagrams). The area is used again for
/// every batch and its pages are only touched as far as data reaches.
#[derive(Debug)]
pub struct Batch {
    area: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
    limit: usize,
}

/// Datagrams that lie back to back, all of `segment` bytes but the last, which may be shorter: what
/// generic receive offload delivers and segmentation offload takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: usize,
    len: usize,
    segment: usize,
}

impl Batch {
    /// A batch with a payload area of `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        // A large zeroed allocation is mapped lazily: what is never written costs no memory.
        Self { area: vec![0; capacity], used: 0, runs: Vec::new(), limit: usize::MAX }
    }

    /// Forgets all datagrams; the area stays.
    pub fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
    }

    /// How many bytes a source should take at most for one batch; pacing sets it.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets [`limit`](Self::limit).
    pub fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// The unused part of the area.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.area[self.used..]
    }

    /// Takes the first `len` bytes of [`spare`](Self::spare) as one datagram, which may be empty.
    ///
    /// # Panics
    /// If `len` is more than the spare area holds.
    pub fn push(&mut self, len: usize) {
        self.push_coalesced(len, len);
    }

    /// Takes the first `len` bytes of [`spare`](Self::spare) as datagrams of `segment` bytes each, the
    /// last of which may be shorter. A `segment` of 0 means one datagram.
    ///
    /// # Panics
    /// If `len` is more than the spare area holds.
    pub fn push_coalesced(&mut self, len: usize, segment: usize) {
        assert!(len <= self.area.len() - self.used, "a datagram beyond the payload area");
        let segment = if segment == 0 { len } else { segment };
        self.runs.push(Run { start: self.used, len, segment });
        self.used += len;
    }

    /// Whether there is no datagram.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The payload bytes of all datagrams together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// Runs of equal datagrams: the payload, and the length of each but the last.
    pub fn runs(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.runs.iter().map(|run| (&self.area[run.start..run.start + run.len], run.segment))
    }

    /// Every single datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.runs().flat_map(|(payload, segment)| Segments { rest: Some(payload), segment })
    }
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
}
