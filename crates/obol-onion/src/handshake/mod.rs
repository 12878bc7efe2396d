//! Circuit handshakes: how a client and one hop come to share [`CircuitKeys`](crate::crypto::tor1::CircuitKeys).
//!
//! tor-spec, [CREATE and CREATED cells](https://spec.torproject.org/tor-spec/create-created-cells.html).
//!
//! | cell | type | module | client sends | relay answers |
//! |---|---|---|---|---|
//! | CREATE_FAST | | [`fast`] | `X` | `Y`, `KH` |
//! | CREATE2 | 2 | [`ntor`] | `ID`, `B`, `X` | `Y`, `AUTH` |
//! | CREATE2 | 3 | [`ntor_v3`] | `ID`, `B`, `X`, encrypted extensions, `MAC` | `Y`, `AUTH`, encrypted extensions |
//!
//! In each module `respond` is the relay's side and `Client` the client's. Random bytes are arguments, and must never be
//! used twice.

pub mod fast;
pub mod ntor;
pub mod ntor_v3;

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tor_llcrypto::pk::curve25519::{PublicKey, SharedSecret, StaticSecret};

/// The relay cannot answer this onion skin. The reaction is the same for all: DESTROY the circuit with reason
/// TORPROTOCOL, and keep the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The onion skin does not have the form of its handshake.
    #[error("the onion skin is {got} bytes long, where its handshake has {expected}")]
    Length {
        /// Bytes that came.
        got: usize,
        /// Bytes that the handshake has (the least number of them, if it varies).
        expected: usize,
    },
    /// It is for another relay or for a key that is neither our current nor our previous one, its point is of low order,
    /// or its authentication is wrong. Which of them is not told apart: the work and the answer are the same.
    #[error("the onion skin is not for this relay and its keys")]
    NotForUs,
    /// The list of extensions cannot be read.
    #[error("the extensions of the onion skin cannot be read")]
    Extensions,
    /// A subprotocol is asked for that this relay did not advertise; it must not be ignored
    /// (proposal 346, SUBPROTO_REQUEST).
    #[error("the onion skin asks for subprotocol {protocol}={version}, which this relay does not have")]
    Subprotocol {
        /// Number of the subprotocol, as tor-spec numbers them (2 is Relay).
        protocol: u8,
        /// The version asked for.
        version: u8,
    },
}

/// The client cannot use this answer: the relay that sent it does not hold the keys it should, or somebody altered it. The
/// reaction: destroy the circuit, with nothing sent through this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// The answer does not have the form of its handshake.
    #[error("the relay's answer is {got} bytes long, where its handshake has {expected}")]
    Length {
        /// Bytes that came.
        got: usize,
        /// Bytes that the handshake has (the least number of them, if it varies).
        expected: usize,
    },
    /// The authentication does not match.
    #[error("the relay's answer is not authentic")]
    NotAuthentic,
    /// The list of extensions cannot be read, or answers what was not asked.
    #[error("the extensions of the relay's answer cannot be read")]
    Extensions,
}

/// One onion key pair of a relay (Curve25519; the "ntor key"). The secret half is wiped when dropped.
#[derive(Clone)]
pub struct OnionKey {
    secret: StaticSecret,
    public: PublicKey,
}

impl OnionKey {
    /// The pair of a secret key, as stored.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// The public half, as in the descriptor's `ntor-onion-key`.
    pub fn public(&self) -> &[u8; 32] {
        self.public.as_bytes()
    }
}

impl core::fmt::Debug for OnionKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("OnionKey").field(&self.public).finish()
    }
}

/// Everything with which a relay answers onion skins: who it is, and its onion keys.
#[derive(Clone, Debug)]
pub struct RelayOnionKeys {
    rsa: [u8; 20],
    ed25519: [u8; 32],
    current: OnionKey,
    previous: Option<OnionKey>,
    junk: OnionKey,
}

impl RelayOnionKeys {
    /// `rsa` is the fingerprint (SHA-1 of the RSA identity key), `ed25519` the Ed25519 identity. `previous` is accepted
    /// beside `current`: give it for the grace period after a rotation. `junk` is the secret of a key that is published
    /// nowhere, drawn at random: onion skins for unknown keys are worked on with it, so that they take no less time.
    pub fn new(
        rsa: [u8; 20],
        ed25519: [u8; 32],
        current: OnionKey,
        previous: Option<OnionKey>,
        junk: [u8; 32],
    ) -> Self {
        Self {
            rsa,
            ed25519,
            current,
            previous,
            junk: OnionKey::from_secret(junk),
        }
    }

    /// The relay's fingerprint.
    pub fn rsa(&self) -> &[u8; 20] {
        &self.rsa
    }

    /// The relay's Ed25519 identity.
    pub fn ed25519(&self) -> &[u8; 32] {
        &self.ed25519
    }

    /// The key that the descriptor publishes.
    pub fn current(&self) -> &OnionKey {
        &self.current
    }

    /// The key with this public half, or the junk key; and whether it was found.
    fn find(&self, public: &[u8; 32]) -> (Choice, OnionKey) {
        let previous = self.previous.as_ref().unwrap_or(&self.junk);
        let is_current = self.current.public().ct_eq(public);
        let is_previous = previous.public().ct_eq(public) & Choice::from(u8::from(self.previous.is_some()));

        let mut secret = zeroize::Zeroizing::new(*self.junk.secret.as_bytes());
        let mut chosen = *self.junk.public();
        for (is, key) in [(is_previous, previous), (is_current, &self.current)] {
            for (to, from) in secret.iter_mut().zip(key.secret.as_bytes()) {
                to.conditional_assign(from, is);
            }
            for (to, from) in chosen.iter_mut().zip(key.public()) {
                to.conditional_assign(from, is);
            }
        }
        let key = OnionKey {
            secret: StaticSecret::from(*secret),
            public: PublicKey::from(chosen),
        };
        (is_current | is_previous, key)
    }
}

/// Whether both sides contributed to a secret: false for points of low order, whose secret is all zero.
fn contributory(secret: &SharedSecret) -> Choice {
    Choice::from(u8::from(secret.was_contributory()))
}

/// The first `N` bytes of `rest`, which then starts behind them.
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}
