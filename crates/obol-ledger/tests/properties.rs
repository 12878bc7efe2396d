//! Whatever is submitted: nothing is created or lost, no balance is negative, sequence numbers only rise, reserves are counted right,
//! and garbage is refused.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use std::collections::BTreeMap;

use common::*;
use ed25519_dalek::SigningKey;
use obol_ledger::Submission;
use obol_ledger::core::account::{num_sponsored, num_sponsoring, signer_sponsors};
use obol_ledger::core::reserve::sponsor;
use proptest::prelude::*;
use stellar_xdr::*;

/// One operation by small numbers: which account, which other, how much.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, u8, i64),
    Pay(u8, u8, bool, i64),
    Trust(u8, i64),
    Signer(u8, u8, u8),
    Thresholds(u8, u8),
    Flags(u8),
    Authorize(u8, bool),
    Allow(u8, u8),
    Clawback(u8, i64),
    Merge(u8, u8),
    Bump(u8, i64),
    Data(u8, u8, bool),
    Lock(u8, u8, bool, i64),
    Claim(u8),
    TakeBack,
    Sponsored(u8, u8, Box<Step>),
    Revoke(u8, u8, u8),
}

const PEOPLE: u8 = 5;
/// The issuer is the last of them.
const ISSUER: u8 = PEOPLE - 1;

fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 1..500 * XLM,
        1 => Just(0),
        1 => Just(i64::MAX),
        1 => 9_000 * XLM..11_000 * XLM,
        1 => -5_i64..5,
    ]
}

fn plain_step() -> impl Strategy<Value = Step> {
    let who = || 0..PEOPLE;
    prop_oneof![
        2 => (who(), 0..PEOPLE + 3, amount()).prop_map(|(a, b, n)| Step::Create(a, b, n)),
        6 => (who(), who(), any::<bool>(), amount()).prop_map(|(a, b, native, n)| Step::Pay(a, b, native, n)),
        4 => (who(), amount()).prop_map(|(a, n)| Step::Trust(a, n)),
        2 => (who(), who(), 0..3_u8).prop_map(|(a, b, w)| Step::Signer(a, b, w)),
        1 => (who(), 0..2_u8).prop_map(|(a, t)| Step::Thresholds(a, t)),
        1 => (0..8_u8).prop_map(Step::Flags),
        2 => (who(), any::<bool>()).prop_map(|(a, yes)| Step::Authorize(a, yes)),
        1 => (who(), 0..3_u8).prop_map(|(a, how)| Step::Allow(a, how)),
        1 => (who(), amount()).prop_map(|(a, n)| Step::Clawback(a, n)),
        1 => Just(Step::TakeBack),
        1 => (who(), who()).prop_map(|(a, b)| Step::Merge(a, b)),
        1 => (who(), 0..1_i64 << 40).prop_map(|(a, n)| Step::Bump(a, n)),
        2 => (who(), 0..3_u8, any::<bool>()).prop_map(|(a, name, set)| Step::Data(a, name, set)),
        2 => (who(), who(), any::<bool>(), amount()).prop_map(|(a, b, native, n)| Step::Lock(a, b, native, n)),
        2 => who().prop_map(Step::Claim),
        1 => (who(), who(), 0..4_u8).prop_map(|(a, b, what)| Step::Revoke(a, b, what)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => plain_step(),
        1 => (0..PEOPLE, 0..PEOPLE, plain_step()).prop_map(|(a, b, s)| Step::Sponsored(a, b, Box::new(s))),
    ]
}

fn person(number: u8) -> SigningKey {
    key(10 + number)
}

fn data_name(number: u8) -> String64 {
    String64(format!("name {number}").try_into().unwrap())
}

/// The operations of a step, each with its own source.
fn operations(step: &Step, claimable: &[ClaimableBalanceId]) -> Vec<Operation> {
    let issuer = person(ISSUER);
    let money = |native: bool| if native { Asset::Native } else { asset(&issuer) };
    let one = |source: u8, body| vec![op_of(&person(source), body)];
    match step {
        Step::Create(a, b, n) => one(*a, create(&person(*b), *n)),
        Step::Pay(a, b, native, n) => one(*a, pay(&person(*b), money(*native), *n)),
        Step::Trust(a, limit) => one(*a, trust(&issuer, *limit)),
        Step::Signer(a, b, weight) => one(
            *a,
            options(|o| o.signer = Some(signer(&person(*b), u32::from(*weight)))),
        ),
        Step::Thresholds(a, t) => one(*a, options(|o| o.med_threshold = Some(u32::from(*t)))),
        Step::Flags(flags) => one(
            ISSUER,
            options(|o| {
                (o.set_flags, o.clear_flags) = (Some(u32::from(*flags & 3) | (8 * u32::from(flags >> 2))), Some(0))
            }),
        ),
        Step::Authorize(a, yes) => one(
            ISSUER,
            OperationBody::SetTrustLineFlags(SetTrustLineFlagsOp {
                trustor: id(&person(*a)),
                asset: asset(&issuer),
                clear_flags: u32::from(!yes),
                set_flags: u32::from(*yes),
            }),
        ),
        Step::Allow(a, how) => one(
            ISSUER,
            OperationBody::AllowTrust(AllowTrustOp {
                trustor: id(&person(*a)),
                asset: AssetCode::CreditAlphanum4(AssetCode4(*b"OBOL")),
                authorize: u32::from(*how),
            }),
        ),
        Step::TakeBack => claimable
            .iter()
            .take(1)
            .map(|balance| {
                let body = OperationBody::ClawbackClaimableBalance(ClawbackClaimableBalanceOp {
                    balance_id: balance.clone(),
                });
                op_of(&issuer, body)
            })
            .collect(),
        Step::Clawback(a, n) => one(
            ISSUER,
            OperationBody::Clawback(ClawbackOp {
                asset: asset(&issuer),
                from: muxed(&person(*a)),
                amount: *n,
            }),
        ),
        Step::Merge(a, b) => one(*a, OperationBody::AccountMerge(muxed(&person(*b)))),
        Step::Bump(a, n) => one(
            *a,
            OperationBody::BumpSequence(BumpSequenceOp {
                bump_to: SequenceNumber(*n),
            }),
        ),
        Step::Data(a, name, set) => one(
            *a,
            OperationBody::ManageData(ManageDataOp {
                data_name: data_name(*name),
                data_value: set.then(|| DataValue(vec![1, 2, 3].try_into().unwrap())),
            }),
        ),
        Step::Lock(a, b, native, n) => one(
            *a,
            OperationBody::CreateClaimableBalance(CreateClaimableBalanceOp {
                asset: money(*native),
                amount: *n,
                claimants: vec![Claimant::ClaimantTypeV0(ClaimantV0 {
                    destination: id(&person(*b)),
                    predicate: ClaimPredicate::Unconditional,
                })]
                .try_into()
                .unwrap(),
            }),
        ),
        Step::Claim(a) => claimable
            .iter()
            .take(1)
            .map(|balance| {
                let body = OperationBody::ClaimClaimableBalance(ClaimClaimableBalanceOp {
                    balance_id: balance.clone(),
                });
                op_of(&person(*a), body)
            })
            .collect(),
        Step::Revoke(a, b, what) => {
            let account_id = id(&person(*b));
            let key = match what {
                0 => LedgerKey::Account(LedgerKeyAccount { account_id }),
                1 => LedgerKey::Data(LedgerKeyData {
                    account_id,
                    data_name: data_name(0),
                }),
                2 => {
                    let Asset::CreditAlphanum4(line) = asset(&issuer) else {
                        unreachable!()
                    };
                    LedgerKey::Trustline(LedgerKeyTrustLine {
                        account_id,
                        asset: TrustLineAsset::CreditAlphanum4(line),
                    })
                }
                _ => {
                    let signer_key = signer(&person(*a), 1).key;
                    let op = RevokeSponsorshipOp::Signer(RevokeSponsorshipOpSigner { account_id, signer_key });
                    return one(*a, OperationBody::RevokeSponsorship(op));
                }
            };
            one(
                *a,
                OperationBody::RevokeSponsorship(RevokeSponsorshipOp::LedgerEntry(key)),
            )
        }
        Step::Sponsored(a, b, inner) => {
            let begin = BeginSponsoringFutureReservesOp {
                sponsored_id: id(&person(*b)),
            };
            let mut out = one(*a, OperationBody::BeginSponsoringFutureReserves(begin));
            out.extend(operations(inner, claimable));
            out.extend(one(*b, OperationBody::EndSponsoringFutureReserves));
            out
        }
    }
}

/// Everything that must hold after every ledger.
fn check(world: &World, sequences: &mut BTreeMap<AccountId, i64>) -> Vec<ClaimableBalanceId> {
    let audit = world.ledger.audit().unwrap();
    assert_eq!(audit.created_or_lost(), 0, "{audit:?}");
    let entries = world.ledger.entries();
    let (mut sponsoring, mut sponsored, mut claimable_reserves) = (0, 0, 0);
    let mut claimable = Vec::new();
    let mut subentries: BTreeMap<AccountId, u32> = BTreeMap::new();
    for entry in &entries {
        match &entry.data {
            LedgerEntryData::Trustline(line) => {
                assert!((0..=line.limit).contains(&line.balance));
                *subentries.entry(line.account_id.clone()).or_default() += 1;
            }
            LedgerEntryData::Data(data) => *subentries.entry(data.account_id.clone()).or_default() += 1,
            LedgerEntryData::ClaimableBalance(balance) => {
                assert!(balance.amount > 0 && sponsor(&entry.ext).is_some());
                claimable.push(balance.balance_id.clone());
                claimable_reserves += balance.claimants.len() as u32;
            }
            _ => {}
        }
    }
    let mut alive = BTreeMap::new();
    for entry in &entries {
        let LedgerEntryData::Account(account) = &entry.data else {
            continue;
        };
        assert!(account.balance >= 0);
        let known = sequences.get(&account.account_id).copied().unwrap_or(0);
        assert!(account.seq_num.0 >= known, "a sequence number fell");
        alive.insert(account.account_id.clone(), account.seq_num.0);
        sponsoring += num_sponsoring(account);
        sponsored += num_sponsored(account);
        let sponsors = signer_sponsors(account);
        assert!(sponsors.is_empty() || sponsors.len() == account.signers.len());
        let owned = subentries.remove(&account.account_id).unwrap_or(0);
        assert_eq!(account.num_sub_entries, owned + account.signers.len() as u32);
    }
    assert!(subentries.is_empty(), "an entry without its account");
    assert_eq!(
        sponsoring,
        sponsored + claimable_reserves,
        "every sponsored reserve has one sponsor"
    );
    // A merged account may come back, with a higher sequence number than it had: keep what is gone.
    sequences.extend(alive);
    claimable
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_transactions_creates_or_loses_a_stroop(
        plan in prop::collection::vec((0..PEOPLE, prop::collection::vec(step(), 1..4), any::<bool>(), prop::bool::weighted(0.7)), 1..40)
    ) {
        let mut world = World::new();
        let people: Vec<SigningKey> = (0..PEOPLE).map(person).collect();
        world.fund(&people.iter().collect::<Vec<_>>());
        let everybody: Vec<SigningKey> = (0..PEOPLE + 3).map(person).collect();
        let mut sequences = BTreeMap::new();
        let mut claimable = check(&world, &mut sequences);
        for (source, steps, bumped, close) in plan {
            let source = person(source);
            let Some(account) = world.ledger.account(&raw(&source)) else { continue };
            let operations: Vec<Operation> = steps.iter().flat_map(|s| operations(s, &claimable)).collect();
            if operations.is_empty() {
                continue;
            }
            let fee = 100 * operations.len() as u32;
            let tx = transaction(&source, account.seq_num.0 + 1, if bumped { 0 } else { fee }, operations.clone());
            // Everybody whose operation it is signs; nobody else may.
            let mut signers: Vec<&SigningKey> = vec![&source];
            for key in &everybody {
                let named = operations.iter().any(|op| op.source_account == Some(muxed(key)));
                if named && raw(key) != raw(&source) {
                    signers.push(key);
                }
            }
            let envelope = signed(tx, world.network(), &signers);
            let bytes = if bumped {
                bump(envelope, &person(0), i64::from(fee) + 100, world.network())
            } else {
                bytes(envelope)
            };
            world.ledger.submit(&bytes, world.now);
            // Otherwise the next one, if it is another's, is in the same ledger.
            if close {
                world.close();
                claimable = check(&world, &mut sequences);
            }
        }
        world.close();
        check(&world, &mut sequences);
        same_as_recorded(&world.ledger);
    }

    #[test]
    fn garbage_is_refused_and_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut world = World::new();
        let (from, to) = (key(1), key(2));
        world.fund(&[&from, &to]);
        prop_assert_eq!(world.ledger.submit(&bytes, world.now), Submission::Malformed);
        let tx = transaction(&from, world.sequence(&from) + 1, 100, vec![op(pay(&to, Asset::Native, 1))]);
        let mut good = common::bytes(signed(tx, world.network(), &[&from]));
        for (index, flip) in flips {
            let at = index.index(good.len());
            good[at] ^= flip;
        }
        good.truncate(cut.index(good.len()) + 1);
        // Whatever it is now, it is answered; and if it was accepted, it is the transaction that was signed.
        if let Submission::Pending { hash } = world.ledger.submit(&good, world.now) {
            world.close();
            prop_assert!(world.ledger.transaction(&hash).unwrap().unwrap().successful);
        }
        prop_assert_eq!(world.ledger.audit().unwrap().created_or_lost(), 0);
    }
}
