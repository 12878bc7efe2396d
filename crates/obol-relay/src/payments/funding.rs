//! The one-time accounts from which our escrows are opened, in place of the capital account (settlement.md, C4; ADR 0045).
//!
//! One pays for all escrows of an opening transaction, and gets back what is left of them; free again, it pays for the next ones, and what it
//! lacks then comes from the capital account through another one-time account. What must not be lost is in the journal before it is used: the
//! number that an account's key comes from, and which account opened which escrow.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use obol_cell::{Asset, EscrowId, Stroops};
use obol_stellar::Keypair;
use obol_stellar::keys::EscrowPayer;
use obol_stellar::settle::{Need, Settler, TopUp, WalletError};
use obol_store::{Journal, StoreError};
use obol_toll::fact::NodeFact;

/// The kind of secret under which the journal keeps the numbers of one-time accounts.
pub(super) const FUNDING: &str = "funding";
/// The kind under which it keeps which of them opened an escrow.
pub(super) const FUNDED_BY: &str = "funded-by";

/// See the [module](self).
pub(super) struct Funding {
    payer: EscrowPayer,
    journal: Journal<NodeFact>,
    state: Mutex<State>,
    /// One batch is paid for at a time: no two may take the same account.
    taking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// All one-time accounts.
    numbers: BTreeSet<u64>,
    /// Those of escrows that are not wound up.
    of: HashMap<EscrowId, u64>,
    /// One that was made for a batch that could not be paid for yet.
    spare: Option<u64>,
}

/// No one-time account can pay for a batch now.
#[derive(Debug, thiserror::Error)]
pub(super) enum FundingError {
    #[error("what belongs to no escrow is being moved")]
    Moving,
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Funding {
    /// What the journal tells of earlier runs.
    pub(super) async fn open(payer: EscrowPayer, journal: Journal<NodeFact>) -> Result<Arc<Funding>, StoreError> {
        let mut state = State::default();
        let number = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).map(u64::from_be_bytes);
        for (id, _) in journal.secrets(FUNDING).await? {
            state.numbers.insert(number(&id).map_err(|_| StoreError::Corrupt)?);
        }
        for (escrow, by) in journal.secrets(FUNDED_BY).await? {
            let escrow = <[u8; 32]>::try_from(escrow.as_slice()).map_err(|_| StoreError::Corrupt)?;
            let by = number(&by).map_err(|_| StoreError::Corrupt)?;
            state.of.insert(EscrowId(escrow), by);
        }
        Ok(Arc::new(Funding {
            payer,
            journal,
            state: Mutex::new(state),
            taking: tokio::sync::Mutex::new(()),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, settler: &Settler, number: u64) -> Keypair {
        self.payer.secret().funding_key(settler.network().id(), number)
    }

    /// The account that opened an escrow, if a one-time account did.
    pub(super) fn of(&self, settler: &Settler, escrow: &EscrowId) -> Option<Keypair> {
        let number = self.state().of.get(escrow).copied()?;
        Some(self.key(settler, number))
    }

    /// All one-time accounts.
    pub(super) fn all(&self, settler: &Settler) -> Vec<Keypair> {
        let numbers: Vec<u64> = self.state().numbers.iter().copied().collect();
        numbers.into_iter().map(|number| self.key(settler, number)).collect()
    }

    /// The one-time accounts that no escrow uses.
    pub(super) fn free(&self, settler: &Settler) -> Vec<Keypair> {
        let state = self.state();
        let used: HashSet<u64> = state.of.values().copied().chain(state.spare).collect();
        let free: Vec<u64> = state.numbers.iter().copied().filter(|n| !used.contains(n)).collect();
        drop(state);
        free.into_iter().map(|number| self.key(settler, number)).collect()
    }

    /// An account that can pay for these escrows together, which is theirs from now on.
    pub(super) async fn take(
        &self,
        settler: &Settler,
        capital: &Keypair,
        asset: Asset,
        escrows: &[(EscrowId, Stroops)],
    ) -> Result<Keypair, FundingError> {
        let _one_at_a_time = self.taking.lock().await;
        let sum = escrows.iter().fold(Stroops::ZERO, |sum, (_, deposit)| {
            sum.checked_add(*deposit).unwrap_or(Stroops::MAX)
        });
        let need = Need {
            money: sum,
            escrows: u32::try_from(escrows.len()).unwrap_or(u32::MAX),
        };
        let left = self.free(settler);
        let mut found = settler.top_up(capital, asset, need, &left, &[]).await?;
        if found == TopUp::Short {
            let fresh = self.key(settler, self.spare().await?);
            found = settler
                .top_up(capital, asset, need, &left, std::slice::from_ref(&fresh))
                .await?;
            // On the ledger now: one like the others.
            self.state().spare = None;
        }
        let TopUp::Ready(account) = found else {
            return Err(FundingError::Moving);
        };
        let number = {
            let numbers: Vec<u64> = self.state().numbers.iter().copied().collect();
            let is_it = |number: &u64| self.key(settler, *number).account() == account;
            numbers.into_iter().find(is_it).ok_or(FundingError::Moving)?
        };
        for (escrow, _) in escrows {
            self.journal
                .keep_secret(FUNDED_BY, &escrow.0, &number.to_be_bytes())
                .await?;
            self.state().of.insert(*escrow, number);
        }
        Ok(self.key(settler, number))
    }

    /// A new number, durable; the same one until it was used.
    async fn spare(&self) -> Result<u64, StoreError> {
        if let Some(number) = self.state().spare {
            return Ok(number);
        }
        let number: u64 = rand::random();
        let bytes = number.to_be_bytes();
        self.journal.keep_secret(FUNDING, &bytes, &bytes).await?;
        let mut state = self.state();
        state.numbers.insert(number);
        state.spare = Some(number);
        Ok(number)
    }

    /// An escrow is wound up, or was never opened: its account is free for the next ones.
    pub(super) async fn forget(&self, escrow: &EscrowId) -> Result<(), StoreError> {
        if self.state().of.remove(escrow).is_some() {
            self.journal.forget_secret(FUNDED_BY, &escrow.0).await?;
        }
        Ok(())
    }
}
