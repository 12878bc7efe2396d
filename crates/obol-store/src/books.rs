//! Double entry: what each fact moves, between which accounts.
//!
//! | account | holds | grows by |
//! |---|---|---|
//! | `claims:E` | asset: what the newest claim on an incoming escrow is worth | a claim |
//! | `payer:E` | owed to the payer of E: the part of its claims that no circuit has | a claim |
//! | `held` | owed to circuits: allocated and not yet spent | an allocation |
//! | `forwarding` | owed onwards: taken out of circuits for the next hop, not yet signed | a payment |
//! | `earned` | income: own share of payments, and fees | a payment |
//! | `kept` | income: held for a circuit that ended, and not its payer's to have back | the end of a circuit |
//! | `signed:E` | owed on an outgoing escrow by our newest claim | a signature |
//! | `deposit:E` | asset: what an outgoing escrow holds | its opening |
//! | `capital` | own money, outside of escrows (credit: put in; debit: came back) | |
//! | `received` | asset: what flushes paid out on the ledger | a settlement |
//! | `lost` | claims that the ledger paid less for, or payments made without a claim | |
//! | `gained` | our claims that a payee let lapse | |
//! | `spent` | a client's expense: what it signed away | a signature |
//!
//! An amount is a debit of one account and a credit of another, so the sum over all is always zero; what can be wrong is a
//! balance on the wrong side, and that is what [`Books::check`] looks for. It is also how invariant 1 of
//! payment-protocol.md reads in the books: what was signed away comes out of `forwarding`, which never goes below zero.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use obol_cell::{EscrowId, Stroops};
use obol_toll::fact::{NodeFact, OutFact, Owner, PayerFact};

/// One account of the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// See the [module](self).
    Claims(EscrowId),
    /// See the [module](self).
    Payer(EscrowId),
    /// See the [module](self).
    Held,
    /// See the [module](self).
    Forwarding,
    /// See the [module](self).
    Earned,
    /// See the [module](self).
    Kept,
    /// See the [module](self).
    Signed(EscrowId),
    /// See the [module](self).
    Deposit(EscrowId),
    /// See the [module](self).
    Capital,
    /// See the [module](self).
    Received,
    /// See the [module](self).
    Lost,
    /// See the [module](self).
    Gained,
    /// See the [module](self).
    Spent,
}

impl Account {
    /// The side on which the account's balance must not go below zero: 1 for a debit balance, -1 for a credit balance,
    /// 0 where both are possible.
    fn side(self) -> i128 {
        match self {
            Account::Claims(_) | Account::Deposit(_) | Account::Received | Account::Lost | Account::Spent => 1,
            Account::Payer(_)
            | Account::Held
            | Account::Forwarding
            | Account::Signed(_)
            | Account::Gained
            | Account::Kept => -1,
            // An unused purchase is given back to its payer out of the earnings, and capital comes and goes.
            Account::Earned | Account::Capital => 0,
        }
    }
}

impl fmt::Display for Account {
    /// As in the journal's table of entries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |f: &mut fmt::Formatter<'_>, name, e: &EscrowId| write!(f, "{name}:{}", hex::encode(e.0));
        match self {
            Account::Claims(e) => of(f, "claims", e),
            Account::Payer(e) => of(f, "payer", e),
            Account::Signed(e) => of(f, "signed", e),
            Account::Deposit(e) => of(f, "deposit", e),
            Account::Held => f.write_str("held"),
            Account::Forwarding => f.write_str("forwarding"),
            Account::Earned => f.write_str("earned"),
            Account::Kept => f.write_str("kept"),
            Account::Capital => f.write_str("capital"),
            Account::Received => f.write_str("received"),
            Account::Lost => f.write_str("lost"),
            Account::Gained => f.write_str("gained"),
            Account::Spent => f.write_str("spent"),
        }
    }
}

/// One movement: `stroops`, never zero, from `credit` to `debit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The account that is debited.
    pub debit: Account,
    /// The account that is credited.
    pub credit: Account,
    /// How much; more than zero.
    pub stroops: i64,
}

/// The books do not add up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Imbalance {
    /// An account has a balance on the side where it cannot have one.
    #[error("account {account} is overdrawn by {by} stroops")]
    Overdrawn {
        /// The account.
        account: Account,
        /// By how much.
        by: i128,
    },
    /// The entries in the journal are not those that its facts make.
    #[error("account {account} has {stored} stroops by its entries and {derived} by its facts")]
    Differs {
        /// The account, as in the journal.
        account: String,
        /// The balance by the stored entries: debits less credits.
        stored: i128,
        /// The balance by the facts.
        derived: i128,
    },
    /// All balances together are not zero.
    #[error("the books are off by {by} stroops in all")]
    Sum {
        /// By how much.
        by: i128,
    },
    /// More was signed away on an escrow than it holds.
    #[error("escrow {escrow:?} owes {signed} stroops and holds {deposit}")]
    OverSigned {
        /// The escrow.
        escrow: EscrowId,
        /// What is signed.
        signed: i128,
        /// What it holds.
        deposit: i128,
    },
}

/// What a circuit has been given and has not spent, by the escrow that it came from, oldest first.
type Holdings = Vec<(EscrowId, i64)>;

/// The state of the books after some facts.
#[derive(Debug, Clone, Default)]
pub struct Books {
    balances: BTreeMap<Account, i128>,
    /// Incoming escrows: newest cumulative amount, and whether a client pays by it.
    incoming: HashMap<EscrowId, (i64, bool)>,
    /// Outgoing escrows: newest cumulative amount.
    outgoing: HashMap<EscrowId, i64>,
    held: HashMap<u64, Holdings>,
}

/// Whose money a claim of ours signs away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purse {
    /// A relay's: what its circuits had it forward.
    Forwarding,
    /// A client's own.
    Own,
}

impl Books {
    /// Every account that was ever used, with its balance: debits less credits.
    pub fn balances(&self) -> &BTreeMap<Account, i128> {
        &self.balances
    }

    /// One account's balance: debits less credits.
    pub fn balance(&self, account: Account) -> i128 {
        self.balances.get(&account).copied().unwrap_or(0)
    }

    /// Looks for balances that cannot be. Right after any whole batch of facts there are none.
    pub fn check(&self) -> Result<(), Imbalance> {
        let sum: i128 = self.balances.values().sum();
        if sum != 0 {
            return Err(Imbalance::Sum { by: sum });
        }
        for (account, balance) in &self.balances {
            if account.side() * balance < 0 {
                return Err(Imbalance::Overdrawn {
                    account: *account,
                    by: balance.abs(),
                });
            }
            if let Account::Signed(escrow) = account {
                let (signed, deposit) = (-balance, self.balance(Account::Deposit(*escrow)));
                if signed > deposit {
                    return Err(Imbalance::OverSigned {
                        escrow: *escrow,
                        signed,
                        deposit,
                    });
                }
            }
        }
        Ok(())
    }

    /// The entries that a relay's fact makes.
    pub fn node_fact(&mut self, fact: &NodeFact) -> Vec<Entry> {
        let mut new = Posting {
            books: self,
            entries: Vec::new(),
        };
        match fact {
            NodeFact::Restarted => new.restarted(),
            NodeFact::Believed { escrow, owner, .. } => {
                new.books
                    .incoming
                    .entry(escrow.id())
                    .or_insert((0, *owner == Owner::Client));
            }
            NodeFact::Claim { escrow, cumulative, .. } => new.claim(*escrow, *cumulative),
            NodeFact::Allocated {
                escrow,
                circuit,
                amount,
                ..
            } => {
                new.post(Account::Payer(*escrow), Account::Held, amount.get());
                let holdings = new.books.held.entry(circuit.0).or_default();
                match holdings.iter_mut().find(|(e, _)| e == escrow) {
                    Some((_, held)) => *held = held.saturating_add(amount.get()),
                    None => holdings.push((*escrow, amount.get())),
                }
            }
            NodeFact::Spent {
                circuit,
                earned,
                forwarded,
                ..
            } => {
                new.post(Account::Held, Account::Earned, earned.get());
                new.post(Account::Held, Account::Forwarding, forwarded.get());
                new.unhold(circuit.0, None, earned.get().saturating_add(forwarded.get()));
            }
            NodeFact::Returned {
                escrow,
                circuit,
                amount,
            } => {
                // First what was held for it; the rest is the unused part of what it bought.
                let held = new.unhold(circuit.0, Some(escrow), amount.get());
                new.post(Account::Held, Account::Payer(*escrow), held);
                new.post(Account::Earned, Account::Payer(*escrow), amount.get() - held);
            }
            NodeFact::CircuitEnded { circuit } => {
                let held = new.unhold(circuit.0, None, i64::MAX);
                new.post(Account::Held, Account::Kept, held);
            }
            NodeFact::InClosing { .. } | NodeFact::Flushing { .. } | NodeFact::FlushFailed { .. } => {}
            NodeFact::Settled { escrow, amount } => new.settled(*escrow, *amount),
            NodeFact::Out(fact) => new.out(fact, Purse::Forwarding),
            // A snapshot repeats what entries have recorded already.
            NodeFact::IncomingState { .. } | NodeFact::Totals { .. } => {}
        }
        new.entries
    }

    /// The entries that a client's fact makes.
    pub fn payer_fact(&mut self, fact: &PayerFact) -> Vec<Entry> {
        let mut new = Posting {
            books: self,
            entries: Vec::new(),
        };
        match fact {
            PayerFact::Out(fact) => new.out(fact, Purse::Own),
            // The budget's own sum, derived from the same signatures.
            PayerFact::Spent { .. } => {}
        }
        new.entries
    }
}

/// The entries of one fact while they are made.
struct Posting<'a> {
    books: &'a mut Books,
    entries: Vec<Entry>,
}

impl Posting<'_> {
    fn post(&mut self, debit: Account, credit: Account, stroops: i64) {
        if stroops <= 0 {
            return;
        }
        *self.books.balances.entry(debit).or_default() += i128::from(stroops);
        *self.books.balances.entry(credit).or_default() -= i128::from(stroops);
        self.entries.push(Entry { debit, credit, stroops });
    }

    /// Takes up to `stroops` out of what is held for a circuit, of one escrow or of all, oldest first; returns how much
    /// that was.
    fn unhold(&mut self, circuit: u64, of: Option<&EscrowId>, stroops: i64) -> i64 {
        let Some(holdings) = self.books.held.get_mut(&circuit) else {
            return 0;
        };
        let mut left = stroops;
        for (_, held) in holdings
            .iter_mut()
            .filter(|(escrow, _)| of.is_none_or(|of| of == escrow))
        {
            let part = left.min(*held);
            *held -= part;
            left -= part;
        }
        holdings.retain(|(_, held)| *held != 0);
        if holdings.is_empty() {
            self.books.held.remove(&circuit);
        }
        stroops - left
    }

    fn restarted(&mut self) {
        let mut held: Vec<(EscrowId, i64)> = self.books.held.drain().flat_map(|(_, holdings)| holdings).collect();
        held.sort_unstable();
        for (escrow, stroops) in held {
            let of_client = self.books.incoming.get(&escrow).is_some_and(|(_, client)| *client);
            let to = if of_client {
                Account::Payer(escrow)
            } else {
                Account::Kept
            };
            self.post(Account::Held, to, stroops);
        }
    }

    fn claim(&mut self, escrow: EscrowId, cumulative: Stroops) {
        let (newest, _) = self.books.incoming.entry(escrow).or_insert((0, false));
        let rise = cumulative.get().saturating_sub(*newest);
        *newest = cumulative.get().max(*newest);
        self.post(Account::Claims(escrow), Account::Payer(escrow), rise);
    }

    fn settled(&mut self, escrow: EscrowId, amount: Stroops) {
        let claimed = i64::try_from(self.books.balance(Account::Claims(escrow))).unwrap_or(i64::MAX);
        let paid = amount.get().min(claimed);
        self.post(Account::Received, Account::Claims(escrow), paid);
        self.post(Account::Lost, Account::Claims(escrow), claimed - paid);
        // More than was claimed cannot come by a claim of ours; it would be a gift.
        self.post(Account::Received, Account::Gained, amount.get() - paid);
    }

    fn out(&mut self, fact: &OutFact, purse: Purse) {
        match fact {
            OutFact::Accepted { .. } | OutFact::Abandoned { .. } | OutFact::Closing { .. } => {}
            OutFact::Opened { escrow, balance } => {
                let there = self.books.balance(Account::Deposit(*escrow));
                // Said again after a restart, it is the same opening.
                if there == 0 {
                    self.post(Account::Deposit(*escrow), Account::Capital, balance.get());
                }
            }
            OutFact::Signed { escrow, cumulative, .. } => {
                let newest = self.books.outgoing.entry(*escrow).or_insert(0);
                let rise = cumulative.get().saturating_sub(*newest);
                *newest = cumulative.get().max(*newest);
                let from = if purse == Purse::Own {
                    Account::Spent
                } else {
                    Account::Forwarding
                };
                self.post(from, Account::Signed(*escrow), rise);
            }
            OutFact::Ended { escrow, paid } => {
                let signed = i64::try_from(-self.books.balance(Account::Signed(*escrow))).unwrap_or(i64::MAX);
                let deposit = i64::try_from(self.books.balance(Account::Deposit(*escrow))).unwrap_or(i64::MAX);
                let due = paid.get().min(signed);
                self.post(Account::Signed(*escrow), Account::Deposit(*escrow), due);
                self.post(Account::Signed(*escrow), Account::Gained, signed - due);
                self.post(Account::Lost, Account::Deposit(*escrow), paid.get() - due);
                self.post(
                    Account::Capital,
                    Account::Deposit(*escrow),
                    deposit.saturating_sub(paid.get()),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
