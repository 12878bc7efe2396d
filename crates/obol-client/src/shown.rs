//! A client as its local interface shows it (`obol_gateway::v1`), and what may be set there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use obol_cell::{AccountId, PeerId, Stroops};
use obol_gateway::v1::types::{
    Account, AssetName, Balances, Bin, Budgets, BudgetsWanted, ByClass, Ceilings, Direction, Escrow, EscrowState, Hop,
    Ledger, Limit, Payment, PaymentOutcome, Peer, Purpose, RequestOutcome, Role, Standing, Status, Tor, Tunnel, Unit,
};
use obol_gateway::v1::types::{Paths as WantedPaths, Pay as WantedPay};
use obol_gateway::{BoxFuture, History, Live, Refused, Subject, Wallet};
use obol_stellar::asset::asset_code;
use obol_stellar::key::account_text;
use obol_toll::payer::Spent;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::cashier::Note;
use crate::choice::Ceilings as WishCeilings;
use crate::client::rung_within;
use crate::config::{Amount, ClientConfig, Paths, Pay};
use crate::events::Event;
use crate::figures::{EscrowFigures, TunnelFigures};
use crate::metrics::{Metric, Metrics, TABLE};
use crate::paths::{TunnelFinder, Wish};
use crate::tunnels::Tunnels;
use crate::watch::Watch;

mod limits;

pub(crate) use limits::{LIMITS, Limits, kept};

/// How often what was carried is added to the history.
const SAMPLE: Duration = Duration::from_secs(10);
/// How often the history is brought to disk: every so many samples.
const SAVE: u32 = 6;
/// How old the balance of the account may be that is shown.
const FRESH: Duration = Duration::from_secs(60);
/// What the ledger said is shown for so long.
const LATELY: Duration = Duration::from_secs(300);
/// How long a tunnel is held to a guard that is not used any more, for it to be asked to settle.
const HELD: Duration = Duration::from_secs(60);
/// The gateway's own file, in the state directory.
pub(crate) const RECORDS: &str = "gateway.sqlite";

/// What a client shows is made of.
pub(crate) struct Parts {
    pub(crate) config: ClientConfig,
    pub(crate) account: Option<String>,
    pub(crate) wallet: Option<Wallet>,
    /// The same with its escrows.
    pub(crate) own: Option<crate::wallet::Wallet>,
    pub(crate) watch: Watch,
    pub(crate) finder: Arc<TunnelFinder>,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) notes: mpsc::UnboundedSender<Note>,
    pub(crate) spent: watch::Receiver<Spent>,
    pub(crate) history: Arc<History>,
    /// The client's end.
    pub(crate) stop: CancellationToken,
}

/// See the [module](self).
pub(crate) struct Shown {
    parts: Parts,
    metrics: Metrics,
    /// What each tunnel's meter was at when it was read last.
    meters: Mutex<HashMap<u64, u64>>,
    started_at: u64,
    limits: Mutex<Option<Limits>>,
    /// What the wallet's account held when it was last looked at by anybody.
    held: Mutex<Option<i64>>,
    balances: Arc<tokio::sync::Mutex<Option<(Instant, Account)>>>,
    /// What the ledger said when the balance was looked at last.
    ledger: Arc<Mutex<Option<(Instant, Ledger)>>>,
    /// What had been carried when that was added to the history last, and when.
    sampled: Mutex<(Option<Instant>, ByClass)>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Shown {
    pub(crate) fn new(parts: Parts) -> Arc<Shown> {
        let limits = parts.config.payments.as_ref().map(Limits::of);
        Arc::new(Shown {
            parts,
            metrics: Metrics::new(TABLE),
            meters: Mutex::default(),
            started_at: now(),
            limits: Mutex::new(limits),
            held: Mutex::default(),
            balances: Arc::default(),
            ledger: Arc::default(),
            sampled: Mutex::default(),
        })
    }

    /// Follows what happens until the client's end, and saves it.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut events = self.parts.watch.listen();
        let mut ticks = tokio::time::interval(SAMPLE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = 0_u32;
        loop {
            tokio::select! {
                () = self.parts.stop.cancelled() => break,
                event = events.recv() => match event {
                    Ok(event) => {
                        self.count(&event);
                        self.happened(event);
                    }
                    // Too slow for some of them; the journal misses none.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = ticks.tick() => {
                    self.sample();
                    samples = (samples + 1) % SAVE;
                    if samples == 0 {
                        self.save().await;
                    }
                }
            }
        }
        self.save().await;
    }

    /// Adds what was carried since the last time to the history; at most once a second.
    fn sample(&self) {
        let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = *sampled;
        if at.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return;
        }
        let carried = self.carried();
        *sampled = (Some(Instant::now()), carried);
        let more = Bin {
            carried_paid: carried.paid.saturating_sub(before.paid),
            carried_unpaid: carried.unpaid.saturating_sub(before.unpaid),
            ..Bin::default()
        };
        self.parts.history.add(None, &more);
    }

    async fn save(&self) {
        let history = Arc::clone(&self.parts.history);
        let saved = tokio::task::spawn_blocking(move || history.save()).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "the history of hours is not written; it is tried again");
        }
    }

    fn tunnel_figures(&self) -> Vec<TunnelFigures> {
        self.parts.watch.figures().tunnels
    }

    /// What all tunnels carried so far, by whether anything was paid on them by then.
    fn carried(&self) -> ByClass {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashMap::new();
        for tunnel in self.tunnel_figures() {
            let before = meters.get(&tunnel.tunnel).copied().unwrap_or(0);
            let class = if tunnel.payments > 0 { "paid" } else { "unpaid" };
            let more = tunnel.own_meter.saturating_sub(before);
            self.metrics.add(Metric::CellBytes, &[class], more);
            now.insert(tunnel.tunnel, tunnel.own_meter);
        }
        *meters = now;
        ByClass {
            paid: self.metrics.get(Metric::CellBytes, &["paid"]),
            unpaid: self.metrics.get(Metric::CellBytes, &["unpaid"]),
        }
    }

    /// What `/metrics` shows.
    pub(crate) fn metrics(&self) -> String {
        self.carried();
        let open = || self.tunnel_figures().into_iter().filter(|tunnel| tunnel.open);
        let paid = open().filter(|tunnel| tunnel.payments > 0).count();
        let all = open().count();
        self.metrics.render(|metrics| {
            metrics.set(Metric::Tunnels, &["paid"], paid.try_into().unwrap_or(u64::MAX));
            let unpaid = all.saturating_sub(paid);
            metrics.set(Metric::Tunnels, &["unpaid"], unpaid.try_into().unwrap_or(u64::MAX));
        })
    }

    fn count(&self, event: &Event) {
        let stroops = |amount: i64| u64::try_from(amount).unwrap_or(0);
        let add = |metric, by| self.metrics.add(metric, &[], by);
        match event {
            Event::Stream { .. } => add(Metric::Streams, 1),
            Event::TunnelOpened { .. } => add(Metric::TunnelsOpened, 1),
            Event::TunnelGivenUp { .. } => add(Metric::TunnelsGivenUp, 1),
            Event::Requested { .. } => add(Metric::Requests, 1),
            Event::Paying { step, total, .. } => {
                add(Metric::BytesBought, *step);
                add(Metric::StroopsSpent, stroops(*total));
            }
            Event::Paid { .. } => add(Metric::Payments, 1),
            Event::PaymentRefused { .. } => add(Metric::Refusals, 1),
            Event::Withheld { .. } => add(Metric::Withheld, 1),
            Event::EscrowOpened { .. } => add(Metric::EscrowsOpened, 1),
            Event::EscrowFailed { .. } => add(Metric::EscrowsFailed, 1),
            Event::EscrowSettled { paid, .. } => {
                self.metrics.add(Metric::EscrowsEnded, &["settled"], 1);
                add(Metric::StroopsSettled, stroops(*paid));
            }
            Event::EscrowRefunded { .. } => self.metrics.add(Metric::EscrowsEnded, &["refunded"], 1),
            Event::Wallet { balance, .. } => self.metrics.set(Metric::Balance, &[], stroops(*balance)),
            _ => {}
        }
    }

    fn happened(&self, event: Event) {
        let history = &self.parts.history;
        match event {
            Event::Wallet { balance, .. } => {
                *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(balance);
            }
            Event::Requested { tunnel, metered } => {
                history.requested(tunnel, metered);
            }
            Event::Withheld { tunnel } => history.answered(tunnel, RequestOutcome::Withheld, None),
            Event::Paying {
                tunnel,
                payment,
                step,
                amounts,
                total,
            } => {
                history.add(
                    self.guard_of(tunnel).as_deref(),
                    &Bin {
                        signed: total,
                        ..Bin::default()
                    },
                );
                history.paying(Payment {
                    id: 0,
                    at: 0,
                    circuit: tunnel,
                    n: payment,
                    bytes: step,
                    total,
                    earned: None,
                    forwarded: None,
                    amounts: Some(amounts),
                    millis: None,
                    outcome: PaymentOutcome::Waiting,
                    code: None,
                });
            }
            Event::Paid {
                tunnel,
                payment,
                millis,
                ..
            } => {
                history.add(
                    None,
                    &Bin {
                        payments: 1,
                        ..Bin::default()
                    },
                );
                history.answered(tunnel, RequestOutcome::Paid, Some(payment));
                history.paid(tunnel, payment, |payment| {
                    payment.outcome = PaymentOutcome::Complete;
                    payment.millis = Some(millis);
                });
            }
            Event::PaymentRefused {
                tunnel, payment, code, ..
            } => {
                history.add(
                    None,
                    &Bin {
                        refusals: 1,
                        ..Bin::default()
                    },
                );
                history.answered(tunnel, RequestOutcome::Refused, Some(payment));
                history.paid(tunnel, payment, |payment| {
                    payment.outcome = PaymentOutcome::Refused;
                    payment.code = Some(code.to_owned());
                });
            }
            Event::EscrowSettled { escrow, paid, .. } => {
                history.add(
                    None,
                    &Bin {
                        settled_out: paid,
                        ..Bin::default()
                    },
                );
                self.escrow_changed(&escrow);
            }
            Event::EscrowOpened { escrow, .. } | Event::EscrowRefunded { escrow, .. } => self.escrow_changed(&escrow),
            Event::TunnelOpened { tunnel, .. }
            | Event::Chain { tunnel, .. }
            | Event::NotPaid { tunnel, .. }
            | Event::FarSide { tunnel, .. }
            | Event::TunnelGivenUp { tunnel, .. }
            | Event::TunnelClosed { tunnel } => self.tunnel_changed(tunnel),
            Event::GuardNotPaid { .. } => history.tell(&Live::Warning {
                text: "A guard failed too often, and is not paid any more; it goes on serving unpaid.".to_owned(),
            }),
            Event::Warning { text } => history.tell(&Live::Warning { text }),
            _ => {}
        }
    }

    fn guard_of(&self, tunnel: u64) -> Option<String> {
        let found = self.tunnel_figures().into_iter().find(|known| known.tunnel == tunnel)?;
        found.hops.first()?.identity.map(hex::encode)
    }

    fn tunnel_changed(&self, number: u64) {
        let found = self.tunnel_figures().into_iter().find(|tunnel| tunnel.tunnel == number);
        if let Some(found) = found {
            self.parts.history.tell(&Live::Tunnel(tunnel(found)));
        }
    }

    fn escrow_changed(&self, address: &str) {
        let found = self.escrows().into_iter().find(|escrow| escrow.escrow == address);
        if let Some(found) = found {
            self.parts.history.tell(&Live::Escrow(found));
        }
    }

    /// What is known of the ledger: nothing, where nobody has asked it lately.
    fn ledger(&self) -> Option<Ledger> {
        let seen = *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        seen.filter(|(at, _)| at.elapsed() < LATELY).map(|(_, ledger)| ledger)
    }

    fn limits(&self) -> Option<Limits> {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps new limits, then lets them hold.
    fn set(&self, limits: Limits) -> Result<(), Refused> {
        let Some(mut payments) = self.parts.config.payments.clone() else {
            return Err(Refused::NotNow("this client is configured without payments".to_owned()));
        };
        limits.put_into(&mut payments);
        let changed = ClientConfig {
            payments: Some(payments.clone()),
            ..self.parts.config.clone()
        };
        changed.check().map_err(|error| Refused::Wrong(error.to_string()))?;
        let path = self.parts.config.path(&PathBuf::from(LIMITS));
        limits
            .keep(&path)
            .map_err(|error| Refused::NotNow(format!("{} cannot be written: {error}", path.display())))?;
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
        let hop = |price: u64| i64::try_from(price).unwrap_or(i64::MAX);
        self.parts.finder.set_wish(Wish {
            paths: payments.paths,
            ceilings: WishCeilings {
                hop: hop(payments.max_price_per_64_kib),
                tunnel: hop(payments.tunnel_ceiling()),
            },
            pays: payments.pay != Pay::Never,
        });
        let chain = Stroops::new(hop(payments.tunnel_ceiling())).unwrap_or(Stroops::MAX);
        let notes = [
            Note::SetPay(payments.pay),
            Note::SetBudgets(limits.budgets()),
            Note::SetCeilings {
                hop: rung_within(payments.max_price_per_64_kib),
                chain,
            },
        ];
        for note in notes {
            // A client that is ending pays nothing anyway.
            let _ = self.parts.notes.send(note);
        }
        Ok(())
    }

    fn standing(&self, tunnels: &[TunnelFigures]) -> (Standing, &'static str) {
        let Some(limits) = self.limits() else {
            return (
                Standing::Unpaid,
                "This client is configured without payments: it is served in the unpaid class.",
            );
        };
        let open = || tunnels.iter().filter(|tunnel| tunnel.open);
        let is_empty = *self.held.lock().unwrap_or_else(PoisonError::into_inner) == Some(0);
        let funded = self
            .escrows()
            .iter()
            .any(|escrow| escrow.state == EscrowState::Open && escrow.balance > 0);
        match () {
            () if limits.pay == Pay::Never => (Standing::Unpaid, "This client pays nobody, as it was told."),
            () if open().any(|tunnel| tunnel.payments > 0) => (Standing::Paying, "Circuits are paid for."),
            () if is_empty && !funded => (
                Standing::OutOfFunds,
                "The wallet is empty: circuits are served in the unpaid class until it is funded.",
            ),
            () if open().any(|tunnel| tunnel.paid_hops > 0 || tunnel.requests > 0) => (
                Standing::InitialCredit,
                "Circuits live of what relays give before the first payment.",
            ),
            () if open().next().is_some() => (Standing::Unpaid, "The circuits of this moment cannot be paid for."),
            () => (Standing::Starting, "No circuit carries anything at this moment."),
        }
    }

    /// Asks the guards of these escrows to settle: of one, or of all that are open. Which ones are asked.
    fn ask_to_settle(&self, open: Vec<String>, wanted: Option<String>) -> Result<Vec<String>, Refused> {
        let asked = match wanted {
            None => {
                // A client that is ending settles nothing now.
                let _ = self.parts.notes.send(Note::CloseEscrows);
                open
            }
            Some(one) if open.contains(&one) => {
                let account =
                    obol_stellar::key::parse_account(&one).map_err(|error| Refused::Wrong(error.to_string()))?;
                let escrow = obol_cell::EscrowId(account.0);
                let _ = self.parts.notes.send(Note::CloseEscrow { escrow });
                vec![one]
            }
            Some(_) => {
                return Err(Refused::Unknown(
                    "no open escrow of this account is known here".to_owned(),
                ));
            }
        };
        self.reach_guards_of(&asked);
        Ok(asked)
    }

    /// For a while, tunnels to guards of these escrows that are not used any more.
    fn reach_guards_of(&self, escrows: &[String]) {
        let Some(own) = &self.parts.own else { return };
        let figures = self.parts.watch.figures().escrows;
        let asked = figures.iter().filter(|figures| escrows.contains(&figures.escrow));
        let mut guards: BTreeSet<PeerId> = asked.map(|figures| PeerId(figures.identity)).collect();
        // Those of escrows that were opened elsewhere are not spoken with here.
        let here = own.guards();
        guards.retain(|guard| here.contains(guard));
        let (tunnels, stop) = (Arc::clone(&self.parts.tunnels), self.parts.stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let _reached = tunnels.reach_all(guards).await;
            tokio::time::sleep(HELD).await;
        }));
    }
}

fn tunnel(figures: TunnelFigures) -> Tunnel {
    let hop = |hop: crate::figures::HopFigures| Hop {
        fingerprint: hop.fingerprint,
        nickname: hop.nickname,
        paid_hop: hop.paid_hop,
        unpaid: hop.unpaid.map(|why| why.to_string()),
        price_per_64_kib: hop.price_per_64_kib,
        metered: hop.metered,
        paid: hop.paid,
    };
    Tunnel {
        tunnel: figures.tunnel,
        open: figures.open,
        streams: figures.streams,
        sent: figures.payload_sent,
        received: figures.payload_received,
        spent: figures.spent,
        bought: figures.bought,
        payments: figures.payments,
        requests: figures.requests,
        refused: figures.refused,
        paid_hops: figures.paid_hops,
        first_payment_ms: figures.first_payment_ms,
        hosted: figures.hosted,
        far_side: figures.far_side.map(|known| known.to_string()),
        hops: figures.hops.into_iter().map(hop).collect(),
    }
}

fn escrow(figures: EscrowFigures) -> Escrow {
    Escrow {
        escrow: figures.escrow,
        direction: Direction::Out,
        peer: Some(hex::encode(figures.identity)),
        deposit: figures.deposit,
        balance: figures.deposit.saturating_sub(figures.signed),
        cumulative: figures.signed,
        k: figures.claim,
        allocated: figures.signed,
        state: match figures.state {
            "opening" => EscrowState::Opening,
            "settled" | "wound up" => EscrowState::Ended,
            "refunded" => EscrowState::Refunded,
            "never opened" => EscrowState::Abandoned,
            "closing" => EscrowState::Closing,
            _ => EscrowState::Open,
        },
        settled: figures.settled,
        expiry: figures.expiry,
        opened_at: None,
    }
}

impl Subject for Shown {
    fn role(&self) -> Role {
        Role::Client
    }

    fn status(&self) -> Status {
        let tunnels = self.tunnel_figures();
        let (state, explanation) = self.standing(&tunnels);
        let open = || tunnels.iter().filter(|tunnel| tunnel.open);
        let paid = open().filter(|tunnel| tunnel.payments > 0).count() as u64;
        let payments = self.parts.config.payments.as_ref();
        let asset = payments.map(|payments| payments.ledger.asset.asset());
        Status {
            role: Role::Client,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            now: now(),
            state,
            explanation: explanation.to_owned(),
            nickname: None,
            fingerprint: None,
            asset: asset.map(|asset| AssetName {
                code: asset_code(&asset).to_owned(),
                issuer: account_text(&AccountId(asset.issuer)),
            }),
            network_passphrase: payments.map(|payments| payments.ledger.network_passphrase.clone()),
            account: self.parts.account.clone(),
            ledger: self.ledger(),
            tor: Tor {
                bootstrapped: true,
                ..Tor::default()
            },
            carried: self.carried(),
            circuits: ByClass {
                paid,
                unpaid: (open().count() as u64).saturating_sub(paid),
            },
            links: self.parts.watch.figures().guards.len() as u64,
        }
    }

    fn balances(&self) -> BoxFuture<Balances> {
        let escrows = self.escrows();
        let live = || {
            escrows.iter().filter(|escrow| {
                matches!(
                    escrow.state,
                    EscrowState::Opening | EscrowState::Open | EscrowState::Closing
                )
            })
        };
        let mut balances = Balances {
            locked: live().map(|escrow| escrow.balance).sum(),
            signed: live().map(|escrow| escrow.cumulative).sum(),
            ..Balances::default()
        };
        let (Some(wallet), Some(name)) = (self.parts.wallet.clone(), self.parts.account.clone()) else {
            return Box::pin(async { balances });
        };
        let (cache, ledger) = (Arc::clone(&self.balances), Arc::clone(&self.ledger));
        Box::pin(async move {
            let mut cache = cache.lock().await;
            let known = cache.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
            let account = match known {
                Some((_, account)) => account.clone(),
                None => {
                    let head = wallet.settler.rail().latest_ledger().await;
                    let seen = Ledger {
                        reachable: head.is_ok(),
                        sequence: head.as_ref().map_or(0, |head| head.sequence),
                        close_time: head.as_ref().map_or(0, |head| head.close_time),
                    };
                    *ledger.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), seen));
                    let read =
                        obol_stellar::wallet::balances(wallet.settler.rail().as_ref(), wallet.account.account()).await;
                    let Ok(found) = read else {
                        return balances;
                    };
                    let line = found
                        .as_ref()
                        .and_then(|found| found.assets.iter().find(|line| line.asset == wallet.asset));
                    let account = Account {
                        purpose: Purpose::Wallet,
                        account: name,
                        asset: line.map(|line| line.balance.get()),
                        lumens: found.as_ref().map(|found| found.lumens.get()),
                    };
                    *cache = Some((Instant::now(), account.clone()));
                    account
                }
            };
            balances.read_at = Some(now());
            balances.asset = Some(account.asset.unwrap_or(0));
            balances.lumens = Some(account.lumens.unwrap_or(0));
            balances.accounts = vec![account];
            balances
        })
    }

    fn escrows(&self) -> Vec<Escrow> {
        self.parts.watch.figures().escrows.into_iter().map(escrow).collect()
    }

    fn peers(&self) -> Vec<Peer> {
        let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
        for tunnel in self.tunnel_figures() {
            let Some(guard) = tunnel.hops.first() else { continue };
            let Some(name) = guard.identity.map(hex::encode) else {
                continue;
            };
            let peer = peers.entry(name.clone()).or_insert_with(|| Peer {
                peer: name,
                ..Peer::default()
            });
            peer.nickname = guard.nickname.clone().or_else(|| peer.nickname.take());
            peer.carried += tunnel.own_meter;
            peer.links += u64::from(tunnel.open);
        }
        for escrow in self.escrows() {
            let Some(name) = escrow.peer else { continue };
            let peer = peers.entry(name.clone()).or_insert_with(|| Peer {
                peer: name,
                ..Peer::default()
            });
            peer.signed += escrow.cumulative;
            peer.settled_out += escrow.settled.unwrap_or(0);
            if escrow.state == EscrowState::Open {
                peer.escrow_out = Some(escrow.escrow);
            }
        }
        peers.into_values().collect()
    }

    fn limits(&self) -> Vec<Limit> {
        let Some(limits) = Shown::limits(self) else {
            return Vec::new();
        };
        let spent = self.budgets().unwrap_or_default();
        let locked: i64 = self
            .escrows()
            .iter()
            .filter(|escrow| {
                matches!(
                    escrow.state,
                    EscrowState::Opening | EscrowState::Open | EscrowState::Closing
                )
            })
            .map(|escrow| escrow.deposit)
            .sum();
        let of = |amount: Option<Amount>| amount.map(|amount| amount.stroops());
        let most_locked = self
            .parts
            .config
            .payments
            .as_ref()
            .and_then(|payments| payments.max_locked);
        let rows = [
            ("budget_per_day", spent.spent_day, of(limits.budget_per_day)),
            ("budget_per_month", spent.spent_month, of(limits.budget_per_month)),
            ("budget", spent.spent_total, of(limits.budget)),
            ("max_locked", locked, of(most_locked)),
        ];
        let rows = rows.into_iter().filter_map(|(name, used, of)| {
            let of = of?;
            Some(Limit {
                limit: name.to_owned(),
                used,
                of,
                unit: Unit::Stroops,
                alarm: i128::from(used) * 100 >= i128::from(of) * 80,
            })
        });
        rows.collect()
    }

    fn tunnels(&self) -> Option<Vec<Tunnel>> {
        Some(self.tunnel_figures().into_iter().map(tunnel).collect())
    }

    fn budgets(&self) -> Option<Budgets> {
        let limits = Shown::limits(self)?;
        let spent = *self.parts.spent.borrow();
        let of = |amount: Option<Amount>| amount.map(|amount| amount.stroops());
        Some(Budgets {
            circuit: of(limits.budget_per_tunnel),
            day: of(limits.budget_per_day),
            month: of(limits.budget_per_month),
            total: of(limits.budget),
            spent_day: spent.day.get(),
            spent_month: spent.month.get(),
            spent_total: spent.total.get(),
        })
    }

    fn set_budgets(&self, wanted: BudgetsWanted) -> Result<(), Refused> {
        let limits = Shown::limits(self).ok_or_else(|| Refused::NotNow("this client pays nobody".to_owned()))?;
        let amount = |stroops: Option<i64>| stroops.map(Amount);
        self.set(Limits {
            budget_per_tunnel: amount(wanted.circuit),
            budget_per_day: amount(wanted.day),
            budget_per_month: amount(wanted.month),
            budget: amount(wanted.total),
            ..limits
        })
    }

    fn ceilings(&self) -> Option<Ceilings> {
        let limits = Shown::limits(self)?;
        Some(Ceilings {
            price_per_64_kib: limits.max_price_per_64_kib,
            tunnel_price_per_64_kib: limits.max_tunnel_price_per_64_kib,
            pay: match limits.pay {
                Pay::Always => WantedPay::Always,
                Pay::WhenItHelps => WantedPay::WhenItHelps,
                Pay::Never => WantedPay::Never,
            },
            paths: match limits.paths {
                Paths::Any => WantedPaths::Any,
                Paths::Prefer => WantedPaths::Prefer,
                Paths::Only => WantedPaths::Only,
            },
        })
    }

    fn set_ceilings(&self, wanted: Ceilings) -> Result<(), Refused> {
        let limits = Shown::limits(self).ok_or_else(|| Refused::NotNow("this client pays nobody".to_owned()))?;
        self.set(Limits {
            max_price_per_64_kib: wanted.price_per_64_kib,
            max_tunnel_price_per_64_kib: wanted.tunnel_price_per_64_kib,
            pay: match wanted.pay {
                WantedPay::Always => Pay::Always,
                WantedPay::WhenItHelps => Pay::WhenItHelps,
                WantedPay::Never => Pay::Never,
            },
            paths: match wanted.paths {
                WantedPaths::Any => Paths::Any,
                WantedPaths::Prefer => Paths::Prefer,
                WantedPaths::Only => Paths::Only,
            },
            ..limits
        })
    }

    fn flush(&self, wanted: Option<String>) -> BoxFuture<Result<Vec<String>, Refused>> {
        let open: Vec<String> = self
            .escrows()
            .into_iter()
            .filter(|escrow| escrow.state == EscrowState::Open)
            .map(|escrow| escrow.escrow)
            .collect();
        let asked = self.ask_to_settle(open, wanted);
        Box::pin(async { asked })
    }

    fn wallet(&self) -> Option<Wallet> {
        self.parts.wallet.clone()
    }

    fn history(&self) -> Arc<History> {
        self.sample();
        Arc::clone(&self.parts.history)
    }
}
