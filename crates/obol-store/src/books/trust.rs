//! The books on what is owed by trust.

use std::collections::{BTreeMap, HashMap};

use obol_cell::{DecodeError, PeerId, Reader, Writer};
use obol_toll::fact::TrustFact;

use super::{Account, Posting};

/// What the entries of later facts depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TrustBooks {
    /// The newest statements of others, and ours: cumulative amounts.
    stated: HashMap<PeerId, i64>,
    signed: HashMap<PeerId, i64>,
    /// What circuits have been given and have not spent.
    pub(super) held: HashMap<u64, i64>,
    /// Payments that are on their way, by the number of their transaction.
    paying: HashMap<u64, Vec<(PeerId, i64)>>,
    /// These books came out of a backup once: we may have stated more than they say.
    pub(super) restored: bool,
}

fn count(w: &mut Writer, n: usize) {
    w.u64(n as u64);
}

impl TrustBooks {
    pub(super) fn write(&self, w: &mut Writer) {
        for amounts in [&self.stated, &self.signed] {
            let amounts: BTreeMap<_, _> = amounts.iter().collect();
            count(w, amounts.len());
            for (peer, amount) in amounts {
                w.bytes(&peer.0).bytes(&amount.to_be_bytes());
            }
        }
        let held: BTreeMap<_, _> = self.held.iter().collect();
        count(w, held.len());
        for (circuit, amount) in held {
            w.u64(*circuit).bytes(&amount.to_be_bytes());
        }
        let paying: BTreeMap<_, _> = self.paying.iter().collect();
        count(w, paying.len());
        for (batch, payments) in paying {
            w.u64(*batch);
            count(w, payments.len());
            for (peer, amount) in payments {
                w.bytes(&peer.0).bytes(&amount.to_be_bytes());
            }
        }
        w.u8(self.restored.into());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<TrustBooks, DecodeError> {
        let mut books = TrustBooks::default();
        for amounts in [&mut books.stated, &mut books.signed] {
            for _ in 0..r.u64()? {
                let peer = PeerId(r.array()?);
                amounts.insert(peer, i64::from_be_bytes(r.array()?));
            }
        }
        for _ in 0..r.u64()? {
            let circuit = r.u64()?;
            books.held.insert(circuit, i64::from_be_bytes(r.array()?));
        }
        for _ in 0..r.u64()? {
            let batch = r.u64()?;
            let mut payments = Vec::new();
            for _ in 0..r.u64()? {
                let peer = PeerId(r.array()?);
                payments.push((peer, i64::from_be_bytes(r.array()?)));
            }
            books.paying.insert(batch, payments);
        }
        books.restored = r.bool("restored")?;
        Ok(books)
    }
}

/// Raises an amount, and says by how much.
fn raise(amounts: &mut HashMap<PeerId, i64>, peer: PeerId, cumulative: i64) -> i64 {
    let newest = amounts.entry(peer).or_insert(0);
    let rise = cumulative.saturating_sub(*newest).max(0);
    *newest = cumulative.max(*newest);
    rise
}

impl Posting<'_> {
    pub(super) fn trust(&mut self, fact: &TrustFact) {
        match *fact {
            TrustFact::Stated { peer, cumulative, .. } => {
                let rise = raise(&mut self.books.trust.stated, peer, cumulative.get());
                self.post(Account::OwedBy(peer), Account::Trusted(peer), rise);
            }
            TrustFact::Allocated {
                peer, circuit, amount, ..
            } => {
                self.post(Account::Trusted(peer), Account::HeldByTrust, amount.get());
                let held = self.books.trust.held.entry(circuit.0).or_insert(0);
                *held = held.saturating_add(amount.get());
            }
            TrustFact::Spent { circuit, amount, .. } => {
                self.post(Account::HeldByTrust, Account::Earned, amount.get());
                if let Some(held) = self.books.trust.held.get_mut(&circuit.0) {
                    *held = held.saturating_sub(amount.get());
                    if *held <= 0 {
                        self.books.trust.held.remove(&circuit.0);
                    }
                }
            }
            TrustFact::Settled { peer, amount, .. } => {
                self.post(Account::Received, Account::OwedBy(peer), amount.get());
            }
            TrustFact::Signed { peer, cumulative, .. } => {
                let rise = raise(&mut self.books.trust.signed, peer, cumulative.get());
                // Statements of before a backup are learned of from the peer, and what they were for is not known any more.
                let lost = if self.books.trust.restored {
                    let there = i64::try_from(-self.books.balance(Account::Forwarding)).unwrap_or(i64::MAX);
                    rise - rise.min(there.max(0))
                } else {
                    0
                };
                self.post(Account::Forwarding, Account::OwedTo(peer), rise - lost);
                self.post(Account::Lost, Account::OwedTo(peer), lost);
            }
            TrustFact::Paying {
                batch, peer, amount, ..
            } => {
                let payments = self.books.trust.paying.entry(batch).or_default();
                payments.push((peer, amount.get()));
            }
            TrustFact::Paid { batch, .. } => {
                for (peer, amount) in self.books.trust.paying.remove(&batch).unwrap_or_default() {
                    self.post(Account::OwedTo(peer), Account::Capital, amount);
                }
            }
            TrustFact::NotPaid { batch } => {
                self.books.trust.paying.remove(&batch);
            }
            TrustFact::Agreed { .. }
            | TrustFact::Found
            | TrustFact::Confirmed { .. }
            | TrustFact::InState { .. }
            | TrustFact::OldPayments { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Books;
    use super::*;
    use obol_cell::{AccountId, SettlementMemo, Signature, Stroops, TransactionId};
    use obol_toll::CircuitId;
    use obol_toll::fact::NodeFact;

    const PEER: PeerId = PeerId([3; 32]);

    fn stroops(n: i64) -> Stroops {
        Stroops::new(n).expect("not negative")
    }

    fn post(facts: &[TrustFact]) -> Books {
        let mut books = Books::default();
        for fact in facts {
            books.node_fact(&NodeFact::Trust(*fact));
        }
        books
    }

    fn stated(k: u32, cumulative: i64) -> TrustFact {
        TrustFact::Stated {
            peer: PEER,
            k,
            cumulative: stroops(cumulative),
            memo: SettlementMemo([1; 32]),
            signature: Signature([2; 64]),
        }
    }

    #[test]
    fn what_a_peer_owes_becomes_income_and_is_settled_by_its_payment() {
        let (circuit, n) = (CircuitId(7), 1);
        let facts = [
            stated(1, 100),
            TrustFact::Allocated {
                peer: PEER,
                circuit,
                n,
                amount: stroops(80),
            },
            TrustFact::Spent {
                peer: PEER,
                circuit,
                n,
                amount: stroops(60),
                credit: 65_536,
            },
            TrustFact::Settled {
                peer: PEER,
                transaction: TransactionId([4; 32]),
                amount: stroops(100),
            },
        ];
        let mut books = post(&facts);
        books.check().expect("adds up");
        assert_eq!(books.balance(Account::OwedBy(PEER)), 0);
        assert_eq!(books.balance(Account::Trusted(PEER)), -20);
        assert_eq!(books.balance(Account::HeldByTrust), -20);
        assert_eq!(books.balance(Account::Earned), -60);
        assert_eq!(books.balance(Account::Received), 100);
        books.node_fact(&NodeFact::CircuitEnded { circuit });
        assert_eq!(books.balance(Account::Kept), -20);
        books.check().expect("adds up");
        // Nothing of it can be passed on.
        assert_eq!(books.balance(Account::Forwarding), 0);
        // A checkpoint keeps all that later facts depend on.
        let mut w = Writer::new();
        books.write(&mut w);
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        let mut again = Books::read(&mut r).expect("reads");
        r.end().expect("all of it");
        for books in [&mut books, &mut again] {
            books.node_fact(&NodeFact::Trust(stated(2, 130)));
        }
        assert_eq!(again.balance(Account::OwedBy(PEER)), 30);
        assert_eq!(books.balance(Account::OwedBy(PEER)), 30);
    }

    #[test]
    fn what_we_owe_comes_out_of_what_circuits_had_forwarded_and_is_paid_once() {
        let signed = |k, cumulative| TrustFact::Signed {
            peer: PEER,
            k,
            cumulative: stroops(cumulative),
        };
        let paying = |batch, amount| TrustFact::Paying {
            batch,
            peer: PEER,
            account: AccountId([5; 32]),
            amount: stroops(amount),
        };
        let paid = |batch| TrustFact::Paid {
            batch,
            transaction: TransactionId([6; 32]),
        };
        let facts = [
            signed(1, 50),
            paying(1, 30),
            TrustFact::NotPaid { batch: 1 },
            paying(2, 40),
            paid(2),
            paid(2),
            paid(1),
        ];
        let books = post(&facts);
        assert_eq!(books.balance(Account::OwedTo(PEER)), -10);
        assert_eq!(books.balance(Account::Capital), -40);
        // Nobody had it forwarded: that is found.
        assert_eq!(books.balance(Account::Forwarding), 50);
        books.check().expect_err("overdrawn");
        // After a backup it is a loss instead.
        let mut books = Books::default();
        books.node_fact(&NodeFact::NewEpoch);
        books.node_fact(&NodeFact::Trust(signed(9, 50)));
        books.check().expect("adds up");
        assert_eq!(books.balance(Account::Lost), 50);
    }
}
