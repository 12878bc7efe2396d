//! The payment state of one relay: every circuit, every leg in and out.
//!
//! See [`Node`]; its inputs are [`Input`], its outputs [`Output`].
//!
//! | file | subject |
//! |---|---|
//! | `circuit.rs` | one circuit: credit, the payment in flight (state diagram) |
//! | `messages.rs` | the client's messages (52) |
//! | `settle.rs` | a payment's two halves meet: credit, pass on, hold, refuse |
//! | `legs.rs` | link messages (200), batches to neighbours |
//! | `payee.rs` | escrows that pay us: offers, belief, claims, flush |
//! | `payer.rs` | escrows that we pay by: offered, opened, rolled over, refunded |
//! | `openings.rs` | to whom escrows are opened, when, how large |
//! | `trust.rs` | what is owed instead of secured, in and out |
//! | `limits.rs` | limits, and alarms before they are reached |
//! | `restore.rs` | facts back into state, and state into facts |

mod circuit;
mod config;
mod io;
mod legs;
mod limits;
mod messages;
mod openings;
mod payee;
mod payer;
mod restore;
mod settle;
mod trust;

pub use config::NodeConfig;
pub use io::{FlushReason, Input, Output, Report};
pub use limits::{Limited, Limits};
pub use trust::{PAYMENTS_IN_ONE, TrustConfig, TrustTotals};

use crate::bucket::ByteBucket;
use crate::clock::UnixMillis;
use crate::escrow::incoming::Incoming;
use crate::escrow::outgoing::Outgoing;
use crate::fact::NodeFact;
use crate::ids::{AddressKey, CircuitId, LinkId};
use crate::jitter::Jitter;
use crate::keys::{PayeeKeys, PayerKeys};
use crate::outbox::Outbox;
use circuit::Circuit;
use obol_cell::{AccountId, Allocation, EscrowId, EscrowRules, PeerId, Stroops, Tariff, TransactionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A day, seconds.
const DAY: u64 = 86_400;

/// Something that becomes due. Checked against the state when it does: a timer that lost its reason does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Half of payment n was held long enough.
    Hold(CircuitId, u16),
    /// A long poll was open long enough.
    Listen(CircuitId, u16),
    /// An offer (incoming) or the reading of an escrow took too long.
    Offer(EscrowId),
    Read(EscrowId),
    /// An incoming escrow's margin begins, or its flush is due.
    Margin(EscrowId),
    Flush(EscrowId),
    /// An outgoing escrow: time for its successor, its margin begins, it expires.
    Successor(EscrowId),
    Stop(EscrowId),
    Expiry(EscrowId),
    /// An offer of ours took too long; a payee is asked again whether it knows an escrow.
    Offered(EscrowId),
    Ask(EscrowId),
    /// Escrows are asked for, some at once.
    Wants,
    /// What is owed is paid.
    PayOwed,
    /// The ledger is asked again whether it has a settlement.
    Settlement(PeerId, TransactionId),
}

/// One link.
#[derive(Debug)]
struct Link {
    peer: Option<PeerId>,
    obol: bool,
    address: Option<AddressKey>,
    /// The other end's terms, if they are on our ledger and in our asset.
    hello: Option<EscrowRules>,
    hello_seen: bool,
    bad_signatures: u8,
    /// A `CloseLink` is on its way.
    dead: bool,
}

impl Link {
    /// The peer that can be paid over this link now.
    fn payable(&self) -> Option<PeerId> {
        if self.obol && !self.dead && self.hello.is_some() {
            self.peer
        } else {
            None
        }
    }
}

/// What we know of the ledger's time.
#[derive(Debug, Clone, Copy, Default)]
struct LedgerTime {
    sequence: u32,
    close_time: u64,
    heard: Option<UnixMillis>,
}

/// All payment state of one relay.
#[derive(Debug)]
pub struct Node<K> {
    config: NodeConfig,
    keys: K,
    jitter: Jitter,
    out: Outbox<NodeFact, Output>,
    /// Of the last input.
    now: UnixMillis,
    /// Set by the first input.
    started: Option<UnixMillis>,
    ledger: LedgerTime,
    account: Option<(AccountId, bool)>,
    links: HashMap<LinkId, Link>,
    /// Links of a relay neighbour.
    peers: HashMap<PeerId, Vec<LinkId>>,
    circuits: HashMap<CircuitId, Circuit>,
    /// Circuits by their end towards the client.
    by_prev: HashMap<(LinkId, u32), CircuitId>,
    timers: BTreeSet<(UnixMillis, Timer)>,
    addresses: HashMap<AddressKey, ByteBucket>,
    neighbours: HashMap<PeerId, ByteBucket>,
    // Money in.
    incoming: BTreeMap<EscrowId, Incoming>,
    offers: HashMap<EscrowId, payee::PendingOffer>,
    reads: HashMap<EscrowId, payee::Reading>,
    /// How much of the limits is used.
    watch: limits::Watch,
    // Money out.
    outgoing: BTreeMap<EscrowId, Outgoing>,
    by_payee: HashMap<PeerId, Vec<EscrowId>>,
    offered: BTreeMap<EscrowId, payer::Offered>,
    wanted: BTreeMap<PeerId, openings::Want>,
    /// To whom escrows are opened; `None`: the consensus is not known.
    candidates: Option<BTreeMap<PeerId, u64>>,
    /// When, and to whom first: random sequences that nothing else draws on, so that no circuit shifts them.
    opening_times: Jitter,
    opening_order: Jitter,
    /// What peers were paid lately, and the day of the last such payment.
    volumes: BTreeMap<PeerId, openings::Week>,
    day: u64,
    /// How often in a row a peer declined.
    declines: HashMap<PeerId, u8>,
    /// When the next batch of wants is due.
    wants_at: Option<UnixMillis>,
    /// Allocations that wait for the next signature.
    batches: BTreeMap<(LinkId, legs::Backing), Vec<(CircuitId, Allocation)>>,
    trust: trust::Trust,
    totals: Totals,
    /// The day of the newest quote, since 1970.
    quoted_on: Option<u64>,
    /// The tariff from the day after that on.
    tomorrow: Option<Tariff>,
}

/// Sums over the whole life of a relay: escrow-secured money in, and all money out. For invariant 1 and for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Stored claims of all incoming escrows.
    pub claimed: Stroops,
    /// Signed claims of all outgoing escrows, and what is owed to others by trust.
    pub signed: Stroops,
    /// What is held for circuits now, or stayed here when they ended.
    pub held: Stroops,
    /// Earned by steps and fees, less what went back to clients.
    pub earned: Stroops,
}

/// How many entries a [`Node`] keeps, by what bounds them.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// By what the data plane knows.
    pub(crate) circuits: usize,
    /// By the limits on questions to the ledger, and until the next poll.
    pub(crate) questions: usize,
    /// By what is on the ledger, and by the peers.
    pub(crate) escrows: usize,
    /// By the others.
    pub(crate) timers: usize,
    /// By how many addresses, and neighbours, used up credit lately.
    pub(crate) buckets: usize,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// A relay that never ran before. `seed`: random bytes, for the choice of times only.
    pub fn new(config: NodeConfig, keys: K, seed: [u8; 32]) -> Self {
        Self::restore(config, keys, seed, std::iter::empty())
    }

    /// A relay with the facts of its earlier runs, in order. Its first output is a `Persist`.
    pub fn restore(config: NodeConfig, keys: K, seed: [u8; 32], facts: impl IntoIterator<Item = NodeFact>) -> Self {
        let mut node = Node {
            config,
            keys,
            jitter: Jitter::new(seed),
            out: Outbox::default(),
            now: UnixMillis::default(),
            started: None,
            ledger: LedgerTime::default(),
            account: None,
            links: HashMap::new(),
            peers: HashMap::new(),
            circuits: HashMap::new(),
            by_prev: HashMap::new(),
            timers: BTreeSet::new(),
            addresses: HashMap::new(),
            neighbours: HashMap::new(),
            incoming: BTreeMap::new(),
            offers: HashMap::new(),
            reads: HashMap::new(),
            watch: limits::Watch::default(),
            outgoing: BTreeMap::new(),
            by_payee: HashMap::new(),
            offered: BTreeMap::new(),
            wanted: BTreeMap::new(),
            declines: HashMap::new(),
            candidates: None,
            opening_times: Jitter::new(seed.map(|byte| byte ^ 0x5a)),
            opening_order: Jitter::new(seed.map(|byte| byte ^ 0xa5)),
            volumes: BTreeMap::new(),
            day: 0,
            wants_at: None,
            batches: BTreeMap::new(),
            trust: trust::Trust::default(),
            totals: Totals::default(),
            quoted_on: None,
            tomorrow: None,
        };
        node.replay(facts);
        node.out.fact(NodeFact::Restarted);
        node
    }

    /// A relay with the facts of an imported backup, which are not the newest that there were: a new epoch (H13). Nothing is signed or
    /// credited any more on the escrows that it knows. The newest claims on those that pay it are flushed at once; those that it pays
    /// by end by their payees' flushes, or by its refunds. From then on [`Node::restore`] is right again.
    pub fn restore_backup(
        config: NodeConfig,
        keys: K,
        seed: [u8; 32],
        facts: impl IntoIterator<Item = NodeFact>,
    ) -> Self {
        let mut node = Self::restore(config, keys, seed, facts);
        node.begin_epoch();
        node.out.fact(NodeFact::NewEpoch);
        node
    }

    /// Changes settings for new circuits and new escrows. What a quote of today has promised until midnight (UTC) stays until then: prices, fees and the
    /// largest step.
    pub fn reconfigure(&mut self, config: NodeConfig) {
        let (old, new) = (self.config.tariff, config.tariff);
        self.config = config;
        if self.quoted_on == Some(self.now.secs() / DAY) {
            self.config.tariff = Tariff {
                rules: new.rules,
                ..old
            };
            self.tomorrow = Some(new);
        }
    }

    /// What was quoted holds until midnight, and not longer.
    fn new_day(&mut self) {
        if self.tomorrow.is_some()
            && self.quoted_on < Some(self.now.secs() / DAY)
            && let Some(tariff) = self.tomorrow.take()
        {
            self.config.tariff = Tariff {
                rules: self.config.tariff.rules,
                ..tariff
            };
        }
    }

    /// The settings in force.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Sums over the whole life.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How much it remembers.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            circuits: self.circuits.len().max(self.by_prev.len()),
            questions: self.offers.len() + self.reads.len() + self.batches.len(),
            escrows: self.incoming.len() + self.outgoing.len() + self.offered.len() + self.wanted.len(),
            timers: self.timers.len(),
            buckets: self.addresses.len().max(self.neighbours.len()),
        }
    }

    /// As if so much of an escrow of ours had been assigned to payments.
    #[cfg(test)]
    pub(crate) fn set_allocated(&mut self, escrow: EscrowId, allocated: Stroops) {
        if let Some(o) = self.outgoing.get_mut(&escrow) {
            o.allocated = allocated;
        }
    }

    /// Takes in one event. Cheap, apart from the signatures that it may check; outputs are fetched with [`Node::poll`].
    pub fn handle(&mut self, now: UnixMillis, input: Input) {
        self.now = now;
        self.new_day();
        if self.started.is_none() {
            self.start(now);
        }
        match input {
            Input::Persisted { upto } => self.out.persisted(upto),
            Input::Tick => {}
            Input::LinkUp {
                link,
                peer,
                obol,
                address,
            } => self.link_up(now, link, peer, obol, address),
            Input::LinkJudged { link, address } => {
                if let Some(l) = self.links.get_mut(&link) {
                    l.address = address;
                }
            }
            Input::LinkDown { link } => self.link_down(link),
            Input::CircuitOpened { circuit, link, id } => self.circuit_opened(now, circuit, link, id),
            Input::CircuitExtended { circuit, link, id } => {
                if let Some(c) = self.circuits.get_mut(&circuit) {
                    c.next = Some((link, id));
                }
            }
            Input::CircuitClosed { circuit, metered } => self.circuit_closed(circuit, metered),
            Input::Message { circuit, body, metered } => self.message(now, circuit, &body, metered),
            Input::LinkMessage { link, body } => self.link_message(now, link, &body),
            Input::CreditLow { circuit, metered } => self.credit_low(circuit, metered),
            Input::EscrowChecked { escrow, exists } => self.escrow_checked(now, escrow, exists),
            Input::EscrowRead { escrow, result } => self.escrow_read(now, escrow, result),
            Input::LedgerClosed { sequence, close_time } => {
                self.ledger.sequence = self.ledger.sequence.max(sequence);
                self.ledger.close_time = self.ledger.close_time.max(close_time);
                self.ledger.heard = Some(now);
            }
            Input::PayeeAccount { account, can_accept } => self.account = Some((account, can_accept)),
            Input::FlushFailed { escrow, k } => self.flush_failed(escrow, k),
            Input::Settled { escrow, amount } => self.settled(escrow, amount),
            Input::FlushNow { escrow } => self.flush(now, escrow, FlushReason::Own),
            Input::Offer { peer, offer } => self.offer(peer, offer),
            Input::EscrowOpened { escrow, balance } => self.escrow_opened(escrow, balance),
            Input::OpeningFailed { escrow } => self.opening_failed(now, escrow),
            Input::EscrowEnded { escrow, paid } => self.escrow_ended(now, escrow, paid),
            Input::Close { escrow } => self.close(now, escrow),
            Input::Candidates { weights } => self.candidates(now, weights),
            Input::Capital { asset, openings } => self.capital(asset, openings),
            Input::PayeeLumens { have, need } => self.payee_lumens(have, need),
            Input::Trust { account, peers } => self.trust_list(account, peers),
            Input::PaymentChecked {
                peer,
                transaction,
                result,
            } => self.payment_checked(now, peer, transaction, result),
            Input::OwedPaid { batch, transaction } => self.owed_paid(batch, transaction),
            Input::OwedNotPaid { batch } => self.owed_not_paid(batch),
            Input::PaymentsFound { transactions } => self.payments_found(transactions),
        }
        self.fire(now);
    }

    /// The next thing to do. Call until `None` after each batch of inputs.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop() {
            return Some(output);
        }
        // Only now, when everything that could come together has come: one signature and one commit for all of it.
        self.send_batches();
        if let Some((seq, facts)) = self.out.take_persist() {
            return Some(Output::Persist { seq, facts });
        }
        self.out.pop()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_wake(&self) -> Option<UnixMillis> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn start(&mut self, now: UnixMillis) {
        self.started = Some(now);
        self.schedule_incoming(now);
        self.schedule_outgoing(now);
        self.schedule_openings(now);
        self.schedule_trust(now);
        self.count_unsettled();
    }

    fn at(&mut self, when: UnixMillis, timer: Timer) {
        self.timers.insert((when, timer));
    }

    fn fire(&mut self, now: UnixMillis) {
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Hold(circuit, n) => self.hold_over(circuit, n),
                Timer::Listen(circuit, id) => self.listen_over(now, circuit, id),
                Timer::Offer(escrow) => self.offer_over(escrow),
                Timer::Read(escrow) => self.read_over(now, escrow),
                Timer::Margin(escrow) => self.margin_begins(now, escrow),
                Timer::Flush(escrow) => self.flush_due(now, escrow),
                Timer::Successor(escrow) => self.successor_due(now, escrow),
                Timer::Stop(escrow) => self.outgoing_stops(now, escrow),
                Timer::Expiry(escrow) => self.outgoing_expired(now, escrow),
                Timer::Offered(escrow) => self.offered_over(now, escrow),
                Timer::Ask(escrow) => self.ask_due(now, escrow),
                Timer::Wants => self.wants_due(now),
                Timer::PayOwed => self.pay_owed(now),
                Timer::Settlement(peer, transaction) => self.look_again(peer, transaction),
            }
        }
    }

    fn fact(&mut self, fact: NodeFact) {
        self.out.fact(fact);
    }

    fn report(&mut self, report: Report) {
        self.out.push_now(Output::Report(report));
    }

    fn link_up(
        &mut self,
        now: UnixMillis,
        link: LinkId,
        peer: Option<PeerId>,
        obol: bool,
        address: Option<AddressKey>,
    ) {
        let obol = obol && peer.is_some();
        let new = Link {
            peer,
            obol,
            address,
            hello: None,
            hello_seen: false,
            bad_signatures: 0,
            dead: false,
        };
        self.links.insert(link, new);
        if let (true, Some(peer)) = (obol, peer) {
            let links = self.peers.entry(peer).or_default();
            if !links.contains(&link) {
                links.push(link);
            }
            self.say_hello(link);
        }
        self.forget_full_buckets(now);
    }

    fn link_down(&mut self, link: LinkId) {
        if let Some(gone) = self.links.remove(&link)
            && let Some(peer) = gone.peer
            && let Some(links) = self.peers.get_mut(&peer)
        {
            links.retain(|l| *l != link);
            if links.is_empty() {
                self.peers.remove(&peer);
            }
        }
        self.drop_batches(link);
    }

    fn circuit_opened(&mut self, now: UnixMillis, circuit: CircuitId, link: LinkId, id: u32) {
        let Some(l) = self.links.get(&link) else {
            return;
        };
        let (from, address) = (l.peer, l.address);
        let initial = self.initial_credit(now, from, address);
        if self.circuits.contains_key(&circuit) {
            return;
        }
        self.circuits.insert(
            circuit,
            Circuit::new((link, id), from, self.config.tariff, initial, now),
        );
        self.by_prev.insert((link, id), circuit);
        if initial > 0 {
            self.out.push_now(Output::Grant {
                circuit,
                bytes: initial,
            });
            self.report(Report::InitialCredit { bytes: initial });
        }
    }

    /// From the bucket of the address of a client, or of who counts as one, or else from the relay neighbour's (2.24).
    fn initial_credit(&mut self, now: UnixMillis, from: Option<PeerId>, address: Option<AddressKey>) -> u64 {
        let c = &self.config;
        let (bucket, size, refill) = match (address, from) {
            (None, Some(peer)) => {
                let size = c.neighbour_refill.saturating_mul(64).max(c.initial_credit);
                let bucket = self
                    .neighbours
                    .entry(peer)
                    .or_insert_with(|| ByteBucket::full(size, now));
                (bucket, size, c.neighbour_refill)
            }
            (Some(address), _) => {
                let bucket = self
                    .addresses
                    .entry(address)
                    .or_insert_with(|| ByteBucket::full(c.address_bucket, now));
                (bucket, c.address_bucket, c.address_refill)
            }
            // A client whose address is not known draws on nothing.
            (None, None) => return 0,
        };
        bucket.take(c.initial_credit, size, refill, now)
    }

    fn forget_full_buckets(&mut self, now: UnixMillis) {
        const ENOUGH: usize = 4_096;
        let (size, refill) = (self.config.address_bucket, self.config.address_refill);
        if self.addresses.len() > ENOUGH && self.addresses.len().is_power_of_two() {
            self.addresses.retain(|_, b| !b.is_full(size, refill, now));
        }
        let refill = self.config.neighbour_refill;
        let size = refill.saturating_mul(64).max(self.config.initial_credit);
        if self.neighbours.len() > ENOUGH && self.neighbours.len().is_power_of_two() {
            self.neighbours.retain(|_, b| !b.is_full(size, refill, now));
        }
    }

    fn circuit_closed(&mut self, circuit: CircuitId, metered: u64) {
        let Some(mut c) = self.circuits.remove(&circuit) else {
            return;
        };
        self.by_prev.remove(&c.prev);
        c.meter(metered);
        if !c.in_journal {
            return;
        }
        if c.from.is_none() {
            self.return_to_client(circuit, &mut c);
        }
        self.fact(NodeFact::CircuitEnded { circuit });
    }

    fn credit_low(&mut self, circuit: CircuitId, metered: u64) {
        if let Some(c) = self.circuits.get_mut(&circuit) {
            c.meter(metered);
            self.check_listen(circuit);
        }
    }

    /// A protocol error on a circuit: it alone is closed.
    fn destroy(&mut self, circuit: CircuitId) {
        if let Some(c) = self.circuits.get_mut(&circuit)
            && !c.dead
        {
            c.dead = true;
            self.out.push_now(Output::Destroy { circuit });
            self.report(Report::ProtocolError);
        }
    }

    /// A protocol error of a neighbour: the link is closed.
    fn close_link(&mut self, link: LinkId) {
        if let Some(l) = self.links.get_mut(&link)
            && !l.dead
        {
            l.dead = true;
            self.out.push_now(Output::CloseLink { link });
            self.report(Report::ProtocolError);
        }
    }

    fn answer(&mut self, circuit: CircuitId, answer: &obol_cell::ToOrigin) {
        self.answer_bytes(circuit, answer.encode());
    }

    fn answer_bytes(&mut self, circuit: CircuitId, body: Vec<u8>) {
        if self.circuits.get(&circuit).is_some_and(|c| !c.dead) {
            self.out.push(Output::Answer { circuit, body });
        }
    }

    fn send_link(&mut self, link: LinkId, message: &obol_cell::LinkMessage) {
        if self.links.get(&link).is_some_and(|l| l.obol && !l.dead) {
            self.out.push(Output::SendLink {
                link,
                body: message.encode(),
            });
        }
    }
}
