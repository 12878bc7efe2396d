//! What a [`super::Payer`] is told and what it asks for.

use crate::escrow::Escrow;
use crate::fact::PayerFact;
use crate::ids::TunnelId;
use obol_cell::{
    EscrowId, EscrowOffer, EscrowRules, PeerId, PricePer64KiB, RefuseCode, Signature, Step, Stroops, ToOrigin,
};

/// A hop of a tunnel, in order from the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The relay.
    pub peer: PeerId,
    /// Whether it is to be paid: it advertises `Obol=1`. The rendezvous point of an onion service is the last hop that a client pays, as it counts on
    /// the client's circuit; on the circuit of a hosted service this is `false` for it (ADR 0016, 0024).
    pub paid: bool,
}

/// Why a tunnel is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// We dropped it, or nothing used it any more: nobody's fault.
    Unused,
    /// It broke while it was in use: its hops are charged with what they still owed.
    Broke,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A tunnel carries a stream for the first time (never say it earlier: Arti holds conversations of its own before (H8)).
    TunnelOpened {
        /// The tunnel.
        tunnel: TunnelId,
        /// Its hops, without virtual ones.
        hops: Vec<Hop>,
    },
    /// A tunnel is gone.
    TunnelClosed {
        /// The tunnel.
        tunnel: TunnelId,
        /// Why.
        why: CloseReason,
    },
    /// Payload went through the tunnel's streams since the last such input. See [`crate::payer::meter::cells_of`].
    Traffic {
        /// The tunnel.
        tunnel: TunnelId,
        /// Cells' worth of writes: length / 498 rounded up, for each write.
        up: u64,
        /// Cells' worth of non-empty reads.
        down: u64,
    },
    /// Bytes on the TLS link to this guard, both directions, since the last such input.
    LinkBytes {
        /// The guard.
        guard: PeerId,
        /// Bytes.
        bytes: u64,
    },
    /// A 51 came in the open conversation of this tunnel (also one that [`finishes`] said to consume).
    Answer {
        /// The tunnel.
        tunnel: TunnelId,
        /// The body.
        body: Vec<u8>,
    },
    /// A fresh E for this guard (the answer to [`Output::WantEscrow`], whenever the driver likes).
    Offer {
        /// The guard.
        guard: PeerId,
        /// The offer.
        offer: EscrowOffer,
    },
    /// The opening transaction is in a ledger.
    EscrowOpened {
        /// E.
        escrow: EscrowId,
        /// The balance of the asset that it holds.
        balance: Stroops,
    },
    /// The opening failed for good; nothing is locked up.
    OpeningFailed {
        /// E.
        escrow: EscrowId,
    },
    /// The ledger shows that the escrow ended: by the guard's flush, or by our refund (`paid` zero).
    EscrowEnded {
        /// E.
        escrow: EscrowId,
        /// What the guard was paid.
        paid: Stroops,
    },
    /// Ask the guard to flush this escrow; pay by it no more.
    Close {
        /// E.
        escrow: EscrowId,
    },
    /// The client is where exactly these escrows of its own were *not* opened: at another attachment to a network. None of them is named to
    /// its guard from here on, which would know the client by it; they are taken back after their expiry, and used again where they were
    /// opened (M3).
    Away {
        /// Which; all others may be used.
        escrows: Vec<EscrowId>,
    },
    /// Change when to pay, from now on.
    SetPolicy(super::PayPolicy),
    /// Change what may be signed away, from now on. A tunnel that was not paid any more stays so.
    SetBudgets(super::Budgets),
    /// Change what is paid at most, for tunnels to come.
    SetCeilings {
        /// As [`super::PayerConfig::hop_ceiling`].
        hop: PricePer64KiB,
        /// As [`super::PayerConfig::chain_ceiling`].
        chain: Stroops,
    },
    /// Every [`Output::Persist`] up to this number is durable.
    Persisted {
        /// Its `seq`.
        upto: u64,
    },
    /// Time passed (see [`super::Payer::next_wake`]).
    Tick,
}

/// The second message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Second {
    /// `Cancel`: the Listen's answer, whichever it is, ends the conversation.
    Cancel,
    /// The `Pay` that ends a Listen: `Complete` or `Refused` ends the conversation; a `PaymentRequest` or `Nothing` that
    /// crosses it is consumed (2.15).
    Pay,
}

/// Whether `body` ends the conversation in which `second` was sent after its first message (`None`: nothing was).
///
/// For the message handler: `true` is `ConversationFinished`, `false` is `Consumed`. The body goes to [`Input::Answer`]
/// either way.
pub fn finishes(second: Option<Second>, body: &[u8]) -> bool {
    match second {
        None | Some(Second::Cancel) => true,
        Some(Second::Pay) => !matches!(
            ToOrigin::decode(body),
            Ok(ToOrigin::PaymentRequest { .. } | ToOrigin::Nothing { .. })
        ),
    }
}

/// Something to do. Hops count from 1, the guard.
///
/// What depends on a [`Output::Persist`] comes out of [`super::Payer::poll`] only after that was reported durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make these facts durable, in order, in one transaction, then report [`Input::Persisted`].
    Persist {
        /// Rising by one.
        seq: u64,
        /// What to store.
        facts: Vec<PayerFact>,
    },
    /// Start a conversation: a 52 that gets exactly one answer. Never given while one is open on this tunnel.
    Ask {
        /// The tunnel.
        tunnel: TunnelId,
        /// The hop.
        hop: u8,
        /// The body.
        body: Vec<u8>,
    },
    /// Send a second message on the open conversation. If its answer came in the meantime (the handler finished it):
    /// drop a [`Second::Cancel`]; send a [`Second::Pay`] in a new conversation, as if it were an [`Output::Ask`].
    Continue {
        /// The tunnel.
        tunnel: TunnelId,
        /// The hop that the conversation is with.
        hop: u8,
        /// Which.
        second: Second,
        /// The body.
        body: Vec<u8>,
    },
    /// Send a 52 that gets no answer, outside of any conversation.
    Send {
        /// The tunnel.
        tunnel: TunnelId,
        /// The hop.
        hop: u8,
        /// The body.
        body: Vec<u8>,
    },
    /// Terminate the tunnel's circuit: a conversation on it will not end, or a hop broke the protocol.
    GiveUp {
        /// The tunnel.
        tunnel: TunnelId,
        /// Why.
        why: GiveUp,
    },
    /// Let no new stream use this tunnel (a hop's score is low); streams on it go on.
    Retire {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// An escrow with this guard is wanted: make a key for E, fund a one-time account, then say [`Input::Offer`].
    WantEscrow {
        /// The guard.
        guard: PeerId,
        /// Its rules.
        rules: EscrowRules,
        /// How much to pay in.
        deposit: Stroops,
        /// The expiry to offer: this many seconds from the offer.
        life: u32,
    },
    /// The guard accepted and the refund is safe: open it on the ledger, then say [`Input::EscrowOpened`] or
    /// [`Input::OpeningFailed`]. Repeated after a restart (look before you submit).
    OpenEscrow {
        /// The escrow.
        escrow: Escrow,
        /// What to pay in.
        deposit: Stroops,
        /// r's signature on the refund transaction: keep it with the terms.
        refund: Signature,
    },
    /// The escrow expired without a flush: submit the refund, then say [`Input::EscrowEnded`] with what the ledger shows.
    Refund {
        /// The escrow.
        escrow: Escrow,
        /// r's signature.
        refund: Signature,
    },
    /// For metrics and people.
    Report(Report),
}

/// Why a tunnel is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GiveUp {
    /// 10 s without any cell, or 60 s in all, while a question was open.
    Silent,
    /// A body that does not decode, or that answers another question.
    Protocol {
        /// The hop asked.
        hop: u8,
    },
}

/// Why a hop is not paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpaid {
    /// It asks more than a ceiling.
    TooDear {
        /// What it asks.
        price: PricePer64KiB,
    },
    /// Its money is on another ledger, or another asset.
    OtherMoney,
    /// Its quote is not the first that it gave us today (2.23).
    QuoteChanged,
    /// It will not quote now.
    Declined,
    /// Hops before it do not pay it (`next: none`), or are not paid hops.
    ChainEnds,
    /// Its forward ceiling does not cover the hops after it.
    ForwardCeiling,
    /// The score of a relay is under 0.8 for a day.
    Score,
    /// It claimed to have carried more than we can have sent and received.
    OverClaimed,
    /// Nothing is left of the budget.
    Budget,
}

/// What people and metrics are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A hop quoted.
    Quoted {
        /// The tunnel.
        tunnel: TunnelId,
        /// The hop.
        hop: u8,
        /// Its price.
        price: PricePer64KiB,
        /// Its initial credit, bytes.
        credit: u64,
    },
    /// The chain of a tunnel: this many hops will be paid.
    Chain {
        /// The tunnel.
        tunnel: TunnelId,
        /// How many, from the guard.
        paid_hops: u8,
    },
    /// A hop is not paid.
    Unpaid {
        /// The tunnel.
        tunnel: TunnelId,
        /// The hop.
        hop: u8,
        /// Why.
        why: Unpaid,
    },
    /// The last paid hop asked for the next step.
    Requested {
        /// The tunnel.
        tunnel: TunnelId,
        /// Bytes, by its meter.
        metered: u64,
    },
    /// A payment left.
    Paying {
        /// The tunnel.
        tunnel: TunnelId,
        /// Its number.
        n: u16,
        /// What it buys.
        step: Step,
        /// What it costs in all.
        amount: Stroops,
    },
    /// A payment arrived at every hop.
    Paid {
        /// The tunnel.
        tunnel: TunnelId,
        /// Its number.
        n: u16,
        /// From its first message to `Complete`, milliseconds.
        took_ms: u64,
        /// The last paid hop's meter, bytes.
        metered: u64,
    },
    /// A payment was refused.
    Refused {
        /// The tunnel.
        tunnel: TunnelId,
        /// Its number.
        n: u16,
        /// The hop that refused.
        hop: u8,
        /// Why.
        code: RefuseCode,
    },
    /// A step is withheld, to see whether paying helps.
    Withheld {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// What came of it.
    Helps {
        /// The tunnel.
        tunnel: TunnelId,
        /// Whether the tunnel slowed without payment.
        helps: bool,
    },
    /// A guard cannot be left with stock Arti; it is not paid any more.
    GuardNotPaid {
        /// The guard.
        guard: PeerId,
    },
    /// An escrow is in use.
    EscrowInUse {
        /// E.
        escrow: EscrowId,
        /// Its balance.
        balance: Stroops,
    },
    /// An escrow ended.
    EscrowEnded {
        /// E.
        escrow: EscrowId,
        /// What was paid by it.
        paid: Stroops,
    },
}
