#![doc = include_str!("../README.md")]

pub mod ids;
pub mod link;
pub mod ownership;
pub mod terms;
pub mod to_node;
pub mod to_origin;
pub mod units;
pub mod wire;

pub use ids::{AccountId, Asset, EscrowId, NetworkId, PeerId, SettlementMemo, Signature, TransactionId};
pub use link::{Allocation, LegPay, LegTrust, LinkMessage, MAX_ALLOCATIONS, MAX_LINK_BODY, TrustBooks};
pub use ownership::{OwnerAsks, Ownership};
pub use terms::{EscrowAcceptance, EscrowOffer, EscrowRules, EscrowTerms, OpeningTerms, Tariff};
pub use to_node::{Claim, Forward, LowWater, Pay, ToNode};
pub use to_origin::{Balance, DeclineCode, Declined, EscrowState, Quote, RefuseCode, ToOrigin};
pub use units::{ForwardPpm, PricePer64KiB, Step, Stroops, UNIT, UnitError};
pub use wire::{DecodeError, Reader, Writer};

/// Relay command of messages from a hop to the client.
pub const CMD_TO_ORIGIN: u8 = 51;
/// Relay command of messages from the client to a hop.
pub const CMD_TO_NODE: u8 = 52;
/// Variable-length link command of messages between neighbour relays.
pub const CMD_LINK: u8 = 200;
/// First byte of every body.
pub const VERSION: u8 = 1;
/// Longest body of a 51 or 52, bytes: fits a relay cell of either format, with or without a stream id.
pub const MAX_CELL_BODY: usize = 488;
