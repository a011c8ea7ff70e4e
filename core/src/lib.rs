//! The pure state machine of a dpc node.
#![forbid(unsafe_code)]

pub mod ids;
pub mod record;
pub mod store;
pub mod time;
