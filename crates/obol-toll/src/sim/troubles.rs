//! What goes wrong around the machines: clocks, ledgers that are away, slow, wrong or dear, parties that say nothing any more, and
//! messages of earlier runs that come again.

use super::faults::storm;
use super::rail::Weather;
use super::scenarios::ready;
use super::settling::wind_up;
use super::world::Party;
use super::{Faults, Plan, Sim, s};
use crate::ids::{AddressKey, CircuitId, LinkId};
use crate::node::{Input, Node};
use crate::payer;
use obol_cell::Stroops;

const MIB: u64 = 1 << 20;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A download over these relays, and whether it was paid.
fn download(sim: &mut Sim, path: &[usize]) -> bool {
    let Some(_) = sim.open_tunnel(0, path, MIB) else {
        return false;
    };
    sim.run(25_000);
    sim.past.last().is_some_and(|t| t.complete > 0)
}

fn earned(sim: &Sim) -> Vec<i128> {
    sim.relays.iter().map(|r| r.durable.earned).collect()
}

// ---- clocks ----

#[test]
fn a_clock_that_is_five_minutes_off_costs_nobody_anything() {
    let five = 5 * MINUTE as i64;
    for party in [Party::Relay(0), Party::Relay(1), Party::Relay(2), Party::Client(0)] {
        for ahead in [five, -five] {
            let plan = Plan {
                clocks: vec![(party, ahead)],
                ..Plan::default()
            };
            let mut sim = ready(plan);
            assert!(download(&mut sim, &[0, 1, 2]), "{party:?} {ahead} ms ahead");
            // It is the same when somebody starts again with such a clock.
            sim.crash(party);
            sim.run(30_000);
            assert!(
                download(&mut sim, &[0, 1, 2]),
                "{party:?} {ahead} ms ahead, after a restart"
            );
            assert!(earned(&sim).iter().all(|e| *e > 0), "{party:?} {ahead} ms ahead");
            wind_up(&mut sim);
        }
    }
}

#[test]
fn clocks_that_are_five_minutes_off_in_both_directions_settle_to_the_stroop() {
    let five = 5 * MINUTE as i64;
    for sign in [1, -1] {
        let plan = Plan {
            clocks: vec![
                (Party::Client(0), sign * five),
                (Party::Relay(0), -sign * five),
                (Party::Relay(1), sign * five),
                (Party::Relay(2), -sign * five),
            ],
            ..Plan::default()
        };
        let mut sim = ready(plan);
        assert!(download(&mut sim, &[0, 1, 2]));
        // Nobody flushes before its escrow's margin: it ends by the clocks.
        sim.run_slowly(24 * HOUR, MINUTE);
        let guard = &sim.relays[0];
        let (escrow, (_, claimed, _)) = guard.durable.claims.iter().next().expect("it was paid");
        assert_eq!(
            guard.settled.get(escrow),
            Some(claimed),
            "flushed before the client could take it back"
        );
        wind_up(&mut sim);
    }
}

// ---- the ledger ----

#[test]
fn payments_go_on_while_the_ledger_is_down_for_an_hour() {
    let mut sim = ready(Plan::default());
    assert!(download(&mut sim, &[0, 1, 2]));
    sim.weather.down_until = sim.now + HOUR;
    let accounts = sim.ledger.accounts.len();
    for minute in [1, 10, 20, 30, 40, 50] {
        assert!(download(&mut sim, &[0, 1, 2]), "{minute} minutes without a ledger");
        sim.run(9 * MINUTE);
    }
    assert!(sim.now > sim.weather.down_until - 10 * MINUTE);
    assert_eq!(sim.ledger.accounts.len(), accounts, "nothing was opened meanwhile");
    sim.run(15 * MINUTE);
    assert!(download(&mut sim, &[0, 1, 2]), "it is back");
    wind_up(&mut sim);
}

#[test]
fn what_is_due_while_the_ledger_is_down_is_done_when_it_is_back() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], MIB).expect("everybody is up");
    sim.run(30_000);
    sim.weather.down_until = sim.now + HOUR;
    let owed: Vec<_> = (0..3)
        .flat_map(|i| sim.relays[i].durable.claims.clone().into_keys().map(move |e| (i, e)))
        .collect();
    for (i, escrow) in &owed {
        sim.tell(*i, Input::FlushNow { escrow: *escrow });
    }
    sim.run(HOUR - MINUTE);
    assert!(sim.relays.iter().all(|r| r.settled.is_empty()));
    // Everybody starts again while it is down.
    for i in 0..3 {
        sim.crash(Party::Relay(i));
    }
    sim.run(3 * MINUTE);
    for (i, escrow) in owed {
        let claimed = sim.relays[i].durable.claims[&escrow].1;
        assert_eq!(sim.relays[i].settled.get(&escrow), Some(&claimed));
    }
    wind_up(&mut sim);
}

#[test]
fn a_slow_ledger_delays_openings_and_settlements_and_loses_none() {
    for slow_ms in [5_000, 19_000, 40_000] {
        let plan = Plan {
            weather: Weather {
                slow_ms,
                ..Weather::default()
            },
            ..Plan::default()
        };
        let mut sim = Sim::new(plan);
        sim.run(5 * MINUTE);
        let paid = (0..12).any(|_| download(&mut sim, &[0, 1, 2]));
        assert!(paid, "answers that take up to {slow_ms} ms");
        wind_up(&mut sim);
    }
}

#[test]
fn a_ledger_that_answers_wrongly_loses_nothing() {
    let wrong = [
        // 404 for what it accepted.
        Weather {
            absent: 500,
            ..Weather::default()
        },
        // 504 for what it applied.
        Weather {
            lost: 600,
            ..Weather::default()
        },
        // Stale reads.
        Weather {
            stale: 700,
            ..Weather::default()
        },
        Weather {
            absent: 300,
            lost: 300,
            stale: 300,
            slow_ms: 8_000,
            ..Weather::default()
        },
    ];
    for weather in wrong {
        for faults in [Faults::NONE, Faults::ALL] {
            let plan = Plan {
                seed: 11,
                relays: 4,
                clients: 2,
                deposit: 50_000_000,
                weather,
                faults,
                ..Plan::default()
            };
            let mut sim = storm(plan, 3);
            let complete: u64 = sim.past.iter().map(|t| t.complete).sum();
            assert!(complete > 0, "{weather:?}, {faults:?}");
            sim.run(MINUTE);
            wind_up(&mut sim);
        }
    }
}

#[test]
fn fees_a_thousand_times_as_high_for_half_a_margin_cost_no_claim() {
    let mut sim = ready(Plan::default());
    assert!(download(&mut sim, &[0, 1, 2]));
    let (escrow, account) = sim
        .ledger
        .accounts
        .iter()
        .find(|(e, _)| sim.clients[0].keys.own.borrow().contains(e))
        .map(|(e, a)| (*e, a.escrow))
        .expect("the client's");
    let margin = 7_200;
    let stops = (account.terms.expiry - margin) * 1_000;
    sim.run_slowly(stops - sim.now, MINUTE);
    // From the moment at which it may be flushed until after the last at which it is, nothing of ours gets into a ledger.
    let dear = margin * 500 + 10 * MINUTE;
    sim.weather.dear_until = sim.now + dear;
    sim.run_slowly(dear - MINUTE, MINUTE);
    assert!(!sim.relays[0].settled.contains_key(&escrow));
    assert!(sim.relays[0].durable.flushing.contains_key(&escrow), "it is on its way");
    sim.run_slowly(10 * MINUTE, MINUTE);
    let claimed = sim.relays[0].durable.claims[&escrow].1;
    assert_eq!(
        sim.relays[0].settled.get(&escrow),
        Some(&claimed),
        "before the payer's refund could"
    );
    wind_up(&mut sim);
}

// ---- silence ----

#[test]
fn a_payee_that_never_answers_gets_nothing_and_its_payers_deposits_come_back() {
    let mut sim = Sim::new(Plan::default());
    sim.run(1_000);
    sim.mute.insert(Party::Relay(1));
    sim.run(3 * MINUTE);
    for _ in 0..4 {
        download(&mut sim, &[0, 2]);
    }
    // The others pay each other; a path through it is paid as far as it goes.
    assert!(sim.relays[0].durable.earned > 0 && sim.relays[2].durable.earned > 0);
    sim.open_tunnel(0, &[0, 1, 2], MIB);
    sim.run(2 * MINUTE);
    assert_eq!(sim.relays[1].durable.earned, 0);
    // It speaks again, and everything is as ever.
    sim.mute.clear();
    sim.cut(0, 1);
    sim.cut(1, 2);
    sim.run(10 * MINUTE);
    assert!((0..4).any(|_| download(&mut sim, &[0, 1, 2])));
    wind_up(&mut sim);
}

#[test]
fn a_guard_that_falls_silent_keeps_no_deposit() {
    let mut sim = ready(Plan::default());
    assert!(download(&mut sim, &[0, 1, 2]));
    let signed = |sim: &Sim| sim.clients[0].signed.values().map(|(_, c)| c.get()).sum::<i64>();
    sim.mute.insert(Party::Relay(0));
    let before = signed(&sim);
    for _ in 0..10 {
        sim.open_tunnel(0, &[0, 1, 2], MIB);
        sim.run(2 * MINUTE);
    }
    let most = sim
        .past
        .iter()
        .flat_map(|t| t.allocations.values())
        .max()
        .map_or(0, |a| a.get());
    assert!(
        signed(&sim) - before <= most,
        "not even one payment more for ten circuits"
    );
    // It never flushes either: its process is gone for good.
    sim.relays[0].node = None;
    sim.relays[0].epoch += 1;
    let deposit = sim
        .ledger
        .accounts
        .iter()
        .filter(|(e, _)| sim.clients[0].keys.own.borrow().contains(e))
        .map(|(e, _)| *e)
        .collect::<Vec<_>>();
    sim.run_slowly(25 * HOUR, MINUTE);
    for escrow in deposit {
        assert_eq!(
            sim.ledger.accounts[&escrow].paid,
            Some(Stroops::ZERO),
            "all of it came back"
        );
    }
}

#[test]
fn a_payer_that_never_speaks_again_costs_its_payee_nothing() {
    let mut sim = ready(Plan::default());
    assert!(download(&mut sim, &[0, 1, 2]));
    // The client and the guard, which pays the middle, say nothing any more.
    sim.mute.insert(Party::Client(0));
    sim.mute.insert(Party::Relay(0));
    sim.run_slowly(8 * 24 * HOUR, 10 * MINUTE);
    for i in [0, 1] {
        for (escrow, (_, claimed, _)) in &sim.relays[i].durable.claims {
            assert_eq!(
                sim.relays[i].settled.get(escrow),
                Some(claimed),
                "relay {i} has what it was paid"
            );
        }
        assert!(!sim.relays[i].settled.is_empty());
    }
    assert!(sim.past.iter().all(|t| t.refused == 0));
}

#[test]
fn a_flush_that_failed_waits_for_a_payer_that_is_away_and_settles_when_it_is_back() {
    let mut sim = ready(Plan::default());
    assert!(download(&mut sim, &[0, 1, 2]));
    let (escrow, claimed) = sim.relays[1]
        .durable
        .claims
        .iter()
        .map(|(e, c)| (*e, c.1))
        .next()
        .expect("it was paid");
    sim.mute.insert(Party::Relay(0));
    sim.ledger.failing = 1;
    sim.tell(1, Input::FlushNow { escrow });
    sim.run(10 * MINUTE);
    assert_eq!(sim.relays[1].settled.get(&escrow), None);
    sim.mute.clear();
    // On a new link it hears that the escrow is closing, and gives the spare claim.
    sim.cut(0, 1);
    sim.run(2 * MINUTE);
    assert_eq!(sim.relays[1].settled.get(&escrow), Some(&claimed));
}

// ---- what was said before ----

#[test]
fn messages_of_earlier_runs_credit_nothing_again() {
    for compacted in [false, true] {
        let mut sim = ready(Plan::default());
        sim.kept = Some(Vec::new());
        for _ in 0..3 {
            assert!(download(&mut sim, &[0, 1, 2]));
        }
        let kept = sim.kept.take().expect("it was kept");
        assert!(kept.len() > 60, "{} messages", kept.len());
        for i in 0..3 {
            if compacted {
                let facts = sim.relays[i].node.as_ref().and_then(Node::snapshot).expect("settled");
                sim.relays[i].journal = facts.iter().map(crate::fact::NodeFact::encode).collect();
            }
            sim.crash(Party::Relay(i));
        }
        sim.run(30_000);
        let figures = |sim: &Sim| {
            sim.relays
                .iter()
                .map(|r| {
                    let totals = r.node.as_ref().expect("up").totals();
                    (totals.claimed, totals.signed, r.durable.earned, r.durable.returned)
                })
                .collect::<Vec<_>>()
        };
        let before = figures(&sim);
        // All of it again, in order, twice: on circuits and links of this run.
        for (nth, (relay, from, body)) in kept.iter().chain(&kept).enumerate() {
            match from {
                Some(peer) => {
                    if let Some(link) = sim.relays[*relay].links.get(peer).copied() {
                        let body = body.clone();
                        sim.tell(*relay, Input::LinkMessage { link, body });
                    }
                }
                None => {
                    let link = LinkId(1_000_000 + nth as u64);
                    let circuit = CircuitId(1_000_000 + nth as u64);
                    let address = Some(AddressKey::of([10, 9, 9, 9].into()));
                    sim.tell(
                        *relay,
                        Input::LinkUp {
                            link,
                            peer: None,
                            obol: false,
                            address,
                        },
                    );
                    let id = nth as u32;
                    sim.tell(*relay, Input::CircuitOpened { circuit, link, id });
                    let body = body.clone();
                    sim.tell(
                        *relay,
                        Input::Message {
                            circuit,
                            body,
                            metered: 0,
                        },
                    );
                    sim.tell(*relay, Input::CircuitClosed { circuit, metered: 0 });
                    sim.tell(*relay, Input::LinkDown { link });
                }
            }
            sim.run(50);
        }
        sim.run(MINUTE);
        assert_eq!(figures(&sim), before, "compacted: {compacted}");
        assert!((0..4).any(|_| download(&mut sim, &[0, 1, 2])), "and it goes on");
        wind_up(&mut sim);
    }
}

#[test]
fn a_client_that_starts_again_does_not_take_old_answers_for_new_ones() {
    let mut sim = ready(Plan::default());
    assert!(download(&mut sim, &[0, 1, 2]));
    let before = sim.clients[0].signed.clone();
    sim.crash(Party::Client(0));
    sim.run(30_000);
    let answers = [
        obol_cell::ToOrigin::Complete {
            n: 1,
            metered: 0,
            paid: u64::MAX,
            credit: u64::MAX,
        },
        obol_cell::ToOrigin::Refused {
            n: 1,
            distance: 0,
            code: obol_cell::RefuseCode::Failed,
        },
        obol_cell::ToOrigin::PaymentRequest {
            id: 1,
            metered: u64::MAX,
            paid: 0,
            credit: 0,
        },
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        let tunnel = crate::ids::TunnelId(n as u64 + 1);
        let body = answer.encode();
        sim.say(0, payer::Input::Answer { tunnel, body });
    }
    sim.run(10_000);
    assert_eq!(sim.clients[0].signed, before);
    assert!(download(&mut sim, &[0, 1, 2]));
    assert!(sim.clients[0].signed.values().all(|(_, c)| *c >= s(0)));
}
