//! The one task that owns the payment state machine ([`Node`]).
//!
//! ```text
//!  data plane events ─┐                      ┌─► data plane calls
//!  ledger's answers ──┼─► Node ─► outputs ───┼─► journal ─(durable)─► Node ─► outputs that waited for it
//!  commands, timer ───┘                      └─► tasks that ask the ledger ─► answers
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `network.rs` | what the data plane tells; which relays we want to be able to pay |
//! | `ledger.rs` | what the ledger's tasks tell; what every new ledger is looked at for |
//! | `facts.rs` | what follows from facts once they are durable |
//! | `report.rs` | what is counted and told |
//! | `refuse.rs` | after the journal has failed |
//!
//! It decides nothing about money: inputs are translated, outputs done, in order. If the journal fails, payments stop and
//! the relay serves everybody unpaid: after that only the journal says what is owed.

mod facts;
mod ledger;
mod network;
mod refuse;
mod report;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use obol_cell::{EscrowId, PeerId, Stroops};
use obol_onion::engine::{self, PaymentEvent};
use obol_stellar::keys::RelayKeys;
use obol_store::{Journal, StoreError};
use obol_toll::fact::NodeFact;
use obol_toll::node::{Input, Limited, Node, NodeConfig, Output};
use obol_toll::trust::Trusted;
use obol_toll::{CircuitId, LinkId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::events::Event;
use super::plane::{DataPlane, Events};
use super::view::{Standing, View};
use super::work::{ToOpen, Told, Work};
use crate::directory::NetView;
use crate::metrics::{Metric, Metrics};
use network::Link;

/// Events taken in before their outputs are done.
const BATCH: usize = 1024;
/// How often peers without an escrow are looked for.
const PEERS: Duration = Duration::from_secs(5);
/// Circuit id, command and length of a link message's cell, bytes.
const LINK_HEADER: u64 = 7;

/// What the handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    /// Flush every escrow that pays us, and ask the payees of ours to do so.
    CloseAll(oneshot::Sender<()>),
    /// Flush this escrow that pays us, or all that do; answered with those that are being flushed, `None` if there is no such one.
    Flush(Option<EscrowId>, oneshot::Sender<Option<Vec<EscrowId>>>),
    /// Look at the ledger now.
    Step(oneshot::Sender<()>),
    /// Flush what expires before this time (unix seconds); answered when the journal has everything and no flush is
    /// under way.
    Settle(u64, oneshot::Sender<()>),
    /// New settings, to how many peers escrows are opened, and who may owe us.
    Reconfigure(Box<NodeConfig>, usize, Vec<Trusted>),
}

/// See the [module](self).
pub(super) struct Driver<E> {
    pub(super) node: Node<RelayKeys>,
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
    /// Who may owe us.
    trusted: Vec<Trusted>,
    /// Somebody stops the payments.
    halt: CancellationToken,
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
    /// What there is for openings is looked at when the next ledger closes.
    capital_moved: bool,
    /// Somebody was told that there is too little.
    short_of_capital: bool,
    /// For how many payers, relays or accounts there is an alarm now.
    alarms: HashMap<Limited, u64>,
    /// Everything is being closed: no new escrows, in or out, until the next start.
    closing: bool,
    /// Who waits until nothing is under way.
    settling: Vec<oneshot::Sender<()>>,
}

/// What [`Driver::new`] is made of.
pub(super) struct Parts<E> {
    pub(super) node: Node<RelayKeys>,
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
    pub(super) trusted: Vec<Trusted>,
    pub(super) halt: CancellationToken,
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
            trusted,
            halt,
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
            trusted,
            halt,
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
            capital_moved: false,
            short_of_capital: false,
            alarms: HashMap::new(),
            closing: false,
            settling: Vec::new(),
        }
    }

    /// Runs until the data plane ends or somebody stops the payments. After the journal has failed, it only refuses.
    pub(super) async fn run(mut self) {
        self.start();
        let stop = self.halt.clone();
        let mut net_lives = true;
        loop {
            self.act();
            if self.stopped.borrow().is_some() {
                break;
            }
            if self.appending.is_empty() && self.flushing.is_empty() {
                for waiting in self.settling.drain(..) {
                    // Whoever asked may wait no longer.
                    let _ = waiting.send(());
                }
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
        if self.stopped.borrow().is_some() {
            let greeted = self.links.iter().filter(|(_, link)| link.obol);
            let greeted = greeted.map(|(id, _)| engine::LinkId::from_u64(id.0)).collect();
            // Whoever waits for an answer learns that there is none.
            drop((self.commands, self.told));
            refuse::refuse(self.plane, self.events, greeted, self.metrics, self.halt).await;
        }
    }

    fn start(&mut self) {
        self.payee = rand::random_range(0..self.work.payees.len().max(1));
        self.payee_since = self.clock.now().0;
        self.work.spawn(Work::follow);
        let left: Vec<_> = {
            let view = self.view();
            view.outgoing()
                .filter(|(id, _, s)| s.is_over() && !self.work.wound_up.contains(id))
                .map(|(_, out, _)| out.escrow)
                .collect()
        };
        for escrow in left {
            self.work.spawn(|work| work.wind_up(escrow));
        }
        self.input(Input::Tick);
        self.tell_candidates();
        self.tell_trust();
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
            Command::Flush(which, done) => {
                let mut incoming: Vec<EscrowId> = self.view().incoming().collect();
                incoming.retain(|escrow| which.is_none_or(|which| which == *escrow));
                for escrow in &incoming {
                    self.input(Input::FlushNow { escrow: *escrow });
                }
                let _ = done.send((which.is_none() || !incoming.is_empty()).then_some(incoming));
            }
            Command::Step(done) => {
                self.look_at_all = true;
                self.work.hurry.notify_one();
                self.input(Input::Tick);
                let _ = done.send(());
            }
            Command::Settle(before, done) => {
                let due: Vec<EscrowId> = {
                    let view = self.view();
                    let ends = |escrow: &EscrowId| {
                        let known = view.escrow(escrow);
                        known.is_some_and(|(known, _)| known.escrow.terms.expiry <= before)
                    };
                    view.incoming().filter(ends).collect()
                };
                for escrow in due {
                    self.input(Input::FlushNow { escrow });
                }
                self.settling.push(done);
            }
            Command::Reconfigure(config, peer_limit, trusted) => {
                self.node.reconfigure(NodeConfig {
                    pays_others: config.pays_others && !self.closing,
                    ..*config
                });
                self.peer_limit = peer_limit;
                self.tell_candidates();
                self.trust_from_now_on(trusted);
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
            Output::PayOwed {
                batch,
                from,
                memo,
                payments,
            } => self.work.spawn(|work| work.pay_owed(batch, from, memo, payments)),
            Output::FindPayments { from, memo } => self.work.spawn(|work| work.find_payments(from, memo)),
            Output::CheckPayment {
                peer,
                transaction,
                payment,
            } => self.work.spawn(|work| work.check_payment(peer, transaction, payment)),
            Output::Report(report) => self.report(report),
        }
    }
}
