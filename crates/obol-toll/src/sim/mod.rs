//! A simulated network: relays, clients, a ledger and a jumping clock, in one thread.
//!
//! Everything that the drivers, the data plane and the ledger do around [`Node`] and [`Payer`] is played here, with what can go
//! wrong: messages between client and hops are dropped, doubled, reordered, delayed; links (ordered, as TLS is) stall and are cut;
//! any party crashes at any step, with whatever was durable by then, and starts again from its journal. After every step the
//! invariants of payment-protocol.md are checked (`checks.rs`).
//!
//! | file | what goes wrong |
//! |---|---|
//! | `faults.rs` | everything, at random, by fixed and by random seeds |
//! | `crashes.rs` | every party and the ledger die, once at every moment (`moments.rs`) |
//! | `troubles.rs` | clocks; a ledger that is away, slow, wrong or dear (`rail.rs`); silence; messages of earlier runs |
//! | `limits.rs` | amounts and numbers at their limits |
//! | `attacks/`, `hostile.rs` | neighbours and clients that mean harm |
//!
//! A run is a function of its seed: `Sim::new(Plan { seed, .. })`. Random runs print their seed; `OBOL_SIM_SEED` repeats one.

mod books;
mod checks;
mod debts;
mod desk;
mod drive;
mod flushes;
mod keys;
mod ledger;
mod lending;
mod lies;
mod moments;
mod neighbours;
mod rail;
mod run;
mod world;

mod backup;
mod limits;
mod openings;
mod owing;
mod trust;

mod attacks;
mod crashes;
mod defects;
mod extremes;
pub(super) mod faults;
mod hostile;
mod scenarios;
mod settling;
mod troubles;

pub(crate) use lies::{Books, Lie};
pub(crate) use world::{Faults, Plan, Sim};

use obol_cell::Stroops;

pub(crate) fn s(n: i64) -> Stroops {
    Stroops::new(n).unwrap()
}
