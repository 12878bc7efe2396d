//! Effects: what an operation did, to whom, derived from the operation and its recorded changes.

use serde_json::{Map, Value, json};
use stellar_xdr::{
    AccountEntry, AccountId, Asset, Claimant, DataEntry, LedgerEntry, LedgerEntryChange, LedgerEntryData, Limits,
    OperationBody, ReadXdr, SignerKey, TransactionEnvelope, TransactionMeta, TransactionResult, TrustLineAsset,
    TrustLineEntry, WriteXdr,
};

use crate::audit::{merged_balance, operations_of};
use crate::core::account::{
    AUTH_CLAWBACK, AUTH_IMMUTABLE, AUTH_REQUIRED, AUTH_REVOCABLE, LINE_AUTHORIZED, LINE_CLAWBACK, LINE_MAINTAIN,
    raw_key,
};
use crate::history::{TransactionRecord, operation_changes};
use crate::store::StoreError;
use crate::text;

/// One effect of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Its place among the operation's, from 1.
    pub number: u32,
    /// Whom it concerns.
    pub account: [u8; 32],
    /// Horizon's name.
    pub kind: &'static str,
    /// Horizon's number for it.
    pub kind_number: u32,
    /// Its further fields.
    pub fields: Map<String, Value>,
}

struct List(Vec<Effect>);

impl List {
    fn push(&mut self, account: &AccountId, (kind, kind_number): (&'static str, u32), fields: Value) {
        let number = self.0.len() as u32 + 1;
        let fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        self.0.push(Effect {
            number,
            account: *raw_key(account),
            kind,
            kind_number,
            fields,
        });
    }
}

const CREATED: (&str, u32) = ("account_created", 0);
const REMOVED: (&str, u32) = ("account_removed", 1);
const CREDITED: (&str, u32) = ("account_credited", 2);
const DEBITED: (&str, u32) = ("account_debited", 3);
const THRESHOLDS: (&str, u32) = ("account_thresholds_updated", 4);
const HOME_DOMAIN: (&str, u32) = ("account_home_domain_updated", 5);
const FLAGS: (&str, u32) = ("account_flags_updated", 6);
const SIGNER_CREATED: (&str, u32) = ("signer_created", 10);
const SIGNER_REMOVED: (&str, u32) = ("signer_removed", 11);
const SIGNER_UPDATED: (&str, u32) = ("signer_updated", 12);
const LINE_CREATED: (&str, u32) = ("trustline_created", 20);
const LINE_REMOVED: (&str, u32) = ("trustline_removed", 21);
const LINE_UPDATED: (&str, u32) = ("trustline_updated", 22);
const LINE_FLAGS: (&str, u32) = ("trustline_flags_updated", 26);
const DATA_CREATED: (&str, u32) = ("data_created", 40);
const DATA_REMOVED: (&str, u32) = ("data_removed", 41);
const DATA_UPDATED: (&str, u32) = ("data_updated", 42);
const SEQUENCE_BUMPED: (&str, u32) = ("sequence_bumped", 43);
const CLAIMABLE_CREATED: (&str, u32) = ("claimable_balance_created", 50);
const CLAIMANT_CREATED: (&str, u32) = ("claimable_balance_claimant_created", 51);
const CLAIMED: (&str, u32) = ("claimable_balance_claimed", 52);

fn money(asset: &Asset, amount: i64) -> Value {
    let (kind, parts) = text::asset_parts(asset);
    let mut out = json!({ "amount": text::amount(amount), "asset_type": kind });
    if let Some((code, issuer)) = parts {
        out["asset_code"] = json!(code);
        out["asset_issuer"] = json!(issuer);
    }
    out
}

/// Before and after of each changed entry.
fn pairs(changes: &[LedgerEntryChange]) -> Vec<(Option<&LedgerEntry>, Option<&LedgerEntry>)> {
    let mut out = Vec::new();
    let mut before = None;
    for change in changes {
        match change {
            LedgerEntryChange::State(entry) => before = Some(entry),
            LedgerEntryChange::Created(entry) | LedgerEntryChange::Restored(entry) => out.push((None, Some(entry))),
            LedgerEntryChange::Updated(entry) => out.push((before.take(), Some(entry))),
            LedgerEntryChange::Removed(_) => out.push((before.take(), None)),
        }
    }
    out
}

/// The effects of the operation at `index` of a recorded transaction; none if it failed.
pub fn effects(record: &TransactionRecord, index: usize) -> Result<Vec<Effect>, StoreError> {
    let mut out = List(Vec::new());
    if !record.successful {
        return Ok(out.0);
    }
    let damaged = |what| move |_| StoreError::Damaged { what };
    let envelope = TransactionEnvelope::from_xdr(&record.envelope, Limits::none()).map_err(damaged("an envelope"))?;
    let meta = TransactionMeta::from_xdr(&record.meta, Limits::none()).map_err(damaged("a transaction's meta"))?;
    let result = TransactionResult::from_xdr(&record.result, Limits::none()).map_err(damaged("a result"))?;
    let Some((tx, operation)) = text::inner_transaction(&envelope).and_then(|tx| Some((tx, tx.operations.get(index)?)))
    else {
        return Ok(out.0);
    };
    let source = operation
        .source_account
        .clone()
        .unwrap_or_else(|| tx.source_account.clone())
        .account_id();
    let all = operation_changes(&meta);
    let changes = all.get(index).map(|c| pairs(c.0.as_slice())).unwrap_or_default();
    match &operation.body {
        OperationBody::CreateAccount(op) => {
            out.push(
                &op.destination,
                CREATED,
                json!({ "starting_balance": text::amount(op.starting_balance) }),
            );
            out.push(&source, DEBITED, money(&Asset::Native, op.starting_balance));
            let key = text::account(&op.destination);
            out.push(
                &op.destination,
                SIGNER_CREATED,
                json!({ "weight": 1, "public_key": key, "key": key }),
            );
        }
        OperationBody::Payment(op) => {
            out.push(
                &op.destination.clone().account_id(),
                CREDITED,
                money(&op.asset, op.amount),
            );
            out.push(&source, DEBITED, money(&op.asset, op.amount));
        }
        OperationBody::AccountMerge(to) => {
            let moved = merged_balance(operations_of(&result).and_then(|ops| ops.get(index))).unwrap_or_default();
            out.push(&source, DEBITED, money(&Asset::Native, moved));
            out.push(&to.clone().account_id(), CREDITED, money(&Asset::Native, moved));
            out.push(&source, REMOVED, json!({}));
        }
        OperationBody::Clawback(op) => {
            out.push(&source, CREDITED, money(&op.asset, op.amount));
            out.push(&op.from.clone().account_id(), DEBITED, money(&op.asset, op.amount));
        }
        _ => {}
    }
    for (before, after) in changes {
        entry_effects(&mut out, &source, &operation.body, before, after);
    }
    Ok(out.0)
}

fn entry_effects(
    out: &mut List,
    source: &AccountId,
    body: &OperationBody,
    before: Option<&LedgerEntry>,
    after: Option<&LedgerEntry>,
) {
    let changes_options = matches!(body, OperationBody::SetOptions(_) | OperationBody::BumpSequence(_));
    match (before.map(|e| &e.data), after.map(|e| &e.data)) {
        (Some(LedgerEntryData::Account(before)), Some(LedgerEntryData::Account(after))) if changes_options => {
            account_effects(out, before, after);
        }
        (before, after @ Some(LedgerEntryData::Trustline(_)))
        | (before @ Some(LedgerEntryData::Trustline(_)), after @ None) => {
            line_effects(out, source, body, line(before), line(after));
        }
        (before, after @ Some(LedgerEntryData::Data(_))) | (before @ Some(LedgerEntryData::Data(_)), after @ None) => {
            data_effects(out, data(before), data(after));
        }
        (None, Some(LedgerEntryData::ClaimableBalance(balance))) => {
            let id = hex::encode(balance.balance_id.to_xdr(Limits::none()).unwrap_or_default());
            let asset = text::asset(&balance.asset);
            let amount = text::amount(balance.amount);
            out.push(
                source,
                CLAIMABLE_CREATED,
                json!({ "balance_id": id, "asset": asset, "amount": amount }),
            );
            for Claimant::ClaimantTypeV0(claimant) in &balance.claimants {
                out.push(
                    &claimant.destination,
                    CLAIMANT_CREATED,
                    json!({ "balance_id": id, "asset": asset, "amount": amount }),
                );
            }
            out.push(source, DEBITED, money(&balance.asset, balance.amount));
        }
        (Some(LedgerEntryData::ClaimableBalance(balance)), None) => {
            let id = hex::encode(balance.balance_id.to_xdr(Limits::none()).unwrap_or_default());
            let fields = json!({ "balance_id": id, "asset": text::asset(&balance.asset), "amount": text::amount(balance.amount) });
            out.push(source, CLAIMED, fields);
            out.push(source, CREDITED, money(&balance.asset, balance.amount));
        }
        _ => {}
    }
}

fn line(data: Option<&LedgerEntryData>) -> Option<&TrustLineEntry> {
    match data {
        Some(LedgerEntryData::Trustline(line)) => Some(line),
        _ => None,
    }
}

fn data(data: Option<&LedgerEntryData>) -> Option<&DataEntry> {
    match data {
        Some(LedgerEntryData::Data(data)) => Some(data),
        _ => None,
    }
}

fn account_effects(out: &mut List, before: &AccountEntry, after: &AccountEntry) {
    let id = &after.account_id;
    if before.home_domain != after.home_domain {
        out.push(
            id,
            HOME_DOMAIN,
            json!({ "home_domain": after.home_domain.0.to_utf8_string_lossy() }),
        );
    }
    let ([master, low, medium, high], old) = (after.thresholds.0, before.thresholds.0);
    let [old_master, old_rest @ ..] = old;
    if old_rest != [low, medium, high] {
        out.push(
            id,
            THRESHOLDS,
            json!({ "low_threshold": low, "med_threshold": medium, "high_threshold": high }),
        );
    }
    if before.flags != after.flags {
        let mut fields = Map::new();
        let names = [
            (AUTH_REQUIRED, "auth_required_flag"),
            (AUTH_REVOCABLE, "auth_revocable_flag"),
            (AUTH_IMMUTABLE, "auth_immutable_flag"),
            (AUTH_CLAWBACK, "auth_clawback_enabled_flag"),
        ];
        for (bit, name) in names {
            if (before.flags ^ after.flags) & bit != 0 {
                fields.insert(name.to_owned(), json!(after.flags & bit != 0));
            }
        }
        out.push(id, FLAGS, Value::Object(fields));
    }
    let signers = |account: &AccountEntry, master: u8| -> Vec<(SignerKey, u32)> {
        let own = SignerKey::Ed25519(stellar_xdr::Uint256(*raw_key(&account.account_id)));
        let mut all: Vec<_> = account.signers.iter().map(|s| (s.key.clone(), s.weight)).collect();
        if master > 0 {
            all.push((own, u32::from(master)));
        }
        all
    };
    let (old, new) = (signers(before, old_master), signers(after, master));
    for (key, weight) in &new {
        let text = text::signer(key).0;
        let fields = json!({ "weight": weight, "public_key": text, "key": text });
        match old.iter().find(|(k, _)| k == key) {
            None => out.push(id, SIGNER_CREATED, fields),
            Some((_, was)) if was != weight => out.push(id, SIGNER_UPDATED, fields),
            Some(_) => {}
        }
    }
    for (key, _) in old.iter().filter(|(key, _)| !new.iter().any(|(k, _)| k == key)) {
        let text = text::signer(key).0;
        out.push(
            id,
            SIGNER_REMOVED,
            json!({ "weight": 0, "public_key": text, "key": text }),
        );
    }
    if before.seq_num != after.seq_num {
        out.push(id, SEQUENCE_BUMPED, json!({ "new_seq": after.seq_num.0.to_string() }));
    }
}

fn line_effects(
    out: &mut List,
    source: &AccountId,
    body: &OperationBody,
    before: Option<&TrustLineEntry>,
    after: Option<&TrustLineEntry>,
) {
    let Some(line) = after.or(before) else { return };
    let asset = match &line.asset {
        TrustLineAsset::CreditAlphanum4(a) => Asset::CreditAlphanum4(a.clone()),
        TrustLineAsset::CreditAlphanum12(a) => Asset::CreditAlphanum12(a.clone()),
        TrustLineAsset::Native | TrustLineAsset::PoolShare(_) => return,
    };
    let (kind, parts) = text::asset_parts(&asset);
    let (code, issuer) = parts.unwrap_or_default();
    let mut fields = json!({ "asset_type": kind, "asset_code": code, "asset_issuer": issuer });
    if matches!(body, OperationBody::ChangeTrust(_)) {
        fields["limit"] = json!(text::amount(after.map_or(0, |line| line.limit)));
        let kind = match (before, after) {
            (None, _) => LINE_CREATED,
            (_, None) => LINE_REMOVED,
            _ => LINE_UPDATED,
        };
        out.push(&line.account_id, kind, fields);
        return;
    }
    if let (Some(before), Some(after)) = (before, after)
        && before.flags != after.flags
    {
        fields["trustor"] = json!(text::account(&after.account_id));
        let names = [
            (LINE_AUTHORIZED, "authorized_flag"),
            (LINE_MAINTAIN, "authorized_to_maintain_liabilites_flag"),
            (LINE_CLAWBACK, "clawback_enabled_flag"),
        ];
        for (bit, name) in names {
            if (before.flags ^ after.flags) & bit != 0 {
                fields[name] = json!(after.flags & bit != 0);
            }
        }
        out.push(source, LINE_FLAGS, fields);
    }
}

fn data_effects(out: &mut List, before: Option<&DataEntry>, after: Option<&DataEntry>) {
    let Some(entry) = after.or(before) else { return };
    let name = entry.data_name.0.to_utf8_string_lossy();
    let value = |entry: &DataEntry| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(entry.data_value.0.as_slice())
    };
    match (before, after) {
        (None, Some(after)) => out.push(
            &after.account_id,
            DATA_CREATED,
            json!({ "name": name, "value": value(after) }),
        ),
        (Some(before), None) => out.push(&before.account_id, DATA_REMOVED, json!({ "name": name })),
        (Some(before), Some(after)) if before.data_value != after.data_value => {
            out.push(
                &after.account_id,
                DATA_UPDATED,
                json!({ "name": name, "value": value(after) }),
            );
        }
        _ => {}
    }
}
