//! The wallet: escrows on the ledger, from the making of their keys to the last lumen back.
//!
//! | what | when | by |
//! |---|---|---|
//! | funding account | before an escrow is offered, where none with enough is left | the wallet's account |
//! | opening | the guard accepted | the funding account |
//! | refund | the ledger's clock passed the expiry, and nobody flushed | the funding account pays the fee |
//! | sweep, merge | flushed or refunded | the rest goes to the funding account, for the next escrow (C4) |
//! | home | `Wallet::close`: the user wants everything back | funding accounts are emptied into the wallet's account |
//!
//! Every step can be done again: it looks at the ledger and at the record of submissions first. What must not be lost is
//! durable before it is used: the nonce that E's key comes from, and which funding account belongs to it, are kept with the journal's secrets until the
//! escrow is wound up.

mod connect;
mod places;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use obol_cell::{AccountId, Asset, EscrowId, EscrowOffer, EscrowRules, PeerId, Signature, Stroops};
use obol_stellar::Keypair;
use obol_stellar::check::{IssuerFault, check_issuer};
use obol_stellar::escrow::{Escrow, Opening};
use obol_stellar::key::account_text;
use obol_stellar::keys::EscrowPayer;
use obol_stellar::rail::AccountState;
use obol_stellar::settle::{EndError, OneTime, OpenError, Settler, WalletError, WindUp};
use obol_stellar::tx::Op;
use obol_store::{AuditError, Journal, StoreError};
use obol_toll::fact::{OutFact, PayerFact};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::cashier::{Note, now};
use crate::events::Event;
use crate::place::{Mark, Whereabouts};
use crate::watch::Watch;

pub(crate) use connect::ThroughTor;

/// The journal's secrets: for each escrow that is not wound up, its nonce and the number of its funding account.
pub(crate) const ESCROWS: &str = "escrow";
/// The journal's secrets: the nonces of escrows that are wound up, and have not expired.
const WOUND_UP: &str = "wound-up";
/// The journal's secrets: the numbers of funding accounts.
pub(crate) const FUNDING: &str = "funding";
/// An offer names the ledger until which the escrow can be opened, as far from now (settlement.md, S0).
const LEDGERS_TO_OPEN: u64 = 60;
/// An escrow in quiet use is looked at so many times less often than one that is about to end.
const QUIET: u32 = 12;
/// The longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// See the [module](self). Clones are the same wallet.
#[derive(Clone)]
pub(crate) struct Wallet {
    inner: Arc<Inner>,
}

struct Inner {
    settler: Settler,
    keys: EscrowPayer,
    account: Keypair,
    asset: Asset,
    allow_revocable_asset: bool,
    poll: Duration,
    journal: Journal<PayerFact>,
    notes: mpsc::UnboundedSender<Note>,
    watch: Watch,
    /// Somebody waits for the end of everything: look often.
    hurry: watch::Sender<bool>,
    /// Escrows that are not wound up.
    unsettled: watch::Sender<usize>,
    state: Mutex<State>,
    /// One offer is made at a time: no two may take the same funding account.
    offering: tokio::sync::Mutex<()>,
    whereabouts: Option<Whereabouts>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    /// The funding account of each escrow that is not wound up.
    funding_of: HashMap<EscrowId, u64>,
    /// All funding accounts.
    funding: HashSet<u64>,
    followed: HashSet<EscrowId>,
    /// The newest offer to each guard that was not accepted yet.
    offered: HashMap<PeerId, EscrowId>,
    /// Where escrows were opened.
    marks: HashMap<EscrowId, Mark>,
}

/// What a wallet is made of.
pub(crate) struct WalletParts {
    pub(crate) settler: Settler,
    pub(crate) keys: EscrowPayer,
    pub(crate) account: Keypair,
    pub(crate) asset: Asset,
    pub(crate) allow_revocable_asset: bool,
    pub(crate) poll: Duration,
    pub(crate) journal: Journal<PayerFact>,
    pub(crate) notes: mpsc::UnboundedSender<Note>,
    pub(crate) watch: Watch,
    /// `None`: an escrow is used wherever the client is.
    pub(crate) whereabouts: Option<Whereabouts>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// An escrow as the journal's facts tell it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) escrow: obol_toll::Escrow,
    pub(crate) refund: Signature,
    pub(crate) deposit: Stroops,
    opened: bool,
    ended: bool,
    signed: (u32, Stroops),
}

impl Wallet {
    /// The wallet, with what `facts` and the journal's secrets tell of earlier runs; goes on with what those left undone.
    pub(crate) async fn open_with(parts: WalletParts, facts: &[PayerFact]) -> Result<Wallet, StoreError> {
        let mut state = State::default();
        for (id, _) in parts.journal.secrets(FUNDING).await? {
            state
                .funding
                .extend(<[u8; 8]>::try_from(id).ok().map(u64::from_be_bytes));
        }
        for (_, secret) in parts.journal.secrets(ESCROWS).await? {
            if let Some((nonce, number)) = secret.split_first_chunk::<32>()
                && let Ok(number) = <[u8; 8]>::try_from(number)
            {
                let escrow = parts.keys.add(nonce);
                state.funding_of.insert(escrow, u64::from_be_bytes(number));
            }
        }
        let kept: HashSet<EscrowId> = state.funding_of.keys().copied().collect();
        let wallet = Wallet {
            inner: Arc::new(Inner {
                settler: parts.settler,
                keys: parts.keys,
                account: parts.account,
                asset: parts.asset,
                allow_revocable_asset: parts.allow_revocable_asset,
                poll: parts.poll,
                journal: parts.journal,
                notes: parts.notes,
                watch: parts.watch,
                hurry: watch::Sender::new(false),
                unsettled: watch::Sender::new(0),
                state: Mutex::new(state),
                offering: tokio::sync::Mutex::new(()),
                whereabouts: parts.whereabouts,
                stop: parts.stop,
                tasks: parts.tasks,
            }),
        };
        let known = known_escrows(facts);
        for (id, nonce) in wallet.inner.journal.secrets(WOUND_UP).await? {
            let expires = known.iter().find(|known| known.escrow.id().0[..] == id[..]);
            match <[u8; 32]>::try_from(nonce.as_slice()) {
                Ok(nonce) if expires.is_some_and(|known| now().secs() < known.escrow.terms.expiry) => {
                    wallet.inner.keys.add(&nonce);
                }
                _ => wallet.inner.journal.forget_secret(WOUND_UP, &id).await?,
            }
        }
        // Also those that are wound up, until they expire: claims that were not used up name them.
        let now_secs = now().secs();
        let is_there = |id: &EscrowId| {
            let known = known.iter().find(|known| known.escrow.id() == *id);
            kept.contains(id) || known.is_some_and(|known| now_secs < known.escrow.terms.expiry)
        };
        wallet.restore_places(is_there).await?;
        for offered in kept
            .iter()
            .filter(|id| known.iter().all(|known| known.escrow.id() != **id))
        {
            // Never accepted, or abandoned: nothing can have been paid in, since acceptance is durable before that.
            wallet.forget(*offered).await;
        }
        for known in known {
            // Those that the ledger may not have yet are asked for by the payer; those without a nonce are wound up.
            if known.opened && kept.contains(&known.escrow.id()) {
                wallet.show(&known.escrow, known.deposit, "open");
                wallet.inner.watch.escrow(known.escrow.id(), |figures| {
                    figures.claim = known.signed.0.into();
                    figures.signed = known.signed.1.get();
                });
                wallet.follow(known.escrow, known.deposit, known.refund, known.ended);
            }
        }
        wallet.watch_places();
        Ok(wallet)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job until it ends or the client does.
    fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = job => {}
            }
        });
    }

    fn tell(&self, note: Note) {
        // At the client's end nobody listens any more.
        let _ = self.inner.notes.send(note);
    }

    /// The funding account of this number.
    fn funding_key(&self, number: u64) -> Keypair {
        let network = self.inner.settler.network().id();
        self.inner.keys.secret().funding_key(network, number)
    }

    fn show(&self, escrow: &obol_toll::Escrow, deposit: Stroops, state: &'static str) {
        let guard = self.inner.watch.guard(escrow.terms.payee);
        self.inner.watch.escrow(escrow.id(), |figures| {
            figures.guard = guard;
            figures.identity = escrow.terms.payee.0;
            figures.escrow = account_text(&AccountId(escrow.id().0));
            figures.deposit = deposit.get();
            figures.expiry = escrow.terms.expiry;
            figures.state = state;
        });
    }

    // ---- opening

    /// Makes what an offer to `guard` needs, and tells the payer. Tries until it succeeds.
    pub(crate) fn want(&self, guard: PeerId, rules: EscrowRules, deposit: Stroops, life: u32) {
        let wallet = self.clone();
        let deposit = deposit.max(rules.min_deposit);
        let life = life.clamp(rules.min_life, rules.max_life.max(rules.min_life));
        self.spawn(async move {
            let mut pause = Pause::new(wallet.inner.poll);
            let mut told = String::new();
            loop {
                match wallet.offer(guard, deposit, life).await {
                    Ok(offer) => {
                        wallet.tell(Note::Offer { guard, offer });
                        return;
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        debug!(%reason, "no escrow can be offered yet");
                        if reason != told {
                            let guard = wallet.inner.watch.guard(guard);
                            wallet.inner.watch.tell(Event::EscrowFailed {
                                guard,
                                reason: reason.clone(),
                            });
                            told = reason;
                        }
                    }
                }
                pause.wait().await;
            }
        });
    }

    async fn offer(&self, guard: PeerId, deposit: Stroops, life: u32) -> Result<EscrowOffer, OfferError> {
        let _one_at_a_time = self.inner.offering.lock().await;
        let before = self.state().offered.remove(&guard);
        if let Some(before) = before {
            // It came to nothing, or the payer would not ask again: its funding account is free for this one.
            self.forget(before).await;
        }
        let number = self.funded(deposit).await?;
        let head = self.inner.settler.rail().latest_ledger().await?;
        let mut nonce = [0; 32];
        rand::fill(&mut nonce);
        let escrow = self.inner.keys.add(&nonce);
        let mut secret = nonce.to_vec();
        secret.extend_from_slice(&number.to_be_bytes());
        self.inner.journal.keep_secret(ESCROWS, &escrow.0, &secret).await?;
        self.mark_place(escrow).await?;
        let mut state = self.state();
        state.funding_of.insert(escrow, number);
        state.offered.insert(guard, escrow);
        drop(state);
        Ok(EscrowOffer {
            escrow,
            network: self.inner.settler.network().id(),
            asset: self.inner.asset,
            s0: (u64::from(head.sequence) + LEDGERS_TO_OPEN) << 32,
            expiry: now().secs().max(head.close_time).saturating_add(life.into()),
            deposit,
        })
    }

    /// The number of a funding account that can open an escrow with this deposit: one that an earlier escrow left, or a new one.
    async fn funded(&self, deposit: Stroops) -> Result<u64, OfferError> {
        let inner = &self.inner;
        let head = inner.settler.rail().latest_ledger().await?;
        // Three reserves for itself, four for the escrow, and one that pays fees for years.
        let reserves = |n: i64| Stroops::new(n.saturating_mul(head.base_reserve.into())).unwrap_or(Stroops::MAX);
        let left: Vec<u64> = {
            let state = self.state();
            let in_use: HashSet<u64> = state.funding_of.values().copied().collect();
            state.funding.difference(&in_use).copied().collect()
        };
        for number in left {
            let account = inner.settler.rail().account(self.funding_key(number).account()).await?;
            let enough = account.is_some_and(|account| {
                // Half a reserve of lumens pays for the next escrow's fees; its reserves come back from each.
                let lumens = account.spendable_lumens(head.base_reserve).get().saturating_mul(2);
                held(&account, &inner.asset) >= deposit && lumens >= reserves(9).get()
            });
            if enough {
                return Ok(number);
            }
        }
        let account = inner.account.account();
        let state = inner
            .settler
            .rail()
            .account(account)
            .await?
            .ok_or(OfferError::NoAccount { account })?;
        let issuer = inner.settler.rail().account(AccountId(inner.asset.issuer)).await?;
        check_issuer(issuer.as_ref(), inner.allow_revocable_asset).map_err(OfferError::Issuer)?;
        inner.settler.trust(&inner.account, inner.asset).await?;
        let (held, lumens) = (held(&state, &inner.asset), state.spendable_lumens(head.base_reserve));
        inner.watch.tell(Event::Wallet {
            account: account_text(&account),
            balance: held.get(),
        });
        if held < deposit {
            return Err(OfferError::NoMoney {
                account,
                held,
                needed: deposit,
            });
        }
        if lumens < reserves(9) {
            return Err(OfferError::NoLumens {
                account,
                held: lumens,
                needed: reserves(9),
            });
        }
        let number = rand::random();
        inner
            .journal
            .keep_secret(FUNDING, &u64::to_be_bytes(number), &u64::to_be_bytes(number))
            .await?;
        self.state().funding.insert(number);
        let key = self.funding_key(number);
        let one = OneTime {
            key: &key,
            money: deposit,
            lumens: reserves(8),
        };
        inner.settler.fund_one_time(&inner.account, inner.asset, &[one]).await?;
        Ok(number)
    }

    /// Opens an escrow that its guard accepted. Tries until it is open, or never can be.
    pub(crate) fn open(&self, escrow: obol_toll::Escrow, deposit: Stroops, refund: Signature) {
        let wallet = self.clone();
        self.state().offered.remove(&escrow.terms.payee);
        self.show(&escrow, deposit, "opening");
        self.inner.watch.tell(Event::EscrowOpening {
            guard: self.inner.watch.guard(escrow.terms.payee),
            deposit: deposit.get(),
        });
        self.spawn(async move {
            let mut pause = Pause::new(wallet.inner.poll);
            loop {
                match wallet.try_open(&escrow, deposit, refund).await {
                    Ok(balance) => {
                        wallet.inner.watch.tell(Event::EscrowOpened {
                            guard: wallet.inner.watch.guard(escrow.terms.payee),
                            escrow: account_text(&AccountId(escrow.id().0)),
                            deposit: balance.get(),
                            expiry: escrow.terms.expiry,
                        });
                        wallet.show(&escrow, balance, "open");
                        wallet.tell(Note::EscrowOpened {
                            escrow: escrow.id(),
                            balance,
                        });
                        wallet.follow(escrow, balance, refund, false);
                        return;
                    }
                    Err(
                        error @ (OpenFault::Never | OpenFault::Ledger(OpenError::TooLate | OpenError::Foreign { .. })),
                    ) => {
                        wallet.inner.watch.tell(Event::EscrowFailed {
                            guard: wallet.inner.watch.guard(escrow.terms.payee),
                            reason: error.to_string(),
                        });
                        wallet.show(&escrow, Stroops::ZERO, "never opened");
                        wallet.tell(Note::OpeningFailed { escrow: escrow.id() });
                        wallet.forget(escrow.id()).await;
                        return;
                    }
                    Err(error) => debug!(%error, "the escrow is not open yet"),
                }
                pause.wait().await;
            }
        });
    }

    async fn try_open(
        &self,
        escrow: &obol_toll::Escrow,
        deposit: Stroops,
        refund: Signature,
    ) -> Result<Stroops, OpenFault> {
        let built = Escrow::try_from(escrow).map_err(|_| OpenFault::Never)?;
        let key = self.inner.keys.key(&escrow.id()).ok_or(OpenFault::Never)?;
        let number = self
            .state()
            .funding_of
            .get(&escrow.id())
            .copied()
            .ok_or(OpenFault::Never)?;
        let opening = Opening {
            escrow: &built,
            key: &key,
            deposit,
            refund,
        };
        let opened = self.inner.settler.open(&self.funding_key(number), &[opening]).await?;
        Ok(opened.escrows.first().map_or(deposit, |(_, balance)| *balance))
    }

    // ---- the end

    /// Watches an open escrow until it has ended and everything is back.
    fn follow(&self, escrow: obol_toll::Escrow, deposit: Stroops, refund: Signature, ended: bool) {
        if !self.state().followed.insert(escrow.id()) {
            return;
        }
        let wallet = self.clone();
        self.inner.unsettled.send_modify(|n| *n += 1);
        self.spawn(async move {
            match (Escrow::try_from(&escrow), wallet.inner.keys.key(&escrow.id())) {
                (Ok(built), Some(key)) => {
                    let following = Following {
                        escrow,
                        built,
                        key,
                        deposit,
                        refund,
                        ended,
                    };
                    wallet.to_the_end(following).await;
                    wallet.wound_up(&escrow).await;
                }
                _ => warn!("an escrow of the journal has no key; only its guard can end it"),
            }
            wallet.inner.unsettled.send_modify(|n| *n -= 1);
        });
    }

    async fn to_the_end(&self, mut following: Following) {
        let mut hurry = self.inner.hurry.subscribe();
        let number = self
            .state()
            .funding_of
            .get(&following.escrow.id())
            .copied()
            .unwrap_or(0);
        let funder = self.funding_key(number);
        loop {
            match self.look(&mut following, &funder).await {
                Ok(Looked::Done) => return,
                Ok(Looked::Later) => {}
                Err(error) => debug!(%error, "an escrow could not be looked at"),
            }
            let ending = following.ended || *hurry.borrow_and_update();
            let pause = if ending {
                self.inner.poll
            } else {
                self.inner.poll * QUIET
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = hurry.changed() => {}
            }
        }
    }

    async fn look(&self, following: &mut Following, funder: &Keypair) -> Result<Looked, LookError> {
        let Following {
            escrow,
            built,
            key,
            deposit,
            refund,
            ..
        } = following;
        let (settler, watch) = (&self.inner.settler, &self.inner.watch);
        let (guard, name) = (watch.guard(escrow.terms.payee), account_text(&AccountId(escrow.id().0)));
        let mut found = settler.ended(built, *deposit).await?;
        let mut refunded = false;
        if found.is_none() && !following.ended {
            let head = settler.rail().latest_ledger().await?;
            if head.close_time < escrow.terms.expiry {
                return Ok(Looked::Later);
            }
            match settler.refund(built, *deposit, key, *refund, funder).await {
                Ok(ended) => {
                    refunded = ended.paid.is_zero();
                    found = Some(ended);
                }
                Err(EndError::NotYet { .. }) => return Ok(Looked::Later),
                Err(EndError::Absent) => return Ok(Looked::Done),
                Err(EndError::Carry(error)) => return Err(error.into()),
            }
        }
        if let Some(ended) = found
            && !following.ended
        {
            following.ended = true;
            self.tell(Note::EscrowEnded {
                escrow: escrow.id(),
                paid: ended.paid,
            });
            watch.escrow(escrow.id(), |figures| {
                figures.settled = Some(ended.paid.get());
                figures.state = if refunded { "refunded" } else { "settled" };
            });
            watch.tell(if refunded {
                Event::EscrowRefunded {
                    guard,
                    escrow: name,
                    returned: ended.rest.get(),
                }
            } else {
                Event::EscrowSettled {
                    guard,
                    escrow: name,
                    paid: ended.paid.get(),
                    returned: ended.rest.get(),
                }
            });
        }
        let to = funder.account();
        match settler.wind_up(built, key, to, to).await? {
            WindUp::Done => {
                watch.escrow(escrow.id(), |figures| figures.state = "wound up");
                Ok(Looked::Done)
            }
            WindUp::Swept { .. } => Ok(Looked::Later),
        }
    }

    /// Everything in an escrow came back. Until it expires its guard still gives service for claims that were not used up: E's key stays
    /// for these; the next start after that forgets it.
    async fn wound_up(&self, escrow: &obol_toll::Escrow) {
        let (id, journal) = (escrow.id(), &self.inner.journal);
        if now().secs() >= escrow.terms.expiry {
            return self.forget(id).await;
        }
        self.state().funding_of.remove(&id);
        let kept: Result<(), StoreError> = async {
            let secrets = journal.secrets(ESCROWS).await?;
            if let Some((_, secret)) = secrets.iter().find(|(of, _)| *of == id.0)
                && let Some((nonce, _)) = secret.split_first_chunk::<32>()
            {
                journal.keep_secret(WOUND_UP, &id.0, nonce).await?;
            }
            journal.forget_secret(ESCROWS, &id.0).await
        }
        .await;
        if let Err(error) = kept {
            // Looked at once more after the next start: harmless.
            debug!(%error, "the record of a finished escrow stays");
        }
    }

    async fn forget(&self, escrow: EscrowId) {
        self.inner.keys.remove(&escrow);
        self.state().funding_of.remove(&escrow);
        self.state().marks.remove(&escrow);
        let journal = &self.inner.journal;
        let forgotten = async {
            journal.forget_secret(places::PLACES, &escrow.0).await?;
            journal.forget_secret(ESCROWS, &escrow.0).await
        };
        if let Err(error) = forgotten.await {
            // Looked at once more after the next start: harmless.
            debug!(%error, "the record of a finished escrow stays");
        }
    }

    /// What pays, and is paid, for services beyond circuits: the wallet's account.
    pub(crate) fn purse(&self) -> obol_gateway::Wallet {
        obol_gateway::Wallet {
            settler: self.inner.settler.clone(),
            account: self.inner.account.clone(),
            asset: self.inner.asset,
        }
    }

    /// Proves the books.
    pub(crate) async fn audit(&self) -> Result<(), AuditError> {
        self.inner.journal.audit().await
    }

    /// From now on everything is looked at often.
    pub(crate) fn hurry(&self) {
        self.inner.hurry.send_replace(true);
    }

    /// Tells how many escrows are not wound up.
    pub(crate) fn unsettled(&self) -> watch::Receiver<usize> {
        self.inner.unsettled.subscribe()
    }

    /// The guards of escrows that have not ended: of those that may be used here.
    pub(crate) fn guards(&self) -> BTreeSet<PeerId> {
        let away = self.away().unwrap_or_default();
        self.inner.watch.guards(|escrow| !away.contains(escrow))
    }

    /// Empties the funding accounts that no escrow uses into the wallet's account. Afterwards the ledger shows that they belong together: it is
    /// done when the user wants everything back, and never otherwise.
    pub(crate) async fn bring_home(&self) -> Result<(), OfferError> {
        let inner = &self.inner;
        let home = inner.account.account();
        let left: Vec<u64> = {
            let state = self.state();
            let in_use: HashSet<u64> = state.funding_of.values().copied().collect();
            state.funding.difference(&in_use).copied().collect()
        };
        for number in left {
            let key = self.funding_key(number);
            if let Some(account) = inner.settler.rail().account(key.account()).await? {
                let mut operations = Vec::new();
                let rest = held(&account, &inner.asset);
                if !rest.is_zero() {
                    let pay = Op::Pay {
                        to: home,
                        asset: inner.asset,
                        amount: rest,
                    };
                    operations.push((None, pay));
                }
                if account.line(&inner.asset).is_some() {
                    let drop_line = Op::Trust {
                        asset: inner.asset,
                        limit: Stroops::ZERO,
                    };
                    operations.push((None, drop_line));
                }
                operations.push((None, Op::Merge { into: home }));
                let mut reference = key.account().0;
                reference[0] ^= 0xff;
                inner
                    .settler
                    .transact(reference, &key, &[], &operations)
                    .await
                    .map_err(WalletError::Carry)?;
            }
            inner.journal.forget_secret(FUNDING, &number.to_be_bytes()).await?;
            self.state().funding.remove(&number);
        }
        Ok(())
    }
}

/// An escrow on its way to its end.
struct Following {
    escrow: obol_toll::Escrow,
    built: Escrow,
    key: Keypair,
    deposit: Stroops,
    refund: Signature,
    ended: bool,
}

enum Looked {
    Later,
    Done,
}

fn held(account: &AccountState, asset: &Asset) -> Stroops {
    account.line(asset).map_or(Stroops::ZERO, |line| {
        line.holding.balance.saturating_sub(line.holding.selling)
    })
}

/// What the facts tell of each escrow, in the order of their acceptance.
pub(crate) fn known_escrows(facts: &[PayerFact]) -> Vec<Known> {
    let mut known: Vec<Known> = Vec::new();
    for fact in facts {
        let PayerFact::Out(fact) = fact else { continue };
        let find = |known: &mut Vec<Known>, id: &EscrowId, change: &dyn Fn(&mut Known)| {
            known
                .iter_mut()
                .filter(|known| known.escrow.id() == *id)
                .for_each(change);
        };
        match fact {
            OutFact::Accepted {
                escrow,
                deposit,
                refund,
                ..
            } => known.push(Known {
                escrow: *escrow,
                refund: *refund,
                deposit: *deposit,
                opened: false,
                ended: false,
                signed: (0, Stroops::ZERO),
            }),
            OutFact::Opened { escrow, balance } => find(&mut known, escrow, &|known| {
                known.opened = true;
                known.deposit = *balance;
            }),
            OutFact::Abandoned { escrow } => known.retain(|known| known.escrow.id() != *escrow),
            OutFact::Signed { escrow, k, cumulative } => {
                find(&mut known, escrow, &|known| known.signed = (*k, *cumulative));
            }
            OutFact::Closing { .. } => {}
            OutFact::Ended { escrow, .. } => find(&mut known, escrow, &|known| known.ended = true),
        }
    }
    known
}

/// A pause that doubles.
struct Pause(Duration);

impl Pause {
    fn new(first: Duration) -> Pause {
        Pause(first)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// No escrow can be offered now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    #[error("the wallet's account {} is not on the ledger: fund it", account_text(account))]
    NoAccount { account: AccountId },
    #[error("the wallet {} holds {} stroops of the asset, and an escrow takes {}", account_text(account), held.get(), needed.get())]
    NoMoney {
        account: AccountId,
        held: Stroops,
        needed: Stroops,
    },
    #[error("the wallet {} has {} stroops of XLM to spend, and an escrow takes {}, most of which comes back", account_text(account), held.get(), needed.get())]
    NoLumens {
        account: AccountId,
        held: Stroops,
        needed: Stroops,
    },
    #[error("{0}: nothing is paid with it unless payments.ledger.allow_revocable_asset is true")]
    Issuer(#[source] IssuerFault),
    #[error(transparent)]
    Rail(#[from] obol_stellar::rail::RailError),
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
enum OpenFault {
    #[error("the escrow's terms or its key cannot be used")]
    Never,
    #[error(transparent)]
    Ledger(#[from] OpenError),
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Rail(#[from] obol_stellar::rail::RailError),
    #[error(transparent)]
    Carry(#[from] obol_stellar::settle::CarryError),
    #[error(transparent)]
    WindUp(#[from] obol_stellar::settle::WindUpError),
}

#[cfg(test)]
mod tests;
