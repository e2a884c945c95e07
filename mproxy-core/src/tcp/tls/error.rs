//! TLS errors in words that say which check failed.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::tcp::transport::EstablishError;

/// An error of the handshake.
impl From<Error> for EstablishError {
    fn from(error: Error) -> Self {
        Self::Refused(describe(error))
    }
}

/// An error of the session, after the handshake.
pub(super) fn session_error(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, describe(error))
}

/// An error of the own certificate and private key.
pub(super) fn identity_error(error: Error) -> io::Error {
    let reason = match error {
        Error::InvalidCertificate(error) => format!("the certificate is not valid: {}", detail(&error)),
        Error::InconsistentKeys(_) => "the private key is not the certificate's".into(),
        other => other.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn describe(error: Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => "the peer shows no certificate, and needs one to be let in".into(),
        Error::AlertReceived(alert) => self::alert(alert),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the peer speaks neither TLS 1.2 nor 1.3".into(),
        Error::PeerIncompatible(lack) => format!("the peer's TLS does not fit: {lack:?}"),
        Error::InvalidMessage(error) => format!("the peer does not speak TLS: {error:?}"),
        other => format!("TLS: {other}"),
    }
}

/// An error of the peer's certificate.
fn certificate(error: CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the peer's certificate has expired".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet".into()
        }
        CertificateError::Revoked => "the peer's certificate was revoked".into(),
        CertificateError::UnknownIssuer => "the peer's certificate is not of a trusted authority".into(),
        CertificateError::BadSignature => "the peer's certificate has a wrong signature".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| name_value(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("the peer's certificate is for {names}, not for {}", expected.to_str())
        }
        CertificateError::NotValidForName => "the peer's certificate is for another name".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is made for another purpose".into()
        }
        other => format!("the peer's certificate is not valid: {}", detail(&other)),
    }
}

/// The reason, which only the error's name tells; in words for what self-made certificates often have.
fn detail(error: &CertificateError) -> String {
    let name = format!("{error:?}");
    if name.contains("CaUsedAsEndEntity") {
        "it is that of an authority (CA:TRUE), not one that an authority has signed".into()
    } else if name.contains("UnsupportedCertVersion") {
        "it is of an old version, where X.509 version 3 is needed".into()
    } else {
        name
    }
}

/// The value of a subject alternative name without its type: of `DnsName("example.org")`.
fn name_value(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// An alert from the peer (RFC 8446, 6.2).
fn alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::ProtocolVersion => "the peer refuses TLS 1.2 and 1.3".into(),
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "the peer wants a certificate to let this in".into()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            format!("the peer does not accept the certificate shown to it: {alert:?}")
        }
        // TLS 1.2 has no other alert for a missing client certificate.
        AlertDescription::HandshakeFailure => {
            "the peer refuses the handshake: no cipher fits, or it wants a certificate to let this in".into()
        }
        other => format!("the peer ended TLS: {other:?}"),
    }
}
