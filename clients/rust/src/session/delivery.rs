//! What a subscriber gets.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dpc_proto::v1;
use prost::Message;
use uuid::Uuid;

use super::Session;
use super::settle::{Settle, Verb};
use crate::error::Error;
use crate::object::Entity;
use crate::token::{LeaseToken, PREFIX_BYTES};

/// The stream, or the take, that deliveries came with.
#[derive(Debug)]
pub(crate) struct Info {
    /// The address it was opened at.
    pub(crate) index: usize,
    pub(crate) node: Arc<str>,
    pub(crate) lane: String,
    pub(crate) prefix: [u8; PREFIX_BYTES],
    pub(crate) epoch: u64,
}

/// Grows with every lease of one object. A subscriber that writes it beside its own data, and
/// refuses to write with a smaller one, is safe from its own delayed writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingKey {
    /// How many times the object was handed from node to node.
    pub moves: u32,
    /// Counts the owners of the lane that made the lease.
    pub epoch: u64,
    /// The number of the lease.
    pub lease: u64,
}

/// An object as it was delivered.
#[derive(Clone)]
pub struct Delivered {
    /// In a box, since deliveries go from hand to hand.
    wire: Box<v1::Delivery>,
    id: Uuid,
    info: Arc<Info>,
}

impl Delivered {
    pub(crate) fn new(wire: v1::Delivery, info: Arc<Info>) -> Result<Self, Error> {
        let id = Uuid::parse_str(&wire.id)
            .map_err(|why| Error::malformed_answer(format!("the id of a delivery: {why}")))?;
        Ok(Self { wire: Box::new(wire), id, info })
    }

    /// The id of the object.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The type of the object: a full protobuf message name.
    pub fn object_type(&self) -> &str {
        let url = self.type_url();
        url.rsplit_once('/').map_or(url, |(_, name)| name)
    }

    /// The type with its host, as `google.protobuf.Any` has it.
    pub fn type_url(&self) -> &str {
        self.wire.entity.as_ref().map_or("", |entity| &entity.type_url)
    }

    /// The payload. It shares the buffer it arrived in.
    pub fn payload(&self) -> Bytes {
        self.wire.entity.as_ref().map(|entity| entity.value.clone()).unwrap_or_default()
    }

    /// The payload as a protobuf message.
    pub fn decode<M: Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.payload())
    }

    /// The headers.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.wire.headers
    }

    /// Counts the entities the object has been, from 1.
    pub fn version(&self) -> u32 {
        self.wire.version
    }

    /// Counts the deliveries of the object, from 1. A crash of a node may lose the last of them.
    pub fn delivery(&self) -> u32 {
        self.wire.delivery
    }

    /// How many earlier deliveries failed by fault of the object.
    pub fn failed_deliveries(&self) -> u32 {
        self.wire.failed_deliveries
    }

    /// How many times the object was handed from node to node.
    pub fn hops(&self) -> u32 {
        self.wire.hops
    }

    /// The last nodes that had it, at most 8, the delivering one last; empty if it was never
    /// handed on.
    pub fn path(&self) -> &[String] {
        &self.wire.path
    }

    /// The node where it was pushed.
    pub fn origin(&self) -> &str {
        if self.wire.origin.is_empty() { &self.info.node } else { &self.wire.origin }
    }

    /// The node that delivered it.
    pub fn node(&self) -> &str {
        &self.info.node
    }

    /// When it was pushed, by the clock of its origin.
    pub fn pushed_at(&self) -> Option<SystemTime> {
        self.wire.pushed_at.and_then(|at| at.try_into().ok())
    }

    /// When the lease runs out if it is not extended, by the clock of the node.
    pub fn lease_until(&self) -> Option<SystemTime> {
        self.wire.lease_until.and_then(|at| at.try_into().ok())
    }

    /// It may have been processed elsewhere too: it comes from a restored backup, or from a node
    /// that was given up.
    pub fn is_possible_duplicate(&self) -> bool {
        self.wire.possible_duplicate
    }

    /// Grows with every lease of this object.
    pub fn fencing_key(&self) -> FencingKey {
        FencingKey { moves: self.wire.hops, epoch: self.info.epoch, lease: self.wire.lease }
    }

    /// The full name of the lease, for whoever settles it elsewhere.
    pub fn token(&self) -> LeaseToken {
        LeaseToken::new(&self.info.prefix, self.wire.lease, self.id)
    }

    /// Which of the patterns of its subscription it is for, from 0; 0 for a taken object.
    pub fn pattern(&self) -> usize {
        usize::try_from(self.wire.subscription.saturating_sub(1)).unwrap_or(usize::MAX)
    }

    pub(crate) fn lease(&self) -> u64 {
        self.wire.lease
    }

    pub(crate) fn info(&self) -> &Arc<Info> {
        &self.info
    }
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivered")
            .field("id", &self.id)
            .field("type", &self.object_type())
            .field("version", &self.version())
            .field("delivery", &self.delivery())
            .field("lease", &self.lease())
            .finish_non_exhaustive()
    }
}

/// An object to work on, leased to this process.
///
/// The lease is extended in the background for as long as this lives. Settle it; what is dropped
/// without being settled goes back as failed, so that a panic or an early return is noticed by the
/// limit of failed deliveries and not by a lease that runs out.
///
/// A settle that is refused leaves the lease as it was: settle in another way, or try again.
#[must_use = "a delivery that is dropped counts as failed"]
pub struct Delivery {
    session: Arc<Session>,
    data: Delivered,
    /// Dropping this gives the object back.
    armed: bool,
}

impl Delivery {
    pub(super) fn new(session: Arc<Session>, data: Delivered) -> Self {
        Self { session, data, armed: true }
    }

    /// Done for good.
    pub fn finalise(&self) -> Settle<'_> {
        self.settle(Verb::Finalise)
    }

    /// Not final: the object becomes this entity, under the same id, and is routed anew. Without
    /// an entity it stays what it is and goes on to processors of other names.
    pub fn advance(&self, entity: Option<Entity>) -> Settle<'_> {
        self.settle(Verb::Advance(entity))
    }

    /// Back to its place, after a delay if given: not a failure of the object.
    pub fn release(&self, delay: Option<Duration>) -> Settle<'_> {
        self.settle(Verb::Release(delay))
    }

    /// Back to its place, after the backoff or the given delay: a failure of the object. After too
    /// many of them it is parked.
    pub fn fail(&self, delay: Option<Duration>) -> Settle<'_> {
        self.settle(Verb::Fail(delay))
    }

    /// Parked, with this reason, until a person looks at it.
    pub fn reject(&self, reason: impl Into<String>) -> Settle<'_> {
        self.settle(Verb::Reject(reason.into()))
    }

    /// Settles in the given way.
    pub fn settle(&self, verb: Verb) -> Settle<'_> {
        Settle::new(self, verb)
    }

    /// Leaves the lease to whoever has the token, or to its end: it is not extended any more.
    pub fn abandon(mut self) -> LeaseToken {
        self.disarm();
        self.session.abandon(&self.data);
        self.data.token()
    }

    /// The lease is over: settled, run out, or gone with its stream. Settling it is still tried,
    /// by its token, and answers honestly.
    pub fn is_lost(&self) -> bool {
        !self.session.holds(&self.data)
    }

    /// Waits until the lease is over.
    pub async fn lost(&self) {
        loop {
            let lost = self.session.lost.notified();
            if self.is_lost() {
                return;
            }
            lost.await;
        }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Deref for Delivery {
    type Target = Delivered;

    fn deref(&self) -> &Delivered {
        &self.data
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.data, f)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.armed {
            self.session.dropped(&self.data);
        }
    }
}

/// An object that was taken without a session. Its lease is neither extended nor given back by
/// itself: use [`Client::extend`](crate::Client::extend) and
/// [`Client::settle`](crate::Client::settle) with its token.
pub type Taken = Delivered;
