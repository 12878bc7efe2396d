//! What a guard's tunnels do for its escrows: offers, questions about balances, requests to close. And expiry.

use super::escrows::{Guard, Wish};
use super::io::{Output, Report, Unpaid};
use super::tunnel::{Phase, Question};
use super::{PayPolicy, Payer};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::escrow::outgoing::{self, Phase as Life};
use crate::fact::{OutFact, PayerFact};
use crate::ids::TunnelId;
use crate::keys::PayerKeys;
use obol_cell::{
    Balance, Claim, DeclineCode, EscrowAcceptance, EscrowId, EscrowState, EscrowTerms, Forward, OwnerAsks, Ownership,
    Pay, Signature, Step, Stroops, ToNode,
};

/// The guard's books are asked for at a circuit's first payment if they were not for this long (2.3).
const BALANCE_MS: u64 = 600_000;
/// An offer names the ledger from which its escrow counts, and the guard lets it be 30 ledgers off (settlement.md): one that found no tunnel for this
/// long is made anew.
const OFFER_KEEPS_MS: u64 = 20_000;
const NOT_NOW_MS: u64 = 60_000;
const REFUSED_MS: u64 = 3_600_000;

impl<K: PayerKeys> Payer<K> {
    /// Sees to the escrows of this tunnel's guard. True: the tunnel is busy with that.
    pub(super) fn errand(&mut self, tunnel: TunnelId, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get(&tunnel) else {
            return true;
        };
        let (Some(peer), Some(first)) = (t.guard(), t.hops.first()) else {
            return true;
        };
        if !first.hop.paid || matches!(t.phase, Phase::Quoting(_)) {
            return false;
        }
        let (paying, listening) = (
            t.phase == Phase::Ready && self.config.pay != PayPolicy::Never,
            t.conversation.is_some(),
        );
        if let Some(guard) = self.guards.get_mut(&peer)
            && let Wish::Offer { made, asked: None, .. } = guard.wish
            && now.since(made) > OFFER_KEEPS_MS
        {
            guard.wish = Wish::At(now);
        }
        let locked = self.locked();
        let Some(guard) = self.guards.get_mut(&peer) else {
            return false;
        };
        if paying && guard.wish == Wish::None && guard.needs_another(now) {
            guard.wish = Wish::At(now.plus(self.jitter.up_to(self.config.opening_jitter_ms)));
        }
        if let Wish::At(at) = guard.wish
            && now >= at
            && let Some(rules) = guard.rules
        {
            let deposit = self.config.deposit.max(rules.min_deposit);
            let whole = locked.checked_add(deposit);
            let fits = self
                .config
                .max_locked
                .is_none_or(|most| whole.is_some_and(|whole| whole <= most));
            if fits {
                guard.wish = Wish::Asked;
                self.outbox.push_now(Output::WantEscrow {
                    guard: peer,
                    rules,
                    deposit,
                    life: self
                        .config
                        .life
                        .clamp(rules.min_life, rules.max_life.max(rules.min_life)),
                });
            } else {
                // What is locked comes back with time.
                guard.wish = Wish::At(now.plus(NOT_NOW_MS));
            }
        }
        if let Wish::Offer {
            offer,
            made,
            asked: None,
        } = guard.wish
        {
            if listening {
                return self.cancel_listen(tunnel, now);
            }
            guard.wish = Wish::Offer {
                offer,
                made,
                asked: Some(tunnel),
            };
            self.ask(
                tunnel,
                1,
                Question::Offer(offer.escrow),
                &ToNode::OfferEscrow(offer),
                now,
            );
            return true;
        }
        let spares = t.n > 0 && t.payment.is_none() && t.phase == Phase::Ready;
        if spares
            && let Some(n) = t.n.checked_add(1)
            && let Some(e) = guard.escrows.iter_mut().find(|e| e.needs_spare(now))
        {
            e.spare_given = true;
            let spare = outgoing::NextClaim {
                k: e.books.k.saturating_add(1),
                cumulative: e.books.cumulative,
            };
            if let Some(signature) = self.keys.sign_claim(&e.books.escrow, spare.k, spare.cumulative) {
                e.books.signed(spare);
                let (escrow, k, cumulative) = (e.id(), spare.k, spare.cumulative);
                self.outbox
                    .fact(PayerFact::Out(OutFact::Signed { escrow, k, cumulative }));
                let claim = Claim {
                    escrow,
                    k,
                    cumulative,
                    allocation: Stroops::ZERO,
                    signature,
                    opening: None,
                };
                // A payment of nothing, which turns what is held into credit: nothing is, and it has no answer.
                let pay = Pay {
                    n,
                    step: Step::FIRST,
                    forward: Forward::Pass(Stroops::ZERO),
                    claim: Some(claim),
                };
                self.outbox.push(Output::Send {
                    tunnel,
                    hop: 1,
                    body: ToNode::Pay(pay).encode(),
                });
                if let Some(t) = self.tunnels.get_mut(&tunnel) {
                    t.n = n;
                }
            }
        }
        let Some(guard) = self.guards.get_mut(&peer) else {
            return false;
        };
        if let Some(e) = guard
            .escrows
            .iter_mut()
            .find(|e| e.close_wanted && !e.away && e.in_flight == 0)
        {
            let (whole, escrow, final_k) = (e.books.escrow, e.id(), e.books.k);
            if listening {
                return self.cancel_listen(tunnel, now);
            }
            e.close_wanted = false;
            let Some(owner) = self.sign_owner(&whole, OwnerAsks::Close { final_k }) else {
                // Its key is gone: its guard flushes it in its margin, unasked.
                return false;
            };
            self.ask(
                tunnel,
                1,
                Question::Close(escrow),
                &ToNode::CloseEscrow { escrow, final_k, owner },
                now,
            );
            return true;
        }
        false
    }

    /// What is locked, or about to be, in escrows to all guards.
    fn locked(&self) -> Stroops {
        let of_guard = |g: &Guard| -> Stroops {
            let escrows = g.escrows.iter().filter(|e| e.books.phase != Life::Ended);
            let locked: Stroops = escrows.map(|e| e.books.deposit.max(e.books.balance)).sum();
            let wished = match g.wish {
                Wish::Offer { offer, .. } => offer.deposit,
                Wish::Asked => self.config.deposit,
                Wish::None | Wish::At(_) => Stroops::ZERO,
            };
            locked.checked_add(wished).unwrap_or(Stroops::MAX)
        };
        self.guards.values().map(of_guard).sum()
    }

    /// Asks for the guard's books on `escrow` where they are needed before a payment. True: the payment must wait.
    pub(super) fn balance_needed(&mut self, tunnel: TunnelId, escrow: EscrowId, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get(&tunnel) else {
            return true;
        };
        let (first, listening) = (t.n == 0, t.conversation.is_some());
        let refused = t.payment.is_some();
        let Some(e) = t.guard().and_then(|g| self.guards.get(&g)).and_then(|g| g.get(escrow)) else {
            return false;
        };
        let since = e.balance_asked.map_or(u64::MAX, |at| now.since(at));
        if e.books.known {
            let wanted = refused || first && (e.stale || since >= BALANCE_MS);
            // While payments are in flight the answer would say nothing.
            if e.in_flight > 0 || !wanted {
                return false;
            }
        } else if since < e.patience_ms() {
            // The guard believes an escrow only after reading it from a closed ledger: it is asked until it has.
            return true;
        }
        let opening = (!e.books.known).then(|| e.books.escrow.terms.opening());
        let (guard, whole) = (t.guard(), e.books.escrow);
        if listening {
            self.cancel_listen(tunnel, now);
            return true;
        }
        let owner = self.sign_owner(&whole, OwnerAsks::Books);
        if let Some(e) = guard
            .and_then(|g| self.guards.get_mut(&g))
            .and_then(|g| g.get_mut(escrow))
        {
            e.balance_asked = Some(now);
            // Without its key nothing can be paid by it either: it is passed over from here on.
            e.books.keyless |= owner.is_none();
        }
        let Some(owner) = owner else {
            return true;
        };
        self.ask(
            tunnel,
            1,
            Question::Balance(escrow),
            &ToNode::BalanceQuery { escrow, opening, owner },
            now,
        );
        true
    }

    /// The signature by which the guard knows us for the owner of this escrow.
    fn sign_owner(&self, escrow: &Escrow, asks: OwnerAsks) -> Option<Signature> {
        self.keys.sign_owner(&Ownership {
            network: escrow.terms.network,
            payee: escrow.terms.payee,
            escrow: escrow.id(),
            asks,
        })
    }

    pub(super) fn balance_told(&mut self, tunnel: TunnelId, told: &Balance, now: UnixMillis) -> bool {
        let Some(peer) = self.tunnels.get(&tunnel).and_then(|t| t.guard()) else {
            return true;
        };
        let Some(e) = self.guards.get_mut(&peer).and_then(|g| g.get_mut(told.escrow)) else {
            return true;
        };
        let (before, unheard_of) = (e.books.allocated, e.unheard_of);
        match told.state {
            EscrowState::Open | EscrowState::Closing => {
                e.books.known |= told.state == EscrowState::Open;
                e.reconcile(told, now);
                let (allocated, open) = (e.books.allocated, e.books.phase == Life::Open);
                self.books_of_refused(tunnel, told, before.saturating_sub(unheard_of), allocated, now);
                if open && told.state == EscrowState::Closing {
                    self.record_about(OutFact::Closing { escrow: told.escrow }, now);
                }
            }
            // Not believed (yet): it is asked again a little later.
            EscrowState::Unknown => {
                e.books.known = false;
                e.stale = e.books.k > 0;
                e.balance_asked = Some(now);
                e.unknown = e.unknown.saturating_add(1);
            }
        }
        true
    }

    /// The guard is payee of the escrow that was offered: its refund is checked before any money goes in. False: a lie.
    pub(super) fn offer_accepted(&mut self, tunnel: TunnelId, acceptance: &EscrowAcceptance, now: UnixMillis) -> bool {
        let Some(peer) = self.tunnels.get(&tunnel).and_then(|t| t.guard()) else {
            return true;
        };
        let Some(guard) = self.guards.get_mut(&peer) else {
            return true;
        };
        let Wish::Offer { offer, .. } = guard.wish else {
            return true;
        };
        let terms = EscrowTerms::new(&offer, peer, acceptance.payee_account, acceptance.min_deposit);
        let escrow = Escrow {
            terms,
            signer: acceptance.signer,
        };
        let honest = acceptance.min_deposit <= offer.deposit && self.keys.verify_refund(&escrow, &acceptance.refund);
        if !honest {
            guard.wish = Wish::At(UnixMillis(u64::MAX));
            return false;
        }
        guard.wish = Wish::None;
        guard.declined = 0;
        let (deposit, refund) = (offer.deposit, acceptance.refund);
        let fact = OutFact::Accepted {
            escrow,
            deposit,
            refund,
            margin: guard.rules.map_or(0, |rules| rules.margin),
            payee: peer,
            since: now.secs(),
        };
        guard.apply(&fact, &mut self.jitter);
        self.outbox.fact(PayerFact::Out(fact));
        self.outbox.push(Output::OpenEscrow {
            escrow,
            deposit,
            refund,
        });
        true
    }

    pub(super) fn offer_declined(
        &mut self,
        tunnel: TunnelId,
        _offer: EscrowId,
        code: DeclineCode,
        now: UnixMillis,
    ) -> bool {
        let Some(peer) = self.tunnels.get(&tunnel).and_then(|t| t.guard()) else {
            return true;
        };
        if let Some(guard) = self.guards.get_mut(&peer) {
            let wait = match code {
                DeclineCode::NotNow => NOT_NOW_MS,
                // The next offer is another one: it names another key and a newer ledger. What is wrong with the rules themselves stays so.
                DeclineCode::Exists | DeclineCode::OutsideRules => {
                    let wait = NOT_NOW_MS << guard.declined.min(6);
                    guard.declined = guard.declined.saturating_add(1);
                    wait.min(REFUSED_MS)
                }
                DeclineCode::OtherMoney | DeclineCode::Unknown => REFUSED_MS,
            };
            guard.wish = Wish::At(now.plus(wait));
        }
        self.outbox.push_now(Output::Report(Report::Unpaid {
            tunnel,
            hop: 1,
            why: Unpaid::Declined,
        }));
        true
    }

    /// Pay by this escrow no more, and ask its guard to flush it.
    pub(super) fn close_wanted(&mut self, escrow: EscrowId, now: UnixMillis) {
        let Some(peer) = self.guard_of(escrow) else { return };
        let Some(e) = self.guards.get_mut(&peer).and_then(|g| g.get_mut(escrow)) else {
            return;
        };
        if e.books.phase == Life::Ended {
            return;
        }
        e.close_wanted = true;
        self.record_about(OutFact::Closing { escrow }, now);
    }

    /// The client is at another place: of these escrows it says nothing there, nor does it go on with an offer that was begun elsewhere.
    pub(super) fn moved(&mut self, away: Vec<EscrowId>, now: UnixMillis) {
        let mut has_moved = false;
        for guard in self.guards.values_mut() {
            for e in &mut guard.escrows {
                let is_away = away.contains(&e.id());
                has_moved |= is_away && !e.away;
                e.away = is_away;
            }
        }
        if has_moved {
            for guard in self.guards.values_mut() {
                if matches!(guard.wish, Wish::Offer { .. }) {
                    guard.wish = Wish::At(now.plus(self.jitter.up_to(self.config.opening_jitter_ms)));
                }
            }
        }
        self.away = away;
        self.advance_all(now);
    }

    /// Expired escrows are taken back.
    pub(super) fn expire(&mut self, now: UnixMillis) {
        for e in self.guards.values_mut().flat_map(|g| &mut g.escrows) {
            let open = matches!(e.books.phase, Life::Open | Life::Closing);
            if open && !e.books.refunding && now.secs() >= e.books.escrow.terms.expiry {
                e.books.refunding = true;
                self.outbox.push_now(Output::Refund {
                    escrow: e.books.escrow,
                    refund: e.books.refund,
                });
            }
        }
    }
}
