//! A relay's keys and certificates: made once, kept in a directory, renewed when their time comes.
//!
//! tor-spec, [relay keys](https://spec.torproject.org/tor-spec/relay-keys.html); cert-spec.
//!
//! | key or certificate | lives | renewed | kept |
//! |---|---|---|---|
//! | RSA-1024 and Ed25519 identity | for ever | never | file |
//! | signing key, certificate 4 | 30 days | a day before its end | file |
//! | ntor onion key, and the TAP key that goes with it | 28 days, and 7 more for those who know only the old one | when they are over | file |
//! | TLS key and X.509, certificate 5 | 2 days | 3 hours before its end | memory |
//! | link key, certificate 6 | 2 days | likewise | memory |
//! | X.509 of the RSA identity (2), RSA to Ed25519 (7) | 365, 180 days | with the above | memory |
//!
//! [`Keys`] is shared; [`Keys::current`] is a snapshot in which everything fits together, and which a connection keeps.

mod family;
mod store;

pub use family::FamilyKey;

use crate::tls::{self, TlsError};
use obol_onion::handshake::{OnionKey, RelayOnionKeys};
use obol_onion::link::{Certificates, Credentials};
use rand::RngExt as _;
use rustls::ServerConfig;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use store::{Onion, PreviousOnion, Rotating, Secret, Signing, Store};
use tor_cert::rsa::EncodedRsaCrosscert;
use tor_cert::{CertType, CertifiedKey, Ed25519Cert};
use tor_checkable::{SelfSigned as _, TimeBound as _};
use tor_llcrypto::pk::curve25519::StaticSecret;
use tor_llcrypto::pk::ed25519::{Ed25519Identity, Keypair};
use tor_llcrypto::pk::keymanip::convert_curve25519_to_ed25519_private;
use tor_llcrypto::pk::rsa;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);
const SIGNING_LIFE: Duration = DAY.saturating_mul(30);
const SIGNING_MARGIN: Duration = DAY;
const LINK_LIFE: Duration = DAY.saturating_mul(2);
const LINK_MARGIN: Duration = HOUR.saturating_mul(3);
const CROSSCERT_LIFE: Duration = DAY.saturating_mul(180);

/// Keys cannot be read, written or made. The relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or the directory cannot be read or written.
    #[error("the key file {} cannot be read or written: {error}. Check its owner, its permissions and the free space", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A file or the directory can be read by others than its owner.
    #[error("{} can be read by others (mode {mode:o}): run `chmod go= {}`", path.display(), path.display())]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("the key file {}: {reason}. Restore it from a backup", path.display())]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Of the two identities, which belong together, one is gone.
    #[error("{} is missing, but the other identity is there: restore it, or remove both to become a new relay", missing.display())]
    HalfAnIdentity {
        /// The file that should be there.
        missing: PathBuf,
    },
    /// A certificate or a TLS configuration cannot be made from sound keys: our bug, or the system's random numbers.
    #[error("{0} failed")]
    Crypto(&'static str),
    /// The TLS key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How long onion keys live: the consensus' `onion-key-rotation-days` and `onion-key-grace-period-days`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnionLifetime {
    rotation: Duration,
    grace: Duration,
}

impl OnionLifetime {
    /// Clamps both to what dir-spec allows: 1 to 90 days, and 1 day to the whole rotation.
    pub fn from_days(rotation: u32, grace: u32) -> Self {
        let rotation = rotation.clamp(1, 90);
        Self {
            rotation: DAY * rotation,
            grace: DAY * grace.clamp(1, rotation),
        }
    }
}

impl Default for OnionLifetime {
    fn default() -> Self {
        Self::from_days(28, 7)
    }
}

/// What is renewed before its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotate {
    /// The signing key, and with it all that it certifies.
    pub signing: bool,
    /// The onion keys: ntor, and the TAP key with it. The ntor key that was in force is accepted for the grace period; one
    /// that was only accepted still, no longer.
    pub onion: bool,
    /// TLS and link keys.
    pub links: bool,
    /// The TAP key alone, which serves nothing but to make authorities see a new descriptor.
    pub tap: bool,
}

/// What a call of [`Keys::renew`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// The descriptor must be published anew: the signing key or the onion key changed.
    pub descriptor: bool,
    /// [`Current::onion_keys`] changed, perhaps only by dropping the previous key.
    pub onion: bool,
    /// New links use new certificates.
    pub links: bool,
}

/// All keys of one relay.
pub struct Keys {
    rsa: rsa::KeyPair,
    rsa_der: Vec<u8>,
    ed25519: Keypair,
    fingerprint: [u8; 20],
    current: RwLock<Arc<Current>>,
    /// Held while something is renewed.
    store: Mutex<Store>,
}

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Keys")
            .field("fingerprint", &hex::encode_upper(self.fingerprint))
            .finish_non_exhaustive()
    }
}

/// Everything that changes with time, as of one moment.
pub struct Current {
    rotating: Rotating,
    signing: Keypair,
    signing_cert: Vec<u8>,
    signing_end: SystemTime,
    onion_keys: Arc<RelayOnionKeys>,
    tap: Arc<rsa::KeyPair>,
    credentials: Arc<Credentials>,
    tls: Arc<ServerConfig>,
    links_end: SystemTime,
}

impl core::fmt::Debug for Current {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Current")
            .field("signing_end", &self.signing_end)
            .field("links_end", &self.links_end)
            .finish_non_exhaustive()
    }
}

fn random_secret() -> Secret {
    Secret(rand::rng().random())
}

/// Seconds since 1970.
fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn from_unix(seconds: u64) -> SystemTime {
    // A file can hold any number; far beyond all certificates, and within what the type can hold.
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 40))
}

fn crypto<E>(what: &'static str) -> impl Fn(E) -> KeyError {
    move |_| KeyError::Crypto(what)
}

impl Keys {
    /// Loads the keys in `directory`, and makes those that are not there. Blocks for up to seconds: RSA keys are searched.
    ///
    /// # Errors
    /// [`KeyError`], which names the file.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Arc<Self>, KeyError> {
        let store = Store::open(directory)?;
        let (rsa, ed25519) = match store.identities()? {
            Some(identities) => identities,
            None => {
                let rsa = rsa::KeyPair::generate(&mut rand::rng()).map_err(crypto("making an RSA key"))?;
                let ed25519 = random_secret();
                store.write_identities(&rsa, &ed25519)?;
                (rsa, ed25519)
            }
        };
        let ed25519 = Keypair::from_bytes(&ed25519.0);
        let rsa_der = rsa.to_public_key().to_der();
        let fingerprint = rsa.to_public_key().to_rsa_identity().to_bytes();

        let (rotating, new) = match store.rotating()? {
            Some(rotating) => (rotating, false),
            None => {
                let rotating = Rotating {
                    signing: new_signing(&ed25519, now)?,
                    onion: new_onion(now)?,
                    previous_onion: None,
                };
                (rotating, true)
            }
        };
        if new {
            store.write_rotating(&rotating)?;
        }
        let signing_end = check_signing(&rotating.signing, &ed25519, &store)?;
        // Links need a signing key that has not run out. How long onion keys live only the consensus knows: see `renew`.
        let (rotating, signing_end) = if signing_end <= now + SIGNING_MARGIN {
            let rotating = Rotating {
                signing: new_signing(&ed25519, now)?,
                ..rotating
            };
            store.write_rotating(&rotating)?;
            let end = check_signing(&rotating.signing, &ed25519, &store)?;
            (rotating, end)
        } else {
            (rotating, signing_end)
        };
        let tap = Arc::new(store::parse_rsa(&rotating.onion.tap, &store.rotating_path())?);
        let parts = Parts {
            rsa: &rsa,
            rsa_der: &rsa_der,
            ed25519: &ed25519,
            fingerprint,
        };
        let links = parts.links(&rotating.signing, now)?;
        let current = parts.current(rotating, signing_end, tap, links, &store)?;
        let keys = Self {
            rsa,
            rsa_der,
            ed25519,
            fingerprint,
            current: RwLock::new(Arc::new(current)),
            store: Mutex::new(store),
        };
        Ok(Arc::new(keys))
    }

    /// The fingerprint: SHA-1 of the RSA identity key.
    pub fn fingerprint(&self) -> [u8; 20] {
        self.fingerprint
    }

    /// The Ed25519 identity.
    pub fn ed25519(&self) -> [u8; 32] {
        self.ed25519.verifying_key().to_bytes()
    }

    /// The RSA identity key, which signs descriptors too.
    pub fn rsa(&self) -> &rsa::KeyPair {
        &self.rsa
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<Current> {
        // A writer that panicked left the old snapshot, which is whole.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What onion skins are answered with now.
    pub fn onion_keys(&self) -> Arc<RelayOnionKeys> {
        Arc::clone(&self.current().onion_keys)
    }

    /// When [`renew`](Self::renew) should be called next.
    pub fn next_renewal(&self, onion: OnionLifetime) -> SystemTime {
        let current = self.current();
        let previous = current.rotating.previous_onion.as_ref();
        [
            current.signing_end - SIGNING_MARGIN,
            current.links_end - LINK_MARGIN,
            from_unix(current.rotating.onion.since) + onion.rotation,
        ]
        .into_iter()
        .chain(previous.map(|previous| from_unix(previous.until)))
        .min()
        .expect("there are three at least")
    }

    /// Renews all whose time has come at `now`; written to the files before anybody sees it. Blocks, as
    /// [`open`](Self::open) does. Links that are open keep what they have.
    ///
    /// # Errors
    /// [`KeyError`]; what was in force still is.
    pub fn renew(&self, now: SystemTime, onion: OnionLifetime) -> Result<Renewed, KeyError> {
        self.rotate(now, onion, Rotate::default())
    }

    /// The same, and also what is asked for, whether its time has come or not.
    ///
    /// # Errors
    /// [`KeyError`]; what was in force still is.
    pub fn rotate(&self, now: SystemTime, onion: OnionLifetime, early: Rotate) -> Result<Renewed, KeyError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current();
        let mut rotating = before.rotating.clone();
        let mut renewed = Renewed::default();
        let mut signing_end = before.signing_end;
        let mut tap = Arc::clone(&before.tap);

        let new_signing_key = early.signing || now + SIGNING_MARGIN >= before.signing_end;
        if new_signing_key {
            rotating.signing = new_signing(&self.ed25519, now)?;
            signing_end = check_signing(&rotating.signing, &self.ed25519, &store)?;
            renewed.descriptor = true;
        }
        if early.onion || now >= from_unix(rotating.onion.since) + onion.rotation {
            let old = std::mem::replace(&mut rotating.onion, new_onion(now)?);
            rotating.previous_onion = Some(PreviousOnion {
                ntor: old.ntor,
                until: unix(now + onion.grace),
            });
            tap = Arc::new(store::parse_rsa(&rotating.onion.tap, &store.rotating_path())?);
            renewed.descriptor = true;
            renewed.onion = true;
        } else if early.tap {
            rotating.onion.tap = new_tap()?;
            tap = Arc::new(store::parse_rsa(&rotating.onion.tap, &store.rotating_path())?);
            renewed.descriptor = true;
        }
        if rotating
            .previous_onion
            .as_ref()
            .is_some_and(|old| now >= from_unix(old.until))
        {
            rotating.previous_onion = None;
            renewed.onion = true;
        }
        renewed.links = early.links || new_signing_key || now + LINK_MARGIN >= before.links_end;
        if renewed == Renewed::default() {
            return Ok(renewed);
        }

        let parts = Parts {
            rsa: &self.rsa,
            rsa_der: &self.rsa_der,
            ed25519: &self.ed25519,
            fingerprint: self.fingerprint,
        };
        let links = if renewed.links {
            parts.links(&rotating.signing, now)?
        } else {
            before.links()
        };
        if renewed.descriptor || renewed.onion {
            store.write_rotating(&rotating)?;
        }
        let current = Arc::new(parts.current(rotating, signing_end, tap, links, &store)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(renewed)
    }
}

impl Current {
    /// The medium-term signing key, which signs the descriptor.
    pub fn signing(&self) -> &Keypair {
        &self.signing
    }

    /// Its certificate by the identity (type 4): the descriptor's `identity-ed25519`, before base64.
    pub fn signing_cert(&self) -> &[u8] {
        &self.signing_cert
    }

    /// What onion skins are answered with.
    pub fn onion_keys(&self) -> &Arc<RelayOnionKeys> {
        &self.onion_keys
    }

    /// The public onion key: the descriptor's `ntor-onion-key`.
    pub fn ntor_public(&self) -> [u8; 32] {
        *self.onion_keys.current().public()
    }

    /// The onion key's certificate for the Ed25519 identity (cert-spec, type 10), and the sign bit that goes with it: the
    /// descriptor's `ntor-onion-key-crosscert`.
    ///
    /// # Errors
    /// [`KeyError::Crypto`], never with a key that was made as Curve25519 keys are.
    pub fn ntor_crosscert(&self, onion: OnionLifetime) -> Result<(Vec<u8>, u8), KeyError> {
        let what = "certifying the identity with the onion key";
        let secret = StaticSecret::from(self.rotating.onion.ntor.0);
        let (key, sign) = convert_curve25519_to_ed25519_private(&secret).ok_or(KeyError::Crypto(what))?;
        let end = from_unix(self.rotating.onion.since) + onion.rotation + onion.grace;
        let cert = Ed25519Cert::builder()
            .cert_type(CertType::NTOR_CC_IDENTITY)
            .expiration(end)
            .cert_key(CertifiedKey::Ed25519((*self.onion_keys.ed25519()).into()))
            .encode_and_sign(&key)
            .map_err(crypto(what))?;
        Ok((cert.to_vec(), sign))
    }

    /// The TAP key: the descriptor's `onion-key` (PKCS #1, DER). No handshake uses it.
    pub fn tap_public_der(&self) -> Vec<u8> {
        self.tap.to_public_key().to_der()
    }

    /// The TAP key's signature over both identities: the descriptor's `onion-key-crosscert`.
    ///
    /// # Errors
    /// [`KeyError::Crypto`], never with a sound key.
    pub fn tap_crosscert(&self) -> Result<Vec<u8>, KeyError> {
        let identities = [self.onion_keys.rsa().as_slice(), self.onion_keys.ed25519()].concat();
        self.tap
            .sign(&identities)
            .map_err(crypto("certifying the identity with the TAP key"))
    }

    /// What the link handshake shows.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// The TLS server whose certificate [`credentials`](Self::credentials) vouch for.
    pub fn tls(&self) -> &Arc<ServerConfig> {
        &self.tls
    }

    fn links(&self) -> Links {
        Links {
            credentials: Arc::clone(&self.credentials),
            tls: Arc::clone(&self.tls),
            end: self.links_end,
        }
    }
}

/// What links use, and until when.
struct Links {
    credentials: Arc<Credentials>,
    tls: Arc<ServerConfig>,
    end: SystemTime,
}

/// What does not change, borrowed.
struct Parts<'a> {
    rsa: &'a rsa::KeyPair,
    rsa_der: &'a [u8],
    ed25519: &'a Keypair,
    fingerprint: [u8; 20],
}

impl Parts<'_> {
    fn identity(&self) -> Ed25519Identity {
        self.ed25519.verifying_key().into()
    }

    /// New TLS and link keys, certified by the signing key.
    fn links(&self, signing: &Signing, now: SystemTime) -> Result<Links, KeyError> {
        let mut rng = rand::rng();
        let end = now + LINK_LIFE;
        let tls = tls::ServerKey::generate(now)?;
        let signing_key = Keypair::from_bytes(&signing.secret.0);
        let link_key = random_secret();
        let certify = |kind: CertType, key: CertifiedKey| {
            Ed25519Cert::builder()
                .cert_type(kind)
                .expiration(end)
                .signing_key(signing_key.verifying_key().into())
                .cert_key(key)
                .encode_and_sign(&signing_key)
                .map(|cert| cert.to_vec())
                .map_err(crypto("certifying a link key"))
        };
        let link_public = Keypair::from_bytes(&link_key.0).verifying_key().into();
        let certificates = Certificates {
            rsa_x509: tor_cert_x509::create_legacy_rsa_id_cert(&mut rng, now, &tls::random_hostname(), self.rsa)
                .map_err(crypto("certifying the RSA identity"))?,
            signing: hex::decode(&signing.certificate).map_err(crypto("reading back a certificate"))?,
            tls: certify(
                CertType::SIGNING_V_TLS_CERT,
                CertifiedKey::X509Sha256Digest(tls.sha256()),
            )?,
            link_auth: certify(CertType::SIGNING_V_LINK_AUTH, CertifiedKey::Ed25519(link_public))?,
            crosscert: EncodedRsaCrosscert::encode_and_sign(self.rsa, &self.identity(), now + CROSSCERT_LIFE)
                .map_err(crypto("certifying the Ed25519 identity"))?
                .to_vec(),
        };
        let credentials = Credentials::new(
            self.ed25519.verifying_key().to_bytes(),
            self.rsa_der,
            tls.certificate(),
            &link_key.0,
            certificates,
        );
        Ok(Links {
            credentials: Arc::new(credentials),
            tls: tls.into_config()?,
            end,
        })
    }

    fn current(
        &self,
        rotating: Rotating,
        signing_end: SystemTime,
        tap: Arc<rsa::KeyPair>,
        links: Links,
        store: &Store,
    ) -> Result<Current, KeyError> {
        let signing_cert = hex::decode(&rotating.signing.certificate).map_err(|_| KeyError::Malformed {
            path: store.rotating_path(),
            reason: "signing.certificate is not hexadecimal".to_owned(),
        })?;
        let previous = rotating
            .previous_onion
            .as_ref()
            .map(|old| OnionKey::from_secret(old.ntor.0));
        let onion_keys = RelayOnionKeys::new(
            self.fingerprint,
            self.ed25519.verifying_key().to_bytes(),
            OnionKey::from_secret(rotating.onion.ntor.0),
            previous,
            rand::rng().random(),
        );
        Ok(Current {
            signing: Keypair::from_bytes(&rotating.signing.secret.0),
            signing_cert,
            signing_end,
            onion_keys: Arc::new(onion_keys),
            tap,
            credentials: links.credentials,
            tls: links.tls,
            links_end: links.end,
            rotating,
        })
    }
}

fn new_signing(identity: &Keypair, now: SystemTime) -> Result<Signing, KeyError> {
    let secret = random_secret();
    let key = Keypair::from_bytes(&secret.0).verifying_key();
    let cert = Ed25519Cert::builder()
        .cert_type(CertType::IDENTITY_V_SIGNING)
        .expiration(now + SIGNING_LIFE)
        .signing_key(identity.verifying_key().into())
        .cert_key(CertifiedKey::Ed25519(key.into()))
        .encode_and_sign(identity)
        .map_err(crypto("certifying the signing key"))?;
    Ok(Signing {
        secret,
        certificate: hex::encode(cert.to_vec()),
    })
}

fn new_onion(now: SystemTime) -> Result<Onion, KeyError> {
    Ok(Onion {
        ntor: random_secret(),
        tap: new_tap()?,
        since: unix(now),
    })
}

fn new_tap() -> Result<String, KeyError> {
    let tap = rsa::KeyPair::generate(&mut rand::rng()).map_err(crypto("making an RSA key"))?;
    Ok(store::encode_rsa(&tap)?.to_string())
}

/// Whether the stored certificate is the identity's for the stored key, and when it ends.
fn check_signing(signing: &Signing, identity: &Keypair, store: &Store) -> Result<SystemTime, KeyError> {
    let malformed = || KeyError::Malformed {
        path: store.rotating_path(),
        reason:
            "signing.certificate is not this relay's certificate of signing.secret; remove the file to make new keys"
                .to_owned(),
    };
    let key: Ed25519Identity = Keypair::from_bytes(&signing.secret.0).verifying_key().into();
    let bytes = hex::decode(&signing.certificate).map_err(|_| malformed())?;
    let cert = Ed25519Cert::decode(&bytes)
        .map_err(|_| malformed())?
        .should_be_signed_with(&identity.verifying_key().into())
        .map_err(|_| malformed())?
        .check_signature()
        .map_err(|_| malformed())?
        .dangerously_assume_timely();
    if cert.cert_type() != CertType::IDENTITY_V_SIGNING || cert.subject_key().as_ed25519() != Some(&key) {
        return Err(malformed());
    }
    Ok(cert.expiry())
}

#[cfg(test)]
pub(crate) use family::tests::family_file;

#[cfg(test)]
mod tests;
