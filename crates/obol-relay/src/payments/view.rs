//! The payments as people see them: escrows, circuits and sums, folded from the same facts that the journal keeps.

use std::collections::{BTreeMap, VecDeque};

use obol_cell::{AccountId, EscrowId, PeerId, Stroops};
use obol_stellar::key::account_text;
use obol_toll::Escrow;
use obol_toll::fact::{NodeFact, OutFact, Owner, TrustFact};
use serde::Serialize;

/// How many ended escrows and closed circuits are remembered.
const REMEMBERED: usize = 1024;

/// Where an escrow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Ours: the payee accepted, it is not on the ledger yet.
    Opening,
    /// In use.
    Open,
    /// Nothing new is signed or stored on it.
    Closing,
    /// Theirs: its flush is recorded.
    Flushing,
    /// Theirs: it ended on the ledger.
    Settled,
    /// Ours: it ended on the ledger, and its payee was paid something.
    Ended,
    /// Ours: it ended on the ledger, and its payee was paid nothing.
    Refunded,
    /// Ours: it was never opened.
    Abandoned,
}

impl Standing {
    /// Whether it holds money that is not decided about yet.
    pub fn is_live(self) -> bool {
        matches!(self, Standing::Open | Standing::Closing | Standing::Flushing)
    }

    /// Whether the ledger has shown its end.
    pub fn is_over(self) -> bool {
        matches!(self, Standing::Settled | Standing::Ended | Standing::Refunded)
    }
}

/// Who pays by an escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It pays this relay.
    In,
    /// This relay pays by it.
    Out,
}

/// An escrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EscrowView {
    /// Who pays by it.
    pub direction: Direction,
    /// The relay at its other end: its Ed25519 identity in hexadecimal. `None`: a client.
    pub peer: Option<String>,
    /// E, as an address (`G...`).
    pub escrow: String,
    /// What it held when it was read or opened, stroops; before the opening, what will go in.
    pub deposit: i64,
    /// What the newest claim leaves of that, stroops.
    pub balance: i64,
    /// The newest claim, stroops.
    pub cumulative: i64,
    /// The newest claim's number.
    pub k: u32,
    /// Of the newest claim, what is assigned to circuits, less what they gave back, stroops. For ours: the claim.
    pub allocated: i64,
    /// Where it stands.
    pub state: Standing,
    /// What its end on the ledger paid the payee, stroops.
    pub settled_stroops: Option<i64>,
    /// Unix seconds.
    pub expiry: u64,
}

/// What payments did for one circuit of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Circuit {
    /// Its name in this process.
    pub circuit: u64,
    /// Whether it came from a client, or from a relay.
    pub from_client: bool,
    /// Payments credited.
    pub payments: u64,
    /// Bytes of credit that it got before it paid.
    pub initial_credit: u64,
    /// Bytes of credit bought.
    pub bought: u64,
    /// Bytes of credit left.
    pub credit: u64,
    /// Bytes carried.
    pub metered: u64,
    /// Stroops assigned to it.
    pub paid_stroops: i64,
    /// Of that, earned here.
    pub earned_stroops: i64,
    /// Of that, passed on.
    pub forwarded_stroops: i64,
    /// Whether it is still open.
    pub open: bool,
}

/// A neighbour relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NeighbourView {
    /// Links to it now.
    pub links: u64,
    /// Bytes that circuits from it carried here, in this run.
    pub carried: u64,
    /// What it has owed us by its statements, less what the ledger showed of that, stroops.
    pub owed_to_us: i64,
    /// What we have owed it, less what was paid of that, stroops.
    pub owed: i64,
}

/// Sums over the journal's life, stroops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sums {
    /// Payers' claims on us.
    pub claimed: i64,
    /// Own part of credited payments.
    pub earned: i64,
    /// Part of credited payments for next hops.
    pub forwarded: i64,
    /// Our claims for next hops.
    pub signed: i64,
    /// What ended escrows paid us, of those that the journal still has one by one.
    pub settled_in: i64,
    /// What our ended escrows paid others, of those likewise.
    pub settled_out: i64,
    /// Given back to clients, as far as the journal has circuits one by one.
    pub returned: i64,
    /// What relays have owed us in all, settled or not; no part of the claims.
    pub owed_to_us: i64,
    /// Of that, what the ledger has shown to be paid.
    pub owed_to_us_settled: i64,
    /// What we have owed other relays in all, paid or not; no part of our claims.
    pub owed: i64,
    /// Of that, what is paid.
    pub owed_paid: i64,
}

/// An escrow as the driver needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) escrow: Escrow,
    pub(super) deposit: Stroops,
}

/// Everything.
#[derive(Debug, Default)]
pub struct View {
    escrows: BTreeMap<EscrowId, (Known, EscrowView)>,
    ended: VecDeque<EscrowId>,
    circuits: BTreeMap<u64, Circuit>,
    /// Which relay a circuit came from.
    came_from: BTreeMap<u64, PeerId>,
    closed: VecDeque<u64>,
    sums: Sums,
    /// The newest statements of what is owed: to us, and by us.
    owed_to_us: BTreeMap<PeerId, Stroops>,
    owed: BTreeMap<PeerId, Stroops>,
    /// Payments of it that are under way, by number.
    paying: BTreeMap<u64, Vec<(PeerId, i64)>>,
    /// Relays with which there is, or was, a link, or a debt; what open circuits carried is not in here.
    neighbours: BTreeMap<PeerId, NeighbourView>,
}

impl View {
    /// All escrows, the newest of those that have ended too.
    pub fn escrows(&self) -> Vec<EscrowView> {
        self.escrows.values().map(|(_, view)| view.clone()).collect()
    }

    /// One escrow.
    pub fn one(&self, escrow: &EscrowId) -> Option<EscrowView> {
        self.escrows.get(escrow).map(|(_, view)| view.clone())
    }

    /// Open circuits, and the newest of those that were paid for and have closed.
    pub fn circuits(&self) -> Vec<Circuit> {
        self.circuits.values().copied().collect()
    }

    /// The neighbour relays, with what is carried on open circuits: `circuits` has their meters.
    pub fn neighbours(&self, circuits: &[Circuit]) -> BTreeMap<PeerId, NeighbourView> {
        let mut all = self.neighbours.clone();
        for circuit in circuits.iter().filter(|circuit| circuit.open) {
            if let Some(peer) = self.came_from.get(&circuit.circuit) {
                let view = all.entry(*peer).or_default();
                view.carried = view.carried.saturating_add(circuit.metered);
            }
        }
        all
    }

    fn neighbour(&mut self, peer: PeerId) -> &mut NeighbourView {
        self.neighbours.entry(peer).or_default()
    }

    /// There is one more link to this relay.
    pub(super) fn link_up(&mut self, peer: PeerId) {
        self.neighbour(peer).links += 1;
    }

    /// There is one less.
    pub(super) fn link_down(&mut self, peer: PeerId) {
        let view = self.neighbour(peer);
        view.links = view.links.saturating_sub(1);
        // Relays come and go by the thousand: one that did nothing is forgotten with its last link.
        if *view == NeighbourView::default() {
            self.neighbours.remove(&peer);
        }
    }

    /// Sums.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Escrows that pay us and have not ended.
    pub(super) fn incoming(&self) -> impl Iterator<Item = EscrowId> + '_ {
        let of_ours = self
            .escrows
            .iter()
            .filter(|(_, (_, view))| view.direction == Direction::In);
        of_ours.filter(|(_, (_, view))| view.state.is_live()).map(|(id, _)| *id)
    }

    /// Escrows that we pay by, with their standing.
    pub(super) fn outgoing(&self) -> impl Iterator<Item = (EscrowId, Known, Standing)> + '_ {
        let ours = self
            .escrows
            .iter()
            .filter(|(_, (_, view))| view.direction == Direction::Out);
        ours.map(|(id, (known, view))| (*id, *known, view.state))
    }

    /// One escrow.
    pub(super) fn escrow(&self, escrow: &EscrowId) -> Option<(Known, Standing)> {
        self.escrows.get(escrow).map(|(known, view)| (*known, view.state))
    }

    /// A circuit began.
    pub(super) fn circuit_opened(&mut self, circuit: u64, from_client: bool, peer: Option<PeerId>) {
        if let Some(peer) = peer {
            self.came_from.insert(circuit, peer);
        }
        let new = Circuit {
            circuit,
            from_client,
            open: true,
            ..Circuit::default()
        };
        self.circuits.insert(circuit, new);
    }

    /// The relay that a circuit came from: its Ed25519 identity in hexadecimal.
    pub(super) fn came_from(&self, circuit: u64) -> Option<String> {
        self.came_from.get(&circuit).map(|peer| hex::encode(peer.0))
    }

    /// A circuit was given credit, paid for or not.
    pub(super) fn granted(&mut self, circuit: u64, bytes: u64) {
        if let Some(view) = self.circuits.get_mut(&circuit) {
            // What was paid for is counted when that is a fact, which is before it is granted.
            view.credit = view.credit.saturating_add(bytes);
            view.initial_credit = view.credit.saturating_sub(view.bought);
        }
    }

    /// A circuit is gone. Remembered are those that paid.
    pub(super) fn circuit_closed(&mut self, circuit: u64, metered: u64) {
        let Some(view) = self.circuits.get_mut(&circuit) else {
            return;
        };
        view.metered = metered;
        view.open = false;
        let unpaid = view.paid_stroops == 0;
        if let Some(peer) = self.came_from.get(&circuit).copied() {
            let neighbour = self.neighbour(peer);
            neighbour.carried = neighbour.carried.saturating_add(metered);
        }
        if unpaid {
            self.circuits.remove(&circuit);
            self.came_from.remove(&circuit);
            return;
        }
        self.closed.push_back(circuit);
        if self.closed.len() > REMEMBERED
            && let Some(oldest) = self.closed.pop_front()
        {
            self.circuits.remove(&oldest);
            self.came_from.remove(&oldest);
        }
    }

    /// The circuits, with the meters and credits of the open ones as the data plane has them.
    pub(super) fn metered_circuits(&self, look: impl Fn(u64) -> Option<(u64, u64)>) -> Vec<Circuit> {
        let with_meter = |mut view: Circuit| {
            // `credit` counts up all that was granted, until here.
            let granted = view.credit;
            view.credit = granted.saturating_sub(view.metered);
            if view.open
                && let Some((metered, credit)) = look(view.circuit)
            {
                (view.metered, view.credit) = (metered, credit);
            }
            view
        };
        self.circuits.values().copied().map(with_meter).collect()
    }

    /// Takes in a fact that is durable.
    pub(super) fn apply(&mut self, fact: &NodeFact) {
        match fact {
            // Circuits are added as the data plane opens them, so those of earlier runs never are; some may be open
            // already when this becomes durable.
            NodeFact::Restarted => {}
            NodeFact::Believed {
                escrow, owner, balance, ..
            } => {
                let peer = match owner {
                    Owner::Client => None,
                    Owner::Peer(peer) => Some(hex::encode(peer.0)),
                };
                self.add(*escrow, Direction::In, peer, *balance, Standing::Open);
            }
            NodeFact::Claim {
                escrow, k, cumulative, ..
            } => {
                let rise = self.claim(escrow, *k, *cumulative);
                self.sums.claimed += rise;
            }
            NodeFact::Allocated {
                escrow,
                circuit,
                amount,
                ..
            } => {
                self.with(escrow, |_, view| view.allocated += amount.get());
                if let Some(view) = self.circuits.get_mut(&circuit.0) {
                    view.paid_stroops += amount.get();
                }
            }
            NodeFact::Spent {
                circuit,
                earned,
                forwarded,
                credit,
                ..
            } => {
                self.sums.earned += earned.get();
                self.sums.forwarded += forwarded.get();
                if let Some(view) = self.circuits.get_mut(&circuit.0) {
                    view.payments += 1;
                    view.earned_stroops += earned.get();
                    view.forwarded_stroops += forwarded.get();
                    view.bought = view.bought.saturating_add(*credit);
                }
            }
            NodeFact::Returned { escrow, amount, .. } => {
                self.sums.returned += amount.get();
                self.with(escrow, |_, view| view.allocated -= amount.get());
            }
            // Escrows that are long over have no facts of their own any more: the sums know them. Of what was signed the statements of
            // trust are a part, which is told apart here.
            NodeFact::Totals { claimed, signed, .. } => {
                self.sums.claimed = self.sums.claimed.max(claimed.get());
                self.sums.signed = self.sums.signed.max(signed.get().saturating_sub(self.sums.owed));
            }
            NodeFact::CircuitEnded { .. } | NodeFact::IncomingState { .. } => {}
            NodeFact::Day { .. } | NodeFact::Volume { .. } => {}
            NodeFact::Trust(fact) => self.apply_trust(fact),
            NodeFact::NewEpoch => self.begin_epoch(),
            NodeFact::InClosing { escrow } => self.stand(escrow, Standing::Closing),
            NodeFact::Flushing { escrow, .. } => self.stand(escrow, Standing::Flushing),
            NodeFact::FlushFailed { escrow, .. } => self.stand(escrow, Standing::Closing),
            NodeFact::Settled { escrow, amount } => {
                self.sums.settled_in += amount.get();
                self.stand(escrow, Standing::Settled);
                self.over(escrow, Some(*amount));
            }
            NodeFact::Out(fact) => self.apply_out(fact),
        }
    }

    /// What comes before this is from a backup: nothing is signed or stored any more on its escrows. Those that pay us are flushed at
    /// once; of those that we pay by, also of one whose opening was under way, the ledger shows the end.
    fn begin_epoch(&mut self) {
        for (_, view) in self.escrows.values_mut() {
            if matches!(view.state, Standing::Opening | Standing::Open) {
                view.state = Standing::Closing;
            }
        }
    }

    fn apply_trust(&mut self, fact: &TrustFact) {
        let rise = |newest: &mut Stroops, cumulative: Stroops| {
            let rise = cumulative.saturating_sub(*newest);
            *newest = cumulative.max(*newest);
            rise.get()
        };
        match fact {
            TrustFact::Stated { peer, cumulative, .. } => {
                let newest = self.owed_to_us.entry(*peer).or_default();
                let rise = rise(newest, *cumulative);
                self.sums.owed_to_us += rise;
                self.neighbour(*peer).owed_to_us += rise;
            }
            TrustFact::Settled { peer, amount, .. } => {
                self.sums.owed_to_us_settled += amount.get();
                self.neighbour(*peer).owed_to_us -= amount.get();
            }
            TrustFact::Signed { peer, cumulative, .. } => {
                let newest = self.owed.entry(*peer).or_default();
                let rise = rise(newest, *cumulative);
                self.sums.owed += rise;
                self.neighbour(*peer).owed += rise;
            }
            TrustFact::Paying {
                batch, peer, amount, ..
            } => self.paying.entry(*batch).or_default().push((*peer, amount.get())),
            TrustFact::Paid { batch, .. } => {
                for (peer, amount) in self.paying.remove(batch).unwrap_or_default() {
                    self.paid(peer, amount);
                }
            }
            TrustFact::NotPaid { batch } => {
                self.paying.remove(batch);
            }
            TrustFact::OldPayments { peer, amount, .. } => self.paid(*peer, amount.get()),
            TrustFact::Allocated { circuit, amount, .. } => {
                if let Some(view) = self.circuits.get_mut(&circuit.0) {
                    view.paid_stroops += amount.get();
                }
            }
            TrustFact::Spent {
                circuit,
                amount,
                credit,
                ..
            } => {
                if let Some(view) = self.circuits.get_mut(&circuit.0) {
                    // Without credit it is a part of a payment that is counted with its other part.
                    view.payments += u64::from(*credit > 0);
                    view.earned_stroops += amount.get();
                    view.bought = view.bought.saturating_add(*credit);
                }
            }
            TrustFact::InState { .. } | TrustFact::Agreed { .. } | TrustFact::Confirmed { .. } | TrustFact::Found => {}
        }
    }

    /// Of what we owe this relay.
    fn paid(&mut self, peer: PeerId, amount: i64) {
        self.sums.owed_paid += amount;
        self.neighbour(peer).owed -= amount;
    }

    fn apply_out(&mut self, fact: &OutFact) {
        match fact {
            OutFact::Accepted { escrow, deposit, .. } => {
                let peer = Some(hex::encode(escrow.terms.payee.0));
                self.add(*escrow, Direction::Out, peer, *deposit, Standing::Opening);
            }
            OutFact::Opened { escrow, balance } => {
                self.stand(escrow, Standing::Open);
                self.with(escrow, |known, view| {
                    known.deposit = *balance;
                    view.deposit = balance.get();
                    view.balance = balance.get() - view.cumulative;
                });
            }
            OutFact::Signed { escrow, k, cumulative } => {
                let rise = self.claim(escrow, *k, *cumulative);
                self.with(escrow, |_, view| view.allocated = view.cumulative);
                self.sums.signed += rise;
            }
            OutFact::Closing { escrow } => self.stand(escrow, Standing::Closing),
            OutFact::Abandoned { escrow } => {
                self.stand(escrow, Standing::Abandoned);
                self.over(escrow, None);
            }
            OutFact::Ended { escrow, paid } => {
                self.sums.settled_out += paid.get();
                let refunded = paid.is_zero();
                self.stand(escrow, if refunded { Standing::Refunded } else { Standing::Ended });
                self.over(escrow, Some(*paid));
            }
        }
    }

    fn add(&mut self, escrow: Escrow, direction: Direction, peer: Option<String>, deposit: Stroops, state: Standing) {
        let view = EscrowView {
            direction,
            peer,
            escrow: account_text(&AccountId(escrow.id().0)),
            deposit: deposit.get(),
            balance: deposit.get(),
            cumulative: 0,
            k: 0,
            allocated: 0,
            state,
            settled_stroops: None,
            expiry: escrow.terms.expiry,
        };
        self.escrows
            .entry(escrow.id())
            .or_insert((Known { escrow, deposit }, view));
    }

    /// A newer claim; returns by how much it rose.
    fn claim(&mut self, escrow: &EscrowId, k: u32, cumulative: Stroops) -> i64 {
        let mut rise = 0;
        self.with(escrow, |_, view| {
            rise = (cumulative.get() - view.cumulative).max(0);
            view.k = view.k.max(k);
            view.cumulative += rise;
            view.balance -= rise;
        });
        rise
    }

    /// Nothing leaves its end again.
    fn stand(&mut self, escrow: &EscrowId, state: Standing) {
        self.with(escrow, |_, view| {
            if !view.state.is_over() {
                view.state = state;
            }
        });
    }

    fn with(&mut self, escrow: &EscrowId, change: impl FnOnce(&mut Known, &mut EscrowView)) {
        if let Some((known, view)) = self.escrows.get_mut(escrow) {
            change(known, view);
        }
    }

    fn over(&mut self, escrow: &EscrowId, settled: Option<Stroops>) {
        self.with(escrow, |_, view| view.settled_stroops = settled.map(Stroops::get));
        self.ended.push_back(*escrow);
        if self.ended.len() > REMEMBERED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.escrows.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use obol_cell::{Asset, EscrowTerms, NetworkId, SettlementMemo, Signature, TransactionId};

    fn escrow(n: u8) -> Escrow {
        let asset = Asset {
            code: *b"OBOL\0\0\0\0\0\0\0\0",
            issuer: [2; 32],
        };
        Escrow {
            terms: EscrowTerms {
                network: NetworkId([1; 32]),
                asset,
                payee: PeerId([3; 32]),
                payee_account: AccountId([4; 32]),
                escrow: EscrowId([n; 32]),
                s0: 0,
                expiry: 1_000,
                min_deposit: Stroops::ZERO,
            },
            signer: AccountId([5; 32]),
        }
    }

    fn believed(n: u8) -> NodeFact {
        NodeFact::Believed {
            escrow: escrow(n),
            owner: Owner::Client,
            balance: Stroops::MAX,
            margin: 60,
        }
    }

    fn accepted(n: u8) -> NodeFact {
        NodeFact::Out(OutFact::Accepted {
            escrow: escrow(n),
            deposit: Stroops::MAX,
            refund: Signature([0; 64]),
            margin: 60,
            payee: PeerId([3; 32]),
            since: 0,
        })
    }

    #[test]
    fn escrows_of_an_earlier_epoch_are_closing_and_later_ones_are_not() {
        let mut view = View::default();
        let (flushing, ended) = (EscrowId([3; 32]), EscrowId([5; 32]));
        let (settled, paid) = (EscrowId([4; 32]), Stroops::ZERO);
        let facts = [
            believed(1),
            accepted(2),
            believed(3),
            NodeFact::Flushing { escrow: flushing, k: 1 },
            believed(4),
            NodeFact::Settled {
                escrow: settled,
                amount: paid,
            },
            accepted(5),
            NodeFact::Out(OutFact::Ended { escrow: ended, paid }),
            NodeFact::NewEpoch,
            believed(6),
            accepted(7),
        ];
        facts.iter().for_each(|fact| view.apply(fact));
        let standing = |n: u8| view.escrow(&EscrowId([n; 32])).map(|(_, standing)| standing);
        assert_eq!(standing(1), Some(Standing::Closing));
        assert_eq!(standing(2), Some(Standing::Closing), "its opening is not made again");
        assert_eq!(standing(3), Some(Standing::Flushing));
        assert_eq!(standing(4), Some(Standing::Settled));
        assert_eq!(standing(5), Some(Standing::Refunded));
        assert_eq!(standing(6), Some(Standing::Open));
        assert_eq!(standing(7), Some(Standing::Opening));
    }

    #[test]
    fn a_neighbour_is_known_by_its_links_and_by_what_its_circuits_carried() {
        let (one, passing) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut view = View::default();
        view.link_up(one);
        view.link_up(one);
        view.link_up(passing);
        view.circuit_opened(1, false, Some(one));
        view.circuit_opened(2, false, Some(one));
        view.circuit_opened(3, true, None);
        for circuit in [1, 3] {
            view.circuit_closed(circuit, 1_000);
        }
        view.link_down(one);
        view.link_down(passing);
        let open = view.metered_circuits(|_| Some((500, 0)));
        let neighbours = view.neighbours(&open);
        let expected = NeighbourView {
            links: 1,
            carried: 1_500,
            ..NeighbourView::default()
        };
        assert_eq!(neighbours.into_iter().collect::<Vec<_>>(), [(one, expected)]);
    }

    #[test]
    fn what_is_owed_and_paid_is_summed_apart_from_escrows() {
        let (one, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let amount = |n| Stroops::new(n).unwrap();
        let stated = |peer, k, n| TrustFact::Stated {
            peer,
            k,
            cumulative: amount(n),
            memo: SettlementMemo([0; 32]),
            signature: Signature([0; 64]),
        };
        let signed = |peer, k, n| TrustFact::Signed {
            peer,
            k,
            cumulative: amount(n),
        };
        let paying = |batch, n| TrustFact::Paying {
            batch,
            peer: one,
            account: AccountId([4; 32]),
            amount: amount(n),
        };
        let transaction = TransactionId([9; 32]);
        let facts = [
            stated(one, 1, 10),
            stated(one, 3, 30),
            stated(one, 2, 20),
            stated(other, 1, 5),
            TrustFact::Settled {
                peer: one,
                transaction,
                amount: amount(30),
            },
            signed(one, 1, 100),
            signed(one, 2, 300),
            paying(0, 100),
            paying(0, 50),
            TrustFact::NotPaid { batch: 0 },
            paying(1, 300),
            TrustFact::Paid { batch: 1, transaction },
        ];
        let mut view = View::default();
        facts.into_iter().for_each(|fact| view.apply(&NodeFact::Trust(fact)));
        let sums = view.sums();
        assert_eq!((sums.owed_to_us, sums.owed_to_us_settled), (35, 30));
        assert_eq!((sums.owed, sums.owed_paid), (300, 300));
        assert_eq!((sums.claimed, sums.signed, sums.earned), (0, 0, 0));
        let by_relay = view.neighbours(&[]);
        assert_eq!((by_relay[&one].owed_to_us, by_relay[&one].owed), (0, 0));
        assert_eq!((by_relay[&other].owed_to_us, by_relay[&other].owed), (5, 0));
    }

    #[test]
    fn what_was_signed_on_escrows_that_the_journal_has_forgotten_stays_in_the_sums() {
        let amount = |n: i64| Stroops::new(n).unwrap();
        let totals = NodeFact::Totals {
            claimed: amount(500),
            signed: amount(420),
            held: Stroops::ZERO,
            earned: amount(70),
        };
        // Of what was signed 20 are a statement of trust.
        let stated = NodeFact::Trust(TrustFact::Signed {
            peer: PeerId([1; 32]),
            k: 1,
            cumulative: amount(20),
        });
        let mut view = View::default();
        for fact in [&stated, &totals, &totals] {
            view.apply(fact);
        }
        let sums = view.sums();
        assert_eq!((sums.claimed, sums.signed, sums.owed), (500, 400, 20));
    }
}
