//! Framing: how datagrams are delimited in a byte stream, in both directions.

use std::fmt;
use std::io::IoSlice;
use std::str::FromStr;
use std::time::Duration;

use crate::{Batch, Error};

/// How long the rest of a line is waited for after its last byte.
const PATIENCE: Duration = Duration::from_millis(20);

/// How datagrams are delimited in a byte stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// A datagram ends at a newline wherever one is at hand; an unfinished line waits at most 20 ms
    /// after its last byte, then goes as it is. No byte is changed, added or dropped.
    #[default]
    Auto,
    /// As `Auto`, but an unfinished line waits for its end, for the end of input, or until the datagram
    /// is full. Into a stream, a payload that lacks a newline gets one.
    Lines,
    /// Datagrams of exactly the datagram size; only the last may be shorter.
    Blocks,
    /// One read, one datagram, cut only at the datagram size; never waits.
    Raw,
}

impl Framing {
    /// The next datagrams at the head of `bytes`, their length together and that of each; none if they
    /// must wait for more. With `last`, no more will come. Gathered up to `limit` bytes, if one is not
    /// longer.
    pub(crate) fn next(self, bytes: &[u8], size: usize, limit: usize, last: bool) -> Option<(usize, usize)> {
        let window = &bytes[..bytes.len().min(size)];
        if window.is_empty() {
            return None;
        }
        let one = |len| (len, len);
        let full = window.len() == size;
        match self {
            Self::Auto | Self::Lines => {
                let newline = |byte: &u8| *byte == b'\n';
                let (due, later) = window.split_at(limit.min(window.len()));
                let end = due
                    .iter()
                    .rposition(newline)
                    .or_else(|| Some(due.len() + later.iter().position(newline)?));
                end.map(|end| one(end + 1)).or_else(|| (full || last).then_some(one(window.len())))
            }
            Self::Blocks if full => {
                let blocks = (bytes.len() / size).min(limit.div_ceil(size)).max(1);
                Some((blocks * size, size))
            }
            Self::Blocks => last.then_some(one(window.len())),
            Self::Raw => Some(one(window.len())),
        }
    }

    /// How long an unfinished datagram may wait for more; `None` is for as long as it takes.
    pub(crate) fn patience(self) -> Option<Duration> {
        (self == Self::Auto).then_some(PATIENCE)
    }

    /// What of a batch goes into a byte stream, each datagram whole.
    pub(crate) fn slices(self, batch: &Batch) -> Vec<IoSlice<'_>> {
        if self != Self::Lines {
            return batch.runs().map(|(payload, _)| IoSlice::new(payload)).collect();
        }
        let mut slices = Vec::new();
        for datagram in batch.datagrams() {
            slices.push(IoSlice::new(datagram));
            if datagram.last() != Some(&b'\n') {
                slices.push(IoSlice::new(b"\n"));
            }
        }
        slices
    }

    /// How many of the first `written` bytes of [`slices`](Self::slices) are whole datagrams.
    pub(crate) fn whole(self, batch: &Batch, written: usize) -> usize {
        let mut whole = 0;
        for datagram in batch.datagrams() {
            let newline = self == Self::Lines && datagram.last() != Some(&b'\n');
            let len = datagram.len() + usize::from(newline);
            if whole + len > written {
                break;
            }
            whole += len;
        }
        whole
    }
}

impl FromStr for Framing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "lines" => Ok(Self::Lines),
            "blocks" => Ok(Self::Blocks),
            "raw" => Ok(Self::Raw),
            _ => Err(Error::usage(format!("'{text}' is not a framing: auto, lines, blocks or raw"))),
        }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Lines => "lines",
            Self::Blocks => "blocks",
            Self::Raw => "raw",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts all of the bytes as if no more came, and returns the pieces and what is left over.
    fn cut(framing: Framing, size: usize, last: bool, mut bytes: &[u8]) -> (Vec<String>, String) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut pieces = Vec::new();
        while let Some((len, each)) = framing.next(bytes, size, usize::MAX, last) {
            pieces.extend(bytes[..len].chunks(each).map(text));
            bytes = &bytes[len..];
        }
        (pieces, text(bytes))
    }

    fn strings(pieces: &[&str], rest: &str) -> (Vec<String>, String) {
        (pieces.iter().map(|s| (*s).to_owned()).collect(), rest.to_owned())
    }

    #[test]
    fn lines_fill_a_datagram_and_an_unfinished_one_stays() {
        for framing in [Framing::Auto, Framing::Lines] {
            assert_eq!(cut(framing, 8, false, b"ab\ncd\nefg\nh"), strings(&["ab\ncd\n", "efg\n"], "h"));
            assert_eq!(cut(framing, 8, true, b"ab\nc"), strings(&["ab\n", "c"], ""));
            assert_eq!(cut(framing, 4, false, b"abcdefg\n"), strings(&["abcd", "efg\n"], ""));
            assert_eq!(framing.next(b"ab\ncd\nef\n", 9, 7, false), Some((6, 6)));
            assert_eq!(framing.next(b"ab\ncd\nef\n", 9, 1, false), Some((3, 3)));
            assert_eq!(cut(framing, 4, false, b"\n\n\n\n\n"), strings(&["\n\n\n\n", "\n"], ""));
        }
    }

    #[test]
    fn blocks_are_exact_and_raw_never_waits() {
        assert_eq!(cut(Framing::Blocks, 3, false, b"abcdefgh"), strings(&["abc", "def"], "gh"));
        assert_eq!(cut(Framing::Blocks, 3, true, b"abcd"), strings(&["abc", "d"], ""));
        assert_eq!(Framing::Blocks.next(b"abcdefghijk", 3, 4, false), Some((6, 3)));
        assert_eq!(Framing::Blocks.next(b"abcdefghijk", 3, 0, false), Some((3, 3)));
        assert_eq!(cut(Framing::Raw, 3, false, b"ab\ncd"), strings(&["ab\n", "cd"], ""));
    }

    #[test]
    fn only_lines_adds_a_newline_and_only_where_it_lacks() {
        let mut batch = Batch::with_capacity(64);
        for payload in [&b"a"[..], b"", b"b\n"] {
            batch.spare()[..payload.len()].copy_from_slice(payload);
            batch.push(payload.len());
        }
        let joined = |framing: Framing| {
            framing.slices(&batch).iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
        };
        assert_eq!(joined(Framing::Auto), b"ab\n");
        assert_eq!(joined(Framing::Lines), b"a\n\nb\n");
        assert_eq!(Framing::Auto.whole(&batch, 2), 1);
        assert_eq!(Framing::Lines.whole(&batch, 4), 3);
        assert_eq!(Framing::Lines.whole(&batch, 5), 5);
    }

    #[test]
    fn names_are_read_and_printed() {
        for name in ["auto", "lines", "blocks", "raw"] {
            assert_eq!(name.parse::<Framing>().unwrap().to_string(), name);
        }
        assert!("length".parse::<Framing>().unwrap_err().is_usage());
    }
}
