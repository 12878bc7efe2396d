//! The payer against hops that a script plays: what it asks, what it signs, what it does when they err, stall or lie.

mod escrows;
mod meters;
mod payments;
mod quotes;
mod refusals;
mod trials;
mod units;

use super::*;
use crate::defects;
use crate::escrow::Escrow;
use obol_cell::{
    AccountId, Asset, Balance, DeclineCode, EscrowAcceptance, EscrowOffer, EscrowRules, EscrowState, Forward,
    ForwardPpm, NetworkId, OwnerAsks, Ownership, Pay, PricePer64KiB, Quote, RefuseCode, Signature, Step, UNIT,
};

const NETWORK: NetworkId = NetworkId([7; 32]);
const ASSET: Asset = Asset {
    code: *b"OBOL\0\0\0\0\0\0\0\0",
    issuer: [9; 32],
};
const E: EscrowId = EscrowId([5; 32]);
/// An escrow whose key is gone.
const LOST: EscrowId = EscrowId([0xee; 32]);
const T: TunnelId = TunnelId(1);
const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// What the holder of E's key signs to be known as its owner.
fn owner(escrow: EscrowId, asks: OwnerAsks) -> Signature {
    let mut signature = [0xaa; 64];
    signature[..32].copy_from_slice(&escrow.0);
    signature[32..36].copy_from_slice(
        &match asks {
            OwnerAsks::Books => 0,
            OwnerAsks::Close { final_k } => final_k,
        }
        .to_be_bytes(),
    );
    Signature(signature)
}

#[derive(Debug)]
struct Keys;

impl PayerKeys for Keys {
    fn sign_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&escrow.id().0);
        signature[32..36].copy_from_slice(&k.to_be_bytes());
        signature[36..44].copy_from_slice(&cumulative.get().to_be_bytes());
        (escrow.id() != LOST).then_some(Signature(signature))
    }
    fn sign_owner(&self, ownership: &Ownership) -> Option<Signature> {
        (ownership.escrow != LOST).then(|| owner(ownership.escrow, ownership.asks))
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
                    opening: Some(_),
                    ..
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

    /// Forgets everything but payments.
    fn keep_payments(&mut self) {
        self.out.retain(|o| {
            let (Output::Ask { body, .. } | Output::Send { body, .. } | Output::Continue { body, .. }) = o else {
                return false;
            };
            matches!(ToNode::decode(body), Ok(ToNode::Pay(_)))
        });
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

    /// Carries until the next payment is begun; `carried` goes on.
    fn next_payment(&mut self, carried: &mut u64) -> Vec<Pay> {
        self.keep_payments();
        while self.out.is_empty() {
            *carried += UNIT;
            assert!(*carried < 64 << 20, "{:?}", self.unpaid());
            self.carry(UNIT);
            self.keep_payments();
        }
        self.payment(1)
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
