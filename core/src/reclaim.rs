//! A node that is given up for ever: the verdict on its lane, and the copies that come back (R6).
//!
//! Two kinds of copies are left of what was between two nodes: shadows of what was handed over, and
//! held objects whose sender never said how the handoff ended. A person who gives the other node up
//! may bring both back. Nobody can know any more whether it went on with them, so they are flagged.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::decision::{Decision, Step};
use crate::effect::Effects;
use crate::ids::{LaneId, Loc, ObjectId, RecordNumber};
use crate::input::ReplyTo;
use crate::lane::entry_bytes;
use crate::memory::{Slot, Then};
use crate::names::Name;
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::record::{Ending, Entry, How, Standing, TransferId};
use crate::refusal::{Code, Refusal};
use crate::resolve::{Known, Stored};
use crate::scan::{ScanId, Work};
use crate::transfer::{Held, InState, Incoming};

/// A copy that is to be brought back, as its entry has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CopyFound {
    at: Loc,
    pub(crate) object: Object,
    /// Why it is parked, if it is.
    parked: Option<Arc<str>>,
}

impl Core {
    /// A peer is gone for ever: every lane of its name that is not linked now. One that is linked is
    /// the same node with a new disk, and stays. With `reclaim` what was moved to it and not settled
    /// here comes back flagged, and so does what is held from it.
    pub(crate) fn forget_node(
        &mut self,
        to: ReplyTo,
        name: &Name,
        reclaim: bool,
        fx: &mut Effects,
    ) {
        let lanes: Vec<LaneId> =
            self.mesh.peers.by_age().filter(|p| p.name == *name).map(|p| p.lane).collect();
        if lanes.is_empty() {
            let message = format!("no node called {name} has ever been linked to this one");
            return self.refuse(
                to,
                Refusal::new(Code::NotFound, "NODE_UNKNOWN", message).given(name),
                fx,
            );
        }
        let lanes: Vec<LaneId> =
            lanes.into_iter().filter(|lane| self.mesh.link_to(*lane).is_none()).collect();
        if lanes.is_empty() {
            let message = format!("{name} is linked to this node now; stop it first, for good");
            return self.refuse(
                to,
                Refusal::new(Code::FailedPrecondition, "NODE_ALIVE", message).given(name),
                fx,
            );
        }
        if let Err(refusal) = self.check_scans() {
            return self.refuse(to, refusal, fx);
        }
        let mut places = BTreeSet::new();
        let mut done = 0;
        for lane in lanes {
            // Its name stays known, so that the order can be given again when a crash cut it off.
            self.transfers.forget_lane(lane);
            self.lane.write(&Entry::Verdict(lane));
            if reclaim {
                let to_it = self.transfers.moved.iter().filter(|(id, _)| id.receiver == lane);
                places.extend(to_it.flat_map(|(_, moved)| moved.shadows.iter().copied()));
                done += self.reclaim_held(lane, &mut places);
            }
        }
        self.lane.urge();
        let records: BTreeSet<RecordNumber> = places.iter().map(|at| at.record).collect();
        self.start_scan(Work::Reclaim { to, places, done }, records, fx);
    }

    /// What is held from a lane that is gone: objects in memory are brought back now, with how many
    /// they are, and the places of those on disk are added for the scan. The sender may never have
    /// written that they moved, so they are flagged like any other copy.
    fn reclaim_held(&mut self, lane: LaneId, places: &mut BTreeSet<Loc>) -> u64 {
        let in_doubt = |i: &Incoming| matches!(i.state, InState::Held | InState::Holding(_));
        let held = self.transfers.incoming.iter();
        let held = held.filter(|(id, i)| id.sender == lane && in_doubt(i));
        let transfers: Vec<(TransferId, Vec<Held>)> =
            held.map(|(id, i)| (*id, i.items.clone())).collect();
        let mut count = 0;
        for (transfer, items) in transfers {
            if items.is_empty() {
                // All of it were duplicates: nothing is left to bring back.
                self.transfers.incoming.remove(&transfer);
                self.lane.write(&Entry::Aborted { transfer });
            }
            for held in items {
                match self.held_out_of_memory(&held) {
                    Some(object) => {
                        self.free_held(held.at);
                        self.write_reclaimed(Some(held.at), Arc::unwrap_or_clone(object));
                        count += 1;
                    }
                    None => {
                        places.insert(held.at);
                    }
                }
            }
        }
        count
    }

    /// A held copy counts as this lane's own from here on: its transfer is over.
    pub(crate) fn free_held(&mut self, at: Loc) {
        if let Some(held) = self.transfers.take_held(at) {
            self.forget_end(held.before);
        }
    }

    /// The copies of a record that are to be brought back.
    pub(crate) fn copies_in(
        &self,
        entries: &[(Loc, Entry)],
        places: &BTreeSet<Loc>,
    ) -> Vec<CopyFound> {
        let chosen = entries.iter().filter(|(at, _)| places.contains(at));
        chosen
            .filter_map(|(at, entry)| match entry {
                Entry::Object { standing, object, .. } => {
                    let parked = match standing {
                        Standing::Parked(reason) | Standing::HeldParked(_, reason) => {
                            Some(reason.clone())
                        }
                        _ => None,
                    };
                    Some(CopyFound { at: *at, object: (**object).clone(), parked })
                }
                _ => None,
            })
            .collect()
    }

    /// Brings copies back whose ids have been looked up, and goes on with their scan.
    pub(crate) fn reclaim_looked_up(
        &mut self,
        id: ScanId,
        copies: Vec<CopyFound>,
        fx: &mut Effects,
    ) {
        let mut brought = 0;
        for copy in copies {
            brought += u64::from(self.reclaim(copy, fx));
        }
        let scan = self.scans.scans.get_mut(&id).expect("a scan waits for its ids");
        if let Work::Reclaim { done, .. } = &mut scan.work {
            *done += brought;
        }
        self.step_scan(id, fx);
    }

    /// Brings a shadow or a held copy back, flagged as a possible duplicate: ready, or parked as it
    /// was. An object that has come back by itself since, or ended here, is not one that was lost.
    fn reclaim(&mut self, copy: CopyFound, fx: &mut Effects) -> bool {
        let CopyFound { at, object, parked } = copy;
        match self.catalogue.shelf_of(at) {
            Some(Shelf::Shadow) => {
                let Some(end) = self.end_away(at, object.id) else { return false };
                if let Some(end) = end.filter(|_| !planted(Bug::OldEndKept)) {
                    // Carried forward later, it would hide how the object ends in the end.
                    self.lane.write(&Entry::Undone(end));
                    self.forget_end(Some(end));
                }
                self.catalogue.take(at, Shelf::Shadow);
                self.transfers.drop_shadow(at);
            }
            Some(Shelf::Held) => {
                self.unshelve(at, Shelf::Held);
                let ty = self.queues.intern(&object.entity.ty);
                self.queues.ty_mut(ty).held -= 1;
                self.free_held(at);
            }
            _ => return false,
        }
        let slot = self.write_reclaimed(Some(at), object);
        if let Some(reason) = parked {
            self.park_reclaimed(slot, reason, fx);
        }
        true
    }

    /// Where its end stands, if the last that is known of an object here is that it moved on from
    /// this shadow: nowhere if that is forgotten.
    fn end_away(&self, shadow: Loc, id: ObjectId) -> Option<Option<Loc>> {
        let transfer = self.transfers.shadow_of(shadow);
        match self.known(id) {
            Known::Absent => Some(None),
            Known::OnDisk(Stored::Ended { at, end })
                if transfer.is_some_and(|t| end.ending == Ending::Moved(t)) =>
            {
                Some(Some(*at))
            }
            _ => None,
        }
    }

    /// An object that has just been brought back is parked, with its next entry.
    pub(crate) fn park_reclaimed(&mut self, slot: Slot, reason: Arc<str>, fx: &mut Effects) {
        let at = self.memory.get(slot).at;
        self.memory.cancel(at.record, slot);
        self.park(slot, reason, fx);
    }

    /// Writes an object that was brought back from a copy; it flows when that is durable.
    pub(crate) fn write_reclaimed(&mut self, was: Option<Loc>, mut object: Object) -> Slot {
        (object.possible_duplicate, object.chase) = (true, None);
        let ty = self.queues.intern(&object.entity.ty);
        let queue = self.queue_for(ty, &object.handled);
        self.lane.reserve(entry_bytes(&object));
        let standing = Standing::Flowing;
        let at = self.lane.write_object(How::Reclaimed, was, None, &standing, &object);
        self.catalogue.put(at, Shelf::Memory, at);
        self.remembered.note(object.id, at);
        self.queues.ty_mut(ty).books.reclaimed += 1;
        let decision = Decision::new(self.now.wall, Step::Reclaim, None);
        self.decide(decision, (object.id, object.moves));
        let slot = self.admit(Arc::new(object), at, at, queue);
        // What its sender says of it is taken back by the verdict alone, which has to be durable first.
        self.memory.when_committed(at.record, slot, Then::FlowAtCommit);
        self.lane.urge();
        slot
    }
}
