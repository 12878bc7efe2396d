//! Circuit handshakes.
