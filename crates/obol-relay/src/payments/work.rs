//! What is asked of the ledger, each as a task of its own whose answer comes back to the driver as an input.
//!
//! Every task may be cut off at any moment: obol-stellar's procedures record what they submit first, look before they
//! submit again, and are called again after a restart.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use obol_cell::{AccountId, EscrowId, EscrowOffer, EscrowRules, PeerId, Signature, Stroops};
use obol_stellar::Keypair;
use obol_stellar::check::{self, Belief};
use obol_stellar::escrow::{Escrow, LEDGERS_TO_OPEN, Opening};
use obol_stellar::key::account_text;
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_stellar::rail::{LedgerHead, Rail};
use obol_stellar::settle::{EndError, FlushOrder, Flushed, OpenError, Settler, WindUp};
use obol_store::Journal;
use obol_toll::NotBelieved;
use obol_toll::fact::NodeFact;
use obol_toll::node::Input;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock;
use super::events::Event;
use super::funding::Funding;
use crate::metrics::{Metric, Metrics};

/// Questions to the ledger at the same time.
const READS: usize = 8;
/// Least and longest wait before something is tried again, the latter as a multiple of the ledger's poll.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_POLLS: u32 = 12;
/// Escrows in one opening transaction.
const OPENINGS: usize = obol_stellar::escrow::MAX_OPENINGS;

/// What tasks tell the driver.
#[derive(Debug)]
pub(super) enum Told {
    /// An answer for the state machine.
    Input(Input),
    /// The newest ledger.
    Ledger(LedgerHead),
    /// For people.
    Event(Event),
    /// A flush of this escrow has ended, however.
    FlushOver(EscrowId),
    /// A round of looking at our own escrows has ended.
    WatchOver,
    /// An escrow of ours is wound up: its key is of no use any more.
    WoundUp(EscrowId),
    /// An append was answered.
    Appended {
        /// Its number.
        seq: u64,
        /// Whether it is durable.
        outcome: Result<u64, obol_store::StoreError>,
    },
}

/// An opening that waits for its transaction.
pub(super) struct ToOpen {
    pub(super) escrow: obol_toll::Escrow,
    pub(super) deposit: Stroops,
    pub(super) refund: Signature,
}

/// What every task has at hand.
pub(super) struct Work {
    pub(super) rails: Vec<Arc<dyn Rail>>,
    pub(super) settler: Settler,
    pub(super) belief: Belief,
    pub(super) payee: EscrowPayee,
    pub(super) payer: EscrowPayer,
    pub(super) payees: Vec<Keypair>,
    /// Escrows of ours that were wound up before this start.
    pub(super) wound_up: HashSet<EscrowId>,
    pub(super) capital: Keypair,
    /// What pays, and is paid, what is owed.
    pub(super) trust: Keypair,
    /// Somebody was told that the account for what is owed is not on the ledger.
    pub(super) without_trust_account: AtomicBool,
    pub(super) funding: Arc<Funding>,
    pub(super) asset: obol_cell::Asset,
    pub(super) highest_fee: i64,
    pub(super) poll: Duration,
    pub(super) journal: Journal<NodeFact>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) told: mpsc::UnboundedSender<Told>,
    /// Somebody wants the newest ledger at once.
    pub(super) hurry: Notify,
    /// Rings when a new ledger was seen.
    pub(super) ledger: tokio::sync::watch::Sender<u32>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) reads: Semaphore,
}

/// The kind of secret under which the journal keeps the nonces of our escrow accounts.
pub(super) const NONCE: &str = "escrow-nonce";
/// The kind under which it keeps those of escrows that are wound up, and have not expired.
pub(super) const WOUND_UP: &str = "wound-up";

impl Work {
    pub(super) fn reads() -> Semaphore {
        Semaphore::new(READS)
    }

    /// Runs a task until it ends or the payments stop.
    pub(super) fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Work>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, task) = (self.stop.clone(), task(Arc::clone(self)));
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    fn tell(&self, told: Told) {
        // The driver has ended; so will this task.
        let _ = self.told.send(told);
    }

    pub(super) fn answer(&self, input: Input) {
        self.tell(Told::Input(input));
    }

    fn event(&self, event: Event) {
        self.tell(Told::Event(event));
    }

    /// Looks at the newest ledger again and again.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut newest = 0;
        loop {
            match self.settler.rail().latest_ledger().await {
                Ok(head) => {
                    // A server that lags shows older ones.
                    if head.sequence >= newest {
                        newest = head.sequence;
                        self.metrics.set(Metric::LedgerSequence, &[], head.sequence.into());
                        self.metrics.set(Metric::LedgerCloseTime, &[], head.close_time);
                        self.ledger.send_replace(head.sequence);
                        self.tell(Told::Ledger(head));
                    }
                }
                Err(error) => {
                    self.metrics.add(Metric::LedgerErrors, &[], 1);
                    tracing::debug!(%error, "the newest ledger cannot be had");
                }
            }
            let _ = tokio::time::timeout(self.poll, self.hurry.notified()).await;
        }
    }

    /// Waits before another try: `wait` doubles up to some polls of the ledger, a minute by default.
    pub(super) async fn pause(&self, wait: &mut Duration) {
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(self.poll.saturating_mul(AGAIN_POLLS));
    }

    pub(super) fn first_wait(&self) -> Duration {
        AGAIN.min(self.poll)
    }

    /// Does this account exist?
    pub(super) async fn check_absent(self: Arc<Self>, escrow: EscrowId) {
        let Ok(_turn) = self.reads.acquire().await else { return };
        let exists = match self.settler.rail().account(AccountId(escrow.0)).await {
            Ok(account) => Some(account.is_some()),
            Err(error) => {
                self.metrics.add(Metric::LedgerErrors, &[], 1);
                tracing::debug!(%error, "an offered escrow cannot be looked up");
                None
            }
        };
        self.answer(Input::EscrowChecked { escrow, exists });
    }

    /// Reads an escrow and believes it or not.
    pub(super) async fn read(self: Arc<Self>, escrow: obol_toll::Escrow) {
        let Ok(_turn) = self.reads.acquire().await else { return };
        let result = match Escrow::try_from(&escrow) {
            Ok(built) => check::believe(&self.rails, &built, &self.belief, clock::own().secs()).await,
            Err(error) => {
                tracing::debug!(%error, "an escrow with terms that no transaction can be built from");
                Err(NotBelieved::Wrong)
            }
        };
        if result == Err(NotBelieved::Unreachable) {
            self.metrics.add(Metric::LedgerErrors, &[], 1);
        }
        self.answer(Input::EscrowRead {
            escrow: escrow.id(),
            result,
        });
    }

    /// Flushes an escrow, however long that takes.
    pub(super) async fn flush(
        self: Arc<Self>,
        escrow: obol_toll::Escrow,
        k: u32,
        cumulative: Stroops,
        by_payer: Signature,
    ) {
        let id = escrow.id();
        let built = Escrow::try_from(&escrow);
        let account = escrow.terms.payee_account;
        let key = self.payees.iter().find(|key| key.account() == account);
        let (Ok(built), Some(key)) = (built, key) else {
            tracing::error!("an escrow pays to an account whose key is not here any more: it cannot be flushed");
            return;
        };
        let order = FlushOrder {
            escrow: &built,
            k,
            cumulative,
            by_payer,
            secret: self.payee.secret(),
            payee: key,
        };
        self.event(Event::Flushing {
            escrow: account_text(&AccountId(id.0)),
            stroops: cumulative.get(),
        });
        let mut wait = self.first_wait();
        let input = loop {
            match self.settler.flush(&order).await {
                Ok(Flushed::Settled { amount, .. }) => {
                    self.metrics.add(Metric::LedgerTransactions, &["flush", "applied"], 1);
                    break Input::Settled { escrow: id, amount };
                }
                Ok(Flushed::FailedInLedger { k }) => {
                    self.metrics.add(Metric::LedgerTransactions, &["flush", "failed"], 1);
                    break Input::FlushFailed { escrow: id, k };
                }
                Ok(Flushed::Lost) => {
                    tracing::warn!("an escrow ended without our claim");
                    break Input::Settled {
                        escrow: id,
                        amount: Stroops::ZERO,
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "a flush did not get through and is tried again");
                    self.pause(&mut wait).await;
                }
            }
        };
        // In this order: the answer may cause the next flush.
        self.tell(Told::FlushOver(id));
        self.answer(input);
    }

    /// Makes an escrow account for a peer and offers it, once there is money for it.
    pub(super) async fn offer(self: Arc<Self>, peer: PeerId, rules: EscrowRules, deposit: Stroops, life: u32) {
        let mut wait = self.first_wait();
        let mut said = false;
        let head = loop {
            match self.can_open(deposit).await {
                Some(head) => break head,
                None if !said => {
                    said = true;
                    tracing::warn!(
                        "the capital account cannot pay for escrows to other relays yet: it needs {} stroops of the \
                         asset and 4.6 XLM for each",
                        deposit.get()
                    );
                }
                None => {}
            }
            self.pause(&mut wait).await;
        };
        let nonce: [u8; 32] = rand::random();
        let escrow = self.payer.add(&nonce);
        // Before E is offered, or money could go to an account whose key nobody has.
        if let Err(error) = self.journal.keep_secret(NONCE, &escrow.0, &nonce).await {
            tracing::error!(%error, "an escrow key cannot be kept, so it is not used");
            self.payer.remove(&escrow);
            return;
        }
        let terms = &self.settler.network().id();
        let now = clock::own().secs().max(head.close_time);
        let life = life.clamp(rules.min_life.min(rules.max_life), rules.max_life);
        let offer = EscrowOffer {
            escrow,
            network: *terms,
            asset: self.asset,
            s0: u64::from(head.sequence.saturating_add(LEDGERS_TO_OPEN)) << 32,
            // A little less than the longest life: the payee's clock may be behind ours.
            expiry: now
                .saturating_add(u64::from(life))
                .saturating_sub(u64::from(life / 1000).min(60)),
            deposit,
        };
        self.answer(Input::Offer { peer, offer });
    }

    /// Opens escrows that were accepted, all that wait in one transaction.
    pub(super) async fn open(self: Arc<Self>, mut queue: mpsc::UnboundedReceiver<ToOpen>) {
        while let Some(first) = queue.recv().await {
            let mut batch = vec![first];
            // Those that were accepted together share a transaction, and say less about who met whom.
            tokio::time::sleep(self.first_wait()).await;
            while batch.len() < OPENINGS
                && let Ok(next) = queue.try_recv()
            {
                batch.push(next);
            }
            self.open_batch(batch).await;
        }
    }

    async fn open_batch(&self, batch: Vec<ToOpen>) {
        // Those that an earlier run began to open have their account; the others get one together.
        let mut begun: HashMap<Option<AccountId>, Vec<ToOpen>> = HashMap::new();
        for to_open in batch {
            let funder = self.funding.of(&self.settler, &to_open.escrow.id());
            begun.entry(funder.map(|key| key.account())).or_default().push(to_open);
        }
        for batch in begun.into_values() {
            self.open_together(batch).await;
        }
    }

    /// The one-time account that pays for these: theirs already, or one that gets the money now. Tries until it succeeds.
    async fn funder(&self, escrows: &[(EscrowId, Stroops)]) -> Keypair {
        if let Some(key) = escrows
            .first()
            .and_then(|(escrow, _)| self.funding.of(&self.settler, escrow))
        {
            return key;
        }
        let mut wait = self.first_wait();
        loop {
            match self
                .funding
                .take(&self.settler, &self.capital, self.asset, escrows)
                .await
            {
                Ok(key) => return key,
                Err(error) => {
                    tracing::warn!(%error, "escrows to other relays cannot be paid for yet");
                    self.pause(&mut wait).await;
                }
            }
        }
    }

    async fn open_together(&self, batch: Vec<ToOpen>) {
        let mut built = Vec::with_capacity(batch.len());
        for to_open in batch {
            let id = to_open.escrow.id();
            match (Escrow::try_from(&to_open.escrow), self.payer.key(&id)) {
                (Ok(escrow), Some(key)) => built.push((escrow, key, to_open)),
                _ => {
                    tracing::error!("an accepted escrow has no key, or terms that nothing can be built from");
                    self.answer(Input::OpeningFailed { escrow: id });
                }
            }
        }
        if built.is_empty() {
            return;
        }
        let openings: Vec<Opening<'_>> = built
            .iter()
            .map(|(escrow, key, to_open)| Opening {
                escrow,
                key,
                deposit: to_open.deposit,
                refund: to_open.refund,
            })
            .collect();
        let escrows: Vec<_> = openings.iter().map(|o| (o.escrow.terms().escrow, o.deposit)).collect();
        let funder = self.funder(&escrows).await;
        let mut wait = self.first_wait();
        loop {
            match self.settler.open(&funder, &openings).await {
                Ok(opened) => {
                    self.metrics.add(Metric::LedgerTransactions, &["open", "applied"], 1);
                    for (escrow, balance) in opened.escrows {
                        self.answer(Input::EscrowOpened { escrow, balance });
                    }
                    return;
                }
                Err(OpenError::TooLate | OpenError::Foreign { .. }) => break,
                Err(error) => {
                    tracing::warn!(%error, "escrows to other relays could not be opened, and are tried again");
                    self.pause(&mut wait).await;
                }
            }
        }
        // Together they cannot be opened any more; one of them may be open by an earlier transaction.
        for opening in &openings {
            let escrow = opening.escrow.terms().escrow;
            let mut wait = self.first_wait();
            loop {
                match self.settler.open(&funder, std::slice::from_ref(opening)).await {
                    Ok(opened) => {
                        let balance = opened.escrows.first().map_or(Stroops::ZERO, |(_, balance)| *balance);
                        break self.answer(Input::EscrowOpened { escrow, balance });
                    }
                    Err(OpenError::TooLate | OpenError::Foreign { .. }) => {
                        if let Err(error) = self.funding.forget(&escrow).await {
                            tracing::warn!(%error, "a one-time account stays with an escrow that was not opened");
                        }
                        break self.answer(Input::OpeningFailed { escrow });
                    }
                    Err(_) => self.pause(&mut wait).await,
                }
            }
        }
    }

    /// Takes an escrow back after its expiry.
    pub(super) async fn refund(self: Arc<Self>, escrow: obol_toll::Escrow, deposit: Stroops, by_payee: Signature) {
        let id = escrow.id();
        let (Ok(built), Some(key)) = (Escrow::try_from(&escrow), self.payer.key(&id)) else {
            tracing::error!("an escrow has no key, or terms that nothing can be built from: it cannot be refunded");
            return;
        };
        let funder = self.funding.of(&self.settler, &id);
        let funder = funder.as_ref().unwrap_or(&self.capital);
        let mut wait = self.first_wait();
        loop {
            match self.settler.refund(&built, deposit, &key, by_payee, funder).await {
                Ok(ended) => {
                    self.metrics.add(Metric::LedgerTransactions, &["refund", "applied"], 1);
                    self.event(Event::Refunded {
                        escrow: account_text(&AccountId(id.0)),
                        stroops: ended.rest.get(),
                    });
                    return self.answer(Input::EscrowEnded {
                        escrow: id,
                        paid: ended.paid,
                    });
                }
                Err(EndError::Absent) => {
                    tracing::warn!("an expired escrow is not on the ledger");
                    return self.answer(Input::EscrowEnded {
                        escrow: id,
                        paid: Stroops::ZERO,
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a refund did not get through and is tried again");
                    self.pause(&mut wait).await;
                }
            }
        }
    }

    /// Looks which of our escrows their payees have flushed.
    pub(super) async fn watch(self: Arc<Self>, escrows: Vec<(obol_toll::Escrow, Stroops)>) {
        for (escrow, deposit) in escrows {
            let Ok(built) = Escrow::try_from(&escrow) else { continue };
            let Ok(_turn) = self.reads.acquire().await else { return };
            match self.settler.ended(&built, deposit).await {
                Ok(Some(ended)) => self.answer(Input::EscrowEnded {
                    escrow: escrow.id(),
                    paid: ended.paid,
                }),
                Ok(None) => {}
                Err(error) => {
                    self.metrics.add(Metric::LedgerErrors, &[], 1);
                    tracing::debug!(%error, "our escrows cannot be looked at");
                    break;
                }
            }
        }
        self.tell(Told::WatchOver);
    }

    /// Sweeps and merges an escrow that has ended.
    pub(super) async fn wind_up(self: Arc<Self>, escrow: obol_toll::Escrow) {
        let id = escrow.id();
        let (Ok(built), Some(key)) = (Escrow::try_from(&escrow), self.payer.key(&id)) else {
            return;
        };
        // To where it came from, for the next escrows.
        let heir = self
            .funding
            .of(&self.settler, &id)
            .map_or(self.capital.account(), |key| key.account());
        let mut ledgers = self.ledger.subscribe();
        let mut wait = self.first_wait();
        let mut swept = false;
        loop {
            match self.settler.wind_up(&built, &key, heir, heir).await {
                Ok(WindUp::Done) => break,
                Ok(WindUp::Swept { merge_from }) => {
                    if !swept {
                        swept = true;
                        self.metrics.add(Metric::LedgerTransactions, &["sweep", "applied"], 1);
                        self.event(Event::Swept {
                            escrow: account_text(&AccountId(id.0)),
                        });
                    }
                    if ledgers.wait_for(|sequence| *sequence >= merge_from).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "an ended escrow cannot be wound up yet");
                    self.pause(&mut wait).await;
                }
            }
        }
        if !swept {
            self.metrics.add(Metric::LedgerTransactions, &["sweep", "applied"], 1);
            self.event(Event::Swept {
                escrow: account_text(&AccountId(id.0)),
            });
        }
        self.metrics.add(Metric::LedgerTransactions, &["merge", "applied"], 1);
        self.event(Event::Merged {
            escrow: account_text(&AccountId(id.0)),
        });
        if let Err(error) = self.funding.forget(&id).await {
            tracing::warn!(%error, "a one-time account stays with an escrow that is wound up");
        }
        self.tell(Told::WoundUp(id));
    }
}
