#![doc = include_str!("../README.md")]

pub mod crypto;
pub mod handshake;
pub mod link;
pub mod engine;
