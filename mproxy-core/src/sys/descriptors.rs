//! Limits of the process.

/// Raises the soft limit of open descriptors (`RLIMIT_NOFILE`) to the hard one; many systems begin with
/// few. Where there is no such limit, this does nothing.
pub fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            // macOS refuses an unlimited number, and begins with 256: there this is the most (`OPEN_MAX`).
            limit.current = Some(10_240);
            let _ = setrlimit(Resource::Nofile, limit);
        }
    }
}

/// How many descriptors the process may have (`RLIMIT_NOFILE`).
pub(crate) fn descriptor_limit() -> usize {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let limit: Option<u64> = None;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}
