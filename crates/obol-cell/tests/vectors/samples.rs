//! The messages that the files show, and bodies that are none.

use super::fields::Message;
use obol_cell::*;

/// 32 bytes that rise from `first`, so that one at the wrong place shows.
pub fn id(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}

fn pattern(first: u8) -> Signature {
    Signature(std::array::from_fn(|i| first.wrapping_add(i as u8)))
}

fn s(amount: i64) -> Stroops {
    Stroops::new(amount).unwrap()
}

fn asset() -> Asset {
    let mut code = [0; 12];
    code[..4].copy_from_slice(b"OBOL");
    Asset { code, issuer: id(0xa0) }
}

fn rules() -> EscrowRules {
    EscrowRules {
        min_deposit: s(100_000),
        min_life: 21_600,
        max_life: 691_200,
        margin: 7_200,
    }
}

const E: u8 = 0x50;

fn offer() -> EscrowOffer {
    EscrowOffer {
        escrow: EscrowId(id(E)),
        network: NetworkId(id(0x10)),
        asset: asset(),
        s0: 1_060 << 32,
        expiry: 1_800_086_400,
        deposit: s(100_000_000),
    }
}

fn acceptance() -> EscrowAcceptance {
    EscrowAcceptance {
        escrow: EscrowId(id(E)),
        signer: AccountId(id(0x70)),
        payee_account: AccountId(id(0x90)),
        min_deposit: s(100_000),
        refund: pattern(0xc0),
    }
}

fn opening() -> OpeningTerms {
    OpeningTerms {
        s0: 1_060 << 32,
        expiry: 1_800_086_400,
        payee_account: AccountId(id(0x90)),
        min_deposit: s(100_000),
    }
}

fn balance(state: EscrowState) -> Balance {
    Balance {
        escrow: EscrowId(id(E)),
        newest_k: 0x0102_0304,
        cumulative: s(0x1112_1314_1516_1718),
        unallocated: s(2_000),
        state,
    }
}

fn unknown() -> Balance {
    Balance {
        escrow: EscrowId(id(E)),
        newest_k: 0,
        cumulative: s(0),
        unallocated: s(0),
        state: EscrowState::Unknown,
    }
}

fn claim(opening: Option<OpeningTerms>) -> Claim {
    Claim {
        escrow: EscrowId(id(E)),
        k: 0x0102_0304,
        cumulative: s(0x1112_1314_1516_1718),
        allocation: s(332),
        signature: pattern(0x40),
        opening,
    }
}

fn pay(n: u16, power: u8, forward: Forward, claim: Option<Claim>) -> Message {
    Message::ToNode(ToNode::Pay(Pay {
        n,
        step: Step::from_power(power).unwrap(),
        forward,
        claim,
    }))
}

fn quote(next: bool) -> Quote {
    Quote {
        tariff: Tariff {
            price: PricePer64KiB::new(100).unwrap(),
            forward_ppm: ForwardPpm::new(1_000).unwrap(),
            forward_ceiling: PricePer64KiB::new(2_000).unwrap(),
            max_step: Step::DEFAULT_LARGEST,
            network: NetworkId(id(0x10)),
            asset: asset(),
            rules: rules(),
        },
        next,
        credit: 262_144,
        valid_until: 1_800_057_600,
    }
}

fn allocation(i: u32) -> Allocation {
    Allocation {
        circuit: 0x8000_0001 + i,
        n: 1 + i as u16,
        amount: s(1_000 + i64::from(i)),
    }
}

fn leg_pay(opening: Option<OpeningTerms>, count: u32) -> LegPay {
    LegPay {
        escrow: EscrowId(id(E)),
        k: 7,
        cumulative: s(70_000),
        signature: pattern(0x40),
        opening,
        allocations: (0..count).map(allocation).collect(),
    }
}

fn leg_trust(count: u32) -> LegTrust {
    LegTrust {
        k: 7,
        cumulative: s(70_000),
        memo: SettlementMemo(id(0xb0)),
        signature: pattern(0x40),
        allocations: (0..count).map(allocation).collect(),
    }
}

fn books(stated: bool) -> TrustBooks {
    TrustBooks {
        account: AccountId(id(0x90)),
        max_unsettled: s(500_000_000),
        k: if stated { 7 } else { 0 },
        cumulative: s(if stated { 70_000 } else { 0 }),
        signature: if stated { pattern(0x40) } else { Signature([0; 64]) },
        unallocated: s(if stated { 300 } else { 0 }),
        settled: s(if stated { 40_000 } else { 0 }),
    }
}

/// Names and messages, by command and kind.
pub fn messages() -> Vec<(&'static str, Message)> {
    let escrow = EscrowId(id(E));
    let owner = pattern(0x80);
    let mut all = to_node(escrow, owner);
    all.extend(to_origin(escrow));
    all.extend(link(escrow, owner));
    all
}

fn to_node(escrow: EscrowId, owner: Signature) -> Vec<(&'static str, Message)> {
    use Message::ToNode as M;
    let query = |opening| M(ToNode::BalanceQuery { escrow, opening, owner });
    let listen = |id, low| {
        M(ToNode::Listen {
            id,
            low: LowWater::at_least(low),
        })
    };
    vec![
        ("a question for the price", M(ToNode::QuoteQuery)),
        ("an offer of an escrow", M(ToNode::OfferEscrow(offer()))),
        (
            "a question for the books, of an escrow that the payee knows",
            query(None),
        ),
        ("a question for the books, with the terms", query(Some(opening()))),
        ("a long poll at 16 KiB", listen(0x0102, 16_384)),
        ("a long poll at the lowest mark", listen(0, 0)),
        ("a long poll at the highest mark", listen(0xffff, u64::MAX)),
        ("the end of a long poll", M(ToNode::Cancel { id: 0x0102 })),
        (
            "a payment's part for a middle hop",
            pay(0x0102, 3, Forward::Pass(s(808)), None),
        ),
        (
            "a payment's part for the last paid hop",
            pay(0x0102, 3, Forward::Last, None),
        ),
        ("what is held becomes credit", pay(0x0102, 3, Forward::Pass(s(0)), None)),
        (
            "a payment's part for hop 1",
            pay(2, 0, Forward::Pass(s(221)), Some(claim(None))),
        ),
        (
            "a first payment to hop 1, with the terms",
            pay(1, 0, Forward::Pass(s(221)), Some(claim(Some(opening())))),
        ),
        (
            "a payment to hop 1 that is the last paid hop",
            pay(0xffff, 20, Forward::Last, Some(claim(None))),
        ),
        (
            "the same with the terms",
            pay(1, 0, Forward::Last, Some(claim(Some(opening())))),
        ),
        (
            "a wish to close",
            M(ToNode::CloseEscrow {
                escrow,
                final_k: 0x0102_0304,
                owner,
            }),
        ),
    ]
}

fn to_origin(escrow: EscrowId) -> Vec<(&'static str, Message)> {
    use Message::ToOrigin as M;
    let (metered, paid, credit) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718, 0x2122_2324_2526_2728);
    let refused = |distance, code| {
        M(ToOrigin::Refused {
            n: 0x0102,
            distance,
            code,
        })
    };
    let declined = |code| M(ToOrigin::Declined(Declined { code }));
    vec![
        (
            "a price, with a next hop that can be paid",
            M(ToOrigin::Quote(quote(true))),
        ),
        ("a price that ends the chain", M(ToOrigin::Quote(quote(false)))),
        ("an escrow is accepted", M(ToOrigin::EscrowAccepted(acceptance()))),
        ("books, open", M(ToOrigin::Balance(balance(EscrowState::Open)))),
        ("books, closing", M(ToOrigin::Balance(balance(EscrowState::Closing)))),
        ("books, unknown", M(ToOrigin::Balance(unknown()))),
        (
            "a payment request",
            M(ToOrigin::PaymentRequest {
                id: 0x0102,
                metered,
                paid,
                credit,
            }),
        ),
        ("nothing", M(ToOrigin::Nothing { id: 0x0102 })),
        (
            "a payment is complete",
            M(ToOrigin::Complete {
                n: 0x0102,
                metered,
                paid,
                credit,
            }),
        ),
        ("refused: no funds, by the hop before", refused(1, RefuseCode::NoFunds)),
        ("refused: over limit", refused(0, RefuseCode::OverLimit)),
        ("refused: failed", refused(0, RefuseCode::Failed)),
        ("refused: closing, by hop 1 of three", refused(2, RefuseCode::Closing)),
        (
            "it will be flushed",
            M(ToOrigin::Closing {
                escrow,
                newest_k: 0x0102_0304,
            }),
        ),
        ("declined: not now", declined(DeclineCode::NotNow)),
        ("declined: other money", declined(DeclineCode::OtherMoney)),
        ("declined: outside the rules", declined(DeclineCode::OutsideRules)),
        ("declined: exists", declined(DeclineCode::Exists)),
        ("declined: unknown", declined(DeclineCode::Unknown)),
    ]
}

fn link(escrow: EscrowId, owner: Signature) -> Vec<(&'static str, Message)> {
    use Message::Link as M;
    let hello = LinkMessage::LegHello {
        network: NetworkId(id(0x10)),
        asset: asset(),
        rules: rules(),
    };
    let declined = LinkMessage::LegDeclined {
        escrow,
        code: DeclineCode::NotNow,
    };
    let refused = LinkMessage::LegRefused {
        circuit: 0x8000_0001,
        n: 0x0102,
        distance: 1,
        code: RefuseCode::Failed,
    };
    let query = |opening| M(LinkMessage::LegQuery { escrow, opening, owner });
    let transaction = TransactionId(id(0xd0));
    vec![
        ("a greeting", M(hello)),
        ("an offer between relays", M(LinkMessage::LegOffer(offer()))),
        (
            "an acceptance between relays",
            M(LinkMessage::LegAccepted(acceptance())),
        ),
        ("an offer is declined", M(declined)),
        ("the newest claim, repeated", M(LinkMessage::LegPay(leg_pay(None, 0)))),
        ("a claim for one circuit", M(LinkMessage::LegPay(leg_pay(None, 1)))),
        (
            "a first claim, for two circuits",
            M(LinkMessage::LegPay(leg_pay(Some(opening()), 2))),
        ),
        (
            "the longest message there is",
            M(LinkMessage::LegPay(leg_pay(Some(opening()), 64))),
        ),
        (
            "a neighbour's books on an escrow",
            M(LinkMessage::LegBalance(balance(EscrowState::Open))),
        ),
        (
            "a neighbour knows no such escrow",
            M(LinkMessage::LegBalance(unknown())),
        ),
        ("a payment will not come", M(refused)),
        (
            "a neighbour's wish to close",
            M(LinkMessage::LegClose { escrow, final_k: 7 }),
        ),
        ("a neighbour's question for the books", query(None)),
        ("a neighbour's question, with the terms", query(Some(opening()))),
        (
            "a neighbour is trusted and has stated nothing",
            M(LinkMessage::LegTrusted(books(false))),
        ),
        (
            "a neighbour is trusted, with books",
            M(LinkMessage::LegTrusted(books(true))),
        ),
        ("the newest statement, repeated", M(LinkMessage::LegTrust(leg_trust(0)))),
        ("a statement for two circuits", M(LinkMessage::LegTrust(leg_trust(2)))),
        (
            "a settlement is announced",
            M(LinkMessage::LegPaid {
                transaction,
                amount: s(30_000),
            }),
        ),
        (
            "a settlement is seen",
            M(LinkMessage::LegSettled {
                transaction,
                total: s(70_000),
            }),
        ),
    ]
}

/// Names, commands and bodies.
pub fn refused() -> Vec<(String, u8, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |name: &str, command: u8, body: Vec<u8>| all.push((name.to_owned(), command, body));
    // Of each kind: one byte less, one more.
    for (name, message) in messages() {
        let (command, body) = (message.command(), message.encode());
        if body.len() < 300 {
            add(
                &format!("{name}: a byte less"),
                command,
                body[..body.len() - 1].to_vec(),
            );
            add(&format!("{name}: a byte more"), command, [&body[..], &[0]].concat());
        }
    }
    let body_of = |wanted: &str| {
        let all = messages();
        let (_, message) = all.iter().find(|(name, _)| *name == wanted).expect(wanted);
        (message.command(), message.encode())
    };
    let mut changed = |name: &str, of: &str, at: usize, to: u8| {
        let (command, mut body) = body_of(of);
        body[at] = to;
        add(name, command, body);
    };
    for (command, of, unknown) in [
        ("52", "a question for the price", 8),
        ("51", "nothing", 10),
        ("200", "a greeting", 14),
    ] {
        changed(&format!("{command}: version 0"), of, 0, 0);
        changed(&format!("{command}: version 2"), of, 0, 2);
        changed(&format!("{command}: kind 0"), of, 1, 0);
        changed(
            &format!("{command}: the first kind that is not defined"),
            of,
            1,
            unknown,
        );
        changed(&format!("{command}: kind 255"), of, 1, 255);
    }
    let price = "a price, with a next hop that can be paid";
    changed("a price above the ladder", price, 2, 37);
    changed("a fee of 1001 ppm", price, 6, 0xe9);
    changed("a forward ceiling above the ladder", price, 7, 37);
    changed("a step above 64 GiB", price, 8, 21);
    changed("a minimum deposit of 2^63 and more", price, 85, 0x80);
    changed("next: 2", price, 105, 2);
    changed("a low-water mark below 1 KiB", "a long poll at 16 KiB", 4, 9);
    changed("a low-water mark above 1 TiB", "a long poll at 16 KiB", 4, 41);
    let middle = "a payment's part for a middle hop";
    changed("a payment flag that is not defined", middle, 2, 8);
    changed("terms without a claim", middle, 2, 4);
    changed("a payment of a step above 64 GiB", middle, 5, 21);
    changed("a forward part of 2^63 and more", middle, 6, 0x80);
    let hop_1 = "a payment's part for hop 1";
    changed("a claim of 2^63 and more", hop_1, 50, 0x80);
    changed("an allocation of 2^63 and more", hop_1, 58, 0x80);
    let query = "a question for the books, of an escrow that the payee knows";
    changed("a question with opening terms: 2", query, 98, 2);
    changed("a deposit of 2^63 and more", "an offer of an escrow", 126, 0x80);
    changed("an escrow state that is not defined", "books, open", 54, 3);
    changed("refusal code 0", "refused: failed", 5, 0);
    changed("refusal code 5", "refused: failed", 5, 5);
    changed("decline code 0", "declined: unknown", 2, 0);
    changed("decline code 6", "declined: unknown", 2, 6);
    changed("65 allocations", "the newest claim, repeated", 111, 65);
    changed("a claim with opening terms: 2", "the newest claim, repeated", 110, 2);
    changed(
        "a statement with 65 allocations",
        "the newest statement, repeated",
        110,
        65,
    );
    changed("a neighbour's refusal code 5", "a payment will not come", 9, 5);
    changed("a neighbour's decline code 0", "an offer is declined", 34, 0);
    changed("a settlement of 2^63 and more", "a settlement is announced", 34, 0x80);
    for (name, of, at) in [
        ("payment 0", middle, 3),
        ("an allocation for payment 0", "a claim for one circuit", 116),
        (
            "a statement's allocation for payment 0",
            "a statement for two circuits",
            115,
        ),
    ] {
        let (command, mut body) = body_of(of);
        body[at..at + 2].fill(0);
        add(name, command, body);
    }
    all
}
