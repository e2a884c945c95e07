//! What the four command lines have in common: options, help, messages and exit codes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

use pico_args::Arguments;

use crate::signals::Signals;
use crate::stream::MAX_DATAGRAM;
use crate::{Error, Framing, Handle, SocketOptions};

/// One option of a command line.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The long form, with its dashes.
    pub long: &'static str,
    /// The short form, with its dash, or nothing.
    pub short: &'static str,
    /// What its value is called; nothing for a flag.
    pub value: &'static str,
    /// What it does. A line break begins a new line of the help.
    pub help: &'static str,
}

impl Opt {
    /// An option with a value.
    #[must_use]
    pub const fn value(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { long, short: "", value, help }
    }

    /// A flag.
    #[must_use]
    pub const fn flag(long: &'static str, short: &'static str, help: &'static str) -> Self {
        Self { long, short, value: "", help }
    }
}

/// `--interface`
pub const INTERFACE: Opt = Opt::value(
    "--interface",
    "NAME|INDEX|ADDRESS",
    "The network interface for multicast; a zone in an address\ncomes before it. By default the one the system routes to",
);
/// `--ttl`
pub const TTL: Opt = Opt::value(
    "--ttl",
    "N",
    "How far multicast goes: 0 stays on this host, 1 (default) on\nthis link, more crosses routers. Unicast is not affected",
);
/// `--recv-buffer`
pub const RECV_BUFFER: Opt = Opt::value(
    "--recv-buffer",
    "BYTES",
    "Receive buffer of each socket, such as 512k or 4M. By default\nas large as the system allows, up to 8M",
);
/// `--framing`
pub const FRAMING: Opt = Opt::value(
    "--framing",
    "MODE",
    "Datagrams in a byte stream: auto (default) ends one at a\nnewline, lines waits for whole lines, blocks has a fixed size,\nraw is one a read",
);
/// `--datagram-size`
pub const DATAGRAM_SIZE: Opt = Opt::value(
    "--datagram-size",
    "BYTES",
    "The largest datagram made from a byte stream. By default what\nthe path takes whole, at most 8192, or 1452 if not known",
);
/// `--tee`
pub const TEE: Opt = Opt::flag("--tee", "-t", "Copy all data to standard output too");
const VERBOSE: Opt = Opt::flag("--verbose", "-v", "Say on stderr what each endpoint became");
const HELP: Opt = Opt::flag("--help", "-h", "Print this help");
const VERSION: Opt = Opt::flag("--version", "-V", "Print the version");

/// A command line.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The program's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does, in one or a few lines.
    pub about: &'static str,
    /// Its options, but for `--verbose`, `--help` and `--version`, which all programs have.
    pub options: &'static [Opt],
    /// What follows the options in the help: notes and examples.
    pub notes: &'static str,
}

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    WrongUse = 2,
}

impl From<Exit> for i32 {
    fn from(exit: Exit) -> Self {
        exit as i32
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl Command {
    /// Runs the program that `start` makes of the options, and waits for its end or for a signal.
    ///
    /// `start` must [finish](Args::finish) the options before it opens anything.
    pub fn run(&self, start: fn(Args) -> Result<Handle, Error>) -> ExitCode {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let asks_for = |opt: Opt| arguments.iter().any(|a| a == opt.long || a == opt.short);
        if asks_for(HELP) {
            return print(io::stdout(), &self.help());
        }
        if asks_for(VERSION) {
            return print(io::stdout(), &format!("{} {}\n", self.name, self.version));
        }
        if arguments.is_empty() {
            print(io::stderr(), &self.help());
            return Exit::WrongUse.into();
        }
        match self.run_with(arguments, start) {
            Ok(()) => Exit::Done.into(),
            Err(error) if error.is_usage() => {
                say(&format_args!("{}: {error} (see {} --help)", self.name, self.name));
                Exit::WrongUse.into()
            }
            Err(error) => {
                say(&format_args!("{}: {error}", self.name));
                Exit::Failed.into()
            }
        }
    }

    fn run_with(&self, arguments: Vec<OsString>, start: fn(Args) -> Result<Handle, Error>) -> Result<(), Error> {
        let mut args = Args::new(arguments, self.options)?;
        let level = if args.flag(VERBOSE) { log::LevelFilter::Info } else { log::LevelFilter::Warn };
        // Fails only if there is a logger already, which then has its own idea of levels.
        if log::set_boxed_logger(Box::new(Messages(self.name))).is_ok() {
            log::set_max_level(level);
        }
        let signals = Signals::catch()?;
        let handle = start(args)?;
        signals.stop(handle.stopper());
        handle.join().map(drop)
    }

    fn help(&self) -> String {
        let mut text = format!("{}\n\nUSAGE:\n  {} [OPTIONS]\n\nOPTIONS:\n", self.about, self.name);
        let column = |opt: &Opt| {
            let short = if opt.short.is_empty() { "    ".to_owned() } else { format!("{}, ", opt.short) };
            let value = if opt.value.is_empty() { String::new() } else { format!(" {}", opt.value) };
            format!("  {short}{}{value}", opt.long)
        };
        for opt in self.options.iter().chain(&[VERBOSE, HELP, VERSION]) {
            let mut left = column(opt);
            for (i, line) in opt.help.lines().enumerate() {
                if i == 0 && left.len() > 30 {
                    text += &left;
                    text.push('\n');
                    left.clear();
                }
                text += &format!("{left:30}  {line}\n");
                left.clear();
            }
        }
        text + "\n" + self.notes
    }
}

/// The options that were given.
#[derive(Debug)]
pub struct Args(Arguments);

impl Args {
    fn new(arguments: Vec<OsString>, options: &[Opt]) -> Result<Self, Error> {
        let mut arguments_left = arguments.iter();
        while let Some(argument) = arguments_left.next() {
            let Some(opt) = options.iter().find(|opt| !opt.value.is_empty() && argument == opt.long) else { continue };
            // pico-args would take whatever follows, even another option.
            match arguments_left.next() {
                Some(value) if !looks_like_option(value) => {}
                Some(value) => {
                    let value = value.to_string_lossy();
                    return Err(Error::usage(format!("{} lacks its value: '{value}' follows it", opt.long)));
                }
                None => return Err(Error::usage(format!("{} lacks its value", opt.long))),
            }
        }
        Ok(Self(Arguments::from_vec(arguments)))
    }

    /// Whether a flag is given.
    pub fn flag(&mut self, opt: Opt) -> bool {
        let mut given = false;
        loop {
            let found = if opt.short.is_empty() { self.0.contains(opt.long) } else { self.0.contains([opt.short, opt.long]) };
            if !found {
                return given;
            }
            given = true;
        }
    }

    /// All values of an option that may be repeated.
    ///
    /// # Errors
    /// Wrong use if one is empty.
    pub fn os_values(&mut self, opt: Opt) -> Result<Vec<OsString>, Error> {
        let values = self.0.values_from_os_str(opt.long, |value| Ok::<_, Error>(value.to_owned()));
        let values = values.map_err(|_| Error::usage(format!("{} lacks its value", opt.long)))?;
        if values.iter().any(|value| value.is_empty()) {
            return Err(Error::usage(format!("{} lacks its value", opt.long)));
        }
        Ok(values)
    }

    /// All values of an option that may be repeated, as text.
    ///
    /// # Errors
    /// Wrong use if one is empty, or not UTF-8.
    pub fn values(&mut self, opt: Opt) -> Result<Vec<String>, Error> {
        let text = |value: OsString| {
            value.into_string().map_err(|v| Error::usage(format!("{}: {} is not UTF-8", opt.long, v.to_string_lossy())))
        };
        self.os_values(opt)?.into_iter().map(text).collect()
    }

    /// The value of an option that may be given once.
    ///
    /// # Errors
    /// Wrong use if it is given more than once, or empty.
    pub fn os_value(&mut self, opt: Opt) -> Result<Option<OsString>, Error> {
        once(opt, self.os_values(opt)?)
    }

    /// The value of an option that may be given once, read with `read`.
    ///
    /// # Errors
    /// Wrong use if it is given more than once, or what `read` says of it.
    pub fn value<T>(&mut self, opt: Opt, read: impl FnOnce(&str) -> Result<T, Error>) -> Result<Option<T>, Error> {
        let Some(text) = once(opt, self.values(opt)?)? else { return Ok(None) };
        read(&text).map(Some).map_err(|error| Error::usage(format!("{}: {error}", opt.long)))
    }

    /// `--interface`, `--ttl` and `--recv-buffer`.
    ///
    /// # Errors
    /// Wrong use if one is malformed.
    pub fn socket_options(&mut self) -> Result<SocketOptions, Error> {
        let mut options = SocketOptions::new();
        if let Some(name) = self.value(INTERFACE, |text| Ok(text.to_owned()))? {
            options = options.interface(name);
        }
        if let Some(ttl) = self.value(TTL, |text| number(text, 0, u8::MAX))? {
            options = options.ttl(ttl);
        }
        if let Some(bytes) = self.value(RECV_BUFFER, |text| scaled(text, 1024))? {
            let bytes = i32::try_from(bytes).ok().and_then(|bytes| usize::try_from(bytes).ok());
            options = options.recv_buffer(bytes.ok_or_else(|| Error::usage("--recv-buffer: at most 2047M"))?);
        }
        Ok(options)
    }

    /// `--framing`.
    ///
    /// # Errors
    /// Wrong use if it is malformed.
    pub fn framing(&mut self) -> Result<Framing, Error> {
        Ok(self.value(FRAMING, str::parse)?.unwrap_or_default())
    }

    /// `--datagram-size`.
    ///
    /// # Errors
    /// Wrong use if it is malformed.
    pub fn datagram_size(&mut self) -> Result<Option<usize>, Error> {
        self.value(DATAGRAM_SIZE, |text| number(text, 1, MAX_DATAGRAM))
    }

    /// Takes all options as read.
    ///
    /// # Errors
    /// Wrong use if one is left over.
    pub fn finish(self) -> Result<(), Error> {
        match self.0.finish().first() {
            None => Ok(()),
            Some(argument) => {
                let text = argument.to_string_lossy();
                let what = if looks_like_option(argument) { "unknown option" } else { "unexpected argument" };
                Err(Error::usage(format!("{what} '{text}'")))
            }
        }
    }
}

fn once<T>(opt: Opt, mut values: Vec<T>) -> Result<Option<T>, Error> {
    if values.len() > 1 {
        return Err(Error::usage(format!("{} can be given only once", opt.long)));
    }
    Ok(values.pop())
}

fn looks_like_option(argument: &OsStr) -> bool {
    argument != "-" && argument.to_string_lossy().starts_with('-')
}

/// Reads a whole number from `min` to `max`.
///
/// # Errors
/// Wrong use if it is none.
pub fn number<T: FromStr + PartialOrd + fmt::Display>(text: &str, min: T, max: T) -> Result<T, Error> {
    let value = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<T>().ok()).flatten();
    match value {
        Some(value) if value >= min && value <= max => Ok(value),
        _ => Err(Error::usage(format!("'{text}' is not a whole number from {min} to {max}"))),
    }
}

/// Reads a whole number above 0 that may end in k, M or G: steps of `step`.
///
/// # Errors
/// Wrong use if it is none, or too large.
pub fn scaled(text: &str, step: u64) -> Result<u64, Error> {
    let (digits, power) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1),
        Some((at, 'm' | 'M')) => (&text[..at], 2),
        Some((at, 'g' | 'G')) => (&text[..at], 3),
        _ => (text, 0),
    };
    number(digits, 1, u64::MAX)
        .ok()
        .and_then(|value| value.checked_mul(step.pow(power)))
        .ok_or_else(|| Error::usage(format!("'{text}' is not a whole number above 0, or one with k, M or G behind it")))
}

/// Lets the process open as many descriptors as it is allowed to; many systems begin with few.
pub fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // macOS refuses an unlimited number: then what there was must do.
        let _ = setrlimit(Resource::Nofile, limit);
    }
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

/// One line on stderr, in one write; nothing if stderr is closed.
pub(crate) fn say(message: &dyn fmt::Display) {
    print(io::stderr(), &format!("{message}\n"));
}

fn print(mut out: impl Write, text: &str) -> ExitCode {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed.into(),
        _ => Exit::Done.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: Opt = Opt::value("--path", "FILE", "");

    fn args(list: &[&str]) -> Result<Args, Error> {
        Args::new(list.iter().map(OsString::from).collect(), &[PATH, TTL, TEE])
    }

    #[test]
    fn values_come_after_a_space_or_an_equals_sign() {
        for list in [&["--path", "a", "-t"][..], &["-t", "--path=a"]] {
            let mut args = args(list).unwrap();
            assert!(args.flag(TEE));
            assert_eq!(args.os_value(PATH).unwrap().unwrap(), "a");
            args.finish().unwrap();
        }
        assert_eq!(args(&["--path", "-"]).unwrap().os_value(PATH).unwrap().unwrap(), "-");
    }

    #[test]
    fn what_is_no_value_is_refused() {
        assert!(args(&["--path", "--tee"]).unwrap_err().to_string().contains("--path lacks its value"));
        assert!(args(&["--path", "-t"]).is_err());
        assert!(args(&["--path"]).is_err());
        assert!(args(&["--path="]).unwrap().os_value(PATH).is_err());
        assert!(args(&["--path", "a", "--path", "b"]).unwrap().os_value(PATH).is_err());
        let unknown = args(&["--bogus"]).unwrap().finish().unwrap_err();
        assert_eq!(unknown.to_string(), "unknown option '--bogus'");
    }

    #[test]
    fn numbers_and_suffixes() {
        assert_eq!(number::<u8>("255", 0, 255).unwrap(), 255);
        for text in ["256", "-1", "", "1x", "+1"] {
            assert!(number::<u8>(text, 0, 255).is_err(), "{text}");
        }
        assert_eq!(scaled("4M", 1024).unwrap(), 4 << 20);
        assert_eq!(scaled("10k", 1000).unwrap(), 10_000);
        assert_eq!(scaled("7", 1000).unwrap(), 7);
        for text in ["0", "k", "1T", "99999999999G", ""] {
            assert!(scaled(text, 1000).is_err(), "{text}");
        }
    }
}
