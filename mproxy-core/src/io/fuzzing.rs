//! Private parts for the fuzz targets in `fuzz/`; only built with `--cfg fuzzing`.
//!
//! It judges nothing: a target compares what comes out with a reference of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::poll::{Input, Wait};
use crate::io::stream::StreamSource;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::stats::{Direction, EndpointStats, Registry};
use crate::relay::stop::Stop;

/// What an input does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This many bytes are there at once; a read may take them in parts. None is left out.
    Bytes(usize),
    /// It looks ready, but a read finds nothing.
    WouldBlock,
    /// A read is interrupted.
    Interrupted,
    /// Nothing comes for longer than anybody waits.
    Quiet,
    /// A stop is requested.
    Stop,
}

/// What comes after the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The end of input.
    Closed,
    /// A read error.
    Failed,
}

/// An input that follows a script. Bytes that the steps leave over come at once after them.
#[derive(Debug)]
pub struct Script<'a> {
    /// All that can be read.
    pub bytes: &'a [u8],
    /// How it can be read.
    pub steps: &'a [Step],
    /// What follows.
    pub ending: Ending,
    /// Whether it is never waited for, like a regular file.
    pub never_blocks: bool,
    /// Whether a drain gives what has arrived, like that of a socket.
    pub drains: bool,
}

/// How a stream is relayed.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// How it is cut.
    pub framing: Framing,
    /// The datagram size.
    pub size: usize,
    /// The batch limit up to a stop, not 0.
    pub limit: usize,
    /// How the datagrams go into another stream, ...
    pub out: Framing,
    /// ... of which only so many bytes of each batch are written: the last datagram may be partial.
    pub torn_at: usize,
}

/// How a stream ended.
#[derive(Debug)]
pub struct Run {
    /// How many bytes each successful read gave.
    pub reads: Vec<usize>,
    /// What was counted.
    pub stats: EndpointStats,
    /// The error that it ended with.
    pub failed: Option<Error>,
    /// It was given up: a call did nothing and would do so forever.
    pub stalled: bool,
}

/// Runs scripts one after another, with the parts that are costly to make.
#[derive(Debug)]
pub struct Runner {
    stop: Stop,
    batch: Batch,
}

impl Runner {
    /// A runner for any number of scripts.
    ///
    /// # Errors
    /// If the process has run out of descriptors.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { stop: Stop::new()?, batch: Batch::with_capacity(StreamSource::<&Player<'_>>::CAPACITY) })
    }

    /// Runs a [`StreamSource`] to its end, as [`relay`](crate::relay::relay) does.
    ///
    /// The sink gets each batch that is not empty, its bytes in another stream, and how many of those make up whole
    /// datagrams if only `torn_at` are written.
    pub fn run(
        &mut self,
        script: &Script<'_>,
        setup: Setup,
        sink: &mut dyn FnMut(&Batch, &[u8], usize),
    ) -> Run {
        let Self { stop, batch } = self;
        let Setup { framing, size, limit, out, torn_at } = setup;
        let player = Player::new(script);
        let registry = Registry::default();
        let meter = registry.endpoint("script", Direction::In);
        let mut source =
            StreamSource::new(&player, "script".to_owned(), framing, size, stop, meter.counters());
        let (mut failed, mut stalled, mut draining) = (None, false, false);
        batch.set_limit(limit);
        while !stalled {
            batch.clear();
            let before = player.moves.get();
            let flow = match source.receive(batch) {
                Ok(flow) => flow,
                // Whatever the batch holds is lost.
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            if !batch.is_empty() {
                let mut headers = Vec::new();
                let mut encoded = Vec::new();
                for slice in out.slices(batch, &mut headers) {
                    encoded.extend_from_slice(&slice);
                }
                sink(batch, &encoded, out.whole_datagrams_len(batch, torn_at.min(encoded.len())));
            }
            if flow == Flow::End {
                break;
            }
            stalled = batch.is_empty() && player.moves.get() == before;
            if player.stopped.get() && !draining {
                draining = true;
                source.drain();
                // So does pacing.
                batch.set_limit(usize::MAX);
            }
        }
        drop(source);
        let stats = registry.snapshot().endpoints.swap_remove(0);
        Run { reads: player.reads.into_inner(), stats, failed, stalled }
    }
}

/// Where a script is.
#[derive(Debug)]
struct Player<'a> {
    script: &'a Script<'a>,
    /// Steps that are done, ...
    step: Cell<usize>,
    /// ... and bytes read in the current one.
    step_bytes: Cell<usize>,
    /// Bytes that were read in all.
    read_bytes: Cell<usize>,
    /// How often anything changed.
    moves: Cell<usize>,
    stopped: Cell<bool>,
    reads: RefCell<Vec<usize>>,
}

impl<'a> Player<'a> {
    fn new(script: &'a Script<'a>) -> Self {
        Self {
            script,
            step: Cell::new(0),
            step_bytes: Cell::new(0),
            read_bytes: Cell::new(0),
            moves: Cell::new(0),
            stopped: Cell::new(false),
            reads: RefCell::default(),
        }
    }

    fn now(&self) -> Step {
        self.script.steps.get(self.step.get()).copied().unwrap_or(Step::Bytes(usize::MAX))
    }

    fn done(&self) {
        self.step.set(self.step.get() + 1);
        self.step_bytes.set(0);
        self.moved();
    }

    fn moved(&self) {
        self.moves.set(self.moves.get() + 1);
    }

    fn stop(&self) {
        self.stopped.set(true);
        self.done();
    }
}

impl Input for &Player<'_> {
    fn read(&mut self, area: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.now() {
                Step::Bytes(len) => {
                    self.moved();
                    let rest = &self.script.bytes[self.read_bytes.get()..];
                    if rest.is_empty() {
                        return match self.script.ending {
                            Ending::Closed => Ok(0),
                            Ending::Failed => Err(io::ErrorKind::ConnectionReset.into()),
                        };
                    }
                    let left = len.saturating_sub(self.step_bytes.get());
                    let now = left.min(rest.len()).min(area.len());
                    if left == 0 {
                        self.done();
                        continue;
                    }
                    area[..now].copy_from_slice(&rest[..now]);
                    self.read_bytes.set(self.read_bytes.get() + now);
                    self.step_bytes.set(self.step_bytes.get() + now);
                    self.reads.borrow_mut().push(now);
                    if now == left {
                        self.done();
                    }
                    return Ok(now);
                }
                Step::WouldBlock => {
                    self.done();
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Step::Interrupted => {
                    self.done();
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Step::Quiet if self.stopped.get() => {
                    self.done();
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Step::Quiet => self.done(),
                Step::Stop => self.stop(),
            }
        }
    }

    fn wait(&self, timeout: Option<Duration>, _: &Stop) -> io::Result<Wait> {
        loop {
            match self.now() {
                _ if self.stopped.get() => return Ok(Wait::Stopped),
                Step::Quiet => {
                    self.done();
                    if timeout.is_some() {
                        return Ok(Wait::TimedOut);
                    }
                }
                Step::Stop => {
                    self.stop();
                    return Ok(Wait::Stopped);
                }
                Step::Bytes(_) | Step::WouldBlock | Step::Interrupted => return Ok(Wait::Ready),
            }
        }
    }

    fn never_blocks(&self) -> bool {
        self.script.never_blocks
    }

    fn begin_drain(&self) -> bool {
        self.script.drains
    }
}
