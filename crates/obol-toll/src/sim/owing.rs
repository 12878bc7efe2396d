//! Two relays, of which one owes the other: payments, crashes of either, links that are cut, a ledger that is slow, fails, or does not
//! answer. After every step nobody has got more than was signed, and nobody was paid twice; in the end everything is paid.

use super::keys::{self, SimKeys};
use super::s;
use super::world::{ASSET, NETWORK, START};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::fact::{NodeFact, Owner, TrustFact};
use crate::ids::{CircuitId, LinkId};
use crate::jitter::Jitter;
use crate::keys::PayeeKeys;
use crate::node::{Input, Node, NodeConfig, Output};
use crate::trust::{ExpectedPayment, NotPaid, OwedPayment, Trusted};
use obol_cell::{
    AccountId, Claim, EscrowId, EscrowRules, EscrowTerms, Forward, ForwardPpm, LinkMessage, OwnerAsks, Pay, PeerId,
    PricePer64KiB, SettlementMemo, Step, Stroops, Tariff, ToNode, TransactionId, UNIT,
};
use std::collections::{BTreeMap, VecDeque};

const PAYER: usize = 0;
const PAYEE: usize = 1;
const IDS: [PeerId; 2] = [PeerId([1; 32]), PeerId([2; 32])];
const PRICES: [u64; 2] = [10, 20];
const LIMIT: i64 = 300;
const PERIOD: u64 = 1_200_000;
const CLIENT: LinkId = LinkId(7);
const TO: AccountId = AccountId([0x77; 32]);

/// What the payer's driver is asked for: a batch of payments, from an account, under a memo.
type Order = (u64, AccountId, SettlementMemo, Vec<OwedPayment>);

/// A transaction of the payer's.
#[derive(Debug, Clone)]
struct Transaction {
    batch: u64,
    from: AccountId,
    memo: SettlementMemo,
    payments: Vec<OwedPayment>,
    /// It is in a closed ledger.
    closed: bool,
}

struct Party {
    config: NodeConfig,
    keys: SimKeys,
    node: Option<Node<SimKeys>>,
    facts: Vec<NodeFact>,
    /// Commits that are under way.
    pending: VecDeque<(u64, Vec<NodeFact>)>,
    /// Whether the facts are of a backup.
    imported: bool,
}

struct Pair {
    parties: [Party; 2],
    rng: Jitter,
    now: UnixMillis,
    link: Option<LinkId>,
    /// What is on the link, by who gets it.
    wire: [VecDeque<Vec<u8>>; 2],
    links: u64,
    circuits: u64,
    escrow: Escrow,
    claims: (u32, i64),
    ledger: BTreeMap<TransactionId, Transaction>,
    /// Numbers of transactions that will never be on it.
    failed: Vec<u64>,
    /// Payments that were asked for and not looked at yet.
    orders: VecDeque<Order>,
    checks: VecDeque<(TransactionId, ExpectedPayment)>,
    search: Option<(AccountId, SettlementMemo)>,
    granted: u64,
    /// The payer has forgotten claims: what it signed is more than what it knows that it was paid.
    forgot: bool,
    /// How bad a day it is, in percent.
    faults: u64,
}

fn config(i: usize) -> NodeConfig {
    let price = PricePer64KiB::new(PRICES[i]).unwrap();
    let rules = EscrowRules {
        min_deposit: s(1_000),
        min_life: 3_600,
        max_life: 8 * 86_400,
        margin: 7_200,
    };
    let tariff = Tariff {
        price,
        forward_ppm: ForwardPpm::NONE,
        forward_ceiling: price.at_least_times(20),
        max_step: Step::DEFAULT_LARGEST,
        network: NETWORK,
        asset: ASSET,
        rules,
    };
    let mut config = NodeConfig::new(IDS[i], tariff, 1_000_000);
    config.initial_credit = 0;
    config.pays_others = false;
    config.close_jitter_ms = 60_000;
    config.trust.period_ms = PERIOD;
    config.trust.min_payment = s(20);
    if i == PAYER {
        config.trust.max_owed = s(1_000_000);
    } else {
        config.trust.max_unsettled = s(LIMIT);
    }
    config
}

impl Pair {
    fn new(seed: u8, faults: u64) -> Self {
        let party = |i: usize| Party {
            config: config(i),
            keys: SimKeys::new(i as u64 + 1),
            node: None,
            facts: Vec::new(),
            pending: VecDeque::new(),
            imported: false,
        };
        let mut parties = [party(PAYER), party(PAYEE)];
        // A client's escrow with the payer, with more than is ever spent.
        let terms = EscrowTerms {
            network: NETWORK,
            asset: ASSET,
            payee: IDS[PAYER],
            payee_account: AccountId([8; 32]),
            escrow: EscrowId([5; 32]),
            s0: 1_060 << 32,
            expiry: START / 1_000 + 7 * 86_400,
            min_deposit: s(1_000),
        };
        let signer = parties[PAYER].keys.signer(&terms);
        let escrow = Escrow { terms, signer };
        parties[PAYER].facts.push(NodeFact::Believed {
            escrow,
            owner: Owner::Client,
            balance: s(1_000_000_000),
            margin: 7_200,
        });
        let mut pair = Pair {
            parties,
            rng: Jitter::new([seed; 32]),
            now: UnixMillis(START),
            link: None,
            wire: Default::default(),
            links: 100,
            circuits: 0,
            escrow,
            claims: (0, 0),
            ledger: BTreeMap::new(),
            failed: Vec::new(),
            orders: VecDeque::new(),
            checks: VecDeque::new(),
            search: None,
            granted: 0,
            forgot: false,
            faults,
        };
        pair.start(PAYER);
        pair.start(PAYEE);
        pair.connect();
        pair
    }

    fn bad(&mut self, in_hundred: u64) -> bool {
        self.rng.up_to(99) < in_hundred * self.faults / 100
    }

    fn start(&mut self, i: usize) {
        let seed = [self.rng.up_to(255) as u8; 32];
        let p = &mut self.parties[i];
        let (config, keys, facts) = (p.config, p.keys.clone(), p.facts.clone());
        p.node = Some(if std::mem::take(&mut p.imported) {
            Node::restore_backup(config, keys, seed, facts)
        } else {
            Node::restore(config, keys, seed, facts)
        });
        if i == PAYEE {
            let (account, _) = self.parties[PAYER].keys.settles();
            let peers = vec![Trusted {
                peer: IDS[PAYER],
                account,
                max_unsettled: None,
            }];
            self.tell(PAYEE, Input::Trust { account: TO, peers });
        } else {
            self.tell(
                PAYER,
                Input::LinkUp {
                    link: CLIENT,
                    peer: None,
                    obol: false,
                    address: None,
                },
            );
        }
    }

    fn connect(&mut self) {
        if self.link.is_some() || self.parties.iter().any(|p| p.node.is_none()) {
            return;
        }
        self.links += 1;
        let link = LinkId(self.links);
        self.link = Some(link);
        for i in [PAYER, PAYEE] {
            self.tell(
                i,
                Input::LinkUp {
                    link,
                    peer: Some(IDS[1 - i]),
                    obol: true,
                    address: None,
                },
            );
        }
    }

    fn cut(&mut self) {
        self.wire = Default::default();
        if let Some(link) = self.link.take() {
            for i in [PAYER, PAYEE] {
                self.tell(i, Input::LinkDown { link });
            }
        }
    }

    fn crash(&mut self, i: usize) {
        let made = self.rng.up_to(self.parties[i].pending.len() as u64);
        self.crash_after(i, made as usize);
    }

    /// Of the commits under way the first few were made.
    fn crash_after(&mut self, i: usize, made: usize) {
        for _ in 0..made {
            self.durable(i);
        }
        self.parties[i].pending.clear();
        self.parties[i].node = None;
        if i == PAYER {
            self.orders.clear();
            self.search = None;
        } else {
            self.checks.clear();
            self.granted = 0;
        }
        self.cut();
        self.start(i);
    }

    fn durable(&mut self, i: usize) -> Option<u64> {
        let (seq, facts) = self.parties[i].pending.pop_front()?;
        self.parties[i]
            .facts
            .extend(facts.iter().map(|f| NodeFact::decode(&f.encode()).expect("as written")));
        Some(seq)
    }

    fn tell(&mut self, i: usize, input: Input) {
        let now = self.now;
        let Some(node) = &mut self.parties[i].node else {
            return;
        };
        node.handle(now, input);
        while let Some(output) = self.parties[i].node.as_mut().and_then(Node::poll) {
            match output {
                Output::Persist { seq, facts } => self.parties[i].pending.push_back((seq, facts)),
                Output::SendLink { link, body } if self.link == Some(link) => self.wire[1 - i].push_back(body),
                Output::Grant { bytes, .. } if i == PAYEE => self.granted += bytes,
                Output::PayOwed {
                    batch,
                    from,
                    memo,
                    payments,
                } => self.orders.push_back((batch, from, memo, payments)),
                Output::FindPayments { from, memo } => self.search = Some((from, memo)),
                Output::CheckPayment {
                    transaction, payment, ..
                } => self.checks.push_back((transaction, payment)),
                Output::CloseLink { .. } => panic!("nobody did anything wrong"),
                _ => {}
            }
        }
    }

    /// A client pays both for 64 KiB, on a circuit of its own.
    fn pay(&mut self) {
        let Some(link) = self.link else {
            return;
        };
        self.circuits += 1;
        let (circuit, id) = (CircuitId(self.circuits), self.circuits as u32);
        self.tell(
            PAYER,
            Input::CircuitOpened {
                circuit,
                link: CLIENT,
                id,
            },
        );
        self.tell(PAYER, Input::CircuitExtended { circuit, link, id });
        self.tell(PAYEE, Input::CircuitOpened { circuit, link, id });
        self.claims = (self.claims.0 + 1, self.claims.1 + 30);
        let (k, cumulative) = (self.claims.0, s(self.claims.1));
        let claim = Claim {
            escrow: self.escrow.id(),
            k,
            cumulative,
            allocation: s(30),
            signature: keys::claim(&self.escrow, k, cumulative),
            opening: None,
        };
        let (n, step) = (1, Step::FIRST);
        for (i, forward, claim) in [(PAYER, Forward::Pass(s(20)), Some(claim)), (PAYEE, Forward::Last, None)] {
            let pay = ToNode::Pay(Pay {
                n,
                step,
                forward,
                claim,
            });
            let (body, metered) = (pay.encode(), 0);
            self.tell(i, Input::Message { circuit, body, metered });
        }
        if self.bad(20) {
            let metered = 0;
            self.tell(PAYEE, Input::CircuitClosed { circuit, metered });
        }
    }

    /// The ledger, as the payer's driver sees it: recorded before it is submitted, looked for before it is submitted again.
    fn submit(&mut self) {
        let Some(order) = self.orders.pop_front() else {
            return;
        };
        let batch = order.0;
        let Some(transaction) = self.reaches_the_ledger(&order) else {
            return self.tell(PAYER, Input::OwedNotPaid { batch });
        };
        // It is on the ledger, and its payer may never hear of it in this run.
        if self.bad(30) {
            return self.orders.push_back(order);
        }
        self.tell(PAYER, Input::OwedPaid { batch, transaction });
    }

    /// The transaction that does it, unless it failed.
    fn reaches_the_ledger(&mut self, (batch, from, memo, payments): &Order) -> Option<TransactionId> {
        if self.failed.contains(batch) {
            return None;
        }
        let known = self.ledger.iter().find(|(_, t)| t.batch == *batch);
        if let Some((id, known)) = known {
            assert_eq!(known.payments, *payments, "one number, one transaction");
            return Some(*id);
        }
        if self.bad(20) {
            self.failed.push(*batch);
            return None;
        }
        let mut id = [*batch as u8; 32];
        id[0] = self.ledger.len() as u8;
        let new = Transaction {
            batch: *batch,
            from: *from,
            memo: *memo,
            payments: payments.clone(),
            closed: true,
        };
        self.ledger.insert(TransactionId(id), new);
        Some(TransactionId(id))
    }

    fn find(&mut self) {
        let Some((from, memo)) = self.search.take() else {
            return;
        };
        let found = self.ledger.iter().filter(|(_, t)| (t.from, t.memo) == (from, memo));
        let transactions = found.map(|(id, t)| (*id, t.payments.clone())).collect();
        self.tell(PAYER, Input::PaymentsFound { transactions });
    }

    fn look(&mut self) {
        let Some((transaction, expected)) = self.checks.pop_front() else {
            return;
        };
        let is_away = self.bad(30);
        let result = match self.ledger.get(&transaction) {
            _ if is_away => Err(NotPaid::Unreachable),
            None => Err(NotPaid::Absent),
            Some(t) if t.closed && t.from == expected.from && t.memo == expected.memo => {
                let to_us = t.payments.iter().filter(|p| p.account == expected.to);
                Ok(to_us.map(|p| p.amount).sum())
            }
            Some(_) => Err(NotPaid::Wrong),
        };
        self.tell(
            PAYEE,
            Input::PaymentChecked {
                peer: IDS[PAYER],
                transaction,
                result,
            },
        );
    }

    fn deliver(&mut self, to: usize) {
        if let (Some(link), Some(body)) = (self.link, self.wire[to].pop_front()) {
            LinkMessage::decode(&body).expect("it can be read");
            self.tell(to, Input::LinkMessage { link, body });
        }
    }

    fn commit(&mut self, i: usize) {
        if let Some(upto) = self.durable(i) {
            self.tell(i, Input::Persisted { upto });
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        let (sequence, close_time) = (1_000, self.now.secs());
        for i in [PAYER, PAYEE] {
            self.tell(i, Input::LedgerClosed { sequence, close_time });
        }
    }

    /// One thing of what is under way happens, always the same one.
    fn one(&mut self) -> bool {
        for i in [PAYER, PAYEE] {
            if !self.parties[i].pending.is_empty() {
                self.commit(i);
                return true;
            }
            if !self.wire[i].is_empty() {
                self.deliver(i);
                return true;
            }
        }
        match () {
            () if !self.orders.is_empty() => self.submit(),
            () if self.search.is_some() => self.find(),
            () if !self.checks.is_empty() => self.look(),
            () => return false,
        }
        true
    }

    /// Everything that is under way comes to its end.
    fn settle_down(&mut self) {
        for _ in 0..10_000 {
            for i in [PAYER, PAYEE] {
                self.commit(i);
                self.deliver(i);
            }
            self.submit();
            self.find();
            self.look();
            let quiet = self.parties.iter().all(|p| p.pending.is_empty()) && self.wire.iter().all(VecDeque::is_empty);
            if quiet && self.orders.is_empty() && self.checks.is_empty() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn step(&mut self) {
        // One of what waits, or some, or all.
        let some = |pair: &mut Self, of: usize| pair.rng.up_to(of as u64);
        match self.rng.up_to(11) {
            0 | 1 => self.pay(),
            party @ 2..=5 => {
                let to = party as usize % 2;
                for _ in 0..=some(self, self.wire[to].len()) {
                    self.deliver(to);
                }
            }
            party @ 6..=7 => {
                let i = party as usize % 2;
                for _ in 0..=some(self, self.parties[i].pending.len()) {
                    self.commit(i);
                }
            }
            8 => self.submit(),
            9 => self.look(),
            10 => {
                let ms = self.rng.up_to(60_000);
                self.wait(ms);
            }
            _ => {
                if self.bad(10) {
                    let who = self.rng.up_to(1) as usize;
                    self.crash(who);
                } else if self.bad(10) {
                    self.cut();
                }
                self.connect();
            }
        }
        self.check();
    }

    // ---- what has to hold ----

    /// What a party's journal says that was signed or stated, and its allocations, and credit sold against it.
    fn durable_sums(&self, i: usize) -> (Stroops, Stroops, u64) {
        let (mut stated, mut allocated, mut credit) = (Stroops::ZERO, Stroops::ZERO, 0);
        for fact in &self.parties[i].facts {
            match fact {
                NodeFact::Trust(TrustFact::Signed { cumulative, .. } | TrustFact::Stated { cumulative, .. }) => {
                    stated = stated.max(*cumulative);
                }
                NodeFact::Trust(TrustFact::Allocated { amount, .. }) => {
                    allocated = allocated.checked_add(*amount).unwrap();
                }
                NodeFact::Trust(TrustFact::Spent { credit: c, .. }) => credit += c,
                // Circuits, and with them what was granted, are of one run.
                NodeFact::Restarted => credit = 0,
                _ => {}
            }
        }
        (stated, allocated, credit)
    }

    fn on_ledger(&self) -> Stroops {
        let all = self.ledger.values().flat_map(|t| &t.payments);
        all.map(|p| p.amount).sum()
    }

    fn check(&self) {
        let (signed, _, _) = self.durable_sums(PAYER);
        let (stated, allocated, credit) = self.durable_sums(PAYEE);
        assert!(
            stated <= signed,
            "what is owed was signed, and that was durable before it left"
        );
        assert!(allocated <= stated, "no more is used than is owed");
        assert!(self.granted <= credit, "nothing is sold before it is durable");
        assert!(self.on_ledger() <= signed, "nothing is paid that is not owed");
        let mut claimed = BTreeMap::new();
        for fact in &self.parties[PAYER].facts {
            if let NodeFact::Claim { escrow, cumulative, .. } = fact {
                claimed.insert(*escrow, *cumulative);
            }
        }
        let claimed: Stroops = claimed.into_values().sum();
        assert!(signed <= claimed || self.forgot, "invariant 1");
        if let Some(node) = &self.parties[PAYEE].node {
            let totals = node.trust_totals();
            assert!(totals.settled <= self.on_ledger(), "a payment counts once");
            let unsettled = totals.owed_to_us.saturating_sub(totals.settled);
            assert!(unsettled <= s(LIMIT), "{totals:?}");
        }
    }
}

/// The last payments are made, with nothing going wrong any more.
fn end(pair: &mut Pair) {
    pair.faults = 0;
    pair.connect();
    for _ in 0..20 {
        pair.settle_down();
        pair.wait(PERIOD);
        pair.check();
    }
    pair.settle_down();
    let (signed, _, _) = pair.durable_sums(PAYER);
    let owed = |i: usize| pair.parties[i].node.as_ref().expect("it runs").trust_totals();
    assert_eq!(owed(PAYER).owed, signed);
    let least = pair.parties[PAYER].config.trust.min_payment;
    assert!(
        signed.saturating_sub(pair.on_ledger()) < least,
        "all is paid but what is not worth it"
    );
    assert_eq!(owed(PAYEE).owed_to_us, signed, "and both know it");
    assert_eq!(owed(PAYEE).settled, pair.on_ledger());
    // And the next payment is made.
    let before = pair.granted;
    pair.pay();
    pair.settle_down();
    assert_eq!(pair.granted, before + UNIT);
}

#[test]
fn everything_that_is_owed_is_paid_once_whatever_goes_wrong() {
    for seed in 1..=30 {
        let mut pair = Pair::new(seed, if seed % 5 == 0 { 0 } else { 100 });
        for _ in 0..1_500 {
            pair.step();
        }
        let (signed, ..) = pair.durable_sums(PAYER);
        assert!(
            signed > s(LIMIT),
            "seed {seed}: more was owed than the limit, so some was paid: {signed}"
        );
        end(&mut pair);
    }
}

/// A death before one of the things that happen in a story.
#[derive(Debug, Clone, Copy)]
struct Death {
    before: usize,
    who: usize,
    /// How many of the commits that it had under way were made, at most.
    made: usize,
    /// It was about to submit a transaction: the ledger gets that, and nobody hears of it.
    deaf: bool,
}

/// Statements, a settlement that fails and is made again, its announcement and the payee's look for it. Says how many things happened,
/// and at which of them something is submitted.
fn owing(pair: &mut Pair, death: Option<Death>) -> (usize, Vec<usize>) {
    let (mut happened, mut submitted) = (0, Vec::new());
    for _ in 0..8 {
        pair.connect();
        pair.pay();
        pair.pay();
        loop {
            if let Some(Death { who, made, deaf, .. }) = death.filter(|death| death.before == happened) {
                happened += 1;
                if deaf {
                    let order = pair.orders.front().cloned().expect("something is to be submitted");
                    pair.reaches_the_ledger(&order);
                }
                pair.crash_after(who, made);
                pair.connect();
            }
            if pair.failed.is_empty() {
                pair.failed.extend(pair.orders.front().map(|order| order.0));
            }
            if pair.parties.iter().all(|p| p.pending.is_empty()) && !pair.orders.is_empty() {
                submitted.push(happened);
            }
            if !pair.one() {
                break;
            }
            happened += 1;
            pair.check();
        }
        pair.wait(PERIOD / 2);
    }
    (happened, submitted)
}

#[test]
fn a_death_at_any_moment_of_statements_and_their_settlement_loses_nothing() {
    let mut alive = Pair::new(1, 0);
    let (things, submitted) = owing(&mut alive, None);
    assert!(
        !alive.failed.is_empty() && !alive.ledger.is_empty() && things > 60,
        "{things}"
    );
    end(&mut alive);
    let mut deaths = Vec::new();
    for before in 0..things {
        for (who, made) in [PAYER, PAYEE]
            .into_iter()
            .flat_map(|who| [(who, 0), (who, 1), (who, 2)])
        {
            deaths.push(Death {
                before,
                who,
                made,
                deaf: false,
            });
        }
    }
    for before in submitted {
        deaths.push(Death {
            before,
            who: PAYER,
            made: 0,
            deaf: true,
        });
    }
    for death in deaths {
        let mut pair = Pair::new(1, 0);
        owing(&mut pair, Some(death));
        let told = std::panic::AssertUnwindSafe(|| end(&mut pair));
        if let Err(error) = std::panic::catch_unwind(told) {
            eprintln!("{death:?}");
            std::panic::resume_unwind(error);
        }
    }
}

#[test]
fn a_backup_of_either_side_loses_no_payment_and_pays_none_twice() {
    for (seed, who) in (1..=10).flat_map(|seed| [(seed, PAYER), (seed, PAYEE)]) {
        let mut pair = Pair::new(seed, 0);
        for _ in 0..400 {
            pair.step();
        }
        pair.settle_down();
        let backup = pair.parties[who].facts.clone();
        for _ in 0..200 {
            pair.step();
        }
        pair.settle_down();
        let (signed, ..) = pair.durable_sums(PAYER);
        pair.parties[who].facts = backup;
        pair.parties[who].imported = true;
        pair.crash(who);
        if who == PAYER {
            // The client's escrow is of the backup, too: there is another one.
            pair.new_escrow();
        }
        pair.connect();
        pair.settle_down();
        let totals = |i: usize| pair.parties[i].node.as_ref().expect("it runs").trust_totals();
        assert_eq!(totals(PAYER).owed, signed, "it learned what it had signed");
        assert_eq!(totals(PAYEE).owed_to_us, signed);
        assert_eq!(totals(PAYER).paid, pair.on_ledger(), "and what it had paid");
        end(&mut pair);
        // And it stays so.
        pair.crash(who);
        end(&mut pair);
    }
}

impl Pair {
    fn new_escrow(&mut self) {
        self.forgot = true;
        self.escrow.terms.escrow = EscrowId([6; 32]);
        self.escrow.signer = self.parties[PAYER].keys.signer(&self.escrow.terms);
        self.claims = (0, 0);
        self.wait(0);
        self.links += 1;
        let (circuit, id) = (CircuitId(1_000_000 + self.links), 1);
        let link = CLIENT;
        self.tell(PAYER, Input::CircuitOpened { circuit, link, id });
        let escrow = self.escrow.id();
        let opening = Some(self.escrow.terms.opening());
        let owner = keys::owner_of(escrow, IDS[PAYER], OwnerAsks::Books);
        let query = ToNode::BalanceQuery { escrow, opening, owner };
        let (body, metered) = (query.encode(), 0);
        self.tell(PAYER, Input::Message { circuit, body, metered });
        let result = Ok(s(1_000_000_000));
        self.tell(PAYER, Input::EscrowRead { escrow, result });
    }
}
