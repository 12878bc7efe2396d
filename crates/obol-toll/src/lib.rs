#![doc = include_str!("../README.md")]

pub mod amounts;
mod bucket;
pub mod clock;
mod defects;
pub mod escrow;
pub mod fact;
mod holdings;
pub mod ids;
mod jitter;
pub mod keys;
pub mod node;
mod outbox;
pub mod payer;
pub mod series;
#[cfg(test)]
mod sim;
pub mod trust;

pub use clock::UnixMillis;
pub use escrow::{Escrow, NotBelieved};
pub use ids::{AddressKey, CircuitId, LinkId, TunnelId};
pub use keys::{PayeeKeys, PayerKeys};
