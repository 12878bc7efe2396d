//! As payer: what we owe, to whom, and how it is paid.

use super::{MAX_UNCONFIRMED, PAYMENTS_IN_ONE, Payment};
use crate::clock::UnixMillis;
use crate::fact::{NodeFact, TrustFact};
use crate::ids::LinkId;
use crate::keys::{PayeeKeys, PayerKeys};
use crate::node::legs::Backing;
use crate::node::limits::{About, Limited};
use crate::node::{Node, Output, Report, Timer};
use crate::trust::{OwedPayment, Statement};
use obol_cell::{AccountId, Allocation, LegTrust, LinkMessage, PeerId, Stroops, TransactionId, TrustBooks};
use std::collections::BTreeSet;

/// The largest number of a statement, as of claims.
const LAST_K: u32 = (1 << 31) - 1;

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// How much more may be owed to this peer now.
    pub(in crate::node) fn can_owe(&self, peer: PeerId) -> Stroops {
        if self.trust.unsure || self.keys.settles_from().is_none() {
            return Stroops::ZERO;
        }
        let Some(c) = self.trust.creditors.get(&peer).filter(|c| c.account.is_some()) else {
            return Stroops::ZERO;
        };
        let is_told = !c.max_unsettled.is_zero();
        if !is_told || c.unconfirmed() >= MAX_UNCONFIRMED || c.k >= LAST_K {
            return Stroops::ZERO;
        }
        let of_peer = c.max_unsettled.saturating_sub(c.unsettled());
        let of_all = self.config.trust.max_owed.saturating_sub(self.owed());
        // What it holds of our statements that no circuit has is there besides.
        c.free().checked_add(of_peer.min(of_all)).unwrap_or(Stroops::MAX)
    }

    /// What we owe to all, and have not paid.
    pub(super) fn owed(&self) -> Stroops {
        let all = self.trust.creditors.values();
        all.map(|c| c.cumulative.max(c.allocated).saturating_sub(c.paid()))
            .sum()
    }

    /// Puts `amount` aside; false: it cannot be owed.
    pub(in crate::node) fn reserve_owed(&mut self, peer: PeerId, amount: Stroops) -> bool {
        if self.can_owe(peer) < amount {
            return false;
        }
        if let Some(c) = self.trust.creditors.get_mut(&peer) {
            c.allocated = c.allocated.checked_add(amount).unwrap_or(Stroops::MAX);
        }
        true
    }

    pub(in crate::node) fn unreserve_owed(&mut self, peer: PeerId, amount: Stroops) {
        if let Some(c) = self.trust.creditors.get_mut(&peer) {
            c.allocated = c.allocated.saturating_sub(amount);
        }
    }

    fn statement(&self, peer: PeerId, k: u32, cumulative: Stroops) -> Option<Statement> {
        let (account, memo) = self.keys.settles_from()?;
        Some(Statement {
            network: self.config.tariff.network,
            asset: self.config.tariff.asset,
            payer: self.config.identity,
            payee: peer,
            account,
            memo,
            k,
            cumulative,
        })
    }

    /// The next statement, made durable and then sent.
    pub(in crate::node) fn state_and_send(&mut self, link: LinkId, peer: PeerId, allocations: Vec<Allocation>) {
        let Some(c) = self.trust.creditors.get(&peer) else {
            return;
        };
        let (k, cumulative) = (c.k.saturating_add(1), c.cumulative.max(c.allocated));
        let signed = self
            .statement(peer, k, cumulative)
            .and_then(|s| Some((s.memo, self.keys.sign_statement(&s)?)));
        let Some((memo, signature)) = signed else {
            return self.unreserve_owed(peer, allocations.iter().map(|a| a.amount).sum());
        };
        let fact = TrustFact::Signed { peer, k, cumulative };
        let rise = self.apply_signed(peer, k, cumulative);
        self.volume(peer, rise);
        self.fact(NodeFact::Trust(fact));
        let statement = LegTrust {
            k,
            cumulative,
            memo,
            signature,
            allocations,
        };
        self.send_link(link, &LinkMessage::LegTrust(statement));
        self.owed_rose(peer);
    }

    /// The more is owed, the earlier it is paid.
    fn owed_rose(&mut self, peer: PeerId) {
        let (owed, most) = (self.owed(), self.config.trust.max_owed);
        self.level(Limited::Owed, About::All, owed.get_u64(), most.get_u64());
        let Some(c) = self.trust.creditors.get(&peer) else {
            return;
        };
        let (used, limit) = (c.unsettled(), c.max_unsettled);
        self.level(Limited::OwedToPeer, About::Peer(peer), used.get_u64(), limit.get_u64());
        let near = |used: Stroops, limit: Stroops| u128::from(used.get_u64()) * 5 >= u128::from(limit.get_u64()) * 4;
        let soon = self.now.plus(self.config.close_jitter_ms);
        let is_soon = self.trust.settle_at.is_some_and(|at| at <= soon);
        if (near(used, limit) || near(owed, most)) && !is_soon {
            let at = self.now.plus(self.jitter.up_to(self.config.close_jitter_ms));
            self.settle_by(at);
        } else if self.trust.settle_at.is_none() {
            self.next_period(self.now);
        }
    }

    fn settle_by(&mut self, at: UnixMillis) {
        self.trust.settle_at = Some(at);
        self.at(at, Timer::PayOwed);
    }

    /// After a start: payments that were under way are asked for again, and the next time to pay is drawn.
    pub(in crate::node) fn schedule_trust(&mut self, now: UnixMillis) {
        if self.trust.unsure {
            // Nothing is asked for again that may have been paid: all of it is looked for first.
            if let Some((from, memo)) = self.keys.settles_from() {
                self.emit(Output::FindPayments { from, memo });
            }
            return self.next_period(now);
        }
        let batches: BTreeSet<u64> = self
            .trust
            .creditors
            .values()
            .flat_map(|c| &c.payments)
            .filter(|p| p.transaction.is_none())
            .map(|p| p.batch)
            .collect();
        for batch in batches {
            self.emit_batch(batch);
        }
        if !self.config.trust.max_owed.is_zero() || !self.owed().is_zero() {
            self.next_period(now);
        }
    }

    fn next_period(&mut self, now: UnixMillis) {
        let period = self.config.trust.period_ms.max(1);
        let started = self.started.unwrap_or(now);
        let next = (now.since(started) / period).saturating_add(1);
        let within = self.jitter.up_to(period - 1);
        self.settle_by(started.plus(next.saturating_mul(period).saturating_add(within)));
    }

    /// It is time to pay what is owed.
    pub(in crate::node) fn pay_owed(&mut self, now: UnixMillis) {
        if self.trust.settle_at.is_none_or(|at| at > now) {
            return;
        }
        self.next_period(now);
        if self.trust.unsure {
            return;
        }
        let least = self
            .config
            .trust
            .min_payment
            .max(Stroops::new(1).unwrap_or(Stroops::ZERO));
        let due: Vec<(PeerId, AccountId, Stroops)> = self
            .trust
            .creditors
            .iter()
            .filter(|(_, c)| c.unconfirmed() < MAX_UNCONFIRMED)
            .filter_map(|(peer, c)| Some((*peer, c.account?, c.cumulative.saturating_sub(c.paid()))))
            .filter(|(_, _, amount)| *amount >= least)
            .collect();
        let is_apart = |peer: &PeerId| self.trust.creditors.get(peer).is_some_and(|c| c.apart);
        let (apart, together): (Vec<_>, Vec<_>) = due.into_iter().partition(|(peer, _, _)| is_apart(peer));
        for some in together.chunks(PAYMENTS_IN_ONE).chain(apart.chunks(1)) {
            let batch = self.trust.next_batch;
            for &(peer, account, amount) in some {
                self.apply_paying(batch, peer, account, amount);
                self.fact(NodeFact::Trust(TrustFact::Paying {
                    batch,
                    peer,
                    account,
                    amount,
                }));
            }
            self.emit_batch(batch);
        }
    }

    fn payments_of(&self, batch: u64) -> Vec<OwedPayment> {
        let all = self.trust.creditors.values().flat_map(|c| &c.payments);
        let of_batch = all.filter(|p| p.batch == batch);
        let payments = of_batch.map(|p| OwedPayment {
            account: p.account,
            amount: p.amount,
        });
        payments.collect()
    }

    fn emit_batch(&mut self, batch: u64) {
        let Some((from, memo)) = self.keys.settles_from() else {
            return;
        };
        let payments = self.payments_of(batch);
        self.emit(Output::PayOwed {
            batch,
            from,
            memo,
            payments,
        });
    }

    /// The driver: the ledger has the transaction.
    pub(in crate::node) fn owed_paid(&mut self, batch: u64, transaction: TransactionId) {
        let peers = self.peers_of(batch);
        if peers.is_empty() {
            return;
        }
        self.apply_paid(batch, transaction);
        self.fact(NodeFact::Trust(TrustFact::Paid { batch, transaction }));
        for peer in peers {
            if let Some(c) = self.trust.creditors.get_mut(&peer) {
                c.apart = false;
            }
            if let Some(link) = self.link_to(peer) {
                self.announce(link, peer, |p| p.batch == batch);
            }
        }
        let (owed, most) = (self.owed(), self.config.trust.max_owed);
        self.level(Limited::Owed, About::All, owed.get_u64(), most.get_u64());
    }

    /// The driver: it never will. One payee that cannot be paid fails the transaction of all, so from then on each is paid by one of its
    /// own, until that is done once.
    pub(in crate::node) fn owed_not_paid(&mut self, batch: u64) {
        let peers = self.peers_of(batch);
        if peers.is_empty() {
            return;
        }
        self.apply_not_paid(batch);
        self.fact(NodeFact::Trust(TrustFact::NotPaid { batch }));
        if peers.len() == 1 {
            return;
        }
        for peer in peers {
            if let Some(c) = self.trust.creditors.get_mut(&peer) {
                c.apart = true;
            }
        }
        let at = self.now.plus(self.jitter.up_to(self.config.close_jitter_ms));
        if self.trust.settle_at.is_none_or(|next| next > at) {
            self.settle_by(at);
        }
    }

    /// The driver has found what was paid before and after a backup.
    pub(in crate::node) fn payments_found(&mut self, transactions: Vec<(TransactionId, Vec<OwedPayment>)>) {
        if !self.trust.unsure {
            return;
        }
        for (transaction, mut payments) in transactions {
            let all = self.trust.creditors.values().flat_map(|c| &c.payments);
            if all.clone().any(|p| p.transaction == Some(transaction)) {
                continue;
            }
            payments.sort_unstable();
            let under_way: BTreeSet<u64> = all.filter(|p| p.transaction.is_none()).map(|p| p.batch).collect();
            let same = under_way.into_iter().find(|batch| {
                let mut known = self.payments_of(*batch);
                known.sort_unstable();
                known == payments
            });
            let batch = same.unwrap_or(self.trust.next_batch);
            if same.is_none() {
                for p in payments {
                    let creditor = self.trust.creditors.iter().find(|(_, c)| c.account == Some(p.account));
                    if let Some((&peer, _)) = creditor {
                        self.apply_paying(batch, peer, p.account, p.amount);
                        self.fact(NodeFact::Trust(TrustFact::Paying {
                            batch,
                            peer,
                            account: p.account,
                            amount: p.amount,
                        }));
                    }
                }
            }
            self.owed_paid(batch, transaction);
        }
        // What was under way and is not there never will be.
        let all = self.trust.creditors.values().flat_map(|c| &c.payments);
        let never: BTreeSet<u64> = all.filter(|p| p.transaction.is_none()).map(|p| p.batch).collect();
        for batch in never {
            self.owed_not_paid(batch);
        }
        self.trust.unsure = false;
        self.fact(NodeFact::Trust(TrustFact::Found));
    }

    /// Whom a transaction that is under way pays.
    fn peers_of(&self, batch: u64) -> Vec<PeerId> {
        let all = self.trust.creditors.iter();
        all.filter(|(_, c)| c.payments.iter().any(|p| p.batch == batch && p.transaction.is_none()))
            .map(|(peer, _)| *peer)
            .collect()
    }

    pub(super) fn announce(&mut self, link: LinkId, peer: PeerId, which: impl Fn(&Payment) -> bool) {
        let Some(c) = self.trust.creditors.get(&peer) else {
            return;
        };
        let paid = c.payments.iter().filter(|p| which(p));
        let paid: Vec<_> = paid.filter_map(|p| Some((p.transaction?, p.amount))).collect();
        for (transaction, amount) in paid {
            self.send_link(link, &LinkMessage::LegPaid { transaction, amount });
        }
    }

    /// The payee has seen a payment.
    pub(in crate::node) fn leg_settled(&mut self, peer: PeerId, transaction: TransactionId) {
        let Some(c) = self.trust.creditors.get(&peer) else {
            return;
        };
        let ours = |p: &Payment| p.transaction == Some(transaction) && !p.confirmed;
        if !c.payments.iter().any(ours) {
            return;
        }
        self.apply_confirmed(peer, transaction);
        self.fact(NodeFact::Trust(TrustFact::Confirmed { peer, transaction }));
        let c = self.trust.creditors.get(&peer);
        let (used, limit) = c.map_or_else(Default::default, |c| (c.unsettled(), c.max_unsettled));
        self.level(Limited::OwedToPeer, About::Peer(peer), used.get_u64(), limit.get_u64());
    }

    /// The payee's books.
    pub(in crate::node) fn leg_trusted(&mut self, link: LinkId, peer: PeerId, books: &TrustBooks) {
        let known = self.trust.creditors.contains_key(&peer);
        // Nobody is owed anything only because it says so.
        if !known && self.config.trust.max_owed.is_zero() {
            return;
        }
        let c = self.trust.creditors.entry(peer).or_default();
        let (k, cumulative) = (c.k, c.cumulative);
        if books.k > k || books.cumulative > cumulative {
            // We may have signed it before our books came out of a backup; our signature says whether.
            let statement = self.statement(peer, books.k, books.cumulative);
            let ours = statement.and_then(|s| self.keys.sign_statement(&s)) == Some(books.signature);
            if !ours || books.k < k || books.cumulative < cumulative {
                if let Some(c) = self.trust.creditors.get_mut(&peer) {
                    c.max_unsettled = Stroops::ZERO;
                }
                return self.report(Report::BadSignature);
            }
            self.apply_signed(peer, books.k, books.cumulative);
            let (k, cumulative) = (books.k, books.cumulative);
            self.fact(NodeFact::Trust(TrustFact::Signed { peer, k, cumulative }));
        }
        let batched = self.batches.keys().any(|(_, by)| *by == Backing::Trust(peer));
        let Some(c) = self.trust.creditors.get_mut(&peer) else {
            return;
        };
        if c.account != Some(books.account) {
            c.account = Some(books.account);
            let account = books.account;
            self.fact(NodeFact::Trust(TrustFact::Agreed { peer, account }));
        }
        let Some(c) = self.trust.creditors.get_mut(&peer) else {
            return;
        };
        c.max_unsettled = books.max_unsettled;
        let (k, cumulative, confirmed) = (c.k, c.cumulative, c.confirmed());
        let same = (books.k, books.cumulative) == (k, cumulative) && books.unallocated <= cumulative;
        if same && !batched {
            c.allocated = cumulative.saturating_sub(books.unallocated);
        }
        let behind = k > books.k;
        if behind {
            // It did not get the newest one, or has forgotten it.
            let statement = self.statement(peer, k, cumulative);
            let signed = statement.and_then(|s| Some((s.memo, self.keys.sign_statement(&s)?)));
            if let Some((memo, signature)) = signed {
                let allocations = Vec::new();
                let again = LegTrust {
                    k,
                    cumulative,
                    memo,
                    signature,
                    allocations,
                };
                self.send_link(link, &LinkMessage::LegTrust(again));
            }
        }
        if books.settled < confirmed {
            self.announce(link, peer, |_| true);
        }
    }
}
