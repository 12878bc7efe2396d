//! One relay and the escrows that it pays its neighbours by, message by message: when it wants one, when it believes that one is
//! ready, which one it pays by, and how it ends.

use super::desk::{BALANCE, CLIENT, Desk, NEXT, NEXT_PEER, PREV, rules};
use super::keys;
use super::s;
use super::world::{ASSET, NETWORK};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::fact::{NodeFact, OutFact};
use crate::keys::PayeeKeys;
use crate::node::{Input, Output};
use obol_cell::{
    AccountId, DeclineCode, EscrowAcceptance, EscrowId, EscrowOffer, EscrowState, EscrowTerms, Forward, LinkMessage,
    OwnerAsks, Step, Stroops,
};

/// Escrows to the relay after us that were wanted since the last look: their deposits.
fn wanted(d: &mut Desk) -> Vec<Stroops> {
    let wanted = d.out.iter().filter_map(|o| match o {
        Output::WantEscrow { peer, deposit, .. } if *peer == NEXT_PEER => Some(*deposit),
        _ => None,
    });
    let wanted = wanted.collect();
    d.out.retain(|o| !matches!(o, Output::WantEscrow { .. }));
    wanted
}

fn reconnect(d: &mut Desk) {
    d.tell(Input::LinkDown { link: NEXT });
    d.tell(Input::LinkUp {
        link: NEXT,
        peer: Some(NEXT_PEER),
        obol: true,
        address: None,
    });
    let (network, asset, rules) = (NETWORK, ASSET, rules());
    d.link(NEXT, &LinkMessage::LegHello { network, asset, rules });
}

fn offer(d: &mut Desk) -> EscrowOffer {
    let number = d.fresh();
    let offer = EscrowOffer {
        escrow: d.keys.fresh(number),
        ..d.make_offer()
    };
    let peer = NEXT_PEER;
    d.tell(Input::Offer { peer, offer });
    assert!(d.sent(NEXT).contains(&LinkMessage::LegOffer(offer)));
    offer
}

fn acceptance(d: &Desk, offer: &EscrowOffer, min_deposit: Stroops) -> (Escrow, EscrowAcceptance) {
    let payee_account = AccountId([9; 32]);
    let terms = EscrowTerms::new(offer, NEXT_PEER, payee_account, min_deposit);
    let signer = d.theirs.signer(&terms);
    let escrow = Escrow { terms, signer };
    let acceptance = EscrowAcceptance {
        escrow: offer.escrow,
        signer,
        payee_account,
        min_deposit,
        refund: keys::refund(&escrow),
    };
    (escrow, acceptance)
}

fn declined(d: &mut Desk) -> Vec<DeclineCode> {
    let codes = d.out.iter().filter_map(|o| match o {
        Output::OfferDeclined { code, .. } => Some(*code),
        _ => None,
    });
    let codes = codes.collect();
    d.out.retain(|o| !matches!(o, Output::OfferDeclined { .. }));
    codes
}

fn out_facts(d: &Desk) -> Vec<OutFact> {
    let facts = d.facts.iter().filter_map(|f| match f {
        NodeFact::Out(out) => Some(*out),
        _ => None,
    });
    facts.collect()
}

/// The client pays this relay and the next one; which escrow passed it on, by which claim.
fn pass(d: &mut Desk, e: &Escrow, k: u32) -> Option<(EscrowId, u32, i64)> {
    let c = d.circuit(CLIENT, true);
    let sum = i64::from(k) * 30;
    let claim = Some(Desk::claim(e, k, sum, 30));
    d.pay(c, 1, Step::FIRST, Forward::Pass(s(20)), claim, 0);
    let pays = d.passed_on();
    assert!(pays.len() < 2);
    pays.first().map(|p| {
        assert_eq!(p.opening, None, "it knows the terms");
        (p.escrow, p.k, p.cumulative.get())
    })
}

// ---- wanted ----

#[test]
fn an_escrow_is_wanted_for_every_neighbour_once_and_not_while_there_is_one() {
    let mut d = Desk::new();
    assert_eq!(wanted(&mut d), [s(BALANCE)]);
    reconnect(&mut d);
    d.wait(1_000);
    assert_eq!(wanted(&mut d), [], "it was asked for");
    let offered = offer(&mut d);
    reconnect(&mut d);
    assert_eq!(wanted(&mut d), [], "it is on its way");
    let (_, accepted) = acceptance(&d, &offered, rules().min_deposit);
    d.link(NEXT, &LinkMessage::LegAccepted(accepted));
    reconnect(&mut d);
    assert_eq!(wanted(&mut d), [], "it is being opened");
    d.tell(Input::EscrowOpened {
        escrow: offered.escrow,
        balance: offered.deposit,
    });
    reconnect(&mut d);
    assert_eq!(wanted(&mut d), [], "it is open");
    d.tell(Input::Close { escrow: offered.escrow });
    assert_eq!(wanted(&mut d).len(), 1, "it is closing");
}

#[test]
fn an_escrow_with_no_more_than_the_reserve_left_is_as_good_as_none() {
    for (reserve, good) in [(BALANCE - 1, true), (BALANCE, false)] {
        let mut d = Desk::new();
        d.config.reserve = s(reserve);
        d.start();
        d.own_escrow();
        wanted(&mut d);
        reconnect(&mut d);
        assert_eq!(wanted(&mut d).is_empty(), good);
        let c = d.circuit(CLIENT, true);
        d.ask(c, &obol_cell::ToNode::QuoteQuery, 0);
        let obol_cell::ToOrigin::Quote(quote) = d.answer(c) else {
            panic!()
        };
        assert_eq!(quote.next, good);
    }
}

#[test]
fn a_relay_that_pays_nobody_wants_nothing() {
    let mut d = Desk::new();
    d.config.pays_others = false;
    d.start();
    assert_eq!(wanted(&mut d), []);
    let offered = offer(&mut d);
    d.link(
        NEXT,
        &LinkMessage::LegDeclined {
            escrow: offered.escrow,
            code: DeclineCode::NotNow,
        },
    );
    d.wait(600_000);
    assert_eq!(wanted(&mut d), []);
}

// ---- offered ----

#[test]
fn a_declined_offer_is_followed_by_another_after_ever_longer_times() {
    let mut d = Desk::new();
    let mut waits = Vec::new();
    for _ in 0..4 {
        wanted(&mut d);
        let offered = offer(&mut d);
        let no = LinkMessage::LegDeclined {
            escrow: offered.escrow,
            code: DeclineCode::NotNow,
        };
        // Nobody else's word counts.
        d.link(PREV, &no);
        assert_eq!(declined(&mut d), []);
        d.link(NEXT, &no);
        assert_eq!(declined(&mut d), [DeclineCode::NotNow]);
        let since = d.now;
        while wanted(&mut d).is_empty() {
            d.wait(500);
            assert!(d.now.since(since) < 600_000);
        }
        waits.push(d.now.since(since));
    }
    assert_eq!(waits, [5_000, 10_000, 20_000, 40_000]);
    // Accepted, and it is as before.
    let offered = offer(&mut d);
    let (_, accepted) = acceptance(&d, &offered, rules().min_deposit);
    d.link(NEXT, &LinkMessage::LegAccepted(accepted));
    d.tell(Input::OpeningFailed { escrow: offered.escrow });
    assert_eq!(wanted(&mut d).len(), 1);
    assert!(out_facts(&d).contains(&OutFact::Abandoned { escrow: offered.escrow }));
    d.tell(Input::OpeningFailed { escrow: offered.escrow });
    assert_eq!(wanted(&mut d), [], "once");
}

#[test]
fn an_offer_without_an_answer_is_given_up_after_a_minute() {
    let mut d = Desk::new();
    let offered = offer(&mut d);
    d.wait(59_999);
    assert_eq!(declined(&mut d), []);
    d.wait(1);
    assert_eq!(declined(&mut d), [DeclineCode::NotNow]);
    let (_, accepted) = acceptance(&d, &offered, rules().min_deposit);
    d.link(NEXT, &LinkMessage::LegAccepted(accepted));
    assert!(
        !d.out.iter().any(|o| matches!(o, Output::OpenEscrow { .. })),
        "too late"
    );
}

#[test]
fn nothing_is_opened_without_a_good_refund_or_below_the_payees_minimum() {
    for (min_deposit, spoil, opened) in [
        (BALANCE, false, true),
        (BALANCE + 1, false, false),
        (1_000, true, false),
    ] {
        let mut d = Desk::new();
        let offered = offer(&mut d);
        let (_, mut accepted) = acceptance(&d, &offered, s(min_deposit));
        accepted.refund.0[0] ^= u8::from(spoil);
        // Nor by anybody else's word.
        d.link(PREV, &LinkMessage::LegAccepted(accepted));
        assert!(!d.out.iter().any(|o| matches!(o, Output::OpenEscrow { .. })));
        d.link(NEXT, &LinkMessage::LegAccepted(accepted));
        let opens = d.out.iter().any(|o| matches!(o, Output::OpenEscrow { .. }));
        assert_eq!(opens, opened);
        assert_eq!(declined(&mut d).is_empty(), opened);
    }
}

#[test]
fn an_offer_goes_to_the_neighbour_that_it_is_for_once() {
    let mut d = Desk::new();
    d.tell(Input::LinkDown { link: NEXT });
    let number = d.fresh();
    let offer = EscrowOffer {
        escrow: d.keys.fresh(number),
        ..d.make_offer()
    };
    let peer = NEXT_PEER;
    d.tell(Input::Offer { peer, offer });
    reconnect(&mut d);
    let sent = |d: &mut Desk, on| d.sent(on).contains(&LinkMessage::LegOffer(offer));
    assert!(!sent(&mut d, PREV) && sent(&mut d, NEXT));
    reconnect(&mut d);
    assert!(!sent(&mut d, NEXT));
}

// ---- known, or not yet ----

#[test]
fn a_payee_that_does_not_know_an_escrow_is_asked_until_it_does() {
    let mut d = Desk::new();
    let offered = offer(&mut d);
    let (escrow, accepted) = acceptance(&d, &offered, rules().min_deposit);
    d.link(NEXT, &LinkMessage::LegAccepted(accepted));
    // Before it is open its payee has nothing to say of it.
    d.tell_known(escrow.id(), EscrowState::Unknown, 0, 0, 0);
    d.tell(Input::EscrowOpened {
        escrow: escrow.id(),
        balance: s(BALANCE),
    });
    let mut waits = Vec::new();
    for _ in 0..4 {
        let asked = d.sent(NEXT);
        assert!(
            matches!(asked[..], [LinkMessage::LegQuery { opening: Some(_), .. }]),
            "{asked:?}"
        );
        d.tell_known(escrow.id(), EscrowState::Unknown, 0, 0, 0);
        let since = d.now;
        let mut next = Vec::new();
        while next.is_empty() {
            d.wait(500);
            assert!(d.now.since(since) < 600_000);
            let asks = |o: &&Output| matches!(o, Output::SendLink { link: NEXT, .. });
            next = d.out.iter().filter(asks).collect::<Vec<_>>();
            if !next.is_empty() {
                break;
            }
        }
        waits.push(d.now.since(since));
    }
    assert_eq!(waits, [5_000, 10_000, 20_000, 40_000]);
    d.ledger();
    let e = d.client_escrow();
    assert_eq!(pass(&mut d, &e, 1), None, "not paid by before");
    d.tell_known(escrow.id(), EscrowState::Open, 0, 0, 0);
    d.sent(NEXT);
    d.wait(600_000);
    assert_eq!(d.sent(NEXT), [], "and not asked after");
    d.ledger();
    assert_eq!(pass(&mut d, &e, 2), Some((escrow.id(), 1, 20)));
}

#[test]
fn on_a_new_link_the_newest_claim_is_repeated_or_the_books_are_asked_for() {
    let mut d = Desk::new();
    let own = d.own_escrow();
    let e = d.client_escrow();
    let said = |d: &mut Desk| {
        d.sent(NEXT);
        reconnect(d);
        let sent = d.sent(NEXT);
        sent.into_iter()
            .find(|m| !matches!(m, LinkMessage::LegHello { .. }))
            .expect("something is said of it")
    };
    let (escrow, opening) = (own, None);
    let owner = keys::owner_of(escrow, NEXT_PEER, OwnerAsks::Books);
    assert_eq!(said(&mut d), LinkMessage::LegQuery { escrow, opening, owner });
    assert_eq!(pass(&mut d, &e, 1), Some((own, 1, 20)));
    let LinkMessage::LegPay(repeated) = said(&mut d) else {
        panic!()
    };
    assert_eq!(
        (repeated.k, repeated.cumulative, repeated.allocations.len()),
        (1, s(20), 0)
    );
    assert_eq!(repeated.opening, None, "it knows the terms");
    // After its end there is nothing to say.
    let expiry = UnixMillis::from_secs(d.now.secs() + 86_400);
    d.wait(expiry.since(d.now));
    d.sent(NEXT);
    reconnect(&mut d);
    let sent = d.sent(NEXT);
    assert!(matches!(sent[..], [LinkMessage::LegHello { .. }]), "{sent:?}");
}

// ---- paid by ----

#[test]
fn what_is_unallocated_of_an_older_escrow_is_drawn_first() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let old = d.own_escrow();
    assert_eq!(pass(&mut d, &e, 1), Some((old, 1, 20)));
    d.wait(10_000);
    d.ledger();
    let new = d.own_escrow();
    assert_eq!(pass(&mut d, &e, 2), Some((new, 1, 20)), "the newest");
    d.tell_known(old, EscrowState::Open, 1, 20, 20);
    assert_eq!(pass(&mut d, &e, 3), Some((old, 2, 20)), "a draw");
    assert_eq!(pass(&mut d, &e, 4), Some((new, 2, 40)));
    // Also of one that is closing, but no more than that.
    d.tell_known(old, EscrowState::Closing, 2, 20, 20);
    d.sent(NEXT);
    assert_eq!(pass(&mut d, &e, 5), Some((old, 4, 20)), "after the spare claim");
    assert_eq!(pass(&mut d, &e, 6), Some((new, 3, 60)));
}

#[test]
fn an_escrow_that_is_closing_and_was_never_paid_by_gets_no_spare_claim() {
    let mut d = Desk::new();
    let own = d.own_escrow();
    wanted(&mut d);
    d.tell_known(own, EscrowState::Closing, 0, 0, 0);
    assert_eq!(d.passed_on(), []);
    assert_eq!(wanted(&mut d).len(), 1);
}

#[test]
fn the_next_escrow_is_wanted_when_less_than_a_quarter_is_left() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let own = d.own_escrow();
    wanted(&mut d);
    let three_quarters = BALANCE / 4 * 3;
    assert_eq!(pass(&mut d, &e, 1), Some((own, 1, 20)));
    assert_eq!(wanted(&mut d), [], "nearly all is left");
    // Its payee says how much is allocated of what a claim covers.
    let node = d.node.as_mut().expect("it runs");
    node.set_allocated(own, s(three_quarters - 20));
    pass(&mut d, &e, 2);
    assert_eq!(wanted(&mut d), [], "exactly a quarter is left");
    pass(&mut d, &e, 3);
    assert_eq!(wanted(&mut d).len(), 1);
    pass(&mut d, &e, 4);
    assert_eq!(wanted(&mut d), [], "once");
}

#[test]
fn the_deposit_is_three_times_what_the_last_week_came_to_and_within_the_bounds() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let own = d.own_escrow();
    wanted(&mut d);
    d.config.deposit = s(50);
    d.node.as_mut().expect("it runs").reconfigure(d.config);
    pass(&mut d, &e, 1);
    d.tell(Input::Close { escrow: own });
    assert_eq!(wanted(&mut d), [s(1_000)], "the payee's minimum");
    d.wait(1_000);
    let big = d.own_escrow();
    d.node.as_mut().expect("it runs").set_allocated(big, s(40_000));
    wanted(&mut d);
    d.wait(1_000);
    pass(&mut d, &e, 2);
    d.tell(Input::Close { escrow: big });
    assert_eq!(wanted(&mut d), [s(3 * (20 + 40_020))]);
    d.config.max_deposit = Some(s(5_000));
    d.node.as_mut().expect("it runs").reconfigure(d.config);
    let next = d.own_escrow();
    wanted(&mut d);
    d.tell(Input::Close { escrow: next });
    assert_eq!(wanted(&mut d), [s(5_000)], "no more than that");
    d.wait(1_000);
    let last = d.own_escrow();
    d.wait(7 * 86_400_000);
    wanted(&mut d);
    d.tell(Input::EscrowEnded {
        escrow: last,
        paid: s(0),
    });
    assert_eq!(wanted(&mut d), [], "it was wanted when its margin began");
}

// ---- the end ----

#[test]
fn an_escrow_is_succeeded_in_time_stops_at_its_margin_and_is_taken_back_at_its_end() {
    let mut d = Desk::new();
    let (start, own) = (d.now, d.own_escrow());
    let at = |secs: u64| start.plus(secs * 1_000);
    wanted(&mut d);
    let refunds = |d: &Desk| d.out.iter().filter(|o| matches!(o, Output::Refund { .. })).count();
    d.wait(at(43_199).since(d.now));
    assert_eq!(wanted(&mut d), [], "not in the first half of its life");
    d.wait(at(86_400 - 7_200 - 3_600).since(d.now));
    assert_eq!(wanted(&mut d).len(), 1, "and an hour before its margin");
    let closed = |d: &Desk| out_facts(d).contains(&OutFact::Closing { escrow: own });
    d.wait(at(86_400 - 7_200 - 1).since(d.now));
    assert!(!closed(&d));
    d.wait(1_000);
    assert!(closed(&d));
    d.wait(at(86_399).since(d.now));
    assert_eq!(refunds(&d), 0);
    d.wait(1_000);
    assert_eq!(refunds(&d), 1);
    d.start();
    assert_eq!(refunds(&d), 1, "asked for again");
    let paid = s(0);
    d.tell(Input::EscrowEnded { escrow: own, paid });
    assert!(out_facts(&d).contains(&OutFact::Ended { escrow: own, paid }));
    let facts = d.facts.len();
    d.tell(Input::EscrowEnded { escrow: own, paid });
    assert_eq!(d.facts.len(), facts, "once");
}

#[test]
fn an_escrow_that_ended_early_is_remembered_until_its_expiry_and_replaced_at_once() {
    let mut d = Desk::new();
    let own = d.own_escrow();
    wanted(&mut d);
    let paid = s(0);
    let before = d.node().sizes().escrows;
    d.tell(Input::EscrowEnded { escrow: own, paid });
    assert_eq!(wanted(&mut d).len(), 1);
    assert_eq!(d.node().sizes().escrows, before + 1, "and the one that is wanted");
    d.start();
    assert_eq!(d.node().totals().signed, s(0));
    let with = d.node().sizes().escrows;
    d.wait(86_400_000);
    assert_eq!(d.node().sizes().escrows, with - 1);
    assert!(!d.out.iter().any(|o| matches!(o, Output::Refund { .. })), "it is over");
    d.start();
    assert_eq!(d.node().sizes().escrows, with - 1);
}

#[test]
fn an_opening_that_was_under_way_is_asked_for_again_after_a_restart() {
    let mut d = Desk::new();
    let offered = offer(&mut d);
    let (escrow, accepted) = acceptance(&d, &offered, rules().min_deposit);
    d.link(NEXT, &LinkMessage::LegAccepted(accepted));
    d.start();
    let opens = |d: &Desk| {
        let open = |o: &&Output| matches!(o, Output::OpenEscrow { escrow: e, .. } if *e == escrow);
        d.out.iter().filter(open).count()
    };
    assert_eq!(opens(&d), 1);
    d.tell(Input::EscrowOpened {
        escrow: escrow.id(),
        balance: s(BALANCE),
    });
    d.tell(Input::EscrowOpened {
        escrow: escrow.id(),
        balance: s(1),
    });
    let opened = |f: &&OutFact| matches!(f, OutFact::Opened { .. });
    assert_eq!(out_facts(&d).iter().filter(opened).count(), 1, "once");
    d.start();
    assert_eq!(opens(&d), 0);
    // And it is given up by nobody but the driver.
    d.tell(Input::OpeningFailed { escrow: escrow.id() });
    assert!(!out_facts(&d).contains(&OutFact::Abandoned { escrow: escrow.id() }));
}

#[test]
fn a_clock_that_wakes_late_wants_what_was_due_meanwhile() {
    let mut d = Desk::new();
    d.config.opening_jitter_ms = 10_000;
    d.start();
    wanted(&mut d);
    d.now = d.now.plus(60_000);
    d.tell(Input::Tick);
    assert_eq!(wanted(&mut d).len(), 1);
}

#[test]
fn an_opening_that_failed_takes_no_other_escrow_with_it() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let own = d.own_escrow();
    let offered = offer(&mut d);
    let (_, accepted) = acceptance(&d, &offered, rules().min_deposit);
    d.link(NEXT, &LinkMessage::LegAccepted(accepted));
    d.tell(Input::OpeningFailed { escrow: offered.escrow });
    assert_eq!(pass(&mut d, &e, 1), Some((own, 1, 20)));
    d.start();
    d.tell_known(own, EscrowState::Open, 1, 20, 0);
    d.sent(NEXT);
    assert_eq!(pass(&mut d, &e, 2), Some((own, 2, 40)));
}

#[test]
fn books_that_cross_a_payment_do_not_undo_it() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let own = d.own_escrow();
    assert_eq!(pass(&mut d, &e, 1), Some((own, 1, 20)));
    let c = d.circuit(CLIENT, true);
    let pay = obol_cell::ToNode::Pay(obol_cell::Pay {
        n: 1,
        step: Step::FIRST,
        forward: Forward::Pass(s(20)),
        claim: Some(Desk::claim(&e, 2, 60, 30)),
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
    // It waits for its signature; the payee's books are of the claim before.
    d.tell_known(own, EscrowState::Open, 1, 20, 0);
    let pays = d.passed_on();
    assert_eq!((pays[0].k, pays[0].cumulative), (2, s(40)));
}
