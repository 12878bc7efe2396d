//! The key of a family: relays that certify it say that one operator runs them all (proposal 321).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tor_cert::{CertType, CertifiedKey, Ed25519Cert};
use tor_llcrypto::pk::ed25519::{Ed25519Identity, ExpandedKeypair};
use tor_netdoc::types::family::RelayFamilyId;
use zeroize::Zeroizing;

use super::KeyError;
use super::store::check_private;

/// How C Tor's file begins (`tor --keygen-family`): 32 bytes, and then the expanded secret.
const HEADER: &[u8; 32] = b"== ed25519v1-secret: fmly-id ==\0";
/// The file's length in bytes.
const LENGTH: usize = 32 + 64;
/// How long a certificate holds (dir-spec, `family-cert`); each descriptor has a new one.
const LIFE: Duration = Duration::from_secs(30 * 86_400);

/// A family's secret key. Clones are the same.
#[derive(Clone)]
pub struct FamilyKey(Arc<ExpandedKeypair>);

impl core::fmt::Debug for FamilyKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("FamilyKey").field(&hex::encode(self.public())).finish()
    }
}

impl FamilyKey {
    /// Reads the file that `tor --keygen-family` writes: the same file for all relays of the family, ours and C Tor's.
    ///
    /// # Errors
    /// [`KeyError`], which names the file.
    pub fn load(path: &Path) -> Result<FamilyKey, KeyError> {
        let failed = |error| KeyError::File {
            path: path.to_owned(),
            error,
        };
        check_private(path, &std::fs::metadata(path).map_err(failed)?)?;
        let bytes = Zeroizing::new(std::fs::read(path).map_err(failed)?);
        let malformed = || KeyError::Malformed {
            path: path.to_owned(),
            reason: "not a secret family key as `tor --keygen-family` writes it".to_owned(),
        };
        let (header, secret) = bytes.split_at_checked(HEADER.len()).ok_or_else(malformed)?;
        if bytes.len() != LENGTH || header != HEADER {
            return Err(malformed());
        }
        let secret: Zeroizing<[u8; 64]> = Zeroizing::new(secret.try_into().map_err(|_| malformed())?);
        let key = ExpandedKeypair::from_secret_key_bytes(*secret).ok_or_else(malformed)?;
        Ok(FamilyKey(Arc::new(key)))
    }

    /// The public key: the family's name.
    pub fn public(&self) -> [u8; 32] {
        self.0.public().to_bytes()
    }

    /// The same as microdescriptors write it.
    pub fn id(&self) -> RelayFamilyId {
        RelayFamilyId::Ed25519(self.public().into())
    }

    /// The certificate that a relay belongs to the family (cert-spec, type 12): the descriptor's `family-cert`.
    ///
    /// # Errors
    /// [`KeyError::Crypto`], never with a sound key.
    pub fn certify(&self, relay: [u8; 32], now: SystemTime) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Crypto("certifying a member of the family");
        let certificate = Ed25519Cert::builder()
            .cert_type(CertType::FAMILY_V_IDENTITY)
            .expiration(now + LIFE)
            .signing_key(Ed25519Identity::from(self.public()))
            .cert_key(CertifiedKey::Ed25519(relay.into()))
            .encode_and_sign(&*self.0)
            .map_err(failed)?;
        Ok(certificate.to_vec())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A family key in a file of C Tor's form.
    pub(crate) fn family_file() -> (FamilyKey, tempfile::TempDir) {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("ours.secret_family_key");
        let keypair = tor_llcrypto::pk::ed25519::Keypair::from_bytes(&[0x31; 32]);
        let secret = ExpandedKeypair::from(&keypair).to_secret_key_bytes();
        write(&path, &[HEADER.as_slice(), &secret].concat());
        let key = FamilyKey::load(&path).unwrap();
        assert_eq!(key.public(), keypair.verifying_key().to_bytes());
        (key, files)
    }

    fn write(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_file_that_is_no_family_key_is_named_and_its_secret_is_not_told() {
        let (key, files) = family_file();
        assert!(!format!("{key:?}").contains("secret"));
        let path = files.path().join("ours.secret_family_key");
        let good = std::fs::read(&path).unwrap();
        for bad in [
            &good[..95],
            &[&good[..], b"x"].concat(),
            &[b"x", &good[1..]].concat(),
            b"",
        ] {
            write(&path, bad);
            let error = FamilyKey::load(&path).unwrap_err().to_string();
            assert!(
                error.contains("ours.secret_family_key") && error.contains("keygen-family"),
                "{error}"
            );
        }
        assert!(matches!(
            FamilyKey::load(Path::new("/nowhere")),
            Err(KeyError::File { .. })
        ));
    }
}
