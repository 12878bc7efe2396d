//! What one client may ask for, and what becomes of those who ask for more: C Tor's denial-of-service mitigations, as far as
//! they need cells.
//!
//! | parameters of the consensus | counted | beyond it |
//! |---|---|---|
//! | `DoSCircuitCreation*` | CREATEs of one client address with several links | all its CREATEs: DESTROY, for an hour or so |
//! | `dos_num_circ_max_outq` | queues away from clients of one address that grew too long | the same |
//! | `DoSStreamCreation*` | BEGIN and RESOLVE on one circuit | the stream ends, or the circuit |
//! | `DoSRefuseSingleHopClientRendezvous` | | ESTABLISH_RENDEZVOUS of a client without a relay in between: ignored |
//! | `HiddenServiceEnableIntroDoS*` | INTRODUCE2 on one service's circuit, unless the service names its own limit | refused |
//! | `circ_max_cell_queue_size` | cells of one circuit that wait in one direction | the circuit ends |
//! | `MaxOnionQueueDelay`, `onion_queue_wait_cutoff` | handshakes that wait to be computed | refused; given up |
//! | `AllowNonearlyExtend` | | EXTEND2 outside of RELAY_EARLY: ignored |
//!
//! Relays, which have proved who they are and are in the consensus, are not counted. An address is an IPv4 address or the first 64 bits of an IPv6
//! one. What is known of an address is forgotten when it would no longer make a difference, so that a new link does not
//! wipe it away and memory stays small.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Engine;
use super::event::Neighbour;
use super::ids::Time;
use super::rate::Allowance;

/// Addresses that are remembered at once; others are not counted.
const ADDRESSES: usize = 65_536;
/// How often those are forgotten that need not be known any more.
const SWEEP: u64 = 60_000_000;
const SECOND: u64 = 1_000_000;
/// Fewer cells than this no consensus may let a circuit have waiting.
const QUEUE_MIN: usize = 50;

/// CREATEs of one client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CircuitLimit {
    /// Links that an address must have to be suspected at all.
    min_links: usize,
    rate: u64,
    burst: u64,
    /// Whether anything is done about it.
    refuse: bool,
    /// Seconds for which an address is refused, and up to half as many more.
    period: u64,
    /// Queues away from its clients that may become too long before it is refused; 0: any number.
    queues: u32,
}

/// What becomes of a stream that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamDefence {
    /// It is refused.
    Refuse,
    /// Its circuit ends.
    CloseCircuit,
}

/// Streams of one circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamLimit {
    pub(crate) rate: u64,
    pub(crate) burst: u64,
    pub(crate) defence: StreamDefence,
}

/// Clients that a service hears of, if it does not say itself how many; `None`: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IntroductionLimit(Option<(u64, u64)>);

impl IntroductionLimit {
    pub(crate) fn allowance(self) -> Option<Allowance> {
        self.0.map(|(rate, burst)| Allowance::new(rate, burst))
    }
}

/// What the consensus says of those who ask for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefenceParameters {
    circuits: Option<CircuitLimit>,
    streams: Option<StreamLimit>,
    pub(crate) refuse_single_hop: bool,
    pub(crate) introductions: IntroductionLimit,
    /// Cells of one circuit that may wait; `None`: as configured.
    queue: Option<usize>,
    /// Whether EXTEND2 may come in a RELAY cell.
    pub(crate) late_extends: bool,
    pub(crate) handshakes: HandshakeLimit,
}

/// How long handshakes may wait to be computed, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandshakeLimit {
    /// Beyond it no further ones are accepted.
    pub(crate) delay: u64,
    /// Those that have waited for longer are given up.
    pub(crate) cutoff: u64,
}

impl Default for DefenceParameters {
    fn default() -> Self {
        DefenceParameters::new(|_, default| default)
    }
}

impl DefenceParameters {
    /// The parameters by their names; `param` gives one, or the default that it is told. Every value is brought within
    /// C Tor's limits.
    pub fn new(param: impl Fn(&str, i32) -> i32) -> Self {
        let number = |name, default, min: i32| param(name, default).max(min).unsigned_abs();
        let is_on = |name| param(name, 0) >= 1;
        let circuits = CircuitLimit {
            min_links: number("DoSCircuitCreationMinConnections", 3, 1) as usize,
            rate: number("DoSCircuitCreationRate", 3, 1).into(),
            burst: number("DoSCircuitCreationBurst", 90, 1).into(),
            refuse: number("DoSCircuitCreationDefenseType", 2, 1) >= 2,
            period: number("DoSCircuitCreationDefenseTimePeriod", 3600, 0).into(),
            queues: number("dos_num_circ_max_outq", 3, 0),
        };
        let defence = match number("DoSStreamCreationDefenseType", 2, 1) {
            1 => None,
            2 => Some(StreamDefence::Refuse),
            _ => Some(StreamDefence::CloseCircuit),
        };
        let streams = defence.map(|defence| StreamLimit {
            rate: number("DoSStreamCreationRate", 100, 1).into(),
            burst: number("DoSStreamCreationBurst", 300, 1).into(),
            defence,
        });
        let introductions = (
            number("HiddenServiceEnableIntroDoSRatePerSec", 25, 0).into(),
            number("HiddenServiceEnableIntroDoSBurstPerSec", 200, 0).into(),
        );
        // None of C Tor's values is 0.
        let queue = Some(number("circ_max_cell_queue_size", 0, 0) as usize).filter(|cells| *cells > 0);
        DefenceParameters {
            circuits: is_on("DoSCircuitCreationEnabled").then_some(circuits),
            streams: streams.filter(|_| is_on("DoSStreamCreationEnabled")),
            refuse_single_hop: is_on("DoSRefuseSingleHopClientRendezvous"),
            introductions: IntroductionLimit(is_on("HiddenServiceEnableIntroDoSDefense").then_some(introductions)),
            queue: queue.map(|cells| cells.max(QUEUE_MIN)),
            late_extends: is_on("AllowNonearlyExtend"),
            handshakes: HandshakeLimit {
                delay: u64::from(number("MaxOnionQueueDelay", 1750, 1)) * 1000,
                cutoff: u64::from(number("onion_queue_wait_cutoff", 5, 0)) * SECOND,
            },
        }
    }

    /// Cells of one circuit that may wait in one direction, where the operator says `configured`.
    pub(crate) fn queue(&self, configured: usize) -> usize {
        self.queue.unwrap_or(configured)
    }

    pub(crate) fn streams(&self) -> Option<StreamLimit> {
        self.streams
    }
}

/// What is known of one address.
#[derive(Debug)]
pub(super) struct Record {
    circuits: Allowance,
    /// Queues away from its clients that became too long.
    queues: u32,
    refused_until: Time,
}

/// The addresses of clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(super) records: HashMap<IpAddr, Record>,
    swept: Time,
}

impl Clients {
    fn record(&mut self, address: IpAddr, limit: &CircuitLimit) -> Option<&mut Record> {
        if self.records.len() >= ADDRESSES && !self.records.contains_key(&address) {
            return None;
        }
        Some(self.records.entry(address).or_insert_with(|| Record {
            circuits: Allowance::new(limit.rate, limit.burst),
            queues: 0,
            refused_until: Time(0),
        }))
    }
}

impl Engine {
    /// Changes what the consensus says of those who ask for too much.
    pub fn set_defences(&mut self, parameters: DefenceParameters) {
        let before = core::mem::replace(&mut self.config.defences, parameters);
        self.queue_max = parameters.queue(self.config.circuit_queue);
        if before.introductions != parameters.introductions {
            self.limit_introductions(parameters.introductions);
        }
        if before.circuits != parameters.circuits {
            // Allowances of another size.
            self.clients.records.clear();
        }
    }

    /// The address of a link's client; `None`: a relay is there.
    fn client_address(&self, link: u32) -> Option<IpAddr> {
        let info = &self.links.at(link)?.info;
        match info.neighbour() {
            Neighbour::Client(address) => Some(address),
            Neighbour::Relay(_) => None,
        }
    }

    /// A CREATE of any kind came on a link. False: it is to be refused.
    pub(crate) fn may_create(&mut self, link: u32) -> bool {
        let Some(limit) = self.config.defences.circuits else {
            return true;
        };
        let Some(address) = self.client_address(link) else {
            return true;
        };
        let now = self.now;
        let links = self.neighbours.links(&Neighbour::Client(address));
        let Some(record) = self.clients.record(address, &limit) else {
            return true;
        };
        record.circuits.take(now);
        // Those who go on while they are refused are refused for longer.
        if record.circuits.is_empty() && links >= limit.min_links {
            self.refuse_address(address, &limit);
        }
        let refused = self
            .clients
            .records
            .get(&address)
            .is_some_and(|record| record.refused_until > now);
        !(refused && limit.refuse)
    }

    /// So many cells wait on their way from a client that its circuit was killed.
    pub(crate) fn note_long_queue(&mut self, link: u32) {
        let Some(limit) = self.config.defences.circuits.filter(|limit| limit.queues > 0) else {
            return;
        };
        let Some(address) = self.client_address(link) else {
            return;
        };
        let now = self.now;
        let Some(record) = self.clients.record(address, &limit) else {
            return;
        };
        if record.refused_until > now {
            return;
        }
        record.queues = record.queues.saturating_add(1);
        if record.queues >= limit.queues {
            record.queues = 0;
            self.refuse_address(address, &limit);
        }
    }

    fn refuse_address(&mut self, address: IpAddr, limit: &CircuitLimit) {
        let more = match limit.period / 2 {
            0 => 1,
            half => 1 + self.rng.next_u64() % half,
        };
        let now = self.now;
        if let Some(record) = self.clients.records.get_mut(&address) {
            self.counters.clients_marked += u64::from(record.refused_until <= now);
            record.refused_until = now.plus((limit.period + more) * SECOND);
        }
    }

    /// Forgets addresses of which nothing is known that a new one would not have.
    pub(crate) fn forget_clients(&mut self) {
        let now = self.now;
        if now.since(self.clients.swept) < SWEEP {
            return;
        }
        self.clients.swept = now;
        let neighbours = &self.neighbours;
        self.clients.records.retain(|address, record| {
            neighbours.links(&Neighbour::Client(*address)) > 0
                || record.refused_until > now
                || !record.circuits.is_full(now)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consensus_that_says_nothing_defends_against_nothing() {
        let silent = DefenceParameters::default();
        assert_eq!((silent.circuits, silent.streams), (None, None));
        assert!(!silent.refuse_single_hop);
        // But for what protects the relay itself.
        assert_eq!(
            (silent.handshakes.delay, silent.handshakes.cutoff),
            (1_750_000, 5_000_000)
        );
        assert!(silent.introductions.allowance().is_none());
    }

    #[test]
    fn a_consensus_that_only_switches_defences_on_means_c_tors_defaults() {
        let is_switch = |name: &str| name.ends_with("Enabled") || name.ends_with("Defense") || name.ends_with("vous");
        let on = DefenceParameters::new(|name, default| if is_switch(name) { 1 } else { default });
        assert_eq!(
            on.circuits,
            Some(CircuitLimit {
                min_links: 3,
                rate: 3,
                burst: 90,
                refuse: true,
                period: 3600,
                queues: 3
            })
        );
        assert_eq!(
            on.streams,
            Some(StreamLimit {
                rate: 100,
                burst: 300,
                defence: StreamDefence::Refuse
            })
        );
        assert!(on.refuse_single_hop);
        assert_eq!(on.introductions, IntroductionLimit(Some((25, 200))));
    }

    #[test]
    fn absurd_votes_are_clamped() {
        let low = DefenceParameters::new(|_, _| i32::MIN);
        assert_eq!((low.circuits, low.streams), (None, None));
        assert_eq!((low.handshakes.delay, low.handshakes.cutoff), (1_000, 0));
        let low = DefenceParameters::new(|name, _| if name.ends_with("Enabled") { 1 } else { i32::MIN });
        let limit = low.circuits.unwrap();
        assert_eq!((limit.min_links, limit.rate, limit.burst, limit.period), (1, 1, 1, 0));
        assert!(low.streams.is_none(), "a defence that does nothing");
        let tiny = DefenceParameters::new(|name, default| if name.starts_with("circ_max") { 1 } else { default });
        assert_eq!((tiny.queue(2500), DefenceParameters::default().queue(2500)), (50, 2500));
        let high = DefenceParameters::new(|_, _| i32::MAX);
        assert_eq!(high.streams.unwrap().defence, StreamDefence::CloseCircuit);
        assert_eq!(high.circuits.unwrap().burst, 2_147_483_647);
    }
}
