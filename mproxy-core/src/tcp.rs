//! TCP and TLS: connections that are accepted, and those that are made.

pub(crate) mod accept;
pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod tls;
pub(crate) mod upstream;
