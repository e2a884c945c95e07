//! The signals that end a program, the first in good order and a second one at once, and the one that has it read its
//! certificates again.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log::Exit;
use crate::program::program::Stopper;
use crate::relay::thread::spawn;
use crate::sys::{ReloadSignals, SIGNAL_ECHO, StopSignals};
use crate::tcp::tls::Reload;

/// How long a stopped program may take before it is ended from here, and how long a signal waits for a
/// program that is just being started.
const LIMIT: Duration = Duration::from_millis(950);
const STARTING: Duration = Duration::from_millis(500);

/// SIGINT and SIGTERM, or the events of a console. Caught from the start; the program to stop is set later.
#[derive(Clone, Default)]
pub(crate) struct Signals(Arc<(Mutex<Option<Stopper>>, Condvar)>);

impl Signals {
    /// Catches the signals.
    pub(crate) fn catch() -> Result<Self, Error> {
        let caught = StopSignals::catch().map_err(cannot_catch)?;
        let signals = Self::default();
        let program = signals.clone();
        spawn("signals".to_owned(), Box::new(move || program.run(caught)))?;
        Ok(signals)
    }

    /// Stops this program at the first signal.
    pub(crate) fn stop(&self, stopper: Stopper) {
        let (program, started) = &*self.0;
        *program.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopper);
        started.notify_all();
    }

    fn run(&self, mut signals: StopSignals) {
        if !signals.wait(None) {
            return;
        }
        let first = Instant::now();
        let Some(stopper) = self.program() else {
            // Nothing runs yet, so nothing is lost.
            std::process::exit(Exit::Done.into());
        };
        stopper.stop();
        loop {
            if !signals.wait(Some(LIMIT.saturating_sub(first.elapsed()))) {
                std::process::exit(Exit::Done.into());
            }
            if first.elapsed() > SIGNAL_ECHO {
                std::process::exit(Exit::Failed.into());
            }
        }
    }

    /// The program, once it has been started; none if it takes long, as the opening of a FIFO does.
    fn program(&self) -> Option<Stopper> {
        let (program, started) = &*self.0;
        let program = program.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = started.wait_timeout_while(program, STARTING, |program| program.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// SIGHUP reads the certificates again from now on, instead of ending the program. Without certificates, and on Windows,
/// nothing changes.
pub(crate) fn reload_at_sighup(reloads: Vec<Reload>) -> Result<(), Error> {
    // Without TLS there are no certificates.
    if !cfg!(feature = "tls") || reloads.is_empty() {
        return Ok(());
    }
    let Some(mut sighup) = ReloadSignals::catch().map_err(cannot_catch)? else { return Ok(()) };
    let run = move || {
        while sighup.wait() {
            for reload in &reloads {
                reload();
            }
        }
    };
    spawn("sighup".to_owned(), Box::new(run)).map(drop)
}

fn cannot_catch(error: std::io::Error) -> Error {
    Error::io("catch", "signals", error)
}
