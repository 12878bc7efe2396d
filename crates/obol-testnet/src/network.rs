//! A whole network on one machine: ledger, authority, relays, and clients on demand.
//!
//! Every relay is configured by a file as any relay is, and run by what `obol relay` runs, in this process or in one of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use obol_cell::Stroops;
use obol_client::{Client, ClientConfig, ClientHandle, Pay, config as client_config};
use obol_ledger::{Closing, Ledger, LedgerConfig, Storage, server};
use obol_relay::config as relay_config;
use obol_relay::run::RunningRelay;
use obol_stellar::asset::asset_code;
use obol_stellar::key::KeyFileError;
use obol_stellar::rail::horizon::{BadUrl, Horizon, Timeouts};
use obol_stellar::{Keypair, Tcp};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::authority::{self, Authority, AuthorityConfig, Role, VoteError};
use crate::control::{Control, ControlError};
use crate::ctor::{CTor, CTorError, Torrc};
use crate::economy::{Economy, EconomyError, Holder, found};

mod plan;

use plan::Plan;

/// What a network is made of.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// How many relays: at least 3. The first is the guard, the last (of five or more: the last two) exits.
    pub relays: usize,
    /// Where keys, configurations and journals go.
    pub directory: PathBuf,
    /// The `obol` program, to run each relay as a process of its own; `None`: all in this process.
    pub relay_program: Option<PathBuf>,
    /// How often ledgers close.
    pub ledger_interval: Duration,
    /// Prices of guard, middle and exit in stroops per 64 KiB, each on the ladder.
    pub prices: [i64; 3],
    /// Whether the relays are paid, or plain Tor relays.
    pub payments: bool,
    /// The largest step they sell: 64 KiB times a power of two.
    pub largest_step: u64,
    /// Memory for queued cells of each relay, bytes.
    pub cell_memory: u64,
    /// Consensus parameters, in place of or beside the authority's own.
    pub consensus: Vec<(String, i32)>,
    /// What exits let through, as in `torrc`.
    pub exit_policy: Vec<String>,
    /// Unmodified C Tor relays beside ours: nicknames and places in paths.
    pub strangers: Vec<(String, Role)>,
    /// Wallets with money, at least 1. Clients get them in turn: two that pay at the same time need one each.
    pub wallets: usize,
    /// Middle relays for which everything is made, money included, and which somebody else starts: see [`Network::guests`].
    pub guests: Vec<String>,
    /// The time from one consensus to the next. C Tor takes nothing below five minutes.
    pub consensus_interval: Duration,
}

impl NetworkOptions {
    /// Three relays in this process, prices 20, 10 and 50, a ledger every half second.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        NetworkOptions {
            relays: 3,
            directory: directory.into(),
            relay_program: None,
            ledger_interval: Duration::from_millis(500),
            prices: [20, 10, 50],
            payments: true,
            largest_step: 16 << 20,
            cell_memory: 64 << 20,
            consensus: Vec::new(),
            exit_policy: vec!["accept *:*".to_owned()],
            strangers: Vec::new(),
            wallets: 1,
            guests: Vec::new(),
            consensus_interval: AuthorityConfig::default().interval,
        }
    }
}

/// Why a network does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Fewer than three relays have no paths.
    #[error("a network has at least 3 relays, not {0}: Tor's paths are three hops")]
    TooFew(usize),
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The ledger's state.
    #[error("the ledger: {0}")]
    Ledger(#[from] obol_ledger::StoreError),
    /// The ledger's server.
    #[error("the ledger's server: {0}")]
    Serve(std::io::Error),
    /// The ledger's URL.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// The asset, or its accounts.
    #[error(transparent)]
    Economy(#[from] EconomyError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] authority::StartError),
    /// Its consensus.
    #[error("the authority makes no consensus: {0}")]
    Vote(#[from] VoteError),
    /// A relay's configuration.
    #[error(transparent)]
    Config(#[from] relay_config::ConfigError),
    /// A relay in this process.
    #[error("relay {nickname}: {error}")]
    Relay {
        /// Which.
        nickname: String,
        /// Why.
        error: obol_relay::run::RunError,
    },
    /// A relay's process.
    #[error("relay {nickname} ended before it was ready; its log is {}", log.display())]
    Ended {
        /// Which.
        nickname: String,
        /// Its log.
        log: PathBuf,
    },
    /// What a relay wrote about itself.
    #[error("relay {nickname} wrote no good running.json: {error}")]
    Running {
        /// Which.
        nickname: String,
        /// Why.
        error: serde_json::Error,
    },
    /// Something took too long.
    #[error("{what} did not happen within {} s", patience.as_secs())]
    Late {
        /// What.
        what: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A relay's gateway.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A C Tor relay.
    #[error(transparent)]
    CTor(#[from] CTorError),
    /// A client.
    #[error("the client: {0}")]
    Client(#[from] obol_client::StartError),
    /// The client's configuration for Tor.
    #[error("the client's configuration: {0}")]
    ClientConfig(#[from] toml::de::Error),
}

/// How long a relay may take to start: its first start makes RSA keys.
const START: Duration = Duration::from_secs(120);

/// What a relay says about itself in `running.json`.
#[derive(Debug, Clone, Deserialize)]
struct Running {
    or: SocketAddr,
    gateway: SocketAddr,
    fingerprint: String,
}

#[derive(Debug)]
enum Body {
    Here(Option<RunningRelay>),
    Process(Child),
}

/// One relay of the network.
#[derive(Debug)]
pub struct RelayNode {
    /// Its name.
    pub nickname: String,
    /// Its place in paths.
    pub role: Role,
    /// Its RSA identity, 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// Its price in stroops per 64 KiB.
    pub price: i64,
    /// Where its keys and journal are.
    pub directory: PathBuf,
    /// Where it accepts links.
    pub or: SocketAddr,
    /// Its gateway.
    pub control: Control,
    config: relay_config::Config,
    program: Option<PathBuf>,
    body: Body,
}

impl RelayNode {
    /// The process it runs in.
    pub fn pid(&self) -> Option<u32> {
        match &self.body {
            Body::Here(_) => Some(std::process::id()),
            Body::Process(child) => child.id(),
        }
    }

    /// Waits until its process has ended for a reason of its own, and says how; at once and with nothing for a relay in this
    /// process.
    ///
    /// # Errors
    /// If the system does not say.
    pub async fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let Body::Process(child) = &mut self.body else {
            return Ok(None);
        };
        // Waiting closes its standard input, which is a reason.
        let leash = child.stdin.take();
        let status = child.wait().await;
        drop(leash);
        status.map(Some)
    }

    /// Ends its process without a word, as a power failure would (SIGKILL), and waits until it is gone. A relay in this process is stopped.
    ///
    /// # Errors
    /// If the system cannot do that.
    pub async fn kill(&mut self) -> Result<(), NetworkError> {
        match &mut self.body {
            Body::Here(_) => self.stop().await,
            Body::Process(child) => child.kill().await.map_err(|error| NetworkError::File {
                path: self.directory.clone(),
                error,
            })?,
        }
        Ok(())
    }

    /// Starts it again after its end, with the same keys, journal and port. `hold`: where its process goes no further (`OBOL_HOLD`, see
    /// obol-store), for a relay in a process of its own.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn start_again(&mut self, hold: Option<&str>) -> Result<(), NetworkError> {
        let (body, said) = start_relay(&self.nickname, &self.config, self.program.as_deref(), hold).await?;
        self.control = Control::new(said.gateway, &self.config.path(&self.config.gateway.token))?;
        self.body = body;
        Ok(())
    }

    async fn stop(&mut self) {
        match &mut self.body {
            Body::Here(relay) => {
                if let Some(relay) = relay.take() {
                    relay.shutdown().await;
                }
            }
            Body::Process(child) => {
                // Its standard input is our leash: closed, it ends by itself; if not, it is ended.
                drop(child.stdin.take());
                if tokio::time::timeout(Duration::from_secs(10), child.wait())
                    .await
                    .is_err()
                {
                    let _ = child.kill().await;
                }
            }
        }
    }
}

/// A running network. Dropped, everything in it ends; [`Network::stop`] waits for that.
#[derive(Debug)]
pub struct Network {
    /// What it was made of.
    pub options: NetworkOptions,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// The asset.
    pub economy: Economy,
    /// The directory authority.
    pub authority: Authority,
    /// The relays, guard first.
    pub relays: Vec<RelayNode>,
    /// Unmodified C Tor relays, in the order in which they were asked for.
    pub strangers: Vec<CTor>,
    /// The configurations of the relays that somebody else starts, in the order in which they were asked for. Once one has published, the next
    /// consensus lists it.
    pub guests: Vec<PathBuf>,
    wallets: Vec<Keypair>,
    next_wallet: AtomicUsize,
    server: server::ServerHandle,
}

/// What happens while a network starts, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The ledger runs, with the asset and everybody's accounts.
    Money,
    /// The authority runs.
    Authority,
    /// So many relays run and have published.
    Relays(usize),
    /// The consensus lists them.
    Consensus,
}

const CODE: &str = "OBOL";

fn lumens(n: i64) -> Stroops {
    Stroops::new(n.saturating_mul(10_000_000)).unwrap_or(Stroops::ZERO)
}

fn units(n: i64) -> Stroops {
    lumens(n)
}

impl Network {
    /// Brings everything up but clients.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn start(options: NetworkOptions, mut progress: impl FnMut(Stage)) -> Result<Self, NetworkError> {
        if options.relays < 3 {
            return Err(NetworkError::TooFew(options.relays));
        }
        make_directory(&options.directory)?;
        let config = LedgerConfig {
            storage: Storage::Memory,
            closing: Closing::Every(options.ledger_interval),
            allow_advance: true,
            ..LedgerConfig::default()
        };
        let ledger = Arc::new(Ledger::open(config)?);
        let server = server::serve(Arc::clone(&ledger), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .map_err(NetworkError::Serve)?;

        let plans: Vec<Plan> = (0..options.relays).map(|i| Plan::new(&options, i)).collect();
        let guests: Vec<Plan> = options.guests.iter().map(|name| Plan::guest(&options, name)).collect();
        let mut keys = Vec::new();
        for plan in plans.iter().chain(&guests) {
            make_directory(&plan.directory)?;
            keys.push(Keypair::load_or_create(&plan.directory.join("payee.seed"))?);
            keys.push(Keypair::load_or_create(&plan.directory.join("capital.seed"))?);
        }
        let wallets: Result<Vec<Keypair>, _> = (0..options.wallets.max(1)).map(|_| Keypair::random()).collect();
        let wallets = wallets.map_err(EconomyError::from)?;
        let mut holders: Vec<Holder<'_>> = keys
            .chunks(2)
            .flat_map(|pair| {
                let capital = Holder {
                    key: &pair[1],
                    lumens: lumens(10_000),
                    holding: units(100_000),
                };
                [
                    Holder {
                        key: &pair[0],
                        lumens: lumens(1_000),
                        holding: Stroops::ZERO,
                    },
                    capital,
                ]
            })
            .collect();
        holders.extend(wallets.iter().map(|key| Holder {
            key,
            lumens: lumens(10_000),
            holding: units(100_000),
        }));
        let network = obol_stellar::Network::new(ledger.passphrase());
        let rail = Horizon::new(&server.url(), network.clone(), Arc::new(Tcp), Timeouts::default())?;
        let founder = Keypair::from_seed(&ledger.root_secret());
        let economy = found(&rail, &network, &founder, CODE, &holders).await?;
        progress(Stage::Money);

        let mut config = AuthorityConfig {
            interval: options.consensus_interval,
            ..AuthorityConfig::default()
        };
        config.params.extend(options.consensus.iter().cloned());
        let authority = Authority::start(config).await?;
        for plan in plans.iter().chain(&guests) {
            authority.assign(&plan.nickname, plan.role);
        }
        progress(Stage::Authority);

        let mut invitations = Vec::new();
        for plan in guests {
            let config = plan.config(&options, &authority, &ledger, &server, &economy);
            let file = plan.directory.join("node.toml");
            write(&file, &config.to_toml()?)?;
            invitations.push(file);
        }
        let mut relays = Vec::new();
        let starting = plans.into_iter().map(|plan| {
            let config = plan.config(&options, &authority, &ledger, &server, &economy);
            plan.start(config, options.relay_program.clone())
        });
        for relay in futures::future::join_all(starting).await {
            relays.push(relay?);
        }
        let mut strangers = Vec::new();
        for (nickname, role) in &options.strangers {
            authority.assign(nickname, *role);
            strangers.push(stranger(&options.directory, nickname, *role, &authority)?);
        }
        for stranger in &mut strangers {
            stranger.or_address().await?;
        }
        tokio::time::timeout(START, authority.wait_for(relays.len() + strangers.len()))
            .await
            .map_err(|_| NetworkError::Late {
                what: "publishing all descriptors",
                patience: START,
            })?;
        progress(Stage::Relays(relays.len()));
        authority.publish_now().await?;
        progress(Stage::Consensus);
        Ok(Network {
            options,
            ledger,
            economy,
            authority,
            relays,
            strangers,
            guests: invitations,
            wallets,
            next_wallet: AtomicUsize::new(0),
            server,
        })
    }

    /// The ledger's Horizon URL.
    pub fn ledger_url(&self) -> String {
        self.server.url()
    }

    /// What a stock Arti needs to use this network, as an `arti.toml`, with its state below `directory`.
    pub fn arti_toml(&self, directory: &Path) -> String {
        self.authority
            .arti_network()
            .toml_with_storage(&directory.join("state"), &directory.join("cache"))
    }

    /// A client's configuration, its state below `directory`; with `pay`, its wallet holds this network's money.
    ///
    /// # Errors
    /// If the wallet's key file cannot be written, or the configuration is not one.
    pub fn client_config(&self, directory: &Path, pay: Option<Pay>) -> Result<ClientConfig, NetworkError> {
        make_directory(directory)?;
        let mut config = ClientConfig::new(directory);
        config.tor = toml::from_str(&self.authority.arti_network().toml())?;
        if let Some(pay) = pay {
            let wallet = directory.join("wallet.seed");
            if !wallet.exists() {
                let turn = self.next_wallet.fetch_add(1, Ordering::Relaxed);
                if let Some(key) = self.wallets.get(turn % self.wallets.len()) {
                    key.save_new(&wallet)?;
                }
            }
            config.payments = Some(client_config::Payments {
                pay,
                max_price_per_64_kib: 100,
                max_tunnel_price_per_64_kib: None,
                paths: client_config::Paths::default(),
                budget: None,
                budget_per_tunnel: None,
                budget_per_day: None,
                budget_per_month: None,
                deposit: client_config::Amount::units(50),
                max_locked: None,
                life: client_config::Span::hours(24),
                escrow_per_place: true,
                random_delay: client_config::Span::seconds(0),
                journal: PathBuf::from("payments.sqlite"),
                keep_days: None,
                wallet: PathBuf::from("wallet.seed"),
                ledger: client_config::Ledger {
                    network_passphrase: self.ledger.passphrase().to_owned(),
                    asset: client_config::AssetName {
                        code: asset_code(&self.economy.asset),
                        issuer: self.economy.asset.issuer,
                    },
                    kind: Default::default(),
                    urls: vec![self.ledger_url()],
                    requests_per_minute: None,
                    poll: client_config::Span::millis(250),
                    highest_fee: 1_000_000,
                    two_witnesses_above: None,
                    allow_revocable_asset: false,
                },
            });
        }
        Ok(config)
    }

    /// Starts a client of this network.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn client(&self, name: &str, pay: Option<Pay>) -> Result<ClientHandle, NetworkError> {
        let config = self.client_config(&self.options.directory.join(name), pay)?;
        Ok(Client::start(config).await?)
    }

    /// The guard: the only one, so that what two clients do meets there.
    pub fn guard(&self) -> &RelayNode {
        &self.relays[0]
    }

    /// Ends everything, relays first, and waits until it has ended.
    pub async fn stop(mut self) {
        futures::future::join_all(self.relays.iter_mut().map(RelayNode::stop)).await;
        self.authority.shutdown().await;
        self.server.shutdown().await;
    }
}

/// Starts a C Tor relay.
fn stranger(directory: &Path, nickname: &str, role: Role, authority: &Authority) -> Result<CTor, CTorError> {
    let torrc = Torrc::new().lines(&authority.torrc_line()).relay(nickname, "auto");
    let torrc = match role {
        Role::Exit => torrc.exits(),
        _ => torrc.exits_nowhere(),
    };
    CTor::start(&directory.join(nickname), &torrc)
}

/// Runs a relay from its configuration, written to a file first, and waits until it is ready.
async fn start_relay(
    nickname: &str,
    config: &relay_config::Config,
    program: Option<&Path>,
    hold: Option<&str>,
) -> Result<(Body, Running), NetworkError> {
    let directory = &config.data_directory;
    let file = directory.join("node.toml");
    write(&file, &config.to_toml()?)?;
    let running = directory.join("running.json");
    // Of an earlier run that was ended the hard way.
    let _ = std::fs::remove_file(&running);
    let Some(program) = program else {
        let relay = obol_relay::run::run(config.clone())
            .await
            .map_err(|error| NetworkError::Relay {
                nickname: nickname.to_owned(),
                error,
            })?;
        let said = read_running(&running, nickname)?;
        return Ok((Body::Here(Some(relay)), said));
    };
    let log = directory.join("relay.log");
    let of_file = |path: &Path, error| NetworkError::File {
        path: path.to_owned(),
        error,
    };
    let mut to = std::fs::OpenOptions::new();
    let to = to.create(true).append(true).open(&log);
    let mut command = Command::new(program);
    command
        .args(["relay", "--end-with-input", "--config"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(to.map_err(|error| of_file(&log, error))?)
        .kill_on_drop(true);
    if let Some(hold) = hold {
        command.env("OBOL_HOLD", hold);
    }
    let mut child = command.spawn().map_err(|error| of_file(program, error))?;
    let ready = wait_for_file(&running, &mut child);
    match tokio::time::timeout(START, ready).await {
        Ok(true) => {}
        Ok(false) => {
            return Err(NetworkError::Ended {
                nickname: nickname.to_owned(),
                log,
            });
        }
        Err(_) => {
            return Err(NetworkError::Late {
                what: "the start of a relay",
                patience: START,
            });
        }
    }
    let said = read_running(&running, nickname)?;
    Ok((Body::Process(child), said))
}

/// Waits until the file is there; false if the process ended before.
async fn wait_for_file(path: &Path, child: &mut Child) -> bool {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        if path.exists() {
            return true;
        }
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
    }
}

fn read_running(path: &Path, nickname: &str) -> Result<Running, NetworkError> {
    let text = std::fs::read_to_string(path).map_err(|error| NetworkError::File {
        path: path.to_owned(),
        error,
    })?;
    serde_json::from_str(&text).map_err(|error| NetworkError::Running {
        nickname: nickname.to_owned(),
        error,
    })
}

fn write(path: &Path, text: &str) -> Result<(), NetworkError> {
    std::fs::write(path, text).map_err(|error| NetworkError::File {
        path: path.to_owned(),
        error,
    })
}

/// Makes a directory that only its owner can read, with those above it.
fn make_directory(path: &Path) -> Result<(), NetworkError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| NetworkError::File {
        path: path.to_owned(),
        error,
    })
}
