//! What clients and people call: the services of the client port, and the hub through which they
//! reach the driver.

mod cloud;
mod fence;
mod hub;
mod inspect;
mod operator;
mod outbox;
mod push;
mod recording;
mod session;
mod tally;
mod waiters;

pub(crate) use cloud::Cloud;
pub use hub::{Addresses, Bounds, Identity};
pub(crate) use hub::{Batch, Call, Drained, Hub, OF_INBOX, Phase};
pub(crate) use inspect::answer_ask;
pub(crate) use operator::Desk;
pub(crate) use outbox::{Gather, OutStream, Outbox};
pub(crate) use waiters::Latest;
