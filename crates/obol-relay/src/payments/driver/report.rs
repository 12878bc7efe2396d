//! What the state machine reports, counted and told.

use obol_cell::Stroops;
use obol_toll::node::Report;

use super::Driver;
use crate::metrics::Metric;
use crate::payments::events::Event;
use crate::payments::plane::Events;

impl<E: Events> Driver<E> {
    pub(super) fn report(&self, report: Report) {
        let amount = |stroops: Stroops| stroops.get_u64();
        let m = &self.metrics;
        match report {
            Report::Credited {
                step,
                earned,
                forwarded,
                from_client,
            } => {
                m.add(Metric::Payments, &[if from_client { "client" } else { "relay" }], 1);
                m.add(Metric::BytesBought, &[], step.bytes());
                m.add(Metric::StroopsEarned, &[], amount(earned));
                m.add(Metric::StroopsForwarded, &[], amount(forwarded));
            }
            Report::Refused { code } => {
                let code = refusal(code);
                m.add(Metric::Refusals, &[code], 1);
                self.tell(Event::Refused { code });
            }
            Report::Held { amount: held } => m.add(Metric::StroopsHeld, &[], amount(held)),
            Report::Claim { rise } => m.add(Metric::StroopsIn, &[], amount(rise)),
            Report::BadSignature => m.add(Metric::BadSignatures, &[], 1),
            Report::ProtocolError => m.add(Metric::PaymentProtocolErrors, &[], 1),
            Report::InitialCredit { bytes } => m.add(Metric::InitialCredit, &[], bytes),
            // Counted from the facts, which a restart does not lose.
            Report::EscrowInUse { .. } => {}
            Report::EscrowSettled { payee, amount: settled } => {
                let side = [if payee { "payee" } else { "payer" }];
                m.add(Metric::EscrowsSettled, &side, 1);
                m.add(Metric::StroopsSettled, &side, amount(settled));
            }
            Report::PaidOn { amount: paid } => m.add(Metric::StroopsOut, &[], amount(paid)),
        }
    }
}

/// The name of a refusal in metrics and events.
fn refusal(code: obol_cell::RefuseCode) -> &'static str {
    use obol_cell::RefuseCode as Code;
    match code {
        Code::NoFunds => "no_funds",
        Code::OverLimit => "over_limit",
        Code::Failed => "failed",
        Code::Closing => "closing",
    }
}
