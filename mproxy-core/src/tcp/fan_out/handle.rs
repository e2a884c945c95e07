//! The handle of a fan-out: what other threads hand over to it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
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
}

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
    Source(Box<dyn PolledSource + Send>),
}

impl fmt::Debug for FanOutHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOutHandle").field("clients", &self.clients).finish_non_exhaustive()
    }
}

impl FanOutHandle {
    pub(super) fn new(set: Arc<PollSet>) -> Self {
        Self { set, inbox: Arc::default(), clients: Arc::default() }
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
    pub fn add_source(&self, source: Box<dyn PolledSource + Send>) {
        self.send(Message::Source(source));
    }

    /// How many clients are served, those included that were handed over just now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
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
