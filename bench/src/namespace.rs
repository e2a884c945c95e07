//! A network of its own: nothing that is sent here leaves it, and no port in it is taken.

use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::Outcome;

/// Moves this process into a network namespace of its own, where loopback carries multicast too. No other
/// thread may have been started.
pub(crate) fn enter() -> Outcome {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip("link set lo up")?;
    ip("link set lo multicast on")?;
    ip("route add 224.0.0.0/4 dev lo")
}

fn ip(arguments: &str) -> Outcome {
    let mut command = Command::new("ip");
    let status = command.args(arguments.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("ip {arguments} failed").into()),
        Err(error) => Err(format!("ip, which comes with iproute2: {error}").into()),
    }
}
