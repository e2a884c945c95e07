//! Byte streams cut into datagrams, and datagrams put into byte streams, in every framing.
//!
//! The input is bytes, not `arbitrary` data, so that the corpus stays valid whatever that crate becomes:
//!
//! | Bytes | Meaning                                                                             |
//! |------:|-------------------------------------------------------------------------------------|
//! |     1 | framing (modulo 5, in the order of `FRAMINGS`), and that of the output (by 5)       |
//! |     2 | datagram size                                                                       |
//! |     2 | batch limit; 0 is none                                                              |
//! |     2 | bytes of each batch that are written before the output tears                        |
//! |     1 | bit 0 a file, 1 goes on after a stop, 2 ends in an error; 3 to 7 repeat the payload |
//! |     1 | how many steps follow                                                               |
//! |  each | a step, see `step`; they are repeated up to the end of the payload                  |
//! |  rest | the payload                                                                         |

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::{Corpus, fuzz_target};
use mproxy_core::fuzzing::{Ending, Run, Runner, Script, Setup, Step};
use mproxy_core::{Batch, Framing, MAX_DATAGRAM};

const FRAMINGS: [Framing; 5] =
    [Framing::Auto, Framing::Lines, Framing::Blocks, Framing::Raw, Framing::Length];

/// What a repeated payload may grow to: more than the source holds and reads at once.
const LONGEST: usize = 300_000;

/// Bytes that may be moved for that: what is held is moved with every read and every batch.
const MOVED: usize = 16 << 20;

thread_local! {
    static RUNNER: RefCell<Runner> = RefCell::new(Runner::new().expect("a pipe"));
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(case) = Case::read(data) else { return Corpus::Reject };
    let script = Script {
        bytes: &case.payload,
        steps: &case.steps,
        ending: if case.fails { Ending::Failed } else { Ending::Closed },
        never_blocks: case.never_blocks,
        drains: case.drains,
    };
    let mut all = Datagrams::default();
    let mut sink = |batch: &Batch, encoded: &[u8], whole| {
        case.check_batch(batch, encoded, whole);
        batch.datagrams().for_each(|datagram| all.push(datagram));
        all.encoded.extend_from_slice(encoded);
    };
    let run = RUNNER.with_borrow_mut(|runner| runner.run(&script, case.setup, &mut sink));
    case.check(&run, &all);
    Corpus::Keep
});

/// All that came out. Many small allocations would make up most of the time.
#[derive(Default)]
struct Datagrams {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    encoded: Vec<u8>,
}

impl Datagrams {
    fn push(&mut self, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push(self.bytes.len());
    }

    fn each(&self) -> Vec<&[u8]> {
        let mut start = 0;
        self.ends.iter().map(|end| &self.bytes[std::mem::replace(&mut start, *end)..*end]).collect()
    }
}

struct Case {
    setup: Setup,
    never_blocks: bool,
    drains: bool,
    fails: bool,
    steps: Vec<Step>,
    payload: Vec<u8>,
}

impl Case {
    fn read(data: &[u8]) -> Option<Self> {
        let (&[framings, s1, s0, l1, l0, t1, t0, flags, steps], rest) = data.split_first_chunk()?;
        let number = |high, low| usize::from(u16::from_be_bytes([high, low]));
        let (steps, payload) = rest.split_at_checked(steps.into())?;
        let steps: Vec<Step> = steps.iter().copied().map(step).collect();
        let limit = if l1 | l0 == 0 { usize::MAX } else { number(l1, l0) };
        let payload = payload.repeat(times(payload.len(), limit, &steps, flags >> 3));
        let framing = |index: u8| FRAMINGS[usize::from(index) % FRAMINGS.len()];
        Some(Self {
            setup: Setup {
                framing: framing(framings),
                // As it is brought into the range.
                size: number(s1, s0).clamp(1, MAX_DATAGRAM),
                limit,
                out: framing(framings / 5),
                torn_at: number(t1, t0),
            },
            never_blocks: flags & 1 != 0,
            drains: flags & 2 != 0,
            fails: flags & 4 != 0,
            steps: enough(&steps, payload.len()),
            payload,
        })
    }

    /// Compares what became of the stream with what has to.
    fn check(&self, run: &Run, all: &Datagrams) {
        let Setup { framing, size, out, .. } = self.setup;
        assert!(!run.stalled, "a call did nothing, and there was something to do");
        let given: usize = run.reads.iter().sum();
        let stops = self.stops();
        assert!(given == self.payload.len() || stops, "it ended before the stream");
        assert!(run.failed.is_none() || self.fails, "an error from nowhere: {:?}", run.failed);
        assert!(run.failed.is_some() || !self.fails || stops, "the error was lost");
        let given = &self.payload[..given];

        let datagrams = all.each();
        let mut discarded = 0;
        if framing == Framing::Length {
            let (frames, rest) = frames(given);
            assert_eq!(datagrams, frames);
            discarded = rest;
        } else {
            assert!(all.bytes == given, "not what was read");
            assert!(datagrams.iter().all(|datagram| (1..=size).contains(&datagram.len())));
        }
        let before_last = &datagrams[..datagrams.len().saturating_sub(1)];
        let cut = datagrams.iter().filter(|datagram| datagram.len() == size && !ends_line(datagram)).count();
        match framing {
            Framing::Auto | Framing::Lines => {
                for datagram in &datagrams {
                    assert!(!datagram.contains(&b'\n') || ends_line(datagram), "a newline was at hand");
                }
                let quiet = self.steps.iter().filter(|step| **step == Step::Quiet).count();
                let early =
                    before_last.iter().filter(|datagram| datagram.len() < size && !ends_line(datagram));
                assert!(
                    early.count() <= if framing == Framing::Auto { quiet } else { 0 },
                    "an unfinished line went early"
                );
            }
            Framing::Blocks => {
                assert!(before_last.iter().all(|datagram| datagram.len() == size), "a short block");
            }
            Framing::Raw => {
                let mut rest = given;
                let reads = run.reads.iter().map(|len| rest.split_off(..*len).unwrap_or_default());
                let expected: Vec<&[u8]> = reads.flat_map(|read| read.chunks(size)).collect();
                assert_eq!(datagrams, expected);
            }
            _ => {}
        }

        if framing == Framing::Length && out == Framing::Length {
            assert!(all.encoded == given[..given.len() - discarded], "not the same stream again");
        }

        let stats = &run.stats;
        assert_eq!(stats.datagrams, datagrams.len() as u64);
        assert_eq!(stats.bytes, datagrams.iter().map(|datagram| datagram.len() as u64).sum::<u64>());
        assert_eq!(stats.errors, u64::from(discarded > 0));
        let line_by_line = matches!(framing, Framing::Auto | Framing::Lines);
        assert_eq!(stats.cut, if line_by_line { cut as u64 } else { 0 });
    }

    /// Compares what of a batch goes into another stream with what has to.
    fn check_batch(&self, batch: &Batch, encoded: &[u8], whole: usize) {
        let Setup { framing, limit, out, torn_at, .. } = self.setup;
        let (mut expected, mut untorn, mut last) = (Vec::new(), 0, 0);
        for datagram in batch.datagrams() {
            if out == Framing::Length {
                let len = u16::try_from(datagram.len()).expect("no datagram is longer");
                expected.extend(len.to_be_bytes());
            }
            expected.extend_from_slice(datagram);
            if out == Framing::Lines && !ends_line(datagram) {
                expected.push(b'\n');
            }
            if expected.len() <= torn_at {
                untorn = expected.len();
            }
            last = datagram.len();
        }
        assert!(encoded == expected, "not what the framing makes of it");
        assert_eq!(whole, untorn);
        if self.stops() {
            // From then on there is no limit.
            return;
        }
        let before_last = batch.bytes() - last;
        assert!(before_last == 0 || before_last < limit, "more than the limit");
        if matches!(framing, Framing::Auto | Framing::Lines) {
            let mut long = batch.datagrams().filter(|datagram| datagram.len() > limit);
            assert!(long.all(|line| !line[..line.len() - 1].contains(&b'\n')), "lines beyond the limit");
        }
    }

    fn stops(&self) -> bool {
        self.steps.contains(&Step::Stop)
    }
}

fn ends_line(datagram: &[u8]) -> bool {
    datagram.ends_with(b"\n")
}

/// What one byte of the input stands for: up to 191 bytes are there, or a power of two up to 65,536, or
/// none.
fn step(code: u8) -> Step {
    match code {
        0..0xc0 => Step::Bytes(usize::from(code).max(1)),
        0xc0..0xf0 => Step::Bytes(2 << ((code - 0xc0) / 3)),
        0xf0..0xf4 => Step::WouldBlock,
        0xf4..0xf8 => Step::Interrupted,
        0xf8..0xfc => Step::Quiet,
        0xfc.. => Step::Stop,
    }
}

/// How many bytes the steps let come.
fn bytes(steps: &[Step]) -> usize {
    steps.iter().map(|step| if let Step::Bytes(len) = step { *len } else { 0 }).sum()
}

/// How often a payload of `len` bytes comes: a power of two, but once if that is beyond reason.
fn times(len: usize, limit: usize, steps: &[Step], power: u8) -> usize {
    let grain = match bytes(steps) {
        0 => limit,
        sum => limit.min(sum.div_ceil(steps.len())),
    };
    let times = 1 << power;
    let len = len * times;
    if len <= LONGEST && len * (len / grain) <= MOVED { times } else { 1 }
}

/// The steps over and over, up to the end of `len` bytes; at least once.
fn enough(steps: &[Step], len: usize) -> Vec<Step> {
    match bytes(steps) {
        // None tells how the bytes come: all at once, after the steps.
        0 => steps.to_vec(),
        sum => steps.repeat(len.div_ceil(sum).max(1)),
    }
}

/// The datagrams of a stream in length framing, and how many bytes at its end make up none.
fn frames(mut stream: &[u8]) -> (Vec<&[u8]>, usize) {
    let mut frames = Vec::new();
    while let [high, low, rest @ ..] = stream {
        let len = usize::from(*high) * 256 + usize::from(*low);
        if rest.len() < len {
            break;
        }
        let (frame, rest) = rest.split_at(len);
        frames.push(frame);
        stream = rest;
    }
    (frames, stream.len())
}
