//! Everything goes wrong, and the invariants hold after every step.
//!
//! Fixed seeds, and random ones: the seed is printed by a run that fails, and `OBOL_SIM_SEED` repeats it. `OBOL_SIM_RUNS` asks for more
//! random runs.

use super::world::Party;
use super::{Faults, Plan, Sim};
use crate::payer::PayPolicy;
use std::hash::{BuildHasher, RandomState};

const MIB: u64 = 1 << 20;

/// Clients come and go over random paths for `minutes`; then the faults stop, everything is closed, flushed and summed up.
pub(super) fn storm(plan: Plan, minutes: u64) -> Sim {
    let (relays, clients, hops) = (plan.relays, plan.clients, plan.hops);
    let mut sim = Sim::new(plan);
    sim.run(20_000);
    for _ in 0..minutes * 6 {
        for c in 0..clients {
            if sim.tunnels.values().filter(|t| t.client == c).count() >= 3 {
                continue;
            }
            let mut path: Vec<usize> = Vec::new();
            // A client has one guard.
            path.push(c % relays);
            while path.len() < hops {
                let next = sim.rng.up_to(relays as u64 - 1) as usize;
                if !path.contains(&next) {
                    path.push(next);
                }
            }
            let wanted = 100_000 + sim.rng.up_to(3 * MIB);
            sim.open_tunnel(c, &path, wanted);
        }
        sim.run(10_000);
    }
    sim.faults_on = false;
    sim.run(120_000);
    sim.check_left();
    sim
}

fn plan(seed: u64, faults: Faults) -> Plan {
    let policy = if seed.is_multiple_of(3) {
        PayPolicy::WhenItHelps
    } else {
        PayPolicy::Always
    };
    let hops = 1 + (seed % 4) as usize;
    Plan {
        seed,
        relays: hops + 2,
        clients: 1 + (seed % 3) as usize,
        hops,
        deposit: 50_000_000,
        initial: [0, 256 * 1024][(seed % 2) as usize],
        policy,
        faults,
        ..Plan::default()
    }
}

fn over_seeds(seeds: std::ops::Range<u64>, faults: Faults) -> u64 {
    let mut complete = 0;
    for seed in seeds {
        let sim = storm(plan(seed, faults), 3);
        complete += sim.past.iter().map(|t| t.complete).sum::<u64>();
    }
    complete
}

#[test]
fn invariants_hold_when_messages_are_dropped() {
    assert!(
        over_seeds(
            0..6,
            Faults {
                drop: 60,
                ..Faults::NONE
            }
        ) > 0
    );
}

#[test]
fn invariants_hold_when_messages_are_doubled() {
    assert!(
        over_seeds(
            10..16,
            Faults {
                double: 200,
                ..Faults::NONE
            }
        ) > 0
    );
}

#[test]
fn invariants_hold_when_messages_are_late_and_overtake_each_other() {
    assert!(
        over_seeds(
            20..26,
            Faults {
                delay: 200,
                ..Faults::NONE
            }
        ) > 0
    );
}

#[test]
fn invariants_hold_when_links_stall() {
    assert!(
        over_seeds(
            30..36,
            Faults {
                stall: 100,
                ..Faults::NONE
            }
        ) > 0
    );
}

#[test]
fn invariants_hold_when_links_are_cut() {
    assert!(
        over_seeds(
            40..46,
            Faults {
                cut: 300,
                ..Faults::NONE
            }
        ) > 0
    );
}

#[test]
fn invariants_hold_when_any_party_crashes_at_any_step() {
    assert!(
        over_seeds(
            50..60,
            Faults {
                crash: 200,
                ..Faults::NONE
            }
        ) > 0
    );
}

#[test]
fn invariants_hold_when_everything_goes_wrong_at_once() {
    assert!(over_seeds(60..70, Faults::ALL) > 0);
}

#[test]
fn invariants_hold_on_random_days() {
    let seeds: Vec<u64> = match std::env::var("OBOL_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None => {
            let runs = std::env::var("OBOL_SIM_RUNS")
                .ok()
                .and_then(|s| s.parse().ok())
                .unwrap_or(6);
            let start = RandomState::new().hash_one(0u8) >> 16;
            (start..start + runs).collect()
        }
    };
    for seed in seeds {
        println!("OBOL_SIM_SEED={seed}");
        storm(plan(seed, Faults::ALL), 4);
    }
}

/// One crash of one party, at every step of a payment in turn.
#[test]
fn invariants_hold_when_one_party_crashes_at_each_step_of_a_payment() {
    for party in [Party::Relay(0), Party::Relay(1), Party::Relay(2), Party::Client(0)] {
        for at in 0..120 {
            let mut sim = Sim::new(Plan {
                seed: 7,
                deposit: 50_000_000,
                ..Plan::default()
            });
            sim.run(30_000);
            sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
            sim.run(6_500);
            for _ in 0..at {
                sim.step();
            }
            sim.crash(party);
            sim.run(40_000);
            sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up again");
            sim.run(60_000);
            let last = sim.past.last().expect("the second download ended");
            assert!(
                last.complete > 0,
                "nothing was paid after {party:?} crashed at step {at}"
            );
        }
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let figures = |_: ()| {
        let sim = storm(plan(65, Faults::ALL), 2);
        (
            sim.steps,
            sim.relays.iter().map(|r| r.journal.concat()).collect::<Vec<_>>(),
        )
    };
    assert!(figures(()) == figures(()));
}

#[test]
fn a_compacted_journal_restores_the_same_state() {
    use crate::fact::NodeFact;
    use crate::node::Node;
    let sim = storm(plan(61, Faults::ALL), 3);
    for r in sim.relays.iter().filter(|r| r.pending.is_empty()) {
        let facts = || r.journal.iter().map(|f| NodeFact::decode(f).expect("as written"));
        let mut whole = Node::restore(r.config, r.keys.clone(), [1; 32], facts());
        // Its own first fact has to be durable before a snapshot says anything.
        let settle = |node: &mut Node<_>| {
            while let Some(output) = node.poll() {
                if let crate::node::Output::Persist { seq, .. } = output {
                    node.handle(sim.time(), crate::node::Input::Persisted { upto: seq });
                }
            }
        };
        assert!(whole.snapshot().is_none());
        settle(&mut whole);
        let snapshot = whole.snapshot().expect("settled");
        let mut again = Node::restore(r.config, r.keys.clone(), [1; 32], snapshot.clone());
        settle(&mut again);
        assert_eq!(again.totals(), whole.totals());
        assert_eq!(again.snapshot().expect("settled"), snapshot);
        assert!(snapshot.len() < r.journal.len());
    }
}
