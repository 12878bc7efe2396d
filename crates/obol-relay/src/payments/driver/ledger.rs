//! What the tasks that ask the ledger tell, and what every new ledger is looked at for.

use obol_cell::Stroops;
use obol_toll::node::Input;

use super::Driver;
use crate::payments::plane::Events;
use crate::payments::view::Standing;
use crate::payments::work::{Told, Work};

/// New ledgers between two looks at escrows of ours that nobody is known to close.
const LOOK_EVERY: u32 = 10;
/// New ledgers between two checks of the payee account.
const CHECK_EVERY: u32 = 10;
/// How long one payee account is given to new escrows.
const ROTATE_MS: u64 = 600_000;

impl<E: Events> Driver<E> {
    /// Takes in what a task or the journal tells.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Input(input) => {
                if let Input::Offer { peer, offer } = &input {
                    self.wanted.remove(peer);
                    if self.closing {
                        self.work.payer.remove(&offer.escrow);
                        return self.forget_nonce(offer.escrow);
                    }
                }
                if let Input::Capital { asset, openings } = &input {
                    self.warn_of_capital(*asset, *openings);
                }
                self.input(input);
            }
            Told::Ledger(head) => {
                self.clock.ledger_closed(head.close_time);
                self.head.send_replace(Some((head.sequence, head.close_time)));
                self.input(Input::LedgerClosed {
                    sequence: head.sequence,
                    close_time: head.close_time,
                });
                if head.sequence > self.newest || self.look_at_all {
                    self.newest = head.sequence;
                    self.new_ledger();
                }
            }
            Told::Event(event) => self.tell(event),
            Told::FlushOver(escrow) => {
                self.flushing.remove(&escrow);
            }
            Told::WatchOver => self.watching = false,
            Told::WoundUp(escrow) => {
                // What it held pays for the next ones.
                self.capital_moved = true;
                // Until it expires its payee still gives service for claims that were not used up: E's key stays for these, and the
                // first start after that forgets it.
                let now = self.clock.now().secs();
                let expired = self
                    .view()
                    .escrow(&escrow)
                    .is_none_or(|(out, _)| now >= out.escrow.terms.expiry);
                if expired {
                    self.work.payer.remove(&escrow);
                    self.forget_nonce(escrow);
                } else {
                    self.keep_wound_up(escrow);
                }
            }
            Told::Appended { seq, outcome } => self.appended(seq, outcome),
        }
    }

    fn new_ledger(&mut self) {
        let first = self.ledgers == 0;
        self.ledgers = self.ledgers.wrapping_add(1);
        let look_at_all = std::mem::take(&mut self.look_at_all) || self.ledgers.is_multiple_of(LOOK_EVERY);
        if !self.watching {
            let now = self.clock.now().secs();
            let escrows: Vec<_> = self
                .view()
                .outgoing()
                .filter(|(_, out, standing)| match standing {
                    Standing::Closing => true,
                    Standing::Open => look_at_all || now >= out.escrow.terms.expiry,
                    _ => false,
                })
                .map(|(_, out, _)| (out.escrow, out.deposit))
                .collect();
            if !escrows.is_empty() {
                self.watching = true;
                self.work.spawn(|work| work.watch(escrows));
            }
        }
        if first || look_at_all || self.ledgers.is_multiple_of(CHECK_EVERY) {
            let now = self.clock.now().0;
            if now.saturating_sub(self.payee_since) > ROTATE_MS {
                self.payee_since = now;
                self.payee = rand::random_range(0..self.work.payees.len().max(1));
            }
            if !self.closing {
                let (which, open) = (self.payee, self.view().incoming().count());
                self.work.spawn(|work| work.check_payee(which, open));
            }
            self.capital_moved = true;
            if self.uses_trust() {
                self.work.spawn(Work::check_trust_account);
            }
        }
        if std::mem::take(&mut self.capital_moved) && !self.closing && self.node.config().pays_others {
            self.work.spawn(Work::check_capital);
        }
    }

    /// Once, until there is enough again: without a word nobody would know why no escrow is opened.
    fn warn_of_capital(&mut self, asset: Stroops, openings: u32) {
        let deposit = self.node.config().deposit;
        let short = openings == 0 || asset < deposit;
        if short && !self.short_of_capital && !self.paid_relays().is_empty() {
            tracing::warn!(
                "the capital account cannot pay for escrows to other relays yet: it needs {} stroops of the asset and 4.6 XLM \
                 for each",
                deposit.get()
            );
            self.short_of_capital = true;
        } else if !short {
            self.short_of_capital = false;
        }
    }
}
