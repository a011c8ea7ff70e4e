//! The configuration of a node: sections with defaults, read in layers, each value with its origin.
//!
//! [`Sources`] says what to read, [`Sources::load`] gives a checked [`Loaded`] or every error at
//! once. A [`Config`] that was loaded is within its limits and holds together.

mod check;
mod error;
mod keys;
mod layers;
mod sections;
mod show;
#[cfg(test)]
mod tests;
mod units;

pub use error::{ConfigError, ConfigErrors};
pub use layers::{FlagValue, Loaded, Origin, Sources};
pub use sections::{
    Config, History, Limits, Listen, Log, LogFormat, Peer, Retention, Store, StoreKind,
};
pub use show::{ShownKey, ShownValue};
pub use units::{Address, NodeName, NotAccepted, Period, Size};
