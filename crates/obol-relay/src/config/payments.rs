//! The configuration's section `[payments]` with `.ledger`, `.accounts`, `.escrows`, `.peers`, `.limits` (and `.owing`, `.trust`: `owing.rs`).

use std::path::PathBuf;

use obol_stellar::rail::RailKind;
use obol_stellar::settings::{Amount, AssetName, Span, check_ledger};
use serde::{Deserialize, Serialize};

use super::owing::{Owing, TrustedRelay};
use super::values::Size;
use super::{ConfigError, invalid};

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
    /// Facts older than so many days are added up to daily totals and erased. Absent: everything is kept.
    #[serde(default)]
    pub keep_days: Option<u32>,
    /// Relays that may owe to this one.
    #[serde(default)]
    pub trust: Vec<TrustedRelay>,
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
    /// What others may cost this relay.
    #[serde(default)]
    pub limits: Limits,
    /// What may be owed instead of secured by escrow.
    #[serde(default)]
    pub owing: Owing,
}

/// What others may cost a relay at most. At 80 % of each there is an alarm; absent: no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most that may be unsettled of one payer: a client's escrow, or all escrows of a relay.
    pub unsettled_of_payer: Option<Amount>,
    /// The most that may be unsettled of all payers together. Near it the largest escrows are flushed early.
    pub unsettled: Option<Amount>,
    /// The most that may be locked in escrows to one relay.
    pub locked_with_peer: Option<Amount>,
    /// The most that may be locked in escrows to all relays together.
    pub locked: Option<Amount>,
    /// New escrows a minute of one network of client addresses (IPv4 /24, IPv6 /48), or of one relay.
    pub new_escrows_of_one: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            unsettled_of_payer: None,
            unsettled: None,
            locked_with_peer: None,
            locked: None,
            new_escrows_of_one: Some(15),
        }
    }
}

/// A Stellar network, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The passphrase that names the network.
    pub network_passphrase: String,
    /// The one asset that this relay is paid in and pays in.
    pub asset: AssetName,
    /// What `urls` are: `"horizon"` (the default) or `"rpc"`, Stellar RPC.
    #[serde(default)]
    pub kind: RailKind,
    /// The ledger's servers, the first is asked first.
    pub urls: Vec<String>,
    /// Each server is asked at most so often in any minute. Absent: as often as need be.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// How often the newest ledger is looked up.
    #[serde(default = "default_poll")]
    pub poll: Span,
    /// A new escrow is believed only on a ledger that is younger than this, by our own clock, which may be five minutes off.
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
    /// The account that pays what this relay owes, and is paid what relays of `[[payments.trust]]` owe. It is used for nothing else, by no
    /// other relay; needed only for these, and then it needs some XLM and, to pay, the asset.
    pub trust: PathBuf,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            payees: vec![PathBuf::from("payee.seed")],
            capital: PathBuf::from("capital.seed"),
            trust: PathBuf::from("trust.seed"),
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
    /// The most that is put into one escrow, however much the last week came to. Absent: no bound.
    pub max_deposit: Option<Amount>,
    /// The first openings after a start fall at a random time within this span, so that the ledger does not show who needs whom.
    pub random_delay: Span,
    /// Further openings come in batches, one at a random time of each span of this length. "0s" for test networks only: as soon as they are wanted.
    pub batch_period: Span,
    /// Escrows of one batch at most; which peers are in it is drawn by consensus weight and past volume.
    pub batch_size: u32,
    /// Life of the escrows that we open, as far as the peer's terms allow.
    pub life: Span,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers {
            open: true,
            limit: 20,
            deposit: Amount::units(10),
            max_deposit: None,
            random_delay: Span::seconds(600),
            batch_period: Span::hours(6),
            batch_size: 32,
            life: Span::hours(7 * 24),
        }
    }
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
    Span::seconds(360)
}
fn default_highest_fee() -> i64 {
    1_000_000
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

    pub(super) fn check(&self) -> Result<(), ConfigError> {
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
        let trust = &self.accounts.trust;
        if *trust == self.accounts.capital || self.accounts.payees.contains(trust) {
            return Err(invalid(
                "payments.accounts.trust",
                format!("is another account's file, {}", trust.display()),
                "give it a file of its own",
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
        if self.peers.max_deposit.is_some_and(|most| most < self.peers.deposit) {
            return Err(invalid(
                "payments.peers.max_deposit",
                "is less than payments.peers.deposit",
                "raise it, or remove the key",
            ));
        }
        if self.peers.batch_size == 0 {
            return Err(invalid("payments.peers.batch_size", "is 0", "allow at least 1"));
        }
        if self.keep_days == Some(0) {
            return Err(invalid(
                "payments.keep_days",
                "is 0",
                "keep at least 1 day, or remove the key",
            ));
        }
        if self.ledger.requests_per_minute == Some(0) {
            return Err(invalid(
                "payments.ledger.requests_per_minute",
                "is 0",
                "allow at least 1, or remove the key",
            ));
        }
        self.limits.check()?;
        self.owing.check(&self.trust)
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

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let sums = [
            ("payments.limits.unsettled_of_payer", self.unsettled_of_payer),
            ("payments.limits.unsettled", self.unsettled),
            ("payments.limits.locked_with_peer", self.locked_with_peer),
            ("payments.limits.locked", self.locked),
        ];
        for (key, limit) in sums {
            if limit.is_some_and(|limit| limit.stroops() == 0) {
                return Err(invalid(key, "is 0", "give a limit, or remove the key"));
            }
        }
        if self.new_escrows_of_one == Some(0) {
            return Err(invalid(
                "payments.limits.new_escrows_of_one",
                "is 0",
                "allow at least 1",
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
