//! The configurations of rustls, made of files and names.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::error::Error;
use crate::tcp::tls::Tls;
use crate::tcp::tls::error::identity_error;
use crate::tcp::tls::files::{self, ConfigError};

impl Tls {
    /// All files that a configuration is made of.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let identity = self.identity.iter().flat_map(|(certificates, key)| [certificates, key]);
        self.ca.iter().chain(identity).cloned().collect()
    }

    /// The same with a client's default authorities (`SSL_CERT_FILE`).
    pub(super) fn for_client(&self) -> Self {
        let mut tls = self.clone();
        if tls.ca.is_none() {
            tls.ca = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        }
        tls
    }

    pub(super) fn client_config(&self) -> Result<ClientConfig, ConfigError> {
        let failed = |error| self.misconfigured(error);
        let provider = provider();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let config = match &self.ca {
            Some(path) => {
                let (roots, revoked) = files::authorities(path)?;
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                    .with_crls(revoked)
                    .allow_unknown_revocation_status()
                    .build()
                    .map_err(|error| files::unusable(path, error))?;
                config.with_webpki_verifier(verifier)
            }
            None => config
                .with_root_certificates(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
        };
        let mut config = match &self.identity {
            Some((path, key)) => config
                .with_client_auth_cert(files::certificates(path)?, files::private_key(key)?)
                .map_err(failed)?,
            None => config.with_no_client_auth(),
        };
        // No resumption: a resumed session's certificate is not checked again.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    pub(super) fn server_config(&self) -> Result<ServerConfig, ConfigError> {
        let Some((path, key)) = &self.identity else {
            return Err(ConfigError::Invalid(Error::usage(
                "TLS listeners need a certificate and its key (--tls-cert, --tls-key)",
            )));
        };
        let failed = |error| self.misconfigured(error);
        let provider = provider();
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let config = match &self.ca {
            Some(path) => {
                let (roots, revoked) = files::authorities(path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .with_crls(revoked)
                    .allow_unknown_revocation_status()
                    .build()
                    .map_err(|error| files::unusable(path, error))?;
                config.with_client_cert_verifier(verifier)
            }
            None => config.with_no_client_auth(),
        };
        let mut config =
            config.with_single_cert(files::certificates(path)?, files::private_key(key)?).map_err(failed)?;
        // No resumption: a resumed session's certificate is not checked again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn misconfigured(&self, error: rustls::Error) -> ConfigError {
        let files = match &self.identity {
            Some((certificates, key)) => format!("{} with {}", certificates.display(), key.display()),
            None => "TLS".to_owned(),
        };
        ConfigError::Invalid(Error::io("use", files, identity_error(error)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
