//! Many datagrams in each send, cut by the system (UDP segmentation offload, USO), and a receive for each until the
//! socket would block. Windows can coalesce datagrams into one receive (URO), but see [`may_coalesce`].

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::{MsgHdr, SockAddr, SockRef};
use windows_sys::Win32::Networking::WinSock::{
    IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_PKTINFO, UDP_COALESCED_INFO, UDP_SEND_MSG_SIZE,
    WSAEFAULT, WSAEINVAL, WSAEMSGSIZE, WSAENOPROTOOPT, WSAEOPNOTSUPP,
};

use super::control::{Control, Number, number, payload};
use super::gather::{Limits, gather};
use super::offload::Offload;
use super::{Missed, classify_receive_error};
use crate::net::allow::Allow;
use crate::net::connect::path_payload;
use crate::relay::batch::{Batch, Cursor};
use crate::relay::limits::SLOT;
use crate::relay::limits::{MAX_DATAGRAM, OFFLOADED};
use crate::sys::{Arrival, MessageReader, can_send_segmented, receive_coalesced, tell_destinations};

/// Slots of a listener's batch: of large datagrams, enough for some offloaded sends.
pub(crate) const SLOTS: usize = 4;

/// Messages of one batch at most: of small datagrams, two offloaded sends, so that the first does not wait long for
/// the last.
const MESSAGES: usize = 2 * OFFLOADED;

/// Room for what accompanies a received message: the segment size is 24 bytes with its header.
const CONTROL: usize = 128;

/// Fills batches from a socket.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Receives messages with their control messages, if any are needed.
    reader: Option<MessageReader>,
    /// Datagrams to other addresses are dropped.
    group: Option<IpAddr>,
    /// Messages to receive next time, if they are there.
    offered: usize,
    /// The last receive has received as many.
    was_full: bool,
    max_messages: usize,
    allow: Allow,
    with_senders: bool,
}

impl Receiver {
    /// A receiver for this socket, of datagrams from allowed addresses, with or without their senders. A group cannot
    /// be bound here, so datagrams to other addresses on the same port come too, and are dropped (`IP_PKTINFO`).
    pub(crate) fn new(socket: &UdpSocket, group: Option<IpAddr>, allow: Allow, with_senders: bool) -> Self {
        // In this order: coalesced datagrams need the control message with their length.
        let reader = MessageReader::new(socket).ok();
        let group = group.filter(|group| reader.is_some() && tell_destinations(socket, *group).is_ok());
        let coalesced = reader.is_some() && may_coalesce() && receive_coalesced(socket).is_ok();
        let reader = reader.filter(|_| coalesced || group.is_some());
        Self { reader, group, offered: 1, was_full: false, max_messages: MESSAGES, allow, with_senders }
    }

    /// With one message a receive, so that the socket may block.
    #[cfg(test)]
    pub(crate) fn single(socket: &UdpSocket, allow: Allow, with_senders: bool) -> Self {
        Self { max_messages: 1, ..Self::new(socket, None, allow, with_senders) }
    }

    /// The same, with control messages.
    #[cfg(test)]
    pub(crate) fn with_control(socket: &UdpSocket, allow: Allow, with_senders: bool) -> io::Result<Self> {
        let reader = Some(MessageReader::new(socket)?);
        Ok(Self { reader, ..Self::single(socket, allow, with_senders) })
    }

    /// Changes the allowed addresses. An empty list must stay empty.
    pub(crate) fn allow(&mut self, allow: Allow) {
        self.allow = allow;
    }

    /// Whether the last receive may have left datagrams.
    pub(crate) fn may_have_left_some(&self) -> bool {
        self.was_full
    }

    /// Receives the datagrams that are there into the empty batch: none if their senders are not allowed, or if it
    /// was only an ICMP error. The socket must not block, or this would wait for more. Drops of the receive buffer are
    /// not known.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        let mut missed = self.receive_message(socket, batch)?;
        let mut received = 1;
        while received < self.offered && batch.spare().len() >= SLOT {
            // An error of the socket comes again.
            let Ok(also) = self.receive_message(socket, batch) else { break };
            missed.dropped += also.dropped;
            missed.denied += also.denied;
            received += 1;
        }
        self.was_full = received >= self.offered || batch.spare().len() < SLOT;
        // As on Linux: a lone datagram does not wait for others, and the next burst finds some.
        let next =
            if received < self.offered { usize::midpoint(self.offered, received) } else { 2 * received };
        self.offered = next.min(self.max_messages);
        Ok(missed)
    }

    fn receive_message(&self, socket: &UdpSocket, batch: &mut Batch) -> io::Result<Missed> {
        let (len, segment, sender) = match self.next_message(socket, batch.spare()) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Missed::default()),
            Err(error) => return classify_receive_error(error),
        };
        if !self.allow.permits(sender.ip()) {
            let denied = if segment == 0 { 1 } else { len.div_ceil(segment) };
            return Ok(Missed { dropped: 0, denied });
        }
        batch.push_coalesced(len, segment);
        if self.with_senders {
            batch.push_sender(sender);
            // The next one may have another sender.
            let gap = batch.spare().len().min(1);
            batch.skip(gap);
        }
        Ok(Missed::default())
    }

    /// The length of the next message, that of its datagrams if they were coalesced, and its sender; none if it
    /// was sent to another address than the group.
    fn next_message(
        &self,
        socket: &UdpSocket,
        area: &mut [u8],
    ) -> io::Result<Option<(usize, usize, SocketAddr)>> {
        let Some(reader) = self.reader else {
            let (len, sender) = socket.recv_from(area)?;
            return Ok(Some((len, 0, sender)));
        };
        let mut control = Control([0; CONTROL]);
        let arrival = reader.receive(socket, area, &mut control.0)?;
        let control = &control.0[..arrival.control];
        if self.group.is_some_and(|group| !was_sent_to(group, control)) {
            return Ok(None);
        }
        complete_message(&arrival, control).map(Some)
    }
}

/// The message as [`Receiver::next_message`] returns it. Coalesced datagrams of unknown length, and a message that was
/// cut (`MSG_TRUNC`, `MSG_CTRUNC`), must not go on: they fail as one datagram too long (WSAEMSGSIZE).
fn complete_message(arrival: &Arrival, control: &[u8]) -> io::Result<(usize, usize, SocketAddr)> {
    #[allow(clippy::cast_possible_wrap)] // 3
    let segment = number(control, IPPROTO_UDP, UDP_COALESCED_INFO as i32);
    match (segment, arrival.sender) {
        (Some(segment), Some(sender)) if !arrival.truncated => Ok((arrival.len, segment as usize, sender)),
        _ => Err(io::Error::from_raw_os_error(WSAEMSGSIZE)),
    }
}

/// Whether the group is the destination in the control message (`IP_PKTINFO`, `IPV6_PKTINFO`: an address, and then an
/// interface).
fn was_sent_to(group: IpAddr, control: &[u8]) -> bool {
    let destination = |level, kind| payload(control, level, kind).unwrap_or_default();
    match group {
        IpAddr::V4(group) => destination(IPPROTO_IP, IP_PKTINFO).starts_with(&group.octets()),
        IpAddr::V6(group) => destination(IPPROTO_IPV6, IPV6_PKTINFO).starts_with(&group.octets()),
    }
}

/// Whether the system may be asked to coalesce incoming datagrams (UDP receive segment coalescing offload, URO). There
/// are systems that then deliver coalesced datagrams without the control message that tells where each ends, so
/// that many become one: Windows on ARM, and Windows 11 version 24H2 with some network adapters on x86-64 too
/// (quinn issue 2041, msquic issue 4955). Nothing shows it in time: a large datagram looks the same. So only who
/// knows the machine can ask for it; quinn has it off by default too. Groups lose nothing by that: the
/// system coalesces only unicast, if the adapter does not.
fn may_coalesce() -> bool {
    cfg!(target_arch = "x86_64") && std::env::var_os("MPROXY_URO").is_some_and(|value| value == "1")
}

/// Sends batches.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(super) offload: Offload,
}

/// Sends one datagram, or as many of this size as the parts make.
type SendParts<'s> = dyn FnMut(&[IoSlice<'_>], Option<u32>) -> io::Result<()> + 's;

impl Sender {
    /// A sender for this socket, and for others of the same offload.
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        let able = if can_send_segmented(socket) {
            // Datagrams above the path MTU leave without offload, and are fragmented.
            let most = path_payload(socket).unwrap_or(MAX_DATAGRAM).min(MAX_DATAGRAM);
            Limits::OFFLOAD.below(most + 1)
        } else {
            Limits::SINGLE
        };
        Self { offload: Offload::new(able) }
    }

    /// Without segmentation offload.
    #[cfg(test)]
    pub(crate) fn without_offload() -> Self {
        Self { offload: Offload::new(Limits::SINGLE) }
    }

    /// Sends the datagrams of one sender from the cursor on, to this address or the one that the socket is connected
    /// to, and moves the cursor behind those that were sent. After an error [`skip_send`](Self::skip_send) moves it
    /// over the datagrams of the send that failed.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        to: Option<SocketAddr>,
        batch: &Batch,
        at: &mut Cursor,
    ) -> io::Result<()> {
        let name = to.map(SockAddr::from);
        self.send_each(batch, at, &mut |parts, segment| match (segment, parts) {
            (Some(segment), _) => send_segmented(socket, name.as_ref(), parts, segment),
            (None, [datagram]) => match to {
                Some(to) => socket.send_to(datagram, to).map(drop),
                None => socket.send(datagram).map(drop),
            },
            // A datagram lies in one piece.
            _ => Err(io::ErrorKind::InvalidInput.into()),
        })
    }

    /// As [`send`](Self::send), by this function.
    fn send_each(&mut self, batch: &Batch, at: &mut Cursor, send: &mut SendParts<'_>) -> io::Result<()> {
        let from = *at;
        self.offload.renew();
        let mut parts = Vec::with_capacity(OFFLOADED);
        while batch.same_sender(from, *at) {
            parts.clear();
            let limits = self.offload.limits();
            let Some(group) = gather(batch, *at, limits, &mut |part| parts.push(IoSlice::new(part))) else {
                break;
            };
            let segment = if group.datagrams > 1 { u32::try_from(group.segment).ok() } else { None };
            match send(&parts, segment) {
                Ok(()) => *at = group.end,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match segment.and_then(|_| reduced_limits(&error, limits, group.segment)) {
                    // None of them has gone out. If it was not for the offload, the first will fail by itself.
                    Some(less) => self.offload.reduce(less),
                    None => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Moves the cursor over the datagrams of one send. Returns how many.
    pub(crate) fn skip_send(&self, batch: &Batch, at: &mut Cursor) -> usize {
        let Some(group) = gather(batch, *at, self.offload.limits(), &mut drop) else { return 0 };
        *at = group.end;
        group.datagrams
    }
}

/// Sends the parts, which the system cuts into datagrams of this size (`WSASendMsg`, `UDP_SEND_MSG_SIZE`).
fn send_segmented(
    socket: &UdpSocket,
    to: Option<&SockAddr>,
    parts: &[IoSlice<'_>],
    segment: u32,
) -> io::Result<()> {
    let control = Number::new(IPPROTO_UDP, UDP_SEND_MSG_SIZE, segment);
    let message = MsgHdr::new().with_buffers(parts).with_control(&control.0);
    let message = match to {
        Some(to) => message.with_addr(to),
        None => message,
    };
    SockRef::from(socket).sendmsg(&message, 0).map(drop)
}

/// The limits of the offload after an error that may come from it: the path MTU is too small for datagrams of this
/// size, or the device has no offload at all.
fn reduced_limits(error: &io::Error, limits: Limits, segment: usize) -> Option<Limits> {
    match error.raw_os_error()? {
        WSAEMSGSIZE => Some(limits.below(segment)),
        WSAEFAULT | WSAEINVAL | WSAENOPROTOOPT | WSAEOPNOTSUPP => Some(Limits::SINGLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves when the system takes so many bytes in one datagram, cuts only what is to be cut, and fails
    /// with this error where it cannot.
    fn sent(sender: &mut Sender, batch: &Batch, most: usize, error: i32) -> (Vec<Vec<u8>>, usize) {
        let (mut datagrams, mut calls, mut at) = (Vec::new(), 0, Cursor::default());
        sender
            .send_each(batch, &mut at, &mut |parts, segment| {
                calls += 1;
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
                let segment = segment.map_or(bytes.len(), |segment| segment as usize);
                if segment > most && parts.len() > 1 {
                    return Err(io::Error::from_raw_os_error(error));
                }
                if bytes.is_empty() {
                    datagrams.push(bytes);
                } else {
                    datagrams.extend(bytes.chunks(segment).map(<[u8]>::to_vec));
                }
                Ok(())
            })
            .unwrap();
        assert!(batch.remaining(at).is_none());
        (datagrams, calls)
    }

    fn batch(lengths: &[usize]) -> Batch {
        let mut batch = Batch::with_capacity(lengths.len() * SLOT);
        for (index, len) in lengths.iter().enumerate() {
            batch.spare()[..*len].fill(u8::try_from(index).unwrap());
            batch.push_slot(*len, 0);
        }
        batch
    }

    fn able() -> Sender {
        Sender { offload: Offload::new(Limits::OFFLOAD) }
    }

    #[test]
    fn what_goes_together_leaves_as_it_was() {
        let batch = batch(&[7, 7, 7, 3, 0, 0, 9, 9, 10, 9]);
        let (datagrams, calls) = sent(&mut able(), &batch, SLOT, 0);
        assert!(datagrams.iter().eq(batch.datagrams()));
        assert_eq!(calls, 5);
        let (datagrams, calls) = sent(&mut Sender::without_offload(), &batch, 0, 0);
        assert!(datagrams.iter().eq(batch.datagrams()));
        assert_eq!(calls, 10);
    }

    #[test]
    fn what_fails_together_leaves_one_by_one() {
        let batch = batch(&[7, 7, 7, 3, 2, 2, 9, 9, 10, 9]);
        for (error, left, expected) in [
            (WSAEMSGSIZE, Limits::OFFLOAD.below(7), 10),
            (WSAEINVAL, Limits::SINGLE, 11),
            (WSAEOPNOTSUPP, Limits::SINGLE, 11),
            (WSAENOPROTOOPT, Limits::SINGLE, 11),
        ] {
            let mut sender = able();
            let (datagrams, calls) = sent(&mut sender, &batch, 5, error);
            assert!(datagrams.iter().eq(batch.datagrams()), "{error}");
            assert_eq!((sender.offload.limits(), calls), (left, expected), "{error}");
        }
    }

    #[test]
    fn what_is_not_for_the_offload_is_told() {
        let batch = batch(&[7, 7, 7]);
        for code in [10_055, 10_065, 10_054] {
            let mut at = Cursor::default();
            let mut sender = able();
            let error = sender
                .send_each(&batch, &mut at, &mut |_, _| Err(io::Error::from_raw_os_error(code)))
                .unwrap_err();
            assert_eq!(error.raw_os_error(), Some(code));
            assert_eq!((at, sender.offload.limits()), (Cursor::default(), Limits::OFFLOAD));
            assert_eq!(sender.skip_send(&batch, &mut at), 3);
        }
        // Nor is one that comes up at a single datagram.
        let mut at = Cursor::default();
        let error = Sender::without_offload()
            .send_each(&batch, &mut at, &mut |_, _| Err(io::Error::from_raw_os_error(WSAEINVAL)))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(WSAEINVAL));
    }

    #[test]
    fn the_parts_of_one_send_arrive_in_order() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        listener.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = SockAddr::from(listener.local_addr().unwrap());
        let parts = [&b"ab"[..], b"cdef", b"g"].map(IoSlice::new);
        for to in [Some(&address), None] {
            if to.is_none() {
                sender.connect(listener.local_addr().unwrap()).unwrap();
            }
            // Where there is no such offload the control message is refused, or it is one datagram.
            let sent = send_segmented(&sender, to, &parts, 2);
            if sent.is_err() && !can_send_segmented(&sender) {
                continue;
            }
            sent.unwrap();
            let mut received = Vec::new();
            while received.len() < 7 {
                let mut area = [0; 10];
                let len = listener.recv(&mut area).unwrap();
                assert_eq!(len, if can_send_segmented(&sender) { 2.min(7 - received.len()) } else { 7 });
                received.extend_from_slice(&area[..len]);
            }
            assert_eq!(received, b"abcdefg");
        }
    }

    #[test]
    fn what_arrives_is_told_apart_or_dropped() {
        let sender = SocketAddr::from(([127, 0, 0, 1], 5));
        let arrival = |cut| Arrival { len: 100, control: 0, truncated: cut, sender: Some(sender) };
        let control = Number::new(IPPROTO_UDP, 3, 30).0;
        assert_eq!(complete_message(&arrival(false), &control).unwrap(), (100, 30, sender));
        assert_eq!(complete_message(&arrival(false), &[]).unwrap(), (100, 0, sender));
        // Of something else.
        let other = Number::new(0, 19, 30).0;
        assert_eq!(complete_message(&arrival(false), &other).unwrap(), (100, 0, sender));
        for (cut, control) in [(true, &control[..]), (true, &[]), (false, &control[..17])] {
            let error = complete_message(&arrival(cut), control).unwrap_err();
            assert_eq!(classify_receive_error(error).unwrap(), Missed { dropped: 1, denied: 0 });
        }
        let nobody = Arrival { sender: None, ..arrival(false) };
        assert!(complete_message(&nobody, &control).is_err());
    }

    #[test]
    fn only_what_was_sent_to_the_group_is_taken() {
        let listener = UdpSocket::bind("0.0.0.0:0").unwrap();
        listener.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = std::net::Ipv4Addr::LOCALHOST;
        // As if that were the group.
        for (group, taken) in [(own, 1), ([239, 1, 2, 3].into(), 0)] {
            let receiver = Receiver::new(&listener, Some(group.into()), Allow::default(), false);
            assert_eq!(receiver.group, Some(group.into()));
            sender.send_to(b"x", (own, port)).unwrap();
            let mut batch = Batch::with_capacity(SLOT);
            let missed = receiver.receive_message(&listener, &mut batch).unwrap();
            assert_eq!((missed, batch.count()), (Missed::default(), taken));
        }
    }

    #[test]
    fn a_destination_that_is_not_told_is_not_the_group() {
        let group = IpAddr::from([239, 1, 2, 3]);
        let told = |ip: [u8; 4]| Number::new(IPPROTO_IP, IP_PKTINFO, u32::from_ne_bytes(ip)).0;
        assert!(was_sent_to(group, &told([239, 1, 2, 3])));
        assert!(!was_sent_to(group, &told([239, 1, 2, 4])));
        assert!(!was_sent_to(group, &Number::new(IPPROTO_IPV6, IP_PKTINFO, 0).0));
        assert!(!was_sent_to(group, &[]));
        assert!(!was_sent_to(group, &told([239, 1, 2, 3])[..17]));
    }

    #[test]
    fn a_datagram_that_is_cut_is_dropped() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        listener.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(listener.local_addr().unwrap()).unwrap();
        let plain = Receiver::new(&listener, None, Allow::default(), false);
        let control = Receiver::with_control(&listener, Allow::default(), false).unwrap();
        for receiver in [plain, control] {
            sender.send(&[1; 100]).unwrap();
            let mut short = Batch::with_capacity(10);
            let missed = receiver.receive_message(&listener, &mut short).unwrap();
            assert_eq!((missed, short.is_empty()), (Missed { dropped: 1, denied: 0 }, true));
        }
    }

    #[test]
    fn what_is_there_comes_at_once() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        // By default it holds 64 KiB.
        SockRef::from(&listener).set_recv_buffer_size(1 << 20).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(listener.local_addr().unwrap()).unwrap();
        let mut receiver = Receiver::new(&listener, None, Allow::default(), false);
        let mut batch = Batch::with_capacity(SLOTS * SLOT);
        for len in [10, 1316, 25_000] {
            for _ in 0..6 {
                sender.send(&vec![7; len]).unwrap();
            }
            let mut counts = Vec::new();
            loop {
                batch.clear();
                match receiver.receive(&listener, &mut batch) {
                    Ok(_) => counts.push(batch.count()),
                    Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(counts.iter().sum::<usize>(), 6, "{counts:?}");
            assert!(counts.len() < 6, "{counts:?}");
        }
    }
}
