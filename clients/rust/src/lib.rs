//! The client of dpc, the Distributed Processing Cloud: push typed objects into any node,
//! subscribe to types at any node, settle what you get.
//!
//! # Push
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use dpc_client::{Client, Object, Options};
//!
//! let client = Client::connect(["127.0.0.1:50051"], Options::new())?;
//! let receipt = client.push(Object::new("acme.orders.v1.Order", "seven apples")).await?;
//! println!("{} is stored by node {}", receipt.id, receipt.stored.node);
//! # Ok(()) }
//! ```
//!
//! A receipt means that the object is durable. Ids are made before anything is sent, and a push
//! without an answer is repeated under its id at the node that got it, so that nothing is doubled.
//! For many objects use [`Client::push_stream`].
//!
//! # Subscribe and settle
//!
//! ```no_run
//! # async fn ship(_: &dpc_client::Delivery) -> Result<String, std::io::Error> { Ok(String::new()) }
//! # async fn example(client: dpc_client::Client) -> Result<(), dpc_client::Error> {
//! use dpc_client::Object;
//!
//! let orders = client.subscribe(["acme.orders.v1.Order"]).processor("shipping").credit(64).await?;
//! while let Some(order) = orders.next().await? {
//!     match ship(&order).await {
//!         // The parcel exists if and only if the order is final.
//!         Ok(label) => order.finalise().emit(Object::new("acme.shipping.v1.Parcel", label)).await?,
//!         // Tried again after a while; parked after too many failures.
//!         Err(_) => order.fail(None).await?,
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! A delivery is a lease: while you hold it nobody else gets the object, and it is extended in the
//! background. Delivery is at least once; [`Delivered::fencing_key`] tells a later lease from an
//! earlier one. Several leases end together, or not at all, in a [`Transaction`].
//!
//! # Errors
//!
//! Every [`Error`] answers the one question a caller has: was it done? `Ok` is done, and
//! [`Error::outcome`] is [`Outcome::DefinitelyNot`] or [`Outcome::Unknown`]. What may help by
//! waiting is tried again before you see it, for [`Options::give_up_after`].
//!
//! # Speed
//!
//! One stream is one task, without a task or a channel for each object. [`Pusher::send`] with
//! [`Pusher::receipts`], and [`Subscription::next_batch`] with [`Subscription::finalise_all`],
//! need no future for each object either.
//!
//! # Cancelling
//!
//! Every future can be dropped. Waiting ones (`next`, `receipts`, a window that is full) have done
//! nothing then; requests are on their way once their future was made, and stay so.
#![forbid(unsafe_code)]
#![deny(missing_docs, unreachable_pub)]

mod client;
mod connect;
mod error;
mod ids;
mod object;
mod options;
mod push;
mod session;
pub mod sql;
mod token;
mod unary;

/// The examples of the README are compiled with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The generated messages and clients, for [`Client::operator`] and [`Client::ask`].
pub use dpc_proto as proto;
pub use uuid::Uuid;

pub use client::{Builder, Client};
pub use connect::{Connector, Transport};
pub use error::{Error, Outcome, reason};
pub use object::{Entity, Object};
pub use options::{Options, Window};
pub use push::{
    Answered, Durability, PushHandle, PushStatus, Pusher, Receipt, Receipts, Sent, Stored,
};
pub use session::{
    BatchError, BatchSettled, Commit, Delivered, Delivery, FencingKey, Settle, Settled, Subscribe,
    Subscription, Taken, Transaction, Verb,
};
pub use token::LeaseToken;
pub use unary::{SettleToken, Take, TokenTransaction};
