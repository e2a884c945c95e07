//! TCP and TLS: accepting, connecting, and the clients of an output.

pub(crate) mod accept;
pub(crate) mod connection;
pub(crate) mod downstream;
pub(crate) mod fan_out;
mod handshakes;
pub(crate) mod label;
pub(crate) mod places;
pub(crate) mod stall;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod upstream;
