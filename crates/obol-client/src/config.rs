//! The client's configuration: one TOML file or one value of [`ClientConfig`].
//!
//! Unknown keys are errors, values are checked as a whole, and every error names the key and says what to write
//! instead. Relative paths are relative to `state_directory`. The same words as in the relay's `node.toml` mean the same.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use obol_toll::payer::PayPolicy;
use serde::{Deserialize, Serialize};

use obol_stellar::rail::RailKind;
use obol_stellar::settings::check_ledger;
pub use obol_stellar::settings::{Amount, AssetName, Invalid, Span, ValueError};

/// Everything that a client is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Where keys, caches and the journal live. Created if absent, readable by its owner only.
    pub state_directory: PathBuf,
    /// The proxy that applications use.
    #[serde(default)]
    pub socks: Socks,
    /// The local HTTP interface, with the dashboard.
    #[serde(default)]
    pub gateway: Gateway,
    /// Paying. Absent: an ordinary Tor client, served in the unpaid class.
    #[serde(default)]
    pub payments: Option<Payments>,
    /// Onion services that this client hosts.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Arti's own configuration, with the keys of `arti.toml` (`tor_network`, `address_filter`, `path_rules`, ...). Empty: the public Tor network.
    /// `stream_timeouts` holds for every stream, whoever chose its tunnel.
    /// `storage.cache_dir` and `storage.state_dir` are set by this client.
    #[serde(default)]
    pub tor: toml::Table,
}

/// The proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Socks {
    /// Address and port: SOCKS 4, 4a and 5, and HTTP CONNECT. Port 0: a free port.
    pub listen: SocketAddr,
    /// Allow an address that is not this machine's loopback. Whoever reaches the port spends this wallet.
    pub allow_remote: bool,
}

impl Default for Socks {
    fn default() -> Socks {
        Socks {
            listen: SocketAddr::from(([127, 0, 0, 1], 9150)),
            allow_remote: false,
        }
    }
}

/// The local HTTP interface: the dashboard, and `/api/v1` for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Address and port. Absent: no interface.
    pub listen: Option<SocketAddr>,
    /// Allow an address that is not this machine's loopback.
    pub allow_remote: bool,
    /// File with the token that everything but the dashboard's own files asks for. An absent file is made.
    pub token: PathBuf,
    /// Sums of hours, for charts and for the user, are kept on disk for so many days; 0: in memory alone.
    pub history_days: u32,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            listen: None,
            allow_remote: false,
            token: PathBuf::from("gateway.token"),
            history_days: 90,
        }
    }
}

/// An onion service: its key is made when it first starts, and kept in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name here: letters, digits, `-` and `_`. Nobody else sees it; another name is another key and another address.
    pub nickname: String,
    /// Which of its ports go where. A client that asks for another port loses its circuit.
    pub ports: Vec<ServicePort>,
    /// Relays that introduce clients to it, from 3 to 20.
    #[serde(default = "default_introduction_points")]
    pub introduction_points: u8,
}

/// A port of an onion service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    /// The port that clients ask for.
    pub port: u16,
    /// The server that gets what they send.
    pub to: SocketAddr,
}

fn default_introduction_points() -> u8 {
    3
}

/// When to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pay {
    /// Every step.
    Always,
    /// One step in 16 is withheld at random; where that slows nothing, every other one is.
    #[default]
    WhenItHelps,
    /// No step at all; then no tunnel is preferred either, and [`Paths::Only`] refuses every stream.
    Never,
}

impl From<Pay> for PayPolicy {
    fn from(pay: Pay) -> PayPolicy {
        match pay {
            Pay::Always => PayPolicy::Always,
            Pay::WhenItHelps => PayPolicy::WhenItHelps,
            Pay::Never => PayPolicy::Never,
        }
    }
}

/// Which tunnels streams go on: how far they can be paid for, from the guard (ADR 0023). Who picks relays is always Arti; this says which of the
/// tunnels that Arti builds are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Paths {
    /// The first that Arti gives.
    Any,
    /// One whose hops can all be paid within the ceilings, if a few tries find one; else the one of them that can be paid farthest.
    #[default]
    Prefer,
    /// Only one whose hops can all be paid within the ceilings; a stream is refused where a few tries find none.
    Only,
}

/// Prices, budgets, money and the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payments {
    /// When to pay.
    #[serde(default)]
    pub pay: Pay,
    /// Which tunnels streams go on.
    #[serde(default)]
    pub paths: Paths,
    /// Most stroops per 64 KiB that one hop may ask. More is refused, and the tunnel goes on unpaid.
    pub max_price_per_64_kib: u64,
    /// Most stroops per 64 KiB for a whole tunnel, fees included. Absent: three times `max_price_per_64_kib`, and 1 %.
    #[serde(default)]
    pub max_tunnel_price_per_64_kib: Option<u64>,
    /// Most that is ever signed away, in all runs together. Absent: no limit but the deposits.
    #[serde(default)]
    pub budget: Option<Amount>,
    /// Most that is signed away for one tunnel. Absent: no limit of this kind.
    #[serde(default)]
    pub budget_per_tunnel: Option<Amount>,
    /// Most that is signed away on one day, UTC. Absent: no limit of this kind.
    #[serde(default)]
    pub budget_per_day: Option<Amount>,
    /// Most that is signed away in one calendar month, UTC. Absent: no limit of this kind.
    #[serde(default)]
    pub budget_per_month: Option<Amount>,
    /// What is put into each new escrow. A guard that asks for more gets no escrow.
    pub deposit: Amount,
    /// Most that is locked in escrows to all guards together. Absent: a deposit for each guard.
    #[serde(default)]
    pub max_locked: Option<Amount>,
    /// Life of an escrow, as far as the guard's terms allow.
    #[serde(default = "default_life")]
    pub life: Span,
    /// Use an escrow only at the attachment to a network where it was opened, so that a guard does not know a laptop again that it serves at
    /// home and in a café. What is left in it comes back after its life.
    #[serde(default = "yes")]
    pub escrow_per_place: bool,
    /// Openings, settlements and moves fall at random times within this span, so that the ledger does not show what caused
    /// them. "0s" for test networks only.
    #[serde(default = "default_delay")]
    pub random_delay: Span,
    /// The journal of all payment facts.
    #[serde(default = "default_journal")]
    pub journal: PathBuf,
    /// Facts older than so many days are added up to daily totals and erased. Absent: everything is kept.
    #[serde(default)]
    pub keep_days: Option<u32>,
    /// The file with the wallet's secret seed (`S...`). An absent file is made, with a new key.
    #[serde(default = "default_wallet")]
    pub wallet: PathBuf,
    /// Where money is settled.
    pub ledger: Ledger,
}

/// A Stellar network, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The passphrase that names the network.
    pub network_passphrase: String,
    /// The one asset that is paid in.
    pub asset: AssetName,
    /// What `urls` are: `"horizon"` (the default) or `"rpc"`, Stellar RPC.
    #[serde(default)]
    pub kind: RailKind,
    /// The ledger's servers, the first is asked first; all of them through Tor.
    pub urls: Vec<String>,
    /// Each server is asked at most so often in any minute. Absent: as often as need be.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// How often the newest ledger is looked up while something is open.
    #[serde(default = "default_poll")]
    pub poll: Span,
    /// Highest fee for one transaction, in stroops of XLM.
    #[serde(default = "default_highest_fee")]
    pub highest_fee: i64,
    /// That a transaction of more than this never got into a ledger is believed only when two of `urls` say so. Absent: one is enough.
    #[serde(default)]
    pub two_witnesses_above: Option<Amount>,
    /// Hold an asset whose issuer can freeze or claw back: the money is then only as good as the issuer's word.
    #[serde(default)]
    pub allow_revocable_asset: bool,
}

fn default_life() -> Span {
    Span::hours(24)
}
fn yes() -> bool {
    true
}
fn default_delay() -> Span {
    Span::seconds(600)
}
fn default_journal() -> PathBuf {
    PathBuf::from("payments.sqlite")
}
fn default_wallet() -> PathBuf {
    PathBuf::from("wallet.seed")
}
fn default_poll() -> Span {
    Span::seconds(5)
}
fn default_highest_fee() -> i64 {
    1_000_000
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind. The message names line and key.
    #[error("the configuration is wrong: {0}")]
    Parse(#[from] Box<toml::de::Error>),
    /// A value that cannot be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

fn invalid(key: &'static str, problem: impl Into<String>, advice: &'static str) -> ConfigError {
    ConfigError::Invalid(Invalid::new(key, problem, advice))
}

impl ClientConfig {
    /// A client that keeps its state in `state_directory`, does not pay, listens on a free loopback port and uses the public network: to be
    /// completed field by field.
    pub fn new(state_directory: impl Into<PathBuf>) -> ClientConfig {
        ClientConfig {
            state_directory: state_directory.into(),
            socks: Socks {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                allow_remote: false,
            },
            gateway: Gateway::default(),
            payments: None,
            services: Vec::new(),
            tor: toml::Table::new(),
        }
    }

    /// Reads and checks a configuration file. A relative `state_directory` is relative to the file.
    pub fn load(path: &Path) -> Result<ClientConfig, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = ClientConfig::parse(&text)?;
        if let Some(directory) = path.parent() {
            config.state_directory = directory.join(&config.state_directory);
        }
        Ok(config)
    }

    /// Parses and checks a configuration.
    pub fn parse(text: &str) -> Result<ClientConfig, ConfigError> {
        let config: ClientConfig = toml::from_str(text).map_err(Box::new)?;
        config.check()?;
        Ok(config)
    }

    /// A path of the configuration, relative ones below the state directory.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.state_directory.join(path)
    }

    /// Checks every rule that the types do not hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.state_directory.as_os_str().is_empty() {
            return Err(invalid("state_directory", "is empty", "name a directory"));
        }
        if !self.socks.listen.ip().is_loopback() && !self.socks.allow_remote {
            return Err(invalid(
                "socks.listen",
                format!("is {}, which others can reach", self.socks.listen),
                "use 127.0.0.1, or set socks.allow_remote = true",
            ));
        }
        if let Some(listen) = self.gateway.listen
            && !listen.ip().is_loopback()
            && !self.gateway.allow_remote
        {
            return Err(invalid(
                "gateway.listen",
                format!("is {listen}, which others can reach"),
                "use 127.0.0.1, or set gateway.allow_remote = true",
            ));
        }
        if self.tor.contains_key("storage") {
            return Err(invalid(
                "tor.storage",
                "is set",
                "remove it: arti's files live below state_directory",
            ));
        }
        for (n, service) in self.services.iter().enumerate() {
            service.check()?;
            if self.services[..n]
                .iter()
                .any(|other| other.nickname == service.nickname)
            {
                return Err(invalid(
                    "services.nickname",
                    format!("is \"{}\" twice", service.nickname),
                    "give each service a name of its own: its key goes by it",
                ));
            }
        }
        self.payments.as_ref().map_or(Ok(()), Payments::check)
    }
}

impl Service {
    fn check(&self) -> Result<(), ConfigError> {
        if self.nickname.parse::<tor_hsservice::HsNickname>().is_err() {
            return Err(invalid(
                "services.nickname",
                format!("is \"{}\"", self.nickname),
                "use small letters, digits, - and _, beginning with a letter or digit",
            ));
        }
        if self.ports.is_empty() {
            return Err(invalid(
                "services.ports",
                "is empty",
                "write for instance ports = [{ port = 80, to = \"127.0.0.1:8080\" }]",
            ));
        }
        for (n, port) in self.ports.iter().enumerate() {
            if port.port == 0 || port.to.port() == 0 {
                return Err(invalid("services.ports", "has a port 0", "give ports from 1 to 65535"));
            }
            if self.ports[..n].iter().any(|other| other.port == port.port) {
                return Err(invalid(
                    "services.ports",
                    format!("has port {} twice", port.port),
                    "send each port to one place",
                ));
            }
        }
        if !(3..=20).contains(&self.introduction_points) {
            return Err(invalid(
                "services.introduction_points",
                format!("is {}", self.introduction_points),
                "write a number from 3 to 20, or remove the key",
            ));
        }
        Ok(())
    }
}

impl Payments {
    /// The ceiling for a whole tunnel, in stroops per 64 KiB.
    pub fn tunnel_ceiling(&self) -> u64 {
        self.max_tunnel_price_per_64_kib.unwrap_or_else(|| {
            let three = self.max_price_per_64_kib.saturating_mul(3);
            three.saturating_add(three / 100)
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.max_price_per_64_kib == 0 {
            return Err(invalid(
                "payments.max_price_per_64_kib",
                format!("is {}", self.max_price_per_64_kib),
                "give the most that one hop may ask, in stroops; to pay nothing write pay = \"never\"",
            ));
        }
        if let Some(ceiling) = self.max_tunnel_price_per_64_kib
            && ceiling == 0
        {
            return Err(invalid(
                "payments.max_tunnel_price_per_64_kib",
                format!("is {ceiling}"),
                "give the most that a whole tunnel may cost, in stroops, or remove the key",
            ));
        }
        if self.pay == Pay::Never && self.paths == Paths::Only {
            return Err(invalid(
                "payments.paths",
                "is \"only\" while pay is \"never\"",
                "write paths = \"any\": what is not paid for has no paid path",
            ));
        }
        if self.deposit.stroops() == 0 {
            return Err(invalid(
                "payments.deposit",
                "is 0",
                "give what one escrow holds, such as \"10\"",
            ));
        }
        if self.max_locked.is_some_and(|most| most < self.deposit) {
            return Err(invalid(
                "payments.max_locked",
                "is less than payments.deposit",
                "allow at least one deposit, or remove the key",
            ));
        }
        if self.keep_days == Some(0) {
            return Err(invalid(
                "payments.keep_days",
                "is 0",
                "keep at least 1 day, or remove the key",
            ));
        }
        if self.life.as_secs() < 60 {
            return Err(invalid(
                "payments.life",
                format!("is {}", self.life),
                "an escrow lives hours: write \"24h\"",
            ));
        }
        let Ledger {
            network_passphrase,
            urls,
            poll,
            highest_fee,
            asset: _,
            kind: _,
            allow_revocable_asset: _,
            requests_per_minute,
            two_witnesses_above,
        } = &self.ledger;
        if *requests_per_minute == Some(0) {
            return Err(invalid(
                "payments.ledger.requests_per_minute",
                "is 0",
                "allow at least 1, or remove the key",
            ));
        }
        if two_witnesses_above.is_some() && urls.len() < 2 {
            return Err(invalid(
                "payments.ledger.two_witnesses_above",
                "needs two witnesses",
                "name a second server in payments.ledger.urls",
            ));
        }
        Ok(check_ledger(network_passphrase, urls, *poll, *highest_fee)?)
    }
}

#[cfg(test)]
mod tests;
