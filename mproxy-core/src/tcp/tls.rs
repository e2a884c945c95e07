//! TLS on TCP connections: versions 1.2 and 1.3, with no check that could be turned off.
//!
//! Its settings are in every build; [rustls](https://docs.rs/rustls) and what uses it only with the feature
//! `tls`.

#[cfg(feature = "tls")]
mod config;
#[cfg(feature = "tls")]
mod error;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod stream;
#[cfg(feature = "tls")]
pub(crate) mod transport;

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Error;
use crate::net::endpoint::Endpoint;
use crate::tcp::transport::Transport;

#[cfg(feature = "tls")]
use crate::tcp::tls::transport::{TlsClient, TlsServer};

/// Reads the certificates again. Without it that is done at the next connection after a file has changed.
pub type Reload = Arc<dyn Fn() + Send + Sync>;

/// A transport, and the [`Reload`] of its certificates.
pub type Reloadable = (Arc<dyn Transport>, Reload);

/// Settings of TLS: files in PEM form, which are read again when they have changed, and names.
///
/// ```
/// use mproxy_core::Tls;
///
/// let tls = Tls::new().ca("ca.pem").identity("site.pem", "site.key");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

impl Tls {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The authorities (trust anchors) that the peer's certificate must be of, and their revocation lists if
    /// the file has any. A client's default is the file that the environment variable `SSL_CERT_FILE`
    /// names, or else the roots of the web, which are built in. A server with authorities requires a
    /// certificate of theirs from each client.
    #[must_use]
    pub fn ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// The own certificate, followed by those of intermediate authorities, and its private key (PKCS #8,
    /// PKCS #1 or SEC 1). A server must have them; a client needs them where the server asks.
    #[must_use]
    pub fn identity(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificates.into(), key.into()));
        self
    }

    /// The name or address that a server's certificate must be for: by default the host of the endpoint.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Refuses TLS without the feature, and settings without effect; `used` if there are TLS endpoints.
    ///
    /// # Errors
    /// Wrong use.
    pub fn check(&self, used: bool) -> Result<(), Error> {
        if !used && *self == Self::default() {
            return Ok(());
        }
        if !cfg!(feature = "tls") {
            return Err(not_built_in());
        }
        if used { Ok(()) } else { Err(Error::usage("TLS has names or certificates, but no endpoint")) }
    }

    /// The transport of connections to this server.
    ///
    /// # Errors
    /// If a file cannot be used; wrong use if the server's name can be in no certificate, or without the
    /// feature `tls`.
    pub fn connector(&self, server: &Endpoint) -> Result<Reloadable, Error> {
        #[cfg(feature = "tls")]
        {
            let client = Arc::new(TlsClient::new(self, server)?);
            let reload = client.clone();
            Ok((client, Arc::new(move || reload.reload())))
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = server;
            Err(not_built_in())
        }
    }

    /// The transport of accepted connections.
    ///
    /// # Errors
    /// If a file cannot be used; wrong use if there is no [identity](Self::identity), or without the
    /// feature `tls`.
    pub fn acceptor(&self) -> Result<Reloadable, Error> {
        #[cfg(feature = "tls")]
        {
            let server = Arc::new(TlsServer::new(self)?);
            let reload = server.clone();
            Ok((server, Arc::new(move || reload.reload())))
        }
        #[cfg(not(feature = "tls"))]
        Err(not_built_in())
    }
}

pub(crate) fn not_built_in() -> Error {
    Error::usage("built without TLS: build or install it with cargo's --features tls")
}
