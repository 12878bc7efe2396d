//! What a [`super::Node`] is told and what it asks for.

use super::limits::Limited;
use crate::escrow::{Escrow, NotBelieved};
use crate::fact::NodeFact;
use crate::ids::{AddressKey, CircuitId, LinkId};
use crate::trust::{ExpectedPayment, NotPaid, OwedPayment, Trusted};
use obol_cell::{
    AccountId, DeclineCode, EscrowId, EscrowOffer, EscrowRules, PeerId, RefuseCode, SettlementMemo, Signature, Step,
    Stroops, TransactionId,
};
use std::collections::BTreeMap;

/// Something that happened.
///
/// `metered` is always the circuit's count of bytes sent on since it began, both directions (514 for each RELAY cell,
/// payment messages to this hop left out), as it is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A link is up, after NETINFO.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The identity that the other end proved, if it did: whoever did so pays and is paid by legs.
        peer: Option<PeerId>,
        /// Whether our consensus lists that identity with `Obol=1`: link messages are sent only then.
        obol: bool,
        /// The address on whose bucket of initial credit its circuits draw: a client's, or that of a peer that our consensus
        /// does not know. `None`: they draw on the bucket of the relay `peer`.
        address: Option<AddressKey>,
    },
    /// Our consensus has changed, and with it the bucket on which a link's new circuits draw.
    LinkJudged {
        /// The link.
        link: LinkId,
        /// As in [`Input::LinkUp`].
        address: Option<AddressKey>,
    },
    /// A link is gone. Its circuits are reported closed one by one, before or after.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// A circuit was created by the neighbour on `link`.
    CircuitOpened {
        /// The circuit.
        circuit: CircuitId,
        /// Where it comes from.
        link: LinkId,
        /// Its circuit id on that link.
        id: u32,
    },
    /// A circuit was extended to a next hop.
    CircuitExtended {
        /// The circuit.
        circuit: CircuitId,
        /// Where it goes on to.
        link: LinkId,
        /// Its circuit id on that link.
        id: u32,
    },
    /// A circuit is gone.
    CircuitClosed {
        /// The circuit.
        circuit: CircuitId,
        /// See [`Input`].
        metered: u64,
    },
    /// A 52 for this hop.
    Message {
        /// The circuit.
        circuit: CircuitId,
        /// The body of the relay message.
        body: Vec<u8>,
        /// See [`Input`].
        metered: u64,
    },
    /// A 200 from a neighbour.
    LinkMessage {
        /// The link.
        link: LinkId,
        /// The body of the cell.
        body: Vec<u8>,
    },
    /// Credit fell below the mark that [`Output::Watch`] set, or ran out. May also be said at any other time.
    CreditLow {
        /// The circuit.
        circuit: CircuitId,
        /// See [`Input`].
        metered: u64,
    },
    /// The answer to [`Output::CheckAbsent`].
    EscrowChecked {
        /// E.
        escrow: EscrowId,
        /// Whether the account exists in the newest closed ledger; `None`: the ledger could not be asked.
        exists: Option<bool>,
    },
    /// The answer to [`Output::ReadEscrow`].
    EscrowRead {
        /// E.
        escrow: EscrowId,
        /// Its balance of the asset, if everything that settlement.md lists was as agreed.
        result: Result<Stroops, NotBelieved>,
    },
    /// A ledger closed.
    LedgerClosed {
        /// Its number.
        sequence: u32,
        /// Its close time, unix seconds.
        close_time: u64,
    },
    /// The account that new escrows pay to (one of a rotating set, published nowhere else). Until one is given no offer is
    /// accepted; nor while `can_accept` is false (too little XLM for the fees of the open escrows, a bad trust line ...).
    PayeeAccount {
        /// The account.
        account: AccountId,
        /// Whether new escrows may be accepted now.
        can_accept: bool,
    },
    /// As payee: this flush failed *in* a ledger; its sequence is used (core). A claim with a higher k is flushed when
    /// there is one.
    FlushFailed {
        /// E.
        escrow: EscrowId,
        /// The claim that was published.
        k: u32,
    },
    /// As payee: the ledger shows that the escrow paid this much to us (or zero: it was refunded). Ends it.
    Settled {
        /// E.
        escrow: EscrowId,
        /// What arrived.
        amount: Stroops,
    },
    /// As payer: the driver made a fresh E for this peer (the answer to [`Output::WantEscrow`], whenever it likes).
    Offer {
        /// The payee.
        peer: PeerId,
        /// The offer.
        offer: EscrowOffer,
    },
    /// As payer: the opening transaction is in a ledger.
    EscrowOpened {
        /// E.
        escrow: EscrowId,
        /// The balance of the asset that it holds.
        balance: Stroops,
    },
    /// As payer: the opening failed for good; nothing is locked up.
    OpeningFailed {
        /// E.
        escrow: EscrowId,
    },
    /// As payer: the ledger shows that the escrow ended: by the payee's flush, or by our refund (`paid` zero). The
    /// driver sweeps and merges.
    EscrowEnded {
        /// E.
        escrow: EscrowId,
        /// What the payee was paid.
        paid: Stroops,
    },
    /// As payer: pay no more on this escrow and ask the payee to flush it.
    Close {
        /// E.
        escrow: EscrowId,
    },
    /// As payee: flush this escrow now (operator's request, shutdown for good, changed identity).
    FlushNow {
        /// E.
        escrow: EscrowId,
    },
    /// The consensus: the relays that take payments (or those of them that we want to be able to pay), and how much traffic goes
    /// to each. Escrows are opened to these only. Until it is told: to every relay that says hello.
    Candidates {
        /// Weights, in any unit.
        weights: BTreeMap<PeerId, u64>,
    },
    /// What the capital account has. Until it is told: enough.
    Capital {
        /// Of the asset.
        asset: Stroops,
        /// For how many openings its lumens suffice.
        openings: u32,
    },
    /// The lumens of a payee account, for the alarm before new escrows are declined (settlement.md: twice the highest fee for each open
    /// escrow).
    PayeeLumens {
        /// What can be spent, in stroops of XLM.
        have: Stroops,
        /// What the open escrows may need.
        need: Stroops,
    },
    /// Who may owe us, and where that is paid to: an account that is used for nothing else, by no other relay. Whoever is to be trusted
    /// no more stays on the list, with a limit of nothing, until its debt is settled.
    Trust {
        /// The account.
        account: AccountId,
        /// The list.
        peers: Vec<Trusted>,
    },
    /// The answer to [`Output::CheckPayment`].
    PaymentChecked {
        /// Who paid.
        peer: PeerId,
        /// The transaction.
        transaction: TransactionId,
        /// How much it paid in all, if everything is as expected.
        result: Result<Stroops, NotPaid>,
    },
    /// The answer to [`Output::PayOwed`]: a closed ledger has it.
    OwedPaid {
        /// Its number.
        batch: u64,
        /// The transaction.
        transaction: TransactionId,
    },
    /// The answer to [`Output::FindPayments`]: all of them, oldest first, once none that was submitted earlier can come to be any more.
    PaymentsFound {
        /// The transactions, with their payments of the asset.
        transactions: Vec<(TransactionId, Vec<OwedPayment>)>,
    },
    /// The answer to [`Output::PayOwed`]: it failed, or its time bound has passed, and no ledger will ever have it. "Unknown" is no
    /// answer.
    OwedNotPaid {
        /// Its number.
        batch: u64,
    },
    /// Every [`Output::Persist`] up to this number is durable.
    Persisted {
        /// Its `seq`.
        upto: u64,
    },
    /// Time passed (see [`super::Node::next_wake`]).
    Tick,
}

/// Why an escrow is flushed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushReason {
    /// It is in the first half of its margin.
    Expiry,
    /// The payer asked.
    Requested,
    /// The operator asked, or the exposure limit was reached.
    Own,
    /// The last flush failed in a ledger, and a claim with a higher k is there.
    Again,
}

/// Something to do.
///
/// What depends on a [`Output::Persist`] comes out of [`super::Node::poll`] only after that was reported durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make these facts durable, in order, in one transaction, then report [`Input::Persisted`].
    Persist {
        /// Rising by one.
        seq: u64,
        /// What to store.
        facts: Vec<NodeFact>,
    },
    /// A relay cell 51 towards the client.
    Answer {
        /// The circuit.
        circuit: CircuitId,
        /// The body.
        body: Vec<u8>,
    },
    /// A cell 200 on a link.
    SendLink {
        /// The link.
        link: LinkId,
        /// The body.
        body: Vec<u8>,
    },
    /// Add to the circuit's credit; the circuit is in the paid class while it has any.
    Grant {
        /// The circuit.
        circuit: CircuitId,
        /// Bytes.
        bytes: u64,
    },
    /// Say [`Input::CreditLow`] once, as soon as the circuit's credit is below this (now, if it is already). A later
    /// mark replaces an earlier one; zero: no more.
    Watch {
        /// The circuit.
        circuit: CircuitId,
        /// Bytes.
        below: u64,
    },
    /// A protocol error, or a flood: destroy this circuit alone.
    Destroy {
        /// The circuit.
        circuit: CircuitId,
    },
    /// A protocol error of the neighbour: close this link.
    CloseLink {
        /// The link.
        link: LinkId,
    },
    /// Does this account exist? Answered by [`Input::EscrowChecked`].
    CheckAbsent {
        /// E.
        escrow: EscrowId,
    },
    /// Read the escrow from a closed ledger and compare it with what was agreed (settlement.md). Batch these. Answered by
    /// [`Input::EscrowRead`].
    ReadEscrow {
        /// What was agreed.
        escrow: Escrow,
    },
    /// Sign this claim with r too, wrap it in a fee bump, submit it, retry with a rising fee; then say [`Input::Settled`] or
    /// [`Input::FlushFailed`]. Recorded as a fact already; repeated after a restart.
    Flush {
        /// The escrow.
        escrow: Escrow,
        /// The claim.
        k: u32,
        /// What it pays.
        cumulative: Stroops,
        /// E's signature.
        signature: Signature,
        /// Why now.
        reason: FlushReason,
    },
    /// An escrow to this peer is needed before long. Make a key for E, fund a one-time account, then say [`Input::Offer`].
    WantEscrow {
        /// The payee.
        peer: PeerId,
        /// Its rules.
        rules: EscrowRules,
        /// How much to pay in.
        deposit: Stroops,
        /// The expiry to offer: this many seconds from the offer.
        life: u32,
    },
    /// The peer declined the offer, or did not answer: forget E.
    OfferDeclined {
        /// E.
        escrow: EscrowId,
        /// Why.
        code: DeclineCode,
    },
    /// The payee accepted and the refund is safe: open it on the ledger, then say [`Input::EscrowOpened`] or
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
    /// Pay what is owed: one transaction, with this memo, with all of these payments. Record it under its number before it is
    /// submitted; asked for again after a restart, with the same number and the same payments: look before you submit. Then say
    /// [`Input::OwedPaid`] or [`Input::OwedNotPaid`].
    PayOwed {
        /// Its number; never used for another.
        batch: u64,
        /// The account that pays.
        from: AccountId,
        /// The transaction's memo, a hash.
        memo: SettlementMemo,
        /// At most [`super::PAYMENTS_IN_ONE`].
        payments: Vec<OwedPayment>,
    },
    /// The books come out of a backup, and do not know what was paid since: which transactions of this account have this memo? Nothing is
    /// paid, or owed, before [`Input::PaymentsFound`]. Asked for again after a restart.
    FindPayments {
        /// The account that pays.
        from: AccountId,
        /// The memo, a hash.
        memo: SettlementMemo,
    },
    /// Is this transaction in a closed ledger, did it succeed, and how much did it pay as described? Batch these. Answered by
    /// [`Input::PaymentChecked`].
    CheckPayment {
        /// Who says that it paid.
        peer: PeerId,
        /// The transaction.
        transaction: TransactionId,
        /// What is expected of it.
        payment: ExpectedPayment,
    },
    /// For metrics and people.
    Report(Report),
}

/// What metrics count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A payment was credited here.
    Credited {
        /// What was bought.
        step: Step,
        /// What this relay earned, its forwarding fee included.
        earned: Stroops,
        /// What it passed on.
        forwarded: Stroops,
        /// Whether it came from a client (true) or a neighbour relay.
        from_client: bool,
    },
    /// A payment was refused here.
    Refused {
        /// Why.
        code: RefuseCode,
    },
    /// The client of a circuit was asked to pay.
    Requested {
        /// The circuit.
        circuit: CircuitId,
        /// Bytes carried on it.
        metered: u64,
    },
    /// Money stays here although nothing was bought for it.
    Held {
        /// How much.
        amount: Stroops,
    },
    /// A claim was stored.
    Claim {
        /// By how much the newest claim rose.
        rise: Stroops,
    },
    /// A claim's signature was wrong.
    BadSignature,
    /// A circuit was destroyed, or a link closed, for a protocol error.
    ProtocolError,
    /// A circuit began with this much initial credit, bytes.
    InitialCredit {
        /// Bytes.
        bytes: u64,
    },
    /// An escrow of ours began to be used (payee: true, payer: false).
    EscrowInUse {
        /// Which side we are on.
        payee: bool,
    },
    /// An escrow ended with this amount.
    EscrowSettled {
        /// Which side we are on.
        payee: bool,
        /// What was paid by it.
        amount: Stroops,
    },
    /// Money paid on to a neighbour.
    PaidOn {
        /// How much.
        amount: Stroops,
    },
    /// A limit is near (80 % of it are used), or is not any more (less than 70 %).
    Level {
        /// Which.
        of: Limited,
        /// How much of it is used, in the limit's unit.
        used: u64,
        /// The limit.
        limit: u64,
        /// Near, or not any more.
        alarm: bool,
    },
    /// A relay that we trust owes more than before.
    Owed {
        /// By how much.
        rise: Stroops,
    },
    /// The ledger has shown that a part of it was paid.
    OwedSettled {
        /// How much.
        amount: Stroops,
    },
    /// A settlement was announced that the ledger does not show as it was announced.
    BadSettlement,
}
