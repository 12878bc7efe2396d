//! Differences between consensuses (*dir-spec*, "Consensus diffs"): what a client gets that has an older one.
//!
//! The differences from each consensus that we remember to the newest are made once, when that comes; `tor-consdiff` makes
//! none that would not give the newest one exactly, and none that is not worth it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tor_consdiff::{DiffSizeStrictness, gen_cons_diff};
use tracing::debug;

use super::documents::{Consensus, Encoded};
use super::http::Encoding;

/// Earlier consensuses that are remembered: a day of the public network's.
const REMEMBERED: usize = 24;
/// And none for longer than this, as C Tor (`max-consensus-age-to-cache-for-diff`).
const OLDEST: Duration = Duration::from_secs(72 * 3600);

/// An earlier consensus.
#[derive(Debug, Clone)]
struct Earlier {
    digest: [u8; 32],
    valid_after: SystemTime,
    /// Its text, with zstd: a consensus of the public network has megabytes.
    packed: Bytes,
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

    /// Makes the differences to a consensus, unless that is the newest already, and remembers it.
    pub(super) fn follow(&mut self, newest: &Consensus) {
        if self.0.earlier.front().is_some_and(|last| last.digest == newest.digest) {
            return;
        }
        let Ok(target) = std::str::from_utf8(&newest.text) else {
            return;
        };
        let mut earlier = self.0.earlier.clone();
        earlier.retain(|one| {
            let age = newest.valid_after.duration_since(one.valid_after);
            one.digest != newest.digest && age.is_ok_and(|age| age <= OLDEST)
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
    let base = zstd::decode_all(&from.packed[..]).ok()?;
    let base = std::str::from_utf8(&base).ok()?;
    match gen_cons_diff(base, to, DiffSizeStrictness::Generate) {
        Ok(diff) => Some(Encoded::new(Bytes::from(diff))),
        Err(error) => {
            debug!(%error, "no difference between two consensuses");
            None
        }
    }
}
