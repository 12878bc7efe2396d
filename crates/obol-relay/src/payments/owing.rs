//! What is owed instead of secured by escrow (settlement.md, "Two backings"; ADR 0039): who may owe, and the payments of it on the ledger.
//!
//! "Unknown" is never answered as "not paid": a payment that may be on its way is looked for until the ledger has it, or never will.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use obol_cell::{AccountId, NetworkId, PeerId, SettlementMemo, Stroops, TransactionId, UnitError};
use obol_stellar::settle::{OwedOutcome, Payment};
use obol_stellar::tx::TxHash;
use obol_toll::node::Input;
use obol_toll::trust::{ExpectedPayment, NotPaid, OwedPayment, Trusted};
use sha2::Digest as _;

use super::work::Work;
use crate::config;
use crate::metrics::Metric;

/// Settings of payments that can be read, but not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A price, fee or step that the protocol does not have.
    #[error("the configuration's payments: {0}")]
    Unit(#[from] UnitError),
    /// The list of relays that may owe has this one on it.
    #[error("the configuration's `payments.trust` names this relay's own {0}: remove that section")]
    TrustsItself(&'static str),
}

/// Who may owe, as the state machine is told.
pub(super) fn trusted(
    config: &config::Payments,
    identity: PeerId,
    account: AccountId,
) -> Result<Vec<Trusted>, SettingsError> {
    let of = |relay: &config::TrustedRelay| {
        if relay.peer.0 == identity.0 {
            return Err(SettingsError::TrustsItself("identity"));
        }
        if relay.account.0 == account {
            return Err(SettingsError::TrustsItself("account"));
        }
        let limit = relay.max_unsettled.map(|limit| Stroops::new(limit.stroops()));
        Ok(Trusted {
            peer: PeerId(relay.peer.0),
            account: relay.account.0,
            max_unsettled: limit.transpose()?,
        })
    };
    config.trust.iter().map(of).collect()
}

/// Under which a payment of what is owed is recorded: one number of one relay's books is one transaction for ever.
fn reference(network: NetworkId, batch: u64) -> [u8; 32] {
    sha2::Sha256::new()
        .chain_update(b"obol-owed-1")
        .chain_update(network.0)
        .chain_update(batch.to_be_bytes())
        .finalize()
        .into()
}

impl Work {
    /// Pays what is owed, however long that takes.
    pub(super) async fn pay_owed(
        self: Arc<Self>,
        batch: u64,
        from: AccountId,
        memo: SettlementMemo,
        payments: Vec<OwedPayment>,
    ) {
        if from != self.trust.account() {
            // No answer: that account may have paid.
            tracing::error!("what is owed is paid from an account whose key is not here any more: it cannot be paid");
            return;
        }
        let payments: Vec<Payment> = payments
            .iter()
            .map(|payment| Payment {
                to: payment.account,
                amount: payment.amount,
            })
            .collect();
        let reference = reference(self.settler.network().id(), batch);
        let mut wait = self.first_wait();
        let input = loop {
            let paid = self
                .settler
                .pay_owed(reference, &self.trust, self.asset, memo.0, &payments)
                .await;
            match paid {
                Ok(OwedOutcome::Paid { hash }) => {
                    self.metrics.add(Metric::LedgerTransactions, &["owed", "applied"], 1);
                    let transaction = TransactionId(hash.0);
                    break Input::OwedPaid { batch, transaction };
                }
                Ok(OwedOutcome::NotPaid) => {
                    tracing::warn!("what is owed to other relays was not paid, and is owed on");
                    break Input::OwedNotPaid { batch };
                }
                Err(error) => {
                    tracing::warn!(%error, "what is owed to other relays could not be paid yet, and is tried again");
                    self.pause(&mut wait).await;
                }
            }
        };
        self.answer(input);
    }

    /// Looks up a payment that a relay says it has made.
    pub(super) async fn check_payment(
        self: Arc<Self>,
        peer: PeerId,
        transaction: TransactionId,
        payment: ExpectedPayment,
    ) {
        let Ok(_turn) = self.reads.acquire().await else { return };
        let hash = TxHash(transaction.0);
        let result = self.settler.check_payment(hash, &payment, self.asset).await;
        if result == Err(NotPaid::Unreachable) {
            self.metrics.add(Metric::LedgerErrors, &[], 1);
        }
        self.answer(Input::PaymentChecked {
            peer,
            transaction,
            result,
        });
    }

    /// Finds what was paid of what is owed, before and after a backup.
    pub(super) async fn find_payments(self: Arc<Self>, from: AccountId, memo: SettlementMemo) {
        if from != self.trust.account() {
            tracing::error!(
                "what is owed was paid from an account whose key is not here any more: it cannot be looked up"
            );
            return;
        }
        let mut wait = self.first_wait();
        let mut said = false;
        let transactions = loop {
            match self.settler.find_owed(&self.trust, self.asset, memo).await {
                Ok(transactions) => break transactions,
                Err(error) if said => tracing::debug!(%error, "it is still not known what was paid since the backup"),
                Err(error) => {
                    said = true;
                    tracing::warn!(
                        %error,
                        "nothing is owed or paid before it is known what was paid since the backup: the account needs some XLM, \
                         and a Horizon server can tell"
                    );
                }
            }
            self.pause(&mut wait).await;
        };
        self.answer(Input::PaymentsFound { transactions });
    }

    /// Whether the account for what is owed is there; a trust line that it lacks is made.
    pub(super) async fn check_trust_account(self: Arc<Self>) {
        let Ok(_turn) = self.reads.acquire().await else { return };
        match self.with_trust_line(&self.trust).await {
            Ok(Some(_)) => self.without_trust_account.store(false, Ordering::Relaxed),
            Ok(None) => {
                if !self.without_trust_account.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "the account of payments.accounts.trust is not on the ledger yet: without some XLM nothing that is owed is paid, \
                         by it or to it"
                    );
                }
            }
            Err(error) => {
                self.metrics.add(Metric::LedgerErrors, &[], 1);
                tracing::debug!(%error, "the account for what is owed cannot be looked at");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(trust: &str) -> config::Payments {
        let text = format!(
            "price_per_64_kib = 100\n{trust}\n[ledger]\nnetwork_passphrase = \"x\"\nurls = []\n\
             asset = \"OBOL:GAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSABOV\"\n"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_relay_trusts_those_whom_its_operator_names_but_never_itself() {
        let peer = config::RelayIdentity([1; 32]);
        let account = config::AccountName(AccountId([2; 32]));
        let section = format!("[[trust]]\npeer = \"{peer}\"\naccount = \"{account}\"\nmax_unsettled = 7");
        let settings = settings(&section);
        let (us, ours) = (PeerId([3; 32]), AccountId([4; 32]));
        let list = trusted(&settings, us, ours).unwrap();
        let expected = Trusted {
            peer: PeerId([1; 32]),
            account: AccountId([2; 32]),
            max_unsettled: Some(Stroops::new(7).unwrap()),
        };
        assert_eq!(list, [expected]);
        let of_identity = trusted(&settings, PeerId([1; 32]), ours);
        assert_eq!(of_identity, Err(SettingsError::TrustsItself("identity")));
        let of_account = trusted(&settings, us, AccountId([2; 32]));
        assert_eq!(of_account, Err(SettingsError::TrustsItself("account")));
    }

    #[test]
    fn each_number_on_each_ledger_has_a_reference_of_its_own() {
        let (here, there) = (NetworkId([1; 32]), NetworkId([2; 32]));
        assert_eq!(reference(here, 0), reference(here, 0));
        assert_ne!(reference(here, 0), reference(here, 1));
        assert_ne!(reference(here, 0), reference(there, 0));
    }
}
