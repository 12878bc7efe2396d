//! What is said in each dialogue.

use obol_cell::*;
use obol_stellar::Network;
use obol_toll::PayerKeys as _;
use obol_toll::trust::Statement;
use serde_json::Value;

use crate::payer::*;
use crate::scene::*;

pub fn as_hop_1() -> Vec<Value> {
    let p = Payer::new(1);
    let id = p.escrow.id();
    let books = p.owner(OwnerAsks::Books);
    let opening = Some(p.escrow.terms.opening());
    let u = UNIT;
    let query = |owner, opening| ToNode::BalanceQuery {
        escrow: id,
        opening,
        owner,
    };
    let listen = |listen_id, low| ToNode::Listen {
        id: listen_id,
        low: LowWater::at_least(low),
    };
    let offer = |offer| ToNode::OfferEscrow(offer);
    let other_network = EscrowOffer {
        network: Network::public().id(),
        ..p.offer()
    };
    let small = EscrowOffer {
        deposit: s(99_999),
        ..p.offer()
    };
    let forged = {
        let ToNode::Pay(mut pay) = p.pay(7, 1, (7, 900, 100)) else {
            unreachable!("a payment")
        };
        pay.claim.as_mut().unwrap().signature.0[0] ^= 1;
        ToNode::Pay(pay)
    };
    let close = ToNode::CloseEscrow {
        escrow: id,
        final_k: 6,
        owner: p.owner(OwnerAsks::Close { final_k: 6 }),
    };
    let initial = 4 * u;
    vec![
        ask(
            "the price: this hop is the circuit's end, so next is 0",
            &ToNode::QuoteQuery,
            0,
        ),
        ask("an offer on another network", &offer(other_network), 0),
        ask("an offer below the minimum deposit", &offer(small), 0),
        ask("an offer: E does not exist", &offer(p.offer()), 0),
        ask(
            "a question that E's key did not sign",
            &query(Signature([0; 64]), opening),
            0,
        ),
        ask(
            "the owner's question, with the terms: the escrow is read",
            &query(books, opening),
            0,
        ),
        ask("payment 1: 64 KiB for 100", &p.pay(1, 1, (1, 100, 100)), 0),
        ask("payment 1 again: the stored answer", &p.pay(1, 1, (1, 100, 100)), 0),
        ask(
            "payment 2 with a claim that was seen: nothing arrives",
            &p.pay(2, 1, (1, 100, 100)),
            0,
        ),
        ask(
            "payment 3: a step that growth does not allow yet; the money is held",
            &p.pay(3, 2, (2, 300, 200)),
            0,
        ),
        ask(
            "payment 3 resumed with 64 KiB: out of what is held",
            &p.pay(3, 1, (3, 300, 0)),
            0,
        ),
        ask("payment 2: a lower number", &p.pay(2, 1, (1, 100, 100)), 0),
        ask(
            "a long poll, credit is above the mark: no answer yet",
            &listen(1, 1_024),
            u,
        ),
        ask("its end", &ToNode::Cancel { id: 1 }, u),
        ask("a long poll, credit is below the mark", &listen(2, 2 * initial), u),
        ask("a long poll", &listen(3, 1_024), u),
        wait("30 s without an answer: nothing", 30_000),
        ask("another long poll", &listen(4, 1_024), 4 * u),
        ask(
            "payment 4 ends it; the claim rises by 500, 300 remain unallocated",
            &p.pay(4, 2, (4, 800, 200)),
            4 * u,
        ),
        ask(
            "payment 5: more than the claims cover",
            &p.pay(5, 4, (5, 800, 400)),
            8 * u,
        ),
        ask("payment 6: a claim that falls", &p.pay(6, 1, (6, 700, 100)), 8 * u),
        ask("payment 7: a claim that E's key did not sign", &forged, 8 * u),
        ask(
            "a wish to close: no delay in this relay, so the first claim of the newest amount is flushed",
            &close,
            8 * u,
        ),
        ask(
            "payment 8: the amount rises on an escrow that closes",
            &p.pay(8, 1, (8, 900, 100)),
            8 * u,
        ),
        ask(
            "payment 9: a draw of what is unallocated",
            &p.pay(9, 1, (9, 800, 100)),
            8 * u,
        ),
        ask("the books", &query(books, None), 8 * u),
        entry(
            "a body with a byte too much: the circuit ends",
            CMD_TO_NODE,
            &[1, 1, 0],
            8 * u,
            1_000,
        ),
        ask("nothing is answered on it any more", &ToNode::QuoteQuery, 8 * u),
    ]
}

pub fn as_hop_2() -> Vec<Value> {
    let p = Payer::new(2);
    let id = p.escrow.id();
    let other_network = EscrowOffer {
        network: Network::public().id(),
        ..p.offer()
    };
    let query = LinkMessage::LegQuery {
        escrow: id,
        opening: Some(p.escrow.terms.opening()),
        owner: p.owner(OwnerAsks::Books),
    };
    let pay = |n, units| {
        ToNode::Pay(Pay {
            n,
            step: Step::from_bytes(units * UNIT).unwrap(),
            forward: Forward::Last,
            claim: None,
        })
    };
    let leg = |k, cumulative, allocations: &[(u16, i64)]| LinkMessage::LegPay(p.leg_pay(k, cumulative, allocations));
    let refused = |n| LinkMessage::LegRefused {
        circuit: ID_ON_LINK,
        n,
        distance: 1,
        code: RefuseCode::NoFunds,
    };
    let convert = ToNode::Pay(Pay {
        n: 5,
        step: Step::FIRST,
        forward: Forward::Pass(Stroops::ZERO),
        claim: None,
    });
    let mut gone = p.leg_pay(7, 900, &[(9, 50)]);
    gone.allocations[0].circuit = 0x8000_0099;
    let mut twice = p.leg_pay(8, 1_000, &[(9, 50), (10, 50)]);
    twice.signature = p.sign(8, 1_000);
    vec![
        link("the greeting", &hello()),
        link("an offer on another network", &LinkMessage::LegOffer(other_network)),
        link("an offer", &LinkMessage::LegOffer(p.offer())),
        link("a question for the books, with the terms: the escrow is read", &query),
        ask("payment 1: the client's half first", &pay(1, 1), 0),
        link("and the money: exactly 100", &leg(1, 100, &[(1, 100)])),
        link(
            "the same message again: nothing is credited, nothing is said",
            &leg(1, 100, &[(1, 100)]),
        ),
        link("payment 2: the money first", &leg(2, 200, &[(2, 100)])),
        ask("and the client's half", &pay(2, 1), 0),
        ask("payment 3", &pay(3, 1), 0),
        link("the hop before could not pass it on", &refused(3)),
        ask("payment 4", &pay(4, 1), 0),
        link("and a stroop too much: held", &leg(3, 301, &[(4, 101)])),
        ask("payment 4 resumed: out of what is held", &pay(4, 1), 2 * UNIT),
        ask("payment 5", &pay(5, 1), 2 * UNIT),
        wait("4 s without the money", 4_000),
        link("it comes late: held", &leg(4, 501, &[(5, 200)])),
        ask(
            "payment 5 is given up: what is held becomes credit, one stroop stays",
            &convert,
            2 * UNIT,
        ),
        link(
            "the newest claim, repeated after a reconnect: the books",
            &leg(4, 501, &[]),
        ),
        link(
            "an allocation for a circuit that is gone: the payer's balance",
            &LinkMessage::LegPay(gone),
        ),
        link(
            "the owner's wish to close",
            &LinkMessage::LegClose { escrow: id, final_k: 7 },
        ),
        link(
            "a rise on an escrow that closes: not stored",
            &leg(9, 1_000, &[(9, 50)]),
        ),
        link("the spare: the same amount under a higher number", &leg(10, 900, &[])),
        link(
            "two allocations for one circuit: the link ends",
            &LinkMessage::LegPay(twice),
        ),
    ]
}

pub fn passing_on() -> Vec<Value> {
    let p = Payer::new(3);
    let id = p.escrow.id();
    let query = ToNode::BalanceQuery {
        escrow: id,
        opening: Some(p.escrow.terms.opening()),
        owner: p.owner(OwnerAsks::Books),
    };
    let books = |newest_k, cumulative, state| {
        LinkMessage::LegBalance(Balance {
            escrow: onward().escrow,
            newest_k,
            cumulative: s(cumulative),
            unallocated: s(0),
            state,
        })
    };
    let pass = |amount| Forward::Pass(s(amount));
    let next = |note, message: &LinkMessage| on(NEXT_LINK, note, message);
    vec![
        ask("before the next hop has greeted: next is 0", &ToNode::QuoteQuery, 0),
        next("it greets", &hello()),
        event("this relay wants an escrow to it", "wants to offer", 100),
        next(
            "it accepts: the refund is checked, then the escrow is opened",
            &LinkMessage::LegAccepted(accepted_onward()),
        ),
        event(
            "a closed ledger has it: the next hop is asked whether it knows it",
            "opened",
            5_000,
        ),
        next("not yet: asked again after 5 s", &books(0, 0, EscrowState::Unknown)),
        event("5 s later", "time", 5_000),
        next("now it does", &books(0, 0, EscrowState::Open)),
        ask("the price: next is 1", &ToNode::QuoteQuery, 0),
        ask("the client's escrow is read", &query, 0),
        ask(
            "payment 1: 100 for the step, 200 to be passed on, 1 for that",
            &p.pay_on(1, 1, pass(200), (1, 301, 301)),
            0,
        ),
        ask(
            "payment 2: more to be passed on than the ceiling allows",
            &p.pay_on(2, 1, pass(2_001), (2, 2_404, 2_103)),
            0,
        ),
        ask(
            "given up: 21 times 64 KiB out of what is held, 3 stroops stay",
            &p.pay_on(2, 1, pass(0), (3, 2_404, 0)),
            0,
        ),
        ask(
            "payment 3: a stroop too little",
            &p.pay_on(3, 1, pass(200), (4, 2_703, 299)),
            20 * UNIT,
        ),
        ask(
            "payment 3 resumed: with the 3 that were held before there is enough",
            &p.pay_on(3, 1, pass(200), (5, 2_703, 0)),
            20 * UNIT,
        ),
        next(
            "the next hop's flush is due: the spare goes to it",
            &books(2, 400, EscrowState::Closing),
        ),
        ask("the price: next is 0 again", &ToNode::QuoteQuery, 20 * UNIT),
    ]
}

pub fn refusals_passed_on() -> Vec<Value> {
    let pay = ToNode::Pay(Pay {
        n: 1,
        step: Step::FIRST,
        forward: Forward::Pass(s(200)),
        claim: None,
    });
    let refused = LinkMessage::LegRefused {
        circuit: ID_ON_LINK,
        n: 1,
        distance: 1,
        code: RefuseCode::OverLimit,
    };
    vec![
        link("the hop before greets", &hello()),
        on(NEXT_LINK, "the next hop greets", &hello()),
        ask(
            "payment 1: the client's half; a hop before the last one answers nothing",
            &pay,
            0,
        ),
        link("the hop before refused it: passed on, one farther", &refused),
        ask("payment 1 resumed here", &pay, 0),
        wait("4 s without the money: this hop's own refusal", 4_000),
        on(NEXT_LINK, "a second greeting: the link ends", &hello()),
    ]
}

pub fn owed() -> Vec<Value> {
    let state = |k, cumulative, allocations: &[(u16, i64)]| {
        let (account, memo) = debtor().settles_from().unwrap();
        let statement = Statement {
            network: tariff().network,
            asset: tariff().asset,
            payer: BEFORE,
            payee: RELAY,
            account,
            memo,
            k,
            cumulative: s(cumulative),
        };
        let all = allocations.iter().map(|(n, amount)| Allocation {
            circuit: ID_ON_LINK,
            n: *n,
            amount: s(*amount),
        });
        LegTrust {
            k,
            cumulative: s(cumulative),
            memo,
            signature: debtor().sign_statement(&statement).unwrap(),
            allocations: all.collect(),
        }
    };
    let stated = |k, cumulative, allocations: &[(u16, i64)]| LinkMessage::LegTrust(state(k, cumulative, allocations));
    let forged = LegTrust {
        cumulative: s(301),
        ..state(3, 300, &[])
    };
    let pay = |n, forward| {
        ToNode::Pay(Pay {
            n,
            step: Step::FIRST,
            forward,
            claim: None,
        })
    };
    let paid = |transaction, amount| LinkMessage::LegPaid {
        transaction: TransactionId([transaction; 32]),
        amount: s(amount),
    };
    vec![
        event(
            "the operator lists the relay before, with a limit of 1,000",
            "trusts",
            100,
        ),
        link("it greets: it is told that it is trusted", &hello()),
        on(NEXT_LINK, "the next hop greets", &hello()),
        ask("payment 1: the client's half", &pay(1, Forward::Last), 0),
        link("and a statement of 100", &stated(1, 100, &[(1, 100)])),
        link("the same number again: the books", &stated(1, 100, &[(1, 100)])),
        link("a sum that falls: the books", &stated(2, 50, &[])),
        link("more than the limit: the books", &stated(2, 1_101, &[(2, 1_001)])),
        ask("payment 2: the client's half", &pay(2, Forward::Last), 0),
        link(
            "and a statement of 300 that allocates 100",
            &stated(2, 300, &[(2, 100)]),
        ),
        link("the newest statement, repeated: the books", &stated(2, 300, &[])),
        link(
            "a sum that the account did not sign: no answer",
            &LinkMessage::LegTrust(forged),
        ),
        link("a settlement of 200, which the ledger shows", &paid(0xd1, 200)),
        link("announced again: the same answer", &paid(0xd1, 200)),
        link(
            "a settlement of 50, where the ledger shows 200: it does not count",
            &paid(0xd2, 50),
        ),
        ask(
            "payment 3: part of it is to be passed on",
            &pay(3, Forward::Pass(s(100))),
            0,
        ),
        link(
            "what is only owed is not passed on: refused, held",
            &stated(3, 501, &[(3, 201)]),
        ),
        ask(
            "given up: what is held becomes credit, a stroop stays",
            &pay(3, Forward::Pass(s(0))),
            0,
        ),
    ]
}
