//! The link handshake: what two ends of a TLS session say to each other before there are circuits. No socket, no TLS, no
//! clock: bytes in, bytes out.
//!
//! tor-spec, [negotiating channels](https://spec.torproject.org/tor-spec/negotiating-channels.html); link protocols 4, 5.
//!
//! ```text
//!  initiator                                      responder
//!      │ VERSIONS ───────────────────────────────────> │
//!      │ <───────── VERSIONS CERTS AUTH_CHALLENGE NETINFO
//!      │ CERTS AUTHENTICATE ─────────────────────────> │   a relay only: a client sends neither
//!      │ NETINFO ────────────────────────────────────> │
//! ```
//!
//! | cell | before VERSIONS | initiator | responder |
//! |---|---|---|---|
//! | VPADDING, AUTHORIZE | hashed | hashed | hashed |
//! | VERSIONS | settles the version; the responder answers with everything it has to say, a relay that initiates with CERTS | close | close |
//! | CERTS | close | checked against the TLS certificate and who was called; once | checked; once |
//! | AUTH_CHALLENGE | close | after CERTS, once: a relay answers AUTHENTICATE, NETINFO | close |
//! | AUTHENTICATE | close | close | after CERTS, once: the peer is authenticated |
//! | NETINFO | close | after CERTS (a relay: and AUTH_CHALLENGE): open | open; without AUTHENTICATE the peer is a client |
//! | PADDING | close | ignored | ignored |
//! | other of fixed length | close | close | close |
//! | other of variable length | close | hashed | hashed |
//!
//! Bytes after the peer's NETINFO are handed on untouched. Time limits are the caller's.

mod auth;
mod cell;
mod certs;
mod netinfo;
mod state;
mod x509;

pub use cell::{FIXED_BODY_LEN, is_variable};
pub use certs::{Certificates, Credentials};
pub use state::{Handshake, Step};

use std::net::IpAddr;

/// The label under which the TLS session's secret for AUTHENTICATE is exported (RFC 5705): 32 bytes, with the SHA-256 of
/// the initiator's RSA identity key as context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER FOR TOR TLS CLIENT BINDING AUTH0003";

/// Who is at the other end of a link, by both of its identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The Ed25519 identity.
    pub ed25519: [u8; 32],
    /// The fingerprint: SHA-1 of the RSA identity key.
    pub rsa: [u8; 20],
}

/// Which end of the link we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We opened the connection: our circuit ids have their highest bit set.
    Initiator,
    /// The peer did: our circuit ids have it clear.
    Responder,
}

/// The link protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Circuit ids of four bytes.
    V4,
    /// The same, and padding can be negotiated.
    V5,
}

impl Version {
    /// The number in a VERSIONS cell.
    pub const fn number(self) -> u16 {
        match self {
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }
}

/// Whom an initiator means to reach. What is absent is not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The fingerprint.
    pub rsa: Option<[u8; 20]>,
    /// The Ed25519 identity.
    pub ed25519: Option<[u8; 32]>,
}

impl Expected {
    /// Whether this is who was meant.
    pub fn is(&self, peer: &PeerIdentity) -> bool {
        self.rsa.is_none_or(|rsa| rsa == peer.rsa) && self.ed25519.is_none_or(|ed25519| ed25519 == peer.ed25519)
    }
}

/// What the handshake has to know about the connection and about us.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The peer's address, as our socket has it.
    pub remote: IpAddr,
    /// The addresses in our descriptor, IPv4 first. Peers that reach us at another one take the link for not canonical.
    pub advertised: Vec<IpAddr>,
    /// Random bytes, for this handshake alone.
    pub random: [u8; 32],
}

/// An open link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The version of the link protocol.
    pub version: Version,
    /// Which end we are.
    pub role: Role,
    /// Who the peer proved to be. `None`: a client.
    pub peer: Option<PeerIdentity>,
    /// The addresses that the peer says are its own.
    pub peer_addresses: Vec<IpAddr>,
    /// Our address, as the peer sees it.
    pub observed: Option<IpAddr>,
    /// The peer's own addresses include the one that we are connected with: other circuits may extend over this link.
    pub canonical: bool,
    /// The peer sees us at an address that we advertise.
    pub canonical_to_peer: bool,
    /// Seconds by which the peer's clock is ahead of ours; `None` if it did not say, or took too long for it to mean much.
    /// Not a reason to close the link.
    pub clock_skew: Option<i64>,
    /// Bytes that came after the handshake: the first cells.
    pub leftover: Vec<u8>,
}

impl Established {
    /// Whether the peer is a client: it opened the link and did not authenticate.
    pub fn is_client(&self) -> bool {
        self.peer.is_none()
    }
}

/// What is wrong with a peer's certificate, by its type in CERTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertFault {
    /// It is not there.
    #[error("certificate {0} is missing")]
    Missing(u8),
    /// It is there twice.
    #[error("certificate {0} is there twice")]
    Repeated(u8),
    /// It cannot be read, or is not of the type it is said to be.
    #[error("certificate {0} is malformed or not valid")]
    Malformed(u8),
    /// Its signature does not hold, or another key made it.
    #[error("the signature of certificate {0} is wrong")]
    Signature(u8),
    /// It has expired.
    #[error("certificate {0} has expired")]
    Expired(u8),
    /// It certifies something else than it should.
    #[error("certificate {0} is for another key")]
    WrongKey(u8),
}

/// The link cannot be used: close it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer has none of our versions.
    #[error("no link protocol in common")]
    NoCommonVersion,
    /// A cell that does not belong there.
    #[error("a cell with command {0} out of place")]
    Unexpected(u8),
    /// A cell that cannot be read.
    #[error("malformed {0} cell")]
    Malformed(&'static str),
    /// The peer's certificates do not prove anything.
    #[error(transparent)]
    Certificate(#[from] CertFault),
    /// The peer proved to be somebody else. To a client that asked for this link: DESTROY with OR_IDENTITY.
    #[error("the peer is not the relay that was meant")]
    WrongIdentity,
    /// The peer did not prove that its certificates are its own.
    #[error("the peer's authentication is wrong")]
    NotAuthentic,
    /// The peer does not offer the authentication that we have.
    #[error("no authentication method in common")]
    NoCommonMethod,
    /// The TLS session gives no secret.
    #[error("the TLS session exports no secret")]
    NoTlsSecret,
    /// The handshake goes on and on.
    #[error("the peer's handshake is too long")]
    TooLong,
}

#[cfg(test)]
mod tests;
