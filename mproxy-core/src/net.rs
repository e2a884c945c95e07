//! Addresses, interfaces and sockets.

pub(crate) mod allow;
pub(crate) mod connect;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod interface;
pub(crate) mod listen;
pub(crate) mod multicast;
pub(crate) mod options;
pub(crate) mod resolve;
pub(crate) mod routes;
pub(crate) mod select;
