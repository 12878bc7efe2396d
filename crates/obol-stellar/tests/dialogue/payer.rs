//! Who speaks to the relay, and the entries of the file that this makes.

use obol_cell::*;
use obol_stellar::escrow::PayerSecret;
use obol_stellar::keys::EscrowPayer;
use obol_toll::{Escrow, LinkId, PayeeKeys as _, PayerKeys as _};
use serde_json::{Value, json};

use crate::scene::*;

/// A payer: a client, or a relay.
pub struct Payer {
    pub keys: EscrowPayer,
    pub escrow: Escrow,
    pub deposit: Stroops,
}

impl Payer {
    pub fn new(nonce: u8) -> Payer {
        let keys = EscrowPayer::new(PayerSecret::from_bytes([0x25; 32]), tariff().network);
        let id = keys.add(&[nonce; 32]);
        let terms = EscrowTerms {
            network: tariff().network,
            asset: tariff().asset,
            payee: RELAY,
            payee_account: payee_account(),
            escrow: id,
            s0: u64::from(LEDGER + 60) << 32,
            expiry: START_MS / 1_000 + 86_400,
            min_deposit: tariff().rules.min_deposit,
        };
        let signer = payee_keys().signer(&terms);
        Payer {
            keys,
            escrow: Escrow { terms, signer },
            deposit: s(BALANCE),
        }
    }

    pub fn offer(&self) -> EscrowOffer {
        let t = self.escrow.terms;
        EscrowOffer {
            escrow: t.escrow,
            network: t.network,
            asset: t.asset,
            s0: t.s0,
            expiry: t.expiry,
            deposit: self.deposit,
        }
    }

    pub fn owner(&self, asks: OwnerAsks) -> Signature {
        let t = self.escrow.terms;
        let ownership = Ownership {
            network: t.network,
            payee: t.payee,
            escrow: t.escrow,
            asks,
        };
        self.keys.sign_owner(&ownership).unwrap()
    }

    pub fn sign(&self, k: u32, cumulative: i64) -> Signature {
        self.keys.sign_claim(&self.escrow, k, s(cumulative)).unwrap()
    }

    /// A `Pay` to hop 1 that is the last paid hop too.
    pub fn pay(&self, n: u16, units: u64, claim: (u32, i64, i64)) -> ToNode {
        self.pay_on(n, units, Forward::Last, claim)
    }

    /// A `Pay` to hop 1.
    pub fn pay_on(&self, n: u16, units: u64, forward: Forward, (k, cumulative, allocation): (u32, i64, i64)) -> ToNode {
        ToNode::Pay(Pay {
            n,
            step: Step::from_bytes(units * UNIT).unwrap(),
            forward,
            claim: Some(Claim {
                escrow: self.escrow.id(),
                k,
                cumulative: s(cumulative),
                allocation: s(allocation),
                signature: self.sign(k, cumulative),
                opening: None,
            }),
        })
    }

    pub fn leg_pay(&self, k: u32, cumulative: i64, allocations: &[(u16, i64)]) -> LegPay {
        let all = allocations.iter().map(|(n, amount)| Allocation {
            circuit: ID_ON_LINK,
            n: *n,
            amount: s(*amount),
        });
        LegPay {
            escrow: self.escrow.id(),
            k,
            cumulative: s(cumulative),
            signature: self.sign(k, cumulative),
            opening: None,
            allocations: all.collect(),
        }
    }
}

pub fn entry(note: &str, command: u8, body: &[u8], metered: u64, after_ms: u64) -> Value {
    json!({
        "note": note,
        "after_ms": after_ms,
        "command": command,
        "body": hex::encode(body),
        "metered": metered.to_string(),
    })
}

pub fn ask(note: &str, message: &ToNode, metered: u64) -> Value {
    entry(note, CMD_TO_NODE, &message.encode(), metered, 1_000)
}

pub fn on(link: LinkId, note: &str, message: &LinkMessage) -> Value {
    let mut entry = entry(note, CMD_LINK, &message.encode(), 0, 100);
    entry["link"] = json!(link.0);
    entry
}

pub fn link(note: &str, message: &LinkMessage) -> Value {
    on(LINK, note, message)
}

pub fn event(note: &str, event: &str, ms: u64) -> Value {
    let mut entry = entry(note, 0, &[], 0, ms);
    entry["event"] = json!(event);
    entry
}

pub fn wait(note: &str, ms: u64) -> Value {
    event(note, "time", ms)
}

pub fn hello() -> LinkMessage {
    LinkMessage::LegHello {
        network: tariff().network,
        asset: tariff().asset,
        rules: tariff().rules,
    }
}
