//! What an issuer can do to its asset, and whether to hold it.
//!
//! An asset whose issuer can freeze or claw back is only as good as the issuer's word: a payee's money could be gone before
//! it is settled. Relays refuse such assets unless they are told otherwise ([`crate::check::check_issuer`]).

use obol_cell::Asset;

use super::stellar_toml::{Status, StellarToml};
use crate::network::Network;
use crate::rail::AccountState;

/// How grave a finding is; the gravest decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Nothing to be said against it.
    Fine,
    /// To be told to the one who decides.
    Warn,
    /// Not to be held.
    Refuse,
}

/// Something about an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// The issuer is not on the ledger.
    NoIssuer,
    /// The issuer has to consent to each trust line.
    AuthRequired,
    /// The issuer can freeze balances.
    Revocable,
    /// The issuer can claw balances back.
    Clawback,
    /// The issuer can still give itself these powers.
    Mutable,
    /// The issuer can never give itself these powers: AUTH_IMMUTABLE, or an account that nobody can sign for.
    Immutable,
    /// The issuer's account names no domain.
    NoDomain,
    /// The issuer's domain has no stellar.toml that could be read.
    NoToml,
    /// The issuer's domain does not know the asset.
    NotListed,
    /// The domain's stellar.toml is for another network.
    OtherNetwork,
    /// The domain lists the asset with this issuer.
    Listed,
    /// The domain says that the asset is given up.
    Dead,
    /// The domain says that the asset is for tests.
    Test,
    /// The domain says that the asset is not for everybody.
    Private,
    /// Each payment needs the issuer's approval (SEP-8).
    Regulated,
}

impl Finding {
    /// How grave it is. With `allow_revocable` the one who decides took the risk of an issuer that can freeze or claw back.
    pub fn verdict(self, allow_revocable: bool) -> Verdict {
        match self {
            Finding::Immutable | Finding::Listed => Verdict::Fine,
            Finding::Mutable
            | Finding::NoDomain
            | Finding::NoToml
            | Finding::NotListed
            | Finding::OtherNetwork
            | Finding::Test
            | Finding::Private => Verdict::Warn,
            Finding::Revocable | Finding::Clawback if allow_revocable => Verdict::Warn,
            Finding::NoIssuer
            | Finding::AuthRequired
            | Finding::Revocable
            | Finding::Clawback
            | Finding::Dead
            | Finding::Regulated => Verdict::Refuse,
        }
    }

    /// A sentence for people.
    pub fn text(self) -> &'static str {
        match self {
            Finding::NoIssuer => "The issuer's account is not on the ledger: the asset does not exist.",
            Finding::AuthRequired => {
                "The issuer has to consent to each trust line (AUTH_REQUIRED): no escrow could hold the asset."
            }
            Finding::Revocable => "The issuer can freeze balances (AUTH_REVOCABLE), those in escrow too.",
            Finding::Clawback => "The issuer can take balances back (AUTH_CLAWBACK_ENABLED), those in escrow too.",
            Finding::Mutable => {
                "The issuer can still give itself the power to freeze or take back balances: relays refuse such assets \
                 unless they are configured otherwise."
            }
            Finding::Immutable => "The issuer can neither freeze nor take back balances, and can never change that.",
            Finding::NoDomain => "The issuer's account names no domain: nobody says who is behind it.",
            Finding::NoToml => "The issuer's domain has no stellar.toml that can be read.",
            Finding::NotListed => {
                "The issuer's domain does not list this asset with this issuer: it may only pretend to belong there."
            }
            Finding::OtherNetwork => "The issuer's domain speaks of another network.",
            Finding::Listed => "The issuer's domain lists this asset with this issuer.",
            Finding::Dead => "The issuer's domain says that the asset is given up.",
            Finding::Test => "The issuer's domain says that the asset is for tests, and worth nothing.",
            Finding::Private => "The issuer's domain says that the asset is not for everybody.",
            Finding::Regulated => "Each payment needs the issuer's approval (SEP-8): escrows cannot get it.",
        }
    }
}

/// What the ledger shows of an asset's issuer.
pub fn judge(issuer: Option<&AccountState>) -> Vec<Finding> {
    let Some(issuer) = issuer else {
        return vec![Finding::NoIssuer];
    };
    let flags = issuer.flags;
    let mut findings = Vec::new();
    for (set, finding) in [
        (flags.auth_required, Finding::AuthRequired),
        (flags.auth_revocable, Finding::Revocable),
        (flags.clawback_enabled, Finding::Clawback),
    ] {
        if set {
            findings.push(finding);
        }
    }
    let locked = issuer.signers.iter().all(|signer| signer.weight == 0);
    findings.push(match (flags.auth_immutable || locked, findings.is_empty()) {
        (true, true) => Finding::Immutable,
        // What it can do, it can do for ever.
        (true, false) => return findings,
        (false, _) => Finding::Mutable,
    });
    findings
}

/// What the issuer's domain says of the asset: `toml` is the file of the issuer's home domain, if it could be had.
pub fn compare(
    asset: &Asset,
    issuer: Option<&AccountState>,
    toml: Option<&StellarToml>,
    network: &Network,
) -> Vec<Finding> {
    if issuer.is_none_or(|issuer| issuer.home_domain.is_none()) {
        return vec![Finding::NoDomain];
    }
    let Some(toml) = toml else {
        return vec![Finding::NoToml];
    };
    let mut findings = Vec::new();
    if toml
        .network_passphrase
        .as_ref()
        .is_some_and(|passphrase| passphrase != network.passphrase())
    {
        findings.push(Finding::OtherNetwork);
    }
    let Some(currency) = toml.currency(asset) else {
        findings.push(Finding::NotListed);
        return findings;
    };
    findings.push(Finding::Listed);
    match currency.status {
        Status::Live => {}
        Status::Dead => findings.push(Finding::Dead),
        Status::Test => findings.push(Finding::Test),
        Status::Private => findings.push(Finding::Private),
    }
    if currency.regulated {
        findings.push(Finding::Regulated);
    }
    findings
}

/// The gravest of some findings; fine when there are none.
pub fn verdict(findings: &[Finding], allow_revocable: bool) -> Verdict {
    findings
        .iter()
        .map(|finding| finding.verdict(allow_revocable))
        .max()
        .unwrap_or(Verdict::Fine)
}

#[cfg(test)]
mod tests {
    use obol_cell::{AccountId, Stroops};

    use super::*;
    use crate::asset::asset;
    use crate::rail::{Holding, IssuerFlags, SignerEntry};
    use crate::wallet::stellar_toml::Currency;

    fn issuer(flags: IssuerFlags, weight: u32) -> AccountState {
        let id = AccountId([7; 32]);
        let nothing = Holding {
            balance: Stroops::ZERO,
            buying: Stroops::ZERO,
            selling: Stroops::ZERO,
        };
        AccountState {
            id,
            sequence: 1,
            lumens: nothing,
            subentries: 0,
            sponsoring: 0,
            sponsored: 0,
            thresholds: [0; 3],
            signers: vec![SignerEntry { key: Some(id), weight }],
            flags,
            lines: Vec::new(),
            home_domain: Some("issuer.example".to_owned()),
            memo_required: false,
        }
    }

    #[test]
    fn an_issuer_that_can_take_money_away_is_refused_unless_the_risk_was_taken() {
        let all = IssuerFlags {
            auth_required: false,
            auth_revocable: true,
            auth_immutable: true,
            clawback_enabled: true,
        };
        let findings = judge(Some(&issuer(all, 1)));
        assert_eq!(findings, [Finding::Revocable, Finding::Clawback]);
        assert_eq!(verdict(&findings, false), Verdict::Refuse);
        assert_eq!(verdict(&findings, true), Verdict::Warn);
    }

    #[test]
    fn an_issuer_is_fine_only_if_it_can_never_change_its_mind() {
        let immutable = IssuerFlags {
            auth_immutable: true,
            ..IssuerFlags::default()
        };
        for (flags, weight, expected) in [
            (immutable, 1, Verdict::Fine),
            (IssuerFlags::default(), 0, Verdict::Fine),
            (IssuerFlags::default(), 1, Verdict::Warn),
        ] {
            assert_eq!(verdict(&judge(Some(&issuer(flags, weight))), false), expected);
        }
        assert_eq!(verdict(&judge(None), true), Verdict::Refuse);
        let asks = IssuerFlags {
            auth_required: true,
            ..immutable
        };
        assert_eq!(verdict(&judge(Some(&issuer(asks, 1))), true), Verdict::Refuse);
    }

    #[test]
    fn a_domain_has_to_name_the_asset_and_the_account_the_domain() {
        let network = Network::testnet();
        let state = issuer(IssuerFlags::default(), 1);
        let obol = asset("OBOL", state.id).unwrap();
        let currency = |status, issuer| Currency {
            code: "OBOL".to_owned(),
            issuer,
            status,
            name: None,
            description: None,
            display_decimals: 7,
            anchored_to: None,
            regulated: false,
        };
        let toml = |status, issuer| StellarToml {
            network_passphrase: Some(network.passphrase().to_owned()),
            currencies: vec![currency(status, issuer)],
            ..StellarToml::default()
        };
        let listed = toml(Status::Live, state.id);
        let found = |issuer: Option<&AccountState>, toml: Option<&StellarToml>| compare(&obol, issuer, toml, &network);
        assert_eq!(found(Some(&state), Some(&listed)), [Finding::Listed]);
        assert_eq!(found(Some(&state), None), [Finding::NoToml]);
        let nameless = AccountState {
            home_domain: None,
            ..state.clone()
        };
        assert_eq!(found(Some(&nameless), Some(&listed)), [Finding::NoDomain]);
        let pretender = toml(Status::Live, AccountId([8; 32]));
        assert_eq!(found(Some(&state), Some(&pretender)), [Finding::NotListed]);
        let dead = toml(Status::Dead, state.id);
        assert_eq!(verdict(&found(Some(&state), Some(&dead)), true), Verdict::Refuse);
        let elsewhere = compare(&obol, Some(&state), Some(&listed), &Network::public());
        assert_eq!(elsewhere, [Finding::OtherNetwork, Finding::Listed]);
    }
}
