//! SIGHUP: read the certificates again.

use std::io::Read;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::error::Error;
use crate::tcp::tls::Reload;

/// Calls all of these at each SIGHUP from now on, instead of the end that it would be.
pub(crate) fn at_sighup(reloads: Vec<Reload>) -> Result<(), Error> {
    let failed = |error| Error::io("catch", "signals", error);
    let (mut caught, sender) = UnixStream::pair().map_err(failed)?;
    signal_hook::low_level::pipe::register(Signal::HUP.as_raw(), sender).map_err(failed)?;
    let wait = move || {
        while caught.read_exact(&mut [0]).is_ok() {
            for reload in &reloads {
                reload();
            }
        }
    };
    crate::relay::thread::spawn("hangup".to_owned(), Box::new(wait)).map(drop)
}
