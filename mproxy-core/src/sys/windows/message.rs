//! Receiving messages with their control messages: `WSARecvMsg`.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ptr;

use socket2::SockAddr;
use windows_sys::Win32::Networking::WinSock::{
    LPFN_WSARECVMSG, MSG_CTRUNC, MSG_TRUNC, SIO_GET_EXTENSION_FUNCTION_POINTER, WSABUF, WSAID_WSARECVMSG,
    WSAIoctl, WSAMSG,
};

use super::{checked, raw};

/// A received message: its length, its control messages, and its sender.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) len: usize,
    /// How much of the control room is filled.
    pub(crate) control: usize,
    /// The message or its control messages are truncated (`MSG_TRUNC`, `MSG_CTRUNC`).
    pub(crate) truncated: bool,
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
            truncated: flags & (MSG_TRUNC | MSG_CTRUNC) != 0,
            sender: sender.as_socket(),
        })
    }
}
