//! An issuer's stellar.toml (SEP-1): what a domain says of the assets that it stands for.
//!
//! Everything in it is a claim. What counts is that the issuer's account names the domain, the domain names the issuer, and
//! the ledger's flags ([`super::issuer`]).

use std::sync::Arc;

use obol_cell::{AccountId, Asset};
use serde::Deserialize;

use super::plain;
use crate::asset::asset_code;
use crate::key::parse_account;
use crate::rail::RailError;
use crate::rail::connect::Connect;
use crate::rail::horizon::Timeouts;
use crate::rail::http::{Base, HttpClient};

/// SEP-1's own limit.
pub const LARGEST: usize = 100 * 1024;
/// Where the file is on every domain.
const PATH: &str = "/.well-known/stellar.toml";
/// Most currencies that are read.
const CURRENCIES: usize = 500;

/// What is read of a stellar.toml. Texts are cut to a sensible length and have no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StellarToml {
    /// The network that it speaks of, if it says so.
    pub network_passphrase: Option<String>,
    /// The accounts that the domain controls, as it says.
    pub accounts: Vec<AccountId>,
    /// The organisation's name.
    pub organisation: Option<String>,
    /// The key that signs requests for payment (SEP-7).
    pub uri_request_signing_key: Option<AccountId>,
    /// Its currencies.
    pub currencies: Vec<Currency>,
}

/// A currency, as its issuer's domain describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Currency {
    /// The code.
    pub code: String,
    /// The issuer.
    pub issuer: AccountId,
    /// Whether it is in use.
    pub status: Status,
    /// A name for people.
    pub name: Option<String>,
    /// What it is.
    pub description: Option<String>,
    /// How many decimals to show, 0 to 7.
    pub display_decimals: u8,
    /// Whether it stands for something else, and for what.
    pub anchored_to: Option<String>,
    /// Whether each payment needs the issuer's approval (SEP-8).
    pub regulated: bool,
}

/// Whether a currency is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// In use, or it does not say.
    #[default]
    Live,
    /// Given up.
    Dead,
    /// For tests.
    Test,
    /// Not for everybody.
    Private,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "NETWORK_PASSPHRASE")]
    network_passphrase: Option<String>,
    #[serde(rename = "ACCOUNTS", default)]
    accounts: Vec<toml::Value>,
    #[serde(rename = "URI_REQUEST_SIGNING_KEY")]
    uri_request_signing_key: Option<String>,
    #[serde(rename = "DOCUMENTATION")]
    documentation: Option<RawDocumentation>,
    #[serde(rename = "CURRENCIES", default)]
    currencies: Vec<toml::Value>,
}

#[derive(Deserialize)]
struct RawDocumentation {
    #[serde(rename = "ORG_NAME")]
    org_name: Option<toml::Value>,
}

#[derive(Deserialize)]
struct RawCurrency {
    code: String,
    issuer: String,
    #[serde(default)]
    status: Status,
    name: Option<String>,
    desc: Option<String>,
    display_decimals: Option<u8>,
    #[serde(default)]
    is_asset_anchored: bool,
    anchor_asset: Option<String>,
    #[serde(default)]
    regulated: bool,
}

impl StellarToml {
    /// Reads a file. Currencies that cannot be read are left out: others may be right.
    ///
    /// # Errors
    /// When it is too long, or no TOML.
    pub fn parse(text: &[u8]) -> Result<StellarToml, TomlError> {
        if text.len() > LARGEST {
            return Err(TomlError::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| TomlError::NotToml)?;
        let raw: Raw = toml::from_str(text.trim_start_matches('\u{feff}')).map_err(|_| TomlError::NotToml)?;
        let account = |text: &str| parse_account(text).ok();
        Ok(StellarToml {
            network_passphrase: raw.network_passphrase.map(|text| plain(&text, 100)),
            accounts: raw
                .accounts
                .iter()
                .filter_map(|value| account(value.as_str()?))
                .collect(),
            organisation: raw
                .documentation
                .and_then(|documentation| Some(plain(documentation.org_name?.as_str()?, 60))),
            uri_request_signing_key: raw.uri_request_signing_key.as_deref().and_then(account),
            currencies: raw
                .currencies
                .into_iter()
                .take(CURRENCIES)
                .filter_map(currency)
                .collect(),
        })
    }

    /// What it says of an asset: code and issuer must both be the asset's.
    pub fn currency(&self, asset: &Asset) -> Option<&Currency> {
        let code = asset_code(asset);
        self.currencies
            .iter()
            .find(|currency| currency.code == code && currency.issuer.0 == asset.issuer)
    }

    /// Fetches a domain's file over HTTPS.
    ///
    /// # Errors
    /// When there is none, or it cannot be had or read.
    pub async fn fetch(
        domain: &str,
        connector: &Arc<dyn Connect>,
        timeouts: Timeouts,
    ) -> Result<StellarToml, TomlError> {
        if !is_domain(domain) {
            return Err(TomlError::NotADomain);
        }
        StellarToml::fetch_at(&format!("https://{domain}"), connector, timeouts).await
    }

    /// Fetches the file of the server at `url`: for test networks, whose domains have no certificates.
    ///
    /// # Errors
    /// When there is none, or it cannot be had or read.
    pub async fn fetch_at(
        url: &str,
        connector: &Arc<dyn Connect>,
        timeouts: Timeouts,
    ) -> Result<StellarToml, TomlError> {
        let base = Base::parse(url).ok_or(TomlError::NotADomain)?;
        let http = HttpClient::new(base, Arc::clone(connector), timeouts.connect);
        let answer = http.ask(hyper::Method::GET, PATH, None, timeouts.ask, LARGEST).await;
        let answer = match answer {
            Err(RailError::BadReply(crate::rail::BadReply::TooLong)) => return Err(TomlError::TooLong),
            other => other?,
        };
        match answer.status.as_u16() {
            200 => StellarToml::parse(&answer.body),
            404 => Err(TomlError::None),
            status => Err(TomlError::Fetch(RailError::Refused { status })),
        }
    }
}

fn currency(value: toml::Value) -> Option<Currency> {
    let raw: RawCurrency = value.try_into().ok()?;
    let issuer = parse_account(&raw.issuer).ok()?;
    // Checks the code, too.
    crate::asset::asset(&raw.code, issuer).ok()?;
    let anchored_to = match (raw.is_asset_anchored, raw.anchor_asset) {
        (true, Some(asset)) => Some(plain(&asset, 60)),
        (true, None) => Some("something that it does not name".to_owned()),
        (false, _) => None,
    };
    Some(Currency {
        code: raw.code,
        issuer,
        status: raw.status,
        name: raw.name.map(|text| plain(&text, 20)),
        description: raw.desc.map(|text| plain(&text, 500)),
        display_decimals: raw.display_decimals.filter(|n| *n <= 7).unwrap_or(7),
        anchored_to,
        regulated: raw.regulated,
    })
}

/// Whether a text is a host name of at least two labels, without port or path: what a home domain may be. An issuer writes
/// it into the ledger, and could write anything.
pub fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let top_is_no_number = || {
        text.rsplit('.')
            .next()
            .is_some_and(|top| !top.bytes().all(|b| b.is_ascii_digit()))
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(label) && top_is_no_number()
}

/// A stellar.toml that cannot be had or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TomlError {
    /// The issuer's home domain is no domain.
    #[error("not a domain name")]
    NotADomain,
    /// The domain has none.
    #[error("the domain has no stellar.toml")]
    None,
    /// It is longer than SEP-1 allows.
    #[error("the domain's stellar.toml is longer than 100 KiB")]
    TooLong,
    /// It is no TOML.
    #[error("the domain's stellar.toml cannot be read")]
    NotToml,
    /// It cannot be fetched.
    #[error("the domain's stellar.toml cannot be had: {0}")]
    Fetch(#[from] RailError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asset::parse_asset;

    const ISSUER: &str = "GCRCUE2C5TBNIPYHMEP7NK5RWTT2WBSZ75CMARH7GDOHDDCQH3XANFOB";

    fn file() -> String {
        format!(
            r#"
VERSION = "2.7.0"
NETWORK_PASSPHRASE = "Public Global Stellar Network ; September 2015"
ACCOUNTS = ["{ISSUER}", "nonsense", 5]
URI_REQUEST_SIGNING_KEY = "{ISSUER}"
[DOCUMENTATION]
ORG_NAME = "Some \u001b[31mOrganisation"
[[CURRENCIES]]
code = "OBOL"
issuer = "{ISSUER}"
status = "test"
display_decimals = 2
name = "a name that is longer than twenty"
desc = "one coin\u202e for the ferryman"
is_asset_anchored = true
anchor_asset = "drachma"
[[CURRENCIES]]
code = "OBOL"
issuer = "nobody"
[[CURRENCIES]]
code = "far too long for a code"
issuer = "{ISSUER}"
[[CURRENCIES]]
code = "USD"
issuer = "{ISSUER}"
display_decimals = 99
regulated = true
"#
        )
    }

    #[test]
    fn a_currency_is_found_by_code_and_issuer_and_what_cannot_be_read_is_left_out() {
        let toml = StellarToml::parse(file().as_bytes()).unwrap();
        assert_eq!(toml.currencies.len(), 2);
        assert_eq!(toml.accounts, [parse_account(ISSUER).unwrap()]);
        assert_eq!(toml.uri_request_signing_key, parse_account(ISSUER).ok());
        let obol = toml.currency(&parse_asset(&format!("OBOL:{ISSUER}")).unwrap()).unwrap();
        assert_eq!((obol.status, obol.display_decimals), (Status::Test, 2));
        assert_eq!(obol.anchored_to.as_deref(), Some("drachma"));
        let usd = toml.currency(&parse_asset(&format!("USD:{ISSUER}")).unwrap()).unwrap();
        assert_eq!(
            (usd.status, usd.display_decimals, usd.regulated),
            (Status::Live, 7, true)
        );
        let of_another = "OBOL:GAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSABOV";
        assert_eq!(toml.currency(&parse_asset(of_another).unwrap()), None);
    }

    #[test]
    fn texts_of_others_cannot_steer_a_terminal_and_are_short() {
        let toml = StellarToml::parse(file().as_bytes()).unwrap();
        assert_eq!(toml.organisation.as_deref(), Some("Some \u{fffd}[31mOrganisation"));
        let obol = &toml.currencies[0];
        assert_eq!(obol.name.as_deref(), Some("a name that is longe"));
        assert_eq!(obol.description.as_deref(), Some("one coin\u{fffd} for the ferryman"));
    }

    #[test]
    fn what_is_too_long_or_no_toml_is_refused() {
        assert_eq!(StellarToml::parse(&vec![b'#'; LARGEST + 1]), Err(TomlError::TooLong));
        assert_eq!(StellarToml::parse(b"[[CURRENCIES"), Err(TomlError::NotToml));
        assert_eq!(StellarToml::parse(b"\xff"), Err(TomlError::NotToml));
        assert_eq!(StellarToml::parse(b"CURRENCIES = 5"), Err(TomlError::NotToml));
        assert_eq!(StellarToml::parse(b""), Ok(StellarToml::default()));
    }

    #[test]
    fn a_home_domain_is_a_host_name_and_nothing_that_leads_elsewhere() {
        for domain in ["stellar.org", "a-b.example.co.uk", "xn--bcher-kva.example"] {
            assert!(is_domain(domain), "{domain}");
        }
        for text in [
            "",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "a.example:8080",
            "a.example/path",
            "user@a.example",
            "a..example",
            ".example",
            "a.example.",
            "-a.example",
            "a.exa mple",
            "a.example?x",
        ] {
            assert!(!is_domain(text), "{text}");
        }
    }
}
