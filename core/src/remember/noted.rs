//! Ids in memory, with where each was mentioned last.

use crate::ids::{Loc, ObjectId};
use crate::recording::{SlicedIndex, Slices};

/// Ids with their latest mention. Nothing above the highest of them is here, and nobody looks for it: a new
/// id of version 7 begins with a later time than all that have ended. One that is random, or of a clock
/// far ahead, makes each one be looked for until its part of the log ends.
#[derive(Debug, Default)]
pub(super) struct Noted {
    ids: SlicedIndex<ObjectId, Loc>,
    highest: ObjectId,
    /// About how many there will be, if there are more than a few.
    most: usize,
}

/// Once one in so many has come, room is made for all of them: a table that doubles is copied whole, and
/// everything waits for that. Few ids take little memory.
const ROOM_FOR_ALL_AT: usize = 64;

impl Noted {
    /// None yet, and room for `most`, once it looks as if they would come.
    pub(super) fn new(seed: u64, most: usize) -> Self {
        Self { ids: SlicedIndex::with_seed(seed), most, ..Self::default() }
    }

    /// What goes into a snapshot in slices.
    pub(super) fn slices(&mut self) -> &mut dyn Slices {
        &mut self.ids
    }

    /// What follows from the slices.
    pub(super) fn derive(&mut self) {
        let ids = (0..self.ids.len()).filter_map(|position| self.ids.at(position));
        self.highest = ids.map(|(id, _)| id).max().unwrap_or_default();
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<&Loc> {
        if id > self.highest { None } else { self.ids.get(id) }
    }

    pub(super) fn insert(&mut self, id: ObjectId, at: Loc) {
        self.highest = self.highest.max(id);
        if self.ids.len() == self.most / ROOM_FOR_ALL_AT {
            self.ids.reserve(self.most);
        }
        self.ids.insert(id, at);
    }

    pub(super) fn clear(&mut self) {
        self.highest = ObjectId::default();
        self.ids.clear();
    }

    pub(super) fn swap(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.highest, &mut other.highest);
        self.ids.swap(&mut other.ids);
    }

    /// What stands at a position.
    pub(super) fn at(&self, position: usize) -> Option<(ObjectId, &Loc)> {
        self.ids.at(position)
    }
}
