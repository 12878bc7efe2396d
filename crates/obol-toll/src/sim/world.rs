//! The parties and what connects them.

use super::keys::SimKeys;
use super::ledger::Ledger;
use super::lies::Lie;
use super::moments::{Moments, Point};
use super::rail::{Answer, Weather};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::ids::{CircuitId, LinkId, TunnelId};
use crate::jitter::Jitter;
use crate::node::{Node, NodeConfig};
use crate::payer::{PayPolicy, Payer, PayerConfig, Second};
use obol_cell::{
    AccountId, Asset, EscrowId, EscrowOffer, EscrowRules, ForwardPpm, NetworkId, PeerId, PricePer64KiB, Signature,
    Step, Stroops, Tariff,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

pub(crate) const NETWORK: NetworkId = NetworkId([7; 32]);
pub(crate) const ASSET: Asset = Asset {
    code: *b"OBOL\0\0\0\0\0\0\0\0",
    issuer: [9; 32],
};
pub(crate) const START: u64 = 1_800_000_000_000;
/// Seconds between ledgers.
pub(crate) const LEDGER_MS: u64 = 5_000;

pub(crate) type RelayId = usize;
pub(crate) type ClientId = usize;

/// What goes wrong, in events per thousand (crashes and cuts: per hundred thousand).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    pub(crate) drop: u64,
    pub(crate) double: u64,
    pub(crate) delay: u64,
    pub(crate) stall: u64,
    pub(crate) crash: u64,
    pub(crate) cut: u64,
}

impl Faults {
    pub(crate) const NONE: Faults = Faults {
        drop: 0,
        double: 0,
        delay: 0,
        stall: 0,
        crash: 0,
        cut: 0,
    };
    /// What a bad day brings.
    pub(crate) const ALL: Faults = Faults {
        drop: 20,
        double: 20,
        delay: 50,
        stall: 10,
        crash: 60,
        cut: 60,
    };
}

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) relays: usize,
    pub(crate) clients: usize,
    /// Hops of a tunnel.
    pub(crate) hops: usize,
    /// Prices, cyclically.
    pub(crate) prices: Vec<u64>,
    pub(crate) deposit: i64,
    pub(crate) initial: u64,
    pub(crate) policy: PayPolicy,
    pub(crate) faults: Faults,
    /// Whether relays open escrows to each other.
    pub(crate) pays_others: bool,
    /// Within so many milliseconds a client's tunnel moves to the next escrow.
    pub(crate) rollover_ms: u64,
    /// Whose clocks are how far ahead of the ledger's, milliseconds.
    pub(crate) clocks: Vec<(Party, i64)>,
    pub(crate) weather: Weather,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: 1,
            relays: 3,
            clients: 1,
            hops: 3,
            prices: vec![10, 5, 20],
            deposit: 10_000_000,
            initial: 256 * 1024,
            policy: PayPolicy::Always,
            faults: Faults::NONE,
            pays_others: true,
            rollover_ms: 60_000,
            clocks: Vec::new(),
            weather: Weather::default(),
        }
    }
}

/// A circuit in one relay's data plane.
#[derive(Debug, Clone)]
pub(crate) struct Circuit {
    pub(crate) tunnel: TunnelId,
    pub(crate) granted: u64,
    pub(crate) initial: u64,
    pub(crate) metered: u64,
    pub(crate) watch: Option<u64>,
    pub(crate) questions: u64,
    pub(crate) answers: u64,
}

/// What a relay's journal holds, summed up as it grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durable {
    pub(crate) claims: BTreeMap<EscrowId, (u32, Stroops, Signature)>,
    pub(crate) seen: BTreeMap<EscrowId, BTreeSet<u32>>,
    pub(crate) allocated: BTreeMap<EscrowId, i128>,
    pub(crate) signed: BTreeMap<EscrowId, (u32, Stroops)>,
    pub(crate) held: BTreeMap<CircuitId, i128>,
    /// The escrow that paid for a circuit last, and which escrows are clients'.
    pub(crate) paid_by: BTreeMap<CircuitId, EscrowId>,
    pub(crate) of_clients: BTreeSet<EscrowId>,
    pub(crate) credit: BTreeMap<CircuitId, u64>,
    pub(crate) spent: BTreeMap<CircuitId, Vec<u16>>,
    pub(crate) earned: i128,
    pub(crate) returned: i128,
    pub(crate) arrived: BTreeMap<CircuitId, i128>,
    pub(crate) spent_sum: BTreeMap<CircuitId, i128>,
    pub(crate) flushing: BTreeMap<EscrowId, u32>,
}

/// One relay: its machine, its journal and its data plane.
pub(crate) struct Relay {
    pub(crate) id: PeerId,
    pub(crate) config: NodeConfig,
    pub(crate) keys: SimKeys,
    pub(crate) node: Option<Node<SimKeys>>,
    pub(crate) journal: Vec<Vec<u8>>,
    pub(crate) pending: VecDeque<(u64, Vec<Vec<u8>>)>,
    pub(crate) epoch: u32,
    /// How far its clock is ahead of the ledger's, milliseconds.
    pub(crate) clock: i64,
    pub(crate) circuits: BTreeMap<CircuitId, Circuit>,
    pub(crate) next_circuit: u64,
    pub(crate) durable: Durable,
    /// Highest amounts seen on the wire, by escrow.
    pub(crate) sent: BTreeMap<EscrowId, (u32, Stroops)>,
    pub(crate) settled: BTreeMap<EscrowId, Stroops>,
    pub(crate) links: BTreeMap<RelayId, LinkId>,
    pub(crate) destroyed: u64,
    pub(crate) closed_links: u64,
}

/// The open conversation of a tunnel, as stock Arti keeps it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversation {
    pub(crate) hop: u8,
    pub(crate) second: Option<Second>,
}

/// A tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel {
    pub(crate) client: ClientId,
    pub(crate) path: Vec<(RelayId, CircuitId)>,
    pub(crate) conversation: Option<Conversation>,
    /// Bytes still wanted.
    pub(crate) wanted: u64,
    pub(crate) carried: u64,
    /// The n and allocation of each `Pay` to hop 1 that carried a claim.
    pub(crate) allocations: BTreeMap<u16, Stroops>,
    /// How far the claims sent on it raised what the client signed, and what of that was for payments that are complete.
    pub(crate) signed: i128,
    pub(crate) proven: i128,
    /// Bytes on the client's link that its payer was not told of yet.
    pub(crate) link_bytes: u64,
    /// Payments that came to a stop and were turned into credit there.
    pub(crate) given_up: BTreeSet<u16>,
    pub(crate) complete: u64,
    pub(crate) refused: u64,
    pub(crate) cells: u64,
}

/// One client.
pub(crate) struct Client {
    pub(crate) config: PayerConfig,
    pub(crate) keys: SimKeys,
    pub(crate) payer: Option<Payer<SimKeys>>,
    pub(crate) journal: Vec<Vec<u8>>,
    pub(crate) pending: VecDeque<(u64, Vec<Vec<u8>>)>,
    pub(crate) epoch: u32,
    /// How far its clock is ahead of the ledger's, milliseconds.
    pub(crate) clock: i64,
    /// Highest claim that is durable, and that was seen on the wire.
    pub(crate) signed: BTreeMap<EscrowId, (u32, Stroops)>,
    pub(crate) sent: BTreeMap<EscrowId, (u32, Stroops)>,
    pub(crate) unpaid: Vec<crate::payer::Unpaid>,
}

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    Relay(RelayId),
    Client(ClientId),
}

/// Something that will happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A 52 reaches its hop (index).
    ToHop {
        tunnel: TunnelId,
        hop: usize,
        body: Vec<u8>,
    },
    /// A 51 reaches the client, from hop (number).
    ToClient {
        tunnel: TunnelId,
        hop: u8,
        body: Vec<u8>,
    },
    Link {
        from: RelayId,
        to: RelayId,
        link: LinkId,
        body: Vec<u8>,
    },
    Persisted {
        party: Party,
        epoch: u32,
    },
    Wake {
        party: Party,
    },
    Ledger,
    Traffic {
        tunnel: TunnelId,
    },
    Checked {
        relay: RelayId,
        escrow: EscrowId,
    },
    Read {
        relay: RelayId,
        escrow: Escrow,
    },
    Offer {
        party: Party,
        peer: PeerId,
        deposit: Stroops,
        life: u32,
    },
    Open {
        party: Party,
        epoch: u32,
        escrow: Escrow,
        deposit: Stroops,
    },
    Flush {
        relay: RelayId,
        /// The run of the process that asked: its driver goes with it.
        epoch: u32,
        escrow: Escrow,
        k: u32,
        cumulative: Stroops,
        signature: Signature,
    },
    Refund {
        party: Party,
        escrow: Escrow,
        refund: Signature,
    },
    Restart {
        party: Party,
    },
    Low {
        relay: RelayId,
        circuit: CircuitId,
    },
    Connect {
        a: RelayId,
        b: RelayId,
    },
    Close {
        tunnel: TunnelId,
        broke: bool,
    },
    /// The ledger's answer reaches who asked.
    Told(Answer),
}

/// A message that was delivered: to whom, by which relay (or on a circuit, by a client), and what it said.
pub(crate) type Kept = (RelayId, Option<RelayId>, Vec<u8>);

/// The whole.
pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    pub(crate) rng: Jitter,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    pub(crate) ledger: Ledger,
    pub(crate) relays: Vec<Relay>,
    pub(crate) clients: Vec<Client>,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(crate) past: Vec<Tunnel>,
    pub(crate) next_id: u64,
    /// When the last message on a link, in a direction, arrives: links are ordered.
    pub(crate) order: BTreeMap<(LinkId, RelayId), u64>,
    pub(crate) wakes: BTreeMap<Party, u64>,
    pub(crate) steps: u64,
    pub(crate) log: VecDeque<String>,
    pub(crate) quotes: BTreeMap<(RelayId, u64), Tariff>,
    pub(crate) faults_on: bool,
    /// A relay that lies, and how.
    pub(crate) liar: Option<(RelayId, Lie)>,
    /// Whether clients count the bytes of the links to their guards.
    pub(crate) counts_links: bool,
    /// Milliseconds between ledgers.
    pub(crate) ledger_ms: u64,
    pub(crate) weather: Weather,
    /// Who says nothing any more, whatever it is asked.
    pub(crate) mute: BTreeSet<Party>,
    pub(crate) moments: Moments,
    /// What was delivered to relays, if somebody keeps it.
    pub(crate) kept: Option<Vec<Kept>>,
}

impl Sim {
    pub(crate) fn new(plan: Plan) -> Self {
        Self::with(plan, Moments::default())
    }

    /// One in which somebody dies at this point (or nobody does), and moments are counted from the start.
    pub(crate) fn dying(plan: Plan, at: Option<Point>) -> Self {
        Self::with(plan, Moments::counting(at))
    }

    fn with(plan: Plan, moments: Moments) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(plan.seed ^ 0x5bd1_e995).to_le_bytes());
        let mut sim = Sim {
            now: START,
            rng: Jitter::new(seed),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            ledger: Ledger {
                sequence: 1_000,
                ..Ledger::default()
            },
            relays: Vec::new(),
            clients: Vec::new(),
            tunnels: BTreeMap::new(),
            past: Vec::new(),
            next_id: 1,
            order: BTreeMap::new(),
            wakes: BTreeMap::new(),
            steps: 0,
            log: VecDeque::new(),
            quotes: BTreeMap::new(),
            faults_on: true,
            liar: None,
            counts_links: true,
            ledger_ms: LEDGER_MS,
            weather: plan.weather,
            mute: BTreeSet::new(),
            moments,
            kept: None,
            plan,
        };
        for i in 0..sim.plan.relays {
            let relay = sim.relay(i);
            sim.relays.push(relay);
        }
        for i in 0..sim.plan.clients {
            let client = sim.client(i);
            sim.clients.push(client);
        }
        for (party, ahead) in sim.plan.clocks.clone() {
            match party {
                Party::Relay(i) => sim.relays[i].clock = ahead,
                Party::Client(i) => sim.clients[i].clock = ahead,
            }
        }
        for i in 0..sim.plan.relays {
            sim.start(Party::Relay(i));
        }
        for i in 0..sim.plan.clients {
            sim.start(Party::Client(i));
        }
        sim.close_ledger();
        for a in 0..sim.plan.relays {
            for b in 0..a {
                sim.connect(a, b);
            }
        }
        sim
    }

    fn relay(&mut self, i: RelayId) -> Relay {
        let price = PricePer64KiB::new(self.plan.prices[i % self.plan.prices.len()]).unwrap();
        let tariff = Tariff {
            price,
            forward_ppm: ForwardPpm::new([1_000, 0, 10_000][i % 3]).unwrap(),
            forward_ceiling: price.at_least_times(20),
            max_step: Step::DEFAULT_LARGEST,
            network: NETWORK,
            asset: ASSET,
            rules: EscrowRules {
                min_deposit: Stroops::new(10_000).unwrap(),
                min_life: 3_600,
                max_life: 8 * 86_400,
                margin: 7_200,
            },
        };
        let id = PeerId([i as u8 + 1; 32]);
        let mut config = NodeConfig::new(id, tariff, 100_000_000);
        config.initial_credit = self.plan.initial;
        config.deposit = Stroops::new(self.plan.deposit).unwrap();
        config.opening_jitter_ms = 0;
        config.opening_period_ms = 0;
        config.close_jitter_ms = 0;
        config.pays_others = self.plan.pays_others;
        Relay {
            id,
            config,
            keys: SimKeys::new(100 + i as u64),
            node: None,
            journal: Vec::new(),
            pending: VecDeque::new(),
            epoch: 0,
            clock: 0,
            circuits: BTreeMap::new(),
            next_circuit: 1,
            durable: Durable::default(),
            sent: BTreeMap::new(),
            settled: BTreeMap::new(),
            links: BTreeMap::new(),
            destroyed: 0,
            closed_links: 0,
        }
    }

    fn client(&mut self, i: ClientId) -> Client {
        let ceiling = PricePer64KiB::new(1_000).unwrap();
        let mut config = PayerConfig::new(NETWORK, ASSET, ceiling, Stroops::new(self.plan.deposit).unwrap());
        config.pay = self.plan.policy;
        config.opening_jitter_ms = 0;
        config.rollover_jitter_ms = self.plan.rollover_ms;
        Client {
            config,
            keys: SimKeys::new(10_000 + i as u64),
            payer: None,
            journal: Vec::new(),
            pending: VecDeque::new(),
            epoch: 0,
            clock: 0,
            signed: BTreeMap::new(),
            sent: BTreeMap::new(),
            unpaid: Vec::new(),
        }
    }

    // ---- time ----

    pub(crate) fn time(&self) -> UnixMillis {
        UnixMillis(self.now)
    }

    /// By the clock of this party.
    pub(crate) fn time_of(&self, party: Party) -> UnixMillis {
        UnixMillis(self.now.saturating_add_signed(self.clock_of(party)))
    }

    pub(crate) fn clock_of(&self, party: Party) -> i64 {
        match party {
            Party::Relay(i) => self.relays.get(i).map_or(0, |r| r.clock),
            Party::Client(i) => self.clients.get(i).map_or(0, |c| c.clock),
        }
    }

    pub(crate) fn epoch_of(&self, party: Party) -> u32 {
        match party {
            Party::Relay(i) => self.relays[i].epoch,
            Party::Client(i) => self.clients[i].epoch,
        }
    }

    pub(crate) fn later(&mut self, ms: u64, event: Event) {
        let id = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((self.now + ms, id)));
        self.events.insert(id, event);
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let Reverse((at, id)) = self.queue.pop()?;
        self.now = self.now.max(at);
        self.events.remove(&id)
    }

    /// One in a thousand times `per_mille`.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.faults_on && per_mille > 0 && self.rng.up_to(999) < per_mille
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn hop_of(&self, tunnel: TunnelId, relay: RelayId) -> Option<usize> {
        self.tunnels.get(&tunnel)?.path.iter().position(|(r, _)| *r == relay)
    }

    /// A fresh offer as a driver makes it.
    pub(crate) fn make_offer(&mut self, party: Party, deposit: Stroops, life: u32) -> EscrowOffer {
        let number = self.fresh();
        let keys = match party {
            Party::Relay(i) => &self.relays[i].keys,
            Party::Client(i) => &self.clients[i].keys,
        };
        EscrowOffer {
            escrow: keys.fresh(number),
            network: NETWORK,
            asset: ASSET,
            s0: u64::from(self.ledger.sequence + 60) << 32,
            expiry: self.time_of(party).secs() + u64::from(life),
            deposit,
        }
    }

    pub(crate) fn account(&self, relay: RelayId) -> AccountId {
        AccountId([0x40 + relay as u8; 32])
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.log.len() >= 60 {
            self.log.pop_front();
        }
        let line = format!("{:>9} ms  {}", self.now - START, line());
        self.log.push_back(line);
    }
}

impl Drop for Sim {
    /// A run that failed says how to run it again, and what happened last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "OBOL_SIM_SEED={} repeats this run; its plan: {:?}",
                self.plan.seed, self.plan
            );
            for line in &self.log {
                eprintln!("{line}");
            }
        }
    }
}
