//! Byte streams as a source of datagrams: files, pipes, terminals and TCP connections.

use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::io::framing::Framing;
use crate::io::framing::MAX_FRAME;
use crate::io::poll::Input;
use crate::io::poll::Wait;
use crate::log;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::limits::{MAX_DATAGRAM, OFFLOADED, READ};
use crate::relay::stats::Counters;
use crate::relay::stop::Stop;
use crate::sys;

/// Cuts a byte stream into datagrams.
#[derive(Debug)]
pub struct StreamSource<R> {
    input: R,
    name: String,
    framing: Framing,
    size: usize,
    /// What was read and not passed on: an unfinished datagram or, at a limited rate, what is not due.
    held: Vec<u8>,
    /// Set while only what the input already holds is read.
    draining: bool,
    never_blocks: bool,
    end: Option<End>,
    overlong: log::LogLimiter,
    stop: Stop,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum End {
    /// End of input, or of what was to be drained.
    Clean,
    Failed(io::Error),
}

impl<R: Input> StreamSource<R> {
    /// One read behind what is held, which never is more than one read.
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
            held: Vec::new(),
            draining: false,
            end: None,
            overlong: log::LogLimiter::default(),
            stop: stop.clone(),
            counters,
        }
    }

    /// Reads once behind what is held; none if the time for the rest of a datagram is over.
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

    /// How many bytes are worth having at once: whole datagrams that fill whole offloaded sends, and at a
    /// limited rate no more than is due.
    fn worthwhile(&self, limit: usize) -> usize {
        let due = MAX_DATAGRAM.min(limit).max(self.size);
        let whole = due / self.size;
        match self.framing {
            Framing::Auto | Framing::Lines => due,
            Framing::Blocks if whole > OFFLOADED => whole / OFFLOADED * OFFLOADED * self.size,
            Framing::Blocks | Framing::Raw => whole * self.size,
            Framing::Length => MAX_FRAME,
        }
    }

    #[cold]
    fn torn_line(&mut self) {
        self.counters.cut();
        // With others it may as well be binary data.
        if self.framing == Framing::Lines && self.overlong.permits() {
            log::info(format_args!("{}: a line longer than {} bytes is cut", self.name, self.size));
        }
    }

    #[cold]
    fn torn_frame(&mut self) {
        let message = format!("{}: ends inside a frame: {} bytes discarded", self.name, self.held.len());
        self.held.clear();
        self.counters.failed(1);
        if self.draining {
            // That was not the stream's doing.
            log::info(format_args!("{message}"));
        } else {
            log::warn(format_args!("{message}"));
        }
    }

    fn wait(&self) -> io::Result<Wait> {
        if self.draining || self.never_blocks {
            return Ok(Wait::Ready);
        }
        let patience = if self.held.is_empty() { None } else { self.framing.patience() };
        Ok(self.input.wait(patience, &self.stop)?.0)
    }
}

impl<R: Input> Source for StreamSource<R> {
    fn capacity(&self) -> usize {
        Self::CAPACITY
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        let limit = batch.limit();
        let (framing, size) = (self.framing, self.size);
        let next = |bytes: &[u8], last| framing.next(bytes, size, limit, last);
        let mut filled = self.held.len();
        let area = batch.spare();
        area[..filled].copy_from_slice(&self.held);
        let mut last = false;
        if self.end.is_none() && next(&area[..filled], false).is_none() {
            let room = self.worthwhile(limit).saturating_sub(filled).max(1);
            match self.read(&mut area[filled..filled + room]) {
                Some(len) => filled += len,
                None => last = true,
            }
        }
        last |= self.end.is_some();
        let mut start = 0;
        while start < limit
            && let Some(cut) = next(&batch.spare()[..filled - start], last)
        {
            batch.skip(cut.header);
            batch.push_coalesced(cut.len, cut.each);
            start += cut.header + cut.len;
            if cut.torn {
                self.torn_line();
            }
        }
        self.counters.passed(batch.count(), batch.bytes());
        self.held.clear();
        self.held.extend_from_slice(&batch.spare()[..filled - start]);
        if framing == Framing::Length
            && self.end.is_some()
            && !self.held.is_empty()
            && next(&self.held, true).is_none()
        {
            self.torn_frame();
        }
        match self.end.take() {
            None => Ok(Flow::More),
            // What was read before the end, or the error, goes out first.
            Some(end) if !self.held.is_empty() || matches!(end, End::Failed(_)) && !batch.is_empty() => {
                self.end = Some(end);
                Ok(Flow::More)
            }
            Some(End::Clean) => Ok(Flow::End),
            Some(End::Failed(error)) => Err(Error::io("read", &self.name, error)),
        }
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        let goes_on = self.input.hold();
        if !goes_on {
            self.end.get_or_insert(End::Clean);
        }
        !goes_on
    }
}

#[cfg(unix)]
#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::io::{PipeReader, Write};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::relay::stats::{Direction, Registry};

    pub(crate) fn source(input: PipeReader, framing: Framing) -> (StreamSource<File>, Stop) {
        let stop = Stop::new().unwrap();
        let counters = Registry::default().endpoint("test", Direction::In).counters();
        (
            StreamSource::new(
                File::from(OwnedFd::from(input)),
                "test".to_owned(),
                framing,
                8,
                &stop,
                counters,
            ),
            stop,
        )
    }

    pub(crate) fn receive(source: &mut dyn Source) -> (Vec<Vec<u8>>, Flow) {
        let mut batch = Batch::with_capacity(source.capacity());
        let flow = source.receive(&mut batch).unwrap();
        (batch.datagrams().map(<[u8]>::to_vec).collect(), flow)
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
