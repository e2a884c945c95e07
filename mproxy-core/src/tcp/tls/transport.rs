//! TLS as what the bytes of a connection go through.

use std::io;
use std::net::TcpStream;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::files::Reloading;
use super::stream::TlsStream;
use super::{Tls, error as tls_error};
use crate::error::Error;
use crate::net::endpoint::{Endpoint, Role};
use crate::net::options::Options;
use crate::relay::stop::Stop;
use crate::tcp::connection::{Connection, Transport};
use crate::tcp::upstream::connect_tcp;

/// TLS of the connections that are made to one server.
pub struct TlsClient {
    config: Reloading<ClientConfig>,
    name: ServerName<'static>,
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
        let config = Reloading::new(tls.for_client(), Tls::client_config)?;
        Ok(Self { config, name })
    }

    /// Reads the files again.
    pub fn reload(&self) {
        self.config.reload();
    }

    /// Connects to a server, `HOST:PORT`, with nothing but the defaults, and shakes hands. The socket is
    /// blocking.
    ///
    /// # Errors
    /// If the address is malformed, the connection fails, or the server is not who it should be.
    pub fn dial(server: &str) -> Result<(ClientConnection, TcpStream), Error> {
        let server = Endpoint::parse(server, Role::TcpServer)?.resolve(&Options::default())?;
        server.require_unicast()?;
        let client = Self::new(&Tls::default(), &server.endpoint)?;
        let stop = Stop::new()?;
        let dial = || {
            let stream = connect_tcp(&server, &stop, &mut |stream| client.shake_hands(stream, &stop))?.0;
            let (session, stream) = stream.into_parts()?;
            stream.set_nonblocking(false)?;
            match session {
                rustls::Connection::Client(session) => Ok((session, stream)),
                rustls::Connection::Server(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        };
        dial().map_err(|error| Error::io("connect to", &server, error))
    }

    fn shake_hands(&self, stream: TcpStream, stop: &Stop) -> io::Result<TlsStream> {
        let connection =
            ClientConnection::new(self.config.current(), self.name.clone()).map_err(tls_error::error)?;
        TlsStream::establish(connection.into(), stream, stop)
    }
}

impl Transport for TlsClient {
    fn has_handshake(&self) -> bool {
        true
    }

    fn establish(&self, stream: TcpStream, stop: &Stop) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(self.shake_hands(stream, stop)?))
    }
}

/// TLS of the connections that are accepted.
pub struct TlsServer {
    config: Reloading<ServerConfig>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// Wrong use if there is no [identity](Tls::identity); otherwise if a file cannot be used.
    pub fn new(tls: &Tls) -> Result<Self, Error> {
        Ok(Self { config: Reloading::new(tls.clone(), Tls::server_config)? })
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

    fn establish(&self, stream: TcpStream, stop: &Stop) -> io::Result<Box<dyn Connection>> {
        let connection = ServerConnection::new(self.config.current()).map_err(tls_error::error)?;
        Ok(Box::new(TlsStream::establish(connection.into(), stream, stop)?))
    }
}
