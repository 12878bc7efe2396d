//! One relay among neighbours that say whatever they like, in whatever order (invariant 5): it neither panics nor remembers more than
//! what its data plane knows, and whatever they say, it gives out no more than it was paid.

use super::desk::{CLIENT, Desk, NEXT, PREV, PRICE, books_query};
use super::s;
use super::world::Durable;
use crate::escrow::{Escrow, NotBelieved};
use crate::ids::CircuitId;
use crate::node::{Input, Output};
use obol_cell::{Allocation, EscrowId, EscrowState, Forward, LinkMessage, LowWater, RefuseCode, Step, Stroops, ToNode};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Something that somebody does; what exactly follows from the numbers.
#[derive(Debug, Clone)]
struct Move {
    kind: u8,
    a: u64,
    b: u64,
    c: u64,
    bytes: Vec<u8>,
}

fn a_move() -> impl Strategy<Value = Move> {
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    (0u8..20, 0u64..1 << 32, 0u64..1 << 32, 0u64..1 << 32, bytes).prop_map(|(kind, a, b, c, bytes)| Move {
        kind,
        a,
        b,
        c,
        bytes,
    })
}

struct Play {
    desk: Desk,
    escrows: [Escrow; 2],
    own: EscrowId,
    k: [u32; 2],
    cumulative: [i64; 2],
    circuits: Vec<CircuitId>,
    from_client: BTreeSet<CircuitId>,
    n: BTreeMap<CircuitId, u16>,
    metered: BTreeMap<CircuitId, u64>,
    granted: BTreeMap<CircuitId, u64>,
    durable: Durable,
    read: usize,
}

impl Play {
    fn new() -> Self {
        let mut desk = Desk::new();
        let escrows = [desk.client_escrow(), desk.prev_escrow()];
        let own = desk.own_escrow();
        Play {
            desk,
            escrows,
            own,
            k: [0; 2],
            cumulative: [0; 2],
            circuits: Vec::new(),
            from_client: BTreeSet::new(),
            n: BTreeMap::new(),
            metered: BTreeMap::new(),
            granted: BTreeMap::new(),
            durable: Durable::default(),
            read: 0,
        }
    }

    fn one(&self, m: &Move) -> Option<CircuitId> {
        (!self.circuits.is_empty()).then(|| self.circuits[m.a as usize % self.circuits.len()])
    }

    /// The next claim number and sum of an escrow that cover `amount`: mostly; sometimes others.
    fn claim(&mut self, which: usize, amount: i64, m: &Move) -> (u32, i64) {
        if m.c % 16 < 14 {
            self.k[which] += 1;
            // Ahead of what is allocated now and then, and drawn on then.
            self.cumulative[which] += [amount, amount, 0, 2 * amount][(m.c >> 4 & 3) as usize];
        }
        let (k, cumulative) = (self.k[which], self.cumulative[which]);
        match m.c % 16 {
            14 => (k.saturating_sub((m.b % 4) as u32), cumulative - (m.b % 50) as i64),
            15 => (k + (m.b % 2_000) as u32, cumulative + (m.b % 2_000_000) as i64),
            _ => (k, cumulative),
        }
    }

    /// A payment on a circuit, both halves, mostly as an honest client's: the next number, the right amount.
    fn pay(&mut self, c: CircuitId, m: &Move) {
        let from_client = self.from_client.contains(&c);
        let last = self.n.get(&c).copied().unwrap_or(0);
        let n = [last + 1, last + 1, last + 1, last.max(1), (m.b % 9) as u16 + 1][(m.a >> 8) as usize % 5];
        self.n.insert(c, last.max(n));
        let power = [0, 0, 0, 1, 2, 3][(m.b >> 4) as usize % 6];
        let step = Step::from_power(power).unwrap();
        let cost = PRICE << power;
        let pass = [0, 0, 2 * PRICE, 2 * PRICE, 20 * cost, 20 * cost + 1][(m.b >> 8) as usize % 6];
        let forward = match m.b >> 16 & 3 {
            0 => Forward::Last,
            1 if m.c.is_multiple_of(5) => Forward::Pass(Stroops::ZERO),
            _ => Forward::Pass(s(pass)),
        };
        let right = if forward == Forward::Last { cost } else { cost + pass };
        let amount = [right, right, right, right, right / 2, right + 1, 0][(m.b >> 20) as usize % 7];
        let metered = self.metered.get(&c).copied().unwrap_or(0);
        if from_client {
            let (k, cumulative) = self.claim(0, amount, m);
            let mut claim = Desk::claim(&self.escrows[0], k, cumulative.max(0), amount);
            if m.c.is_multiple_of(197) {
                claim.signature.0[5] ^= 1;
            }
            let claim = (!m.c.is_multiple_of(101)).then_some(claim);
            return self.desk.pay(c, n, step, forward, claim, metered);
        }
        let (k, cumulative) = self.claim(1, amount, m);
        let halves = [[true, false], [false, true]][(m.a >> 16 & 1) as usize];
        for money in halves {
            if money && m.a >> 17 & 7 > 0 {
                self.desk.leg_pay(&self.escrows[1], k, cumulative.max(0), c, n, amount);
            } else if !money && m.a >> 20 & 7 > 0 {
                self.desk.pay(c, n, step, forward, None, metered);
            }
        }
    }

    fn ask(&mut self, c: CircuitId, message: &ToNode) {
        let metered = self.metered.get(&c).copied().unwrap_or(0);
        self.desk.ask(c, message, metered);
    }

    fn make(&mut self, m: &Move) {
        let n = (1 + m.b % 5) as u16;
        let code = [
            RefuseCode::NoFunds,
            RefuseCode::OverLimit,
            RefuseCode::Failed,
            RefuseCode::Closing,
        ][(m.c % 4) as usize];
        match (m.kind, self.one(m)) {
            (0 | 1, _) if self.circuits.len() < 6 => {
                let from = if m.a & 1 == 0 { CLIENT } else { PREV };
                let c = self.desk.circuit(from, m.a & 6 != 0);
                self.circuits.push(c);
                if from == CLIENT {
                    self.from_client.insert(c);
                }
            }
            (2, Some(c)) => {
                let metered = self.metered.remove(&c).unwrap_or(0);
                self.desk.close(c, metered);
                self.circuits.retain(|other| *other != c);
            }
            (3..=9, Some(c)) => self.pay(c, m),
            (10, Some(c)) => self.desk.link(
                PREV,
                &LinkMessage::LegRefused {
                    circuit: c.0 as u32,
                    n,
                    distance: m.c as u8,
                    code,
                },
            ),
            (11, Some(c)) => {
                let metered = self.metered.entry(c).or_default();
                *metered += m.b % 400_000;
                let metered = *metered;
                self.desk.tell(Input::CreditLow { circuit: c, metered });
            }
            (12, Some(c)) => {
                let escrow = self.escrows[0].id();
                let id = n;
                let questions = [
                    ToNode::QuoteQuery,
                    ToNode::Listen {
                        id,
                        low: LowWater::at_least(m.c),
                    },
                    ToNode::Cancel { id },
                    books_query(escrow, None),
                ];
                self.ask(c, &questions[(m.c % 4) as usize]);
            }
            (13, _) => {
                let states = [EscrowState::Open, EscrowState::Open, EscrowState::Unknown];
                let state = states[(m.a % 3) as usize];
                let (k, cumulative, free) = ((m.b % 6) as u32, (m.b % 200) as i64, (m.c % 300) as i64);
                self.desk.tell_known(self.own, state, k, cumulative, free);
            }
            (14 | 15, _) => {
                self.desk.wait(m.a % 9_000);
                self.desk.ledger();
            }
            (16, Some(c)) if m.b.is_multiple_of(4) => self.desk.tell(Input::Message {
                circuit: c,
                body: m.bytes.clone(),
                metered: m.b,
            }),
            (17, _) if m.b.is_multiple_of(16) => {
                let link = [PREV, NEXT][(m.a & 1) as usize];
                let body = m.bytes.clone();
                self.desk.tell(Input::LinkMessage { link, body });
            }
            (18, _) if m.b.is_multiple_of(8) => {
                self.desk.start();
                self.circuits.clear();
                self.metered.clear();
            }
            (19, _) => {
                let allocations = (0..m.a % 70).map(|i| Allocation {
                    circuit: (m.b + i) as u32,
                    n,
                    amount: s(PRICE),
                });
                let message = Desk::leg(
                    &self.escrows[1],
                    self.k[1] + 1,
                    self.cumulative[1],
                    allocations.take(64).collect(),
                );
                self.k[1] += 1;
                self.desk.link(PREV, &message);
                let result = Err(NotBelieved::Absent);
                let escrow = EscrowId([m.c as u8; 32]);
                self.desk.tell(Input::EscrowRead { escrow, result });
            }
            _ => {}
        }
        self.look();
    }

    fn look(&mut self) {
        for fact in &self.desk.facts[self.read..] {
            self.durable.add(0, s(PRICE), *fact);
        }
        self.read = self.desk.facts.len();
        self.durable.check(0);
        for output in self.desk.out.drain(..) {
            if let Output::Grant { circuit, bytes } = output {
                *self.granted.entry(circuit).or_default() += bytes;
            }
        }
        for (circuit, granted) in &self.granted {
            let sold = self.durable.credit.get(circuit).copied().unwrap_or(0);
            assert!(*granted <= sold, "{granted} bytes of credit, {sold} were sold");
        }
        let totals = self.desk.node().totals();
        assert!(totals.signed <= totals.claimed);
        let sizes = self.desk.node().sizes();
        // The escrows' owners asked on circuits of their own.
        assert!(sizes.circuits <= self.circuits.len() + 4, "{sizes:?}");
        assert!(sizes.escrows <= 8 && sizes.timers <= 400, "{sizes:?}");
    }
}

proptest! {
    #[test]
    fn a_relay_among_liars_gives_out_no_more_than_it_was_paid(moves in prop::collection::vec(a_move(), 1..200)) {
        let mut play = Play::new();
        for m in &moves {
            play.make(m);
        }
        // And says the same after a restart.
        let before = play.desk.node().totals();
        play.desk.start();
        let after = play.desk.node().totals();
        prop_assert_eq!((before.claimed, before.signed), (after.claimed, after.signed));
        prop_assert!(after.held <= before.held);
        play.look();
    }
}
