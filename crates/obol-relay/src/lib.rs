#![doc = include_str!("../README.md")]

mod circuits;
pub mod config;
pub mod defence;
pub mod descriptor;
pub mod directory;
pub mod extra_info;
pub mod handshake;
pub mod keys;
mod known;
mod link;
pub mod metrics;
pub mod payments;
pub mod reach;
pub mod relay;
pub mod run;
pub mod streams;
pub mod tls;
pub mod traffic;

pub use run::{RunError, RunningRelay, run};
