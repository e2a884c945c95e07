//! The course of a command line: help, messages and exit codes.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use crate::cli::args::Args;
use crate::cli::help::help;
use crate::cli::options::ProgramSpec;
use crate::error::Error;
use crate::log::{Exit, info, say};
use crate::program::program::Handle;
use crate::program::signals::{Signals, reload_at_sighup};
use crate::sys::stdio;

/// A command line.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The program, which has its options in the table.
    pub program: ProgramSpec,
    /// Its version.
    pub version: &'static str,
    /// What it is, for the help: lines of ASCII, 80 columns at most, as are all that follow.
    pub about: &'static str,
    /// How to use it.
    pub usage: &'static str,
    /// What the help says after the options.
    pub notes: &'static str,
    /// Command lines that make sense.
    pub examples: &'static str,
}

impl Command {
    /// Runs the program, and waits for its end or for a signal: `read` makes a builder of the options, and
    /// `spawn` starts what it describes. Nothing is opened before all options have been read.
    pub fn run<B>(
        &self,
        read: fn(&mut Args) -> Result<B, Error>,
        spawn: fn(&B) -> Result<Handle, Error>,
    ) -> ExitCode {
        let mut arguments = std::env::args_os();
        arguments.next();
        let arguments: Vec<OsString> = arguments.collect();
        if let Some(code) = self.print(&arguments) {
            return code;
        }
        let name = self.program.name();
        // Fails only if there is a logger already, which then has its own idea of what to show.
        if log::set_boxed_logger(Box::new(Messages(name))).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
        let result = Signals::catch().and_then(|signals| {
            let mut args = Args::parse(self.program, arguments)?;
            let builder = read(&mut args)?;
            if args.flag("--verbose")? {
                log::set_max_level(log::LevelFilter::Info);
            }
            args.finish()?;
            wait(spawn(&builder)?, &signals)
        });
        match result {
            Ok(()) => Exit::Done.into(),
            Err(error) if error.is_usage() => {
                say(&format_args!("{name}: {error} (see {name} --help)"));
                Exit::WrongUse.into()
            }
            Err(error) => {
                say(&format_args!("{name}: {error}"));
                Exit::Failed.into()
            }
        }
    }

    /// Prints the help or the version if the arguments ask for it, wherever they do; the help on stderr if
    /// there are none.
    fn print(&self, arguments: &[OsString]) -> Option<ExitCode> {
        if arguments.is_empty() {
            let _ = stdio::write_stderr(&help(self));
            return Some(Exit::WrongUse.into());
        }
        let asks_for = |name: &str| {
            let option = self.program.options().iter().find(|option| option.long == name);
            option.is_some_and(|option| arguments.iter().any(|argument| option.is_named(argument)))
        };
        if asks_for("--help") {
            return Some(printed(stdio::write_stdout(&help(self))));
        }
        if asks_for("--version") {
            let version = format!("{} {}\n", self.program.name(), self.version);
            return Some(printed(stdio::write_stdout(&version)));
        }
        None
    }
}

/// Waits for the program's end, and tells what its endpoints left out.
fn wait(handle: Handle, signals: &Signals) -> Result<(), Error> {
    reload_at_sighup(handle.reloads().to_vec())?;
    signals.stop(handle.stopper());
    for passed in handle.join()?.endpoints {
        let left_out = [
            (passed.denied, "not allowed"),
            (passed.cut, "cut where no line ends"),
            (passed.missed, "missed by readers that were too slow"),
            (passed.gone, "not taken by readers that left"),
        ];
        for (count, what) in left_out {
            if count > 0 {
                info(format_args!("{}: {count} {what}", passed.endpoint));
            }
        }
    }
    Ok(())
}

/// Warnings always, and more when asked to be verbose.
struct Messages(&'static str);

impl log::Log for Messages {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let kind = if record.level() <= log::Level::Warn { "warning: " } else { "" };
        say(&format_args!("{}: {kind}{}", self.0, record.args()));
    }

    fn flush(&self) {}
}

/// A reader that has enough is no failure.
fn printed(result: io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed.into(),
        _ => Exit::Done.into(),
    }
}
