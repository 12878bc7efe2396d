//! Links over real connections: between two of ours, with tor-proto as the client, and with C Tor on either side.
//!
//! C Tor is wanted for the last of these: `apt-get install tor`. Where it is not installed they say so and pass, except in
//! continuous integration (`CI=true`), where they fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arti;
mod ctor;
mod fixture;
mod ours;
