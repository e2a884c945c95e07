//! The one error type of all crates.

pub(crate) mod hint;

use std::{fmt, io};

use crate::error::hint::with_os_hint;

/// What went wrong, with what operation, on which endpoint or file.
///
/// It prints as one line that names them, for example
/// `cannot bind 127.0.0.1:9920: Address already in use (os error 98)`.
pub struct Error(Box<Cause>);

enum Cause {
    /// The caller asked for something that cannot be meant.
    Usage(String),
    /// An operation of the system failed.
    Io { operation: &'static str, subject: String, source: io::Error },
    /// The reader of standard output went away: the quiet end of a pipeline.
    StdoutClosed,
}

impl Error {
    /// Wrong use: an address, option or combination that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self(Box::new(Cause::Usage(message.into())))
    }

    /// A failed operation: `operation` is a verb ("bind", "write to"), `subject` the endpoint or file.
    pub fn io(operation: &'static str, subject: impl fmt::Display, source: io::Error) -> Self {
        // Not generic from here on: every type of subject would be a copy of the rest.
        fn io(operation: &'static str, subject: &dyn fmt::Display, source: io::Error) -> Error {
            Error(Box::new(Cause::Io { operation, subject: subject.to_string(), source }))
        }
        io(operation, &subject, source)
    }

    pub(crate) fn stdout_closed() -> Self {
        Self(Box::new(Cause::StdoutClosed))
    }

    /// Whether the caller is at fault (exit code 2), rather than the system or the network (exit code 1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(*self.0, Cause::Usage(_))
    }

    /// Whether this only says that nobody reads standard output any more.
    #[must_use]
    pub fn is_stdout_closed(&self) -> bool {
        matches!(*self.0, Cause::StdoutClosed)
    }

    /// The kind of the underlying system error; `InvalidInput` for wrong use.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match &*self.0 {
            Cause::Usage(_) => io::ErrorKind::InvalidInput,
            Cause::Io { source, .. } => source.kind(),
            Cause::StdoutClosed => io::ErrorKind::BrokenPipe,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Cause::Usage(message) => f.write_str(message),
            Cause::Io { operation, subject, source } => {
                write!(f, "cannot {operation} {subject}: {}", with_os_hint(source))
            }
            Cause::StdoutClosed => f.write_str("nobody reads standard output any more"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Cause::Io { source, .. } => Some(source),
            Cause::Usage(_) | Cause::StdoutClosed => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}
