//! The load: numbered and time-stamped datagrams, as fast as the kernel takes them or at an even pace.

use std::io::IoSlice;
use std::net::SocketAddrV4;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};

use crate::Outcome;
use crate::packets::{self, SLOTS, Sender};

/// Bytes at the head of a datagram: its number and the time it was sent at.
pub(crate) const HEAD: usize = 16;

/// The send calls of a load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each by itself, 64 in a call.
    Plain,
    /// The most that one send with `UDP_SEGMENT` takes, as fast senders and network cards do.
    Coalesced,
    /// One a call.
    Single,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Coalesced => "coalesced",
            Self::Single => "single",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Plain, Self::Coalesced, Self::Single]
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| format!("no mode '{name}'"))
    }
}

/// The datagrams to send, and their end.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) size: usize,
    pub(crate) mode: Mode,
    /// Datagrams a second; as fast as possible if there is none.
    pub(crate) pace: Option<u32>,
    pub(crate) seconds: f64,
    /// Datagrams at most.
    pub(crate) most: u64,
    /// They come from another host, as far as anybody can tell.
    pub(crate) from_afar: bool,
}

/// Nanoseconds on the clock that all processes of this machine share.
pub(crate) fn now() -> nix::Result<u64> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Sends it all, and says how much that was.
pub(crate) fn send(to: SocketAddrV4, load: Load) -> Outcome {
    let socket = if load.from_afar { packets::connect_from_afar(to)? } else { packets::connect(to)? };
    let at_once = match load.mode {
        Mode::Plain => SLOTS,
        Mode::Coalesced => packets::in_one_send(load.size),
        Mode::Single => 1,
    };
    if load.mode == Mode::Coalesced {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(load.size)?)?;
    }
    // Else a pause ends 50 microseconds late.
    nix::sys::prctl::set_timerslack(1)?;
    let mut sender = Sender::new(socket.try_clone()?);
    let mut buffer = text(load.size, at_once);
    let start = now()?;
    let end = start + nanoseconds(load.seconds);
    let mut sent = 0;
    loop {
        let mut time = now()?;
        if let Some(pace) = load.pace {
            let due = end.min(start + sent * 1_000_000_000 / u64::from(pace));
            if due > time {
                std::thread::sleep(Duration::from_nanos(due - time));
                time = now()?;
            }
        }
        if time >= end || sent >= load.most {
            break;
        }
        for (number, datagram) in (sent..).zip(buffer.chunks_exact_mut(load.size)) {
            datagram[..8].copy_from_slice(&number.to_le_bytes());
            datagram[8..HEAD].copy_from_slice(&time.to_le_bytes());
        }
        if load.mode == Mode::Plain {
            let mut datagrams = buffer.chunks_exact(load.size);
            let slices: [_; SLOTS] =
                std::array::from_fn(|_| IoSlice::new(datagrams.next().unwrap_or_default()));
            let messages: [_; SLOTS] = std::array::from_fn(|n| std::slice::from_ref(&slices[n]));
            sent += sender.send(&messages, None) as u64;
        } else if socket.send(&buffer).is_ok() {
            sent += at_once as u64;
        }
    }
    let seconds = Duration::from_nanos(now()? - start).as_secs_f64();
    println!("datagrams={sent} seconds={seconds}");
    Ok(())
}

fn nanoseconds(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap_or(u64::MAX)
}

/// Datagrams back to back, each of which ends as a line, so that no program has to wait for its rest.
pub(crate) fn text(size: usize, count: usize) -> Vec<u8> {
    let mut datagram: Vec<u8> = (b'a'..=b'z').cycle().take(size.max(HEAD + 1)).collect();
    if let Some(last) = datagram.last_mut() {
        *last = b'\n';
    }
    datagram.repeat(count)
}
