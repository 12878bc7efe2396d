//! Names to addresses and back, by the name servers and the table of hosts that the system is configured with: shared
//! look-ups, a bounded cache, bounded work. Search domains are not used: what a client calls a name is its whole name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData};
use tokio::sync::Semaphore;
use tracing::warn;

/// Look-ups that may be under way at once.
const AT_ONCE: usize = 1024;
/// A look-up that takes longer has no answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A name server that takes longer is asked again, or another one (`exit_dns_timeout`'s default).
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often each of them is asked (`exit_dns_num_attempts`' default).
const ATTEMPTS: usize = 2;
/// Names that are remembered, and addresses.
const NAMES: usize = 8192;
/// How long an answer is remembered.
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

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// At least one.
    pub(crate) addresses: Vec<IpAddr>,
    /// Seconds that all of them were good for when they were found.
    pub(crate) ttl: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Resolver {
    /// `None`: the system's configuration cannot be read, and no name has an answer.
    system: Option<TokioResolver>,
    names: Cache<Addresses>,
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
                        // In no order: whichever is found first has to go.
                        let answered = entries.iter().find(|(_, entry)| entry.found.peek().is_some());
                        let Some(known) = answered.map(|(known, _)| known.clone()) else {
                            return Err(Failed::NoAnswer);
                        };
                        entries.remove(&known);
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
    /// A resolver as the system is configured now.
    pub(crate) fn new() -> Self {
        let system = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = SERVER_TIMEOUT;
            options.attempts = ATTEMPTS;
            // Remembered here, where those under way are shared too.
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Always;
            // Forged answers have to guess the case of each letter (as C Tor's ServerDNSRandomizeCase).
            options.case_randomization = true;
            builder.build()
        });
        if let Err(error) = &system {
            warn!(%error, "no name can be looked up: the system's resolver configuration cannot be used");
        }
        Resolver {
            system: system.ok(),
            names: Cache::new(),
            hosts: Cache::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The addresses of a name: at least one.
    pub(crate) async fn resolve(&self, name: &str) -> Found<Addresses> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let places = Arc::clone(&self.places);
        let system = self.system.clone();
        self.names
            .get(name.clone(), || in_time(places, addresses_of(system, name)))
            .await
    }

    /// The name of an address.
    pub(crate) async fn name_of(&self, address: IpAddr) -> Found<str> {
        let places = Arc::clone(&self.places);
        let system = self.system.clone();
        self.hosts
            .get(address.to_string(), || in_time(places, host_of(system, address)))
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

/// Whether nobody answered, or somebody that there is nothing.
fn failed(error: NetError) -> Failed {
    match error.is_nx_domain() || error.is_no_records_found() {
        true => Failed::NoSuchName,
        false => Failed::NoAnswer,
    }
}

async fn addresses_of(system: Option<TokioResolver>, name: String) -> Found<Addresses> {
    let mut name = Name::from_ascii(name).map_err(|_| Failed::NoSuchName)?;
    // Without search domains.
    name.set_fqdn(true);
    let system = system.ok_or(Failed::NoAnswer)?;
    let found = system.lookup_ip(name).await.map_err(failed)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.iter().map(|address| address.to_canonical()) {
        if addresses.len() < ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(Failed::NoSuchName);
    }
    let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
    Ok(Arc::new(Addresses {
        addresses,
        ttl: ttl.unwrap_or(0),
    }))
}

async fn host_of(system: Option<TokioResolver>, address: IpAddr) -> Found<str> {
    let system = system.ok_or(Failed::NoAnswer)?;
    let found = system.reverse_lookup(address).await.map_err(failed)?;
    let name = found.answers().iter().find_map(|record| match &record.data {
        RData::PTR(name) => Some(name.to_ascii()),
        _ => None,
    });
    let name = name.ok_or(Failed::NoSuchName)?;
    let name = name.trim_end_matches('.');
    // Whoever owns a zone writes what he likes into it.
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
        assert!(found.addresses.iter().all(IpAddr::is_loopback));
        let again = resolver.resolve("LOCALHOST.").await.unwrap();
        assert!(Arc::ptr_eq(&found, &again));
        resolver.sweep();
        assert_eq!(resolver.names.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_full_table_forgets_a_name_for_a_new_one() {
        let cache: Cache<str> = Cache::new();
        let known = || async { Ok(Arc::from("known")) };
        for number in 0..NAMES + 10 {
            assert!(cache.get(number.to_string(), known).await.is_ok());
        }
        assert_eq!(cache.0.lock().unwrap().len(), NAMES);
    }

    #[tokio::test]
    async fn an_address_is_looked_up_once() {
        let resolver = Resolver::new();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        // Every system's own table of hosts has it, by one name or another.
        let found = resolver.name_of(loopback).await.unwrap();
        let back = resolver.resolve(&found).await.unwrap();
        assert!(back.addresses.iter().any(IpAddr::is_loopback), "{found}");
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
