//! Certificate and key files (PEM): loading, and reloading when a file has changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::error::Error;
use crate::log;
use crate::sys;
use crate::tcp::tls::Tls;

/// Why files make no configuration.
pub(super) enum ConfigError {
    /// A file cannot be read: perhaps the next time.
    Unreadable(Error),
    /// The content is wrong: until a file changes.
    Invalid(Error),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unreadable(error) | ConfigError::Invalid(error) => error,
        }
    }
}

/// A configuration made of files, and made anew when one has changed. Connections' threads share it.
pub(super) struct ReloadingConfig<C> {
    tls: Tls,
    make: fn(&Tls) -> Result<C, ConfigError>,
    current: Mutex<CurrentConfig<C>>,
}

struct CurrentConfig<C> {
    config: Arc<C>,
    /// The files' versions when they were read; none if they are to be read again anyway.
    versions: Vec<FileVersion>,
    unreadable: log::LogLimiter,
}

/// Modification time, size, inode and change time: one of them changes with a file's content or access. None
/// without a file.
type FileVersion = Option<(SystemTime, u64, [i64; 3])>;

impl<C> ReloadingConfig<C> {
    pub(super) fn new(tls: Tls, make: fn(&Tls) -> Result<C, ConfigError>) -> Result<Self, Error> {
        let versions = file_versions(&tls);
        let config = Arc::new(make(&tls)?);
        let current = CurrentConfig { config, versions, unreadable: log::LogLimiter::default() };
        Ok(Self { tls, make, current: Mutex::new(current) })
    }

    /// The configuration for a new connection.
    pub(super) fn current(&self) -> Arc<C> {
        let mut current = self.lock();
        let versions = file_versions(&self.tls);
        if current.versions != versions {
            self.load(&mut current, versions);
        }
        current.config.clone()
    }

    /// Reads the files again, changed or not.
    pub(super) fn reload(&self) {
        let versions = file_versions(&self.tls);
        self.load(&mut self.lock(), versions);
    }

    fn load(&self, current: &mut CurrentConfig<C>, versions: Vec<FileVersion>) {
        let warn = |error| log::warn(format_args!("{error}; going on with what was read before"));
        current.versions = versions;
        match (self.make)(&self.tls) {
            Ok(config) => {
                current.config = Arc::new(config);
                log::info(format_args!("TLS certificates read again"));
            }
            // One warning for each change, such as of a certificate whose new key is not there yet.
            Err(ConfigError::Invalid(error)) => warn(error),
            Err(ConfigError::Unreadable(error)) => {
                current.versions.clear();
                if current.unreadable.permits() {
                    warn(error);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, CurrentConfig<C>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_versions(tls: &Tls) -> Vec<FileVersion> {
    let version = |path: PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len(), sys::file_identity(&meta)))
    };
    tls.paths().into_iter().map(version).collect()
}

pub(super) fn unusable(
    path: &Path,
    reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ConfigError {
    let error = io::Error::new(io::ErrorKind::InvalidData, reason);
    ConfigError::Invalid(Error::io("use", path.display(), error))
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| ConfigError::Unreadable(Error::io("read", path.display(), error)))
}

/// All PEM sections of one type.
fn sections<T: PemObject>(path: &Path, text: &[u8]) -> Result<Vec<T>, ConfigError> {
    T::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| unusable(path, malformed(&error)))
}

fn malformed(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: a section in PEM form has no end",
        _ => "it is not in PEM form",
    }
}

/// A certificate chain: the own certificate first.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Vec<_> = sections(path, &read(path)?)?;
    if certificates.is_empty() {
        return Err(unusable(path, "it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

/// Trusted authorities (trust anchors) and their revocation lists.
pub(super) fn authorities(
    path: &Path,
) -> Result<(RootCertStore, Vec<CertificateRevocationListDer<'static>>), ConfigError> {
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    // Of hundreds in a system's bundle some may not parse: they are not trusted then.
    let (valid, _) = roots.add_parsable_certificates(sections::<CertificateDer<'static>>(path, &text)?);
    if valid == 0 {
        return Err(unusable(path, "it holds no certificate of an authority in PEM form"));
    }
    Ok((roots, sections(path, &text)?))
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            unusable(path, "it holds no private key in PEM form (an encrypted one cannot be used)")
        }
        error => unusable(path, malformed(&error)),
    })
}
