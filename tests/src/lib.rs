//! What the whole-network tests of MPROXY share.
