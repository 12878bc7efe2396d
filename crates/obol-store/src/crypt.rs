//! Encryption of a backup: XChaCha20-Poly1305 over parts of 64 KiB in the STREAM construction, so that parts can be neither
//! altered, dropped, reordered nor cut off at the end; its key from a passphrase by Argon2id (docs/adr/0036).
//!
//! ```text
//! "obol-backup-1\n" | memory KiB u32 | passes u32 | lanes u32 | salt 16 | nonce 19 | check 32
//! last u8 | length u32 | ciphertext and tag      once or more; last is 1 for the last one only
//! ```
//! `check` is the half of what Argon2id makes that is no key: it tells a wrong passphrase from an altered file.

use std::io::{self, Read, Write};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::aead::{KeyInit as _, Payload};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::backup::BackupError;

const MAGIC: &[u8; 14] = b"obol-backup-1\n";
/// Bytes of plaintext in a part.
const PART: usize = 64 * 1024;
/// Bytes that the tag adds.
const TAG: usize = 16;
const HEAD: usize = MAGIC.len() + 12 + 16 + 19 + 32;

/// What making a key costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    /// KiB.
    memory: u32,
    passes: u32,
    lanes: u32,
}

/// Above what RFC 9106 recommends where memory is short (64 MiB, 3 passes).
const COST: Cost = Cost {
    memory: 64 * 1024,
    passes: 4,
    lanes: 1,
};
/// A file that asks for more than this is none of ours.
const MOST: Cost = Cost {
    memory: 1024 * 1024,
    passes: 64,
    lanes: 16,
};

/// Key and check of a passphrase.
struct Keys {
    key: Zeroizing<[u8; 32]>,
    check: [u8; 32],
}

fn derive(passphrase: &str, salt: &[u8; 16], cost: Cost) -> Result<Keys, BackupError> {
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(64)).map_err(|_| BackupError::Altered)?;
    let mut both = Zeroizing::new([0; 64]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut both[..])
        .map_err(|_| BackupError::Passphrase)?;
    let mut keys = Keys {
        key: Zeroizing::new([0; 32]),
        check: [0; 32],
    };
    keys.key.copy_from_slice(&both[..32]);
    keys.check.copy_from_slice(&both[32..]);
    Ok(keys)
}

/// Encrypts what is written to it. [`Sealing::finish`] must be called.
pub(crate) struct Sealing<W> {
    out: W,
    cipher: EncryptorBE32<XChaCha20Poly1305>,
    head: [u8; HEAD],
    part: Zeroizing<Vec<u8>>,
}

impl<W: Write> Sealing<W> {
    pub(crate) fn new(mut out: W, passphrase: &str) -> Result<Sealing<W>, BackupError> {
        if passphrase.is_empty() {
            return Err(BackupError::Passphrase);
        }
        let (salt, nonce): ([u8; 16], [u8; 19]) = (rand::random(), rand::random());
        let keys = derive(passphrase, &salt, COST)?;
        let mut head = [0; HEAD];
        let parts: [&[u8]; 7] = [
            MAGIC,
            &COST.memory.to_be_bytes(),
            &COST.passes.to_be_bytes(),
            &COST.lanes.to_be_bytes(),
            &salt,
            &nonce,
            &keys.check,
        ];
        head.copy_from_slice(&parts.concat());
        out.write_all(&head)?;
        let cipher = EncryptorBE32::from_aead(
            XChaCha20Poly1305::new(keys.key.as_slice().into()),
            nonce.as_slice().into(),
        );
        Ok(Sealing {
            out,
            cipher,
            head,
            part: Zeroizing::new(Vec::with_capacity(PART)),
        })
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            if self.part.len() == PART {
                let payload = Payload {
                    msg: &self.part,
                    aad: &self.head,
                };
                // It fails after 2^32 parts: 256 TiB.
                let sealed = self.cipher.encrypt_next(payload).map_err(|_| BackupError::TooLarge)?;
                write_part(&mut self.out, false, &sealed)?;
                self.part.clear();
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Writes the last part; without it, what was written is worth nothing.
    pub(crate) fn finish(mut self) -> Result<W, BackupError> {
        let payload = Payload {
            msg: &self.part,
            aad: &self.head,
        };
        let sealed = self.cipher.encrypt_last(payload).map_err(|_| BackupError::TooLarge)?;
        write_part(&mut self.out, true, &sealed)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn write_part(out: &mut impl Write, last: bool, sealed: &[u8]) -> Result<(), BackupError> {
    out.write_all(&[last.into()])?;
    out.write_all(&(sealed.len() as u32).to_be_bytes())?;
    Ok(out.write_all(sealed)?)
}

/// Decrypts what it reads. What it gave is to be believed only once [`Opening::finish`] says so.
pub(crate) struct Opening<R> {
    input: R,
    /// `None` after the last part.
    cipher: Option<DecryptorBE32<XChaCha20Poly1305>>,
    head: [u8; HEAD],
    part: Zeroizing<Vec<u8>>,
    used: usize,
}

impl<R: Read> Opening<R> {
    pub(crate) fn new(mut input: R, passphrase: &str) -> Result<Opening<R>, BackupError> {
        let mut head = [0; HEAD];
        let mut magic = [0; MAGIC.len()];
        match input.read_exact(&mut magic) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(BackupError::NotABackup),
            read => read?,
        }
        if &magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        head[..MAGIC.len()].copy_from_slice(&magic);
        exactly(&mut input, &mut head[MAGIC.len()..])?;
        let mut rest = obol_cell::Reader::new(&head[MAGIC.len()..]);
        let mut number = || rest.u32().map_err(|_| BackupError::Altered);
        let cost = Cost {
            memory: number()?,
            passes: number()?,
            lanes: number()?,
        };
        if cost.memory > MOST.memory || cost.passes > MOST.passes || cost.lanes > MOST.lanes {
            return Err(BackupError::Altered);
        }
        let salt: [u8; 16] = rest.array().map_err(|_| BackupError::Altered)?;
        let nonce: [u8; 19] = rest.array().map_err(|_| BackupError::Altered)?;
        let check: [u8; 32] = rest.array().map_err(|_| BackupError::Altered)?;
        let keys = derive(passphrase, &salt, cost)?;
        if !bool::from(keys.check.ct_eq(&check)) {
            return Err(BackupError::Passphrase);
        }
        let cipher = DecryptorBE32::from_aead(
            XChaCha20Poly1305::new(keys.key.as_slice().into()),
            nonce.as_slice().into(),
        );
        Ok(Opening {
            input,
            cipher: Some(cipher),
            head,
            part: Zeroizing::new(Vec::new()),
            used: 0,
        })
    }

    /// Fills `bytes`.
    pub(crate) fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            if self.used == self.part.len() {
                self.next_part()?;
                continue;
            }
            let count = bytes.len().min(self.part.len() - self.used);
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(&self.part[self.used..self.used + count]);
            self.used += count;
            bytes = later;
        }
        Ok(())
    }

    fn next_part(&mut self) -> Result<(), BackupError> {
        let Some(mut cipher) = self.cipher.take() else {
            // The content goes on where the file is over: not as we wrote it.
            return Err(BackupError::Altered);
        };
        let mut start = [0; 5];
        exactly(&mut self.input, &mut start)?;
        let last = start[0] == 1;
        let length = u32::from_be_bytes([start[1], start[2], start[3], start[4]]) as usize;
        if start[0] > 1 || !(TAG..=PART + TAG).contains(&length) {
            return Err(BackupError::Altered);
        }
        let mut sealed = vec![0; length];
        exactly(&mut self.input, &mut sealed)?;
        let payload = Payload {
            msg: &sealed,
            aad: &self.head,
        };
        let opened = if last {
            cipher.decrypt_last(payload)
        } else {
            let opened = cipher.decrypt_next(payload);
            self.cipher = Some(cipher);
            opened
        };
        self.part = Zeroizing::new(opened.map_err(|_| BackupError::Altered)?);
        self.used = 0;
        Ok(())
    }

    /// Says whether this is the end, and whether it is the one that was written.
    pub(crate) fn finish(mut self) -> Result<(), BackupError> {
        while self.used == self.part.len() && self.cipher.is_some() {
            self.next_part()?;
        }
        if self.used != self.part.len() {
            return Err(BackupError::Altered);
        }
        match self.input.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(BackupError::Altered),
        }
    }
}

fn exactly(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), BackupError> {
    input.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Truncated,
        _ => BackupError::from(e),
    })
}
