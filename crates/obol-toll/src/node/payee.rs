//! Escrows that pay us: offers, belief, claims, flush. The life of one escrow is in `escrow/incoming.rs`.
//!
//! An offer needs "E does not exist yet", belief needs reading E: both are questions to the driver, with a time limit. Nothing is
//! remembered of an offer that was accepted: r is derived again from the terms that the first message repeats.

use super::circuit::Phase as PaymentPhase;
use super::{FlushReason, Node, Output, Report, Timer};
use crate::clock::UnixMillis;
use crate::escrow::incoming::{ClaimError, Incoming, Phase, StoredClaim};
use crate::escrow::{Escrow, NotBelieved};
use crate::fact::{NodeFact, Owner};
use crate::ids::{CircuitId, LinkId};
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{
    AccountId, Balance, DeclineCode, EscrowAcceptance, EscrowId, EscrowOffer, EscrowState, EscrowTerms, LegPay,
    LinkMessage, OpeningTerms, OwnerAsks, Ownership, Pay, PeerId, RefuseCode, Signature, Stroops, ToOrigin,
};

/// How long a question to the ledger may take before its asker gets an answer without it.
const PATIENCE_MS: u64 = 20_000;
/// An escrow that the ledger does not show yet is looked for again after this.
const READ_AGAIN_MS: u64 = 1_000;
/// A new escrow needs a ledger that we heard of within this,
const FRESH_MS: u64 = 60_000;
/// and that closed, by our own clock, not longer ago than this besides: clocks are off. An escrow does not change without our r,
/// so a ledger that is some minutes behind can mislead us about its end only, and the margin is for that.
const CLOCK_OFF_MS: u64 = 300_000;
/// An offer's life may miss the rules by as much as clocks are off and it was on its way, seconds.
const LIFE_SLACK: u64 = (FRESH_MS + CLOCK_OFF_MS) / 1_000;
/// S0 is this many ledgers ahead, give or take.
const S0_AHEAD: u32 = 60;
const S0_SLACK: u32 = 30;
/// Askers that wait for one escrow.
const MAX_WAITERS: usize = 32;
/// A settled escrow is remembered so long after its expiry.
pub(super) const REMEMBER_SECS: u64 = 86_400;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Client(CircuitId),
    Peer(LinkId),
}

/// An offer that waits for "E does not exist yet".
#[derive(Debug)]
pub(super) struct PendingOffer {
    asker: Asker,
    offer: EscrowOffer,
    account: AccountId,
}

/// Who waits for an escrow to be read.
#[derive(Debug)]
enum Waiter {
    Balance(CircuitId),
    Pay(CircuitId, Pay),
    Leg(LinkId, Option<LegPay>),
}

/// An escrow that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    escrow: Escrow,
    owner: Owner,
    waiters: Vec<Waiter>,
    until: UnixMillis,
    /// The driver was asked and did not answer yet.
    asked: bool,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    // ---- offers ----

    pub(super) fn client_offer(&mut self, now: UnixMillis, circuit: CircuitId, offer: &EscrowOffer) {
        if let Err(code) = self.consider(now, Asker::Client(circuit), offer) {
            self.decline(circuit, code);
        }
    }

    pub(super) fn leg_offer(&mut self, now: UnixMillis, link: LinkId, offer: &EscrowOffer) {
        if let Err(code) = self.consider(now, Asker::Peer(link), offer) {
            self.send_link(
                link,
                &LinkMessage::LegDeclined {
                    escrow: offer.escrow,
                    code,
                },
            );
        }
    }

    /// The checks that need no ledger, then the question to the ledger.
    fn consider(&mut self, now: UnixMillis, asker: Asker, offer: &EscrowOffer) -> Result<(), DeclineCode> {
        let tariff = &self.config.tariff;
        if offer.network != tariff.network || offer.asset != tariff.asset {
            return Err(DeclineCode::OtherMoney);
        }
        let Some((account, true)) = self.account else {
            return Err(DeclineCode::NotNow);
        };
        if self.is_much_unsettled() {
            return Err(DeclineCode::NotNow);
        }
        if !self.ledger_is_fresh(now) {
            return Err(DeclineCode::NotNow);
        }
        let rules = tariff.rules;
        let life = offer.expiry.saturating_sub(self.time(now));
        let s0_ledger = u32::try_from(offer.s0 >> 32).unwrap_or(u32::MAX);
        let near = s0_ledger.abs_diff(self.ledger.sequence.saturating_add(S0_AHEAD)) <= S0_SLACK;
        let whole = offer.s0 & u64::from(u32::MAX) == 0 && offer.s0 >> 63 == 0;
        // A little less than the shortest life is no harm, or more than the longest: the offer took time to come here, and clocks
        // are off.
        let long_enough = life.saturating_add(LIFE_SLACK) >= rules.min_life.into();
        let too_long = life > LIFE_SLACK.saturating_add(rules.max_life.into());
        if !long_enough || too_long || offer.deposit < rules.min_deposit || !near || !whole {
            return Err(DeclineCode::OutsideRules);
        }
        if self.incoming.contains_key(&offer.escrow) || self.reads.contains_key(&offer.escrow) {
            return Err(DeclineCode::Exists);
        }
        if let Some(pending) = self.offers.get_mut(&offer.escrow) {
            if pending.offer != *offer {
                return Err(DeclineCode::Exists);
            }
            // The same once more: where it was asked before has closed meanwhile.
            pending.asker = asker;
            return Ok(());
        }
        if !self.one_more_escrow(now, asker) {
            return Err(DeclineCode::NotNow);
        }
        self.offers.insert(
            offer.escrow,
            PendingOffer {
                asker,
                offer: *offer,
                account,
            },
        );
        self.at(now.plus(PATIENCE_MS), Timer::Offer(offer.escrow));
        self.out.push_now(Output::CheckAbsent { escrow: offer.escrow });
        Ok(())
    }

    pub(super) fn escrow_checked(&mut self, _now: UnixMillis, escrow: EscrowId, exists: Option<bool>) {
        let Some(pending) = self.offers.remove(&escrow) else {
            return;
        };
        match exists {
            Some(false) => self.accept(&pending),
            Some(true) => self.decline_offer(&pending, DeclineCode::Exists),
            None => self.decline_offer(&pending, DeclineCode::NotNow),
        }
    }

    pub(super) fn offer_over(&mut self, escrow: EscrowId) {
        if let Some(pending) = self.offers.remove(&escrow) {
            self.decline_offer(&pending, DeclineCode::NotNow);
        }
    }

    fn accept(&mut self, pending: &PendingOffer) {
        let min_deposit = self.config.tariff.rules.min_deposit;
        let terms = EscrowTerms::new(&pending.offer, self.config.identity, pending.account, min_deposit);
        let escrow = Escrow {
            terms,
            signer: self.keys.signer(&terms),
        };
        let acceptance = EscrowAcceptance {
            escrow: terms.escrow,
            signer: escrow.signer,
            payee_account: terms.payee_account,
            min_deposit,
            refund: self.keys.sign_refund(&escrow),
        };
        match pending.asker {
            Asker::Client(circuit) => self.answer(circuit, &ToOrigin::EscrowAccepted(acceptance)),
            Asker::Peer(link) => self.send_link(link, &LinkMessage::LegAccepted(acceptance)),
        }
    }

    fn decline_offer(&mut self, pending: &PendingOffer, code: DeclineCode) {
        match pending.asker {
            Asker::Client(circuit) => self.decline(circuit, code),
            Asker::Peer(link) => {
                self.send_link(
                    link,
                    &LinkMessage::LegDeclined {
                        escrow: pending.offer.escrow,
                        code,
                    },
                );
            }
        }
    }

    /// Unix seconds: the later of the own clock and the newest ledger's close time.
    fn time(&self, now: UnixMillis) -> u64 {
        now.secs().max(self.ledger.close_time)
    }

    /// Whether a *new* escrow may be judged by the newest ledger.
    fn ledger_is_fresh(&self, now: UnixMillis) -> bool {
        let heard = self.ledger.heard.is_some_and(|at| now.since(at) <= FRESH_MS);
        heard && now.since(UnixMillis::from_secs(self.ledger.close_time)) <= FRESH_MS + CLOCK_OFF_MS
    }

    // ---- belief ----

    /// Begins to read an escrow that a message named, or joins those who wait for it.
    fn read(
        &mut self,
        now: UnixMillis,
        escrow: EscrowId,
        opening: &OpeningTerms,
        owner: Owner,
        waiter: Waiter,
    ) -> Result<(), Waiter> {
        let terms = EscrowTerms::from_opening(opening, escrow, &self.config.tariff, self.config.identity);
        if let Some(reading) = self.reads.get_mut(&escrow) {
            if reading.escrow.terms != terms || reading.owner != owner || reading.waiters.len() >= MAX_WAITERS {
                return Err(waiter);
            }
            reading.waiters.push(waiter);
            return Ok(());
        }
        let rules = self.config.tariff.rules;
        let life = terms.expiry.saturating_sub(self.time(now));
        let longest = LIFE_SLACK.saturating_add(rules.max_life.into());
        let alive = life > rules.margin.into() && life <= longest;
        let asker = match &waiter {
            Waiter::Balance(circuit) | Waiter::Pay(circuit, _) => Asker::Client(*circuit),
            Waiter::Leg(link, _) => Asker::Peer(*link),
        };
        if !alive || !self.ledger_is_fresh(now) || !self.one_more_escrow(now, asker) {
            return Err(waiter);
        }
        let escrow = Escrow {
            terms,
            signer: self.keys.signer(&terms),
        };
        let until = now.plus(PATIENCE_MS);
        let reading = Reading {
            escrow,
            owner,
            waiters: vec![waiter],
            until,
            asked: true,
        };
        self.reads.insert(terms.escrow, reading);
        self.at(until, Timer::Read(terms.escrow));
        self.out.push_now(Output::ReadEscrow { escrow });
        Ok(())
    }

    /// Whether `signature` is that of the holder of E's key, on what is asked of us. The same work for an escrow that we know
    /// and for one that we do not: a stranger does not learn which it is.
    fn is_owner(&self, escrow: EscrowId, asks: OwnerAsks, signature: &Signature) -> bool {
        let ownership = Ownership {
            network: self.config.tariff.network,
            payee: self.config.identity,
            escrow,
            asks,
        };
        self.keys.verify_owner(&ownership, signature)
    }

    /// Whether the claim of a first message is signed by the E that it names, under its terms. Before the ledger is asked: an
    /// escrow belongs to whom it is read for, and strangers must not have it read.
    pub(super) fn claim_is_signed(
        &self,
        escrow: EscrowId,
        opening: &OpeningTerms,
        k: u32,
        cumulative: Stroops,
        signature: &Signature,
    ) -> bool {
        let terms = EscrowTerms::from_opening(opening, escrow, &self.config.tariff, self.config.identity);
        let escrow = Escrow {
            terms,
            signer: self.keys.signer(&terms),
        };
        self.keys.verify_claim(&escrow, k, cumulative, signature)
    }

    pub(super) fn read_for_payment(
        &mut self,
        now: UnixMillis,
        circuit: CircuitId,
        pay: &Pay,
        escrow: EscrowId,
        opening: &OpeningTerms,
    ) -> bool {
        self.read(now, escrow, opening, Owner::Client, Waiter::Pay(circuit, *pay))
            .is_ok()
    }

    pub(super) fn read_for_leg(
        &mut self,
        now: UnixMillis,
        link: LinkId,
        peer: PeerId,
        escrow: EscrowId,
        opening: &OpeningTerms,
        pay: Option<LegPay>,
    ) {
        if self
            .read(now, escrow, opening, Owner::Peer(peer), Waiter::Leg(link, pay))
            .is_err()
        {
            self.tell_balance(link, escrow);
        }
    }

    pub(super) fn balance_query(
        &mut self,
        now: UnixMillis,
        circuit: CircuitId,
        escrow: EscrowId,
        opening: Option<OpeningTerms>,
        owner: &Signature,
    ) {
        if !self.is_owner(escrow, OwnerAsks::Books, owner) {
            self.answer(circuit, &ToOrigin::Balance(unknown_balance(escrow)));
            return self.bad_signature_from_client(circuit);
        }
        let unknown = !self.incoming.contains_key(&escrow);
        if let (true, Some(opening)) = (unknown, opening)
            && self
                .read(now, escrow, &opening, Owner::Client, Waiter::Balance(circuit))
                .is_ok()
        {
            return;
        }
        let balance = match self.incoming.get(&escrow) {
            Some(i) if i.owner == Owner::Client => i.report(),
            _ => unknown_balance(escrow),
        };
        self.answer(circuit, &ToOrigin::Balance(balance));
    }

    pub(super) fn leg_query(
        &mut self,
        now: UnixMillis,
        link: LinkId,
        peer: PeerId,
        escrow: EscrowId,
        opening: Option<OpeningTerms>,
        owner: &Signature,
    ) {
        if !self.is_owner(escrow, OwnerAsks::Books, owner) {
            self.tell_unknown(link, escrow);
            self.report(Report::BadSignature);
            return self.bad_signature(link);
        }
        match (self.incoming.get(&escrow), opening) {
            (None, Some(opening)) => self.read_for_leg(now, link, peer, escrow, &opening, None),
            (Some(i), _) if i.owner == Owner::Peer(peer) => self.tell_balance(link, escrow),
            _ => self.tell_unknown(link, escrow),
        }
    }

    /// What is said to a neighbour of escrows that there are not, and of other people's.
    pub(super) fn tell_unknown(&mut self, link: LinkId, escrow: EscrowId) {
        self.send_link(link, &LinkMessage::LegBalance(unknown_balance(escrow)));
    }

    pub(super) fn balance_of(&self, escrow: EscrowId) -> Balance {
        self.incoming
            .get(&escrow)
            .map_or_else(|| unknown_balance(escrow), Incoming::report)
    }

    pub(super) fn escrow_read(&mut self, now: UnixMillis, escrow: EscrowId, result: Result<Stroops, NotBelieved>) {
        let Some(reading) = self.reads.get_mut(&escrow) else {
            return;
        };
        reading.asked = false;
        match result {
            Ok(balance) if balance >= reading.escrow.terms.min_deposit => self.believe(now, escrow, balance),
            // It may be in the next ledger, or the next answer.
            Err(NotBelieved::Absent | NotBelieved::Unreachable) => {
                self.at(now.plus(READ_AGAIN_MS), Timer::Read(escrow));
            }
            Ok(_) | Err(NotBelieved::Wrong) => self.disbelieve(now, escrow),
        }
    }

    pub(super) fn read_over(&mut self, now: UnixMillis, escrow: EscrowId) {
        let Some(reading) = self.reads.get_mut(&escrow) else {
            return;
        };
        if now >= reading.until {
            self.disbelieve(now, escrow);
        } else if !reading.asked {
            reading.asked = true;
            let escrow = reading.escrow;
            self.out.push_now(Output::ReadEscrow { escrow });
        }
    }

    fn believe(&mut self, now: UnixMillis, id: EscrowId, balance: Stroops) {
        let Some(reading) = self.reads.remove(&id) else {
            return;
        };
        let margin = self.config.tariff.rules.margin;
        let incoming = Incoming::new(reading.escrow, reading.owner, balance, margin);
        self.fact(NodeFact::Believed {
            escrow: reading.escrow,
            owner: reading.owner,
            balance,
            margin,
        });
        self.at(UnixMillis::from_secs(incoming.stops_at()), Timer::Margin(id));
        self.incoming.insert(id, incoming);
        self.report(Report::EscrowInUse { payee: true });
        self.serve(now, id, reading.waiters);
    }

    fn disbelieve(&mut self, now: UnixMillis, id: EscrowId) {
        if let Some(reading) = self.reads.remove(&id) {
            self.serve(now, id, reading.waiters);
        }
    }

    /// Gives those who waited their answer, now that the escrow is known or will not be.
    fn serve(&mut self, now: UnixMillis, id: EscrowId, waiters: Vec<Waiter>) {
        let believed = self.incoming.contains_key(&id);
        for waiter in waiters {
            match waiter {
                Waiter::Balance(circuit) => {
                    let balance = self.balance_of(id);
                    self.answer(circuit, &ToOrigin::Balance(balance));
                }
                Waiter::Pay(circuit, pay) => {
                    let waits = self.circuits.get(&circuit).is_some_and(|c| {
                        c.payment.n == pay.n && matches!(c.payment.phase, PaymentPhase::AwaitMoney { .. })
                    });
                    match (waits, believed) {
                        (true, true) => self.await_money(now, circuit, &pay),
                        (true, false) => self.refuse(circuit, 0, RefuseCode::NoFunds, false),
                        (false, _) => {}
                    }
                }
                Waiter::Leg(link, Some(pay)) if believed => {
                    self.link_message(now, link, &LinkMessage::LegPay(pay).encode());
                }
                Waiter::Leg(link, _) => self.tell_balance(link, id),
            }
        }
    }

    // ---- claims ----

    /// Takes a claim, all or nothing: whose it is, the signature, the sums, then the books. `payer`: the neighbour, or a client.
    #[expect(clippy::too_many_arguments, reason = "a claim has that many parts")]
    pub(super) fn claim(
        &mut self,
        now: UnixMillis,
        escrow: EscrowId,
        payer: Option<PeerId>,
        k: u32,
        cumulative: Stroops,
        signature: &Signature,
        allocations: Stroops,
    ) -> Result<(), ClaimError> {
        let time = self.time(now);
        let silent = self.ledger.heard.or(self.started).map_or(0, |at| now.since(at) / 1_000);
        let i = self.incoming.get_mut(&escrow).ok_or(ClaimError::OutOfRange)?;
        let owner = payer.map_or(Owner::Client, Owner::Peer);
        if i.owner != owner {
            return Err(ClaimError::OutOfRange);
        }
        let rises = cumulative > i.cumulative();
        // The margin is there to reach the ledger in: never later, nor without a ledger for half of it [2.10].
        let too_late = rises && (time >= i.stops_at() || silent > u64::from(i.margin / 2));
        let sound = match i.check(k, cumulative, allocations) {
            Ok(()) if too_late => Err(ClaimError::Closing),
            sound => sound,
        };
        // Why it is not taken depends on the books: only their owner is told.
        i.verify(&self.keys, k, cumulative, signature)?;
        sound?;
        let more = cumulative.saturating_sub(i.cumulative());
        if rises && self.too_much_unsettled(escrow, more) {
            // Its signature was checked: only its owner brings an escrow to its end.
            self.close_at_limit(now, escrow);
            return Err(ClaimError::Closing);
        }
        let i = self.incoming.get_mut(&escrow).ok_or(ClaimError::OutOfRange)?;
        let rise = i.store(StoredClaim {
            k,
            cumulative,
            signature: *signature,
        });
        let exposed = i.cumulative();
        let phase = i.phase;
        self.totals.claimed = self.totals.claimed.checked_add(rise).unwrap_or(Stroops::MAX);
        self.fact(NodeFact::Claim {
            escrow,
            k,
            cumulative,
            signature: *signature,
        });
        self.report(Report::Claim { rise });
        match phase {
            Phase::Open if self.config.flush_above.is_some_and(|limit| exposed > limit) => {
                self.flush(now, escrow, FlushReason::Own);
            }
            Phase::FlushFailed { k: failed } if k > failed => self.flush(now, escrow, FlushReason::Again),
            _ => {}
        }
        if !rise.is_zero() {
            self.exposed(now, escrow, rise);
        }
        Ok(())
    }

    // ---- closing and flush ----

    pub(super) fn client_close(
        &mut self,
        now: UnixMillis,
        circuit: CircuitId,
        escrow: EscrowId,
        final_k: u32,
        owner: &Signature,
    ) {
        if !self.is_owner(escrow, OwnerAsks::Close { final_k }, owner) {
            self.decline(circuit, DeclineCode::Unknown);
            return self.bad_signature_from_client(circuit);
        }
        match self.incoming.get(&escrow) {
            Some(i) if i.owner == Owner::Client => {
                let newest_k = i.series.newest();
                self.begin_closing(now, escrow);
                self.answer(circuit, &ToOrigin::Closing { escrow, newest_k });
            }
            _ => self.decline(circuit, DeclineCode::Unknown),
        }
    }

    pub(super) fn leg_close(&mut self, now: UnixMillis, peer: PeerId, escrow: EscrowId) {
        if self.incoming.get(&escrow).is_some_and(|i| i.owner == Owner::Peer(peer)) {
            self.begin_closing(now, escrow);
            self.tell_peer_balance(peer, escrow);
        }
    }

    /// The payer asked for a flush: within an hour, at a random time.
    pub(super) fn begin_closing(&mut self, now: UnixMillis, escrow: EscrowId) {
        if self.stop_crediting(escrow) {
            let at = now.plus(self.jitter.up_to(self.config.close_jitter_ms));
            self.at(at, Timer::Flush(escrow));
        }
    }

    /// Open -> Closing. Says whether it was open.
    pub(super) fn stop_crediting(&mut self, escrow: EscrowId) -> bool {
        let Some(i) = self.incoming.get_mut(&escrow) else {
            return false;
        };
        if i.phase != Phase::Open {
            return false;
        }
        i.phase = Phase::Closing;
        self.fact(NodeFact::InClosing { escrow });
        true
    }

    /// T - margin: nothing more is credited; the flush falls at a random time in the margin's first half.
    pub(super) fn margin_begins(&mut self, now: UnixMillis, escrow: EscrowId) {
        let Some(i) = self.incoming.get(&escrow) else {
            return;
        };
        let forget = UnixMillis::from_secs(i.escrow.terms.expiry.saturating_add(REMEMBER_SECS));
        // The same timer, set again for the end.
        if now >= forget {
            if i.phase == Phase::Settled || i.cumulative().is_zero() {
                self.incoming.remove(&escrow);
            } else {
                // Claims that the ledger never settled: kept, and looked at once a day. Never a time that is past.
                self.at(now.plus(REMEMBER_SECS * 1_000), Timer::Margin(escrow));
            }
            return;
        }
        if i.phase == Phase::Settled {
            self.at(forget, Timer::Margin(escrow));
            return;
        }
        let half = UnixMillis::from_secs(i.stops_at().saturating_add(u64::from(i.margin) / 2));
        if self.stop_crediting(escrow) {
            self.tell_owner(escrow);
        }
        let at = now.plus(self.jitter.up_to(half.since(now)));
        self.at(at, Timer::Flush(escrow));
        self.at(forget, Timer::Margin(escrow));
    }

    /// Tells the owner of an escrow our books on it, if it is a relay: a client asks.
    pub(super) fn tell_owner(&mut self, escrow: EscrowId) {
        if let Some(Owner::Peer(peer)) = self.incoming.get(&escrow).map(|i| i.owner) {
            self.tell_peer_balance(peer, escrow);
        }
    }

    pub(super) fn flush_due(&mut self, now: UnixMillis, escrow: EscrowId) {
        let Some(i) = self.incoming.get(&escrow) else {
            return;
        };
        let reason = if now.secs() >= i.stops_at() {
            FlushReason::Expiry
        } else {
            FlushReason::Requested
        };
        self.flush(now, escrow, reason);
    }

    /// Records the flush, then asks for it. Nothing higher is stored from here on.
    pub(super) fn flush(&mut self, _now: UnixMillis, escrow: EscrowId, reason: FlushReason) {
        let Some(i) = self.incoming.get_mut(&escrow) else {
            return;
        };
        let allowed = match i.phase {
            Phase::Open | Phase::Closing => true,
            // Its sequence is used up: only a higher k can still succeed.
            Phase::FlushFailed { k } => i.newest.is_some_and(|c| c.k > k),
            Phase::Flushing { .. } | Phase::Settled => false,
        };
        if !allowed {
            return;
        }
        let owner = i.owner;
        match i.to_flush() {
            Some(claim) if !claim.cumulative.is_zero() => {
                i.phase = Phase::Flushing { k: claim.k };
                i.flushing = Some(claim);
                let whole = i.escrow;
                self.fact(NodeFact::Flushing { escrow, k: claim.k });
                self.emit_flush(whole, claim, reason);
            }
            // Nothing was ever paid by it.
            _ => {
                self.stop_crediting(escrow);
            }
        }
        if let Owner::Peer(peer) = owner {
            self.tell_peer_balance(peer, escrow);
        }
    }

    pub(super) fn emit_flush(&mut self, escrow: Escrow, claim: StoredClaim, reason: FlushReason) {
        let StoredClaim {
            k,
            cumulative,
            signature,
        } = claim;
        self.emit(Output::Flush {
            escrow,
            k,
            cumulative,
            signature,
            reason,
        });
    }

    pub(super) fn flush_failed(&mut self, escrow: EscrowId, k: u32) {
        let Some(i) = self.incoming.get_mut(&escrow) else {
            return;
        };
        if i.phase != (Phase::Flushing { k }) {
            return;
        }
        i.phase = Phase::FlushFailed { k };
        let newer = i.newest.is_some_and(|c| c.k > k);
        self.fact(NodeFact::FlushFailed { escrow, k });
        if newer {
            self.flush(self.now, escrow, FlushReason::Again);
        }
    }

    pub(super) fn settled(&mut self, escrow: EscrowId, amount: Stroops) {
        let Some(i) = self.incoming.get_mut(&escrow) else {
            return;
        };
        if i.phase == Phase::Settled {
            return;
        }
        i.phase = Phase::Settled;
        self.fact(NodeFact::Settled { escrow, amount });
        self.calm(escrow);
        self.report(Report::EscrowSettled { payee: true, amount });
    }

    /// After a start: timers for everything that was there before.
    pub(super) fn schedule_incoming(&mut self, now: UnixMillis) {
        let mut flushes = Vec::new();
        let mut timers = Vec::new();
        let mut closing = Vec::new();
        self.incoming.retain(|_, i| {
            i.phase != Phase::Settled || now.secs() < i.escrow.terms.expiry.saturating_add(REMEMBER_SECS)
        });
        for (id, i) in &self.incoming {
            match (i.phase, i.flushing) {
                (Phase::Open, _) => timers.push((UnixMillis::from_secs(i.stops_at()), Timer::Margin(*id))),
                // Nobody knows what else was claimed on it: the sooner it is settled, the better [H13].
                (Phase::Closing, _) if i.sealed => timers.push((now, Timer::Flush(*id))),
                (Phase::Closing, _) => closing.push((*id, i.stops_at(), i.margin)),
                // The very claim, so that the driver finds the transaction that it may have submitted before, whatever draws
                // came after it.
                (Phase::Flushing { .. }, Some(claim)) => flushes.push((i.escrow, claim)),
                (Phase::Flushing { .. } | Phase::FlushFailed { .. }, _) => {}
                (Phase::Settled, _) => {
                    let end = i.escrow.terms.expiry.saturating_add(REMEMBER_SECS);
                    timers.push((UnixMillis::from_secs(end), Timer::Margin(*id)));
                }
            }
        }
        for (id, stops_at, margin) in closing {
            // The time is drawn anew: that of the last run is forgotten, and a start is no sign of a flush.
            let (stops, half) = (
                UnixMillis::from_secs(stops_at),
                UnixMillis::from_secs(stops_at.saturating_add(u64::from(margin) / 2)),
            );
            let within = if now < stops {
                self.config.close_jitter_ms
            } else {
                half.since(now)
            };
            let at = now.plus(self.jitter.up_to(within));
            timers.push((at, Timer::Flush(id)));
            timers.push((stops.max(at), Timer::Margin(id)));
        }
        for (when, timer) in timers {
            self.at(when, timer);
        }
        for (escrow, claim) in flushes {
            self.emit_flush(escrow, claim, FlushReason::Again);
        }
    }
}

fn unknown_balance(escrow: EscrowId) -> Balance {
    Balance {
        escrow,
        newest_k: 0,
        cumulative: Stroops::ZERO,
        unallocated: Stroops::ZERO,
        state: EscrowState::Unknown,
    }
}
