//! Windows: options and requests that no library knows, receiving with what accompanies a message, and what is
//! told of files and by consoles.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::windows::io::{AsRawHandle, AsRawSocket};
use std::ptr;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, OnceLock, PoisonError};

use socket2::SockAddr;
use windows_sys::Win32::Devices::Communication::{COMMTIMEOUTS, SetCommTimeouts};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET6, GROUP_SOURCE_REQ, IN6_ADDR, IN6_ADDR_0, IP_MTU, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6,
    IPPROTO_UDP, IPV6_MTU, IPV6_PKTINFO, LPFN_WSARECVMSG, MCAST_JOIN_SOURCE_GROUP, MSG_CTRUNC, MSG_TRUNC,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SIO_UDP_CONNRESET, SIO_UDP_NETRESET, SO_EXCLUSIVEADDRUSE,
    SOCKADDR_IN6, SOCKADDR_STORAGE, SOCKET, SOL_SOCKET, UDP_RECV_MAX_COALESCED_SIZE, UDP_SEND_MSG_SIZE,
    WSABUF, WSAGetLastError, WSAID_WSARECVMSG, WSAIoctl, WSAMSG, getsockopt, setsockopt,
};
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::core::BOOL;

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

/// Has no receive fail because ICMP has reported that an earlier send from the socket met a closed port
/// (`SIO_UDP_CONNRESET`), or that its time ran out on the way (`SIO_UDP_NETRESET`). What cannot be turned off
/// must be passed over.
pub(crate) fn ignore_reports(socket: &impl AsRawSocket) {
    let _ = turn_off(socket, SIO_UDP_CONNRESET);
    let _ = turn_off(socket, SIO_UDP_NETRESET);
}

/// Whether the system can cut a send into datagrams (`UDP_SEND_MSG_SIZE`, since Windows 10 version 2004). Only
/// asked for: if it were set, to try it, it would hold for every send.
pub(crate) fn can_send_segmented(socket: &UdpSocket) -> bool {
    get_option(socket, IPPROTO_UDP, UDP_SEND_MSG_SIZE).is_ok()
}

/// What the path of a connected socket takes without fragmentation (`IP_MTU`, `IPV6_MTU`).
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

/// What a message came with.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) len: usize,
    /// How much of the control room is filled.
    pub(crate) control: usize,
    /// It is not whole, or what accompanied it is not.
    pub(crate) cut: bool,
    pub(crate) sender: Option<SocketAddr>,
}

/// Receives messages with what accompanies them: `WSARecvMsg`, which is no function of the library but must be
/// asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageReader(LPFN_WSARECVMSG);

impl MessageReader {
    /// As the provider of this socket has it.
    pub(crate) fn new(socket: &UdpSocket) -> io::Result<Self> {
        let mut function: LPFN_WSARECVMSG = None;
        let (id, mut returned) = (WSAID_WSARECVMSG, 0_u32);
        #[allow(clippy::cast_possible_truncation)] // 16 and 8
        let (of_id, of_function) = (size_of_val(&id) as u32, size_of_val(&function) as u32);
        // SAFETY: the socket is open; the identifier, the count and the function's place, of the sizes that are
        // told, outlive the call. What it puts there is null or a function of the type that belongs to the
        // identifier, and an `Option` of a function holds either.
        checked(unsafe {
            WSAIoctl(
                raw(socket),
                SIO_GET_EXTENSION_FUNCTION_POINTER,
                (&raw const id).cast(),
                of_id,
                (&raw mut function).cast(),
                of_function,
                &raw mut returned,
                ptr::null_mut(),
                None,
            )
        })?;
        if function.is_none() { Err(io::ErrorKind::Unsupported.into()) } else { Ok(Self(function)) }
    }

    /// Waits for a message, unless the socket does not block, and takes it into the area and the control room.
    pub(crate) fn receive(
        self,
        socket: &UdpSocket,
        area: &mut [u8],
        control: &mut [u8],
    ) -> io::Result<Arrival> {
        let Some(receive) = self.0 else { return Err(io::ErrorKind::Unsupported.into()) };
        let len = |part: &[u8]| u32::try_from(part.len()).unwrap_or(u32::MAX);
        let mut buffer = WSABUF { len: len(area), buf: area.as_mut_ptr() };
        let room = WSABUF { len: len(control), buf: control.as_mut_ptr() };
        let mut received = 0_u32;
        let fill = |name: *mut socket2::SockAddrStorage, size: *mut socket2::socklen_t| {
            let mut message = WSAMSG {
                name: name.cast(),
                // SAFETY: it is a number that lives for this call, and tells the size of the storage.
                namelen: unsafe { *size },
                lpBuffers: &raw mut buffer,
                dwBufferCount: 1,
                Control: room,
                dwFlags: 0,
            };
            // SAFETY: the socket is open, and its provider has given the function. The message has room for a
            // name, one buffer and control messages, each of the size that is told, all of which live, in
            // place, for the call; it is over when it returns, since it has no overlapped structure.
            checked(unsafe {
                receive(raw(socket), &raw mut message, &raw mut received, ptr::null_mut(), None)
            })?;
            // SAFETY: as above; the system has told how much of the storage it has filled.
            unsafe { *size = message.namelen };
            Ok((message.Control.len, message.dwFlags))
        };
        // SAFETY: the storage is filled as far as its size tells, with an address of the socket's family.
        let ((filled, flags), sender) = unsafe { SockAddr::try_init(fill) }?;
        Ok(Arrival {
            len: area.len().min(received as usize),
            control: control.len().min(filled as usize),
            cut: flags & (MSG_TRUNC | MSG_CTRUNC) != 0,
            sender: sender.as_socket(),
        })
    }
}

/// Whether the file is on a disk: no pipe, console or other device, of which the metadata may tell the same.
pub(crate) fn is_on_disk(file: &File) -> bool {
    // SAFETY: the handle is open as long as the file is.
    unsafe { GetFileType(file.as_raw_handle()) == FILE_TYPE_DISK }
}

/// If the file is a serial port, has each read give what has come, and wait only as long as there is nothing: by default
/// one waits until its whole area is full. Whether it is one.
pub(crate) fn read_promptly(file: &File) -> bool {
    let timeouts = COMMTIMEOUTS {
        ReadIntervalTimeout: u32::MAX,
        ReadTotalTimeoutMultiplier: u32::MAX,
        // The longest: 49 days.
        ReadTotalTimeoutConstant: u32::MAX - 1,
        WriteTotalTimeoutMultiplier: 0,
        WriteTotalTimeoutConstant: 0,
    };
    // SAFETY: the handle is open as long as the file is, and the time-outs outlive the call, which fails where the
    // file is no serial port.
    unsafe { SetCommTimeouts(file.as_raw_handle(), &raw const timeouts) != 0 }
}

/// What is sent to at each event.
static EVENTS: OnceLock<Mutex<Sender<()>>> = OnceLock::new();

/// Has the events of the console that end a program sent to the channel from here on. The first one alone counts
/// that is given here.
pub(crate) fn send_console_events(to: Sender<()>) -> io::Result<()> {
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
