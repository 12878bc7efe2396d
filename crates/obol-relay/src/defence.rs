//! Who may open links: what one address can take of what a relay has for links, while others come too.
//!
//! ```text
//!  accept() ─► Door::knock ─► TLS, link handshake ─► Knock::open ─► Visit, until the link is closed
//!               │ refused: the socket is closed        │ an authenticated relay: not counted
//!               ▼                                      ▼ a client: its address's links and rate are counted
//! ```
//!
//! Two defences. The first is always on: handshakes under way are few, each stage of one has a deadline
//! ([`crate::handshake::Timeouts`]), one address holds a part of them at most, and when all are in use the oldest one of the
//! address that holds the most gives way. The second is C Tor's `DoSConnection` (its `dos.c`), which the consensus or the
//! operator switches on: an address with too many client links, or too many new ones in a short time, is turned away at
//! the door.
//!
//! An address is an IPv4 address or the /64 of an IPv6 address. Memory is bounded: addresses are forgotten as soon as
//! they owe nothing, and beyond [`ADDRESSES`] new ones are served without being remembered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use obol_onion::engine::Neighbour;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

/// Link handshakes of accepted connections that may be under way at once.
const HANDSHAKES: usize = 1024;
/// How many of them one address may hold. Many clients behind one address come at once only after an outage.
const HANDSHAKES_OF_ONE: u32 = 256;
/// Addresses that are remembered.
const ADDRESSES: usize = 1 << 17;
/// A token of a bucket, in the unit in which it is refilled.
const TOKEN: u64 = 1_000_000;

/// C Tor's `DoSConnection*` parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// `DoSConnectionEnabled` and a `DoSConnectionDefenseType` that does something.
    pub enabled: bool,
    /// `DoSConnectionMaxConcurrentCount`: client links that an address may have at once.
    pub concurrent: u32,
    /// `DoSConnectionConnectRate`: new client links of an address a second, in the long run.
    pub rate: u32,
    /// `DoSConnectionConnectBurst`: how many may come at once.
    pub burst: u32,
    /// `DoSConnectionConnectDefenseTimePeriod`: how long an address is turned away that was faster.
    pub penalty: Duration,
}

impl ConnectionLimits {
    /// The parameters by their names; `param` gives one, or the default that it is told. Every value is brought within
    /// C Tor's limits.
    pub fn new(param: impl Fn(&str, i32) -> i32) -> Self {
        let at_least = |name, default, least: i32| param(name, default).max(least).unsigned_abs();
        let rate = at_least("DoSConnectionConnectRate", 20, 1);
        let period = at_least("DoSConnectionConnectDefenseTimePeriod", 24 * 60 * 60, 10);
        ConnectionLimits {
            enabled: param("DoSConnectionEnabled", 0) == 1 && param("DoSConnectionDefenseType", 2) >= 2,
            concurrent: at_least("DoSConnectionMaxConcurrentCount", 100, 1),
            rate,
            burst: at_least("DoSConnectionConnectBurst", 40, 1).max(rate),
            penalty: Duration::from_secs(period.into()),
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits::new(|_, default| default)
    }
}

/// Why a connection is closed as soon as it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Its address has too many handshakes under way.
    #[error("too many link handshakes of one address")]
    Handshakes,
    /// Its address has too many client links.
    #[error("too many client links of one address")]
    Concurrent,
    /// Its address opened client links too fast, and waits for the end of its penalty.
    #[error("an address that opened client links too fast")]
    Rate,
}

/// What the door has counted since the relay was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DoorCounters {
    /// Handshakes under way now.
    pub handshakes: u64,
    /// Connections closed because their address had too many handshakes under way.
    pub refused_handshakes: u64,
    /// Connections closed because their address had too many client links.
    pub refused_concurrent: u64,
    /// Connections closed because their address had opened client links too fast.
    pub refused_rate: u64,
    /// Handshakes that gave way to others'.
    pub cut: u64,
    /// Addresses that opened client links too fast.
    pub marked: u64,
}

/// What is known of one address.
#[derive(Debug)]
struct Address {
    /// Its handshakes under way.
    handshakes: u32,
    /// Its client links.
    open: u32,
    /// Links that it may still open at once, in parts of a [`TOKEN`].
    level: u64,
    at: Instant,
    /// Until then it is turned away.
    marked: Option<Instant>,
}

impl Address {
    fn new(limits: ConnectionLimits, now: Instant) -> Self {
        Address {
            handshakes: 0,
            open: 0,
            level: u64::from(limits.burst) * TOKEN,
            at: now,
            marked: None,
        }
    }

    fn refill(&mut self, limits: ConnectionLimits, now: Instant) {
        let micros = now.saturating_duration_since(self.at).as_micros();
        let gained = u64::try_from(micros.saturating_mul(limits.rate.into())).unwrap_or(u64::MAX);
        self.level = self.level.saturating_add(gained).min(u64::from(limits.burst) * TOKEN);
        self.at = now;
        self.marked = self.marked.filter(|until| *until > now);
    }

    /// Nothing is lost when it is forgotten.
    fn is_idle(&self, limits: ConnectionLimits) -> bool {
        let full = self.level >= u64::from(limits.burst) * TOKEN;
        self.handshakes == 0 && self.open == 0 && full && self.marked.is_none()
    }
}

/// One handshake under way.
#[derive(Debug)]
struct UnderWay {
    address: IpAddr,
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Inside {
    limits: ConnectionLimits,
    addresses: HashMap<IpAddr, Address>,
    /// By number, which rises with time.
    under_way: std::collections::BTreeMap<u64, UnderWay>,
    next: u64,
    counters: DoorCounters,
}

impl Inside {
    /// Counts down what an address has of something, and forgets it if that was the last.
    fn less(&mut self, address: IpAddr, of: impl FnOnce(&mut Address) -> &mut u32) {
        if let Entry::Occupied(mut entry) = self.addresses.entry(address) {
            let count = of(entry.get_mut());
            *count = count.saturating_sub(1);
            if entry.get().is_idle(self.limits) {
                entry.remove();
            }
        }
    }

    fn end(&mut self, number: u64) {
        if let Some(gone) = self.under_way.remove(&number) {
            self.less(gone.address, |address| &mut address.handshakes);
        }
    }

    /// All places are taken: the oldest handshake of the address that holds the most gives way.
    fn cut_one(&mut self) {
        let holds = |address: &IpAddr| self.addresses.get(address).map_or(0, |known| known.handshakes);
        let most = self
            .under_way
            .values()
            .map(|one| holds(&one.address))
            .max()
            .unwrap_or(0);
        let oldest = self.under_way.iter().find(|(_, one)| holds(&one.address) == most);
        if let Some((&number, one)) = oldest {
            one.cut.cancel();
            self.counters.cut += 1;
            self.end(number);
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Door(Mutex<Inside>);

/// A handshake under way. Dropped, it is over.
#[derive(Debug)]
pub(crate) struct Knock {
    door: Arc<Door>,
    number: u64,
    address: IpAddr,
    /// Cancelled when it has to give way to another.
    pub(crate) cut: CancellationToken,
}

/// A client's link. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Visit {
    door: Arc<Door>,
    address: IpAddr,
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these limits hold.
    pub(crate) fn set_limits(&self, limits: ConnectionLimits) {
        self.lock().limits = limits;
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> DoorCounters {
        let inside = self.lock();
        DoorCounters {
            handshakes: inside.under_way.len() as u64,
            ..inside.counters
        }
    }

    /// Forgets whoever owes nothing any more.
    pub(crate) fn sweep(&self, now: Instant) {
        let inside = &mut *self.lock();
        let limits = inside.limits;
        inside.addresses.retain(|_, address| {
            address.refill(limits, now);
            !address.is_idle(limits)
        });
        if inside.addresses.len() < inside.addresses.capacity() / 4 {
            inside.addresses.shrink_to_fit();
        }
    }

    /// A connection was accepted.
    pub(crate) fn knock(self: &Arc<Self>, remote: SocketAddr, now: Instant) -> Result<Knock, Refused> {
        let key = key(remote);
        let inside = &mut *self.lock();
        let limits = inside.limits;
        if let Some(address) = inside.addresses.get_mut(&key) {
            address.refill(limits, now);
            let refused = if address.handshakes >= HANDSHAKES_OF_ONE {
                inside.counters.refused_handshakes += 1;
                Some(Refused::Handshakes)
            } else if limits.enabled && address.marked.is_some() {
                inside.counters.refused_rate += 1;
                Some(Refused::Rate)
            } else if limits.enabled && address.open >= limits.concurrent {
                inside.counters.refused_concurrent += 1;
                Some(Refused::Concurrent)
            } else {
                None
            };
            if let Some(refused) = refused {
                return Err(refused);
            }
        }
        if inside.under_way.len() >= HANDSHAKES {
            inside.cut_one();
        }
        if let Some(address) = remember(&mut inside.addresses, key, limits, now) {
            address.handshakes += 1;
        }
        let cut = CancellationToken::new();
        let number = inside.next;
        inside.next += 1;
        let one = UnderWay {
            address: key,
            cut: cut.clone(),
        };
        inside.under_way.insert(number, one);
        Ok(Knock {
            door: Arc::clone(self),
            number,
            address: key,
            cut,
        })
    }
}

impl Knock {
    /// The handshake is done, and the peer is a client at an address where no relay is known: its link is counted.
    pub(crate) fn open(self, now: Instant) -> Visit {
        let mut inside = self.door.lock();
        let inside = &mut *inside;
        let limits = inside.limits;
        if let Some(address) = remember(&mut inside.addresses, self.address, limits, now) {
            address.refill(limits, now);
            address.open += 1;
            address.level = address.level.saturating_sub(TOKEN);
            if limits.enabled && address.level < TOKEN && address.marked.is_none() {
                // Half as much again at random: who waits cannot tell when the door opens.
                let longer = rand::rng().random_range(0.0..0.5);
                address.marked = Some(now + limits.penalty.mul_f64(1.0 + longer));
                inside.counters.marked += 1;
            }
        }
        Visit {
            door: Arc::clone(&self.door),
            address: self.address,
        }
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.door.lock().end(self.number);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.door.lock().less(self.address, |address| &mut address.open);
    }
}

/// The entry of an address, unless there are too many.
fn remember(
    addresses: &mut HashMap<IpAddr, Address>,
    key: IpAddr,
    limits: ConnectionLimits,
    now: Instant,
) -> Option<&mut Address> {
    let room = addresses.len() < ADDRESSES;
    match addresses.entry(key) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(entry) => room.then(|| entry.insert(Address::new(limits, now))),
    }
}

/// Whose a connection counts as.
fn key(remote: SocketAddr) -> IpAddr {
    match Neighbour::of(None, remote) {
        Neighbour::Client(address) => address,
        Neighbour::Relay(_) => remote.ip(),
    }
}

#[cfg(test)]
mod tests;
