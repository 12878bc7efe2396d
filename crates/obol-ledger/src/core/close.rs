//! A set of transactions becomes a ledger.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use stellar_xdr::{
    ExtensionPoint, GeneralizedTransactionSet, Hash, LedgerEntry, LedgerEntryChanges, LedgerHeader, LedgerKey,
    LedgerUpgrade, Limits, OperationMeta, OperationMetaV2, ParallelTxsComponent, TimePoint, TransactionEnvelope,
    TransactionMeta, TransactionMetaV2, TransactionMetaV3, TransactionMetaV4, TransactionPhase, TransactionResult,
    TransactionResultPair, TransactionResultSet, TransactionSetV1, TxSetComponent, TxSetComponentTxsMaybeDiscountedFee,
    UpgradeType, VecM, WriteXdr,
};

use super::state::{State, Txn};
use super::transaction::{Applied, Frame, xdr_hash};

/// A ledger that was closed over a [`State`], not yet written into it.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Its header.
    pub header: LedgerHeader,
    /// Every changed entry, `None` where removed.
    pub changes: BTreeMap<LedgerKey, Option<LedgerEntry>>,
    /// Its transactions in the order of application.
    pub transactions: Vec<ClosedTransaction>,
}

/// A transaction in a closed ledger.
#[derive(Clone, Debug)]
pub struct ClosedTransaction {
    /// The transaction.
    pub frame: Frame,
    /// What became of it.
    pub result: TransactionResult,
    /// The changes of taking the fee.
    pub fee_changes: LedgerEntryChanges,
    /// The changes of applying it.
    pub meta: TransactionMeta,
}

impl ClosedTransaction {
    /// Whether it succeeded.
    pub fn successful(&self) -> bool {
        use stellar_xdr::TransactionResultResult as R;
        matches!(self.result.result, R::TxSuccess(_) | R::TxFeeBumpInnerSuccess(_))
    }
}

/// The hash of a header: what the next header names as its predecessor.
pub fn header_hash(header: &LedgerHeader) -> [u8; 32] {
    xdr_hash(header)
}

/// The header that transactions for the next ledger are checked against: the next sequence, the last close time.
pub fn validation_header(header: &LedgerHeader) -> LedgerHeader {
    LedgerHeader {
        ledger_seq: header.ledger_seq.saturating_add(1),
        ..header.clone()
    }
}

/// Chooses what goes into a ledger of at most `max_operations`, best fee rate first, and the base fee that results: the usual one
/// unless something had to wait, then the lowest rate that made it. Returns (chosen, waiting, base fee).
pub fn choose(mut frames: Vec<Frame>, max_operations: u32, base_fee: u32) -> (Vec<Frame>, Vec<Frame>, u32) {
    let total: i64 = frames.iter().map(Frame::fee_units).sum();
    if total <= i64::from(max_operations) {
        return (frames, Vec::new(), base_fee);
    }
    let rate_order = |a: &Frame, b: &Frame| {
        let left = i128::from(a.fee_bid()) * i128::from(b.fee_units());
        let right = i128::from(b.fee_bid()) * i128::from(a.fee_units());
        right.cmp(&left).then_with(|| a.hash().cmp(&b.hash()))
    };
    frames.sort_by(rate_order);
    let (mut chosen, mut waiting, mut used) = (Vec::new(), Vec::new(), 0_i64);
    for frame in frames {
        // Once one waits all that pay less wait: nobody overtakes by being small.
        if waiting.is_empty() && used + frame.fee_units() <= i64::from(max_operations) {
            used += frame.fee_units();
            chosen.push(frame);
        } else {
            waiting.push(frame);
        }
    }
    let lowest = chosen.last().map_or(i64::from(base_fee), |f| {
        let units = f.fee_units().max(1);
        (f.fee_bid() + units - 1) / units
    });
    let base = u32::try_from(lowest).unwrap_or(u32::MAX).max(base_fee);
    (chosen, waiting, base)
}

/// The transactions of a ledger as validators agree on them (stellar-core's `TxSet`): sorted by the hash over the whole envelope. Its hash
/// stands in the header, and decides the order of application.
#[derive(Clone, Debug)]
pub enum TransactionSet {
    /// Until protocol 19.
    Plain(stellar_xdr::TransactionSet),
    /// Since protocol 20: with the base fee, and room for contracts, of which this ledger has none.
    General(GeneralizedTransactionSet),
}

impl TransactionSet {
    /// The set of these transactions after the ledger with the hash `previous`; `base_fee` in stroops for each operation.
    pub fn new(version: u32, previous: [u8; 32], frames: &[Frame], base_fee: u32) -> Self {
        Self::of_envelopes(
            version,
            previous,
            frames.iter().map(|f| f.envelope.clone()).collect(),
            base_fee,
        )
    }

    /// The same of envelopes, version-0 ones rewritten as [`Frame`] does.
    pub fn of_envelopes(
        version: u32,
        previous: [u8; 32],
        mut envelopes: Vec<TransactionEnvelope>,
        base_fee: u32,
    ) -> Self {
        envelopes.sort_by_cached_key(xdr_hash);
        let previous_ledger_hash = Hash(previous);
        let empty = envelopes.is_empty();
        let txs: VecM<TransactionEnvelope> = envelopes.try_into().unwrap_or_default();
        if version < 20 {
            return Self::Plain(stellar_xdr::TransactionSet {
                previous_ledger_hash,
                txs,
            });
        }
        let classic: Vec<TxSetComponent> = if empty {
            Vec::new()
        } else {
            vec![TxSetComponent::TxsetCompTxsMaybeDiscountedFee(
                TxSetComponentTxsMaybeDiscountedFee {
                    base_fee: Some(i64::from(base_fee)),
                    txs,
                },
            )]
        };
        let contracts = if version < 23 {
            TransactionPhase::V0(VecM::default())
        } else {
            TransactionPhase::V1(ParallelTxsComponent {
                base_fee: None,
                execution_stages: VecM::default(),
            })
        };
        let phases = vec![TransactionPhase::V0(classic.try_into().unwrap_or_default()), contracts];
        Self::General(GeneralizedTransactionSet::V1(TransactionSetV1 {
            previous_ledger_hash,
            phases: phases.try_into().unwrap_or_default(),
        }))
    }

    /// The hash that the header carries.
    pub fn hash(&self) -> [u8; 32] {
        match self {
            Self::General(set) => xdr_hash(set),
            // The older kind is hashed without the count that its XDR has.
            Self::Plain(set) => {
                let mut hash = Sha256::new_with_prefix(set.previous_ledger_hash.0);
                for envelope in set.txs.iter() {
                    hash.update(envelope.to_xdr(Limits::none()).unwrap_or_default());
                }
                hash.finalize().into()
            }
        }
    }
}

/// Orders a set for application, as stellar-core does: of each source in sequence order, otherwise as if drawn by lot, from the hashes over
/// whole envelopes and that of the set.
pub fn order(frames: Vec<Frame>, set_hash: [u8; 32]) -> Vec<Frame> {
    let lot = |frame: &Frame| -> [u8; 32] {
        let mut hash = xdr_hash(&frame.envelope);
        for (a, b) in hash.iter_mut().zip(set_hash) {
            *a ^= b;
        }
        hash
    };
    let mut by_source: BTreeMap<_, Vec<Frame>> = BTreeMap::new();
    for frame in frames {
        by_source.entry(frame.inner.source()).or_default().push(frame);
    }
    let mut rounds: BTreeMap<usize, Vec<Frame>> = BTreeMap::new();
    for (_, mut chain) in by_source {
        chain.sort_by_key(|f| f.inner.tx.seq_num.0);
        for (round, frame) in chain.into_iter().enumerate() {
            rounds.entry(round).or_default().push(frame);
        }
    }
    let mut out = Vec::new();
    for (_, mut round) in rounds {
        round.sort_by_cached_key(lot);
        out.append(&mut round);
    }
    out
}

/// Applies voted upgrades to the header of a closed ledger, after its transactions. Entries stay as they are: what else an upgrade can do
/// concerns offers and contracts. False if one of them is unknown here, or lowers the protocol version; the header is then as it was.
pub fn upgrade(closed: &mut Closed, upgrades: &[LedgerUpgrade]) -> bool {
    let mut header = closed.header.clone();
    let mut raw = Vec::with_capacity(upgrades.len());
    for one in upgrades {
        match one {
            LedgerUpgrade::Version(version) if *version > header.ledger_version => header.ledger_version = *version,
            LedgerUpgrade::BaseFee(fee) => header.base_fee = *fee,
            LedgerUpgrade::MaxTxSetSize(size) => header.max_tx_set_size = *size,
            LedgerUpgrade::BaseReserve(reserve) => header.base_reserve = *reserve,
            _ => return false,
        }
        let Some(bytes) = one.to_xdr(Limits::none()).ok().and_then(|b| b.try_into().ok()) else {
            return false;
        };
        raw.push(UpgradeType(bytes));
    }
    let Ok(raw) = raw.try_into() else { return false };
    header.scp_value.upgrades = raw;
    closed.header = header;
    true
}

/// Applies transactions in the given order, as the ledger after `state`, closed at `close_time` (unix seconds).
pub fn apply(state: &State, frames: Vec<Frame>, set_hash: [u8; 32], close_time: u64, base_fee: u32) -> Closed {
    let mut header = validation_header(&state.header);
    header.previous_ledger_hash = Hash(header_hash(&state.header));
    header.scp_value.close_time = TimePoint(close_time);
    // Those of the ledger before are done.
    header.scp_value.upgrades = VecM::default();
    header.scp_value.tx_set_hash = Hash(set_hash);
    let version = header.ledger_version;
    let mut txn = Txn::new(state, header);

    // All fees first, so that no transaction can spend what another one owes.
    let mut fees = Vec::with_capacity(frames.len());
    for frame in &frames {
        txn.push();
        let fee = frame.take_fee(&mut txn, base_fee);
        let changes = txn.changes();
        txn.commit();
        fees.push((fee, changes));
    }
    let mut transactions = Vec::with_capacity(frames.len());
    for (frame, (fee, fee_changes)) in frames.into_iter().zip(fees) {
        txn.push();
        let applied = frame.apply(&mut txn, base_fee, fee);
        txn.commit();
        let meta = meta(version, &applied);
        transactions.push(ClosedTransaction {
            frame,
            result: applied.result,
            fee_changes,
            meta,
        });
    }
    let (mut header, changes) = txn.finish();
    let pairs: Vec<TransactionResultPair> = transactions
        .iter()
        .map(|t| TransactionResultPair {
            transaction_hash: Hash(t.frame.hash()),
            result: t.result.clone(),
        })
        .collect();
    header.tx_set_result_hash = Hash(xdr_hash(&TransactionResultSet {
        results: pairs.try_into().unwrap_or_default(),
    }));
    header.bucket_list_hash = Hash(chain_changes(&state.header.bucket_list_hash.0, &changes));
    Closed {
        header,
        changes,
        transactions,
    }
}

/// Stands where stellar-core has the hash of its bucket list: a hash chained over every change, so that a header still commits to
/// the whole state.
fn chain_changes(before: &[u8; 32], changes: &BTreeMap<LedgerKey, Option<LedgerEntry>>) -> [u8; 32] {
    if changes.is_empty() {
        return *before;
    }
    let mut hash = Sha256::new_with_prefix(before);
    for (key, entry) in changes {
        hash.update(key.to_xdr(Limits::none()).unwrap_or_default());
        hash.update(entry.to_xdr(Limits::none()).unwrap_or_default());
    }
    hash.finalize().into()
}

/// The meta in the shape that stellar-core writes at this protocol version.
fn meta(version: u32, applied: &Applied) -> TransactionMeta {
    let before = applied.before.clone();
    let after = LedgerEntryChanges(VecM::default());
    let plain = || -> VecM<OperationMeta> {
        let list: Vec<_> = applied
            .operations
            .iter()
            .map(|c| OperationMeta { changes: c.clone() })
            .collect();
        list.try_into().unwrap_or_default()
    };
    match version {
        0..=19 => TransactionMeta::V2(TransactionMetaV2 {
            tx_changes_before: before,
            operations: plain(),
            tx_changes_after: after,
        }),
        20..=22 => TransactionMeta::V3(TransactionMetaV3 {
            ext: ExtensionPoint::V0,
            tx_changes_before: before,
            operations: plain(),
            tx_changes_after: after,
            soroban_meta: None,
        }),
        _ => {
            let list: Vec<_> = applied
                .operations
                .iter()
                .map(|c| OperationMetaV2 {
                    ext: ExtensionPoint::V0,
                    changes: c.clone(),
                    events: VecM::default(),
                })
                .collect();
            TransactionMeta::V4(TransactionMetaV4 {
                ext: ExtensionPoint::V0,
                tx_changes_before: before,
                operations: list.try_into().unwrap_or_default(),
                tx_changes_after: after,
                soroban_meta: None,
                events: VecM::default(),
                diagnostic_events: VecM::default(),
            })
        }
    }
}
