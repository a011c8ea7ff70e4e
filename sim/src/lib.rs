//! Deterministic simulation of dpc: simulated stores, a world of bare cores with the promises
//! checked at every step, scenario scripts, and the contract that every store keeps.
#![forbid(unsafe_code)]

pub mod checks;
pub mod contract;
pub mod contract_shared;
pub mod coverage;
pub mod dice;
mod ledger;
pub mod recorder;
pub mod replay;
pub mod scale;
pub mod script;
pub mod shared;
pub mod shrink;
pub mod store;
pub mod swarm;
pub mod trace;
pub mod world;
