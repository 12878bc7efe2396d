//! Does paying help? One step in sixteen is withheld at random; where that slows nothing, every other step is (2.12).
//!
//! ```text
//! None --low, 1 in 16--> Waiting (credit at the hops runs out) --> Measuring (2 s without credit) --> None, helps: yes or no
//! ```

use super::io::{Output, Report};
use super::tunnel::{Trial, Tunnel};
use super::{PayPolicy, Payer};
use crate::clock::UnixMillis;
use crate::ids::TunnelId;
use crate::keys::PayerKeys;

/// Not before a tunnel has a pace to compare with.
const FIRST_PAYMENTS: u32 = 4;
const ONE_IN: u64 = 16;
const MEASURE_MS: u64 = 2_000;

impl<K: PayerKeys> Payer<K> {
    /// When a measurement ends.
    pub(super) fn trial_wake(&self, t: &Tunnel) -> Option<UnixMillis> {
        match t.trial {
            Trial::Measuring { since, .. } => Some(since.plus(MEASURE_MS)),
            _ => None,
        }
    }

    /// Whether the payment that is due now is withheld.
    pub(super) fn withhold(&mut self, tunnel: TunnelId, now: UnixMillis) -> bool {
        if self.config.pay != PayPolicy::WhenItHelps {
            return false;
        }
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        match t.trial {
            Trial::None => {
                if t.growth.count < FIRST_PAYMENTS {
                    return false;
                }
                if !t.helps {
                    // Half as often: of two steps that are due one is let pass, at random.
                    if self.jitter.one_in(2) {
                        t.forgiven = t.forgiven.saturating_add(t.next_step().bytes());
                        return true;
                    }
                    return false;
                }
                if !self.jitter.one_in(ONE_IN) {
                    return false;
                }
                t.trial = Trial::Waiting {
                    before: t.rate.per_second(),
                };
                self.outbox.push_now(Output::Report(Report::Withheld { tunnel }));
                true
            }
            Trial::Waiting { before } => {
                let initial = t
                    .hops
                    .iter()
                    .take(t.chain.into())
                    .filter_map(|h| h.quote)
                    .map(|q| q.credit)
                    .max()
                    .unwrap_or(0);
                if t.used() > t.bought.saturating_add(t.forgiven).saturating_add(initial) {
                    t.trial = Trial::Measuring {
                        before,
                        since: now,
                        from: t.meter.floor(),
                    };
                }
                true
            }
            Trial::Measuring { before, since, from } => {
                let elapsed = now.since(since);
                if elapsed < MEASURE_MS {
                    return true;
                }
                let pace = t.meter.floor().saturating_sub(from).saturating_mul(1_000) / elapsed.max(1);
                let helps = pace.saturating_mul(10) < before.saturating_mul(8);
                t.trial = Trial::None;
                t.helps = helps;
                self.outbox.push_now(Output::Report(Report::Helps { tunnel, helps }));
                if !helps {
                    let gap = t.used().saturating_sub(t.bought.saturating_add(t.forgiven));
                    t.forgiven = t.forgiven.saturating_add(gap);
                }
                !helps
            }
        }
    }
}
