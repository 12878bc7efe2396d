//! Onion encryption of relay cells.

pub mod tor1;
