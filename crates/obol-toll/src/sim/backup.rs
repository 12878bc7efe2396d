//! An imported backup is a new epoch (H13): relay and client alike sign and credit nothing more on what it names.

use super::desk::{BALANCE, CLIENT, Desk, NEXT, PREV, PRICE};
use super::world::Party;
use super::{Plan, Sim, s};
use crate::escrow::Escrow;
use crate::fact::{NodeFact, OutFact, PayerFact};
use crate::node::{Input, Node, Output};
use crate::payer::Payer;
use obol_cell::{EscrowState, Forward, LinkMessage, RefuseCode, Step, ToOrigin};

const FIRST: Step = Step::FIRST;
const MIB: u64 = 1 << 20;

/// The process begins with these facts, which somebody kept at some time.
fn import(d: &mut Desk, facts: Vec<NodeFact>) {
    d.facts = facts;
    d.out.clear();
    d.node = Some(Node::restore_backup(d.config, d.keys.clone(), [7; 32], d.facts.clone()));
    d.tell(Input::Tick);
}

fn flushes(d: &mut Desk) -> Vec<(obol_cell::EscrowId, u32)> {
    let flushed = d.out.iter().filter_map(|o| match o {
        Output::Flush { escrow, k, .. } => Some((escrow.id(), *k)),
        _ => None,
    });
    let flushed = flushed.collect();
    d.out.retain(|o| !matches!(o, Output::Flush { .. }));
    flushed
}

fn buys(d: &mut Desk, e: &Escrow, k: u32, cumulative: i64) -> u64 {
    let c = d.circuit(CLIENT, false);
    d.pay(
        c,
        1,
        FIRST,
        Forward::Last,
        Some(Desk::claim(e, k, cumulative, PRICE)),
        0,
    );
    let answers = d.answers(c);
    let credit = d.credit(c);
    if credit == 0 {
        let refused = matches!(
            answers[..],
            [ToOrigin::Refused {
                code: RefuseCode::Closing,
                ..
            }]
        );
        assert!(refused, "{answers:?}");
    }
    credit
}

#[test]
fn a_payee_flushes_the_newest_claims_of_a_backup_at_once_and_takes_nothing_more_on_them() {
    let mut d = Desk::new();
    d.config.close_jitter_ms = 3_600_000;
    d.start();
    let (paid, unused) = (d.client_escrow(), d.client_escrow());
    let of_peer = d.prev_escrow();
    assert!(buys(&mut d, &paid, 1, 25) > 0);
    let backup = d.facts.clone();
    // After the backup: 15 that were free, and 10 more.
    assert!(buys(&mut d, &paid, 2, 25) > 0);
    assert!(buys(&mut d, &paid, 3, 35) > 0);
    import(&mut d, backup);
    assert_eq!(flushes(&mut d), [(paid.id(), 1)]);
    for start in 0..3 {
        if start > 0 {
            // As usual from now on; the flush is repeated.
            d.start();
            assert_eq!(flushes(&mut d), [(paid.id(), 1)], "start {start}");
        } else {
            d.start();
            flushes(&mut d);
        }
        // Draws on what is not free any more, repetitions, and new money.
        for (k, cumulative) in [(1, 25), (2, 25), (3, 35), (4, 45)] {
            assert_eq!(buys(&mut d, &paid, k, cumulative), 0);
        }
        assert_eq!(buys(&mut d, &unused, 1, 10), 0);
        d.sent(PREV);
        d.link(PREV, &Desk::leg(&of_peer, 1, 10, Vec::new()));
        assert_eq!(d.prev_balance(&of_peer).state, EscrowState::Closing);
        assert_eq!(d.node().totals().claimed, s(25));
    }
    // What is opened after it is as good as ever, also once the journal was compacted.
    d.ledger();
    let new = d.client_escrow();
    assert!(buys(&mut d, &new, 1, 25) > 0);
    d.facts = d.node().snapshot().expect("settled");
    d.start();
    assert!(buys(&mut d, &new, 2, 25) > 0, "a draw");
    assert_eq!(buys(&mut d, &paid, 5, 45), 0);
    assert_eq!(buys(&mut d, &unused, 1, 10), 0);
}

#[test]
fn a_payer_signs_nothing_more_on_the_escrows_of_a_backup_and_gets_the_rest_back() {
    let mut d = Desk::new();
    let own = d.own_escrow();
    let e = d.client_escrow();
    let pass = |d: &mut Desk, e: &Escrow, k: u32| {
        let c = d.circuit(CLIENT, true);
        let sum = i64::from(k) * 30;
        d.pay(c, 1, FIRST, Forward::Pass(s(20)), Some(Desk::claim(e, k, sum, 30)), 0);
        d.passed_on().pop()
    };
    assert_eq!(pass(&mut d, &e, 1).map(|p| p.cumulative), Some(s(20)));
    let backup = d.facts.clone();
    assert_eq!(pass(&mut d, &e, 2).map(|p| p.cumulative), Some(s(40)));
    import(&mut d, backup);
    for _ in 0..2 {
        d.start();
        let sent = d.sent(NEXT);
        assert!(!sent.iter().any(|m| matches!(m, LinkMessage::LegPay(_))), "{sent:?}");
        assert!(
            sent.iter()
                .any(|m| matches!(m, LinkMessage::LegQuery { escrow, .. } if *escrow == own))
        );
        // Its payee says what it has, and is asked to flush it.
        d.tell_known(own, EscrowState::Open, 2, 40, 0);
        let sent = d.sent(NEXT);
        assert!(
            matches!(sent[..], [LinkMessage::LegClose { escrow, .. }] if escrow == own),
            "{sent:?}"
        );
        d.tell_known(own, EscrowState::Closing, 2, 40, 40);
        assert_eq!(d.sent(NEXT), [], "no spare claim");
        d.ledger();
        let e = d.client_escrow();
        assert_eq!(pass(&mut d, &e, 1), None, "nor a draw");
    }
    let other = d.own_escrow();
    let e = d.client_escrow();
    assert_eq!(pass(&mut d, &e, 1).map(|p| p.escrow), Some(other));
    d.wait(86_400_000);
    let refunded = |o: &Output| matches!(o, Output::Refund { escrow, .. } if escrow.id() == own);
    assert!(d.out.iter().any(refunded));
}

#[test]
fn an_opening_of_a_backup_is_not_made_again_and_what_became_of_it_is_looked_for_at_its_end() {
    let mut d = Desk::new();
    let own = d.own_escrow();
    let opened = |f: &NodeFact| matches!(f, NodeFact::Out(OutFact::Opened { escrow, .. }) if *escrow == own);
    let before: Vec<NodeFact> = d.facts.iter().take_while(|f| !opened(f)).copied().collect();
    import(&mut d, before);
    d.start();
    assert!(!d.out.iter().any(|o| matches!(o, Output::OpenEscrow { .. })));
    d.wait(86_400_000);
    assert!(d.out.iter().any(|o| matches!(o, Output::Refund { .. })));
}

#[test]
fn a_client_of_a_backup_asks_its_guard_to_flush_and_pays_by_another_escrow() {
    let mut sim = Sim::new(Plan {
        deposit: BALANCE * 100,
        ..Plan::default()
    });
    sim.run(30_000);
    sim.open_tunnel(0, &[0, 1, 2], 8 * MIB).expect("everybody is up");
    while sim.clients[0].signed.is_empty() {
        sim.step();
    }
    let backup = sim.clients[0].journal.clone();
    let (&old, _) = sim.clients[0].signed.iter().next().expect("it paid");
    sim.run(60_000);
    let signed = sim.clients[0].signed[&old];
    assert!(sim.past[0].complete > 0);
    // The machine is lost; another one has the backup.
    let c = &mut sim.clients[0];
    c.journal = backup;
    let facts: Vec<_> = c
        .journal
        .iter()
        .map(|f| PayerFact::decode(f).expect("as written"))
        .collect();
    c.payer = Some(Payer::restore_backup(c.config, c.keys.clone(), [3; 32], facts));
    sim.say(0, crate::payer::Input::Tick);
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(60_000);
    assert!(sim.past[1].complete > 0, "paid again");
    let c = &sim.clients[0];
    assert_eq!(c.signed[&old], signed, "nothing more was signed on the old one");
    assert_eq!(c.signed.len(), 2);
    assert!(sim.relays[0].settled.contains_key(&old), "and its guard has flushed it");
    assert_eq!(sim.relays[0].settled[&old], sim.relays[0].durable.claims[&old].1);
    // The next start is as usual.
    sim.crash(Party::Client(0));
    sim.run(30_000);
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(60_000);
    assert!(sim.past.last().expect("it ended").complete > 0);
    assert_eq!(sim.clients[0].signed[&old], signed);
}
