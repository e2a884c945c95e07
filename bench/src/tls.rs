//! TLS on the benchmark's own side of a connection, and the files that both sides need for it.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use mproxy_tests::{Authority, Valid};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::Outcome;

/// The name of a server in its certificate, beside its address.
const NAME: &str = "localhost";

pub(crate) type Server = StreamOwned<ServerConnection, TcpStream>;
pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// A certificate for this host, its key, and the authority to trust, in files.
pub(crate) struct Certificates {
    _directory: TempDir,
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Certificates {
    pub(crate) fn new() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new(directory.path(), "authority");
        let site = authority.certify("site", &[NAME, "127.0.0.1"], Valid::Now);
        let (certificate, key) = (site.path, site.key);
        Ok(Self { _directory: directory, authority: authority.path, certificate, key })
    }
}

/// Shakes hands with a client; the files are the certificate and its key.
pub(crate) fn accept(stream: TcpStream, [certificate, key]: [&str; 2]) -> Outcome<Server> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let mut server = StreamOwned::new(ServerConnection::new(Arc::new(config))?, stream);
    server.conn.complete_io(&mut server.sock)?;
    Ok(server)
}

/// Shakes hands with a server that the authority in the file has certified.
pub(crate) fn connect(stream: TcpStream, authority: &str) -> Outcome<Client> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME)?)?;
    let mut client = StreamOwned::new(session, stream);
    client.conn.complete_io(&mut client.sock)?;
    Ok(client)
}
