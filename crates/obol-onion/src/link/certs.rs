//! CERTS: how a relay shows who it is, and how that is checked.
//!
//! cert-spec, and tor-spec, [CERTS cells](https://spec.torproject.org/tor-spec/negotiating-channels.html#CERTS-cells).
//!
//! ```text
//!  Ed25519 identity ──4──> signing key ──5──> TLS certificate      (responder)
//!        ^                      └───────6──> link key              (initiator; signs AUTHENTICATE)
//!        7
//!  RSA identity <──2── its X.509 certificate
//! ```

use super::{CertFault, LinkError, PeerIdentity, x509};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, SystemTime};
use tor_cert::rsa::RsaCrosscert;
use tor_cert::{CertType, CertifiedKey, Ed25519Cert};
use tor_checkable::{ExternallySigned as _, SelfSigned as _, TimeBound as _};
use tor_llcrypto::pk::ed25519::{Ed25519Identity, Keypair, PublicKey};

/// The RSA identity in X.509.
const RSA_X509: u8 = 2;
/// The Ed25519 identity speaks for the signing key.
const SIGNING: u8 = 4;
/// The signing key speaks for the TLS certificate.
const TLS: u8 = 5;
/// The signing key speaks for the link key.
const LINK_AUTH: u8 = 6;
/// The RSA identity speaks for the Ed25519 identity.
const CROSSCERT: u8 = 7;

/// A relay's certificates, encoded as CERTS cells carry them (cert-spec; types 2 and what they certify are DER).
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Type 2: X.509 of the RSA identity key, DER.
    pub rsa_x509: Vec<u8>,
    /// Type 4: Ed25519 identity to signing key, with the identity in it.
    pub signing: Vec<u8>,
    /// Type 5: signing key to the SHA-256 of the TLS certificate.
    pub tls: Vec<u8>,
    /// Type 6: signing key to link key.
    pub link_auth: Vec<u8>,
    /// Type 7: RSA identity to Ed25519 identity.
    pub crosscert: Vec<u8>,
}

/// All with which a relay proves itself on a link: made anew whenever one of the certificates is.
pub struct Credentials {
    pub(super) identity: PeerIdentity,
    pub(super) rsa_sha256: [u8; 32],
    pub(super) tls_sha256: [u8; 32],
    link_key: Keypair,
    certificates: Certificates,
}

impl core::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// `rsa_key` is the RSA identity's public key (DER of PKCS #1), `tls_certificate` the DER of the certificate that our TLS
    /// server shows, and `link_key` the secret of the key that `certificates.link_auth` certifies.
    pub fn new(
        ed25519: [u8; 32],
        rsa_key: &[u8],
        tls_certificate: &[u8],
        link_key: &[u8; 32],
        certificates: Certificates,
    ) -> Self {
        use sha1::Sha1;
        Self {
            identity: PeerIdentity {
                ed25519,
                rsa: Sha1::digest(rsa_key).into(),
            },
            rsa_sha256: Sha256::digest(rsa_key).into(),
            tls_sha256: Sha256::digest(tls_certificate).into(),
            link_key: Keypair::from_bytes(link_key),
            certificates,
        }
    }

    /// Who we are.
    pub fn identity(&self) -> PeerIdentity {
        self.identity
    }

    /// The body of our CERTS cell as a responder.
    pub(super) fn for_initiator(&self) -> Vec<u8> {
        let c = &self.certificates;
        encode(&[
            (SIGNING, &c.signing),
            (TLS, &c.tls),
            (RSA_X509, &c.rsa_x509),
            (CROSSCERT, &c.crosscert),
        ])
    }

    /// The body of our CERTS cell as an initiator.
    pub(super) fn for_responder(&self) -> Vec<u8> {
        let c = &self.certificates;
        encode(&[
            (SIGNING, &c.signing),
            (LINK_AUTH, &c.link_auth),
            (RSA_X509, &c.rsa_x509),
            (CROSSCERT, &c.crosscert),
        ])
    }

    /// Signs an AUTHENTICATE with the link key.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.link_key.sign(message).to_bytes()
    }
}

fn encode(list: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![u8::try_from(list.len()).expect("four of them")];
    for (kind, certificate) in list {
        body.push(*kind);
        let len = u16::try_from(certificate.len()).expect("certificates are short");
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(certificate);
    }
    body
}

/// The certificates that a peer sent: parsed, not believed.
pub(super) struct Received<'a>(Vec<(u8, &'a [u8])>);

/// What a peer's certificates prove, once the matching signature or TLS certificate is seen.
#[derive(Clone)]
pub(super) struct Chain {
    pub identity: PeerIdentity,
    /// SHA-256 of the RSA identity key, DER.
    pub rsa_sha256: [u8; 32],
    signing: Ed25519Identity,
}

fn fault(kind: u8, what: fn(u8) -> CertFault) -> LinkError {
    LinkError::Certificate(what(kind))
}

impl<'a> Received<'a> {
    /// Reads the body of a CERTS cell: each type at most once, unknown ones passed over, nothing behind the last.
    pub fn parse(body: &'a [u8]) -> Result<Self, LinkError> {
        let malformed = LinkError::Malformed("CERTS");
        let (&count, mut rest) = body.split_first().ok_or(malformed.clone())?;
        let mut list: Vec<(u8, &[u8])> = Vec::new();
        for _ in 0..count {
            let (&[kind, high, low], tail) = rest.split_first_chunk().ok_or(malformed.clone())?;
            let len = usize::from(u16::from_be_bytes([high, low]));
            let (certificate, tail) = tail.split_at_checked(len).ok_or(malformed.clone())?;
            rest = tail;
            if list.iter().any(|(known, _)| *known == kind) {
                return Err(fault(kind, CertFault::Repeated));
            }
            list.push((kind, certificate));
        }
        Ok(Self(list))
    }

    fn get(&self, kind: u8) -> Result<&'a [u8], LinkError> {
        let found = self.0.iter().find(|(known, _)| *known == kind);
        found.map(|(_, bytes)| *bytes).ok_or(fault(kind, CertFault::Missing))
    }

    /// An Ed25519 certificate whose signature and dates hold; `signer`, or the key that it names itself.
    fn ed25519(&self, kind: u8, signer: Option<&Ed25519Identity>, now: u64) -> Result<Ed25519Cert, LinkError> {
        let unchecked = Ed25519Cert::decode(self.get(kind)?).map_err(|_| fault(kind, CertFault::Malformed))?;
        if unchecked.peek_cert_type() != CertType::from(kind) {
            return Err(fault(kind, CertFault::Malformed));
        }
        match signer {
            Some(signer) => unchecked.should_be_signed_with(signer),
            None => unchecked.should_have_signing_key(),
        }
        .map_err(|_| fault(kind, CertFault::Signature))?
        .check_signature()
        .map_err(|_| fault(kind, CertFault::Signature))?
        .if_valid_at(&time(now))
        .map_err(|_| fault(kind, CertFault::Expired))
    }

    /// Types 4, 2 and 7: who the peer says it is. There is no falling back to the RSA identity alone.
    pub fn chain(&self, now: u64) -> Result<Chain, LinkError> {
        let signing = self.ed25519(SIGNING, None, now)?;
        let &identity = signing.signing_key().ok_or(fault(SIGNING, CertFault::Signature))?;
        let &key = signing
            .subject_key()
            .as_ed25519()
            .ok_or(fault(SIGNING, CertFault::WrongKey))?;

        let rsa = x509::identity_key(self.get(RSA_X509)?, now).ok_or(fault(RSA_X509, CertFault::Malformed))?;
        let crosscert = self.get(CROSSCERT)?;
        // Key (32), expiry (4), length of the signature (1), signature; nothing behind it.
        if crosscert
            .get(36)
            .is_none_or(|len| crosscert.len() != 37 + usize::from(*len))
        {
            return Err(fault(CROSSCERT, CertFault::Malformed));
        }
        let crosscert = RsaCrosscert::decode(crosscert)
            .map_err(|_| fault(CROSSCERT, CertFault::Malformed))?
            .check_signature(&rsa)
            .map_err(|_| fault(CROSSCERT, CertFault::Signature))?
            .if_valid_at(&time(now))
            .map_err(|_| fault(CROSSCERT, CertFault::Expired))?;
        if !crosscert.subject_key_matches(&identity) {
            return Err(fault(CROSSCERT, CertFault::WrongKey));
        }
        Ok(Chain {
            identity: PeerIdentity {
                ed25519: identity.into(),
                rsa: rsa.to_rsa_identity().to_bytes(),
            },
            rsa_sha256: Sha256::digest(rsa.to_der()).into(),
            signing: key,
        })
    }

    /// Type 5: that the peer's TLS certificate, of this SHA-256, is the chain's.
    pub fn check_tls(&self, chain: &Chain, certificate: &[u8; 32], now: u64) -> Result<(), LinkError> {
        let tls = self.ed25519(TLS, Some(&chain.signing), now)?;
        match tls.subject_key() {
            CertifiedKey::X509Sha256Digest(digest) if digest == certificate => Ok(()),
            _ => Err(fault(TLS, CertFault::WrongKey)),
        }
    }

    /// Type 6: the key that signs the peer's AUTHENTICATE.
    pub fn link_key(&self, chain: &Chain, now: u64) -> Result<PublicKey, LinkError> {
        let cert = self.ed25519(LINK_AUTH, Some(&chain.signing), now)?;
        cert.subject_key()
            .as_ed25519()
            .and_then(|key| PublicKey::try_from(key).ok())
            .ok_or(fault(LINK_AUTH, CertFault::WrongKey))
    }
}

fn time(now: u64) -> SystemTime {
    // Far beyond any expiry of a certificate, whose hours since 1970 have 32 bits; keeps the sum within range.
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.min(1 << 44))
}
