//! Relays of ours on loopback, with a stock tor-proto client as the other side.

mod carry;
mod exits;
mod harness;
