//! Who reads the ledger and looks for paths in it; and escrows that stand in each other's way.

use super::*;
use std::collections::BTreeMap;

/// What the ledger shows of the relays' escrows after clients have used these paths: who opened how many to whom, and which were
/// flushed.
fn shown(paths: &[&[usize]]) -> BTreeMap<(usize, usize), (usize, usize)> {
    let mut sim = ready(Plan {
        relays: 5,
        clients: 2,
        deposit: 50_000_000,
        ..Plan::default()
    });
    for _ in 0..3 {
        for path in paths {
            sim.open_tunnel(0, path, MIB).expect("everybody is up");
            sim.run(20_000);
        }
        sim.run(600_000);
    }
    let paid: u64 = sim.past.iter().map(|t| t.complete).sum();
    assert_eq!(paid > 0, !paths.is_empty());
    let mut all: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for account in sim.ledger.accounts.values() {
        let payer = sim
            .relays
            .iter()
            .position(|r| r.keys.own.borrow().contains(&account.escrow.id()));
        let payee = sim.relays.iter().position(|r| r.id == account.escrow.terms.payee);
        if let (Some(payer), Some(payee)) = (payer, payee) {
            let seen = all.entry((payer, payee)).or_default();
            seen.0 += 1;
            seen.1 += usize::from(account.paid.is_some());
        }
    }
    all
}

#[test]
fn the_ledger_is_the_same_whatever_paths_are_paid() {
    let nobody = shown(&[]);
    assert_eq!(nobody.len(), 20, "every relay has opened to every other one");
    assert!(nobody.values().all(|(opened, flushed)| (*opened, *flushed) == (1, 0)));
    for paths in [
        &[&[0, 1, 2][..]][..],
        &[&[0, 2, 1][..]][..],
        &[&[0, 3, 4][..], &[0, 4, 3][..]][..],
        &[&[3, 1][..], &[3, 0, 1, 2, 4][..]][..],
    ] {
        assert_eq!(shown(paths), nobody, "{paths:?} can be read from the ledger");
    }
}

#[test]
fn an_escrow_that_cannot_be_flushed_holds_up_no_other() {
    let mut sim = ready(Plan {
        clients: 3,
        ..Plan::default()
    });
    for client in 0..3 {
        sim.open_tunnel(client, &[0, 1, 2], MIB).expect("everybody is up");
    }
    sim.run(30_000);
    let claims = sim.relays[0].durable.claims.clone();
    assert_eq!(claims.len(), 3);
    // The first one fails in its ledger, and its payer never comes back.
    sim.mute.extend((0..3).map(Party::Client));
    sim.ledger.failing = 1;
    for escrow in claims.keys() {
        sim.tell(0, Input::FlushNow { escrow: *escrow });
        sim.run(10_000);
    }
    let settled: Vec<bool> = claims
        .iter()
        .map(|(escrow, (_, sum, _))| sim.relays[0].settled.get(escrow) == Some(sum))
        .collect();
    assert_eq!(settled, [false, true, true]);
}
