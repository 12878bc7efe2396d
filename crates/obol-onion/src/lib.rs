#![doc = include_str!("../README.md")]

pub mod crypto;
pub mod engine;
pub mod handshake;
pub mod link;
