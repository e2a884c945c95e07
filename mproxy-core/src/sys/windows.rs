//! Windows: socket options and requests that no library knows, and the events of consoles.

mod message;

use std::fs::Metadata;
use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::windows::io::AsRawSocket;
use std::ptr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::PollFd;
use socket2::{SockRef, Socket, TcpKeepalive};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET6, FIONREAD, GROUP_SOURCE_REQ, IN6_ADDR, IN6_ADDR_0, IP_MTU, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6,
    IPPROTO_UDP, IPV6_MTU, IPV6_PKTINFO, MCAST_JOIN_SOURCE_GROUP, SIO_UDP_CONNRESET, SIO_UDP_NETRESET,
    SO_EXCLUSIVEADDRUSE, SOCKADDR_IN6, SOCKADDR_STORAGE, SOCKET, SOL_SOCKET, UDP_RECV_MAX_COALESCED_SIZE,
    UDP_SEND_MSG_SIZE, WSAEMSGSIZE, WSAGetLastError, WSAIoctl, getsockopt, ioctlsocket, setsockopt,
};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::core::BOOL;

pub(crate) use message::{Arrival, MessageReader};

/// Windows binds the wildcard in the place of a group.
pub(crate) const CAN_BIND_GROUPS: bool = false;

/// Windows leaves `IP_MULTICAST_LOOP` to each receiver.
pub(crate) const CAN_SET_MULTICAST_LOOP: bool = false;

/// A policy sets the DSCP, not the program.
pub(crate) const CAN_SET_DSCP: bool = false;

/// Who waits for something is woken only at the next tick of the clock, up to 16 ms late. A short sleep is exact.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// A send does not fail of the pending socket error: only a receive does.
pub(crate) const SEND_TAKES_SOCKET_ERROR: bool = false;

/// The clock ticks every 16 ms at most, where there is no better one.
pub(crate) const MAX_OVERSLEEP: Duration = Duration::from_millis(40);

/// An address holds no zone.
pub(crate) const EMBEDS_ZONES: bool = false;

/// Each event of the console counts.
pub(crate) const SIGNAL_ECHO: Duration = Duration::ZERO;

fn raw(socket: &impl AsRawSocket) -> SOCKET {
    // A handle has the size of a pointer, whatever the two types are.
    #[allow(clippy::cast_possible_truncation)]
    let socket = socket.as_raw_socket() as SOCKET;
    socket
}

fn last_error() -> io::Error {
    // SAFETY: it takes nothing, and reads what the thread's last call has left.
    io::Error::from_raw_os_error(unsafe { WSAGetLastError() })
}

fn checked(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn get_option(socket: &UdpSocket, level: i32, option: i32) -> io::Result<u32> {
    let mut value = 0_u32;
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // 4
    let mut size = size_of::<u32>() as i32;
    // SAFETY: the socket is open, and value and size outlive the call; the size is that of the value.
    checked(unsafe { getsockopt(raw(socket), level, option, (&raw mut value).cast(), &raw mut size) })?;
    Ok(value)
}

/// The bytes in the receive queue (`FIONREAD`).
pub(crate) fn receive_queue_bytes(socket: &UdpSocket) -> io::Result<usize> {
    let mut bytes = 0_u32;
    // SAFETY: the socket is open, and the value that this request writes outlives the call.
    checked(unsafe { ioctlsocket(raw(socket), FIONREAD, &raw mut bytes) })?;
    Ok(bytes as usize)
}

fn set_option<T>(socket: &impl AsRawSocket, level: i32, option: i32, value: &T) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // some hundred bytes at most
    let size = size_of::<T>() as i32;
    // SAFETY: the socket is open, and the option's value, of the size that is told, outlives the call.
    checked(unsafe { setsockopt(raw(socket), level, option, ptr::from_ref(value).cast(), size) })
}

/// Lets nobody else have the address that the socket will be bound to, as other systems do by themselves
/// (`SO_EXCLUSIVEADDRUSE`).
pub(crate) fn set_exclusive(socket: &impl AsRawSocket) -> io::Result<()> {
    set_option(socket, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, &1_u32)
}

/// Keeps a TCP listener's port for itself alone: `SO_REUSEADDR` would let others in, and a restart need not wait for old
/// connections here.
pub(crate) fn set_restartable(socket: &Socket) -> io::Result<()> {
    set_exclusive(socket)
}

/// Lets several receivers on this host share a group and its port (`SO_REUSEADDR`). A unicast stream could be stolen
/// so.
pub(crate) fn set_reuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Whether the receiver hears what this host sends to the group (Winsock's `IP_MULTICAST_LOOP`).
pub(crate) fn set_receiver_multicast_loop(socket: &Socket, family: SocketAddr, on: bool) -> io::Result<()> {
    if family.is_ipv4() { socket.set_multicast_loop_v4(on) } else { socket.set_multicast_loop_v6(on) }
}

/// The traffic class cannot be set; the options' check refuses it.
pub(crate) fn set_traffic_class(_: &Socket, _field: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The send buffer takes datagrams of every size.
pub(crate) fn raise_send_buffer(_: &Socket) {}

/// The socket's own address has broadcast leave through its interface.
#[allow(clippy::unnecessary_wraps)] // the signature of macOS's
pub(crate) fn set_broadcast_interface(_: &Socket, _index: u32) -> io::Result<()> {
    Ok(())
}

/// Turns keepalive on, with so many probes. Windows has known their number, which is set last, since 2017 only;
/// before, it is ten.
#[allow(clippy::unnecessary_wraps)] // the signature of Unix's
pub(crate) fn set_keepalive(stream: &TcpStream, keepalive: TcpKeepalive, probes: u32) -> io::Result<()> {
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(probes));
    Ok(())
}

/// Has each message come with its destination, of the family of this address.
pub(crate) fn tell_destinations(socket: &UdpSocket, family: IpAddr) -> io::Result<()> {
    let (level, option) =
        if family.is_ipv4() { (IPPROTO_IP, IP_PKTINFO) } else { (IPPROTO_IPV6, IPV6_PKTINFO) };
    set_option(socket, level, option, &1_u32)
}

/// Joins the group on this interface for one source alone (RFC 3678, RFC 4607).
pub(crate) fn join_source_v6(
    socket: &impl AsRawSocket,
    group: Ipv6Addr,
    source: Ipv6Addr,
    index: u32,
) -> io::Result<()> {
    let request =
        GROUP_SOURCE_REQ { gsr_interface: index, gsr_group: storage(group), gsr_source: storage(source) };
    set_option(socket, IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP.cast_signed(), &request)
}

fn storage(ip: Ipv6Addr) -> SOCKADDR_STORAGE {
    // SAFETY: all of its fields are integers, for which zero is a value.
    let mut name: SOCKADDR_IN6 = unsafe { zeroed() };
    name.sin6_family = AF_INET6;
    name.sin6_addr = IN6_ADDR { u: IN6_ADDR_0 { Byte: ip.octets() } };
    // SAFETY: as above.
    let mut storage: SOCKADDR_STORAGE = unsafe { zeroed() };
    // SAFETY: an address is smaller than the storage, which is aligned for each and written from its beginning.
    unsafe { (&raw mut storage).cast::<SOCKADDR_IN6>().write(name) };
    storage
}

/// Has a request that takes a flag turn it off.
fn turn_off(socket: &impl AsRawSocket, request: u32) -> io::Result<()> {
    let (off, mut returned) = (0_u32, 0_u32);
    #[allow(clippy::cast_possible_truncation)] // 4
    let size = size_of::<u32>() as u32;
    // SAFETY: the socket is open; the flag, of the size that is told, and the count outlive the call, which is
    // over when it returns, since it has no overlapped structure. It gives nothing back.
    checked(unsafe {
        WSAIoctl(
            raw(socket),
            request,
            (&raw const off).cast(),
            size,
            ptr::null_mut(),
            0,
            &raw mut returned,
            ptr::null_mut(),
            None,
        )
    })
}

/// Keeps receives from failing of ICMP's port unreachable (`SIO_UDP_CONNRESET`) and time exceeded (`SIO_UDP_NETRESET`),
/// which tell of datagrams that the socket has sent. Where they cannot be turned off the receiver passes over them.
pub(crate) fn disable_connection_reset(socket: &impl AsRawSocket) {
    let _ = turn_off(socket, SIO_UDP_CONNRESET);
    let _ = turn_off(socket, SIO_UDP_NETRESET);
}

/// Whether the system can cut a send into datagrams (`UDP_SEND_MSG_SIZE`, since Windows 10 version 2004). Only
/// asked for: if it were set, to try it, it would hold for every send.
pub(crate) fn can_send_segmented(socket: &UdpSocket) -> bool {
    get_option(socket, IPPROTO_UDP, UDP_SEND_MSG_SIZE).is_ok()
}

/// The path MTU of a connected socket (`IP_MTU`, `IPV6_MTU`).
pub(crate) fn path_mtu(socket: &UdpSocket, ipv4: bool) -> io::Result<u32> {
    let (level, option) = if ipv4 { (IPPROTO_IP, IP_MTU) } else { (IPPROTO_IPV6, IPV6_MTU) };
    get_option(socket, level, option)
}

/// Has the socket deliver equal datagrams coalesced, if the system can (`UDP_RECV_MAX_COALESCED_SIZE`, since
/// Windows 10 version 2004): they must be received with a [`MessageReader`] then.
pub(crate) fn receive_coalesced(socket: &UdpSocket) -> io::Result<()> {
    /// The largest datagram that IPv4 carries: no more is coalesced into one message.
    const LARGEST: u32 = 65_507;
    set_option(socket, IPPROTO_UDP, UDP_RECV_MAX_COALESCED_SIZE, &LARGEST)
}

/// The pending socket error, which Windows tells to a receive alone: the socket's, of ICMP's port unreachable, is
/// cleared by that, and datagrams of the peer are dropped. The socket does not block from then on.
pub(crate) fn pending_socket_error(socket: &UdpSocket) -> io::Result<Option<io::Error>> {
    /// Bounded, so that who sends to this socket does not keep it from sending.
    const AT_ONCE: usize = 1000;
    socket.set_nonblocking(true)?;
    let mut last = None;
    for _ in 0..AT_ONCE {
        match socket.recv(&mut [0]) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused => last = Some(error),
                // A datagram, of which there is more.
                _ if error.raw_os_error() == Some(WSAEMSGSIZE) => {}
                _ => break,
            },
        }
    }
    Ok(last)
}

/// Nothing: a socket's time-out ends each wait, so that a request to stop is seen in time.
#[derive(Debug)]
pub(crate) struct StopPipe;

impl StopPipe {
    #[allow(clippy::unnecessary_wraps)] // the signature of Unix's
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    #[allow(clippy::unused_self)] // the signature of Unix's
    pub(crate) fn request(&self) {}

    #[allow(clippy::unused_self)] // the signature of Unix's
    pub(crate) fn poll_fd(&self) -> Option<PollFd<'_>> {
        None
    }
}

/// Ctrl-C, Ctrl-Break, and the end of the console or the session, caught from its making on.
#[derive(Debug)]
pub(crate) struct StopSignals(Receiver<()>);

impl StopSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let (sender, caught) = mpsc::channel();
        send_console_events(sender)?;
        Ok(Self(caught))
    }

    /// Waits for the next one, or for so long. Whether one came.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> bool {
        match timeout {
            Some(timeout) => self.0.recv_timeout(timeout).is_ok(),
            None => self.0.recv().is_ok(),
        }
    }
}

/// There is no SIGHUP.
#[derive(Debug)]
pub(crate) enum ReloadSignals {}

impl ReloadSignals {
    #[allow(clippy::unnecessary_wraps)] // the signature of Unix's
    pub(crate) fn catch() -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(crate) fn wait(&mut self) -> bool {
        match *self {}
    }
}

/// Nothing beside the length and the time of the last change.
#[cfg_attr(not(feature = "tls"), allow(dead_code))] // only certificates are read again
pub(crate) fn file_identity(_: &Metadata) -> [i64; 3] {
    [0; 3]
}

/// The name that the system's tools show: `Ethernet`, where the system's own is `ethernet_32768`.
#[allow(clippy::unnecessary_wraps)] // the signature of Unix's
pub(crate) fn interface_alias(row: &getifaddrs::Interface) -> Option<String> {
    Some(row.description.clone())
}

/// Where each event is sent to.
static EVENTS: OnceLock<Mutex<Sender<()>>> = OnceLock::new();

/// Has the events of the console that end a program sent to the channel from here on. The first one alone counts
/// that is given here.
fn send_console_events(to: Sender<()>) -> io::Result<()> {
    EVENTS.get_or_init(|| Mutex::new(to));
    // SAFETY: the function is there as long as the process is.
    if unsafe { SetConsoleCtrlHandler(Some(console_event), 1) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Called in a thread that the system starts for the event.
extern "system" fn console_event(event: u32) -> BOOL {
    if let Some(events) = EVENTS.get() {
        let _ = events.lock().unwrap_or_else(PoisonError::into_inner).send(());
    }
    // A console that closes, and a session that ends, end the process when this returns: it ends itself sooner.
    if !matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
        loop {
            std::thread::park();
        }
    }
    1
}
