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
mod circuits;
mod link;
pub mod streams;
