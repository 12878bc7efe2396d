//! What the relay's own accounts have: enough for new escrows to us and of ours, or an alarm before there is too little.

use std::sync::Arc;

use obol_cell::Stroops;
use obol_stellar::Keypair;
use obol_stellar::rail::{AccountState, LedgerHead, RailError};
use obol_stellar::settle::Need;
use obol_toll::node::Input;

use super::work::Work;
use crate::metrics::Metric;

/// Lumens that an escrow's opening needs: nine base reserves of 0.5 XLM (settle's `Need`), and some for fees.
const LUMENS_PER_OPENING: i64 = 46_000_000;
/// Free one-time accounts that are added up at most: each costs a look at the ledger.
const FREE_ACCOUNTS: usize = 32;

impl Work {
    /// The newest ledger, if the capital account, or a one-time account that is free, can pay for one more escrow.
    pub(super) async fn can_open(&self, deposit: Stroops) -> Option<LedgerHead> {
        let rail = self.settler.rail();
        let head = rail.latest_ledger().await.ok()?;
        let account = rail.account(self.capital.account()).await.ok()?;
        let by_capital = account.is_some_and(|account| {
            let lumens = account.spendable_lumens(head.base_reserve).get() >= LUMENS_PER_OPENING;
            let line = account.line(&self.asset);
            lumens && line.is_some_and(|line| line.holding.balance >= deposit)
        });
        if by_capital {
            return Some(head);
        }
        let need = Need {
            money: deposit,
            escrows: 1,
        };
        for key in self.funding.free(&self.settler) {
            let account = rail.account(key.account()).await.ok()?;
            if account.is_some_and(|account| need.is_met_by(&account, &self.asset, &head)) {
                return Some(head);
            }
        }
        None
    }

    /// Tells what there is for new escrows of ours.
    pub(super) async fn check_capital(self: Arc<Self>) {
        let Ok(_turn) = self.reads.acquire().await else { return };
        match self.stock().await {
            Ok((asset, openings)) => self.answer(Input::Capital { asset, openings }),
            Err(error) => {
                self.metrics.add(Metric::LedgerErrors, &[], 1);
                tracing::debug!(%error, "the capital account cannot be looked at");
            }
        }
    }

    /// What the capital account and the free one-time accounts have of the asset, and for how many openings their lumens suffice.
    async fn stock(&self) -> Result<(Stroops, u32), RailError> {
        let rail = self.settler.rail();
        let head = rail.latest_ledger().await?;
        let (mut asset, mut openings) = (Stroops::ZERO, 0_u32);
        let free = self.funding.free(&self.settler);
        for key in std::iter::once(&self.capital).chain(free.iter().take(FREE_ACCOUNTS)) {
            let Some(account) = rail.account(key.account()).await? else {
                continue;
            };
            let lumens = account.spendable_lumens(head.base_reserve).get();
            let here = u32::try_from(lumens / LUMENS_PER_OPENING).unwrap_or(u32::MAX);
            openings = openings.saturating_add(here);
            let line = account.line(&self.asset).filter(|line| line.authorized);
            let held = line.map_or(Stroops::ZERO, |line| {
                line.holding.balance.saturating_sub(line.holding.selling)
            });
            asset = asset.checked_add(held).unwrap_or(Stroops::MAX);
        }
        Ok((asset, openings))
    }

    /// Whether a payee account can take new escrows: it is there, has a trust line (made here if need be), and lumens
    /// for two flushes at the highest fee for each open escrow (settlement.md, "fee spike").
    pub(super) async fn check_payee(self: Arc<Self>, which: usize, open_escrows: usize) {
        let Some(key) = self.payees.get(which) else { return };
        let account = key.account();
        // With the next one: the alarm comes before it would be declined.
        let need = self.fees_of_flushes(open_escrows.saturating_add(1));
        let can_accept = match self.with_trust_line(key).await {
            Ok(Some((state, head))) => {
                let have = state.spendable_lumens(head.base_reserve);
                self.answer(Input::PayeeLumens { have, need });
                state.line(&self.asset).is_some_and(|line| line.authorized) && have >= need
            }
            Ok(None) => {
                let have = Stroops::ZERO;
                self.answer(Input::PayeeLumens { have, need });
                false
            }
            Err(error) => {
                self.metrics.add(Metric::LedgerErrors, &[], 1);
                tracing::debug!(%error, "a payee account cannot be looked at");
                false
            }
        };
        if !can_accept {
            tracing::debug!("a payee account takes no new escrows");
        }
        self.answer(Input::PayeeAccount { account, can_accept });
    }

    fn fees_of_flushes(&self, escrows: usize) -> Stroops {
        let escrows = i64::try_from(escrows).unwrap_or(i64::MAX);
        let fees = escrows.saturating_mul(2).saturating_mul(self.highest_fee);
        Stroops::new(fees).unwrap_or(Stroops::MAX)
    }

    /// An account of ours that is to receive the asset, and the ledger in which it was looked at; a trust line that it lacks is made.
    /// `None`: there is no such account yet.
    pub(super) async fn with_trust_line(&self, key: &Keypair) -> Result<Option<(AccountState, LedgerHead)>, RailError> {
        let rail = self.settler.rail();
        let head = rail.latest_ledger().await?;
        let Some(state) = rail.account(key.account()).await? else {
            return Ok(None);
        };
        if state.line(&self.asset).is_some() {
            return Ok(Some((state, head)));
        }
        if let Err(error) = self.settler.trust(key, self.asset).await {
            tracing::warn!(%error, "an account that is to be paid has no trust line, and it cannot be made");
            return Ok(Some((state, head)));
        }
        Ok(rail.account(key.account()).await?.map(|state| (state, head)))
    }
}
