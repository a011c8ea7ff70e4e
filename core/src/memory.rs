//! The objects in core's memory: those being written, waiting near the front of a queue, delayed
//! for a moment, or in somebody's hands. Everything else is on a shelf of the catalogue.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::QueueId;
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::message::DemandKey;
use crate::object::Object;
use crate::record::TransferId;
use crate::recording::{Lookup, SlicedMap, SlicedSlab, Slices};
use crate::time::{Mono, Wall};

/// An object's index in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Slot(pub(crate) u32);

/// One object in memory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Live {
    /// Shared with the deliveries of it that are on their way to subscribers.
    pub(crate) object: Arc<Object>,
    /// Its latest entry in the log.
    pub(crate) at: Loc,
    /// Its place in the order of arrival.
    pub(crate) place: Loc,
    pub(crate) queue: QueueId,
    pub(crate) phase: Phase,
    /// When it became ready here, or last came back.
    pub(crate) since: Mono,
    /// Memory knows something of it that its entry does not: a delivery count.
    pub(crate) dirty: bool,
    /// A peer has refused it: it is not offered again before this.
    pub(crate) paused_until: Mono,
    /// Whether its waiting has been recorded since it became ready.
    pub(crate) wait_noted: bool,
    /// The demand it is in transit for, with the era of that count.
    pub(crate) transit: Option<(DemandKey, u64)>,
}

/// A window of many objects is in no cache, and each step in the life of one touches this.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Live>() <= 96);

/// What an object in memory is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Its entry is being committed.
    Writing,
    /// Waiting for a subscriber or a peer.
    Ready,
    /// Waiting for this moment.
    Delayed(Mono),
    /// With a subscriber under this lease.
    Leased(u64),
    /// Offered under this transfer of ours.
    Offered(u64),
    /// Its move is being committed.
    Moving(u64),
    /// Held for a peer's decision.
    Held(Box<TransferId>),
}

/// What happens to an object when the record of its last entry is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Then {
    /// It waits for a subscriber, or for its time. It may be offered to a peer before.
    Flow,
    /// The same, but it is not offered before: what comes back from a subscriber, came over a link, was
    /// brought back, emitted, or pushed with a settle.
    FlowAtCommit,
    /// It leaves memory: ended, parked or moved.
    Leave,
    /// It is held; the transfer's answer may go.
    Hold,
}

/// All objects in memory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    slots: SlicedSlab<Live>,
    #[serde(skip)]
    by_id: Lookup<ObjectId, Slot>,
    /// Those that are or were delayed or expire. A checkpoint looks at them alone: memory can hold a
    /// hundred thousand objects, and an input waits for it.
    #[serde(skip)]
    timed: BTreeSet<Slot>,
    /// What to do when a record is committed, in the order written; that of the newest record.
    newest: (RecordNumber, Vec<(Slot, Then)>),
    /// The same of those before it.
    #[serde(skip)]
    pending: SlicedMap<RecordNumber, Vec<(Slot, Then)>>,
    /// What such a list was kept in, for the next one.
    #[serde(skip)]
    spare: Vec<(Slot, Then)>,
    /// Bytes in memory of objects that wait, and of those in somebody's hands.
    pub(crate) waiting_bytes: u64,
    pub(crate) leased_bytes: u64,
}

impl Live {
    /// Whether it is delayed or expires.
    pub(crate) fn has_times(&self) -> bool {
        self.object.has_times()
    }

    /// The object, to be changed. What has been delivered of it stays as it was.
    pub(crate) fn object_mut(&mut self) -> &mut Object {
        Arc::make_mut(&mut self.object)
    }
}

impl Memory {
    pub(crate) fn new(seed: u64) -> Self {
        Self { by_id: Lookup::with_seed(seed), ..Self::default() }
    }

    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 2] {
        [self.slots.slices(), &mut self.pending]
    }

    /// What follows from the slices. `None` if they do not fit what is known of them.
    pub(crate) fn derive(&mut self) -> Option<()> {
        self.by_id = Lookup::of(self.iter().map(|(slot, live)| (live.object.id, slot)))?;
        self.timed =
            self.iter().filter(|(_, live)| live.has_times()).map(|(slot, _)| slot).collect();
        self.slots.fits().then_some(())
    }

    #[inline]
    pub(crate) fn insert(&mut self, live: Live) -> Slot {
        let (id, has_times) = (live.object.id, live.has_times());
        let slot = Slot(self.slots.insert(live));
        if has_times {
            self.timed.insert(slot);
        }
        let before = self.by_id.insert(id, slot);
        assert!(before.is_none(), "{id} is in memory once");
        slot
    }

    #[inline]
    pub(crate) fn remove(&mut self, slot: Slot) -> Live {
        let live = self.slots.remove(slot.0);
        self.by_id.remove(&live.object.id);
        if !self.timed.is_empty() {
            self.timed.remove(&slot);
        }
        live
    }

    pub(crate) fn get(&self, slot: Slot) -> &Live {
        self.slots.get(slot.0)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Live {
        self.slots.get_mut(slot.0)
    }

    /// Delays an object that is here.
    pub(crate) fn set_not_before(&mut self, slot: Slot, at: Wall) {
        self.get_mut(slot).object_mut().not_before = Some(at);
        self.timed.insert(slot);
    }

    /// All objects that are delayed or expire.
    pub(crate) fn timed(&self) -> impl Iterator<Item = (Slot, &Live)> {
        let all = self.timed.iter().map(|slot| (*slot, self.get(*slot)));
        all.filter(|(_, live)| live.has_times())
    }

    pub(crate) fn by_id(&self, id: ObjectId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    /// Everything in memory, in no order that means something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Live)> {
        self.slots.iter().map(|(slot, live)| (Slot(slot), live))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn when_committed(&mut self, record: RecordNumber, slot: Slot, then: Then) {
        if record > self.newest.0 {
            let next = (record, std::mem::take(&mut self.spare));
            let (before, pending) = std::mem::replace(&mut self.newest, next);
            if !pending.is_empty() {
                self.pending.insert(before, pending);
            }
        }
        if record == self.newest.0 {
            self.newest.1.push((slot, then));
        } else {
            self.pending.entry(record).or_default().push((slot, then));
        }
    }

    /// Nothing happens to an object at a commit: it is gone before.
    pub(crate) fn cancel(&mut self, record: RecordNumber, slot: Slot) {
        if record == self.newest.0 {
            self.newest.1.retain(|(s, _)| *s != slot);
        } else if let Some(pending) = self.pending.get_mut(&record) {
            pending.retain(|(s, _)| *s != slot);
        }
    }

    /// What is to happen at the commit of a record, in the order written.
    pub(crate) fn pending_of(&self, record: RecordNumber) -> &[(Slot, Then)] {
        if record == self.newest.0 {
            return &self.newest.1;
        }
        self.pending.get(&record).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn take_pending(&mut self, record: RecordNumber) -> Vec<(Slot, Then)> {
        if record == self.newest.0 {
            return std::mem::take(&mut self.newest.1);
        }
        self.pending.remove(&record).unwrap_or_default()
    }

    /// Takes an empty list back.
    pub(crate) fn give_back(&mut self, pending: Vec<(Slot, Then)>) {
        debug_assert!(pending.is_empty(), "all of it has been done");
        if pending.capacity() > self.spare.capacity() {
            self.spare = pending;
        }
    }
}
