//! What the state machine reports, counted and told.

use std::sync::Arc;

use obol_cell::Stroops;
use obol_toll::node::{Limited, Report};

use super::Driver;
use crate::metrics::Metric;
use crate::payments::events::Event;
use crate::payments::plane::Events;

impl<E: Events> Driver<E> {
    pub(super) fn report(&mut self, report: Report) {
        let amount = |stroops: Stroops| stroops.get_u64();
        let m = Arc::clone(&self.metrics);
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
            Report::Requested { circuit, metered } => self.tell(Event::Requested {
                circuit: circuit.0,
                metered,
            }),
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
            Report::Level { of, used, limit, alarm } => self.level(of, used, limit, alarm),
            Report::Owed { rise } => m.add(Metric::StroopsOwed, &[], amount(rise)),
            Report::OwedSettled { amount: settled } => m.add(Metric::StroopsOwedSettled, &[], amount(settled)),
            Report::BadSettlement => tracing::warn!("a relay announced a settlement that the ledger does not show"),
        }
    }

    /// An alarm begins or is over; nobody is named.
    fn level(&mut self, of: Limited, used: u64, limit: u64, alarm: bool) {
        let (name, now) = (limit_name(of), self.alarms.entry(of).or_default());
        *now = if alarm {
            now.saturating_add(1)
        } else {
            now.saturating_sub(1)
        };
        let now = *now;
        self.metrics.set(Metric::LimitAlarms, &[name], now);
        self.metrics.set(Metric::LimitUsed, &[name], used);
        self.metrics.set(Metric::Limit, &[name], limit);
        if alarm {
            tracing::warn!(limit = name, used, most = limit, "a limit is near");
        } else {
            tracing::info!(limit = name, used, most = limit, "a limit is not near any more");
        }
    }
}

/// The name of a limit in metrics and the log; as in the configuration, where it is set there.
fn limit_name(of: Limited) -> &'static str {
    match of {
        Limited::Unsettled => "unsettled",
        Limited::UnsettledOfPayer => "unsettled_of_payer",
        Limited::Locked => "locked",
        Limited::LockedWithPeer => "locked_with_peer",
        Limited::NewEscrows => "new_escrows",
        Limited::PayeeLumens => "payee_lumens",
        Limited::PayerLumens => "payer_lumens",
        Limited::OwedToUs => "owed_to_us",
        Limited::Owed => "owed",
        Limited::OwedToPeer => "owed_to_peer",
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
