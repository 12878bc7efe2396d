//! Ledger entries, and layers of changes over them.
//!
//! A [`Txn`] is a stack of layers over a closed [`State`], as stellar-core's nested `LedgerTxn`: an operation writes into the top
//! layer, which is then committed into the one below or dropped. What a layer changed, with the state before, is the
//! transaction meta that Horizon and the oracle show.

use std::collections::BTreeMap;

use stellar_xdr::{
    AccountEntry, AccountId, Asset, ClaimableBalanceEntry, ClaimableBalanceId, DataEntry, LedgerEntry,
    LedgerEntryChange, LedgerEntryChanges, LedgerEntryData, LedgerEntryExt, LedgerHeader, LedgerKey, LedgerKeyAccount,
    LedgerKeyClaimableBalance, LedgerKeyData, LedgerKeyTrustLine, String64, TrustLineAsset, TrustLineEntry, VecM,
};

/// A closed ledger: its header and every entry.
#[derive(Clone, Debug)]
pub struct State {
    /// The header of the last closed ledger.
    pub header: LedgerHeader,
    /// Every entry of the ledger by its key.
    pub entries: BTreeMap<LedgerKey, LedgerEntry>,
}

impl State {
    /// Becomes the ledger that was closed over it.
    pub fn take_over(&mut self, header: LedgerHeader, changes: BTreeMap<LedgerKey, Option<LedgerEntry>>) {
        self.header = header;
        for (key, entry) in changes {
            match entry {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
    }
}

/// What one layer changed.
#[derive(Clone, Debug, Default)]
struct Layer {
    /// The new version, or `None` where the entry was removed.
    changes: BTreeMap<LedgerKey, Option<LedgerEntry>>,
    /// Open sponsorships, sponsored account to sponsor; `Some` once this layer changed them.
    sponsorships: Option<BTreeMap<AccountId, AccountId>>,
}

/// Layers of changes over a closed ledger.
#[derive(Debug)]
pub struct Txn<'s> {
    base: &'s State,
    /// The header as the transactions see it: the next ledger's sequence and close time.
    pub header: LedgerHeader,
    layers: Vec<Layer>,
}

impl<'s> Txn<'s> {
    /// Starts with one empty layer over `base`; `header` is what the transactions are to see.
    pub fn new(base: &'s State, header: LedgerHeader) -> Self {
        Self {
            base,
            header,
            layers: vec![Layer::default()],
        }
    }

    /// Opens a layer.
    pub fn push(&mut self) {
        self.layers.push(Layer::default());
    }

    /// Merges the top layer into the one below.
    pub fn commit(&mut self) {
        if self.layers.len() < 2 {
            return;
        }
        if let Some(top) = self.layers.pop() {
            let below = self.top();
            below.changes.extend(top.changes);
            if top.sponsorships.is_some() {
                below.sponsorships = top.sponsorships;
            }
        }
    }

    /// Drops the top layer with all it changed.
    pub fn rollback(&mut self) {
        if self.layers.len() > 1 {
            self.layers.pop();
        }
    }

    fn top(&mut self) -> &mut Layer {
        self.layers
            .last_mut()
            .expect("a Txn starts with one layer and never pops the last")
    }

    /// Reads an entry without recording that it was read.
    pub fn peek(&self, key: &LedgerKey) -> Option<&LedgerEntry> {
        for layer in self.layers.iter().rev() {
            if let Some(found) = layer.changes.get(key) {
                return found.as_ref();
            }
        }
        self.base.entries.get(key)
    }

    /// Reads an entry for writing. Like stellar-core's `load` this marks it as modified in this ledger, even if nothing is
    /// written afterwards.
    pub fn load(&mut self, key: &LedgerKey) -> Option<LedgerEntry> {
        let mut entry = self.peek(key)?.clone();
        entry.last_modified_ledger_seq = self.header.ledger_seq;
        self.top().changes.insert(key.clone(), Some(entry.clone()));
        Some(entry)
    }

    /// Writes a new or changed entry.
    pub fn store(&mut self, mut entry: LedgerEntry) {
        entry.last_modified_ledger_seq = self.header.ledger_seq;
        let key = entry.to_key();
        self.top().changes.insert(key, Some(entry));
    }

    /// Removes an entry.
    pub fn erase(&mut self, key: &LedgerKey) {
        let created_here = self.layers.len() == 1 && !self.base.entries.contains_key(key);
        if created_here {
            self.top().changes.remove(key);
        } else {
            self.top().changes.insert(key.clone(), None);
        }
    }

    /// What the top layer changed, against the layers below: `State` before each `Updated` or `Removed`, in key order.
    pub fn changes(&self) -> LedgerEntryChanges {
        let Some((top, below)) = self.layers.split_last() else {
            return LedgerEntryChanges(VecM::default());
        };
        let mut out = Vec::new();
        for (key, now) in &top.changes {
            let before = below
                .iter()
                .rev()
                .find_map(|layer| layer.changes.get(key))
                .map_or_else(|| self.base.entries.get(key), Option::as_ref);
            match (before, now) {
                (Some(before), Some(now)) => {
                    out.push(LedgerEntryChange::State(before.clone()));
                    out.push(LedgerEntryChange::Updated(now.clone()));
                }
                (Some(before), None) => {
                    out.push(LedgerEntryChange::State(before.clone()));
                    out.push(LedgerEntryChange::Removed(key.clone()));
                }
                (None, Some(now)) => out.push(LedgerEntryChange::Created(now.clone())),
                (None, None) => {}
            }
        }
        LedgerEntryChanges(out.try_into().unwrap_or_default())
    }

    /// Ends the layers: every changed key with its new version (`None`: removed), and the header.
    pub fn finish(mut self) -> (LedgerHeader, BTreeMap<LedgerKey, Option<LedgerEntry>>) {
        while self.layers.len() > 1 {
            self.commit();
        }
        let changes = std::mem::take(&mut self.top().changes);
        (self.header, changes)
    }

    // --- open sponsorships -------------------------------------------------------------------------------------------

    fn sponsorships(&self) -> Option<&BTreeMap<AccountId, AccountId>> {
        self.layers.iter().rev().find_map(|layer| layer.sponsorships.as_ref())
    }

    /// Who sponsors the reserves of `account` at the moment, between its begin and end operations.
    pub fn sponsor_of(&self, account: &AccountId) -> Option<AccountId> {
        self.sponsorships()?.get(account).cloned()
    }

    /// Whether `account` sponsors anybody at the moment.
    pub fn is_sponsoring(&self, account: &AccountId) -> bool {
        self.sponsorships()
            .is_some_and(|open| open.values().any(|sponsor| sponsor == account))
    }

    /// Whether any sponsorship was begun and not ended.
    pub fn any_sponsorship(&self) -> bool {
        self.sponsorships().is_some_and(|open| !open.is_empty())
    }

    /// Begins (`Some`) or ends (`None`) the sponsorship of `account`.
    pub fn set_sponsor(&mut self, account: &AccountId, sponsor: Option<AccountId>) {
        let mut open = self.sponsorships().cloned().unwrap_or_default();
        match sponsor {
            Some(sponsor) => open.insert(account.clone(), sponsor),
            None => open.remove(account),
        };
        self.top().sponsorships = Some(open);
    }

    /// Forgets open sponsorships: they never outlive their transaction.
    pub fn clear_sponsorships(&mut self) {
        for layer in &mut self.layers {
            layer.sponsorships = None;
        }
    }

    // --- entries by type ---------------------------------------------------------------------------------------------

    /// Reads an account without recording it.
    pub fn peek_account(&self, id: &AccountId) -> Option<&AccountEntry> {
        match &self.peek(&account_key(id))?.data {
            LedgerEntryData::Account(account) => Some(account),
            _ => None,
        }
    }

    /// Loads an account for writing: the whole entry, and the account in it.
    pub fn load_account(&mut self, id: &AccountId) -> Option<Loaded<AccountEntry>> {
        let entry = self.load(&account_key(id))?;
        match entry.data {
            LedgerEntryData::Account(data) => Some(Loaded { ext: entry.ext, data }),
            _ => None,
        }
    }

    /// Reads a trust line without recording it.
    pub fn peek_trust_line(&self, id: &AccountId, asset: &Asset) -> Option<&TrustLineEntry> {
        match &self.peek(&trust_line_key(id, asset))?.data {
            LedgerEntryData::Trustline(line) => Some(line),
            _ => None,
        }
    }

    /// Loads a trust line for writing.
    pub fn load_trust_line(&mut self, id: &AccountId, asset: &Asset) -> Option<Loaded<TrustLineEntry>> {
        let entry = self.load(&trust_line_key(id, asset))?;
        match entry.data {
            LedgerEntryData::Trustline(data) => Some(Loaded { ext: entry.ext, data }),
            _ => None,
        }
    }

    /// Loads a data entry for writing.
    pub fn load_data(&mut self, id: &AccountId, name: &String64) -> Option<Loaded<DataEntry>> {
        let entry = self.load(&data_key(id, name))?;
        match entry.data {
            LedgerEntryData::Data(data) => Some(Loaded { ext: entry.ext, data }),
            _ => None,
        }
    }

    /// Loads a claimable balance for writing.
    pub fn load_claimable(&mut self, id: &ClaimableBalanceId) -> Option<Loaded<ClaimableBalanceEntry>> {
        let entry = self.load(&claimable_key(id))?;
        match entry.data {
            LedgerEntryData::ClaimableBalance(data) => Some(Loaded { ext: entry.ext, data }),
            _ => None,
        }
    }

    /// Writes an account, trust line, data entry or claimable balance back.
    pub fn save<T: IntoEntryData>(&mut self, loaded: Loaded<T>) {
        self.store(loaded.into_entry());
    }
}

/// An entry taken out for writing: its own extension (the sponsor) and its data.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// Names the sponsor of the entry's reserve, if any.
    pub ext: LedgerEntryExt,
    /// The account, trust line, data entry or claimable balance.
    pub data: T,
}

impl<T: IntoEntryData> Loaded<T> {
    /// A new entry, not sponsored.
    pub fn new(data: T) -> Self {
        Self {
            ext: LedgerEntryExt::V0,
            data,
        }
    }

    /// Back to a ledger entry; the ledger it was modified in is filled in when it is stored.
    pub fn into_entry(self) -> LedgerEntry {
        LedgerEntry {
            last_modified_ledger_seq: 0,
            data: self.data.into_entry_data(),
            ext: self.ext,
        }
    }
}

/// The kinds of entry this ledger keeps.
pub trait IntoEntryData {
    /// Wraps the entry.
    fn into_entry_data(self) -> LedgerEntryData;
}

impl IntoEntryData for AccountEntry {
    fn into_entry_data(self) -> LedgerEntryData {
        LedgerEntryData::Account(self)
    }
}
impl IntoEntryData for TrustLineEntry {
    fn into_entry_data(self) -> LedgerEntryData {
        LedgerEntryData::Trustline(self)
    }
}
impl IntoEntryData for DataEntry {
    fn into_entry_data(self) -> LedgerEntryData {
        LedgerEntryData::Data(self)
    }
}
impl IntoEntryData for ClaimableBalanceEntry {
    fn into_entry_data(self) -> LedgerEntryData {
        LedgerEntryData::ClaimableBalance(self)
    }
}

/// The key of an account.
pub fn account_key(id: &AccountId) -> LedgerKey {
    LedgerKey::Account(LedgerKeyAccount { account_id: id.clone() })
}

/// The key of a trust line.
pub fn trust_line_key(id: &AccountId, asset: &Asset) -> LedgerKey {
    LedgerKey::Trustline(LedgerKeyTrustLine {
        account_id: id.clone(),
        asset: trust_line_asset(asset),
    })
}

/// The key of a data entry.
pub fn data_key(id: &AccountId, name: &String64) -> LedgerKey {
    LedgerKey::Data(LedgerKeyData {
        account_id: id.clone(),
        data_name: name.clone(),
    })
}

/// The key of a claimable balance.
pub fn claimable_key(id: &ClaimableBalanceId) -> LedgerKey {
    LedgerKey::ClaimableBalance(LedgerKeyClaimableBalance { balance_id: id.clone() })
}

/// An asset as trust lines name it.
pub fn trust_line_asset(asset: &Asset) -> TrustLineAsset {
    match asset {
        Asset::Native => TrustLineAsset::Native,
        Asset::CreditAlphanum4(a) => TrustLineAsset::CreditAlphanum4(a.clone()),
        Asset::CreditAlphanum12(a) => TrustLineAsset::CreditAlphanum12(a.clone()),
    }
}
