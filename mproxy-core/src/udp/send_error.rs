//! The meaning of a failed send: the datagram or the address that its error is about.

use std::io;

use rustix::io::Errno;

/// The error of a send, by what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendError {
    /// Nothing: a signal came first (EINTR).
    Interrupted,
    /// Perhaps an earlier datagram: the pending socket error (`SO_ERROR`), for which this one was not tried.
    EarlierDatagram,
    /// This datagram: no path takes it (EMSGSIZE).
    TooLong,
    /// This datagram.
    ThisDatagram,
    /// All datagrams of this send: a packet filter refuses them (EPERM).
    ThisSend,
    /// Nothing: there is no room for it now.
    Full(Full),
    /// All datagrams: the route, or an address at one of its ends. Another address may do better.
    Address,
}

/// What has no room for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The send buffer of the socket (EAGAIN): it has none for any other datagram either.
    SendBuffer,
    /// The queue of the device (ENOBUFS): it may have some for the next.
    DeviceQueue,
}

/// Where a send has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Situation {
    /// The socket could not be opened.
    Unconnected,
    /// The socket is connected to an address.
    Connected {
        /// The target has other addresses.
        has_other_addresses: bool,
        /// The send before failed too, at the same datagram: the pending socket error is gone by now.
        repeated: bool,
    },
    /// The socket is bound to the address of the sender, and not connected: there is no `SO_ERROR` of others.
    Transparent,
}

impl SendError {
    pub(super) fn classify(error: &io::Error, situation: Situation) -> Self {
        if error.kind() == io::ErrorKind::Interrupted {
            return Self::Interrupted;
        }
        let cause = Cause::of(error);
        match situation {
            Situation::Unconnected => Self::Address,
            Situation::Connected { has_other_addresses, repeated } => match cause {
                Cause::Full(full) => Self::Full(full),
                Cause::Filtered => Self::ThisSend,
                Cause::Refused if has_other_addresses => Self::Address,
                _ if !repeated => Self::EarlierDatagram,
                Cause::TooLong => Self::TooLong,
                Cause::Unreachable => Self::Address,
                Cause::Refused | Cause::Other => Self::ThisDatagram,
            },
            Situation::Transparent => match cause {
                Cause::TooLong => Self::TooLong,
                Cause::Full(full) => Self::Full(full),
                _ => Self::Address,
            },
        }
    }
}

/// The error, by what the systems have several codes for.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// EMSGSIZE.
    TooLong,
    /// EAGAIN, ENOBUFS.
    Full(Full),
    /// EPERM, EACCES.
    Filtered,
    /// ICMP's port unreachable: ECONNREFUSED, and ECONNRESET on Windows.
    Refused,
    /// The route, this host's own address or the target's stand against every datagram.
    Unreachable,
    Other,
}

impl Cause {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match Errno::from_io_error(error) {
            Some(Errno::MSGSIZE) => return Self::TooLong,
            Some(Errno::NOBUFS) => return Self::Full(Full::DeviceQueue),
            _ => {}
        }
        match error.kind() {
            Kind::WouldBlock => Self::Full(Full::SendBuffer),
            Kind::PermissionDenied => Self::Filtered,
            Kind::ConnectionRefused | Kind::ConnectionReset => Self::Refused,
            Kind::AddrNotAvailable
            | Kind::HostUnreachable
            | Kind::InvalidInput
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::NotFound
            | Kind::Unsupported => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SendError::{
        Address, EarlierDatagram as Earlier, Full as NoRoom, Interrupted, ThisDatagram as Datagram,
        ThisSend as Send, TooLong,
    };
    use super::*;

    const fn connected(has_other_addresses: bool, repeated: bool) -> Situation {
        Situation::Connected { has_other_addresses, repeated }
    }

    /// The columns of the tables.
    const SITUATIONS: [Situation; 6] = [
        Situation::Unconnected,
        // One address, at first and again; several addresses, at first and again.
        connected(false, false),
        connected(false, true),
        connected(true, false),
        connected(true, true),
        Situation::Transparent,
    ];

    const INTERRUPTED: [SendError; 6] = [Interrupted; 6];
    const TOO_LONG: [SendError; 6] = [Address, Earlier, TooLong, Earlier, TooLong, TooLong];
    const QUEUE_FULL: [SendError; 6] = no_room(Full::DeviceQueue);
    const BUFFER_FULL: [SendError; 6] = no_room(Full::SendBuffer);
    const FILTERED: [SendError; 6] = [Address, Send, Send, Send, Send, Address];
    const REFUSED: [SendError; 6] = [Address, Earlier, Datagram, Address, Address, Address];
    const UNREACHABLE: [SendError; 6] = [Address, Earlier, Address, Earlier, Address, Address];
    const OTHER: [SendError; 6] = [Address, Earlier, Datagram, Earlier, Datagram, Address];

    const fn no_room(full: Full) -> [SendError; 6] {
        [Address, NoRoom(full), NoRoom(full), NoRoom(full), NoRoom(full), NoRoom(full)]
    }

    fn check(error: &io::Error, expected: [SendError; 6]) {
        let classified = SITUATIONS.map(|situation| SendError::classify(error, situation));
        assert_eq!(classified, expected, "{error:?}");
    }

    #[test]
    fn an_errno_means_the_same_on_every_system() {
        for (errno, expected) in [
            (Errno::MSGSIZE, TOO_LONG),
            (Errno::NOBUFS, QUEUE_FULL),
            (Errno::ACCESS, FILTERED),
            (Errno::CONNREFUSED, REFUSED),
            (Errno::CONNRESET, REFUSED),
            (Errno::ADDRNOTAVAIL, UNREACHABLE),
            (Errno::HOSTUNREACH, UNREACHABLE),
            (Errno::INVAL, UNREACHABLE),
            (Errno::NETDOWN, UNREACHABLE),
            (Errno::NETUNREACH, UNREACHABLE),
            (Errno::AFNOSUPPORT, OTHER),
            (Errno::HOSTDOWN, OTHER),
            (Errno::NOPROTOOPT, OTHER),
            (Errno::TIMEDOUT, OTHER),
            (Errno::WOULDBLOCK, BUFFER_FULL),
        ] {
            check(&errno.into(), expected);
        }
    }

    #[test]
    fn an_error_without_an_errno_goes_by_its_kind() {
        use io::ErrorKind as Kind;
        for (kind, expected) in [
            (Kind::Interrupted, INTERRUPTED),
            (Kind::PermissionDenied, FILTERED),
            (Kind::ConnectionRefused, REFUSED),
            (Kind::ConnectionReset, REFUSED),
            (Kind::AddrNotAvailable, UNREACHABLE),
            (Kind::HostUnreachable, UNREACHABLE),
            (Kind::InvalidInput, UNREACHABLE),
            (Kind::NetworkDown, UNREACHABLE),
            (Kind::NetworkUnreachable, UNREACHABLE),
            (Kind::NotFound, UNREACHABLE),
            (Kind::Unsupported, UNREACHABLE),
            (Kind::Other, OTHER),
            (Kind::TimedOut, OTHER),
            (Kind::WouldBlock, BUFFER_FULL),
        ] {
            check(&kind.into(), expected);
        }
    }

    #[test]
    fn each_system_has_codes_of_its_own() {
        for (systems, code, expected) in [
            // EINTR, EPERM of a packet filter, EIO of a device without checksum offload, ENODEV, ENXIO.
            (&["linux", "macos", "freebsd"][..], 4, INTERRUPTED),
            (&["linux", "macos", "freebsd"], 1, FILTERED),
            (&["linux", "macos", "freebsd"], 5, OTHER),
            (&["linux", "macos", "freebsd"], 19, OTHER),
            (&["linux", "macos", "freebsd"], 6, OTHER),
            // The same names, other numbers: EMSGSIZE, ENOBUFS, ECONNREFUSED, EHOSTUNREACH, EHOSTDOWN, EAGAIN.
            (&["linux"], 90, TOO_LONG),
            (&["macos", "freebsd"], 40, TOO_LONG),
            (&["linux"], 105, QUEUE_FULL),
            (&["macos", "freebsd"], 55, QUEUE_FULL),
            (&["linux"], 111, REFUSED),
            (&["macos", "freebsd"], 61, REFUSED),
            (&["linux"], 113, UNREACHABLE),
            (&["macos", "freebsd"], 65, UNREACHABLE),
            (&["linux"], 112, OTHER),
            (&["macos", "freebsd"], 64, OTHER),
            (&["linux"], 11, BUFFER_FULL),
            (&["macos", "freebsd"], 35, BUFFER_FULL),
            // WSAEMSGSIZE, WSAENOBUFS, WSAEWOULDBLOCK, WSAEACCES, WSAECONNREFUSED, WSAECONNRESET, WSAEHOSTUNREACH, WSAENETRESET.
            (&["windows"], 10_040, TOO_LONG),
            (&["windows"], 10_055, QUEUE_FULL),
            (&["windows"], 10_035, BUFFER_FULL),
            (&["windows"], 10_013, FILTERED),
            (&["windows"], 10_061, REFUSED),
            (&["windows"], 10_054, REFUSED),
            (&["windows"], 10_065, UNREACHABLE),
            (&["windows"], 10_052, OTHER),
        ] {
            if systems.contains(&crate::sys::NAME) {
                check(&io::Error::from_raw_os_error(code), expected);
            }
        }
    }
}
