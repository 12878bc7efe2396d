//! Transactions: put together, hashed, signed, and read back with limits.

use ed25519_dalek::{Signature as DalekSignature, VerifyingKey};
use obol_cell::{AccountId, Asset, NetworkId, Signature, Stroops};
use stellar_xdr::{self as xdr, Limits, ReadXdr as _, WriteXdr as _};

use crate::asset::{NotAnAsset, account_to_xdr, asset_from_xdr, asset_to_xdr, muxed};
use crate::key::Keypair;

/// What an envelope from elsewhere may be at most: 100 operations need less than half of this.
const LARGEST_ENVELOPE: Limits = Limits {
    depth: 64,
    len: 128 * 1024,
};

/// A transaction's hash: what is signed, and what a ledger finds it by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxHash(pub [u8; 32]);

impl std::fmt::Display for TxHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for TxHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TxHash({self})")
    }
}

impl std::str::FromStr for TxHash {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<TxHash, hex::FromHexError> {
        let mut hash = [0u8; 32];
        hex::decode_to_slice(text, &mut hash)?;
        Ok(TxHash(hash))
    }
}

/// One operation; amounts in stroops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Makes an account, with so many stroops of lumens.
    CreateAccount {
        /// The new account.
        account: AccountId,
        /// Its lumens.
        lumens: Stroops,
    },
    /// Pays the asset.
    Pay {
        /// To whom.
        to: AccountId,
        /// What.
        asset: Asset,
        /// How much.
        amount: Stroops,
    },
    /// Pays lumens.
    PayLumens {
        /// To whom.
        to: AccountId,
        /// How much.
        amount: Stroops,
    },
    /// Opens a trust line, or changes its limit; limit zero drops the line.
    Trust {
        /// For what.
        asset: Asset,
        /// The most that the line may hold.
        limit: Stroops,
    },
    /// Sets what `options` names, and leaves the rest.
    SetOptions(Options),
    /// Ends the account; its lumens go to another.
    Merge {
        /// The heir.
        into: AccountId,
    },
}

/// The options of an account that Obol ever sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Weight of the account's own key.
    pub master_weight: Option<u32>,
    /// The low, medium and high thresholds, all to this.
    pub thresholds: Option<u32>,
    /// A signer and its weight; zero removes it.
    pub signer: Option<(AccountId, u32)>,
    /// Flags to set: an issuer's.
    pub set_flags: Option<u32>,
}

impl Op {
    fn to_xdr(self, source: Option<AccountId>) -> Result<xdr::Operation, NotAnAsset> {
        let body = match self {
            Op::CreateAccount { account, lumens } => xdr::OperationBody::CreateAccount(xdr::CreateAccountOp {
                destination: account_to_xdr(&account),
                starting_balance: lumens.get(),
            }),
            Op::Pay { to, asset, amount } => xdr::OperationBody::Payment(xdr::PaymentOp {
                destination: muxed(&to),
                asset: asset_to_xdr(&asset)?,
                amount: amount.get(),
            }),
            Op::PayLumens { to, amount } => xdr::OperationBody::Payment(xdr::PaymentOp {
                destination: muxed(&to),
                asset: xdr::Asset::Native,
                amount: amount.get(),
            }),
            Op::Trust { asset, limit } => xdr::OperationBody::ChangeTrust(xdr::ChangeTrustOp {
                line: match asset_to_xdr(&asset)? {
                    xdr::Asset::Native => xdr::ChangeTrustAsset::Native,
                    xdr::Asset::CreditAlphanum4(a) => xdr::ChangeTrustAsset::CreditAlphanum4(a),
                    xdr::Asset::CreditAlphanum12(a) => xdr::ChangeTrustAsset::CreditAlphanum12(a),
                },
                limit: limit.get(),
            }),
            Op::SetOptions(options) => xdr::OperationBody::SetOptions(xdr::SetOptionsOp {
                inflation_dest: None,
                clear_flags: None,
                set_flags: options.set_flags,
                master_weight: options.master_weight,
                low_threshold: options.thresholds,
                med_threshold: options.thresholds,
                high_threshold: options.thresholds,
                home_domain: None,
                signer: options.signer.map(|(key, weight)| xdr::Signer {
                    key: xdr::SignerKey::Ed25519(xdr::Uint256(key.0)),
                    weight,
                }),
            }),
            Op::Merge { into } => xdr::OperationBody::AccountMerge(muxed(&into)),
        };
        Ok(xdr::Operation {
            source_account: source.as_ref().map(muxed),
            body,
        })
    }
}

/// What a payment tells its payee, in public.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Memo {
    /// Nothing.
    #[default]
    None,
    /// Up to 28 bytes of text.
    Text(String),
    /// A number.
    Id(u64),
    /// A hash.
    Hash([u8; 32]),
    /// The hash of a transaction that is paid back.
    Return([u8; 32]),
}

impl Memo {
    /// The most bytes of a text.
    pub const LONGEST_TEXT: usize = 28;

    fn to_xdr(&self) -> Result<xdr::Memo, TxError> {
        Ok(match self {
            Memo::None => xdr::Memo::None,
            Memo::Text(text) => xdr::Memo::Text(text.as_str().try_into().map_err(|_| TxError::TooLong)?),
            Memo::Id(id) => xdr::Memo::Id(*id),
            Memo::Hash(hash) => xdr::Memo::Hash(xdr::Hash(*hash)),
            Memo::Return(hash) => xdr::Memo::Return(xdr::Hash(*hash)),
        })
    }
}

/// When a transaction may be applied. All bounds are the ledger's: its close times and its sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validity {
    /// Not in a ledger that closed before this (unix seconds; 0: no bound).
    pub from_time: u64,
    /// Not in a ledger that closed after this (unix seconds; 0: no bound).
    pub until_time: u64,
    /// Only in ledgers before this one (0: no bound).
    pub before_ledger: u32,
    /// Whether the source's sequence number may be any lower one, not only the one before (`minSeqNum` 0).
    pub any_lower_sequence: bool,
}

/// A transaction, not yet signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tx {
    inner: xdr::Transaction,
}

impl Tx {
    /// Puts a transaction together. `fee` is the whole bid, in stroops of lumens; operations without a source of their
    /// own are `source`'s. The memo is empty ([`Tx::with_memo`]).
    ///
    /// # Errors
    /// When an asset is none, or there are more than 100 operations.
    pub fn new(
        source: AccountId,
        sequence: i64,
        fee: u32,
        validity: Validity,
        operations: impl IntoIterator<Item = (Option<AccountId>, Op)>,
    ) -> Result<Tx, TxError> {
        let operations = operations
            .into_iter()
            .map(|(source, op)| op.to_xdr(source))
            .collect::<Result<Vec<_>, _>>()?;
        let bounds = (validity.from_time, validity.until_time);
        let time_bounds = (bounds != (0, 0)).then_some(xdr::TimeBounds {
            min_time: xdr::TimePoint(bounds.0),
            max_time: xdr::TimePoint(bounds.1),
        });
        let cond = if validity.before_ledger == 0 && !validity.any_lower_sequence {
            time_bounds.map_or(xdr::Preconditions::None, xdr::Preconditions::Time)
        } else {
            xdr::Preconditions::V2(xdr::PreconditionsV2 {
                time_bounds,
                ledger_bounds: (validity.before_ledger != 0).then_some(xdr::LedgerBounds {
                    min_ledger: 0,
                    max_ledger: validity.before_ledger,
                }),
                min_seq_num: validity.any_lower_sequence.then_some(xdr::SequenceNumber(0)),
                min_seq_age: xdr::Duration(0),
                min_seq_ledger_gap: 0,
                extra_signers: xdr::VecM::default(),
            })
        };
        Ok(Tx {
            inner: xdr::Transaction {
                source_account: muxed(&source),
                fee,
                seq_num: xdr::SequenceNumber(sequence),
                cond,
                memo: xdr::Memo::None,
                operations: operations.try_into().map_err(|_| TxError::TooLong)?,
                ext: xdr::TransactionExt::V0,
            },
        })
    }

    /// With a memo.
    ///
    /// # Errors
    /// When it is a text of more than 28 bytes.
    pub fn with_memo(mut self, memo: &Memo) -> Result<Tx, TxError> {
        self.inner.memo = memo.to_xdr()?;
        Ok(self)
    }

    /// The bytes whose SHA-256 is the hash: network id, tag, transaction.
    pub fn signature_payload(&self, network: NetworkId) -> Result<Vec<u8>, TxError> {
        let payload = xdr::TransactionSignaturePayload {
            network_id: xdr::Hash(network.0),
            tagged_transaction: xdr::TransactionSignaturePayloadTaggedTransaction::Tx(self.inner.clone()),
        };
        payload.to_xdr(Limits::none()).map_err(|_| TxError::TooLong)
    }

    /// The hash on this network.
    ///
    /// # Errors
    /// When the transaction is too long to be one.
    pub fn hash(&self, network: NetworkId) -> Result<TxHash, TxError> {
        self.inner.hash(network.0).map(TxHash).map_err(|_| TxError::TooLong)
    }

    /// Signed by all of `signers`, in this order.
    ///
    /// # Errors
    /// When there are more than 20.
    pub fn sign(self, network: NetworkId, signers: &[&Keypair]) -> Result<SignedTx, TxError> {
        let hash = self.hash(network)?;
        let signatures: Vec<(AccountId, Signature)> =
            signers.iter().map(|key| (key.account(), key.sign(&hash.0))).collect();
        self.with_signatures(network, &signatures)
    }

    /// With signatures that were made before, each by the key of the account next to it. They are checked here: what
    /// leaves this machine is never a transaction that its own signatures do not cover.
    ///
    /// # Errors
    /// When a signature is not by its key on this transaction, or there are more than 20.
    pub fn with_signatures(
        self,
        network: NetworkId,
        signatures: &[(AccountId, Signature)],
    ) -> Result<SignedTx, TxError> {
        let hash = self.hash(network)?;
        for (by, signature) in signatures {
            if !signed_by(by, &hash, signature) {
                return Err(TxError::BadSignature { by: *by });
            }
        }
        let envelope = xdr::TransactionEnvelope::Tx(xdr::TransactionV1Envelope {
            tx: self.inner,
            signatures: decorated(signatures)?,
        });
        Ok(SignedTx {
            hash,
            inner_hash: None,
            envelope,
        })
    }
}

/// A transaction with its signatures, ready to be recorded and submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTx {
    hash: TxHash,
    inner_hash: Option<TxHash>,
    envelope: xdr::TransactionEnvelope,
}

impl SignedTx {
    /// Wrapped in a fee bump: `payer` pays `fee` stroops in all, for the wrapped transaction and the wrapping.
    ///
    /// # Errors
    /// When this is a fee bump itself.
    pub fn bumped(&self, network: NetworkId, payer: &Keypair, fee: Stroops) -> Result<SignedTx, TxError> {
        let xdr::TransactionEnvelope::Tx(inner) = &self.envelope else {
            return Err(TxError::Wrapped);
        };
        let tx = xdr::FeeBumpTransaction {
            fee_source: muxed(&payer.account()),
            fee: fee.get(),
            inner_tx: xdr::FeeBumpTransactionInnerTx::Tx(inner.clone()),
            ext: xdr::FeeBumpTransactionExt::V0,
        };
        let hash = tx.hash(network.0).map(TxHash).map_err(|_| TxError::TooLong)?;
        Ok(SignedTx {
            hash,
            inner_hash: Some(self.hash),
            envelope: xdr::TransactionEnvelope::TxFeeBump(xdr::FeeBumpTransactionEnvelope {
                tx,
                signatures: decorated(&[(payer.account(), payer.sign(&hash.0))])?,
            }),
        })
    }

    /// The hash that the ledger finds it by: of the wrapping, where there is one.
    pub fn hash(&self) -> TxHash {
        self.hash
    }

    /// For a fee bump, the hash of the wrapped transaction: the same whatever fee it was wrapped with.
    pub fn inner_hash(&self) -> Option<TxHash> {
        self.inner_hash
    }

    /// The envelope's XDR.
    ///
    /// # Errors
    /// When it is too long to be a transaction.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TxError> {
        self.envelope.to_xdr(LARGEST_ENVELOPE).map_err(|_| TxError::TooLong)
    }

    /// Reads an envelope that was stored. Signatures are not checked: the ledger does that.
    ///
    /// # Errors
    /// When the bytes are not an envelope of the current form.
    pub fn from_bytes(network: NetworkId, bytes: &[u8]) -> Result<SignedTx, TxError> {
        let envelope =
            xdr::TransactionEnvelope::from_xdr(bytes, LARGEST_ENVELOPE).map_err(|_| TxError::NotAnEnvelope)?;
        let hash = envelope
            .hash(network.0)
            .map(TxHash)
            .map_err(|_| TxError::NotAnEnvelope)?;
        let inner_hash = match &envelope {
            xdr::TransactionEnvelope::TxFeeBump(bump) => {
                let xdr::FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
                Some(inner.hash(network.0).map(TxHash).map_err(|_| TxError::NotAnEnvelope)?)
            }
            xdr::TransactionEnvelope::Tx(_) => None,
            xdr::TransactionEnvelope::TxV0(_) => return Err(TxError::NotAnEnvelope),
        };
        Ok(SignedTx {
            hash,
            inner_hash,
            envelope,
        })
    }

    /// How many operations it has, and a fee bump's wrapping counts as one more: what fees are counted by.
    pub fn operations(&self) -> u32 {
        let (operations, wrapping) = match &self.envelope {
            xdr::TransactionEnvelope::Tx(e) => (e.tx.operations.len(), 0),
            xdr::TransactionEnvelope::TxFeeBump(bump) => {
                let xdr::FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
                (inner.tx.operations.len(), 1)
            }
            xdr::TransactionEnvelope::TxV0(e) => (e.tx.operations.len(), 0),
        };
        operations as u32 + wrapping
    }

    fn operations_of(&self) -> &[xdr::Operation] {
        match &self.envelope {
            xdr::TransactionEnvelope::Tx(e) => &e.tx.operations,
            xdr::TransactionEnvelope::TxFeeBump(bump) => {
                let xdr::FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
                &inner.tx.operations
            }
            xdr::TransactionEnvelope::TxV0(e) => &e.tx.operations,
        }
    }

    /// Its payments of assets, in their order.
    pub fn payments(&self) -> impl Iterator<Item = (AccountId, Asset, Stroops)> {
        self.operations_of().iter().filter_map(|op| match &op.body {
            xdr::OperationBody::Payment(p) => {
                let to = match &p.destination {
                    xdr::MuxedAccount::Ed25519(key) => AccountId(key.0),
                    xdr::MuxedAccount::MuxedEd25519(m) => AccountId(m.ed25519.0),
                };
                Some((to, asset_from_xdr(&p.asset)?, Stroops::new(p.amount).ok()?))
            }
            _ => None,
        })
    }

    /// The amount of its first payment of an asset, if it has any: what a flush settles.
    pub fn first_payment(&self) -> Option<Stroops> {
        self.payments().next().map(|(_, _, amount)| amount)
    }

    /// What it pays in assets, all together and whatever they are.
    pub fn pays(&self) -> Stroops {
        self.payments()
            .try_fold(Stroops::ZERO, |sum, (_, _, amount)| sum.checked_add(amount))
            .unwrap_or(Stroops::MAX)
    }

    /// Source and sequence number of the transaction that moves a sequence number: of the inner one in a fee bump.
    pub fn sequence(&self) -> (AccountId, i64) {
        let tx = match &self.envelope {
            xdr::TransactionEnvelope::Tx(e) => &e.tx,
            xdr::TransactionEnvelope::TxFeeBump(bump) => {
                let xdr::FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
                &inner.tx
            }
            // Neither built nor read by this crate (`from_bytes`).
            xdr::TransactionEnvelope::TxV0(e) => {
                return (AccountId(e.tx.source_account_ed25519.0), e.tx.seq_num.0);
            }
        };
        let source = match &tx.source_account {
            xdr::MuxedAccount::Ed25519(key) => AccountId(key.0),
            xdr::MuxedAccount::MuxedEd25519(m) => AccountId(m.ed25519.0),
        };
        (source, tx.seq_num.0)
    }
}

fn decorated(signatures: &[(AccountId, Signature)]) -> Result<xdr::VecM<xdr::DecoratedSignature, 20>, TxError> {
    signatures
        .iter()
        .map(|(by, signature)| {
            let [.., a, b, c, d] = by.0;
            Ok(xdr::DecoratedSignature {
                hint: xdr::SignatureHint([a, b, c, d]),
                signature: xdr::Signature(signature.0.to_vec().try_into().map_err(|_| TxError::TooLong)?),
            })
        })
        .collect::<Result<Vec<_>, TxError>>()?
        .try_into()
        .map_err(|_| TxError::TooLong)
}

/// Whether `signature` is by the key of `by`, in the strict sense that every ledger accepts.
pub(crate) fn signed_by(by: &AccountId, hash: &TxHash, signature: &Signature) -> bool {
    VerifyingKey::from_bytes(&by.0)
        .and_then(|key| key.verify_strict(&hash.0, &DalekSignature::from_bytes(&signature.0)))
        .is_ok()
}

/// A transaction that cannot be put together, signed or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// An asset in it is none.
    #[error(transparent)]
    Asset(#[from] NotAnAsset),
    /// More operations, signatures or bytes than a transaction may have.
    #[error("longer than a transaction may be")]
    TooLong,
    /// A signature is not by its key on this transaction.
    #[error("the signature of {by:?} is not on this transaction")]
    BadSignature {
        /// Whose signature it should be.
        by: AccountId,
    },
    /// It is a fee bump already.
    #[error("a fee bump cannot be wrapped again")]
    Wrapped,
    /// Not a transaction envelope.
    #[error("not a transaction envelope")]
    NotAnEnvelope,
}
