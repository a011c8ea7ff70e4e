//! What this lane knows of an id. Most ids are new, and known to be new without a disk; for the
//! others the input that named them is stalled until the index and the log have been read, and then
//! handled again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::effect::{Effect, Effects};
use crate::ids::{Loc, ObjectId};
use crate::input::{Input, ReplyTo};
use crate::limits::RESOLVING_MAX;
use crate::loads::Purpose;
use crate::memory::Slot;
use crate::object::{Hash16, Object};
use crate::reclaim::CopyFound;
use crate::record::{End, Entry, Standing};
use crate::refusal::Refusal;
use crate::remember::Found;
use crate::scan::ScanId;

/// Ids being looked up and inputs that wait for them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Resolving {
    /// Ids under way, with the parts still to ask.
    asked: BTreeMap<ObjectId, VecDeque<u64>>,
    /// What has been found, while inputs that wait for it are handled again.
    found: BTreeMap<ObjectId, Option<Stored>>,
    stalled: BTreeMap<u64, Stalled>,
    next: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stalled {
    missing: BTreeSet<ObjectId>,
    ids: Vec<ObjectId>,
    waiting: Waiting,
}

/// What waits for ids to be looked up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Waiting {
    /// An input that is handled again.
    Input(Input),
    /// A scan that brings copies back, with those of one record.
    Reclaim(ScanId, Vec<CopyFound>),
}

/// An object as the log holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Stored {
    /// Alive, on a shelf.
    Alive { at: Loc, shelf: Shelf, standing: Standing, place: Loc, object: Box<Object> },
    /// Ended or moved on.
    Ended { at: Loc, end: Box<End> },
}

/// What is known of an id.
pub(crate) enum Known<'a> {
    /// Never seen, or forgotten.
    Absent,
    /// In memory.
    InMemory(Slot),
    /// In the log.
    OnDisk(&'a Stored),
    /// Nobody has looked.
    NotLookedUp,
}

impl Stored {
    pub(crate) fn hash(&self) -> Hash16 {
        match self {
            Self::Alive { object, .. } => object.hash,
            Self::Ended { end, .. } => end.hash,
        }
    }

    pub(crate) fn at(&self) -> Loc {
        match self {
            Self::Alive { at, .. } | Self::Ended { at, .. } => *at,
        }
    }
}

impl Resolving {
    /// How many inputs wait.
    pub(crate) fn stalled_len(&self) -> usize {
        self.stalled.len()
    }

    /// A part of the log has ended. What is being looked up and is in it has been written anew since it
    /// was asked for, so that this part knows more than those that were to be asked. What was found to
    /// be new may have been pushed since: who waits for other ids besides looks again (P9).
    pub(crate) fn part_ended(&mut self, part: u64, is_in_it: impl Fn(ObjectId) -> bool) {
        for (id, parts) in &mut self.asked {
            if is_in_it(*id) {
                parts.push_front(part);
            }
        }
        self.found.retain(|id, found| found.is_some() || !is_in_it(*id));
    }

    /// Whether no further input may wait.
    pub(crate) fn is_full(&self) -> bool {
        self.stalled.len() >= RESOLVING_MAX
    }
}

impl Core {
    /// Ids among these that need the disk.
    pub(crate) fn unresolved(&self, ids: impl IntoIterator<Item = ObjectId>) -> Vec<ObjectId> {
        ids.into_iter().filter(|id| matches!(self.known(*id), Known::NotLookedUp)).collect()
    }

    /// What is known of an id.
    pub(crate) fn known(&self, id: ObjectId) -> Known<'_> {
        if let Some(slot) = self.memory.by_id(id) {
            return Known::InMemory(slot);
        }
        let found = self.remembered.find(id);
        match (found, self.resolving.found.get(&id)) {
            (Found::Absent, _) | (Found::Perhaps(_), Some(None)) => Known::Absent,
            (Found::At(at), _) if self.catalogue.shelf_of(at).is_none() => Known::Absent,
            (Found::At(at), Some(Some(stored))) if stored.at() == at && self.stands(stored) => {
                Known::OnDisk(stored)
            }
            (Found::Perhaps(_), Some(Some(stored))) if self.stands(stored) => Known::OnDisk(stored),
            _ => Known::NotLookedUp,
        }
    }

    /// Whether what was found is still so: another input may have moved it since.
    fn stands(&self, stored: &Stored) -> bool {
        let shelf = match stored {
            Stored::Alive { shelf, .. } => *shelf,
            Stored::Ended { .. } => Shelf::Ended,
        };
        self.catalogue.shelf_of(stored.at()) == Some(shelf)
    }

    /// Keeps an input until these ids have been looked up, then handles it again.
    pub(crate) fn stall(
        &mut self,
        to: ReplyTo,
        ids: Vec<ObjectId>,
        input: Input,
        fx: &mut Effects,
    ) {
        if self.resolving.is_full() {
            let limit = RESOLVING_MAX as u64;
            let message = "too many known ids are being looked up; retry in a moment";
            return self.refuse(to, Refusal::exhausted("id", limit, message), fx);
        }
        self.stall_quietly(ids, input, fx);
    }

    /// The same for an input that nobody waits for an answer of.
    pub(crate) fn stall_quietly(&mut self, ids: Vec<ObjectId>, input: Input, fx: &mut Effects) {
        self.look_up(ids, Waiting::Input(input), fx);
    }

    /// Looks ids up for something that waits for them.
    pub(crate) fn look_up(&mut self, ids: Vec<ObjectId>, waiting: Waiting, fx: &mut Effects) {
        let n = self.resolving.next;
        self.resolving.next += 1;
        let missing = ids.iter().copied().collect();
        self.resolving.stalled.insert(n, Stalled { missing, ids: ids.clone(), waiting });
        for id in ids {
            if self.resolving.asked.contains_key(&id) {
                continue;
            }
            match self.remembered.find(id) {
                Found::At(at) => {
                    self.resolving.asked.insert(id, VecDeque::new());
                    self.load(at.record, Purpose::Resolve(id, at), fx);
                }
                Found::Perhaps(parts) => {
                    let mut parts = VecDeque::from(parts);
                    let part = parts.pop_front().expect("perhaps names a part");
                    self.resolving.asked.insert(id, parts);
                    fx.push(Effect::LookUp { part, id });
                }
                Found::Absent => self.on_resolved(id, None, fx),
            }
        }
    }

    pub(crate) fn handle_looked_up(
        &mut self,
        _part: u64,
        id: ObjectId,
        loc: Option<Loc>,
        fx: &mut Effects,
    ) {
        // A held object's end before it may have been carried behind it: that says less.
        let loc = loc.map(|at| self.transfers.held_after(at).unwrap_or(at));
        if !self.resolving.asked.contains_key(&id) {
            return;
        }
        match loc {
            Some(at) if self.catalogue.shelf_of(at).is_some() => {
                self.load(at.record, Purpose::Resolve(id, at), fx);
            }
            // Nothing is alive there: held once and aborted, perhaps.
            _ => self.look_further(id, fx),
        }
    }

    /// Another part may know more of an id.
    fn look_further(&mut self, id: ObjectId, fx: &mut Effects) {
        let Some(rest) = self.resolving.asked.get_mut(&id) else { return };
        // Those that the log has been cut behind since are not in the index any more.
        let kept = std::iter::from_fn(|| rest.pop_front()).find(|part| self.remembered.has(*part));
        match kept {
            Some(part) => fx.push(Effect::LookUp { part, id }),
            None => self.on_resolved(id, None, fx),
        }
    }

    /// The record that should hold an id has been read.
    pub(crate) fn on_resolve_loaded(
        &mut self,
        id: ObjectId,
        at: Loc,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let shelf = self.catalogue.shelf_of(at);
        let entry = entries.get(at.position as usize).map(|(_, e)| e);
        let stored = match (shelf, entry) {
            (Some(shelf), Some(Entry::Object { place, standing, object, .. }))
                if object.id == id =>
            {
                let (standing, object) = (standing.clone(), object.clone());
                Some(Stored::Alive { at, shelf, standing, place: place.unwrap_or(at), object })
            }
            (Some(_), Some(Entry::End(end))) if end.id == id => {
                Some(Stored::Ended { at, end: end.clone() })
            }
            _ => None,
        };
        match stored {
            Some(_) => self.on_resolved(id, stored, fx),
            // It has been written elsewhere meanwhile.
            None => self.look_further(id, fx),
        }
    }

    fn on_resolved(&mut self, id: ObjectId, stored: Option<Stored>, fx: &mut Effects) {
        self.resolving.asked.remove(&id);
        self.resolving.found.insert(id, stored);
        let mut ready = Vec::new();
        for (n, stalled) in &mut self.resolving.stalled {
            if stalled.missing.remove(&id) && stalled.missing.is_empty() {
                ready.push(*n);
            }
        }
        for n in ready {
            let stalled = self.resolving.stalled.remove(&n).expect("just found");
            let next = self.resolving.next;
            match stalled.waiting {
                Waiting::Input(input) => self.dispatch(input, fx),
                Waiting::Reclaim(scan, copies) => self.reclaim_looked_up(scan, copies, fx),
            }
            if let Some(again) = self.resolving.stalled.get_mut(&next) {
                // It waits once more for some of its ids: the others stay known meanwhile.
                again.ids.extend(stalled.ids.iter().copied());
            }
            for id in stalled.ids {
                self.drop_found(id);
            }
        }
        self.drop_found(id);
    }

    /// What was found is kept only as long as a stalled input may need it.
    fn drop_found(&mut self, id: ObjectId) {
        if !self.resolving.stalled.values().any(|s| s.ids.contains(&id)) {
            self.resolving.found.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_of_an_id_is_forgotten_when_a_part_that_names_it_ends() {
        let (written, other) = (ObjectId([1; 16]), ObjectId([2; 16]));
        let mut resolving = Resolving::default();
        // Both were new when they were looked up; one input waits for a third.
        resolving.found.insert(written, None);
        resolving.found.insert(other, None);
        resolving.part_ended(3, |id| id == written);
        assert!(!resolving.found.contains_key(&written), "it has been written since");
        assert!(resolving.found.contains_key(&other));
    }
}
