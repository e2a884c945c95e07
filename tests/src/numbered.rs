//! Numbered datagrams: a feed whose receiver sees what is lost, torn, altered or out of order.

/// The number and the length before the rest of a datagram: `00000012 00900 `.
const HEADER: usize = 15;

/// Numbered datagrams, from 0. Each begins with its number and its length, so that a stream of them shows where one
/// ends, whatever the framing; but empty ones are just that.
pub struct Feed(Vec<Vec<u8>>);

impl Feed {
    /// A feed of so many datagrams, each a line of the length that `len` gives for its number.
    pub fn new(datagrams: usize, len: impl Fn(usize) -> usize) -> Self {
        Self::in_parts(datagrams, 1, len)
    }

    /// A feed of lines that take so many datagrams each: the last one has the newline.
    pub fn in_parts(datagrams: usize, parts: usize, len: impl Fn(usize) -> usize) -> Self {
        let datagram = |number| match len(number) {
            0 => Vec::new(),
            len => {
                let mut datagram = format!("{number:08} {len:05} ").into_bytes();
                let letters = (b'a'..=b'z').cycle().nth(number % 26).unwrap();
                datagram.resize(len - 1, letters);
                datagram.push(if (number + 1).is_multiple_of(parts) { b'\n' } else { b',' });
                datagram
            }
        };
        Self((0..datagrams).map(datagram).collect())
    }

    /// The datagrams.
    pub fn datagrams(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

/// The datagrams of a [`Feed`] that one receiver has got in a byte stream, in order, whole and unaltered; anything else
/// panics.
pub struct Tally<'a> {
    feed: &'a Feed,
    framing: &'a str,
    /// The beginning of a datagram.
    unfinished: Vec<u8>,
    next: usize,
    /// How many datagrams it has got. Empty ones are seen with the framings `lines` and `length` only.
    pub datagrams: usize,
    /// Their bytes, without those of framing.
    pub bytes: usize,
    /// The numbers of those before which others are missing.
    pub resumed: Vec<usize>,
}

impl<'a> Tally<'a> {
    /// For a stream with this framing that has begun with the datagram `first`.
    pub fn new(feed: &'a Feed, framing: &'a str, first: usize) -> Self {
        let (unfinished, resumed) = (Vec::new(), Vec::new());
        Self { feed, framing, unfinished, next: first, datagrams: 0, bytes: 0, resumed }
    }

    /// The number after that of the last datagram that is not empty.
    pub fn next(&self) -> usize {
        self.next
    }

    /// Whether the stream ends with a whole datagram so far.
    pub fn is_whole(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// Takes what has come.
    #[track_caller]
    pub fn take(&mut self, bytes: &[u8]) {
        let mut unfinished = std::mem::take(&mut self.unfinished);
        unfinished.extend_from_slice(bytes);
        let mut rest = &unfinished[..];
        while let Some(len) = self.take_datagram(rest) {
            rest = &rest[len..];
        }
        self.unfinished = rest.to_vec();
    }

    /// Takes the datagram that the stream goes on with, if it is complete. Returns its length in the stream.
    #[track_caller]
    fn take_datagram(&mut self, stream: &[u8]) -> Option<usize> {
        let mut payload = stream;
        if self.framing == "length" {
            let (length, rest) = stream.split_first_chunk()?;
            payload = rest.get(..u16::from_be_bytes(*length).into())?;
            if payload.is_empty() {
                self.datagrams += 1;
                return Some(2);
            }
        }
        if self.framing == "lines" && payload.starts_with(b"\n") {
            self.datagrams += 1;
            return Some(1);
        }
        let header = String::from_utf8_lossy(payload.get(..HEADER)?).into_owned();
        let number: Option<usize> = header.split(' ').next().and_then(|number| number.parse().ok());
        let number =
            number.unwrap_or_else(|| panic!("no datagram begins with {header:?}, after {}", self.next));
        assert!(number >= self.next, "datagram {number} after {}", self.next);
        let expected = &self.feed.0[number];
        let newline = self.framing == "lines" && !expected.ends_with(b"\n");
        let end = expected.len() + usize::from(newline);
        if self.framing == "length" {
            assert_eq!(payload.len(), end, "datagram {number} is cut or joined");
        }
        let payload = payload.get(..end)?;
        assert!(
            payload[..expected.len()] == expected[..] && (!newline || payload.ends_with(b"\n")),
            "datagram {number} is altered: {:?}",
            String::from_utf8_lossy(payload)
        );
        if self.feed.0[self.next..number].iter().any(|missing| !missing.is_empty()) {
            self.resumed.push(number);
        }
        self.next = number + 1;
        self.datagrams += 1;
        self.bytes += expected.len();
        Some(end + if self.framing == "length" { 2 } else { 0 })
    }
}
