//! The files that keys are kept in.
//!
//! | file | what | form |
//! |---|---|---|
//! | `identity-rsa.pem` | the RSA identity, for ever | PKCS #1, PEM: what C Tor calls `secret_id_key` |
//! | `identity-ed25519.toml` | the Ed25519 identity, for ever | `secret`, hex |
//! | `rotating.toml` | signing key with its certificate, onion keys with their age | [`Rotating`] |
//!
//! All are readable by their owner only, and so is the directory. A file is replaced whole or not at all.

use super::KeyError;
use rsa::pkcs1::{DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _, LineEnding};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tor_llcrypto::pk::rsa::KeyPair;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const IDENTITY_RSA: &str = "identity-rsa.pem";
const IDENTITY_ED25519: &str = "identity-ed25519.toml";
const ROTATING: &str = "rotating.toml";

/// A secret of 32 bytes, in hex in its file.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret(pub [u8; 32]);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(hex::encode(self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let mut secret = [0; 32];
        // The text itself must not end up in a message.
        hex::decode_to_slice(text.as_str(), &mut secret)
            .map_err(|_| serde::de::Error::custom("a secret is 64 hexadecimal digits"))?;
        Ok(Self(secret))
    }
}

/// What rotates. Times are seconds since 1970.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotating {
    pub signing: Signing,
    pub onion: Onion,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_onion: Option<PreviousOnion>,
}

/// The medium-term signing key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signing {
    pub secret: Secret,
    /// Type 4, cert-spec, in hex.
    pub certificate: String,
}

/// The onion keys that the descriptor publishes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Onion {
    pub ntor: Secret,
    /// The RSA onion key that no handshake uses any more, but that authorities want to see; PKCS #1, PEM.
    pub tap: String,
    pub since: u64,
}

/// The onion key before that.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviousOnion {
    pub ntor: Secret,
    pub until: u64,
}

/// The Ed25519 identity's file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    secret: Secret,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it if it is not there.
    pub fn open(directory: &Path) -> Result<Self, KeyError> {
        let wrap = |error| KeyError::File {
            path: directory.to_owned(),
            error,
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(wrap)?;
        check_private(directory, &fs::metadata(directory).map_err(wrap)?)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file's text; `None` if there is no such file.
    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, KeyError> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(KeyError::File { path, error }),
            Ok(metadata) => check_private(&path, &metadata)?,
        }
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(error) => Err(KeyError::File { path, error }),
        }
    }

    /// Replaces a file, durably.
    fn write(&self, name: &str, text: &str) -> Result<(), KeyError> {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        let write = || {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| KeyError::File {
            path: path.clone(),
            error,
        })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, KeyError> {
        let Some(text) = self.read(name)? else {
            return Ok(None);
        };
        toml::from_str(&text).map(Some).map_err(|error| KeyError::Malformed {
            path: self.path(name),
            // Its message would quote the line, and the line is a secret.
            reason: error.message().to_owned(),
        })
    }

    fn write_toml(&self, name: &str, value: &impl Serialize) -> Result<(), KeyError> {
        let text = Zeroizing::new(toml::to_string(value).expect("plain structures of strings and numbers"));
        self.write(name, &text)
    }

    /// Both identities; `None` if there is neither.
    pub fn identities(&self) -> Result<Option<(KeyPair, Secret)>, KeyError> {
        let rsa = self.read(IDENTITY_RSA)?;
        let ed25519 = self.parse::<IdentityFile>(IDENTITY_ED25519)?;
        match (rsa, ed25519) {
            (None, None) => Ok(None),
            (Some(pem), Some(file)) => {
                let path = self.path(IDENTITY_RSA);
                Ok(Some((parse_rsa(&pem, &path)?, file.secret)))
            }
            // The two are pinned to one another by the authorities: never make up for one of them.
            (None, Some(_)) => Err(KeyError::HalfAnIdentity {
                missing: self.path(IDENTITY_RSA),
            }),
            (Some(_), None) => Err(KeyError::HalfAnIdentity {
                missing: self.path(IDENTITY_ED25519),
            }),
        }
    }

    /// Writes new identities.
    pub fn write_identities(&self, rsa: &KeyPair, ed25519: &Secret) -> Result<(), KeyError> {
        self.write(IDENTITY_RSA, &encode_rsa(rsa)?)?;
        self.write_toml(
            IDENTITY_ED25519,
            &IdentityFile {
                secret: ed25519.clone(),
            },
        )
    }

    /// What rotates, if it is there.
    pub fn rotating(&self) -> Result<Option<Rotating>, KeyError> {
        self.parse(ROTATING)
    }

    /// Writes what rotates.
    pub fn write_rotating(&self, rotating: &Rotating) -> Result<(), KeyError> {
        self.write_toml(ROTATING, rotating)
    }

    /// The file of what rotates, for error messages.
    pub fn rotating_path(&self) -> PathBuf {
        self.path(ROTATING)
    }
}

/// Refuses what others can read.
pub(super) fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyError> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
    }
    #[cfg(not(unix))]
    let _ = (path, metadata);
    Ok(())
}

/// A 1024-bit RSA key from PKCS #1, PEM.
pub(super) fn parse_rsa(pem: &str, path: &Path) -> Result<KeyPair, KeyError> {
    let malformed = |reason: &str| KeyError::Malformed {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let key =
        rsa::RsaPrivateKey::from_pkcs1_pem(pem).map_err(|_| malformed("not an RSA private key in PEM (PKCS #1)"))?;
    let key = KeyPair::from(key);
    let public = key.to_public_key();
    if public.bits() != 1024 || !public.exponent_is(65537) {
        return Err(malformed("the RSA key must have 1024 bits and the exponent 65537"));
    }
    Ok(key)
}

/// The same in the other direction.
pub(super) fn encode_rsa(key: &KeyPair) -> Result<Zeroizing<String>, KeyError> {
    key.as_key()
        .to_pkcs1_pem(LineEnding::LF)
        .map_err(|_| KeyError::Crypto("encoding an RSA key"))
}
