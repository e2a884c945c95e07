//! Framing: how datagrams are delimited in a byte stream, in both directions.

use std::fmt;
use std::io::IoSlice;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::relay::batch::Batch;

/// How long the rest of a line is waited for after its last byte.
const PATIENCE: Duration = Duration::from_millis(20);

/// Bytes of the length before each datagram (RFC 4571).
const HEADER: usize = size_of::<u16>();

/// The longest frame: its header, and as many bytes as that can tell.
pub(crate) const MAX_FRAME: usize = HEADER + u16::MAX as usize;

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
    /// Before each datagram its length, 16 bits in network byte order
    /// ([RFC 4571](https://www.rfc-editor.org/rfc/rfc4571)): boundaries survive, even those of empty
    /// datagrams.
    Length,
}

/// Datagrams at the head of a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes before them that belong to none.
    pub(crate) header: usize,
    /// Their length together, ...
    pub(crate) len: usize,
    /// ... and that of each.
    pub(crate) each: usize,
    /// It is a part of a line that was too long.
    pub(crate) torn: bool,
}

impl Framing {
    /// The next datagrams at the head of `bytes`; none if they must wait for more. With `last`, no more
    /// will come. Gathered up to `limit` bytes, if one is not longer.
    pub(crate) fn next(self, bytes: &[u8], size: usize, limit: usize, last: bool) -> Option<Frame> {
        let window = &bytes[..bytes.len().min(size)];
        let several = |len, each| Frame { header: 0, len, each, torn: false };
        let one = |len| several(len, len);
        let full = window.len() == size;
        match self {
            Self::Length => {
                let (header, rest) = bytes.split_first_chunk()?;
                let len = u16::from_be_bytes(*header).into();
                (len <= rest.len()).then_some(Frame { header: HEADER, ..one(len) })
            }
            _ if window.is_empty() => None,
            Self::Auto | Self::Lines => {
                let newline = |byte: &u8| *byte == b'\n';
                let (due, later) = window.split_at(limit.min(window.len()));
                let end = due
                    .iter()
                    .rposition(newline)
                    .or_else(|| Some(due.len() + later.iter().position(newline)?));
                let torn = full && !(last && window.len() == bytes.len());
                let unfinished = || (full || last).then_some(Frame { torn, ..one(window.len()) });
                end.map(|end| one(end + 1)).or_else(unfinished)
            }
            Self::Blocks if full => {
                let blocks = (bytes.len() / size).min(limit.div_ceil(size)).max(1);
                Some(several(blocks * size, size))
            }
            Self::Blocks => last.then_some(one(window.len())),
            Self::Raw => Some(one(window.len())),
        }
    }

    /// How long an unfinished datagram may wait for more; `None` is for as long as it takes.
    pub(crate) fn patience(self) -> Option<Duration> {
        (self == Self::Auto).then_some(PATIENCE)
    }

    /// What of a batch goes into a byte stream, each datagram whole. The headers that it needs are put
    /// into `headers`.
    pub(crate) fn slices<'a>(self, batch: &'a Batch, headers: &'a mut Vec<[u8; HEADER]>) -> Vec<IoSlice<'a>> {
        match self {
            Self::Lines => {
                let mut slices = Vec::new();
                for datagram in batch.datagrams() {
                    slices.push(IoSlice::new(datagram));
                    if datagram.last() != Some(&b'\n') {
                        slices.push(IoSlice::new(b"\n"));
                    }
                }
                slices
            }
            Self::Length => {
                // No UDP datagram is longer than the header can tell.
                let len = |datagram: &[u8]| u16::try_from(datagram.len()).unwrap_or(u16::MAX);
                headers.extend(batch.datagrams().map(|datagram| len(datagram).to_be_bytes()));
                let mut slices = Vec::with_capacity(2 * headers.len());
                for (header, datagram) in headers.iter().zip(batch.datagrams()) {
                    slices.extend([IoSlice::new(header), IoSlice::new(&datagram[..len(datagram).into()])]);
                }
                slices
            }
            Self::Auto | Self::Blocks | Self::Raw => {
                batch.runs().map(|(payload, _)| IoSlice::new(payload)).collect()
            }
        }
    }

    /// How many of the first `written` bytes of [`slices`](Self::slices) are whole datagrams.
    pub(crate) fn whole(self, batch: &Batch, written: usize) -> usize {
        let mut whole = 0;
        for datagram in batch.datagrams() {
            let added = match self {
                Self::Lines => usize::from(datagram.last() != Some(&b'\n')),
                Self::Length => HEADER,
                Self::Auto | Self::Blocks | Self::Raw => 0,
            };
            if whole + added + datagram.len() > written {
                break;
            }
            whole += added + datagram.len();
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
            "length" => Ok(Self::Length),
            _ => Err(Error::usage(format!("'{text}' is not a framing: auto, lines, blocks, raw or length"))),
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
            Self::Length => "length",
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
        while let Some(Frame { header, len, each, .. }) = framing.next(bytes, size, usize::MAX, last) {
            let (payload, rest) = bytes[header..].split_at(len);
            if len == 0 {
                pieces.push(String::new());
            }
            pieces.extend(payload.chunks(each.max(1)).map(text));
            bytes = rest;
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
            assert_eq!(framing.next(b"ab\ncd\nef\n", 9, 7, false), Some(plain(6, 6)));
            assert_eq!(framing.next(b"ab\ncd\nef\n", 9, 1, false), Some(plain(3, 3)));
            assert_eq!(framing.next(b"abcde\n", 4, 9, false), Some(Frame { torn: true, ..plain(4, 4) }));
            assert_eq!(cut(framing, 4, false, b"\n\n\n\n\n"), strings(&["\n\n\n\n", "\n"], ""));
        }
    }

    #[test]
    fn blocks_are_exact_and_raw_never_waits() {
        assert_eq!(cut(Framing::Blocks, 3, false, b"abcdefgh"), strings(&["abc", "def"], "gh"));
        assert_eq!(cut(Framing::Blocks, 3, true, b"abcd"), strings(&["abc", "d"], ""));
        assert_eq!(Framing::Blocks.next(b"abcdefghijk", 3, 4, false), Some(plain(6, 3)));
        assert_eq!(Framing::Blocks.next(b"abcdefghijk", 3, 0, false), Some(plain(3, 3)));
        assert_eq!(cut(Framing::Raw, 3, false, b"ab\ncd"), strings(&["ab\n", "cd"], ""));
    }

    fn plain(len: usize, each: usize) -> Frame {
        Frame { header: 0, len, each, torn: false }
    }

    #[test]
    fn a_length_tells_where_a_datagram_ends_whatever_it_holds() {
        let stream = b"\0\x03a\nb\0\0\0\x01\n\0\x02x";
        for last in [false, true] {
            assert_eq!(cut(Framing::Length, 1, last, stream), strings(&["a\nb", "", "\n"], "\0\x02x"));
            assert_eq!(cut(Framing::Length, 1, last, b"\0"), strings(&[], "\0"));
        }
    }

    #[test]
    fn lines_adds_a_newline_where_it_lacks_and_length_a_header() {
        let mut batch = Batch::with_capacity(64);
        for payload in [&b"a"[..], b"", b"b\n"] {
            batch.spare()[..payload.len()].copy_from_slice(payload);
            batch.push(payload.len());
        }
        let joined = |framing: Framing| {
            let mut headers = Vec::new();
            let slices = framing.slices(&batch, &mut headers);
            slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
        };
        assert_eq!(joined(Framing::Auto), b"ab\n");
        assert_eq!(joined(Framing::Lines), b"a\n\nb\n");
        assert_eq!(joined(Framing::Length), b"\0\x01a\0\0\0\x02b\n");
        assert_eq!(Framing::Length.whole(&batch, 8), 5);
        assert_eq!(Framing::Auto.whole(&batch, 2), 1);
        assert_eq!(Framing::Lines.whole(&batch, 4), 3);
        assert_eq!(Framing::Lines.whole(&batch, 5), 5);
    }

    #[test]
    fn names_are_read_and_printed() {
        for name in ["auto", "lines", "blocks", "raw", "length"] {
            assert_eq!(name.parse::<Framing>().unwrap().to_string(), name);
        }
        assert!("Length".parse::<Framing>().unwrap_err().is_usage());
    }
}
