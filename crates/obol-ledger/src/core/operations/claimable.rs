//! Claimable balances (CAP-23): create, claim, claw back.

use stellar_xdr::{
    AccountId, Asset, ClaimClaimableBalanceOp, ClaimClaimableBalanceResult, ClaimPredicate, ClaimableBalanceEntry,
    ClaimableBalanceEntryExt, ClaimableBalanceEntryExtensionV1, ClaimableBalanceEntryExtensionV1Ext,
    ClaimableBalanceFlags, ClaimableBalanceId, Claimant, ClaimantV0, ClawbackClaimableBalanceOp,
    ClawbackClaimableBalanceResult, CreateClaimableBalanceOp, CreateClaimableBalanceResult, Hash, HashIdPreimage,
    HashIdPreimageOperationId, OperationResult, OperationResultTr as Tr, SequenceNumber,
};

use super::assets::{Blocked, move_asset};
use super::{Context, Failure, reserve_failure};
use crate::core::account::{AUTH_CLAWBACK, LINE_CLAWBACK, asset_is_valid, issuer};
use crate::core::reserve;
use crate::core::state::{Loaded, Txn, claimable_key};
use crate::core::transaction::xdr_hash;

/// Predicates nest at most so deep.
const MAX_DEPTH: u32 = 4;

fn predicate_is_valid(predicate: &ClaimPredicate, depth: u32) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    match predicate {
        ClaimPredicate::Unconditional => true,
        ClaimPredicate::And(both) | ClaimPredicate::Or(both) => {
            both.len() == 2 && both.iter().all(|p| predicate_is_valid(p, depth + 1))
        }
        ClaimPredicate::Not(inner) => inner.as_ref().is_some_and(|p| predicate_is_valid(p, depth + 1)),
        ClaimPredicate::BeforeAbsoluteTime(t) | ClaimPredicate::BeforeRelativeTime(t) => *t >= 0,
    }
}

/// Relative times become absolute when the balance is created.
fn fix_times(predicate: &ClaimPredicate, close_time: i64) -> ClaimPredicate {
    let both = |list: &stellar_xdr::VecM<ClaimPredicate, 2>| {
        let fixed: Vec<_> = list.iter().map(|p| fix_times(p, close_time)).collect();
        fixed.try_into().unwrap_or_default()
    };
    match predicate {
        ClaimPredicate::And(list) => ClaimPredicate::And(both(list)),
        ClaimPredicate::Or(list) => ClaimPredicate::Or(both(list)),
        ClaimPredicate::Not(inner) => ClaimPredicate::Not(inner.as_ref().map(|p| Box::new(fix_times(p, close_time)))),
        ClaimPredicate::BeforeRelativeTime(t) => ClaimPredicate::BeforeAbsoluteTime(close_time.saturating_add(*t)),
        other => other.clone(),
    }
}

fn holds(predicate: &ClaimPredicate, close_time: i64) -> bool {
    match predicate {
        ClaimPredicate::Unconditional => true,
        ClaimPredicate::And(list) => list.iter().all(|p| holds(p, close_time)),
        ClaimPredicate::Or(list) => list.iter().any(|p| holds(p, close_time)),
        ClaimPredicate::Not(inner) => inner.as_ref().is_some_and(|p| !holds(p, close_time)),
        ClaimPredicate::BeforeAbsoluteTime(t) => *t > close_time,
        ClaimPredicate::BeforeRelativeTime(_) => false,
    }
}

fn close_time(txn: &Txn<'_>) -> i64 {
    i64::try_from(txn.header.scp_value.close_time.0).unwrap_or(i64::MAX)
}

pub fn check_create(op: &CreateClaimableBalanceOp) -> Result<(), CreateClaimableBalanceResult> {
    let mut destinations: Vec<&AccountId> = Vec::with_capacity(op.claimants.len());
    let mut fine = op.amount > 0 && asset_is_valid(&op.asset) && !op.claimants.is_empty();
    for Claimant::ClaimantTypeV0(claimant) in &op.claimants {
        fine &= !destinations.contains(&&claimant.destination) && predicate_is_valid(&claimant.predicate, 1);
        destinations.push(&claimant.destination);
    }
    if fine {
        Ok(())
    } else {
        Err(CreateClaimableBalanceResult::Malformed)
    }
}

pub fn create(
    txn: &mut Txn<'_>,
    context: &Context<'_>,
    op: &CreateClaimableBalanceOp,
) -> Result<ClaimableBalanceId, Failure> {
    let fail = |code| OperationResult::OpInner(Tr::CreateClaimableBalance(code));
    let source = &context.source;
    move_asset(txn, source, &op.asset, -op.amount).map_err(|blocked| {
        fail(match blocked {
            Blocked::NoAccount | Blocked::Amount => CreateClaimableBalanceResult::Underfunded,
            Blocked::NoTrust => CreateClaimableBalanceResult::NoTrust,
            Blocked::NotAuthorized => CreateClaimableBalanceResult::NotAuthorized,
        })
    })?;
    let clawback = match issuer(&op.asset) {
        None => false,
        Some(id) if id == source => txn.peek_account(source).is_some_and(|a| a.flags & AUTH_CLAWBACK != 0),
        Some(_) => txn
            .peek_trust_line(source, &op.asset)
            .is_some_and(|l| l.flags & LINE_CLAWBACK != 0),
    };
    let id = ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(xdr_hash(&HashIdPreimage::OpId(
        HashIdPreimageOperationId {
            source_account: context.tx_source.clone(),
            seq_num: SequenceNumber(context.sequence),
            op_num: context.index,
        },
    ))));
    let now = close_time(txn);
    let claimants: Vec<Claimant> = op
        .claimants
        .iter()
        .map(|Claimant::ClaimantTypeV0(c)| {
            Claimant::ClaimantTypeV0(ClaimantV0 {
                destination: c.destination.clone(),
                predicate: fix_times(&c.predicate, now),
            })
        })
        .collect();
    let mut balance = Loaded::new(ClaimableBalanceEntry {
        balance_id: id.clone(),
        claimants: claimants.try_into().unwrap_or_default(),
        asset: op.asset.clone(),
        amount: op.amount,
        ext: if clawback {
            ClaimableBalanceEntryExt::V1(ClaimableBalanceEntryExtensionV1 {
                ext: ClaimableBalanceEntryExtensionV1Ext::V0,
                flags: ClaimableBalanceFlags::ClaimableBalanceClawbackEnabledFlag as u32,
            })
        } else {
            ClaimableBalanceEntryExt::V0
        },
    });
    reserve::take_claimable(txn, source, op.claimants.len() as u32, &mut balance.ext).map_err(|refused| {
        reserve_failure(
            refused,
            Tr::CreateClaimableBalance(CreateClaimableBalanceResult::LowReserve),
        )
    })?;
    txn.save(balance);
    Ok(id)
}

pub fn claim(
    txn: &mut Txn<'_>,
    source: &AccountId,
    op: &ClaimClaimableBalanceOp,
) -> Result<(), ClaimClaimableBalanceResult> {
    let balance = txn
        .load_claimable(&op.balance_id)
        .ok_or(ClaimClaimableBalanceResult::DoesNotExist)?;
    let now = close_time(txn);
    let may = balance
        .data
        .claimants
        .iter()
        .any(|Claimant::ClaimantTypeV0(c)| c.destination == *source && holds(&c.predicate, now));
    if !may {
        return Err(ClaimClaimableBalanceResult::CannotClaim);
    }
    move_asset(txn, source, &balance.data.asset, balance.data.amount).map_err(|blocked| match blocked {
        Blocked::NoAccount | Blocked::Amount => ClaimClaimableBalanceResult::LineFull,
        Blocked::NoTrust => ClaimClaimableBalanceResult::NoTrust,
        Blocked::NotAuthorized => ClaimClaimableBalanceResult::NotAuthorized,
    })?;
    reserve::release_claimable(txn, balance.data.claimants.len() as u32, &balance.ext);
    txn.erase(&claimable_key(&op.balance_id));
    Ok(())
}

pub fn clawback(
    txn: &mut Txn<'_>,
    source: &AccountId,
    op: &ClawbackClaimableBalanceOp,
) -> Result<(), ClawbackClaimableBalanceResult> {
    let balance = txn
        .load_claimable(&op.balance_id)
        .ok_or(ClawbackClaimableBalanceResult::DoesNotExist)?;
    if balance.data.asset == Asset::Native || issuer(&balance.data.asset) != Some(source) {
        return Err(ClawbackClaimableBalanceResult::NotIssuer);
    }
    let flag = ClaimableBalanceFlags::ClaimableBalanceClawbackEnabledFlag as u32;
    if !matches!(&balance.data.ext, ClaimableBalanceEntryExt::V1(v1) if v1.flags & flag != 0) {
        return Err(ClawbackClaimableBalanceResult::NotClawbackEnabled);
    }
    reserve::release_claimable(txn, balance.data.claimants.len() as u32, &balance.ext);
    txn.erase(&claimable_key(&op.balance_id));
    Ok(())
}
