//! The link handshake.
