//! The one task that owns the payment state machine ([`Node`]).
//!
//! ```text
//!  data plane events ─┐                      ┌─► data plane calls
//!  ledger's answers ──┼─► Node ─► outputs ───┼─► journal ─(durable)─► Node ─► outputs that waited for it
//!  commands, timer ───┘                      └─► tasks that ask the ledger ─► answers
//! ```
//!
//! It decides nothing about money: inputs are translated, outputs done, in order. If the journal fails, payments stop and
//! the relay serves everybody unpaid: after that only the journal says what is owed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use obol_cell::{AccountId, EscrowId, EscrowTerms, PeerId, Signature, Stroops};
use obol_onion::engine::{self, Neighbour, PaymentEvent};
use obol_stellar::key::account_text;
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_store::{Journal, StoreError};
use obol_toll::fact::{NodeFact, OutFact, Owner};
use obol_toll::node::{Input, Node, NodeConfig, Output, Report};
use obol_toll::{AddressKey, CircuitId, LinkId, PayeeKeys, PayerKeys};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::clock::Clock;
use super::events::Event;
use super::plane::{DataPlane, Events};
use super::view::{Standing, View};
use super::work::{ToOpen, Told, Work};
use crate::directory::{NetView, RelayInfo};
use crate::metrics::{Metric, Metrics};

/// Events taken in before their outputs are done.
const BATCH: usize = 1024;
/// Link messages kept for a peer that our consensus does not know yet as a paid relay, and their bytes.
const KEPT_MESSAGES: usize = 8;
/// How often peers without an escrow are looked for.
const PEERS: Duration = Duration::from_secs(5);
/// New ledgers between two looks at escrows of ours that nobody is known to close.
const LOOK_EVERY: u32 = 10;
/// New ledgers between two checks of the payee account.
const CHECK_EVERY: u32 = 10;
/// Circuit id, command and length of a link message's cell, bytes.
const LINK_HEADER: u64 = 7;
/// How long one payee account is given to new escrows.
const ROTATE_MS: u64 = 600_000;

/// The payee's and the payer's keys as one.
pub(super) struct Keys {
    pub(super) payee: Arc<EscrowPayee>,
    pub(super) payer: Arc<EscrowPayer>,
}

impl PayeeKeys for Keys {
    fn signer(&self, terms: &EscrowTerms) -> AccountId {
        self.payee.signer(terms)
    }

    fn sign_refund(&self, escrow: &obol_toll::Escrow) -> Signature {
        self.payee.sign_refund(escrow)
    }

    fn verify_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> bool {
        self.payee.verify_claim(escrow, k, cumulative, signature)
    }
}

impl PayerKeys for Keys {
    fn sign_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        self.payer.sign_claim(escrow, k, cumulative)
    }

    fn verify_refund(&self, escrow: &obol_toll::Escrow, refund: &Signature) -> bool {
        self.payer.verify_refund(escrow, refund)
    }
}

/// What the handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    /// Flush every escrow that pays us, and ask the payees of ours to do so.
    CloseAll(oneshot::Sender<()>),
    /// Look at the ledger now.
    Step(oneshot::Sender<()>),
}

/// A link as the driver knows it.
struct Link {
    neighbour: Neighbour,
    peer: Option<PeerId>,
    obol: bool,
    kept: Vec<Vec<u8>>,
}

/// See the [module](self).
pub(super) struct Driver<E> {
    pub(super) node: Node<Keys>,
    pub(super) clock: Clock,
    pub(super) identity: PeerId,
    pub(super) plane: Arc<dyn DataPlane>,
    pub(super) events: E,
    pub(super) net: NetView,
    pub(super) journal: Journal<NodeFact>,
    pub(super) work: Arc<Work>,
    pub(super) told: mpsc::UnboundedReceiver<Told>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) openings: mpsc::UnboundedSender<ToOpen>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) people: broadcast::Sender<Event>,
    pub(super) stopped: watch::Sender<Option<StoreError>>,
    /// The newest ledger: number and close time.
    pub(super) head: watch::Sender<Option<(u32, u64)>>,
    pub(super) metrics: Arc<Metrics>,
    /// To how many peers escrows are opened.
    pub(super) peer_limit: usize,
    links: HashMap<LinkId, Link>,
    /// Appends on their way, with their facts.
    appending: VecDeque<(u64, Vec<NodeFact>)>,
    flushing: HashSet<EscrowId>,
    wanted: HashSet<PeerId>,
    watching: bool,
    /// The newest ledger, and how many were seen, for what is done every so many.
    newest: u32,
    ledgers: u32,
    payee: usize,
    payee_since: u64,
    next_peers: Instant,
    look_at_all: bool,
    /// Everything is being closed: no new escrows, in or out, until the next start.
    closing: bool,
}

/// What [`Driver::new`] is made of.
pub(super) struct Parts<E> {
    pub(super) node: Node<Keys>,
    pub(super) identity: PeerId,
    pub(super) plane: Arc<dyn DataPlane>,
    pub(super) events: E,
    pub(super) net: NetView,
    pub(super) work: Arc<Work>,
    pub(super) told: mpsc::UnboundedReceiver<Told>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) openings: mpsc::UnboundedSender<ToOpen>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) people: broadcast::Sender<Event>,
    pub(super) stopped: watch::Sender<Option<StoreError>>,
    /// The newest ledger: number and close time.
    pub(super) head: watch::Sender<Option<(u32, u64)>>,
    pub(super) peer_limit: usize,
}

impl<E: Events> Driver<E> {
    pub(super) fn new(parts: Parts<E>) -> Driver<E> {
        let Parts {
            node,
            identity,
            plane,
            events,
            net,
            work,
            told,
            commands,
            openings,
            view,
            people,
            stopped,
            head,
            peer_limit,
        } = parts;
        Driver {
            node,
            clock: Clock::default(),
            identity,
            plane,
            events,
            net,
            journal: work.journal.clone(),
            metrics: Arc::clone(&work.metrics),
            work,
            told,
            commands,
            openings,
            view,
            people,
            stopped,
            head,
            peer_limit,
            links: HashMap::new(),
            appending: VecDeque::new(),
            flushing: HashSet::new(),
            wanted: HashSet::new(),
            watching: false,
            newest: 0,
            ledgers: 0,
            payee: 0,
            payee_since: 0,
            next_peers: Instant::now(),
            look_at_all: false,
            closing: false,
        }
    }

    /// Runs until the data plane ends, somebody stops the payments, or the journal fails.
    pub(super) async fn run(mut self) {
        self.start();
        let stop = self.work.stop.clone();
        let mut net_lives = true;
        loop {
            self.act();
            if self.stopped.borrow().is_some() {
                break;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(command) = self.commands.recv() => self.command(command),
                told = self.told.recv() => match told {
                    Some(told) => self.take_in_told(told),
                    None => break,
                },
                event = self.events.next() => match event {
                    Some(event) => self.take_in_events(event),
                    None => break,
                },
                changed = self.net.changed(), if net_lives => {
                    net_lives = changed;
                    self.net_changed();
                }
                () = tokio::time::sleep_until(wake) => self.input(Input::Tick),
            }
            if Instant::now() >= self.next_peers {
                self.next_peers = Instant::now() + PEERS;
                self.connect_peers();
            }
        }
        self.work.stop.cancel();
    }

    fn start(&mut self) {
        self.payee = rand::random_range(0..self.work.payees.len().max(1));
        self.payee_since = self.clock.now().0;
        self.work.spawn(Work::follow);
        let left: Vec<_> = {
            let view = self.view();
            view.outgoing()
                .filter(|(_, _, s)| s.is_over())
                .map(|(_, out, _)| out.escrow)
                .collect()
        };
        for escrow in left {
            self.work.spawn(|work| work.wind_up(escrow));
        }
        self.input(Input::Tick);
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) -> Instant {
        let now = self.clock.now();
        let until = self.node.next_wake().map(|at| Duration::from_millis(at.since(now)));
        // A timer that is already due has been fired by the last input; a millisecond keeps a bug from spinning.
        let node = until.map(|wait| Instant::now() + wait.max(Duration::from_millis(1)));
        node.map_or(self.next_peers, |node| node.min(self.next_peers))
    }

    fn input(&mut self, input: Input) {
        let now = self.clock.now();
        self.node.handle(now, input);
    }

    fn take_in_events(&mut self, first: PaymentEvent) {
        self.event(first);
        for _ in 1..BATCH {
            match self.events.next_now() {
                Some(event) => self.event(event),
                None => break,
            }
        }
    }

    fn take_in_told(&mut self, first: Told) {
        self.told(first);
        for _ in 1..BATCH {
            match self.told.try_recv() {
                Ok(told) => self.told(told),
                Err(_) => break,
            }
        }
    }

    /// Translates a data plane event.
    fn event(&mut self, event: PaymentEvent) {
        match event {
            PaymentEvent::LinkUp { link, peer, neighbour } => {
                let link = LinkId(link.to_u64());
                let peer = peer.map(|peer| PeerId(peer.ed));
                let obol = peer.is_some_and(|peer| self.is_obol(&peer));
                self.links.insert(
                    link,
                    Link {
                        neighbour,
                        peer,
                        obol,
                        kept: Vec::new(),
                    },
                );
                self.link_up(link);
            }
            PaymentEvent::LinkDown { link } => {
                let link = LinkId(link.to_u64());
                self.links.remove(&link);
                self.input(Input::LinkDown { link });
            }
            PaymentEvent::CircuitOpened { circuit, link, id } => {
                let (circuit, link) = (CircuitId(circuit.to_u64()), LinkId(link.to_u64()));
                let from_client = self.links.get(&link).is_some_and(|link| link.peer.is_none());
                self.view().circuit_opened(circuit.0, from_client);
                self.input(Input::CircuitOpened { circuit, link, id });
            }
            PaymentEvent::CircuitExtended { circuit, link, id } => {
                let (circuit, link) = (CircuitId(circuit.to_u64()), LinkId(link.to_u64()));
                self.input(Input::CircuitExtended { circuit, link, id });
            }
            PaymentEvent::CircuitClosed { circuit, metered } => {
                let circuit = CircuitId(circuit.to_u64());
                self.view().circuit_closed(circuit.0, metered);
                self.input(Input::CircuitClosed { circuit, metered });
            }
            PaymentEvent::Message {
                circuit, body, metered, ..
            } => {
                self.input(Input::Message {
                    circuit: CircuitId(circuit.to_u64()),
                    body,
                    metered,
                });
            }
            PaymentEvent::LinkMessage { link, body } => self.link_message(LinkId(link.to_u64()), body),
            PaymentEvent::CreditLow { circuit, metered, .. } => {
                self.input(Input::CreditLow {
                    circuit: CircuitId(circuit.to_u64()),
                    metered,
                });
            }
        }
    }

    fn link_up(&mut self, link: LinkId) {
        let Some(known) = self.links.get(&link) else { return };
        let address = match known.neighbour {
            Neighbour::Client(address) => Some(AddressKey::of(address)),
            Neighbour::Relay(_) => None,
        };
        let (peer, obol) = (known.peer, known.obol);
        self.input(Input::LinkUp {
            link,
            peer,
            obol,
            address,
        });
    }

    /// A peer may know us from a newer consensus than ours, and greet us before we know it: what it says is kept until
    /// our consensus has it.
    fn link_message(&mut self, link: LinkId, body: Vec<u8>) {
        if let Some(known) = self.links.get_mut(&link)
            && known.peer.is_some()
            && !known.obol
        {
            if known.kept.len() < KEPT_MESSAGES && body.len() <= obol_cell::MAX_LINK_BODY {
                known.kept.push(body);
            }
            return;
        }
        self.input(Input::LinkMessage { link, body });
    }

    fn is_obol(&self, peer: &PeerId) -> bool {
        self.net.by_ed(&peer.0).is_some_and(|relay| relay.obol)
    }

    fn net_changed(&mut self) {
        let new: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| !link.obol && link.peer.is_some_and(|peer| self.is_obol(&peer)))
            .map(|(id, _)| *id)
            .collect();
        for id in new {
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.obol = true;
            let kept = std::mem::take(&mut link.kept);
            self.link_up(id);
            for body in kept {
                self.input(Input::LinkMessage { link: id, body });
            }
        }
        self.connect_peers();
    }

    /// Has links to relays that take payments and have no escrow from us, so that one can be offered. Which ones, when
    /// there are more than the limit, differs from relay to relay; no circuit has a part in it (C4).
    fn connect_peers(&mut self) {
        let snapshot = self.net.snapshot();
        let mut peers: Vec<([u8; 32], &Arc<RelayInfo>)> = snapshot
            .relays()
            .iter()
            .filter(|relay| relay.obol)
            .filter_map(|relay| Some((relay.ed?, relay)))
            .filter(|(ed, _)| *ed != self.identity.0)
            .collect();
        peers.sort_by_key(|(ed, _)| distance(&self.identity.0, ed));
        let (total, limit) = (peers.len(), self.peer_limit);
        let provided: HashSet<[u8; 32]> = self
            .view()
            .outgoing()
            .filter(|(_, _, standing)| matches!(standing, Standing::Opening | Standing::Open))
            .map(|(_, out, _)| out.escrow.terms.payee.0)
            .collect();
        let open = peers.iter().filter(|(ed, _)| provided.contains(ed)).count();
        self.metrics.set(Metric::Peers, &["open"], open as u64);
        self.metrics.set(Metric::Peers, &["none"], (total - open) as u64);
        let linked: HashSet<[u8; 32]> = self.links.values().filter_map(|link| Some(link.peer?.0)).collect();
        for (ed, relay) in peers.into_iter().take(limit) {
            if !provided.contains(&ed) && !linked.contains(&ed) {
                self.plane.connect(relay);
            }
        }
    }

    /// Takes in what a task or the journal tells.
    fn told(&mut self, told: Told) {
        match told {
            Told::Input(input) => {
                if let Input::Offer { peer, offer } = &input {
                    self.wanted.remove(peer);
                    if self.closing {
                        self.work.payer.remove(&offer.escrow);
                        return self.forget_nonce(offer.escrow);
                    }
                }
                self.input(input);
            }
            Told::Ledger(head) => {
                self.clock.ledger_closed(head.close_time);
                self.head.send_replace(Some((head.sequence, head.close_time)));
                self.input(Input::LedgerClosed {
                    sequence: head.sequence,
                    close_time: head.close_time,
                });
                if head.sequence > self.newest || self.look_at_all {
                    self.newest = head.sequence;
                    self.new_ledger();
                }
            }
            Told::Event(event) => self.tell(event),
            Told::FlushOver(escrow) => {
                self.flushing.remove(&escrow);
            }
            Told::WatchOver => self.watching = false,
            Told::WoundUp(escrow) => {
                self.work.payer.remove(&escrow);
                self.forget_nonce(escrow);
            }
            Told::Appended { seq, outcome } => self.appended(seq, outcome),
        }
    }

    fn new_ledger(&mut self) {
        let first = self.ledgers == 0;
        self.ledgers = self.ledgers.wrapping_add(1);
        let look_at_all = std::mem::take(&mut self.look_at_all) || self.ledgers.is_multiple_of(LOOK_EVERY);
        if !self.watching {
            let now = self.clock.now().secs();
            let escrows: Vec<_> = self
                .view()
                .outgoing()
                .filter(|(_, out, standing)| match standing {
                    Standing::Closing => true,
                    Standing::Open => look_at_all || now >= out.escrow.terms.expiry,
                    _ => false,
                })
                .map(|(_, out, _)| (out.escrow, out.deposit))
                .collect();
            if !escrows.is_empty() {
                self.watching = true;
                self.work.spawn(|work| work.watch(escrows));
            }
        }
        if first || look_at_all || self.ledgers.is_multiple_of(CHECK_EVERY) {
            let now = self.clock.now().0;
            if now.saturating_sub(self.payee_since) > ROTATE_MS {
                self.payee_since = now;
                self.payee = rand::random_range(0..self.work.payees.len().max(1));
            }
            if !self.closing {
                let (which, open) = (self.payee, self.view().incoming().count());
                self.work.spawn(|work| work.check_payee(which, open));
            }
        }
    }

    fn appended(&mut self, seq: u64, outcome: Result<u64, StoreError>) {
        let Some((expected, facts)) = self.appending.pop_front() else {
            return;
        };
        debug_assert_eq!(expected, seq, "the journal answers in order");
        if let Err(error) = outcome {
            tracing::error!(%error, "payments stop: the journal cannot be written");
            self.tell(Event::Stopped { why: error.to_string() });
            self.stopped.send_replace(Some(error));
            return;
        }
        self.metrics.add(Metric::Facts, &[], facts.len() as u64);
        for fact in &facts {
            self.durable(fact);
        }
        let changes_escrows = |fact: &NodeFact| {
            !matches!(
                fact,
                NodeFact::Claim { .. }
                    | NodeFact::Allocated { .. }
                    | NodeFact::Spent { .. }
                    | NodeFact::Returned { .. }
                    | NodeFact::CircuitEnded { .. }
                    | NodeFact::Out(OutFact::Signed { .. })
            )
        };
        if facts.iter().any(changes_escrows) {
            let (payee, payer) = {
                let view = self.view();
                let ours = view.outgoing().filter(|(_, _, standing)| standing.is_live());
                (view.incoming().count(), ours.count())
            };
            self.metrics.set(Metric::Escrows, &["payee"], payee as u64);
            self.metrics.set(Metric::Escrows, &["payer"], payer as u64);
        }
        self.input(Input::Persisted { upto: seq });
    }

    /// What people are told of a fact, and what follows from it outside of the state machine.
    fn durable(&mut self, fact: &NodeFact) {
        self.view().apply(fact);
        let name = |escrow: &EscrowId| account_text(&AccountId(escrow.0));
        match fact {
            NodeFact::Believed {
                escrow, owner, balance, ..
            } => self.tell(Event::Believed {
                escrow: name(&escrow.id()),
                from_client: *owner == Owner::Client,
                stroops: balance.get(),
            }),
            NodeFact::Claim {
                escrow, k, cumulative, ..
            } => {
                self.tell(Event::Claim {
                    escrow: name(escrow),
                    k: *k,
                    cumulative: cumulative.get(),
                });
            }
            NodeFact::Spent {
                circuit,
                n,
                earned,
                forwarded,
                credit,
            } => self.tell(Event::Credited {
                circuit: circuit.0,
                n: *n,
                earned: earned.get(),
                forwarded: forwarded.get(),
                bytes: *credit,
            }),
            NodeFact::Settled { escrow, amount } => {
                self.tell(Event::Settled {
                    escrow: name(escrow),
                    stroops: amount.get(),
                });
            }
            NodeFact::Out(OutFact::Accepted { escrow, deposit, .. }) => self.tell(Event::Accepted {
                escrow: name(&escrow.id()),
                payee: hex::encode(escrow.terms.payee.0),
                stroops: deposit.get(),
            }),
            NodeFact::Out(OutFact::Opened { escrow, balance }) => {
                self.tell(Event::Opened {
                    escrow: name(escrow),
                    stroops: balance.get(),
                });
                // Its opening was under way when everything was closed.
                if self.closing {
                    self.input(Input::Close { escrow: *escrow });
                }
            }
            NodeFact::Out(OutFact::Signed { escrow, k, cumulative }) => {
                self.tell(Event::Signed {
                    escrow: name(escrow),
                    k: *k,
                    cumulative: cumulative.get(),
                });
            }
            NodeFact::Out(OutFact::Abandoned { escrow }) => {
                self.work.payer.remove(escrow);
                self.forget_nonce(*escrow);
            }
            NodeFact::Out(OutFact::Ended { escrow, paid }) => {
                self.tell(Event::Ended {
                    escrow: name(escrow),
                    stroops: paid.get(),
                });
                let out = self.view().escrow(escrow);
                if let Some((out, _)) = out {
                    self.work.spawn(|work| work.wind_up(out.escrow));
                }
            }
            _ => {}
        }
    }

    fn forget_nonce(&self, escrow: EscrowId) {
        let journal = self.journal.clone();
        self.work.spawn(|_| async move {
            if let Err(error) = journal.forget_secret(super::work::NONCE, &escrow.0).await {
                tracing::debug!(%error, "a used escrow key could not be forgotten");
            }
        });
    }

    fn tell(&self, event: Event) {
        // Nobody may be watching.
        let _ = self.people.send(event);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::CloseAll(done) => {
                self.closing = true;
                let config = NodeConfig {
                    pays_others: false,
                    ..*self.node.config()
                };
                self.node.reconfigure(config);
                if let Some(key) = self.work.payees.get(self.payee) {
                    let account = key.account();
                    self.input(Input::PayeeAccount {
                        account,
                        can_accept: false,
                    });
                }
                let (incoming, outgoing): (Vec<EscrowId>, Vec<EscrowId>) = {
                    let view = self.view();
                    let live = |s: Standing| matches!(s, Standing::Opening | Standing::Open);
                    let outgoing = view
                        .outgoing()
                        .filter(|(_, _, s)| live(*s))
                        .map(|(id, _, _)| id)
                        .collect();
                    (view.incoming().collect(), outgoing)
                };
                for escrow in incoming {
                    self.input(Input::FlushNow { escrow });
                }
                for escrow in outgoing {
                    self.input(Input::Close { escrow });
                }
                let _ = done.send(());
            }
            Command::Step(done) => {
                self.look_at_all = true;
                self.work.hurry.notify_one();
                self.input(Input::Tick);
                let _ = done.send(());
            }
        }
    }

    /// Does everything that the state machine asks for.
    fn act(&mut self) {
        while let Some(output) = self.node.poll() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        let circuit = |circuit: CircuitId| engine::CircuitId::from_u64(circuit.0);
        let link = |link: LinkId| engine::LinkId::from_u64(link.0);
        match output {
            Output::Persist { seq, facts } => {
                let told = self.work.told.clone();
                self.journal.append_then(facts.clone(), move |outcome| {
                    // The driver has ended.
                    let _ = told.send(Told::Appended { seq, outcome });
                });
                self.appending.push_back((seq, facts));
            }
            Output::Answer { circuit: c, body } => self.plane.answer(circuit(c), &body),
            Output::SendLink { link: l, body } => {
                self.metrics
                    .add(Metric::LinkMessageBytes, &[], body.len() as u64 + LINK_HEADER);
                self.plane.send_link(link(l), &body);
            }
            Output::Grant { circuit: c, bytes } => {
                self.view().granted(c.0, bytes);
                self.plane.grant(circuit(c), bytes);
            }
            Output::Watch { circuit: c, below } => self.plane.watch_credit(circuit(c), below),
            Output::Destroy { circuit: c } => self.plane.destroy(circuit(c)),
            Output::CloseLink { link: l } => self.plane.close_link(link(l)),
            Output::CheckAbsent { escrow } => self.work.spawn(|work| work.check_absent(escrow)),
            Output::ReadEscrow { escrow } => self.work.spawn(|work| work.read(escrow)),
            Output::Flush {
                escrow,
                k,
                cumulative,
                signature,
                ..
            } => {
                // Asked for again, after a restart or with a higher claim: the one under way looks at the ledger anyway.
                if self.flushing.insert(escrow.id()) {
                    self.work.spawn(|work| work.flush(escrow, k, cumulative, signature));
                }
            }
            Output::WantEscrow {
                peer,
                rules,
                deposit,
                life,
            } => {
                if !self.closing && self.wanted.insert(peer) {
                    self.work.spawn(|work| work.offer(peer, rules, deposit, life));
                }
            }
            Output::OfferDeclined { escrow, code } => {
                tracing::debug!(?code, "a relay declined to be paid by an escrow");
                self.work.payer.remove(&escrow);
                self.forget_nonce(escrow);
            }
            Output::OpenEscrow {
                escrow,
                deposit,
                refund,
            } => {
                // The opener ends with the driver.
                let _ = self.openings.send(ToOpen {
                    escrow,
                    deposit,
                    refund,
                });
            }
            Output::Refund { escrow, refund } => {
                let deposit = self
                    .view()
                    .escrow(&escrow.id())
                    .map_or(Stroops::ZERO, |(out, _)| out.deposit);
                self.work.spawn(|work| work.refund(escrow, deposit, refund));
            }
            Output::Report(report) => self.report(report),
        }
    }

    fn report(&self, report: Report) {
        let amount = |stroops: Stroops| stroops.get_u64();
        let m = &self.metrics;
        match report {
            Report::Credited {
                step,
                earned,
                forwarded,
                from_client,
            } => {
                m.add(Metric::Payments, &[if from_client { "client" } else { "relay" }], 1);
                m.add(Metric::BytesBought, &[], step.bytes());
                m.add(Metric::StroopsEarned, &[], amount(earned));
                m.add(Metric::StroopsForwarded, &[], amount(forwarded));
            }
            Report::Refused { code } => {
                let code = refusal(code);
                m.add(Metric::Refusals, &[code], 1);
                self.tell(Event::Refused { code });
            }
            Report::Held { amount: held } => m.add(Metric::StroopsHeld, &[], amount(held)),
            Report::Claim { rise } => m.add(Metric::StroopsIn, &[], amount(rise)),
            Report::BadSignature => m.add(Metric::BadSignatures, &[], 1),
            Report::ProtocolError => m.add(Metric::PaymentProtocolErrors, &[], 1),
            Report::InitialCredit { bytes } => m.add(Metric::InitialCredit, &[], bytes),
            // Counted from the facts, which a restart does not lose.
            Report::EscrowInUse { .. } => {}
            Report::EscrowSettled { payee, amount: settled } => {
                let side = [if payee { "payee" } else { "payer" }];
                m.add(Metric::EscrowsSettled, &side, 1);
                m.add(Metric::StroopsSettled, &side, amount(settled));
            }
            Report::PaidOn { amount: paid } => m.add(Metric::StroopsOut, &[], amount(paid)),
        }
    }
}

/// The name of a refusal in metrics and events.
fn refusal(code: obol_cell::RefuseCode) -> &'static str {
    use obol_cell::RefuseCode as Code;
    match code {
        Code::NoFunds => "no_funds",
        Code::OverLimit => "over_limit",
        Code::Failed => "failed",
        Code::Closing => "closing",
    }
}

/// How far two identities are from each other; each relay has its own order of the others.
fn distance(ours: &[u8; 32], theirs: &[u8; 32]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::new()
        .chain_update(ours)
        .chain_update(theirs)
        .finalize()
        .into()
}
