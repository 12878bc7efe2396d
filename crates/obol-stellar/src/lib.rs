#![doc = include_str!("../README.md")]

pub mod amount;
pub mod asset;
pub mod check;
pub mod escrow;
pub mod key;
pub mod keys;
pub mod network;
pub mod outbox;
pub mod rail;
pub mod settings;
pub mod settle;
pub mod tx;
pub mod wallet;

pub use key::Keypair;
pub use network::Network;
pub use outbox::{MemoryOutbox, Outbox};
pub use rail::connect::{Connect, Tcp};
pub use rail::{Rail, RailConfig};
pub use settle::Settler;
