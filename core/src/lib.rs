//! The pure state machine of a dpc node.
#![forbid(unsafe_code)]

mod agenda;
mod catalogue;
mod check;
mod checkpoint;
mod clock;
mod core;
pub mod decision;
mod demand;
mod digest;
pub mod effect;
mod estate;
mod fence;
mod flow;
mod forget;
mod hold;
pub mod ids;
pub mod input;
mod inspect;
mod lane;
mod lease;
pub mod limits;
mod loads;
pub mod members;
mod memory;
mod mesh;
pub mod message;
mod mint;
pub mod names;
pub mod object;
mod operator;
mod parts;
mod pass;
mod paths;
mod patience;
mod peers;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
#[expect(unreachable_pub, reason = "public where there is something planted")]
mod planted;
mod push;
mod queues;
mod reclaim;
pub mod record;
pub mod recording;
pub mod refusal;
mod remember;
mod resolve;
mod restore;
mod route;
mod scan;
mod session;
mod settle;
mod shadows;
pub mod shared;
mod sifted;
pub mod store;
mod subscriptions;
mod take;
mod tally;
pub mod time;
mod timers;
mod transfer;
mod usage;
pub mod view;

pub use crate::core::{Core, Settings};
pub use crate::timers::Wake;
pub use effect::{Answer, Effect, Effects, Record};
pub use input::Input;
pub use limits::Limits;
pub use remember::PartInfo;
pub use time::{Mono, Now, Span, Wall};
pub use usage::Gauge;
