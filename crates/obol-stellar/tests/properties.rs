//! Properties of amounts, assets, claims and terms, over inputs of all kinds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use obol_cell::{AccountId, Asset, EscrowId, EscrowTerms, NetworkId, PeerId, Signature, Stroops};
use obol_stellar::amount::{amount_text, parse_amount};
use obol_stellar::asset::{asset_from_xdr, asset_text, asset_to_xdr, parse_asset};
use obol_stellar::escrow::{ClaimHasher, ClaimVerifier, Escrow, EscrowSecret, PayerSecret};
use obol_stellar::key::{account_text, parse_account};
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_stellar::tx::SignedTx;
use obol_stellar::{Keypair, Network};
use obol_toll::{PayeeKeys as _, PayerKeys as _};
use proptest::prelude::*;

fn amounts() -> impl Strategy<Value = Stroops> {
    prop_oneof![Just(0), Just(i64::MAX), 0..=i64::MAX, 0..=100_000_000i64].prop_map(|a| Stroops::new(a).unwrap())
}

fn assets() -> impl Strategy<Value = Asset> {
    ("[a-zA-Z0-9]{1,12}", any::<[u8; 32]>())
        .prop_map(|(code, seed)| obol_stellar::asset::asset(&code, Keypair::from_seed(&seed).account()).unwrap())
}

prop_compose! {
    /// Terms that transactions can be built from, with the seed of E.
    fn terms()(
        asset in assets(),
        seeds in any::<[[u8; 32]; 2]>(),
        network in any::<[u8; 32]>(),
        payee in any::<[u8; 32]>(),
        ledger in 1u64..1 << 31,
        expiry in 1..=i64::MAX as u64,
        min_deposit in amounts(),
    ) -> (EscrowTerms, [u8; 32]) {
        let e = Keypair::from_seed(&seeds[0]).account();
        (EscrowTerms {
            network: NetworkId(network),
            asset,
            payee: PeerId(payee),
            payee_account: Keypair::from_seed(&seeds[1]).account(),
            escrow: EscrowId(e.0),
            s0: ledger << 32,
            expiry,
            min_deposit,
        }, seeds[0])
    }
}

proptest! {
    #[test]
    fn an_amount_reads_back_as_what_was_written(amount in amounts()) {
        prop_assert_eq!(parse_amount(&amount_text(amount)), Ok(amount));
    }

    #[test]
    fn no_text_makes_the_amount_reader_panic_or_read_a_sign(text in "[-+]?[0-9]{0,25}[.]?[0-9]{0,9}") {
        if let Ok(amount) = parse_amount(&text) {
            prop_assert!(!text.starts_with(['-', '+']));
            prop_assert!(amount.get() >= 0);
        }
    }

    #[test]
    fn an_asset_reads_back_from_text_and_from_xdr(asset in assets()) {
        prop_assert_eq!(parse_asset(&asset_text(&asset)), Ok(asset));
        prop_assert_eq!(asset_from_xdr(&asset_to_xdr(&asset).unwrap()), Some(asset));
    }

    #[test]
    fn bytes_that_are_no_asset_code_are_refused_and_never_panic(code in any::<[u8; 12]>(), issuer in any::<[u8; 32]>()) {
        let asset = Asset { code, issuer };
        if let Ok(xdr) = asset_to_xdr(&asset) {
            prop_assert_eq!(asset_from_xdr(&xdr), Some(asset));
            let length = code.iter().position(|b| *b == 0).unwrap_or(12);
            prop_assert!(length > 0 && code[..length].iter().all(u8::is_ascii_alphanumeric));
            prop_assert!(code[length..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn an_account_reads_back_from_its_address(key in any::<[u8; 32]>()) {
        prop_assert_eq!(parse_account(&account_text(&AccountId(key))), Ok(AccountId(key)));
    }

    #[test]
    fn a_seed_reads_back_from_its_strkey_and_debug_never_shows_it(seed in any::<[u8; 32]>()) {
        let key = Keypair::from_seed(&seed);
        let text = key.secret_strkey();
        prop_assert_eq!(Keypair::from_strkey(&text).unwrap().account(), key.account());
        let shown = [format!("{key:?}"), format!("{:?}", EscrowSecret::from_bytes(seed))];
        for shown in shown {
            prop_assert!(!shown.contains(text.as_str()) && !shown.contains(&hex::encode(&seed[..4])));
        }
    }

    #[test]
    fn the_fast_claim_hash_is_the_hash_of_the_claims_transaction(
        (terms, _) in terms(),
        k in 1u32..1 << 31,
        cumulative in 1..=i64::MAX,
    ) {
        let cumulative = Stroops::new(cumulative).unwrap();
        let signer = Keypair::from_seed(&[9; 32]).account();
        let escrow = Escrow::new(terms, signer).unwrap();
        let slow = escrow.claim(k, cumulative).unwrap().hash(terms.network).unwrap();
        prop_assert_eq!(ClaimHasher::new(&escrow).unwrap().hash(k, cumulative), Some(slow));
    }

    #[test]
    fn a_claim_verifies_only_as_what_was_signed(
        (terms, seed) in terms(),
        k in 2u32..(1 << 31) - 1,
        cumulative in 2..i64::MAX,
        bit in 0usize..512,
    ) {
        let e = Keypair::from_seed(&seed);
        let escrow = Escrow::new(terms, Keypair::from_seed(&[9; 32]).account()).unwrap();
        let amount = Stroops::new(cumulative).unwrap();
        let signature = ClaimHasher::new(&escrow).unwrap().sign(&e, k, amount).unwrap();
        let verifier = ClaimVerifier::new(&escrow).unwrap();
        prop_assert!(verifier.verify(k, amount, &signature));
        prop_assert!(!verifier.verify(k + 1, amount, &signature));
        prop_assert!(!verifier.verify(k - 1, amount, &signature));
        prop_assert!(!verifier.verify(k, Stroops::new(cumulative + 1).unwrap(), &signature));
        prop_assert!(!verifier.verify(k, Stroops::new(cumulative - 1).unwrap(), &signature));
        let mut bent = signature;
        bent.0[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!verifier.verify(k, amount, &bent));
    }

    #[test]
    fn another_signer_for_every_other_term(
        (terms, _) in terms(),
        which in 0usize..8,
        bit in 0usize..8,
    ) {
        let secret = EscrowSecret::from_bytes([3; 32]);
        let mut other = terms;
        match which {
            0 => other.network.0[0] ^= 1 << bit,
            1 => other.asset.code[11] ^= 1 << bit,
            2 => other.asset.issuer[31] ^= 1 << bit,
            3 => other.payee.0[7] ^= 1 << bit,
            4 => other.payee_account.0[7] ^= 1 << bit,
            5 => other.s0 ^= 1 << (32 + bit),
            6 => other.expiry ^= 1 << bit,
            _ => other.min_deposit = Stroops::new(terms.min_deposit.get() ^ 1 << bit).unwrap(),
        }
        prop_assert_ne!(secret.signer(&terms).account(), secret.signer(&other).account());
        prop_assert_ne!(
            secret.signer(&terms).account(),
            EscrowSecret::from_bytes([4; 32]).signer(&terms).account()
        );
    }

    #[test]
    fn terms_from_the_network_never_panic(
        network in any::<[u8; 32]>(),
        code in any::<[u8; 12]>(),
        keys in any::<[[u8; 32]; 5]>(),
        s0 in any::<u64>(),
        expiry in any::<u64>(),
        k in any::<u32>(),
        amount in amounts(),
        signature in any::<[u8; 32]>(),
    ) {
        let terms = EscrowTerms {
            network: NetworkId(network),
            asset: Asset { code, issuer: keys[0] },
            payee: PeerId(keys[1]),
            payee_account: AccountId(keys[2]),
            escrow: EscrowId(keys[3]),
            s0,
            expiry,
            min_deposit: amount,
        };
        let toll = obol_toll::Escrow { terms, signer: AccountId(keys[4]) };
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&signature);
        let payee = EscrowPayee::new(EscrowSecret::from_bytes([1; 32]));
        payee.sign_refund(&toll);
        prop_assert!(!payee.verify_claim(&toll, k, amount, &Signature(bytes)));
        let payer = EscrowPayer::new(PayerSecret::from_bytes([2; 32]), terms.network);
        prop_assert_eq!(payer.sign_claim(&toll, k, amount), None);
        prop_assert!(!payer.verify_refund(&toll, &Signature(bytes)));
    }

    #[test]
    fn bytes_that_are_no_envelope_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = SignedTx::from_bytes(Network::testnet().id(), &bytes);
    }

    #[test]
    fn both_ends_of_an_escrow_agree_on_every_signature((terms, _) in terms(), k in 1u32..1 << 31, cumulative in 1..=i64::MAX) {
        let payer = EscrowPayer::new(PayerSecret::from_bytes([2; 32]), terms.network);
        let payee = EscrowPayee::new(EscrowSecret::from_bytes([1; 32]));
        let terms = EscrowTerms { escrow: payer.add(&[5; 32]), ..terms };
        let escrow = obol_toll::Escrow { terms, signer: payee.signer(&terms) };
        prop_assert!(payer.verify_refund(&escrow, &payee.sign_refund(&escrow)));
        let cumulative = Stroops::new(cumulative).unwrap();
        let claim = payer.sign_claim(&escrow, k, cumulative).unwrap();
        prop_assert!(payee.verify_claim(&escrow, k, cumulative, &claim));
        prop_assert_eq!(payer.sign_claim(&escrow, k, cumulative), Some(claim));
        payer.remove(&terms.escrow);
        prop_assert_eq!(payer.sign_claim(&escrow, k, cumulative), None);
    }
}

#[test]
fn numbers_that_no_claim_has_are_neither_signed_nor_verified() {
    let e = Keypair::from_seed(&[1; 32]);
    let issuer = Keypair::from_seed(&[2; 32]).account();
    let terms = EscrowTerms {
        network: Network::testnet().id(),
        asset: obol_stellar::asset::asset("OBOL", issuer).unwrap(),
        payee: PeerId([3; 32]),
        payee_account: Keypair::from_seed(&[4; 32]).account(),
        escrow: EscrowId(e.account().0),
        s0: 100 << 32,
        expiry: 1,
        min_deposit: Stroops::ZERO,
    };
    let escrow = EscrowSecret::from_bytes([5; 32]).escrow(terms).unwrap();
    let claims = ClaimHasher::new(&escrow).unwrap();
    let one = Stroops::new(1).unwrap();
    assert!(claims.sign(&e, 0, one).is_none());
    assert!(claims.sign(&e, 1 << 31, one).is_none());
    assert!(claims.sign(&e, u32::MAX, one).is_none());
    assert!(claims.sign(&e, 1, Stroops::ZERO).is_none());
    assert!(claims.sign(&e, (1 << 31) - 1, Stroops::MAX).is_some());
}

#[test]
fn terms_that_would_collide_with_other_accounts_are_refused() {
    let account = |n| Keypair::from_seed(&[n; 32]).account();
    let good = EscrowTerms {
        network: Network::testnet().id(),
        asset: obol_stellar::asset::asset("OBOL", account(1)).unwrap(),
        payee: PeerId([3; 32]),
        payee_account: account(2),
        escrow: EscrowId(account(3).0),
        s0: 100 << 32,
        expiry: 1,
        min_deposit: Stroops::ZERO,
    };
    let r = account(4);
    assert!(Escrow::new(good, r).is_ok());
    let bad = [
        EscrowTerms {
            escrow: EscrowId(account(2).0),
            ..good
        },
        EscrowTerms {
            escrow: EscrowId(account(1).0),
            ..good
        },
        EscrowTerms {
            payee_account: account(1),
            ..good
        },
        EscrowTerms {
            s0: (100 << 32) + 1,
            ..good
        },
        EscrowTerms { s0: 0, ..good },
        EscrowTerms { s0: 1 << 63, ..good },
        EscrowTerms { expiry: 0, ..good },
        EscrowTerms {
            expiry: u64::MAX,
            ..good
        },
        // The all-zero point of small order: any message has a "signature" by it.
        EscrowTerms {
            escrow: EscrowId([0; 32]),
            ..good
        },
    ];
    for terms in bad {
        assert!(Escrow::new(terms, r).is_err(), "{terms:?}");
    }
    assert!(Escrow::new(good, account(3)).is_err());
}
