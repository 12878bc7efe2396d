//! The client's money while the client does not run: what `obol wallet` works on.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use obol_stellar::escrow::Escrow;
use obol_stellar::keys::EscrowPayer;
use obol_stellar::wallet::escrows::OwnEscrow;
use obol_stellar::wallet::purse::{Held, Purse};
use obol_store::Journal;
use obol_toll::fact::PayerFact;

use crate::client::{self, Books};
use crate::config::ClientConfig;
use crate::error::StartError;
use crate::runtime::LinkMeters;
use crate::tor;
use crate::wallet::{ESCROWS, FUNDING, ThroughTor, known_escrows};

/// A client's purse. The ledger is reached through Tor, on circuits of its own.
pub struct ClientPurse {
    /// The money.
    pub purse: Purse,
    /// The journal: held, so that no client starts meanwhile.
    pub journal: Journal<PayerFact>,
    /// The way to the ledger, to be kept as long as the purse.
    pub tor: Box<dyn std::any::Any + Send + Sync>,
}

impl ClientPurse {
    /// Opens the purse of a client that pays and does not run. Loads the Tor directory, as a start of the client does.
    ///
    /// # Errors
    /// As the client's start; [`StartError::NoPayments`] without payments in the configuration.
    pub fn open(config: ClientConfig) -> BoxFuture<'static, Result<ClientPurse, StartError>> {
        async move {
            config.check()?;
            let payments = config.payments.as_ref().ok_or(StartError::NoPayments)?;
            client::private_directory(&config.state_directory)?;
            let books = Books::open(&config, payments).await?;
            let tor = tor::client(&config.tor, &config.state_directory, LinkMeters::default()).await?;
            tor.bootstrap().await.map_err(|error| StartError::Bootstrap {
                reason: tor::tor_error_text(&error),
            })?;
            let network = obol_stellar::Network::new(payments.ledger.network_passphrase.clone());
            let keys = EscrowPayer::new(books.secret, network.id());
            let settler = client::settler(payments, &tor, &books.journal)?;
            let failed = |source| StartError::Books { source };
            let number = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).ok().map(u64::from_be_bytes);
            let funding = books.journal.secrets(FUNDING).await.map_err(failed)?;
            let funding = funding.iter().filter_map(|(id, _)| number(id));
            let funding: Vec<_> = funding
                .map(|number| keys.secret().funding_key(network.id(), number))
                .collect();
            let mut escrows = Vec::new();
            let mut seen = HashSet::new();
            let known = known_escrows(&books.facts);
            for (_, secret) in books.journal.secrets(ESCROWS).await.map_err(failed)? {
                let Some((nonce, by)) = secret.split_first_chunk::<32>() else {
                    continue;
                };
                let escrow = keys.add(nonce);
                let known = known.iter().find(|known| known.escrow.id() == escrow);
                if let (Some(known), Some(key), Some(by)) = (known, keys.key(&escrow), number(by))
                    && let Ok(built) = Escrow::try_from(&known.escrow)
                    && seen.insert(escrow)
                {
                    let own = OwnEscrow {
                        escrow: built,
                        key,
                        deposit: known.deposit,
                        refund: known.refund,
                    };
                    let funder = keys.secret().funding_key(network.id(), by);
                    escrows.push(Held { own, funder });
                }
            }
            let purse = Purse {
                settler,
                connector: Arc::new(ThroughTor::new(&tor)),
                account: books.account,
                asset: payments.ledger.asset.asset(),
                escrows,
                one_time: funding,
            };
            Ok(ClientPurse {
                purse,
                journal: books.journal,
                tor: Box::new(tor),
            })
        }
        .boxed()
    }
}
