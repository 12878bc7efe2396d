//! What a wallet for people needs, beside paying: keys from words, what an account holds, who issues an asset, requests for
//! payment, and escrows that come back without anybody's help.
//!
//! | module | what | standard |
//! |---|---|---|
//! | [`words`] | keys out of 12 or 24 words | SEP-5 (BIP-39, SLIP-10) |
//! | [`issuer`] | what an issuer can do to its asset, and what it says of it | SEP-1 |
//! | [`stellar_toml`] | an issuer's stellar.toml | SEP-1 |
//! | [`request`] | `web+stellar:pay` addresses | SEP-7 |
//! | [`qr`] | QR codes for terminals and pages | ISO 18004 |
//! | [`escrows`] | what is locked where, until when; taking it back | settlement.md |
//! | [`purse`] | all of a party's money, shown and brought home | settlement.md |
//!
//! Money is sent by [`Settler::send`](crate::Settler::send), lines are added by [`Settler::trust`](crate::Settler::trust).

pub mod escrows;
pub mod issuer;
pub mod purse;
pub mod qr;
pub mod request;
pub mod stellar_toml;
pub mod words;

use obol_cell::{AccountId, Asset, Stroops};

use crate::rail::{AccountState, LedgerHead, Rail, RailError};

/// What an account holds, as of a closed ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balances {
    /// The account.
    pub account: AccountId,
    /// Its lumens, all of them.
    pub lumens: Stroops,
    /// Those that it may spend: what its reserve and its offers leave.
    pub spendable_lumens: Stroops,
    /// Its assets, in the server's order.
    pub assets: Vec<AssetBalance>,
    /// The domain that it claims (SEP-1): anybody's text.
    pub home_domain: Option<String>,
}

/// What an account holds of one asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetBalance {
    /// The asset.
    pub asset: Asset,
    /// All of it.
    pub balance: Stroops,
    /// What offers leave of it.
    pub spendable: Stroops,
    /// How much more it can take.
    pub room: Stroops,
    /// Whether the issuer lets it pay and be paid.
    pub authorized: bool,
    /// Whether the issuer may take it away.
    pub clawback: bool,
}

impl Balances {
    /// Of an account that was read.
    pub fn of(state: &AccountState, head: &LedgerHead) -> Balances {
        Balances {
            account: state.id,
            lumens: state.lumens.balance,
            spendable_lumens: state.spendable_lumens(head.base_reserve),
            assets: state
                .lines
                .iter()
                .map(|line| AssetBalance {
                    asset: line.asset,
                    balance: line.holding.balance,
                    spendable: line.holding.balance.saturating_sub(line.holding.selling),
                    room: line.room(),
                    authorized: line.authorized,
                    clawback: line.clawback,
                })
                .collect(),
            home_domain: state.home_domain.clone(),
        }
    }
}

/// What an account holds; `None` where there is none.
///
/// # Errors
/// When the ledger cannot be asked.
pub async fn balances(rail: &dyn Rail, account: AccountId) -> Result<Option<Balances>, RailError> {
    let head = rail.latest_ledger().await?;
    let state = rail.account(account).await?;
    Ok(state.map(|state| Balances::of(&state, &head)))
}

/// Text that somebody else wrote, fit for a terminal: at most so many characters, and none that steers it or hides.
pub(crate) fn plain(text: &str, longest: usize) -> String {
    text.chars()
        .take(longest)
        .map(|c| {
            let hidden =
                matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if c.is_control() || hidden { '\u{fffd}' } else { c }
        })
        .collect()
}
