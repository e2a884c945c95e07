//! What a test may need of the machine, and skips where it is not there.

use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{output, try_launch};

/// Whether this process may make network namespaces. Where it may not, a test that needs them says so
/// and passes; under CI on Linux it must not come to that, so
/// there this panics instead.
pub fn can_make_networks(test: &str) -> bool {
    #[cfg(unix)]
    let root = rustix::process::geteuid().is_root();
    #[cfg(not(unix))]
    let root = false;
    let able = cfg!(target_os = "linux")
        && root
        && try_launch(Command::new("ip").args(["netns", "list"]).stdout(Stdio::null()))
            .and_then(|mut ip| ip.wait())
            .is_ok_and(|status| status.success());
    if !able {
        assert!(!must_not_skip(), "{test}: network namespaces are needed under CI");
        skipped(test, "making network namespaces needs root and iproute2 on Linux");
    }
    able
}

/// Whether this machine has these: a program by its name, a device by its path. Where one is missing, a test
/// that needs it says so and passes; under CI on Linux this panics
/// instead.
pub fn has(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        let found = Path::new(tool).exists()
            || cfg!(unix)
                && output(Command::new("sh").args(["-c", &format!("command -v {tool}")])).status.success();
        if !found {
            assert!(!must_not_skip(), "{test}: {tool} is needed under CI");
            skipped(test, &format!("this machine has no {tool}"));
            return false;
        }
    }
    true
}

fn must_not_skip() -> bool {
    cfg!(target_os = "linux") && std::env::var_os("CI").is_some()
}

/// Whether this machine has `::1`. Where it has not, a test that needs it says so and passes.
pub fn has_ipv6(test: &str) -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        skipped(test, "this machine has no ::1");
    }
    has
}

/// Whether this is Wine, whose sockets are those of the system below it: it binds any address, for one.
pub fn is_wine() -> bool {
    #[cfg(windows)]
    let is = crate::console::is_wine();
    #[cfg(not(windows))]
    let is = false;
    is
}

/// Whether groups can be joined for one source alone. Where they cannot, a test that needs it says so and passes.
pub fn has_sources(test: &str) -> bool {
    let has = !is_wine();
    if !has {
        skipped(test, "Wine takes the source for the interface");
    }
    has
}

/// Says that a test, or a part of it, is skipped. Unlike what `eprintln!` says, it is seen though the
/// test passes: what is written to standard error itself is not captured.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
