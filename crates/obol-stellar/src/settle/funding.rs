//! One-time accounts, from which escrows are opened in place of the wallet (settlement.md, "The ledger must not show the
//! path").
//!
//! The capital account fills several at once, all with the same; each opens escrows; what comes back from these serves the
//! next ones; and what is too little for another goes to the next one-time account, never straight back:
//!
//! ```text
//!   capital --equal batch--> one-time 1 --> E, E ... --sweep, merge--> one-time 1 --rest--> one-time 2 --> E ...
//!                       \--> one-time 2
//! ```
//!
//! The caller keeps the accounts' numbers ([`crate::escrow::PayerSecret::funding_key`]) and which escrow belongs to which,
//! durably and before they are used.

use obol_cell::{AccountId, Asset, Stroops};

use super::Settler;
use super::batch::cannot_take;
use super::carry::CarryError;
use super::wallet::{OneTime, WalletError, reference};
use crate::key::Keypair;
use crate::rail::{AccountState, LedgerHead};
use crate::tx::Op;

/// Most one-time accounts that are filled at once: 20 signatures, one of them the capital account's.
pub const MAX_ONE_TIME: usize = 19;

/// What a one-time account has to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The deposits that it has to pay, in the asset.
    pub money: Stroops,
    /// How many escrows it opens at the same time: each locks four base reserves of lumens, which come back.
    pub escrows: u32,
}

impl Need {
    /// The lumens that a new one-time account gets: its own three base reserves, four for each escrow, and one that pays
    /// fees for years.
    pub fn lumens(&self, head: &LedgerHead) -> Stroops {
        reserves(head, 4 + 4 * i64::from(self.escrows))
    }

    /// Whether an account has what is needed, half a base reserve for fees included.
    pub fn is_met_by(&self, account: &AccountState, asset: &Asset, head: &LedgerHead) -> bool {
        let lumens = account.spendable_lumens(head.base_reserve).get().saturating_mul(2);
        let line = account.line(asset).is_some_and(|line| line.authorized);
        line && held(account, asset) >= self.money && lumens >= reserves(head, 1 + 8 * i64::from(self.escrows)).get()
    }
}

/// What topping up came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopUp {
    /// This one-time account has what is needed.
    Ready(AccountId),
    /// None of those that are left has, and there were no new ones to be filled.
    Short,
}

fn reserves(head: &LedgerHead, n: i64) -> Stroops {
    Stroops::new(i64::from(head.base_reserve).saturating_mul(n)).unwrap_or(Stroops::MAX)
}

/// What an account can spend of an asset.
fn held(account: &AccountState, asset: &Asset) -> Stroops {
    account.line(asset).map_or(Stroops::ZERO, |line| {
        line.holding.balance.saturating_sub(line.holding.selling)
    })
}

impl Settler {
    /// Finds a one-time account that has what is needed: one of `left`, those of earlier that no escrow uses now; or one of
    /// `fresh`, whose keys are durable and which are then all made out of `capital`, in one transaction and with the same
    /// amounts. What `left` still hold goes on to the first of these. May be called again at any time, with the same
    /// accounts.
    ///
    /// # Errors
    /// When capital lacks the money, or the ledger refuses or cannot be reached.
    pub async fn top_up(
        &self,
        capital: &Keypair,
        asset: Asset,
        need: Need,
        left: &[Keypair],
        fresh: &[Keypair],
    ) -> Result<TopUp, WalletError> {
        let head = self.rail.latest_ledger().await?;
        let both = left.iter().chain(fresh).map(Keypair::account);
        let states = self.accounts(both).await?;
        if let Some(ready) = states
            .iter()
            .flatten()
            .find(|account| need.is_met_by(account, &asset, &head))
        {
            return Ok(TopUp::Ready(ready.id));
        }
        let Some(first) = fresh.first() else {
            return Ok(TopUp::Short);
        };
        let (left_states, fresh_states) = states.split_at(left.len().min(states.len()));
        if fresh_states.iter().all(Option::is_none) {
            self.fill(capital, asset, need, fresh, &head).await?;
        }
        for (key, state) in left.iter().zip(left_states) {
            if state.is_some() {
                self.empty_into(key, first.account(), asset).await?;
            }
        }
        // Filled before, and used since, it may lack something that the others' rests make up for.
        let state = self.rail.account(first.account()).await?;
        Ok(match state {
            Some(state) if need.is_met_by(&state, &asset, &head) => TopUp::Ready(first.account()),
            _ => TopUp::Short,
        })
    }

    async fn fill(
        &self,
        capital: &Keypair,
        asset: Asset,
        need: Need,
        fresh: &[Keypair],
        head: &LedgerHead,
    ) -> Result<(), WalletError> {
        let account = capital.account();
        let state = self.rail.account(account).await?;
        let state = state.ok_or(CarryError::NoAccount { account })?;
        let times = |each: Stroops| {
            let count = i64::try_from(fresh.len()).unwrap_or(i64::MAX);
            Stroops::new(each.get().saturating_mul(count)).unwrap_or(Stroops::MAX)
        };
        let needed = times(need.money);
        if account.0 != asset.issuer && held(&state, &asset) < needed {
            return Err(WalletError::NoMoney {
                held: held(&state, &asset),
                needed,
            });
        }
        // One more base reserve pays for the transaction.
        let needed = times(need.lumens(head))
            .checked_add(reserves(head, 1))
            .unwrap_or(Stroops::MAX);
        let spendable = state.spendable_lumens(head.base_reserve);
        if spendable < needed {
            return Err(WalletError::NoLumens {
                held: spendable,
                needed,
            });
        }
        let accounts: Vec<OneTime<'_>> = fresh
            .iter()
            .map(|key| OneTime {
                key,
                money: need.money,
                lumens: need.lumens(head),
            })
            .collect();
        self.fund_one_time(capital, asset, &accounts).await
    }

    /// Sends all that an account has of the asset and of lumens to another, and ends it. An account that is gone is empty.
    ///
    /// # Errors
    /// When the other cannot take it, or the ledger refuses or cannot be reached.
    pub async fn empty_into(&self, from: &Keypair, to: AccountId, asset: Asset) -> Result<(), WalletError> {
        let Some(state) = self.rail.account(from.account()).await? else {
            return Ok(());
        };
        let rest = held(&state, &asset);
        let heir = self.rail.account(to).await?;
        match cannot_take(heir.as_ref(), to, &asset, rest) {
            None => {}
            // Lumens need no line.
            Some(_) if rest.is_zero() && heir.is_some() => {}
            Some(_) => return Err(WalletError::NoLine { account: to }),
        }
        let mut operations = Vec::with_capacity(3);
        if !rest.is_zero() {
            let pay = Op::Pay {
                to,
                asset,
                amount: rest,
            };
            operations.push((None, pay));
        }
        if state.line(&asset).is_some() {
            let drop_line = Op::Trust {
                asset,
                limit: Stroops::ZERO,
            };
            operations.push((None, drop_line));
        }
        operations.push((None, Op::Merge { into: to }));
        let reference = reference(b"empty", &from.account(), &asset, state.sequence);
        match self.transact(reference, from, &[], &operations).await {
            Ok(_) => Ok(()),
            // It was there a moment ago: an earlier call has got through meanwhile.
            Err(CarryError::NoAccount { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
