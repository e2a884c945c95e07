//! The readiness of many sockets, waited for at once: epoll, kqueue, and Windows's AFD, by way of
//! [polling](https://docs.rs/polling). It takes the sockets of the standard library on all of them, has level-triggered
//! events there, and its wait can be ended by another thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use polling::{AsRawSource, AsSource, Event, PollMode, Poller};

/// A set of sockets that one thread waits for.
#[derive(Debug)]
pub struct PollSet(Poller);

/// What became ready during a wait.
pub(crate) struct Events(polling::Events);

/// What to be told of a socket. Errors and the end of both directions are told as both, on most systems whatever the
/// interest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Interest {
    pub(crate) const NONE: Self = Self { read: false, write: false };
    pub(crate) const READ: Self = Self { read: true, write: false };
    pub(crate) const WRITE: Self = Self { read: false, write: true };

    fn event(self, key: usize) -> Event {
        Event::new(key, self.read, self.write)
    }
}

impl PollSet {
    /// An empty set.
    ///
    /// # Errors
    /// If the process has run out of descriptors.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Poller::new().map(|poller| Arc::new(Self(poller)))
    }

    /// Adds a socket to read from, under a key of its owner's, until the registration is dropped.
    ///
    /// # Errors
    /// If the system has no room for it.
    pub fn watch<S: AsSource>(self: &Arc<Self>, socket: &Arc<S>, key: usize) -> io::Result<Registration<S>>
    where
        for<'a> &'a S: AsRawSource,
    {
        Registration::new(socket, self, key, Interest::READ)
    }

    /// Waits until a socket is ready, until a [`wake`](Self::wake), or for the timeout. `None` is for as long as it
    /// takes. A signal does not end it.
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        self.0.wait(&mut events.0, timeout).map(drop)
    }

    /// Ends the wait under way, or the next one.
    pub fn wake(&self) {
        // It fails only where the wait does.
        let _ = self.0.notify();
    }
}

impl Events {
    pub(crate) fn new() -> Self {
        Self(polling::Events::new())
    }

    /// The key of each ready socket, and for what it is ready.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Interest)> {
        self.0.iter().map(|event| (event.key, Interest { read: event.readable, write: event.writable }))
    }
}

/// A socket in a [`PollSet`], until this is dropped. Events are level-triggered.
#[derive(Debug)]
pub struct Registration<S: AsSource> {
    socket: Arc<S>,
    set: Arc<PollSet>,
    key: usize,
    interest: Interest,
}

impl<S: AsSource> Registration<S>
where
    for<'a> &'a S: AsRawSource,
{
    /// Adds the socket, which is in no set yet. `key` is what events call it, and must not be `usize::MAX`.
    pub(crate) fn new(
        socket: &Arc<S>,
        set: &Arc<PollSet>,
        key: usize,
        interest: Interest,
    ) -> io::Result<Self> {
        // SAFETY: the socket is open as long as this holds a reference to it, and is removed from the set before
        // that is dropped.
        unsafe { set.0.add_with_mode(&**socket, interest.event(key), PollMode::Level)? };
        Ok(Self { socket: socket.clone(), set: set.clone(), key, interest })
    }

    /// Changes what to be told, with a system call only if it differs.
    pub(crate) fn set_interest(&mut self, interest: Interest) -> io::Result<()> {
        if self.interest != interest {
            self.set.0.modify_with_mode(&*self.socket, interest.event(self.key), PollMode::Level)?;
            self.interest = interest;
        }
        Ok(())
    }

    pub(crate) fn socket(&self) -> &Arc<S> {
        &self.socket
    }
}

impl<S: AsSource> Drop for Registration<S> {
    fn drop(&mut self) {
        let _ = self.set.0.delete(&*self.socket);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Instant;

    use super::*;

    const BOTH: Interest = Interest { read: true, write: true };

    fn ready(set: &PollSet, timeout: Duration) -> Vec<(usize, Interest)> {
        let mut events = Events::new();
        set.wait(&mut events, Some(timeout)).unwrap();
        events.iter().collect()
    }

    #[test]
    fn what_is_ready_is_told_until_the_interest_ends() {
        let (soon, long) = (Duration::from_millis(20), Duration::from_secs(10));
        let set = PollSet::new().unwrap();
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.set_nonblocking(true).unwrap();
        let mut registration = Registration::new(&socket, &set, 7, Interest::READ).unwrap();
        assert_eq!(ready(&set, soon), []);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            assert_eq!(ready(&set, long), [(7, Interest::READ)]);
        }
        registration.set_interest(Interest::NONE).unwrap();
        assert_eq!(ready(&set, soon), []);
        registration.set_interest(BOTH).unwrap();
        assert_eq!(ready(&set, long), [(7, BOTH)]);
        drop(registration);
        assert_eq!(ready(&set, soon), []);
    }

    #[test]
    fn a_full_connection_is_writable_again_once_it_is_read() {
        let set = PollSet::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Arc::new(listener.accept().unwrap().0);
        socket.set_nonblocking(true).unwrap();
        while (&*socket).write(&[0; 8192]).is_ok() {}
        let _registration = Registration::new(&socket, &set, 0, Interest::WRITE).unwrap();
        let mut read = 0;
        while ready(&set, Duration::from_millis(20)).is_empty() {
            read += io::Read::read(&mut client, &mut [0; 8192]).unwrap();
        }
        assert!(read > 0);
    }

    #[test]
    fn another_thread_ends_a_wait() {
        let set = PollSet::new().unwrap();
        let (begin, other) = (Instant::now(), set.clone());
        std::thread::spawn(move || other.wake());
        assert_eq!(ready(&set, Duration::from_secs(60)), []);
        assert!(begin.elapsed() < Duration::from_secs(30));
        set.wake();
        assert_eq!(ready(&set, Duration::from_secs(60)), []);
    }
}
