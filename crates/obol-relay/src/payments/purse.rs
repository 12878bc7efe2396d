//! The relay's money while the relay does not run: what `obol wallet` works on.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use obol_cell::{EscrowId, Signature};
use obol_stellar::escrow::Escrow;
use obol_stellar::rail::many::Many;
use obol_stellar::settle::{Policy, Settler};
use obol_stellar::wallet::escrows::OwnEscrow;
use obol_stellar::wallet::purse::{Held, Purse};
use obol_stellar::{Keypair, Network, Outbox, Rail, Tcp};
use obol_store::Journal;
use obol_toll::fact::{NodeFact, OutFact};

use super::funding::Funding;
use super::view::View;
use super::{Keyring, NONCE, StartError, rails};
use crate::config;

/// A relay's purse.
pub struct RelayPurse {
    /// The money that it pays other relays with; its account is the capital account.
    pub purse: Purse,
    /// The accounts that it is paid to.
    pub payees: Vec<Keypair>,
    /// The journal: held, so that no relay starts meanwhile.
    pub journal: Journal<NodeFact>,
}

impl RelayPurse {
    /// Opens the purse of a relay that does not run. Relative paths of the configuration begin at `data_directory`. Needs a tokio runtime.
    ///
    /// # Errors
    /// As the relay's start.
    pub async fn open(config: &config::Payments, data_directory: &Path) -> Result<RelayPurse, StartError> {
        let path = data_directory.join(&config.journal);
        let store = |source| StartError::Store {
            path: path.clone(),
            source,
        };
        let opened = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || Journal::<NodeFact>::open_existing(&path)).await
        };
        // The only way to lose it is that the runtime ends.
        let (journal, facts) = opened.map_err(|_| store(obol_store::StoreError::Closed))??;
        let network = Network::new(config.ledger.network_passphrase.clone());
        let keys = Keyring::open(config, data_directory, &journal, &network, store).await?;
        let mut view = View::default();
        facts.iter().for_each(|fact| view.apply(fact));
        let refunds: HashMap<EscrowId, Signature> = facts
            .iter()
            .filter_map(|fact| match fact {
                NodeFact::Out(OutFact::Accepted { escrow, refund, .. }) => Some((escrow.id(), *refund)),
                _ => None,
            })
            .collect();
        let mut known = HashSet::new();
        for (_, nonce) in journal.secrets(NONCE).await.map_err(store)? {
            if let Ok(nonce) = <[u8; 32]>::try_from(nonce.as_slice()) {
                known.insert(keys.payer.add(&nonce));
            }
        }
        let rail: Arc<dyn Rail> = Arc::new(Many::new(rails(&config.ledger)?));
        let outbox: Arc<dyn Outbox> = Arc::new(journal.clone());
        let policy = Policy {
            highest_fee: config.ledger.highest_fee,
            ..Policy::default()
        };
        let settler = Settler::new(rail, outbox, network, policy);
        let funding = Funding::open(keys.payer.clone(), journal.clone())
            .await
            .map_err(store)?;
        let capital = keys.capital;
        let mut payees = keys.payees;
        if !config.trust.is_empty() || config.owing.max_owed.is_some() {
            payees.push(keys.trust);
        }
        let escrows = view
            .outgoing()
            .filter(|(id, _, _)| known.contains(id))
            .filter_map(|(id, out, _)| {
                let own = OwnEscrow {
                    escrow: Escrow::try_from(&out.escrow).ok()?,
                    key: keys.payer.key(&id)?,
                    deposit: out.deposit,
                    refund: refunds.get(&id).copied()?,
                };
                let funder = funding.of(&settler, &id).unwrap_or_else(|| capital.clone());
                Some(Held { own, funder })
            })
            .collect();
        Ok(RelayPurse {
            purse: Purse {
                one_time: funding.all(&settler),
                settler,
                connector: Arc::new(Tcp),
                account: capital,
                asset: config.ledger.asset.asset(),
                escrows,
            },
            payees,
            journal,
        })
    }
}
