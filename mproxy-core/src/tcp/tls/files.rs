//! Certificates and keys: reading them, and reading them again when they have changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::Tls;
use crate::error::Error;
use crate::log;
use crate::sys;

/// A configuration made of files, and made anew when they have changed.
pub(super) struct Reloading<C> {
    tls: Tls,
    make: fn(&Tls) -> Result<C, Error>,
    loaded: Mutex<Loaded<C>>,
}

struct Loaded<C> {
    config: Arc<C>,
    /// Of the files when they were read; none if they are to be read again anyway.
    stamps: Vec<Stamp>,
    passing: log::LogLimiter,
}

/// What changes with a file's content or access; none if there is no file.
type Stamp = Option<(SystemTime, u64, [i64; 3])>;

impl<C> Reloading<C> {
    pub(super) fn new(tls: Tls, make: fn(&Tls) -> Result<C, Error>) -> Result<Self, Error> {
        let stamps = stamps(&tls);
        let config = Arc::new(make(&tls)?);
        Ok(Self {
            tls,
            make,
            loaded: Mutex::new(Loaded { config, stamps, passing: log::LogLimiter::default() }),
        })
    }

    /// For a new connection.
    pub(super) fn current(&self) -> Arc<C> {
        let mut loaded = self.lock();
        let stamps = stamps(&self.tls);
        if loaded.stamps != stamps {
            self.load(&mut loaded, stamps);
        }
        loaded.config.clone()
    }

    /// Whether or not something seems to have changed.
    pub(super) fn reload(&self) {
        let stamps = stamps(&self.tls);
        self.load(&mut self.lock(), stamps);
    }

    fn load(&self, loaded: &mut Loaded<C>, stamps: Vec<Stamp>) {
        loaded.stamps = stamps;
        match (self.make)(&self.tls) {
            Ok(config) => {
                loaded.config = Arc::new(config);
                log::info(format_args!("TLS certificates read again"));
            }
            Err(error) => {
                // Wrong content, such as a certificate whose key has not come yet, is worth one warning for
                // each change. What could not be read may be readable next time.
                let passing = error.kind() != io::ErrorKind::InvalidData;
                if passing {
                    loaded.stamps.clear();
                }
                if !passing || loaded.passing.permits() {
                    log::warn(format_args!("{error}; going on with what was read before"));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded<C>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(tls: &Tls) -> Vec<Stamp> {
    let stamp = |path: PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len(), sys::file_identity(&meta)))
    };
    tls.paths().into_iter().map(stamp).collect()
}

pub(super) fn unusable(path: &Path, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::io("use", path.display(), io::Error::new(io::ErrorKind::InvalidData, reason))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::io("read", path.display(), error))
}

/// All sections of one kind.
fn sections<T: PemObject>(path: &Path, text: &[u8]) -> Result<Vec<T>, Error> {
    T::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| unusable(path, malformed(&error)))
}

fn malformed(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: a section in PEM form has no end",
        _ => "it is not in PEM form",
    }
}

/// A certificate and those that it rests on.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = sections(path, &read(path)?)?;
    if certificates.is_empty() {
        return Err(unusable(path, "it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

/// The authorities whose word is taken, and what they have revoked.
pub(super) fn authorities(
    path: &Path,
) -> Result<(RootCertStore, Vec<CertificateRevocationListDer<'static>>), Error> {
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    // Of hundreds in a system's bundle some may be too odd; they are not trusted then.
    let (valid, _) = roots.add_parsable_certificates(sections::<CertificateDer<'static>>(path, &text)?);
    if valid == 0 {
        return Err(unusable(path, "it holds no certificate of an authority in PEM form"));
    }
    Ok((roots, sections(path, &text)?))
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            unusable(path, "it holds no private key in PEM form (an encrypted one cannot be used)")
        }
        error => unusable(path, malformed(&error)),
    })
}
