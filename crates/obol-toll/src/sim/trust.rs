//! What the relay before us owes instead of securing it, message by message.

use super::desk::{Desk, ME, NEXT, NEXT_PEER, PREV, PREV_PEER, PRICE, rules};
use super::world::{ASSET, NETWORK};
use super::{keys, s};
use crate::fact::{NodeFact, TrustFact};
use crate::ids::CircuitId;
use crate::node::{Input, Node, Output, Report, TrustTotals};
use crate::trust::{ExpectedPayment, NotPaid, Statement, Trusted};
use obol_cell::{
    AccountId, Allocation, Forward, LegTrust, LinkMessage, RefuseCode, SettlementMemo, Signature, Step, Stroops,
    ToNode, ToOrigin, TransactionId, TrustBooks, UNIT,
};

const FIRST: Step = Step::FIRST;
const OUR_ACCOUNT: AccountId = AccountId([0x77; 32]);

pub(super) fn transaction(n: u8) -> TransactionId {
    TransactionId([n; 32])
}

fn list(d: &Desk) -> Input {
    let peers = vec![Trusted {
        peer: PREV_PEER,
        account: d.theirs.settles().0,
        max_unsettled: None,
    }];
    let account = OUR_ACCOUNT;
    Input::Trust { account, peers }
}

/// The relay before us may owe so much.
fn trusting(max_unsettled: i64) -> Desk {
    let mut d = Desk::new();
    d.config.trust.max_unsettled = s(max_unsettled);
    restart(&mut d);
    d
}

fn restart(d: &mut Desk) {
    d.start();
    let list = list(d);
    d.tell(list);
    d.sent(PREV);
}

fn signed(d: &Desk, k: u32, cumulative: i64) -> (Stroops, SettlementMemo, Signature) {
    let (account, memo) = d.theirs.settles();
    let cumulative = s(cumulative);
    let statement = Statement {
        network: NETWORK,
        asset: ASSET,
        payer: PREV_PEER,
        payee: ME,
        account,
        memo,
        k,
        cumulative,
    };
    (cumulative, memo, keys::statement(&statement))
}

/// A statement of the relay before us, with an allocation for a circuit's payment.
fn stated(d: &Desk, k: u32, cumulative: i64, to: Option<(CircuitId, u16, i64)>) -> LegTrust {
    let (cumulative, memo, signature) = signed(d, k, cumulative);
    let allocations = to.into_iter().map(|(circuit, n, amount)| Allocation {
        circuit: circuit.0 as u32,
        n,
        amount: s(amount),
    });
    LegTrust {
        k,
        cumulative,
        memo,
        signature,
        allocations: allocations.collect(),
    }
}

fn state(d: &mut Desk, k: u32, cumulative: i64, to: Option<(CircuitId, u16, i64)>) {
    let statement = stated(d, k, cumulative, to);
    d.link(PREV, &LinkMessage::LegTrust(statement));
}

/// The books that the relay before us was told since the last look.
fn told(d: &mut Desk) -> Option<TrustBooks> {
    let sent = d.sent(PREV).into_iter().filter_map(|m| match m {
        LinkMessage::LegTrusted(books) => Some(books),
        _ => None,
    });
    let all: Vec<_> = sent.collect();
    all.last().copied()
}

/// A circuit of the relay before us buys a step with what that owes.
fn buys(d: &mut Desk, k: u32, cumulative: i64, amount: i64) -> u64 {
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    state(d, k, cumulative, Some((c, 1, amount)));
    d.credit(c)
}

fn next_is_open(d: &mut Desk) -> bool {
    let c = d.circuit(PREV, true);
    d.ask(c, &ToNode::QuoteQuery, 0);
    match d.answer(c) {
        ToOrigin::Quote(quote) => quote.next,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_relay_on_the_list_is_told_so_and_nobody_else() {
    let mut d = Desk::new();
    d.config.trust.max_unsettled = s(70);
    d.start();
    d.sent(PREV);
    d.sent(NEXT);
    let list = list(&d);
    d.tell(list);
    let books = told(&mut d).expect("it is told");
    assert_eq!((books.account, books.max_unsettled), (OUR_ACCOUNT, s(70)));
    assert_eq!((books.k, books.cumulative, books.settled), (0, s(0), s(0)));
    assert_eq!(d.sent(NEXT), []);
    // On another link, too; and when it is not trusted any more.
    d.tell(Input::LinkDown { link: PREV });
    d.tell(Input::LinkUp {
        link: PREV,
        peer: Some(PREV_PEER),
        obol: true,
        address: None,
    });
    let (network, asset, rules) = (NETWORK, ASSET, rules());
    d.link(PREV, &LinkMessage::LegHello { network, asset, rules });
    assert!(told(&mut d).is_some());
    let (account, peers) = (OUR_ACCOUNT, Vec::new());
    d.tell(Input::Trust { account, peers });
    assert_eq!(told(&mut d).expect("it is told").max_unsettled, s(0));
}

#[test]
fn a_statement_buys_this_hops_own_bytes_once_it_is_durable() {
    let mut d = trusting(1_000);
    d.commits = false;
    assert_eq!(buys(&mut d, 1, PRICE, PRICE), 0, "nothing before it is durable");
    d.commits = true;
    d.commit();
    let granted: u64 = d
        .out
        .iter()
        .map(|o| if let Output::Grant { bytes, .. } = o { *bytes } else { 0 })
        .sum();
    assert_eq!(granted, UNIT);
    let totals = d.node().totals();
    assert_eq!(
        (totals.claimed, totals.held, totals.earned),
        (s(0), s(0), s(0)),
        "no secured money"
    );
    assert_eq!(d.node().trust_totals().owed_to_us, s(PRICE));
    let spent = d
        .facts
        .iter()
        .any(|f| matches!(f, NodeFact::Trust(TrustFact::Spent { amount, credit: UNIT, .. }) if *amount == s(PRICE)));
    assert!(spent);
}

#[test]
fn what_is_only_owed_is_never_passed_on() {
    let mut d = trusting(1_000);
    d.own_escrow();
    assert!(!next_is_open(&mut d), "a hop that is paid by trust says so");
    let c = d.circuit(PREV, true);
    d.pay(c, 1, FIRST, Forward::Pass(s(20)), None, 0);
    state(&mut d, 1, 30, Some((c, 1, 30)));
    let sent = d.sent(NEXT);
    let code = RefuseCode::NoFunds;
    assert!(
        matches!(sent[..], [LinkMessage::LegRefused { n: 1, distance: 1, code: c, .. }] if c == code),
        "{sent:?}"
    );
    assert_eq!(d.credit(c), 0);
    // Nor when it is sent again; what is held buys bytes here.
    d.pay(c, 1, FIRST, Forward::Pass(s(20)), None, 0);
    d.wait(5_000);
    assert_eq!(d.passed_on(), []);
    d.pay(c, 1, FIRST, Forward::Pass(s(0)), None, 0);
    assert_eq!(d.credit(c), 3 * UNIT);
    assert_eq!(d.node().totals().signed, s(0));
    // With an escrow of the relay before us it is another matter.
    d.ledger();
    d.prev_escrow();
    assert!(next_is_open(&mut d));
}

#[test]
fn secured_and_owed_money_of_one_circuit_are_kept_apart() {
    let mut d = trusting(1_000);
    d.own_escrow();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, true);
    // 30 that are owed are held after a refusal; then 30 that are secured are passed on.
    d.pay(c, 1, FIRST, Forward::Pass(s(20)), None, 0);
    state(&mut d, 1, 30, Some((c, 1, 30)));
    assert_eq!(d.passed_on(), []);
    d.pay(c, 2, FIRST, Forward::Pass(s(20)), None, 0);
    d.leg_pay(&e, 1, 30, c, 2, 30);
    let pays = d.passed_on();
    assert_eq!((pays.len(), pays[0].cumulative), (1, s(20)));
    assert_eq!(d.credit(c), UNIT);
    // A step that passes nothing on takes what is owed first, and secured money for the rest.
    d.pay(c, 3, Step::from_power(1).unwrap(), Forward::Last, None, UNIT);
    d.leg_pay(&e, 2, 50, c, 3, 20);
    assert_eq!(d.credit(c), 0, "two units are too much now");
    d.pay(c, 3, FIRST, Forward::Pass(s(0)), None, UNIT);
    assert_eq!(d.credit(c), 5 * UNIT);
    let totals = d.node().totals();
    assert_eq!((totals.claimed, totals.signed), (s(50), s(20)));
    assert_eq!((totals.earned, totals.held), (s(30), s(0)));
}

#[test]
fn no_more_is_owed_than_the_limit() {
    let mut d = trusting(25);
    assert_eq!(buys(&mut d, 1, 10, 10), UNIT);
    assert_eq!(buys(&mut d, 2, 20, 10), UNIT);
    let near = d.out.iter().any(|o| {
        matches!(
            o,
            Output::Report(Report::Level {
                alarm: true,
                used: 20,
                ..
            })
        )
    });
    assert!(near, "80 %");
    d.sent(PREV);
    assert_eq!(buys(&mut d, 3, 30, 10), 0);
    let books = told(&mut d).expect("it is told why");
    assert_eq!((books.k, books.cumulative, books.max_unsettled), (2, s(20), s(25)));
    assert_eq!(buys(&mut d, 3, 25, 5), 0, "at the limit, but no price");
    assert_eq!(d.node().trust_totals().owed_to_us, s(25));
}

#[test]
fn a_statement_counts_once_and_never_falls() {
    let mut d = trusting(1_000);
    assert_eq!(buys(&mut d, 1, 10, 10), UNIT);
    for (k, cumulative) in [(1, 10), (2, 9), (0, 20), (2_000, 20), (1 << 31, 20)] {
        d.sent(PREV);
        assert_eq!(buys(&mut d, k, cumulative, 10), 0, "{k}, {cumulative}");
        assert_eq!(told(&mut d).expect("told").cumulative, s(10));
    }
    // More than it covers, in one or in two.
    assert_eq!(buys(&mut d, 2, 15, 10), 0);
    assert_eq!(buys(&mut d, 2, 20, 10), UNIT);
    // After a restart, too.
    restart(&mut d);
    assert_eq!(buys(&mut d, 2, 20, 10), 0);
    assert_eq!(buys(&mut d, 3, 20, 10), 0);
    assert_eq!(buys(&mut d, 4, 30, 10), UNIT);
    // One number later than the other, as two links bring them.
    let late = stated(&d, 5, 40, None);
    assert_eq!(buys(&mut d, 6, 50, 10), UNIT);
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    let allocation = Allocation {
        circuit: c.0 as u32,
        n: 1,
        amount: s(10),
    };
    let allocations = vec![allocation];
    d.link(PREV, &LinkMessage::LegTrust(LegTrust { allocations, ..late }));
    assert_eq!(d.credit(c), UNIT);
    assert_eq!(d.node().trust_totals().owed_to_us, s(50));
}

#[test]
fn nobody_elses_signature_and_nobody_who_is_not_trusted_is_believed() {
    let mut d = trusting(1_000);
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    let good = stated(&d, 1, 10, Some((c, 1, 10)));
    let mut forged = good.clone();
    forged.signature.0[0] ^= 1;
    let mut other_memo = good.clone();
    other_memo.memo.0[0] ^= 1;
    for bad in [forged, other_memo] {
        d.link(PREV, &LinkMessage::LegTrust(bad));
        assert_eq!(d.credit(c), 0);
    }
    assert_eq!(
        d.out
            .iter()
            .filter(|o| matches!(o, Output::Report(Report::BadSignature)))
            .count(),
        2
    );
    // Its words, from another relay.
    let theirs = d.circuit(NEXT, false);
    d.pay(theirs, 1, FIRST, Forward::Last, None, 0);
    let mut stolen = good.clone();
    stolen.allocations[0].circuit = theirs.0 as u32;
    d.link(NEXT, &LinkMessage::LegTrust(stolen));
    assert_eq!(d.credit(theirs), 0);
    assert_eq!(d.node().trust_totals(), TrustTotals::default());
    d.link(PREV, &LinkMessage::LegTrust(good));
    assert_eq!(d.credit(c), UNIT);
}

#[test]
fn two_payers_with_one_memo_are_not_both_believed() {
    let mut d = trusting(1_000);
    buys(&mut d, 1, 10, 10);
    let (account, memo) = d.theirs.settles();
    let second = AccountId([0x31; 32]);
    let entry = |peer, account| Trusted {
        peer,
        account,
        max_unsettled: None,
    };
    let peers = vec![entry(PREV_PEER, account), entry(NEXT_PEER, second)];
    let account = OUR_ACCOUNT;
    d.tell(Input::Trust { account, peers });
    let mut statement = Statement {
        network: NETWORK,
        asset: ASSET,
        payer: NEXT_PEER,
        payee: ME,
        account: second,
        memo,
        k: 1,
        cumulative: s(10),
    };
    let message = |statement: &Statement| {
        LinkMessage::LegTrust(LegTrust {
            k: statement.k,
            cumulative: statement.cumulative,
            memo: statement.memo,
            signature: keys::statement(statement),
            allocations: Vec::new(),
        })
    };
    d.link(NEXT, &message(&statement));
    assert_eq!(d.node().trust_totals().owed_to_us, s(10));
    statement.memo = SettlementMemo([9; 32]);
    d.link(NEXT, &message(&statement));
    assert_eq!(d.node().trust_totals().owed_to_us, s(20));
}

/// Which transactions the ledger was asked about since the last look.
fn checks(d: &mut Desk) -> Vec<(TransactionId, ExpectedPayment)> {
    let asked = d.out.iter().filter_map(|o| match o {
        Output::CheckPayment {
            transaction, payment, ..
        } => Some((*transaction, *payment)),
        _ => None,
    });
    let asked = asked.collect();
    d.out.retain(|o| !matches!(o, Output::CheckPayment { .. }));
    asked
}

fn paid(d: &mut Desk, n: u8, amount: i64) {
    let (transaction, amount) = (transaction(n), s(amount));
    d.link(PREV, &LinkMessage::LegPaid { transaction, amount });
}

fn checked(d: &mut Desk, n: u8, result: Result<i64, NotPaid>) {
    d.tell(Input::PaymentChecked {
        peer: PREV_PEER,
        transaction: transaction(n),
        result: result.map(s),
    });
}

/// What the relay before us was told to be settled since the last look.
fn settled(d: &mut Desk) -> Vec<(TransactionId, i64)> {
    let sent = d.sent(PREV).into_iter().filter_map(|m| match m {
        LinkMessage::LegSettled { transaction, total } => Some((transaction, total.get())),
        _ => None,
    });
    sent.collect()
}

#[test]
fn a_settlement_counts_when_the_ledger_shows_it_and_once() {
    let mut d = trusting(25);
    buys(&mut d, 1, 25, 10);
    paid(&mut d, 1, 20);
    let (from, memo) = d.theirs.settles();
    let to = OUR_ACCOUNT;
    assert_eq!(checks(&mut d), [(transaction(1), ExpectedPayment { from, to, memo })]);
    assert_eq!(settled(&mut d), [], "not before");
    paid(&mut d, 1, 20);
    assert_eq!(checks(&mut d), [], "it is asked already");
    checked(&mut d, 1, Ok(20));
    assert_eq!(settled(&mut d), [(transaction(1), 20)]);
    checked(&mut d, 1, Ok(20));
    assert_eq!((settled(&mut d), d.node().trust_totals().settled), (vec![], s(20)));
    // Announced again, with whatever sum, and after a restart: the stored answer.
    for _ in 0..2 {
        paid(&mut d, 1, 1_000);
        assert_eq!((settled(&mut d), checks(&mut d)), (vec![(transaction(1), 20)], vec![]));
        restart(&mut d);
    }
    assert_eq!(d.node().trust_totals().settled, s(20));
    assert_eq!(buys(&mut d, 2, 45, 10), UNIT, "there is room again");
    assert_eq!(buys(&mut d, 3, 46, 10), 0);
}

#[test]
fn another_memo_account_asset_or_sum_settles_nothing() {
    let mut d = trusting(100);
    buys(&mut d, 1, 50, 10);
    for (n, result) in [(1, Err(NotPaid::Wrong)), (2, Ok(19)), (3, Ok(21)), (4, Ok(0))] {
        paid(&mut d, n, 20);
        assert_eq!(checks(&mut d).len(), 1);
        checked(&mut d, n, result);
        assert_eq!(settled(&mut d), []);
        assert!(d.out.contains(&Output::Report(Report::BadSettlement)));
        d.out.clear();
    }
    assert_eq!(d.node().trust_totals().settled, s(0));
    paid(&mut d, 5, 0);
    assert_eq!(checks(&mut d), [], "nothing is nothing");
    // Who owes nothing settles nothing.
    let (transaction, amount) = (transaction(6), s(5));
    d.link(NEXT, &LinkMessage::LegPaid { transaction, amount });
    assert_eq!(checks(&mut d), []);
}

#[test]
fn a_settlement_that_the_ledger_does_not_show_yet_is_looked_for_again_and_not_for_ever() {
    let mut d = trusting(100);
    buys(&mut d, 1, 50, 10);
    paid(&mut d, 1, 20);
    assert_eq!(checks(&mut d).len(), 1);
    let mut waits = Vec::new();
    for result in [NotPaid::Absent, NotPaid::Unreachable, NotPaid::Absent] {
        checked(&mut d, 1, Err(result));
        let since = d.now;
        while checks(&mut d).is_empty() {
            d.wait(500);
            assert!(d.now.since(since) < 100_000);
        }
        waits.push(d.now.since(since));
    }
    assert_eq!(waits, [5_000, 10_000, 20_000]);
    let mut looks = 4;
    loop {
        checked(&mut d, 1, Err(NotPaid::Absent));
        d.wait(6_000_000);
        if checks(&mut d).is_empty() {
            break;
        }
        looks += 1;
    }
    assert_eq!(looks, 11);
    // Announced again, it is looked for again.
    paid(&mut d, 1, 20);
    assert_eq!(checks(&mut d).len(), 1);
    // No more than four at a time.
    for n in 2..8 {
        paid(&mut d, n, 1);
    }
    assert_eq!(checks(&mut d).len(), 3);
}

#[test]
fn a_payee_of_a_backup_takes_what_it_forgot_for_used_up() {
    let mut d = trusting(1_000);
    assert_eq!(buys(&mut d, 1, 10, 10), UNIT);
    let backup = d.facts.clone();
    assert_eq!(buys(&mut d, 2, 20, 10), UNIT);
    assert_eq!(buys(&mut d, 3, 40, 10), UNIT);
    d.facts = backup;
    d.node = Some(Node::restore_backup(d.config, d.keys.clone(), [7; 32], d.facts.clone()));
    d.tell(Input::Tick);
    // It and every later start know that.
    for _ in 0..2 {
        restart(&mut d);
    }
    // 3 was used up in part; a payer that shows it again gets nothing for it.
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    state(&mut d, 3, 40, None);
    let books = told(&mut d).expect("told");
    assert_eq!((books.k, books.cumulative, books.unallocated), (3, s(40), s(0)));
    state(&mut d, 2, 20, Some((c, 1, 10)));
    state(&mut d, 4, 40, Some((c, 1, 10)));
    assert_eq!(d.credit(c), 0);
    assert_eq!(buys(&mut d, 5, 50, 10), UNIT, "what is new is credited");
    restart(&mut d);
    assert_eq!(buys(&mut d, 6, 50, 10), 0);
}

#[test]
fn a_compacted_journal_has_the_same_books_on_debtors() {
    let mut d = trusting(1_000);
    buys(&mut d, 1, 40, 10);
    paid(&mut d, 1, 20);
    checked(&mut d, 1, Ok(20));
    d.facts = d.node().snapshot().expect("settled");
    restart(&mut d);
    let totals = d.node().trust_totals();
    assert_eq!((totals.owed_to_us, totals.settled), (s(40), s(20)));
    assert_eq!(buys(&mut d, 1, 40, 10), 0, "seen");
    assert_eq!(buys(&mut d, 2, 40, 10), UNIT, "30 were free");
    paid(&mut d, 1, 20);
    assert_eq!(settled(&mut d), [(transaction(1), 20)]);
}
