//! What the whole-network tests of MPROXY share: the real programs as child processes, whose messages
//! can be waited for, and hosts of their own in network namespaces.
//!
//! Everything here panics when something is not as a test expects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]
#![allow(clippy::print_stderr, clippy::must_use_candidate)]

mod capture;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(windows)]
mod console;
mod harness;
mod log;
mod loopback;
mod needs;
mod network;
mod pipes;
mod socket;
#[cfg(feature = "tls")]
mod tls;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use capture::{Capture, Packet, Record, Report};
#[cfg(feature = "tls")]
pub use certificates::{Authority, Certificate, Pki, Valid, openssl};
#[cfg(windows)]
pub use console::press_ctrl_c;
pub use harness::run_tests;
pub use log::GroupLine;
pub use loopback::{loopback, member, sender_to};
pub use needs::{
    is_wine, needs_ipv6, needs_loopback_network, needs_source_specific_multicast, needs_tools, skip,
};
pub use network::{MulticastRouter, Network, receives, send, server};
#[cfg(windows)]
pub use pipes::NamedPipe;
pub use pipes::pending;
pub use socket::{force_receive_buffer, segment, share_port};
#[cfg(feature = "tls")]
pub use tls::{TLS_VERSIONS, TlsOptions, TlsPeer, TlsServer, tls_forward, tls_refusal};

/// How long anything may take. Far more than it does, so that a slow machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Held while a process is started, so that it does not inherit, until its `exec`, a socket that only
/// asks for a free port: the port would not be free yet.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a process, but not while a port is looked for.
fn launch(command: &mut Command) -> Child {
    try_launch(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn try_launch(command: &mut Command) -> std::io::Result<Child> {
    let _no_port_is_looked_for = STARTING.lock();
    #[cfg(windows)]
    console::separate(command);
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
fn built(variable: &str, programs: &[&str], features: Option<&str>) -> PathBuf {
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
    let _nothing_starts = STARTING.lock();
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

/// A UDP socket on 127.0.0.1 with a receive time-out of [`PATIENCE`], and its address.
pub fn udp() -> (UdpSocket, SocketAddr) {
    udp_on("127.0.0.1:0")
}

/// As [`udp`], on another address.
pub fn udp_on(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let buffers = socket2::SockRef::from(&socket);
    let _ = buffers.set_recv_buffer_size(4 << 20);
    // BSD and macOS send no datagram that is larger than that.
    let _ = buffers.set_send_buffer_size(1 << 17);
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A UDP socket on the loopback interface that sends to this address.
pub fn connected(to: SocketAddr) -> UdpSocket {
    let (socket, _) = udp_on(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
    socket.connect(to).unwrap();
    socket
}

/// The next datagram.
pub fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let len = loop {
        match socket.recv(&mut buffer) {
            // Under QEMU a signal for another thread can do that.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.expect("no datagram came"),
        }
    };
    buffer.truncate(len);
    buffer
}

/// The payload of the next datagrams, until it is as long.
pub fn payload(socket: &UdpSocket, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(datagram(socket));
    }
    bytes
}

/// Fails if a datagram is there.
#[track_caller]
pub fn assert_empty(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 100];
    match socket.recv_from(&mut buffer) {
        Ok((len, from)) => panic!("{:?} came from {from}", String::from_utf8_lossy(&buffer[..len])),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
    }
    socket.set_nonblocking(false).unwrap();
}

/// The datagrams as `--framing length` writes them: a length of two bytes before each.
pub fn framed(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let header = |datagram: &Vec<u8>| u16::try_from(datagram.len()).unwrap().to_be_bytes();
    datagrams.iter().flat_map(|datagram| [&header(datagram)[..], datagram].concat()).collect()
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

/// One of the programs, running. It is killed when this is dropped.
pub struct Running {
    child: Child,
    messages: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    stdout: Arc<Mutex<Vec<u8>>>,
}

/// Starts a program with standard input closed.
pub fn start<I: AsRef<std::ffi::OsStr>>(name: &str, arguments: &[I]) -> Running {
    let mut command = Command::new(program(name));
    command.args(arguments).stdin(Stdio::null());
    Running::new(&mut command)
}

/// Starts a program with a pipe to its standard input.
pub fn start_piped<I: AsRef<std::ffi::OsStr>>(name: &str, arguments: &[I]) -> (Running, ChildStdin) {
    piped(Command::new(program(name)).args(arguments))
}

/// Starts a command with a pipe to its standard input.
pub fn piped(command: &mut Command) -> (Running, ChildStdin) {
    let mut running = Running::new(command.stdin(Stdio::piped()));
    let stdin = running.child.stdin.take().unwrap();
    (running, stdin)
}

impl Running {
    /// Starts the command. Its standard output is collected, unless it goes elsewhere already.
    pub fn new(command: &mut Command) -> Self {
        Self::spawn(command.stdout(Stdio::piped()))
    }

    /// Starts the command with standard output as it is set up.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = launch(command.stderr(Stdio::piped()));
        let messages = Arc::new(Mutex::new(String::new()));
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let into = messages.clone();
        readers.push(std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let _ = write!(into.lock().unwrap(), "{}", String::from_utf8_lossy(&line));
                line.clear();
            }
        }));
        if let Some(mut out) = child.stdout.take() {
            let into = stdout.clone();
            readers.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while let Ok(len @ 1..) = out.read(&mut buffer) {
                    into.lock().unwrap().extend_from_slice(&buffer[..len]);
                }
            }));
        }
        Self { child, messages, readers, stdout }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All of its messages so far.
    pub fn messages(&self) -> String {
        self.messages.lock().unwrap().clone()
    }

    /// How often this is in its messages so far.
    pub fn count(&self, text: &str) -> usize {
        self.messages().matches(text).count()
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.lock().unwrap().clone()
    }

    /// Its standard output so far, which must be text.
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout()).unwrap()
    }

    /// Waits until a message contains the text, and returns that line.
    pub fn says(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let messages = self.messages();
            if let Some(line) = messages.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "no message says '{text}':\n{messages}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until standard output holds as many bytes.
    pub fn writes(&self, bytes: usize) -> Vec<u8> {
        eventually(&format!("{bytes} bytes on standard output"), || {
            let out = self.stdout();
            (out.len() >= bytes).then_some(out)
        })
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        use rustix::process::{Pid, kill_process};
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop as the system's own means do: SIGTERM, or Ctrl-C at a Windows console.
    pub fn interrupt(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::TERM);
        #[cfg(windows)]
        {
            static BESIDE: OnceLock<PathBuf> = OnceLock::new();
            let beside = BESIDE.get_or_init(|| {
                // Cargo has built it with a test, but not with an example.
                let exe = std::env::current_exe().unwrap();
                let beside = exe.ancestors().nth(2).unwrap().to_owned();
                let there = beside.join("ctrl-c.exe").exists();
                if there { beside } else { built("MPROXY_TESTS_BIN_DIR", &["mproxy-tests"], None) }
            });
            output(Command::new(beside.join("ctrl-c.exe")).arg(self.id().to_string()));
        }
    }

    /// Has it take nothing more, a request to stop included, where the system can do that to a process. Elsewhere
    /// it goes on as it is.
    pub fn hold(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::STOP);
    }

    /// Has it go on after [`hold`](Self::hold).
    pub fn release(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::CONT);
    }

    /// Ends it at once, without asking.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Asks it to stop and waits for the end, which must come with exit code 0.
    pub fn stop(&mut self) {
        self.interrupt();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.messages());
    }

    /// Waits for the end, and for all output.
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the end of the program", || self.child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// How often its threads have gone to sleep and were woken; not known but on Linux, and no measure
    /// where threads look for a stop now and then, as in the portable build.
    pub fn wakes(&self) -> Option<u64> {
        if cfg!(any(mproxy_portable, not(target_os = "linux"))) {
            return None;
        }
        let mut sum = None;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id())).ok()?.flatten() {
            // A thread may end meanwhile.
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let wakes: u64 = wakes.map_or(0, |n| n.trim().parse().unwrap());
            *sum.get_or_insert(0) += wakes;
        }
        sum
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end, and returns the exit code.
    pub fn exit_code(&mut self) -> i32 {
        self.wait().code().expect("ended by a signal")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("messages of process {}:\n{}", self.child.id(), self.messages());
        }
    }
}

/// What a program that ends by itself leaves behind.
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end with this input.
pub fn run<I: AsRef<std::ffi::OsStr>>(name: &str, arguments: &[I], input: &[u8]) -> Outcome {
    use std::io::Write;
    let (mut running, mut stdin) = start_piped(name, arguments);
    // A program that ends early leaves some of it.
    let _ = stdin.write_all(input);
    drop(stdin);
    let code = running.exit_code();
    Outcome { code, stdout: running.stdout(), stderr: running.messages() }
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
