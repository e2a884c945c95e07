//! The signals that end a program: the first stops it, a second one ends it at once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::log::Exit;
use crate::program::program::Stopper;

/// How long a stopped program may take before it is ended from here, and how long a signal waits for a
/// program that is just being started.
const LIMIT: Duration = Duration::from_millis(950);
const STARTING: Duration = Duration::from_millis(500);

/// A signal that comes this soon after the first is the same request: `timeout`, for one, signals a
/// program and then its group.
#[cfg(unix)]
const ECHO: Duration = Duration::from_millis(50);

/// The signals are caught from here on; what they stop is told later.
#[derive(Clone, Default)]
pub(crate) struct Signals(Arc<(Mutex<Option<Stopper>>, Condvar)>);

impl Signals {
    /// Stops this program at the first signal.
    pub(crate) fn stop(&self, stopper: Stopper) {
        let (program, told) = &*self.0;
        *program.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopper);
        told.notify_all();
    }

    /// The program, once it has been started; none if it takes long, as the opening of a FIFO does.
    fn program(&self) -> Option<Stopper> {
        let (program, told) = &*self.0;
        let program = program.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = told.wait_timeout_while(program, STARTING, |program| program.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// SIGINT and SIGTERM.
    #[cfg(unix)]
    pub(crate) fn catch() -> Result<Self, Error> {
        use std::io::Read;
        use std::os::unix::net::UnixStream;
        use std::time::Instant;

        use rustix::process::Signal;

        let failed = |error| Error::io("catch", "signals", error);
        let (mut caught, sender) = UnixStream::pair().map_err(failed)?;
        for signal in [Signal::INT, Signal::TERM] {
            let sender = sender.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal.as_raw(), sender).map_err(failed)?;
        }
        // A file that reaches the limit of its size is an error of its write, not the end of the process.
        let ignored = Arc::default();
        signal_hook::flag::register(Signal::XFSZ.as_raw(), ignored).map_err(failed)?;

        let signals = Self::default();
        let program = signals.clone();
        let wait = move || {
            // Kept open, so that the end of file never comes.
            let _sender = sender;
            let mut byte = [0];
            if caught.read_exact(&mut byte).is_err() {
                return;
            }
            let first = Instant::now();
            let Some(stopper) = program.program() else {
                // Nothing runs yet, so nothing is lost.
                std::process::exit(Exit::Done.into());
            };
            stopper.stop();
            loop {
                let left = LIMIT.saturating_sub(first.elapsed()).max(Duration::from_millis(1));
                let _ = caught.set_read_timeout(Some(left));
                if caught.read_exact(&mut byte).is_err() {
                    std::process::exit(Exit::Done.into());
                }
                if first.elapsed() > ECHO {
                    std::process::exit(Exit::Failed.into());
                }
            }
        };
        crate::relay::thread::spawn("signals".to_owned(), Box::new(wait))?;
        Ok(signals)
    }

    /// Ctrl-C, Ctrl-Break, and the end of the console or the session.
    #[cfg(windows)]
    pub(crate) fn catch() -> Result<Self, Error> {
        let (sender, caught) = std::sync::mpsc::channel();
        crate::sys::send_console_events(sender).map_err(|error| Error::io("catch", "signals", error))?;
        let signals = Self::default();
        let program = signals.clone();
        let wait = move || {
            if caught.recv().is_err() {
                return;
            }
            let exit = if let Some(stopper) = program.program() {
                stopper.stop();
                if caught.recv_timeout(LIMIT).is_ok() { Exit::Failed } else { Exit::Done }
            } else {
                // Nothing runs yet, so nothing is lost.
                Exit::Done
            };
            std::process::exit(exit.into());
        };
        crate::relay::thread::spawn("signals".to_owned(), Box::new(wait))?;
        Ok(signals)
    }
}
