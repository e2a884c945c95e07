//! TLS as the transport of a connection.

use std::fmt;
use std::io;
use std::net::TcpStream;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::error::Error;
use crate::net::endpoint::{Endpoint, Role};
use crate::net::options::Options;
use crate::relay::stop::Stop;
use crate::tcp::tls::Tls;
use crate::tcp::tls::files::ReloadingConfig;
use crate::tcp::tls::stream::TlsStream;
use crate::tcp::transport::{EstablishError, Handshake, Transport, complete};
use crate::tcp::upstream::connect_tcp;

/// TLS of connections to one server.
pub struct TlsClient {
    config: ReloadingConfig<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TlsClient {
    /// Reads the files.
    ///
    /// # Errors
    /// Wrong use if the server's name can be in no certificate; otherwise if a file cannot be used.
    pub fn new(tls: &Tls, server: &Endpoint) -> Result<Self, Error> {
        let name = tls.server_name.clone().unwrap_or_else(|| server.host());
        let wrong = || Error::usage(format!("'{name}' is no name that a certificate can be for"));
        let name = ServerName::try_from(name.clone()).map_err(|_| wrong())?;
        let config = ReloadingConfig::new(tls.for_client(), Tls::client_config)?;
        Ok(Self { config, name })
    }

    /// Reads the files again.
    pub fn reload(&self) {
        self.config.reload();
    }

    /// Connects to a server, `HOST:PORT`, with the defaults, and completes the handshake. The socket blocks.
    ///
    /// # Errors
    /// If the address is malformed, the connection fails, or the server's certificate is not valid.
    pub fn connect(server: &str) -> Result<(ClientConnection, TcpStream), Error> {
        let server = Endpoint::parse(server, Role::TcpServer)?.resolve(&Options::default())?;
        server.require_unicast()?;
        let client = Self::new(&Tls::default(), &server.endpoint)?;
        let stop = Stop::new()?;
        let connect = || -> io::Result<_> {
            let handshake = &mut |stream| {
                let mut handshake = client.handshake(stream)?;
                complete(&mut handshake, &stop)?;
                Ok(handshake)
            };
            let (stream, _) = connect_tcp(&server, &stop, handshake)?;
            let (session, stream) = stream.into_parts()?;
            stream.set_nonblocking(false)?;
            match session {
                rustls::Connection::Client(session) => Ok((session, stream)),
                rustls::Connection::Server(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        };
        connect().map_err(|error| Error::io("connect to", &server, error))
    }

    fn handshake(&self, stream: TcpStream) -> Result<TlsStream, EstablishError> {
        let connection = ClientConnection::new(self.config.current(), self.name.clone())?;
        Ok(TlsStream::begin(connection.into(), stream)?)
    }
}

impl Transport for TlsClient {
    fn has_handshake(&self) -> bool {
        true
    }

    fn begin(&self, stream: TcpStream) -> Result<Box<dyn Handshake>, EstablishError> {
        Ok(Box::new(self.handshake(stream)?))
    }
}

/// TLS of accepted connections.
pub struct TlsServer {
    config: ReloadingConfig<ServerConfig>,
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// Wrong use if there is no [identity](Tls::identity); otherwise if a file cannot be used.
    pub fn new(tls: &Tls) -> Result<Self, Error> {
        Ok(Self { config: ReloadingConfig::new(tls.clone(), Tls::server_config)? })
    }

    /// Reads the files again.
    pub fn reload(&self) {
        self.config.reload();
    }
}

impl Transport for TlsServer {
    fn has_handshake(&self) -> bool {
        true
    }

    fn begin(&self, stream: TcpStream) -> Result<Box<dyn Handshake>, EstablishError> {
        let connection = ServerConnection::new(self.config.current())?;
        Ok(Box::new(TlsStream::begin(connection.into(), stream)?))
    }
}
