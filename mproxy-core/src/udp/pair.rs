//! A pair of UDP sockets on loopback, each bound and connected to the other: how datagrams go from one thread of a
//! program to another, as private as a pipe.
//!
//! The system delivers to a connected socket only what comes from the very address and port of its peer, and both
//! ports are taken: no other process can join, read or send without the right to open raw sockets (`CAP_NET_RAW`).
//! Segmentation offload works as it does between hosts, and what the receive buffer has no room for is dropped and
//! counted (`SO_RXQ_OVFL`): the sender never waits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::source::UdpSource;
use super::target::{SendingEnd, UdpTarget};
use crate::error::Error;
use crate::log;
use crate::net::connect::enlarge_send_buffer;
use crate::net::endpoint::{Endpoint, Role};
use crate::net::listen::udp_listener;
use crate::net::options::Options;
use crate::relay::limits::SLOT;
use crate::relay::stats::{Direction, Meter, Registry};
use crate::relay::stop::Stop;
use crate::sys;

const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Attempts with each loopback address.
const ATTEMPTS: usize = 3;

/// How long the first datagram may take from one end to the other.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Two UDP sockets on loopback, each connected to the other.
#[derive(Debug)]
pub struct UdpPair {
    sender: Arc<UdpSocket>,
    receiver: Arc<UdpSocket>,
    address: SocketAddr,
}

impl UdpPair {
    /// Opens a pair on 127.0.0.1, or on `::1` where that is all there is. Its receive buffer is a listener's.
    ///
    /// IPv4 carries 65,507 bytes and IPv6 65,527: with `prefer_ipv6`, for what listeners receive over IPv6, the order is
    /// the other one. Where there is no `::1`, nothing longer comes in. Otherwise IPv4 comes first, since it stays when
    /// somebody turns IPv6 off (`disable_ipv6`).
    ///
    /// # Errors
    /// If neither address carries a datagram: the system has run out of descriptors or ports, or a packet filter drops
    /// what goes through loopback.
    pub fn open(options: &Options, prefer_ipv6: bool) -> Result<Self, Error> {
        let addresses = if prefer_ipv6 { [IPV6, IPV4] } else { [IPV4, IPV6] };
        let mut first_error = None;
        for address in addresses.into_iter().flat_map(|address| [address; ATTEMPTS]) {
            match Self::open_on(address, options) {
                Ok(pair) => return Ok(pair),
                Err(error) => first_error = first_error.or(Some((address, error))),
            }
        }
        let (address, error) = first_error.unwrap_or((IPV4, io::ErrorKind::AddrNotAvailable.into()));
        Err(Error::io("open", format!("a pair of sockets on {address}"), error))
    }

    fn open_on(ip: IpAddr, options: &Options) -> io::Result<Self> {
        let any_port = SocketAddr::new(ip, 0);
        let (receiver, buffer) = udp_listener(any_port, options)?;
        let sender = Socket::new(Domain::for_address(any_port), Type::DGRAM, Some(Protocol::UDP))?;
        sys::raise_send_buffer(&sender);
        enlarge_send_buffer(&sender);
        let (sender, sender_address) = bind(sender, any_port)?;
        let (receiver, address) = bind(receiver, any_port)?;
        sys::enable_error_queue(&sender, ip.is_ipv6())?;
        sender.connect(address)?;
        receiver.connect(sender_address)?;
        receive_probe(&sender, &receiver)?;
        // What loopback does not take at once, it never will.
        sender.set_nonblocking(true)?;
        log::info(format_args!(
            "private channel from {sender_address} to {address}, receive buffer {buffer} bytes"
        ));
        Ok(Self { sender: Arc::new(sender), receiver: Arc::new(receiver), address })
    }

    /// The address of the receiving end.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The target that sends into the pair, of which each sending thread opens a [sink](crate::UdpSink) of its own, and
    /// the source that receives what comes out. The meter counts what is sent, and what the receive buffer had no
    /// room for as [dropped](crate::EndpointStats::dropped).
    ///
    /// Both sockets stay open as long as one of the ends: a port that were free again could be another process's.
    ///
    /// # Errors
    /// If the receiving socket cannot be set up.
    pub fn into_ends(self, meter: &Meter, stop: &Stop) -> Result<(UdpTarget, UdpSource), Error> {
        let Self { sender, receiver, address } = self;
        let endpoint = Endpoint::parse(&address.to_string(), Role::UdpTarget)?;
        let options = Options::default();
        let end = SendingEnd { socket: sender.clone(), _receiver: receiver.clone() };
        let target = UdpTarget::new(&endpoint.resolve(&options)?, &options, meter.clone()).through(end);
        let name = format!("private channel {address}");
        // What comes out was counted when it was sent.
        let unlisted = Registry::default().endpoint(&name, Direction::Channel);
        let source = UdpSource::of_pair(receiver, sender, name, &unlisted, stop)?;
        Ok((target, source.with_losses(meter)))
    }
}

/// Binds to a port that no other socket can have. Returns the address with it.
fn bind(socket: Socket, any_port: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    sys::set_exclusive(&socket)?;
    socket.bind(&any_port.into())?;
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// Reads away what anybody has sent before the receiver was connected, then proves that a datagram goes through: a
/// packet filter may drop all of IPv6, or whatever else comes over loopback.
fn receive_probe(sender: &UdpSocket, receiver: &UdpSocket) -> io::Result<()> {
    let mut area = vec![0; SLOT];
    receiver.set_nonblocking(true)?;
    loop {
        match receiver.recv(&mut area) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    receiver.set_nonblocking(false)?;
    receiver.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let probe = fastrand::u128(..).to_ne_bytes();
    sender.send(&probe)?;
    // What was on its way to the socket already comes before the probe.
    loop {
        let len = receiver.recv(&mut area)?;
        if area[..len] == probe {
            return receiver.set_read_timeout(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::batch::Batch;
    use crate::relay::flow::{PollKeys, PolledSource, Sink, Source};
    use crate::relay::limits::MAX_DATAGRAM;
    use crate::udp::sink::UdpSink;

    /// A pair's ends, and the registry of their meter.
    fn ends(options: &Options, prefer_ipv6: bool) -> (SocketAddr, UdpTarget, UdpSource, Registry) {
        let (registry, stop) = (Registry::default(), Stop::new().unwrap());
        let pair = UdpPair::open(options, prefer_ipv6).unwrap();
        let address = pair.address();
        let meter = registry.endpoint("the pair", Direction::Channel);
        let (target, source) = pair.into_ends(&meter, &stop).unwrap();
        (address, target, source, registry)
    }

    fn batch(datagrams: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::with_capacity(datagrams.iter().map(Vec::len).sum::<usize>() + SLOT);
        for datagram in datagrams {
            batch.spare()[..datagram.len()].copy_from_slice(datagram);
            batch.push(datagram.len());
        }
        batch
    }

    /// So many datagrams, received by as many calls as that takes.
    fn receive(source: &mut UdpSource, count: usize) -> Vec<Vec<u8>> {
        let (mut received, mut batch) = (Vec::new(), Batch::with_capacity(source.capacity()));
        while received.len() < count {
            batch.clear();
            source.receive(&mut batch).unwrap();
            received.extend(batch.datagrams().map(<[u8]>::to_vec));
        }
        received
    }

    /// Receives what is there. Returns how many datagrams that is.
    fn receive_all(source: &mut UdpSource) -> usize {
        source.poll_with(&sys::PollSet::new().unwrap(), PollKeys::default()).unwrap();
        let (mut received, mut batch) = (0, Batch::with_capacity(source.capacity()));
        loop {
            batch.clear();
            source.receive(&mut batch).unwrap();
            if batch.is_empty() {
                return received;
            }
            received += batch.count();
        }
    }

    #[test]
    fn datagrams_of_every_size_go_through_in_order() {
        let has_ipv6 = UdpSocket::bind("[::1]:0").is_ok();
        for prefer_ipv6 in [false, true] {
            let (address, target, mut source, registry) = ends(&Options::default(), prefer_ipv6);
            assert_eq!(address.is_ipv6(), prefer_ipv6 && has_ipv6);
            let largest = if address.is_ipv6() { 65_527 } else { MAX_DATAGRAM };
            let mut sent = Vec::new();
            // Some go by segmentation offload, some by themselves; IP fragments those above 65,488 over IPv6.
            for (number, size) in
                (0_u8..).zip([0, 1, 1, 1316, 1316, 1316, 700, 32_000, 32_000, 65_488, 65_489, largest])
            {
                sent.push(vec![number; size]);
            }
            // Two threads send, each with a sink of its own.
            let [mut first, mut second] = [(); 2].map(|()| UdpSink::open(std::slice::from_ref(&target)));
            first.send(&batch(&sent)).unwrap();
            assert_eq!(receive(&mut source, sent.len()), sent);
            second.send(&batch(&sent)).unwrap();
            assert_eq!(receive(&mut source, sent.len()), sent);
            let stats = registry.snapshot();
            let bytes: usize = sent.iter().map(Vec::len).sum();
            let channel = &stats.endpoints[0];
            assert_eq!((channel.datagrams, channel.bytes), (2 * sent.len() as u64, 2 * bytes as u64));
            assert_eq!((channel.errors, channel.dropped), (0, 0));
        }
    }

    #[test]
    fn what_the_receive_buffer_has_no_room_for_is_counted_and_delays_nobody() {
        if sys::NAME != "linux" || cfg!(mproxy_portable) {
            return; // drops are not told there
        }
        let options = Options::default().recv_buffer(100_000);
        let (_, target, mut source, registry) = ends(&options, false);
        let mut sink = UdpSink::open(&[target]);
        // Of different sizes, so that each goes by itself, and the drops are those of datagrams.
        let sent: Vec<_> = (0_u8..200).map(|number| vec![number; 2000 + usize::from(number)]).collect();
        sink.send(&batch(&sent)).unwrap();
        // Drops are told with the next datagram that finds room.
        let mut received = receive_all(&mut source);
        assert!((1..200).contains(&received), "{received}");
        sink.send(&batch(&sent[..1])).unwrap();
        received += receive_all(&mut source);
        let channel = &registry.snapshot().endpoints[0];
        assert_eq!((channel.datagrams, channel.errors), (201, 0));
        assert_eq!((received as u64 + channel.dropped, channel.dropped > 0), (201, true));
    }

    #[test]
    fn what_came_before_the_pair_was_connected_never_comes_out() {
        let [sender, receiver, stranger] = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for _ in 0..100 {
            stranger.send_to(b"injected", receiver.local_addr().unwrap()).unwrap();
        }
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.connect(sender.local_addr().unwrap()).unwrap();
        receive_probe(&sender, &receiver).unwrap();
        stranger.send_to(b"injected", receiver.local_addr().unwrap()).unwrap_or_default();
        sender.send(b"sent").unwrap();
        let mut area = [0; 16];
        let len = receiver.recv(&mut area).unwrap();
        assert_eq!(&area[..len], b"sent");
    }

    #[test]
    fn nobody_has_a_port_of_the_pair_while_one_end_is_left() {
        let pair = || {
            let pair = UdpPair::open(&Options::default(), false).unwrap();
            let ports = [&pair.sender, &pair.receiver].map(|socket| socket.local_addr().unwrap());
            let meter = Registry::default().endpoint("the pair", Direction::Channel);
            (ports, pair.into_ends(&meter, &Stop::new().unwrap()).unwrap())
        };
        let bind = |address: SocketAddr| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
            socket.set_reuse_address(true).unwrap();
            sys::set_reuse_port(&socket, true).unwrap();
            socket.bind(&address.into())
        };
        let (ports, (target, source)) = pair();
        drop(source);
        assert!(ports.map(bind).iter().all(Result::is_err));
        // What is sent on meets no port unreachable, and nobody.
        let mut sink = UdpSink::open(&[target]);
        for _ in 0..3 {
            sink.send(&batch(&[b"sent".to_vec()])).unwrap();
        }
        drop(sink);
        assert!(ports.map(bind).iter().all(Result::is_ok));
        let (ports, (target, source)) = pair();
        drop(target);
        assert!(ports.map(bind).iter().all(Result::is_err));
        drop(source);
        assert!(ports.map(bind).iter().all(Result::is_ok));
    }
}
