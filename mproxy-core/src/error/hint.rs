//! What an error may mean on this system beyond what it says.

use std::{fmt, io};

/// The error, and what its user would have to know on this system.
#[cfg(any(windows, target_os = "macos", target_os = "freebsd"))]
pub(crate) fn with_os_hint(error: &io::Error) -> impl fmt::Display + use<> {
    match os_hint(std::env::consts::OS, error) {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    }
}

/// The error: it says enough.
#[cfg(not(any(windows, target_os = "macos", target_os = "freebsd")))]
pub(crate) fn with_os_hint(error: &io::Error) -> &(impl fmt::Display + use<>) {
    error
}

/// What is to be known of the error on that system.
#[cfg(any(test, windows, target_os = "macos", target_os = "freebsd"))]
fn os_hint(system: &str, error: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    match (system, Errno::from_io_error(error)?) {
        ("macos" | "freebsd", Errno::MSGSIZE) => {
            Some("this system's limit for a datagram is the setting net.inet.udp.maxdgram")
        }
        // What it has for a port that cannot be had (WSAEACCES).
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
    use rustix::io::Errno;

    #[test]
    fn what_a_system_means_is_told() {
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
