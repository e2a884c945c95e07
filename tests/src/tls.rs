//! Peers that speak TLS, wherever no program can be had for that.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use crate::{Certificate, PATIENCE, Running, assert_empty, eventually, start, udp};

/// The versions of TLS that are in use, with the words of messages for them.
pub const TLS_VERSIONS: [(&SupportedProtocolVersion, &str); 2] =
    [(&rustls::version::TLS12, "TLSv1_2"), (&rustls::version::TLS13, "TLSv1_3")];

/// All of them.
const ALL: &[&SupportedProtocolVersion] = &[TLS_VERSIONS[0].0, TLS_VERSIONS[1].0];

/// Settings of a peer's handshake.
#[derive(Clone, Copy, Default)]
pub struct TlsOptions<'a> {
    /// The only version that it speaks.
    pub version: Option<&'static SupportedProtocolVersion>,
    /// The certificate that it shows. A server always has one.
    pub identity: Option<&'a Certificate>,
    /// The file of the authority that must have certified the other one; of a client that is needed.
    pub authority: Option<&'a str>,
    /// The protocols that it offers (ALPN, RFC 7301).
    pub protocols: &'a [&'a str],
}

impl TlsOptions<'_> {
    fn versions(&self) -> &[&'static SupportedProtocolVersion] {
        self.version.as_ref().map_or(ALL, std::slice::from_ref)
    }

    fn roots(&self) -> Option<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority?).unwrap()).unwrap();
        Some(Arc::new(roots))
    }

    fn protocols(&self) -> Vec<Vec<u8>> {
        self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn server(&self) -> ServerConfig {
        let (chain, key) = files(self.identity.unwrap());
        let config = ServerConfig::builder_with_provider(provider());
        let config = config.with_protocol_versions(self.versions()).unwrap();
        let config = match self.roots() {
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = self.protocols();
        config
    }

    fn client(&self) -> ClientConfig {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots().unwrap(), provider());
        let config = ClientConfig::builder_with_provider(provider());
        let config = config.with_protocol_versions(self.versions()).unwrap();
        let config = config.with_webpki_verifier(verifier.build().unwrap());
        let mut config = match self.identity.map(files) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols();
        config
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn files(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    (certificate.chain(), key)
}

/// A server on 127.0.0.1.
pub struct TlsServer {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl TlsServer {
    /// Listens, on a port that the system chooses.
    pub fn new(options: TlsOptions<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, config: Arc::new(options.server()) }
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next client that a connection comes from, if it is let in.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn try_accept(&self) -> io::Result<TlsPeer> {
        let (socket, _) = eventually("a connection", || self.listener.accept().ok());
        socket.set_nonblocking(false)?;
        TlsPeer::of(ServerConnection::new(self.config.clone()).unwrap().into(), socket)
    }

    /// The next client, which must be let in.
    pub fn accept(&self) -> TlsPeer {
        self.try_accept().expect("a client was not let in")
    }

    /// Accepts connections until one is let in: the others have their reasons.
    pub fn accept_good(&self) -> TlsPeer {
        eventually("a client that is let in", || self.try_accept().ok())
    }
}

/// One end of a connection.
pub struct TlsPeer {
    session: Connection,
    /// The TCP connection below.
    pub socket: TcpStream,
}

impl TlsPeer {
    /// Connects to a server whose certificate must be one for `localhost`.
    ///
    /// # Errors
    /// If the handshake fails. With TLS 1.3 a server that refuses a client says so only after it.
    pub fn connect(server: SocketAddr, options: TlsOptions<'_>) -> io::Result<Self> {
        Self::connect_over(TcpStream::connect(server)?, options)
    }

    /// The same over this TCP connection.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn connect_over(socket: TcpStream, options: TlsOptions<'_>) -> io::Result<Self> {
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(Arc::new(options.client()), name).unwrap();
        Self::of(session.into(), socket)
    }

    fn of(session: Connection, socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut peer = Self { session, socket };
        while peer.session.is_handshaking() {
            peer.session.complete_io(&mut peer.socket)?;
        }
        peer.try_send(b"")?;
        Ok(peer)
    }

    /// The certificate of the other end: the first of its chain.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.session.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Sends this.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn try_send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || self.session.wants_write() {
            let taken = self.session.writer().write(bytes)?;
            bytes = &bytes[taken..];
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Sends this, which must be possible.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Reads as many bytes, which must come.
    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let read = self.read(&mut bytes[filled..]).expect("not everything came");
            assert!(read > 0, "not everything came before the end");
            filled += read;
        }
        bytes
    }

    /// Reads up to the end.
    ///
    /// # Errors
    /// If the other end refuses this one, or is cut off.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(bytes),
                len => bytes.extend_from_slice(&buffer[..len]),
            }
        }
    }

    /// Some bytes; 0 after the other end's goodbye.
    ///
    /// # Errors
    /// If the other end refuses this one, or is cut off.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.session.read_tls(&mut self.socket)?;
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        self.session.send_close_notify();
        self.send(b"");
    }

    /// The TLS records of these bytes, which are not sent.
    pub fn record(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.writer().write_all(bytes).unwrap();
        let mut record = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut record).unwrap();
        }
        record
    }
}

/// A forward from this TLS server, and the target to which it forwards.
pub fn tls_forward(server: &impl ToString, options: &[&str]) -> (Running, UdpSocket) {
    let (target, address) = udp();
    let (server, address) = (server.to_string(), address.to_string());
    let arguments = ["--tls-connect-addr", &server, "--udp-downstream-addr", &address, "-v"];
    (start("tls/mproxy-forward", &[&arguments, options].concat()), target)
}

/// The message with which a forward gives the TLS server up, for now, without having forwarded anything: `serve` does
/// what the server does.
pub fn tls_refusal(server: &impl ToString, options: &[&str], serve: impl FnOnce()) -> String {
    let (mut running, target) = tls_forward(server, options);
    serve();
    let line = running.says("connecting again until it works");
    assert_empty(&target);
    running.stop();
    line
}
