//! Hints: the cause of an error on one system, beyond its text.

use std::{fmt, io};

use crate::sys;

use rustix::io::Errno;

/// The error, printed with the hint for this system if there is one.
pub(crate) fn with_os_hint(error: &io::Error) -> impl fmt::Display {
    WithOsHint(error)
}

struct WithOsHint<'a>(&'a io::Error);

impl fmt::Display for WithOsHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        match os_hint(sys::NAME, error) {
            Some(hint) => write!(f, "{error}: {hint}"),
            None => write!(f, "{error}"),
        }
    }
}

/// The hint for an error on a system, named as in [`sys::NAME`].
fn os_hint(system: &str, error: &io::Error) -> Option<&'static str> {
    match (system, Errno::from_io_error(error)?) {
        ("macos" | "freebsd", Errno::MSGSIZE) => {
            Some("this system's limit for a datagram is the setting net.inet.udp.maxdgram")
        }
        // WSAEACCES in bind, where others have EADDRINUSE.
        ("windows", Errno::ACCESS) => Some(
            "the port is another program's alone, or the system keeps it: see netsh int ipv4 show \
             excludedportrange udp (or tcp)",
        ),
        // Apple's technical note 3179.
        ("macos", Errno::HOSTUNREACH) => Some(
            "if the address is on the local network, allow it for this program, or for the terminal it runs in, \
             under System Settings, Privacy & Security, Local Network",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_its_hints() {
        let hint = |system, errno: Errno| os_hint(system, &errno.into()).unwrap_or("none");
        assert!(hint("macos", Errno::MSGSIZE).contains("net.inet.udp.maxdgram"));
        assert!(hint("macos", Errno::HOSTUNREACH).contains("Local Network"));
        assert!(hint("freebsd", Errno::MSGSIZE).contains("net.inet.udp.maxdgram"));
        assert_eq!(hint("freebsd", Errno::HOSTUNREACH), "none");
        assert_eq!(hint("macos", Errno::CONNREFUSED), "none");
        assert!(hint("windows", Errno::ACCESS).contains("excludedportrange"));
        assert_eq!(hint("windows", Errno::MSGSIZE), "none");
    }
}
