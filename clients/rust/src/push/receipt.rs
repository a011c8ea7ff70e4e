//! Answers to pushes.

use std::sync::Arc;

use dpc_proto::v1;
use uuid::Uuid;

use crate::error::Error;

/// What happened to a pushed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushStatus {
    /// This push stored it.
    Stored,
    /// The node knew it already, with the same content.
    AlreadyExists,
}

/// How durable an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The node did not say.
    Unstated,
    /// Synced to the disk of the node.
    Synced,
    /// Committed by the database of the node.
    Committed,
    /// Committed at a quorum of replicas.
    Quorum,
}

/// Where and how durably objects were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What happened.
    pub status: PushStatus,
    /// How durable it is.
    pub durability: Durability,
    /// The name of the node.
    pub node: Arc<str>,
}

/// An object is the cloud's from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The id of the object.
    pub id: Uuid,
    /// Where and how.
    pub stored: Stored,
}

/// The answer to some pushes of [`Pusher::send`](crate::Pusher::send).
#[derive(Clone, Debug)]
pub struct Answered {
    /// The first ticket.
    pub first: u64,
    /// The last ticket, inclusive.
    pub last: u64,
    /// What became of each of them.
    pub result: Result<Stored, Error>,
}

impl Answered {
    /// Grows by the next ticket, if that has the same good answer.
    pub(super) fn absorb(&mut self, ticket: u64, result: &Result<Stored, Error>) -> bool {
        let same = match (&self.result, result) {
            (Ok(mine), Ok(other)) => {
                mine.status == other.status
                    && mine.durability == other.durability
                    && Arc::ptr_eq(&mine.node, &other.node)
            }
            _ => false,
        };
        if same && ticket == self.last + 1 {
            self.last = ticket;
            return true;
        }
        false
    }
}

impl Stored {
    pub(crate) fn from_wire(ok: &v1::PushOk, node: &Arc<str>) -> Self {
        let status = match ok.status() {
            v1::PushStatus::AlreadyExists => PushStatus::AlreadyExists,
            v1::PushStatus::Stored | v1::PushStatus::Unspecified => PushStatus::Stored,
        };
        let durability = match ok.durability() {
            v1::Durability::Unspecified => Durability::Unstated,
            v1::Durability::Synced => Durability::Synced,
            v1::Durability::Committed => Durability::Committed,
            v1::Durability::Quorum => Durability::Quorum,
        };
        Self { status, durability, node: node.clone() }
    }
}
