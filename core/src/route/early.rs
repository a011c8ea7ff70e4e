//! Offers that leave before their objects are durable here (design: section 5).
//!
//! The receiver writes HELD while the sender writes the objects themselves, so a fresh object crosses a link for
//! one sync less. Nothing is decided by that: MOVED stands in the sender's log behind what it moves, and
//! whoever reads that log after a crash finds both or answers ABORT. What may not be is that something durable ends in favour of
//! an object that may never have been: such an offer says that it is early, and nothing makes way for what it brings
//! (`hold.rs`). Whoever does not know of early offers gets none.
//!
//! What goes early was pushed by itself, and could go at the commit, too: nobody here takes its type, nothing of its queue waits
//! before it, and it waits for no time. Anything else is left to the commit.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batches, Way};
use crate::catalogue::QueueId;
use crate::core::Core;
use crate::effect::Effects;
use crate::ids::RecordNumber;
use crate::memory::{Slot, Then};
use crate::message::PROTOCOL_EARLY;

impl Core {
    /// A record has left for the store: what it brings is offered to peers meanwhile. What is said goes
    /// out with the next call. Behind others that are under way it does not: their objects come first.
    pub(crate) fn offer_early(&mut self, record: RecordNumber) {
        let is_first = self.lane.is_committed(RecordNumber(record.0 - 1));
        if !self.mesh.is_wanted_by_any() || !is_first {
            return;
        }
        let mut fx = Effects::new();
        for (queue, slots) in self.fresh(record) {
            let ways: Vec<Way> = self.ways(queue).filter(|way| self.takes_early(way)).collect();
            if !ways.is_empty() {
                self.send_early(record, slots, ways, &mut fx);
            }
        }
        self.later.append(&mut fx);
    }

    /// Objects of a record that wait for nothing but its commit, by queue: those before which nothing
    /// else of their queue waits.
    fn fresh(&self, record: RecordNumber) -> BTreeMap<QueueId, Vec<Slot>> {
        let mut fresh = BTreeMap::<QueueId, Vec<Slot>>::new();
        let mut behind_another = BTreeSet::new();
        for (slot, then) in self.memory.pending_of(record) {
            if !matches!(then, Then::Flow | Then::FlowAtCommit) {
                continue;
            }
            let live = self.memory.get(*slot);
            if behind_another.contains(&live.queue) {
                continue;
            }
            let queue = self.queues.get(live.queue);
            let only_waits = *then == Then::Flow && !live.has_times();
            if only_waits && queue.groups.is_empty() && queue.is_empty() {
                fresh.entry(live.queue).or_default().push(*slot);
            } else {
                behind_another.insert(live.queue);
            }
        }
        fresh
    }

    fn takes_early(&self, way: &Way) -> bool {
        self.mesh.link(way.link).is_some_and(|link| link.protocol >= PROTOCOL_EARLY)
    }

    fn send_early(
        &mut self,
        record: RecordNumber,
        slots: Vec<Slot>,
        mut ways: Vec<Way>,
        fx: &mut Effects,
    ) {
        let mut batches = Batches { early: Some(record), ..Batches::default() };
        for slot in slots {
            let (Some(i), candidates) = self.choose(slot, &ways, false) else { break };
            self.send_one(slot, i, &mut ways, candidates, &mut batches, fx);
        }
        self.flush_all(&ways, batches, fx);
    }
}
