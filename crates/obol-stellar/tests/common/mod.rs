//! A ledger of our own behind HTTP, with an asset, a funded payer and a payee; ledgers close as soon as a transaction is
//! there, and the clock is wound by hand.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod crash;
pub mod faulty;
pub mod sim;

use std::sync::Arc;
use std::time::Duration;

use obol_cell::{AccountId, Asset, EscrowId, EscrowTerms, PeerId, Signature, Stroops};
use obol_ledger::{Closing, Ledger, LedgerConfig};
use obol_stellar::escrow::{ClaimHasher, Escrow, EscrowSecret, Opening};
use obol_stellar::outbox::Outbox;
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::rail::{AccountState, ResultCodes, SubmitError};
use obol_stellar::settle::{FlushOrder, Policy};
use obol_stellar::tx::{Op, SignedTx, Tx, Validity};
use obol_stellar::{Keypair, MemoryOutbox, Network, Rail, Settler, Tcp};

pub const IDENTITY: PeerId = PeerId([0x51; 32]);
pub const MINIMUM: i64 = 1_000;
pub const DEPOSIT: i64 = 1_000_000;
/// What the payer has of the asset at the beginning.
pub const WEALTH: i64 = 1_000_000_000;
/// The life of an escrow, seconds.
pub const LIFE: u64 = 86_400;

pub struct World {
    pub ledger: Arc<Ledger>,
    pub server: obol_ledger::server::ServerHandle,
    pub network: Network,
    pub rail: Arc<dyn Rail>,
    pub outbox: Arc<MemoryOutbox>,
    pub settler: Settler,
    pub issuer: Keypair,
    pub payer: Keypair,
    pub payee: Keypair,
    pub asset: Asset,
    pub secret: EscrowSecret,
}

pub fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

pub fn stroops(amount: i64) -> Stroops {
    Stroops::new(amount).unwrap()
}

/// Looks often and soon; a transaction whose fate is unknown is given back soon too.
pub fn policy() -> Policy {
    Policy {
        poll: Duration::from_millis(5),
        patience: Duration::from_millis(100),
        ..Policy::default()
    }
}

/// An escrow that the payee accepted, with what the payer keeps of it.
pub struct Agreed {
    pub escrow: Escrow,
    pub e: Keypair,
    pub refund: Signature,
}

impl Agreed {
    pub fn opening(&self) -> Opening<'_> {
        Opening {
            escrow: &self.escrow,
            key: &self.e,
            deposit: stroops(DEPOSIT),
            refund: self.refund,
        }
    }

    pub fn claim(&self, k: u32, cumulative: i64) -> Signature {
        let claims = ClaimHasher::new(&self.escrow).unwrap();
        claims.sign(&self.e, k, stroops(cumulative)).unwrap()
    }
}

impl World {
    pub async fn new() -> World {
        World::with(Closing::OnDemand).await
    }

    pub async fn with(closing: Closing) -> World {
        let ledger = Arc::new(
            Ledger::open(LedgerConfig {
                closing,
                allow_advance: true,
                submission_timeout: Duration::from_millis(200),
                ..LedgerConfig::default()
            })
            .unwrap(),
        );
        let server = obol_ledger::server::serve(Arc::clone(&ledger), "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let network = Network::new(ledger.passphrase());
        let rail: Arc<dyn Rail> =
            Arc::new(Horizon::new(&server.url(), network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap());
        let outbox = Arc::new(MemoryOutbox::new());
        let settler = Settler::new(
            Arc::clone(&rail),
            Arc::clone(&outbox) as Arc<dyn Outbox>,
            network.clone(),
            policy(),
        );
        let (issuer, payer, payee) = (key(1), key(2), key(3));
        let asset = obol_stellar::asset::asset("OBOL", issuer.account()).unwrap();
        World {
            ledger,
            server,
            network,
            rail,
            outbox,
            settler,
            issuer,
            payer,
            payee,
            asset,
            secret: EscrowSecret::from_bytes([0x52; 32]),
        }
    }

    /// With lumens for all, the asset at the payer, and a trust line at the payee.
    pub async fn funded() -> World {
        let world = World::new().await;
        for key in [&world.issuer, &world.payer, &world.payee] {
            world.rail.friendbot(key.account()).await.unwrap();
        }
        world
            .settler
            .create_asset(&world.issuer, &world.payer, world.asset, stroops(WEALTH))
            .await
            .unwrap();
        world.settler.trust(&world.payee, world.asset).await.unwrap();
        world
    }

    /// A settler of the same ledger with another rail or outbox.
    pub fn settler(&self, rail: Arc<dyn Rail>, outbox: Arc<dyn Outbox>) -> Settler {
        Settler::new(rail, outbox, self.network.clone(), policy())
    }

    pub fn terms(&self, e: &Keypair) -> EscrowTerms {
        EscrowTerms {
            network: self.network.id(),
            asset: self.asset,
            payee: IDENTITY,
            payee_account: self.payee.account(),
            escrow: EscrowId(e.account().0),
            s0: u64::from(self.ledger.latest().sequence + 60) << 32,
            expiry: self.ledger.now() + LIFE,
            min_deposit: stroops(MINIMUM),
        }
    }

    pub fn agree(&self, e: u8) -> Agreed {
        let e = key(e);
        let (escrow, refund) = self.secret.accept(self.terms(&e)).unwrap();
        Agreed { escrow, e, refund }
    }

    pub async fn opened(&self, e: u8) -> Agreed {
        let agreed = self.agree(e);
        let opened = self.settler.open(&self.payer, &[agreed.opening()]).await.unwrap();
        assert_eq!(opened.escrows, [(agreed.escrow.terms().escrow, stroops(DEPOSIT))]);
        agreed
    }

    pub fn order<'a>(&'a self, agreed: &'a Agreed, k: u32, cumulative: i64) -> FlushOrder<'a> {
        FlushOrder {
            escrow: &agreed.escrow,
            k,
            cumulative: stroops(cumulative),
            by_payer: agreed.claim(k, cumulative),
            secret: &self.secret,
            payee: &self.payee,
        }
    }

    /// The flush of a claim as an envelope, with no check at all.
    pub fn flush_envelope(&self, agreed: &Agreed, k: u32, cumulative: i64) -> SignedTx {
        agreed
            .escrow
            .countersigned(
                k,
                stroops(cumulative),
                agreed.claim(k, cumulative),
                &self.secret.signer(agreed.escrow.terms()),
            )
            .unwrap()
            .bumped(self.network.id(), &self.payee, stroops(300))
            .unwrap()
    }

    pub async fn account(&self, account: AccountId) -> AccountState {
        self.rail.account(account).await.unwrap().unwrap()
    }

    pub async fn balance(&self, account: AccountId) -> i64 {
        self.account(account)
            .await
            .line(&self.asset)
            .unwrap()
            .holding
            .balance
            .get()
    }

    /// Any transaction of a source at its next sequence, signed by `signers`.
    pub async fn tx(&self, source: &Keypair, signers: &[&Keypair], ops: &[(Option<AccountId>, Op)]) -> SignedTx {
        let sequence = self.account(source.account()).await.sequence + 1;
        let fee = 100 * u32::try_from(ops.len()).unwrap();
        Tx::new(
            source.account(),
            sequence,
            fee,
            Validity::default(),
            ops.iter().copied(),
        )
        .unwrap()
        .sign(self.network.id(), signers)
        .unwrap()
    }

    /// The codes with which the ledger refuses or fails this.
    pub async fn refused(&self, tx: &SignedTx) -> ResultCodes {
        match self.rail.submit(tx).await {
            Err(SubmitError::Rejected { codes }) => codes,
            other => panic!("the ledger took it, or nobody knows: {other:?}"),
        }
    }

    pub fn pass_time(&self, seconds: u64) {
        self.ledger.advance(seconds, 1).unwrap();
    }

    pub fn pass_ledgers(&self, ledgers: u32) {
        self.ledger.advance(0, ledgers).unwrap();
    }

    /// No stroop was created or lost, of lumens or of the asset.
    pub fn adds_up(&self) {
        assert_eq!(self.ledger.audit().unwrap().created_or_lost(), 0);
    }
}
