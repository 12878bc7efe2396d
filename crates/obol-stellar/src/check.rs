//! What each side checks before it relies on an escrow: pure functions of what a closed ledger showed.
//!
//! **A payee believes an escrow only after it read it** (settlement.md): [`check_escrow`] and [`check_issuer`], put
//! together with reading by [`believe`]. Before it signs a flush it looks once more: [`check_flush`] (H11).

use std::sync::Arc;

use obol_cell::{AccountId, Stroops};
use obol_toll::NotBelieved;

use crate::escrow::{Escrow, Used};
use crate::rail::{AccountState, LedgerHead, Rail, RailError};

/// The payee's full check of an opened escrow; its balance when all is as agreed.
///
/// # Errors
/// The first thing that is not.
pub fn check_escrow(escrow: &Escrow, account: &AccountState, head: &LedgerHead) -> Result<Stroops, EscrowFault> {
    let e = escrow.account();
    if account.id != e {
        return Err(EscrowFault::OtherAccount);
    }
    if !has_both_signers(escrow, account) {
        return Err(EscrowFault::Signers);
    }
    if account.thresholds != [2, 2, 2] {
        return Err(EscrowFault::Thresholds);
    }
    if escrow.used(account.sequence) != Used::Nothing || account.sequence < 0 {
        return Err(EscrowFault::Sequence);
    }
    // Its line and r, and nothing that could hold the line's balance or change its reserve.
    if account.subentries != 2 || account.sponsoring != 0 || account.sponsored != 0 {
        return Err(EscrowFault::Entries);
    }
    let reserve = 4 * i64::from(head.base_reserve);
    if account.lumens.balance.get() < reserve || !account.lumens.selling.is_zero() || !account.lumens.buying.is_zero() {
        return Err(EscrowFault::Lumens);
    }
    let [line] = account.lines.as_slice() else {
        return Err(EscrowFault::Entries);
    };
    if line.asset != escrow.terms().asset {
        return Err(EscrowFault::OtherAsset);
    }
    if !line.authorized || line.clawback || line.sponsored {
        return Err(EscrowFault::Line);
    }
    if !line.holding.selling.is_zero() || !line.holding.buying.is_zero() {
        return Err(EscrowFault::Liabilities);
    }
    let balance = line.holding.balance;
    if balance < escrow.terms().min_deposit || balance.is_zero() {
        return Err(EscrowFault::Balance { balance });
    }
    Ok(balance)
}

fn has_both_signers(escrow: &Escrow, account: &AccountState) -> bool {
    let one = |key: AccountId| account.signers.iter().any(|s| s.key == Some(key) && s.weight == 1);
    account.signers.len() == 2 && one(escrow.account()) && one(escrow.signer())
}

/// Why an account is not the escrow that was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EscrowFault {
    /// The server answered about another account.
    #[error("another account")]
    OtherAccount,
    /// Not exactly E and r, with weight 1 each.
    #[error("its signers are not exactly both sides, with weight 1 each")]
    Signers,
    /// Not 2/2/2.
    #[error("its thresholds are not 2/2/2")]
    Thresholds,
    /// Not below S0: claims may be dead.
    #[error("its sequence number is not below S0")]
    Sequence,
    /// It has other entries than its line and r, or sponsors, or is sponsored.
    #[error("it has other entries, or sponsors")]
    Entries,
    /// Fewer lumens than its reserve, or lumens in offers.
    #[error("it lacks the lumens of its reserve")]
    Lumens,
    /// Its line is to another asset.
    #[error("its trust line is to another asset")]
    OtherAsset,
    /// The line is not authorised, can be clawed back, or is sponsored.
    #[error("its trust line is not authorised, or can be clawed back, or is sponsored")]
    Line,
    /// Part of its balance is in offers.
    #[error("part of its balance is in offers")]
    Liabilities,
    /// Less than the minimum.
    #[error("its balance is too small")]
    Balance {
        /// What it holds.
        balance: Stroops,
    },
}

/// Checks that the issuer of an asset cannot take it away: it can neither freeze nor claw back, and can never change
/// that. With `allow_revocable` the operator took that risk, and only existence is asked.
///
/// # Errors
/// What the issuer can do.
pub fn check_issuer(issuer: Option<&AccountState>, allow_revocable: bool) -> Result<(), IssuerFault> {
    let issuer = issuer.ok_or(IssuerFault::Absent)?;
    if allow_revocable {
        return Ok(());
    }
    if issuer.flags.auth_required {
        return Err(IssuerFault::AuthRequired);
    }
    if issuer.flags.auth_revocable {
        return Err(IssuerFault::Revocable);
    }
    if issuer.flags.clawback_enabled {
        return Err(IssuerFault::Clawback);
    }
    // An issuer that nobody can sign for is as immutable as one with the flag.
    let locked = issuer.signers.iter().all(|s| s.weight == 0);
    if !issuer.flags.auth_immutable && !locked {
        return Err(IssuerFault::Mutable);
    }
    Ok(())
}

/// Why an asset is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerFault {
    /// Its issuer is not on the ledger.
    #[error("the asset's issuer is not on the ledger")]
    Absent,
    /// Lines need the issuer's consent.
    #[error("the asset's issuer must consent to each trust line")]
    AuthRequired,
    /// The issuer can freeze lines.
    #[error("the asset's issuer can freeze balances")]
    Revocable,
    /// The issuer can claw back.
    #[error("the asset's issuer can claw balances back")]
    Clawback,
    /// The issuer can still change its flags.
    #[error("the asset's issuer can still change its flags: it is not AUTH_IMMUTABLE")]
    Mutable,
}

/// Where an escrow stands, as its account on the ledger shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscrowStatus {
    /// There is no such account: not opened yet, or merged.
    Absent,
    /// Open: nothing was applied yet.
    Open {
        /// Its balance.
        balance: Stroops,
    },
    /// A flush of claim `k` is in a ledger and failed; the claims up to `k` are dead, the escrow is still open (H11).
    FlushFailed {
        /// The claim.
        k: u32,
        /// Its balance.
        balance: Stroops,
    },
    /// Flushed or refunded: E's own key disposes of the rest.
    Released {
        /// What it still holds.
        rest: Stroops,
    },
    /// The account is not what its terms say, and never was.
    Foreign,
}

/// Where an escrow stands. For the payer, who built it, and for the payee after it believed it.
pub fn status(escrow: &Escrow, account: Option<&AccountState>) -> EscrowStatus {
    let Some(account) = account else {
        return EscrowStatus::Absent;
    };
    let balance = account
        .line(&escrow.terms().asset)
        .map_or(Stroops::ZERO, |line| line.holding.balance);
    let used = escrow.used(account.sequence);
    if has_both_signers(escrow, account) && account.thresholds == [2, 2, 2] {
        return match used {
            Used::Nothing => EscrowStatus::Open { balance },
            Used::Claim(k) => EscrowStatus::FlushFailed { k, balance },
            Used::Refund | Used::Later => EscrowStatus::Foreign,
        };
    }
    let own_key_only = matches!(account.signers.as_slice(), [only] if only.key == Some(account.id));
    match used {
        Used::Nothing => EscrowStatus::Foreign,
        _ if own_key_only => EscrowStatus::Released { rest: balance },
        _ => EscrowStatus::Foreign,
    }
}

/// What the payee checks at the newest ledger before it signs a flush, since a flush that fails in a ledger uses its
/// claim (H11): the escrow is open and holds enough, its own account can take the money, and pay the fee.
///
/// `e` is the escrow's account, `payee` our own, both read just now; `fee` the whole fee of the bump.
///
/// # Errors
/// What is in the way.
pub fn check_flush(
    escrow: &Escrow,
    k: u32,
    cumulative: Stroops,
    e: Option<&AccountState>,
    payee: Option<&AccountState>,
    head: &LedgerHead,
    fee: Stroops,
) -> Result<(), FlushFault> {
    let asset = &escrow.terms().asset;
    match status(escrow, e) {
        EscrowStatus::Absent | EscrowStatus::Released { .. } => return Err(FlushFault::Ended),
        EscrowStatus::Foreign => return Err(FlushFault::Foreign),
        EscrowStatus::FlushFailed { k: used, .. } if k <= used => return Err(FlushFault::ClaimUsed { used }),
        EscrowStatus::Open { balance } | EscrowStatus::FlushFailed { balance, .. } => {
            if balance < cumulative {
                return Err(FlushFault::Underfunded { balance });
            }
        }
    }
    if !e.and_then(|e| e.line(asset)).is_some_and(|line| line.authorized) {
        return Err(FlushFault::Frozen);
    }
    let payee = payee.ok_or(FlushFault::NoAccount)?;
    let line = payee.line(asset).ok_or(FlushFault::NoLine)?;
    if !line.authorized {
        return Err(FlushFault::NotAuthorized);
    }
    if line.room() < cumulative {
        return Err(FlushFault::LineFull { room: line.room() });
    }
    let lumens = payee.spendable_lumens(head.base_reserve);
    if lumens < fee {
        return Err(FlushFault::NoLumens { lumens });
    }
    Ok(())
}

/// Why a flush must not be signed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushFault {
    /// The escrow was flushed or refunded already.
    #[error("the escrow has ended")]
    Ended,
    /// The account is not the escrow that was believed.
    #[error("the escrow's account is not what it was")]
    Foreign,
    /// This claim is dead.
    #[error("claim {used} was used, and this one is not above it")]
    ClaimUsed {
        /// The claim that was used.
        used: u32,
    },
    /// The escrow holds less than the claim.
    #[error("the escrow holds less than the claim")]
    Underfunded {
        /// What it holds.
        balance: Stroops,
    },
    /// The issuer froze the escrow's line.
    #[error("the escrow's trust line is frozen")]
    Frozen,
    /// Our payee account is not on the ledger.
    #[error("our payee account is not on the ledger")]
    NoAccount,
    /// Our payee account has no trust line.
    #[error("our payee account has no trust line to the asset")]
    NoLine,
    /// Our line is not authorised.
    #[error("our payee account's trust line is not authorised")]
    NotAuthorized,
    /// Our line would run over.
    #[error("our payee account's trust line has too little room")]
    LineFull {
        /// What it can still take.
        room: Stroops,
    },
    /// Our payee account cannot pay the fee.
    #[error("our payee account has too few lumens for the fee")]
    NoLumens {
        /// What it can spend.
        lumens: Stroops,
    },
}

/// What a payee asks of the ledger before it believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belief {
    /// Accept assets whose issuer can freeze or claw back.
    pub allow_revocable_asset: bool,
    /// Above this balance two servers must agree.
    pub two_witnesses_above: Option<Stroops>,
    /// The oldest that the newest ledger may be, seconds.
    pub max_age: u64,
}

impl Default for Belief {
    /// Strict; one witness; ledgers up to 60 s old.
    fn default() -> Belief {
        Belief {
            allow_revocable_asset: false,
            two_witnesses_above: None,
            max_age: 60,
        }
    }
}

/// Reads an escrow from the ledger and believes it or not. `rails` are independent servers, asked in order; `now` is
/// the own clock, unix seconds.
///
/// # Errors
/// [`NotBelieved::Absent`] and [`NotBelieved::Unreachable`] may be asked again, [`NotBelieved::Wrong`] is final.
pub async fn believe(
    rails: &[Arc<dyn Rail>],
    escrow: &Escrow,
    belief: &Belief,
    now: u64,
) -> Result<Stroops, NotBelieved> {
    let mut believed: Option<Stroops> = None;
    let mut absent = false;
    for rail in rails {
        let balance = match read_once(rail.as_ref(), escrow, belief, now).await {
            Ok(Some(balance)) => balance,
            Ok(None) => {
                // One that lags is no witness either way.
                absent = true;
                continue;
            }
            Err(ReadFault::Rail(error)) => {
                tracing::debug!(%error, "a ledger server cannot witness an escrow");
                continue;
            }
            Err(ReadFault::Stale { age }) => {
                tracing::debug!(age, "a ledger server is behind and cannot witness an escrow");
                continue;
            }
            Err(ReadFault::Escrow(fault)) => {
                tracing::debug!(%fault, "an escrow is not what was agreed");
                return Err(NotBelieved::Wrong);
            }
            Err(ReadFault::Issuer(fault)) => {
                tracing::warn!(%fault, "the asset is refused");
                return Err(NotBelieved::Wrong);
            }
        };
        let needs_two = belief.two_witnesses_above.is_some_and(|limit| balance > limit);
        match believed {
            None if needs_two => believed = Some(balance),
            None => return Ok(balance),
            Some(first) => return Ok(first.min(balance)),
        }
    }
    Err(if absent && believed.is_none() {
        NotBelieved::Absent
    } else {
        NotBelieved::Unreachable
    })
}

enum ReadFault {
    Rail(RailError),
    Stale { age: u64 },
    Escrow(EscrowFault),
    Issuer(IssuerFault),
}

async fn read_once(rail: &dyn Rail, escrow: &Escrow, belief: &Belief, now: u64) -> Result<Option<Stroops>, ReadFault> {
    let head = rail.latest_ledger().await.map_err(ReadFault::Rail)?;
    let age = now.saturating_sub(head.close_time);
    if age > belief.max_age {
        return Err(ReadFault::Stale { age });
    }
    let account = rail.account(escrow.account()).await.map_err(ReadFault::Rail)?;
    let Some(account) = account else { return Ok(None) };
    let balance = check_escrow(escrow, &account, &head).map_err(ReadFault::Escrow)?;
    let issuer = rail
        .account(AccountId(escrow.terms().asset.issuer))
        .await
        .map_err(ReadFault::Rail)?;
    check_issuer(issuer.as_ref(), belief.allow_revocable_asset).map_err(ReadFault::Issuer)?;
    Ok(Some(balance))
}
