//! Names to addresses and back, by the system's resolver: shared look-ups, a bounded cache, bounded work.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

/// Look-ups that may be under way at once; each blocks a thread.
const AT_ONCE: usize = 64;
/// A look-up that takes longer has no answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Names that are remembered, and addresses.
const NAMES: usize = 8192;
/// How long an answer is remembered; the system's resolver does not say how long it is good for.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long the lack of one is.
const BAD_FOR: Duration = Duration::from_secs(10);
/// Addresses kept of one name.
const ADDRESSES: usize = 16;
/// Longest host name (RFC 1035).
const HOST_NAME: usize = 253;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It does not exist, or has none.
    NoSuchName,
    /// Nobody who knows answered in time, or we have too much to do.
    NoAnswer,
}

type Found<T> = Result<Arc<T>, Failed>;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Resolver {
    names: Cache<[IpAddr]>,
    hosts: Cache<str>,
    places: Arc<Semaphore>,
}

/// Look-ups of one kind by their question: those under way, and the answers.
#[derive(Debug)]
struct Cache<T: ?Sized>(Mutex<HashMap<String, Entry<T>>>);

#[derive(Debug)]
struct Entry<T: ?Sized> {
    since: Instant,
    found: Shared<BoxFuture<'static, Found<T>>>,
}

impl<T: ?Sized> Entry<T> {
    fn is_stale(&self) -> bool {
        let good_for = match self.found.peek() {
            None => return false,
            Some(Ok(_)) => GOOD_FOR,
            Some(Err(_)) => BAD_FOR,
        };
        self.since.elapsed() > good_for
    }
}

impl<T: ?Sized + Send + Sync + 'static> Cache<T> {
    fn new() -> Self {
        Cache(Mutex::new(HashMap::new()))
    }

    /// The answer to a question: remembered, already on its way, or looked up.
    async fn get<F>(&self, question: String, look_up: impl FnOnce() -> F) -> Found<T>
    where
        F: Future<Output = Found<T>> + Send + 'static,
    {
        let found = {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match entries.get(&question).filter(|entry| !entry.is_stale()) {
                Some(entry) => entry.found.clone(),
                None => {
                    if entries.len() >= NAMES {
                        entries.retain(|_, entry| !entry.is_stale());
                    }
                    if entries.len() >= NAMES {
                        return Err(Failed::NoAnswer);
                    }
                    let found = look_up().boxed().shared();
                    entries.insert(
                        question,
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

    fn sweep(&self) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody drives a look-up that everybody has given up: it goes too.
        entries.retain(|_, entry| !entry.is_stale() && entry.since.elapsed() < 2 * GOOD_FOR);
    }
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Resolver {
            names: Cache::new(),
            hosts: Cache::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The addresses of a name: at least one.
    pub(crate) async fn resolve(&self, name: &str) -> Found<[IpAddr]> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let places = Arc::clone(&self.places);
        self.names
            .get(name.clone(), || in_time(places, addresses_of(name)))
            .await
    }

    /// The name of an address.
    pub(crate) async fn name_of(&self, address: IpAddr) -> Found<str> {
        let places = Arc::clone(&self.places);
        self.hosts
            .get(address.to_string(), || in_time(places, host_of(address)))
            .await
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self) {
        self.names.sweep();
        self.hosts.sweep();
    }
}

/// A look-up, once there is a place for it.
async fn in_time<T: ?Sized>(places: Arc<Semaphore>, look_up: impl Future<Output = Found<T>>) -> Found<T> {
    let work = async {
        let Ok(_place) = places.acquire().await else {
            return Err(Failed::NoAnswer);
        };
        look_up.await
    };
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or(Err(Failed::NoAnswer))
}

async fn addresses_of(name: String) -> Found<[IpAddr]> {
    // The system reports "no such name" as an error without a code.
    let found = tokio::net::lookup_host((name.as_str(), 0))
        .await
        .map_err(|_| Failed::NoSuchName)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip().to_canonical()) {
        if addresses.len() < ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(Failed::NoSuchName);
    }
    Ok(addresses.into())
}

async fn host_of(address: IpAddr) -> Found<str> {
    let found = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address)).await;
    // The task is lost only with the runtime.
    let name = found.map_err(|_| Failed::NoAnswer)?.map_err(|_| Failed::NoSuchName)?;
    // An address without a name comes back as itself; and whoever owns a zone writes what he likes into it.
    let is_name = name.parse::<IpAddr>().is_err()
        && (1..=HOST_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if is_name {
        Ok(name.into())
    } else {
        Err(Failed::NoSuchName)
    }
}

/// What a name asks for that is an address written backwards (RFC 1035, 3.5; RFC 3596, 2.5): the address, or an error if
/// it is none. `None`: it is an ordinary name.
pub(crate) fn reverse(name: &str) -> Option<Result<IpAddr, NotAnAddress>> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let labels = |rest: &str| rest.split('.').rev().map(str::to_owned).collect::<Vec<_>>();
    let parsed = if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let labels = labels(rest);
        labels.join(".").parse().map(Ipv4Addr::into).map_err(|_| NotAnAddress)
    } else if let Some(rest) = name.strip_suffix(".ip6.arpa") {
        nibbles(&labels(rest)).map(|bits| Ipv6Addr::from(bits).to_canonical())
    } else {
        return None;
    };
    Some(parsed)
}

fn nibbles(labels: &[String]) -> Result<u128, NotAnAddress> {
    let is_digit = |label: &String| label.len() == 1 && label.bytes().all(|b| b.is_ascii_hexdigit());
    if labels.len() != 32 || !labels.iter().all(is_digit) {
        return Err(NotAnAddress);
    }
    u128::from_str_radix(&labels.concat(), 16).map_err(|_| NotAnAddress)
}

/// A name in a zone of addresses that is no whole address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAnAddress;

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
        assert_eq!(resolver.names.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_address_is_looked_up_once() {
        let resolver = Resolver::new();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        // Every system's own table of hosts has it.
        let found = resolver.name_of(loopback).await.unwrap();
        assert!(found.starts_with("localhost"), "{found}");
        assert!(Arc::ptr_eq(&found, &resolver.name_of(loopback).await.unwrap()));
    }

    #[test]
    fn addresses_written_backwards_are_understood_and_nothing_else_is() {
        let v4 = IpAddr::from([192, 0, 2, 7]);
        assert_eq!(reverse("7.2.0.192.in-addr.arpa"), Some(Ok(v4)));
        assert_eq!(reverse("7.2.0.192.IN-ADDR.ARPA."), Some(Ok(v4)));
        let v6 = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa";
        assert_eq!(reverse(v6), Some(Ok("4321:0:1:2:3:4:567:89ab".parse().unwrap())));
        for bad in [
            "2.0.192.in-addr.arpa",
            "1.7.2.0.192.in-addr.arpa",
            "256.2.0.192.in-addr.arpa",
            ".in-addr.arpa",
            "x.ip6.arpa",
            &v6.replace("b.a.", "g.a."),
            &v6.replace(".4.ip6", ".+.ip6"),
            &v6.replace("b.a.", "ba."),
        ] {
            assert_eq!(reverse(bad), Some(Err(NotAnAddress)), "{bad}");
        }
        for name in ["example.com", "in-addr.arpa", "home.arpa", "", "in-addr.arpa.example"] {
            assert_eq!(reverse(name), None, "{name}");
        }
    }
}
