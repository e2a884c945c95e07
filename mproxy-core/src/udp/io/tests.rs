//! Bytes and boundaries are exact, whatever sends and whatever receives: each pair of implementations,
//! with each offload on and off, is given the same datagrams and must deliver the same.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use fastrand::Rng;
use socket2::SockRef;

use super::{Missed, portable};
use crate::net::allow::Allow;
use crate::relay::batch::Batch;
use crate::relay::batch::Cursor;
use crate::relay::limits::SLOT;

type Receive = Box<dyn FnMut(&UdpSocket, &mut Batch) -> io::Result<Missed>>;
type Send = Box<dyn FnMut(&Batch, &mut Cursor) -> io::Result<()>>;
type OpenReceiver = fn(&UdpSocket, Allow) -> Receive;
type OpenSender = fn(UdpSocket) -> Send;

const RECEIVERS: &[(&str, OpenReceiver)] = &[
    ("portable", |socket, allow| {
        let mut receiver = portable::Receiver::new(socket, None, allow, true);
        Box::new(move |socket, batch| receiver.receive(socket, batch))
    }),
    #[cfg(target_os = "linux")]
    ("Linux", |socket, allow| {
        let mut receiver = super::linux::Receiver::new(socket, None, allow, true);
        Box::new(move |socket, batch| receiver.receive(socket, batch))
    }),
    #[cfg(target_os = "linux")]
    ("Linux without GRO", |_, allow| {
        let mut receiver = super::linux::Receiver::single(allow, true);
        Box::new(move |socket, batch| receiver.receive(socket, batch))
    }),
    #[cfg(windows)]
    ("Windows", |socket, allow| {
        socket.set_nonblocking(true).unwrap();
        let mut receiver = super::windows::Receiver::new(socket, None, allow, true);
        Box::new(move |socket, batch| {
            wait_for(socket);
            receiver.receive(socket, batch)
        })
    }),
    #[cfg(windows)]
    ("Windows, one by one", |socket, allow| {
        let mut receiver = super::windows::Receiver::single(socket, allow, true);
        Box::new(move |socket, batch| receiver.receive(socket, batch))
    }),
    #[cfg(windows)]
    ("Windows, with control messages", |socket, allow| {
        let mut receiver = super::windows::Receiver::with_control(socket, allow, true).unwrap();
        Box::new(move |socket, batch| receiver.receive(socket, batch))
    }),
];

const SENDERS: &[(&str, OpenSender)] = &[
    ("portable", |socket| {
        let mut sender = portable::Sender::new(&socket);
        Box::new(move |batch, at| each_of_one(batch, at, &mut |at| sender.send(&socket, None, batch, at)))
    }),
    #[cfg(target_os = "linux")]
    ("Linux", |socket| {
        let mut sender = super::linux::Sender::new(&socket);
        let limits = sender.offload.limits();
        Box::new(move |batch, at| {
            let result = each_of_one(batch, at, &mut |at| sender.send(&socket, None, batch, at));
            assert_eq!(sender.offload.limits(), limits, "on loopback no offload fails");
            result
        })
    }),
    #[cfg(target_os = "linux")]
    ("Linux without GSO", |socket| {
        let mut sender = super::linux::Sender::without_offload(&socket);
        Box::new(move |batch, at| each_of_one(batch, at, &mut |at| sender.send(&socket, None, batch, at)))
    }),
    #[cfg(windows)]
    ("Windows", |socket| {
        let mut sender = super::windows::Sender::new(&socket);
        let limits = sender.offload.limits();
        Box::new(move |batch, at| {
            let result = each_of_one(batch, at, &mut |at| sender.send(&socket, None, batch, at));
            assert_eq!(sender.offload.limits(), limits, "on loopback no offload fails");
            result
        })
    }),
    #[cfg(windows)]
    ("Windows without USO", |socket| {
        let mut sender = super::windows::Sender::without_offload();
        Box::new(move |batch, at| each_of_one(batch, at, &mut |at| sender.send(&socket, None, batch, at)))
    }),
];

/// Waits as long as a receive may take, as a listener does on Windows before it receives.
#[cfg(windows)]
fn wait_for(socket: &UdpSocket) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = socket.read_timeout().unwrap().unwrap_or_default();
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&Timespec::try_from(timeout).unwrap())).unwrap();
}

/// How many times fewer rounds there are where a system call takes that much longer.
const FEWER: u64 = if cfg!(windows) { 10 } else { 1 };

/// Sends what each sender has sent, one after another.
fn each_of_one(
    batch: &Batch,
    at: &mut Cursor,
    send: &mut dyn FnMut(&mut Cursor) -> io::Result<()>,
) -> io::Result<()> {
    while batch.remaining(*at).is_some() {
        let from = *at;
        send(at)?;
        assert!(*at != from && (batch.remaining(*at).is_none() || batch.sender(*at) != batch.sender(from)));
    }
    Ok(())
}

/// For each pair of implementations: their names, a listening socket with its receiver, and senders to it.
fn each_pair(senders: usize, mut test: impl FnMut(&str, &UdpSocket, Receive, Vec<Send>)) {
    stay_on_one_processor();
    for (receiving, receive) in RECEIVERS {
        for (sending, send) in SENDERS {
            let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
            listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            hold_much(&listener);
            let senders = (0..senders).map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                // The largest datagram needs more than some systems give by default.
                SockRef::from(&socket).set_send_buffer_size(4 * SLOT).unwrap();
                socket.connect(listener.local_addr().unwrap()).unwrap();
                send(socket)
            });
            let senders = senders.collect();
            test(
                &format!("{sending} to {receiving}"),
                &listener,
                receive(&listener, Allow::default()),
                senders,
            );
        }
    }
}

/// By default a socket of Windows holds 64 KiB, less than some tests send at once.
fn hold_much(listener: &UdpSocket) {
    if cfg!(windows) {
        SockRef::from(listener).set_recv_buffer_size(1 << 20).unwrap();
    }
}

/// The loopback interface has a queue for each processor: a thread that changes to another one could
/// overtake itself.
fn stay_on_one_processor() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).unwrap();
    }
}

/// Lengths that follow each other as they do in the field, and as they never should: at most what any
/// receive buffer holds.
fn lengths(rng: &mut Rng) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut left = 70_000_usize;
    while lengths.len() < 100 && rng.u8(..) > 8 {
        let (count, len) = match rng.u8(..8) {
            0 => (1, 0),
            1 => (1, rng.usize(..=65_507)),
            2 => (rng.usize(1..70), 1),
            3 => (rng.usize(1..70), 1316),
            _ => (rng.usize(1..10), rng.usize(..2000)),
        };
        let mut next = vec![len; count];
        match rng.u8(..4) {
            0 => next.push(rng.usize(..=len)),
            1 => next.push(len + 1),
            _ => {}
        }
        next.retain(|len| *len <= 65_507 && left.checked_sub(*len).inspect(|now| left = *now).is_some());
        lengths.extend(next);
    }
    lengths.truncate(100);
    lengths
}

/// The same datagrams as a batch, as different sources would fill it.
fn batch_of(datagrams: &[Vec<u8>], in_slots: bool) -> Batch {
    let mut batch = Batch::with_capacity(if in_slots { 100 * SLOT } else { 2 * SLOT });
    for datagram in datagrams {
        batch.spare()[..datagram.len()].copy_from_slice(datagram);
        if in_slots {
            batch.push_slot(datagram.len(), 0);
        } else {
            batch.push(datagram.len());
        }
    }
    assert!(batch.datagrams().eq(datagrams), "the batch itself");
    batch
}

fn receive_all(listener: &UdpSocket, receive: &mut Receive, count: usize, what: &str) -> Vec<Vec<u8>> {
    let mut batch = Batch::with_capacity(super::SLOTS.max(64) * SLOT);
    let mut received = Vec::new();
    while received.len() < count {
        batch.clear();
        receive(listener, &mut batch)
            .unwrap_or_else(|e| panic!("{what}: {} of {count}: {e}", received.len()));
        received.extend(batch.datagrams().map(<[u8]>::to_vec));
    }
    received
}

fn random(rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for len in lengths(rng) {
        datagrams.push(std::iter::repeat_with(|| rng.u8(..)).take(len).collect());
    }
    datagrams
}

#[test]
fn every_datagram_arrives_as_it_was_sent() {
    each_pair(1, |pair, listener, mut receive, mut senders| {
        for seed in 0..150 / FEWER {
            let what = format!("{pair}, seed {seed}");
            let mut rng = Rng::with_seed(seed);
            let datagrams = random(&mut rng);
            let batch = batch_of(&datagrams, rng.bool());
            let mut at = Cursor::default();
            senders[0](&batch, &mut at).unwrap();
            assert_eq!(batch.counts_before(at), (batch.count(), batch.bytes()), "{what}");
            let received = receive_all(listener, &mut receive, datagrams.len(), &what);
            assert!(received == datagrams, "{what}");
        }
    });
}

#[test]
fn what_was_received_is_sent_on_as_it_was() {
    each_pair(1, |pair, listener, mut receive, mut senders| {
        for (_, open) in SENDERS {
            let next = UdpSocket::bind("127.0.0.1:0").unwrap();
            next.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            hold_much(&next);
            let onward = UdpSocket::bind("127.0.0.1:0").unwrap();
            SockRef::from(&onward).set_send_buffer_size(4 * SLOT).unwrap();
            onward.connect(next.local_addr().unwrap()).unwrap();
            let (mut onward, mut last) = (open(onward), RECEIVERS[0].1(&next, Allow::default()));
            for seed in 1000..1000 + 30 / FEWER {
                let datagrams = random(&mut Rng::with_seed(seed));
                senders[0](&batch_of(&datagrams, false), &mut Cursor::default()).unwrap();
                let mut batch = Batch::with_capacity(super::SLOTS.max(64) * SLOT);
                let mut passed = 0;
                while passed < datagrams.len() {
                    batch.clear();
                    receive(listener, &mut batch).unwrap();
                    passed += batch.count();
                    onward(&batch, &mut Cursor::default()).unwrap();
                }
                let received = receive_all(&next, &mut last, datagrams.len(), pair);
                assert!(received == datagrams, "{pair}, seed {seed}");
            }
        }
    });
}

#[test]
fn what_different_senders_send_is_never_mixed() {
    each_pair(3, |pair, listener, mut receive, mut senders| {
        let mut addresses = std::collections::HashMap::new();
        for seed in 2000..2000 + 50 / FEWER {
            let mut rng = Rng::with_seed(seed);
            let (mut all, mut from) = (Vec::new(), Vec::new());
            // The same lengths from each, so that only the sender tells them apart.
            let len = rng.usize(..600);
            for _ in 0..12 {
                let datagrams = vec![vec![rng.u8(..); len]; rng.usize(1..10)];
                let sender = rng.usize(..senders.len());
                senders[sender](&batch_of(&datagrams, rng.bool()), &mut Cursor::default()).unwrap();
                from.extend(vec![sender; datagrams.len()]);
                all.extend(datagrams);
            }
            let (mut batch, mut received) = (Batch::with_capacity(super::SLOTS.max(64) * SLOT), Vec::new());
            while received.len() < all.len() {
                batch.clear();
                receive(listener, &mut batch).unwrap();
                let mut at = Cursor::default();
                while let Some(datagram) = batch.datagram(at) {
                    received.push(datagram.to_vec());
                    let sender = from[received.len() - 1];
                    let told = *addresses.entry(sender).or_insert(batch.sender(at));
                    assert!(told.is_some() && told == batch.sender(at), "{pair}, seed {seed}");
                    at = batch.advance(at, datagram.len());
                }
            }
            assert!(received == all, "{pair}, seed {seed}");
        }
    });
}

#[test]
fn a_receive_ends_when_its_time_is_over() {
    for (receiving, receive) in RECEIVERS {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut receive = receive(&listener, Allow::default());
        let mut batch = Batch::with_capacity(super::SLOTS.max(64) * SLOT);
        for timeout in [Some(Duration::from_millis(200)), None] {
            // The second time the socket does not block at all.
            listener.set_read_timeout(timeout).unwrap();
            listener.set_nonblocking(timeout.is_none()).unwrap();
            let mut empty = || {
                let error = receive(&listener, &mut batch).unwrap_err();
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            };
            assert!(empty() && empty(), "{receiving}");
            // And it has lost nothing.
            sender.send_to(b"late", listener.local_addr().unwrap()).unwrap();
            while batch.is_empty() {
                let _ = receive(&listener, &mut batch);
            }
            assert!(batch.datagrams().eq([b"late"]), "{receiving}");
            batch.clear();
        }
    }
}

#[test]
fn icmp_errors_and_cut_datagrams_end_no_listener_on_windows() {
    let of = |code| super::classify_receive_error(io::Error::from_raw_os_error(code));
    for report in [10_052, 10_054] {
        assert_eq!(of(report).unwrap(), Missed::default());
    }
    assert_eq!(of(10_040).unwrap(), Missed { dropped: 1, denied: 0 });
    // It has been shut down, has no buffers, would block, its time is over.
    for other in [10_058, 10_055, 10_035, 10_060] {
        assert_eq!(of(other).unwrap_err().raw_os_error(), Some(other));
    }
    assert_eq!(
        super::classify_receive_error(io::ErrorKind::ConnectionReset.into()).unwrap_err().raw_os_error(),
        None
    );
}

#[test]
fn an_error_leaves_the_cursor_at_the_datagram_that_was_not_sent() {
    each_pair(1, |pair, _, _, mut senders| {
        // IPv4 has no datagrams of this size.
        let datagrams = [vec![1; 10], vec![2; 10], vec![3; 65_520], vec![4; 10]];
        let batch = batch_of(&datagrams, true);
        let mut at = Cursor::default();
        senders[0](&batch, &mut at).unwrap_err();
        assert_eq!(batch.counts_before(at).0, 2, "{pair}");
    });
}

/// Only Linux has several addresses on its loopback interface.
#[cfg(target_os = "linux")]
#[test]
fn what_is_not_allowed_is_counted_and_left_out_however_it_comes() {
    stay_on_one_processor();
    let datagrams = [vec![1; 3], vec![2; 3], vec![3; 2], vec![], vec![4; 1000]];
    let batch = batch_of(&datagrams, true);
    let mut allow = Allow::default();
    allow.add("127.0.0.2");
    for (receiving, receive) in RECEIVERS {
        for (sending, send) in SENDERS {
            let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
            listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut senders = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"].map(|from| {
                let socket = UdpSocket::bind(from).unwrap();
                socket.connect(listener.local_addr().unwrap()).unwrap();
                send(socket)
            });
            let mut receive = receive(&listener, allow.clone());
            for round in 0..3 {
                for send in &mut senders {
                    send(&batch, &mut Cursor::default()).unwrap();
                }
                let (mut received, mut got, mut denied) = (Batch::with_capacity(128 * SLOT), vec![], 0);
                while got.len() + denied < 3 * datagrams.len() {
                    received.clear();
                    denied += receive(&listener, &mut received).unwrap().denied;
                    got.extend(received.datagrams().map(<[u8]>::to_vec));
                }
                assert_eq!(denied, 2 * datagrams.len(), "{sending} to {receiving}, {round}");
                assert!(got.iter().eq(&datagrams), "{sending} to {receiving}, {round}");
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn drops_are_told_once() {
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(0).unwrap();
    let mut receiver = super::linux::Receiver::new(&listener, None, Allow::default(), false);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(listener.local_addr().unwrap()).unwrap();
    let mut batch = Batch::with_capacity(64 * SLOT);
    let mut flood = || {
        for _ in 0..50 {
            sender.send(&[0; 1000]).unwrap();
        }
        let (mut arrived, mut dropped) = (0, 0);
        // The one after the flood finds room again, and tells what did not.
        while dropped == 0 {
            batch.clear();
            dropped += receiver.receive(&listener, &mut batch).unwrap().dropped;
            arrived += batch.count();
            sender.send(&[1; 1]).unwrap();
        }
        listener.set_nonblocking(true).unwrap();
        while receiver.receive(&listener, &mut batch).is_ok() {}
        listener.set_nonblocking(false).unwrap();
        (arrived, dropped)
    };
    for _ in 0..3 {
        let (arrived, dropped) = flood();
        assert!((1..=50).contains(&dropped) && arrived > 0, "{arrived} arrived, {dropped} dropped");
    }
}
