//! The parts that the whole-network tests of MPROXY share: the real programs as child processes, whose messages
//! can be waited for, and hosts of their own in network namespaces.
//!
//! Everything here panics when something is not as a test expects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]
#![allow(clippy::print_stderr, clippy::must_use_candidate, missing_debug_implementations)]

mod capture;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(windows)]
mod console;
#[cfg(feature = "harness")]
mod harness;
mod log;
mod loopback;
#[cfg_attr(not(feature = "harness"), allow(dead_code))]
mod needs;
mod network;
mod numbered;
mod pipes;
mod process;
mod running;
mod socket;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod udp;
mod user;

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use capture::{Capture, Packet, Record, Report};
#[cfg(feature = "tls")]
pub use certificates::{Authority, Certificate, Pki, Valid, openssl};
#[cfg(windows)]
pub use console::press_ctrl_c;
#[cfg(feature = "harness")]
pub use harness::run_tests;
pub use log::{GroupLine, is_warning};
pub use loopback::{loopback, member, sender_to};
pub use needs::{
    is_wine, needs_ipv6, needs_loopback_network, needs_source_specific_multicast, needs_tools, skip,
};
pub use network::{MulticastRouter, Network, receives, send, server};
pub use numbered::{Feed, Tally};
#[cfg(windows)]
pub use pipes::NamedPipe;
pub use pipes::pending;
pub use process::{close, output, program};
pub use running::{Outcome, Running, piped, run, start, start_piped};
pub use socket::{force_receive_buffer, segment, share_port};
pub use tcp::{TcpReader, connect, needs_descriptors, read_to_end, read_up_to, read_what_is_there};
#[cfg(feature = "tls")]
pub use tls::{TLS_VERSIONS, TlsOptions, TlsPeer, TlsServer, tls_forward, tls_refusal};
pub use udp::{assert_empty, connected, datagram, datagram_from, framed, payload, udp, udp_on};
pub use user::as_nobody;

/// The time limit of anything that is waited for. Far more than it takes, so that a slow machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `ready` gives something.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the file holds at least as many bytes, and returns them.
pub fn file_with(path: &Path, bytes: usize) -> Vec<u8> {
    let mut len = 0;
    let end = Instant::now() + PATIENCE;
    while len < bytes {
        len = std::fs::metadata(path).map_or(0, |meta| usize::try_from(meta.len()).unwrap());
        assert!(Instant::now() < end, "{} has {len} bytes of {bytes}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::read(path).unwrap()
}

/// A port that is free for UDP and TCP on all IPv4 addresses at this moment, and that the system does not
/// give to whoever asks for any. Only for what cannot be asked for its port: the programs' own listeners
/// take port 0 and say what they got.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let _nothing_starts = process::STARTING.lock();
    eventually("a free port", || {
        // Below the ports that systems draw from, and others in each test process.
        let n = std::process::id().wrapping_mul(67).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + n % 10_000).unwrap();
        let free = UdpSocket::bind(("0.0.0.0", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok();
        free.then_some(port)
    })
}

/// A multicast group that no other test uses, on the loopback interface: `GROUP%127.0.0.1:PORT`.
pub fn loopback_group() -> String {
    let port = free_port();
    let [high, low] = port.to_be_bytes();
    format!("239.192.{high}.{low}%127.0.0.1:{port}")
}

/// A new file with this content, in a directory of its own that goes when it is dropped.
pub fn temporary_file(content: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

/// The path as an argument of a program.
pub fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The examples of the READMEs, compiled and run as documentation tests.
#[cfg(doctest)]
mod readmes {
    #[doc = include_str!("../../README.md")]
    #[doc = include_str!("../../mproxy-core/README.md")]
    #[doc = include_str!("../../mproxy-client/README.md")]
    #[doc = include_str!("../../mproxy-server/README.md")]
    #[doc = include_str!("../../mproxy-forward/README.md")]
    #[doc = include_str!("../../mproxy-reverse/README.md")]
    struct Readmes;
}
