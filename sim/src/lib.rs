//! Deterministic simulation of dpc: simulated stores, and the contract that every store keeps.
#![forbid(unsafe_code)]

pub mod contract;
pub mod store;
