//! Strangers who read the ledger: E and its balance are public, and they know the relay that it may be for.

use super::*;
use crate::fact::Owner;
use crate::sim::desk::{ME, NEXT_PEER, PREV_PEER};
use obol_cell::{EscrowId, OpeningTerms, OwnerAsks, Signature};

/// What somebody without E's key can show: nothing, the owner's word to another relay, the owner's word on something else.
fn forged(escrow: EscrowId, other: OwnerAsks) -> [Signature; 3] {
    [
        Signature([0x5a; 64]),
        keys::owner_of(escrow, NEXT_PEER, OwnerAsks::Books),
        keys::owner_of(escrow, ME, other),
    ]
}

fn query(escrow: EscrowId, opening: Option<OpeningTerms>, owner: Signature) -> ToNode {
    ToNode::BalanceQuery { escrow, opening, owner }
}

fn is_unknown(answer: &ToOrigin) -> bool {
    matches!(answer, ToOrigin::Balance(b) if b.state == EscrowState::Unknown && b.cumulative == s(0) && b.newest_k == 0)
}

fn asks_the_ledger(d: &Desk) -> bool {
    d.out.iter().any(|o| matches!(o, Output::ReadEscrow { .. }))
}

/// An escrow that was accepted for the owner, opened, and not read yet.
fn unread(d: &mut Desk) -> Escrow {
    let offer = d.make_offer();
    let ToOrigin::EscrowAccepted(acceptance) = d.offer(&offer, false) else {
        panic!("accepted")
    };
    d.escrow(&offer, &acceptance)
}

#[test]
fn a_stranger_neither_reads_a_clients_books_nor_has_its_escrow_flushed() {
    for which in 0..3 {
        let mut d = Desk::new();
        let e = d.client_escrow();
        let c = d.circuit(CLIENT, false);
        d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
        complete(d.answer(c));
        let reads = forged(e.id(), OwnerAsks::Close { final_k: 1 })[which];
        d.ask(c, &query(e.id(), None, reads), 0);
        let answer = d.answer(c);
        assert!(is_unknown(&answer), "{answer:?}");
        let close = ToNode::CloseEscrow {
            escrow: e.id(),
            final_k: 1,
            owner: forged(e.id(), OwnerAsks::Books)[which],
        };
        d.ask(c, &close, 0);
        let code = DeclineCode::Unknown;
        assert_eq!(d.answer(c), ToOrigin::Declined(Declined { code }));
        d.wait(1);
        assert!(!d.out.iter().any(|o| matches!(o, Output::Flush { .. })));
        let balance = d.balance(&e);
        assert_eq!((balance.state, balance.cumulative), (EscrowState::Open, s(25)));
    }
}

#[test]
fn a_wish_to_close_holds_for_the_claim_that_it_names() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    let close = ToNode::CloseEscrow {
        escrow: e.id(),
        final_k: 2,
        owner: keys::owner_of(e.id(), ME, OwnerAsks::Close { final_k: 1 }),
    };
    d.ask(c, &close, 0);
    let code = DeclineCode::Unknown;
    assert_eq!(d.answer(c), ToOrigin::Declined(Declined { code }));
    assert_eq!(d.balance(&e).state, EscrowState::Open);
}

#[test]
fn a_stranger_cannot_tell_an_escrow_that_a_relay_knows_from_one_that_it_does_not() {
    let seen = |known: bool| {
        let mut d = Desk::new();
        let e = if known { d.client_escrow() } else { unread(&mut d) };
        let c = d.circuit(CLIENT, false);
        d.out.clear();
        let checked = *d.keys.verified.borrow();
        for _ in 0..3 {
            d.ask(c, &query(e.id(), None, Signature([1; 64])), 0);
        }
        // Each is looked at once, known or not; the third closes the link.
        assert_eq!(*d.keys.verified.borrow(), checked + 3);
        assert!(d.out.contains(&Output::CloseLink { link: CLIENT }));
        d.answers(c).iter().filter(|a| is_unknown(a)).count()
    };
    assert_eq!((seen(true), seen(false)), (3, 3));
}

#[test]
fn a_relay_that_sees_an_escrow_on_the_ledger_cannot_make_it_its_own() {
    let mut d = Desk::new();
    let offer = d.make_offer();
    d.link(PREV, &LinkMessage::LegOffer(offer));
    d.tell(Input::EscrowChecked {
        escrow: offer.escrow,
        exists: Some(false),
    });
    let accepted = d.sent(PREV).into_iter().find_map(|m| match m {
        LinkMessage::LegAccepted(a) => Some(a),
        _ => None,
    });
    let e = d.escrow(&offer, &accepted.expect("accepted"));
    let opening = Some(e.terms.opening());
    d.out.clear();
    // It even knows the terms, and asks first.
    let (escrow, owner) = (e.id(), Signature([2; 64]));
    d.link(NEXT, &LinkMessage::LegQuery { escrow, opening, owner });
    let LinkMessage::LegPay(mut pay) = Desk::leg(&e, 1, PRICE, Vec::new()) else {
        panic!()
    };
    (pay.opening, pay.signature) = (opening, Signature([3; 64]));
    d.link(NEXT, &LinkMessage::LegPay(pay));
    assert!(!asks_the_ledger(&d), "nobody's word has an escrow read");
    let told = d.sent(NEXT);
    assert!(
        told.iter()
            .all(|m| matches!(m, LinkMessage::LegBalance(b) if b.state == EscrowState::Unknown))
    );
    // The owner comes later, and is believed.
    d.link(PREV, &leg_query(e.id(), opening));
    assert!(asks_the_ledger(&d));
    d.tell(Input::EscrowRead {
        escrow: e.id(),
        result: Ok(offer.deposit),
    });
    assert_eq!(d.prev_balance(&e).state, EscrowState::Open);
    let owners = d.facts.iter().filter_map(|f| match f {
        crate::fact::NodeFact::Believed { owner, .. } => Some(*owner),
        _ => None,
    });
    assert_eq!(owners.collect::<Vec<_>>(), [Owner::Peer(PREV_PEER)]);
}

#[test]
fn a_client_cannot_have_an_escrow_read_by_a_claim_that_its_owner_did_not_sign() {
    let mut d = Desk::new();
    let e = unread(&mut d);
    d.out.clear();
    for forged in 1..=3u8 {
        let c = d.circuit(CLIENT, false);
        let mut claim = Desk::claim(&e, 1, 10, PRICE);
        claim.opening = Some(e.terms.opening());
        claim.signature.0[0] ^= forged;
        d.pay(c, 1, FIRST, Forward::Last, Some(claim), 0);
        assert_eq!(refused(d.answer(c)), (1, 0, RefuseCode::Failed));
        assert!(!asks_the_ledger(&d));
        assert_eq!(d.out.contains(&Output::CloseLink { link: CLIENT }), forged == 3);
    }
}

#[test]
fn an_owner_asks_again_as_often_as_it_likes_and_after_a_restart() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    for _ in 0..20 {
        assert_eq!(d.balance(&e).state, EscrowState::Open);
    }
    d.start();
    assert_eq!(d.balance(&e).state, EscrowState::Open);
}

#[test]
fn a_forged_payment_is_refused_alike_whatever_the_relay_knows_of_the_escrow() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Whose {
        AClients,
        ARelays,
        Nobodys,
    }
    let seen = |whose: Whose, with_terms: bool| {
        let mut d = Desk::new();
        let e = match whose {
            Whose::AClients => d.client_escrow(),
            Whose::ARelays => d.prev_escrow(),
            Whose::Nobodys => unread(&mut d),
        };
        let mut told = Vec::new();
        for k in 1..=3 {
            let c = d.circuit(CLIENT, false);
            let mut claim = Desk::claim(&e, k, 10, PRICE);
            claim.signature.0[9] ^= 1;
            claim.opening = with_terms.then(|| e.terms.opening());
            d.out.clear();
            d.pay(c, 1, FIRST, Forward::Last, Some(claim), 0);
            told.push((
                refused(d.answer(c)),
                d.out.contains(&Output::CloseLink { link: CLIENT }),
            ));
        }
        told
    };
    for with_terms in [false, true] {
        let known = seen(Whose::AClients, with_terms);
        assert_eq!(known[2], ((1, 0, RefuseCode::Failed), true));
        assert_eq!(known, seen(Whose::ARelays, with_terms));
        assert_eq!(known, seen(Whose::Nobodys, with_terms));
    }
}

#[test]
fn a_relay_is_told_the_same_of_another_ones_escrow_as_of_none() {
    let told = |known: bool, with_terms: bool| {
        let mut d = Desk::new();
        let e = if known { d.prev_escrow() } else { unread(&mut d) };
        d.sent(NEXT);
        let mut all = Vec::new();
        for k in 1..=3 {
            let LinkMessage::LegPay(mut pay) = Desk::leg(&e, k, 10, Vec::new()) else {
                panic!()
            };
            pay.signature.0[9] ^= 1;
            pay.opening = with_terms.then(|| e.terms.opening());
            d.link(NEXT, &LinkMessage::LegPay(pay));
            d.link(
                NEXT,
                &LinkMessage::LegClose {
                    escrow: e.id(),
                    final_k: k,
                },
            );
        }
        for message in d.sent(NEXT) {
            let LinkMessage::LegBalance(balance) = message else {
                panic!("{message:?}")
            };
            all.push((balance.state, balance.newest_k, balance.cumulative, balance.unallocated));
        }
        (all, d.out.contains(&Output::CloseLink { link: NEXT }))
    };
    for with_terms in [false, true] {
        let (answers, closed) = told(true, with_terms);
        assert!(answers.iter().all(|a| *a == (EscrowState::Unknown, 0, s(0), s(0))));
        assert_eq!((answers, closed), told(false, with_terms));
        assert_eq!(closed, with_terms);
    }
}
