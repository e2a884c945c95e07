//! Byte streams as a source of datagrams: files, pipes, terminals and TCP connections.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::io::deframer::Deframer;
use crate::io::framing::Framing;
use crate::io::poll::{Input, Wait};
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;

/// Cuts a byte stream into datagrams.
pub struct StreamSource<R> {
    input: R,
    name: String,
    deframer: Deframer,
    /// After a stop request: only bytes that have already arrived are read.
    draining: bool,
    never_blocks: bool,
    end: Option<End>,
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
            .field("framing", &self.deframer.framing())
            .finish_non_exhaustive()
    }
}

impl<R: Input> StreamSource<R> {
    pub(crate) const CAPACITY: usize = Deframer::CAPACITY;

    /// Reads `input`, which messages call `name`, and cuts datagrams of at most `size` bytes.
    ///
    /// The size must be from 1 to [`MAX_DATAGRAM`](crate::MAX_DATAGRAM); it is brought into that range.
    pub fn new(
        input: R,
        name: String,
        framing: Framing,
        size: usize,
        stop: &Stop,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            never_blocks: input.never_blocks(),
            input,
            name,
            deframer: Deframer::new(framing, size),
            draining: false,
            end: None,
            stop: stop.clone(),
            counters,
        }
    }

    /// Reads once into the batch, behind the pending bytes; none if the flush timeout is over.
    fn read(&mut self, batch: &mut Batch) -> Option<usize> {
        let limit = batch.limit();
        let result = self.wait().and_then(|wait| match wait {
            Wait::Ready => self.input.read(self.deframer.room(batch, limit)).map(Some),
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
        let timeout = if self.deframer.is_empty() { None } else { self.deframer.framing().flush_timeout() };
        self.input.wait(timeout, &self.stop)
    }
}

impl<R: Input> Source for StreamSource<R> {
    fn capacity(&self) -> usize {
        Self::CAPACITY
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        let reads = self.end.is_none() && !self.deframer.has_datagram();
        let read = if reads { self.read(batch) } else { Some(0) };
        let flush = read.is_none() || self.end.is_some();
        let limit = batch.limit();
        self.deframer.cut(batch, read.unwrap_or(0), flush, limit, &self.name, &self.counters);
        self.counters.passed(batch.count(), batch.bytes());
        if self.end.is_some() {
            self.deframer.discard_partial_frame(self.draining, &self.name, &self.counters);
        }
        match self.end.take() {
            None => Ok(Flow::More),
            // Bytes that were read before the end, or the error, go out first.
            Some(end) if !self.deframer.is_empty() || matches!(end, End::Failed(_)) && !batch.is_empty() => {
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
