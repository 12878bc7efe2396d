//! As payee: who owes us, what they state, what the ledger shows of it.

use super::Debtor;
use crate::clock::UnixMillis;
use crate::escrow::incoming;
use crate::fact::{NodeFact, Owner, TrustFact};
use crate::ids::{CircuitId, LinkId};
use crate::keys::{PayeeKeys, PayerKeys};
use crate::node::legs::sum_of;
use crate::node::limits::{About, Limited};
use crate::node::{Node, Output, Report, Timer};
use crate::trust::{ExpectedPayment, NotPaid, Statement, Trusted};
use obol_cell::{AccountId, LegTrust, LinkMessage, PeerId, Signature, Stroops, TransactionId, TrustBooks};
use std::collections::{BTreeMap, BTreeSet};

/// Settlements of one payer that are looked for at a time.
const MAX_CHECKS: usize = 4;
/// A settlement that the ledger does not show yet is looked for again after this, and twice as long after each further look.
const LOOK_AGAIN_MS: u64 = 5_000;
/// After so many looks it is forgotten, until it is announced again.
const LOOKS: u8 = 10;

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// The operator's list, and the account that settlements go to.
    pub(in crate::node) fn trust_list(&mut self, account: AccountId, peers: Vec<Trusted>) {
        let list: BTreeMap<PeerId, Trusted> = peers.into_iter().map(|t| (t.peer, t)).collect();
        let told: BTreeSet<PeerId> = list.keys().chain(self.trust.list.keys()).copied().collect();
        self.trust.account = Some(account);
        self.trust.list = list;
        for peer in told {
            if let Some(link) = self.link_to(peer) {
                self.tell_debtor(link, peer);
            }
        }
    }

    pub(in crate::node) fn greet_trusted(&mut self, link: LinkId, peer: PeerId) {
        // Who paid while there was no link says so, and what it is owed it hears.
        if let Some(c) = self.trust.creditors.get_mut(&peer) {
            c.max_unsettled = Stroops::ZERO;
        }
        if self.trust.list.contains_key(&peer) || self.trust.debtors.contains_key(&peer) {
            self.tell_debtor(link, peer);
        }
        self.announce(link, peer, |p| !p.confirmed);
    }

    fn limit_of(&self, peer: PeerId) -> Stroops {
        self.trust.list.get(&peer).map_or(Stroops::ZERO, |t| {
            t.max_unsettled.unwrap_or(self.config.trust.max_unsettled)
        })
    }

    /// Our books on what this peer owes.
    fn tell_debtor(&mut self, link: LinkId, peer: PeerId) {
        let Some(account) = self.trust.account else {
            return;
        };
        let max_unsettled = self.limit_of(peer);
        let nothing = Debtor::default();
        let d = self.trust.debtors.get(&peer).unwrap_or(&nothing);
        let books = TrustBooks {
            account,
            max_unsettled,
            k: d.k,
            cumulative: d.cumulative,
            signature: d.signature.unwrap_or(Signature([0; 64])),
            unallocated: d.cumulative.saturating_sub(d.allocated),
            settled: d.settled,
        };
        self.send_link(link, &LinkMessage::LegTrusted(books));
    }

    /// Whether what comes from this neighbour is owed: it may, and no escrow of it is there to pay by.
    pub(in crate::node) fn pays_by_trust(&self, peer: PeerId) -> bool {
        self.trust.list.contains_key(&peer)
            && !self.incoming.values().any(|i| {
                i.owner == Owner::Peer(peer)
                    && i.phase == incoming::Phase::Open
                    && i.balance.saturating_sub(i.allocated) > self.config.reserve
            })
    }

    /// A statement, all or nothing: cheap checks, then the signature, then the books.
    pub(in crate::node) fn leg_trust(&mut self, now: UnixMillis, link: LinkId, peer: PeerId, stated: &LegTrust) {
        let Some(sum) = sum_of(&stated.allocations) else {
            return self.close_link(link);
        };
        let Some(trusted) = self.trust.list.get(&peer).copied() else {
            return self.tell_debtor(link, peer);
        };
        let limit = self.limit_of(peer);
        // Two payers with one memo could announce one transaction twice.
        let memo_of_another = self
            .trust
            .debtors
            .iter()
            .any(|(other, d)| *other != peer && d.memo == Some(stated.memo));
        let d = self.trust.debtors.entry(peer).or_default();
        if stated.allocations.is_empty() && stated.k <= d.k {
            return self.tell_debtor(link, peer);
        }
        let falls = (stated.k > d.k && stated.cumulative < d.cumulative)
            || (stated.k < d.k && stated.cumulative > d.cumulative)
            || (stated.k == d.k && d.k > 0);
        let cumulative = stated.cumulative.max(d.cumulative);
        let sealed = d.sealed && stated.k > d.k;
        let allocated = if sealed {
            // What of it was used up before is not known: nothing of it is free, but what this message assigns.
            stated.cumulative.saturating_sub(sum).max(d.allocated)
        } else {
            d.allocated
        };
        let too_much = cumulative.saturating_sub(d.settled) > limit && stated.cumulative > d.cumulative;
        let too_little = sum > cumulative.saturating_sub(allocated);
        if d.series.check(stated.k).is_err() || falls || memo_of_another || too_much || too_little {
            return self.tell_debtor(link, peer);
        }
        let statement = Statement {
            network: self.config.tariff.network,
            asset: self.config.tariff.asset,
            payer: peer,
            payee: self.config.identity,
            account: trusted.account,
            memo: stated.memo,
            k: stated.k,
            cumulative: stated.cumulative,
        };
        if !self.keys.verify_statement(&statement, &stated.signature) {
            self.report(Report::BadSignature);
            return self.bad_signature(link);
        }
        let fact = TrustFact::Stated {
            peer,
            k: stated.k,
            cumulative: stated.cumulative,
            memo: stated.memo,
            signature: stated.signature,
        };
        let rise = self.apply_stated(fact);
        if let Some(d) = self.trust.debtors.get_mut(&peer) {
            if sealed {
                d.sealed = false;
                d.allocated = allocated;
            }
            let used = d.unsettled().get_u64();
            self.level(Limited::OwedToUs, About::Peer(peer), used, limit.get_u64());
        }
        self.fact(NodeFact::Trust(fact));
        if sealed {
            self.fact_debtor_state(peer);
        }
        self.report(Report::Owed { rise });
        for a in &stated.allocations {
            // A circuit that is gone: the allocation is the payer's balance, without an answer [2.20].
            if let Some(circuit) = self.by_prev.get(&(link, a.circuit)).copied() {
                self.hold_owed(peer, circuit, a.n, a.amount);
                self.arrived(now, circuit, a.n, a.amount);
            }
        }
        if stated.allocations.is_empty() {
            self.tell_debtor(link, peer);
        }
    }

    fn fact_debtor_state(&mut self, peer: PeerId) {
        if let Some(d) = self.trust.debtors.get(&peer) {
            let state = TrustFact::InState {
                peer,
                newest_k: d.series.newest(),
                seen: d.series.to_bytes(),
                allocated: d.allocated,
            };
            self.fact(NodeFact::Trust(state));
        }
    }

    fn hold_owed(&mut self, peer: PeerId, circuit: CircuitId, n: u16, amount: Stroops) {
        if let Some(d) = self.trust.debtors.get_mut(&peer) {
            d.allocated = d.allocated.checked_add(amount).unwrap_or(Stroops::MAX);
        }
        if let Some(c) = self.circuits.get_mut(&circuit) {
            c.owed = c.owed.checked_add(amount).unwrap_or(Stroops::MAX);
            c.in_journal = true;
        }
        self.fact(NodeFact::Trust(TrustFact::Allocated {
            peer,
            circuit,
            n,
            amount,
        }));
    }

    /// What was owed for a circuit has bought its bytes.
    pub(in crate::node) fn spend_owed(&mut self, circuit: CircuitId, n: u16, amount: Stroops, credit: u64) {
        if let Some(peer) = self.circuits.get(&circuit).and_then(|c| c.from) {
            self.fact(NodeFact::Trust(TrustFact::Spent {
                peer,
                circuit,
                n,
                amount,
                credit,
            }));
        }
    }

    /// The payer says that it has paid.
    pub(in crate::node) fn leg_paid(
        &mut self,
        _now: UnixMillis,
        link: LinkId,
        peer: PeerId,
        transaction: TransactionId,
        amount: Stroops,
    ) {
        let Some(d) = self.trust.debtors.get_mut(&peer) else {
            return;
        };
        if d.transactions.contains_key(&transaction) {
            let total = d.settled;
            return self.send_link(link, &LinkMessage::LegSettled { transaction, total });
        }
        if !self.trust.list.contains_key(&peer)
            || amount.is_zero()
            || d.checks.contains_key(&transaction)
            || d.checks.len() >= MAX_CHECKS
        {
            return;
        }
        d.checks.insert(transaction, (amount, 0, false));
        self.check_payment(peer, transaction);
    }

    fn check_payment(&mut self, peer: PeerId, transaction: TransactionId) {
        let (Some(to), Some(trusted)) = (self.trust.account, self.trust.list.get(&peer)) else {
            return;
        };
        let from = trusted.account;
        let Some(d) = self.trust.debtors.get_mut(&peer) else {
            return;
        };
        let (Some(memo), Some(check)) = (d.memo, d.checks.get_mut(&transaction)) else {
            return;
        };
        check.2 = true;
        let payment = ExpectedPayment { from, to, memo };
        self.out.push_now(Output::CheckPayment {
            peer,
            transaction,
            payment,
        });
    }

    pub(in crate::node) fn look_again(&mut self, peer: PeerId, transaction: TransactionId) {
        let asked = self
            .trust
            .debtors
            .get(&peer)
            .and_then(|d| d.checks.get(&transaction))
            .map(|c| c.2);
        if asked == Some(false) {
            self.check_payment(peer, transaction);
        }
    }

    /// The ledger was asked about a settlement.
    pub(in crate::node) fn payment_checked(
        &mut self,
        now: UnixMillis,
        peer: PeerId,
        transaction: TransactionId,
        result: Result<Stroops, NotPaid>,
    ) {
        let Some(d) = self.trust.debtors.get_mut(&peer) else {
            return;
        };
        let Some((announced, looks, asked)) = d.checks.get_mut(&transaction) else {
            return;
        };
        *asked = false;
        match result {
            Ok(arrived) if arrived == *announced => {
                let fact = TrustFact::Settled {
                    peer,
                    transaction,
                    amount: arrived,
                };
                d.checks.remove(&transaction);
                self.apply_settled(peer, transaction, arrived);
                self.fact(NodeFact::Trust(fact));
                self.report(Report::OwedSettled { amount: arrived });
                let limit = self.limit_of(peer);
                let d = self.trust.debtors.get(&peer);
                let (total, used) = d.map_or_else(Default::default, |d| (d.settled, d.unsettled()));
                self.level(Limited::OwedToUs, About::Peer(peer), used.get_u64(), limit.get_u64());
                if let Some(link) = self.link_to(peer) {
                    self.send_link(link, &LinkMessage::LegSettled { transaction, total });
                }
            }
            Err(NotPaid::Absent | NotPaid::Unreachable) if *looks < LOOKS => {
                let wait = LOOK_AGAIN_MS << *looks;
                *looks += 1;
                self.at(now.plus(wait), Timer::Settlement(peer, transaction));
            }
            // Another sum than was announced is another payment than was announced.
            Ok(_) | Err(_) => {
                d.checks.remove(&transaction);
                self.report(Report::BadSettlement);
            }
        }
    }
}
