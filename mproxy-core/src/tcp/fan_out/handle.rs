//! The handle of a fan-out: what other threads hand over to it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::relay::flow::PolledSource;
use crate::sys::PollSet;
use crate::tcp::connection::Connection;
use crate::tcp::places::Permit;

/// Hands clients and sources over to a fan-out. Clones are the same fan-out's.
#[derive(Clone)]
pub struct FanOutHandle {
    set: Arc<PollSet>,
    inbox: Arc<Mutex<Inbox>>,
    clients: Arc<AtomicUsize>,
    /// How many sources there have been.
    sources: Arc<AtomicU64>,
}

/// A source of a fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceId(u64);

/// What was handed over and not taken yet.
#[derive(Default)]
struct Inbox {
    messages: Vec<Message>,
    /// The fan-out has ended: nobody takes anything any more.
    is_closed: bool,
}

/// What is handed over.
pub(super) enum Message {
    Client(Box<dyn Connection>, SocketAddr, Permit),
    /// The client at this index gives way, if it is still the one with this id.
    Remove(usize, u64),
    Source(SourceId, Box<dyn PolledSource + Send>),
    RemoveSource(SourceId),
}

impl fmt::Debug for FanOutHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOutHandle").field("clients", &self.clients).finish_non_exhaustive()
    }
}

impl FanOutHandle {
    pub(super) fn new(set: Arc<PollSet>) -> Self {
        Self { set, inbox: Arc::default(), clients: Arc::default(), sources: Arc::default() }
    }

    /// Adds a client, which gets what is received from now on. After the fan-out's end it is closed at once.
    pub fn add_client(&self, connection: Box<dyn Connection>, peer: SocketAddr, permit: Permit) {
        let mut inbox = self.lock();
        if inbox.is_closed {
            return;
        }
        inbox.messages.push(Message::Client(connection, peer, permit));
        // At once: whoever shares out a burst of clients among several looks at the count each time. Not before the push:
        // whoever is counted gets everything.
        self.clients.fetch_add(1, Ordering::Relaxed);
        drop(inbox);
        self.set.wake();
    }

    /// Adds a source. After the fan-out's end it is dropped.
    #[allow(clippy::must_use_candidate)]
    pub fn add_source(&self, source: Box<dyn PolledSource + Send>) -> SourceId {
        let id = self.next_source();
        self.send(Message::Source(id, source));
        id
    }

    /// Removes a source, once it is [drained](crate::Source::drain): what it has received is handed out before. The last
    /// one ends the fan-out.
    pub fn remove_source(&self, id: SourceId) {
        self.send(Message::RemoveSource(id));
    }

    /// How many clients are served, those included that were handed over just now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    pub(super) fn next_source(&self) -> SourceId {
        SourceId(self.sources.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn remove(&self, index: usize, id: u64) {
        self.send(Message::Remove(index, id));
    }

    pub(super) fn count(&self) -> Arc<AtomicUsize> {
        self.clients.clone()
    }

    /// Takes all that was handed over since the last time.
    pub(super) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.lock().messages)
    }

    /// Has everything dropped that is handed over from now on, and what was not taken yet.
    pub(super) fn close(&self) {
        let mut inbox = self.lock();
        inbox.is_closed = true;
        let left = std::mem::take(&mut inbox.messages);
        drop(inbox);
        let clients = left.iter().filter(|message| matches!(message, Message::Client(..))).count();
        self.clients.fetch_sub(clients, Ordering::Relaxed);
    }

    fn send(&self, message: Message) {
        let mut inbox = self.lock();
        if !inbox.is_closed {
            inbox.messages.push(message);
            self.set.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use crate::net::endpoint::{Endpoint, Role};
    use crate::net::options::Options;
    use crate::relay::flow::relay;
    use crate::relay::stats::{Direction, Registry};
    use crate::relay::stop::Stop;
    use crate::tcp::fan_out::FanOut;
    use crate::tcp::label::Label;
    use crate::tcp::places::Places;
    use crate::tcp::transport::{Plain, Transport};
    use crate::udp::source::UdpSource;

    #[test]
    fn sources_come_and_go_and_nothing_is_lost() {
        let (options, stop) = (Options::new(), Stop::new().unwrap());
        let registry = Registry::default();
        let listen = || {
            let any = Endpoint::parse("127.0.0.1:0", Role::UdpListener).unwrap().resolve(&options).unwrap();
            let meter = registry.endpoint("input", Direction::In);
            let source = UdpSource::open(&any, &options, &meter, &stop).unwrap().remove(0);
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.connect(source.local_addr().unwrap()).unwrap();
            (source, sender)
        };
        let meter = registry.endpoint("clients", Direction::Out);
        let mut fan_out = FanOut::new(&options, Label::new(false, &Plain), &meter, &stop).unwrap();
        let ((source, first), (later, second)) = (listen(), listen());
        let first_id = fan_out.add_source(Box::new(source)).unwrap();
        let handle = fan_out.handle();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let connection = Plain.begin(stream).unwrap().into_connection();
        handle.add_client(connection, peer, Places::new(1).acquire().unwrap());
        let mut expect = |text: &str| {
            let mut received = vec![0; text.len()];
            client.read_exact(&mut received).unwrap();
            assert_eq!(received, text.as_bytes());
        };
        let running = stop.clone();
        let thread = std::thread::spawn(move || relay(&mut fan_out, &mut Vec::new(), &running));

        first.send(b"1").unwrap();
        expect("1");
        let second_id = handle.add_source(Box::new(later));
        assert_ne!(first_id, second_id);
        second.send(b"2").unwrap();
        expect("2");
        for _ in 0..100 {
            first.send(b"a").unwrap();
        }
        handle.remove_source(first_id);
        expect(&"a".repeat(100));
        second.send(b"3").unwrap();
        expect("3");
        // With the last one it ends, and closes the clients.
        handle.remove_source(second_id);
        thread.join().unwrap().unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}
