#![doc = include_str!("../README.md")]

pub mod authority;
pub mod control;
pub mod ctor;
pub mod download;
pub mod economy;
pub mod hostile;
pub mod network;
pub mod origin;
pub mod state;
