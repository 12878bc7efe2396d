//! What we owe the relay after us instead of securing it, message by message.

use super::desk::{CLIENT, Desk, ME, NEXT, NEXT_PEER, rules};
use super::trust::transaction;
use super::world::{ASSET, NETWORK};
use super::{keys, s};
use crate::fact::{NodeFact, TrustFact};
use crate::node::{Input, Node, Output, PAYMENTS_IN_ONE, Report};
use crate::trust::{OwedPayment, Statement};
use obol_cell::{
    AccountId, Forward, LegTrust, LinkMessage, PeerId, Signature, Step, ToNode, ToOrigin, TransactionId, TrustBooks,
};

const FIRST: Step = Step::FIRST;
const THEIR_ACCOUNT: AccountId = AccountId([0x78; 32]);
const PERIOD: u64 = 3_600_000;

fn books(d: &Desk, max_unsettled: i64, k: u32, cumulative: i64, unallocated: i64, settled: i64) -> TrustBooks {
    let (account, memo) = d.keys.settles();
    let statement = Statement {
        network: NETWORK,
        asset: ASSET,
        payer: ME,
        payee: NEXT_PEER,
        account,
        memo,
        k,
        cumulative: s(cumulative),
    };
    TrustBooks {
        account: THEIR_ACCOUNT,
        max_unsettled: s(max_unsettled),
        k,
        cumulative: s(cumulative),
        signature: if k > 0 {
            keys::statement(&statement)
        } else {
            Signature([0; 64])
        },
        unallocated: s(unallocated),
        settled: s(settled),
    }
}

fn tell_books(d: &mut Desk, books: TrustBooks) {
    d.link(NEXT, &LinkMessage::LegTrusted(books));
}

/// The relay after us trusts us with so much, and we would owe so much.
fn trusted(max_unsettled: i64, max_owed: i64) -> Desk {
    let mut d = Desk::new();
    d.config.trust.max_owed = s(max_owed);
    d.config.trust.period_ms = PERIOD;
    // Nothing is paid earlier than its period.
    d.config.close_jitter_ms = 10 * PERIOD;
    d.start();
    let told = books(&d, max_unsettled, 0, 0, 0, 0);
    tell_books(&mut d, told);
    d.sent(NEXT);
    d
}

/// A client pays us and the relay after us 20; what that is told.
fn owes(d: &mut Desk, e: &crate::Escrow, k: u32) -> Option<LegTrust> {
    let c = d.circuit(CLIENT, true);
    let claim = Some(Desk::claim(e, k, i64::from(k) * 30, 30));
    d.pay(c, 1, FIRST, Forward::Pass(s(20)), claim, 0);
    statements(d).pop()
}

fn statements(d: &mut Desk) -> Vec<LegTrust> {
    let sent = d.sent(NEXT).into_iter().filter_map(|m| match m {
        LinkMessage::LegTrust(statement) => Some(statement),
        _ => None,
    });
    sent.collect()
}

fn pay_outs(d: &mut Desk) -> Vec<(u64, Vec<OwedPayment>)> {
    let out = d.out.iter().filter_map(|o| match o {
        Output::PayOwed {
            batch,
            from,
            memo,
            payments,
        } => {
            assert_eq!((*from, *memo), d.keys.settles());
            Some((*batch, payments.clone()))
        }
        _ => None,
    });
    let out = out.collect();
    d.out.retain(|o| !matches!(o, Output::PayOwed { .. }));
    out
}

fn announced(d: &mut Desk) -> Vec<(TransactionId, i64)> {
    let sent = d.sent(NEXT).into_iter().filter_map(|m| match m {
        LinkMessage::LegPaid { transaction, amount } => Some((transaction, amount.get())),
        _ => None,
    });
    sent.collect()
}

fn confirm(d: &mut Desk, n: u8, total: i64) {
    let (transaction, total) = (transaction(n), s(total));
    d.link(NEXT, &LinkMessage::LegSettled { transaction, total });
}

#[test]
fn a_relay_that_trusts_us_is_paid_on_by_statements_within_its_limit_and_ours() {
    for (theirs, ours) in [(50, 1_000), (1_000, 50)] {
        let mut d = trusted(theirs, ours);
        let e = d.client_escrow();
        let c = d.circuit(CLIENT, true);
        d.ask(c, &ToNode::QuoteQuery, 0);
        assert!(matches!(d.answer(c), ToOrigin::Quote(quote) if quote.next));
        let first = owes(&mut d, &e, 1).expect("it is owed");
        assert_eq!((first.k, first.cumulative, first.allocations.len()), (1, s(20), 1));
        assert_eq!(first.memo, d.keys.settles().1);
        assert_eq!(owes(&mut d, &e, 2).expect("it is owed").cumulative, s(40));
        assert_eq!(owes(&mut d, &e, 3), None, "{theirs}, {ours}");
        assert_eq!(d.node().totals().signed, s(40), "money out");
    }
    // Not without being told so, and not if we never owe.
    for max_owed in [0, 1_000] {
        let mut d = Desk::new();
        d.config.trust.max_owed = s(max_owed);
        d.start();
        if max_owed == 0 {
            let told = books(&d, 1_000, 0, 0, 0, 0);
            tell_books(&mut d, told);
        }
        let e = d.client_escrow();
        assert_eq!(owes(&mut d, &e, 1), None);
    }
}

#[test]
fn escrow_comes_before_trust_and_a_statement_leaves_only_when_it_is_durable() {
    let mut d = trusted(1_000, 1_000);
    let e = d.client_escrow();
    d.commits = false;
    assert_eq!(owes(&mut d, &e, 1), None);
    d.commits = true;
    d.commit();
    assert_eq!(statements(&mut d).len(), 1);
    let own = d.own_escrow();
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, Forward::Pass(s(20)), Some(Desk::claim(&e, 2, 60, 30)), 0);
    assert_eq!(d.passed_on()[0].escrow, own);
}

#[test]
fn what_is_owed_is_paid_once_a_period_announced_until_it_is_confirmed_and_makes_room() {
    let mut d = trusted(30, 1_000);
    d.config.trust.min_payment = s(15);
    d.node.as_mut().expect("it runs").reconfigure(d.config);
    let e = d.client_escrow();
    assert!(owes(&mut d, &e, 1).is_some());
    assert_eq!(owes(&mut d, &e, 2), None);
    d.wait(2 * PERIOD);
    let (account, amount) = (THEIR_ACCOUNT, s(20));
    let payments = vec![OwedPayment { account, amount }];
    assert_eq!(pay_outs(&mut d), [(0, payments.clone())]);
    d.wait(5 * PERIOD);
    assert_eq!(pay_outs(&mut d), [], "it is on its way");
    // The process starts again: the same transaction is asked for.
    d.start();
    assert_eq!(pay_outs(&mut d), [(0, payments)]);
    d.sent(NEXT);
    d.tell(Input::OwedPaid {
        batch: 0,
        transaction: transaction(1),
    });
    assert_eq!(announced(&mut d), [(transaction(1), 20)]);
    d.tell(Input::OwedPaid {
        batch: 0,
        transaction: transaction(2),
    });
    assert_eq!(announced(&mut d), [], "a transaction has one hash");
    d.start();
    assert_eq!(
        (pay_outs(&mut d), announced(&mut d)),
        (vec![], vec![(transaction(1), 20)])
    );
    let told = books(&d, 30, 1, 20, 0, 0);
    tell_books(&mut d, told);
    d.ledger();
    let e = d.client_escrow();
    assert_eq!(owes(&mut d, &e, 1), None, "the payee does not know yet");
    confirm(&mut d, 1, 20);
    assert_eq!(owes(&mut d, &e, 2).expect("there is room").cumulative, s(40));
    // Once.
    let facts = d.facts.len();
    confirm(&mut d, 1, 20);
    confirm(&mut d, 9, 20);
    assert_eq!(d.facts.len(), facts);
    d.start();
    assert_eq!(announced(&mut d), []);
    let totals = d.node().trust_totals();
    assert_eq!((totals.owed, totals.paid), (s(40), s(20)));
}

#[test]
fn what_is_not_worth_a_payment_waits_and_what_failed_is_paid_later_by_another_transaction() {
    let mut d = trusted(1_000, 1_000);
    d.config.trust.min_payment = s(21);
    d.node.as_mut().expect("it runs").reconfigure(d.config);
    let e = d.client_escrow();
    owes(&mut d, &e, 1);
    d.wait(3 * PERIOD);
    assert_eq!(pay_outs(&mut d), []);
    d.ledger();
    owes(&mut d, &e, 2);
    d.wait(2 * PERIOD);
    let (account, amount) = (THEIR_ACCOUNT, s(40));
    let payments = vec![OwedPayment { account, amount }];
    assert_eq!(pay_outs(&mut d), [(0, payments.clone())]);
    d.tell(Input::OwedNotPaid { batch: 0 });
    d.tell(Input::OwedNotPaid { batch: 7 });
    d.start();
    d.wait(2 * PERIOD);
    assert_eq!(pay_outs(&mut d), [(1, payments)], "never the number again");
}

#[test]
fn much_that_is_owed_is_paid_earlier() {
    let mut d = trusted(30, 1_000);
    d.config.close_jitter_ms = 60_000;
    d.config.trust.period_ms = 1_000 * PERIOD;
    d.start();
    let told = books(&d, 30, 0, 0, 0, 0);
    tell_books(&mut d, told);
    let e = d.client_escrow();
    owes(&mut d, &e, 1);
    d.wait(60_001);
    assert_eq!(pay_outs(&mut d), [], "two thirds of the limit are not much");
    let told = books(&d, 25, 1, 20, 0, 0);
    tell_books(&mut d, told);
    d.ledger();
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, Forward::Pass(s(5)), Some(Desk::claim(&e, 2, 45, 15)), 0);
    d.wait(60_001);
    assert_eq!(pay_outs(&mut d).len(), 1);
}

#[test]
fn a_hundred_payees_are_paid_by_one_transaction() {
    let mut d = Desk::new();
    d.config.trust.max_owed = s(1_000_000);
    d.config.trust.period_ms = PERIOD;
    for n in 0..PAYMENTS_IN_ONE as u8 + 50 {
        let (peer, account) = (PeerId([n; 32]), AccountId([n; 32]));
        d.facts.push(NodeFact::Trust(TrustFact::Agreed { peer, account }));
        let (k, cumulative) = (1, s(100 + i64::from(n)));
        d.facts.push(NodeFact::Trust(TrustFact::Signed { peer, k, cumulative }));
    }
    d.start();
    d.wait(2 * PERIOD);
    let batches = pay_outs(&mut d);
    let sizes: Vec<_> = batches
        .iter()
        .map(|(batch, payments)| (*batch, payments.len()))
        .collect();
    assert_eq!(sizes, [(0, 100), (1, 50)]);
    let of = |n: u8| OwedPayment {
        account: AccountId([n; 32]),
        amount: s(100 + i64::from(n)),
    };
    assert!(batches[0].1.contains(&of(0)) && batches[1].1.contains(&of(149)));
    // A compacted journal says the same.
    d.tell(Input::OwedPaid {
        batch: 0,
        transaction: transaction(1),
    });
    let totals = d.node().trust_totals();
    d.facts = d.node().snapshot().expect("settled");
    d.start();
    assert_eq!(d.node().trust_totals(), totals);
    let again = pay_outs(&mut d);
    assert_eq!(again, batches[1..], "what is under way, and nothing else");
}

#[test]
fn one_payee_that_can_never_be_paid_keeps_no_other_from_being_paid() {
    let mut d = Desk::new();
    d.config.trust.max_owed = s(1_000_000);
    d.config.trust.period_ms = PERIOD;
    d.config.close_jitter_ms = PERIOD / 10;
    for n in 0..3 {
        let (peer, account) = (PeerId([n; 32]), AccountId([n; 32]));
        d.facts.push(NodeFact::Trust(TrustFact::Agreed { peer, account }));
        let (k, cumulative) = (1, s(100));
        d.facts.push(NodeFact::Trust(TrustFact::Signed { peer, k, cumulative }));
    }
    d.start();
    // Of the three the second has no trust line any more.
    let bad = AccountId([1; 32]);
    let (mut together, mut alone) = (0, 0);
    for _ in 0..4 {
        d.wait(PERIOD);
        for (batch, payments) in pay_outs(&mut d) {
            let is_bad = payments.iter().any(|p| p.account == bad);
            match payments.len() {
                3 => together += 1,
                1 => alone += u32::from(is_bad),
                _ => panic!("{payments:?}"),
            }
            d.tell(match is_bad {
                true => Input::OwedNotPaid { batch },
                false => Input::OwedPaid {
                    batch,
                    transaction: transaction(batch as u8),
                },
            });
        }
    }
    assert_eq!(together, 1, "found out once");
    assert!(alone >= 2, "it is owed on, and tried on");
    assert_eq!(d.node().trust_totals().paid, s(200));
}

#[test]
fn a_payee_that_missed_a_statement_gets_it_again_and_what_it_has_free_is_used() {
    let mut d = trusted(1_000, 1_000);
    let e = d.client_escrow();
    let first = owes(&mut d, &e, 1).expect("owed");
    d.start();
    let told = books(&d, 1_000, 0, 0, 0, 0);
    tell_books(&mut d, told);
    let again = statements(&mut d);
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].k, again[0].cumulative, again[0].signature),
        (1, s(20), first.signature)
    );
    assert!(again[0].allocations.is_empty());
    // The circuit that it was for is gone: all of it is free, and covers the next payment.
    let told = books(&d, 20, 1, 20, 20, 0);
    tell_books(&mut d, told);
    d.ledger();
    let e = d.client_escrow();
    let next = owes(&mut d, &e, 1).expect("owed");
    assert_eq!((next.k, next.cumulative), (2, s(20)));
    assert_eq!(owes(&mut d, &e, 2), None);
}

#[test]
fn a_payer_of_a_backup_learns_from_its_own_signature_what_it_owes() {
    let mut d = trusted(1_000, 1_000);
    let e = d.client_escrow();
    owes(&mut d, &e, 1);
    let backup = d.facts.clone();
    owes(&mut d, &e, 2);
    owes(&mut d, &e, 3);
    d.facts = backup;
    d.node = Some(Node::restore_backup(d.config, d.keys.clone(), [7; 32], d.facts.clone()));
    d.tell(Input::Tick);
    d.start();
    let told = books(&d, 1_000, 3, 60, 0, 0);
    let mut forged = told;
    forged.signature.0[0] ^= 1;
    tell_books(&mut d, forged);
    assert!(d.out.contains(&Output::Report(Report::BadSignature)));
    d.ledger();
    let e = d.client_escrow();
    assert_eq!(
        owes(&mut d, &e, 1),
        None,
        "somebody whose books are wrong is owed nothing"
    );
    tell_books(&mut d, told);
    assert_eq!(d.node().trust_totals().owed, s(60));
    // Nor is anything before it is known what was paid since.
    assert_eq!(owes(&mut d, &e, 2), None);
    d.wait(3 * PERIOD);
    assert_eq!(pay_outs(&mut d), []);
    d.start();
    let (from, memo) = d.keys.settles();
    assert!(d.out.contains(&Output::FindPayments { from, memo }));
    let (account, amount) = (THEIR_ACCOUNT, s(40));
    let elsewhere = OwedPayment {
        account: AccountId([1; 32]),
        amount: s(1),
    };
    let transactions = vec![(transaction(1), vec![elsewhere, OwedPayment { account, amount }])];
    d.tell(Input::PaymentsFound { transactions });
    assert_eq!(announced(&mut d), [(transaction(1), 40)], "and its payee hears of it");
    assert_eq!(d.node().trust_totals().paid, s(40));
    tell_books(&mut d, told);
    d.ledger();
    let e = d.client_escrow();
    let next = owes(&mut d, &e, 1).expect("owed");
    assert_eq!((next.k, next.cumulative), (4, s(80)), "never less than it ever signed");
}

#[test]
fn a_payee_that_forgot_settlements_is_told_of_them_again() {
    let mut d = trusted(1_000, 1_000);
    let e = d.client_escrow();
    owes(&mut d, &e, 1);
    d.wait(2 * PERIOD);
    let batch = pay_outs(&mut d)[0].0;
    d.tell(Input::OwedPaid {
        batch,
        transaction: transaction(1),
    });
    confirm(&mut d, 1, 20);
    d.sent(NEXT);
    let told = books(&d, 1_000, 1, 20, 0, 20);
    tell_books(&mut d, told);
    assert_eq!(announced(&mut d), []);
    let told = books(&d, 1_000, 1, 20, 0, 0);
    tell_books(&mut d, told);
    assert_eq!(announced(&mut d), [(transaction(1), 20)]);
}

#[test]
fn what_was_not_signed_before_its_link_went_is_not_owed() {
    let mut d = trusted(30, 1_000);
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, true);
    let pay = ToNode::Pay(obol_cell::Pay {
        n: 1,
        step: FIRST,
        forward: Forward::Pass(s(20)),
        claim: Some(Desk::claim(&e, 1, 30, 30)),
    });
    let (now, node) = (d.now, d.node.as_mut().expect("it runs"));
    let (body, metered) = (pay.encode(), 0);
    node.handle(
        now,
        Input::Message {
            circuit: c,
            body,
            metered,
        },
    );
    d.tell(Input::LinkDown { link: NEXT });
    assert_eq!(d.node().trust_totals().owed, s(0));
    d.tell(Input::LinkUp {
        link: NEXT,
        peer: Some(NEXT_PEER),
        obol: true,
        address: None,
    });
    let (network, asset, rules) = (NETWORK, ASSET, rules());
    d.link(NEXT, &LinkMessage::LegHello { network, asset, rules });
    let told = books(&d, 30, 0, 0, 0, 0);
    tell_books(&mut d, told);
    assert_eq!(owes(&mut d, &e, 2).expect("owed").cumulative, s(20));
}
