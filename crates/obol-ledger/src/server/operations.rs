//! Operations as Horizon writes them.

use serde_json::{Map, Value, json};
use stellar_xdr::{
    Asset, ChangeTrustAsset, ClaimPredicate, Claimant, CreateClaimableBalanceResult, Limits, MuxedAccount,
    OperationBody, OperationResult, OperationResultTr, ReadXdr, RevokeSponsorshipOp, SetOptionsOp, TransactionEnvelope,
    TransactionResult, WriteXdr,
};

use super::request::Asked;
use super::resources::{self, asset_fields};
use crate::audit::operations_of;
use crate::core::account::{
    AUTH_CLAWBACK, AUTH_IMMUTABLE, AUTH_REQUIRED, AUTH_REVOCABLE, LINE_AUTHORIZED, LINE_CLAWBACK, LINE_MAINTAIN,
};
use crate::history::{TransactionRecord, split_operation_id};
use crate::store::StoreError;
use crate::text;

/// An operation of a recorded transaction. `join`: with its transaction inside.
pub fn operation(asked: &Asked, id: i64, record: &TransactionRecord, join: bool) -> Result<Value, StoreError> {
    let envelope = TransactionEnvelope::from_xdr(&record.envelope, Limits::none())
        .map_err(|_| StoreError::Damaged { what: "an envelope" })?;
    let result = TransactionResult::from_xdr(&record.result, Limits::none())
        .map_err(|_| StoreError::Damaged { what: "a result" })?;
    let tx = text::inner_transaction(&envelope).ok_or(StoreError::Damaged { what: "an envelope" })?;
    let (_, index) = split_operation_id(id);
    let operation = tx
        .operations
        .get(index)
        .ok_or(StoreError::Damaged { what: "an operation" })?;
    let own_result = operations_of(&result).and_then(|ops| ops.get(index));
    let source = operation.source_account.as_ref().unwrap_or(&tx.source_account);
    let hash = hex::encode(&record.hash);
    let (kind, number) = kind(&operation.body);
    let path = format!("/operations/{id}");
    let mut out = json!({
        "_links": {
            "self": { "href": asked.href(&path) },
            "transaction": { "href": asked.href(&format!("/transactions/{hash}")) },
            "effects": { "href": asked.href(&format!("{path}/effects")) },
            "succeeds": { "href": asked.href(&format!("/effects?order=desc&cursor={id}")) },
            "precedes": { "href": asked.href(&format!("/effects?order=asc&cursor={id}")) },
        },
        "id": id.to_string(),
        "paging_token": id.to_string(),
        "transaction_successful": record.successful,
        "type": kind,
        "type_i": number,
        "created_at": text::time(record.close_time),
        "transaction_hash": hash,
    });
    if let Some(fields) = out.as_object_mut() {
        address("source_account", source, fields);
        body(&operation.body, source, own_result, fields);
        if join {
            fields.insert("transaction".into(), resources::transaction(asked, record, None)?);
        }
    }
    Ok(out)
}

/// Horizon's name of a kind of operation and its number in the XDR.
fn kind(body: &OperationBody) -> (&'static str, u32) {
    match body {
        OperationBody::CreateAccount(_) => ("create_account", 0),
        OperationBody::Payment(_) => ("payment", 1),
        OperationBody::PathPaymentStrictReceive(_) => ("path_payment_strict_receive", 2),
        OperationBody::ManageSellOffer(_) => ("manage_sell_offer", 3),
        OperationBody::CreatePassiveSellOffer(_) => ("create_passive_sell_offer", 4),
        OperationBody::SetOptions(_) => ("set_options", 5),
        OperationBody::ChangeTrust(_) => ("change_trust", 6),
        OperationBody::AllowTrust(_) => ("allow_trust", 7),
        OperationBody::AccountMerge(_) => ("account_merge", 8),
        OperationBody::Inflation => ("inflation", 9),
        OperationBody::ManageData(_) => ("manage_data", 10),
        OperationBody::BumpSequence(_) => ("bump_sequence", 11),
        OperationBody::ManageBuyOffer(_) => ("manage_buy_offer", 12),
        OperationBody::PathPaymentStrictSend(_) => ("path_payment_strict_send", 13),
        OperationBody::CreateClaimableBalance(_) => ("create_claimable_balance", 14),
        OperationBody::ClaimClaimableBalance(_) => ("claim_claimable_balance", 15),
        OperationBody::BeginSponsoringFutureReserves(_) => ("begin_sponsoring_future_reserves", 16),
        OperationBody::EndSponsoringFutureReserves => ("end_sponsoring_future_reserves", 17),
        OperationBody::RevokeSponsorship(_) => ("revoke_sponsorship", 18),
        OperationBody::Clawback(_) => ("clawback", 19),
        OperationBody::ClawbackClaimableBalance(_) => ("clawback_claimable_balance", 20),
        OperationBody::SetTrustLineFlags(_) => ("set_trust_line_flags", 21),
        OperationBody::LiquidityPoolDeposit(_) => ("liquidity_pool_deposit", 22),
        OperationBody::LiquidityPoolWithdraw(_) => ("liquidity_pool_withdraw", 23),
        OperationBody::InvokeHostFunction(_) => ("invoke_host_function", 24),
        OperationBody::ExtendFootprintTtl(_) => ("extend_footprint_ttl", 25),
        OperationBody::RestoreFootprint(_) => ("restore_footprint", 26),
    }
}

/// An address under a name, with its multiplexed form if it has one.
fn address(name: &str, muxed: &MuxedAccount, fields: &mut Map<String, Value>) {
    fields.insert(name.to_owned(), json!(text::account(&muxed.clone().account_id())));
    if let Some((full, id)) = text::muxed(muxed) {
        fields.insert(format!("{name}_muxed"), json!(full));
        fields.insert(format!("{name}_muxed_id"), json!(id.to_string()));
    }
}

fn body(
    body: &OperationBody,
    source: &MuxedAccount,
    result: Option<&OperationResult>,
    fields: &mut Map<String, Value>,
) {
    let me = || json!(text::account(&source.clone().account_id()));
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    match body {
        OperationBody::CreateAccount(op) => {
            put("starting_balance", json!(text::amount(op.starting_balance)));
            put("account", json!(text::account(&op.destination)));
            address("funder", source, fields);
        }
        OperationBody::Payment(op) => {
            put("amount", json!(text::amount(op.amount)));
            asset_fields(&op.asset, "", fields);
            address("from", source, fields);
            address("to", &op.destination, fields);
        }
        OperationBody::SetOptions(op) => set_options(op, fields),
        OperationBody::ChangeTrust(op) => {
            put("limit", json!(text::amount(op.limit)));
            put("trustor", me());
            if let Some(asset) = credit(&op.line) {
                asset_fields(&asset, "", fields);
                if let (_, Some((_, issuer))) = text::asset_parts(&asset) {
                    fields.insert("trustee".into(), json!(issuer));
                }
            }
        }
        OperationBody::AllowTrust(op) => {
            let code = match &op.asset {
                stellar_xdr::AssetCode::CreditAlphanum4(code) => ("credit_alphanum4", text::code(&code.0)),
                stellar_xdr::AssetCode::CreditAlphanum12(code) => ("credit_alphanum12", text::code(&code.0)),
            };
            put("asset_type", json!(code.0));
            put("asset_code", json!(code.1));
            put("asset_issuer", me());
            put("trustee", me());
            put("trustor", json!(text::account(&op.trustor)));
            put("authorize", json!(op.authorize & LINE_AUTHORIZED != 0));
            put(
                "authorize_to_maintain_liabilities",
                json!(op.authorize & LINE_MAINTAIN != 0),
            );
        }
        OperationBody::AccountMerge(to) => {
            address("account", source, fields);
            address("into", to, fields);
        }
        OperationBody::ManageData(op) => {
            put("name", json!(op.data_name.0.to_utf8_string_lossy()));
            let value = op.data_value.as_ref().map(|v| {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.encode(v.0.as_slice())
            });
            put("value", json!(value.unwrap_or_default()));
        }
        OperationBody::BumpSequence(op) => put("bump_to", json!(op.bump_to.0.to_string())),
        OperationBody::CreateClaimableBalance(op) => {
            put("asset", json!(text::asset(&op.asset)));
            put("amount", json!(text::amount(op.amount)));
            put("sponsor", me());
            put("claimants", op.claimants.iter().map(claimant).collect());
            if let Some(OperationResult::OpInner(OperationResultTr::CreateClaimableBalance(
                CreateClaimableBalanceResult::Success(id),
            ))) = result
            {
                put(
                    "balance_id",
                    json!(hex::encode(id.to_xdr(Limits::none()).unwrap_or_default())),
                );
            }
        }
        OperationBody::ClaimClaimableBalance(op) => {
            put(
                "balance_id",
                json!(hex::encode(op.balance_id.to_xdr(Limits::none()).unwrap_or_default())),
            );
            put("claimant", me());
        }
        OperationBody::ClawbackClaimableBalance(op) => {
            put(
                "balance_id",
                json!(hex::encode(op.balance_id.to_xdr(Limits::none()).unwrap_or_default())),
            );
        }
        OperationBody::BeginSponsoringFutureReserves(op) => put("sponsored_id", json!(text::account(&op.sponsored_id))),
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::Signer(op)) => {
            put("signer_account_id", json!(text::account(&op.account_id)));
            put("signer_key", json!(text::signer(&op.signer_key).0));
        }
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::LedgerEntry(key)) => revoked(key, fields),
        OperationBody::Clawback(op) => {
            put("amount", json!(text::amount(op.amount)));
            asset_fields(&op.asset, "", fields);
            address("from", &op.from, fields);
        }
        OperationBody::SetTrustLineFlags(op) => {
            put("trustor", json!(text::account(&op.trustor)));
            flags("set", op.set_flags, &LINE_FLAG_NAMES, fields);
            flags("clear", op.clear_flags, &LINE_FLAG_NAMES, fields);
            asset_fields(&op.asset, "", fields);
        }
        _ => {}
    }
}

fn revoked(key: &stellar_xdr::LedgerKey, fields: &mut Map<String, Value>) {
    use stellar_xdr::{LedgerKey, TrustLineAsset};
    match key {
        LedgerKey::Account(key) => {
            fields.insert("account_id".into(), json!(text::account(&key.account_id)));
        }
        LedgerKey::Trustline(key) => {
            fields.insert("trustline_account_id".into(), json!(text::account(&key.account_id)));
            let asset = match &key.asset {
                TrustLineAsset::CreditAlphanum4(a) => Asset::CreditAlphanum4(a.clone()),
                TrustLineAsset::CreditAlphanum12(a) => Asset::CreditAlphanum12(a.clone()),
                TrustLineAsset::Native | TrustLineAsset::PoolShare(_) => Asset::Native,
            };
            fields.insert("trustline_asset".into(), json!(text::asset(&asset)));
        }
        LedgerKey::Data(key) => {
            fields.insert("data_account_id".into(), json!(text::account(&key.account_id)));
            fields.insert("data_name".into(), json!(key.data_name.0.to_utf8_string_lossy()));
        }
        LedgerKey::ClaimableBalance(key) => {
            let id = hex::encode(key.balance_id.to_xdr(Limits::none()).unwrap_or_default());
            fields.insert("claimable_balance_id".into(), json!(id));
        }
        LedgerKey::Offer(key) => {
            fields.insert("offer_id".into(), json!(key.offer_id.to_string()));
        }
        _ => {}
    }
}

/// The asset a trust line is for, unless it is a pool's.
pub fn credit(line: &ChangeTrustAsset) -> Option<Asset> {
    match line {
        ChangeTrustAsset::CreditAlphanum4(a) => Some(Asset::CreditAlphanum4(a.clone())),
        ChangeTrustAsset::CreditAlphanum12(a) => Some(Asset::CreditAlphanum12(a.clone())),
        ChangeTrustAsset::Native | ChangeTrustAsset::PoolShare(_) => None,
    }
}

const ACCOUNT_FLAG_NAMES: [(u32, &str); 4] = [
    (AUTH_REQUIRED, "auth_required"),
    (AUTH_REVOCABLE, "auth_revocable"),
    (AUTH_IMMUTABLE, "auth_immutable"),
    (AUTH_CLAWBACK, "auth_clawback_enabled"),
];

const LINE_FLAG_NAMES: [(u32, &str); 3] = [
    (LINE_AUTHORIZED, "authorized"),
    (LINE_MAINTAIN, "authorized_to_maintain_liabilites"),
    (LINE_CLAWBACK, "clawback_enabled"),
];

/// `set_flags` and `set_flags_s`, if there are any.
fn flags(verb: &str, value: u32, names: &[(u32, &str)], fields: &mut Map<String, Value>) {
    let (numbers, words): (Vec<u32>, Vec<&str>) = names.iter().filter(|(bit, _)| value & bit != 0).copied().unzip();
    if !numbers.is_empty() {
        fields.insert(format!("{verb}_flags"), json!(numbers));
        fields.insert(format!("{verb}_flags_s"), json!(words));
    }
}

fn set_options(op: &SetOptionsOp, fields: &mut Map<String, Value>) {
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put(
        "inflation_dest",
        op.inflation_dest.as_ref().map(|id| json!(text::account(id))),
    );
    put("master_key_weight", op.master_weight.map(|w| json!(w)));
    put("low_threshold", op.low_threshold.map(|w| json!(w)));
    put("med_threshold", op.med_threshold.map(|w| json!(w)));
    put("high_threshold", op.high_threshold.map(|w| json!(w)));
    put(
        "home_domain",
        op.home_domain.as_ref().map(|d| json!(d.0.to_utf8_string_lossy())),
    );
    put("signer_key", op.signer.as_ref().map(|s| json!(text::signer(&s.key).0)));
    put("signer_weight", op.signer.as_ref().map(|s| json!(s.weight)));
    flags("set", op.set_flags.unwrap_or(0), &ACCOUNT_FLAG_NAMES, fields);
    flags("clear", op.clear_flags.unwrap_or(0), &ACCOUNT_FLAG_NAMES, fields);
}

/// A claimant and when it may claim.
pub fn claimant(claimant: &Claimant) -> Value {
    let Claimant::ClaimantTypeV0(claimant) = claimant;
    json!({ "destination": text::account(&claimant.destination), "predicate": predicate(&claimant.predicate) })
}

fn predicate(p: &ClaimPredicate) -> Value {
    match p {
        ClaimPredicate::Unconditional => json!({ "unconditional": true }),
        ClaimPredicate::And(list) => json!({ "and": list.iter().map(predicate).collect::<Vec<_>>() }),
        ClaimPredicate::Or(list) => json!({ "or": list.iter().map(predicate).collect::<Vec<_>>() }),
        ClaimPredicate::Not(inner) => json!({ "not": inner.as_ref().map(|p| predicate(p)) }),
        ClaimPredicate::BeforeAbsoluteTime(t) => {
            let when = u64::try_from(*t).map(text::time).unwrap_or_default();
            json!({ "abs_before": when, "abs_before_epoch": t.to_string() })
        }
        ClaimPredicate::BeforeRelativeTime(t) => json!({ "rel_before": t.to_string() }),
    }
}
