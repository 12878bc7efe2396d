//! Assets: payments, trust lines, authorisation, clawback.
//!
//! An issuer has no trust line in its own asset: paying out creates the asset, paying in destroys it.

use stellar_xdr::{
    AccountId, AllowTrustOp, AllowTrustResult, AlphaNum4, AlphaNum12, Asset, AssetCode, ChangeTrustAsset,
    ChangeTrustOp, ChangeTrustResult, ClawbackOp, ClawbackResult, OperationResult, OperationResultTr as Tr, PaymentOp,
    PaymentResult, SetTrustLineFlagsOp, SetTrustLineFlagsResult, TrustLineEntry, TrustLineEntryExt,
};

use super::{Failure, account_of, reserve_failure};
use crate::core::account::{
    AUTH_CLAWBACK, AUTH_REQUIRED, AUTH_REVOCABLE, LINE_AUTHORIZED, LINE_CLAWBACK, LINE_FLAGS, LINE_MAINTAIN,
    add_balance, add_line_balance, asset_is_valid, available_balance, is_authorized, issuer, line_flags_are_valid,
    line_liabilities,
};
use crate::core::reserve;
use crate::core::state::{Loaded, Txn, trust_line_asset, trust_line_key};

/// Why an amount cannot be taken from or given to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// No account.
    NoAccount,
    /// No trust line.
    NoTrust,
    /// The trust line is not authorised.
    NotAuthorized,
    /// Too little to take, or no room to give.
    Amount,
}

/// Takes (negative) or gives (positive) `delta` stroops of an asset, not counting an issuer's own.
pub fn move_asset(txn: &mut Txn<'_>, who: &AccountId, asset: &Asset, delta: i64) -> Result<(), Blocked> {
    if *asset == Asset::Native {
        let mut account = txn.load_account(who).ok_or(Blocked::NoAccount)?;
        if delta < 0 && available_balance(&txn.header, &account.data) < delta.saturating_neg() {
            return Err(Blocked::Amount);
        }
        if !add_balance(&txn.header, &mut account.data, delta) {
            return Err(Blocked::Amount);
        }
        txn.save(account);
        return Ok(());
    }
    if issuer(asset) == Some(who) {
        return Ok(());
    }
    let mut line = txn.load_trust_line(who, asset).ok_or(Blocked::NoTrust)?;
    if !is_authorized(&line.data) {
        return Err(Blocked::NotAuthorized);
    }
    if !add_line_balance(&mut line.data, delta) {
        return Err(Blocked::Amount);
    }
    txn.save(line);
    Ok(())
}

pub fn check_payment(op: &PaymentOp) -> Result<(), PaymentResult> {
    if op.amount <= 0 || !asset_is_valid(&op.asset) {
        Err(PaymentResult::Malformed)
    } else {
        Ok(())
    }
}

pub fn pay(
    txn: &mut Txn<'_>,
    from: &AccountId,
    to: &AccountId,
    asset: &Asset,
    amount: i64,
) -> Result<(), PaymentResult> {
    if *asset == Asset::Native && from == to {
        return Ok(());
    }
    // The issuer takes its asset back even if its account is gone.
    if issuer(asset) != Some(to) && txn.peek_account(to).is_none() {
        return Err(PaymentResult::NoDestination);
    }
    // The destination first, as stellar-core does: what is reported when both sides are at fault depends on it.
    move_asset(txn, to, asset, amount).map_err(|blocked| match blocked {
        Blocked::NoAccount => PaymentResult::NoDestination,
        Blocked::NoTrust => PaymentResult::NoTrust,
        Blocked::NotAuthorized => PaymentResult::NotAuthorized,
        Blocked::Amount => PaymentResult::LineFull,
    })?;
    move_asset(txn, from, asset, -amount).map_err(|blocked| match blocked {
        Blocked::NoAccount | Blocked::Amount => PaymentResult::Underfunded,
        Blocked::NoTrust => PaymentResult::SrcNoTrust,
        Blocked::NotAuthorized => PaymentResult::SrcNotAuthorized,
    })
}

/// The asset of a trust line to change; pool shares have none.
pub fn line_asset(line: &ChangeTrustAsset) -> Option<Asset> {
    match line {
        ChangeTrustAsset::Native => Some(Asset::Native),
        ChangeTrustAsset::CreditAlphanum4(a) => Some(Asset::CreditAlphanum4(a.clone())),
        ChangeTrustAsset::CreditAlphanum12(a) => Some(Asset::CreditAlphanum12(a.clone())),
        ChangeTrustAsset::PoolShare(_) => None,
    }
}

pub fn check_trust(source: &AccountId, op: &ChangeTrustOp) -> Result<(), ChangeTrustResult> {
    match line_asset(&op.line) {
        Some(asset)
            if op.limit >= 0 && asset != Asset::Native && asset_is_valid(&asset) && issuer(&asset) != Some(source) =>
        {
            Ok(())
        }
        _ => Err(ChangeTrustResult::Malformed),
    }
}

pub fn change_trust(txn: &mut Txn<'_>, source: &AccountId, op: &ChangeTrustOp) -> Result<(), Failure> {
    let fail = |code| OperationResult::OpInner(Tr::ChangeTrust(code));
    let Some(asset) = line_asset(&op.line) else {
        return Err(fail(ChangeTrustResult::Malformed));
    };
    let issued_by = issuer(&asset).and_then(|id| txn.peek_account(id)).cloned();
    if let Some(mut line) = txn.load_trust_line(source, &asset) {
        let (buying, _) = line_liabilities(&line.data);
        if op.limit < line.data.balance.saturating_add(buying) {
            return Err(fail(ChangeTrustResult::InvalidLimit));
        }
        if op.limit == 0 {
            let Some(mut owner) = txn.load_account(source) else {
                return Err(OperationResult::OpNoAccount);
            };
            reserve::release_subentry(txn, &mut owner, &line.ext);
            txn.save(owner);
            txn.erase(&trust_line_key(source, &asset));
        } else {
            if issued_by.is_none() {
                return Err(fail(ChangeTrustResult::NoIssuer));
            }
            line.data.limit = op.limit;
            txn.save(line);
        }
        return Ok(());
    }
    if op.limit == 0 {
        return Err(fail(ChangeTrustResult::InvalidLimit));
    }
    let Some(issued_by) = issued_by else {
        return Err(fail(ChangeTrustResult::NoIssuer));
    };
    let mut flags = 0;
    if issued_by.flags & AUTH_REQUIRED == 0 {
        flags |= LINE_AUTHORIZED;
    }
    if issued_by.flags & AUTH_CLAWBACK != 0 {
        flags |= LINE_CLAWBACK;
    }
    let mut line = Loaded::new(TrustLineEntry {
        account_id: source.clone(),
        asset: trust_line_asset(&asset),
        balance: 0,
        limit: op.limit,
        flags,
        ext: TrustLineEntryExt::V0,
    });
    let Some(mut owner) = txn.load_account(source) else {
        return Err(OperationResult::OpNoAccount);
    };
    reserve::take_subentry(txn, &mut owner, &mut line.ext)
        .map_err(|refused| reserve_failure(refused, Tr::ChangeTrust(ChangeTrustResult::LowReserve)))?;
    txn.save(owner);
    txn.save(line);
    Ok(())
}

pub fn check_flags(source: &AccountId, op: &SetTrustLineFlagsOp) -> Result<(), SetTrustLineFlagsResult> {
    let fine = op.asset != Asset::Native
        && asset_is_valid(&op.asset)
        && issuer(&op.asset) == Some(source)
        && op.trustor != *source
        && op.set_flags & op.clear_flags == 0
        // Clawback can only be taken from a line, and authorisation is one level at a time.
        && op.set_flags & LINE_CLAWBACK == 0
        && line_flags_are_valid(op.set_flags)
        && op.clear_flags & !LINE_FLAGS == 0;
    if fine {
        Ok(())
    } else {
        Err(SetTrustLineFlagsResult::Malformed)
    }
}

pub fn set_flags(
    txn: &mut Txn<'_>,
    source: &AccountId,
    op: &SetTrustLineFlagsOp,
) -> Result<(), SetTrustLineFlagsResult> {
    let revocable = txn.peek_account(source).is_some_and(|a| a.flags & AUTH_REVOCABLE != 0);
    let lowers = op.clear_flags & (LINE_AUTHORIZED | LINE_MAINTAIN) != 0 && op.set_flags & LINE_AUTHORIZED == 0;
    // Before the trust line is looked for: an issuer that cannot revoke hears so even if there is none.
    if !revocable && lowers {
        return Err(SetTrustLineFlagsResult::CantRevoke);
    }
    let mut line = txn
        .load_trust_line(&op.trustor, &op.asset)
        .ok_or(SetTrustLineFlagsResult::NoTrustLine)?;
    let flags = (line.data.flags & !op.clear_flags) | op.set_flags;
    if !line_flags_are_valid(flags) {
        return Err(SetTrustLineFlagsResult::InvalidState);
    }
    if !revocable && is_authorized(&line.data) && flags & LINE_AUTHORIZED == 0 {
        return Err(SetTrustLineFlagsResult::CantRevoke);
    }
    line.data.flags = flags;
    txn.save(line);
    Ok(())
}

/// The asset that `AllowTrust` means: a code, issued by the source.
fn allowed_asset(source: &AccountId, code: &AssetCode) -> Asset {
    let issuer = source.clone();
    match code {
        AssetCode::CreditAlphanum4(code) => Asset::CreditAlphanum4(AlphaNum4 {
            asset_code: code.clone(),
            issuer,
        }),
        AssetCode::CreditAlphanum12(code) => Asset::CreditAlphanum12(AlphaNum12 {
            asset_code: code.clone(),
            issuer,
        }),
    }
}

pub fn check_allow(source: &AccountId, op: &AllowTrustOp) -> Result<(), AllowTrustResult> {
    let fine = op.authorize & !(LINE_AUTHORIZED | LINE_MAINTAIN) == 0
        && line_flags_are_valid(op.authorize)
        && asset_is_valid(&allowed_asset(source, &op.asset))
        && op.trustor != *source;
    if fine { Ok(()) } else { Err(AllowTrustResult::Malformed) }
}

pub fn allow_trust(txn: &mut Txn<'_>, source: &AccountId, op: &AllowTrustOp) -> Result<(), AllowTrustResult> {
    let asset = allowed_asset(source, &op.asset);
    let revocable = txn.peek_account(source).is_some_and(|a| a.flags & AUTH_REVOCABLE != 0);
    if !revocable && op.authorize == 0 {
        return Err(AllowTrustResult::CantRevoke);
    }
    let mut line = txn
        .load_trust_line(&op.trustor, &asset)
        .ok_or(AllowTrustResult::NoTrustLine)?;
    if !revocable && is_authorized(&line.data) && op.authorize & LINE_AUTHORIZED == 0 {
        return Err(AllowTrustResult::CantRevoke);
    }
    line.data.flags = (line.data.flags & !(LINE_AUTHORIZED | LINE_MAINTAIN)) | op.authorize;
    txn.save(line);
    Ok(())
}

pub fn check_clawback(source: &AccountId, op: &ClawbackOp) -> Result<(), ClawbackResult> {
    let fine = account_of(&op.from) != *source
        && op.amount >= 1
        && op.asset != Asset::Native
        && asset_is_valid(&op.asset)
        && issuer(&op.asset) == Some(source);
    if fine { Ok(()) } else { Err(ClawbackResult::Malformed) }
}

pub fn clawback(txn: &mut Txn<'_>, op: &ClawbackOp) -> Result<(), ClawbackResult> {
    let mut line = txn
        .load_trust_line(&account_of(&op.from), &op.asset)
        .ok_or(ClawbackResult::NoTrust)?;
    if line.data.flags & LINE_CLAWBACK == 0 {
        return Err(ClawbackResult::NotClawbackEnabled);
    }
    if !add_line_balance(&mut line.data, -op.amount) {
        return Err(ClawbackResult::Underfunded);
    }
    txn.save(line);
    Ok(())
}
