//! Whose wallet it is: a client's or a relay's, by its configuration.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use obol_client::{ClientConfig, ClientPurse};
use obol_relay::payments::RelayPurse;
use obol_stellar::Keypair;
use obol_stellar::wallet::purse::Purse;

/// A configuration of either kind.
pub(crate) enum Source {
    Client(Box<ClientConfig>),
    Relay(Box<obol_relay::config::Config>),
}

/// An open purse, with what keeps its owner from starting meanwhile.
pub(crate) struct Open {
    pub(crate) purse: Purse,
    /// The accounts that a relay is paid to.
    pub(crate) payees: Vec<Keypair>,
    _held: Held,
}

enum Held {
    Client {
        _journal: obol_store::Journal<obol_toll::fact::PayerFact>,
        _tor: Box<dyn std::any::Any + Send + Sync>,
    },
    Relay {
        _journal: obol_store::Journal<obol_toll::fact::NodeFact>,
    },
}

impl Source {
    /// Reads a configuration, and knows by its keys whose it is.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Source> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let table: toml::Table = text
            .parse()
            .with_context(|| format!("{} is not TOML", path.display()))?;
        if table.contains_key("nickname") {
            let config = obol_relay::config::Config::load(path)?;
            return Ok(Source::Relay(Box::new(config)));
        }
        if table.contains_key("state_directory") {
            return Ok(Source::Client(Box::new(ClientConfig::load(path)?)));
        }
        bail!(
            "{} is neither a relay's configuration (it has no `nickname`) nor a client's (it has no `state_directory`)",
            path.display()
        )
    }

    /// The journal's file.
    pub(crate) fn journal(&self) -> anyhow::Result<PathBuf> {
        Ok(match self {
            Source::Client(config) => config.path(&self.client_payments()?.journal),
            Source::Relay(config) => config.path(&self.relay_payments()?.journal),
        })
    }

    /// The ledger and the asset.
    pub(crate) fn ledger(&self) -> anyhow::Result<(String, obol_stellar::settings::AssetName)> {
        Ok(match self {
            Source::Client(_) => {
                let ledger = &self.client_payments()?.ledger;
                (ledger.network_passphrase.clone(), ledger.asset.clone())
            }
            Source::Relay(_) => {
                let ledger = &self.relay_payments()?.ledger;
                (ledger.network_passphrase.clone(), ledger.asset.clone())
            }
        })
    }

    /// Whether the owner accepts an asset whose issuer can freeze or claw back.
    pub(crate) fn allows_revocable(&self) -> bool {
        match self {
            Source::Client(config) => config
                .payments
                .as_ref()
                .is_some_and(|payments| payments.ledger.allow_revocable_asset),
            Source::Relay(config) => config
                .payments
                .as_ref()
                .is_some_and(|payments| payments.ledger.allow_revocable_asset),
        }
    }

    /// The files with secret keys: the name in a backup, and the path.
    pub(crate) fn key_files(&self) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let name = |path: &Path| path.to_string_lossy().into_owned();
        Ok(match self {
            Source::Client(config) => {
                let wallet = &self.client_payments()?.wallet;
                vec![(name(wallet), config.path(wallet))]
            }
            Source::Relay(config) => {
                let accounts = &self.relay_payments()?.accounts;
                let files = accounts.payees.iter().chain([&accounts.capital, &accounts.trust]);
                files.map(|file| (name(file), config.path(file))).collect()
            }
        })
    }

    /// Those of them that a backup takes: all, but a relay that has not run since it knew debts has no key for them yet.
    pub(crate) fn keys_to_back_up(&self) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let mut files = self.key_files()?;
        if let Source::Relay(config) = self {
            let trust = config.path(&self.relay_payments()?.accounts.trust);
            files.retain(|(_, path)| *path != trust || path.exists());
        }
        Ok(files)
    }

    /// The account that a person funds, made if it is not there yet.
    pub(crate) fn account(&self) -> anyhow::Result<Keypair> {
        let path = match self {
            Source::Client(config) => config.path(&self.client_payments()?.wallet),
            Source::Relay(config) => config.path(&self.relay_payments()?.accounts.capital),
        };
        Ok(Keypair::load_or_create(&path)?)
    }

    pub(crate) fn client_payments(&self) -> anyhow::Result<&obol_client::config::Payments> {
        match self {
            Source::Client(config) => config
                .payments
                .as_ref()
                .context("this client has no wallet: its configuration has no section `payments`"),
            Source::Relay(_) => bail!("this is a relay's configuration"),
        }
    }

    pub(crate) fn relay_payments(&self) -> anyhow::Result<&obol_relay::config::Payments> {
        match self {
            Source::Relay(config) => config
                .payments
                .as_ref()
                .context("this relay has no wallet: its configuration has no section `payments`"),
            Source::Client(_) => bail!("this is a client's configuration"),
        }
    }

    /// Opens the purse: its owner may not run meanwhile.
    pub(crate) async fn open(self) -> anyhow::Result<Open> {
        Ok(match self {
            Source::Client(config) => {
                let ClientPurse { purse, journal, tor } = ClientPurse::open(*config).await?;
                Open {
                    purse,
                    payees: Vec::new(),
                    _held: Held::Client {
                        _journal: journal,
                        _tor: tor,
                    },
                }
            }
            Source::Relay(config) => {
                let payments = config
                    .payments
                    .as_ref()
                    .context("this relay has no wallet: its configuration has no section `payments`")?;
                let RelayPurse { purse, payees, journal } = RelayPurse::open(payments, &config.data_directory).await?;
                Open {
                    purse,
                    payees,
                    _held: Held::Relay { _journal: journal },
                }
            }
        })
    }
}
