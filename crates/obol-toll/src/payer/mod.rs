//! A client's payer: every tunnel and every escrow of one client.
//!
//! | question | asked | where |
//! |---|---|---|
//! | what does each hop cost, how far does the chain reach? | when a tunnel opens | `quoting` |
//! | is money left, is another escrow needed? | always | `errands`, `escrows` |
//! | is credit running low? | at every input that shows traffic | `tunnel` |
//! | can a guard's link have carried it? | before each payment | `link` |
//! | pay, finish | then | `paying` |
//! | resume, give up for less | after a refusal | `refusal` |
//! | does paying help at all? | one step in sixteen | `trial` |
//! | which relays keep their word? | when a tunnel ends | `score` |
//!
//! One conversation at a time on a tunnel, always with exactly one answer; whatever costs money is durable before it leaves.

mod budget;
mod config;
mod errands;
mod escrows;
mod io;
mod link;
pub mod meter;
mod paying;
mod quoting;
mod refusal;
mod score;
#[cfg(test)]
mod tests;
mod trial;
mod tunnel;

use std::collections::BTreeMap;

pub use budget::{Budgets, Spent};
pub use config::{PayPolicy, PayerConfig};
pub use io::{CloseReason, GiveUp, Hop, Input, Output, Report, Second, Unpaid, finishes};

use crate::clock::UnixMillis;
use crate::escrow::outgoing;
use crate::fact::{OutFact, PayerFact};
use crate::ids::TunnelId;
use crate::jitter::Jitter;
use crate::keys::PayerKeys;
use crate::outbox::Outbox;
use budget::Spending;
use escrows::{Guard, Wish, subject};
use obol_cell::{EscrowId, PeerId, Stroops, Tariff, ToNode, ToOrigin};
use score::Scores;
use tunnel::{Conversation, Phase, Question, Tunnel};

/// See the [module](self).
#[derive(Debug)]
pub struct Payer<K> {
    config: PayerConfig,
    keys: K,
    jitter: Jitter,
    outbox: Outbox<PayerFact, Output>,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    guards: BTreeMap<PeerId, Guard>,
    scores: Scores,
    /// Each relay's first quote of the day.
    quotes: BTreeMap<PeerId, (u64, Tariff)>,
    spending: Spending,
    /// Escrows of other places.
    away: Vec<EscrowId>,
    /// The last [`Input::Tick`].
    ticked: UnixMillis,
}

impl<K: PayerKeys> Payer<K> {
    /// A payer with empty books. `seed` (from the system's generator) spreads its actions in time.
    pub fn new(config: PayerConfig, keys: K, seed: [u8; 32]) -> Self {
        Payer {
            config,
            keys,
            jitter: Jitter::new(seed),
            outbox: Outbox::default(),
            tunnels: BTreeMap::new(),
            guards: BTreeMap::new(),
            scores: Scores::default(),
            quotes: BTreeMap::new(),
            spending: Spending::default(),
            away: Vec::new(),
            ticked: UnixMillis(0),
        }
    }

    /// A payer with the books that a journal kept. Openings that were under way are asked for again.
    pub fn restore(config: PayerConfig, keys: K, seed: [u8; 32], facts: impl IntoIterator<Item = PayerFact>) -> Self {
        let mut payer = Payer::new(config, keys, seed);
        let mut guard_of: BTreeMap<EscrowId, PeerId> = BTreeMap::new();
        for fact in facts {
            match fact {
                PayerFact::Spent { .. } | PayerFact::Day { .. } => payer.spending.apply(&fact),
                PayerFact::NewEpoch => payer.begin_epoch(),
                PayerFact::Out(fact) => {
                    let id = subject(&fact);
                    if let OutFact::Accepted { escrow, .. } = fact {
                        guard_of.insert(id, escrow.terms.payee);
                    }
                    if let Some(guard) = guard_of.get(&id) {
                        let guard = payer.guards.entry(*guard).or_default();
                        guard.apply(&fact, &mut payer.jitter);
                    }
                }
            }
        }
        for guard in payer.guards.values_mut() {
            for e in &mut guard.escrows {
                // What circuits of the last run left is free; only the payee knows how much.
                e.stale = e.books.k > 0;
                if e.books.phase == outgoing::Phase::Opening {
                    payer.outbox.push_now(Output::OpenEscrow {
                        escrow: e.books.escrow,
                        deposit: e.books.deposit,
                        refund: e.books.refund,
                    });
                }
            }
        }
        payer
    }

    /// A payer with the books of an imported backup, which are not the newest that there were: a new epoch (H13). Nothing is signed any
    /// more on the escrows that they name; their guards are asked to flush them, and what is left is taken back. From then on
    /// [`Payer::restore`] is right again.
    pub fn restore_backup(
        config: PayerConfig,
        keys: K,
        seed: [u8; 32],
        facts: impl IntoIterator<Item = PayerFact>,
    ) -> Self {
        let facts = facts.into_iter().chain([PayerFact::NewEpoch]);
        let mut payer = Payer::restore(config, keys, seed, facts);
        payer.outbox.fact(PayerFact::NewEpoch);
        payer
    }

    fn begin_epoch(&mut self) {
        for e in self.guards.values_mut().flat_map(|g| &mut g.escrows) {
            e.books.seal();
            e.close_wanted = e.books.phase != outgoing::Phase::Ended;
        }
    }

    /// The settings.
    pub fn config(&self) -> &PayerConfig {
        &self.config
    }

    /// What was signed away, as of `now`.
    pub fn spent(&self, now: UnixMillis) -> Spent {
        self.spending.spent(now)
    }

    /// How many tunnels it knows.
    #[cfg(test)]
    pub(crate) fn tunnel_count(&self) -> usize {
        self.tunnels.len()
    }

    /// Books of one escrow: the highest claim number and the sum signed by it. `None`: not ours.
    pub fn signed(&self, escrow: EscrowId) -> Option<(u32, Stroops)> {
        self.guards
            .values()
            .find_map(|g| g.get(escrow))
            .map(|e| (e.books.k, e.books.cumulative))
    }

    /// Escrows that are open or closing on the ledger, as far as we know.
    pub fn open_escrows(&self) -> impl Iterator<Item = EscrowId> + '_ {
        self.guards
            .values()
            .flat_map(|g| &g.escrows)
            .filter(|e| matches!(e.books.phase, outgoing::Phase::Open | outgoing::Phase::Closing))
            .map(|e| e.id())
    }

    /// What to do next; `None`: nothing until the next input.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some((seq, facts)) = self.outbox.take_persist() {
            return Some(Output::Persist { seq, facts });
        }
        self.outbox.pop()
    }

    /// When [`Input::Tick`] is needed, if nothing else comes before.
    pub fn next_wake(&self) -> Option<UnixMillis> {
        let tunnels = self.tunnels.values().flat_map(|t| {
            let conversation = t.conversation.map(|c| c.deadline(t.last_cell));
            let resume = t.payment.as_ref().and_then(|p| p.resume).map(|(_, at)| at);
            [conversation, resume, self.trial_wake(t), t.move_at]
                .into_iter()
                .flatten()
        });
        let guards = self.guards.values().flat_map(|g| {
            let unknown = g
                .escrows
                .iter()
                .filter(|e| !e.books.known && !e.away && e.books.phase == outgoing::Phase::Open);
            let unknown = unknown.filter_map(|e| e.balance_asked.map(|at| at.plus(e.patience_ms())));
            let wish = match g.wish {
                Wish::At(at) => Some(at),
                _ => None,
            };
            let expiries = g.escrows.iter().filter(|e| {
                !e.books.refunding && matches!(e.books.phase, outgoing::Phase::Open | outgoing::Phase::Closing)
            });
            wish.into_iter()
                .chain(unknown)
                .chain(expiries.map(|e| UnixMillis::from_secs(e.books.escrow.terms.expiry)))
        });
        // What was due at the last tick and did not come about waits for something else than time.
        tunnels.chain(guards).filter(|at| *at > self.ticked).min()
    }

    /// Takes in what happened at `now`; what follows from it comes out of [`Payer::poll`].
    pub fn handle(&mut self, now: UnixMillis, input: Input) {
        match input {
            Input::TunnelOpened { tunnel, hops } => {
                self.tunnels.insert(tunnel, Tunnel::new(hops, now));
                self.begin_quoting(tunnel, now);
                self.advance(tunnel, now);
            }
            Input::TunnelClosed { tunnel, why } => self.closed(tunnel, why, now),
            Input::Traffic { tunnel, up, down } => {
                let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
                t.meter.add(up.saturating_add(down));
                t.rate.add(up.saturating_add(down).saturating_mul(meter::CELL), now);
                if down > 0 {
                    t.last_cell = now;
                }
                self.advance(tunnel, now);
            }
            // A link that never carried anything is one that nobody counts.
            Input::LinkBytes { bytes: 0, .. } => {}
            Input::LinkBytes { guard, bytes } => {
                let guard = self.guards.entry(guard).or_default();
                guard.link_bytes = Some(guard.link_bytes.unwrap_or(0).saturating_add(bytes));
            }
            Input::Answer { tunnel, body } => self.answered(tunnel, &body, now),
            Input::Offer { guard, offer } => {
                // Its key was made before a move: the next one is made here.
                let is_away = self.away.contains(&offer.escrow);
                self.guards.entry(guard).or_default().wish = match is_away {
                    true => Wish::At(now),
                    false => Wish::Offer {
                        offer,
                        made: now,
                        asked: None,
                    },
                };
                self.advance_all_of(guard, now);
            }
            Input::EscrowOpened { escrow, balance } => {
                self.record_about(OutFact::Opened { escrow, balance }, now);
                self.outbox
                    .push_now(Output::Report(Report::EscrowInUse { escrow, balance }));
            }
            Input::OpeningFailed { escrow } => {
                self.record_about(OutFact::Abandoned { escrow }, now);
            }
            Input::EscrowEnded { escrow, paid } => {
                self.record_about(OutFact::Ended { escrow, paid }, now);
                self.outbox
                    .push_now(Output::Report(Report::EscrowEnded { escrow, paid }));
            }
            Input::Close { escrow } => self.close_wanted(escrow, now),
            Input::Away { escrows } => self.moved(escrows, now),
            Input::SetPolicy(policy) => {
                self.config.pay = policy;
                self.advance_all(now);
            }
            Input::SetBudgets(budgets) => self.config.budgets = budgets,
            Input::SetCeilings { hop, chain } => {
                self.config.hop_ceiling = hop;
                self.config.chain_ceiling = chain;
            }
            Input::Persisted { upto } => self.outbox.persisted(upto),
            Input::Tick => {
                self.ticked = now;
                self.expire(now);
                self.advance_all(now);
            }
        }
    }

    fn guard_of(&self, escrow: EscrowId) -> Option<PeerId> {
        self.guards
            .iter()
            .find(|(_, g)| g.get(escrow).is_some())
            .map(|(peer, _)| *peer)
    }

    /// Applies a fact about an escrow, makes it durable, and lets its guard's tunnels go on.
    fn record_about(&mut self, fact: OutFact, now: UnixMillis) {
        let Some(peer) = self.guard_of(subject(&fact)) else {
            return;
        };
        if let Some(guard) = self.guards.get_mut(&peer) {
            guard.apply(&fact, &mut self.jitter);
        }
        self.outbox.fact(PayerFact::Out(fact));
        self.advance_all_of(peer, now);
    }

    fn advance_all(&mut self, now: UnixMillis) {
        let all: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        for tunnel in all {
            self.advance(tunnel, now);
        }
    }

    fn advance_all_of(&mut self, guard: PeerId, now: UnixMillis) {
        let of: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| t.guard() == Some(guard))
            .map(|(tunnel, _)| *tunnel)
            .collect();
        for tunnel in of {
            self.advance(tunnel, now);
        }
    }

    /// Does whatever is next on this tunnel.
    fn advance(&mut self, tunnel: TunnelId, now: UnixMillis) {
        if self.tunnels.get_mut(&tunnel).is_some_and(|t| t.doubt_stands(now)) {
            self.leave(tunnel);
        }
        let Some(t) = self.tunnels.get(&tunnel) else { return };
        if let Some(conversation) = t.conversation {
            if now >= conversation.deadline(t.last_cell) {
                self.give_up(tunnel, GiveUp::Silent);
                return;
            }
            let idle_listen = matches!(conversation.question, Question::Listen(_)) && conversation.second.is_none();
            if !idle_listen {
                return;
            }
        } else if let Phase::Quoting(hop) = t.phase {
            self.ask(tunnel, hop, Question::Quote, &ToNode::QuoteQuery, now);
            return;
        }
        if self.errand(tunnel, now) || self.resume(tunnel, now) || self.pay_if_low(tunnel, now) {
            return;
        }
        self.listen(tunnel, now);
    }

    /// Opens a conversation.
    fn ask(&mut self, tunnel: TunnelId, hop: u8, question: Question, message: &ToNode, now: UnixMillis) {
        if let Some(t) = self.tunnels.get_mut(&tunnel) {
            t.conversation = Some(Conversation {
                hop,
                question,
                since: now,
                second: None,
            });
            self.outbox.push_now(Output::Ask {
                tunnel,
                hop,
                body: message.encode(),
            });
        }
    }

    /// Ends an open Listen, so that something else can be asked. True if there was one.
    fn cancel_listen(&mut self, tunnel: TunnelId, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return false;
        };
        let Some(Conversation {
            question: Question::Listen(id),
            second,
            since,
            hop,
        }) = &mut t.conversation
        else {
            return false;
        };
        if second.is_none() {
            *second = Some(Second::Cancel);
            *since = now;
            let body = ToNode::Cancel { id: *id }.encode();
            self.outbox.push_now(Output::Continue {
                tunnel,
                hop: *hop,
                second: Second::Cancel,
                body,
            });
        }
        true
    }

    fn listen(&mut self, tunnel: TunnelId, now: UnixMillis) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        let ready = t.conversation.is_none() && t.phase == Phase::Ready && t.chain > 0 && t.payment.is_none();
        if !ready || t.escrow.is_none() || self.config.pay == PayPolicy::Never || !t.should_listen() {
            return;
        }
        t.listen_id = t.listen_id.wrapping_add(1);
        let (id, low, hop) = (t.listen_id, t.listen_mark(), t.chain);
        self.ask(tunnel, hop, Question::Listen(id), &ToNode::Listen { id, low }, now);
    }

    /// A 51 came.
    fn answered(&mut self, tunnel: TunnelId, body: &[u8], now: UnixMillis) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        t.last_cell = now;
        let Some(conversation) = t.conversation else {
            // A relay that speaks unasked: stock Arti would have closed the circuit.
            self.give_up(tunnel, GiveUp::Protocol { hop: 0 });
            return;
        };
        let hop = conversation.hop;
        let Ok(message) = ToOrigin::decode(body) else {
            self.give_up(tunnel, GiveUp::Protocol { hop });
            return;
        };
        let crossed = matches!(message, ToOrigin::PaymentRequest { .. } | ToOrigin::Nothing { .. });
        if crossed && matches!(conversation.question, Question::Pay(_)) && conversation.second == Some(Second::Pay) {
            return;
        }
        t.conversation = None;
        let fits = match (conversation.question, message) {
            (Question::Quote, ToOrigin::Quote(quote)) => self.quoted(tunnel, hop, quote, now),
            (Question::Quote, ToOrigin::Declined(_)) => self.not_quoted(tunnel, hop),
            (Question::Offer(id), ToOrigin::EscrowAccepted(acceptance)) if acceptance.escrow == id => {
                self.offer_accepted(tunnel, &acceptance, now)
            }
            (Question::Offer(id), ToOrigin::Declined(no)) => self.offer_declined(tunnel, id, no.code, now),
            (Question::Balance(id), ToOrigin::Balance(books)) if books.escrow == id => {
                self.balance_told(tunnel, &books, now)
            }
            (Question::Listen(id), ToOrigin::PaymentRequest { id: told, metered, .. }) if told == id => {
                t.listened_at = Some(t.meter.floor());
                self.requested(tunnel, metered, now)
            }
            (Question::Listen(id), ToOrigin::Nothing { id: told }) if told == id => {
                t.listened_at = Some(t.meter.floor());
                true
            }
            (Question::Pay(n), ToOrigin::Complete { n: told, metered, .. }) if told == n => {
                self.completed(tunnel, metered, now)
            }
            (
                Question::Pay(n),
                ToOrigin::Refused {
                    n: told,
                    distance,
                    code,
                },
            ) if told == n => self.refused(tunnel, distance, code, now),
            (Question::Close(id), ToOrigin::Closing { escrow, .. }) if escrow == id => true,
            // It never heard of that escrow: nothing of it was ever paid, the refund ends it.
            (Question::Close(_), ToOrigin::Declined(_)) => true,
            _ => false,
        };
        if fits {
            self.advance(tunnel, now);
        } else {
            self.give_up(tunnel, GiveUp::Protocol { hop });
        }
    }

    /// The tunnel cannot be used any more.
    fn give_up(&mut self, tunnel: TunnelId, why: GiveUp) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        // Its end is reported by the driver; until then nothing more is said on it.
        t.phase = Phase::Stopped;
        self.outbox.discard(|o| concerns(o, tunnel));
        self.outbox.push_now(Output::GiveUp { tunnel, why });
        let at = self.tunnels.get(&tunnel).map_or(UnixMillis(0), |t| t.last_cell);
        self.closed(tunnel, CloseReason::Broke, at);
    }

    fn closed(&mut self, tunnel: TunnelId, why: CloseReason, now: UnixMillis) {
        let Some(t) = self.tunnels.remove(&tunnel) else { return };
        self.outbox
            .discard(|o| concerns(o, tunnel) && !matches!(o, Output::GiveUp { .. }));
        let Some(peer) = t.guard() else { return };
        if let Some(guard) = self.guards.get_mut(&peer) {
            if let Wish::Offer { asked, .. } = &mut guard.wish
                && *asked == Some(tunnel)
            {
                *asked = None;
            }
            guard.ended = guard.ended.saturating_add(t.charged());
            for e in &mut guard.escrows {
                if t.payment
                    .as_ref()
                    .is_some_and(|p| p.escrow == e.id() && p.resume.is_none())
                {
                    e.in_flight = e.in_flight.saturating_sub(1);
                }
                if t.n > 0 && Some(e.id()) == t.escrow {
                    // What was held or unused at hop 1 returned to the balance; only the guard knows how much.
                    e.stale = true;
                }
            }
        }
        self.score(&t, why, now);
        self.advance_all_of(peer, now);
    }

    /// A tunnel ended: its hops are credited with what they did; if it broke while it was in use, they are charged with what they still
    /// owed.
    fn score(&mut self, t: &Tunnel, why: CloseReason, now: UnixMillis) {
        for (i, h) in t.hops.iter().take(t.chain.into()).enumerate() {
            let (peer, kept_word) = (h.peer(), t.kept_word(h));
            match why {
                // What was left of it was not asked for.
                CloseReason::Unused => self.scores.record_ended(peer, kept_word),
                CloseReason::Broke => {
                    let (sums, standing) = ((h.entrusted, kept_word), self.standing(peer));
                    if self.scores.record_broken(peer, t.opened, sums, standing, now) {
                        self.shun(peer, i == 0);
                    }
                }
            }
        }
    }

    /// What a relay has done for tunnels that are open.
    fn standing(&self, peer: PeerId) -> Stroops {
        let hops = self.tunnels.values().flat_map(|t| {
            let paid = t.hops.iter().take(t.chain.into());
            paid.filter(|h| h.peer() == peer).map(|h| t.kept_word(h))
        });
        hops.fold(Stroops::ZERO, |sum, kept| sum.checked_add(kept).unwrap_or(Stroops::MAX))
    }

    fn shun(&mut self, peer: PeerId, is_guard: bool) {
        if is_guard {
            // Stock Arti keeps its guards: we stay, and stop paying, and say so.
            self.outbox
                .push_now(Output::Report(Report::GuardNotPaid { guard: peer }));
        }
        let through: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| t.hops.iter().any(|h| h.peer() == peer))
            .map(|(id, _)| *id)
            .collect();
        for tunnel in through {
            self.outbox.push_now(Output::Retire { tunnel });
        }
    }
}

fn concerns(output: &Output, tunnel: TunnelId) -> bool {
    match output {
        Output::Ask { tunnel: of, .. }
        | Output::Continue { tunnel: of, .. }
        | Output::Send { tunnel: of, .. }
        | Output::GiveUp { tunnel: of, .. }
        | Output::Retire { tunnel: of } => *of == tunnel,
        _ => false,
    }
}
