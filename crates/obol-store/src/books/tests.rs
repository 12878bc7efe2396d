//! Any history that the rules allow leaves books without a balance on the wrong side, and every stroop accounted for.

use super::*;
use obol_cell::{AccountId, Asset, EscrowTerms, NetworkId, PeerId, Signature};
use obol_toll::{CircuitId, Escrow};
use proptest::prelude::*;

const PEER: PeerId = PeerId([3; 32]);

fn stroops(n: i64) -> Stroops {
    Stroops::new(n).expect("not negative")
}

fn id(n: u8) -> EscrowId {
    EscrowId([n; 32])
}

fn believed(n: u8, owner: Owner) -> NodeFact {
    let terms = EscrowTerms {
        network: NetworkId([1; 32]),
        asset: Asset {
            code: [0; 12],
            issuer: [2; 32],
        },
        payee: PEER,
        payee_account: AccountId([4; 32]),
        escrow: id(n),
        s0: 0,
        expiry: 0,
        min_deposit: stroops(1),
    };
    NodeFact::Believed {
        escrow: Escrow {
            terms,
            signer: AccountId([5; 32]),
        },
        owner,
        balance: stroops(1 << 40),
        margin: 60,
    }
}

fn claim(n: u8, k: u32, cumulative: i64) -> NodeFact {
    NodeFact::Claim {
        escrow: id(n),
        k,
        cumulative: stroops(cumulative),
        signature: Signature([7; 64]),
    }
}

fn allocated(n: u8, circuit: u64, amount: i64) -> NodeFact {
    NodeFact::Allocated {
        escrow: id(n),
        circuit: CircuitId(circuit),
        n: 1,
        amount: stroops(amount),
    }
}

fn spent(circuit: u64, earned: i64, forwarded: i64) -> NodeFact {
    let (earned, forwarded) = (stroops(earned), stroops(forwarded));
    NodeFact::Spent {
        circuit: CircuitId(circuit),
        n: 1,
        earned,
        forwarded,
        credit: 0,
    }
}

fn post(facts: &[NodeFact]) -> Books {
    let mut books = Books::default();
    for fact in facts {
        books.node_fact(fact);
    }
    books
}

#[test]
fn one_payment_through_a_relay_reads_as_it_should() {
    let facts = [
        NodeFact::Out(OutFact::Opened {
            escrow: id(9),
            balance: stroops(1_000),
        }),
        believed(1, Owner::Client),
        claim(1, 1, 500),
        allocated(1, 7, 400),
        spent(7, 150, 250),
        NodeFact::Out(OutFact::Signed {
            escrow: id(9),
            k: 1,
            cumulative: stroops(250),
        }),
    ];
    let books = post(&facts);
    books.check().expect("adds up");
    let balance = |account| books.balance(account);
    assert_eq!(balance(Account::Claims(id(1))), 500);
    assert_eq!(balance(Account::Payer(id(1))), -100);
    assert_eq!(balance(Account::Held), 0);
    assert_eq!(balance(Account::Earned), -150);
    assert_eq!(balance(Account::Forwarding), 0);
    assert_eq!(balance(Account::Signed(id(9))), -250);
    assert_eq!(balance(Account::Deposit(id(9))), 1_000);
}

#[test]
fn both_escrows_settled_leave_the_income_and_the_capital() {
    let facts = [
        NodeFact::Out(OutFact::Opened {
            escrow: id(9),
            balance: stroops(1_000),
        }),
        believed(1, Owner::Client),
        claim(1, 1, 400),
        allocated(1, 7, 400),
        spent(7, 150, 250),
        NodeFact::Out(OutFact::Signed {
            escrow: id(9),
            k: 1,
            cumulative: stroops(250),
        }),
        NodeFact::CircuitEnded { circuit: CircuitId(7) },
        NodeFact::Settled {
            escrow: id(1),
            amount: stroops(400),
        },
        NodeFact::Out(OutFact::Ended {
            escrow: id(9),
            paid: stroops(250),
        }),
    ];
    let books = post(&facts);
    books.check().expect("adds up");
    assert_eq!(books.balance(Account::Received), 400);
    assert_eq!(books.balance(Account::Earned), -150);
    // 1,000 went in, 750 came back.
    assert_eq!(books.balance(Account::Capital), -250);
    for empty in [
        Account::Claims(id(1)),
        Account::Payer(id(1)),
        Account::Signed(id(9)),
        Account::Deposit(id(9)),
    ] {
        assert_eq!(books.balance(empty), 0, "{empty}");
    }
}

#[test]
fn signing_away_more_than_came_in_is_found() {
    let facts = [
        NodeFact::Out(OutFact::Opened {
            escrow: id(9),
            balance: stroops(1_000),
        }),
        believed(1, Owner::Client),
        claim(1, 1, 400),
        allocated(1, 7, 400),
        spent(7, 150, 250),
        NodeFact::Out(OutFact::Signed {
            escrow: id(9),
            k: 1,
            cumulative: stroops(251),
        }),
    ];
    assert_eq!(
        post(&facts).check(),
        Err(Imbalance::Overdrawn {
            account: Account::Forwarding,
            by: 1
        })
    );
}

#[test]
fn spending_what_was_not_allocated_and_allocating_what_was_not_claimed_are_found() {
    let facts = [believed(1, Owner::Client), claim(1, 1, 400), allocated(1, 7, 401)];
    assert_eq!(
        post(&facts).check(),
        Err(Imbalance::Overdrawn {
            account: Account::Payer(id(1)),
            by: 1
        })
    );
    let facts = [
        believed(1, Owner::Client),
        claim(1, 1, 400),
        allocated(1, 7, 300),
        spent(7, 301, 0),
    ];
    assert_eq!(
        post(&facts).check(),
        Err(Imbalance::Overdrawn {
            account: Account::Held,
            by: 1
        })
    );
}

#[test]
fn signing_more_than_an_escrow_holds_is_found() {
    let mut books = Books::default();
    books.payer_fact(&PayerFact::Out(OutFact::Opened {
        escrow: id(9),
        balance: stroops(100),
    }));
    books.payer_fact(&PayerFact::Out(OutFact::Signed {
        escrow: id(9),
        k: 1,
        cumulative: stroops(101),
    }));
    assert!(matches!(
        books.check(),
        Err(Imbalance::OverSigned {
            signed: 101,
            deposit: 100,
            ..
        })
    ));
}

#[test]
fn a_restart_gives_clients_what_was_held_and_keeps_what_relays_gave() {
    let facts = [
        believed(1, Owner::Client),
        believed(2, Owner::Peer(PEER)),
        claim(1, 1, 100),
        claim(2, 1, 70),
        allocated(1, 7, 100),
        allocated(2, 8, 70),
        NodeFact::Restarted,
    ];
    let books = post(&facts);
    books.check().expect("adds up");
    assert_eq!(books.balance(Account::Payer(id(1))), -100);
    assert_eq!(books.balance(Account::Payer(id(2))), 0);
    assert_eq!(books.balance(Account::Kept), -70);
}

#[test]
fn a_flush_that_paid_less_is_a_loss_and_a_lapsed_claim_of_ours_a_gain() {
    let facts = [
        NodeFact::Out(OutFact::Opened {
            escrow: id(9),
            balance: stroops(1_000),
        }),
        believed(1, Owner::Client),
        claim(1, 2, 400),
        allocated(1, 7, 400),
        spent(7, 150, 250),
        NodeFact::Out(OutFact::Signed {
            escrow: id(9),
            k: 1,
            cumulative: stroops(250),
        }),
        NodeFact::Settled {
            escrow: id(1),
            amount: stroops(300),
        },
        NodeFact::Out(OutFact::Ended {
            escrow: id(9),
            paid: Stroops::ZERO,
        }),
    ];
    let books = post(&facts);
    books.check().expect("adds up");
    assert_eq!(books.balance(Account::Lost), 100);
    assert_eq!(books.balance(Account::Gained), -250);
    assert_eq!(books.balance(Account::Capital), 0);
}

/// What may happen next, as far as amounts go; the numbers are cut to what the state allows.
#[derive(Debug, Clone)]
enum Move {
    Claim(u8, i64),
    Allocate(u8, u64, i64),
    Spend(u64, i64, i64),
    Sign(u8, i64),
    Return(u64),
    End(u64),
    Restart,
    Settle(u8, i64),
    OutEnd(u8, i64),
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (0..4u8, 0..10_000i64).prop_map(|(e, n)| Move::Claim(e, n)),
        4 => (0..4u8, 0..6u64, 0..10_000i64).prop_map(|(e, c, n)| Move::Allocate(e, c, n)),
        4 => (0..6u64, 0..10_000i64, 0..10_000i64).prop_map(|(c, e, f)| Move::Spend(c, e, f)),
        4 => (0..2u8, 0..10_000i64).prop_map(|(e, n)| Move::Sign(e, n)),
        1 => (0..6u64).prop_map(Move::Return),
        1 => (0..6u64).prop_map(Move::End),
        1 => Just(Move::Restart),
        1 => (0..4u8, 0..20_000i64).prop_map(|(e, n)| Move::Settle(e, n)),
        1 => (0..2u8, 0..20_000i64).prop_map(|(e, n)| Move::OutEnd(e, n)),
    ]
}

proptest! {
    #[test]
    fn books_of_any_allowed_history_balance(moves in prop::collection::vec(a_move(), 0..120)) {
        let mut books = Books::default();
        let mut facts: Vec<NodeFact> =
            (0..4).map(|n| believed(n, if n < 2 { Owner::Client } else { Owner::Peer(PEER) })).collect();
        facts.extend((10..12).map(|n| NodeFact::Out(OutFact::Opened { escrow: id(n), balance: stroops(50_000) })));
        let mut entries = Vec::new();
        for fact in &facts {
            entries.extend(books.node_fact(fact));
        }
        let mut k = 0;
        for step in moves {
            k += 1;
            let credit = |books: &Books, account| i64::try_from(-books.balance(account)).expect("small");
            let fact = match step {
                Move::Claim(e, rise) => {
                    let newest = books.incoming.get(&id(e)).map_or(0, |(newest, _)| *newest);
                    claim(e, k, newest + rise)
                }
                Move::Allocate(e, c, n) => {
                    allocated(e, c, n.min(credit(&books, Account::Payer(id(e)))))
                }
                Move::Spend(c, e, f) => {
                    let held = books.held.get(&c).map_or(0, |holdings| holdings.iter().map(|(_, held)| held).sum());
                    let e = e.min(held);
                    spent(c, e, f.min(held - e))
                }
                Move::Sign(e, rise) => {
                    let newest = books.outgoing.get(&id(10 + e)).copied().unwrap_or(0);
                    let deposit = i64::try_from(books.balance(Account::Deposit(id(10 + e)))).expect("small");
                    let room = if deposit == 0 { 0 } else { (deposit - newest).max(0) };
                    let rise = rise.min(credit(&books, Account::Forwarding)).min(room);
                    NodeFact::Out(OutFact::Signed { escrow: id(10 + e), k, cumulative: stroops(newest + rise) })
                }
                Move::Return(c) => {
                    let (escrow, held) = books.held.get(&c).and_then(|h| h.first()).map_or((id(0), 0), |h| *h);
                    NodeFact::Returned { escrow, circuit: CircuitId(c), amount: stroops(held) }
                }
                Move::End(c) => NodeFact::CircuitEnded { circuit: CircuitId(c) },
                Move::Restart => NodeFact::Restarted,
                Move::Settle(e, n) => NodeFact::Settled { escrow: id(e), amount: stroops(n) },
                Move::OutEnd(e, n) => {
                    let deposit = i64::try_from(books.balance(Account::Deposit(id(10 + e)))).expect("small");
                    NodeFact::Out(OutFact::Ended { escrow: id(10 + e), paid: stroops(n.min(deposit)) })
                }
            };
            let made = books.node_fact(&fact);
            prop_assert!(made.iter().all(|entry| entry.stroops > 0 && entry.debit != entry.credit));
            entries.extend(made);
            facts.push(fact);
            prop_assert_eq!(books.check(), Ok(()), "after {:?}", fact);
        }
        // The balances are the sums of the entries, and a replay gives the same books.
        let mut sums = BTreeMap::<Account, i128>::new();
        for entry in &entries {
            *sums.entry(entry.debit).or_default() += i128::from(entry.stroops);
            *sums.entry(entry.credit).or_default() -= i128::from(entry.stroops);
        }
        prop_assert_eq!(&sums, books.balances());
        let again = post(&facts);
        prop_assert_eq!(again.balances(), books.balances());
    }
}
