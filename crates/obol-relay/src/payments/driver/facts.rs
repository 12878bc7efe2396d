//! What follows from facts once the journal has them.

use obol_cell::{AccountId, EscrowId};
use obol_stellar::key::account_text;
use obol_store::StoreError;
use obol_toll::fact::{NodeFact, OutFact, Owner, TrustFact};
use obol_toll::node::Input;

use super::Driver;
use crate::metrics::Metric;
use crate::payments::events::Event;
use crate::payments::plane::Events;
use crate::payments::work::{NONCE, WOUND_UP};

impl<E: Events> Driver<E> {
    pub(super) fn appended(&mut self, seq: u64, outcome: Result<u64, StoreError>) {
        let Some((expected, facts)) = self.appending.pop_front() else {
            return;
        };
        debug_assert_eq!(expected, seq, "the journal answers in order");
        if let Err(error) = outcome {
            tracing::error!(
                "payments stop, and everybody is served unpaid, because the journal cannot be written: {error}. What it has \
                 is kept and owed. Make room or mend the disk (or raise payments.journal_limit), then start the relay again"
            );
            self.metrics.set(Metric::PaymentsStopped, &[], 1);
            self.tell(Event::Stopped { why: error.to_string() });
            self.stopped.send_replace(Some(error));
            return;
        }
        self.metrics.add(Metric::Facts, &[], facts.len() as u64);
        for fact in &facts {
            self.durable(fact);
        }
        let changes_escrows = |fact: &NodeFact| {
            !matches!(
                fact,
                NodeFact::Claim { .. }
                    | NodeFact::Allocated { .. }
                    | NodeFact::Spent { .. }
                    | NodeFact::Returned { .. }
                    | NodeFact::CircuitEnded { .. }
                    | NodeFact::Trust(_)
                    | NodeFact::Day { .. }
                    | NodeFact::Out(OutFact::Signed { .. })
            )
        };
        if facts.iter().any(changes_escrows) {
            let (payee, payer) = {
                let view = self.view();
                let ours = view.outgoing().filter(|(_, _, standing)| standing.is_live());
                (view.incoming().count(), ours.count())
            };
            self.metrics.set(Metric::Escrows, &["payee"], payee as u64);
            self.metrics.set(Metric::Escrows, &["payer"], payer as u64);
        }
        self.input(Input::Persisted { upto: seq });
    }

    /// What people are told of a fact, and what follows from it outside of the state machine.
    fn durable(&mut self, fact: &NodeFact) {
        self.view().apply(fact);
        let name = |escrow: &EscrowId| account_text(&AccountId(escrow.0));
        match fact {
            NodeFact::Believed {
                escrow, owner, balance, ..
            } => self.tell(Event::Believed {
                escrow: name(&escrow.id()),
                from_client: *owner == Owner::Client,
                stroops: balance.get(),
            }),
            NodeFact::Claim {
                escrow, k, cumulative, ..
            } => {
                self.tell(Event::Claim {
                    escrow: name(escrow),
                    k: *k,
                    cumulative: cumulative.get(),
                });
            }
            NodeFact::Spent {
                circuit,
                n,
                earned,
                forwarded,
                credit,
            } => self.tell(Event::Credited {
                circuit: circuit.0,
                n: *n,
                earned: earned.get(),
                forwarded: forwarded.get(),
                bytes: *credit,
                from: self.view().came_from(circuit.0),
            }),
            NodeFact::Trust(TrustFact::Spent {
                circuit,
                n,
                amount,
                credit,
                ..
            }) => self.tell(Event::Credited {
                circuit: circuit.0,
                n: *n,
                earned: amount.get(),
                forwarded: 0,
                bytes: *credit,
                from: self.view().came_from(circuit.0),
            }),
            NodeFact::Settled { escrow, amount } => {
                self.tell(Event::Settled {
                    escrow: name(escrow),
                    stroops: amount.get(),
                });
            }
            NodeFact::Out(OutFact::Accepted { escrow, deposit, .. }) => self.tell(Event::Accepted {
                escrow: name(&escrow.id()),
                payee: hex::encode(escrow.terms.payee.0),
                stroops: deposit.get(),
            }),
            NodeFact::Out(OutFact::Opened { escrow, balance }) => {
                self.tell(Event::Opened {
                    escrow: name(escrow),
                    stroops: balance.get(),
                });
                // Its opening was under way when everything was closed.
                if self.closing {
                    self.input(Input::Close { escrow: *escrow });
                }
            }
            NodeFact::Out(OutFact::Signed { escrow, k, cumulative }) => {
                self.tell(Event::Signed {
                    escrow: name(escrow),
                    k: *k,
                    cumulative: cumulative.get(),
                });
            }
            NodeFact::Out(OutFact::Abandoned { escrow }) => {
                self.work.payer.remove(escrow);
                self.forget_nonce(*escrow);
            }
            NodeFact::Out(OutFact::Ended { escrow, paid }) => {
                self.tell(Event::Ended {
                    escrow: name(escrow),
                    stroops: paid.get(),
                });
                let out = self.view().escrow(escrow);
                if let Some((out, _)) = out {
                    self.work.spawn(|work| work.wind_up(out.escrow));
                }
            }
            _ => {}
        }
    }

    /// The key of an escrow that is wound up stays, and nothing is done with it at the next start.
    pub(super) fn keep_wound_up(&self, escrow: EscrowId) {
        let journal = self.journal.clone();
        self.work.spawn(|_| async move {
            let kept: Result<(), StoreError> = async {
                let nonces = journal.secrets(NONCE).await?;
                if let Some((_, nonce)) = nonces.iter().find(|(id, _)| *id == escrow.0) {
                    journal.keep_secret(WOUND_UP, &escrow.0, nonce).await?;
                }
                journal.forget_secret(NONCE, &escrow.0).await
            }
            .await;
            if let Err(error) = kept {
                // Looked at once more after the next start: harmless.
                tracing::debug!(%error, "the record of a finished escrow stays");
            }
        });
    }

    pub(super) fn forget_nonce(&self, escrow: EscrowId) {
        let journal = self.journal.clone();
        self.work.spawn(|_| async move {
            if let Err(error) = journal.forget_secret(NONCE, &escrow.0).await {
                tracing::debug!(%error, "a used escrow key could not be forgotten");
            }
        });
    }
}
