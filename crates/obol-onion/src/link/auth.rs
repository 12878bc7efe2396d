//! AUTH_CHALLENGE and AUTHENTICATE: the initiator proves that the keys of its certificates are at this end of this TLS
//! session.
//!
//! tor-spec, [AUTHENTICATE cells](https://spec.torproject.org/tor-spec/negotiating-channels.html#AUTHENTICATE-cells);
//! method 3, Ed25519-SHA256-RFC5705.

use super::{LinkError, PeerIdentity};

/// The only method.
const METHOD: u16 = 3;
/// Length of what both sides can compute: everything before `RAND`.
const EXPECTED_LEN: usize = 8 + 8 * 32;
/// Length of `RAND`.
const RANDOM_LEN: usize = 24;
/// Length of `SIG`.
const SIGNATURE_LEN: usize = 64;

/// The values that AUTHENTICATE ties together.
pub(super) struct Binding<'a> {
    /// The initiator, with the SHA-256 of its RSA key.
    pub initiator: (PeerIdentity, &'a [u8; 32]),
    /// The responder, likewise.
    pub responder: (PeerIdentity, &'a [u8; 32]),
    /// SHA-256 of all that the responder sent, up to and with AUTH_CHALLENGE.
    pub responder_log: [u8; 32],
    /// SHA-256 of all that the initiator sent before AUTHENTICATE.
    pub initiator_log: [u8; 32],
    /// SHA-256 of the responder's TLS certificate.
    pub certificate: &'a [u8; 32],
    /// The TLS session's exported secret.
    pub tls_secret: [u8; 32],
}

impl Binding<'_> {
    /// The bytes before `RAND`.
    fn expected(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(EXPECTED_LEN + RANDOM_LEN + SIGNATURE_LEN);
        body.extend_from_slice(b"AUTH0003");
        for part in [
            self.initiator.1,
            self.responder.1,
            &self.initiator.0.ed25519,
            &self.responder.0.ed25519,
            &self.responder_log,
            &self.initiator_log,
            self.certificate,
            &self.tls_secret,
        ] {
            body.extend_from_slice(part);
        }
        body
    }

    /// The body of an AUTHENTICATE cell.
    pub fn sign(&self, random: &[u8; RANDOM_LEN], sign: impl Fn(&[u8]) -> [u8; 64]) -> Vec<u8> {
        let mut message = self.expected();
        message.extend_from_slice(random);
        let signature = sign(&message);
        message.extend_from_slice(&signature);
        let len = u16::try_from(message.len()).expect("352 bytes");
        let mut body = [METHOD.to_be_bytes(), len.to_be_bytes()].concat();
        body.extend_from_slice(&message);
        body
    }

    /// Checks the body of an AUTHENTICATE cell against the initiator's link key.
    pub fn check(&self, body: &[u8], link_key: &tor_llcrypto::pk::ed25519::PublicKey) -> Result<(), LinkError> {
        let malformed = LinkError::Malformed("AUTHENTICATE");
        let (&[method_high, method_low, len_high, len_low], message) =
            body.split_first_chunk().ok_or(malformed.clone())?;
        if u16::from_be_bytes([method_high, method_low]) != METHOD
            || usize::from(u16::from_be_bytes([len_high, len_low])) != message.len()
            || message.len() != EXPECTED_LEN + RANDOM_LEN + SIGNATURE_LEN
        {
            return Err(malformed);
        }
        let (signed, signature) = message.split_last_chunk::<SIGNATURE_LEN>().ok_or(malformed)?;
        // Nothing in it is secret except the TLS secret, which only the two ends of this session can have put there.
        let same = subtle::ConstantTimeEq::ct_eq(&signed[..EXPECTED_LEN], self.expected().as_slice());
        if !bool::from(same) {
            return Err(LinkError::NotAuthentic);
        }
        link_key
            .verify(signed, &(*signature).into())
            .map_err(|_| LinkError::NotAuthentic)
    }
}

/// The body of our AUTH_CHALLENGE.
pub(super) fn challenge(random: &[u8; 32]) -> Vec<u8> {
    let mut body = random.to_vec();
    body.extend_from_slice(&1_u16.to_be_bytes());
    body.extend_from_slice(&METHOD.to_be_bytes());
    body
}

/// Whether the methods of a peer's AUTH_CHALLENGE include ours; others are passed over.
pub(super) fn challenge_has_our_method(body: &[u8]) -> Result<bool, LinkError> {
    let malformed = LinkError::Malformed("AUTH_CHALLENGE");
    let (_, rest) = body.split_first_chunk::<32>().ok_or(malformed.clone())?;
    let (count, rest) = rest.split_first_chunk::<2>().ok_or(malformed.clone())?;
    let methods = rest
        .get(..2 * usize::from(u16::from_be_bytes(*count)))
        .ok_or(malformed)?;
    Ok(methods.as_chunks::<2>().0.contains(&METHOD.to_be_bytes()))
}
