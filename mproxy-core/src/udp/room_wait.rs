//! The wait for room in a send buffer or device queue, for a source that can wait.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::send_error::Full;
use crate::relay::stop::Stop;
use crate::sys::{has_unsent, poll};

/// How long a target may take nothing and is waited for.
const BOUND: Duration = Duration::from_secs(1);

/// The same after a stop request.
const BOUND_AT_STOP: Duration = Duration::from_millis(400);

/// How often a wait looks for a stop request.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// The pauses while the queue of the device is full (ENOBUFS), whose room nothing tells: each twice the last.
const PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(16));

/// The wait of one route.
#[derive(Debug)]
pub(super) struct RoomWait {
    stop: Stop,
    /// When the target had no room, and since when it has taken nothing.
    since: Option<Instant>,
    /// It has taken nothing for the bound.
    given_up: bool,
    pause: Duration,
}

impl RoomWait {
    pub(super) fn new(stop: &Stop) -> Self {
        Self { stop: stop.clone(), since: None, given_up: false, pause: PAUSES.0 }
    }

    /// The target has taken something.
    pub(super) fn reset(&mut self) {
        (self.since, self.given_up, self.pause) = (None, false, PAUSES.0);
    }

    /// Whether the target has taken nothing for the bound.
    pub(super) fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// Waits until what was sent has left, as it has once the host has answered ARP or neighbour discovery: until then the
    /// system keeps only some datagrams for it, and drops the oldest. False once it has not left for the bound.
    pub(super) fn wait_for_departure(&mut self, socket: &UdpSocket) -> bool {
        while has_unsent(socket) {
            if !self.wait(socket, Full::DeviceQueue) {
                return false;
            }
        }
        self.reset();
        true
    }

    /// Waits until there may be room. False once the target has taken nothing for the bound.
    pub(super) fn wait(&mut self, socket: &UdpSocket, full: Full) -> bool {
        if self.given_up || self.stop.elapsed().is_some_and(|elapsed| elapsed > BOUND_AT_STOP) {
            return false;
        }
        let left = BOUND.saturating_sub(self.since.get_or_insert_with(Instant::now).elapsed());
        if left.is_zero() {
            self.given_up = true;
            return false;
        }
        match full {
            Full::SendBuffer => {
                let mut fds = [PollFd::new(socket, PollFlags::OUT)];
                poll(&mut fds, Some(left.min(STOP_INTERVAL))).is_ok()
            }
            Full::DeviceQueue => {
                std::thread::sleep(self.pause.min(left));
                self.pause = (2 * self.pause).min(PAUSES.1);
                true
            }
        }
    }
}
