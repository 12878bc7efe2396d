//! What the client tells people while it works: one stream of small facts, for a progress display or a log.
//!
//! Nothing here is needed to operate the client, and nothing may be inferred from a missing event: the stream is a
//! broadcast, and a listener that is too slow misses some.

use std::fmt;

use serde::Serialize;

/// Something that people may like to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The directory is loaded, circuits can be built.
    Bootstrapped,
    /// The wallet looked at its own account on the ledger.
    Wallet {
        /// The account, `G...`.
        account: String,
        /// What it holds of the asset, in stroops.
        balance: i64,
    },
    /// An escrow to a guard is wanted; its opening transaction goes out now.
    EscrowOpening {
        /// The guard, as [`HopFigures::fingerprint`](crate::HopFigures::fingerprint).
        guard: String,
        /// Deposit, in stroops.
        deposit: i64,
    },
    /// The ledger has the escrow.
    EscrowOpened {
        /// The guard.
        guard: String,
        /// The escrow account, `G...`.
        escrow: String,
        /// Deposit, in stroops.
        deposit: i64,
        /// When it expires, in unix seconds.
        expiry: u64,
    },
    /// The escrow could not be opened now; it is tried again later where that makes sense.
    EscrowFailed {
        /// The guard.
        guard: String,
        /// Why, for people.
        reason: String,
    },
    /// An escrow was settled: the claim reached the ledger, the rest came back.
    EscrowSettled {
        /// The guard.
        guard: String,
        /// The escrow account, `G...`.
        escrow: String,
        /// What the guard received, in stroops.
        paid: i64,
        /// What came back to the wallet, in stroops.
        returned: i64,
    },
    /// The escrow expired without a claim on the ledger, and the deposit was taken back whole.
    EscrowRefunded {
        /// The guard.
        guard: String,
        /// The escrow account, `G...`.
        escrow: String,
        /// What came back to the wallet, in stroops.
        returned: i64,
    },
    /// A tunnel carries its first stream.
    TunnelOpened {
        /// The tunnel, as [`TunnelFigures::tunnel`](crate::TunnelFigures::tunnel).
        tunnel: u64,
        /// The hops' fingerprints, guard first; empty for a virtual hop.
        hops: Vec<String>,
        /// Whether each of them can be paid (`Obol=1`).
        paid: Vec<bool>,
    },
    /// A stream goes on a tunnel. So far it can be paid for, by what is known now: prices that no relay named yet are taken to fit.
    Stream {
        /// The tunnel.
        tunnel: u64,
        /// Its relays.
        hops: u8,
        /// How many of them can be paid, from the guard.
        payable: u8,
        /// Why the next one cannot; `None`: there is none.
        why: Option<Refusal>,
    },
    /// A tunnel meets another's at a rendezvous point, and this is what is known of the hops behind it. They are the other side's: it builds that
    /// half, and pays it or does not.
    FarSide {
        /// The tunnel.
        tunnel: u64,
        /// What is known.
        known: FarSide,
    },
    /// The state of a hosted onion service has changed.
    Service {
        /// Its name in the configuration.
        nickname: String,
        /// Its address, `....onion`.
        address: String,
        /// What Arti believes of it, in words; it may be reachable before that.
        state: &'static str,
    },
    /// A tunnel was looked for whose hops can all be paid.
    Searched {
        /// Tunnels that were looked at.
        tries: usize,
        /// How many relays of the best can be paid, from the guard.
        payable: u8,
        /// Its relays.
        hops: u8,
        /// Whether it was taken; with `paths = "only"` it is not where some of its relays cannot be paid, and the stream is refused.
        taken: bool,
    },
    /// A hop named its price.
    Quoted {
        /// The tunnel.
        tunnel: u64,
        /// The hop, from 1 at the guard.
        hop: u8,
        /// Price in stroops per 64 KiB.
        price_per_64_kib: i64,
        /// Bytes that it carries before it is paid.
        initial_credit: u64,
    },
    /// How far the money of this tunnel reaches.
    Chain {
        /// The tunnel.
        tunnel: u64,
        /// How many hops will be paid, from the guard.
        paid_hops: u8,
    },
    /// A hop is not paid; it serves the tunnel in the unpaid class.
    NotPaid {
        /// The tunnel.
        tunnel: u64,
        /// The hop, from 1 at the guard.
        hop: u8,
        /// Why.
        why: Refusal,
    },
    /// The last paid hop asked for the next step.
    Requested {
        /// The tunnel.
        tunnel: u64,
        /// Bytes that this hop says it carried.
        metered: u64,
    },
    /// A payment goes out.
    Paying {
        /// The tunnel.
        tunnel: u64,
        /// Its number on the tunnel, from 1.
        payment: u16,
        /// Bytes bought at every hop.
        step: u64,
        /// What each paid hop gets for its own bytes, in stroops, guard first.
        amounts: Vec<i64>,
        /// What it costs in all, fees for forwarding included, in stroops.
        total: i64,
    },
    /// All hops have it: the step is credited.
    Paid {
        /// The tunnel.
        tunnel: u64,
        /// Its number.
        payment: u16,
        /// Bytes that the last paid hop carried so far.
        metered: u64,
        /// From sending the payment to its completion, in milliseconds.
        millis: u64,
    },
    /// A hop could not or would not pass a payment on.
    PaymentRefused {
        /// The tunnel.
        tunnel: u64,
        /// Its number.
        payment: u16,
        /// The hop that refused, from 1 at the guard.
        hop: u8,
        /// The code on the wire, in words.
        code: &'static str,
    },
    /// A step is withheld, to see whether paying helps.
    Withheld {
        /// The tunnel.
        tunnel: u64,
    },
    /// What came of it.
    Helps {
        /// The tunnel.
        tunnel: u64,
        /// Whether the tunnel was slower without.
        helps: bool,
    },
    /// A guard failed too often. Guards cannot be left with stock Arti, so it is kept and not paid any more.
    GuardNotPaid {
        /// The guard, as [`HopFigures::fingerprint`](crate::HopFigures::fingerprint).
        guard: String,
    },
    /// No new stream uses this tunnel any more, since a hop of it is not trusted.
    TunnelRetired {
        /// The tunnel.
        tunnel: u64,
    },
    /// A tunnel was given up, with the streams on it.
    TunnelGivenUp {
        /// The tunnel.
        tunnel: u64,
        /// Why.
        why: RetireReason,
    },
    /// A tunnel ended, as tunnels do.
    TunnelClosed {
        /// The tunnel.
        tunnel: u64,
    },
    /// Something that a person should know and that fits nowhere else.
    Warning {
        /// The whole of it.
        text: String,
    },
}

/// Why a hop is not paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// It is no paid hop: it does not advertise `Obol=1`.
    NotPaidHop,
    /// This client pays nobody: it has no wallet.
    NotPaying,
    /// The tunnel has several circuits (conflux), where a hop's number would be ambiguous.
    SeveralCircuits,
    /// It is the rendezvous point of a hosted service's circuit, and meters on the client's.
    RendezvousPoint,
    /// It asks more than a ceiling.
    TooDear {
        /// What it asks, in stroops per 64 KiB.
        price_per_64_kib: i64,
    },
    /// Its money is on another ledger, or another asset.
    OtherMoney,
    /// Its quote is not the first that it gave today.
    QuoteChanged,
    /// It does not quote now.
    Declined,
    /// A hop before it cannot pay it, or is no paid hop.
    ChainEnds,
    /// The hops before it do not pass on as much as is needed.
    ForwardCeiling,
    /// It failed too often.
    Unreliable,
    /// It claims to have carried more than was carried.
    OverClaimed,
    /// The budget is spent.
    BudgetSpent,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::TooDear { price_per_64_kib } => {
                return write!(
                    f,
                    "it asks {price_per_64_kib} stroops per 64 KiB, more than the ceiling"
                );
            }
            Refusal::NotPaidHop => "it is no paid hop",
            Refusal::NotPaying => "this client pays nobody",
            Refusal::SeveralCircuits => "the tunnel has several circuits",
            Refusal::RendezvousPoint => "it is the rendezvous point, which meters on the other side",
            Refusal::OtherMoney => "it is paid in another asset, or on another network",
            Refusal::QuoteChanged => "it changed its price during the day",
            Refusal::Declined => "it does not quote now",
            Refusal::ChainEnds => "no hop before it can pay it",
            Refusal::ForwardCeiling => "the hops before it do not pass on as much as it asks",
            Refusal::Unreliable => "it failed too often",
            Refusal::OverClaimed => "it claims to have carried more than was carried",
            Refusal::BudgetSpent => "the budget is spent",
        })
    }
}

/// What is known of the far half of a connection to an onion service. Nothing tells whether it is paid: its relays are hidden from this side,
/// and no message of the payment protocol crosses the rendezvous point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FarSide {
    /// Not whether it is paid.
    NotKnown,
    /// Withholding a payment on this side slowed nothing: the far half, which may be unpaid, or whoever is at its end, is the slower one.
    Slower,
}

impl fmt::Display for FarSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FarSide::NotKnown => "whether the far side is paid is not known",
            FarSide::Slower => "paying this side helps nothing: the far side is slower, and may be unpaid",
        })
    }
}

/// Why a tunnel was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RetireReason {
    /// A hop did not answer in its time.
    Silent,
    /// This hop answered what cannot be.
    ProtocolError {
        /// The hop, from 1 at the guard.
        hop: u8,
    },
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RetireReason::Silent => f.write_str("a hop did not answer"),
            RetireReason::ProtocolError { hop } => write!(f, "hop {hop} broke the payment protocol"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_json_objects_that_say_what_they_are() {
        let shown = |event: Event| serde_json::to_value(event).unwrap();
        let dear = Refusal::TooDear { price_per_64_kib: 50 };
        let stream = |why| Event::Stream {
            tunnel: 7,
            hops: 3,
            payable: 2,
            why,
        };
        assert_eq!(
            shown(stream(Some(dear))),
            json!({ "event": "stream", "tunnel": 7, "hops": 3, "payable": 2, "why": { "too-dear": { "price_per_64_kib": 50 } } })
        );
        assert_eq!(shown(stream(Some(Refusal::NotPaidHop)))["why"], "not-paid-hop");
        assert_eq!(shown(stream(None))["why"], json!(null));
        let far = Event::FarSide {
            tunnel: 7,
            known: FarSide::NotKnown,
        };
        assert_eq!(
            shown(far),
            json!({ "event": "far-side", "tunnel": 7, "known": "not-known" })
        );
        assert_eq!(shown(Event::Bootstrapped), json!({ "event": "bootstrapped" }));
    }
}
