//! A simulated store that several nodes share: one database, a client per process, and the faults
//! of notes S1–S9: lost answers of writes that were applied, were not, or are applied up to ten
//! seconds later; contention; a store that refuses; stale reads; a process cut off from it.

mod client;
mod db;
mod lane;

pub use client::SimShared;
pub use db::{Fate, Planted, Rates, SharedDb, TIMEOUT};
pub use lane::SimLane;

#[cfg(test)]
mod tests;
