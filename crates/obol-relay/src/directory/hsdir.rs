//! The onion-service directory: descriptors of version 3 services, kept for those who ask for them by blinded key.
//!
//! rend-spec, [uploading and downloading descriptors](https://spec.torproject.org/rend-spec/deriving-keys.html) and
//! [the outer wrapper](https://spec.torproject.org/rend-spec/hsdesc-outer.html). Nobody is asked whether we are responsible
//! for a key: a service with another view of the network is served all the same, as C Tor does. Both requests count only on
//! circuits of more than one hop, so that we learn neither who has a service nor who looks for one.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use tor_cert::Ed25519Cert;
use tor_checkable::{SelfSigned as _, TimeBound as _};
use tor_netdoc::doc::hsdesc::StoredHsDescMeta;

use super::http::{Method, Request, Response};

/// Where both requests are.
const PREFIX: &str = "/tor/hs/3/";

/// The longest descriptor, in bytes, unless the consensus says otherwise (`HSV3MaxDescriptorSize`).
pub(super) const MAX_LENGTH: usize = 50_000;

/// What the consensus may make of that.
pub(super) const MAX_LENGTH_BOUNDS: std::ops::RangeInclusive<i32> = 1..=200_000;

/// Memory for all descriptors unless configured, in bytes.
const DEFAULT_MEMORY: u64 = 32 << 20;

/// What a descriptor costs apart from its text: its places in three tables.
const OVERHEAD: u64 = 400;

/// Salt and MAC of the encrypted part (rend-spec, "Encryption format"): there must be more than these.
const LEAST_ENCRYPTED: usize = 16 + 32;

/// SHA3 has no part in it: the name of a descriptor is the blinded public key itself.
type BlindedKey = [u8; 32];

/// Why a descriptor is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// More bytes than the consensus allows.
    #[error("the descriptor is too long")]
    TooLong,
    /// Not the outer wrapper of a descriptor of version 3, or one with a wrong signature.
    #[error("not a signed descriptor of version 3")]
    Malformed,
    /// Its certificate is over.
    #[error("the certificate of its signing key is not valid now")]
    Expired,
    /// There is one with this revision counter, or a higher one.
    #[error("there is a descriptor that is as new or newer")]
    NotNewer,
}

/// What we know of a descriptor, apart from its text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outer {
    key: BlindedKey,
    revision: u64,
    lifetime: Duration,
}

/// One descriptor.
#[derive(Debug)]
struct Entry {
    text: Bytes,
    revision: u64,
    expires: SystemTime,
    downloads: u64,
    /// Counts uploads: of two that were asked for as often, the older one goes first.
    stored: u64,
}

impl Entry {
    fn cost(&self) -> u64 {
        (self.text.len() as u64).saturating_add(OVERHEAD)
    }
}

/// The descriptors, and two orders of them.
#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<BlindedKey, Entry>,
    by_expiry: BTreeSet<(SystemTime, BlindedKey)>,
    /// The least wanted first.
    by_use: BTreeSet<(u64, u64, BlindedKey)>,
    memory: u64,
    uploads: u64,
}

/// The descriptors that this relay keeps. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct HsDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Mutex<Entries>,
    /// Bytes that all of them may take.
    limit: AtomicU64,
}

/// How much the onion-service directory holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Descriptors.
    pub descriptors: usize,
    /// Bytes that they take.
    pub bytes: u64,
}

impl Default for HsDir {
    fn default() -> HsDir {
        HsDir(Arc::new(Inner {
            entries: Mutex::default(),
            limit: AtomicU64::new(DEFAULT_MEMORY),
        }))
    }
}

impl HsDir {
    /// Sets how many bytes all descriptors may take.
    pub(super) fn limit_memory(&self, bytes: u64) {
        self.0.limit.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn held(&self) -> Held {
        let entries = self.entries();
        Held {
            descriptors: entries.by_key.len(),
            bytes: entries.memory,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics in between; were it to, at worst an order names what is gone, which every use tolerates.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a request below `/tor/hs/`; `None` for all others. `from_relay`: the circuit comes from a relay that
    /// authenticated itself, and so has more than one hop.
    pub(super) fn answer(
        &self,
        request: &Request,
        from_relay: bool,
        max_length: usize,
        now: SystemTime,
    ) -> Option<Response> {
        let rest = request.path.strip_prefix(PREFIX)?;
        if !from_relay {
            return Some(Response::empty(
                503,
                "Onion service descriptors are not for circuits of one hop",
            ));
        }
        Some(match request.method {
            Method::Post if rest == "publish" => match self.store(&request.body, max_length, now) {
                Ok(()) => Response::empty(200, "HS descriptor stored successfully."),
                Err(error) => Response::empty(400, format!("Invalid HS descriptor: {error}")),
            },
            Method::Get => match key(rest).and_then(|key| self.fetch(&key, now)) {
                Some(text) => {
                    let mut response = Response::empty(200, "OK");
                    response.headers.push("Content-Type", "text/plain");
                    response.body.push(text);
                    response
                }
                None => Response::empty(404, "Not found"),
            },
            _ => Response::empty(400, "Bad request"),
        })
    }

    /// Takes a descriptor, in place of an older one with the same key.
    fn store(&self, text: &[u8], max_length: usize, now: SystemTime) -> Result<(), NotTaken> {
        if text.len() > max_length {
            return Err(NotTaken::TooLong);
        }
        let outer = read(text, now)?;
        let mut entries = self.entries();
        entries.expire(now);
        let old = entries.by_key.get(&outer.key);
        if old.is_some_and(|old| old.revision >= outer.revision) {
            return Err(NotTaken::NotNewer);
        }
        let downloads = old.map_or(0, |old| old.downloads);
        entries.remove(&outer.key);
        entries.uploads += 1;
        let entry = Entry {
            text: Bytes::copy_from_slice(text),
            revision: outer.revision,
            expires: now + outer.lifetime,
            downloads,
            stored: entries.uploads,
        };
        entries.make_room(entry.cost(), self.0.limit.load(Ordering::Relaxed));
        entries.insert(outer.key, entry);
        Ok(())
    }

    fn fetch(&self, key: &BlindedKey, now: SystemTime) -> Option<Bytes> {
        let mut entries = self.entries();
        entries.expire(now);
        let entry = entries.by_key.get_mut(key)?;
        let before = (entry.downloads, entry.stored, *key);
        entry.downloads = entry.downloads.saturating_add(1);
        let after = (entry.downloads, entry.stored, *key);
        let text = entry.text.clone();
        entries.by_use.remove(&before);
        entries.by_use.insert(after);
        Some(text)
    }
}

impl Entries {
    fn insert(&mut self, key: BlindedKey, entry: Entry) {
        self.memory = self.memory.saturating_add(entry.cost());
        self.by_expiry.insert((entry.expires, key));
        self.by_use.insert((entry.downloads, entry.stored, key));
        self.by_key.insert(key, entry);
    }

    fn remove(&mut self, key: &BlindedKey) {
        if let Some(entry) = self.by_key.remove(key) {
            self.memory = self.memory.saturating_sub(entry.cost());
            self.by_expiry.remove(&(entry.expires, *key));
            self.by_use.remove(&(entry.downloads, entry.stored, *key));
        }
    }

    /// Drops what has had its time.
    fn expire(&mut self, now: SystemTime) {
        while let Some((expires, key)) = self.by_expiry.first().copied()
            && expires <= now
        {
            self.by_expiry.pop_first();
            self.remove(&key);
        }
    }

    /// Drops the least wanted until `cost` more bytes fit.
    fn make_room(&mut self, cost: u64, limit: u64) {
        while self.memory.saturating_add(cost) > limit
            && let Some((_, _, key)) = self.by_use.pop_first()
        {
            self.remove(&key);
        }
    }
}

/// A blinded key in base64, with or without padding.
fn key(text: &str) -> Option<BlindedKey> {
    let text = text.strip_suffix('=').unwrap_or(text);
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Checks a descriptor's outer wrapper: form, certificate, signatures, time.
fn read(text: &[u8], now: SystemTime) -> Result<Outer, NotTaken> {
    let text = std::str::from_utf8(text).map_err(|_| NotTaken::Malformed)?;
    StoredHsDescMeta::parse(text)
        .map_err(|_| NotTaken::Malformed)?
        .check_signature()
        .map_err(|_| NotTaken::Malformed)?
        .if_valid_at(&now)
        .map_err(|_| NotTaken::Expired)?;
    facts(text).ok_or(NotTaken::Malformed)
}

/// What tor-netdoc has parsed and checked, but does not give out: each of these items is there once.
fn facts(text: &str) -> Option<Outer> {
    let number = |keyword: &str| -> Option<u64> {
        let mut words = text
            .lines()
            .map(str::split_ascii_whitespace)
            .find_map(|mut words| (words.next() == Some(keyword)).then_some(words))?;
        words.next()?.parse().ok()
    };
    let certificate = Ed25519Cert::decode(&object(text, "descriptor-signing-key-cert")?)
        .ok()?
        .should_have_signing_key()
        .ok()?
        .dangerously_assume_wellsigned()
        .dangerously_assume_timely();
    if object(text, "superencrypted")?.len() <= LEAST_ENCRYPTED {
        return None;
    }
    Some(Outer {
        key: (*certificate.signing_key()?).into(),
        revision: number("revision-counter")?,
        lifetime: Duration::from_secs(60 * number("descriptor-lifetime")?),
    })
}

/// The object of the item with this keyword.
fn object(text: &str, keyword: &str) -> Option<Vec<u8>> {
    let base64: String = text
        .lines()
        .skip_while(|line| line.split_ascii_whitespace().next() != Some(keyword))
        .skip_while(|line| !line.starts_with("-----BEGIN "))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END "))
        .flat_map(|line| line.chars().filter(|c| !c.is_ascii_whitespace()))
        .collect();
    STANDARD.decode(base64).ok()
}

#[cfg(test)]
mod tests;
