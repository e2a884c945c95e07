//! System calls that no library offers in a safe form: the one module with `unsafe` code.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Has the socket report all that keeps its datagrams from going out: without this Linux takes a full
/// queue for success, and ignores ICMP messages that a host or a network cannot be reached (`ip(7)`,
/// `IP_RECVERR`).
pub(crate) fn report_errors(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the option's value is an int
    // that outlives the call, of the size that is told.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
