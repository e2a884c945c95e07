//! Starting processes, and the programs that are built from this workspace.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

/// Held while a process is started, so that it does not inherit, until its `exec`, a socket that only
/// asks for a free port: the port would not be free yet.
pub(crate) static STARTING: Mutex<()> = Mutex::new(());

/// Starts a process, but not while a port is looked for.
pub(crate) fn launch(command: &mut Command) -> Child {
    try_launch(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(crate) fn try_launch(command: &mut Command) -> std::io::Result<Child> {
    let _no_port_is_looked_for = STARTING.lock();
    #[cfg(windows)]
    crate::console::separate(command);
    command.spawn()
}

/// Closes one end of a pipe for good: a process that is just being started would still have a copy.
pub fn close<T>(end: T) {
    let _nothing_starts = STARTING.lock();
    drop(end);
}

/// Runs a command to its end, and returns its output.
pub fn output(command: &mut Command) -> Output {
    launch(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
        .wait_with_output()
        .unwrap()
}

/// The path of one of the programs, built from this workspace: `mproxy-forward`, for one, or with TLS
/// `tls/mproxy-forward`.
pub fn program(name: &str) -> PathBuf {
    static PLAIN: OnceLock<PathBuf> = OnceLock::new();
    static TLS: OnceLock<PathBuf> = OnceLock::new();
    let (directory, name) = if let Some(name) = name.strip_prefix("tls/") {
        let programs = ["mproxy-forward", "mproxy-reverse"];
        let features = Some("mproxy-forward/tls,mproxy-reverse/tls");
        (TLS.get_or_init(|| built("MPROXY_TLS_BIN_DIR", &programs, features)), name)
    } else {
        let programs = ["mproxy-client", "mproxy-server", "mproxy-forward", "mproxy-reverse"];
        (PLAIN.get_or_init(|| built("MPROXY_BIN_DIR", &programs, None)), name)
    };
    directory.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// The directory that the variable names, or one where these are built: where this test is, but those with
/// TLS in a target directory of their own, beside those without.
pub(crate) fn built(variable: &str, programs: &[&str], features: Option<&str>) -> PathBuf {
    if let Some(directory) = std::env::var_os(variable) {
        return directory.into();
    }
    // target/PROFILE/deps/test-1234 or target/PROFILE/examples/demo
    let exe = std::env::current_exe().unwrap();
    let directory = exe.ancestors().nth(2).unwrap();
    let mut target = directory.parent().unwrap().to_owned();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--bins"]);
    // Of this package that is `ctrl-c`, which needs no TLS, and so no C compiler.
    build.arg("--no-default-features");
    for package in programs {
        build.args(["--package", package]);
    }
    if let Some(features) = features {
        target.push("tls");
        build.args(["--features", features]);
    }
    if directory.ends_with("release") {
        build.arg("--release");
    }
    build.arg("--target-dir").arg(&target);
    assert!(launch(&mut build).wait().unwrap().success(), "the programs cannot be built");
    target.join(directory.file_name().unwrap())
}
