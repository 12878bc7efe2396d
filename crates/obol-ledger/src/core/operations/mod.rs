//! Operations: for each kind the checks that need no ledger, and its application.
//!
//! The remaining classic kinds (offers, path payments, liquidity pools) and contracts answer `opNOT_SUPPORTED`; they are one arm each
//! in [`Context::supported`], [`check`] and [`apply`].

mod accounts;
mod assets;
mod claimable;
mod sponsorship;

use stellar_xdr::{
    AccountId, ChangeTrustAsset, ChangeTrustOp, MuxedAccount, Operation, OperationBody, OperationResult,
    OperationResultTr as Tr,
};

use super::reserve::Refused;
use super::signatures::{Checker, Threshold};
use super::state::Txn;

/// One operation with what it needs to know of its transaction.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The source of the transaction.
    pub tx_source: AccountId,
    /// The sequence number of the transaction.
    pub sequence: i64,
    /// The place of the operation in it, from 0.
    pub index: u32,
    /// The source of the operation.
    pub source: AccountId,
    /// The operation.
    pub operation: &'a Operation,
}

/// An operation's failure: the result to report.
pub type Failure = OperationResult;

impl Context<'_> {
    /// Whether this ledger knows the kind of operation.
    pub fn supported(&self) -> Result<(), Failure> {
        match &self.operation.body {
            OperationBody::ChangeTrust(ChangeTrustOp {
                line: ChangeTrustAsset::PoolShare(_),
                ..
            }) => Err(OperationResult::OpNotSupported),
            OperationBody::CreateAccount(_)
            | OperationBody::Payment(_)
            | OperationBody::SetOptions(_)
            | OperationBody::ChangeTrust(_)
            | OperationBody::AllowTrust(_)
            | OperationBody::AccountMerge(_)
            | OperationBody::ManageData(_)
            | OperationBody::BumpSequence(_)
            | OperationBody::CreateClaimableBalance(_)
            | OperationBody::ClaimClaimableBalance(_)
            | OperationBody::BeginSponsoringFutureReserves(_)
            | OperationBody::EndSponsoringFutureReserves
            | OperationBody::RevokeSponsorship(_)
            | OperationBody::Clawback(_)
            | OperationBody::ClawbackClaimableBalance(_)
            | OperationBody::SetTrustLineFlags(_) => Ok(()),
            OperationBody::PathPaymentStrictReceive(_)
            | OperationBody::PathPaymentStrictSend(_)
            | OperationBody::ManageSellOffer(_)
            | OperationBody::ManageBuyOffer(_)
            | OperationBody::CreatePassiveSellOffer(_)
            | OperationBody::Inflation
            | OperationBody::LiquidityPoolDeposit(_)
            | OperationBody::LiquidityPoolWithdraw(_)
            | OperationBody::InvokeHostFunction(_)
            | OperationBody::ExtendFootprintTtl(_)
            | OperationBody::RestoreFootprint(_) => Err(OperationResult::OpNotSupported),
        }
    }

    /// Whether the transaction's signatures reach the operation's threshold on its source. A source that does not exist (yet) is
    /// accepted if it is named in the operation and its own key signed.
    pub fn check_signatures(&self, txn: &Txn<'_>, checker: &mut Checker<'_>) -> Result<(), Failure> {
        let signed = match txn.peek_account(&self.source) {
            Some(source) => checker.account(source, Threshold::of(&self.operation.body).needed(source)),
            None if self.operation.source_account.is_none() => return Err(OperationResult::OpNoAccount),
            None => checker.missing_account(&self.source),
        };
        if signed {
            Ok(())
        } else {
            Err(OperationResult::OpBadAuth)
        }
    }

    /// Whether the source exists at the moment of application.
    pub fn check_source_exists(&self, txn: &Txn<'_>) -> Result<(), Failure> {
        txn.peek_account(&self.source)
            .map(|_| ())
            .ok_or(OperationResult::OpNoAccount)
    }
}

/// The result an operation has unless something is wrong; also what history shows for operations that were never reached.
pub fn success(body: &OperationBody) -> OperationResult {
    OperationResult::OpInner(match body {
        OperationBody::CreateAccount(_) => Tr::CreateAccount(Default::default()),
        OperationBody::Payment(_) => Tr::Payment(Default::default()),
        OperationBody::PathPaymentStrictReceive(_) => Tr::PathPaymentStrictReceive(Default::default()),
        OperationBody::ManageSellOffer(_) => Tr::ManageSellOffer(Default::default()),
        OperationBody::CreatePassiveSellOffer(_) => Tr::CreatePassiveSellOffer(Default::default()),
        OperationBody::SetOptions(_) => Tr::SetOptions(Default::default()),
        OperationBody::ChangeTrust(_) => Tr::ChangeTrust(Default::default()),
        OperationBody::AllowTrust(_) => Tr::AllowTrust(Default::default()),
        OperationBody::AccountMerge(_) => Tr::AccountMerge(Default::default()),
        OperationBody::Inflation => Tr::Inflation(Default::default()),
        OperationBody::ManageData(_) => Tr::ManageData(Default::default()),
        OperationBody::BumpSequence(_) => Tr::BumpSequence(Default::default()),
        OperationBody::ManageBuyOffer(_) => Tr::ManageBuyOffer(Default::default()),
        OperationBody::PathPaymentStrictSend(_) => Tr::PathPaymentStrictSend(Default::default()),
        OperationBody::CreateClaimableBalance(_) => Tr::CreateClaimableBalance(Default::default()),
        OperationBody::ClaimClaimableBalance(_) => Tr::ClaimClaimableBalance(Default::default()),
        OperationBody::BeginSponsoringFutureReserves(_) => Tr::BeginSponsoringFutureReserves(Default::default()),
        OperationBody::EndSponsoringFutureReserves => Tr::EndSponsoringFutureReserves(Default::default()),
        OperationBody::RevokeSponsorship(_) => Tr::RevokeSponsorship(Default::default()),
        OperationBody::Clawback(_) => Tr::Clawback(Default::default()),
        OperationBody::ClawbackClaimableBalance(_) => Tr::ClawbackClaimableBalance(Default::default()),
        OperationBody::SetTrustLineFlags(_) => Tr::SetTrustLineFlags(Default::default()),
        OperationBody::LiquidityPoolDeposit(_) => Tr::LiquidityPoolDeposit(Default::default()),
        OperationBody::LiquidityPoolWithdraw(_) => Tr::LiquidityPoolWithdraw(Default::default()),
        OperationBody::InvokeHostFunction(_) => Tr::InvokeHostFunction(Default::default()),
        OperationBody::ExtendFootprintTtl(_) => Tr::ExtendFootprintTtl(Default::default()),
        OperationBody::RestoreFootprint(_) => Tr::RestoreFootprint(Default::default()),
    })
}

/// The checks of an operation that need no ledger.
pub fn check(context: &Context<'_>) -> Result<(), Failure> {
    let source = &context.source;
    match &context.operation.body {
        OperationBody::CreateAccount(op) => accounts::check_create(source, op).map_err(Tr::CreateAccount),
        OperationBody::Payment(op) => assets::check_payment(op).map_err(Tr::Payment),
        OperationBody::SetOptions(op) => accounts::check_options(source, op).map_err(Tr::SetOptions),
        OperationBody::ChangeTrust(op) => assets::check_trust(source, op).map_err(Tr::ChangeTrust),
        OperationBody::AllowTrust(op) => assets::check_allow(source, op).map_err(Tr::AllowTrust),
        OperationBody::AccountMerge(to) => accounts::check_merge(source, to).map_err(Tr::AccountMerge),
        OperationBody::ManageData(op) => accounts::check_data(op).map_err(Tr::ManageData),
        OperationBody::BumpSequence(op) => accounts::check_bump(op).map_err(Tr::BumpSequence),
        OperationBody::CreateClaimableBalance(op) => claimable::check_create(op).map_err(Tr::CreateClaimableBalance),
        OperationBody::BeginSponsoringFutureReserves(op) => {
            sponsorship::check_begin(source, op).map_err(Tr::BeginSponsoringFutureReserves)
        }
        OperationBody::RevokeSponsorship(op) => sponsorship::check_revoke(op).map_err(Tr::RevokeSponsorship),
        OperationBody::Clawback(op) => assets::check_clawback(source, op).map_err(Tr::Clawback),
        OperationBody::SetTrustLineFlags(op) => assets::check_flags(source, op).map_err(Tr::SetTrustLineFlags),
        _ => Ok(()),
    }
    .map_err(OperationResult::OpInner)
}

/// Applies an operation. On failure the caller drops whatever was written.
pub fn apply(context: &Context<'_>, txn: &mut Txn<'_>) -> Result<OperationResult, Failure> {
    let source = &context.source;
    match &context.operation.body {
        OperationBody::CreateAccount(op) => accounts::create(txn, source, op)?,
        OperationBody::Payment(op) => {
            let to = account_of(&op.destination);
            assets::pay(txn, source, &to, &op.asset, op.amount).map_err(inner(Tr::Payment))?;
        }
        OperationBody::SetOptions(op) => accounts::set_options(txn, source, op)?,
        OperationBody::ChangeTrust(op) => assets::change_trust(txn, source, op)?,
        OperationBody::AllowTrust(op) => assets::allow_trust(txn, source, op).map_err(inner(Tr::AllowTrust))?,
        OperationBody::AccountMerge(to) => {
            let balance = accounts::merge(txn, source, &account_of(to)).map_err(inner(Tr::AccountMerge))?;
            return Ok(OperationResult::OpInner(Tr::AccountMerge(
                stellar_xdr::AccountMergeResult::Success(balance),
            )));
        }
        OperationBody::ManageData(op) => accounts::manage_data(txn, source, op)?,
        OperationBody::BumpSequence(op) => accounts::bump_sequence(txn, source, op),
        OperationBody::CreateClaimableBalance(op) => {
            let id = claimable::create(txn, context, op)?;
            return Ok(OperationResult::OpInner(Tr::CreateClaimableBalance(
                stellar_xdr::CreateClaimableBalanceResult::Success(id),
            )));
        }
        OperationBody::ClaimClaimableBalance(op) => {
            claimable::claim(txn, source, op).map_err(inner(Tr::ClaimClaimableBalance))?;
        }
        OperationBody::BeginSponsoringFutureReserves(op) => {
            sponsorship::begin(txn, source, op).map_err(inner(Tr::BeginSponsoringFutureReserves))?;
        }
        OperationBody::EndSponsoringFutureReserves => {
            sponsorship::end(txn, source).map_err(inner(Tr::EndSponsoringFutureReserves))?;
        }
        OperationBody::RevokeSponsorship(op) => sponsorship::revoke(txn, source, op)?,
        OperationBody::Clawback(op) => assets::clawback(txn, op).map_err(inner(Tr::Clawback))?,
        OperationBody::ClawbackClaimableBalance(op) => {
            claimable::clawback(txn, source, op).map_err(inner(Tr::ClawbackClaimableBalance))?;
        }
        OperationBody::SetTrustLineFlags(op) => {
            assets::set_flags(txn, source, op).map_err(inner(Tr::SetTrustLineFlags))?;
        }
        _ => return Err(OperationResult::OpNotSupported),
    }
    Ok(success(&context.operation.body))
}

fn inner<R>(wrap: fn(R) -> Tr) -> impl Fn(R) -> OperationResult {
    move |result| OperationResult::OpInner(wrap(result))
}

/// The account behind a possibly multiplexed address.
pub fn account_of(muxed: &MuxedAccount) -> AccountId {
    muxed.clone().account_id()
}

/// A refused reserve as an operation's failure; `low` is its own code for too few lumens.
fn reserve_failure(refused: Refused, low: Tr) -> Failure {
    match refused {
        Refused::LowReserve => OperationResult::OpInner(low),
        Refused::TooManySubentries => OperationResult::OpTooManySubentries,
        Refused::TooManySponsoring => OperationResult::OpTooManySponsoring,
    }
}
