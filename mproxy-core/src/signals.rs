//! The signals that end a program: the first stops it, a second one ends it at once.

use std::sync::{Arc, OnceLock};

use crate::program::Stopper;
use crate::{Error, command::Exit};

/// How long a stopped program may take before it is ended from here.
#[cfg(unix)]
const LIMIT: std::time::Duration = std::time::Duration::from_millis(950);

/// The signals are caught from here on; what they stop is told later.
pub(crate) struct Signals(Arc<OnceLock<Stopper>>);

impl Signals {
    /// Stops this program at the first signal.
    pub(crate) fn stop(&self, stopper: Stopper) {
        let _ = self.0.set(stopper);
    }

    /// SIGINT and SIGTERM.
    #[cfg(unix)]
    pub(crate) fn catch() -> Result<Self, Error> {
        use std::io::Read;
        use std::os::unix::net::UnixStream;

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

        let signals = Self(Arc::default());
        let stopper = signals.0.clone();
        let wait = move || {
            // Kept open, so that the end of file never comes.
            let _sender = sender;
            let mut byte = [0];
            if caught.read_exact(&mut byte).is_err() {
                return;
            }
            let Some(stopper) = stopper.get() else {
                // Nothing runs yet, so nothing is lost.
                std::process::exit(Exit::Done.into());
            };
            stopper.stop();
            let _ = caught.set_read_timeout(Some(LIMIT));
            let second = caught.read_exact(&mut byte).is_ok();
            std::process::exit(if second { Exit::Failed } else { Exit::Done }.into());
        };
        crate::program::spawn("signals".to_owned(), Box::new(wait))?;
        Ok(signals)
    }

    /// Ctrl-C, Ctrl-Break, and the console's close.
    #[cfg(windows)]
    pub(crate) fn catch() -> Result<Self, Error> {
        use std::sync::atomic::{AtomicBool, Ordering};

        let signals = Self(Arc::default());
        let stopper = signals.0.clone();
        let again = AtomicBool::new(false);
        let caught = move || match stopper.get() {
            None => std::process::exit(Exit::Done.into()),
            Some(_) if again.swap(true, Ordering::SeqCst) => std::process::exit(Exit::Failed.into()),
            Some(stopper) => stopper.stop(),
        };
        ctrlc::set_handler(caught)
            .map_err(|error| Error::io("catch", "signals", std::io::Error::other(error)))?;
        Ok(signals)
    }
}
