#![doc = include_str!("../README.md")]

pub mod clock;
pub mod escrow;
pub mod fact;
pub mod ids;
pub mod keys;
pub mod node;
mod outbox;
pub mod payer;

pub use clock::UnixMillis;
pub use escrow::{Escrow, NotBelieved};
pub use ids::{AddressKey, CircuitId, LinkId, TunnelId};
pub use keys::{PayeeKeys, PayerKeys};
