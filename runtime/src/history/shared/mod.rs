//! The histories of lanes in the tables of a store that nodes share.
//!
//! A node keeps its history on its own disk, where it answers at once. Where the lane is in a database
//! the history goes there, too, a *part* at a time ([ADR 0029](../../../../docs/adr/0029-history-goes-to-the-database-in-parts.md)):
//! once a part is closed none of its rows changes any more, so writing it is a matter of plain writes
//! that may be repeated. The lane's log is the outbox: it is kept until the part that tells of it is in
//! the tables ([`sending`]). What ended in the lane of a node that is gone is found there by whoever is
//! asked ([`finding`]).
//!
//! ```text
//! history_part   lane, part → node, its records, its times, its bytes, whether it is whole
//! history_row    lane, part, kind, first key → rows of the part, several together
//! ```
//!
//! A part is named by the hash of its directory and its pages, so that a part that is made again in other bounds
//! never mixes with what was written of the first; what both tell of has one place in the lane (record
//! and position) and is told once.

#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod finding;
mod segment;
pub(super) mod sending;

use std::sync::Arc;

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::store::{Done, StoreError};
use dpc_core::{Span, Wall};

/// The name of a part within its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartKey(pub(crate) [u8; 16]);

/// What the tables say of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartRow {
    /// The lane.
    pub(crate) lane: LaneId,
    /// Its name.
    pub(crate) part: PartKey,
    /// The node that had the lane, for people.
    pub(crate) node: Arc<str>,
    /// Its first record; the one after its last, if that is not known.
    pub(crate) first: RecordNumber,
    /// The record after its last one.
    pub(crate) next: RecordNumber,
    /// Whether it tells of everything in these records.
    pub(crate) whole: bool,
    /// When its first record was closed.
    pub(crate) first_wall: Wall,
    /// When its last record was closed.
    pub(crate) last_wall: Wall,
    /// Bytes of its rows.
    pub(crate) bytes: u64,
}

/// What a row of a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowKind {
    /// Decisions, under the number of the first block.
    Decided,
    /// Finished objects, under the number of the first block.
    Ended,
    /// References, under the first id.
    Page,
}

/// A row of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The lane.
    pub(crate) lane: LaneId,
    /// The part.
    pub(crate) part: PartKey,
    /// What it holds.
    pub(crate) kind: RowKind,
    /// The first key in it: at most 16 bytes, which are compared as such.
    pub(crate) key: Vec<u8>,
    /// At most [`ROW_BYTES_MAX`] bytes.
    pub(crate) body: Vec<u8>,
}

/// The key of a row, and its body.
pub(crate) type FoundRow = (Vec<u8>, Vec<u8>);

/// What is asked of the tables. Each is tried once: who asks will ask again.
pub(crate) enum Ask {
    /// Writes a row that goes by itself after so long. Repeating it does no harm.
    Write(Row, Span, Done<Result<(), StoreError>>),
    /// Names a part whose rows are all there, and goes by itself after so long.
    Close(PartRow, Span, Done<Result<(), StoreError>>),
    /// The parts of all lanes whose last record was closed since then, and maybe some that are older.
    Parts(Wall, Done<Result<Vec<PartRow>, StoreError>>),
    /// The row of a part with the highest key that is not above this one: the key and the body.
    Find(LaneId, PartKey, RowKind, Vec<u8>, Done<Result<Option<FoundRow>, StoreError>>),
    /// Removes a part.
    Drop(PartRow, Done<Result<(), StoreError>>),
}

/// The tables of a store that nodes share.
pub(crate) trait HistoryTables: Send + Sync {
    /// Asks them something. The answer comes from any thread, or never if the process ends.
    fn ask(&self, ask: Ask);
}

/// Where a node keeps histories besides its own disk.
#[derive(Clone)]
pub(crate) struct SharedHistory {
    pub(crate) tables: Arc<dyn HistoryTables>,
    /// Whose histories they are, for people.
    pub(crate) node: Name,
}

impl std::fmt::Debug for SharedHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedHistory").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Ask {
    /// Answers with an error.
    pub(crate) fn refuse(self, error: StoreError) {
        match self {
            Self::Write(.., done) | Self::Close(.., done) | Self::Drop(_, done) => done(Err(error)),
            Self::Parts(_, done) => done(Err(error)),
            Self::Find(.., done) => done(Err(error)),
        }
    }
}

impl RowKind {
    /// As it is written in the tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Ended => "ended",
            Self::Page => "page",
        }
    }
}

/// Most bytes of a row.
pub(crate) const ROW_BYTES_MAX: usize = 1 << 20;

/// Bytes of log after which a part ends whose lane is in a shared store, as the log is kept until
/// the part is in the tables.
pub(crate) const PART_LOG_BYTES: u64 = 32 << 20;

/// How long a part stays in the tables that may hold what ended up to `time` ago: parts are a
/// twenty-fourth of that long.
pub(super) fn kept_for(time: Span) -> Span {
    Span(time.0.saturating_add(time.0 / 12))
}
