//! Hops' meters against our own, and against the link.

use super::*;

#[test]
fn a_hop_that_claims_more_than_was_carried_is_paid_up_to_that_and_then_left() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 1 << 30);
    assert!(desk.unpaid().contains(&(1, Unpaid::OverClaimed)));
    assert!(desk.out.contains(&Output::Retire { tunnel: T }));
    desk.out.clear();
    let signed = desk.payer.signed(E);
    desk.carry(10 << 20);
    assert_eq!(desk.payer.signed(E), signed);
}

#[test]
fn an_honest_hops_lead_of_a_window_is_believed() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 1_000 * meter::CELL);
    assert!(desk.unpaid().is_empty());
}

#[test]
fn a_lead_of_congestion_control_is_paid_for_once_it_arrives_and_costs_nothing() {
    let (mut desk, pays) = Desk::paying(&[100]);
    let lead = 4_000 * meter::CELL;
    desk.complete(pays[0].n, lead);
    assert!(desk.unpaid().is_empty());
    // Paid for as far as a window ahead of us is believable, however often it is told.
    let mut bought = UNIT;
    while bought < lead {
        desk.keep_payments();
        if desk.out.is_empty() {
            break;
        }
        let pay = desk.payment(1).remove(0);
        bought += pay.step.bytes();
        desk.complete(pay.n, lead);
    }
    assert!(bought < lead / 2, "{bought} bytes were bought before anything came");
    // It arrives, as more is on its way.
    let signed = desk.payer.signed(E);
    for round in 1..=40 {
        desk.out.clear();
        desk.carry(lead / 40);
        desk.keep_payments();
        if !desk.out.is_empty() {
            let pay = desk.payment(1).remove(0);
            bought += pay.step.bytes();
            desk.complete(pay.n, lead + round * lead / 40);
        }
    }
    assert!(desk.payer.signed(E) > signed);
    assert!(bought >= lead, "{bought} of {lead}");
    desk.now = desk.now.plus(meter::ARRIVAL_MS - 1_000);
    desk.say(Input::Tick);
    assert!(desk.unpaid().is_empty());
}

#[test]
fn a_claim_that_nothing_explains_in_its_time_costs_the_tunnel() {
    let (mut desk, _) = Desk::paying(&[100]);
    let lead = 4_000 * meter::CELL;
    desk.complete(1, lead);
    assert!(desk.unpaid().is_empty());
    let next = desk.payment(1).remove(0);
    desk.now = desk.now.plus(meter::ARRIVAL_MS);
    desk.complete(next.n, lead);
    assert_eq!(desk.unpaid(), [(1, Unpaid::OverClaimed)]);
    assert!(desk.out.contains(&Output::Retire { tunnel: T }));
}

/// One guard, one paid hop, and a meter of the link that counts what passes, with 5 % for TLS and flow control.
struct Link {
    desk: Desk,
    carried: u64,
    bought: BTreeMap<TunnelId, Vec<u64>>,
}

impl Link {
    fn new() -> Self {
        let (mut desk, pays) = Desk::paying(&[100]);
        desk.complete(pays[0].n, 0);
        desk.out.clear();
        desk.say(Input::TunnelClosed {
            tunnel: T,
            why: CloseReason::Unused,
        });
        desk.reports.clear();
        Link {
            desk,
            carried: 0,
            bought: BTreeMap::new(),
        }
    }

    fn answer(&mut self, tunnel: TunnelId, message: ToOrigin) {
        let body = message.encode();
        self.desk.say(Input::Answer { tunnel, body });
    }

    fn open(&mut self, tunnel: TunnelId) {
        let hop = Hop {
            peer: PeerId([1; 32]),
            paid: true,
        };
        self.desk.say(Input::TunnelOpened {
            tunnel,
            hops: vec![hop],
        });
        let quote = Quote {
            tariff: tariff(100),
            next: false,
            credit: 0,
            valid_until: 0,
        };
        self.count(20 * meter::CELL);
        self.answer(tunnel, ToOrigin::Quote(quote));
    }

    fn count(&mut self, bytes: u64) {
        self.carried += bytes;
        let guard = PeerId([1; 32]);
        self.desk.say(Input::LinkBytes { guard, bytes });
    }

    fn carry(&mut self, tunnel: TunnelId, cells: u64) {
        self.desk.now = self.desk.now.plus(5);
        let bytes = cells * meter::CELL;
        self.count(bytes + bytes / 20);
        self.desk.say(Input::Traffic {
            tunnel,
            up: 0,
            down: cells,
        });
    }

    /// Answers whatever is asked: books truly, payments with a meter of `metered`.
    fn serve(&mut self, metered: u64) {
        while let Some(i) = self
            .desk
            .out
            .iter()
            .position(|o| matches!(o, Output::Ask { .. } | Output::Continue { .. }))
        {
            let (Output::Ask { tunnel, body, .. } | Output::Continue { tunnel, body, .. }) = self.desk.out.remove(i)
            else {
                unreachable!()
            };
            match ToNode::decode(&body).unwrap() {
                ToNode::Pay(pay) => {
                    self.count(6 * meter::CELL);
                    self.bought.entry(tunnel).or_default().push(pay.step.bytes());
                    self.answer(
                        tunnel,
                        ToOrigin::Complete {
                            n: pay.n,
                            metered,
                            paid: 0,
                            credit: 0,
                        },
                    );
                }
                ToNode::BalanceQuery { escrow, .. } => {
                    let (newest_k, cumulative) = self.desk.payer.signed(escrow).unwrap();
                    let books = Balance {
                        escrow,
                        newest_k,
                        cumulative,
                        unallocated: Stroops::ZERO,
                        state: EscrowState::Open,
                    };
                    self.answer(tunnel, ToOrigin::Balance(books));
                }
                // A long poll stays open.
                _ => {}
            }
        }
    }

    /// Bytes bought on all tunnels, without two steps like each one's newest.
    fn without_advance(&self) -> u64 {
        let settled = |steps: &Vec<u64>| {
            let newest = steps.last().copied().unwrap_or(0);
            steps.iter().sum::<u64>().saturating_sub(2 * newest)
        };
        self.bought.values().map(settled).sum()
    }

    fn left(&self, tunnel: TunnelId) -> bool {
        self.desk.out.contains(&Output::Retire { tunnel })
    }
}

/// As much more than was carried as one circuit's allowance makes believable.
const ALLOWANCE: u64 = 1_050 * meter::CELL;

#[test]
fn one_circuits_allowance_is_believed_once_and_not_on_the_next_circuit_again() {
    let mut link = Link::new();
    for i in 2..12 {
        let tunnel = TunnelId(i);
        link.open(tunnel);
        link.serve(ALLOWANCE);
        link.carry(tunnel, 100);
        link.serve(ALLOWANCE + 100 * meter::CELL);
        link.desk.say(Input::TunnelClosed {
            tunnel,
            why: CloseReason::Unused,
        });
    }
    let window = meter::WINDOW * meter::CELL;
    let first: u64 = link.bought[&TunnelId(2)].iter().sum();
    assert!(first > window / 2, "the first was believed: {first} bytes");
    let later: Vec<u64> = (4..12).map(|i| link.bought[&TunnelId(i)].iter().sum()).collect();
    assert!(later.iter().all(|bytes| *bytes <= 4 * UNIT), "{later:?}");
    assert!(link.without_advance() <= link.carried + window);
}

#[test]
fn a_tunnel_that_was_paid_beyond_what_its_link_carried_is_left() {
    let mut link = Link::new();
    let (a, b) = (TunnelId(2), TunnelId(3));
    // Together they use up one window each while both are open; then one ends.
    for tunnel in [a, b] {
        link.open(tunnel);
        link.serve(ALLOWANCE);
    }
    assert!(!link.left(a) && !link.left(b));
    link.desk.say(Input::TunnelClosed {
        tunnel: a,
        why: CloseReason::Unused,
    });
    link.carry(b, 300);
    link.serve(ALLOWANCE + 300 * meter::CELL);
    link.carry(b, 300);
    assert!(link.left(b));
    assert_eq!(link.desk.unpaid(), [(1, Unpaid::OverClaimed)]);
    let bought = link.bought.clone();
    link.carry(b, 100_000);
    link.serve(0);
    assert_eq!(link.bought, bought, "and not paid any more");
}

#[test]
fn a_link_that_nobody_counts_bounds_nothing() {
    let mut link = Link::new();
    for i in 2..5 {
        let tunnel = TunnelId(i);
        link.open(tunnel);
        link.desk.payer.guards.values_mut().for_each(|g| g.link_bytes = None);
        link.desk.say(Input::LinkBytes {
            guard: PeerId([1; 32]),
            bytes: 0,
        });
        link.serve(ALLOWANCE / 2);
        assert!(link.bought[&tunnel].iter().sum::<u64>() > 4 * UNIT);
    }
}

proptest::proptest! {
    /// Whatever hops claim, on however many tunnels: no more is bought than the link carried, a window for each tunnel that is
    /// open at a time, and the steps that may be unused.
    #[test]
    fn what_is_bought_over_a_link_is_what_it_carried_and_the_advance(
        moves in proptest::collection::vec((0u8..8, 0u64..3, 0u64..2_000, 0u64..1_200), 1..150)
    ) {
        let mut link = Link::new();
        let mut tunnels = [TunnelId(2), TunnelId(3), TunnelId(4)];
        let mut floors = [0; 3];
        let mut next = 5;
        tunnels.into_iter().for_each(|t| link.open(t));
        for (kind, which, cells, lie) in moves {
            let which = which as usize;
            let tunnel = tunnels[which];
            if kind == 0 {
                link.desk.say(Input::TunnelClosed { tunnel, why: CloseReason::Unused });
                tunnels[which] = TunnelId(next);
                floors[which] = 0;
                next += 1;
                link.open(tunnels[which]);
            } else {
                floors[which] += cells;
                link.carry(tunnel, cells);
            }
            link.serve((floors[which] + floors[which] / 10 + lie) * meter::CELL);
            let most = link.carried + 3 * meter::WINDOW * meter::CELL;
            let bought = link.without_advance();
            proptest::prop_assert!(bought <= most, "{bought} bought, {} carried", link.carried);
        }
    }
}

#[test]
fn tunnels_of_one_guard_say_nothing_of_anothers_link() {
    let mut link = Link::new();
    let elsewhere = TunnelId(90);
    link.desk.say(Input::TunnelOpened {
        tunnel: elsewhere,
        hops: vec![Hop {
            peer: PeerId([8; 32]),
            paid: false,
        }],
    });
    link.desk.say(Input::Traffic {
        tunnel: elsewhere,
        up: 0,
        down: 100_000,
    });
    link.open(TunnelId(2));
    link.serve(ALLOWANCE);
    let bought: u64 = link.bought[&TunnelId(2)].iter().sum();
    assert!(bought > meter::WINDOW * meter::CELL / 2, "{bought} bytes");
}

#[test]
fn a_payment_request_tells_the_meter_and_is_not_believed_beyond_reason() {
    for (metered, believed) in [(4 * UNIT, true), (1 << 30, false)] {
        let (mut desk, mut pays) = Desk::paying(&[100]);
        loop {
            desk.complete(pays[0].n, 0);
            if !matches!(&desk.out[..], [Output::Ask { body, .. }] if matches!(ToNode::decode(body), Ok(ToNode::Pay(_))))
            {
                break;
            }
            pays = desk.payment(1);
        }
        let (_, question) = desk.asked();
        let ToNode::Listen { id, .. } = question else {
            panic!("{question:?}")
        };
        desk.answer(ToOrigin::PaymentRequest {
            id,
            metered,
            paid: 0,
            credit: 0,
        });
        assert!(desk.reports.contains(&Report::Requested { tunnel: T, metered }));
        assert_eq!(desk.unpaid().contains(&(1, Unpaid::OverClaimed)), !believed);
        if believed {
            assert_eq!(desk.payment(1).len(), 1, "what it says was used is paid for");
        }
    }
}

#[test]
fn beyond_its_link_a_tunnel_is_paid_by_our_own_count_and_by_nothing_else() {
    let mut link = Link::new();
    for tunnel in [TunnelId(2), TunnelId(3)] {
        link.open(tunnel);
        link.serve(ALLOWANCE);
    }
    for tunnel in [TunnelId(2), TunnelId(3)] {
        link.desk.say(Input::TunnelClosed {
            tunnel,
            why: CloseReason::Unused,
        });
    }
    let honest = TunnelId(4);
    link.open(honest);
    link.serve(ALLOWANCE);
    assert_eq!(link.bought[&honest], [UNIT], "whatever its hop claims");
    let mut carried = 0;
    while carried < 4 << 20 {
        link.carry(honest, 50);
        carried += 50 * meter::CELL;
        link.serve(carried);
    }
    let bought: u64 = link.bought[&honest].iter().sum();
    assert!(
        bought >= carried && bought <= carried + (2 << 20),
        "{bought} of {carried}"
    );
    assert!(!link.left(honest));
}
