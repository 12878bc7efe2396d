//! What a transaction pays, read from its own envelope: a server is believed only that a ledger has it.

use obol_cell::{AccountId, Asset, NetworkId, Signature, Stroops};
use stellar_xdr::{self as xdr, Limits, ReadXdr as _};

use super::{BadReply, RailError, TxRecord};
use crate::asset::asset_from_xdr;
use crate::tx::{Memo, TxHash, signed_by};

/// An account's history may hold anybody's transactions, and one that calls a contract may be twice as long as any of ours.
const LARGEST_ENVELOPE: Limits = Limits {
    depth: 200,
    len: 512 * 1024,
};

/// A transaction in a closed ledger, with what its envelope pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxPayments {
    /// What became of it. Its hash is that of the envelope; for a fee bump, the wrapping's.
    pub record: TxRecord,
    /// The hash of the transaction that pays; for a fee bump, of what it wraps. Whoever sees a transaction can wrap it, and a ledger
    /// takes one of both: this hash stays the same.
    pub transaction: TxHash,
    /// Its memo.
    pub memo: Memo,
    /// Its payments, in their order. Path payments and everything else are left out.
    pub payments: Vec<LedgerPayment>,
    /// The signatures on [`TxPayments::transaction`].
    signatures: Vec<Signature>,
}

/// One payment of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerPayment {
    /// Who pays.
    pub from: AccountId,
    /// To whom.
    pub to: AccountId,
    /// What; `None`: lumens.
    pub asset: Option<Asset>,
    /// How much, stroops.
    pub amount: Stroops,
}

impl TxPayments {
    /// Whether this account's own key signed the transaction that pays: no server can invent that.
    pub fn is_signed_by(&self, account: &AccountId) -> bool {
        let by = |signature| signed_by(account, &self.transaction, signature);
        self.signatures.iter().any(by)
    }

    /// What `from` pays of an asset, in their order: to whom and how much.
    pub fn of(&self, from: AccountId, asset: Asset) -> impl Iterator<Item = (AccountId, Stroops)> {
        self.payments
            .iter()
            .filter(move |payment| payment.from == from && payment.asset == Some(asset))
            .map(|payment| (payment.to, payment.amount))
    }
}

/// What an envelope says.
#[derive(Debug)]
pub(super) struct Read {
    /// Its hash.
    hash: TxHash,
    /// For a fee bump, of what it wraps; else the same.
    transaction: TxHash,
    memo: Memo,
    payments: Vec<LedgerPayment>,
    signatures: Vec<Signature>,
}

impl Read {
    /// Reads an envelope of any form.
    pub(super) fn envelope(network: NetworkId, bytes: &[u8]) -> Option<Read> {
        let envelope = xdr::TransactionEnvelope::from_xdr(bytes, LARGEST_ENVELOPE).ok()?;
        let hash = TxHash(envelope.hash(network.0).ok()?);
        let (transaction, source, memo, operations, signatures) = match &envelope {
            xdr::TransactionEnvelope::Tx(e) => {
                let tx = &e.tx;
                let source = account(&tx.source_account);
                (hash, source, &tx.memo, &tx.operations, &e.signatures)
            }
            xdr::TransactionEnvelope::TxFeeBump(bump) => {
                let xdr::FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
                let hash = TxHash(inner.hash(network.0).ok()?);
                let tx = &inner.tx;
                let source = account(&tx.source_account);
                (hash, source, &tx.memo, &tx.operations, &inner.signatures)
            }
            // The form of before 2020, which is still taken; its hash is that of the current form.
            xdr::TransactionEnvelope::TxV0(e) => {
                let source = AccountId(e.tx.source_account_ed25519.0);
                (hash, source, &e.tx.memo, &e.tx.operations, &e.signatures)
            }
        };
        let memo = match memo {
            xdr::Memo::None => Memo::None,
            xdr::Memo::Text(text) => Memo::Text(String::from_utf8_lossy(text.as_slice()).into_owned()),
            xdr::Memo::Id(id) => Memo::Id(*id),
            xdr::Memo::Hash(hash) => Memo::Hash(hash.0),
            xdr::Memo::Return(hash) => Memo::Return(hash.0),
        };
        let payments = operations
            .iter()
            .filter_map(|operation| payment(operation, source))
            .collect();
        // A hash's preimage is a signature to XDR, too.
        let ed25519 = signatures
            .iter()
            .filter_map(|s| Some(Signature(s.signature.0.as_slice().try_into().ok()?)));
        Some(Read {
            hash,
            transaction,
            memo,
            payments,
            signatures: ed25519.collect(),
        })
    }

    /// With what became of it.
    ///
    /// # Errors
    /// When it is not the envelope of a transaction with the hash `asked`.
    pub(super) fn of(self, asked: TxHash, field: &'static str, record: TxRecord) -> Result<TxPayments, RailError> {
        if asked != self.hash && asked != self.transaction {
            return Err(RailError::BadReply(BadReply::Field(field)));
        }
        Ok(TxPayments {
            record: TxRecord {
                hash: self.hash,
                ..record
            },
            transaction: self.transaction,
            memo: self.memo,
            payments: self.payments,
            signatures: self.signatures,
        })
    }
}

fn payment(operation: &xdr::Operation, source: AccountId) -> Option<LedgerPayment> {
    let xdr::OperationBody::Payment(pay) = &operation.body else {
        return None;
    };
    let asset = match &pay.asset {
        xdr::Asset::Native => None,
        other => Some(asset_from_xdr(other)?),
    };
    Some(LedgerPayment {
        from: operation.source_account.as_ref().map_or(source, account),
        to: account(&pay.destination),
        asset,
        amount: Stroops::new(pay.amount).ok()?,
    })
}

fn account(muxed: &xdr::MuxedAccount) -> AccountId {
    match muxed {
        xdr::MuxedAccount::Ed25519(key) => AccountId(key.0),
        xdr::MuxedAccount::MuxedEd25519(m) => AccountId(m.ed25519.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asset::{asset, asset_to_xdr};
    use crate::key::Keypair;
    use crate::network::Network;
    use crate::rail::ResultCodes;
    use xdr::WriteXdr as _;

    fn key(n: u8) -> AccountId {
        Keypair::from_seed(&[n; 32]).account()
    }

    fn muxed(account: AccountId) -> xdr::MuxedAccount {
        xdr::MuxedAccount::MuxedEd25519(xdr::MuxedAccountMed25519 {
            id: 77,
            ed25519: xdr::Uint256(account.0),
        })
    }

    fn plain(account: AccountId) -> xdr::MuxedAccount {
        xdr::MuxedAccount::Ed25519(xdr::Uint256(account.0))
    }

    fn pay(source: Option<xdr::MuxedAccount>, to: xdr::MuxedAccount, asset: xdr::Asset, amount: i64) -> xdr::Operation {
        xdr::Operation {
            source_account: source,
            body: xdr::OperationBody::Payment(xdr::PaymentOp {
                destination: to,
                asset,
                amount,
            }),
        }
    }

    fn operations(of: Asset) -> Vec<xdr::Operation> {
        let of = asset_to_xdr(&of).unwrap();
        vec![
            pay(None, plain(key(2)), of.clone(), 5),
            pay(Some(muxed(key(3))), muxed(key(4)), of.clone(), 6),
            pay(None, plain(key(2)), xdr::Asset::Native, 7),
            pay(None, plain(key(2)), of, -1),
            xdr::Operation {
                source_account: None,
                body: xdr::OperationBody::Inflation,
            },
        ]
    }

    fn record() -> TxRecord {
        TxRecord {
            hash: TxHash([0; 32]),
            ledger: 7,
            successful: true,
            fee_charged: Stroops::ZERO,
            codes: ResultCodes::default(),
        }
    }

    #[test]
    fn every_form_of_an_envelope_says_who_pays_whom_and_other_operations_are_left_out() {
        let network = Network::testnet().id();
        let obol = asset("OBOL", key(9)).unwrap();
        let memo = xdr::Memo::Hash(xdr::Hash([8; 32]));
        let inner = xdr::TransactionV1Envelope {
            tx: xdr::Transaction {
                source_account: muxed(key(1)),
                fee: 500,
                seq_num: xdr::SequenceNumber(1),
                cond: xdr::Preconditions::None,
                memo: memo.clone(),
                operations: operations(obol).try_into().unwrap(),
                ext: xdr::TransactionExt::V0,
            },
            signatures: xdr::VecM::default(),
        };
        let bump = xdr::FeeBumpTransactionEnvelope {
            tx: xdr::FeeBumpTransaction {
                fee_source: plain(key(5)),
                fee: 1000,
                inner_tx: xdr::FeeBumpTransactionInnerTx::Tx(inner.clone()),
                ext: xdr::FeeBumpTransactionExt::V0,
            },
            signatures: xdr::VecM::default(),
        };
        let old = xdr::TransactionV0Envelope {
            tx: xdr::TransactionV0 {
                source_account_ed25519: xdr::Uint256(key(1).0),
                fee: 500,
                seq_num: xdr::SequenceNumber(1),
                time_bounds: None,
                memo,
                operations: operations(obol).try_into().unwrap(),
                ext: xdr::TransactionV0Ext::V0,
            },
            signatures: xdr::VecM::default(),
        };
        let inner_hash = TxHash(inner.tx.hash(network.0).unwrap());
        let envelopes = [
            xdr::TransactionEnvelope::Tx(inner),
            xdr::TransactionEnvelope::TxFeeBump(bump),
            xdr::TransactionEnvelope::TxV0(old),
        ];
        for (n, envelope) in envelopes.into_iter().enumerate() {
            let hash = TxHash(envelope.hash(network.0).unwrap());
            let bytes = envelope.to_xdr(Limits::none()).unwrap();
            let read = || Read::envelope(network, &bytes).unwrap();
            let paid = read().of(hash, "envelope_xdr", record()).unwrap();
            assert_eq!(paid.record.hash, hash, "the envelope's, whatever the server called it");
            assert_eq!(paid.transaction, if n == 2 { hash } else { inner_hash });
            assert_eq!(read().of(paid.transaction, "envelope_xdr", record()).unwrap(), paid);
            let other = read().of(TxHash([1; 32]), "envelope_xdr", record());
            assert_eq!(other, Err(RailError::BadReply(BadReply::Field("envelope_xdr"))));
            assert_eq!(paid.memo, Memo::Hash([8; 32]));
            let expected = [(1, 2, Some(obol), 5), (3, 4, Some(obol), 6), (1, 2, None, 7)];
            let expected = expected.map(|(from, to, asset, amount)| LedgerPayment {
                from: key(from),
                to: key(to),
                asset,
                amount: Stroops::new(amount).unwrap(),
            });
            assert_eq!(paid.payments, expected);
            let own: Vec<_> = paid.of(key(1), obol).collect();
            assert_eq!(own, [(key(2), Stroops::new(5).unwrap())]);
            for cut in 0..bytes.len() {
                assert!(Read::envelope(network, &bytes[..cut]).is_none());
            }
        }
    }
}
