//! Honest networks, nothing goes wrong.

use super::{Plan, Sim, s};
use crate::payer::{PayPolicy, Unpaid};

const MIB: u64 = 1 << 20;

/// A client with an escrow that its guard knows, and relays with escrows among each other.
pub(super) fn ready(plan: Plan) -> Sim {
    let mut sim = Sim::new(plan);
    sim.run(30_000);
    sim
}

#[test]
fn a_download_over_three_relays_is_paid_at_every_hop() {
    let mut sim = ready(Plan::default());
    let t = sim.open_tunnel(0, &[0, 1, 2], 8 * MIB).expect("everybody is up");
    sim.run(60_000);
    assert!(!sim.tunnels.contains_key(&t), "the download ended");
    let t = &sim.past[0];
    assert!(t.complete >= 8, "{} payments", t.complete);
    assert_eq!(t.refused, 0);
    for (i, r) in sim.relays.iter().enumerate() {
        let sold: u64 = r.durable.credit.values().sum();
        assert!(sold + 256 * 1024 >= t.carried, "relay {i} sold {sold} of {}", t.carried);
        assert!(sold <= t.carried + 8 * MIB, "relay {i} sold {sold} of {}", t.carried);
        assert_eq!(r.destroyed, 0);
        assert_eq!(r.closed_links, 0);
    }
}

#[test]
fn a_payment_takes_at_most_six_cells_once_it_is_quoted() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], 32 * MIB).expect("everybody is up");
    sim.run(120_000);
    let t = &sim.past[0];
    // Three quotes (6 cells), an offer (2) and a few balances and idle listens besides.
    assert!(
        t.cells <= 6 * t.complete + 24,
        "{} cells for {} payments",
        t.cells,
        t.complete
    );
}

#[test]
fn chains_of_one_to_seven_hops_are_paid_to_their_end() {
    for hops in 1..=7 {
        let mut sim = ready(Plan {
            relays: hops,
            hops,
            prices: vec![1, 2, 1, 5],
            ..Plan::default()
        });
        let path: Vec<_> = (0..hops).collect();
        sim.open_tunnel(0, &path, 2 * MIB).expect("everybody is up");
        sim.run(60_000);
        for (i, r) in sim.relays.iter().enumerate() {
            assert!(r.durable.earned > 0, "relay {i} of {hops} was not paid");
        }
    }
}

#[test]
fn a_chain_ends_at_the_first_hop_that_cannot_pay_the_next() {
    let mut sim = ready(Plan {
        relays: 3,
        ..Plan::default()
    });
    // Relay 1 never opens escrows; relay 2 is a paid hop all the same.
    let mut sim2 = Sim::new(Plan {
        relays: 3,
        pays_others: false,
        ..Plan::default()
    });
    sim2.run(30_000);
    sim2.open_tunnel(0, &[0, 1, 2], 2 * MIB).expect("everybody is up");
    sim2.run(60_000);
    assert!(sim2.relays[0].durable.earned > 0);
    assert_eq!(
        sim2.relays[1].durable.earned, 0,
        "the guard said `next: none`, so nothing was paid beyond it"
    );
    assert!(sim2.clients[0].unpaid.contains(&Unpaid::ChainEnds));
    sim.open_tunnel(0, &[0, 1, 2], 2 * MIB).expect("everybody is up");
    sim.run(60_000);
    assert!(sim.relays[1].durable.earned > 0);
}

#[test]
fn many_clients_share_links_and_escrows_between_relays() {
    let mut sim = ready(Plan {
        relays: 6,
        clients: 12,
        deposit: 100_000_000,
        ..Plan::default()
    });
    for round in 0..4 {
        for c in 0..12 {
            let path = [c % 2, 2 + (c + round) % 2, 4 + c % 2];
            sim.open_tunnel(c, &path, 3 * MIB).expect("everybody is up");
        }
        sim.run(40_000);
    }
    assert_eq!(sim.past.len(), 48);
    assert!(sim.past.iter().all(|t| t.complete > 0 && t.refused == 0));
}

#[test]
fn several_tunnels_of_a_client_draw_on_one_escrow() {
    let mut sim = ready(Plan::default());
    for _ in 0..5 {
        sim.open_tunnel(0, &[0, 1, 2], 2 * MIB).expect("everybody is up");
    }
    sim.run(90_000);
    assert_eq!(sim.past.len(), 5);
    assert_eq!(sim.relays[0].durable.claims.len(), 1, "one escrow with the guard");
    assert!(sim.past.iter().all(|t| t.complete > 0));
}

#[test]
fn unused_credit_at_the_guard_pays_for_the_next_tunnel() {
    let mut sim = ready(Plan {
        relays: 1,
        hops: 1,
        initial: 0,
        ..Plan::default()
    });
    for _ in 0..20 {
        sim.open_tunnel(0, &[0], 200_000).expect("everybody is up");
        sim.run(20_000);
    }
    let claimed: i64 = sim.relays[0].durable.claims.values().map(|c| c.1.get()).sum();
    let carried: u64 = sim.past.iter().map(|t| t.carried).sum();
    let fair = (carried / 65_536 + 20) as i64 * 10;
    assert!(
        claimed <= fair + 5 * 10,
        "{claimed} stroops claimed for {carried} bytes, worth {fair}"
    );
}

#[test]
fn when_it_helps_withholds_a_step_now_and_then_and_goes_on_paying_where_that_slows() {
    let mut plan = Plan {
        policy: PayPolicy::WhenItHelps,
        deposit: 100_000_000,
        ..Plan::default()
    };
    plan.seed = 4;
    let mut sim = ready(plan);
    sim.open_tunnel(0, &[0, 1, 2], 256 * MIB).expect("everybody is up");
    sim.run(300_000);
    let sold: u64 = sim.relays[0].durable.credit.values().sum();
    assert!(sold > 64 * MIB, "{sold}");
}

#[test]
fn a_client_that_never_pays_is_carried_and_never_asked() {
    let mut sim = ready(Plan {
        policy: PayPolicy::Never,
        ..Plan::default()
    });
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(60_000);
    assert_eq!(sim.past.len(), 1);
    assert!(
        sim.relays
            .iter()
            .all(|r| r.durable.claims.is_empty() || r.durable.earned == 0)
    );
}

#[test]
fn an_escrow_is_succeeded_before_it_ends_and_a_long_stream_never_notices() {
    let mut sim = ready(Plan {
        deposit: 100_000_000,
        ..Plan::default()
    });
    sim.open_tunnel(0, &[0, 1, 2], u64::MAX / 1024)
        .expect("everybody is up");
    // Slow use for a day and a half: a burst every hour.
    for _ in 0..36 {
        let want: Vec<_> = sim.tunnels.keys().copied().collect();
        for t in want {
            sim.tunnels.get_mut(&t).expect("just listed").wanted = MIB;
        }
        sim.run(20_000);
        if sim.tunnels.is_empty() {
            sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
        }
        sim.run(3_600_000 - 20_000);
    }
    let escrows = sim.clients[0].signed.len();
    assert!(escrows >= 2, "{escrows} escrows in 36 hours");
    let settled = &sim.relays[0].settled;
    assert!(!settled.is_empty(), "the first was flushed in its margin");
    for (escrow, amount) in settled {
        if let Some((_, claimed, _)) = sim.relays[0].durable.claims.get(escrow) {
            assert_eq!(amount, claimed, "what settled is the last claim");
        }
    }
    assert!(*settled.values().next().expect("one settled") > s(0));
}
