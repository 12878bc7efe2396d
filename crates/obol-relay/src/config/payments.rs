//! The configuration's section `[payments]` with `.ledger`, `.accounts`, `.escrows` and `.peers`.

use std::path::PathBuf;

use obol_stellar::settings::{Amount, AssetName, Span, check_ledger};
use serde::{Deserialize, Serialize};

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
