//! A thread that blocks in writes, behind a bounded queue: to pipes, terminals and devices whose readers may stall.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::poll::WRITE_TIMEOUT_AT_STOP;
use crate::relay::batch::Batch;
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;
use crate::relay::thread;
use crate::sys;

/// The capacity of the queue in bytes: frames, and what it keeps beside each of them.
const CAPACITY: usize = 4 << 20;

/// The bytes from which on a block of the queue takes no more frames. A block is freed once it is written.
const BLOCK: usize = 64 << 10;

/// The least timeout of the last writes when a stop was requested long ago.
const LEAST_WRITE_TIMEOUT: Duration = Duration::from_millis(50);

/// How often a wait for room looks for a stop request and for a reader that has stalled.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// An output with a thread of its own, which blocks in the writes: a reader that has stalled holds up that thread alone.
/// Several threads share it.
#[derive(Debug)]
pub(crate) struct WriterThread(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There are frames to write, or the queue is closed: for the thread.
    filled: Condvar,
    /// Frames are written, or the queue is closed.
    written: Condvar,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Block>,
    /// The bytes of the capacity in use: those of frames that are being written, too.
    used: usize,
    /// Datagrams that are not written whole.
    pending: usize,
    /// When the reader has last taken something, or was first asked to.
    progress: Instant,
    failure: Option<io::Error>,
    /// No more is written: after a failed write, or given up on.
    closed: bool,
    /// The thread waits.
    idle: bool,
    /// How many wait for the thread.
    waiting: usize,
    /// How many still send.
    senders: usize,
}

/// Whole frames back to back.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    datagrams: Vec<Lengths>,
}

/// The bytes of a frame, and those of its payload.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    frame: usize,
    payload: usize,
}

/// Datagrams, and their payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

impl Lengths {
    /// What the frame takes of the capacity.
    fn cost(self) -> usize {
        self.frame + size_of::<Self>()
    }
}

impl WriterThread {
    /// Starts the thread, which counts what it has written. `tell` is called when a write has failed.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub(crate) fn new(
        output: impl Write + Send + 'static,
        counters: Arc<Counters>,
        tell: fn(&io::Error),
    ) -> Result<Self, Error> {
        let state = State {
            queue: VecDeque::new(),
            used: 0,
            pending: 0,
            progress: Instant::now(),
            failure: None,
            closed: false,
            idle: false,
            waiting: 0,
            senders: 0,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() });
        let writer = shared.clone();
        thread::spawn("output".to_owned(), Box::new(move || writer.run(output, &counters, tell)))?;
        Ok(Self(shared))
    }

    /// Queues the datagrams of the batch that there is room for, and returns how many there is none for. It waits for
    /// room only while the reader has taken something within `patience`; at a stop, for the write timeout.
    pub(crate) fn push(&self, batch: &Batch, framing: Framing, patience: Duration, stop: &Stop) -> Count {
        let mut missed = Count::default();
        let mut state = self.0.lock();
        for datagram in batch.datagrams() {
            let added = framing.added(datagram);
            let lengths = Lengths { frame: datagram.len() + added.len(), payload: datagram.len() };
            let lacks_room = |state: &State| !state.closed && state.used + lengths.cost() > CAPACITY;
            while lacks_room(&state) && state.is_patient(patience, stop) {
                state = self.0.wait(state);
            }
            if state.closed {
                break;
            }
            if lacks_room(&state) {
                missed.datagrams += 1;
                missed.bytes += datagram.len() as u64;
                continue;
            }
            let block = state.block_for(lengths);
            if added.header {
                block.extend_from_slice(&Framing::header(datagram));
            }
            block.extend_from_slice(datagram);
            if added.newline {
                block.push(b'\n');
            }
            self.0.wake(&mut state);
        }
        missed
    }

    /// Waits until all is written, with the same patience, but for a moment at least. False if the reader has stalled.
    ///
    /// # Errors
    /// That of the first failed write, once.
    pub(crate) fn flush(&self, patience: Duration, stop: &Stop) -> io::Result<bool> {
        let least = Instant::now() + LEAST_WRITE_TIMEOUT;
        let mut state = self.0.lock();
        while state.pending > 0 && (state.is_patient(patience, stop) || Instant::now() < least) {
            state = self.0.wait(state);
        }
        state.failure.take().map_or(Ok(state.pending == 0), Err)
    }

    /// Gives up on a reader that has stalled, and returns how many datagrams are not written.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.0.lock();
        self.0.filled.notify_one();
        state.close()
    }

    /// Adds one who sends.
    pub(crate) fn add_sender(&self) {
        self.0.lock().senders += 1;
    }

    /// Removes one who sends. Whether it was the last.
    pub(crate) fn remove_sender(&self) -> bool {
        let mut state = self.0.lock();
        state.senders -= 1;
        state.senders == 0
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// Whether to wait on for the reader.
    fn is_patient(&self, patience: Duration, stop: &Stop) -> bool {
        match stop.elapsed() {
            Some(elapsed) => !patience.is_zero() && elapsed < WRITE_TIMEOUT_AT_STOP,
            None => self.progress.elapsed() < patience,
        }
    }

    /// The block that the next frame is to be appended to.
    fn block_for(&mut self, lengths: Lengths) -> &mut Vec<u8> {
        if self.pending == 0 {
            self.progress = Instant::now();
        }
        self.pending += 1;
        self.used += lengths.cost();
        let is_full = |block: &Block| block.bytes.len() + size_of_val(&block.datagrams[..]) >= BLOCK;
        if self.queue.back().is_none_or(is_full) {
            self.queue.push_back(Block::default());
        }
        let last = self.queue.len() - 1;
        let block = &mut self.queue[last];
        block.datagrams.push(lengths);
        &mut block.bytes
    }

    /// Frees the queue, and returns how many datagrams are not written.
    fn close(&mut self) -> usize {
        self.closed = true;
        self.queue = VecDeque::new();
        std::mem::take(&mut self.pending)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a moment for the thread to write something.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let waited = self.written.wait_timeout(state, LOOK_INTERVAL);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state
    }

    /// Wakes the thread if it waits.
    fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.idle) {
            self.filled.notify_one();
        }
    }

    /// The thread.
    fn run(&self, mut output: impl Write, counters: &Counters, tell: fn(&io::Error)) {
        while let Some(block) = self.next_block() {
            let Err(error) = self.write(&mut output, &block, counters) else { continue };
            tell(&error);
            counters.failed(1);
            let mut state = self.lock();
            if !state.closed {
                counters.gone(state.close() as u64);
                state.failure = Some(error);
            }
            self.written.notify_all();
            return;
        }
    }

    /// The next block to write; none once the queue is closed.
    fn next_block(&self) -> Option<Block> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(block) = state.queue.pop_front() {
                return Some(block);
            }
            state.idle = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
        }
    }

    fn write(&self, output: &mut impl Write, block: &Block, counters: &Counters) -> io::Result<()> {
        let (mut written, mut datagrams) = (0, &block.datagrams[..]);
        let mut end = 0;
        loop {
            let (mut whole, mut bytes, mut freed) = (0, 0, 0);
            while let Some((lengths, rest)) =
                datagrams.split_first().filter(|(first, _)| end + first.frame <= written)
            {
                (whole, bytes, freed) = (whole + 1, bytes + lengths.payload, freed + lengths.cost());
                end += lengths.frame;
                datagrams = rest;
            }
            {
                let mut state = self.lock();
                if state.closed {
                    return Ok(());
                }
                counters.passed(whole, bytes);
                state.pending -= whole;
                state.used -= freed;
                state.progress = Instant::now();
                if state.waiting > 0 {
                    self.written.notify_all();
                }
            }
            if datagrams.is_empty() {
                return Ok(());
            }
            let rest = &block.bytes[written..];
            match output.write(&rest[..rest.len().min(sys::PIPE_BUF)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::relay::stats::{Direction, Meter, Registry};

    fn meter() -> (Registry, Meter) {
        let registry = Registry::default();
        let meter = registry.endpoint("pipe", Direction::Out);
        (registry, meter)
    }

    fn writer(output: impl Write + Send + 'static, counters: Arc<Counters>) -> WriterThread {
        WriterThread::new(output, counters, |_| {}).unwrap()
    }

    fn batch(payloads: &[&[u8]]) -> Batch {
        let mut batch = Batch::with_capacity(payloads.iter().map(|payload| payload.len()).sum());
        for payload in payloads {
            batch.spare()[..payload.len()].copy_from_slice(payload);
            batch.push(payload.len());
        }
        batch
    }

    /// Datagrams passed, missed and gone.
    fn counts(registry: &Registry) -> (u64, u64, u64) {
        let stats = registry.snapshot();
        (stats.sent(), stats.missed(), stats.gone())
    }

    #[test]
    fn whole_frames_are_written_and_what_there_is_no_room_for_is_missed() {
        let (mut reader, output) = std::io::pipe().unwrap();
        let (registry, meter) = meter();
        let (writer, stop) = (writer(output, meter.counters()), Stop::new().unwrap());
        let payload = [b'x'; 1000];
        let batch = batch(&[&payload[..]; 1000]);
        let mut missed = Count::default();
        for _ in 0..6 {
            let now = writer.push(&batch, Framing::Length, Duration::ZERO, &stop);
            assert_eq!(now.bytes, 1000 * now.datagrams);
            missed.datagrams += now.datagrams;
        }
        // About 4 MiB are queued, and a pipe holds 64 KiB or less.
        assert!((1_600..2_000).contains(&missed.datagrams), "{missed:?}");
        let reading = std::thread::spawn(move || {
            let mut written = Vec::new();
            reader.read_to_end(&mut written).map(|_| written)
        });
        assert!(writer.flush(Duration::from_secs(30), &stop).unwrap());
        assert_eq!(counts(&registry), (6000 - missed.datagrams, 0, 0));
        let state = writer.0.lock();
        assert_eq!((state.used, state.pending, state.queue.len()), (0, 0, 0));
        drop(state);
        drop(writer);
        let written = reading.join().unwrap().unwrap();
        assert!(written.chunks(1002).all(|frame| frame[..2] == [3, 232] && frame[2..] == payload));
        assert_eq!(written.len() as u64, 1002 * (6000 - missed.datagrams));
    }

    #[test]
    fn a_patient_sender_waits_while_the_reader_reads() {
        let (mut reader, output) = std::io::pipe().unwrap();
        let (writer, stop) = (writer(output, meter().1.counters()), Stop::new().unwrap());
        let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        let (payload, patience) = (vec![0; 60_000], Duration::from_secs(30));
        for _ in 0..400 {
            assert_eq!(
                writer.push(&batch(&[&payload[..]]), Framing::Auto, patience, &stop),
                Count::default()
            );
        }
        assert!(writer.flush(patience, &stop).unwrap());
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), 400 * 60_000);
    }

    #[test]
    fn a_reader_that_has_stalled_is_given_up_on_at_a_stop() {
        let (mut reader, output) = std::io::pipe().unwrap();
        let (registry, meter) = meter();
        let (writer, stop) = (writer(output, meter.counters()), Stop::new().unwrap());
        let patience = Duration::MAX;
        writer.push(&batch(&[&[0; 1000][..]; 1000]), Framing::Auto, patience, &stop);
        let stopping = stop.clone();
        let stopper = std::thread::spawn(move || stopping.request());
        assert!(!writer.flush(patience, &stop).unwrap());
        stopper.join().unwrap();
        let (left, (passed, ..)) = (writer.close(), counts(&registry));
        assert!(left > 0 && left as u64 + passed == 1000, "{left} {passed}");
        // With room in the pipe the thread ends, and closes it.
        let mut rest = Vec::new();
        assert!(reader.read_to_end(&mut rest).unwrap() as u64 >= 1000 * passed);
    }

    #[test]
    fn a_closed_pipe_is_an_error_and_nothing_waits_for_it() {
        let (reader, output) = std::io::pipe().unwrap();
        drop(reader);
        let (registry, meter) = meter();
        let (writer, stop) = (writer(output, meter.counters()), Stop::new().unwrap());
        writer.push(&batch(&[b"one", b""]), Framing::Auto, Duration::MAX, &stop);
        let error = writer.flush(Duration::MAX, &stop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(counts(&registry), (0, 0, 2));
        writer.push(&batch(&[b"two"]), Framing::Auto, Duration::MAX, &stop);
        assert!(writer.flush(Duration::MAX, &stop).unwrap());
    }
}
