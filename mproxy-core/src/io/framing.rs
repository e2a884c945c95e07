//! Framing: how datagrams are delimited in a byte stream, in both directions.

use std::fmt;
use std::io::IoSlice;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::relay::batch::Batch;

/// The flush timeout of `auto`: how long an unfinished line waits for its end after its last byte.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(20);

/// Bytes of the length before each datagram (RFC 4571).
const HEADER: usize = size_of::<u16>();

/// The longest frame: a header, and as many bytes as it can count.
pub(crate) const MAX_FRAME: usize = HEADER + u16::MAX as usize;

/// How datagrams are delimited in a byte stream.
///
/// It is parsed from its name in lower case, and printed so: `"lines".parse::<Framing>()`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
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

/// One datagram, or several of equal length, at the head of a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of the header, before the payload.
    pub(crate) header: usize,
    /// Bytes of the payload: all datagrams together.
    pub(crate) len: usize,
    /// Bytes of each datagram but the last, which may be shorter, as in [`Batch::push_coalesced`].
    pub(crate) segment: usize,
    /// The datagram ends inside a line that is longer than a datagram.
    pub(crate) cuts_line: bool,
}

/// What framing adds to a datagram in a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Added {
    /// The length, before the payload.
    pub(crate) header: bool,
    /// A newline, after the payload.
    pub(crate) newline: bool,
}

impl Added {
    /// The bytes of both.
    pub(crate) fn len(self) -> usize {
        HEADER * usize::from(self.header) + usize::from(self.newline)
    }
}

impl Framing {
    /// The frame at the head of `bytes`; none if it must wait for more. With `flush`, it waits for no more.
    ///
    /// A datagram has at most `size` bytes. Several are taken together up to `limit` bytes; one may be longer.
    pub(crate) fn next_frame(self, bytes: &[u8], size: usize, limit: usize, flush: bool) -> Option<Frame> {
        let window = &bytes[..bytes.len().min(size)];
        let several = |len, segment| Frame { header: 0, len, segment, cuts_line: false };
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
                let cuts_line = full && !(flush && window.len() == bytes.len());
                let unfinished = || (full || flush).then_some(Frame { cuts_line, ..one(window.len()) });
                end.map(|end| one(end + 1)).or_else(unfinished)
            }
            Self::Blocks if full => {
                let blocks = (bytes.len() / size).min(limit.div_ceil(size)).max(1);
                Some(several(blocks * size, size))
            }
            Self::Blocks => flush.then_some(one(window.len())),
            Self::Raw => Some(one(window.len())),
        }
    }

    /// Whether there is no [frame](Self::next_frame) yet at the head of a stream that has gone on: `pending` was
    /// unfinished, and `new` bytes follow it. Only those are looked at.
    pub(crate) fn is_unfinished(self, pending: &[u8], new: &[u8], size: usize) -> bool {
        let len = pending.len() + new.len();
        match self {
            Self::Length => {
                let mut bytes = pending.iter().chain(new).copied();
                let header = bytes.next().zip(bytes.next());
                header.is_none_or(|(high, low)| len - HEADER < u16::from_be_bytes([high, low]).into())
            }
            Self::Auto | Self::Lines => len < size && !new.contains(&b'\n'),
            Self::Blocks => len < size,
            Self::Raw => len == 0,
        }
    }

    /// How long an unfinished datagram waits for more; `None` is for as long as it takes.
    pub(crate) fn flush_timeout(self) -> Option<Duration> {
        (self == Self::Auto).then_some(FLUSH_TIMEOUT)
    }

    /// What is added to the datagram in a byte stream.
    pub(crate) fn added(self, datagram: &[u8]) -> Added {
        Added {
            header: self == Self::Length,
            newline: self == Self::Lines && datagram.last() != Some(&b'\n'),
        }
    }

    /// What is added to the first of the datagrams of `segment` bytes, and the length of those at the head of `run` to
    /// which the same is added.
    pub(crate) fn added_to_run(self, run: &[u8], segment: usize) -> (Added, usize) {
        let added = self.added(&run[..segment.min(run.len())]);
        let len = match self {
            Self::Lines => {
                let same = run.chunks(segment.max(1)).take_while(|datagram| self.added(datagram) == added);
                same.map(<[u8]>::len).sum()
            }
            _ => run.len(),
        };
        (added, len)
    }

    /// The header of a datagram with `length`. No UDP datagram is longer than 65,535 bytes.
    pub(crate) fn header(datagram: &[u8]) -> [u8; HEADER] {
        u16::try_from(datagram.len()).unwrap_or(u16::MAX).to_be_bytes()
    }

    /// The batch as a byte stream, in slices for a vectored write. `headers` is where the headers are kept.
    pub(crate) fn slices<'a>(self, batch: &'a Batch, headers: &'a mut Vec<[u8; HEADER]>) -> Vec<IoSlice<'a>> {
        match self {
            Self::Lines => {
                let mut slices = Vec::new();
                for datagram in batch.datagrams() {
                    slices.push(IoSlice::new(datagram));
                    if self.added(datagram).newline {
                        slices.push(IoSlice::new(b"\n"));
                    }
                }
                slices
            }
            Self::Length => {
                headers.extend(batch.datagrams().map(Self::header));
                let mut slices = Vec::with_capacity(2 * headers.len());
                for (header, datagram) in headers.iter().zip(batch.datagrams()) {
                    let len = usize::from(u16::from_be_bytes(*header));
                    slices.extend([IoSlice::new(header), IoSlice::new(&datagram[..len])]);
                }
                slices
            }
            Self::Auto | Self::Blocks | Self::Raw => {
                batch.runs().map(|(payload, _)| IoSlice::new(payload)).collect()
            }
        }
    }

    /// How many of the first `written` bytes of [`slices`](Self::slices) make up whole datagrams.
    pub(crate) fn whole_datagrams_len(self, batch: &Batch, written: usize) -> usize {
        let mut end = 0;
        for datagram in batch.datagrams() {
            let len = self.added(datagram).len() + datagram.len();
            if end + len > written {
                break;
            }
            end += len;
        }
        end
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

    /// Cuts the bytes into datagrams, and returns them and the rest.
    fn split(framing: Framing, size: usize, flush: bool, mut bytes: &[u8]) -> (Vec<String>, String) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut datagrams = Vec::new();
        while let Some(Frame { header, len, segment, .. }) =
            framing.next_frame(bytes, size, usize::MAX, flush)
        {
            let (payload, rest) = bytes[header..].split_at(len);
            if len == 0 {
                datagrams.push(String::new());
            }
            datagrams.extend(payload.chunks(segment.max(1)).map(text));
            bytes = rest;
        }
        (datagrams, text(bytes))
    }

    fn strings(datagrams: &[&str], rest: &str) -> (Vec<String>, String) {
        (datagrams.iter().map(|s| (*s).to_owned()).collect(), rest.to_owned())
    }

    #[test]
    fn lines_fill_a_datagram_and_an_unfinished_one_stays() {
        for framing in [Framing::Auto, Framing::Lines] {
            assert_eq!(split(framing, 8, false, b"ab\ncd\nefg\nh"), strings(&["ab\ncd\n", "efg\n"], "h"));
            assert_eq!(split(framing, 8, true, b"ab\nc"), strings(&["ab\n", "c"], ""));
            assert_eq!(split(framing, 4, false, b"abcdefg\n"), strings(&["abcd", "efg\n"], ""));
            assert_eq!(framing.next_frame(b"ab\ncd\nef\n", 9, 7, false), Some(plain(6, 6)));
            assert_eq!(framing.next_frame(b"ab\ncd\nef\n", 9, 1, false), Some(plain(3, 3)));
            assert_eq!(
                framing.next_frame(b"abcde\n", 4, 9, false),
                Some(Frame { cuts_line: true, ..plain(4, 4) })
            );
            assert_eq!(split(framing, 4, false, b"\n\n\n\n\n"), strings(&["\n\n\n\n", "\n"], ""));
        }
    }

    #[test]
    fn blocks_are_exact_and_raw_never_waits() {
        assert_eq!(split(Framing::Blocks, 3, false, b"abcdefgh"), strings(&["abc", "def"], "gh"));
        assert_eq!(split(Framing::Blocks, 3, true, b"abcd"), strings(&["abc", "d"], ""));
        assert_eq!(Framing::Blocks.next_frame(b"abcdefghijk", 3, 4, false), Some(plain(6, 3)));
        assert_eq!(Framing::Blocks.next_frame(b"abcdefghijk", 3, 0, false), Some(plain(3, 3)));
        assert_eq!(split(Framing::Raw, 3, false, b"ab\ncd"), strings(&["ab\n", "cd"], ""));
    }

    fn plain(len: usize, segment: usize) -> Frame {
        Frame { header: 0, len, segment, cuts_line: false }
    }

    #[test]
    fn a_length_tells_where_a_datagram_ends_whatever_it_holds() {
        let stream = b"\0\x03a\nb\0\0\0\x01\n\0\x02x";
        for flush in [false, true] {
            assert_eq!(split(Framing::Length, 1, flush, stream), strings(&["a\nb", "", "\n"], "\0\x02x"));
            assert_eq!(split(Framing::Length, 1, flush, b"\0"), strings(&[], "\0"));
        }
    }

    #[test]
    fn a_stream_is_unfinished_as_long_as_there_is_no_frame() {
        for framing in [Framing::Auto, Framing::Lines, Framing::Blocks, Framing::Raw, Framing::Length] {
            for stream in [&b""[..], b"abc", b"abcd", b"ab\nc", b"\0\x02ab", b"\0\0", b"\0\x01a"] {
                for (len, at) in (0..=stream.len()).flat_map(|len| (0..=len).map(move |at| (len, at))) {
                    let (pending, new) = stream[..len].split_at(at);
                    let frame = |bytes| framing.next_frame(bytes, 4, usize::MAX, false);
                    if frame(pending).is_none() {
                        let unfinished = framing.is_unfinished(pending, new, 4);
                        assert_eq!(
                            unfinished,
                            frame(&stream[..len]).is_none(),
                            "{framing} {pending:?} {new:?}"
                        );
                    }
                }
            }
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
        assert_eq!(Framing::Length.whole_datagrams_len(&batch, 8), 5);
        assert_eq!(Framing::Auto.whole_datagrams_len(&batch, 2), 1);
        assert_eq!(Framing::Lines.whole_datagrams_len(&batch, 4), 3);
        assert_eq!(Framing::Lines.whole_datagrams_len(&batch, 5), 5);
    }

    #[test]
    fn a_run_is_divided_where_the_added_bytes_change() {
        let run = b"a\nb\ncde";
        let newline = |newline| Added { header: false, newline };
        assert_eq!(Framing::Lines.added_to_run(run, 2), (newline(false), 4));
        assert_eq!(Framing::Lines.added_to_run(&run[4..], 2), (newline(true), 3));
        assert_eq!(Framing::Lines.added_to_run(b"", 0), (newline(true), 0));
        assert_eq!(Framing::Auto.added_to_run(run, 2), (newline(false), 7));
        let header = Added { header: true, newline: false };
        assert_eq!(Framing::Length.added_to_run(run, 2), (header, 7));
        assert_eq!([newline(false).len(), newline(true).len(), header.len()], [0, 1, HEADER]);
    }

    #[test]
    fn names_are_read_and_printed() {
        for name in ["auto", "lines", "blocks", "raw", "length"] {
            assert_eq!(name.parse::<Framing>().unwrap().to_string(), name);
        }
        assert!("Length".parse::<Framing>().unwrap_err().is_usage());
    }
}
