//! A program while it runs: its messages and output, and its end.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::launch;
use crate::{PATIENCE, eventually, program};

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

    /// The number of times that this is in its messages so far.
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
            use crate::process::{built, output};
            static BESIDE: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
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

    /// SIGSTOP: it takes nothing more, a request to stop included. Where the system has no such signal, it goes on.
    pub fn hold(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::STOP);
        // A thread that runs on another processor goes on for a moment.
        #[cfg(target_os = "linux")]
        eventually("all threads to stand still", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().flatten();
            // A thread may have ended meanwhile.
            let mut texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
            let is_stopped =
                |text: String| text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
            texts.all(is_stopped).then_some(())
        });
    }

    /// SIGCONT: it goes on after [`hold`](Self::hold).
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

    /// Voluntary context switches of its threads: each was asleep and was woken. Known on Linux only, and no measure
    /// where threads poll for a stop, as in the portable build.
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

/// Exit code and output of a program that has ended by itself.
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
