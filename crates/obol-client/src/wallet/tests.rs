//! The wallet against the embedded ledger over HTTP; the guard is played by obol-stellar's payee side.

use std::net::SocketAddr;

use obol_cell::EscrowTerms;
use obol_ledger::{Closing, Ledger, LedgerConfig, server};
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::settle::{FlushOrder, Flushed, Policy};
use obol_stellar::{Network, Outbox, Rail, Tcp, asset};
use obol_toll::PayerKeys as _;

use super::*;
use crate::place::Place;
use crate::runtime::LinkMeters;

const UNIT: i64 = 10_000_000;
const WEALTH: i64 = 1_000 * UNIT;
const DEPOSIT: i64 = 10 * UNIT;
const GUARD: PeerId = PeerId([9; 32]);
const LIFE: u32 = 7_200;
const PATIENCE: Duration = Duration::from_secs(60);

fn stroops(n: i64) -> Stroops {
    Stroops::new(n).unwrap()
}

fn rules() -> EscrowRules {
    EscrowRules {
        min_deposit: stroops(1),
        min_life: 3_600,
        max_life: 86_400,
        margin: 600,
    }
}

/// A ledger with an asset, a guard with an account, and a directory for a client.
struct World {
    ledger: Arc<Ledger>,
    _server: server::ServerHandle,
    rail: Arc<dyn Rail>,
    network: Network,
    asset: Asset,
    allow_revocable_asset: bool,
    account: Keypair,
    guard: Keypair,
    secret: EscrowSecret,
    guard_settler: Settler,
    directory: tempfile::TempDir,
    /// Where the client is.
    place: Arc<Mutex<Place>>,
}

impl World {
    async fn new() -> World {
        let config = LedgerConfig {
            closing: Closing::OnDemand,
            allow_advance: true,
            ..LedgerConfig::default()
        };
        let ledger = Arc::new(Ledger::open(config).unwrap());
        let server = server::serve(Arc::clone(&ledger), SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let network = Network::new(ledger.passphrase());
        let horizon = Horizon::new(&server.url(), network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap();
        let rail: Arc<dyn Rail> = Arc::new(horizon);
        let outbox: Arc<dyn Outbox> = Arc::new(obol_stellar::MemoryOutbox::new());
        let guard_settler = Settler::new(Arc::clone(&rail), outbox, network.clone(), quick());
        let [issuer, account, guard] = [1, 2, 3].map(|n| Keypair::from_seed(&[n; 32]));
        let asset = asset::asset("OBOL", issuer.account()).unwrap();
        for key in [&issuer, &account, &guard] {
            rail.friendbot(key.account()).await.unwrap();
        }
        guard_settler
            .create_asset(&issuer, &account, asset, stroops(WEALTH))
            .await
            .unwrap();
        guard_settler.trust(&guard, asset).await.unwrap();
        World {
            ledger,
            _server: server,
            rail,
            network,
            asset,
            allow_revocable_asset: false,
            account,
            guard,
            secret: EscrowSecret::from_bytes([7; 32]),
            guard_settler,
            directory: tempfile::tempdir().unwrap(),
            place: Arc::new(Mutex::new(Place::test(1, Some(1)))),
        }
    }

    /// A run of the client's wallet, with what the directory holds.
    async fn run(&self) -> Run {
        let path = self.directory.path().join("payments.sqlite");
        let (journal, facts) = Journal::open(&path).unwrap();
        let keys = EscrowPayer::new(PayerSecret::from_bytes([5; 32]), self.network.id());
        let outbox: Arc<dyn Outbox> = Arc::new(journal.clone());
        let (notes, told) = mpsc::unbounded_channel();
        let parts = WalletParts {
            settler: Settler::new(Arc::clone(&self.rail), outbox, self.network.clone(), quick()),
            keys: keys.clone(),
            account: self.account.clone(),
            asset: self.asset,
            allow_revocable_asset: self.allow_revocable_asset,
            poll: quick().poll,
            journal: journal.clone(),
            notes,
            watch: Watch::new(LinkMeters::default()),
            whereabouts: Some({
                let place = Arc::clone(&self.place);
                Arc::new(move || *place.lock().unwrap())
            }),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (stop, tasks) = (parts.stop.clone(), parts.tasks.clone());
        let wallet = Wallet::open_with(parts, &facts).await.unwrap();
        Run {
            wallet,
            keys,
            journal,
            told,
            stop,
            tasks,
        }
    }

    async fn balance(&self, account: AccountId) -> i64 {
        let account = self.rail.account(account).await.unwrap();
        account.map_or(0, |account| held(&account, &self.asset).get())
    }

    /// The guard accepts an offer.
    fn accept(&self, offer: &EscrowOffer) -> (obol_toll::Escrow, Signature) {
        let terms = EscrowTerms::new(offer, GUARD, self.guard.account(), rules().min_deposit);
        let (escrow, refund) = self.secret.accept(terms).unwrap();
        (obol_toll::Escrow::from(&escrow), refund)
    }

    async fn flush(&self, run: &Run, escrow: &obol_toll::Escrow, k: u32, cumulative: i64) {
        let by_payer = run.keys.sign_claim(escrow, k, stroops(cumulative)).unwrap();
        let order = FlushOrder {
            escrow: &Escrow::try_from(escrow).unwrap(),
            k,
            cumulative: stroops(cumulative),
            by_payer,
            secret: &self.secret,
            payee: &self.guard,
        };
        let flushed = self.guard_settler.flush(&order).await.unwrap();
        assert!(matches!(flushed, Flushed::Settled { .. }), "{flushed:?}");
    }

    /// Accounts that hold lumens: all but the genesis account.
    fn accounts(&self) -> usize {
        let audit = self.ledger.audit().unwrap();
        assert_eq!(audit.native.difference, 0);
        assert!(audit.assets.values().all(|asset| asset.difference == 0), "{audit:?}");
        audit.accounts.len()
    }
}

fn quick() -> Policy {
    Policy {
        poll: Duration::from_millis(20),
        ..Policy::default()
    }
}

struct Run {
    wallet: Wallet,
    keys: EscrowPayer,
    journal: Journal<PayerFact>,
    told: mpsc::UnboundedReceiver<Note>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Run {
    async fn note(&mut self) -> Note {
        tokio::time::timeout(PATIENCE, self.told.recv())
            .await
            .expect("a note in time")
            .unwrap()
    }

    async fn offered(&mut self) -> EscrowOffer {
        self.wallet.want(GUARD, rules(), stroops(DEPOSIT), LIFE);
        match self.note().await {
            Note::Offer { guard, offer } if guard == GUARD => offer,
            other => panic!("{other:?}"),
        }
    }

    /// An escrow as far as open, its facts in the journal as the payer keeps them.
    async fn opened(&mut self, world: &World) -> obol_toll::Escrow {
        let offer = self.offered().await;
        let (escrow, refund) = world.accept(&offer);
        let accepted = OutFact::Accepted {
            escrow,
            deposit: offer.deposit,
            refund,
            margin: rules().margin,
            payee: GUARD,
            since: now().secs(),
        };
        self.journal.append(vec![PayerFact::Out(accepted)]).await.unwrap();
        self.wallet.open(escrow, offer.deposit, refund);
        let Note::EscrowOpened { escrow: id, balance } = self.note().await else {
            panic!()
        };
        assert_eq!((id, balance), (escrow.id(), stroops(DEPOSIT)));
        let opened = OutFact::Opened { escrow: id, balance };
        self.journal.append(vec![PayerFact::Out(opened)]).await.unwrap();
        escrow
    }

    async fn ended(&mut self) -> (EscrowId, i64) {
        match self.note().await {
            Note::EscrowEnded { escrow, paid } => (escrow, paid.get()),
            other => panic!("{other:?}"),
        }
    }

    async fn wound_up(&self) {
        let mut unsettled = self.wallet.unsettled();
        let all = unsettled.wait_for(|open| *open == 0);
        tokio::time::timeout(PATIENCE, all).await.expect("in time").unwrap();
    }

    /// The program dies.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[tokio::test]
async fn an_asset_that_its_issuer_can_take_back_is_not_held_unless_the_user_says_so() {
    let mut world = World::new().await;
    // Its issuer can give itself every power.
    let issuer = Keypair::from_seed(&[4; 32]).account();
    world.rail.friendbot(issuer).await.unwrap();
    world.asset = asset::asset("OTHER", issuer).unwrap();
    let run = world.run().await;
    let refused = run.wallet.offer(GUARD, stroops(DEPOSIT), LIFE).await.unwrap_err();
    assert!(matches!(refused, OfferError::Issuer(IssuerFault::Mutable)), "{refused}");
    let account = world.rail.account(world.account.account()).await.unwrap().unwrap();
    assert!(account.line(&world.asset).is_none(), "no trust line was made");
    run.end().await;

    world.allow_revocable_asset = true;
    let run = world.run().await;
    let poor = run.wallet.offer(GUARD, stroops(DEPOSIT), LIFE).await.unwrap_err();
    assert!(matches!(poor, OfferError::NoMoney { .. }), "{poor}");
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_is_funded_opened_settled_and_everything_comes_home_to_the_stroop() {
    let world = World::new().await;
    let before = world.accounts();
    let mut run = world.run().await;
    let escrow = run.opened(&world).await;
    assert_eq!(world.balance(world.account.account()).await, WEALTH - DEPOSIT);
    // The wallet's account has nothing to do with the escrow itself.
    assert_eq!(world.balance(AccountId(escrow.id().0)).await, DEPOSIT);

    run.wallet.hurry();
    world.flush(&run, &escrow, 3, 1_234_567).await;
    assert_eq!(run.ended().await, (escrow.id(), 1_234_567));
    world.ledger.advance(0, 61).unwrap();
    run.wound_up().await;
    run.wallet.bring_home().await.unwrap();

    assert_eq!(world.balance(world.account.account()).await, WEALTH - 1_234_567);
    assert_eq!(world.balance(world.guard.account()).await, 1_234_567);
    assert_eq!(world.accounts(), before, "an account was left behind");
    assert!(run.journal.secrets(ESCROWS).await.unwrap().is_empty());
    // What was claimed and not used up can be drawn until it expires.
    assert_eq!(run.journal.secrets(WOUND_UP).await.unwrap().len(), 1);
    assert!(run.wallet.inner.keys.key(&escrow.id()).is_some());
    assert!(run.journal.secrets(FUNDING).await.unwrap().is_empty());
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_that_nobody_flushes_is_taken_back_when_the_ledger_has_passed_its_expiry() {
    let world = World::new().await;
    let mut run = world.run().await;
    let escrow = run.opened(&world).await;
    run.wallet.hurry();
    world.ledger.advance(u64::from(LIFE) + 60, 61).unwrap();
    assert_eq!(run.ended().await, (escrow.id(), 0));
    run.wound_up().await;
    run.wallet.bring_home().await.unwrap();
    assert_eq!(world.balance(world.account.account()).await, WEALTH);
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_belongs_to_the_place_where_it_was_opened_also_after_a_restart() {
    let world = World::new().await;
    let mut run = world.run().await;
    let at_home = run.opened(&world).await.id();
    assert_eq!(run.wallet.away(), Some(vec![]));
    // One that its guard never accepts.
    run.offered().await;
    assert_eq!(run.journal.secrets(places::PLACES).await.unwrap().len(), 2);
    run.end().await;

    *world.place.lock().unwrap() = Place::test(2, None);
    let mut run = world.run().await;
    assert_eq!(run.wallet.away(), Some(vec![at_home]));
    assert_eq!(run.journal.secrets(places::PLACES).await.unwrap().len(), 1);
    let elsewhere = run.opened(&world).await;
    assert_eq!(run.wallet.away(), Some(vec![at_home]), "one of its own");
    *world.place.lock().unwrap() = Place::default();
    assert_eq!(run.wallet.away(), None, "nowhere is no other place");
    run.end().await;

    *world.place.lock().unwrap() = Place::test(1, Some(1));
    let run = world.run().await;
    assert_eq!(run.wallet.away(), Some(vec![elsewhere.id()]));
    // Both come back, wherever that is.
    run.wallet.hurry();
    world.ledger.advance(u64::from(LIFE) + 60, 61).unwrap();
    run.wound_up().await;
    run.wallet.bring_home().await.unwrap();
    assert_eq!(world.balance(world.account.account()).await, WEALTH);
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_died_goes_on_where_it_was() {
    let world = World::new().await;
    let mut run = world.run().await;
    let escrow = run.opened(&world).await;
    world.flush(&run, &escrow, 1, 500).await;
    run.end().await;

    // It finds the end, sweeps, and dies again before it can merge.
    let mut run = world.run().await;
    assert_eq!(run.ended().await, (escrow.id(), 500));
    let ended = OutFact::Ended {
        escrow: escrow.id(),
        paid: stroops(500),
    };
    run.journal.append(vec![PayerFact::Out(ended)]).await.unwrap();
    run.end().await;
    world.ledger.advance(0, 61).unwrap();

    let run = world.run().await;
    run.wallet.hurry();
    run.wound_up().await;
    // The next escrow could be funded by what this one left.
    assert_eq!(run.journal.secrets(FUNDING).await.unwrap().len(), 1);
    run.wallet.bring_home().await.unwrap();
    assert_eq!(world.balance(world.account.account()).await, WEALTH - 500);
    run.end().await;

    // Nothing is left to do for the next run; claims that were not used up can still be drawn.
    let run = world.run().await;
    assert_eq!(*run.wallet.unsettled().borrow(), 0);
    assert!(run.wallet.inner.keys.key(&escrow.id()).is_some());
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_escrow_is_funded_by_what_the_last_one_left_where_that_is_enough() {
    let world = World::new().await;
    let mut run = world.run().await;
    let first = run.opened(&world).await;
    run.wallet.hurry();
    world.ledger.advance(u64::from(LIFE) + 60, 61).unwrap();
    assert_eq!(run.ended().await, (first.id(), 0));
    run.wound_up().await;
    assert_eq!(world.balance(world.account.account()).await, WEALTH - DEPOSIT);

    let second = run.opened(&world).await;
    assert_ne!(first.id(), second.id());
    assert_eq!(
        world.balance(world.account.account()).await,
        WEALTH - DEPOSIT,
        "the wallet's account was used again"
    );
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_wallet_says_so_and_tries_again_when_it_is_funded() {
    let mut world = World::new().await;
    let rich = std::mem::replace(&mut world.account, Keypair::from_seed(&[4; 32]));
    let poor = world.account.clone();
    let mut run = world.run().await;
    let mut events = run.wallet.inner.watch.listen();
    run.wallet.want(GUARD, rules(), stroops(DEPOSIT), LIFE);
    let Event::EscrowFailed { reason, .. } = events.recv().await.unwrap() else {
        panic!()
    };
    assert!(reason.contains("fund it"), "{reason}");

    world.rail.friendbot(poor.account()).await.unwrap();
    world.guard_settler.trust(&poor, world.asset).await.unwrap();
    world
        .guard_settler
        .pay([1; 32], &rich, poor.account(), world.asset, stroops(DEPOSIT))
        .await
        .unwrap();
    assert!(matches!(run.note().await, Note::Offer { .. }));
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_comes_to_nothing_frees_its_funding_account() {
    let world = World::new().await;
    let mut run = world.run().await;
    let first = run.offered().await;
    let second = run.offered().await;
    assert_ne!(first.escrow, second.escrow);
    assert_eq!(world.balance(world.account.account()).await, WEALTH - DEPOSIT);
    run.end().await;

    // The next run knows that the second was not accepted either.
    let mut run = world.run().await;
    assert!(run.journal.secrets(ESCROWS).await.unwrap().is_empty());
    run.opened(&world).await;
    assert_eq!(world.balance(world.account.account()).await, WEALTH - DEPOSIT);
    run.end().await;
}
