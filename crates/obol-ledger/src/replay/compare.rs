//! Both sides of a replay, submission by submission.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;
use stellar_xdr::{
    LedgerEntry, LedgerEntryChange, LedgerEntryChanges, LedgerEntryData, LedgerHeader, LedgerKey, Limits,
    TransactionMeta, TransactionResult, TrustLineAsset, WriteXdr,
};

use super::recording::{Recorded, Recording, Status, Submitted};
use super::run::{Answer, Answers, Applied};
use super::{AccountAfter, LedgerReport, Report, SubmissionReport};
use crate::core::close::TransactionSet;
use crate::core::transaction::Frame;
use crate::text;

/// What kind of thing differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The answer to the submission.
    Status,
    /// The result XDR.
    Result,
    /// The fee.
    Fee,
    /// A sequence number.
    Sequence,
    /// A balance.
    Balance,
    /// An entry, or that it changed at all.
    Entry,
    /// A field of a ledger's header.
    Header,
    /// The order of application.
    Order,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Result => "result",
            Self::Fee => "fee",
            Self::Sequence => "sequence number",
            Self::Balance => "balance",
            Self::Entry => "entry",
            Self::Header => "header",
            Self::Order => "order",
        })
    }
}

/// Something that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What.
    pub what: What,
    /// Where: which entry, in which part of the transaction.
    #[serde(rename = "where")]
    pub place: String,
    /// What this ledger says; XDR in base64.
    pub ours: String,
    /// What the recording says.
    pub recorded: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.place.is_empty() { "" } else { " of " };
        let (what, place, ours, recorded) = (self.what, &self.place, &self.ours, &self.recorded);
        write!(f, "{what}{of}{place}: ours {ours}, recorded {recorded}")
    }
}

#[derive(Default)]
struct List(Vec<Difference>);

impl List {
    fn note(&mut self, what: What, place: impl Into<String>, ours: impl Into<String>, recorded: impl Into<String>) {
        self.0.push(Difference {
            what,
            place: place.into(),
            ours: ours.into(),
            recorded: recorded.into(),
        });
    }

    fn check<T: PartialEq + ToString>(&mut self, what: What, place: &str, ours: &T, recorded: &T) {
        if ours != recorded {
            self.note(what, place, ours.to_string(), recorded.to_string());
        }
    }

    fn results(&mut self, ours: Option<&TransactionResult>, recorded: Option<&TransactionResult>) {
        if ours == recorded {
            return;
        }
        let name = |result: Option<&TransactionResult>| {
            result.map_or_else(|| "none".to_owned(), |r| format!("{} {}", r.result.name(), base64(r)))
        };
        self.note(What::Result, "", name(ours), name(recorded));
        if let (Some(ours), Some(recorded)) = (ours, recorded) {
            self.check(What::Fee, "the result", &ours.fee_charged, &recorded.fee_charged);
        }
    }
}

fn base64(value: &impl WriteXdr) -> String {
    value.to_xdr_base64(Limits::none()).unwrap_or_default()
}

/// Compares everything. `answers` are to the submissions of `recording`, in its order.
pub(super) fn compare(recording: &Recording, answers: &Answers) -> Report {
    let mut recorded: HashMap<[u8; 32], (u32, u32, &Recorded)> = HashMap::new();
    for (ledger, list) in &recording.transactions {
        for (index, one) in list.iter().enumerate() {
            recorded.insert(one.frame.hash(), (*ledger, index as u32 + 1, one));
        }
    }
    let mut submissions = Vec::with_capacity(recording.submissions.len());
    for (index, (theirs, ours)) in recording.submissions.iter().zip(&answers.submissions).enumerate() {
        // A transaction that was submitted again is compared where it was first.
        let applied = recorded.remove(&theirs.frame.hash());
        submissions.push(submission(index, theirs, applied, ours));
    }
    let ledgers: Vec<LedgerReport> = answers
        .ledgers
        .iter()
        .filter_map(|(sequence, ours)| {
            let theirs = recording.headers.get(sequence)?;
            let list = recording.transactions.get(sequence).map_or(&[][..], Vec::as_slice);
            let mut differences = List::default();
            header(&mut differences, &ours.header, theirs);
            let order =
                |hashes: &mut dyn Iterator<Item = [u8; 32]>| hashes.map(hex::encode).collect::<Vec<_>>().join(" ");
            // Until protocol 19 a set's hash follows from nothing but what is recorded. Later ones commit to a base fee as well.
            let before = recording.headers.get(&sequence.saturating_sub(1));
            if let Some(before) = before.filter(|before| before.ledger_version < 20) {
                let frames: Vec<Frame> = list.iter().map(|one| one.frame.clone()).collect();
                let previous = theirs.previous_ledger_hash.0;
                let set = TransactionSet::new(before.ledger_version, previous, &frames, before.base_fee);
                let recorded = hex::encode(theirs.scp_value.tx_set_hash.0);
                differences.check(What::Header, "hash of the set", &hex::encode(set.hash()), &recorded);
            }
            // Contracts are ordered by other rules than this one; up to protocol 22 the rule is known to hold.
            if theirs.ledger_version < 23 {
                let recorded = order(&mut list.iter().map(|one| one.frame.hash()));
                let ours = order(&mut ours.order.iter().copied());
                differences.check(What::Order, "application", &ours, &recorded);
            }
            Some(LedgerReport {
                sequence: *sequence,
                transactions: list.len(),
                agrees: differences.0.is_empty(),
                differences: differences.0,
            })
        })
        .collect();
    Report {
        total: recording.submissions.len(),
        agree: submissions.iter().filter(|one| one.agrees).count(),
        ledgers_total: recording.headers.len().saturating_sub(1),
        ledgers_agree: ledgers.iter().filter(|one| one.agrees).count(),
        submissions,
        ledgers,
    }
}

fn header(out: &mut List, ours: &LedgerHeader, theirs: &LedgerHeader) {
    let mut number = |name: &str, ours: u64, theirs: u64| out.check(What::Header, name, &ours, &theirs);
    number(
        "protocol version",
        ours.ledger_version.into(),
        theirs.ledger_version.into(),
    );
    number("base fee", ours.base_fee.into(), theirs.base_fee.into());
    number("base reserve", ours.base_reserve.into(), theirs.base_reserve.into());
    number(
        "largest set",
        ours.max_tx_set_size.into(),
        theirs.max_tx_set_size.into(),
    );
    number("id pool", ours.id_pool, theirs.id_pool);
    out.check(What::Header, "total coins", &ours.total_coins, &theirs.total_coins);
    out.check(What::Header, "fee pool", &ours.fee_pool, &theirs.fee_pool);
    let hash = |header: &LedgerHeader| hex::encode(header.tx_set_result_hash.0);
    out.check(What::Header, "hash over results", &hash(ours), &hash(theirs));
}

fn submission(
    index: usize,
    theirs: &Submitted,
    recorded: Option<(u32, u32, &Recorded)>,
    ours: &Answer,
) -> SubmissionReport {
    let mut out = List::default();
    let mut missing = Vec::new();
    let name = |status: Status| {
        serde_json::to_value(status)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
    };
    match theirs.status {
        None => missing.push("status"),
        Some(status) if status != ours.status => out.note(
            What::Status,
            "",
            name(ours.status).unwrap_or_default(),
            name(status).unwrap_or_default(),
        ),
        Some(_) => {}
    }
    if theirs.error.is_some() {
        out.results(ours.error.as_ref(), theirs.error.as_ref());
    } else if theirs.status == Some(Status::Error) || ours.status == Status::Error {
        missing.push("error result");
    }
    match (recorded, &ours.applied) {
        (Some((ledger, place, recorded)), Some(applied)) => {
            out.check(What::Order, "the ledger", &applied.ledger, &ledger);
            out.check(What::Order, "the place in it", &applied.place, &place);
            transaction(&mut out, &mut missing, recorded, applied);
        }
        (Some((ledger, ..)), None) => out.note(What::Order, "the ledger", "none", ledger.to_string()),
        (None, Some(applied)) => out.note(What::Order, "the ledger", applied.ledger.to_string(), "none"),
        (None, None) if theirs.status == Some(Status::Pending) => missing.push("what became of it"),
        (None, None) => {}
    }
    let applied = ours.applied.as_ref();
    let result = applied.map(|a| &a.result).or(ours.error.as_ref());
    SubmissionReport {
        index,
        hash: hex::encode(theirs.frame.hash()),
        lcl: theirs.lcl,
        status: ours.status,
        result_xdr: result.map(base64),
        fee_charged: result.map(|r| r.fee_charged),
        ledger: applied.map(|a| a.ledger),
        place: applied.map(|a| a.place),
        fee_changes_xdr: applied.map(|a| base64(&a.fee_changes)),
        meta_xdr: applied.map(|a| base64(&a.meta)),
        accounts: applied.map(accounts_after).unwrap_or_default(),
        agrees: missing.is_empty() && out.0.is_empty(),
        missing,
        differences: out.0,
    }
}

fn transaction(out: &mut List, missing: &mut Vec<&'static str>, recorded: &Recorded, ours: &Applied) {
    match &recorded.result {
        Some(result) => out.results(Some(&ours.result), Some(result)),
        None => missing.push("result"),
    }
    match &recorded.fee_changes {
        Some(changes) => compare_changes(out, "taking the fee", &ours.fee_changes, changes),
        None => missing.push("fee changes"),
    }
    let Some(meta) = &recorded.meta else {
        missing.push("meta");
        return;
    };
    out.check(
        What::Entry,
        "the meta's version",
        &meta_version(&ours.meta),
        &meta_version(meta),
    );
    let (ours, theirs) = (parts(&ours.meta), parts(meta));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let empty = LedgerEntryChanges::default();
    for name in names {
        let of = |side: &BTreeMap<String, LedgerEntryChanges>| side.get(name).unwrap_or(&empty).clone();
        compare_changes(out, name, &of(&ours), &of(&theirs));
    }
    // A failed transaction has no operations in its meta, which is not the same as operations that changed nothing.
    out.check(
        What::Entry,
        "the number of parts of the meta",
        &ours.len(),
        &theirs.len(),
    );
}

fn meta_version(meta: &TransactionMeta) -> u32 {
    match meta {
        TransactionMeta::V0(_) => 0,
        TransactionMeta::V1(_) => 1,
        TransactionMeta::V2(_) => 2,
        TransactionMeta::V3(_) => 3,
        TransactionMeta::V4(_) => 4,
    }
}

/// The changes of a meta, part by part.
fn parts(meta: &TransactionMeta) -> BTreeMap<String, LedgerEntryChanges> {
    let none = LedgerEntryChanges::default();
    let (before, after) = match meta {
        TransactionMeta::V0(_) => (&none, &none),
        TransactionMeta::V1(v1) => (&v1.tx_changes, &none),
        TransactionMeta::V2(v2) => (&v2.tx_changes_before, &v2.tx_changes_after),
        TransactionMeta::V3(v3) => (&v3.tx_changes_before, &v3.tx_changes_after),
        TransactionMeta::V4(v4) => (&v4.tx_changes_before, &v4.tx_changes_after),
    };
    let mut out = BTreeMap::from([
        ("what precedes the operations".to_owned(), before.clone()),
        ("what follows the operations".to_owned(), after.clone()),
    ]);
    for (index, changes) in crate::history::operation_changes(meta).into_iter().enumerate() {
        out.insert(format!("operation {}", index + 1), changes.clone());
    }
    out
}

/// One entry before and after.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    before: Option<LedgerEntry>,
    after: Option<LedgerEntry>,
}

/// The changes by entry. stellar-core lists them in the order of a hash map, so theirs means nothing.
fn by_entry(changes: &LedgerEntryChanges) -> BTreeMap<LedgerKey, Vec<Change>> {
    let mut out: BTreeMap<LedgerKey, Vec<Change>> = BTreeMap::new();
    let mut before: Option<LedgerEntry> = None;
    for change in changes.0.iter() {
        let (key, after) = match change {
            LedgerEntryChange::State(entry) => {
                before = Some(entry.clone());
                continue;
            }
            LedgerEntryChange::Created(entry)
            | LedgerEntryChange::Updated(entry)
            | LedgerEntryChange::Restored(entry) => (entry.to_key(), Some(entry.clone())),
            LedgerEntryChange::Removed(key) => (key.clone(), None),
        };
        out.entry(key).or_default().push(Change {
            before: before.take(),
            after,
        });
    }
    out
}

fn compare_changes(out: &mut List, part: &str, ours: &LedgerEntryChanges, theirs: &LedgerEntryChanges) {
    let (ours, theirs) = (by_entry(ours), by_entry(theirs));
    let keys: BTreeSet<&LedgerKey> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let of = |side: &BTreeMap<LedgerKey, Vec<Change>>| side.get(key).cloned().unwrap_or_default();
        let (ours, theirs) = (of(&ours), of(&theirs));
        for index in 0..ours.len().max(theirs.len()) {
            let place = format!("{} in {part}", name_of(key));
            match (ours.get(index), theirs.get(index)) {
                (Some(a), Some(b)) => {
                    compare_entries(out, &format!("{place}, before"), a.before.as_ref(), b.before.as_ref());
                    compare_entries(out, &place, a.after.as_ref(), b.after.as_ref());
                }
                (a, b) => {
                    let said = |change: Option<&Change>| {
                        change.map_or_else(
                            || "unchanged".to_owned(),
                            |c| c.after.as_ref().map_or_else(|| "removed".to_owned(), base64),
                        )
                    };
                    out.note(What::Entry, place, said(a), said(b));
                }
            }
        }
    }
}

fn compare_entries(out: &mut List, place: &str, ours: Option<&LedgerEntry>, theirs: Option<&LedgerEntry>) {
    if ours == theirs {
        return;
    }
    let (Some(a), Some(b)) = (ours, theirs) else {
        let said = |entry: Option<&LedgerEntry>| entry.map_or_else(|| "none".to_owned(), base64);
        out.note(What::Entry, place, said(ours), said(theirs));
        return;
    };
    // What people look for first is named; the rest is told as a whole.
    let mut same = a.clone();
    match (&mut same.data, &b.data) {
        (LedgerEntryData::Account(a), LedgerEntryData::Account(b)) => {
            out.check(What::Sequence, place, &a.seq_num.0, &b.seq_num.0);
            out.check(What::Balance, place, &a.balance, &b.balance);
            (a.seq_num, a.balance) = (b.seq_num.clone(), b.balance);
        }
        (LedgerEntryData::Trustline(a), LedgerEntryData::Trustline(b)) => {
            out.check(What::Balance, place, &a.balance, &b.balance);
            a.balance = b.balance;
        }
        (LedgerEntryData::ClaimableBalance(a), LedgerEntryData::ClaimableBalance(b)) => {
            out.check(What::Balance, place, &a.amount, &b.amount);
            a.amount = b.amount;
        }
        _ => {}
    }
    if same != *b {
        out.note(What::Entry, place, base64(a), base64(b));
    }
}

fn line_asset(asset: &TrustLineAsset) -> String {
    use stellar_xdr::Asset;
    match asset {
        TrustLineAsset::Native => "native".to_owned(),
        TrustLineAsset::CreditAlphanum4(a) => text::asset(&Asset::CreditAlphanum4(a.clone())),
        TrustLineAsset::CreditAlphanum12(a) => text::asset(&Asset::CreditAlphanum12(a.clone())),
        TrustLineAsset::PoolShare(pool) => format!("pool {}", hex::encode(pool.0.0)),
    }
}

fn name_of(key: &LedgerKey) -> String {
    match key {
        LedgerKey::Account(key) => text::account(&key.account_id),
        LedgerKey::Trustline(key) => format!("{} {}", text::account(&key.account_id), line_asset(&key.asset)),
        LedgerKey::Data(key) => {
            let name = key.data_name.0.to_utf8_string_lossy();
            format!("{} data {name:?}", text::account(&key.account_id))
        }
        LedgerKey::ClaimableBalance(key) => {
            let id = key.balance_id.to_xdr(Limits::none()).unwrap_or_default();
            format!("claimable balance {}", hex::encode(id))
        }
        other => base64(other),
    }
}

/// The accounts a transaction touched, as it left them.
fn accounts_after(applied: &Applied) -> BTreeMap<String, AccountAfter> {
    let mut out: BTreeMap<String, AccountAfter> = BTreeMap::new();
    let meta = parts(&applied.meta);
    let ordered = std::iter::once(&applied.fee_changes)
        .chain(meta.get("what precedes the operations"))
        .chain(crate::history::operation_changes(&applied.meta))
        .chain(meta.get("what follows the operations"));
    for change in ordered.flat_map(|changes| changes.0.iter()) {
        match change {
            LedgerEntryChange::Created(entry) | LedgerEntryChange::Updated(entry) => match &entry.data {
                LedgerEntryData::Account(account) => {
                    let after = out.entry(text::account(&account.account_id)).or_default();
                    after.sequence = Some(account.seq_num.0);
                    after.balances.insert("native".to_owned(), account.balance);
                }
                LedgerEntryData::Trustline(line) => {
                    let after = out.entry(text::account(&line.account_id)).or_default();
                    after.balances.insert(line_asset(&line.asset), line.balance);
                }
                _ => {}
            },
            LedgerEntryChange::Removed(LedgerKey::Account(key)) => {
                out.remove(&text::account(&key.account_id));
            }
            LedgerEntryChange::Removed(LedgerKey::Trustline(key)) => {
                if let Some(after) = out.get_mut(&text::account(&key.account_id)) {
                    after.balances.remove(&line_asset(&key.asset));
                }
            }
            _ => {}
        }
    }
    out
}
