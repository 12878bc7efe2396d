//! What directory service one client address may cost. Directory answers are free of payment, so something else has to
//! keep one address from taking them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Addresses that are remembered. Only those that were served lately are: the others have a full bucket.
const ADDRESSES: usize = 1 << 17;
/// Requests of one address that may be open at once. Each holds a place among those of all addresses while it waits for
/// its client.
const OPEN: u16 = 64;
/// Bytes that a request costs apart from its answer.
const REQUEST: u64 = 1024;

/// How much directory service a client address gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientShare {
    /// Bytes of answers that are saved up for an address (IPv6: for a /64).
    pub bucket: u64,
    /// Bytes that come to it a second.
    pub refill: u64,
}

impl Default for ClientShare {
    /// Some bootstraps at once, as those behind one NAT make, and one every few minutes.
    fn default() -> ClientShare {
        ClientShare {
            bucket: 64 << 20,
            refill: 64 << 10,
        }
    }
}

/// One address.
#[derive(Debug)]
struct Bucket {
    /// Bytes; the last answer may have taken more than there were.
    level: i64,
    at: Instant,
    open: u16,
}

impl Bucket {
    fn refill(&mut self, share: ClientShare, now: Instant) {
        let size = i64::try_from(share.bucket).unwrap_or(i64::MAX);
        let micros = now.saturating_duration_since(self.at).as_micros();
        let gained = u128::from(share.refill).saturating_mul(micros) / 1_000_000;
        if gained > 0 {
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            self.level = self.level.saturating_add(gained).min(size);
            self.at = now;
        }
    }

    fn is_idle(&self, share: ClientShare) -> bool {
        self.open == 0 && self.level >= i64::try_from(share.bucket).unwrap_or(i64::MAX)
    }
}

/// The buckets of all client addresses, and what was counted. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Limit(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    share: Mutex<ClientShare>,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
    served: AtomicU64,
    refused: AtomicU64,
}

/// An admitted request. Dropped, it is over.
#[derive(Debug)]
pub(super) struct Pass {
    inner: Arc<Inner>,
    client: Option<IpAddr>,
}

impl Limit {
    pub(super) fn new(share: ClientShare) -> Limit {
        Limit(Arc::new(Inner {
            share: Mutex::new(share),
            ..Inner::default()
        }))
    }

    /// From now on a client address gets this much.
    pub(super) fn set_share(&self, share: ClientShare) {
        *self.0.share.lock().unwrap_or_else(PoisonError::into_inner) = share;
    }

    /// Lets a request of a client address in, or not. `None` is a relay: always.
    pub(super) fn admit(&self, client: Option<IpAddr>, now: Instant) -> Option<Pass> {
        if let Some(address) = client {
            let share = *self.0.share.lock().unwrap_or_else(PoisonError::into_inner);
            let mut buckets = self.0.lock();
            if buckets.len() >= ADDRESSES && !buckets.contains_key(&address) {
                buckets.retain(|_, bucket| {
                    bucket.refill(share, now);
                    !bucket.is_idle(share)
                });
            }
            let room = buckets.len() < ADDRESSES || buckets.contains_key(&address);
            let admitted = room && {
                let bucket = buckets.entry(address).or_insert_with(|| Bucket {
                    level: i64::try_from(share.bucket).unwrap_or(i64::MAX),
                    at: now,
                    open: 0,
                });
                bucket.refill(share, now);
                let admitted = bucket.level > 0 && bucket.open < OPEN;
                bucket.open += u16::from(admitted);
                admitted
            };
            drop(buckets);
            if !admitted {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
        Some(Pass {
            inner: Arc::clone(&self.0),
            client,
        })
    }

    /// Bytes of answers so far, and requests refused because their address had had enough.
    pub(super) fn counted(&self) -> (u64, u64) {
        (
            self.0.served.load(Ordering::Relaxed),
            self.0.refused.load(Ordering::Relaxed),
        )
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Bucket>> {
        // Whole after every statement.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// The answer has so many bytes.
    pub(super) fn charge(&self, bytes: u64) {
        self.inner.served.fetch_add(bytes, Ordering::Relaxed);
        let cost = i64::try_from(bytes.saturating_add(REQUEST)).unwrap_or(i64::MAX);
        if let Some(client) = self.client
            && let Some(bucket) = self.inner.lock().get_mut(&client)
        {
            bucket.level = bucket.level.saturating_sub(cost);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(client) = self.client
            && let Some(bucket) = self.inner.lock().get_mut(&client)
        {
            bucket.open = bucket.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHARE: ClientShare = ClientShare {
        bucket: 10_000,
        refill: 1_000,
    };

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn an_address_gets_its_bucket_and_its_refill_and_others_do_not_suffer() {
        let limit = Limit::new(SHARE);
        let start = Instant::now();
        let ask = |from, seconds| {
            let pass = limit.admit(from, start + Duration::from_secs(seconds));
            pass.inspect(|pass| pass.charge(4_000)).is_some()
        };
        // The last one may take more than there is.
        assert_eq!(
            [ask(client(1), 0), ask(client(1), 0), ask(client(1), 0)],
            [true, true, false]
        );
        assert!(ask(client(2), 0), "another address");
        assert!(ask(None, 0), "a relay, which fetches for many");
        assert!(!ask(client(1), 0) && ask(client(1), 1) && !ask(client(1), 5) && ask(client(1), 6));
        assert_eq!(limit.counted(), (6 * 4_000, 3), "bytes, refused");
        limit.set_share(ClientShare {
            refill: 100_000,
            ..SHARE
        });
        assert!(ask(client(1), 7), "more from now on");
    }

    #[test]
    fn an_address_has_a_limited_number_of_open_requests() {
        let limit = Limit::new(SHARE);
        let now = Instant::now();
        let mut open: Vec<_> = (0..OPEN).map(|_| limit.admit(client(1), now).unwrap()).collect();
        assert!(limit.admit(client(1), now).is_none());
        open.pop();
        assert!(limit.admit(client(1), now).is_some());
    }

    #[test]
    fn addresses_that_are_served_no_more_are_forgotten() {
        let limit = Limit::new(SHARE);
        let start = Instant::now();
        for n in 0..ADDRESSES as u32 {
            limit
                .admit(Some(IpAddr::from(n.to_be_bytes())), start)
                .unwrap()
                .charge(1);
        }
        assert!(limit.admit(client(1), start).is_none(), "no room");
        assert!(limit.admit(client(1), start + Duration::from_secs(60)).is_some());
        assert_eq!(limit.0.lock().len(), 1);
    }
}
