//! What the ledger shows of a relay's openings, and what it does not: a ledger reader tries to find circuits in them (C4).

use super::desk::rules;
use super::keys::{self, SimKeys};
use super::s;
use super::world::{ASSET, NETWORK, START};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::ids::{CircuitId, LinkId};
use crate::keys::PayeeKeys;
use crate::node::{Input, Node, NodeConfig, Output};
use obol_cell::{
    AccountId, Balance, EscrowAcceptance, EscrowId, EscrowOffer, EscrowState, EscrowTerms, Forward, ForwardPpm,
    LinkMessage, OwnerAsks, Pay, PeerId, PricePer64KiB, Step, Stroops, Tariff, ToNode, UNIT,
};
use std::collections::{BTreeMap, BTreeSet};

const ME: PeerId = PeerId([200; 32]);
const CLIENT: LinkId = LinkId(1_000);
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const PRICE: i64 = 10;

/// What a reader of the ledger sees of an opening: when, to whom (say that it found out), and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    at: u64,
    peer: PeerId,
    deposit: Stroops,
}

/// One relay, its peers, a client with a large escrow, and somebody who reads the ledger.
struct Town {
    node: Node<SimKeys>,
    keys: SimKeys,
    theirs: SimKeys,
    now: UnixMillis,
    numbers: u64,
    seen: Vec<Seen>,
    /// Ours, with what is signed on each.
    ours: BTreeMap<EscrowId, (PeerId, Escrow)>,
    /// The circuit of each payment that was passed on, with its escrow.
    paid_by: Vec<(u32, EscrowId)>,
    client: Option<Escrow>,
    claims: (u32, i64),
    queue: Vec<Output>,
}

fn peer(n: usize) -> PeerId {
    PeerId([n as u8 + 1; 32])
}

fn link(n: usize) -> LinkId {
    LinkId(n as u64 + 1)
}

fn config() -> NodeConfig {
    let price = PricePer64KiB::new(PRICE as u64).unwrap();
    let tariff = Tariff {
        price,
        forward_ppm: ForwardPpm::NONE,
        forward_ceiling: price.at_least_times(20),
        max_step: Step::DEFAULT_LARGEST,
        network: NETWORK,
        asset: ASSET,
        rules: rules(),
    };
    let mut config = NodeConfig::new(ME, tariff, 1_000_000);
    config.initial_credit = 0;
    config.deposit = s(100_000);
    config.life = 7 * 86_400;
    config
}

impl Town {
    fn new(config: NodeConfig, peers: usize, seed: u8, weights: Option<BTreeMap<PeerId, u64>>) -> Self {
        let keys = SimKeys::new(1);
        let mut town = Town {
            node: Node::new(config, keys.clone(), [seed; 32]),
            keys,
            theirs: SimKeys::new(2),
            now: UnixMillis(START),
            numbers: 0,
            seen: Vec::new(),
            ours: BTreeMap::new(),
            paid_by: Vec::new(),
            client: None,
            claims: (0, 0),
            queue: Vec::new(),
        };
        town.tell(Input::PayeeAccount {
            account: AccountId([8; 32]),
            can_accept: true,
        });
        if let Some(weights) = weights {
            town.tell(Input::Candidates { weights });
        }
        town.ledger();
        town.tell(Input::LinkUp {
            link: CLIENT,
            peer: None,
            obol: false,
            address: None,
        });
        for n in 0..peers {
            town.connect(n);
        }
        town
    }

    fn connect(&mut self, n: usize) {
        self.tell(Input::LinkUp {
            link: link(n),
            peer: Some(peer(n)),
            obol: true,
            address: None,
        });
        let (network, asset, rules) = (NETWORK, ASSET, rules());
        self.link(n, &LinkMessage::LegHello { network, asset, rules });
    }

    fn ledger(&mut self) {
        self.tell(Input::LedgerClosed {
            sequence: 1_000,
            close_time: self.now.secs(),
        });
    }

    fn link(&mut self, n: usize, message: &LinkMessage) {
        self.tell(Input::LinkMessage {
            link: link(n),
            body: message.encode(),
        });
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        while let Some(output) = self.node.poll() {
            match output {
                Output::Persist { seq, .. } => self.node.handle(self.now, Input::Persisted { upto: seq }),
                other => self.queue.push(other),
            }
        }
        while !self.queue.is_empty() {
            let output = self.queue.remove(0);
            self.act(output);
        }
    }

    /// The driver, the ledger and the peers: all of them prompt and honest.
    fn act(&mut self, output: Output) {
        match output {
            Output::WantEscrow {
                peer, deposit, life, ..
            } => {
                let at = self.now.since(UnixMillis(START));
                self.seen.push(Seen { at, peer, deposit });
                self.numbers += 1;
                let offer = EscrowOffer {
                    escrow: self.keys.fresh(self.numbers),
                    network: NETWORK,
                    asset: ASSET,
                    s0: 1_060 << 32,
                    expiry: self.now.secs() + u64::from(life),
                    deposit,
                };
                self.tell(Input::Offer { peer, offer });
            }
            Output::SendLink { link, body } => {
                let n = link.0 as usize - 1;
                match LinkMessage::decode(&body).expect("it can be read") {
                    LinkMessage::LegOffer(offer) => self.accept(n, &offer),
                    LinkMessage::LegQuery { escrow, .. } => self.books(n, escrow, 0, Stroops::ZERO),
                    LinkMessage::LegPay(pay) => {
                        for a in &pay.allocations {
                            self.paid_by.push((a.circuit, pay.escrow));
                        }
                    }
                    _ => {}
                }
            }
            Output::OpenEscrow { escrow, deposit, .. } => {
                self.tell(Input::EscrowOpened {
                    escrow: escrow.id(),
                    balance: deposit,
                });
            }
            Output::Refund { escrow, .. } => {
                self.tell(Input::EscrowEnded {
                    escrow: escrow.id(),
                    paid: Stroops::ZERO,
                });
            }
            Output::CheckAbsent { escrow } => {
                let exists = Some(false);
                self.tell(Input::EscrowChecked { escrow, exists });
            }
            Output::ReadEscrow { escrow } => {
                let (escrow, result) = (escrow.id(), Ok(s(1_000_000_000_000)));
                self.tell(Input::EscrowRead { escrow, result });
            }
            _ => {}
        }
    }

    fn accept(&mut self, n: usize, offer: &EscrowOffer) {
        let payee_account = AccountId([9; 32]);
        let min_deposit = rules().min_deposit;
        let terms = EscrowTerms::new(offer, peer(n), payee_account, min_deposit);
        let signer = self.theirs.signer(&terms);
        let escrow = Escrow { terms, signer };
        self.ours.insert(escrow.id(), (peer(n), escrow));
        let acceptance = EscrowAcceptance {
            escrow: offer.escrow,
            signer,
            payee_account,
            min_deposit,
            refund: keys::refund(&escrow),
        };
        self.link(n, &LinkMessage::LegAccepted(acceptance));
    }

    fn books(&mut self, n: usize, escrow: EscrowId, newest_k: u32, cumulative: Stroops) {
        let balance = Balance {
            escrow,
            newest_k,
            cumulative,
            unallocated: Stroops::ZERO,
            state: EscrowState::Open,
        };
        self.link(n, &LinkMessage::LegBalance(balance));
    }

    /// Time passes, with a ledger every minute at least.
    fn wait(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while let Some(at) = self.node.next_wake().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
        self.ledger();
    }

    fn open_client_escrow(&mut self) {
        self.numbers += 1;
        let offer = EscrowOffer {
            escrow: self.theirs.fresh(self.numbers),
            network: NETWORK,
            asset: ASSET,
            s0: 1_060 << 32,
            expiry: self.now.secs() + u64::from(rules().max_life),
            deposit: s(1_000_000_000_000),
        };
        let terms = EscrowTerms::new(&offer, ME, AccountId([8; 32]), rules().min_deposit);
        let signer = self.keys.signer(&terms);
        let escrow = Escrow { terms, signer };
        let c = self.circuit(None);
        self.say(
            c,
            &ToNode::BalanceQuery {
                escrow: escrow.id(),
                opening: Some(terms.opening()),
                owner: keys::owner_of(escrow.id(), ME, OwnerAsks::Books),
            },
            0,
        );
        self.client = Some(escrow);
        self.claims = (0, 0);
    }

    fn circuit(&mut self, to: Option<usize>) -> CircuitId {
        self.numbers += 1;
        let (circuit, id) = (CircuitId(self.numbers), self.numbers as u32);
        let link_to_client = CLIENT;
        self.tell(Input::CircuitOpened {
            circuit,
            link: link_to_client,
            id,
        });
        if let Some(n) = to {
            let link = link(n);
            self.tell(Input::CircuitExtended { circuit, link, id });
        }
        circuit
    }

    fn say(&mut self, circuit: CircuitId, message: &ToNode, metered: u64) {
        let body = message.encode();
        self.tell(Input::Message { circuit, body, metered });
    }

    /// Payment n of a circuit: a unit here, `forward` to the next hop.
    fn pay(&mut self, circuit: CircuitId, n: u16, forward: i64) {
        let escrow = self.client.expect("there is one");
        self.claims = (self.claims.0 + 1, self.claims.1 + PRICE + forward);
        let (k, cumulative) = self.claims;
        let claim = obol_cell::Claim {
            escrow: escrow.id(),
            k,
            cumulative: s(cumulative),
            allocation: s(PRICE + forward),
            signature: keys::claim(&escrow, k, s(cumulative)),
            opening: None,
        };
        let step = Step::FIRST;
        let forward = Forward::Pass(s(forward));
        let claim = Some(claim);
        self.say(
            circuit,
            &ToNode::Pay(Pay {
                n,
                step,
                forward,
                claim,
            }),
            // What it bought before, it used.
            u64::from(n - 1) * UNIT,
        );
    }
}

fn even(peers: usize) -> Option<BTreeMap<PeerId, u64>> {
    Some((0..peers).map(|n| (peer(n), 1)).collect())
}

/// Ten days; every hour something happens that `traffic` says.
fn ten_days(mut traffic: impl FnMut(&mut Town, u64)) -> Town {
    let mut town = Town::new(config(), 6, 3, even(6));
    for hour in 0..240 {
        if hour % 150 == 24 {
            town.open_client_escrow();
        }
        if hour > 24 {
            traffic(&mut town, hour);
        }
        town.wait(HOUR);
    }
    town
}

#[test]
fn circuits_change_nothing_of_what_is_opened_when_and_to_whom() {
    let quiet = ten_days(|_, _| {});
    assert!(quiet.seen.len() >= 12, "six peers, and six again: {:?}", quiet.seen);
    // Circuits without payments, all to one peer, with links that come and go.
    let busy = ten_days(|town, hour| {
        for _ in 0..20 {
            let c = town.circuit(Some(2));
            let metered = 1_000_000;
            town.tell(Input::CircuitClosed { circuit: c, metered });
        }
        if hour % 7 == 0 {
            town.tell(Input::LinkDown { link: link(2) });
            town.connect(2);
        }
    });
    assert_eq!(busy.seen, quiet.seen);
    // A few payments, each hour to another peer: sums that move no deposit from its least.
    let paying = |order: fn(u64) -> usize| {
        ten_days(move |town, hour| {
            let c = town.circuit(Some(order(hour)));
            town.pay(c, 1, 20);
            let metered = 0;
            town.tell(Input::CircuitClosed { circuit: c, metered });
        })
    };
    let one = paying(|hour| hour as usize % 6);
    let other = paying(|hour| 5 - hour as usize % 6);
    assert!(one.paid_by.len() > 150, "{}", one.paid_by.len());
    assert_eq!(one.seen, quiet.seen);
    assert_eq!(other.seen, quiet.seen);
}

#[test]
fn what_volumes_change_is_the_deposit_and_not_the_time() {
    let quiet = ten_days(|_, _| {});
    // 12,000 a day for one peer, in two ways that have nothing but their sums in common.
    let times = |town: &Town| {
        town.seen
            .iter()
            .map(|seen| (seen.at, seen.peer))
            .collect::<BTreeSet<_>>()
    };
    let few = ten_days(|town, _| {
        let c = town.circuit(Some(1));
        for n in 1..=10 {
            town.pay(c, n, 50);
        }
    });
    let many = ten_days(|town, hour| {
        for _ in 0..if hour % 2 == 0 { 20 } else { 0 } {
            let c = town.circuit(Some(1));
            town.pay(c, 1, 50);
        }
    });
    assert_eq!(times(&few), times(&quiet));
    assert_eq!(times(&many), times(&quiet));
    let deposits = |town: &Town| {
        let to = |n: usize| {
            town.seen
                .iter()
                .filter(|x| x.peer == peer(n))
                .map(|x| x.deposit.get())
                .collect::<Vec<_>>()
        };
        (to(1), to(2))
    };
    let ((paid, unpaid), (paid_too, _)) = (deposits(&few), deposits(&many));
    assert!(unpaid.iter().all(|deposit| *deposit == 100_000), "{unpaid:?}");
    assert!(paid.iter().any(|deposit| *deposit > 100_000), "{paid:?}");
    assert_eq!(paid.len(), paid_too.len());
    for (a, b) in paid.iter().zip(&paid_too) {
        // The same volume but for the hours around the batch.
        assert!(a.abs_diff(*b) <= 3 * 1_000, "{paid:?}, {paid_too:?}");
    }
}

#[test]
fn batches_come_at_another_time_of_each_period_and_of_each_start() {
    let times = |seed: u8| {
        let mut config = config();
        config.openings_per_batch = 1;
        let mut town = Town::new(config, 8, seed, even(8));
        town.wait(3 * DAY);
        town.seen.iter().map(|seen| seen.at).collect::<Vec<_>>()
    };
    let one = times(1);
    assert_eq!(one.len(), 8, "one a batch");
    assert!(one[0] <= 600_000, "soon after the start");
    for (i, at) in one[1..].iter().enumerate() {
        assert_eq!(at / (6 * HOUR), i as u64 + 1, "one in each period");
    }
    let within: BTreeSet<u64> = one[1..].iter().map(|at| at % (6 * HOUR) / HOUR).collect();
    assert!(within.len() >= 3, "{one:?}");
    assert_ne!(times(2), one);
}

#[test]
fn heavier_relays_and_those_that_were_paid_more_come_first() {
    let mut firsts = [0; 4];
    for seed in 0..60 {
        let mut config = config();
        config.openings_per_batch = 1;
        let weights = (0..4).map(|n| (peer(n), [1, 1, 1, 50][n])).collect();
        let mut town = Town::new(config, 4, seed, Some(weights));
        town.wait(HOUR);
        let first = town.seen[0].peer;
        firsts[(0..4).find(|n| peer(*n) == first).expect("a peer")] += 1;
    }
    assert!(firsts[3] > 40, "{firsts:?}");
    assert!(firsts[..3].iter().sum::<u32>() > 0, "and it is no rule: {firsts:?}");
}

#[test]
fn nobody_is_opened_to_who_is_no_candidate_though_circuits_lead_there() {
    let mut config = config();
    config.opening_jitter_ms = 0;
    config.opening_period_ms = 0;
    let some = Some((0..2).map(|n| (peer(n), 1)).collect());
    let mut town = Town::new(config, 2, 1, some);
    town.connect(4);
    town.circuit(Some(4));
    town.wait(DAY);
    let to = |town: &Town| town.seen.iter().map(|x| x.peer).collect::<BTreeSet<_>>();
    assert_eq!(to(&town), BTreeSet::from([peer(0), peer(1)]));
    // The consensus names it: then it is one.
    let weights = even(5).expect("five");
    town.tell(Input::Candidates { weights });
    town.wait(60_000);
    assert_eq!(to(&town), BTreeSet::from([peer(0), peer(1), peer(4)]));
}

#[test]
fn circuits_move_to_the_next_escrow_one_by_one_before_the_margin_begins() {
    let mut config = config();
    config.opening_jitter_ms = 0;
    config.opening_period_ms = 0;
    config.life = 86_400;
    let mut town = Town::new(config, 1, 5, even(1));
    town.wait(60_000);
    town.open_client_escrow();
    let circuits: Vec<CircuitId> = (0..20).map(|_| town.circuit(Some(0))).collect();
    let mut n = 0;
    let mut moved_at = BTreeMap::new();
    let mut first = None;
    let mut back = 0;
    // Every five minutes each circuit pays, until the margin of the first escrow begins.
    let margin_begins = (86_400 - 7_200) * 1_000;
    while town.now.since(UnixMillis(START)) < margin_begins - 300_000 {
        n += 1;
        town.paid_by.clear();
        for c in &circuits {
            town.pay(*c, n, 20);
        }
        let by = town.paid_by.clone();
        assert_eq!(by.len(), 20, "everybody is paid on, all the time");
        let first = *first.get_or_insert(by[0].1);
        for (circuit, escrow) in by {
            if escrow != first {
                moved_at.entry(circuit).or_insert(town.now);
            } else {
                back += u32::from(moved_at.contains_key(&circuit));
            }
        }
        town.wait(300_000);
    }
    assert_eq!((town.ours.len(), back), (2, 0), "one successor, and nobody goes back");
    let times: BTreeSet<UnixMillis> = moved_at.values().copied().collect();
    assert!(times.len() >= 5, "not all at once: {times:?}");
    // A circuit that is new then is paid on by the new one at once.
    let c = town.circuit(Some(0));
    town.paid_by.clear();
    town.pay(c, 1, 20);
    assert_ne!(Some(town.paid_by[0].1), first);
    // Whoever did not move does so now.
    town.wait(1_000_000);
    town.paid_by.clear();
    for c in &circuits {
        town.pay(*c, n + 1, 20);
    }
    assert_eq!(town.paid_by.len(), 20);
    assert!(town.paid_by.iter().all(|(_, escrow)| Some(*escrow) != first));
}

#[test]
fn a_payee_that_was_not_there_when_its_escrow_was_closed_hears_of_it_later() {
    let mut config = config();
    config.opening_jitter_ms = 0;
    config.opening_period_ms = 0;
    let mut town = Town::new(config, 1, 5, even(1));
    town.wait(60_000);
    let escrow = *town.ours.keys().next().expect("one was opened");
    town.tell(Input::LinkDown { link: link(0) });
    town.tell(Input::Close { escrow });
    town.tell(Input::LinkUp {
        link: link(0),
        peer: Some(peer(0)),
        obol: true,
        address: None,
    });
    let (network, asset, rules) = (NETWORK, ASSET, rules());
    let hello = LinkMessage::LegHello { network, asset, rules };
    let heard = |town: &mut Town, message: &LinkMessage| {
        let now = town.now;
        let body = message.encode();
        town.node.handle(now, Input::LinkMessage { link: link(0), body });
        let mut heard = Vec::new();
        while let Some(output) = town.node.poll() {
            match output {
                Output::Persist { seq, .. } => town.node.handle(now, Input::Persisted { upto: seq }),
                Output::SendLink { body, .. } => heard.push(LinkMessage::decode(&body).expect("it can be read")),
                _ => {}
            }
        }
        heard
    };
    let asked = heard(&mut town, &hello);
    assert!(
        asked
            .iter()
            .any(|m| matches!(m, LinkMessage::LegQuery { escrow: e, .. } if *e == escrow))
    );
    let books = Balance {
        escrow,
        newest_k: 0,
        cumulative: s(0),
        unallocated: s(0),
        state: EscrowState::Open,
    };
    let told = heard(&mut town, &LinkMessage::LegBalance(books));
    assert_eq!(told, [LinkMessage::LegClose { escrow, final_k: 0 }]);
}

#[test]
fn the_time_of_a_flush_is_drawn_anew_after_a_restart() {
    use super::desk::{CLIENT as FROM, Desk};
    let mut d = Desk::new();
    d.config.close_jitter_ms = HOUR;
    d.start();
    let e = d.client_escrow();
    let c = d.circuit(FROM, false);
    d.pay(c, 1, Step::FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    d.ask(
        c,
        &ToNode::CloseEscrow {
            escrow: e.id(),
            final_k: 1,
            owner: keys::owner_of(e.id(), super::desk::ME, OwnerAsks::Close { final_k: 1 }),
        },
        0,
    );
    let flushed = |d: &Desk| d.out.iter().any(|o| matches!(o, Output::Flush { .. }));
    // Started again and again, each time with another time that is not now, and always within the hour.
    let (kept, now) = (d.facts.clone(), d.now);
    let mut times = BTreeSet::new();
    for seed in 1..9 {
        d.facts = kept.clone();
        d.now = now;
        d.out.clear();
        d.node = Some(Node::restore(
            d.config,
            d.keys.clone(),
            [seed * 29; 32],
            d.facts.clone(),
        ));
        d.tell(Input::Tick);
        assert!(!flushed(&d), "a start is no sign of a flush");
        while !flushed(&d) {
            d.wait(60_000);
            assert!(d.now.since(now) <= HOUR + 60_000);
        }
        times.insert(d.now);
    }
    assert!(times.len() >= 5, "{times:?}");
}
