//! Only Linux lets a socket send as another host does: here none is ever made.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use crate::error::Error;
use crate::net::interface::Interface;
use crate::net::options::Options;

#[derive(Debug)]
pub(crate) struct Own;

impl Own {
    #[allow(clippy::unnecessary_wraps)] // the interface of origin.rs
    pub(crate) fn new(_: &UdpSocket) -> io::Result<Self> {
        Ok(Self)
    }
}

#[derive(Debug)]
pub(crate) struct SourceSockets;

impl SourceSockets {
    pub(crate) fn new(_: &Options) -> Self {
        Self
    }

    #[allow(clippy::unused_self)] // the interface of origin.rs
    pub(crate) fn socket(
        &mut self,
        _: SocketAddr,
        _: SocketAddr,
        _: Option<&Interface>,
        _: bool,
    ) -> io::Result<Option<&UdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// # Errors
/// Always: wrong use.
pub(crate) fn check() -> Result<(), Error> {
    Err(Error::usage("only Linux lets datagrams leave with the address of their sender (--transparent)"))
}
