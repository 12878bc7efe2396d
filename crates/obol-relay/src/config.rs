//! The relay's configuration: one TOML file, every key with its meaning in `node.toml` at the repository's root.
//!
//! Unknown keys are errors, values are checked as a whole when the file is read, and every error names the key and says
//! what to write instead. Relative paths are relative to `data_directory`; that one is relative to the file itself.

mod accounting;
mod bandwidth;
mod defence;
mod owing;
mod payments;
mod values;

use std::net::{SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tor_netdoc::types::policy::{AddrPolicy, AddrPortPattern, RuleKind};

pub use accounting::{Accounting, Start};
pub use bandwidth::{Bandwidth, Unpaid};
pub use defence::Defence;
pub use obol_stellar::settings::{Amount, AssetName, Invalid, Span};
pub use owing::{AccountName, Owing, RelayIdentity, TrustedRelay};
pub use payments::{Accounts, Escrows, Ledger, Limits, Payments, Peers};
pub use values::{Fingerprint, Size, ValueError};

/// Everything that one relay is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The relay's name in the directory: 1 to 19 letters and digits.
    pub nickname: String,
    /// How to reach the operator; published. Empty: not published.
    #[serde(default)]
    pub contact: String,
    /// What is written to the log: a level, or `module=level` pairs with commas between them. Absent: warnings. The
    /// program's `--log` comes before it.
    #[serde(default)]
    pub log: Option<String>,
    /// How long a relay that is asked to end waits for its circuits, and then again for the ledger.
    #[serde(default = "default_shutdown_wait")]
    pub shutdown_wait: Span,
    /// Where keys, caches and the journal live. Created if absent, readable by its owner only.
    pub data_directory: PathBuf,
    /// Where other relays and clients reach this relay.
    pub or: OrPort,
    /// What this relay connects to as an exit.
    #[serde(default)]
    pub exit: Exit,
    /// How much it carries, and how much of that unpaid.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// How much it carries in a period of time.
    #[serde(default)]
    pub accounting: Accounting,
    /// How much memory others may make us use.
    #[serde(default)]
    pub memory: Memory,
    /// C Tor's defences against floods, where the operator knows better than the consensus.
    #[serde(default)]
    pub defence: Defence,
    /// Whose word about the network is believed.
    pub directory: Directory,
    /// The operator's other relays.
    #[serde(default)]
    pub family: Family,
    /// Being paid and paying. Absent: a Tor relay that neither pays nor is paid, and does not advertise `Obol=1`.
    #[serde(default)]
    pub payments: Option<Payments>,
    /// The local HTTP interface.
    #[serde(default)]
    pub gateway: Gateway,
}

/// Where the relay listens for Tor links, and what it publishes as its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrPort {
    /// The address and port that the relay binds. Port 0: a free port, which is then also the advertised one.
    pub listen: SocketAddr,
    /// The address and port in the descriptor. Absent: `listen`.
    #[serde(default)]
    pub advertise: Option<SocketAddr>,
    /// The IPv6 address and port that the relay binds as well. Absent: none.
    #[serde(default)]
    pub ipv6_listen: Option<SocketAddrV6>,
    /// The IPv6 address and port in the descriptor. Absent: `ipv6_listen`.
    #[serde(default)]
    pub ipv6_advertise: Option<SocketAddrV6>,
    /// Accept links from, extend to, and advertise private addresses: for test networks only.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// What an exit connects to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exit {
    /// Rules in Tor's form, the first that matches decides: `accept ADDRESS[/BITS]:PORT[-PORT]` or `reject ...`.
    /// What no rule matches is rejected.
    pub policy: Vec<String>,
    /// Refuse private addresses and our own before the first rule, as C Tor's `ExitPolicyRejectPrivate` does.
    pub reject_private: bool,
    /// Connect to IPv6 addresses, too, and say so: this machine has a way to them.
    pub ipv6: bool,
}

impl Default for Exit {
    fn default() -> Exit {
        Exit {
            policy: vec!["reject *:*".to_owned()],
            reject_private: true,
            ipv6: false,
        }
    }
}

/// The operator's other relays: clients never choose two of a family for one circuit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Family {
    /// Files with the secret key of a family, as `tor --keygen-family` writes them; each member has the same file.
    pub keys: Vec<PathBuf>,
    /// Fingerprints of the other members, which must name this relay in turn: for networks that know no family keys.
    pub members: Vec<Fingerprint>,
}

/// Memory that others make us use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// All queued cells together; a quarter of it is the unpaid class's own budget.
    pub cells: Size,
    /// Descriptors of onion services that this relay keeps as one of their directories.
    pub onion_descriptors: Size,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            cells: Size::mib(256),
            onion_descriptors: Size::mib(32),
        }
    }
}

/// The directory authorities and what is said to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Upload the relay's descriptor. A relay that does not publish serves only those who know it.
    #[serde(default = "yes")]
    pub publish: bool,
    /// The authorities; a consensus counts when more than half of them signed it.
    pub authorities: Vec<Authority>,
}

/// One directory authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// A name for messages.
    pub name: String,
    /// Its DirPort: plain HTTP.
    pub address: SocketAddr,
    /// Fingerprint of its authority identity key (v3).
    pub v3_identity: Fingerprint,
}

/// The local HTTP interface: the dashboard, `/api/v1`, metrics and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Address and port. Absent: no interface.
    pub listen: Option<SocketAddr>,
    /// Allow an address that is not this machine's loopback.
    pub allow_remote: bool,
    /// File with the token that everything but `/metrics` asks for. An absent file is made.
    pub token: PathBuf,
    /// Sums of hours, for charts, are kept on disk for so many days; 0: in memory alone. The journal, which money depends on, knows days only.
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

fn yes() -> bool {
    true
}
fn default_shutdown_wait() -> Span {
    Span::seconds(30)
}
/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}. `obol config example` prints one to start from")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a configuration: bad TOML, an unknown or absent key, or a value of the wrong kind.
    #[error("in the configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected there.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be used.
    #[error("the configuration's {0}")]
    Invalid(#[from] Invalid),
    /// The configuration cannot be written as TOML.
    #[error("cannot write the configuration as TOML: {0}")]
    Write(Box<toml::ser::Error>),
}

/// Shorthand for [`ConfigError::Invalid`].
fn invalid(key: &'static str, problem: impl Into<String>, advice: &'static str) -> ConfigError {
    ConfigError::Invalid(Invalid::new(key, problem, advice))
}

/// The descriptor has one address, and it is IPv4.
pub(crate) fn not_ipv4() -> ConfigError {
    invalid(
        "or.advertise",
        "is not an IPv4 address",
        "every relay needs one that others reach; IPv6 alone is not enough for the network",
    )
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Config::parse(&text, path)
    }

    /// Reads and checks the text of the file at `path`; `path` serves messages and relative paths only.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let parsed: Result<Config, _> = toml::from_str(text);
        let mut config = parsed.map_err(|e| ConfigError::Parse {
            path: path.into(),
            source: Box::new(e),
        })?;
        if config.data_directory.is_relative()
            && let Some(base) = path.parent()
        {
            config.data_directory = base.join(&config.data_directory);
        }
        config.check()?;
        Ok(config)
    }

    /// The file that [`Config::load`] reads back as this configuration.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|e| ConfigError::Write(Box::new(e)))
    }

    /// A path of the configuration, relative ones below the data directory.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.data_directory.join(path)
    }

    /// Checks every rule that spans more than one value or that the types do not hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        let name_ok =
            (1..=19).contains(&self.nickname.len()) && self.nickname.bytes().all(|b| b.is_ascii_alphanumeric());
        if !name_ok {
            return Err(invalid(
                "nickname",
                format!("is {:?}", self.nickname),
                "use 1 to 19 letters and digits",
            ));
        }
        if self.contact.contains(['\n', '\r', '\0']) {
            return Err(invalid("contact", "has a line break", "write it on one line"));
        }
        let port_unsure = self.or.listen.port() == 0 && self.or.advertise.is_some();
        if port_unsure {
            return Err(invalid(
                "or.listen",
                "has port 0 while or.advertise names one",
                "give both a port, or drop or.advertise",
            ));
        }
        if self.or.listen.ip().is_unspecified() && self.or.advertise.is_none() {
            return Err(invalid(
                "or.advertise",
                "is absent",
                "or.listen is every address: say which one others can reach",
            ));
        }
        self.or.check_ipv6()?;
        if !self.or.advertise.unwrap_or(self.or.listen).is_ipv4() {
            return Err(not_ipv4());
        }
        self.exit_policy()?;
        self.bandwidth.check()?;
        self.accounting.check()?;
        self.defence.check()?;
        if self.shutdown_wait > Span::hours(24) {
            return Err(invalid(
                "shutdown_wait",
                format!("is {}", self.shutdown_wait),
                "wait for a day at most",
            ));
        }
        if self.memory.cells < Size::mib(4) {
            return Err(invalid(
                "memory.cells",
                format!("is {}", self.memory.cells),
                "allow at least \"4 MiB\"",
            ));
        }
        if self.memory.onion_descriptors < Size::mib(1) {
            return Err(invalid(
                "memory.onion_descriptors",
                format!("is {}", self.memory.onion_descriptors),
                "allow at least \"1 MiB\": onion services rely on those whose turn it is",
            ));
        }
        if self.directory.authorities.is_empty() {
            return Err(invalid(
                "directory.authorities",
                "is empty",
                "add a [[directory.authorities]] section for each",
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
        self.payments.as_ref().map_or(Ok(()), Payments::check)
    }

    /// The exit policy: the rules of `exit.policy` in order. Private addresses are the exit's own affair (`reject_private`).
    pub fn exit_policy(&self) -> Result<AddrPolicy, ConfigError> {
        let advice = "write \"accept ADDRESS[/BITS]:PORT[-PORT]\" or \"reject ...\", * for any";
        let mut policy = AddrPolicy::new();
        for rule in &self.exit.policy {
            let bad = || invalid("exit.policy", format!("has the rule {rule:?}"), advice);
            let (kind, pattern) = rule.trim().split_once(' ').ok_or_else(bad)?;
            let kind = match kind {
                "accept" => RuleKind::Accept,
                "reject" => RuleKind::Reject,
                _ => return Err(bad()),
            };
            let pattern: AddrPortPattern = pattern.trim().parse().map_err(|_| bad())?;
            policy.push(kind, pattern);
        }
        Ok(policy)
    }
}

impl OrPort {
    /// The IPv6 address and port in the descriptor, before it is known which port was bound.
    pub fn ipv6(&self) -> Option<SocketAddrV6> {
        self.ipv6_advertise.or(self.ipv6_listen)
    }

    fn check_ipv6(&self) -> Result<(), ConfigError> {
        let Some(listen) = self.ipv6_listen else {
            return match self.ipv6_advertise {
                None => Ok(()),
                Some(_) => Err(invalid(
                    "or.ipv6_listen",
                    "is absent while or.ipv6_advertise names an address",
                    "say where the relay listens for it, \"[::]:9001\" for instance",
                )),
            };
        };
        if listen.port() == 0 && self.ipv6_advertise.is_some() {
            return Err(invalid(
                "or.ipv6_listen",
                "has port 0 while or.ipv6_advertise names one",
                "give both a port, or drop or.ipv6_advertise",
            ));
        }
        if listen.ip().is_unspecified() && self.ipv6_advertise.is_none() {
            return Err(invalid(
                "or.ipv6_advertise",
                "is absent",
                "or.ipv6_listen is every address: say which one others can reach",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
