//! What a node can say of one object: the ground of `get`, `why` and `ls`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{LaneId, ObjectId};
use crate::names::{Name, TypeName};
use crate::object::{Hash16, Object};
use crate::time::{Span, Wall};

/// An object as one node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The id.
    pub id: ObjectId,
    /// Where it is in its life.
    pub state: State,
    /// The object, while it is alive here.
    pub object: Option<Object>,
    /// What is kept of it when it has ended here or moved on.
    pub ended: Option<Ended>,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// Until when at most, if that is known.
    pub until: Option<Wall>,
    /// The reason it was parked or discarded with.
    pub reason: Option<Arc<str>>,
    /// A paragraph for people.
    pub text: String,
    /// Everybody who could get it and does not, with the reason.
    pub candidates: Vec<(String, String)>,
    /// Where to ask next: the node and lane that it was handed to.
    pub moved_to: Option<(Name, LaneId)>,
    /// Where it came from, if it was handed here.
    pub came_from: Option<Name>,
}

/// What is kept of an ended object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its type at the end.
    pub ty: TypeName,
    /// Its version at the end.
    pub version: u32,
    /// The processor that ended it.
    pub by: Option<Name>,
    /// When.
    pub at: Wall,
    /// Its handoffs.
    pub moves: u32,
    /// Bytes of its payload.
    pub size: u32,
    /// The hash of what was pushed.
    pub hash: Hash16,
    /// When it was pushed.
    pub pushed_at: Wall,
}

/// The states of an object that people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Waiting for a subscriber.
    Ready,
    /// Waiting for its time.
    Delayed,
    /// With a subscriber.
    Leased,
    /// Offered to a peer.
    Offered,
    /// Held for a peer's decision.
    Held,
    /// Done.
    Final,
    /// Ended without success.
    Discarded,
    /// Out of the flow.
    Parked,
    /// Handed to a peer.
    Moved,
    /// Not known here.
    Unknown,
}

/// What an object waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitsFor {
    /// Somebody who wants its type.
    Demand,
    /// Free credit of somebody who does.
    Credit,
    /// The delay after a failed delivery.
    Backoff,
    /// Its `not_before`.
    Delay,
    /// The end of a lease.
    Lease,
    /// A peer's answer.
    Peer,
    /// The disk.
    Disk,
    /// Nothing: it has ended.
    Nothing,
}

impl State {
    /// The word people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Delayed => "delayed",
            Self::Leased => "leased",
            Self::Offered => "offered",
            Self::Held => "held",
            Self::Final => "final",
            Self::Discarded => "discarded",
            Self::Parked => "parked",
            Self::Moved => "moved",
            Self::Unknown => "unknown",
        }
    }
}

impl WaitsFor {
    /// The word people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Credit => "credit",
            Self::Backoff => "backoff",
            Self::Delay => "delay",
            Self::Lease => "lease",
            Self::Peer => "peer",
            Self::Disk => "disk",
            Self::Nothing => "nothing",
        }
    }
}

impl View {
    /// A view of something in this state that waits for nothing.
    pub fn new(id: ObjectId, state: State) -> Self {
        Self {
            id,
            state,
            object: None,
            ended: None,
            waits_for: WaitsFor::Nothing,
            until: None,
            reason: None,
            text: String::new(),
            candidates: Vec::new(),
            moved_to: None,
            came_from: None,
        }
    }
}

/// A span as people say it, coarse: `3 s`, `2 min`, `5 h`.
pub fn roughly(span: Span) -> String {
    match span.0 / 1_000_000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3_600),
    }
}
