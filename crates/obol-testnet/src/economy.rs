//! Money for a test network: an asset with an immutable issuer, and accounts that hold it.

use obol_cell::{AccountId, Asset, Stroops};
use obol_stellar::asset::{NotAnAsset, asset};
use obol_stellar::key::NoRandomness;
use obol_stellar::rail::{RailError, SubmitError};
use obol_stellar::tx::{Op, Options, Tx, TxError, Validity};
use obol_stellar::{Keypair, Network, Rail};

/// What an issuer promises with it: its flags never change, so it can never freeze or claw back (`AUTH_IMMUTABLE`).
const AUTH_IMMUTABLE: u32 = 4;
/// A transaction has at most 20 signatures; two are the founder's and the issuer's.
const HOLDERS_A_TRANSACTION: usize = 18;
/// Highest fee per operation, in stroops of lumens: a test ledger has no fee auctions.
const FEE: u32 = 1_000;

/// Why there is no money.
#[derive(Debug, thiserror::Error)]
pub enum EconomyError {
    /// The system gives no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The asset's code.
    #[error(transparent)]
    Asset(#[from] NotAnAsset),
    /// A transaction cannot be built.
    #[error(transparent)]
    Build(#[from] TxError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Rail(#[from] RailError),
    /// The ledger refused.
    #[error("founding the economy: {0}")]
    Submit(#[from] SubmitError),
    /// The ledger took a transaction, and it failed there.
    #[error("founding the economy: a transaction failed with {0:?}")]
    Failed(Vec<String>),
    /// The founder has no account.
    #[error("the founding account is not on the ledger")]
    NoFounder,
}

/// An account to be made.
#[derive(Debug)]
pub struct Holder<'a> {
    /// Its key: it signs for its own trust line.
    pub key: &'a Keypair,
    /// Its lumens, in stroops.
    pub lumens: Stroops,
    /// What it gets of the asset.
    pub holding: Stroops,
}

/// The asset of a test network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Economy {
    /// The asset.
    pub asset: Asset,
    /// Everything that was ever issued of it.
    pub issued: Stroops,
}

/// Makes an issuer, the holders' accounts and trust lines, pays every holder its share, and makes the issuer immutable.
/// `founder` is an account that holds the lumens for it.
///
/// # Errors
/// See [`EconomyError`].
pub async fn found(
    rail: &dyn Rail,
    network: &Network,
    founder: &Keypair,
    code: &str,
    holders: &[Holder<'_>],
) -> Result<Economy, EconomyError> {
    let issuer = Keypair::random()?;
    let asset = asset(code, issuer.account())?;
    let state = rail.account(founder.account()).await?.ok_or(EconomyError::NoFounder)?;
    let mut sequence = state.sequence;
    let mut submit = async |signers: &[&Keypair], operations: Vec<(Option<AccountId>, Op)>| {
        sequence += 1;
        let fee = FEE.saturating_mul(u32::try_from(operations.len()).unwrap_or(u32::MAX));
        let tx = Tx::new(founder.account(), sequence, fee, Validity::default(), operations)?;
        let record = rail.submit(&tx.sign(network.id(), signers)?).await?;
        if record.successful {
            return Ok(());
        }
        let codes = std::iter::once(&record.codes.transaction).chain(&record.codes.operations);
        Err(EconomyError::Failed(codes.map(|c| c.as_str().to_owned()).collect()))
    };

    let lumens = Stroops::new(100_0000000).unwrap_or(Stroops::ZERO);
    let issuer_account = (
        None,
        Op::CreateAccount {
            account: issuer.account(),
            lumens,
        },
    );
    let mut accounts = vec![issuer_account];
    accounts.extend(holders.iter().map(|h| {
        (
            None,
            Op::CreateAccount {
                account: h.key.account(),
                lumens: h.lumens,
            },
        )
    }));
    for part in accounts.chunks(100) {
        submit(&[founder], part.to_vec()).await?;
    }
    for part in holders.chunks(HOLDERS_A_TRANSACTION) {
        let mut operations = Vec::new();
        let mut signers = vec![founder, &issuer];
        for holder in part {
            let account = holder.key.account();
            operations.push((
                Some(account),
                Op::Trust {
                    asset,
                    limit: Stroops::MAX,
                },
            ));
            if !holder.holding.is_zero() {
                operations.push((
                    Some(issuer.account()),
                    Op::Pay {
                        to: account,
                        asset,
                        amount: holder.holding,
                    },
                ));
            }
            signers.push(holder.key);
        }
        if part.iter().all(|h| h.holding.is_zero()) {
            signers.remove(1);
        }
        submit(&signers, operations).await?;
    }
    let immutable = Op::SetOptions(Options {
        set_flags: Some(AUTH_IMMUTABLE),
        ..Options::default()
    });
    submit(&[founder, &issuer], vec![(Some(issuer.account()), immutable)]).await?;
    let issued = holders.iter().map(|h| h.holding).sum();
    Ok(Economy { asset, issued })
}
