//! Certificates, good and bad.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::output;

/// An authority that certifies, with its own certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    serial: SerialNumber,
    directory: PathBuf,
    /// The file, in PEM form.
    pub path: String,
    pem: String,
    /// The certificates of the authorities above it, but that of the root.
    chain: String,
}

/// A certificate and its key, in files in PEM form.
pub struct Certificate {
    /// The certificate, and those that it rests on.
    pub path: String,
    /// The private key, PKCS #8.
    pub key: String,
    serial: SerialNumber,
}

/// An authority, and a certificate of it for `localhost` and 127.0.0.1.
pub struct Pki {
    directory: TempDir,
    /// The authority.
    pub authority: Authority,
    /// The certificate.
    pub server: Certificate,
}

impl Certificate {
    /// The options with which a program shows it.
    pub fn options(&self) -> [&str; 4] {
        ["--tls-cert", &self.path, "--tls-key", &self.key]
    }

    /// The certificate as it is in its file, and those that it rests on.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        Self::chain_of(&self.path)
    }

    /// The same of any file.
    pub fn chain_of(path: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    }

    /// As everybody makes one by hand, and only OpenSSL takes it: one that has certified itself.
    pub fn by_hand(path: &str) -> Self {
        let key = format!("{path}.key");
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
        openssl(&[&new[..], &names, &["-keyout", &key, "-out", path]].concat());
        Self { path: path.to_owned(), key, serial: serial() }
    }
}

impl Pki {
    /// In a directory of its own, which goes when this is dropped.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(directory.path(), "ca");
        let server = authority.certify("server", &["localhost", "127.0.0.1"], Valid::Now);
        Self { directory, authority, server }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// When a certificate holds.
#[derive(Clone, Copy)]
pub enum Valid {
    /// At the time of the test.
    Now,
    /// Not any more.
    Before,
    /// Not yet.
    Later,
}

fn serial() -> SerialNumber {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SerialNumber::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn params(name: &str, names: &[&str], valid: Valid) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    let (from, to) = match valid {
        Valid::Now => (2000, 2100),
        Valid::Before => (2000, 2010),
        Valid::Later => (2090, 2100),
    };
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name, &[], Valid::Now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// An authority that nobody has certified, in the file `NAME.pem`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Self::of(directory, name, params, key, pem, String::new())
    }

    /// An authority that this one has certified.
    #[must_use]
    pub fn authority(&self, name: &str) -> Self {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let chain = pem.clone() + &self.chain;
        Self::of(&self.directory, name, params, key, pem, chain)
    }

    fn of(
        directory: &Path,
        name: &str,
        params: CertificateParams,
        key: KeyPair,
        pem: String,
        chain: String,
    ) -> Self {
        let path = directory.join(format!("{name}.pem"));
        fs::write(&path, &pem).unwrap();
        let serial = params.serial_number.clone().unwrap();
        Self {
            issuer: Issuer::new(params, key),
            serial,
            directory: directory.to_owned(),
            path: text(&path),
            pem,
            chain,
        }
    }

    /// A certificate for these names and addresses, in the files `NAME.pem` and `NAME.key`.
    pub fn certify(&self, name: &str, names: &[&str], valid: Valid) -> Certificate {
        self.certify_for(name, names, valid, &[])
    }

    /// The same, for these purposes only.
    pub fn certify_for(
        &self,
        name: &str,
        names: &[&str],
        valid: Valid,
        purposes: &[ExtendedKeyUsagePurpose],
    ) -> Certificate {
        let mut params = params(name, names, valid);
        params.extended_key_usages = purposes.to_vec();
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let paths = ["pem", "key"].map(|kind| self.directory.join(format!("{name}.{kind}")));
        fs::write(&paths[0], pem + &self.chain).unwrap();
        fs::write(&paths[1], key.serialize_pem()).unwrap();
        let [path, key] = paths.map(|path| text(&path));
        Certificate { path, key, serial: params.serial_number.unwrap() }
    }

    /// Adds to the authority's file what it has revoked: a list of these certificates.
    pub fn revoke(&self, certificates: &[&Certificate]) {
        self.list_revoked(&certificates.iter().map(|certificate| &certificate.serial).collect::<Vec<_>>());
    }

    /// The same of an authority that it has certified.
    pub fn revoke_authority(&self, authority: &Self) {
        self.list_revoked(&[&authority.serial]);
    }

    fn list_revoked(&self, serials: &[&SerialNumber]) {
        let revoked = |serial: &&SerialNumber| RevokedCertParams {
            serial_number: (*serial).clone(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: serial(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        fs::write(&self.path, self.pem.clone() + &list).unwrap();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Runs an openssl command, which must succeed, and returns what it prints.
pub fn openssl(arguments: &[&str]) -> String {
    let out = output(Command::new("openssl").args(arguments));
    assert!(out.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
