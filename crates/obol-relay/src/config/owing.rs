//! The configuration's sections `[payments.owing]` and `[[payments.trust]]`: what may be owed instead of secured by escrow
//! (settlement.md, "Two backings"; ADR 0039).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use obol_cell::AccountId;
use obol_stellar::key::{account_text, parse_account};
use obol_stellar::settings::{Amount, Span};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::values::ValueError;
use super::{ConfigError, invalid};

/// A relay's Ed25519 identity, written in base64 as consensus documents have it; `running.json`'s 64 hexadecimal digits are read, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayIdentity(pub [u8; 32]);

impl fmt::Display for RelayIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl FromStr for RelayIdentity {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<RelayIdentity, ValueError> {
        let text = text.trim();
        let bytes = match text.len() {
            64 => hex::decode(text).ok(),
            _ => STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok(),
        };
        let identity = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        identity.map(RelayIdentity).ok_or(ValueError::Identity)
    }
}

/// An account of the ledger, as an address (`G...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccountName(pub AccountId);

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&account_text(&self.0))
    }
}

impl FromStr for AccountName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<AccountName, ValueError> {
        parse_account(text.trim())
            .map(AccountName)
            .map_err(|_| ValueError::Account)
    }
}

/// Serde by the text form.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(RelayIdentity, AccountName);

/// What may be owed, and when it is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Owing {
    /// The most that this relay owes, to all relays together. Absent: it owes nothing.
    pub max_owed: Option<Amount>,
    /// The most that a relay of `[[payments.trust]]` may owe, unless it has a limit of its own.
    pub max_unsettled: Option<Amount>,
    /// What is owed is paid once in each span of this length, at a random time; earlier when 80 % of a limit are used.
    pub period: Span,
    /// Less than this is left for the next time.
    pub min_payment: Amount,
}

impl Default for Owing {
    fn default() -> Owing {
        Owing {
            max_owed: None,
            max_unsettled: None,
            period: Span::hours(6),
            min_payment: Amount(100_000),
        }
    }
}

/// A relay that may owe to this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedRelay {
    /// Which.
    pub peer: RelayIdentity,
    /// The account that it signs with and pays from; its operator names it.
    pub account: AccountName,
    /// The most that it may owe. Absent: `payments.owing.max_unsettled`. 0: no more than it owes already, which it may still pay.
    #[serde(default)]
    pub max_unsettled: Option<Amount>,
}

impl Owing {
    pub(super) fn check(&self, trust: &[TrustedRelay]) -> Result<(), ConfigError> {
        for (key, limit) in [
            ("payments.owing.max_owed", self.max_owed),
            ("payments.owing.max_unsettled", self.max_unsettled),
        ] {
            if limit.is_some_and(|limit| limit.stroops() == 0) {
                return Err(invalid(key, "is 0", "give a limit, or remove the key"));
            }
        }
        if self.period.0.is_zero() {
            return Err(invalid(
                "payments.owing.period",
                "is 0",
                "use some hours, such as \"6h\"",
            ));
        }
        if self.max_owed.is_some_and(|most| most < self.min_payment) {
            return Err(invalid(
                "payments.owing.min_payment",
                "is more than payments.owing.max_owed",
                "make it smaller, or nothing would ever be paid",
            ));
        }
        let (mut peers, mut accounts) = (BTreeSet::new(), BTreeSet::new());
        for relay in trust {
            if !peers.insert(relay.peer) {
                return Err(invalid(
                    "payments.trust",
                    format!("names the relay {} twice", relay.peer),
                    "keep one of its sections",
                ));
            }
            if !accounts.insert(relay.account.0.0) {
                return Err(invalid(
                    "payments.trust",
                    format!("names the account {} twice", relay.account),
                    "each relay has one of its own: ask the operator",
                ));
            }
            if relay.max_unsettled.or(self.max_unsettled).is_none() {
                return Err(invalid(
                    "payments.trust",
                    format!("has no max_unsettled for {}", relay.peer),
                    "say how much it may owe, or set payments.owing.max_unsettled for all",
                ));
            }
        }
        Ok(())
    }
}
