//! The ledger and everybody's money.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use obol_cell::{AccountId, Stroops};
use obol_ledger::{Closing, Ledger, LedgerConfig, Storage, server};
use obol_stellar::asset::asset_code;
use obol_stellar::key::account_text;
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::{Keypair, Tcp};
use obol_testnet::economy::{Economy, Holder, found};

/// The embedded ledger, its server, and the asset.
pub struct Money {
    /// The ledger.
    pub ledger: Arc<Ledger>,
    server: server::ServerHandle,
    economy: Economy,
}

fn units(n: i64) -> Stroops {
    Stroops::new(n * 10_000_000).unwrap()
}

impl Money {
    /// Starts a ledger, and gives everybody in these directories money: relays (`payee.seed`, `capital.seed`) and clients (`wallet.seed`).
    pub async fn start(relays: &[&Path], clients: &[&Path]) -> anyhow::Result<Money> {
        let config = LedgerConfig {
            storage: Storage::Memory,
            closing: Closing::Every(Duration::from_millis(500)),
            allow_advance: true,
            ..LedgerConfig::default()
        };
        let ledger = Arc::new(Ledger::open(config)?);
        let server = server::serve(Arc::clone(&ledger), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let (mut payees, mut holders) = (Vec::new(), Vec::new());
        for directory in relays {
            payees.push(Keypair::load_or_create(&directory.join("payee.seed"))?);
            holders.push(Keypair::load_or_create(&directory.join("capital.seed"))?);
        }
        for directory in clients {
            holders.push(Keypair::load_or_create(&directory.join("wallet.seed"))?);
        }
        let mut all: Vec<Holder<'_>> = Vec::new();
        for (keys, lumens, holding) in [
            (&payees, units(1_000), Stroops::ZERO),
            (&holders, units(10_000), units(100_000)),
        ] {
            all.extend(keys.iter().map(|key| Holder { key, lumens, holding }));
        }
        let network = obol_stellar::Network::new(ledger.passphrase());
        let rail = Horizon::new(&server.url(), network.clone(), Arc::new(Tcp), Timeouts::default())?;
        let founder = Keypair::from_seed(&ledger.root_secret());
        let economy = found(&rail, &network, &founder, "OBOL", &all).await?;
        Ok(Money {
            ledger,
            server,
            economy,
        })
    }

    /// The keys of a configuration that choose network and money, the same for relays and clients.
    pub fn section(&self) -> String {
        format!(
            "[payments.ledger]\nnetwork_passphrase = \"{}\"\nasset = \"{}:{}\"\nurls = [\"{}\"]\npoll = \"250ms\"\n",
            self.ledger.passphrase(),
            asset_code(&self.economy.asset),
            account_text(&AccountId(self.economy.asset.issuer)),
            self.server.url(),
        )
    }

    /// No stroop of any asset was made or lost, and all that was ever issued of ours is still there.
    pub fn is_conserved(&self) -> anyhow::Result<()> {
        let audit = self.ledger.audit()?;
        ensure!(audit.native.difference == 0, "lumens: {:?}", audit.native);
        let ours = audit.assets.values().next().context("the asset is gone")?;
        let there = ours.trust_lines + ours.claimable;
        let issued = self.economy.issued.get();
        ensure!(
            ours.difference == 0 && there == i128::from(issued),
            "{issued} stroops were issued: {ours:?}"
        );
        Ok(())
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.server.shutdown().await;
    }
}
