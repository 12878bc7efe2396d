//! Result codes in Horizon's spelling.

use serde_json::{Value, json};
use stellar_xdr::{
    InnerTransactionResultResult as Inner, OperationResult, OperationResultTr as Tr, TransactionResult,
    TransactionResultResult as Outer,
};

use crate::audit::operations_of;

/// `result_codes` of a refused or failed transaction.
pub fn result_codes(result: &TransactionResult) -> Value {
    let mut codes = json!({ "transaction": outer(&result.result) });
    if let Outer::TxFeeBumpInnerFailed(pair) | Outer::TxFeeBumpInnerSuccess(pair) = &result.result {
        codes["inner_transaction"] = json!(inner(&pair.result.result));
    }
    if let Some(operations) = operations_of(result) {
        codes["operations"] = operations.iter().map(operation).collect();
    }
    codes
}

fn outer(result: &Outer) -> &'static str {
    match result {
        Outer::TxFeeBumpInnerSuccess(_) => "tx_fee_bump_inner_success",
        Outer::TxFeeBumpInnerFailed(_) => "tx_fee_bump_inner_failed",
        Outer::TxSuccess(_) => "tx_success",
        Outer::TxFailed(_) => "tx_failed",
        Outer::TxTooEarly => "tx_too_early",
        Outer::TxTooLate => "tx_too_late",
        Outer::TxMissingOperation => "tx_missing_operation",
        Outer::TxBadSeq => "tx_bad_seq",
        Outer::TxBadAuth => "tx_bad_auth",
        Outer::TxInsufficientBalance => "tx_insufficient_balance",
        Outer::TxNoAccount => "tx_no_source_account",
        Outer::TxInsufficientFee => "tx_insufficient_fee",
        Outer::TxBadAuthExtra => "tx_bad_auth_extra",
        Outer::TxInternalError => "tx_internal_error",
        Outer::TxNotSupported => "tx_not_supported",
        Outer::TxBadSponsorship => "tx_bad_sponsorship",
        Outer::TxBadMinSeqAgeOrGap => "tx_bad_minseq_age_or_gap",
        Outer::TxMalformed => "tx_malformed",
        Outer::TxSorobanInvalid => "tx_soroban_invalid",
        Outer::TxFrozenKeyAccessed => "tx_frozen_key_accessed",
    }
}

fn inner(result: &Inner) -> &'static str {
    match result {
        Inner::TxSuccess(_) => "tx_success",
        Inner::TxFailed(_) => "tx_failed",
        Inner::TxTooEarly => "tx_too_early",
        Inner::TxTooLate => "tx_too_late",
        Inner::TxMissingOperation => "tx_missing_operation",
        Inner::TxBadSeq => "tx_bad_seq",
        Inner::TxBadAuth => "tx_bad_auth",
        Inner::TxInsufficientBalance => "tx_insufficient_balance",
        Inner::TxNoAccount => "tx_no_source_account",
        Inner::TxInsufficientFee => "tx_insufficient_fee",
        Inner::TxBadAuthExtra => "tx_bad_auth_extra",
        Inner::TxInternalError => "tx_internal_error",
        Inner::TxNotSupported => "tx_not_supported",
        Inner::TxBadSponsorship => "tx_bad_sponsorship",
        Inner::TxBadMinSeqAgeOrGap => "tx_bad_minseq_age_or_gap",
        Inner::TxMalformed => "tx_malformed",
        Inner::TxSorobanInvalid => "tx_soroban_invalid",
        Inner::TxFrozenKeyAccessed => "tx_frozen_key_accessed",
    }
}

/// The code of one operation. Most are the XDR name in snake case; the exceptions are spelled out.
pub fn operation(result: &OperationResult) -> String {
    let spelled = match result {
        OperationResult::OpBadAuth => "op_bad_auth",
        OperationResult::OpNoAccount => "op_no_source_account",
        OperationResult::OpNotSupported => "op_not_supported",
        OperationResult::OpTooManySubentries => "op_too_many_subentries",
        OperationResult::OpExceededWorkLimit => "op_exceeded_work_limit",
        OperationResult::OpTooManySponsoring => "op_too_many_sponsoring",
        OperationResult::OpInner(tr) => return inner_operation(tr),
    };
    spelled.to_owned()
}

fn inner_operation(result: &Tr) -> String {
    let name = match result {
        Tr::CreateAccount(r) => r.name(),
        Tr::Payment(r) => r.name(),
        Tr::PathPaymentStrictReceive(r) => r.name(),
        Tr::ManageSellOffer(r) | Tr::CreatePassiveSellOffer(r) => r.name(),
        Tr::SetOptions(r) => r.name(),
        Tr::ChangeTrust(r) => r.name(),
        Tr::AllowTrust(r) => r.name(),
        Tr::AccountMerge(r) => r.name(),
        Tr::Inflation(r) => r.name(),
        Tr::ManageData(r) => r.name(),
        Tr::BumpSequence(r) => r.name(),
        Tr::ManageBuyOffer(r) => r.name(),
        Tr::PathPaymentStrictSend(r) => r.name(),
        Tr::CreateClaimableBalance(r) => r.name(),
        Tr::ClaimClaimableBalance(r) => r.name(),
        Tr::BeginSponsoringFutureReserves(r) => r.name(),
        Tr::EndSponsoringFutureReserves(r) => r.name(),
        Tr::RevokeSponsorship(r) => r.name(),
        Tr::Clawback(r) => r.name(),
        Tr::ClawbackClaimableBalance(r) => r.name(),
        Tr::SetTrustLineFlags(r) => r.name(),
        Tr::LiquidityPoolDeposit(r) => r.name(),
        Tr::LiquidityPoolWithdraw(r) => r.name(),
        Tr::InvokeHostFunction(r) => r.name(),
        Tr::ExtendFootprintTtl(r) => r.name(),
        Tr::RestoreFootprint(r) => r.name(),
    };
    let spelled = match (result, name) {
        (Tr::CreateAccount(_), "AlreadyExist") => "op_already_exists",
        (Tr::AccountMerge(_), "SeqnumTooFar") => "op_seq_num_too_far",
        (Tr::ChangeTrust(_), "NotAuthMaintainLiabilities") => "op_not_aut_maintain_liabilities",
        (Tr::ManageData(_), "NameNotFound") => "op_data_name_not_found",
        (Tr::ManageData(_), "InvalidName") => "op_data_invalid_name",
        (Tr::AllowTrust(_), "NoTrustLine") => "op_no_trustline",
        (Tr::AllowTrust(_), "TrustNotRequired") => "op_not_required",
        (Tr::SetTrustLineFlags(_), "NoTrustLine") => "op_no_trust",
        (Tr::ClawbackClaimableBalance(_), "NotIssuer") => "op_no_issuer",
        _ => "",
    };
    if spelled.is_empty() {
        snake(name)
    } else {
        spelled.to_owned()
    }
}

fn snake(name: &str) -> String {
    let mut out = String::from("op");
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
