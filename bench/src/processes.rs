//! Processes: started, supervised, measured, and ended whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{clock_getcpuclockid, clock_gettime};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::{Outcome, parts};

/// The time limit for a program to be ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The interval at which a condition is polled.
const GLANCE: Duration = Duration::from_millis(2);

/// The processes that run, to be ended if this one has to end, or is kept waiting too long.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The time at which all that still runs is ended.
static DEADLINE: Mutex<Option<Instant>> = Mutex::new(None);

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Ends all that runs.
fn end_all() {
    for id in &*locked(&RUNNING) {
        signal(*id, Signal::KILL);
    }
}

fn signal(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // One that has just ended needs none.
        let _ = kill_process(id, signal);
    }
}

/// Ends all that runs when this process is interrupted or terminated, and when the deadline has passed.
pub(crate) fn start_watchdog() -> Outcome {
    ctrlc::set_handler(|| {
        end_all();
        std::process::exit(130);
    })?;
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let late = locked(&DEADLINE).is_some_and(|deadline| Instant::now() > deadline);
            if late {
                end_all();
            }
        }
    });
    Ok(())
}

/// Sets the time after which whatever runs is ended, so that nothing that waits for it waits for ever.
pub(crate) fn set_deadline(after: Duration) {
    *locked(&DEADLINE) = Some(Instant::now() + after);
}

/// Lets this process and those that it starts have as many descriptors as the system grants
/// (`RLIMIT_NOFILE`): many clients need more than it gives by default.
pub(crate) fn raise_descriptor_limit() -> Outcome {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    Ok(())
}

/// Processor time and memory of a process up to now.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time.
    pub(crate) seconds: f64,
    /// The most memory it had, in bytes.
    pub(crate) memory: f64,
}

/// A process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program whose output nobody reads, and that is ended with this process whatever happens to
    /// it.
    pub(crate) fn quiet(command: &Command, stdin: Stdio) -> Outcome<Self> {
        let mut bound = parts::bound(command);
        Self::start(bound.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Starts a program that ends by itself, whose output nobody reads, and whose start counts.
    pub(crate) fn once(command: &mut Command, stdin: Stdio) -> Outcome<Self> {
        Self::start(command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Starts a program whose output is read; of this benchmark's parts that is their figures.
    pub(crate) fn part(command: &mut Command) -> Outcome<Self> {
        Self::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))
    }

    fn start(command: &mut Command) -> Outcome<Self> {
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        locked(&RUNNING).insert(child.id());
        let out = child.stdout.take().map(BufReader::new);
        Ok(Self { child, out })
    }

    /// The pipe to its standard input, if it was started with one.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its usage so far. Of a process that has ended nothing is known.
    pub(crate) fn usage(&self) -> Outcome<Usage> {
        let id = self.child.id();
        let seconds = seconds(id)?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let most = most.and_then(|text| text.split_whitespace().next()).ok_or("it has ended")?;
        Ok(Usage { seconds, memory: most.parse::<f64>()? * 1024.0 })
    }

    /// The usage of it and its descendants: their processor time, and their own memory now, which they share
    /// with no other process. Of those that have ended nothing is known.
    pub(crate) fn tree_usage(&self) -> Outcome<Usage> {
        let id = self.child.id();
        let mut all = Usage { seconds: seconds(id)?, memory: own_memory(id)? };
        for child in descendants(id) {
            // One that has just ended is left out.
            all.seconds += seconds(child).unwrap_or_default();
            all.memory += own_memory(child).unwrap_or_default();
        }
        Ok(all)
    }

    /// Waits until the condition holds, which no process can make true that has ended.
    pub(crate) fn ready(&mut self, holds: impl Fn() -> bool) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            if self.child.try_wait()?.is_some() {
                return Err("it ended at once".into());
            }
            if Instant::now() > end {
                return Err("it did not become ready".into());
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if let Some(out) = &mut self.out {
            out.read_line(&mut line)?;
        }
        if line.is_empty() { Err("a part of the benchmark ended early".into()) } else { Ok(line) }
    }

    /// The figures in the next line that it prints.
    pub(crate) fn next_figures(&mut self) -> Outcome<Figures> {
        Figures::parse(&self.line()?)
    }

    /// Waits for its end, and returns what it has printed since it was last read.
    pub(crate) fn output(mut self) -> Outcome<String> {
        let mut text = String::new();
        if let Some(out) = &mut self.out {
            out.read_to_string(&mut text)?;
        }
        self.reap()?;
        Ok(text)
    }

    /// Waits for its end, and returns the figures it prints, each as `key=value`.
    pub(crate) fn figures(self) -> Outcome<Figures> {
        Figures::parse(&self.output()?)
    }

    /// Waits for the end of a program that ends by itself, and returns what it has used and how it ended.
    pub(crate) fn end(mut self) -> Outcome<(Usage, bool)> {
        let before = children_seconds()?;
        let mut memory: f64 = 0.0;
        loop {
            if let Ok(usage) = self.usage() {
                memory = memory.max(usage.memory);
            }
            if let Some(status) = self.child.try_wait()? {
                locked(&RUNNING).remove(&self.child.id());
                return Ok((Usage { seconds: children_seconds()? - before, memory }, status.success()));
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn reap(&mut self) -> Outcome {
        self.child.wait()?;
        locked(&RUNNING).remove(&self.child.id());
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.reap();
    }
}

/// Processor time of a process.
fn seconds(id: u32) -> Outcome<f64> {
    // Times in /proc have ticks of 10 ms; this clock has nanoseconds, and counts threads that have ended.
    let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(i32::try_from(id)?))?;
    Ok(Duration::from(clock_gettime(clock)?).as_secs_f64())
}

/// Memory that no other process shares (`Private_Clean` and `Private_Dirty`).
fn own_memory(id: u32) -> Outcome<f64> {
    let rollup = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let mut kilobytes = 0.0;
    for line in
        rollup.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
    {
        kilobytes += line.split_whitespace().nth(1).ok_or("no figure")?.parse::<f64>()?;
    }
    Ok(kilobytes * 1024.0)
}

/// The processes that this one has started, and those that they have, of all that run.
fn descendants(ancestor: u32) -> Vec<u32> {
    // Not every kernel has lists of children (`CONFIG_PROC_CHILDREN`).
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, parent(id)?)))
        .collect();
    let mut all = vec![ancestor];
    let mut next = 0;
    while let Some(&id) = all.get(next) {
        all.extend(parents.iter().filter(|(_, parent)| *parent == id).map(|(child, _)| *child));
        next += 1;
    }
    all.split_off(1)
}

fn parent(id: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Processor time of all children that have been waited for.
fn children_seconds() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// The figures that a part of the benchmark has measured.
pub(crate) struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn parse(text: &str) -> Outcome<Self> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        let figures: BTreeMap<_, _> =
            pairs.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect();
        if figures.is_empty() { Err("a part of the benchmark failed".into()) } else { Ok(Self(figures)) }
    }

    pub(crate) fn get(&self, key: &str) -> Outcome<f64> {
        self.0.get(key).copied().ok_or_else(|| format!("no figure '{key}'").into())
    }
}

/// Whether as many sockets as `count` are bound to the address; the system knows of no other listeners,
/// since the namespace is our own. `protocol` is `udp` or `tcp`.
pub(crate) fn bound(protocol: &str, address: SocketAddrV4, count: usize) -> bool {
    let port = format!(":{:04X}", address.port());
    let mut found = 0;
    for table in [protocol.to_owned(), format!("{protocol}6")] {
        // There is none where the kernel has no IPv6.
        let table = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        let local = table.lines().filter_map(|line| line.split_whitespace().nth(1));
        found += local.filter(|local| local.ends_with(&port)).count();
    }
    found >= count
}
