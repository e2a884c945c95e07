//! The one error type of all crates.

pub(crate) mod hint;

use std::{fmt, io};

use crate::error::hint::with_os_hint;

/// A failed operation, with its endpoint or file and its cause, or wrong use.
///
/// It prints as one line, for example
/// `cannot bind 127.0.0.1:9920: Address already in use (os error 98)`.
pub struct Error(Box<Cause>);

enum Cause {
    /// Wrong use by the caller.
    Usage(String),
    /// A failed operation of the system.
    Io { operation: &'static str, subject: String, source: io::Error },
    /// The pipe at standard output has no reader (`EPIPE`): the quiet end of a pipeline.
    StdoutClosed,
}

impl Error {
    /// Wrong use: an address, option or combination that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self(Box::new(Cause::Usage(message.into())))
    }

    /// A failed operation: `operation` is a verb ("bind", "write to"), `subject` the endpoint or file.
    pub fn io(operation: &'static str, subject: impl fmt::Display, source: io::Error) -> Self {
        // Not generic from here on, or each type of subject would have a copy of the rest.
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

    /// Whether standard output was closed by its reader (`EPIPE`): no failure, but the end.
    #[must_use]
    pub fn is_stdout_closed(&self) -> bool {
        matches!(*self.0, Cause::StdoutClosed)
    }

    /// The kind of the system's error; `InvalidInput` for wrong use.
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
