//! Relays of ours on loopback, with a stock tor-proto client as the other side.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod carry;
mod congestion;
mod door;
mod exits;
mod harness;
mod strangers;
