//! One transaction's way to the ledger: recorded, submitted, looked for until its fate is known.

use obol_cell::{AccountId, Stroops};
use tokio::time::Instant;

use super::{Settler, Turn};
use crate::key::Keypair;
use crate::outbox::{Bound, OutboxError, Outcome, Purpose, Submission};
use crate::rail::{LedgerHead, Oldest, RailError, ResultCodes, Sighting, SubmitError, TxRecord, Unreachable};
use crate::tx::{SignedTx, TxError, TxHash};

/// How often one call makes a new transaction after the one before died or offered too little.
const ATTEMPTS: u32 = 6;
/// Servers behind one name may be at different ledgers: a bound has passed when these are behind it too.
const LEDGERS_OF_GRACE: u32 = 2;
const SECONDS_OF_GRACE: u64 = 15;
/// No transaction of ours is valid for longer than this many seconds, or this many ledgers: when it ends tells when it
/// can have begun.
const LONGEST_VALIDITY: u64 = 3600;
const LEDGERS_OF_VALIDITY: u32 = 720;
/// What replaces a transaction that waits for its ledger has to offer so many times as much.
const REPLACE_FACTOR: i64 = 10;

/// A transaction did not get through, or nobody knows yet. The same call may be made again in every case.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The ledger could not be asked.
    #[error(transparent)]
    Rail(#[from] RailError),
    /// It could not be recorded, and so was not submitted.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// It cannot be built.
    #[error(transparent)]
    Tx(#[from] TxError),
    /// Nobody knows yet what became of it. It is recorded; look again later.
    #[error("nobody knows yet what became of transaction {hash}")]
    Pending {
        /// The transaction.
        hash: TxHash,
    },
    /// The ledger does not take it as it is; nothing was paid.
    #[error("the ledger does not take the transaction: {codes}")]
    Rejected {
        /// Why.
        codes: ResultCodes,
    },
    /// It is in a ledger and failed; the fee is paid.
    #[error("the transaction failed in ledger {ledger}: {codes}")]
    Failed {
        /// The ledger.
        ledger: u32,
        /// Why.
        codes: ResultCodes,
    },
    /// Its time ran out again and again before a ledger took it.
    #[error("no ledger took the transaction in time")]
    Expired,
    /// There is no such account to send it from.
    #[error("account {account:?} is not on the ledger")]
    NoAccount {
        /// The account.
        account: AccountId,
    },
}

/// What is known about a recorded submission.
#[derive(Debug)]
pub(super) enum Fate {
    Applied(TxRecord),
    Failed(TxRecord),
    Dead,
    Alive { head: LedgerHead },
}

/// A transaction, and what the outbox needs to know of it.
pub(super) struct Draft {
    pub(super) tx: SignedTx,
    pub(super) bound: Bound,
    pub(super) fee: Stroops,
}

/// What a transaction is built on.
pub(super) struct Ground {
    pub(super) head: LedgerHead,
    /// The source's next sequence number.
    pub(super) sequence: i64,
    /// The bid for each operation, stroops.
    pub(super) fee_per_operation: u32,
    /// The time bound to set, where there is no other.
    pub(super) until_time: u64,
}

impl Settler {
    /// Carries a transaction of `source` for `purpose` to a ledger: an earlier one that is still alive, or a new one
    /// that `build` makes.
    pub(super) async fn carry(
        &self,
        purpose: Purpose,
        source: AccountId,
        build: impl Fn(&Ground) -> Result<Draft, CarryError> + Send,
    ) -> Result<TxRecord, CarryError> {
        let _purpose = self.turn(Turn::Purpose(purpose)).await;
        let _source = self.turn(Turn::Source(source)).await;
        if let Some(record) = self.earlier(purpose).await? {
            return Ok(record);
        }
        let mut raise = 1u32;
        let mut expired = false;
        for _ in 0..ATTEMPTS {
            let head = self.rail.latest_ledger().await?;
            let account = self
                .rail
                .account(source)
                .await?
                .ok_or(CarryError::NoAccount { account: source })?;
            let sequence = account.sequence.saturating_add(1);
            // Rule 3 (see the module above): one that is alive must exclude the one that is made now.
            let rival = self
                .pending_for(purpose)
                .await?
                .into_iter()
                .find(|s| s.source != source || s.sequence != sequence);
            if let Some(rival) = rival {
                match self.fate(&rival).await? {
                    Fate::Applied(record) => return Ok(record),
                    Fate::Dead => continue,
                    Fate::Failed(_) | Fate::Alive { .. } => return Err(CarryError::Pending { hash: rival.hash }),
                }
            }
            // One that is not pending any more was resolved by somebody else ([`Settler::resume`]), perhaps as applied.
            if let Some(record) = self.applied_before(purpose).await? {
                return Ok(record);
            }
            let draft = build(&Ground {
                head,
                sequence,
                fee_per_operation: self.bid(&head).await.saturating_mul(raise),
                until_time: head
                    .close_time
                    .saturating_add(self.policy.valid_for.min(LONGEST_VALIDITY)),
            })?;
            let submission = self.record(purpose, &draft).await?;
            match self.deliver(&draft.tx, &submission).await? {
                Delivered::Applied(record) => return Ok(record),
                Delivered::Failed(record) => {
                    return Err(CarryError::Failed {
                        ledger: record.ledger,
                        codes: record.codes,
                    });
                }
                // Its sequence number went to another transaction of the account, or its time ran out: make a new one.
                Delivered::Dead => expired = true,
                Delivered::Rejected(codes) if codes.is("tx_insufficient_fee") => raise = raise.saturating_mul(10),
                Delivered::Rejected(codes) => return Err(CarryError::Rejected { codes }),
                Delivered::Alive => {
                    return Err(CarryError::Pending { hash: submission.hash });
                }
            }
        }
        if expired {
            return Err(CarryError::Expired);
        }
        Err(CarryError::Rejected {
            codes: ResultCodes {
                transaction: crate::rail::Code::new("tx_insufficient_fee"),
                ..ResultCodes::default()
            },
        })
    }

    /// Carries `inner` (whose own fee is 0) wrapped in a fee bump of `payer`, with a fee that rises while no ledger takes
    /// it. `None` when its sequence number was used by another transaction: then only the source's account can tell.
    pub(super) async fn carry_bumped(
        &self,
        purpose: Purpose,
        inner: &SignedTx,
        payer: &Keypair,
    ) -> Result<Option<TxRecord>, CarryError> {
        let head = self.rail.latest_ledger().await?;
        let mut fee = self.bump_fee(&head, inner).await;
        loop {
            let tx = inner.bumped(self.network.id(), payer, fee)?;
            let draft = Draft {
                tx,
                bound: Bound::default(),
                fee,
            };
            let submission = self.record(purpose, &draft).await?;
            let raised = self.raised(fee);
            match self.deliver_for(&draft.tx, &submission, raised.is_some()).await? {
                Delivered::Applied(record) => {
                    // The other bumps are over too.
                    for sibling in self.pending_for(purpose).await? {
                        self.fate(&sibling).await?;
                    }
                    return Ok(Some(record));
                }
                Delivered::Failed(record) => {
                    return Err(CarryError::Failed {
                        ledger: record.ledger,
                        codes: record.codes,
                    });
                }
                Delivered::Dead => return Ok(None),
                Delivered::Rejected(codes) if !codes.is("tx_insufficient_fee") => {
                    return Err(CarryError::Rejected { codes });
                }
                Delivered::Rejected(codes) => match raised {
                    Some(more) => fee = more,
                    None => return Err(CarryError::Rejected { codes }),
                },
                Delivered::Alive => match raised {
                    Some(more) => fee = more,
                    None => {
                        return Err(CarryError::Pending { hash: submission.hash });
                    }
                },
            }
        }
    }

    /// The first fee of a bump: as transactions pay lately, for one operation more than it wraps.
    pub(super) async fn bump_fee(&self, head: &LedgerHead, inner: &SignedTx) -> Stroops {
        let operations = i64::from(inner.operations()) + 1;
        let fee = operations.saturating_mul(i64::from(self.bid(head).await));
        Stroops::new(fee.min(self.policy.highest_fee)).unwrap_or(Stroops::ZERO)
    }

    /// The whole fee of so many operations: the bid, up to the highest fee; never less than the ledger asks.
    pub(super) fn fee_for(&self, ground: &Ground, operations: usize) -> Result<u32, CarryError> {
        let count = i64::try_from(operations).map_err(|_| TxError::TooLong)?;
        let least = i64::from(ground.head.base_fee).saturating_mul(count);
        let bid = i64::from(ground.fee_per_operation).saturating_mul(count);
        Ok(u32::try_from(bid.min(self.policy.highest_fee.max(least))).unwrap_or(u32::MAX))
    }

    fn raised(&self, fee: Stroops) -> Option<Stroops> {
        let more = fee.get().checked_mul(REPLACE_FACTOR)?;
        (more <= self.policy.highest_fee).then_some(Stroops::new(more).ok()?)
    }

    /// What to bid for an operation. Only what a ledger's auction asks is charged, so a bid may be generous.
    pub(super) async fn bid(&self, head: &LedgerHead) -> u32 {
        let recent = match self.rail.fee_stats().await {
            Ok(stats) => stats.p90_charged.max(stats.base_fee),
            // No reason to stop: the least is always a bid, and it is raised when it does not do.
            Err(_) => 0,
        };
        recent.max(head.base_fee)
    }

    /// The record of a wallet's transaction that got through before: for an escrow the ledger itself shows what was done,
    /// for a payment only the outbox does.
    pub(super) async fn applied_before(&self, purpose: Purpose) -> Result<Option<TxRecord>, CarryError> {
        let Purpose::Wallet(_) = purpose else { return Ok(None) };
        let applied = self.outbox.applied(purpose).await?;
        Ok(applied.and_then(|(submission, outcome)| TxRecord::of(submission.hash, &outcome)))
    }

    /// What an earlier call for this purpose achieved. Those that are still alive are submitted once more first.
    pub(super) async fn earlier(&self, purpose: Purpose) -> Result<Option<TxRecord>, CarryError> {
        if let Some(record) = self.applied_before(purpose).await? {
            return Ok(Some(record));
        }
        let mut failed = None;
        for submission in self.pending_for(purpose).await? {
            let mut fate = self.fate(&submission).await?;
            if let Fate::Alive { .. } = fate {
                fate = self.once_more(&submission).await?;
            }
            match fate {
                Fate::Applied(record) => return Ok(Some(record)),
                Fate::Failed(record) => failed = Some(record),
                Fate::Dead | Fate::Alive { .. } => {}
            }
        }
        match failed {
            Some(record) => Err(CarryError::Failed {
                ledger: record.ledger,
                codes: record.codes,
            }),
            None => Ok(None),
        }
    }

    pub(super) async fn pending_for(&self, purpose: Purpose) -> Result<Vec<Submission>, CarryError> {
        let mut pending = self.outbox.pending().await?;
        pending.retain(|s| s.purpose == purpose);
        Ok(pending)
    }

    /// Looks what became of everything that is pending, and submits once more what is still alive. For the start of a
    /// process, and now and then.
    ///
    /// # Errors
    /// When the ledger cannot be asked or the outbox fails.
    pub async fn resume(&self) -> Result<Resumed, CarryError> {
        let mut resumed = Resumed::default();
        for submission in self.outbox.pending().await? {
            let mut fate = self.fate(&submission).await?;
            if let Fate::Alive { .. } = fate {
                fate = self.once_more(&submission).await?;
            }
            match fate {
                Fate::Applied(_) => resumed.applied += 1,
                Fate::Failed(_) => resumed.failed += 1,
                Fate::Dead => resumed.dead += 1,
                Fate::Alive { .. } => resumed.alive += 1,
            }
        }
        Ok(resumed)
    }

    /// Submits what is alive again, and looks again: whatever comes back, only the look counts.
    async fn once_more(&self, submission: &Submission) -> Result<Fate, CarryError> {
        let tx = SignedTx::from_bytes(self.network.id(), &submission.envelope)?;
        if let Err(error) = self.rail.submit(&tx).await {
            tracing::debug!(hash = %tx.hash(), %error, "a pending transaction was submitted again");
        }
        self.fate(submission).await
    }

    async fn record(&self, purpose: Purpose, draft: &Draft) -> Result<Submission, CarryError> {
        let (source, sequence) = draft.tx.sequence();
        let submission = Submission {
            hash: draft.tx.hash(),
            inner_hash: draft.tx.inner_hash(),
            envelope: draft.tx.to_bytes()?,
            purpose,
            source,
            sequence,
            bound: draft.bound,
            fee: draft.fee,
        };
        self.outbox.record(&submission).await?;
        Ok(submission)
    }

    async fn deliver(&self, tx: &SignedTx, submission: &Submission) -> Result<Delivered, CarryError> {
        self.deliver_for(tx, submission, false).await
    }

    /// Submits, and looks until the fate is known or patience ends; with `impatient`, only for as many ledgers as a fee
    /// bump waits before it is raised.
    async fn deliver_for(
        &self,
        tx: &SignedTx,
        submission: &Submission,
        impatient: bool,
    ) -> Result<Delivered, CarryError> {
        let started = Instant::now();
        let mut first_seen: Option<u32> = None;
        let mut submit = true;
        loop {
            let answer = if submit { Some(self.rail.submit(tx).await) } else { None };
            // Submitted again from time to time: a server's queue may have dropped it.
            submit = !submit;
            let rejected = match answer {
                Some(Err(SubmitError::Tx(error))) => return Err(error.into()),
                Some(Err(SubmitError::Rejected { codes })) => Some(codes),
                Some(Err(error)) => {
                    tracing::debug!(hash = %tx.hash(), %error, "a submission has no answer yet");
                    None
                }
                Some(Ok(_)) | None => None,
            };
            // The answer itself decides nothing: the ledger does.
            match self.fate(submission).await {
                Ok(Fate::Applied(record)) => return Ok(Delivered::Applied(record)),
                Ok(Fate::Failed(record)) => return Ok(Delivered::Failed(record)),
                Ok(Fate::Dead) => return Ok(Delivered::Dead),
                Ok(Fate::Alive { head }) => {
                    // A bad sequence number is usually an account that the server's answers lag behind: look on.
                    match rejected {
                        Some(codes) if !codes.is("tx_bad_seq") => return Ok(Delivered::Rejected(codes)),
                        _ => {}
                    }
                    let since = *first_seen.get_or_insert(head.sequence);
                    if impatient && head.sequence.saturating_sub(since) >= self.policy.bump_after {
                        return Ok(Delivered::Alive);
                    }
                }
                Err(CarryError::Rail(error)) => {
                    tracing::debug!(hash = %tx.hash(), %error, "the ledger cannot be asked about a submission");
                }
                Err(other) => return Err(other),
            }
            if started.elapsed() >= self.policy.patience {
                return Ok(Delivered::Alive);
            }
            tokio::time::sleep(self.policy.poll).await;
        }
    }

    /// Looks what became of a submission, and records it if that is final.
    pub(super) async fn fate(&self, submission: &Submission) -> Result<Fate, CarryError> {
        let witnesses = self.witnesses(submission);
        let sightings = self
            .rail
            .looks(submission.hash, submission.inner_hash, submission.source, witnesses)
            .await?;
        let fate = agreed(submission, sightings, witnesses)?;
        let outcome = match &fate {
            Fate::Alive { .. } => return Ok(fate),
            // What it wraps got through in another wrapping, perhaps a stranger's: this one never will. What wraps nothing itself
            // may be wrapped by a stranger, too, and has got through then.
            Fate::Applied(record) | Fate::Failed(record)
                if record.hash != submission.hash && submission.inner_hash.is_some() =>
            {
                Outcome::Dead
            }
            Fate::Applied(record) => Outcome::Applied {
                ledger: record.ledger,
                fee_charged: record.fee_charged,
            },
            Fate::Failed(record) => Outcome::Failed {
                ledger: record.ledger,
                fee_charged: record.fee_charged,
                codes: record.codes.clone(),
            },
            Fate::Dead => Outcome::Dead,
        };
        self.outbox.resolve(submission.hash, &outcome).await?;
        Ok(fate)
    }
}

/// How many servers have to agree that a submission is dead.
const TWO: usize = 2;

impl Settler {
    fn witnesses(&self, submission: &Submission) -> usize {
        let pays = || match SignedTx::from_bytes(self.network.id(), &submission.envelope) {
            Ok(tx) => tx.pays(),
            // Nobody can tell what is at stake.
            Err(_) => Stroops::MAX,
        };
        match self.policy.two_witnesses_above {
            Some(limit) if pays() > limit => TWO,
            _ => 1,
        }
    }
}

/// How many pending submissions ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resumed {
    /// In a ledger, and did what they say.
    pub applied: usize,
    /// In a ledger, and failed.
    pub failed: usize,
    /// Never will be in a ledger.
    pub dead: usize,
    /// Nobody knows yet.
    pub alive: usize,
}

#[derive(Debug)]
enum Delivered {
    Applied(TxRecord),
    Failed(TxRecord),
    Dead,
    Rejected(ResultCodes),
    Alive,
}

/// What several servers' sightings say about a submission: whoever has it is believed; that it is dead, only when all say
/// so, and are enough.
fn agreed(submission: &Submission, sightings: Vec<Sighting>, witnesses: usize) -> Result<Fate, RailError> {
    let enough = sightings.len() >= witnesses;
    let mut alive = None;
    let mut dead = None;
    for sighting in sightings {
        let head = sighting.head;
        match judge(submission, sighting) {
            found @ (Fate::Applied(_) | Fate::Failed(_)) => return Ok(found),
            Fate::Dead => dead = Some(head),
            Fate::Alive { head } => alive = Some(head),
        }
    }
    match (alive, dead) {
        (Some(head), _) => Ok(Fate::Alive { head }),
        (None, Some(_)) if enough => Ok(Fate::Dead),
        (None, Some(head)) => Ok(Fate::Alive { head }),
        (None, None) => Err(RailError::Unreachable(Unreachable::Broken)),
    }
}

/// What a sighting says about a submission.
fn judge(submission: &Submission, sighting: Sighting) -> Fate {
    let Sighting {
        head,
        source,
        record,
        oldest,
    } = sighting;
    if let Some(record) = record {
        return if record.successful {
            Fate::Applied(record)
        } else {
            Fate::Failed(record)
        };
    }
    let Bound {
        until_time,
        before_ledger,
    } = submission.bound;
    let too_late = until_time != 0 && head.close_time > until_time.saturating_add(SECONDS_OF_GRACE)
        || before_ledger != 0 && head.sequence >= before_ledger.saturating_add(LEDGERS_OF_GRACE);
    // An account that is gone comes back, if at all, with a higher sequence number.
    let used = source.is_none_or(|account| account.sequence >= submission.sequence);
    if (too_late || used) && oldest.is_none_or(|oldest| remembers(&submission.bound, &head, oldest)) {
        Fate::Dead
    } else {
        Fate::Alive { head }
    }
}

/// Whether a server whose memory begins with `oldest` would know a transaction of this bound, had a ledger taken it.
fn remembers(bound: &Bound, head: &LedgerHead, oldest: Oldest) -> bool {
    if oldest.ledger <= 2 {
        // From the first ledger on.
        return true;
    }
    match *bound {
        Bound { until_time, .. } if until_time != 0 => {
            let begun = until_time.saturating_sub(LONGEST_VALIDITY);
            match oldest.close_time {
                Some(close_time) => close_time <= begun,
                // Ledgers are at least a second apart.
                None => {
                    let seconds = head.close_time.saturating_sub(begun);
                    u64::from(oldest.ledger).saturating_add(seconds) <= u64::from(head.sequence)
                }
            }
        }
        Bound { before_ledger, .. } if before_ledger != 0 => {
            oldest.ledger <= before_ledger.saturating_sub(LEDGERS_OF_VALIDITY).max(2)
        }
        // A fee bump of an escrow's transaction: what became of that, the escrow's own account tells.
        Bound { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rail::{AccountState, Holding, IssuerFlags};

    fn submission(until_time: u64, before_ledger: u32) -> Submission {
        Submission {
            hash: TxHash([1; 32]),
            inner_hash: None,
            envelope: Vec::new(),
            purpose: Purpose::Wallet([0; 32]),
            source: AccountId([2; 32]),
            sequence: 8,
            bound: Bound {
                until_time,
                before_ledger,
            },
            fee: Stroops::ZERO,
        }
    }

    fn sighting(sequence: u32, close_time: u64, used: i64) -> Sighting {
        let nothing = Holding {
            balance: Stroops::ZERO,
            buying: Stroops::ZERO,
            selling: Stroops::ZERO,
        };
        Sighting {
            head: LedgerHead {
                sequence,
                close_time,
                base_fee: 100,
                base_reserve: 5_000_000,
            },
            source: Some(AccountState {
                id: AccountId([2; 32]),
                sequence: used,
                lumens: nothing,
                subentries: 0,
                sponsoring: 0,
                sponsored: 0,
                thresholds: [0; 3],
                signers: Vec::new(),
                flags: IssuerFlags::default(),
                lines: Vec::new(),
                home_domain: None,
                memo_required: false,
            }),
            record: None,
            oldest: None,
        }
    }

    #[test]
    fn a_submission_is_alive_until_its_bound_has_passed_or_its_sequence_is_used() {
        let alive = |fate| matches!(fate, Fate::Alive { .. });
        let dead = |fate| matches!(fate, Fate::Dead);
        assert!(alive(judge(&submission(0, 0), sighting(1_000_000, 1 << 40, 7))));
        assert!(alive(judge(&submission(1000, 0), sighting(9, 1000, 7))));
        assert!(alive(judge(&submission(1000, 0), sighting(9, 1015, 7))));
        assert!(dead(judge(&submission(1000, 0), sighting(9, 1016, 7))));
        assert!(alive(judge(&submission(0, 50), sighting(50, 0, 7))));
        assert!(dead(judge(&submission(0, 50), sighting(52, 0, 7))));
        assert!(dead(judge(&submission(0, 0), sighting(9, 1000, 8))));
        let gone = Sighting {
            source: None,
            ..sighting(9, 1000, 0)
        };
        assert!(dead(judge(&submission(0, 0), gone)));
    }

    #[test]
    fn a_server_that_forgets_is_no_witness_of_what_was_before() {
        let dead = |submission: &Submission, oldest, close_time| {
            let seen = Sighting {
                oldest: Some(Oldest {
                    ledger: oldest,
                    close_time,
                }),
                ..sighting(100_000, 600_000, 8)
            };
            matches!(judge(submission, seen), Fate::Dead)
        };
        let bounded_by_time = submission(500_000, 0);
        // It can have got into a ledger from 496,400 on.
        assert!(dead(&bounded_by_time, 50_000, Some(496_400)));
        assert!(!dead(&bounded_by_time, 50_000, Some(496_401)));
        // Without a time, by what a ledger takes at least: 103,600 of them are not there.
        assert!(!dead(&bounded_by_time, 3, None));
        assert!(dead(&submission(598_000, 0), 94_400, None));
        assert!(!dead(&submission(598_000, 0), 94_401, None));
        assert!(
            dead(&bounded_by_time, 1, None),
            "from the first ledger on, nothing is missing"
        );
        let bounded_by_ledger = submission(0, 90_000);
        assert!(dead(&bounded_by_ledger, 89_280, None));
        assert!(!dead(&bounded_by_ledger, 89_281, None));
    }

    #[test]
    fn two_witnesses_must_both_see_it_dead_and_one_that_has_it_is_believed() {
        let it = submission(1000, 0);
        let (dead, alive) = (sighting(9, 1016, 7), sighting(9, 1000, 7));
        let fate = |seen: &[&Sighting]| agreed(&it, seen.iter().map(|s| (*s).clone()).collect(), TWO).unwrap();
        assert!(matches!(fate(&[&dead, &dead]), Fate::Dead));
        assert!(matches!(fate(&[&dead, &alive]), Fate::Alive { .. }));
        assert!(matches!(fate(&[&dead]), Fate::Alive { .. }), "one of two is not enough");
        let record = TxRecord {
            hash: TxHash([1; 32]),
            ledger: 9,
            successful: true,
            fee_charged: Stroops::ZERO,
            codes: ResultCodes::default(),
        };
        let found = Sighting {
            record: Some(record),
            ..sighting(9, 1000, 8)
        };
        assert!(matches!(fate(&[&dead, &found]), Fate::Applied(_)));
        assert!(matches!(fate(&[&found]), Fate::Applied(_)));
        assert!(agreed(&it, Vec::new(), 1).is_err());
    }

    #[test]
    fn a_ledger_that_has_the_transaction_decides_whatever_the_bound_says() {
        for successful in [true, false] {
            let record = TxRecord {
                hash: TxHash([1; 32]),
                ledger: 9,
                successful,
                fee_charged: Stroops::ZERO,
                codes: ResultCodes::default(),
            };
            let seen = Sighting {
                record: Some(record.clone()),
                ..sighting(99, 1 << 40, 8)
            };
            match judge(&submission(1, 1), seen) {
                Fate::Applied(found) => assert!(successful && found == record),
                Fate::Failed(found) => assert!(!successful && found == record),
                other => panic!("{other:?}"),
            }
        }
    }
}
