//! What the history answers with.

use std::sync::Arc;

use dpc_core::decision::{Candidate, Step};
use dpc_core::ids::{LaneId, Loc, ObjectId};
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Generation, Hash16};
use dpc_core::record::TransferId;
use dpc_core::{Span, Wall};

/// An object that ended in this node's lane, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its id.
    pub id: ObjectId,
    /// Its type at the end.
    pub ty: TypeName,
    /// Its version at the end.
    pub version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The processor that ended it.
    pub by: Option<Name>,
    /// When it ended.
    pub at: Wall,
    /// When its first owner took it.
    pub pushed_at: Wall,
    /// Its handoffs at the end.
    pub moves: u32,
    /// Bytes of its payload at the end.
    pub size: u32,
    /// The hash of what was pushed under its id.
    pub hash: Hash16,
    /// The lane it ended in.
    pub lane: LaneId,
    /// The entry that ended it.
    pub loc: Loc,
}

/// How an object ended in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done for good.
    Final,
    /// Ended without success, with the reason.
    Discarded(Arc<str>),
    /// Handed to a peer.
    Moved {
        /// The transfer; it names the receiver's lane.
        transfer: TransferId,
        /// The receiver's name, unless only a carried mark of the move was left in the log.
        receiver: Option<Name>,
    },
}

/// Outcomes that a listing can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeKind {
    /// Done for good.
    Final,
    /// Ended without success.
    Discarded,
    /// Handed to a peer.
    Moved,
}

impl Outcome {
    /// Which of the outcomes it is.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Final => OutcomeKind::Final,
            Self::Discarded(_) => OutcomeKind::Discarded,
            Self::Moved { .. } => OutcomeKind::Moved,
        }
    }
}

/// The decisions of this node for one object, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The first [`TRACE_FIRST`] and the last [`TRACE_LAST`].
    pub lines: Vec<TraceLine>,
    /// How many decisions are known to have been made and are not in `lines`: left out between the
    /// first and the last, or already aged out.
    pub dropped: u64,
    /// Whether decisions of a stretch of the object's life were not kept at all: the history was
    /// too far behind the log, or the log could not be read.
    pub detail_dropped: bool,
    /// Decisions made before this time have aged out.
    pub kept_since: Wall,
}

/// One decision for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceLine {
    /// When.
    pub at: Wall,
    /// The lane it was recorded in.
    pub lane: LaneId,
    /// Its place in the lane.
    pub loc: Loc,
    /// The object's handoffs so far.
    pub moves: u32,
    /// What happened.
    pub step: Step,
    /// Who was chosen.
    pub chosen: Option<Arc<str>>,
    /// The generation of demand that was followed.
    pub generation: Option<Generation>,
    /// Who else was looked at.
    pub candidates: Vec<Candidate>,
}

/// Which finished objects to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only these types.
    pub pattern: Option<Pattern>,
    /// Only pushed at or after.
    pub since: Option<Wall>,
    /// Only those that ended so.
    pub outcome: Option<OutcomeKind>,
    /// At most so many, and never more than [`dpc_core::limits::LIST_MAX`].
    pub limit: u32,
}

/// Finished objects, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The objects.
    pub objects: Vec<Finished>,
    /// Whether all that is kept was looked at, or the limit was reached. If not, the search took
    /// too long and older objects may be missing.
    pub complete: bool,
}

/// Which counts to report.
#[derive(Clone, Debug)]
pub struct StatsQuery {
    /// From the minute that holds this time.
    pub from: Wall,
    /// To the minute that holds this time, inclusive.
    pub to: Wall,
    /// Only this type.
    pub ty: Option<TypeName>,
}

/// What happened to the objects of one type in one minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsRow {
    /// When the minute starts.
    pub minute: Wall,
    /// The type; `None` for what the log does not tell by type: deliveries.
    pub ty: Option<TypeName>,
    /// The counts.
    pub counts: Counts,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// How many objects something happened to.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Counts {
            /// The counts in their order in a row. New ones go to the end.
            pub(super) fn fields_mut(&mut self) -> impl Iterator<Item = &mut u64> {
                [$(&mut self.$name,)*].into_iter()
            }

            /// The counts in their order in a row.
            pub(super) fn fields(&self) -> impl Iterator<Item = u64> {
                [$(self.$name,)*].into_iter()
            }

            /// Adds other counts.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counts! {
    /// Pushed by clients.
    pushed;
    /// Emitted by settles.
    emitted;
    /// Given to local subscriptions.
    delivered;
    /// Advanced to a new entity, or handled and kept.
    advanced;
    /// Released, failed, or their lease ran out.
    returned;
    /// Done for good.
    finalised;
    /// Ended without success.
    discarded;
    /// Parked.
    parked;
    /// Put back into the flow by a person.
    redriven;
    /// Handed to peers.
    moved;
    /// Offered by peers and held for their decision.
    received;
    /// Brought back from copies.
    reclaimed;
    /// Second objects of an id, kept out.
    duplicates;
}

/// How many of an object's first decisions are kept.
pub const TRACE_FIRST: usize = 16;
/// How many of an object's last decisions are kept.
pub const TRACE_LAST: usize = 48;
/// One minute.
pub(super) const MINUTE: Span = Span::secs(60);
