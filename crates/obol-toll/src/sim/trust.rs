//! What is owed instead of secured, message by message: by the relay before us, and by us to the relay after.

use super::desk::{CLIENT, Desk, ME, NEXT, NEXT_PEER, PREV, PREV_PEER, PRICE, rules};
use super::world::{ASSET, NETWORK};
use super::{keys, s};
use crate::fact::{NodeFact, TrustFact};
use crate::ids::CircuitId;
use crate::node::{Input, Node, Output, PAYMENTS_IN_ONE, Report, TrustTotals};
use crate::trust::{ExpectedPayment, NotPaid, OwedPayment, Statement, Trusted};
use obol_cell::{
    AccountId, Allocation, Forward, LegTrust, LinkMessage, PeerId, RefuseCode, SettlementMemo, Signature, Step,
    Stroops, ToNode, ToOrigin, TransactionId, TrustBooks, UNIT,
};

const FIRST: Step = Step::FIRST;
const OUR_ACCOUNT: AccountId = AccountId([0x77; 32]);
const THEIR_ACCOUNT: AccountId = AccountId([0x78; 32]);
const PERIOD: u64 = 3_600_000;

fn transaction(n: u8) -> TransactionId {
    TransactionId([n; 32])
}

// ---- we are owed ----

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

// ---- we owe ----

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
