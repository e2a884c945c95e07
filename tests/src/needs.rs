//! Needs of a test that not every machine meets, and the one way to skip a test where it does not.

use std::any::Any;
use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::output;
use crate::process::try_launch;

/// The payload that a skipped test unwinds with: the reason.
struct Skipped(String);

/// Skips the test: it is ignored, with this reason in the summary. For a test of [`main!`](crate::main), and on the
/// thread of the test.
pub fn skip(reason: impl Into<String>) -> ! {
    // No panic hook runs: nothing is printed but the reason.
    resume_unwind(Box::new(Skipped(reason.into())))
}

/// The reason, if the payload of an unwinding is that of a skipped test.
pub(crate) fn skip_reason(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<Skipped>().map(|skipped| skipped.0.as_str())
}

/// Skips the test for want of what every machine for tests should have. Under CI on Linux it fails instead.
fn lacks(reason: &str) -> ! {
    assert!(!cfg!(target_os = "linux") || std::env::var_os("CI").is_none(), "needed under CI: {reason}");
    skip(reason)
}

/// Skips the test where this process may not make network namespaces. Whoever makes a [`Network`](crate::Network)
/// need not ask.
pub(crate) fn needs_namespaces() {
    static ABLE: OnceLock<bool> = OnceLock::new();
    if !*ABLE.get_or_init(can_make_namespaces) {
        lacks("making network namespaces needs root and iproute2 on Linux");
    }
}

fn is_root() -> bool {
    #[cfg(unix)]
    let root = rustix::process::geteuid().is_root();
    #[cfg(not(unix))]
    let root = false;
    root
}

/// Skips the test where this process may not become another user. Whoever does something
/// [`as_nobody`](crate::as_nobody) need not ask.
pub(crate) fn needs_root() {
    if !cfg!(target_os = "linux") || !is_root() {
        lacks("becoming another user needs root on Linux");
    }
}

fn can_make_namespaces() -> bool {
    let succeeds = |command: &mut Command| {
        try_launch(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
            .and_then(|mut child| child.wait())
            .is_ok_and(|status| status.success())
    };
    cfg!(target_os = "linux")
        && is_root()
        && succeeds(Command::new("ip").args(["netns", "list"]))
        // Root in a container may lack CAP_SYS_ADMIN.
        && succeeds(Command::new("unshare").args(["--net", "--mount", "true"]))
}

/// Skips the test where one of these is missing: a program by its name, a device by its path.
pub fn needs_tools(tools: &[&str]) {
    for tool in tools {
        let is_command =
            || output(Command::new("sh").args(["-c", &format!("command -v {tool}")])).status.success();
        let found = cfg!(unix) && (Path::new(tool).exists() || is_command());
        if !found {
            lacks(&format!("this machine has no {tool}"));
        }
    }
}

/// Skips the test where this machine has no `::1`.
pub fn needs_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        lacks("this machine has no ::1");
    }
}

/// Skips the test where the loopback interface has 127.0.0.1 only, and not all of 127.0.0.0/8 as on Linux and Windows.
pub fn needs_loopback_network() {
    if !cfg!(any(target_os = "linux", windows)) {
        skip("the loopback interface has one IPv4 address here");
    }
}

/// Skips the test where groups cannot be joined for one source alone.
pub fn needs_source_specific_multicast() {
    if is_wine() {
        skip("Wine takes the source for the interface");
    }
}

/// Whether this is Wine, whose sockets are those of the system below it: it binds any address, for one.
pub fn is_wine() -> bool {
    #[cfg(windows)]
    let is = crate::console::is_wine();
    #[cfg(not(windows))]
    let is = false;
    is
}
