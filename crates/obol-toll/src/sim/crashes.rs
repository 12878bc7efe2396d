//! Every party, and the ledger, dies once at each moment of each thing that is done with money: all of them, not a sample.
//!
//! A story is played once without a death, while the moments are counted (`moments.rs`); then once for each of them, with a death
//! there. After each: the invariants held at every step, the network is paid again, and when all is wound up every claim is on the
//! ledger to the stroop and every deposit is back.

use super::moments::{Dies, Moment, Point};
use super::settling::wind_up_with;
use super::world::Party;
use super::{Plan, Sim, s};
use crate::{node, payer};
use obol_cell::{EscrowId, UNIT};
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const HOUR: u64 = 3_600_000;

type Story = fn(&mut Sim);

/// Says where it was when a run fails.
struct At<'a>(&'a str, Option<Point>);

impl Drop for At<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: dying at {:?}", self.0, self.1);
        }
    }
}

/// One run, with a death at `at`; says what was counted.
fn one(name: &str, plan: &Plan, story: Story, at: Option<Point>) -> Sim {
    let _told = At(name, at);
    let mut sim = Sim::dying(plan.clone(), at);
    story(&mut sim);
    sim.moments.counting = false;
    assert_eq!(sim.moments.died, at.is_some(), "a run is a function of its seed");
    // Whoever died is up again, and a ledger, too.
    sim.run(80_000);
    let path: Vec<usize> = (0..plan.hops).collect();
    let paid = (0..8).any(|_| {
        sim.open_tunnel(0, &path, MIB).expect("everybody is up again");
        sim.run(25_000);
        sim.past.last().is_some_and(|t| t.complete > 0)
    });
    assert!(paid, "nothing was paid any more");
    sim.check_left();
    wind_up_with(&mut sim, 8 * HOUR);
    sim
}

/// All of them. Says at how many points somebody died.
fn all(name: &str, plan: &Plan, story: Story) -> u64 {
    let moments = one(name, plan, story, None).moments.seen.clone();
    let mut points = 0;
    for ((who, moment), times) in &moments {
        for i in 0..*times {
            one(name, plan, story, Some((*who, *moment, i)));
            points += 1;
        }
    }
    let who: BTreeSet<Dies> = moments.keys().map(|(who, _)| *who).collect();
    let parties = who.iter().filter(|who| **who != Dies::Ledger).count();
    assert_eq!(parties, plan.relays + plan.clients, "everybody dies: {who:?}");
    // A payment is no business of the ledger's; all else is.
    assert_eq!(who.contains(&Dies::Ledger), name != "payment");
    println!("{name}: {points} points");
    points
}

/// Moments are counted while this happens, and not before or after.
fn counted(sim: &mut Sim, what: impl FnOnce(&mut Sim)) {
    sim.moments.counting = true;
    what(sim);
    sim.moments.counting = false;
}

fn plan() -> Plan {
    Plan {
        seed: 7,
        deposit: 50_000_000,
        rollover_ms: 0,
        ..Plan::default()
    }
}

/// Deposits that 40 MiB use up.
fn little() -> Plan {
    Plan {
        deposit: 20_000,
        ..plan()
    }
}

/// A client and relays that have paid each other, and nobody dies yet.
fn paid(sim: &mut Sim) {
    sim.moments.counting = false;
    sim.run(20_000);
    // Its first seconds are unpaid: the escrow is opened meanwhile.
    sim.open_tunnel(0, &[0, 1, 2], 2 * MIB).expect("everybody is up");
    sim.run(20_000);
    assert!(sim.past.last().is_some_and(|t| t.complete > 0), "it was paid");
}

/// The escrow of this party that pays `payee`, as far as anybody knows.
fn escrow_of(sim: &Sim, party: Party, payee: usize) -> Option<EscrowId> {
    let keys = match party {
        Party::Relay(i) => &sim.relays[i].keys,
        Party::Client(i) => &sim.clients[i].keys,
    };
    let own = keys.own.borrow();
    let mut all = sim.ledger.accounts.values();
    all.find(|a| own.contains(&a.escrow.id()) && a.escrow.terms.payee == sim.relays[payee].id && a.paid.is_none())
        .map(|a| a.escrow.id())
}

// ---- the stories ----

/// Relays greet each other, offer escrows, open them and are believed; then a client does the same, and pays.
fn opening(sim: &mut Sim) {
    sim.run(12_000);
    sim.open_tunnel(0, &[0, 1], 3 * MIB / 2);
    sim.run(12_000);
}

/// Payments over three hops, with more than one in the journals at once, and the circuit's end.
fn payment(sim: &mut Sim) {
    paid(sim);
    counted(sim, |sim| {
        let tunnel = sim.open_tunnel(0, &[0, 1, 2], 3 * MIB);
        sim.run(2_500);
        if let Some(tunnel) = tunnel {
            sim.close_tunnel(tunnel, false);
        }
        sim.run(500);
    });
}

/// The guard and the middle flush; the middle's first flush fails in a ledger, and its payer gives it the spare claim. A draw comes
/// after the guard's.
fn flush(sim: &mut Sim) {
    paid(sim);
    let escrows = [
        escrow_of(sim, Party::Client(0), 0).expect("it was opened"),
        escrow_of(sim, Party::Relay(0), 1).expect("it was opened"),
    ];
    // A circuit ends with much of its last step unused: the next payment draws on that.
    let tunnel = sim.open_tunnel(0, &[0, 1, 2], 8 * MIB).expect("everybody is up");
    let (_, circuit) = sim.tunnels[&tunnel].path[0];
    while sim.relays[0].circuits[&circuit].granted < sim.relays[0].circuits[&circuit].metered + 8 * UNIT {
        sim.step();
    }
    sim.close_tunnel(tunnel, false);
    sim.run(2_000);
    sim.ledger.failing = 1;
    counted(sim, |sim| {
        sim.tell(1, node::Input::FlushNow { escrow: escrows[1] });
        sim.run(7_000);
        if let Some(tunnel) = sim.open_tunnel(0, &[0, 1, 2], MIB / 8) {
            let on_its_way = |sim: &Sim| sim.tunnels.get(&tunnel).is_none_or(|t| !t.allocations.is_empty());
            while !on_its_way(sim) {
                sim.step();
            }
        }
        // The payment comes when the flush is recorded.
        sim.tell(0, node::Input::FlushNow { escrow: escrows[0] });
        sim.run(14_000);
    });
    // Whatever died, one of them failed in a ledger, or none was flushed yet.
    sim.ledger.failing = 0;
}

/// The client's escrow is near its end and is followed by another while a circuit is open; of the relays' little is left in the
/// end, and they are followed too.
fn roll_over(sim: &mut Sim) {
    paid(sim);
    sim.run_slowly(21 * HOUR, HOUR);
    sim.run(11_000);
    counted(sim, |sim| {
        let tunnel = sim.open_tunnel(0, &[0, 1, 2], 40 * MIB);
        sim.run(14_000);
        if let Some(tunnel) = tunnel {
            sim.close_tunnel(tunnel, false);
        }
        sim.run(9_000);
    });
}

/// The client asks its guard to flush, and the guard the middle.
fn close(sim: &mut Sim) {
    paid(sim);
    let client = escrow_of(sim, Party::Client(0), 0).expect("it was opened");
    let relay = escrow_of(sim, Party::Relay(0), 1).expect("it was opened");
    counted(sim, |sim| {
        sim.open_tunnel(0, &[0, 1, 2], MIB / 8);
        sim.run(100);
        sim.say(0, payer::Input::Close { escrow: client });
        sim.tell(0, node::Input::Close { escrow: relay });
        sim.run(16_000);
    });
}

/// Deposits that nobody ever claimed anything of go back when their time is over, the client's after a day, the relays' after seven.
fn refund(sim: &mut Sim) {
    sim.moments.counting = false;
    sim.run(15_000);
    // Its escrow is opened, and its tunnel ends before anything is paid.
    let tunnel = sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    while escrow_of(sim, Party::Client(0), 0).is_none() {
        sim.step();
    }
    sim.close_tunnel(tunnel, false);
    let start = sim.now;
    for i in 0..sim.relays.len() {
        let mut config = sim.relays[i].config;
        config.pays_others = false;
        sim.relays[i].config = config;
        sim.relays[i].node.as_mut().expect("all are up").reconfigure(config);
    }
    for days in [1, 7] {
        let until = start + days * 24 * HOUR - 60_000;
        sim.run_slowly(until - sim.now, 8 * HOUR);
        counted(sim, |sim| sim.run(90_000));
    }
}

#[test]
fn a_death_at_any_moment_of_an_opening_loses_nothing() {
    let plan = Plan {
        relays: 2,
        hops: 2,
        ..plan()
    };
    assert!(all("opening", &plan, opening) > 120);
}

#[test]
fn a_death_at_any_moment_of_a_payment_loses_nothing() {
    assert!(all("payment", &plan(), payment) > 150);
}

#[test]
fn a_death_at_any_moment_of_a_flush_loses_nothing() {
    assert!(all("flush", &plan(), flush) > 100);
}

#[test]
fn a_death_at_any_moment_of_a_roll_over_loses_nothing() {
    assert!(all("roll-over", &little(), roll_over) > 150);
}

#[test]
fn a_death_at_any_moment_of_a_close_loses_nothing() {
    assert!(all("close", &plan(), close) > 60);
}

#[test]
fn a_death_at_any_moment_of_a_refund_loses_nothing() {
    assert!(all("refund", &plan(), refund) > 30);
}

/// What the stories are about does happen in them.
#[test]
fn each_story_has_what_it_is_named_after() {
    let told = |plan: &Plan, story: Story| {
        let mut sim = Sim::dying(plan.clone(), None);
        story(&mut sim);
        sim
    };
    let two = Plan {
        relays: 2,
        hops: 2,
        ..plan()
    };
    let sim = told(&two, opening);
    assert_eq!(
        sim.ledger.accounts.len(),
        3,
        "each relay's to the other, and the client's"
    );
    assert!(sim.past.last().is_some_and(|t| t.complete > 0));
    let sim = told(&plan(), payment);
    assert!(sim.past.last().is_some_and(|t| t.complete > 2));
    let sim = told(&plan(), flush);
    let ended = |sim: &Sim| sim.ledger.accounts.values().filter(|a| a.paid.is_some()).count();
    assert_eq!(ended(&sim), 2, "both were flushed");
    let failed = sim
        .ledger
        .results
        .values()
        .filter(|r| **r == super::ledger::Flushed::Failed);
    assert_eq!(failed.count(), 1);
    let own = sim.clients[0].keys.own.borrow().clone();
    let drawn = sim.relays[0].durable.claims.iter().any(|(e, (k, ..))| {
        let flushed = sim.relays[0].durable.flushing.get(e);
        own.contains(e) && flushed.is_some_and(|flushed| flushed < k)
    });
    assert!(drawn, "a draw came after the flush was recorded");
    let sim = told(&little(), roll_over);
    assert!(sim.clients[0].signed.len() >= 2, "the client pays by its next escrow");
    let to_1 = sim.ledger.accounts.values().filter(|a| {
        a.escrow.terms.payee == sim.relays[1].id && sim.relays[0].keys.own.borrow().contains(&a.escrow.id())
    });
    assert!(to_1.count() >= 2, "the guard has another one to the middle");
    let sim = told(&plan(), close);
    assert_eq!(ended(&sim), 2, "both were flushed because they were asked to be");
    let sim = told(&plan(), refund);
    assert!(
        sim.ledger.accounts.values().all(|a| a.paid == Some(s(0))),
        "all went back"
    );
    assert_eq!(
        sim.ledger.accounts.len(),
        7,
        "six of the relays and one of the client's"
    );
    assert!(sim.moments.seen.keys().any(|(_, moment)| *moment == Moment::Answers));
}
