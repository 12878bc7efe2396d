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
mod metrics;
mod paths;
mod place;
mod proxy;
mod purse;
mod runtime;
mod services;
mod shown;
mod talk;
mod tor;
mod tunnels;
mod wallet;
mod watch;

pub use client::{Client, ClientHandle};
pub use config::{ClientConfig, Paths, Pay, Service, ServicePort};
pub use error::{SettleError, StartError};
pub use events::{Event, FarSide, Refusal, RetireReason};
pub use figures::{EscrowFigures, Figures, GuardFigures, HopFigures, ServiceFigures, TunnelFigures};
pub use purse::ClientPurse;
pub use tor::{Authority, Fallback, private_network};
