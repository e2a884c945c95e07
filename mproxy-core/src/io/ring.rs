//! The ring of a fan-out: a byte stream as its clients get it, framing applied once, with the datagram boundaries.

use std::collections::VecDeque;
use std::ops::{AddAssign, Sub};

use crate::io::framing::{Added, Framing, MAX_FRAME};
use crate::relay::batch::{Batch, Cursor};

/// Bytes of the area for each run that is kept, so that runs hardly take more memory than the area. Only datagrams that
/// are shorter, each of another length than the one before it, fill the runs first; the sentences of ships (AIS) are longer.
const BYTES_PER_RUN: usize = size_of::<Run>();

/// The payload bytes of the longest datagram: UDP has none that is longer, and a header can count no more.
const LONGEST: usize = u16::MAX as usize;

/// How many boundaries are looked at for the beginning of a line.
const LINE_SEARCH: usize = 256;

/// A position in the framed stream: the bytes before it, since the stream's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position(u64);

impl Position {
    /// The bytes from the earlier position to this one; 0 if it is not earlier.
    pub(crate) fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The position `n` bytes later.
    pub(crate) fn advance(self, n: usize) -> Self {
        Self(self.0 + n as u64)
    }
}

/// A number of datagrams, and of their payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { datagrams: self.datagrams - earlier.datagrams, bytes: self.bytes - earlier.bytes }
    }
}

/// The newest bytes of a framed stream, in whole datagrams. Where each payload lies can be told, so that it can be
/// framed in another way.
///
/// A batch goes in in three steps: [`measure`](Self::measure), [`make_room`](Self::make_room),
/// [`append`](Self::append). Between the last two nothing is overwritten yet, so that a position that has just fallen
/// out of the ring can still be asked about.
#[derive(Debug)]
pub(crate) struct Ring {
    framing: Framing,
    area: Box<[u8]>,
    /// The boundaries, as contiguous runs from one at or before `intact` to the head.
    runs: VecDeque<Run>,
    /// All datagrams of the stream so far. An empty one that framing adds nothing to is counted here alone.
    total: Counts,
    head: u64,
    tail: u64,
    /// The tail at the last append: bytes from here on are not overwritten yet.
    intact: u64,
    /// The head after the append that room was made for.
    next_head: u64,
}

/// Consecutive datagrams of equal framed length, up to the next run or the head; the last may be shorter.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    /// All datagrams of the stream before it.
    before: Counts,
    /// The framed length of each datagram but the last.
    segment: u32,
    /// The part of each datagram that is no payload.
    added: Added,
}

impl Run {
    /// How many datagrams are complete at a position in the run.
    fn ended_by(&self, at: u64) -> u64 {
        (at - self.start) / u64::from(self.segment)
    }

    /// The first boundary from the position on, in a run with this end.
    fn boundary_from(&self, at: u64, end: u64) -> u64 {
        let segment = u64::from(self.segment);
        end.min(self.start + (at - self.start).div_ceil(segment) * segment)
    }
}

/// Datagrams at a cursor of a batch, back to back, to which framing adds the same. As in [`Batch`], the last may be
/// shorter, and no payload is one empty datagram.
struct Piece<'a> {
    payload: &'a [u8],
    segment: usize,
    added: Added,
}

impl<'a> Piece<'a> {
    fn new(framing: Framing, (rest, segment): (&'a [u8], usize)) -> Self {
        let segment = segment.min(rest.len());
        let rest = if segment > LONGEST { &rest[..segment] } else { rest };
        let (added, len) = framing.added_to_run(rest, segment);
        Self { payload: &rest[..len], segment, added }
    }

    fn datagrams(&self) -> usize {
        self.payload.len().div_ceil(self.segment.max(1)).max(1)
    }

    fn framed_segment(&self) -> usize {
        self.segment + self.added.len()
    }

    fn framed_len(&self) -> usize {
        self.payload.len() + self.datagrams() * self.added.len()
    }

    /// The only datagram of the piece is longer than a header can count.
    fn is_too_long(&self) -> bool {
        self.segment > LONGEST
    }
}

impl Ring {
    /// A ring of `capacity` bytes, or of one datagram if that is more.
    pub(crate) fn new(capacity: usize, framing: Framing) -> Self {
        Self {
            framing,
            // A large zeroed allocation is mapped lazily: what is never written costs no memory.
            area: vec![0; capacity.max(MAX_FRAME)].into_boxed_slice(),
            runs: VecDeque::new(),
            total: Counts::default(),
            head: 0,
            tail: 0,
            intact: 0,
            next_head: 0,
        }
    }

    /// The most bytes that it keeps.
    pub(crate) fn capacity(&self) -> usize {
        self.area.len()
    }

    /// The end of the stream so far.
    pub(crate) fn head(&self) -> Position {
        Position(self.head)
    }

    /// The oldest byte that is kept: a datagram boundary.
    pub(crate) fn tail(&self) -> Position {
        Position(self.tail)
    }

    /// The framed length of the batch's datagrams from `from` on, as many as fit into `limit` bytes and into
    /// the ring, and the cursor behind them. The first is taken even if it does not fit, so that only at the end of the batch the cursor stays.
    ///
    /// A datagram of more than 65,535 bytes has no framed length, and [`append`](Self::append) leaves it out.
    pub(crate) fn measure(&self, batch: &Batch, from: Cursor, limit: usize) -> (usize, Cursor) {
        let (mut framed_len, mut cursor) = (0, from);
        let limit = limit.min(self.capacity());
        while let Some(rest) = batch.remaining(cursor) {
            let piece = Piece::new(self.framing, rest);
            let room = limit.saturating_sub(framed_len);
            if piece.is_too_long() || piece.framed_len() <= room {
                framed_len += if piece.is_too_long() { 0 } else { piece.framed_len() };
                cursor = batch.advance(cursor, piece.payload.len());
                continue;
            }
            let whole = (room / piece.framed_segment()).max(usize::from(cursor == from));
            // Without any, the cursor of an empty datagram would move on.
            if whole > 0 {
                framed_len += piece.framed_len().min(whole * piece.framed_segment());
                cursor = batch.advance(cursor, piece.payload.len().min(whole * piece.segment));
            }
            break;
        }
        (framed_len, cursor)
    }

    /// Drops the oldest datagrams until `len` bytes fit: all, if the ring is not longer. The tail afterwards.
    pub(crate) fn make_room(&mut self, len: usize) -> Position {
        self.next_head = self.head + len as u64;
        let oldest = self.next_head.saturating_sub(self.capacity() as u64);
        let oldest = oldest.max(self.newest_runs(self.max_runs()));
        if oldest > self.tail {
            self.tail = self.boundary_from(oldest);
        }
        self.tail()
    }

    /// Appends the batch's datagrams from `from` up to `to`, for which room was made.
    pub(crate) fn append(&mut self, batch: &Batch, from: Cursor, to: Cursor) {
        while self.runs.get(1).is_some_and(|next| next.start <= self.tail) {
            self.runs.pop_front();
        }
        self.intact = self.tail;
        let mut cursor = from;
        while let Some(rest) = batch.remaining_before(cursor, to) {
            let piece = Piece::new(self.framing, rest);
            cursor = batch.advance(cursor, piece.payload.len());
            if !piece.is_too_long() {
                self.push_boundaries(&piece);
                self.push_bytes(&piece);
            }
        }
        self.next_head = self.head;
    }

    /// The bytes from the position on to the head. The second slice is empty unless the area's end lies between.
    pub(crate) fn slices(&self, from: Position) -> [&[u8]; 2] {
        self.bytes(from.0, self.head)
    }

    /// The rest of the datagram that the position is inside of; nothing at a boundary.
    ///
    /// The position may be one that [`make_room`](Self::make_room) has dropped, until the next append.
    pub(crate) fn rest_of_datagram(&self, at: Position) -> [&[u8]; 2] {
        self.bytes(at.0, self.boundary_from(at.0))
    }

    /// The datagrams of the stream that end at the position or before it. Differences tell what lies between two
    /// positions.
    ///
    /// The position may be one that [`make_room`](Self::make_room) has dropped, until the next append. Empty datagrams
    /// that framing adds nothing to end where the one before them does: at the head, their number can grow while the
    /// position stays.
    pub(crate) fn ended_by(&self, at: Position) -> Counts {
        match self.run_at(at.0) {
            Some((run, end)) if at.0 < end => {
                let datagrams = run.ended_by(at.0);
                let payload = u64::from(run.segment) - run.added.len() as u64;
                Counts {
                    datagrams: run.before.datagrams + datagrams,
                    bytes: run.before.bytes + datagrams * payload,
                }
            }
            _ => self.total,
        }
    }

    /// Where a reader goes on that has fallen out of the ring: a datagram boundary in the newer half of the ring, and
    /// with framing that knows lines one where a line begins, if one is near. The head if nothing is newer.
    ///
    /// After [`make_room`](Self::make_room) it is the newer half of what the ring will hold after the append: a reader
    /// that went on in the older half would soon fall out again.
    pub(crate) fn resume_position(&self) -> Position {
        let half = self.next_head.saturating_sub(self.capacity() as u64 / 2);
        let half = half.max(self.newest_runs(self.max_runs() / 2)).max(self.tail);
        let first = self.boundary_from(half);
        if !matches!(self.framing, Framing::Auto | Framing::Lines) {
            return Position(first);
        }
        let mut boundary = first;
        for _ in 0..LINE_SEARCH {
            if self.begins_line(boundary) {
                return Position(boundary);
            }
            if boundary >= self.head {
                break;
            }
            boundary = self.boundary_from(boundary + 1);
        }
        Position(first)
    }

    /// The most runs that are kept when a batch is appended.
    fn max_runs(&self) -> usize {
        self.capacity() / BYTES_PER_RUN
    }

    /// The start of the newest `n` runs.
    fn newest_runs(&self, n: usize) -> u64 {
        let oldest = self.runs.len().checked_sub(n).and_then(|dropped| self.runs.get(dropped));
        oldest.map_or(0, |run| run.start)
    }

    /// Whether the byte before the position is a newline that is not overwritten yet.
    fn begins_line(&self, at: u64) -> bool {
        at == 0 || at > self.intact && self.area[self.index(at - 1)] == b'\n'
    }

    /// The first datagram boundary from the position on.
    fn boundary_from(&self, at: u64) -> u64 {
        self.run_at(at).map_or(self.head, |(run, end)| run.boundary_from(at, end))
    }

    /// The run that has the position, and its end.
    fn run_at(&self, at: u64) -> Option<(Run, u64)> {
        // Most readers are near the head.
        let last = self.runs.back()?;
        if last.start <= at {
            return Some((*last, self.head));
        }
        let next = self.runs.partition_point(|run| run.start <= at);
        Some((*self.runs.get(next.checked_sub(1)?)?, self.runs.get(next)?.start))
    }

    fn bytes(&self, from: u64, to: u64) -> [&[u8]; 2] {
        let len =
            usize::try_from(to.saturating_sub(from)).map_or(self.capacity(), |len| len.min(self.capacity()));
        let (older, newer) = self.area.split_at(self.index(from));
        let first = len.min(newer.len());
        [&newer[..first], &older[..len - first]]
    }

    /// Where in the area the position lies.
    fn index(&self, at: u64) -> usize {
        usize::try_from(at % self.capacity() as u64).unwrap_or(0)
    }

    /// Adds the piece, which begins at the head, to the last run or as a new one.
    fn push_boundaries(&mut self, piece: &Piece<'_>) {
        let datagrams = piece.datagrams() as u64;
        if piece.framed_len() > 0 && !self.can_extend(piece) {
            let segment = u32::try_from(piece.framed_segment()).unwrap_or(u32::MAX);
            self.runs.push_back(Run { start: self.head, before: self.total, segment, added: piece.added });
        }
        self.total.datagrams += datagrams;
        self.total.bytes += piece.payload.len() as u64;
    }

    /// Whether the piece can be part of the last run: no shorter datagram, and no empty one without bytes, is between.
    fn can_extend(&self, piece: &Piece<'_>) -> bool {
        let Some(last) = self.runs.back() else { return false };
        let (segment, piece_segment) = (u64::from(last.segment), piece.framed_segment() as u64);
        last.added == piece.added
            && last.before.datagrams + last.ended_by(self.head) == self.total.datagrams
            && (piece_segment == segment || piece_segment < segment && piece.datagrams() == 1)
    }

    fn push_bytes(&mut self, piece: &Piece<'_>) {
        if piece.added.len() == 0 {
            return self.push(piece.payload);
        }
        let mut rest = piece.payload;
        for _ in 0..piece.datagrams() {
            let (datagram, next) = rest.split_at(piece.segment.min(rest.len()));
            if piece.added.header {
                self.push(&Framing::header(datagram));
            }
            self.push(datagram);
            if piece.added.newline {
                self.push(b"\n");
            }
            rest = next;
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let index = self.index(self.head);
        let (older, newer) = self.area.split_at_mut(index);
        let (first, second) = bytes.split_at(bytes.len().min(newer.len()));
        newer[..first.len()].copy_from_slice(first);
        older[..second.len()].copy_from_slice(second);
        self.head += bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    const FRAMINGS: [Framing; 5] =
        [Framing::Auto, Framing::Lines, Framing::Blocks, Framing::Raw, Framing::Length];

    fn batch_of(datagrams: &[&[u8]]) -> Batch {
        let mut batch = Batch::with_capacity(datagrams.iter().map(|datagram| datagram.len()).sum());
        for datagram in datagrams {
            batch.spare()[..datagram.len()].copy_from_slice(datagram);
            batch.push(datagram.len());
        }
        batch
    }

    /// Writes all datagrams; the positions that they end at.
    fn write(ring: &mut Ring, datagrams: &[&[u8]]) -> Vec<Position> {
        let mut ends = Vec::new();
        for datagram in datagrams {
            let batch = batch_of(&[datagram]);
            let (len, to) = ring.measure(&batch, Cursor::default(), usize::MAX);
            ring.make_room(len);
            ring.append(&batch, Cursor::default(), to);
            ends.push(ring.head());
        }
        ends
    }

    fn counts(datagrams: u64, bytes: u64) -> Counts {
        Counts { datagrams, bytes }
    }

    #[test]
    fn positions_and_counts_have_differences() {
        let start = Position::default();
        let later = start.advance(7);
        assert_eq!((later.bytes_since(start), start.bytes_since(later)), (7, 0));
        assert_eq!(counts(5, 50) - counts(2, 20), counts(3, 30));
    }

    #[test]
    fn the_framed_stream_is_what_slices_of_framing_are() {
        let batch = batch_of(&[b"one", b"two", b"", b"t\n", b"e\n", b"ft", b"\n", b"", b""]);
        for framing in FRAMINGS {
            let mut headers = Vec::new();
            let expected: Vec<u8> =
                framing.slices(&batch, &mut headers).iter().flat_map(|s| s.to_vec()).collect();
            let mut ring = Ring::new(0, framing);
            let (len, to) = ring.measure(&batch, Cursor::default(), usize::MAX);
            assert_eq!(len, expected.len());
            assert_eq!(ring.make_room(len), Position::default());
            ring.append(&batch, Cursor::default(), to);
            assert_eq!(ring.slices(Position::default()), [&expected[..], b""], "{framing}");
            assert_eq!(ring.slices(ring.head()), [b"", b""]);
            assert_eq!(ring.ended_by(ring.head()), counts(9, 13));
        }
    }

    #[test]
    fn as_many_datagrams_are_measured_as_fit_and_one_at_least() {
        let batch = batch_of(&[b"aa", b"bb", b"c", b"", b"ddd"]);
        let measured = |framing, before, limit| {
            let mut from = Cursor::default();
            let ring = Ring::new(0, framing);
            for _ in 0..before {
                from = ring.measure(&batch, from, 0).1;
            }
            let (len, to) = ring.measure(&batch, from, limit);
            (len, batch.counts_before(to).0 - batch.counts_before(from).0)
        };
        for (limit, taken) in [(0, (2, 1)), (3, (2, 1)), (4, (4, 2)), (5, (5, 4)), (7, (5, 4)), (8, (8, 5))] {
            assert_eq!(measured(Framing::Auto, 0, limit), taken, "{limit}");
        }
        for (limit, taken) in [(7, (4, 1)), (8, (8, 2)), (10, (8, 2)), (11, (11, 3)), (13, (13, 4))] {
            assert_eq!(measured(Framing::Length, 0, limit), taken, "{limit}");
        }
        assert_eq!(measured(Framing::Length, 3, 1), (2, 1));
        assert_eq!(measured(Framing::Lines, 2, 3), (3, 2));
        // An empty datagram has no bytes, but the cursor moves over it.
        assert_eq!(measured(Framing::Auto, 3, 0), (0, 1));
        assert_eq!(measured(Framing::Auto, 4, 0), (3, 1));
        assert_eq!(measured(Framing::Auto, 5, 9), (0, 0));
        // No more than the ring holds.
        let half = vec![b'a'; MAX_FRAME / 2];
        let batch = batch_of(&[&half, &half, &half]);
        let (len, _) = Ring::new(0, Framing::Raw).measure(&batch, Cursor::default(), usize::MAX);
        assert_eq!(len, 2 * half.len());
    }

    #[test]
    fn a_datagram_longer_than_any_is_left_out() {
        let long = vec![b'x'; 65_536];
        let batch = batch_of(&[&long, &long, b"a"]);
        for framing in FRAMINGS {
            let mut ring = Ring::new(100_000, framing);
            let (len, to) = ring.measure(&batch, Cursor::default(), usize::MAX);
            assert_eq!(batch.remaining(to), None);
            ring.make_room(len);
            ring.append(&batch, Cursor::default(), to);
            assert_eq!(
                (ring.head(), ring.ended_by(ring.head())),
                (Position::default().advance(len), counts(1, 1))
            );
        }
    }

    #[test]
    fn room_is_made_of_whole_datagrams_that_stay_until_the_append() {
        let mut ring = Ring::new(0, Framing::Raw);
        let block = vec![b'a'; 30_000];
        let ends = write(&mut ring, &[&block, &block]);
        assert_eq!(ring.capacity(), MAX_FRAME);
        assert_eq!(ring.make_room(MAX_FRAME - 60_000), Position::default());
        assert_eq!(ring.make_room(MAX_FRAME - 60_000 + 1), ends[0]);
        let within = Position::default().advance(29_990);
        assert_eq!(ring.rest_of_datagram(within).concat(), [b'a'; 10]);
        assert_eq!(ring.ended_by(within), counts(0, 0));
        assert_eq!(ring.ended_by(ends[0]), counts(1, 30_000));
        assert_eq!(ring.make_room(MAX_FRAME), ring.head());
        assert_eq!(ring.rest_of_datagram(within).concat(), [b'a'; 10]);
        assert_eq!(ring.ended_by(within), counts(0, 0));

        let ends = write(&mut ring, &[b"b"]);
        assert_eq!(ring.tail().advance(1), ends[0]);
        assert_eq!(ring.slices(ring.tail()).concat(), b"b");
    }

    #[test]
    fn a_position_inside_a_datagram_has_the_rest_of_it() {
        let mut ring = Ring::new(0, Framing::Length);
        write(&mut ring, &[b"aaa", b"bbb", b"cc", b""]);
        let rests: Vec<usize> =
            (0..=16).map(|at| ring.rest_of_datagram(Position(at)).concat().len()).collect();
        assert_eq!(rests, [0, 4, 3, 2, 1, 0, 4, 3, 2, 1, 0, 3, 2, 1, 0, 1, 0]);
        let ended: Vec<u64> = (0..=16).map(|at| ring.ended_by(Position(at)).datagrams).collect();
        assert_eq!(ended, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4]);
        assert_eq!(ring.ended_by(Position(13)), counts(2, 6));
        assert_eq!(ring.rest_of_datagram(Position(11)).concat(), b"\x02cc");
    }

    #[test]
    fn an_empty_datagram_without_bytes_ends_where_the_one_before_it_does() {
        let mut ring = Ring::new(0, Framing::Auto);
        assert_eq!(ring.ended_by(ring.head()), counts(0, 0));
        write(&mut ring, &[b"", b"aa", b"", b"", b"aa"]);
        let ended: Vec<u64> = (0..=4).map(|at| ring.ended_by(Position(at)).datagrams).collect();
        assert_eq!(ended, [1, 1, 4, 4, 5]);
        assert_eq!(ring.head(), Position(4));
    }

    #[test]
    fn equal_datagrams_share_a_run_however_many_they_are() {
        for framing in FRAMINGS {
            let mut ring = Ring::new(0, framing);
            for _ in 0..300 {
                write(&mut ring, &[&[b'a'; 1316]]);
            }
            write(&mut ring, &[b"a"]);
            assert_eq!(ring.runs.len(), 1, "{framing}");
            write(&mut ring, &[b"a"]);
            assert_eq!(ring.runs.len(), 2, "{framing}");
            assert_eq!(ring.ended_by(ring.tail()).bytes % 1316, 0);
        }
    }

    #[test]
    fn runs_are_bounded_and_the_resume_position_is_in_their_newer_half() {
        let mut ring = Ring::new(0, Framing::Raw);
        let max = ring.max_runs();
        for _ in 0..2 * max {
            write(&mut ring, &[b"bb", b"a"]);
        }
        // What the last append brought is beyond the bound.
        assert!((max..=max + 1).contains(&ring.runs.len()), "{} runs of {max}", ring.runs.len());
        let kept = ring.total - ring.ended_by(ring.tail());
        // One and a shorter one are a run.
        assert!((2 * max as u64 - 2..=2 * max as u64 + 2).contains(&kept.datagrams), "{kept:?}");
        let newer = ring.total - ring.ended_by(ring.resume_position());
        assert!((max as u64 - 2..=max as u64 + 2).contains(&newer.datagrams), "{newer:?}");
    }

    #[test]
    fn reading_resumes_in_the_newer_half_of_what_the_ring_will_hold() {
        let mut ring = Ring::new(100_000, Framing::Blocks);
        let block = [b'a'; 1000];
        assert_eq!(ring.resume_position(), ring.head());
        for _ in 0..100 {
            write(&mut ring, &[&block]);
        }
        assert_eq!(ring.resume_position(), Position(50_000));
        ring.make_room(20_100);
        assert_eq!(ring.resume_position(), Position(71_000));
        ring.append(&batch_of(&[]), Cursor::default(), Cursor::default());
        assert_eq!(ring.resume_position(), Position(50_000));
        ring.make_room(70_000);
        assert_eq!(ring.resume_position(), ring.head());
        // Less is appended than room was made for: the tail stays.
        ring.make_room(100);
        assert_eq!((ring.tail(), ring.resume_position()), (Position(70_000), Position(70_000)));
        write(&mut ring, &[&block]);
        assert_eq!(ring.resume_position(), Position(70_000));
    }

    #[test]
    fn reading_resumes_where_a_line_begins() {
        let resumed = |framing, datagrams: &[&[u8]]| {
            let mut ring = Ring::new(100_000, framing);
            write(&mut ring, &[&vec![b'a'; 40_000], &vec![b'b'; 40_000]]);
            write(&mut ring, datagrams);
            ring.make_room(20_000);
            ring.resume_position().bytes_since(Position(80_000))
        };
        let torn: [&[u8]; 3] = [b"end\n", b"torn", b"line\n"];
        assert_eq!(resumed(Framing::Auto, &torn), 4);
        assert_eq!(resumed(Framing::Auto, &torn[1..]), 9);
        assert_eq!(resumed(Framing::Auto, &torn[1..2]), 0);
        assert_eq!(resumed(Framing::Raw, &torn), 0);
        let mut far = vec![&b"x"[..]; LINE_SEARCH - 2];
        far.push(b"\n");
        assert_eq!(resumed(Framing::Auto, &far), far.len() as u64);
        far.insert(0, b"x");
        assert_eq!(resumed(Framing::Auto, &far), 0);
        // What looks like the byte before the tail is the head's: it has overwritten it.
        let mut ring = Ring::new(0, Framing::Auto);
        let line = [&vec![b'a'; 65_534][..], b"\n"].concat();
        write(&mut ring, &[&line, b"xx", &line, b"b\n"]);
        assert_eq!(ring.tail(), Position(MAX_FRAME as u64));
        assert!(!ring.begins_line(MAX_FRAME as u64));
        // Each line has its newline there, one that was added at the latest.
        let mut ring = Ring::new(100_000, Framing::Lines);
        for _ in 0..100 {
            write(&mut ring, &[&[b'a'; 999]]);
        }
        assert_eq!(ring.resume_position(), Position(50_000));
    }

    /// What a ring is compared with: all that was written, framed without [`Framing`]'s help.
    #[derive(Default)]
    struct Model {
        stream: Vec<u8>,
        /// The end of each datagram in the stream, and the payload bytes up to there.
        ends: Vec<(usize, u64)>,
    }

    impl Model {
        fn write(&mut self, framing: Framing, datagram: &[u8]) {
            if framing == Framing::Length {
                self.stream.extend(&datagram.len().to_be_bytes()[size_of::<usize>() - 2..]);
            }
            self.stream.extend(datagram);
            if framing == Framing::Lines && !datagram.ends_with(b"\n") {
                self.stream.push(b'\n');
            }
            let bytes = self.ends.last().map_or(0, |(_, bytes)| *bytes);
            self.ends.push((self.stream.len(), bytes + datagram.len() as u64));
        }

        fn ended_by(&self, at: usize) -> Counts {
            let datagrams = self.ends.partition_point(|(end, _)| *end <= at);
            let bytes = datagrams.checked_sub(1).map_or(0, |last| self.ends[last].1);
            counts(datagrams as u64, bytes)
        }

        /// The boundaries from the position on, each once.
        fn boundaries_from(&self, at: usize) -> impl Iterator<Item = usize> {
            let mut last = None;
            let start = (at == 0).then_some(0);
            let ends =
                self.ends[self.ends.partition_point(|(end, _)| *end < at)..].iter().map(|(end, _)| *end);
            start.into_iter().chain(ends).filter(move |end| last.replace(*end) != Some(*end))
        }

        fn boundary_from(&self, at: usize) -> usize {
            self.boundaries_from(at).next().unwrap_or(self.stream.len())
        }

        fn resume_position(&self, framing: Framing, half: usize) -> usize {
            let begins_line = |at: &usize| *at == 0 || self.stream[*at - 1] == b'\n';
            let knows_lines = matches!(framing, Framing::Auto | Framing::Lines);
            let line = self.boundaries_from(half).take(LINE_SEARCH).find(begins_line);
            line.filter(|_| knows_lines).unwrap_or_else(|| self.boundary_from(half))
        }
    }

    /// A client as the fan-out has it, and what the model says of it.
    struct Client {
        position: Position,
        /// The rest of a datagram whose beginning is sent, though the ring has dropped it.
        rest: Vec<u8>,
        missed: Counts,
        /// How far in the stream it has received; where it has no gap, `position` less `rest`.
        at: usize,
        /// The datagrams that had ended where what it receives without a gap began, and the ones received before.
        since: Counts,
        received: Counts,
        joined: Counts,
        /// Where it goes on after `rest`.
        resumes_at: Option<usize>,
    }

    impl Client {
        fn new(ring: &Ring, model: &Model) -> Self {
            let at = model.stream.len();
            assert_eq!(ring.head(), Position(at as u64));
            let joined = model.ended_by(at);
            Self {
                position: ring.head(),
                rest: Vec::new(),
                missed: Counts::default(),
                at,
                since: joined,
                received: Counts::default(),
                joined,
                resumes_at: None,
            }
        }

        /// Sends at most `limit` bytes.
        fn send(&mut self, ring: &Ring, model: &Model, limit: usize) {
            let mut left = limit;
            let rest: Vec<u8> = self.rest.drain(..left.min(self.rest.len())).collect();
            left -= rest.len();
            self.receive(model, &rest);
            if !self.rest.is_empty() {
                return;
            }
            if let Some(at) = self.resumes_at.take() {
                self.at = at;
            }
            for slice in ring.slices(self.position) {
                let sent = left.min(slice.len());
                left -= sent;
                self.position = self.position.advance(sent);
                self.receive(model, &slice[..sent]);
            }
        }

        fn receive(&mut self, model: &Model, bytes: &[u8]) {
            let end = self.at + bytes.len();
            assert!(model.stream[self.at..end] == *bytes, "other bytes at {}", self.at);
            self.at = end;
        }

        /// Goes on at the resume position, as the ring has dropped what comes next.
        fn skip(&mut self, ring: &Ring, model: &Model) {
            let rest = ring.rest_of_datagram(self.position).concat();
            let end = self.position.advance(rest.len());
            let resume = ring.resume_position();
            assert!(resume >= ring.tail());
            self.missed = add(self.missed, ring.ended_by(resume) - ring.ended_by(end));
            // What it has received without a gap ends with a whole datagram.
            let model_end = self.resumes_at.unwrap_or(self.at + self.rest.len()) + rest.len();
            assert_eq!(end, Position(model_end as u64));
            assert_eq!(model.boundary_from(model_end), model_end, "no boundary");
            self.received = add(self.received, model.ended_by(model_end) - self.since);
            let at = usize::try_from(resume.0).unwrap();
            self.since = model.ended_by(at);
            self.resumes_at = Some(at);
            self.rest.extend(rest);
            self.position = resume;
        }
    }

    fn add(a: Counts, b: Counts) -> Counts {
        counts(a.datagrams + b.datagrams, a.bytes + b.bytes)
    }

    /// A batch of random datagrams: single, empty and coalesced ones, with and without newlines, gaps between them or not.
    fn fill(batch: &mut Batch, random: &mut Rng, noise: &[u8], largest: usize) {
        batch.clear();
        let equal = random.usize(0..=largest);
        let limit = random.usize(1..=batch.spare().len());
        for _ in 0..random.usize(1..40) {
            let segment = if random.bool() { equal } else { random.usize(0..=largest) };
            let len = if random.u8(..4) == 0 {
                segment * random.usize(1..40) + random.usize(0..=segment)
            } else {
                segment
            };
            if len > limit.min(batch.spare().len().saturating_sub(1)) {
                break;
            }
            let at = random.usize(..noise.len() - len);
            batch.spare()[..len].copy_from_slice(&noise[at..at + len]);
            if random.bool() {
                let ends = (segment..=len).step_by(segment.max(1)).chain([len]).filter(|end| *end > 0);
                let spare = batch.spare();
                ends.for_each(|end| spare[end - 1] = if random.u8(..8) > 0 { b'\n' } else { b'.' });
            }
            batch.push_coalesced(len, segment);
            if random.u8(..8) == 0 {
                batch.skip(1);
            }
        }
    }

    /// Appends the whole batch as the fan-out does, in as many steps as it likes.
    fn write_randomly(
        (ring, model, clients): (&mut Ring, &mut Model, &mut Vec<Client>),
        batch: &Batch,
        random: &mut Rng,
    ) -> usize {
        let (mut from, mut skips) = (Cursor::default(), 0);
        let framing = ring.framing;
        loop {
            let limit = random.usize(0..=ring.capacity());
            let (len, to) = ring.measure(batch, from, limit);
            if to == from {
                assert!(batch.remaining(from).is_none());
                return skips;
            }
            let (old_tail, old_runs) = (ring.tail(), ring.runs.len());
            let tail = ring.make_room(len);
            let (head, capacity) = (model.stream.len(), ring.capacity());
            let oldest = (head + len).saturating_sub(capacity);
            if old_runs <= ring.max_runs() {
                let expected = if oldest > 0 { model.boundary_from(oldest) } else { 0 };
                assert_eq!(
                    tail,
                    Position(expected as u64).max(old_tail),
                    "as few datagrams as can be are dropped"
                );
            }
            assert!(tail.0 >= oldest as u64);
            for at in [tail.0, random.u64(old_tail.0..=head as u64), random.u64(old_tail.0..=head as u64)] {
                let model_at = usize::try_from(at).unwrap();
                assert_eq!(ring.ended_by(Position(at)), model.ended_by(model_at), "at {at} of {head}");
                let rest = &model.stream[model_at..model.boundary_from(model_at)];
                assert!(
                    ring.rest_of_datagram(Position(at)).concat() == rest,
                    "another rest at {at} of {head}"
                );
            }
            if tail > old_tail && old_runs <= ring.max_runs() / 2 {
                let half = (head + len).saturating_sub(capacity / 2).max(usize::try_from(tail.0).unwrap());
                assert_eq!(ring.resume_position(), Position(model.resume_position(framing, half) as u64));
            }
            for client in clients.iter_mut().filter(|client| client.position < tail) {
                client.skip(ring, model);
                skips += 1;
            }

            ring.append(batch, from, to);
            let before = model.stream.len();
            while from != to {
                let datagram = batch.datagram(from).unwrap();
                model.write(framing, datagram);
                from = batch.advance(from, datagram.len());
            }
            assert_eq!(model.stream.len() - before, len);
            assert!(len <= limit || model.boundary_from(before + 1) == model.stream.len(), "more than fits");
            if let Some(next) = batch.datagram(from) {
                let framed = next.len()
                    + match framing {
                        Framing::Length => 2,
                        Framing::Lines => usize::from(!next.ends_with(b"\n")),
                        _ => 0,
                    };
                assert!(len + framed > limit.min(capacity), "less than fits");
            }
            assert_eq!(ring.head(), Position(model.stream.len() as u64));
            assert!(ring.head().bytes_since(ring.tail()) <= capacity as u64);
            for client in clients.iter_mut() {
                let speed = match random.u8(..4) {
                    0 => 0,
                    1 => random.usize(..3_000),
                    2 => random.usize(..capacity),
                    _ => usize::MAX,
                };
                client.send(ring, model, speed);
            }
        }
    }

    /// Drives a ring and some clients; how many of these have fallen out of it, and how often it was full.
    fn drive(framing: Framing, largest: usize, noise: &[u8], random: &mut Rng) -> (usize, usize) {
        let mut ring = Ring::new(random.usize(..160_000), framing);
        let mut batch = Batch::with_capacity(200_000);
        let (mut model, mut clients, mut skips) = (Model::default(), Vec::new(), 0);
        for _ in 0..60 {
            if clients.len() < 6 && random.bool() {
                clients.push(Client::new(&ring, &model));
            }
            fill(&mut batch, random, noise, largest);
            skips += write_randomly((&mut ring, &mut model, &mut clients), &batch, random);
        }
        let end = model.stream.len();
        let all = model.ended_by(end);
        for mut client in clients {
            client.send(&ring, &model, usize::MAX);
            assert_eq!((client.at, client.position), (end, ring.head()));
            let received = add(client.received, all - client.since);
            assert_eq!(add(received, client.missed), all - client.joined);
        }
        (skips, end / ring.capacity())
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "the last line tells which seed has failed")]
    fn every_client_gets_whole_datagrams_in_order_and_is_told_what_it_missed() {
        let mut noise = vec![0; 300_000];
        Rng::with_seed(0).fill(&mut noise);
        let (mut skips, mut wraps) = (0, 0);
        for framing in FRAMINGS {
            for largest in [0, 3, 10, 100, 1400, 9000, 65_527, 65_527] {
                for seed in 0..4 {
                    eprintln!("{framing}, {largest} bytes, seed {seed}");
                    let done = drive(framing, largest, &noise, &mut Rng::with_seed(seed));
                    (skips, wraps) = (skips + done.0, wraps + done.1);
                }
            }
        }
        assert!(skips > 5000 && wraps > 1000, "{skips} skips, {wraps} wraps");
    }
}
