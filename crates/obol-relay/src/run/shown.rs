//! A relay as its local interface shows it (`obol_gateway::v1`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use obol_cell::AccountId;
use obol_gateway::v1::types::{
    Account, AssetName, Authority, Balances, Bin, ByClass, Circuit, Class, Direction, Escrow, EscrowState, Ledger,
    Limit, Payment, PaymentOutcome, Peer, Purpose, RequestOutcome, Role, Standing, Status, Tariff, Tor, Unit,
};
use obol_gateway::{BoxFuture, History, Live, Records, RecordsError, Refused, Subject, Wallet};
use obol_onion::engine::CELL_LEN;
use obol_stellar::asset::asset_code;
use obol_stellar::key::account_text;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior};

use super::About;
use crate::metrics::Metric;
use crate::payments::{self, Event, Payments, State};
use crate::reach::Reachability;

/// The gateway's own file, in the data directory.
const RECORDS: &str = "gateway.sqlite";
/// How often what was carried is added to the history.
const SAMPLE: Duration = Duration::from_secs(10);
/// How often the history is brought to disk: every so many samples.
const SAVE: u32 = 30;
/// How old the balances of accounts may be that are shown.
const FRESH: Duration = Duration::from_secs(20);
/// A ledger that has not closed for so long is taken for one that does not answer, seconds.
const SILENT: u64 = 120;

/// See the [module](self).
pub(super) struct Shown {
    about: Arc<About>,
    started_at: u64,
    history: Arc<History>,
    balances: Arc<tokio::sync::Mutex<Option<(Instant, Balances)>>>,
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
    /// Opens the gateway's file in the data directory, or with `history_days` of 0 and without payments keeps all in memory.
    pub(super) fn open(about: Arc<About>, data_directory: &Path) -> Result<Arc<Shown>, RecordsError> {
        let keep_days = about.settings.borrow().gateway.history_days;
        let records = match keep_days == 0 && about.payments.is_none() {
            true => Records::in_memory()?,
            false => Records::open(&data_directory.join(RECORDS))?,
        };
        Ok(Arc::new(Shown {
            about,
            started_at: now(),
            history: Arc::new(History::new(Arc::new(records), keep_days)),
            balances: Arc::default(),
            sampled: Mutex::default(),
        }))
    }

    fn payments(&self) -> Option<&Payments> {
        self.about.payments.as_ref()
    }

    /// Follows what happens until the relay ends: to be spawned.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut events = self.payments().map(Payments::subscribe);
        let mut signed: HashMap<String, i64> = HashMap::new();
        if let Some(state) = self.payments().map(Payments::state) {
            signed = state
                .escrows
                .into_iter()
                .map(|escrow| (escrow.escrow, escrow.cumulative))
                .collect();
        }
        let mut ticks = tokio::time::interval(SAMPLE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = 0_u32;
        loop {
            let event = async {
                match &mut events {
                    Some(events) => events.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = event => match event {
                    Ok(event) => self.happened(event, &mut signed),
                    // Too slow for some of them; the sums of the journal miss none.
                    Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "the history misses events"),
                    Err(RecvError::Closed) => events = None,
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
    }

    /// Adds what was carried since the last time to the history, and what is owed; at most once a second.
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
            owed: self.payments().map(|payments| owed_to_us(&payments.state())),
            ..Bin::default()
        };
        self.history.add(None, &more);
    }

    /// Brings the history to disk.
    pub(super) async fn save(&self) {
        let history = Arc::clone(&self.history);
        let saved = tokio::task::spawn_blocking(move || history.save()).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "the history of hours is not written; it is tried again");
        }
    }

    fn carried(&self) -> ByClass {
        let counters = self.about.engine.counters();
        let class = |class: usize| {
            counters.cells[class]
                .iter()
                .sum::<u64>()
                .saturating_mul(CELL_LEN as u64)
        };
        ByClass {
            paid: class(0),
            unpaid: class(1),
        }
    }

    fn happened(&self, event: Event, signed: &mut HashMap<String, i64>) {
        let history = &self.history;
        match event {
            Event::Requested { circuit, metered } => {
                history.requested(circuit, metered);
            }
            Event::Credited {
                circuit,
                n,
                earned,
                forwarded,
                bytes,
                from,
            } => {
                let change = Bin {
                    payments: 1,
                    earned,
                    forwarded,
                    ..Bin::default()
                };
                history.add(from.as_deref(), &change);
                history.answered(circuit, RequestOutcome::Paid, Some(n));
                history.paying(Payment {
                    id: 0,
                    at: 0,
                    circuit,
                    n,
                    bytes,
                    total: earned.saturating_add(forwarded),
                    earned: Some(earned),
                    forwarded: Some(forwarded),
                    amounts: None,
                    millis: None,
                    outcome: PaymentOutcome::Complete,
                    code: None,
                });
            }
            Event::Refused { code } => {
                history.add(
                    None,
                    &Bin {
                        refusals: 1,
                        ..Bin::default()
                    },
                );
                history.tell(&Live::Refusal { code: code.to_owned() });
            }
            Event::Signed { escrow, cumulative, .. } => {
                let before = signed.insert(escrow.clone(), cumulative).unwrap_or(0);
                let change = Bin {
                    signed: cumulative.saturating_sub(before),
                    ..Bin::default()
                };
                history.add(self.peer_of(&escrow).as_deref(), &change);
                self.changed(&escrow);
            }
            Event::Settled { escrow, stroops } => {
                let change = Bin {
                    settled_in: stroops,
                    ..Bin::default()
                };
                history.add(self.peer_of(&escrow).as_deref(), &change);
                self.changed(&escrow);
            }
            Event::Ended { escrow, stroops } => {
                let change = Bin {
                    settled_out: stroops,
                    ..Bin::default()
                };
                history.add(self.peer_of(&escrow).as_deref(), &change);
                self.changed(&escrow);
            }
            Event::Stopped { why } => history.tell(&Live::Warning {
                text: format!("payments have stopped: {why}"),
            }),
            Event::Believed { escrow, .. }
            | Event::Claim { escrow, .. }
            | Event::Accepted { escrow, .. }
            | Event::Opened { escrow, .. }
            | Event::Flushing { escrow, .. }
            | Event::Refunded { escrow, .. }
            | Event::Swept { escrow }
            | Event::Merged { escrow } => self.changed(&escrow),
        }
    }

    fn escrow(&self, address: &str) -> Option<Escrow> {
        self.payments()?.escrow(address).map(escrow)
    }

    fn peer_of(&self, address: &str) -> Option<String> {
        self.escrow(address)?.peer
    }

    fn changed(&self, address: &str) {
        if let Some(escrow) = self.escrow(address) {
            self.history.tell(&Live::Escrow(escrow));
        }
    }

    /// How it stands with payments, and the same in a sentence.
    fn standing(&self, state: Option<&State>) -> (Standing, &'static str) {
        let counters = self.about.engine.counters();
        let uptime = now().saturating_sub(self.started_at);
        match state {
            _ if self.about.announcement.is_hibernating() => (
                Standing::Hibernating,
                "The relay has carried what it may in this period, or rests before its share of it.",
            ),
            None => (
                Standing::Unpaid,
                "This relay is configured without payments: it serves everybody alike.",
            ),
            Some(state) if state.stopped => (
                Standing::Stopped,
                "The journal failed: payments are refused and everybody is served unpaid, until the relay is started again.",
            ),
            Some(state) if state.ledger.is_none() && uptime < SILENT => {
                (Standing::Starting, "The relay has started, and looks for the ledger.")
            }
            Some(_) if counters.circuits[0] > 0 => (Standing::Paying, "Circuits are paid for."),
            Some(_) => (Standing::Unpaid, "No circuit is paid for at this moment."),
        }
    }
}

fn escrow(view: payments::EscrowView) -> Escrow {
    Escrow {
        escrow: view.escrow,
        direction: match view.direction {
            payments::Direction::In => Direction::In,
            payments::Direction::Out => Direction::Out,
        },
        peer: view.peer,
        deposit: view.deposit,
        balance: view.balance,
        cumulative: view.cumulative,
        k: view.k.into(),
        allocated: view.allocated,
        state: match view.state {
            payments::Standing::Opening => EscrowState::Opening,
            payments::Standing::Open => EscrowState::Open,
            payments::Standing::Closing => EscrowState::Closing,
            payments::Standing::Flushing => EscrowState::Flushing,
            payments::Standing::Settled => EscrowState::Settled,
            payments::Standing::Ended => EscrowState::Ended,
            payments::Standing::Refunded => EscrowState::Refunded,
            payments::Standing::Abandoned => EscrowState::Abandoned,
        },
        settled: view.settled_stroops,
        expiry: view.expiry,
        opened_at: None,
    }
}

/// Sums that follow from the escrows that are remembered.
fn sums(escrows: &[Escrow]) -> (i64, i64, i64) {
    let over = |escrow: &Escrow| {
        matches!(
            escrow.state,
            EscrowState::Settled | EscrowState::Ended | EscrowState::Refunded | EscrowState::Abandoned
        )
    };
    let live = || escrows.iter().filter(|escrow| !over(escrow));
    let of = |direction| live().filter(move |escrow| escrow.direction == direction);
    (
        of(Direction::Out).map(|escrow| escrow.balance).sum(),
        of(Direction::Out).map(|escrow| escrow.cumulative).sum(),
        of(Direction::In).map(|escrow| escrow.cumulative).sum(),
    )
}

/// What others owe: by claims that are not settled, and by trust.
fn owed_to_us(state: &State) -> i64 {
    let live = |view: &&payments::EscrowView| view.direction == payments::Direction::In && view.state.is_live();
    let claims: i64 = state.escrows.iter().filter(live).map(|view| view.cumulative).sum();
    claims.saturating_add(state.sums.owed_to_us.saturating_sub(state.sums.owed_to_us_settled))
}

/// The accounts with what the ledger says of them.
async fn read(payments: Payments) -> Balances {
    let state = payments.state();
    let escrows: Vec<Escrow> = state.escrows.into_iter().map(escrow).collect();
    let (locked, signed, unsettled) = sums(&escrows);
    let (asset, _) = payments.money();
    let names = state.accounts.payees.iter().map(|account| (Purpose::Payee, account));
    let names = names.chain([
        (Purpose::Payer, &state.accounts.capital),
        (Purpose::Trust, &state.accounts.trust),
    ]);
    let (mut accounts, mut all_read) = (Vec::new(), true);
    for (purpose, account) in names {
        let found = payments.holds(account).await;
        all_read &= found.is_ok();
        let found = found.ok().flatten();
        let line = found
            .as_ref()
            .and_then(|found| found.assets.iter().find(|line| line.asset == asset));
        accounts.push(Account {
            purpose,
            account: account.clone(),
            asset: line.map(|line| line.balance.get()),
            lumens: found.as_ref().map(|found| found.lumens.get()),
        });
    }
    let sum = |of: fn(&Account) -> Option<i64>| all_read.then(|| accounts.iter().filter_map(of).sum());
    Balances {
        read_at: all_read.then(now),
        asset: sum(|account| account.asset),
        lumens: sum(|account| account.lumens),
        locked,
        signed,
        unsettled,
        owed_to_us: state.sums.owed_to_us.saturating_sub(state.sums.owed_to_us_settled),
        owed: state.sums.owed.saturating_sub(state.sums.owed_paid),
        accounts,
    }
}

impl Subject for Shown {
    fn role(&self) -> Role {
        Role::Relay
    }

    fn status(&self) -> Status {
        let about = &self.about;
        let state = self.payments().map(Payments::state);
        let (standing, explanation) = self.standing(state.as_ref());
        let money = self.payments().map(Payments::money);
        let counters = about.engine.counters();
        let snapshot = about.directory.view().snapshot();
        let standings = about.directory.standings().borrow().clone();
        let ledger = state.as_ref().and_then(|state| state.ledger);
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        Status {
            role: Role::Relay,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            now: now(),
            state: standing,
            explanation: explanation.to_owned(),
            nickname: Some(about.settings.borrow().nickname.clone()),
            fingerprint: Some(about.fingerprint.clone()),
            asset: money.as_ref().map(|(asset, _)| AssetName {
                code: asset_code(asset).to_owned(),
                issuer: account_text(&AccountId(asset.issuer)),
            }),
            network_passphrase: money.map(|(_, passphrase)| passphrase),
            account: state.as_ref().map(|state| state.accounts.capital.clone()),
            ledger: ledger.map(|(sequence, close_time)| Ledger {
                reachable: now().saturating_sub(close_time) < SILENT,
                sequence,
                close_time,
            }),
            tor: Tor {
                bootstrapped: snapshot.valid_after.is_some(),
                consensus_valid_after: snapshot.valid_after.and_then(since),
                listed: snapshot
                    .valid_after
                    .map(|_| about.directory.view().by_rsa(&about.keys.fingerprint()).is_some()),
                reachable: match about.self_test.state() {
                    Reachability::Unknown => None,
                    known => Some(known == Reachability::Reachable),
                },
                authorities: standings
                    .iter()
                    .map(|standing| Authority {
                        name: standing.authority.clone(),
                        has_our_descriptor: standing.has_it,
                        problem: standing.problem.as_ref().map(ToString::to_string),
                    })
                    .collect(),
            },
            carried: self.carried(),
            circuits: ByClass {
                paid: counters.circuits[0],
                unpaid: counters.circuits[1],
            },
            links: counters.links,
        }
    }

    fn balances(&self) -> BoxFuture<Balances> {
        let Some(payments) = self.payments().cloned() else {
            return Box::pin(async { Balances::default() });
        };
        let cache = Arc::clone(&self.balances);
        Box::pin(async move {
            let mut cache = cache.lock().await;
            if let Some((at, balances)) = &*cache
                && at.elapsed() < FRESH
            {
                return balances.clone();
            }
            let balances = read(payments).await;
            *cache = Some((Instant::now(), balances.clone()));
            balances
        })
    }

    fn escrows(&self) -> Vec<Escrow> {
        let state = self.payments().map(Payments::state);
        state.map_or_else(Vec::new, |state| state.escrows.into_iter().map(escrow).collect())
    }

    fn peers(&self) -> Vec<Peer> {
        let Some(state) = self.payments().map(Payments::state) else {
            return Vec::new();
        };
        let known = state.neighbours.iter().map(|(id, known)| {
            let peer = hex::encode(id.0);
            let shown = Peer {
                peer: peer.clone(),
                links: known.links,
                carried: known.carried,
                owed_to_us: known.owed_to_us,
                owed: known.owed,
                ..Peer::default()
            };
            (peer, shown)
        });
        let mut peers: BTreeMap<String, Peer> = known.collect();
        for escrow in state.escrows.into_iter().map(escrow) {
            let Some(name) = escrow.peer else { continue };
            let peer = peers.entry(name.clone()).or_insert_with(|| Peer {
                peer: name,
                ..Peer::default()
            });
            let is_open = escrow.state == EscrowState::Open;
            match escrow.direction {
                Direction::In => {
                    peer.earned += escrow.allocated;
                    peer.settled_in += escrow.settled.unwrap_or(0);
                    peer.escrow_in = is_open.then(|| escrow.escrow.clone()).or(peer.escrow_in.take());
                }
                Direction::Out => {
                    peer.signed += escrow.cumulative;
                    peer.settled_out += escrow.settled.unwrap_or(0);
                    peer.escrow_out = is_open.then(|| escrow.escrow.clone()).or(peer.escrow_out.take());
                }
            }
        }
        let net = self.about.directory.view();
        for peer in peers.values_mut() {
            let ed = hex::decode(&peer.peer).ok().and_then(|ed| ed.try_into().ok());
            peer.nickname = ed.and_then(|ed| net.by_ed(&ed)).map(|relay| relay.nickname.clone());
        }
        peers.into_values().collect()
    }

    fn limits(&self) -> Vec<Limit> {
        let settings = self.about.settings.borrow().clone();
        let Some(config) = &settings.payments else {
            return Vec::new();
        };
        let escrows = self.escrows();
        let (_, _, unsettled) = sums(&escrows);
        let mut by_payer: BTreeMap<String, i64> = BTreeMap::new();
        let mut by_peer: BTreeMap<String, i64> = BTreeMap::new();
        let live = |state| {
            matches!(
                state,
                EscrowState::Opening | EscrowState::Open | EscrowState::Closing | EscrowState::Flushing
            )
        };
        for escrow in escrows.iter().filter(|escrow| live(escrow.state)) {
            let peer = escrow.peer.clone();
            match escrow.direction {
                Direction::In => {
                    *by_payer
                        .entry(peer.unwrap_or_else(|| escrow.escrow.clone()))
                        .or_default() += escrow.cumulative
                }
                Direction::Out => *by_peer.entry(peer.unwrap_or_default()).or_default() += escrow.deposit,
            }
        }
        let most = |sums: &BTreeMap<String, i64>| sums.values().copied().max().unwrap_or(0);
        let state = self.payments().map(Payments::state);
        let owed = state
            .as_ref()
            .map_or(0, |state| state.sums.owed.saturating_sub(state.sums.owed_paid));
        let of = |amount: Option<crate::config::Amount>| amount.map(|amount| amount.stroops());
        let rows = [
            ("unsettled", unsettled, of(config.limits.unsettled)),
            (
                "unsettled_of_payer",
                most(&by_payer),
                of(config.limits.unsettled_of_payer),
            ),
            ("locked", by_peer.values().sum(), of(config.limits.locked)),
            ("locked_with_peer", most(&by_peer), of(config.limits.locked_with_peer)),
            ("owed", owed, of(config.owing.max_owed)),
        ];
        let m = |metric, name: &str| i64::try_from(self.about.metrics.get(metric, &[name])).unwrap_or(i64::MAX);
        let amounts = rows.into_iter().filter_map(|(name, used, of)| {
            Some(Limit {
                limit: name.to_owned(),
                used,
                of: of?,
                unit: Unit::Stroops,
                alarm: m(Metric::LimitAlarms, name) > 0,
            })
        });
        // These are known as of their newest alarm only.
        let counted = [
            ("new_escrows", Unit::PerMinute),
            ("payee_lumens", Unit::Lumens),
            ("payer_lumens", Unit::Openings),
        ];
        let counted = counted
            .into_iter()
            .filter(|(name, _)| m(Metric::Limit, name) > 0)
            .map(|(name, unit)| Limit {
                limit: name.to_owned(),
                used: m(Metric::LimitUsed, name),
                of: m(Metric::Limit, name),
                unit,
                alarm: m(Metric::LimitAlarms, name) > 0,
            });
        amounts.chain(counted).collect()
    }

    fn circuits(&self) -> Option<Vec<Circuit>> {
        let state = self.payments().map(Payments::state);
        let circuits = state.map_or_else(Vec::new, |state| state.circuits);
        let shown = circuits.into_iter().map(|circuit| Circuit {
            circuit: circuit.circuit,
            class: if circuit.credit > 0 { Class::Paid } else { Class::Unpaid },
            from_client: circuit.from_client,
            payments: circuit.payments,
            bought: circuit.bought,
            credit: circuit.credit,
            metered: circuit.metered,
            paid: circuit.paid_stroops,
            earned: circuit.earned_stroops,
            forwarded: circuit.forwarded_stroops,
            open: circuit.open,
        });
        Some(shown.collect())
    }

    fn tariff(&self) -> Option<Tariff> {
        let settings = self.about.settings.borrow().clone();
        let config = settings.payments.as_ref()?;
        let escrows = &config.escrows;
        let price = |stroops: i64| u64::try_from(stroops).unwrap_or(0);
        Some(Tariff {
            price_per_64_kib: price(config.price_per_64_kib),
            forward_ppm: config.forward_ppm,
            forward_ceiling: price(config.forward_ceiling()),
            max_step: config.largest_step.bytes(),
            initial_credit: settings.bandwidth.initial_credit.bytes(),
            min_deposit: escrows.min_deposit.stroops(),
            min_life: escrows.shortest_life.as_secs(),
            max_life: escrows.longest_life.as_secs(),
            margin: escrows.margin.as_secs(),
        })
    }

    fn flush(&self, escrow: Option<String>) -> BoxFuture<Result<Vec<String>, Refused>> {
        let payments = self.payments().cloned();
        Box::pin(async move {
            let payments =
                payments.ok_or_else(|| Refused::NotNow("this relay is configured without payments".to_owned()))?;
            let flushing = payments.flush(escrow.as_deref()).await;
            flushing.ok_or_else(|| Refused::Unknown("no escrow of this account pays this relay now".to_owned()))
        })
    }

    fn wallet(&self) -> Option<Wallet> {
        self.payments().map(Payments::wallet)
    }

    fn history(&self) -> Arc<History> {
        self.sample();
        Arc::clone(&self.history)
    }
}
