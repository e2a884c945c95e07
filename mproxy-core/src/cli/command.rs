//! What the four command lines have in common: options, help, messages and exit codes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use pico_args::Arguments;

use crate::error::Error;
use crate::log;
use crate::log::{Exit, say};
use crate::net::options::MAX_THREADS;
use crate::net::options::Options;
use crate::program::program::Handle;
use crate::program::signals::Signals;
use crate::relay::limits::MAX_DATAGRAM;
use crate::sys::stdio;
use crate::tcp::tls::Tls;

/// The help of [`Args::options`], to [`concat!`] into a program's.
#[macro_export]
macro_rules! options_help {
    () => {
        "      --interface NAME|INDEX|ADDRESS|all
\tThe network interface for multicast; may be repeated.
\tA zone in an address comes before it
      --ttl N                 How far multicast goes: 0 stays on this host, 1
\t(default) on this link, more crosses routers.
\tUnicast is not affected
      --no-loop               This host does not hear its own multicast (not on
\tWindows)
      --dscp N                The mark of what is sent, 0 (default) to 63 (not on
\tWindows)
      --resolve-interval SECONDS
\tHow often the names of targets are resolved again
\t(default 60); 0 is never
      --recv-buffer BYTES     Receive buffer of each socket, such as 512k or 4M.
\tBy default as large as the system allows, up to 8M
\t(mproxy-server: 64M)
      --framing MODE          Datagrams in a byte stream: auto (default) ends one
\tat a newline, lines waits for whole lines, blocks
\thas a fixed size, raw is one a read, length has its
\tlength before each (RFC 4571)
"
    };
}

/// The help of what [`Args::stream_options`] has beside that.
#[macro_export]
macro_rules! datagram_size_help {
    () => {
        "      --datagram-size BYTES   The largest datagram made from a byte stream. By
\tdefault what the path takes whole, at most 8192, or
\t1452 if that is not known
"
    };
}

/// The help of [`Args::listeners`].
#[macro_export]
macro_rules! listeners_help {
    () => {
        "      --allow NETWORK         Take datagrams and connections from there only, such
\tas 10.1.0.0/16, 2001:db8::/32 or an address; may be
\trepeated
      --threads N             Threads that receive at each unicast UDP listener, for
\tmany senders at full speed; each sender stays with
\tone of them. Default 1; more need Linux
"
    };
}

/// The help of [`Args::transparency`].
#[macro_export]
macro_rules! transparency_help {
    () => {
        "      --transparent           Datagrams leave with the address and port of their
\tsender (Linux, needs CAP_NET_ADMIN)
      --max-sources N         Senders at a time for that (default 4096)
"
    };
}

/// The help of the flags that all programs have.
#[macro_export]
macro_rules! flags_help {
    () => {
        "  -t, --tee                   Copy all data to standard output too
  -v, --verbose               Say on stderr what each endpoint became
  -h, --help                  Print this help
  -V, --version               Print the version
"
    };
}

/// A command line.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// The program's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What `--help` prints, in ASCII. A tab stands for the width of the column with the options.
    pub help: &'static str,
}

impl Command {
    fn help(&self) -> String {
        let mut text = String::new();
        for byte in self.help.bytes() {
            match byte {
                b'\t' => text.push_str("                              "),
                byte => text.push(byte.into()),
            }
        }
        text
    }

    /// Runs the program that `start` makes of the options, and waits for its end or for a signal.
    ///
    /// `start` must [finish](Args::finish) the options before it opens anything.
    pub fn run(&self, start: fn(Args) -> Result<Handle, Error>) -> ExitCode {
        let mut arguments = std::env::args_os();
        arguments.next();
        let arguments: Vec<OsString> = arguments.collect();
        if arguments.is_empty() {
            let _ = stdio::write_stderr(&self.help());
            return Exit::WrongUse.into();
        }
        let asks_for = |long: &str, short: &str| arguments.iter().any(|a| a == long || a == short);
        if asks_for("--help", "-h") {
            return printed(stdio::write_stdout(&self.help()));
        }
        if asks_for("--version", "-V") {
            return printed(stdio::write_stdout(&format!("{} {}\n", self.name, self.version)));
        }
        // Fails only if there is a logger already, which then has its own idea of what to show.
        if ::log::set_boxed_logger(Box::new(Messages(self.name))).is_ok() {
            ::log::set_max_level(::log::LevelFilter::Warn);
        }
        match run(Args::new(arguments), start) {
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
}

fn run(args: Args, start: fn(Args) -> Result<Handle, Error>) -> Result<(), Error> {
    let signals = Signals::catch()?;
    let handle = start(args)?;
    handle.reload_at_sighup()?;
    signals.stop(handle.stopper());
    for passed in handle.join()?.endpoints {
        for (count, what) in [(passed.denied, "not allowed"), (passed.cut, "cut where no line ends")] {
            if count > 0 {
                log::info(format_args!("{}: {count} {what}", passed.endpoint));
            }
        }
    }
    Ok(())
}

/// The options that were given.
///
/// Values are to be read before flags: only then `--path --tee` is seen as a path that is missing.
#[derive(Debug)]
pub struct Args(Arguments);

impl Args {
    /// Takes the arguments, with each `--option=value` made two: what pico-args has for that reads
    /// quotes and prefixes into it, and does not know paths.
    fn new(arguments: Vec<OsString>) -> Self {
        let mut split = Vec::new();
        for argument in arguments {
            match split_option(&argument) {
                Some((option, value)) => split.extend([option, value]),
                None => split.push(argument),
            }
        }
        Self(Arguments::from_vec(split))
    }

    /// Whether a flag is given, in its long form or its short one, which may be the long one again.
    pub fn flag(&mut self, long: &'static str, short: &'static str) -> bool {
        let mut given = false;
        while self.0.contains(long) || self.0.contains(short) {
            given = true;
        }
        given
    }

    /// The value of an option that may be given once.
    ///
    /// # Errors
    /// Wrong use if it is given more than once, or its value is missing.
    pub fn os_text(&mut self, option: &'static str) -> Result<Option<OsString>, Error> {
        let value = self.next(option)?;
        if value.is_some() && self.next(option)?.is_some() {
            return Err(Error::usage(format!("{option} can be given only once")));
        }
        Ok(value)
    }

    /// The value of an option that may be given once, as text.
    ///
    /// # Errors
    /// Wrong use if it is given more than once, or its value is missing or not UTF-8.
    pub fn text(&mut self, option: &'static str) -> Result<Option<String>, Error> {
        self.os_text(option)?.map(|value| utf8(option, value)).transpose()
    }

    /// All values of an option that may be repeated, as text.
    ///
    /// # Errors
    /// Wrong use if a value is missing or not UTF-8.
    pub fn texts(&mut self, option: &'static str) -> Result<Vec<String>, Error> {
        let mut values = Vec::new();
        while let Some(value) = self.next(option)? {
            values.push(utf8(option, value)?);
        }
        Ok(values)
    }

    fn next(&mut self, option: &'static str) -> Result<Option<OsString>, Error> {
        let value = self.0.opt_value_from_os_str(option, |value| Ok::<_, Error>(value.to_owned()));
        match value {
            Ok(Some(value)) if value.is_empty() => Err(Error::usage(format!("{option} lacks its value"))),
            // pico-args takes whatever follows, even another option.
            Ok(Some(value)) if looks_like_option(&value) => {
                let value = value.to_string_lossy();
                Err(Error::usage(format!("{option} lacks its value: '{value}' is an option")))
            }
            Ok(value) => Ok(value),
            Err(_) => Err(Error::usage(format!("{option} lacks its value"))),
        }
    }

    /// A whole number from `min` to `max`.
    ///
    /// # Errors
    /// Wrong use if it is malformed.
    pub fn number(&mut self, option: &'static str, min: usize, max: usize) -> Result<Option<usize>, Error> {
        let Some(text) = self.text(option)? else { return Ok(None) };
        match whole(&text).and_then(|value| usize::try_from(value).ok()) {
            Some(value) if value >= min && value <= max => Ok(Some(value)),
            _ => Err(Error::usage(format!("{option}: '{text}' is not a whole number from {min} to {max}"))),
        }
    }

    /// A whole number above 0 that may end in k, M or G: steps of `step`.
    ///
    /// # Errors
    /// Wrong use if it is malformed.
    pub fn scaled(&mut self, option: &'static str, step: u64, max: u64) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(option)? else { return Ok(None) };
        match scaled(&text, step) {
            Some(value) if value > 0 && value <= max => Ok(Some(value)),
            _ => Err(Error::usage(format!(
                "{option}: '{text}' is not a whole number from 1 to {max}, nor one that ends in k, M or G"
            ))),
        }
    }

    /// `--interface`, `--ttl`, `--dscp`, `--resolve-interval`, `--recv-buffer` and `--framing`.
    ///
    /// # Errors
    /// Wrong use if one is malformed.
    pub fn options(&mut self) -> Result<Options, Error> {
        let mut options = Options::new();
        for name in self.texts("--interface")? {
            options.interfaces.add(name);
        }
        if let Some(ttl) = self.number("--ttl", 0, u8::MAX.into())? {
            options.ttl = u8::try_from(ttl).unwrap_or(u8::MAX);
        }
        if let Some(dscp) = self.number("--dscp", 0, 63)? {
            options.dscp = u8::try_from(dscp).unwrap_or(u8::MAX);
        }
        if let Some(seconds) = self.number("--resolve-interval", 0, 1_000_000)? {
            options.resolve_interval = Duration::from_secs(seconds as u64);
        }
        // The system takes the size as a C int.
        if let Some(bytes) = self.scaled("--recv-buffer", 1024, 0x7fff_ffff)? {
            options.recv_buffer = usize::try_from(bytes).ok();
        }
        if let Some(text) = self.text("--framing")? {
            options.framing = text.parse().map_err(|error| Error::usage(format!("--framing: {error}")))?;
        }
        Ok(options)
    }

    /// The same, and `--datagram-size`.
    ///
    /// # Errors
    /// Wrong use if one is malformed.
    pub fn stream_options(&mut self) -> Result<Options, Error> {
        let mut options = self.options()?;
        options.datagram_size = self.number("--datagram-size", 1, MAX_DATAGRAM)?;
        Ok(options)
    }

    /// Takes `--allow` and `--threads`.
    ///
    /// # Errors
    /// Wrong use if one is malformed.
    pub fn listeners(&mut self, options: &mut Options) -> Result<(), Error> {
        for network in self.texts("--allow")? {
            options.allow.add(&network);
        }
        if let Some(threads) = self.number("--threads", 1, MAX_THREADS)? {
            options.threads = threads;
        }
        Ok(())
    }

    /// Takes `--max-sources` and `--transparent`, after all values of others.
    ///
    /// # Errors
    /// Wrong use if one is malformed.
    pub fn transparency(&mut self, options: &mut Options) -> Result<(), Error> {
        if let Some(sources) = self.number("--max-sources", 1, 1_000_000)? {
            options.max_sources = sources;
        }
        options.transparent = self.flag("--transparent", "--transparent");
        Ok(())
    }

    /// Takes `--no-loop`, after all values.
    pub fn loops(&mut self, options: &mut Options) {
        options.multicast_loop = !self.flag("--no-loop", "--no-loop");
    }

    /// Takes `--tls-cert`, `--tls-key` and the option for authorities.
    ///
    /// # Errors
    /// Wrong use if one is malformed, or a certificate lacks its key.
    pub fn tls(&mut self, ca: &'static str) -> Result<Tls, Error> {
        if !cfg!(feature = "tls") {
            for option in [ca, "--tls-cert", "--tls-key"] {
                if self.os_text(option)?.is_some() {
                    return Err(crate::tcp::tls::not_built_in());
                }
            }
            return Ok(Tls::new());
        }
        let mut tls = Tls::new();
        if let Some(path) = self.os_text(ca)? {
            tls = tls.ca(path);
        }
        match (self.os_text("--tls-cert")?, self.os_text("--tls-key")?) {
            (Some(certificates), Some(key)) => Ok(tls.identity(certificates, key)),
            (None, None) => Ok(tls),
            _ => Err(Error::usage("--tls-cert and --tls-key need each other")),
        }
    }

    /// Takes `--verbose`, and all options as read.
    ///
    /// # Errors
    /// Wrong use if one is left over.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.flag("--verbose", "-v") {
            ::log::set_max_level(::log::LevelFilter::Info);
        }
        let rest = self.0.finish();
        let Some(argument) = rest.first() else { return Ok(()) };
        let what = if looks_like_option(argument) { "unknown option" } else { "unexpected argument" };
        Err(Error::usage(format!("{what} '{}'", argument.to_string_lossy())))
    }
}

/// The option and the value of `--option=value`. A path need not be UTF-8.
fn split_option(argument: &OsStr) -> Option<(OsString, OsString)> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = argument.as_bytes();
        let equals = bytes.iter().position(|byte| *byte == b'=').filter(|_| bytes.starts_with(b"--"))?;
        let part = |bytes| OsStr::from_bytes(bytes).to_owned();
        Some((part(&bytes[..equals]), part(&bytes[equals + 1..])))
    }
    #[cfg(not(unix))]
    {
        let (option, value) = argument.to_str()?.split_once('=')?;
        option.starts_with("--").then(|| (option.into(), value.into()))
    }
}

fn utf8(option: &str, value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|v| Error::usage(format!("{option}: '{}' is not UTF-8", v.to_string_lossy())))
}

fn looks_like_option(argument: &OsStr) -> bool {
    argument != "-" && argument.as_encoded_bytes().first() == Some(&b'-')
}

/// Digits and nothing else: no sign, no space.
fn whole(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn scaled(text: &str, step: u64) -> Option<u64> {
    let (digits, power) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1),
        b'm' | b'M' => (&text[..text.len() - 1], 2),
        b'g' | b'G' => (&text[..text.len() - 1], 3),
        _ => (text, 0),
    };
    whole(digits)?.checked_mul(step.pow(power))
}

/// Lets the process open as many descriptors as it is allowed to; many systems begin with few.
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

/// Warnings always, and more when asked to be verbose.
struct Messages(&'static str);

impl ::log::Log for Messages {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        let kind = if record.level() <= ::log::Level::Warn { "warning: " } else { "" };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &[&str]) -> Args {
        Args::new(list.iter().map(OsString::from).collect())
    }

    #[test]
    fn values_come_after_a_space_or_an_equals_sign() {
        for list in [&["--path", "a", "-t"][..], &["-t", "--path=a"], &["--tee", "--path", "a", "-t"]] {
            let mut args = args(list);
            assert_eq!(args.os_text("--path").unwrap().unwrap(), "a");
            assert!(args.flag("--tee", "-t"));
            args.finish().unwrap();
        }
        assert_eq!(args(&["--path", "-"]).text("--path").unwrap().unwrap(), "-");
        assert_eq!(args(&["--to='a=b'", "--to", "b"]).texts("--to").unwrap(), ["'a=b'", "b"]);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for list in [
            &["--path", "--tee"][..],
            &["--path", "-t"],
            &["--path"],
            &["--path="],
            &["--path", "a", "--path", "b"],
        ] {
            let error = args(list).os_text("--path").unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("--path"), "{list:?}: {error}");
        }
        let unknown = args(&["--bogus"]).finish().unwrap_err();
        assert_eq!(unknown.to_string(), "unknown option '--bogus'");
        assert_eq!(args(&["a"]).finish().unwrap_err().to_string(), "unexpected argument 'a'");
    }

    #[test]
    fn numbers_and_suffixes() {
        assert_eq!(args(&["--ttl", "255"]).number("--ttl", 0, 255).unwrap(), Some(255));
        for text in ["256", "1x", "+1", "1 "] {
            assert!(args(&["--ttl", text]).number("--ttl", 0, 255).is_err(), "{text}");
        }
        assert_eq!(scaled("4M", 1024), Some(4 << 20));
        assert_eq!(scaled("10k", 1000), Some(10_000));
        assert_eq!(scaled("7", 1000), Some(7));
        for text in ["k", "1T", "99999999999G", ""] {
            assert!(args(&["--rate", text]).scaled("--rate", 1000, u64::MAX).is_err(), "{text}");
        }
        assert!(args(&["--rate", "0"]).scaled("--rate", 1000, u64::MAX).is_err());
    }
}
