//! The arguments of a command line: the options of a program, with their values.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use pico_args::Arguments;

use crate::cli::options::{OptionSpec, ProgramSpec};
use crate::error::Error;
use crate::sys::split_at_equals;
use crate::tcp::tls;

/// The options of a program as they were given. Each is to be read once.
#[derive(Debug)]
pub struct Args(Vec<Arg>);

/// An option of the program, given or not.
#[derive(Debug)]
struct Arg {
    option: &'static OptionSpec,
    given: bool,
    values: Vec<OsString>,
    read: bool,
}

impl Args {
    /// Finds the program's options among the arguments.
    ///
    /// # Errors
    /// Wrong use if there is anything else, a value is missing or a second one is given, or an option is
    /// not built in.
    pub fn parse(program: ProgramSpec, arguments: Vec<OsString>) -> Result<Self, Error> {
        let arguments = split_options(arguments);
        let mut args = Vec::new();
        for option in program.options() {
            if option.value.is_some() {
                check_values(option.long, &arguments)?;
            }
            args.push(Arg { option, given: false, values: Vec::new(), read: false });
        }
        let mut arguments = Arguments::from_vec(arguments);
        for arg in &mut args {
            arg.take(&mut arguments)?;
        }
        match arguments.finish().first() {
            None => Ok(Self(args)),
            Some(argument) if looks_like_option(argument) => Err(unknown(&argument.to_string_lossy())),
            Some(argument) => {
                Err(Error::usage(format!("unexpected argument '{}'", argument.to_string_lossy())))
            }
        }
    }

    /// The program's options by their long names.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|arg| arg.option.long).collect()
    }

    /// The options that nobody has read.
    #[must_use]
    pub fn unread(&self) -> Vec<&'static str> {
        self.0.iter().filter(|arg| !arg.read).map(|arg| arg.option.long).collect()
    }

    /// Checks that every option that is given has been read.
    ///
    /// # Errors
    /// Wrong use if one has not: it would have no effect.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        match self.0.iter().find(|arg| arg.given && !arg.read) {
            Some(arg) => Err(unknown(arg.option.long)),
            None => Ok(()),
        }
    }

    /// The option for reading, if the table has it for the program, and in this form.
    fn read(&mut self, name: &str, value: bool, repeats: bool) -> Result<&mut Arg, Error> {
        let found = self.0.iter_mut().find(|arg| {
            arg.option.long == name && arg.option.value.is_some() == value && arg.option.repeats == repeats
        });
        let arg = found.ok_or_else(|| unknown(name))?;
        arg.read = true;
        Ok(arg)
    }

    /// Whether a flag is given.
    ///
    /// # Errors
    /// Wrong use if the program has no such flag.
    pub fn flag(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.read(name, false, false)?.given)
    }

    /// The value of an option that may be given once.
    ///
    /// # Errors
    /// Wrong use if the program has no such option.
    pub fn os_text(&mut self, name: &str) -> Result<Option<OsString>, Error> {
        Ok(self.read(name, true, false)?.values.pop())
    }

    /// The value of an option that may be given once, as text.
    ///
    /// # Errors
    /// Wrong use if it is not UTF-8, or the program has no such option.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        self.os_text(name)?.map(|value| utf8(name, value)).transpose()
    }

    /// All values of an option that may be repeated, as text.
    ///
    /// # Errors
    /// Wrong use if one is not UTF-8, or the program has no such option.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let values = std::mem::take(&mut self.read(name, true, true)?.values);
        values.into_iter().map(|value| utf8(name, value)).collect()
    }

    /// A whole number from `min` to `max`.
    ///
    /// # Errors
    /// Wrong use if it is malformed, or the program has no such option.
    pub fn number(&mut self, name: &str, min: usize, max: usize) -> Result<Option<usize>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match whole_number(&text).and_then(|value| usize::try_from(value).ok()) {
            Some(value) if value >= min && value <= max => Ok(Some(value)),
            _ => Err(Error::usage(format!("{name}: '{text}' is not a whole number from {min} to {max}"))),
        }
    }

    /// A whole number from `min` to `max` that may end in k, M or G: steps of `step`.
    ///
    /// # Errors
    /// Wrong use if it is malformed, or the program has no such option.
    pub fn scaled(&mut self, name: &str, step: u64, min: u64, max: u64) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match scaled(&text, step) {
            Some(value) if value >= min && value <= max => Ok(Some(value)),
            _ => Err(Error::usage(format!(
                "{name}: '{text}' is not a whole number from {} to {}, nor one that ends in k, M or G",
                in_units(min, step),
                in_units(max, step)
            ))),
        }
    }

    /// A time from `min` to `max`, with a unit: us, ms, s, min or h. A bare number is of the unit `bare`.
    ///
    /// # Errors
    /// Wrong use if it is malformed, or the program has no such option.
    pub fn duration(
        &mut self,
        name: &str,
        bare: &str,
        min: Duration,
        max: Duration,
    ) -> Result<Option<Duration>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match duration(&text, bare) {
            Some(value) if value >= min && value <= max => Ok(Some(value)),
            _ => {
                let min = if min.is_zero() { "0".to_owned() } else { format!("{min:?}") };
                Err(Error::usage(format!(
                    "{name}: '{text}' is not a time from {min} to {max:?}: a number, with us, ms, s, min or h, or \
                     else of {bare}"
                )))
            }
        }
    }
}

impl Arg {
    /// Takes the option and its values out of the arguments.
    fn take(&mut self, arguments: &mut Arguments) -> Result<(), Error> {
        let name = self.option.long;
        if self.option.value.is_some() {
            while let Some(value) = next_value(arguments, name)? {
                self.values.push(value);
            }
            if self.values.len() > 1 && !self.option.repeats {
                return Err(Error::usage(format!("{name} can be given only once")));
            }
            self.given = !self.values.is_empty();
        } else {
            while arguments.contains(name) || self.option.short.is_some_and(|short| arguments.contains(short))
            {
                self.given = true;
            }
        }
        if self.given && !self.option.is_built_in() {
            return Err(tls::not_built_in());
        }
        Ok(())
    }
}

/// Each `--option=value` made two arguments: what pico-args has for that reads quotes and prefixes into it,
/// and does not know paths.
fn split_options(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut split = Vec::new();
    for argument in arguments {
        match split_at_equals(&argument) {
            Some((option, value)) if option.as_encoded_bytes().starts_with(b"--") => {
                split.extend([option.to_owned(), value.to_owned()]);
            }
            _ => split.push(argument),
        }
    }
    split
}

/// Checks that a value follows the option wherever it is given: pico-args takes whatever follows, even
/// another option.
fn check_values(name: &str, arguments: &[OsString]) -> Result<(), Error> {
    for (index, _) in arguments.iter().enumerate().filter(|(_, argument)| *argument == name) {
        match arguments.get(index + 1) {
            Some(value) if looks_like_option(value) => {
                let value = value.to_string_lossy();
                return Err(Error::usage(format!("{name} lacks its value: '{value}' is an option")));
            }
            Some(value) if !value.is_empty() => {}
            _ => return Err(lacks_value(name)),
        }
    }
    Ok(())
}

fn next_value(arguments: &mut Arguments, name: &'static str) -> Result<Option<OsString>, Error> {
    let value = arguments.opt_value_from_os_str(name, |value| Ok::<_, Error>(value.to_owned()));
    value.map_err(|_| lacks_value(name))
}

fn lacks_value(name: &str) -> Error {
    Error::usage(format!("{name} lacks its value"))
}

fn unknown(name: &str) -> Error {
    Error::usage(format!("unknown option '{name}'"))
}

fn utf8(option: &str, value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|v| Error::usage(format!("{option}: '{}' is not UTF-8", v.to_string_lossy())))
}

fn looks_like_option(argument: &OsStr) -> bool {
    argument != "-" && argument.as_encoded_bytes().first() == Some(&b'-')
}

/// Digits and nothing else: no sign, no space.
fn whole_number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn scaled(text: &str, step: u64) -> Option<u64> {
    let (digits, power) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1),
        b'm' | b'M' => (&text[..text.len() - 1], 2),
        b'g' | b'G' => (&text[..text.len() - 1], 3),
        _ => (text, 0),
    };
    whole_number(digits)?.checked_mul(step.pow(power))
}

/// The number as [`scaled`] reads it, in the largest unit that it is a multiple of.
fn in_units(mut number: u64, step: u64) -> String {
    let mut units = ["", "k", "M", "G"].into_iter();
    let mut unit = units.next();
    while number > 0 && number.is_multiple_of(step) && units.len() > 0 {
        number /= step;
        unit = units.next();
    }
    format!("{number}{}", unit.unwrap_or_default())
}

/// A number, whole or with decimals, and its unit, which is `bare` if there is none.
fn duration(text: &str, bare: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let nanoseconds: u64 = match if unit.is_empty() { bare } else { unit } {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let (whole, fraction) = (whole_number(whole)?, whole_number(decimals)?);
    let scale = 10_u64.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    // 20 decimals at most, and no unit is more than 42 bits.
    let fraction = u128::from(fraction) * u128::from(nanoseconds) / u128::from(scale);
    let whole = whole.checked_mul(nanoseconds)?;
    Some(Duration::from_nanos(whole.checked_add(u64::try_from(fraction).ok()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> Result<Args, Error> {
        Args::parse(ProgramSpec::CLIENT, list.iter().map(OsString::from).collect())
    }

    fn args(list: &[&str]) -> Args {
        parse(list).unwrap()
    }

    #[test]
    fn values_come_after_a_space_or_an_equals_sign() {
        for list in [&["--path", "a", "-t"][..], &["-t", "--path=a"], &["--tee", "--path", "a", "-t"]] {
            let mut args = args(list);
            assert_eq!(args.os_text("--path").unwrap().unwrap(), "a");
            assert!(args.flag("--tee").unwrap());
            args.finish().unwrap();
        }
        assert_eq!(args(&["--path", "-"]).text("--path").unwrap().unwrap(), "-");
        let targets = ["--server-addr='a=b'", "--server-addr", "b"];
        assert_eq!(args(&targets).texts("--server-addr").unwrap(), ["'a=b'", "b"]);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (list, message) in [
            (&["--path", "--tee"][..], "--path lacks its value: '--tee' is an option"),
            (&["--path", "-t"], "--path lacks its value: '-t' is an option"),
            (&["--ttl", "--path", "a"], "--ttl lacks its value: '--path' is an option"),
            (&["--path", "--ttl", "1"], "--path lacks its value: '--ttl' is an option"),
            (&["--path"], "--path lacks its value"),
            (&["--path="], "--path lacks its value"),
            (&["--path", "a", "--path"], "--path lacks its value"),
            (&["--path", "a", "--path", "b"], "--path can be given only once"),
            (&["--bogus"], "unknown option '--bogus'"),
            (&["--listen-addr", "a"], "unknown option '--listen-addr'"),
            (&["a"], "unexpected argument 'a'"),
            (&["--tee=yes"], "unexpected argument 'yes'"),
        ] {
            let error = parse(list).unwrap_err();
            assert!(error.is_usage(), "{list:?}: {error}");
            assert_eq!(error.to_string(), message, "{list:?}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused() {
        let mut args = args(&["--path", "a", "--tee"]);
        args.text("--path").unwrap();
        assert_eq!(args.finish().unwrap_err().to_string(), "unknown option '--tee'");
        assert!(args.unread().contains(&"--tee") && !args.unread().contains(&"--path"));
    }

    #[test]
    fn what_the_table_has_not_or_not_so_cannot_be_read() {
        let mut args = args(&["--tee", "--path", "a", "--server-addr", "b"]);
        assert!(args.flag("--bogus").is_err());
        assert!(args.texts("--listen-addr").is_err(), "another program's");
        assert!(args.flag("--path").is_err(), "has a value");
        assert!(args.text("--tee").is_err(), "has none");
        assert!(args.text("--server-addr").is_err(), "may be repeated");
        assert!(args.texts("--path").is_err(), "may not");
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
        for text in ["k", "1T", "99999999999G"] {
            assert!(args(&["--rate", text]).scaled("--rate", 1000, 1, u64::MAX).is_err(), "{text}");
        }
        assert_eq!(scaled("", 1000), None);
        assert!(args(&["--rate", "0"]).scaled("--rate", 1000, 1, u64::MAX).is_err());
        for (text, value) in [("1k", Some(1000)), ("4k", Some(4000)), ("999", None), ("4001", None)] {
            assert_eq!(args(&["--rate", text]).scaled("--rate", 1000, 1000, 4000).ok().flatten(), value);
        }
        for (number, text) in [(0, "0"), (1, "1"), (131_072, "128k"), (1 << 30, "1G"), (1 << 41, "2048G")] {
            assert_eq!(in_units(number, 1024), text);
        }
        assert_eq!(in_units(u64::MAX, 1000), u64::MAX.to_string());
    }

    #[test]
    fn durations_and_units() {
        for (text, bare, microseconds) in [
            ("0", "s", 0),
            ("60", "s", 60_000_000),
            ("250", "us", 250),
            ("250us", "s", 250),
            ("2ms", "us", 2_000),
            ("1.5s", "us", 1_500_000),
            ("0.25ms", "s", 250),
            ("1.000001", "s", 1_000_001),
            ("1.50min", "s", 90_000_000),
            ("2h", "s", 7_200_000_000),
        ] {
            assert_eq!(duration(text, bare), Some(Duration::from_micros(microseconds)), "{text} {bare}");
        }
        for text in
            ["", "s", ".5", "5.", "1.5.5s", "-1s", "+1s", "1 s", "1e3", "1S", "1d", "1m", "1ms ", "1\u{b5}s"]
        {
            assert_eq!(duration(text, "s"), None, "{text}");
        }
        for text in ["99999999999999999999", "18446744073709551615h", "0.99999999999999999999999s"] {
            assert_eq!(duration(text, "s"), None, "{text}");
        }
    }

    #[test]
    fn durations_out_of_range_are_refused() {
        let read = |text: &str| {
            let (min, max) = (Duration::from_millis(100), Duration::from_secs(86_400));
            args(&["--resolve-interval", text]).duration("--resolve-interval", "s", min, max)
        };
        assert_eq!(read("24h").unwrap(), Some(Duration::from_secs(86_400)));
        assert_eq!(read("0.1").unwrap(), Some(Duration::from_millis(100)));
        for text in ["99ms", "0", "24.1h", "1x"] {
            let error = read(text).unwrap_err();
            assert!(error.is_usage(), "{text}");
            assert_eq!(
                error.to_string(),
                format!(
                    "--resolve-interval: '{text}' is not a time from 100ms to 86400s: a number, with us, ms, s, \
                     min or h, or else of s"
                )
            );
        }
    }
}
