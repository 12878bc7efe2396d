//! Every transaction of an escrow, byte for byte as the official Python SDK builds it (`vectors/generate.py`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use base64::Engine as _;
use obol_cell::{AccountId, EscrowId, EscrowTerms, PeerId, Signature, Stroops};
use obol_stellar::asset::asset;
use obol_stellar::escrow::{ClaimHasher, ClaimVerifier, Escrow, EscrowSecret, Opening};
use obol_stellar::key::account_text;
use obol_stellar::tx::SignedTx;
use obol_stellar::{Keypair, Network};
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
