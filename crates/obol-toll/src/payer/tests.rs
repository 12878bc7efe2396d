//! The payer against hops that a script plays: what it asks, what it signs, what it does when they err, stall or lie.

use super::*;
use crate::defects;
use crate::escrow::Escrow;
use obol_cell::{
    AccountId, Asset, Balance, EscrowAcceptance, EscrowOffer, EscrowRules, EscrowState, Forward, ForwardPpm, NetworkId,
    Pay, PricePer64KiB, Quote, RefuseCode, Signature, Step, UNIT,
};

const NETWORK: NetworkId = NetworkId([7; 32]);
const ASSET: Asset = Asset {
    code: *b"OBOL\0\0\0\0\0\0\0\0",
    issuer: [9; 32],
};
const E: EscrowId = EscrowId([5; 32]);
const T: TunnelId = TunnelId(1);
const START: UnixMillis = UnixMillis(1_800_000_000_000);

#[derive(Debug)]
struct Keys;

impl PayerKeys for Keys {
    fn sign_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&escrow.id().0);
        signature[32..36].copy_from_slice(&k.to_be_bytes());
        signature[36..44].copy_from_slice(&cumulative.get().to_be_bytes());
        Some(Signature(signature))
    }
    fn verify_refund(&self, _: &Escrow, refund: &Signature) -> bool {
        *refund == Signature([1; 64])
    }
}

fn s(n: i64) -> Stroops {
    Stroops::new(n).unwrap()
}

fn tariff(price: u64) -> Tariff {
    Tariff {
        price: PricePer64KiB::new(price).unwrap(),
        forward_ppm: ForwardPpm::new(1_000).unwrap(),
        forward_ceiling: PricePer64KiB::new(10_000).unwrap(),
        max_step: Step::DEFAULT_LARGEST,
        network: NETWORK,
        asset: ASSET,
        rules: EscrowRules {
            min_deposit: s(1_000),
            min_life: 3_600,
            max_life: 200_000,
            margin: 7_200,
        },
    }
}

fn config() -> PayerConfig {
    PayerConfig {
        pay: PayPolicy::Always,
        opening_jitter_ms: 0,
        rollover_jitter_ms: 0,
        ..PayerConfig::new(NETWORK, ASSET, PricePer64KiB::new(200).unwrap(), s(1_000_000_000))
    }
}

/// Everything around the payer, as a script sees it.
struct Desk {
    payer: Payer<Keys>,
    now: UnixMillis,
    prices: Vec<u64>,
    facts: Vec<PayerFact>,
    reports: Vec<Report>,
    out: Vec<Output>,
}

impl Desk {
    fn new(config: PayerConfig, prices: &[u64]) -> Self {
        Desk {
            payer: Payer::new(config, Keys, [3; 32]),
            now: START,
            prices: prices.to_vec(),
            facts: Vec::new(),
            reports: Vec::new(),
            out: Vec::new(),
        }
    }

    fn say(&mut self, input: Input) {
        self.payer.handle(self.now, input);
        self.collect();
    }

    /// Persists at once and keeps the rest.
    fn collect(&mut self) {
        while let Some(output) = self.payer.poll() {
            match output {
                Output::Persist { seq, facts } => {
                    self.facts.extend(facts);
                    self.payer.handle(self.now, Input::Persisted { upto: seq });
                }
                Output::Report(report) => self.reports.push(report),
                other => self.out.push(other),
            }
        }
    }

    fn answer(&mut self, message: ToOrigin) {
        self.say(Input::Answer {
            tunnel: T,
            body: message.encode(),
        });
    }

    /// The open question, which must be the newest output.
    fn asked(&mut self) -> (u8, ToNode) {
        match self.out.pop() {
            Some(Output::Ask { hop, body, .. } | Output::Continue { hop, body, .. }) => {
                (hop, ToNode::decode(&body).unwrap())
            }
            other => panic!("no question is open, but {other:?}"),
        }
    }

    fn open(&mut self) {
        let hops = (1..=self.prices.len())
            .map(|i| Hop {
                peer: PeerId([i as u8; 32]),
                paid: true,
            })
            .collect();
        self.say(Input::TunnelOpened { tunnel: T, hops });
    }

    fn quote(&mut self) {
        let n = self.prices.len();
        for (i, price) in self.prices.clone().into_iter().enumerate() {
            let (hop, question) = self.asked();
            assert_eq!((usize::from(hop), question), (i + 1, ToNode::QuoteQuery));
            self.answer(ToOrigin::Quote(Quote {
                tariff: tariff(price),
                next: i + 1 < n,
                credit: 0,
                valid_until: 0,
            }));
        }
    }

    fn offer(&self) -> EscrowOffer {
        let expiry = self.now.secs() + 86_400;
        EscrowOffer {
            escrow: E,
            network: NETWORK,
            asset: ASSET,
            s0: 100 << 32,
            expiry,
            deposit: s(1_000_000_000),
        }
    }

    fn accept(&mut self, refund: [u8; 64]) {
        let wanted = self.out.pop();
        assert!(matches!(wanted, Some(Output::WantEscrow { .. })), "{wanted:?}");
        let offer = self.offer();
        self.say(Input::Offer {
            guard: PeerId([1; 32]),
            offer,
        });
        assert_eq!(self.asked(), (1, ToNode::OfferEscrow(offer)));
        self.answer(ToOrigin::EscrowAccepted(EscrowAcceptance {
            escrow: E,
            signer: AccountId([4; 32]),
            payee_account: AccountId([6; 32]),
            min_deposit: s(1_000),
            refund: Signature(refund),
        }));
    }

    fn fund(&mut self) {
        self.accept([1; 64]);
        let open = self.out.pop();
        assert!(matches!(open, Some(Output::OpenEscrow { .. })), "{open:?}");
        self.say(Input::EscrowOpened {
            escrow: E,
            balance: s(1_000_000_000),
        });
        let (hop, question) = self.asked();
        assert_eq!(hop, 1);
        assert!(
            matches!(
                question,
                ToNode::BalanceQuery {
                    escrow: E,
                    opening: Some(_)
                }
            ),
            "{question:?}"
        );
        self.balance(0, 0, 0);
    }

    fn balance(&mut self, newest_k: u32, cumulative: i64, unallocated: i64) {
        self.answer(ToOrigin::Balance(Balance {
            escrow: E,
            newest_k,
            cumulative: s(cumulative),
            unallocated: s(unallocated),
            state: EscrowState::Open,
        }));
    }

    /// Takes the messages of one payment: to each hop from `from` on, with the claim at hop 1.
    fn payment(&mut self, from: u8) -> Vec<Pay> {
        let n = self.prices.len() as u8;
        let taken: Vec<Output> = self.out.drain(..).collect();
        let pays: Vec<(u8, Pay)> = taken
            .iter()
            .map(|o| match o {
                Output::Send { hop, body, .. } | Output::Ask { hop, body, .. } | Output::Continue { hop, body, .. } => {
                    match ToNode::decode(body).unwrap() {
                        ToNode::Pay(pay) => (*hop, pay),
                        other => panic!("not a payment: {other:?}"),
                    }
                }
                other => panic!("not a payment: {other:?}"),
            })
            .collect();
        assert_eq!(
            pays.iter().map(|(hop, _)| *hop).collect::<Vec<_>>(),
            (from..=n).collect::<Vec<_>>()
        );
        pays.into_iter().map(|(_, pay)| pay).collect()
    }

    fn complete(&mut self, n: u16, metered: u64) {
        self.answer(ToOrigin::Complete {
            n,
            metered,
            paid: 0,
            credit: 0,
        });
    }

    fn carry(&mut self, bytes: u64) {
        self.now = self.now.plus(5);
        self.say(Input::Traffic {
            tunnel: T,
            up: 0,
            down: bytes / meter::CELL,
        });
    }

    /// Up to and including the first payment's messages.
    fn paying(prices: &[u64]) -> (Self, Vec<Pay>) {
        let mut desk = Desk::new(config(), prices);
        desk.open();
        desk.quote();
        desk.fund();
        let pays = desk.payment(1);
        (desk, pays)
    }

    fn unpaid(&self) -> Vec<(u8, Unpaid)> {
        self.reports
            .iter()
            .filter_map(|r| match r {
                Report::Unpaid { hop, why, .. } => Some((*hop, *why)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn the_first_payment_pays_every_hop_its_price_and_only_hop_1_gets_a_claim() {
    let (desk, pays) = Desk::paying(&[100, 50, 200]);
    let forwards: Vec<Forward> = pays.iter().map(|p| p.forward).collect();
    assert_eq!(forwards, [Forward::Pass(s(251)), Forward::Pass(s(200)), Forward::Last]);
    assert!(pays.iter().all(|p| p.n == 1 && p.step == Step::FIRST));
    let claim = pays[0].claim.unwrap();
    assert_eq!((claim.k, claim.cumulative, claim.allocation), (1, s(352), s(352)));
    assert!(claim.opening.is_none(), "the guard has said that it knows the escrow");
    assert!(pays[1].claim.is_none() && pays[2].claim.is_none());
    assert_eq!(desk.payer.signed(E), Some((1, s(352))));
}

#[test]
fn nothing_of_a_payment_leaves_before_the_claim_is_durable() {
    let mut desk = Desk::new(config(), &[100]);
    desk.open();
    desk.quote();
    desk.accept([1; 64]);
    desk.out.clear();
    desk.say(Input::EscrowOpened {
        escrow: E,
        balance: s(1_000_000_000),
    });
    desk.asked();
    let told = ToOrigin::Balance(Balance {
        escrow: E,
        newest_k: 0,
        cumulative: Stroops::ZERO,
        unallocated: Stroops::ZERO,
        state: EscrowState::Open,
    });
    desk.payer.handle(
        desk.now,
        Input::Answer {
            tunnel: T,
            body: told.encode(),
        },
    );
    let mut persist = None;
    while let Some(output) = desk.payer.poll() {
        match output {
            Output::Persist { seq, facts } => persist = Some((seq, facts)),
            Output::Report(_) => {}
            other => panic!("{other:?} left before the claim was durable"),
        }
    }
    let (seq, facts) = persist.unwrap();
    assert!(
        facts
            .iter()
            .any(|f| matches!(f, PayerFact::Out(OutFact::Signed { k: 1, .. })))
    );
    desk.say(Input::Persisted { upto: seq });
    assert_eq!(desk.payment(1).len(), 1);
}

#[test]
fn a_refund_that_does_not_verify_means_no_money_and_no_tunnel() {
    let mut desk = Desk::new(config(), &[100, 100]);
    desk.open();
    desk.quote();
    desk.accept([2; 64]);
    assert!(desk.out.iter().any(|o| matches!(
        o,
        Output::GiveUp {
            why: GiveUp::Protocol { hop: 1 },
            ..
        }
    )));
    assert!(!desk.out.iter().any(|o| matches!(o, Output::OpenEscrow { .. })));
    assert!(desk.facts.is_empty());
}

#[test]
fn a_hop_over_the_ceiling_ends_the_chain_before_it() {
    let mut desk = Desk::new(config(), &[100, 500, 100]);
    desk.open();
    let (_, first) = desk.asked();
    assert_eq!(first, ToNode::QuoteQuery);
    desk.answer(ToOrigin::Quote(Quote {
        tariff: tariff(100),
        next: true,
        credit: 0,
        valid_until: 0,
    }));
    desk.asked();
    desk.answer(ToOrigin::Quote(Quote {
        tariff: tariff(500),
        next: true,
        credit: 0,
        valid_until: 0,
    }));
    assert!(matches!(desk.unpaid()[..], [(2, Unpaid::TooDear { .. })]));
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 1
    }));
}

#[test]
fn paying_whatever_is_quoted_would_be_noticed() {
    let dear = || {
        let mut desk = Desk::new(config(), &[500]);
        desk.open();
        desk.asked();
        desk.answer(ToOrigin::Quote(Quote {
            tariff: tariff(500),
            next: false,
            credit: 0,
            valid_until: 0,
        }));
        desk.reports.contains(&Report::Chain {
            tunnel: T,
            paid_hops: 0,
        })
    };
    assert!(dear());
    assert!(!defects::with(defects::Defect::NoCeilings, dear));
}

#[test]
fn a_second_quote_on_the_same_day_ends_payment_to_that_relay() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.out.clear();
    let other = TunnelId(2);
    desk.say(Input::TunnelOpened {
        tunnel: other,
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    });
    let mut quote = Quote {
        tariff: tariff(50),
        next: false,
        credit: 0,
        valid_until: 0,
    };
    desk.out.clear();
    desk.say(Input::Answer {
        tunnel: other,
        body: ToOrigin::Quote(quote).encode(),
    });
    assert_eq!(desk.unpaid(), [(1, Unpaid::QuoteChanged)]);
    // Another day, another quote.
    desk.now = desk.now.plus(86_400_000);
    quote.tariff.price = PricePer64KiB::new(20).unwrap();
    desk.say(Input::TunnelOpened {
        tunnel: TunnelId(3),
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    });
    desk.say(Input::Answer {
        tunnel: TunnelId(3),
        body: ToOrigin::Quote(quote).encode(),
    });
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: TunnelId(3),
        paid_hops: 1
    }));
}

#[test]
fn money_of_another_network_or_asset_is_not_paid() {
    for change in [
        |t: &mut Tariff| t.network = NetworkId([8; 32]),
        |t: &mut Tariff| t.asset.issuer = [8; 32],
    ] {
        let mut desk = Desk::new(config(), &[100]);
        desk.open();
        desk.asked();
        let mut tariff = tariff(100);
        change(&mut tariff);
        desk.answer(ToOrigin::Quote(Quote {
            tariff,
            next: false,
            credit: 0,
            valid_until: 0,
        }));
        assert_eq!(desk.unpaid(), [(1, Unpaid::OtherMoney)]);
    }
}

#[test]
fn steps_grow_with_what_was_carried_and_what_is_bought_is_never_a_permitted_step_ahead() {
    let (mut desk, mut pays) = Desk::paying(&[100, 50, 200]);
    let (mut bought, mut carried, mut steps) = (0u64, 0u64, Vec::new());
    while carried < 64 << 20 {
        if let Some(pay) = pays.last() {
            bought += pay.step.bytes();
            steps.push(pay.step.bytes());
            let n = pay.n;
            desk.complete(n, carried);
        }
        desk.out.retain(|o| {
            let body = match o {
                Output::Ask { body, .. } | Output::Send { body, .. } | Output::Continue { body, .. } => body,
                _ => return false,
            };
            matches!(ToNode::decode(body), Ok(ToNode::Pay(_)))
        });
        if desk.out.is_empty() {
            carried += UNIT / 4;
            desk.carry(UNIT / 4);
            desk.out.retain(|o| {
                let (Output::Ask { body, .. } | Output::Send { body, .. } | Output::Continue { body, .. }) = o else {
                    return false;
                };
                matches!(ToNode::decode(body), Ok(ToNode::Pay(_)))
            });
        }
        pays = if desk.out.is_empty() {
            Vec::new()
        } else {
            desk.payment(1)
        };
        let permitted = Step::largest_within(carried)
            .unwrap_or(Step::FIRST)
            .bytes()
            .max(2 * UNIT);
        assert!(
            bought <= carried + carried / 10 + 64 * meter::CELL + permitted,
            "{bought} bought, {carried} carried"
        );
    }
    assert!(steps.windows(2).all(|w| w[0] <= w[1]), "{steps:?}");
    assert!(steps.len() < 30, "{} payments for 64 MiB", steps.len());
    assert!(
        bought >= carried,
        "{bought} bought, {carried} carried in {steps:?}; {:?}",
        desk.unpaid()
    );
}

#[test]
fn a_refusal_behind_hop_1_is_resumed_there_with_the_same_number_and_no_new_claim() {
    let (mut desk, first) = Desk::paying(&[100, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 1,
        code: RefuseCode::Failed,
    });
    let again = desk.payment(2);
    assert_eq!(again[0], first[1]);
    assert_eq!(again[1], first[2]);
    assert_eq!(desk.payer.signed(E), Some((1, s(352))), "nothing new is signed");
    desk.complete(1, 0);
    assert!(desk.reports.iter().any(|r| matches!(r, Report::Paid { n: 1, .. })));
}

#[test]
fn a_hop_without_money_for_the_next_becomes_the_last_and_turns_what_it_holds_into_credit() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 1,
        code: RefuseCode::NoFunds,
    });
    let Output::Send { hop, body, .. } = &desk.out[0] else {
        panic!("{:?}", desk.out)
    };
    let Ok(ToNode::Pay(pay)) = ToNode::decode(body) else {
        panic!()
    };
    assert_eq!((*hop, pay.n, pay.forward), (2, 1, Forward::Pass(Stroops::ZERO)));
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 2
    }));
    assert_eq!(desk.payer.signed(E), Some((1, s(352))));
}

#[test]
fn after_a_refusal_by_hop_1_its_books_decide_whether_the_allocation_is_sent_again() {
    for (stored, allocation) in [(true, 0), (false, 352)] {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        desk.answer(ToOrigin::Refused {
            n: 1,
            distance: 2,
            code: RefuseCode::Failed,
        });
        let (hop, question) = desk.asked();
        assert_eq!(hop, 1);
        assert!(matches!(question, ToNode::BalanceQuery { .. }), "{question:?}");
        // Either hop 1 stored the claim and holds the allocation, or nothing arrived there.
        if stored {
            desk.balance(1, 352, 0)
        } else {
            desk.balance(0, 0, 0)
        }
        let claim = desk.payment(1)[0].claim.unwrap();
        assert_eq!(
            (claim.k, claim.cumulative, claim.allocation),
            (2, s(352), s(allocation))
        );
    }
}

#[test]
fn a_hop_that_says_nothing_costs_one_tunnel_and_no_new_signature() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.now = desk.payer.next_wake().unwrap();
    desk.say(Input::Tick);
    assert!(desk.out.iter().any(|o| matches!(
        o,
        Output::GiveUp {
            why: GiveUp::Silent,
            ..
        }
    )));
    assert_eq!(desk.payer.signed(E), Some((1, s(352))));
    assert!(desk.now.since(START) <= 10_000);
}

#[test]
fn cells_on_the_tunnel_keep_a_slow_hop_alive_for_a_minute_and_no_longer() {
    let (mut desk, _) = Desk::paying(&[100]);
    let gave_up = |desk: &Desk| desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. }));
    while desk.now.since(START) < 59_000 {
        desk.now = desk.now.plus(1_000);
        desk.say(Input::Traffic {
            tunnel: T,
            up: 0,
            down: 1,
        });
        desk.say(Input::Tick);
        assert!(!gave_up(&desk));
    }
    desk.now = START.plus(60_000);
    desk.say(Input::Tick);
    assert!(gave_up(&desk));
}

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
fn the_budget_is_the_most_that_is_ever_signed() {
    let budget = PayerConfig {
        budget: Some(s(500)),
        ..config()
    };
    let mut desk = Desk::new(budget, &[100, 50, 200]);
    desk.open();
    desk.quote();
    desk.fund();
    desk.payment(1);
    desk.complete(1, 0);
    desk.carry(2 * UNIT);
    assert!(desk.unpaid().contains(&(1, Unpaid::Budget)));
    assert_eq!(desk.payer.spent(), s(352));
}

#[test]
fn a_restored_payer_never_signs_less_and_asks_what_is_left_first() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.complete(1, 0);
    let facts = desk.facts.clone();
    let mut after = Desk::new(config(), &[100, 50, 200]);
    after.payer = Payer::restore(config(), Keys, [8; 32], facts);
    assert_eq!(after.payer.signed(E), Some((1, s(352))));
    assert_eq!(after.payer.spent(), s(352));
    after.now = desk.now.plus(60_000);
    after.open();
    after.quote();
    let (_, question) = after.asked();
    assert!(
        matches!(question, ToNode::BalanceQuery { opening: Some(_), .. }),
        "{question:?}"
    );
    // 100 of the last run's circuit returned to the balance.
    after.balance(1, 352, 100);
    let claim = after.payment(1)[0].claim.unwrap();
    assert_eq!((claim.k, claim.cumulative, claim.allocation), (2, s(604), s(352)));
}

#[test]
fn a_payment_ends_an_open_listen_and_a_request_that_crosses_it_is_consumed() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.complete(1, 0);
    // A second small step may follow at once; then there is nothing to do but to listen.
    while desk.out.iter().any(|o| matches!(o, Output::Send { .. })) {
        let n = desk.payment(1)[0].n;
        desk.complete(n, 0);
    }
    let (hop, question) = desk.asked();
    assert!(matches!((hop, question), (3, ToNode::Listen { .. })), "{question:?}");
    let ToNode::Listen { id, .. } = question else { panic!() };
    desk.carry(3 * UNIT);
    let last = desk.out.last().cloned();
    assert!(
        matches!(
            last,
            Some(Output::Continue {
                hop: 3,
                second: Second::Pay,
                ..
            })
        ),
        "{last:?}"
    );
    let n = desk.payment(1)[0].n;
    let crossing = ToOrigin::PaymentRequest {
        id,
        metered: 100,
        paid: 0,
        credit: 0,
    };
    assert!(!finishes(Some(Second::Pay), &crossing.encode()));
    desk.answer(crossing);
    assert!(desk.out.is_empty(), "{:?}", desk.out);
    desk.complete(n, 3 * UNIT);
    assert!(
        desk.reports
            .iter()
            .any(|r| matches!(r, Report::Paid { n: paid, .. } if *paid == n))
    );
}

#[test]
fn a_closed_escrow_is_not_paid_by_and_its_guard_is_asked_to_flush_the_last_claim() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.out.clear();
    desk.say(Input::Close { escrow: E });
    if matches!(
        desk.out.last(),
        Some(Output::Continue {
            second: Second::Cancel,
            ..
        })
    ) {
        let (_, cancel) = desk.asked();
        let ToNode::Cancel { id } = cancel else {
            panic!("{cancel:?}")
        };
        desk.answer(ToOrigin::Nothing { id });
    }
    let asked: Vec<ToNode> = desk
        .out
        .drain(..)
        .filter_map(|o| {
            if let Output::Ask { body, .. } = o {
                ToNode::decode(&body).ok()
            } else {
                None
            }
        })
        .collect();
    let k = desk.payer.signed(E).unwrap().0;
    assert!(
        asked.contains(&ToNode::CloseEscrow { escrow: E, final_k: k }),
        "{asked:?}"
    );
    desk.answer(ToOrigin::Closing { escrow: E, newest_k: k });
    desk.carry(10 << 20);
    assert_eq!(desk.payer.signed(E).unwrap().0, k);
}

#[test]
fn an_expired_escrow_is_taken_back_once() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.say(Input::TunnelClosed {
        tunnel: T,
        why: CloseReason::Unused,
    });
    desk.out.clear();
    desk.now = UnixMillis::from_secs(START.secs() + 86_400);
    desk.say(Input::Tick);
    desk.say(Input::Tick);
    let refunds = desk.out.iter().filter(|o| matches!(o, Output::Refund { .. })).count();
    assert_eq!(refunds, 1);
}

#[test]
fn an_answer_to_another_question_or_garbage_gives_the_tunnel_up() {
    for body in [vec![], vec![0xff; 488], ToOrigin::Nothing { id: 1 }.encode()] {
        let mut desk = Desk::new(config(), &[100]);
        desk.open();
        desk.out.clear();
        desk.say(Input::Answer { tunnel: T, body });
        assert!(
            matches!(
                desk.out[..],
                [Output::GiveUp {
                    why: GiveUp::Protocol { hop: 1 },
                    ..
                }]
            ),
            "{:?}",
            desk.out
        );
    }
}

proptest::proptest! {
    /// Whatever hops answer, in whatever order: no panic, never more signed than the escrow holds, and sums never fall.
    #[test]
    fn hostile_answers_never_make_it_sign_more_than_the_escrow(
        moves in proptest::collection::vec((0u8..9, proptest::prelude::any::<u64>()), 1..120)
    ) {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        let mut last = Stroops::ZERO;
        for (kind, value) in moves {
            let n = (value % 4) as u16;
            let code = [RefuseCode::NoFunds, RefuseCode::OverLimit, RefuseCode::Failed, RefuseCode::Closing][(value % 4) as usize];
            match kind {
                0 => desk.answer(ToOrigin::Complete { n, metered: value, paid: value, credit: value }),
                1 => desk.answer(ToOrigin::Refused { n, distance: (value % 5) as u8, code }),
                2 => desk.balance((value % 9) as u32, (value % 5_000) as i64, (value % 7_000) as i64),
                3 => desk.answer(ToOrigin::Nothing { id: n }),
                4 => desk.answer(ToOrigin::PaymentRequest { id: n, metered: value, paid: 0, credit: 0 }),
                5 => desk.carry(value % (1 << 22)),
                6 => { desk.now = desk.now.plus(value % 20_000); desk.say(Input::Tick) }
                7 => desk.open(),
                _ => desk.say(Input::TunnelClosed { tunnel: T, why: CloseReason::Broke }),
            }
            let signed = desk.payer.signed(E).unwrap().1;
            proptest::prop_assert!(signed >= last && signed <= s(1_000_000_000));
            last = signed;
        }
    }
}
