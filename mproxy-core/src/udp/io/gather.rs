//! The datagrams that leave together in one offloaded send (GSO, USO).

use crate::relay::batch::{Batch, Cursor};
use crate::relay::limits::{MAX_DATAGRAM, OFFLOADED};

/// The limits of one offloaded send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Datagrams at most.
    segments: usize,
    /// The largest datagram that may leave together with others.
    largest: usize,
}

impl Limits {
    /// What every kernel with segmentation offload takes (`udp(7)`, `UDP_SEGMENT`). Windows has taken far more
    /// datagrams at once where it was tried, but promises no number.
    pub(crate) const OFFLOAD: Self = Self { segments: OFFLOADED, largest: MAX_DATAGRAM };

    /// Each datagram by itself.
    pub(crate) const SINGLE: Self = Self { segments: 1, largest: 0 };

    /// The same for datagrams below this size; larger ones by themselves.
    pub(crate) fn below(self, size: usize) -> Self {
        Self { largest: size.saturating_sub(1), ..self }
    }
}

/// The datagrams of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gathered {
    /// The length of each but the last, which may be shorter.
    pub(crate) segment: usize,
    /// How many there are.
    pub(crate) datagrams: usize,
    /// The cursor behind them.
    pub(crate) end: Cursor,
}

/// The datagrams from the cursor on that can leave together: as many of one size, and of one sender, as follow each
/// other, and a shorter one, which ends them. `add` gets their parts of the area, in order. None at the end of the
/// batch.
pub(crate) fn gather<'a>(
    batch: &'a Batch,
    from: Cursor,
    limits: Limits,
    add: &mut dyn FnMut(&'a [u8]),
) -> Option<Gathered> {
    let (first, of_run) = batch.remaining(from)?;
    let segment = of_run.min(first.len());
    let alone = segment == 0 || segment > limits.largest;
    let most = if alone { 1 } else { limits.segments.min(MAX_DATAGRAM / segment) };
    let mut gathered = Gathered { segment, datagrams: 0, end: from };
    while gathered.datagrams < most
        && batch.same_sender(from, gathered.end)
        && let Some((payload, of_run)) = batch.remaining(gathered.end)
    {
        let next = of_run.min(payload.len());
        let len = if next == segment {
            payload.len().min((most - gathered.datagrams) * segment)
        } else if 0 < next && next < segment {
            next
        } else {
            break;
        };
        add(&payload[..len]);
        gathered.end = batch.advance(gathered.end, len);
        gathered.datagrams += if segment == 0 { 1 } else { len.div_ceil(segment) };
        if segment == 0 || !len.is_multiple_of(segment) {
            break;
        }
    }
    Some(gathered)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The groups of a batch of runs (bytes, segment), as datagrams and bytes of each.
    fn gather_all(runs: &[(usize, usize)], limits: Limits) -> Vec<(usize, usize)> {
        let mut batch = Batch::with_capacity(1 << 20);
        for (len, segment) in runs {
            batch.push_coalesced(*len, *segment);
        }
        let (mut at, mut all) = (Cursor::default(), vec![]);
        let mut bytes = 0;
        while let Some(gathered) = gather(&batch, at, limits, &mut |slice| bytes += slice.len()) {
            all.push((gathered.datagrams, std::mem::take(&mut bytes)));
            at = gathered.end;
        }
        all
    }

    #[test]
    fn equal_ones_go_together_and_a_shorter_one_ends_them() {
        assert_eq!(gather_all(&[(9, 3), (3, 3), (2, 2), (3, 3)], Limits::OFFLOAD), [(5, 14), (1, 3)]);
        assert_eq!(gather_all(&[(3, 3), (4, 4), (5, 2)], Limits::OFFLOAD), [(1, 3), (2, 6), (2, 3)]);
    }

    #[test]
    fn empty_ones_go_alone() {
        assert_eq!(
            gather_all(&[(0, 0), (0, 0), (2, 2), (0, 0)], Limits::OFFLOAD),
            [(1, 0), (1, 0), (1, 2), (1, 0)]
        );
    }

    #[test]
    fn no_more_go_together_than_the_limits_allow() {
        assert_eq!(gather_all(&[(100, 1)], Limits::OFFLOAD), [(64, 64), (36, 36)]);
        assert_eq!(gather_all(&[(8192 * 8, 8192)], Limits::OFFLOAD), [(7, 57_344), (1, 8192)]);
        assert_eq!(gather_all(&[(40_000, 20_000)], Limits::OFFLOAD.below(20_000)), [(1, 20_000); 2]);
        assert_eq!(gather_all(&[(5, 2)], Limits::SINGLE), [(1, 2), (1, 2), (1, 1)]);
        assert_eq!(gather_all(&[(65_527, 65_527), (10, 10)], Limits::OFFLOAD), [(1, 65_527), (1, 10)]);
    }
}
