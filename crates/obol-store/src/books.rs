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
//! Trust backing, secured by nothing:
//!
//! | account | holds | grows by |
//! |---|---|---|
//! | `owed-by:P` | asset: what a peer's newest statement owes us and its payments have not settled | a statement of its |
//! | `trusted:P` | owed to that peer: the part of its statements that no circuit has | a statement of its |
//! | `held-by-trust` | owed to circuits: allocated of `trusted:P` and not yet spent; buys own bytes only | an allocation |
//! | `owed-to:P` | owed to a peer by our newest statement, less what our payments settled | a statement of ours |
//!
//! A peer's payment on the ledger goes from `owed-by:P` to `received`; ours takes from `owed-to:P` what it adds to `capital`'s
//! outflow. Neither ever touches `forwarding`: what is owed by trust is not passed on as secured money.
//!
//! Balances of escrows whose detail was erased are kept together under the id of zeros ([`ERASED`]).
//!
//! An amount is a debit of one account and a credit of another, so the sum over all is always zero; what can be wrong is a
//! balance on the wrong side, and that is what [`Books::check`] looks for. It is also how invariant 1 of
//! payment-protocol.md reads in the books: what was signed away comes out of `forwarding`, which never goes below zero.

mod trust;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use obol_cell::{DecodeError, EscrowId, PeerId, Reader, Stroops, Writer};
use obol_toll::fact::{NodeFact, OutFact, Owner, PayerFact};

use trust::TrustBooks;

/// Stands for all escrows whose detail was erased.
pub const ERASED: EscrowId = EscrowId([0; 32]);

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
    /// See the [module](self).
    OwedBy(PeerId),
    /// See the [module](self).
    Trusted(PeerId),
    /// See the [module](self).
    OwedTo(PeerId),
    /// See the [module](self).
    HeldByTrust,
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
            | Account::Trusted(_)
            | Account::OwedTo(_)
            | Account::HeldByTrust
            | Account::Kept => -1,
            // An unused purchase is given back to its payer out of the earnings, capital comes and goes, and a peer may pay
            // for a statement that we have lost.
            Account::Earned | Account::Capital | Account::OwedBy(_) => 0,
        }
    }

    /// What the account is of, without whom it is about: as in reports.
    pub fn class(self) -> &'static str {
        match self {
            Account::Claims(_) => "claims",
            Account::Payer(_) => "payer",
            Account::Signed(_) => "signed",
            Account::Deposit(_) => "deposit",
            Account::Held => "held",
            Account::Forwarding => "forwarding",
            Account::Earned => "earned",
            Account::Kept => "kept",
            Account::Capital => "capital",
            Account::Received => "received",
            Account::Lost => "lost",
            Account::Gained => "gained",
            Account::Spent => "spent",
            Account::OwedBy(_) => "owed-by",
            Account::Trusted(_) => "trusted",
            Account::OwedTo(_) => "owed-to",
            Account::HeldByTrust => "held-by-trust",
        }
    }

    /// Whom the account is about: an escrow or a peer.
    fn subject(&self) -> Option<&[u8; 32]> {
        match self {
            Account::Claims(e) | Account::Payer(e) | Account::Signed(e) | Account::Deposit(e) => Some(&e.0),
            Account::OwedBy(p) | Account::Trusted(p) | Account::OwedTo(p) => Some(&p.0),
            _ => None,
        }
    }

    /// The account of a class and a subject.
    fn of(class: &str, subject: Option<[u8; 32]>) -> Option<Account> {
        Some(match (class, subject) {
            ("claims", Some(id)) => Account::Claims(EscrowId(id)),
            ("payer", Some(id)) => Account::Payer(EscrowId(id)),
            ("signed", Some(id)) => Account::Signed(EscrowId(id)),
            ("deposit", Some(id)) => Account::Deposit(EscrowId(id)),
            ("owed-by", Some(id)) => Account::OwedBy(PeerId(id)),
            ("trusted", Some(id)) => Account::Trusted(PeerId(id)),
            ("owed-to", Some(id)) => Account::OwedTo(PeerId(id)),
            ("held", None) => Account::Held,
            ("forwarding", None) => Account::Forwarding,
            ("earned", None) => Account::Earned,
            ("kept", None) => Account::Kept,
            ("capital", None) => Account::Capital,
            ("received", None) => Account::Received,
            ("lost", None) => Account::Lost,
            ("gained", None) => Account::Gained,
            ("spent", None) => Account::Spent,
            ("held-by-trust", None) => Account::HeldByTrust,
            _ => return None,
        })
    }

    /// An account by its name in the journal.
    pub(crate) fn from_name(name: &str) -> Option<Account> {
        let Some((class, subject)) = name.split_once(':') else {
            return Account::of(name, None);
        };
        let subject = <[u8; 32]>::try_from(hex::decode(subject).ok()?).ok()?;
        Account::of(class, Some(subject))
    }
}

impl fmt::Display for Account {
    /// As in the journal's table of accounts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class())?;
        match self.subject() {
            Some(subject) => write!(f, ":{}", hex::encode(subject)),
            None => Ok(()),
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

/// The books do not add up. Its text names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Imbalance {
    /// An account has a balance on the side where it cannot have one.
    #[error("an account {} is overdrawn by {by} stroops", account.class())]
    Overdrawn {
        /// The account.
        account: Account,
        /// By how much.
        by: i128,
    },
    /// All balances together are not zero.
    #[error("the books are off by {by} stroops in all")]
    Sum {
        /// By how much.
        by: i128,
    },
    /// More was signed away on an escrow than it holds.
    #[error("{signed} stroops are signed away on an escrow that holds {deposit}")]
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Books {
    balances: BTreeMap<Account, i128>,
    /// Incoming escrows: newest cumulative amount, and whether a client pays by it.
    incoming: HashMap<EscrowId, (i64, bool)>,
    /// Outgoing escrows: newest cumulative amount.
    outgoing: HashMap<EscrowId, i64>,
    held: HashMap<u64, Holdings>,
    trust: TrustBooks,
}

/// The accounts of one escrow.
pub(crate) fn of_escrow(escrow: EscrowId) -> [Account; 4] {
    [
        Account::Claims(escrow),
        Account::Payer(escrow),
        Account::Signed(escrow),
        Account::Deposit(escrow),
    ]
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
        self.balances
            .keys()
            .try_for_each(|account| self.check_account(*account))
    }

    /// Whether one account's balance can be.
    pub(crate) fn check_account(&self, account: Account) -> Result<(), Imbalance> {
        let balance = self.balance(account);
        if account.side() * balance < 0 {
            return Err(Imbalance::Overdrawn {
                account,
                by: balance.abs(),
            });
        }
        if let Account::Signed(escrow) | Account::Deposit(escrow) = account {
            let signed = -self.balance(Account::Signed(escrow));
            let deposit = self.balance(Account::Deposit(escrow));
            if signed > deposit {
                return Err(Imbalance::OverSigned {
                    escrow,
                    signed,
                    deposit,
                });
            }
        }
        Ok(())
    }

    /// Balances by class of account, debits less credits.
    pub fn by_class(&self) -> BTreeMap<&'static str, i128> {
        let mut classes = BTreeMap::new();
        for (account, balance) in &self.balances {
            *classes.entry(account.class()).or_default() += balance;
        }
        classes
    }

    /// Forgets escrows that are over: what is left on their accounts is kept together under [`ERASED`].
    pub(crate) fn forget(&mut self, escrows: &[EscrowId]) {
        for escrow in escrows {
            self.incoming.remove(escrow);
            self.outgoing.remove(escrow);
            let (from, to) = (of_escrow(*escrow), of_escrow(ERASED));
            for (account, erased) in from.into_iter().zip(to) {
                let left = self.balances.remove(&account).unwrap_or(0);
                if left != 0 {
                    *self.balances.entry(erased).or_default() += left;
                }
            }
        }
    }

    /// As a checkpoint keeps them; accounts without a balance are left out.
    pub(crate) fn write(&self, w: &mut Writer) {
        let count = |w: &mut Writer, n: usize| {
            w.u64(n as u64);
        };
        count(w, self.balances.values().filter(|balance| **balance != 0).count());
        for (account, balance) in self.balances.iter().filter(|(_, balance)| **balance != 0) {
            let class = account.class().as_bytes();
            w.u8(class.len() as u8).bytes(class);
            match account.subject() {
                Some(subject) => w.u8(1).bytes(subject),
                None => w.u8(0),
            };
            w.bytes(&balance.to_be_bytes());
        }
        let incoming: BTreeMap<_, _> = self.incoming.iter().collect();
        count(w, incoming.len());
        for (escrow, (newest, client)) in incoming {
            w.bytes(&escrow.0).bytes(&newest.to_be_bytes()).u8((*client).into());
        }
        let outgoing: BTreeMap<_, _> = self.outgoing.iter().collect();
        count(w, outgoing.len());
        for (escrow, newest) in outgoing {
            w.bytes(&escrow.0).bytes(&newest.to_be_bytes());
        }
        let held: BTreeMap<_, _> = self.held.iter().collect();
        count(w, held.len());
        for (circuit, holdings) in held {
            w.u64(*circuit);
            count(w, holdings.len());
            for (escrow, stroops) in holdings {
                w.bytes(&escrow.0).bytes(&stroops.to_be_bytes());
            }
        }
        self.trust.write(w);
    }

    /// What [`Books::write`] wrote.
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Books, DecodeError> {
        let mut books = Books::default();
        for _ in 0..r.u64()? {
            let length = r.u8()?;
            let mut class = Vec::with_capacity(length.into());
            for _ in 0..length {
                class.push(r.u8()?);
            }
            let subject = if r.bool("subject")? { Some(r.array()?) } else { None };
            let class = String::from_utf8(class).unwrap_or_default();
            let account = Account::of(&class, subject).ok_or(DecodeError::Kind(length))?;
            books.balances.insert(account, i128::from_be_bytes(r.array()?));
        }
        for _ in 0..r.u64()? {
            let escrow = EscrowId(r.array()?);
            let newest = i64::from_be_bytes(r.array()?);
            books.incoming.insert(escrow, (newest, r.bool("client")?));
        }
        for _ in 0..r.u64()? {
            let escrow = EscrowId(r.array()?);
            books.outgoing.insert(escrow, i64::from_be_bytes(r.array()?));
        }
        for _ in 0..r.u64()? {
            let circuit = r.u64()?;
            let mut holdings = Holdings::new();
            for _ in 0..r.u64()? {
                let escrow = EscrowId(r.array()?);
                holdings.push((escrow, i64::from_be_bytes(r.array()?)));
            }
            books.held.insert(circuit, holdings);
        }
        books.trust = TrustBooks::read(r)?;
        Ok(books)
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
                let owed = new.books.trust.held.remove(&circuit.0).unwrap_or(0);
                new.post(Account::HeldByTrust, Account::Kept, owed);
            }
            NodeFact::InClosing { .. } | NodeFact::Flushing { .. } | NodeFact::FlushFailed { .. } => {}
            NodeFact::Settled { escrow, amount } => new.settled(*escrow, *amount),
            NodeFact::Out(fact) => new.out(fact, Purse::Forwarding),
            // A snapshot repeats what entries have recorded already.
            NodeFact::IncomingState { .. } | NodeFact::Totals { .. } => {}
            NodeFact::Trust(fact) => new.trust(fact),
            NodeFact::NewEpoch => new.books.trust.restored = true,
            NodeFact::Day { .. } | NodeFact::Volume { .. } => {}
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
            PayerFact::Spent { .. } | PayerFact::Day { .. } => {}
            PayerFact::NewEpoch => {}
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
        let owed: i64 = self.books.trust.held.drain().map(|(_, stroops)| stroops).sum();
        self.post(Account::HeldByTrust, Account::Kept, owed);
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
