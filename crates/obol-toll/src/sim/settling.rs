//! The end of an escrow's life, and what the ledger says in the end.

use super::faults::storm;
use super::scenarios::ready;
use super::{Faults, Plan, Sim, s};
use crate::node::Input;
use obol_cell::Stroops;

const MIB: u64 = 1 << 20;

/// Everything is closed; what settled is compared with what was claimed, and nothing was created or lost.
pub(super) fn wind_up(sim: &mut Sim) {
    wind_up_with(sim, 1_800_000);
}

/// The same, with a ledger every so many milliseconds once everything was flushed.
pub(super) fn wind_up_with(sim: &mut Sim, ledger_ms: u64) {
    let open: Vec<_> = sim.tunnels.keys().copied().collect();
    for tunnel in open {
        sim.close_tunnel(tunnel, false);
    }
    sim.run(30_000);
    for i in 0..sim.relays.len() {
        let escrows: Vec<_> = sim.relays[i].durable.claims.keys().copied().collect();
        for escrow in escrows {
            sim.tell(i, Input::FlushNow { escrow });
        }
    }
    sim.run(60_000);
    // What nobody claimed anything on is refunded after its expiry; nobody opens another.
    for i in 0..sim.relays.len() {
        sim.relays[i].config.pays_others = false;
        let config = sim.relays[i].config;
        sim.relays[i].node.as_mut().expect("all are up").reconfigure(config);
    }
    sim.run_slowly(9 * 86_400_000, ledger_ms);
    for (i, r) in sim.relays.iter().enumerate() {
        for (escrow, (_, claimed, _)) in &r.durable.claims {
            if !claimed.is_zero() {
                assert_eq!(
                    r.settled.get(escrow),
                    Some(claimed),
                    "relay {i} got its last claim to the stroop"
                );
            }
        }
        let income: i64 = r.settled.values().map(|a| a.get()).sum();
        let paid: i64 = sim
            .ledger
            .accounts
            .values()
            .filter(|a| r.keys.own.borrow().contains(&a.escrow.id()))
            .filter_map(|a| a.paid)
            .map(Stroops::get)
            .sum();
        assert!(paid <= income, "relay {i} paid {paid} out of {income}");
        let totals = r.node.as_ref().expect("all are up").totals();
        assert_eq!(totals.claimed.get(), income, "its books agree with the ledger");
    }
    let now = sim.now / 1_000;
    for account in sim
        .ledger
        .accounts
        .values()
        .filter(|a| a.escrow.terms.expiry + 120 < now)
    {
        let paid = account.paid.expect("every escrow ended");
        assert!(paid <= account.deposit, "the rest is the payer's");
    }
}

#[test]
fn after_a_good_day_every_relay_has_its_last_claims_on_the_ledger() {
    let mut sim = ready(Plan {
        relays: 4,
        clients: 3,
        ..Plan::default()
    });
    for c in 0..3 {
        sim.open_tunnel(c, &[c, 3, (c + 1) % 3], 4 * MIB)
            .expect("everybody is up");
    }
    sim.run(60_000);
    wind_up(&mut sim);
    assert!(sim.relays.iter().all(|r| !r.settled.is_empty()));
}

#[test]
fn after_a_bad_day_every_relay_has_its_last_claims_on_the_ledger() {
    for seed in 80..84 {
        let plan = Plan {
            seed,
            relays: 5,
            clients: 2,
            deposit: 50_000_000,
            faults: Faults::ALL,
            ..Plan::default()
        };
        let mut sim = storm(plan, 3);
        wind_up(&mut sim);
    }
}

#[test]
fn a_relay_that_was_down_when_its_flush_went_out_repeats_it() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(30_000);
    let (escrow, (_, claimed, _)) = sim.relays[0]
        .durable
        .claims
        .iter()
        .next()
        .map(|(e, c)| (*e, *c))
        .expect("paid");
    sim.tell(0, Input::FlushNow { escrow });
    sim.run(10);
    assert!(sim.relays[0].durable.flushing.contains_key(&escrow));
    sim.crash(super::world::Party::Relay(0));
    sim.run(60_000);
    assert_eq!(sim.relays[0].settled.get(&escrow), Some(&claimed));
}

#[test]
fn a_flush_that_fails_in_a_ledger_succeeds_with_the_payers_spare_claim() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(30_000);
    // Relay 0 pays relay 1; relay 1's first flush fails.
    let (escrow, (k, claimed, _)) = sim.relays[1]
        .durable
        .claims
        .iter()
        .next()
        .map(|(e, c)| (*e, *c))
        .expect("paid");
    sim.ledger.failing = 1;
    sim.tell(1, Input::FlushNow { escrow });
    sim.run(60_000);
    assert_eq!(sim.relays[1].settled.get(&escrow), Some(&claimed));
    assert!(sim.ledger.accounts[&escrow].used > k);
}

#[test]
fn an_escrow_that_was_never_used_is_refunded_after_its_expiry() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], 10_000).expect("everybody is up");
    sim.run(60_000);
    sim.run_days(8);
    assert!(
        sim.ledger.accounts.values().any(|a| a.paid == Some(s(0))),
        "some were refunded"
    );
    assert!(
        sim.ledger
            .accounts
            .values()
            .filter(|a| a.escrow.terms.expiry * 1_000 + 60_000 < sim.now)
            .all(|a| a.paid.is_some())
    );
}

#[test]
fn a_closing_escrow_between_relays_is_followed_by_another() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(30_000);
    let escrow = *sim.relays[1].durable.claims.keys().next().expect("paid");
    sim.tell(1, Input::FlushNow { escrow });
    sim.run(30_000);
    let earned = sim.relays[1].durable.earned;
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(30_000);
    assert!(sim.relays[1].durable.earned > earned, "paid by the next escrow");
    assert_eq!(sim.relays[1].durable.claims.len(), 2);
}
