//! Keys out of words (SEP-5): a BIP-39 phrase, and SLIP-10's Ed25519 keys at `m/44'/148'/x'`.

use std::fmt;

use bip39::Language;
use hmac::{Hmac, Mac as _};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::key::{Keypair, NoRandomness};

/// The path's fixed part: BIP-44, and Stellar's number in SLIP-44.
const PURPOSE: [u32; 2] = [44, 148];
/// Ed25519 keys have hardened children only.
const HARDENED: u32 = 1 << 31;

/// How many words a new phrase has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Length {
    /// 12 words: 128 bits.
    Twelve,
    /// 24 words: 256 bits, as SEP-5 recommends.
    #[default]
    TwentyFour,
}

/// A phrase of words from which every key of a wallet follows. Never shown by `Debug`, and erased when dropped.
#[derive(Clone)]
pub struct Phrase(Zeroizing<String>);

impl Phrase {
    /// A new phrase of English words, out of the operating system's random numbers.
    ///
    /// # Errors
    /// When the operating system has none to give.
    pub fn random(length: Length) -> Result<Phrase, NoRandomness> {
        use rand::TryRng as _;
        let mut entropy = Zeroizing::new([0u8; 32]);
        rand::rngs::SysRng
            .try_fill_bytes(entropy.as_mut_slice())
            .map_err(|_| NoRandomness)?;
        let bytes = match length {
            Length::Twelve => &entropy[..16],
            Length::TwentyFour => &entropy[..],
        };
        let mnemonic = bip39::Mnemonic::from_entropy(bytes).map_err(|_| NoRandomness)?;
        Ok(Phrase::of(&mnemonic))
    }

    /// Reads a phrase of 12, 15, 18, 21 or 24 English words, however they are spaced and capitalised; its checksum must be
    /// right.
    ///
    /// # Errors
    /// What is wrong with it; never a word of it.
    pub fn parse(text: &str) -> Result<Phrase, BadPhrase> {
        let mut words = Zeroizing::new(String::with_capacity(text.len()));
        for word in text.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(&Zeroizing::new(word.to_lowercase()));
        }
        match bip39::Mnemonic::parse_in_normalized(Language::English, &words) {
            Ok(mnemonic) => Ok(Phrase::of(&mnemonic)),
            Err(bip39::Error::BadWordCount(count)) => Err(BadPhrase::Count { count }),
            Err(bip39::Error::UnknownWord(index)) => Err(BadPhrase::Word { number: index + 1 }),
            Err(_) => Err(BadPhrase::Checksum),
        }
    }

    fn of(mnemonic: &bip39::Mnemonic) -> Phrase {
        let mut text = Zeroizing::new(String::with_capacity(256));
        for word in mnemonic.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        Phrase(text)
    }

    /// The words, one space between them: to be written down, and nowhere else.
    pub fn words(&self) -> &str {
        &self.0
    }

    /// The key of account `x` (`m/44'/148'/x'`); 0 is the primary one. Another passphrase gives other keys, and none is
    /// wrong: without one it is empty.
    ///
    /// # Errors
    /// When `x` is 2^31 or more.
    pub fn key(&self, passphrase: &str, x: u32) -> Result<Keypair, NoSuchAccount> {
        if x >= HARDENED {
            return Err(NoSuchAccount);
        }
        let seed = self.seed(passphrase);
        let mut node = hmac(b"ed25519 seed", &[seed.as_slice()]);
        for index in PURPOSE.into_iter().chain([x]) {
            let (key, chain) = node.split_at(32);
            let index = (index | HARDENED).to_be_bytes();
            let child = hmac(chain, &[&[0], key, &index]);
            node = child;
        }
        let mut key = Zeroizing::new([0u8; 32]);
        key.copy_from_slice(&node[..32]);
        Ok(Keypair::from_seed(&key))
    }

    fn seed(&self, passphrase: &str) -> Zeroizing<[u8; 64]> {
        // It was read or made by `bip39` before, and is in its form.
        let mnemonic = bip39::Mnemonic::parse_in_normalized(Language::English, &self.0)
            .expect("a phrase that was checked is a phrase");
        Zeroizing::new(mnemonic.to_seed(passphrase))
    }
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase(..)")
    }
}

fn hmac(key: &[u8], message: &[&[u8]]) -> Zeroizing<[u8; 64]> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in message {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// The text is not a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPhrase {
    /// It has another number of words than phrases have.
    #[error("a phrase has 12 or 24 words, and this has {count}")]
    Count {
        /// How many.
        count: usize,
    },
    /// A word is not of the list.
    #[error("word {number} is not one of the 2048 that phrases are made of")]
    Word {
        /// Which, from 1.
        number: usize,
    },
    /// All words are of the list, and yet one of them is wrong, or two changed places.
    #[error("the words do not belong together: one is wrong, or they are in another order")]
    Checksum,
}

/// Accounts have numbers below 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("accounts of a phrase have numbers below 2147483648")]
pub struct NoSuchAccount;
