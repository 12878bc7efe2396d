//! `docs/protocol/vectors/escrow.json` and `trust.json`, held against the code in both directions: what the terms and keys of the
//! files give here is what stands there, byte for byte, and every signature and transaction of the files is accepted here and refused
//! where anything is changed. `OBOL_WRITE_VECTORS=1` writes them anew (docs/protocol/vectors.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use obol_cell::*;
use obol_stellar::asset::{asset, asset_code};
use obol_stellar::escrow::{ClaimHasher, ClaimVerifier, Escrow, EscrowSecret, Opening, PayerSecret, TermsError};
use obol_stellar::key::account_text;
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_stellar::tx::{Memo, Op, SignedTx, Tx, Validity};
use obol_stellar::{Keypair, Network};
use obol_toll::trust::Statement;
use obol_toll::{PayeeKeys as _, PayerKeys as _};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/protocol/vectors")
        .join(file)
}

/// The file; written first from what the code says, if that was asked for.
fn vectors(file: &str, current: impl Fn() -> Value) -> Value {
    if std::env::var_os("OBOL_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&current()).unwrap() + "\n";
        fs::write(path(file), text).unwrap();
    }
    serde_json::from_str(&fs::read_to_string(path(file)).unwrap()).unwrap()
}

// ---- values: 64-bit numbers and amounts are decimal strings, byte strings hex, envelopes base64 ----

fn h(bytes: impl AsRef<[u8]>) -> Value {
    json!(hex::encode(bytes))
}

fn n(number: impl std::fmt::Display) -> Value {
    json!(number.to_string())
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap()
}

fn bytes<const N: usize>(v: &Value) -> [u8; N] {
    hex::decode(text(v)).unwrap().try_into().unwrap()
}

fn number<T: std::str::FromStr>(v: &Value) -> T {
    text(v).parse().ok().unwrap()
}

fn s(amount: i64) -> Stroops {
    Stroops::new(amount).unwrap()
}

fn amount(v: &Value) -> Stroops {
    s(number(v))
}

fn k_of(v: &Value) -> u32 {
    u32::try_from(v.as_u64().unwrap()).unwrap()
}

fn key(v: &Value) -> Keypair {
    Keypair::from_seed(&bytes(v))
}

fn signature(v: &Value) -> Signature {
    Signature(bytes(v))
}

fn envelope(tx: &SignedTx) -> Value {
    json!({"hash": tx.hash().to_string(), "envelope": STANDARD.encode(tx.to_bytes().unwrap())})
}

/// The envelope in the file is one, bears its hash, and is the same bytes again.
fn read(network: NetworkId, v: &Value) -> SignedTx {
    let raw = STANDARD.decode(text(&v["envelope"])).unwrap();
    let tx = SignedTx::from_bytes(network, &raw).unwrap();
    assert_eq!(tx.to_bytes().unwrap(), raw);
    assert_eq!(tx.hash().to_string(), text(&v["hash"]));
    tx
}

// ---- escrow.json ----

/// What a case begins with; everything else follows.
fn inputs(name: &str, passphrase: &str, code: &str, first: u8, s0_ledger: u64, claims: &[(u32, i64)]) -> Value {
    let seed = |i: u8| h([first + i; 32]);
    let claims: Vec<Value> = claims
        .iter()
        .map(|(k, cumulative)| json!({"k": k, "cumulative": n(cumulative)}))
        .collect();
    json!({
        "name": name,
        "passphrase": passphrase,
        "asset_code": code,
        "seeds": {"issuer": seed(0), "payee": seed(1), "funder": seed(2), "heir": seed(3)},
        "escrow_secret": seed(100),
        "relay_identity": seed(101),
        "payer_secret": seed(102),
        "nonce": seed(103),
        "s0": n(s0_ledger << 32),
        "expiry": n(1_800_000_000u64 + u64::from(first)),
        "min_deposit": n(100_000),
        "deposit": n(10_000_000_000i64),
        "funder_sequence": n(77),
        "base_reserve": n(5_000_000),
        "claims": claims,
    })
}

struct Parties {
    network: NetworkId,
    payee: Keypair,
    funder: Keypair,
    heir: AccountId,
    e: Keypair,
    secret: EscrowSecret,
    payer: EscrowPayer,
    terms: EscrowTerms,
}

fn parties(input: &Value) -> Parties {
    let network = Network::new(text(&input["passphrase"]).to_owned()).id();
    let seeds = &input["seeds"];
    let payer = EscrowPayer::new(PayerSecret::from_bytes(bytes(&input["payer_secret"])), network);
    let escrow = payer.add(&bytes(&input["nonce"]));
    let payee = key(&seeds["payee"]);
    let terms = EscrowTerms {
        network,
        asset: asset(text(&input["asset_code"]), key(&seeds["issuer"]).account()).unwrap(),
        payee: PeerId(bytes(&input["relay_identity"])),
        payee_account: payee.account(),
        escrow,
        s0: number(&input["s0"]),
        expiry: number(&input["expiry"]),
        min_deposit: amount(&input["min_deposit"]),
    };
    Parties {
        network,
        payee,
        funder: key(&seeds["funder"]),
        heir: key(&seeds["heir"]).account(),
        e: payer.key(&escrow).unwrap(),
        secret: EscrowSecret::from_bytes(bytes(&input["escrow_secret"])),
        payer,
        terms,
    }
}

fn terms_json(t: &EscrowTerms) -> Value {
    let mut w = Writer::new();
    t.write(&mut w);
    json!({
        "network": h(t.network.0),
        "asset": {"code": asset_code(&t.asset), "issuer": h(t.asset.issuer)},
        "payee": h(t.payee.0),
        "payee_account": h(t.payee_account.0),
        "escrow": h(t.escrow.0),
        "s0": n(t.s0),
        "expiry": n(t.expiry),
        "min_deposit": n(t.min_deposit),
        "bytes": h(w.finish()),
    })
}

fn terms_from(v: &Value) -> EscrowTerms {
    let raw = hex::decode(text(&v["bytes"])).unwrap();
    let mut r = Reader::new(&raw);
    let terms = EscrowTerms::read(&mut r).unwrap();
    r.end().unwrap();
    assert_eq!(&terms_json(&terms), v, "fields and bytes of the terms");
    terms
}

fn ownership(terms: &EscrowTerms, asks: OwnerAsks) -> Ownership {
    Ownership {
        network: terms.network,
        payee: terms.payee,
        escrow: terms.escrow,
        asks,
    }
}

/// Everything that the inputs give.
fn case(input: &Value) -> Value {
    let p = parties(input);
    let (escrow, refund) = p.secret.accept(p.terms).unwrap();
    let deposit = amount(&input["deposit"]);
    let signer = p.secret.signer(&p.terms);
    let mut info = b"obol-escrow-1".to_vec();
    let mut w = Writer::new();
    p.terms.write(&mut w);
    info.extend(w.finish());

    let opening = Opening {
        escrow: &escrow,
        key: &p.e,
        deposit,
        refund,
    };
    let reserve = u32::try_from(number::<u64>(&input["base_reserve"])).unwrap();
    let opened = Escrow::open(&p.funder, number(&input["funder_sequence"]), 400, reserve, &[opening]).unwrap();
    let refund_tx = escrow.signed_refund(refund, &p.e).unwrap();
    let refund_bump = refund_tx.bumped(p.network, &p.funder, s(300)).unwrap();

    let hasher = ClaimHasher::new(&escrow).unwrap();
    let claims: Vec<Value> = input["claims"]
        .as_array()
        .unwrap()
        .iter()
        .map(|claim| {
            let (k, cumulative) = (k_of(&claim["k"]), amount(&claim["cumulative"]));
            let payload = escrow
                .claim(k, cumulative)
                .unwrap()
                .signature_payload(p.network)
                .unwrap();
            let by_payer = hasher.sign(&p.e, k, cumulative).unwrap();
            let both = escrow.countersigned(k, cumulative, by_payer, &signer).unwrap();
            let flush = both.bumped(p.network, &p.payee, s(300)).unwrap();
            json!({
                "k": k,
                "cumulative": n(cumulative),
                "sequence": n(p.terms.s0 + u64::from(k)),
                "payload": h(payload),
                "hash": hasher.hash(k, cumulative).unwrap().to_string(),
                "signature": h(by_payer.0),
                "countersigned": envelope(&both),
                "flush": {"fee": n(300), "transaction": envelope(&flush)},
            })
        })
        .collect();

    let last = claims.last().unwrap();
    let last_k = k_of(&last["k"]);
    let end = i64::try_from(p.terms.s0 + u64::from(last_k)).unwrap();
    let until = p.terms.expiry + 300;
    let rest = deposit.checked_sub(amount(&last["cumulative"])).unwrap();
    let swept = escrow.sweep(end + 1, 100, until, p.heir, rest).unwrap();
    let merged = escrow.merge(end + 2, 200, until, p.heir).unwrap();
    let [swept, merged] = [swept, merged].map(|tx| tx.sign(p.network, &[&p.e]).unwrap());

    let asked = |asks| {
        let ownership = ownership(&p.terms, asks);
        let signature = p.payer.sign_owner(&ownership).unwrap();
        json!({"signed": h(ownership.message()), "signature": h(signature.0)})
    };
    json!({
        "input": input,
        "terms": terms_json(&p.terms),
        "escrow": {"seed": h(*p.e.seed()), "account": account_text(&AccountId(p.terms.escrow.0))},
        "signer": {
            "info": h(info),
            "seed": h(*signer.seed()),
            "key": h(signer.account().0),
            "account": account_text(&signer.account()),
        },
        "opening": {
            "fee": n(400),
            "before_ledger": escrow.base_ledger(),
            "transaction": envelope(&opened),
        },
        "refund": {
            "sequence": n(p.terms.s0 + (1 << 31)),
            "payload": h(escrow.refund().unwrap().signature_payload(p.network).unwrap()),
            "hash": escrow.refund().unwrap().hash(p.network).unwrap().to_string(),
            "by_payee": h(refund.0),
            "signed": envelope(&refund_tx),
            "bump": {"fee": n(300), "transaction": envelope(&refund_bump)},
        },
        "claims": claims,
        "sweep": {
            "sequence": n(end + 1),
            "amount": n(rest),
            "until_time": n(until),
            "transaction": envelope(&swept),
        },
        "merge": {"sequence": n(end + 2), "until_time": n(until), "transaction": envelope(&merged)},
        "owner": {
            "books": asked(OwnerAsks::Books),
            "close": {"final_k": last_k, "asked": asked(OwnerAsks::Close { final_k: last_k })},
        },
        "messages": bodies(&p, &escrow, refund, deposit, last_k),
    })
}

/// The messages of a client and its guard about this escrow, with real signatures, in the order in which they are said; and the same
/// of two relays.
fn bodies(p: &Parties, escrow: &Escrow, refund: Signature, deposit: Stroops, final_k: u32) -> Value {
    let t = p.terms;
    let id = t.escrow;
    let offer = EscrowOffer {
        escrow: id,
        network: t.network,
        asset: t.asset,
        s0: t.s0,
        expiry: t.expiry,
        deposit,
    };
    let acceptance = EscrowAcceptance {
        escrow: id,
        signer: escrow.signer(),
        payee_account: t.payee_account,
        min_deposit: t.min_deposit,
        refund,
    };
    let owner = |asks| p.payer.sign_owner(&ownership(&t, asks)).unwrap();
    let (books, close) = (owner(OwnerAsks::Books), owner(OwnerAsks::Close { final_k }));
    let whole = obol_toll::Escrow::from(escrow);
    let (first, second) = (s(332), s(664));
    let claim = |k, cumulative, opening| Claim {
        escrow: id,
        k,
        cumulative,
        allocation: first,
        signature: p.payer.sign_claim(&whole, k, cumulative).unwrap(),
        opening,
    };
    let pay = |n, claim| {
        ToNode::Pay(Pay {
            n,
            step: Step::FIRST,
            forward: Forward::Pass(s(221)),
            claim: Some(claim),
        })
    };
    let opening = Some(t.opening());
    let leg_pay = LegPay {
        escrow: id,
        k: 1,
        cumulative: first,
        signature: p.payer.sign_claim(&whole, 1, first).unwrap(),
        opening,
        allocations: vec![Allocation {
            circuit: 0x8000_0001,
            n: 1,
            amount: first,
        }],
    };
    let to_node = |m: ToNode| h(m.encode());
    let link = |m: LinkMessage| h(m.encode());
    json!({
        "OfferEscrow": to_node(ToNode::OfferEscrow(offer)),
        "EscrowAccepted": h(ToOrigin::EscrowAccepted(acceptance).encode()),
        "BalanceQuery": to_node(ToNode::BalanceQuery { escrow: id, opening, owner: books }),
        "Pay 1": to_node(pay(1, claim(1, first, opening))),
        "Pay 2": to_node(pay(2, claim(2, second, None))),
        "CloseEscrow": to_node(ToNode::CloseEscrow { escrow: id, final_k, owner: close }),
        "LegOffer": link(LinkMessage::LegOffer(offer)),
        "LegAccepted": link(LinkMessage::LegAccepted(acceptance)),
        "LegQuery": link(LinkMessage::LegQuery { escrow: id, opening, owner: books }),
        "LegPay": link(LinkMessage::LegPay(leg_pay)),
        "LegClose": link(LinkMessage::LegClose { escrow: id, final_k }),
    })
}

/// Terms that no escrow can have, and why not.
fn refused_terms() -> Value {
    let good = parties(&cases()[0]).terms;
    let issuer = good.asset.issuer;
    let weak = std::array::from_fn(|i| u8::from(i == 0));
    let no_code = Asset {
        code: [0; 12],
        ..good.asset
    };
    let odd_code = Asset {
        code: *b"OB-L\0\0\0\0\0\0\0\0",
        ..good.asset
    };
    let all = [
        (
            "S0 with low bits",
            EscrowTerms {
                s0: good.s0 + 1,
                ..good
            },
        ),
        ("S0 of ledger 0", EscrowTerms { s0: 0, ..good }),
        ("S0 of a ledger of 2^31 and more", EscrowTerms { s0: 1 << 63, ..good }),
        ("no expiry", EscrowTerms { expiry: 0, ..good }),
        (
            "an expiry of 2^63 and more",
            EscrowTerms {
                expiry: 1 << 63,
                ..good
            },
        ),
        (
            "E is the payee's account",
            EscrowTerms {
                escrow: EscrowId(good.payee_account.0),
                ..good
            },
        ),
        (
            "E is the issuer",
            EscrowTerms {
                escrow: EscrowId(issuer),
                ..good
            },
        ),
        (
            "the payee's account is the issuer",
            EscrowTerms {
                payee_account: AccountId(issuer),
                ..good
            },
        ),
        (
            "E is a weak key",
            EscrowTerms {
                escrow: EscrowId(weak),
                ..good
            },
        ),
        (
            "E is no point of the curve",
            EscrowTerms {
                escrow: EscrowId([2; 32]),
                ..good
            },
        ),
        ("an asset without a code", EscrowTerms { asset: no_code, ..good }),
        (
            "an asset whose code has other characters",
            EscrowTerms {
                asset: odd_code,
                ..good
            },
        ),
    ];
    let secret = parties(&cases()[0]).secret;
    all.into_iter()
        .map(|(name, terms)| {
            let mut w = Writer::new();
            terms.write(&mut w);
            let fault = secret.escrow(terms).expect_err(name);
            json!({"name": name, "bytes": h(w.finish()), "reason": terms_reason(&fault)})
        })
        .collect()
}

fn terms_reason(fault: &TermsError) -> &'static str {
    match fault {
        TermsError::Asset(_) => "asset",
        TermsError::SequenceBase => "s0",
        TermsError::Expiry => "expiry",
        TermsError::SameKeys => "same-keys",
        TermsError::BadKey => "bad-key",
    }
}

fn cases() -> Vec<Value> {
    let (short, long) = (
        "Test SDF Network ; September 2015",
        "Obol Test Network ; 0011223344556677",
    );
    // The last claim of each repeats the amount before under a higher number: a spare.
    let some = [(1, 332), (2, 664), (1_026, 7_000_000_000), (1_027, 7_000_000_000)];
    let extreme = [
        (1, 1),
        (i32::MAX as u32 - 1, 9_999_999_999),
        (i32::MAX as u32, 9_999_999_999),
    ];
    vec![
        inputs("a code of four letters", short, "OBOL", 1, 1_060, &some),
        inputs(
            "a code of twelve, and the highest claims",
            long,
            "OBOLTESTCOIN",
            9,
            2_147_483_647,
            &extreme,
        ),
    ]
}

fn escrows() -> Value {
    let cases: Vec<Value> = cases().iter().map(case).collect();
    json!({
        "about": "Escrows from their inputs (`input`): terms, r and how it is derived, every transaction, every signature, and the messages that carry them. `payload` is what a transaction's hash is the SHA-256 of. Claims are flushed in a fee bump; the refund too.",
        "owner": "obol-stellar tests/protocol.rs",
        "escrows": cases,
        "refused_terms": refused_terms(),
    })
}

#[test]
fn escrows_of_the_file_are_what_their_inputs_give() {
    let file = vectors("escrow.json", escrows);
    for v in file["escrows"].as_array().unwrap() {
        // The file's own inputs, not this test's.
        assert_eq!(&case(&v["input"]), v, "{}", v["input"]["name"]);
    }
    assert_eq!(file, escrows(), "escrow.json is not what the code writes");
}

#[test]
fn signatures_and_transactions_of_the_file_are_accepted_and_no_others() {
    let file = vectors("escrow.json", escrows);
    for v in file["escrows"].as_array().unwrap() {
        let terms = terms_from(&v["terms"]);
        let network = terms.network;
        let escrow = Escrow::new(terms, AccountId(bytes(&v["signer"]["key"]))).unwrap();
        let payee = EscrowPayee::new(EscrowSecret::from_bytes(bytes(&v["input"]["escrow_secret"])));
        assert_eq!(payee.signer(&terms), escrow.signer());

        let by_payee = signature(&v["refund"]["by_payee"]);
        assert!(escrow.refund_is_signed(&by_payee));
        let other = Escrow::new(
            EscrowTerms {
                expiry: terms.expiry + 1,
                ..terms
            },
            escrow.signer(),
        )
        .unwrap();
        assert!(!other.refund_is_signed(&by_payee), "other terms, another refund");

        let verifier = ClaimVerifier::new(&escrow).unwrap();
        for claim in v["claims"].as_array().unwrap() {
            let (k, cumulative) = (k_of(&claim["k"]), amount(&claim["cumulative"]));
            let by_payer = signature(&claim["signature"]);
            assert!(verifier.verify(k, cumulative, &by_payer));
            assert!(!verifier.verify(k - 1, cumulative, &by_payer) && !verifier.verify(k + 1, cumulative, &by_payer));
            assert!(!verifier.verify(k, cumulative.checked_add(s(1)).unwrap(), &by_payer));
            let mut changed = by_payer;
            changed.0[63] ^= 1;
            assert!(!verifier.verify(k, cumulative, &changed));
            let flush = read(network, &claim["flush"]["transaction"]);
            assert_eq!(flush.inner_hash().unwrap().to_string(), text(&claim["hash"]));
            let paid: Vec<_> = flush.payments().collect();
            assert_eq!(paid, [(terms.payee_account, terms.asset, cumulative)]);
            assert_eq!(flush.sequence(), (escrow.account(), number(&claim["sequence"])));
            read(network, &claim["countersigned"]);
        }
        let refund = read(network, &v["refund"]["bump"]["transaction"]);
        assert_eq!(refund.sequence(), (escrow.account(), number(&v["refund"]["sequence"])));
        for part in ["opening", "sweep", "merge"] {
            read(network, &v[part]["transaction"]);
        }
        let close = &v["owner"]["close"];
        let final_k = k_of(&close["final_k"]);
        let (books, close) = (
            signature(&v["owner"]["books"]["signature"]),
            signature(&close["asked"]["signature"]),
        );
        let asked = |asks| ownership(&terms, asks);
        assert!(payee.verify_owner(&asked(OwnerAsks::Books), &books));
        assert!(payee.verify_owner(&asked(OwnerAsks::Close { final_k }), &close));
        assert!(!payee.verify_owner(&asked(OwnerAsks::Books), &close));
        assert!(!payee.verify_owner(&asked(OwnerAsks::Close { final_k: final_k - 1 }), &close));
    }
}

#[test]
fn messages_of_the_file_carry_its_terms_and_signatures() {
    let file = vectors("escrow.json", escrows);
    for v in file["escrows"].as_array().unwrap() {
        let terms = terms_from(&v["terms"]);
        let message = |name: &str| hex::decode(text(&v["messages"][name])).unwrap();
        let (Ok(ToNode::OfferEscrow(offer)), Ok(ToOrigin::EscrowAccepted(acceptance))) = (
            ToNode::decode(&message("OfferEscrow")),
            ToOrigin::decode(&message("EscrowAccepted")),
        ) else {
            panic!("an offer and its acceptance");
        };
        // What the payer makes of the answer is what the payee signed for.
        let made = EscrowTerms::new(&offer, terms.payee, acceptance.payee_account, acceptance.min_deposit);
        assert_eq!(made, terms);
        assert!(
            Escrow::new(made, acceptance.signer)
                .unwrap()
                .refund_is_signed(&acceptance.refund)
        );
        let Ok(ToNode::Pay(Pay { claim: Some(claim), .. })) = ToNode::decode(&message("Pay 1")) else {
            panic!("a payment with a claim");
        };
        assert_eq!(claim.opening, Some(terms.opening()));
        let escrow = Escrow::new(terms, acceptance.signer).unwrap();
        let verifier = ClaimVerifier::new(&escrow).unwrap();
        assert!(verifier.verify(claim.k, claim.cumulative, &claim.signature));
        let Ok(LinkMessage::LegPay(pay)) = LinkMessage::decode(&message("LegPay")) else {
            panic!("a payment on a link");
        };
        assert!(verifier.verify(pay.k, pay.cumulative, &pay.signature));
        for name in ["BalanceQuery", "Pay 2", "CloseEscrow"] {
            ToNode::decode(&message(name)).expect(name);
        }
        for name in ["LegOffer", "LegAccepted", "LegQuery", "LegClose"] {
            LinkMessage::decode(&message(name)).expect(name);
        }
    }
}

#[test]
fn terms_that_no_escrow_can_have_are_refused_for_their_reason() {
    let file = vectors("escrow.json", escrows);
    let secret = EscrowSecret::from_bytes([101; 32]);
    let mut reasons = std::collections::BTreeSet::new();
    for v in file["refused_terms"].as_array().unwrap() {
        let raw = hex::decode(text(&v["bytes"])).unwrap();
        let terms = EscrowTerms::read(&mut Reader::new(&raw)).unwrap();
        let fault = secret.escrow(terms).expect_err(text(&v["name"]));
        assert_eq!(terms_reason(&fault), text(&v["reason"]), "{}", v["name"]);
        reasons.insert(terms_reason(&fault));
    }
    assert_eq!(reasons.len(), 5, "{reasons:?}");
}

// ---- trust.json ----

fn statement_json(statement: &Statement, signature: &Signature, allocations: &[Allocation]) -> Value {
    let message = LinkMessage::LegTrust(LegTrust {
        k: statement.k,
        cumulative: statement.cumulative,
        memo: statement.memo,
        signature: *signature,
        allocations: allocations.to_vec(),
    });
    json!({
        "k": statement.k,
        "cumulative": n(statement.cumulative),
        "signed": h(statement.to_bytes()),
        "signature": h(signature.0),
        "message": h(message.encode()),
    })
}

fn trust() -> Value {
    let network = Network::testnet().id();
    let account = Keypair::from_seed(&[0x54; 32]);
    let secret = [0x53; 32];
    let payer = EscrowPayer::new(PayerSecret::from_bytes(secret), network).with_trust_account(account.clone());
    let (from, memo) = payer.settles_from().unwrap();
    let issuer = Keypair::from_seed(&[1; 32]).account();
    let asset = asset("OBOL", issuer).unwrap();
    let (debtor, creditor) = (PeerId([2; 32]), PeerId([3; 32]));
    let statement = |k, cumulative| Statement {
        network,
        asset,
        payer: debtor,
        payee: creditor,
        account: from,
        memo,
        k,
        cumulative: s(cumulative),
    };
    let one = [Allocation {
        circuit: 0x8000_0001,
        n: 3,
        amount: s(221),
    }];
    let statements: Vec<Value> = [(1, 221, &one[..]), (2, 442, &one[..]), (2, 442, &[])]
        .into_iter()
        .map(|(k, cumulative, allocations)| {
            let statement = statement(k, cumulative);
            statement_json(&statement, &payer.sign_statement(&statement).unwrap(), allocations)
        })
        .collect();

    // A settlement of two payees: what one of them looks for in it is its own part.
    let payees = [0x61, 0x62].map(|seed| Keypair::from_seed(&[seed; 32]).account());
    let pay = |to, amount| {
        (
            None,
            Op::Pay {
                to,
                asset,
                amount: s(amount),
            },
        )
    };
    let validity = Validity {
        from_time: 1,
        until_time: 1_800_000_300,
        ..Validity::default()
    };
    let operations = [pay(payees[0], 442), pay(payees[1], 1_000)];
    let settlement = Tx::new(from, 88, 200, validity, operations).unwrap();
    let settlement = settlement
        .with_memo(&Memo::Hash(memo.0))
        .unwrap()
        .sign(network, &[&account])
        .unwrap();
    let wrapped = settlement
        .bumped(network, &Keypair::from_seed(&[0x63; 32]), s(600))
        .unwrap();
    let transaction = TransactionId(settlement.hash().0);
    let announced = LinkMessage::LegPaid {
        transaction,
        amount: s(442),
    };
    let seen = LinkMessage::LegSettled {
        transaction,
        total: s(442),
    };
    let payments: Vec<Value> = settlement
        .payments()
        .map(|(to, _, amount)| json!({"to": h(to.0), "amount": n(amount)}))
        .collect();
    json!({
        "about": "What a relay owes by trust: statements, signed by the account that it settles from, and a settlement. The name of a settlement is the hash of what the payer signed, whoever wraps it.",
        "owner": "obol-stellar tests/protocol.rs",
        "passphrase": Network::testnet().passphrase(),
        "network": h(network.0),
        "asset": {"code": "OBOL", "issuer": h(issuer.0)},
        "payer": h(debtor.0),
        "payee": h(creditor.0),
        "account": {"seed": h(*account.seed()), "key": h(from.0)},
        "payer_secret": h(secret),
        "memo": h(memo.0),
        "statements": statements,
        "settlement": {
            "payments": payments,
            "transaction": envelope(&settlement),
            "wrapped_by_somebody": envelope(&wrapped),
            "payee_account": h(payees[0].0),
            "announced": h(announced.encode()),
            "seen": h(seen.encode()),
        },
    })
}

#[test]
fn statements_of_the_file_are_believed_and_no_others() {
    let file = vectors("trust.json", trust);
    let payee = EscrowPayee::new(EscrowSecret::from_bytes([0x52; 32]));
    let network = NetworkId(bytes(&file["network"]));
    assert_eq!(Network::new(text(&file["passphrase"]).to_owned()).id(), network);
    let payer = EscrowPayer::new(PayerSecret::from_bytes(bytes(&file["payer_secret"])), network)
        .with_trust_account(key(&file["account"]["seed"]));
    let (account, memo) = payer.settles_from().unwrap();
    assert_eq!(
        (h(account.0), h(memo.0)),
        (file["account"]["key"].clone(), file["memo"].clone())
    );
    for v in file["statements"].as_array().unwrap() {
        let Ok(LinkMessage::LegTrust(said)) = LinkMessage::decode(&hex::decode(text(&v["message"])).unwrap()) else {
            panic!("a statement");
        };
        // From the file's fields and the message, as a payee puts it together.
        let statement = Statement {
            network,
            asset: asset(text(&file["asset"]["code"]), AccountId(bytes(&file["asset"]["issuer"]))).unwrap(),
            payer: PeerId(bytes(&file["payer"])),
            payee: PeerId(bytes(&file["payee"])),
            account,
            memo: said.memo,
            k: said.k,
            cumulative: said.cumulative,
        };
        assert_eq!((k_of(&v["k"]), amount(&v["cumulative"])), (said.k, said.cumulative));
        assert_eq!(h(statement.to_bytes()), v["signed"]);
        assert_eq!(h(said.signature.0), v["signature"]);
        assert_eq!(payer.sign_statement(&statement), Some(said.signature));
        assert!(payee.verify_statement(&statement, &said.signature));
        let changed = [
            Statement {
                k: said.k + 1,
                ..statement
            },
            Statement {
                payer: statement.payee,
                payee: statement.payer,
                ..statement
            },
            Statement {
                cumulative: s(1),
                ..statement
            },
        ];
        assert!(!changed.iter().any(|c| payee.verify_statement(c, &said.signature)));
    }
    assert_eq!(file, trust(), "trust.json is not what the code writes");
}

#[test]
fn the_settlement_of_the_file_has_the_name_that_is_announced() {
    let file = vectors("trust.json", trust);
    let network = NetworkId(bytes(&file["network"]));
    let v = &file["settlement"];
    let settlement = read(network, &v["transaction"]);
    let wrapped = read(network, &v["wrapped_by_somebody"]);
    assert_eq!(wrapped.inner_hash(), Some(settlement.hash()));
    let Ok(LinkMessage::LegPaid { transaction, amount }) =
        LinkMessage::decode(&hex::decode(text(&v["announced"])).unwrap())
    else {
        panic!("an announcement");
    };
    assert_eq!(transaction.0, settlement.hash().0);
    let to = AccountId(bytes(&v["payee_account"]));
    let paid: Stroops = settlement.payments().filter(|p| p.0 == to).map(|p| p.2).sum();
    assert_eq!(paid, amount, "the sum of the payments to this payee, to the stroop");
}
