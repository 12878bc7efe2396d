#![doc = include_str!("../README.md")]

mod attend;
mod cashier;
mod choice;
mod client;
pub mod config;
mod error;
mod events;
mod figures;
mod meter;
mod paths;
mod proxy;
mod runtime;
mod talk;
mod tor;
mod tunnels;
mod wallet;
mod watch;

pub use client::{Client, ClientHandle};
pub use config::{ClientConfig, Paths, Pay};
pub use error::{SettleError, StartError};
pub use events::{Event, Refusal, RetireReason};
pub use figures::{EscrowFigures, Figures, GuardFigures, HopFigures, TunnelFigures};
pub use tor::{Authority, Fallback, private_network};
