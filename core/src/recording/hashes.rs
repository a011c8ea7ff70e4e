//! The hashes of what clients carry. A recording leaves the contents out, so it keeps their hashes,
//! in the order in which they were taken, for the replay to take them again.

use std::collections::VecDeque;

use crate::input::Settle;
use crate::object::{Entity, Hash16};

/// Where core's content hashes come from.
#[derive(Debug, Default)]
pub(crate) enum Hashes {
    /// The contents.
    #[default]
    Taken,
    /// The contents; they are noted down.
    Noted(Vec<Hash16>),
    /// A recording of this very call. What it does not have is taken from the contents.
    Known(VecDeque<Hash16>),
}

impl Hashes {
    /// The hash of an entity.
    pub(crate) fn entity(&mut self, entity: &Entity) -> Hash16 {
        self.hash(|| entity.hash())
    }

    /// The hash by which a repeated settle is known.
    pub(crate) fn settle(&mut self, settle: &Settle) -> Hash16 {
        self.hash(|| settle.content_hash())
    }

    fn hash(&mut self, take: impl FnOnce() -> Hash16) -> Hash16 {
        match self {
            Self::Taken => take(),
            Self::Noted(noted) => {
                let hash = take();
                noted.push(hash);
                hash
            }
            Self::Known(known) => known.pop_front().unwrap_or_else(take),
        }
    }
}
