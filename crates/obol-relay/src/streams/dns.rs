//! Names to addresses, by the system's resolver: shared look-ups, a bounded cache, bounded work.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

/// Look-ups that may be under way at once; each blocks a thread.
const AT_ONCE: usize = 64;
/// A look-up that takes longer has no answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Names that are remembered.
const NAMES: usize = 8192;
/// How long an answer is remembered; the system's resolver does not say how long it is good for.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long the lack of one is.
const BAD_FOR: Duration = Duration::from_secs(10);
/// Addresses kept of one name.
const ADDRESSES: usize = 16;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It does not exist, or has none.
    NoSuchName,
    /// Nobody who knows answered in time, or we have too much to do.
    NoAnswer,
}

type Found = Result<Arc<[IpAddr]>, Failed>;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Resolver {
    names: Mutex<HashMap<String, Entry>>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
struct Entry {
    since: Instant,
    found: Shared<BoxFuture<'static, Found>>,
}

impl Entry {
    fn is_stale(&self) -> bool {
        let good_for = match self.found.peek() {
            None => return false,
            Some(Ok(_)) => GOOD_FOR,
            Some(Err(_)) => BAD_FOR,
        };
        self.since.elapsed() > good_for
    }
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Resolver {
            names: Mutex::new(HashMap::new()),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The addresses of a name: at least one.
    pub(crate) async fn resolve(&self, name: &str) -> Found {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            match names.get(&name).filter(|entry| !entry.is_stale()) {
                Some(entry) => entry.found.clone(),
                None => {
                    if names.len() >= NAMES {
                        names.retain(|_, entry| !entry.is_stale());
                    }
                    if names.len() >= NAMES {
                        return Err(Failed::NoAnswer);
                    }
                    let found = look_up(name.clone(), Arc::clone(&self.places)).boxed().shared();
                    names.insert(
                        name,
                        Entry {
                            since: Instant::now(),
                            found: found.clone(),
                        },
                    );
                    found
                }
            }
        };
        found.await
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody drives a look-up that everybody has given up: it goes too.
        names.retain(|_, entry| !entry.is_stale() && entry.since.elapsed() < 2 * GOOD_FOR);
    }
}

async fn look_up(name: String, places: Arc<Semaphore>) -> Found {
    let work = async {
        let Ok(_place) = places.acquire().await else {
            return Err(Failed::NoAnswer);
        };
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found.map(|address| address.ip().to_canonical()) {
                    if addresses.len() < ADDRESSES && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() {
                    Err(Failed::NoSuchName)
                } else {
                    Ok(addresses.into())
                }
            }
            // The system reports "no such name" as an error without a code.
            Err(_) => Err(Failed::NoSuchName),
        }
    };
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or(Err(Failed::NoAnswer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_once_whatever_their_case() {
        let resolver = Resolver::new();
        let found = resolver.resolve("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback));
        let again = resolver.resolve("LOCALHOST.").await.unwrap();
        assert!(Arc::ptr_eq(&found, &again));
        resolver.sweep();
        assert_eq!(resolver.names.lock().unwrap().len(), 1);
    }
}
