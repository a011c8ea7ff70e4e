//! One module per command: its arguments and what it does.

pub(super) mod bench;
pub(super) mod config;
pub(super) mod demo;
pub(super) mod node;
pub(super) mod object;
pub(super) mod parked;
pub(super) mod push;
pub(super) mod record;
pub(super) mod serve;
pub(super) mod settle;
pub(super) mod sim;
pub(super) mod store;
pub(super) mod sub;
pub(super) mod subscribe;
pub(super) mod types;
