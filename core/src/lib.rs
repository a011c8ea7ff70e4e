//! The pure state machine of a dpc node.
#![forbid(unsafe_code)]

pub mod decision;
pub mod effect;
pub mod ids;
pub mod input;
pub mod limits;
pub mod message;
pub mod names;
pub mod object;
pub mod record;
pub mod refusal;
pub mod store;
pub mod time;
pub mod view;

pub use effect::{Answer, Effect, Effects, Record};
pub use input::Input;
pub use limits::Limits;
pub use time::{Mono, Now, Span, Wall};
