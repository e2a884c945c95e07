//! Another user of the host: what a user without any privilege can do to a program of someone else.

use crate::needs::needs_root;

/// Runs a closure as the user `nobody`, who has no capability, in the test's own process. The sockets that it makes are
/// that user's. Where this process may not change its user, the test is skipped.
pub fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    needs_root();
    let as_other = move || {
        become_nobody();
        act()
    };
    // Linux has the user and the capabilities for each thread.
    let done = std::thread::scope(|scope| scope.spawn(as_other).join());
    done.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

/// Changes the user of the calling thread for good.
#[cfg(target_os = "linux")]
fn become_nobody() {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    use socket2::{Domain, Protocol, Socket, Type};

    const NOBODY: u32 = 65_534;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(group, group, group).unwrap();
    // This takes the capabilities away, too.
    set_thread_res_uid(user, user, user).unwrap();
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    assert_eq!(raw.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "CAP_NET_RAW is left");
}

#[cfg(not(target_os = "linux"))]
fn become_nobody() {
    panic!("a thread has no user of its own here");
}
