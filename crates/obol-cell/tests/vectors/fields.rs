//! Messages as JSON and back. 64-bit numbers and amounts are decimal strings, byte strings are hex, prices are stroops for 64 KiB, steps
//! and low-water marks are bytes.

use obol_cell::*;
use serde_json::{Value, json};

/// A message of any of the three commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    ToNode(ToNode),
    ToOrigin(ToOrigin),
    Link(LinkMessage),
}

impl Message {
    pub fn command(&self) -> u8 {
        match self {
            Message::ToNode(_) => CMD_TO_NODE,
            Message::ToOrigin(_) => CMD_TO_ORIGIN,
            Message::Link(_) => CMD_LINK,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::ToNode(m) => m.encode(),
            Message::ToOrigin(m) => m.encode(),
            Message::Link(m) => m.encode(),
        }
    }

    pub fn decode(command: u8, body: &[u8]) -> Result<Message, DecodeError> {
        match command {
            CMD_TO_NODE => ToNode::decode(body).map(Message::ToNode),
            CMD_TO_ORIGIN => ToOrigin::decode(body).map(Message::ToOrigin),
            CMD_LINK => LinkMessage::decode(body).map(Message::Link),
            other => panic!("command {other}"),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Message::ToNode(m) => match m {
                ToNode::QuoteQuery => "QuoteQuery",
                ToNode::OfferEscrow(_) => "OfferEscrow",
                ToNode::BalanceQuery { .. } => "BalanceQuery",
                ToNode::Listen { .. } => "Listen",
                ToNode::Cancel { .. } => "Cancel",
                ToNode::Pay(_) => "Pay",
                ToNode::CloseEscrow { .. } => "CloseEscrow",
            },
            Message::ToOrigin(m) => match m {
                ToOrigin::Quote(_) => "Quote",
                ToOrigin::EscrowAccepted(_) => "EscrowAccepted",
                ToOrigin::Balance(_) => "Balance",
                ToOrigin::PaymentRequest { .. } => "PaymentRequest",
                ToOrigin::Nothing { .. } => "Nothing",
                ToOrigin::Complete { .. } => "Complete",
                ToOrigin::Refused { .. } => "Refused",
                ToOrigin::Closing { .. } => "Closing",
                ToOrigin::Declined(_) => "Declined",
            },
            Message::Link(m) => match m {
                LinkMessage::LegHello { .. } => "LegHello",
                LinkMessage::LegOffer(_) => "LegOffer",
                LinkMessage::LegAccepted(_) => "LegAccepted",
                LinkMessage::LegDeclined { .. } => "LegDeclined",
                LinkMessage::LegPay(_) => "LegPay",
                LinkMessage::LegQuery { .. } => "LegQuery",
                LinkMessage::LegBalance(_) => "LegBalance",
                LinkMessage::LegRefused { .. } => "LegRefused",
                LinkMessage::LegClose { .. } => "LegClose",
                LinkMessage::LegTrusted(_) => "LegTrusted",
                LinkMessage::LegTrust(_) => "LegTrust",
                LinkMessage::LegPaid { .. } => "LegPaid",
                LinkMessage::LegSettled { .. } => "LegSettled",
            },
        }
    }

    pub fn fields(&self) -> Value {
        match self {
            Message::ToNode(m) => to_node(m),
            Message::ToOrigin(m) => to_origin(m),
            Message::Link(m) => link(m),
        }
    }

    pub fn from_fields(command: u8, name: &str, f: &Value) -> Message {
        match command {
            CMD_TO_NODE => Message::ToNode(to_node_from(name, f)),
            CMD_TO_ORIGIN => Message::ToOrigin(to_origin_from(name, f)),
            _ => Message::Link(link_from(name, f)),
        }
    }
}

/// The reason as the file has it.
pub fn reason(error: &DecodeError) -> String {
    match error {
        DecodeError::TooShort => "below-layout".to_owned(),
        DecodeError::TooLong => "above-layout".to_owned(),
        DecodeError::Version(_) => "version".to_owned(),
        DecodeError::Kind(_) => "kind".to_owned(),
        DecodeError::Unit(UnitError::Amount) => "amount".to_owned(),
        DecodeError::Unit(UnitError::OffLadder(_)) => "price".to_owned(),
        DecodeError::Unit(UnitError::Step) => "step".to_owned(),
        DecodeError::Unit(UnitError::Ppm(_)) => "fee".to_owned(),
        DecodeError::Undefined { field, .. } => format!("undefined: {field}"),
    }
}

// ---- values ----

fn h(bytes: &[u8]) -> Value {
    json!(hex::encode(bytes))
}

fn n(number: impl std::fmt::Display) -> Value {
    json!(number.to_string())
}

pub fn bytes<const N: usize>(v: &Value) -> [u8; N] {
    hex::decode(v.as_str().unwrap()).unwrap().try_into().unwrap()
}

fn u64_of(v: &Value) -> u64 {
    v.as_str().unwrap().parse().unwrap()
}

fn small<T: TryFrom<u64>>(v: &Value) -> T {
    T::try_from(v.as_u64().unwrap()).ok().unwrap()
}

fn amount(v: &Value) -> Stroops {
    Stroops::try_from(u64_of(v)).unwrap()
}

fn signature(v: &Value) -> Signature {
    Signature(bytes(v))
}

fn escrow(v: &Value) -> EscrowId {
    EscrowId(bytes(v))
}

fn asset(a: &Asset) -> Value {
    let length = a.code.iter().position(|b| *b == 0).unwrap_or(12);
    json!({"code": std::str::from_utf8(&a.code[..length]).unwrap(), "issuer": h(&a.issuer)})
}

fn asset_from(f: &Value) -> Asset {
    let text = f["code"].as_str().unwrap().as_bytes();
    let mut code = [0; 12];
    code[..text.len()].copy_from_slice(text);
    Asset {
        code,
        issuer: bytes(&f["issuer"]),
    }
}

fn rules(r: &EscrowRules) -> Value {
    json!({"min_deposit": n(r.min_deposit), "min_life": r.min_life, "max_life": r.max_life, "margin": r.margin})
}

fn rules_from(f: &Value) -> EscrowRules {
    EscrowRules {
        min_deposit: amount(&f["min_deposit"]),
        min_life: small(&f["min_life"]),
        max_life: small(&f["max_life"]),
        margin: small(&f["margin"]),
    }
}

fn opening(o: &Option<OpeningTerms>) -> Value {
    let Some(o) = o else { return Value::Null };
    json!({
        "s0": n(o.s0),
        "expiry": n(o.expiry),
        "payee_account": h(&o.payee_account.0),
        "min_deposit": n(o.min_deposit),
    })
}

fn opening_from(f: &Value) -> Option<OpeningTerms> {
    (!f.is_null()).then(|| OpeningTerms {
        s0: u64_of(&f["s0"]),
        expiry: u64_of(&f["expiry"]),
        payee_account: AccountId(bytes(&f["payee_account"])),
        min_deposit: amount(&f["min_deposit"]),
    })
}

fn offer(o: &EscrowOffer) -> Value {
    json!({
        "escrow": h(&o.escrow.0),
        "network": h(&o.network.0),
        "asset": asset(&o.asset),
        "s0": n(o.s0),
        "expiry": n(o.expiry),
        "deposit": n(o.deposit),
    })
}

fn offer_from(f: &Value) -> EscrowOffer {
    EscrowOffer {
        escrow: escrow(&f["escrow"]),
        network: NetworkId(bytes(&f["network"])),
        asset: asset_from(&f["asset"]),
        s0: u64_of(&f["s0"]),
        expiry: u64_of(&f["expiry"]),
        deposit: amount(&f["deposit"]),
    }
}

fn acceptance(a: &EscrowAcceptance) -> Value {
    json!({
        "escrow": h(&a.escrow.0),
        "signer": h(&a.signer.0),
        "payee_account": h(&a.payee_account.0),
        "min_deposit": n(a.min_deposit),
        "refund": h(&a.refund.0),
    })
}

fn acceptance_from(f: &Value) -> EscrowAcceptance {
    EscrowAcceptance {
        escrow: escrow(&f["escrow"]),
        signer: AccountId(bytes(&f["signer"])),
        payee_account: AccountId(bytes(&f["payee_account"])),
        min_deposit: amount(&f["min_deposit"]),
        refund: signature(&f["refund"]),
    }
}

fn balance(b: &Balance) -> Value {
    let state = match b.state {
        EscrowState::Open => "open",
        EscrowState::Closing => "closing",
        EscrowState::Unknown => "unknown",
    };
    json!({
        "escrow": h(&b.escrow.0),
        "newest_k": b.newest_k,
        "cumulative": n(b.cumulative),
        "unallocated": n(b.unallocated),
        "state": state,
    })
}

fn balance_from(f: &Value) -> Balance {
    Balance {
        escrow: escrow(&f["escrow"]),
        newest_k: small(&f["newest_k"]),
        cumulative: amount(&f["cumulative"]),
        unallocated: amount(&f["unallocated"]),
        state: match f["state"].as_str().unwrap() {
            "open" => EscrowState::Open,
            "closing" => EscrowState::Closing,
            "unknown" => EscrowState::Unknown,
            other => panic!("state {other}"),
        },
    }
}

const REFUSALS: [(RefuseCode, &str); 4] = [
    (RefuseCode::NoFunds, "no-funds"),
    (RefuseCode::OverLimit, "over-limit"),
    (RefuseCode::Failed, "failed"),
    (RefuseCode::Closing, "closing"),
];

const DECLINES: [(DeclineCode, &str); 5] = [
    (DeclineCode::NotNow, "not-now"),
    (DeclineCode::OtherMoney, "other-money"),
    (DeclineCode::OutsideRules, "outside-rules"),
    (DeclineCode::Exists, "exists"),
    (DeclineCode::Unknown, "unknown"),
];

fn refusal(code: RefuseCode) -> &'static str {
    REFUSALS.iter().find(|(c, _)| *c == code).unwrap().1
}

fn refusal_from(v: &Value) -> RefuseCode {
    REFUSALS.iter().find(|(_, name)| v.as_str() == Some(name)).unwrap().0
}

fn decline(code: DeclineCode) -> &'static str {
    DECLINES.iter().find(|(c, _)| *c == code).unwrap().1
}

fn decline_from(v: &Value) -> DeclineCode {
    DECLINES.iter().find(|(_, name)| v.as_str() == Some(name)).unwrap().0
}

// ---- 52 ----

fn claim(c: &Option<Claim>) -> Value {
    let Some(c) = c else { return Value::Null };
    json!({
        "escrow": h(&c.escrow.0),
        "k": c.k,
        "cumulative": n(c.cumulative),
        "allocation": n(c.allocation),
        "signature": h(&c.signature.0),
        "opening": opening(&c.opening),
    })
}

fn to_node(m: &ToNode) -> Value {
    match m {
        ToNode::QuoteQuery => json!({}),
        ToNode::OfferEscrow(o) => offer(o),
        ToNode::BalanceQuery {
            escrow,
            opening: o,
            owner,
        } => json!({"escrow": h(&escrow.0), "owner": h(&owner.0), "opening": opening(o)}),
        ToNode::Listen { id, low } => json!({"id": id, "low": n(low.bytes())}),
        ToNode::Cancel { id } => json!({"id": id}),
        ToNode::Pay(p) => json!({
            "n": p.n,
            "step": n(p.step.bytes()),
            "forward": match p.forward { Forward::Last => json!("last"), Forward::Pass(a) => n(a) },
            "claim": claim(&p.claim),
        }),
        ToNode::CloseEscrow { escrow, final_k, owner } => {
            json!({"escrow": h(&escrow.0), "final_k": final_k, "owner": h(&owner.0)})
        }
    }
}

fn to_node_from(name: &str, f: &Value) -> ToNode {
    match name {
        "QuoteQuery" => ToNode::QuoteQuery,
        "OfferEscrow" => ToNode::OfferEscrow(offer_from(f)),
        "BalanceQuery" => ToNode::BalanceQuery {
            escrow: escrow(&f["escrow"]),
            opening: opening_from(&f["opening"]),
            owner: signature(&f["owner"]),
        },
        "Listen" => {
            let low = LowWater::at_least(u64_of(&f["low"]));
            assert_eq!(low.bytes(), u64_of(&f["low"]));
            ToNode::Listen {
                id: small(&f["id"]),
                low,
            }
        }
        "Cancel" => ToNode::Cancel { id: small(&f["id"]) },
        "Pay" => ToNode::Pay(Pay {
            n: small(&f["n"]),
            step: Step::from_bytes(u64_of(&f["step"])).unwrap(),
            forward: if f["forward"] == "last" {
                Forward::Last
            } else {
                Forward::Pass(amount(&f["forward"]))
            },
            claim: (!f["claim"].is_null()).then(|| {
                let c = &f["claim"];
                Claim {
                    escrow: escrow(&c["escrow"]),
                    k: small(&c["k"]),
                    cumulative: amount(&c["cumulative"]),
                    allocation: amount(&c["allocation"]),
                    signature: signature(&c["signature"]),
                    opening: opening_from(&c["opening"]),
                }
            }),
        }),
        "CloseEscrow" => ToNode::CloseEscrow {
            escrow: escrow(&f["escrow"]),
            final_k: small(&f["final_k"]),
            owner: signature(&f["owner"]),
        },
        other => panic!("{other}"),
    }
}

// ---- 51 ----

fn to_origin(m: &ToOrigin) -> Value {
    match m {
        ToOrigin::Quote(q) => {
            let t = &q.tariff;
            json!({
                "price": n(t.price.stroops()),
                "forward_ppm": t.forward_ppm.get(),
                "forward_ceiling": n(t.forward_ceiling.stroops()),
                "max_step": n(t.max_step.bytes()),
                "network": h(&t.network.0),
                "asset": asset(&t.asset),
                "rules": rules(&t.rules),
                "next": q.next,
                "credit": n(q.credit),
                "valid_until": n(q.valid_until),
            })
        }
        ToOrigin::EscrowAccepted(a) => acceptance(a),
        ToOrigin::Balance(b) => balance(b),
        ToOrigin::PaymentRequest {
            id,
            metered,
            paid,
            credit,
        } => json!({"id": id, "metered": n(metered), "paid": n(paid), "credit": n(credit)}),
        ToOrigin::Nothing { id } => json!({"id": id}),
        ToOrigin::Complete {
            n: number,
            metered,
            paid,
            credit,
        } => json!({"n": number, "metered": n(metered), "paid": n(paid), "credit": n(credit)}),
        ToOrigin::Refused {
            n: number,
            distance,
            code,
        } => json!({"n": number, "distance": distance, "code": refusal(*code)}),
        ToOrigin::Closing { escrow, newest_k } => json!({"escrow": h(&escrow.0), "newest_k": newest_k}),
        ToOrigin::Declined(d) => json!({"code": decline(d.code)}),
    }
}

fn to_origin_from(name: &str, f: &Value) -> ToOrigin {
    let price = |v: &Value| PricePer64KiB::new(u64_of(v)).unwrap();
    match name {
        "Quote" => ToOrigin::Quote(Quote {
            tariff: Tariff {
                price: price(&f["price"]),
                forward_ppm: ForwardPpm::new(small(&f["forward_ppm"])).unwrap(),
                forward_ceiling: price(&f["forward_ceiling"]),
                max_step: Step::from_bytes(u64_of(&f["max_step"])).unwrap(),
                network: NetworkId(bytes(&f["network"])),
                asset: asset_from(&f["asset"]),
                rules: rules_from(&f["rules"]),
            },
            next: f["next"].as_bool().unwrap(),
            credit: u64_of(&f["credit"]),
            valid_until: u64_of(&f["valid_until"]),
        }),
        "EscrowAccepted" => ToOrigin::EscrowAccepted(acceptance_from(f)),
        "Balance" => ToOrigin::Balance(balance_from(f)),
        "PaymentRequest" => ToOrigin::PaymentRequest {
            id: small(&f["id"]),
            metered: u64_of(&f["metered"]),
            paid: u64_of(&f["paid"]),
            credit: u64_of(&f["credit"]),
        },
        "Nothing" => ToOrigin::Nothing { id: small(&f["id"]) },
        "Complete" => ToOrigin::Complete {
            n: small(&f["n"]),
            metered: u64_of(&f["metered"]),
            paid: u64_of(&f["paid"]),
            credit: u64_of(&f["credit"]),
        },
        "Refused" => ToOrigin::Refused {
            n: small(&f["n"]),
            distance: small(&f["distance"]),
            code: refusal_from(&f["code"]),
        },
        "Closing" => ToOrigin::Closing {
            escrow: escrow(&f["escrow"]),
            newest_k: small(&f["newest_k"]),
        },
        "Declined" => ToOrigin::Declined(Declined {
            code: decline_from(&f["code"]),
        }),
        other => panic!("{other}"),
    }
}

// ---- 200 ----

fn allocations(all: &[Allocation]) -> Value {
    let all = all.iter();
    all.map(|a| json!({"circuit": a.circuit, "n": a.n, "amount": n(a.amount)}))
        .collect()
}

fn allocations_from(f: &Value) -> Vec<Allocation> {
    let all = f.as_array().unwrap().iter();
    all.map(|a| Allocation {
        circuit: small(&a["circuit"]),
        n: small(&a["n"]),
        amount: amount(&a["amount"]),
    })
    .collect()
}

fn link(m: &LinkMessage) -> Value {
    match m {
        LinkMessage::LegHello {
            network,
            asset: a,
            rules: r,
        } => json!({"network": h(&network.0), "asset": asset(a), "rules": rules(r)}),
        LinkMessage::LegOffer(o) => offer(o),
        LinkMessage::LegAccepted(a) => acceptance(a),
        LinkMessage::LegDeclined { escrow, code } => json!({"escrow": h(&escrow.0), "code": decline(*code)}),
        LinkMessage::LegPay(p) => json!({
            "escrow": h(&p.escrow.0),
            "k": p.k,
            "cumulative": n(p.cumulative),
            "signature": h(&p.signature.0),
            "opening": opening(&p.opening),
            "allocations": allocations(&p.allocations),
        }),
        LinkMessage::LegQuery {
            escrow,
            opening: o,
            owner,
        } => json!({"escrow": h(&escrow.0), "owner": h(&owner.0), "opening": opening(o)}),
        LinkMessage::LegBalance(b) => balance(b),
        LinkMessage::LegRefused {
            circuit,
            n: number,
            distance,
            code,
        } => json!({"circuit": circuit, "n": number, "distance": distance, "code": refusal(*code)}),
        LinkMessage::LegClose { escrow, final_k } => json!({"escrow": h(&escrow.0), "final_k": final_k}),
        LinkMessage::LegTrusted(b) => json!({
            "account": h(&b.account.0),
            "max_unsettled": n(b.max_unsettled),
            "k": b.k,
            "cumulative": n(b.cumulative),
            "signature": h(&b.signature.0),
            "unallocated": n(b.unallocated),
            "settled": n(b.settled),
        }),
        LinkMessage::LegTrust(t) => json!({
            "k": t.k,
            "cumulative": n(t.cumulative),
            "memo": h(&t.memo.0),
            "signature": h(&t.signature.0),
            "allocations": allocations(&t.allocations),
        }),
        LinkMessage::LegPaid { transaction, amount } => {
            json!({"transaction": h(&transaction.0), "amount": n(amount)})
        }
        LinkMessage::LegSettled { transaction, total } => {
            json!({"transaction": h(&transaction.0), "total": n(total)})
        }
    }
}

fn link_from(name: &str, f: &Value) -> LinkMessage {
    match name {
        "LegHello" => LinkMessage::LegHello {
            network: NetworkId(bytes(&f["network"])),
            asset: asset_from(&f["asset"]),
            rules: rules_from(&f["rules"]),
        },
        "LegOffer" => LinkMessage::LegOffer(offer_from(f)),
        "LegAccepted" => LinkMessage::LegAccepted(acceptance_from(f)),
        "LegDeclined" => LinkMessage::LegDeclined {
            escrow: escrow(&f["escrow"]),
            code: decline_from(&f["code"]),
        },
        "LegPay" => LinkMessage::LegPay(LegPay {
            escrow: escrow(&f["escrow"]),
            k: small(&f["k"]),
            cumulative: amount(&f["cumulative"]),
            signature: signature(&f["signature"]),
            opening: opening_from(&f["opening"]),
            allocations: allocations_from(&f["allocations"]),
        }),
        "LegQuery" => LinkMessage::LegQuery {
            escrow: escrow(&f["escrow"]),
            opening: opening_from(&f["opening"]),
            owner: signature(&f["owner"]),
        },
        "LegBalance" => LinkMessage::LegBalance(balance_from(f)),
        "LegRefused" => LinkMessage::LegRefused {
            circuit: small(&f["circuit"]),
            n: small(&f["n"]),
            distance: small(&f["distance"]),
            code: refusal_from(&f["code"]),
        },
        "LegClose" => LinkMessage::LegClose {
            escrow: escrow(&f["escrow"]),
            final_k: small(&f["final_k"]),
        },
        "LegTrusted" => LinkMessage::LegTrusted(TrustBooks {
            account: AccountId(bytes(&f["account"])),
            max_unsettled: amount(&f["max_unsettled"]),
            k: small(&f["k"]),
            cumulative: amount(&f["cumulative"]),
            signature: signature(&f["signature"]),
            unallocated: amount(&f["unallocated"]),
            settled: amount(&f["settled"]),
        }),
        "LegTrust" => LinkMessage::LegTrust(LegTrust {
            k: small(&f["k"]),
            cumulative: amount(&f["cumulative"]),
            memo: SettlementMemo(bytes(&f["memo"])),
            signature: signature(&f["signature"]),
            allocations: allocations_from(&f["allocations"]),
        }),
        "LegPaid" => LinkMessage::LegPaid {
            transaction: TransactionId(bytes(&f["transaction"])),
            amount: amount(&f["amount"]),
        },
        "LegSettled" => LinkMessage::LegSettled {
            transaction: TransactionId(bytes(&f["transaction"])),
            total: amount(&f["total"]),
        },
        other => panic!("{other}"),
    }
}
