//! Byte streams as a source of datagrams: files, pipes, terminals and TCP connections.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::io::framing::{Framing, MAX_FRAME};
use crate::io::poll::{Input, Wait};
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::limits::{MAX_DATAGRAM, OFFLOADED, READ};
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;

/// Cuts a byte stream into datagrams.
pub struct StreamSource<R> {
    input: R,
    name: String,
    framing: Framing,
    size: usize,
    /// Bytes that were read and not passed on: an unfinished datagram or, at a limited rate, those not yet due.
    pending: Vec<u8>,
    /// After a stop request: only bytes that have already arrived are read.
    draining: bool,
    never_blocks: bool,
    end: Option<End>,
    long_line_log: log::LogLimiter,
    stop: Stop,
    counters: Arc<Counters>,
}

/// How a stream ended.
#[derive(Debug)]
enum End {
    /// End of input, or of a drain.
    Clean,
    Failed(io::Error),
}

impl<R> fmt::Debug for StreamSource<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSource")
            .field("name", &self.name)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl<R: Input> StreamSource<R> {
    /// One read behind the pending bytes, which never are more than one read.
    pub(crate) const CAPACITY: usize = 2 * READ;

    /// Reads `input`, which messages call `name`, and cuts datagrams of at most `size` bytes.
    ///
    /// The size must be from 1 to [`MAX_DATAGRAM`]; it is brought into that range.
    pub fn new(
        input: R,
        name: String,
        framing: Framing,
        size: usize,
        stop: &Stop,
        counters: Arc<Counters>,
    ) -> Self {
        let size = size.clamp(1, MAX_DATAGRAM);
        Self {
            never_blocks: input.never_blocks(),
            input,
            name,
            framing,
            size,
            pending: Vec::new(),
            draining: false,
            end: None,
            long_line_log: log::LogLimiter::default(),
            stop: stop.clone(),
            counters,
        }
    }

    /// Reads once behind the pending bytes; none if the flush timeout is over.
    fn read(&mut self, area: &mut [u8]) -> Option<usize> {
        let result = self.wait().and_then(|wait| match wait {
            Wait::Ready => self.input.read(area).map(Some),
            Wait::TimedOut => Ok(None),
            Wait::Stopped => Err(io::ErrorKind::Interrupted.into()),
        });
        match result {
            Ok(Some(0)) => self.end = Some(End::Clean),
            Ok(read) => return read,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock if self.draining => self.end = Some(End::Clean),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.end = Some(End::Failed(error)),
            },
        }
        Some(0)
    }

    fn wait(&self) -> io::Result<Wait> {
        if self.draining || self.never_blocks {
            return Ok(Wait::Ready);
        }
        let timeout = if self.pending.is_empty() { None } else { self.framing.flush_timeout() };
        self.input.wait(timeout, &self.stop)
    }

    /// The number of bytes to have for one batch: whole datagrams that fill whole offloaded sends, and at a limited
    /// rate no more than are due.
    fn fill_len(&self, limit: usize) -> usize {
        let due = MAX_DATAGRAM.min(limit).max(self.size);
        let datagrams = due / self.size;
        match self.framing {
            Framing::Auto | Framing::Lines => due,
            Framing::Blocks if datagrams > OFFLOADED => datagrams / OFFLOADED * OFFLOADED * self.size,
            Framing::Blocks | Framing::Raw => datagrams * self.size,
            Framing::Length => MAX_FRAME,
        }
    }

    #[cold]
    fn count_cut_line(&mut self) {
        self.counters.cut();
        // In other framings it may as well be binary data.
        if self.framing == Framing::Lines && self.long_line_log.permits() {
            log::info(format_args!("{}: a line longer than {} bytes is cut", self.name, self.size));
        }
    }

    #[cold]
    fn discard_partial_frame(&mut self) {
        let message = format!("{}: ends inside a frame: {} bytes discarded", self.name, self.pending.len());
        self.pending.clear();
        self.counters.failed(1);
        if self.draining {
            // The stop ended the stream, not its writer.
            log::info(format_args!("{message}"));
        } else {
            log::warn(format_args!("{message}"));
        }
    }
}

impl<R: Input> Source for StreamSource<R> {
    fn capacity(&self) -> usize {
        Self::CAPACITY
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        let limit = batch.limit();
        let (framing, size) = (self.framing, self.size);
        let next_frame = |bytes: &[u8], flush| framing.next_frame(bytes, size, limit, flush);
        let mut filled = self.pending.len();
        let area = batch.spare();
        area[..filled].copy_from_slice(&self.pending);
        let mut flush = false;
        if self.end.is_none() && next_frame(&area[..filled], false).is_none() {
            let room = self.fill_len(limit).saturating_sub(filled).max(1);
            match self.read(&mut area[filled..filled + room]) {
                Some(len) => filled += len,
                None => flush = true,
            }
        }
        flush |= self.end.is_some();
        let mut start = 0;
        while start < limit
            && let Some(frame) = next_frame(&batch.spare()[..filled - start], flush)
        {
            batch.skip(frame.header);
            batch.push_coalesced(frame.len, frame.segment);
            start += frame.header + frame.len;
            if frame.cuts_line {
                self.count_cut_line();
            }
        }
        self.counters.passed(batch.count(), batch.bytes());
        self.pending.clear();
        self.pending.extend_from_slice(&batch.spare()[..filled - start]);
        if framing == Framing::Length
            && self.end.is_some()
            && !self.pending.is_empty()
            && next_frame(&self.pending, true).is_none()
        {
            self.discard_partial_frame();
        }
        match self.end.take() {
            None => Ok(Flow::More),
            // Bytes that were read before the end, or the error, go out first.
            Some(end) if !self.pending.is_empty() || matches!(end, End::Failed(_)) && !batch.is_empty() => {
                self.end = Some(end);
                Ok(Flow::More)
            }
            Some(End::Clean) => Ok(Flow::End),
            Some(End::Failed(error)) => Err(Error::io("read", &self.name, error)),
        }
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        let more = self.input.begin_drain();
        if !more {
            self.end.get_or_insert(End::Clean);
        }
        !more
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{PipeReader, Write};

    use super::*;
    use crate::io::input::pollable;
    use crate::relay::stats::{Direction, Registry};
    use crate::sys::pipe_file;

    /// A pipe as a source of datagrams of at most 8 bytes.
    pub(crate) fn source(input: PipeReader, framing: Framing) -> (StreamSource<Box<dyn Input + Send>>, Stop) {
        let stop = Stop::new().unwrap();
        let counters = Registry::default().endpoint("test", Direction::In).counters();
        let input = pollable(pipe_file(input), 8).unwrap();
        (StreamSource::new(input, "test".to_owned(), framing, 8, &stop, counters), stop)
    }

    /// What one receive gives.
    pub(crate) fn receive(source: &mut dyn Source) -> (Vec<Vec<u8>>, Flow) {
        let mut batch = Batch::with_capacity(source.capacity());
        let flow = source.receive(&mut batch).unwrap();
        (batch.datagrams().map(<[u8]>::to_vec).collect(), flow)
    }

    /// What comes up to the end.
    pub(crate) fn receive_all(source: &mut dyn Source) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let (datagrams, flow) = receive(source);
            all.extend(datagrams);
            if flow == Flow::End {
                return all;
            }
        }
    }

    #[test]
    fn an_unfinished_line_goes_as_it_is_when_nothing_follows() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (mut source, _stop) = source(reader, Framing::Auto);
        writer.write_all(b"ab\ncd").unwrap();
        assert_eq!(receive(&mut source), (vec![b"ab\n".to_vec()], Flow::More));
        assert_eq!(receive(&mut source), (vec![b"cd".to_vec()], Flow::More));
        drop(writer);
        assert_eq!(receive(&mut source), (vec![], Flow::End));
    }

    #[test]
    fn the_end_of_input_and_a_stop_both_release_an_unfinished_line() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (mut at_end, _stop) = source(reader, Framing::Lines);
        writer.write_all(b"ab").unwrap();
        assert_eq!(receive(&mut at_end), (vec![], Flow::More));
        drop(writer);
        assert_eq!(receive(&mut at_end), (vec![b"ab".to_vec()], Flow::End));

        let (reader, mut writer) = std::io::pipe().unwrap();
        let (mut stopped, stop) = source(reader, Framing::Lines);
        writer.write_all(b"ab").unwrap();
        assert_eq!(receive(&mut stopped), (vec![], Flow::More));
        stop.request();
        assert_eq!(receive(&mut stopped), (vec![], Flow::More));
        stopped.drain();
        assert_eq!(receive(&mut stopped), (vec![b"ab".to_vec()], Flow::End));
    }
}
