//! The flight recorder's part of core: what goes in, a snapshot to start from, and the same again.

pub(crate) mod elide;
mod index;
mod lookup;
mod neighbours;
mod read;
mod replay;
mod slab;
mod sliced;
mod snapshot;
mod tape;

pub(crate) use index::{Index, SlicedIndex, index};
pub(crate) use lookup::Lookup;
pub use read::BadRecording;
pub use replay::{Agreement, Played, PlayedCall, Playing, Replay};
pub(crate) use slab::SlicedSlab;
pub(crate) use sliced::{SlicedMap, SlicedSet, SlicedVec, Slices};
pub use snapshot::{BadSnapshot, Slice};
pub use tape::{Chunk, RECORDING_FORMAT, SegmentHead, Tape, TapeBounds};
