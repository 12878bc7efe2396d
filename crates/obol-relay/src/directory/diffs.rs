//! Differences between consensuses (*dir-spec*, "Consensus diffs"): what a client gets that has an older one.
//!
//! The differences from each consensus that we remember to the newest are made once, when that comes; `tor-consdiff` makes
//! none that would not give the newest one exactly, and none that is not worth it.

use std::collections::{HashMap, VecDeque};
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tor_consdiff::{DiffSizeStrictness, gen_cons_diff};
use tor_netdoc::doc::netstatus::ConsensusFlavor;
use tracing::debug;

use super::documents::{Consensus, Encoded};
use super::http::Encoding;

/// Earlier consensuses that are remembered: a day of the public network's.
const REMEMBERED: usize = 24;
/// The longest consensus, in bytes: nobody fetches a longer one either.
const LONGEST: u64 = 16 << 20;

/// How old a consensus may be of which differences are made or asked for (*param-spec*, "Directory-related parameters").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffAges {
    /// We make differences from it.
    pub kept: Duration,
    /// We ask for the difference from it.
    pub asked: Duration,
}

impl DiffAges {
    /// As the consensus has it: parameters by their names, in hours.
    pub fn new(param: impl Fn(&str) -> Option<i32>) -> DiffAges {
        let hours = |name: &str| {
            let hours = param(name).unwrap_or(72).clamp(0, 8192).unsigned_abs();
            Duration::from_secs(u64::from(hours) * 3600)
        };
        DiffAges {
            kept: hours("max-consensus-age-to-cache-for-diff"),
            asked: hours("try-diff-for-consensus-newer-than"),
        }
    }
}

impl Default for DiffAges {
    fn default() -> Self {
        DiffAges::new(|_| None)
    }
}

/// An earlier consensus.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    /// SHA3-256 of its signed part.
    pub digest: [u8; 32],
    valid_after: SystemTime,
    /// Its text, with zstd: a consensus of the public network has megabytes.
    pub packed: Bytes,
}

impl Earlier {
    /// Reads a consensus that was kept. Whether it is signed is of no importance: a difference from one that nobody has is one
    /// that nobody asks for.
    pub(super) fn read(flavor: ConsensusFlavor, packed: Bytes) -> Option<Earlier> {
        let text = unpack(&packed)?;
        let read = Consensus::read(flavor, Bytes::from(text)).ok()?;
        Some(Earlier {
            digest: read.digest,
            valid_after: read.valid_after,
            packed,
        })
    }
}

/// Earlier consensuses of one flavour, and the differences from them to the newest. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Diffs(Arc<Inner>);

#[derive(Debug, Clone, Default)]
struct Inner {
    /// The newest first; the first is the one that the differences lead to.
    earlier: VecDeque<Earlier>,
    /// By SHA3-256 of the signed part of the consensus that they start from.
    diffs: HashMap<[u8; 32], Encoded>,
}

impl Diffs {
    /// The difference from the consensus with this digest to the newest.
    pub fn from(&self, digest: &[u8; 32]) -> Option<&Encoded> {
        self.0.diffs.get(digest)
    }

    /// Consensuses that an earlier run remembered. The differences are made with the next one that this follows.
    pub(super) fn restored(mut earlier: Vec<Earlier>) -> Diffs {
        earlier.sort_by_key(|one| std::cmp::Reverse(one.valid_after));
        Diffs(Arc::new(Inner {
            earlier: earlier.into(),
            diffs: HashMap::new(),
        }))
    }

    /// What is remembered, the newest first.
    pub(super) fn earlier(&self) -> impl Iterator<Item = &Earlier> {
        self.0.earlier.iter()
    }

    /// Makes the differences to a consensus, unless that is the newest already, and remembers it.
    pub(super) fn follow(&mut self, newest: &Consensus, ages: DiffAges) {
        if self.0.earlier.front().is_some_and(|last| last.digest == newest.digest) {
            return;
        }
        let Ok(target) = std::str::from_utf8(&newest.text) else {
            return;
        };
        let mut earlier = self.0.earlier.clone();
        earlier.retain(|one| {
            let age = newest.valid_after.duration_since(one.valid_after);
            one.digest != newest.digest && age.is_ok_and(|age| age <= ages.kept)
        });
        earlier.truncate(REMEMBERED);
        let diffs = earlier
            .iter()
            .filter_map(|one| Some((one.digest, difference(one, target)?)));
        let diffs = diffs.collect();
        if let Ok(packed) = newest.encoded(Encoding::Zstd) {
            earlier.push_front(Earlier {
                digest: newest.digest,
                valid_after: newest.valid_after,
                packed,
            });
        }
        self.0 = Arc::new(Inner { earlier, diffs });
    }
}

/// The difference from one consensus to another, if it can be had and is worth it.
fn difference(from: &Earlier, to: &str) -> Option<Encoded> {
    let base = String::from_utf8(unpack(&from.packed)?).ok()?;
    match gen_cons_diff(&base, to, DiffSizeStrictness::Generate) {
        Ok(diff) => Some(Encoded::new(Bytes::from(diff))),
        Err(error) => {
            debug!(%error, "no difference between two consensuses");
            None
        }
    }
}

/// A consensus' text.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed).ok()?;
    decoder.take(LONGEST + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= LONGEST).then_some(text)
}
