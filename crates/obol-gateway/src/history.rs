//! What happened, by time: sums of every minute of the last day and of every hour as long as they are kept, and the newest payments and
//! payment requests of this run.
//!
//! Nothing here decides about money: that is the journal's, which knows days only. One by one payments and requests are kept in memory alone;
//! on disk are sums of hours, of all and by neighbour, for as many days as the configuration says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::params;

use crate::live::{Feed, Live};
use crate::records::{Records, RecordsError};
use crate::v1::types::{Bin, Payment, PaymentOutcome, PaymentRequest, RequestOutcome};

/// How many payments and how many requests are remembered.
const REMEMBERED: usize = 10_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;
/// The most bins of one answer.
pub(crate) const MOST_BINS: u64 = 1_000;

/// What happened.
#[derive(Debug)]
pub struct History {
    inner: Mutex<Inner>,
    records: Arc<Records>,
    keep_days: u32,
    feed: Feed,
}

/// Sums by the start of their span, and by neighbour (`""`: all).
type Sums = BTreeMap<(u64, String), Bin>;

#[derive(Debug, Default)]
struct Inner {
    minutes: Sums,
    /// What the file does not have yet.
    hours: Sums,
    payments: VecDeque<Payment>,
    requests: VecDeque<PaymentRequest>,
    last_payment: u64,
    last_request: u64,
}

/// The system's clock, unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn add(to: &mut Bin, change: &Bin) {
    to.carried_paid = to.carried_paid.saturating_add(change.carried_paid);
    to.carried_unpaid = to.carried_unpaid.saturating_add(change.carried_unpaid);
    to.requests = to.requests.saturating_add(change.requests);
    to.payments = to.payments.saturating_add(change.payments);
    to.refusals = to.refusals.saturating_add(change.refusals);
    to.earned = to.earned.saturating_add(change.earned);
    to.forwarded = to.forwarded.saturating_add(change.forwarded);
    to.signed = to.signed.saturating_add(change.signed);
    to.settled_in = to.settled_in.saturating_add(change.settled_in);
    to.settled_out = to.settled_out.saturating_add(change.settled_out);
    // A level, not a sum: the later one is the end's.
    to.owed = change.owed.or(to.owed);
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl History {
    /// Goes on with what the file has. Sums of hours are kept for `keep_days` days; with none, not on disk.
    pub fn new(records: Arc<Records>, keep_days: u32) -> History {
        History {
            inner: Mutex::new(Inner::default()),
            records,
            keep_days,
            feed: Feed::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn records(&self) -> &Arc<Records> {
        &self.records
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Tells those who watch.
    pub fn tell(&self, live: &Live) {
        self.feed.tell(live);
    }

    /// Adds to the sums of this moment: of all, and of a neighbour.
    pub fn add(&self, peer: Option<&str>, change: &Bin) {
        self.add_at(now(), peer, change);
    }

    fn add_at(&self, at: u64, peer: Option<&str>, change: &Bin) {
        let mut inner = self.inner();
        for name in [Some(""), peer].into_iter().flatten() {
            let minute = (at - at % MINUTE, name.to_owned());
            add(inner.minutes.entry(minute).or_default(), change);
            let hour = (at - at % HOUR, name.to_owned());
            add(inner.hours.entry(hour).or_default(), change);
        }
        // A day and the minute that has begun.
        let oldest = (at.saturating_sub(DAY + MINUTE), String::new());
        inner.minutes = inner.minutes.split_off(&oldest);
    }

    /// A payment request was sent or received; returns its number.
    pub fn requested(&self, circuit: u64, metered: u64) -> u64 {
        let request = {
            let mut inner = self.inner();
            inner.last_request += 1;
            let request = PaymentRequest {
                id: inner.last_request,
                at: now(),
                circuit,
                metered,
                outcome: RequestOutcome::Waiting,
                payment: None,
            };
            inner.requests.push_back(request.clone());
            if inner.requests.len() > REMEMBERED {
                inner.requests.pop_front();
            }
            request
        };
        self.add(
            None,
            &Bin {
                requests: 1,
                ..Bin::default()
            },
        );
        let id = request.id;
        self.tell(&Live::PaymentRequest(request));
        id
    }

    /// What became of the newest request of a circuit that still waits, if there is one.
    pub fn answered(&self, circuit: u64, outcome: RequestOutcome, payment: Option<u16>) {
        let changed = {
            let mut inner = self.inner();
            let waiting = |request: &&mut PaymentRequest| {
                request.circuit == circuit
                    && matches!(request.outcome, RequestOutcome::Waiting | RequestOutcome::Withheld)
            };
            let found = inner.requests.iter_mut().rev().find(waiting);
            found.map(|request| {
                request.outcome = outcome;
                request.payment = payment.or(request.payment);
                request.clone()
            })
        };
        if let Some(request) = changed {
            self.tell(&Live::PaymentRequest(request));
        }
    }

    /// A payment goes out, or came in: `id` and `at` are set here. Returns its number.
    pub fn paying(&self, payment: Payment) -> u64 {
        let payment = {
            let mut inner = self.inner();
            inner.last_payment += 1;
            let payment = Payment {
                id: inner.last_payment,
                at: now(),
                ..payment
            };
            inner.payments.push_back(payment.clone());
            if inner.payments.len() > REMEMBERED {
                inner.payments.pop_front();
            }
            payment
        };
        let id = payment.id;
        self.tell(&Live::Payment(payment));
        id
    }

    /// What became of a payment of a circuit.
    pub fn paid(&self, circuit: u64, n: u16, change: impl FnOnce(&mut Payment)) {
        let changed = {
            let mut inner = self.inner();
            let wanted = |payment: &&mut Payment| {
                payment.circuit == circuit && payment.n == n && payment.outcome == PaymentOutcome::Waiting
            };
            let found = inner.payments.iter_mut().rev().find(wanted);
            found.map(|payment| {
                change(payment);
                payment.clone()
            })
        };
        if let Some(payment) = changed {
            self.tell(&Live::Payment(payment));
        }
    }

    /// The remembered payments, the oldest first.
    pub fn payments(&self) -> Vec<Payment> {
        self.inner().payments.iter().cloned().collect()
    }

    /// The remembered requests, the oldest first.
    pub fn requests(&self) -> Vec<PaymentRequest> {
        self.inner().requests.iter().cloned().collect()
    }

    /// Brings the sums of hours to disk, and forgets the oldest. To be called now and then, and at the end. Blocks.
    ///
    /// # Errors
    /// When the file cannot be written: what it lacks is kept, and written the next time.
    pub fn save(&self) -> Result<(), RecordsError> {
        let hours = std::mem::take(&mut self.inner().hours);
        if self.keep_days == 0 {
            return Ok(());
        }
        let outcome = self.write(&hours);
        if outcome.is_err() {
            let mut inner = self.inner();
            for (key, bin) in hours {
                add(inner.hours.entry(key).or_default(), &bin);
            }
        }
        outcome
    }

    fn write(&self, hours: &Sums) -> Result<(), RecordsError> {
        let failed = |source| self.records.failed(source);
        let mut db = self.records.db();
        let transaction = db.transaction().map_err(failed)?;
        {
            let mut upsert = transaction
                .prepare_cached(
                    "INSERT INTO hours VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                     ON CONFLICT (start, peer) DO UPDATE SET
                       carried_paid = carried_paid + excluded.carried_paid,
                       carried_unpaid = carried_unpaid + excluded.carried_unpaid,
                       requests = requests + excluded.requests, payments = payments + excluded.payments,
                       refusals = refusals + excluded.refusals, earned = earned + excluded.earned,
                       forwarded = forwarded + excluded.forwarded, signed = signed + excluded.signed,
                       settled_in = settled_in + excluded.settled_in, settled_out = settled_out + excluded.settled_out,
                       owed = coalesce(excluded.owed, owed)",
                )
                .map_err(failed)?;
            for ((start, peer), bin) in hours {
                upsert
                    .execute(params![
                        signed(*start),
                        peer,
                        signed(bin.carried_paid),
                        signed(bin.carried_unpaid),
                        signed(bin.requests),
                        signed(bin.payments),
                        signed(bin.refusals),
                        bin.earned,
                        bin.forwarded,
                        bin.signed,
                        bin.settled_in,
                        bin.settled_out,
                        bin.owed
                    ])
                    .map_err(failed)?;
            }
        }
        let oldest = now().saturating_sub(u64::from(self.keep_days).saturating_mul(DAY));
        transaction
            .execute("DELETE FROM hours WHERE start < ?1", [signed(oldest)])
            .map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// The sums from `from` until `to`, in bins of `bin` seconds (a multiple of 60), of all or of one neighbour. Less than an hour is known for the last day
    /// only. Blocks.
    pub(crate) fn bins(&self, from: u64, to: u64, bin: u64, peer: Option<&str>) -> Result<Vec<Bin>, RecordsError> {
        let bin = bin.max(MINUTE);
        let from = from - from % bin;
        let count = to.saturating_sub(from).div_ceil(bin).min(MOST_BINS);
        let mut bins: Vec<Bin> = (0..count)
            .map(|i| Bin {
                start: from + i * bin,
                ..Bin::default()
            })
            .collect();
        let end = from + count * bin;
        let name = peer.unwrap_or_default();
        let mut enter = |start: u64, change: &Bin| {
            if let Some(into) = start
                .checked_sub(from)
                .and_then(|after| bins.get_mut((after / bin) as usize))
            {
                add(into, change);
            }
        };
        if bin < HOUR {
            for ((start, of), change) in &self.inner().minutes {
                if of == name {
                    enter(*start, change);
                }
            }
            return Ok(bins);
        }
        let failed = |source| self.records.failed(source);
        let db = self.records.db();
        {
            let mut query = db
                .prepare_cached("SELECT * FROM hours WHERE peer = ?1 AND start >= ?2 AND start < ?3 ORDER BY start")
                .map_err(failed)?;
            let rows = query
                .query_map(params![name, signed(from), signed(end)], |row| {
                    let count = |column| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
                    Ok(Bin {
                        start: count(0)?,
                        carried_paid: count(2)?,
                        carried_unpaid: count(3)?,
                        requests: count(4)?,
                        payments: count(5)?,
                        refusals: count(6)?,
                        earned: row.get(7)?,
                        forwarded: row.get(8)?,
                        signed: row.get(9)?,
                        settled_in: row.get(10)?,
                        settled_out: row.get(11)?,
                        owed: row.get(12)?,
                    })
                })
                .map_err(failed)?;
            for row in rows {
                let change = row.map_err(failed)?;
                enter(change.start, &change);
            }
        }
        for ((start, of), change) in &self.inner().hours {
            if of == name {
                enter(*start, change);
            }
        }
        Ok(bins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path, days: u32) -> History {
        History::new(Arc::new(Records::open(path).unwrap()), days)
    }

    fn earned(n: i64) -> Bin {
        Bin {
            earned: n,
            payments: 1,
            ..Bin::default()
        }
    }

    #[test]
    fn hours_survive_a_restart_and_minutes_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.sqlite");
        let hour = now() - now() % HOUR;
        let history = open(&path, 30);
        history.add_at(hour - 10, None, &earned(3));
        history.add_at(hour + 10, Some("ab"), &earned(5));
        let sums = |history: &History, peer| {
            let bins = history.bins(hour - HOUR, hour + HOUR, HOUR, peer).unwrap();
            bins.iter().map(|bin| bin.earned).collect::<Vec<_>>()
        };
        assert_eq!(sums(&history, None), [3, 5]);
        history.save().unwrap();
        assert_eq!(sums(&history, None), [3, 5], "nothing is counted twice");
        history.add_at(hour + 20, Some("ab"), &earned(7));
        for owed in [40, 30] {
            let level = Bin {
                owed: Some(owed),
                ..Bin::default()
            };
            history.add_at(hour + 30, None, &level);
            history.save().unwrap();
        }
        drop(history);
        let history = open(&path, 30);
        let levels = history.bins(hour - HOUR, hour + HOUR, HOUR, None).unwrap();
        assert_eq!(levels.iter().map(|bin| bin.owed).collect::<Vec<_>>(), [None, Some(30)]);
        assert_eq!(sums(&history, None), [3, 12]);
        assert_eq!(sums(&history, Some("ab")), [0, 12]);
        assert_eq!(sums(&history, Some("cd")), [0, 0]);
        let minutes = history.bins(hour, hour + 120, MINUTE, None).unwrap();
        assert_eq!(minutes.iter().map(|bin| bin.earned).collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn what_is_older_than_it_may_be_is_erased_and_without_days_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.sqlite");
        let history = open(&path, 2);
        let old = now() - 3 * DAY;
        history.add_at(old, None, &earned(3));
        history.save().unwrap();
        let of_old = history.bins(old, old + HOUR, HOUR, None).unwrap();
        assert_eq!(of_old[0].earned, 0);
        drop(history);
        let history = open(&path, 0);
        history.add(None, &earned(9));
        history.save().unwrap();
        let today = history.bins(now() - HOUR, now() + HOUR, HOUR, None).unwrap();
        assert_eq!(today.iter().map(|bin| bin.earned).sum::<i64>(), 0);
        let minutes = history.bins(now() - 120, now() + 60, MINUTE, None).unwrap();
        assert_eq!(
            minutes.iter().map(|bin| bin.earned).sum::<i64>(),
            9,
            "the last day is in memory"
        );
    }

    #[test]
    fn a_request_is_answered_by_what_becomes_of_it_and_watchers_hear_of_both() {
        let history = History::new(Arc::new(Records::in_memory().unwrap()), 30);
        let mut reading = history.feed().read(None);
        history.requested(4, 1_000);
        history.requested(5, 2_000);
        history.answered(4, RequestOutcome::Withheld, None);
        history.answered(4, RequestOutcome::Paid, Some(2));
        history.answered(6, RequestOutcome::Paid, Some(1));
        let requests = history.requests();
        assert_eq!(
            (requests[0].outcome, requests[0].payment),
            (RequestOutcome::Paid, Some(2))
        );
        assert_eq!(requests[1].outcome, RequestOutcome::Waiting);
        let mut heard = Vec::new();
        while let Ok(event) = reading.next.try_recv() {
            heard.push((event.id, event.name));
        }
        assert_eq!(heard, [1, 2, 3, 4].map(|id| (id, "payment_request")));
        let back = history.feed().read(Some(2));
        assert!(!back.gap);
        assert_eq!(back.missed.iter().map(|event| event.id).collect::<Vec<_>>(), [3, 4]);
        assert!(history.feed().read(Some(99)).gap, "of another run");
    }
}
