//! A relay of the network before it runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use obol_ledger::{Ledger, server};
use obol_relay::config as relay_config;
use obol_stellar::asset::asset_code;

use super::{NetworkError, NetworkOptions, RelayNode, start_relay};
use crate::authority::{Authority, Role};
use crate::control::Control;
use crate::economy::Economy;

/// A relay before it runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) nickname: String,
    pub(super) role: Role,
    pub(super) price: i64,
    pub(super) directory: PathBuf,
}

impl Plan {
    pub(super) fn new(options: &NetworkOptions, index: usize) -> Self {
        let exits = (options.relays - 1) / 2;
        let (role, price) = if index == 0 {
            (Role::Guard, options.prices[0])
        } else if index + exits >= options.relays {
            (Role::Exit, options.prices[2])
        } else {
            (Role::Middle, options.prices[1])
        };
        let nickname = format!("relay{index}");
        let directory = options.directory.join(&nickname);
        Plan {
            nickname,
            role,
            price,
            directory,
        }
    }

    pub(super) fn guest(options: &NetworkOptions, nickname: &str) -> Self {
        Plan {
            nickname: nickname.to_owned(),
            role: Role::Middle,
            price: options.prices[1],
            directory: options.directory.join(nickname),
        }
    }

    pub(super) fn config(
        &self,
        options: &NetworkOptions,
        authority: &Authority,
        ledger: &Ledger,
        server: &server::ServerHandle,
        economy: &Economy,
    ) -> relay_config::Config {
        use relay_config::{Amount, AssetName, Fingerprint, Size, Span};
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let policy = match self.role {
            Role::Exit => options.exit_policy.clone(),
            _ => vec!["reject *:*".to_owned()],
        };
        let entry = authority.entry();
        relay_config::Config {
            nickname: self.nickname.clone(),
            contact: String::new(),
            log: None,
            shutdown_wait: Span::seconds(30),
            data_directory: self.directory.clone(),
            or: relay_config::OrPort {
                listen: loopback,
                advertise: None,
                ipv6_listen: None,
                ipv6_advertise: None,
                allow_private_addresses: true,
            },
            exit: relay_config::Exit {
                policy,
                reject_private: false,
                ..relay_config::Exit::default()
            },
            family: relay_config::Family::default(),
            bandwidth: relay_config::Bandwidth {
                // What a relay sends to itself would be in the way of what is measured here.
                self_test: false,
                ..relay_config::Bandwidth::default()
            },
            accounting: relay_config::Accounting::default(),
            defence: relay_config::Defence::default(),
            memory: relay_config::Memory {
                cells: Size(options.cell_memory),
                ..relay_config::Memory::default()
            },
            directory: relay_config::Directory {
                publish: true,
                authorities: vec![relay_config::Authority {
                    name: entry.name,
                    address: entry.address,
                    v3_identity: Fingerprint(entry.v3_identity),
                }],
            },
            payments: options.payments.then(|| relay_config::Payments {
                price_per_64_kib: self.price,
                forward_ppm: 1_000,
                forward_ceiling: None,
                largest_step: Size(options.largest_step),
                journal: PathBuf::from("payments.sqlite"),
                journal_limit: None,
                keep_days: None,
                trust: Vec::new(),
                ledger: relay_config::Ledger {
                    network_passphrase: ledger.passphrase().to_owned(),
                    asset: AssetName {
                        code: asset_code(&economy.asset),
                        issuer: economy.asset.issuer,
                    },
                    kind: Default::default(),
                    urls: vec![server.url()],
                    requests_per_minute: None,
                    poll: Span::millis(250),
                    max_age: Span::seconds(60),
                    allow_revocable_asset: false,
                    highest_fee: 1_000_000,
                    two_witnesses_above: None,
                },
                accounts: relay_config::Accounts::default(),
                escrows: relay_config::Escrows {
                    close_delay: Span::seconds(0),
                    ..relay_config::Escrows::default()
                },
                peers: relay_config::Peers {
                    open: true,
                    limit: 64,
                    deposit: Amount::units(40),
                    random_delay: Span::seconds(0),
                    batch_period: Span::seconds(0),
                    life: Span::hours(7 * 24),
                    ..relay_config::Peers::default()
                },
                limits: relay_config::Limits::default(),
                owing: relay_config::Owing::default(),
            }),
            gateway: relay_config::Gateway {
                listen: Some(loopback),
                ..relay_config::Gateway::default()
            },
        }
    }

    pub(super) async fn start(
        self,
        mut config: relay_config::Config,
        program: Option<PathBuf>,
    ) -> Result<RelayNode, NetworkError> {
        let (body, said) = start_relay(&self.nickname, &config, program.as_deref(), None).await?;
        let control = Control::new(said.gateway, &config.path(&config.gateway.token))?;
        // Where it is found when it starts again.
        config.or.listen = said.or;
        Ok(RelayNode {
            nickname: self.nickname,
            role: self.role,
            fingerprint: said.fingerprint,
            price: self.price,
            directory: self.directory,
            or: said.or,
            control,
            config,
            program,
            body,
        })
    }
}
