//! Every transaction of an escrow, byte for byte as the official Python SDK builds it (`vectors/generate.py`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use base64::Engine as _;
use obol_cell::{AccountId, EscrowId, EscrowTerms, NetworkId, OwnerAsks, Ownership, PeerId, Signature, Stroops};
use obol_stellar::asset::asset;
use obol_stellar::escrow::{ClaimHasher, ClaimVerifier, Escrow, EscrowSecret, Opening, PayerSecret};
use obol_stellar::key::account_text;
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_stellar::tx::SignedTx;
use obol_stellar::{Keypair, Network};
use obol_toll::trust::Statement;
use obol_toll::{PayeeKeys as _, PayerKeys as _};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    passphrase: String,
    code: String,
    seeds_from: u8,
    s0: u64,
    expiry: u64,
    min_deposit: i64,
    deposit: i64,
    r: String,
    refund: Refund,
    opening: Built,
    claims: Vec<ClaimVector>,
    sweep: Built,
    merge: Built,
    owner: Owner,
}

#[derive(Deserialize)]
struct Owner {
    books: String,
    final_k: u32,
    close: String,
}

#[derive(Deserialize)]
struct Built {
    hash: String,
    xdr: String,
}

#[derive(Deserialize)]
struct Refund {
    hash: String,
    xdr: String,
    by_payee: String,
}

#[derive(Deserialize)]
struct ClaimVector {
    k: u32,
    cumulative: i64,
    hash: String,
    by_payer: String,
    flush: Built,
}

struct Parties {
    network: Network,
    payee: Keypair,
    funder: Keypair,
    e: Keypair,
    heir: AccountId,
    secret: EscrowSecret,
    terms: EscrowTerms,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("vectors/escrows.json")).unwrap()
}

fn parties(v: &Vector) -> Parties {
    let key = |i: u8| Keypair::from_seed(&[v.seeds_from + i; 32]);
    let network = Network::new(v.passphrase.clone());
    let (issuer, payee, funder, e) = (key(0), key(1), key(2), key(3));
    let terms = EscrowTerms {
        network: network.id(),
        asset: asset(&v.code, issuer.account()).unwrap(),
        payee: PeerId([v.seeds_from + 101; 32]),
        payee_account: payee.account(),
        escrow: EscrowId(e.account().0),
        s0: v.s0,
        expiry: v.expiry,
        min_deposit: stroops(v.min_deposit),
    };
    Parties {
        network,
        payee,
        funder,
        e,
        heir: key(4).account(),
        secret: EscrowSecret::from_bytes([v.seeds_from + 100; 32]),
        terms,
    }
}

fn stroops(amount: i64) -> Stroops {
    Stroops::new(amount).unwrap()
}

fn signature(hex_text: &str) -> Signature {
    let mut bytes = [0; 64];
    hex::decode_to_slice(hex_text, &mut bytes).unwrap();
    Signature(bytes)
}

fn base64(tx: &SignedTx) -> String {
    base64::engine::general_purpose::STANDARD.encode(tx.to_bytes().unwrap())
}

#[test]
fn r_is_derived_from_the_terms_as_an_independent_hkdf_derives_it() {
    for v in vectors() {
        let p = parties(&v);
        assert_eq!(account_text(&p.secret.signer(&p.terms).account()), v.r);
    }
}

#[test]
fn the_refund_is_the_sdks_and_each_side_can_make_it_from_the_terms() {
    for v in vectors() {
        let p = parties(&v);
        let (escrow, by_payee) = p.secret.accept(p.terms).unwrap();
        assert_eq!(
            escrow.refund().unwrap().hash(p.network.id()).unwrap().to_string(),
            v.refund.hash
        );
        assert_eq!(by_payee, signature(&v.refund.by_payee));
        assert!(escrow.refund_is_signed(&by_payee));
        let refund = escrow.signed_refund(by_payee, &p.e).unwrap();
        assert_eq!(base64(&refund), v.refund.xdr);
    }
}

#[test]
fn the_opening_is_the_sdks() {
    for v in vectors() {
        let p = parties(&v);
        let (escrow, refund) = p.secret.accept(p.terms).unwrap();
        let opening = Opening {
            escrow: &escrow,
            key: &p.e,
            deposit: stroops(v.deposit),
            refund,
        };
        let tx = Escrow::open(&p.funder, 77, 400, 5_000_000, &[opening]).unwrap();
        assert_eq!(tx.hash().to_string(), v.opening.hash);
        assert_eq!(base64(&tx), v.opening.xdr);
    }
}

#[test]
fn claims_and_their_flushes_are_the_sdks() {
    for v in vectors() {
        let p = parties(&v);
        let escrow = p.secret.escrow(p.terms).unwrap();
        let hasher = ClaimHasher::new(&escrow).unwrap();
        let verifier = ClaimVerifier::new(&escrow).unwrap();
        for claim in &v.claims {
            let (k, cumulative) = (claim.k, stroops(claim.cumulative));
            assert_eq!(hasher.hash(k, cumulative).unwrap().to_string(), claim.hash);
            let by_payer = hasher.sign(&p.e, k, cumulative).unwrap();
            assert_eq!(by_payer, signature(&claim.by_payer));
            assert!(verifier.verify(k, cumulative, &by_payer));
            let both = escrow
                .countersigned(k, cumulative, by_payer, &p.secret.signer(&p.terms))
                .unwrap();
            let flush = both.bumped(p.network.id(), &p.payee, stroops(300)).unwrap();
            assert_eq!(flush.hash().to_string(), claim.flush.hash);
            assert_eq!(base64(&flush), claim.flush.xdr);
            assert_eq!(flush.inner_hash().unwrap().to_string(), claim.hash);
            assert_eq!(flush.first_payment(), Some(cumulative));
            assert_eq!(flush.sequence(), (escrow.account(), (v.s0 + u64::from(k)) as i64));
        }
    }
}

#[test]
fn an_owners_signature_is_ed25519_over_the_ledger_the_payee_the_escrow_and_the_question() {
    for v in vectors() {
        let p = parties(&v);
        let payee = EscrowPayee::new(p.secret.clone());
        let final_k = v.owner.final_k;
        let asked = |asks| Ownership {
            network: p.network.id(),
            payee: p.terms.payee,
            escrow: p.terms.escrow,
            asks,
        };
        let (books, close) = (asked(OwnerAsks::Books), asked(OwnerAsks::Close { final_k }));
        assert_eq!(p.e.sign(&books.message()), signature(&v.owner.books));
        assert_eq!(p.e.sign(&close.message()), signature(&v.owner.close));
        assert!(payee.verify_owner(&books, &signature(&v.owner.books)));
        assert!(payee.verify_owner(&close, &signature(&v.owner.close)));
        // Of another question, claim, payee, ledger or escrow it is worth nothing.
        let others = [
            (close, &v.owner.books),
            (books, &v.owner.close),
            (asked(OwnerAsks::Close { final_k: final_k - 1 }), &v.owner.close),
            (
                Ownership {
                    payee: PeerId([0; 32]),
                    ..books
                },
                &v.owner.books,
            ),
            (
                Ownership {
                    network: NetworkId([0; 32]),
                    ..books
                },
                &v.owner.books,
            ),
            (
                Ownership {
                    escrow: EscrowId(p.payee.account().0),
                    ..books
                },
                &v.owner.books,
            ),
            (
                Ownership {
                    escrow: EscrowId([0xff; 32]),
                    ..books
                },
                &v.owner.books,
            ),
        ];
        for (ownership, text) in others {
            assert!(!payee.verify_owner(&ownership, &signature(text)), "{ownership:?}");
        }
    }
}

#[test]
fn a_payer_signs_as_owner_of_its_own_escrows_on_its_own_ledger_only() {
    let network = Network::new("Obol Test Network ; 0011223344556677".to_owned()).id();
    let payer = EscrowPayer::new(PayerSecret::from_bytes([3; 32]), network);
    let escrow = payer.add(&[4; 32]);
    let asked = Ownership {
        network,
        payee: PeerId([5; 32]),
        escrow,
        asks: OwnerAsks::Books,
    };
    let signature = payer.sign_owner(&asked).unwrap();
    let payee = EscrowPayee::new(EscrowSecret::from_bytes([6; 32]));
    assert!(payee.verify_owner(&asked, &signature));
    let elsewhere = Ownership {
        network: NetworkId([0; 32]),
        ..asked
    };
    assert_eq!(payer.sign_owner(&elsewhere), None);
    let not_ours = Ownership {
        escrow: EscrowId([7; 32]),
        ..asked
    };
    assert_eq!(payer.sign_owner(&not_ours), None);
    payer.remove(&escrow);
    assert_eq!(payer.sign_owner(&asked), None, "its key is gone");
}

#[test]
fn what_is_owed_is_signed_by_the_account_that_settles_and_by_nobody_for_anybody_else() {
    let (network, account) = (Network::testnet().id(), Keypair::from_seed(&[0x54; 32]));
    let secret = PayerSecret::from_bytes([0x53; 32]);
    let without = EscrowPayer::new(secret.clone(), network);
    let payer = without.clone().with_trust_account(account.clone());
    let (from, memo) = payer.settles_from().unwrap();
    assert_eq!(from, account.account());
    // HKDF-SHA-256 of 32 times 0x53, as Python's hmac computes it.
    let expected = "f106e7304333c6ee9475c7468ceb9e7aa8fe0d89f7a66ada0581ecd28c49c242";
    assert_eq!(hex::encode(memo.0), expected);
    assert_eq!(secret.trust_memo(network), memo, "the same after a restart");
    assert_ne!(secret.trust_memo(Network::public().id()), memo);
    assert_ne!(PayerSecret::from_bytes([0x52; 32]).trust_memo(network), memo);

    let owed = Statement {
        network,
        asset: asset("OBOL", Keypair::from_seed(&[1; 32]).account()).unwrap(),
        payer: PeerId([2; 32]),
        payee: PeerId([3; 32]),
        account: from,
        memo,
        k: 4,
        cumulative: stroops(5),
    };
    let signature = payer.sign_statement(&owed).unwrap();
    assert_eq!(payer.sign_statement(&owed), Some(signature), "the same bytes again");
    assert_eq!(without.settles_from(), None);
    assert_eq!(without.sign_statement(&owed), None);
    let not_ours = [
        Statement {
            network: Network::public().id(),
            ..owed
        },
        Statement {
            account: AccountId([7; 32]),
            ..owed
        },
        Statement {
            memo: obol_cell::SettlementMemo([7; 32]),
            ..owed
        },
    ];
    assert_eq!(not_ours.map(|statement| payer.sign_statement(&statement)), [None; 3]);

    let payee = EscrowPayee::new(EscrowSecret::from_bytes([0x52; 32]));
    let both = obol_stellar::keys::RelayKeys {
        payee: payee.clone(),
        payer: payer.clone(),
    };
    assert_eq!(both.settles_from(), Some((from, memo)));
    assert_eq!(both.sign_statement(&owed), Some(signature));
    assert!(payee.verify_statement(&owed, &signature) && both.verify_statement(&owed, &signature));
    let changed = [
        Statement { k: 5, ..owed },
        Statement {
            cumulative: stroops(6),
            ..owed
        },
        Statement {
            payer: PeerId([9; 32]),
            ..owed
        },
        Statement {
            payee: PeerId([9; 32]),
            ..owed
        },
        Statement {
            // No point of the curve.
            account: AccountId([2; 32]),
            ..owed
        },
    ];
    for statement in changed.iter().chain(&not_ours) {
        assert!(!payee.verify_statement(statement, &signature), "{statement:?}");
    }
    assert!(!payee.verify_statement(&owed, &Signature([0; 64])));
    // The weak key that any message "is signed" by without strictness.
    let mut weak = [0u8; 32];
    weak[0] = 1;
    let weakly = Statement {
        account: AccountId(weak),
        ..owed
    };
    let mut by_nobody = [0u8; 64];
    by_nobody[0] = 1;
    assert!(!payee.verify_statement(&weakly, &Signature(by_nobody)));
}

#[test]
fn sweep_and_merge_are_the_sdks() {
    for v in vectors() {
        let p = parties(&v);
        let escrow = p.secret.escrow(p.terms).unwrap();
        let last = (v.s0 + u64::from(v.claims.last().unwrap().k)) as i64;
        let until = v.expiry + 300;
        let sweep = escrow.sweep(last + 1, 100, until, p.heir, stroops(7)).unwrap();
        let sweep = sweep.sign(p.network.id(), &[&p.e]).unwrap();
        assert_eq!((sweep.hash().to_string(), base64(&sweep)), (v.sweep.hash, v.sweep.xdr));
        let merge = escrow.merge(last + 2, 200, until, p.heir).unwrap();
        let merge = merge.sign(p.network.id(), &[&p.e]).unwrap();
        assert_eq!((merge.hash().to_string(), base64(&merge)), (v.merge.hash, v.merge.xdr));
    }
}

#[test]
fn a_stored_envelope_reads_back_as_what_was_stored() {
    for v in vectors() {
        let p = parties(&v);
        for xdr in [&v.opening.xdr, &v.refund.xdr, &v.claims[0].flush.xdr, &v.sweep.xdr] {
            let bytes = base64::engine::general_purpose::STANDARD.decode(xdr).unwrap();
            let tx = SignedTx::from_bytes(p.network.id(), &bytes).unwrap();
            assert_eq!(tx.to_bytes().unwrap(), bytes);
            assert!(SignedTx::from_bytes(p.network.id(), &bytes[..bytes.len() - 1]).is_err());
            let longer: Vec<u8> = bytes.iter().copied().chain([0; 4]).collect();
            assert!(SignedTx::from_bytes(p.network.id(), &longer).is_err());
        }
    }
}
