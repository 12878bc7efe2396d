//! The relay's configuration: one TOML file, every key with its meaning in `node.toml` at the repository's root.
//!
//! Unknown keys are errors, values are checked as a whole when the file is read, and every error names the key and says
//! what to write instead. Relative paths are relative to `data_directory`; that one is relative to the file itself.

mod accounting;
mod defence;
mod values;

use std::net::{SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tor_netdoc::types::policy::{AddrPolicy, AddrPortPattern, RuleKind};

pub use accounting::{Accounting, Start};
pub use defence::Defence;
use obol_stellar::settings::check_ledger;
pub use obol_stellar::settings::{Amount, AssetName, Invalid, Span};
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

/// What the unpaid class gets of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpaid {
    /// All that the paid circuits leave.
    Leftover,
    /// Never more than `unpaid_cap`, even where nobody pays.
    Capped,
}

/// Rates, in bytes of cells per second, both directions together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bandwidth {
    /// What the relay carries at most. Absent: as much as it can, self-measured.
    pub rate: Option<Size>,
    /// With `rate`: what may be saved up while less is carried, to be carried at once. Absent: nothing.
    pub burst: Option<Size>,
    /// Without `rate`, and as long as too little is carried to know: send cells to itself through other relays, to measure it.
    pub self_test: bool,
    /// What circuits without credit get.
    pub unpaid: Unpaid,
    /// With `unpaid = "capped"`: the cap of the unpaid class.
    pub unpaid_cap: Size,
    /// Bytes that every new circuit may carry in the paid class before it has paid.
    pub initial_credit: Size,
    /// Bucket of initial credit per client address (IPv6: per /64).
    pub initial_credit_per_address: Size,
    /// Refill of that bucket, per second.
    pub initial_credit_refill: Size,
    /// Bucket of directory answers per client address (IPv6: per /64). Directory service is not paid for.
    pub directory_per_address: Size,
    /// Refill of that bucket, per second.
    pub directory_refill: Size,
}

impl Default for Bandwidth {
    fn default() -> Bandwidth {
        Bandwidth {
            rate: None,
            burst: None,
            self_test: true,
            unpaid: Unpaid::Leftover,
            unpaid_cap: Size::mib(1),
            initial_credit: Size::kib(256),
            initial_credit_per_address: Size::mib(4),
            initial_credit_refill: Size::kib(64),
            directory_per_address: Size::mib(64),
            directory_refill: Size::kib(64),
        }
    }
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

/// Prices, money and the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payments {
    /// Stroops per 64 KiB carried: 1, 2 or 5 times a power of ten.
    pub price_per_64_kib: i64,
    /// Fee for passing money on, in parts per million: 0, 1000 or 10000.
    #[serde(default = "default_forward_ppm")]
    pub forward_ppm: u32,
    /// Most stroops passed on per 64 KiB bought here; on the same ladder. Absent: the first rung of at least 20 times the price.
    #[serde(default)]
    pub forward_ceiling: Option<i64>,
    /// Largest step sold at once: 64 KiB times a power of two.
    #[serde(default = "default_largest_step")]
    pub largest_step: Size,
    /// The journal of all payment facts.
    #[serde(default = "default_journal")]
    pub journal: PathBuf,
    /// Size that the journal may not exceed. Absent: as large as the disk allows. At the limit payments stop, as on a full
    /// disk, and the relay serves everybody unpaid.
    #[serde(default)]
    pub journal_limit: Option<Size>,
    /// Where money is settled.
    pub ledger: Ledger,
    /// Whose money it is.
    #[serde(default)]
    pub accounts: Accounts,
    /// Escrows of clients and relays to this relay.
    #[serde(default)]
    pub escrows: Escrows,
    /// Escrows of this relay to others, opened ahead of need.
    #[serde(default)]
    pub peers: Peers,
}

/// A Stellar network, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The passphrase that names the network.
    pub network_passphrase: String,
    /// The one asset that this relay is paid in and pays in.
    pub asset: AssetName,
    /// Horizon servers, the first is asked first.
    pub urls: Vec<String>,
    /// How often the newest ledger is looked up.
    #[serde(default = "default_poll")]
    pub poll: Span,
    /// A new escrow is believed only on a ledger that is younger than this.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
    /// Accept an asset whose issuer can freeze or claw back. The money then is only as good as the issuer's word.
    #[serde(default)]
    pub allow_revocable_asset: bool,
    /// Highest fee for one transaction, in stroops of XLM; a flush is bumped up to this.
    #[serde(default = "default_highest_fee")]
    pub highest_fee: i64,
    /// Escrows above this deposit are believed only when two of `urls` agree. Absent: one is enough.
    #[serde(default)]
    pub two_witnesses_above: Option<Amount>,
}

/// Files that hold the secret seed (`S...`) of one account each. An absent file is made, with a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accounts {
    /// Accounts that receive what is earned, taken in turn. Each needs a trust line and some XLM for fees.
    pub payees: Vec<PathBuf>,
    /// The account that escrows to other relays are funded from.
    pub capital: PathBuf,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            payees: vec![PathBuf::from("payee.seed")],
            capital: PathBuf::from("capital.seed"),
        }
    }
}

/// What an escrow to this relay must be like, and when it is flushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Escrows {
    /// Smallest deposit.
    pub min_deposit: Amount,
    /// Shortest life, from offer to expiry.
    pub shortest_life: Span,
    /// Longest life.
    pub longest_life: Span,
    /// Service on an escrow ends this long before its expiry; the flush falls into the first half of it.
    pub margin: Span,
    /// New escrows looked at a minute.
    pub new_per_minute: u32,
    /// A flush that the payer asked for falls at a random time within this span.
    pub close_delay: Span,
    /// Claims above this are flushed at once. Absent: only near expiry or on request.
    pub flush_above: Option<Amount>,
    /// When the relay ends, escrows that expire within this are flushed first: it may be away for so long.
    pub shutdown_flush: Span,
}

impl Default for Escrows {
    fn default() -> Escrows {
        Escrows {
            min_deposit: Amount(100_000),
            shortest_life: Span::hours(6),
            longest_life: Span::hours(8 * 24),
            margin: Span::hours(2),
            new_per_minute: 600,
            close_delay: Span::hours(1),
            flush_above: None,
            shutdown_flush: Span::hours(24),
        }
    }
}

/// Escrows of this relay to its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peers {
    /// Open escrows to other paid relays at all. Without any, the chain of every circuit ends at this relay.
    pub open: bool,
    /// To how many peers at most.
    pub limit: usize,
    /// Deposit for a peer without history with us, and the least for any.
    pub deposit: Amount,
    /// Openings fall at a random time within this span, so that the ledger does not show who needs whom.
    pub random_delay: Span,
    /// Life of the escrows that we open, as far as the peer's terms allow.
    pub life: Span,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers {
            open: true,
            limit: 20,
            deposit: Amount::units(10),
            random_delay: Span::seconds(600),
            life: Span::hours(7 * 24),
        }
    }
}

/// The local HTTP interface: metrics and state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Address and port. Absent: no interface.
    pub listen: Option<SocketAddr>,
    /// Allow an address that is not this machine's loopback.
    pub allow_remote: bool,
    /// File with the token that everything but `/metrics` asks for. An absent file is made.
    pub token: PathBuf,
}

impl Default for Gateway {
    fn default() -> Gateway {
        Gateway {
            listen: None,
            allow_remote: false,
            token: PathBuf::from("gateway.token"),
        }
    }
}

fn yes() -> bool {
    true
}
fn default_shutdown_wait() -> Span {
    Span::seconds(30)
}
fn default_forward_ppm() -> u32 {
    1_000
}
fn default_largest_step() -> Size {
    Size::mib(16)
}
fn default_journal() -> PathBuf {
    PathBuf::from("payments.sqlite")
}
fn default_poll() -> Span {
    Span::seconds(5)
}
fn default_max_age() -> Span {
    Span::seconds(60)
}
fn default_highest_fee() -> i64 {
    1_000_000
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

impl Bandwidth {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(rate) = self.rate
            && rate < Size::kib(16)
        {
            return Err(invalid(
                "bandwidth.rate",
                format!("is {rate}"),
                "allow at least \"16 KiB\" a second, or remove the key",
            ));
        }
        if let Some(burst) = self.burst
            && self.rate.is_none_or(|rate| burst < rate)
        {
            return Err(invalid(
                "bandwidth.burst",
                format!("is {burst}"),
                "make it at least bandwidth.rate, which it needs, or remove the key",
            ));
        }
        if self.unpaid == Unpaid::Capped && self.unpaid_cap < Size::kib(16) {
            return Err(invalid(
                "bandwidth.unpaid_cap",
                format!("is {}", self.unpaid_cap),
                "allow at least \"16 KiB\" a second: circuits are built in the unpaid class",
            ));
        }
        if self.directory_per_address < Size::mib(1) {
            return Err(invalid(
                "bandwidth.directory_per_address",
                format!("is {}", self.directory_per_address),
                "allow at least \"1 MiB\": a client needs some to learn the network",
            ));
        }
        Ok(())
    }
}

/// Whether `n` is 1, 2 or 5 times a power of ten (payment-protocol.md, "Arithmetic").
fn on_ladder(n: i64) -> bool {
    let mut n = n;
    while n > 0 && n % 10 == 0 {
        n /= 10;
    }
    matches!(n, 1 | 2 | 5)
}

impl Payments {
    /// The ceiling in force: the configured one, or the first rung of at least 20 times the price.
    pub fn forward_ceiling(&self) -> i64 {
        self.forward_ceiling.unwrap_or_else(|| {
            let least = self.price_per_64_kib.saturating_mul(20);
            let mut rung = 1i64;
            loop {
                for times in [1, 2, 5] {
                    match rung.checked_mul(times) {
                        Some(n) if n >= least => return n,
                        Some(_) => {}
                        None => return rung,
                    }
                }
                match rung.checked_mul(10) {
                    Some(next) => rung = next,
                    None => return rung,
                }
            }
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let ladder = "use 1, 2 or 5 times a power of ten: 1, 2, 5, 10, 20, 50, 100 ...";
        if !on_ladder(self.price_per_64_kib) || self.price_per_64_kib > 1_000_000_000_000 {
            return Err(invalid(
                "payments.price_per_64_kib",
                format!("is {}", self.price_per_64_kib),
                ladder,
            ));
        }
        if let Some(ceiling) = self.forward_ceiling
            && !on_ladder(ceiling)
        {
            return Err(invalid("payments.forward_ceiling", format!("is {ceiling}"), ladder));
        }
        if !matches!(self.forward_ppm, 0 | 1_000 | 10_000) {
            return Err(invalid(
                "payments.forward_ppm",
                format!("is {}", self.forward_ppm),
                "use 0, 1000 or 10000",
            ));
        }
        let step = self.largest_step.bytes();
        if step < 65_536 || !step.is_power_of_two() || step > 1 << 30 {
            return Err(invalid(
                "payments.largest_step",
                format!("is {}", self.largest_step),
                "use 64 KiB times a power of two, at most 1 GiB",
            ));
        }
        if let Some(limit) = self.journal_limit
            && limit < Size::kib(128)
        {
            return Err(invalid(
                "payments.journal_limit",
                format!("is {limit}"),
                "allow at least \"128 KiB\", or remove the key",
            ));
        }
        self.ledger.check()?;
        if self.accounts.payees.is_empty() {
            return Err(invalid(
                "payments.accounts.payees",
                "is empty",
                "name at least one key file",
            ));
        }
        self.escrows.check()?;
        if self.peers.open && self.peers.deposit.stroops() == 0 {
            return Err(invalid(
                "payments.peers.deposit",
                "is 0",
                "give a deposit, or set payments.peers.open = false",
            ));
        }
        Ok(())
    }
}

impl Ledger {
    fn check(&self) -> Result<(), ConfigError> {
        check_ledger(&self.network_passphrase, &self.urls, self.poll, self.highest_fee)?;
        if self.two_witnesses_above.is_some() && self.urls.len() < 2 {
            return Err(invalid(
                "payments.ledger.two_witnesses_above",
                "needs two witnesses",
                "name a second server in payments.ledger.urls",
            ));
        }
        Ok(())
    }
}

impl Escrows {
    fn check(&self) -> Result<(), ConfigError> {
        if self.margin.0 * 2 >= self.shortest_life.0 {
            return Err(invalid(
                "payments.escrows.shortest_life",
                format!("is {}", self.shortest_life),
                "make it more than twice payments.escrows.margin",
            ));
        }
        if self.longest_life < self.shortest_life || self.longest_life > Span::hours(365 * 24) {
            return Err(invalid(
                "payments.escrows.longest_life",
                format!("is {}", self.longest_life),
                "make it at least payments.escrows.shortest_life, and at most a year",
            ));
        }
        if self.min_deposit.stroops() == 0 {
            return Err(invalid(
                "payments.escrows.min_deposit",
                "is 0",
                "ask for a deposit that is worth a transaction",
            ));
        }
        if self.new_per_minute == 0 {
            return Err(invalid("payments.escrows.new_per_minute", "is 0", "allow at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
