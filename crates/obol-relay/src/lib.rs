#![doc = include_str!("../README.md")]

pub mod config;
pub mod handshake;
pub mod keys;
pub mod metrics;
pub mod tls;
pub mod descriptor;
pub mod directory;
