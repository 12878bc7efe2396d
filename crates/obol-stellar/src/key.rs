//! Ed25519 key pairs of Stellar accounts and of escrow signers, and the files they live in.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use obol_cell::{AccountId, Signature};
use stellar_strkey::ed25519::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// An Ed25519 key pair. The secret half is erased from memory when this is dropped, and never shown by `Debug`.
#[derive(Clone)]
pub struct Keypair {
    signing: SigningKey,
}

impl Keypair {
    /// The key pair of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Keypair {
        Keypair {
            signing: SigningKey::from_bytes(seed),
        }
    }

    /// A new key pair from the operating system's random numbers.
    ///
    /// # Errors
    /// When the operating system has none to give.
    pub fn random() -> Result<Keypair, NoRandomness> {
        use rand::TryRng as _;
        let mut seed = Zeroizing::new([0u8; 32]);
        rand::rngs::SysRng
            .try_fill_bytes(seed.as_mut_slice())
            .map_err(|_| NoRandomness)?;
        Ok(Keypair::from_seed(&seed))
    }

    /// The key pair of a secret seed written as a strkey (`S...`, SEP-23).
    ///
    /// # Errors
    /// When the text is not such a strkey.
    pub fn from_strkey(text: &str) -> Result<Keypair, NotASeed> {
        let seed = PrivateKey::from_string(text.trim()).map_err(|_| NotASeed)?;
        let bytes = Zeroizing::new(seed.0);
        Ok(Keypair::from_seed(&bytes))
    }

    /// The secret seed as a strkey (`S...`): for key files and backups only.
    pub fn secret_strkey(&self) -> Zeroizing<String> {
        let seed = PrivateKey(self.signing.to_bytes());
        Zeroizing::new(seed.as_unredacted().to_string().as_str().to_owned())
    }

    /// The secret seed, for backups only.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// The account whose master key this is.
    pub fn account(&self) -> AccountId {
        AccountId(self.signing.verifying_key().to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> VerifyingKey {
        self.signing.verifying_key()
    }

    /// Signs `message`: for Stellar always the 32-byte hash of a transaction. Nothing else that is signed has that length.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.signing.sign(message).to_bytes())
    }

    /// The last four bytes of the public key, by which a ledger finds the key of a signature.
    pub fn hint(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.account().0;
        [a, b, c, d]
    }

    /// Reads a key file: one line with a secret seed (`S...`), readable by its owner only.
    ///
    /// # Errors
    /// When the file cannot be read, is open to others than its owner, or holds something else.
    pub fn load(path: &Path) -> Result<Keypair, KeyFileError> {
        let fault = |fault| KeyFileError {
            path: path.to_owned(),
            fault,
        };
        let mut file = File::open(path).map_err(|e| fault(KeyFileFault::Io(e)))?;
        if let Some(mode) = open_to_others(&file).map_err(|e| fault(KeyFileFault::Io(e)))? {
            return Err(fault(KeyFileFault::OpenToOthers { mode }));
        }
        let mut text = Zeroizing::new(String::with_capacity(128));
        // A seed is 56 characters: a long file is not a key file, and is not read to its end.
        Read::by_ref(&mut file)
            .take(128)
            .read_to_string(&mut text)
            .map_err(|e| fault(KeyFileFault::Io(e)))?;
        Keypair::from_strkey(&text).map_err(|NotASeed| fault(KeyFileFault::NotASeed))
    }

    /// Writes a new key file that only its owner can read; never overwrites one.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(path)?;
            file.write_all(self.secret_strkey().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(|e| KeyFileError {
            path: path.to_owned(),
            fault: KeyFileFault::Io(e),
        })
    }

    /// The key pair of the file at `path`; where there is none, a new one is made and written there.
    ///
    /// # Errors
    /// As [`Keypair::load`] and [`Keypair::save_new`].
    pub fn load_or_create(path: &Path) -> Result<Keypair, KeyFileError> {
        match Keypair::load(path) {
            Err(KeyFileError {
                fault: KeyFileFault::Io(e),
                ..
            }) if e.kind() == io::ErrorKind::NotFound => {
                let key = Keypair::random().map_err(|_| KeyFileError {
                    path: path.to_owned(),
                    fault: KeyFileFault::NoRandomness,
                })?;
                key.save_new(path)?;
                Ok(key)
            }
            other => other,
        }
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({})", account_text(&self.account()))
    }
}

/// The mode of a file that others than its owner may read or write.
#[cfg(unix)]
fn open_to_others(file: &File) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

/// Elsewhere than on Unix, the folder's access list has to protect the file.
#[cfg(not(unix))]
fn open_to_others(_file: &File) -> io::Result<Option<u32>> {
    Ok(None)
}

/// An account's address as people and Horizon write it (`G...`).
pub fn account_text(account: &AccountId) -> String {
    PublicKey(account.0).to_string().as_str().to_owned()
}

/// Reads an account's address (`G...`).
///
/// # Errors
/// When the text is not one.
pub fn parse_account(text: &str) -> Result<AccountId, NotAnAccount> {
    PublicKey::from_string(text)
        .map(|key| AccountId(key.0))
        .map_err(|_| NotAnAccount)
}

/// The text is not a secret seed (`S...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Stellar secret seed (S...)")]
pub struct NotASeed;

/// The text is not an account address (`G...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Stellar account address (G...)")]
pub struct NotAnAccount;

/// The operating system gave no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random numbers")]
pub struct NoRandomness;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("key file {path}: {fault}", path = path.display())]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: KeyFileFault,
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileFault {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(io::Error),
    /// Others than its owner can read it.
    #[error("others can read it (mode {mode:03o}); make it owner-only: chmod 600")]
    OpenToOthers {
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("it does not hold a Stellar secret seed (S...)")]
    NotASeed,
    /// No new key could be made.
    #[error("the operating system gave no random numbers")]
    NoRandomness,
}
