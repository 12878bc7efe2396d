//! The authority's two keys, and the certificate by which the one vouches for the other.

use std::net::SocketAddrV4;
use std::time::{Duration, SystemTime};

use tor_llcrypto::pk::rsa::KeyPair;
use tor_netdoc::doc::authcert::AuthCert;

/// How long the signing key is certified for. C Tor's default is a year; a test network does not live that long.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// How far the certificate reaches back, for clocks that are late.
const EARLIER: Duration = Duration::from_secs(24 * 3600);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key could not be generated.
    #[error("an RSA key could not be generated")]
    Generate(#[source] tor_bytes::EncodeError),
    /// The certificate could not be made.
    #[error("the authority's key certificate could not be made")]
    Certificate(#[source] tor_bytes::EncodeError),
    /// The task that generates them ended.
    #[error("key generation was interrupted")]
    Interrupted,
}

/// Identity key, signing key and key certificate of a v3 authority.
pub struct AuthorityKeys {
    /// The medium-term key, which signs consensuses.
    signing: KeyPair,
    /// SHA-1 of the identity key.
    v3_identity: [u8; 20],
    /// SHA-1 of the signing key.
    signing_id: [u8; 20],
    /// The certificate's text.
    certificate: String,
}

impl std::fmt::Debug for AuthorityKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityKeys")
            .field("v3_identity", &hex::encode(self.v3_identity))
            .finish_non_exhaustive()
    }
}

impl AuthorityKeys {
    /// New keys, for an authority at this address. The identity key signs the certificate and is forgotten: a test
    /// network's authority never needs another one.
    pub async fn generate(address: SocketAddrV4, now: SystemTime) -> Result<AuthorityKeys, KeysError> {
        tokio::task::spawn_blocking(move || AuthorityKeys::generate_now(address, now))
            .await
            .map_err(|_| KeysError::Interrupted)?
    }

    /// The same, on this thread.
    fn generate_now(address: SocketAddrV4, now: SystemTime) -> Result<AuthorityKeys, KeysError> {
        let mut random = rand::rng();
        let identity = KeyPair::generate(&mut random).map_err(|e| KeysError::Generate(e.into()))?;
        let signing = KeyPair::generate(&mut random).map_err(|e| KeysError::Generate(e.into()))?;
        let certificate = AuthCert::new_base(&identity, &signing, now - EARLIER, now + LIFETIME)
            .and_then(|mut certificate| {
                certificate.dir_address = Some(address);
                certificate.encode_sign(&identity)
            })
            .map_err(|e| KeysError::Certificate(e.into()))?;
        Ok(AuthorityKeys {
            v3_identity: identity.to_public_key().to_rsa_identity().to_bytes(),
            signing_id: signing.to_public_key().to_rsa_identity().to_bytes(),
            signing,
            certificate: certificate.as_str().to_owned(),
        })
    }

    /// SHA-1 of the identity key: the authority's name in configurations.
    pub fn v3_identity(&self) -> [u8; 20] {
        self.v3_identity
    }

    /// SHA-1 of the signing key.
    pub fn signing_id(&self) -> [u8; 20] {
        self.signing_id
    }

    /// The key certificate's text.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a digest as Tor does: PKCS#1 v1.5 without the name of the hash.
    pub(super) fn sign(&self, digest: &[u8]) -> Option<Vec<u8>> {
        self.signing.sign(digest).ok()
    }
}
