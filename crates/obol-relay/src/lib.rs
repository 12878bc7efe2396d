#![doc = include_str!("../README.md")]

pub mod config;
pub mod handshake;
pub mod keys;
pub mod metrics;
pub mod tls;
pub mod descriptor;
pub mod directory;
pub mod payments;
pub mod relay;
pub mod run;
mod circuits;
mod link;
pub mod streams;

pub use run::{RunError, RunningRelay, run};
