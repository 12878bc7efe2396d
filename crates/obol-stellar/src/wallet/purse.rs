//! A party's money as a whole: its account, its escrows, and the one-time accounts between them; shown, and brought home.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use obol_cell::{AccountId, Asset, Stroops};

use super::escrows::{Locked, OwnEscrow, TakeBackError, TakenBack};
use super::{Balances, balances};
use crate::key::Keypair;
use crate::rail::RailError;
use crate::rail::connect::Connect;
use crate::settle::{Settler, WalletError};

/// An escrow, and the account that opened it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The escrow.
    pub own: OwnEscrow,
    /// Who opened it, pays for its end, and gets what is left.
    pub funder: Keypair,
}

/// See the [module](self).
pub struct Purse {
    /// How the ledger is reached.
    pub settler: Settler,
    /// How other servers are reached: an issuer's, for its stellar.toml.
    pub connector: Arc<dyn Connect>,
    /// The account that a person funds: a client's wallet, a relay's capital.
    pub account: Keypair,
    /// The asset.
    pub asset: Asset,
    /// The escrows that are not known to be wound up.
    pub escrows: Vec<Held>,
    /// All one-time accounts.
    pub one_time: Vec<Keypair>,
}

/// What a purse holds, as of a closed ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// What the account holds; `None` where it is not on the ledger.
    pub account: Option<Balances>,
    /// What the one-time accounts hold that are on the ledger.
    pub one_time: Vec<Balances>,
    /// What is locked, where, and until when; escrows that are gone are left out.
    pub locked: Vec<Locked>,
}

/// What bringing the money home came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Home {
    /// Escrows that are wound up now.
    pub ended: usize,
    /// What these gave back of the asset.
    pub returned: Stroops,
    /// Escrows that are still locked.
    pub locked: usize,
    /// When the last of these can be taken back, unix seconds of the ledger's clock; 0 without any.
    pub until: u64,
    /// One-time accounts that were emptied into the account.
    pub emptied: usize,
}

/// How often the ledger is looked at while a merge waits for it.
const LOOK: Duration = Duration::from_secs(2);

impl Purse {
    /// What there is.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn holdings(&self) -> Result<Holdings, RailError> {
        let rail = self.settler.rail().as_ref();
        let account = balances(rail, self.account.account()).await?;
        let mut one_time = Vec::new();
        for key in &self.one_time {
            one_time.extend(balances(rail, key.account()).await?);
        }
        let own: Vec<OwnEscrow> = self.escrows.iter().map(|held| held.own.clone()).collect();
        let mut locked = self.settler.locked(&own).await?;
        locked.retain(|locked| locked.stands != super::escrows::Stands::Gone);
        Ok(Holdings {
            account,
            one_time,
            locked,
        })
    }

    /// Takes back every escrow that has ended or expired, without its payee's help, and empties one-time accounts of which no escrow is left
    /// into the account. `tell` hears of each escrow that is done. May be called again at any time.
    ///
    /// # Errors
    /// When the ledger refuses a step or cannot be reached: call it again.
    pub async fn bring_home(&self, mut tell: impl FnMut(&Held, TakenBack)) -> Result<Home, HomeError> {
        let mut home = Home::default();
        let mut in_use: BTreeMap<AccountId, usize> = BTreeMap::new();
        for held in &self.escrows {
            let funder = held.funder.account();
            let done = loop {
                let taken = self.settler.take_back(&held.own, &held.funder, funder).await?;
                tell(held, taken);
                match taken {
                    TakenBack::Done { returned } => {
                        home.returned = home.returned.checked_add(returned).unwrap_or(Stroops::MAX);
                        break true;
                    }
                    TakenBack::Locked { until } => {
                        home.until = home.until.max(until);
                        break false;
                    }
                    TakenBack::Money { returned, merge_from } => {
                        home.returned = home.returned.checked_add(returned).unwrap_or(Stroops::MAX);
                        while self.settler.rail().latest_ledger().await?.sequence < merge_from {
                            tokio::time::sleep(LOOK).await;
                        }
                    }
                }
            };
            if done {
                home.ended += 1;
            } else {
                home.locked += 1;
                *in_use.entry(funder).or_default() += 1;
            }
        }
        for key in &self.one_time {
            let account = key.account();
            if in_use.contains_key(&account) || self.settler.rail().account(account).await?.is_none() {
                continue;
            }
            self.settler.trust(&self.account, self.asset).await?;
            self.settler.empty_into(key, self.account.account(), self.asset).await?;
            home.emptied += 1;
        }
        Ok(home)
    }
}

/// Money that could not be brought home yet.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// An escrow.
    #[error(transparent)]
    Escrow(#[from] TakeBackError),
    /// A one-time account.
    #[error(transparent)]
    Account(#[from] WalletError),
    /// The ledger cannot be asked.
    #[error(transparent)]
    Ledger(#[from] RailError),
}
