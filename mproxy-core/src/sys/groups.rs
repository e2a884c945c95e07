//! `MCAST_JOIN_SOURCE_GROUP` for IPv6 (RFC 3678), which no library has in safe form: Linux, macOS and FreeBSD.

use std::io;
use std::mem::zeroed;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

/// Joins the group on this interface for one source alone (RFC 3678, RFC 4607).
pub(crate) fn join_source_v6(
    socket: &impl AsRawFd,
    group: Ipv6Addr,
    source: Ipv6Addr,
    index: u32,
) -> io::Result<()> {
    // SAFETY: all of its fields are integers, for which zero is a value.
    let mut request: libc::group_source_req = unsafe { zeroed() };
    request.gsr_interface = index;
    request.gsr_group = storage(group);
    request.gsr_source = storage(source);
    #[allow(clippy::cast_possible_truncation)] // some hundred bytes
    let size = size_of_val(&request) as libc::socklen_t;
    let (fd, value) = (socket.as_raw_fd(), &raw const request);
    let (level, option) = (libc::IPPROTO_IPV6, libc::MCAST_JOIN_SOURCE_GROUP);
    // SAFETY: the descriptor is open as long as its owner is borrowed, and the option's value, of the size that
    // is told, outlives the call.
    let result = unsafe { libc::setsockopt(fd, level, option, value.cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn storage(ip: Ipv6Addr) -> libc::sockaddr_storage {
    // SAFETY: all of its fields are integers, for which zero is a value.
    let mut name: libc::sockaddr_in6 = unsafe { zeroed() };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 10, 28 or 30
    {
        #[cfg(not(target_os = "linux"))]
        {
            name.sin6_len = size_of_val(&name) as u8;
        }
        name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    }
    name.sin6_addr.s6_addr = ip.octets();
    // SAFETY: as above.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    // SAFETY: an address is smaller than the storage, which is aligned for each and written from its beginning.
    unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
    storage
}
