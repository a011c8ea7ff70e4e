//! How an object moves between memory and the shelves, and between its phases.

use std::sync::Arc;

use crate::catalogue::{QueueId, Shelf, TypeId};
use crate::core::Core;
use crate::decision::{Decision, Step};
use crate::effect::{Effect, Effects, Note};
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::lane::entry_bytes;
use crate::memory::{Live, Phase, Slot, Then};
use crate::names::Name;
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::record::{How, Standing};
use crate::resolve::{Known, Stored};
use crate::subscriptions::may_take;
use crate::time::{Mono, Span, Wall};
use crate::timers::Timer;

/// Delays up to this are waited for in memory, exactly; longer ones on a shelf.
const NEAR: Span = Span::secs(64);

/// Milliseconds of the last second before something on disk is due that are looked at together.
const FINE: u64 = 100;

/// Most objects that wait for their time in memory.
const DELAYED_IN_MEMORY_MAX: usize = 16_384;

impl Core {
    /// The queue for a type and a set of handled names.
    pub(crate) fn queue_for(&mut self, ty: TypeId, handled: &[Name]) -> QueueId {
        if let Some(queue) = self.queues.find(ty, handled) {
            return queue;
        }
        let mut groups = self.subs.matching(self.queues.ty(ty));
        groups.retain(|g| may_take(&self.subs.group(*g).key.processor, handled));
        self.queues.create(ty, handled, groups)
    }

    /// An object whose last entry is durable goes on: into its queue, or to wait for its time.
    pub(crate) fn flow(&mut self, slot: Slot) {
        self.watch_expiry(slot);
        match self.memory.get(slot).object.not_before {
            Some(at) if at > self.now.wall => self.delay(slot, at),
            _ => self.make_ready(slot),
        }
    }

    fn watch_expiry(&mut self, slot: Slot) {
        let object = self.object(slot);
        if let (Some(expires), id) = (object.expires_at, object.id) {
            self.expiring.insert((expires, id));
            self.look_at_wall(expires);
        }
    }

    fn is_expired(&self, slot: Slot) -> bool {
        let expires = self.object(slot).expires_at;
        self.clock_is_trusted() && expires.is_some_and(|at| at <= self.now.wall)
    }

    /// Puts an object into its queue: at its place in memory if there is room, else on its shelf.
    pub(crate) fn make_ready(&mut self, slot: Slot) {
        if self.is_expired(slot) {
            // It came back too late for anybody.
            self.end_transit(slot);
            self.leave_credit(self.memory.get(slot).queue);
            let mut fx = Effects::new();
            self.park(slot, "expired".into(), &mut fx);
            return self.later.append(&mut fx);
        }
        self.watch_expiry(slot);
        let live = self.memory.get(slot);
        let (queue, place, weight) = (live.queue, live.place, live.object.footprint());
        let q = self.queues.get(queue);
        let wanted = q.groups.iter().any(|g| self.subs.can_take(*g));
        let room = self.memory.waiting_bytes + weight <= self.limits.window_bytes || wanted;
        if !room || !self.has_room_for(slot) {
            return self.page_out(slot);
        }
        if let Some(expires) = self.object(slot).expires_at {
            // It may have run out while somebody held it.
            self.expiring.insert((expires, self.object(slot).id));
            self.look_at_wall(expires);
        }
        self.set_phase(slot, Phase::Ready);
        let now = self.now.mono;
        let live = self.memory.get_mut(slot);
        (live.since, live.wait_noted) = (now, false);
        self.memory.waiting_bytes += weight;
        self.queues.get_mut(queue).window.insert(place, slot);
        self.stir(queue);
    }

    /// Something in a queue may have somewhere to go.
    pub(crate) fn stir(&mut self, queue: QueueId) {
        let q = self.queues.get(queue);
        let (all, is_told) = (q.groups.len(), q.is_told);
        let told = if planted(Bug::OnlyTheFirstIsTold) { all.min(1) } else { all };
        for i in 0..told {
            let group = self.queues.get(queue).groups[i];
            if !is_told {
                self.subs.group_mut(group).ready.insert(queue);
            }
            if self.subs.can_take(group) {
                self.hungry.note(group);
            }
        }
        if !is_told {
            self.queues.get_mut(queue).is_told = true;
        }
        self.stirred.note(queue);
    }

    /// Takes a ready object out of its queue, into somebody's hands.
    pub(crate) fn take_ready(&mut self, slot: Slot) {
        let live = self.memory.get(slot);
        let (queue, place, weight) = (live.queue, live.place, live.object.footprint());
        let taken = self.queues.get_mut(queue).window.remove(place);
        assert_eq!(taken, Some(slot), "a ready object stands in its queue");
        self.memory.waiting_bytes -= weight;
        self.end_transit(slot);
        self.tidy_queue(queue);
    }

    /// Takes what rests here under an id, in memory or on its shelf, out of the flow and into nobody's
    /// hands. `None` if it is on its way: being written, leased, offered or held.
    pub(crate) fn pick_up(&mut self, id: ObjectId) -> Option<Slot> {
        let slot = match self.known(id) {
            Known::OnDisk(Stored::Alive { at, shelf, place, object, .. }) => {
                let (at, shelf, place, object) = (*at, *shelf, *place, object.clone());
                return shelf.is_at_rest().then(|| self.lift(at, shelf, place, &object));
            }
            Known::InMemory(slot) => slot,
            _ => return None,
        };
        match self.memory.get(slot).phase {
            Phase::Ready => self.take_ready(slot),
            Phase::Delayed(_) => {}
            _ => return None,
        }
        self.set_phase(slot, Phase::Writing);
        Some(slot)
    }

    /// What came for a subscriber will not use its credit now: it waits for its time by this node's
    /// clock, or has expired by it. Peers may be let in in its place.
    fn leave_credit(&mut self, queue: QueueId) {
        if self.mesh.has_links() {
            for i in 0..self.queues.get(queue).groups.len() {
                self.window_may_grow(self.queues.get(queue).groups[i]);
            }
        }
    }

    /// A queue has fewer objects: what waits no longer uses up no window, and a queue that has
    /// become empty is not offered to anybody.
    pub(crate) fn tidy_queue(&mut self, queue: QueueId) {
        self.leave_credit(queue);
        if self.queues.get(queue).is_empty() {
            self.queues.get_mut(queue).is_told = false;
            for i in 0..self.queues.get(queue).groups.len() {
                let group = self.queues.get(queue).groups[i];
                self.subs.group_mut(group).ready.remove(queue);
            }
        }
    }

    /// Whether an object may wait in memory without passing others of its queue. What is in transit may as
    /// long as there is less of it than may be: on its shelf it would not count as that, and peers would be let
    /// in for more.
    fn has_room_for(&self, slot: Slot) -> bool {
        let live = self.memory.get(slot);
        let transit = live.transit.as_ref().map_or(0, |_| self.limits.transit as usize);
        self.queues.get(live.queue).window.len() < self.limits.window_objects.max(transit)
            && self.catalogue.is_before_rest(live.place, live.queue)
    }

    /// An object leaves memory for its queue's shelf. What only memory knew is written first.
    pub(crate) fn page_out(&mut self, slot: Slot) {
        if self.memory.get(slot).dirty {
            self.rewrite(slot, How::Carried);
        }
        self.end_transit(slot);
        let live = self.forget_in_memory(slot);
        self.note_leaving(&live);
        self.catalogue.take(live.at, Shelf::Memory);
        if let Some(at) = live.object.expires_at {
            self.watch_page(at, live.at.record);
        }
        self.shelve_ready(live.queue, live.at, live.place);
        self.stir(live.queue);
    }

    /// Notes the id of an object that leaves memory for its shelf. One whose entry stands in a part that
    /// has ended went into the index with that part.
    fn note_leaving(&mut self, live: &Live) {
        if live.at.record >= self.parts.current().first {
            self.remembered.note(live.object.id, live.at);
        }
    }

    /// Puts an entry on its queue's shelf.
    pub(crate) fn shelve_ready(&mut self, queue: QueueId, at: Loc, place: Loc) {
        self.catalogue.put(at, Shelf::Ready(queue), place);
        self.queues.get_mut(queue).paged_count += 1;
    }

    /// True if one more object may wait for its time in memory.
    pub(crate) fn may_delay_in_memory(&self) -> bool {
        self.memory.len() < DELAYED_IN_MEMORY_MAX + 2 * self.leases.len()
    }

    /// An object waits for its time: in memory if that is near, else on a shelf.
    fn delay(&mut self, slot: Slot, at: Wall) {
        let live = self.memory.get(slot);
        let (id, ty) = (live.object.id, self.queues.get(live.queue).ty);
        self.leave_credit(live.queue);
        if at - self.now.wall <= NEAR && self.may_delay_in_memory() {
            let until = self.mono_of(at);
            self.set_phase(slot, Phase::Delayed(until));
            self.arm(until, Timer::Delay(id));
            return;
        }
        if self.memory.get(slot).dirty {
            self.rewrite(slot, How::Carried);
        }
        let live = self.forget_in_memory(slot);
        self.note_leaving(&live);
        self.catalogue.take(live.at, Shelf::Memory);
        self.catalogue.put(live.at, Shelf::Delayed(ty), live.place);
        self.queues.ty_mut(ty).delayed += 1;
        let first = live.object.expires_at.map_or(at, |e| e.min(at));
        self.watch_page(first, live.at.record);
    }

    pub(crate) fn on_delay_over(&mut self, id: ObjectId) {
        let Some(slot) = self.memory.by_id(id) else { return };
        if matches!(self.memory.get(slot).phase, Phase::Delayed(until) if until <= self.now.mono) {
            self.make_ready(slot);
        }
    }

    /// Looks into a record again when something in it may be due: coarse, never late by more than
    /// a second.
    pub(crate) fn watch_page(&mut self, at: Wall, record: RecordNumber) {
        let away = (at - self.now.wall).0 / 1_000_000;
        let grain = match away {
            0..64 => 1_000,
            64..4_096 => 64_000,
            4_096..262_144 => 4_096_000,
            _ => 262_144_000,
        };
        let coarse = at.0 / grain * grain;
        // In the last second what is due at many moments of it is looked at together.
        let fine = at.0.div_ceil(FINE) * FINE;
        let bucket = if coarse > self.now.wall.0 { coarse } else { fine.max(self.now.wall.0) };
        self.due_pages.insert((Wall(bucket), record));
        if self.started {
            self.look_at_wall(Wall(bucket));
        }
    }

    /// Changes an object's phase and the counts that depend on it.
    pub(crate) fn set_phase(&mut self, slot: Slot, phase: Phase) {
        let live = self.memory.get_mut(slot);
        if live.phase == phase {
            return;
        }
        let before = std::mem::replace(&mut live.phase, phase);
        let ty = self.queues.ty_mut(self.queues.get(live.queue).ty);
        ty.count(&before).into_iter().for_each(|n| *n -= 1);
        ty.count(&live.phase).into_iter().for_each(|n| *n += 1);
        let is_leased = |phase: &Phase| matches!(phase, Phase::Leased(_));
        let (was, is) = (is_leased(&before), is_leased(&live.phase));
        if was != is {
            let weight = live.object.footprint();
            let leased = &mut self.memory.leased_bytes;
            *leased = if is { *leased + weight } else { *leased - weight };
        }
    }

    /// Brings an object into memory in the phase `Writing`.
    pub(crate) fn admit(
        &mut self,
        object: Arc<Object>,
        at: Loc,
        place: Loc,
        queue: QueueId,
    ) -> Slot {
        let since = self.now.mono;
        let ty = self.queues.get(queue).ty;
        self.queues.ty_mut(ty).writing += 1;
        self.memory.insert(Live {
            object,
            at,
            place,
            queue,
            phase: Phase::Writing,
            since,
            dirty: false,
            paused_until: Mono(0),
            wait_noted: false,
            transit: None,
        })
    }

    /// Removes an object from memory; its entry stays where the catalogue has it.
    pub(crate) fn forget_in_memory(&mut self, slot: Slot) -> Live {
        self.end_transit(slot);
        self.set_phase(slot, Phase::Writing);
        let live = self.memory.remove(slot);
        let ty = self.queues.get(live.queue).ty;
        self.queues.ty_mut(ty).writing -= 1;
        if let Some(at) = live.object.expires_at {
            self.expiring.remove(&(at, live.object.id));
        }
        live
    }

    /// The record that ended or parked an object is durable: it leaves memory.
    pub(crate) fn leave(&mut self, slot: Slot) {
        self.forget_in_memory(slot);
    }

    /// Writes an object anew as it stands in memory, still flowing.
    pub(crate) fn rewrite(&mut self, slot: Slot, how: How) -> Loc {
        let live = self.memory.get_mut(slot);
        let (was, place) = (live.at, live.place);
        let standing = match &live.phase {
            Phase::Held(transfer) => Standing::Held(**transfer),
            _ => Standing::Flowing,
        };
        self.lane.reserve(entry_bytes(&live.object));
        let at = self.lane.write_object(how, Some(was), Some(place), &standing, &live.object);
        (live.at, live.dirty) = (at, false);
        self.catalogue.take(was, Shelf::Memory);
        self.catalogue.put(at, Shelf::Memory, place);
        if self.blamed.remove(&was) {
            self.blamed.insert(at);
        }
        at
    }

    /// Rewrites an object that comes back from a subscriber; it flows on when that is durable.
    pub(crate) fn return_object(&mut self, slot: Slot, how: How) {
        self.set_phase(slot, Phase::Writing);
        let at = self.rewrite(slot, how);
        self.memory.when_committed(at.record, slot, Then::FlowAtCommit);
        self.lane.urge();
    }

    /// Parks an object in memory that nobody holds. It leaves memory with the commit.
    pub(crate) fn park(&mut self, slot: Slot, reason: Arc<str>, fx: &mut Effects) {
        self.set_phase(slot, Phase::Writing);
        let live = self.memory.get_mut(slot);
        let (was, place, id) = (live.at, live.place, live.object.id);
        live.object_mut().not_before = None;
        self.lane.reserve(entry_bytes(&live.object) + reason.len());
        let standing = Standing::Parked(reason.clone());
        let at =
            self.lane.write_object(How::Parked, Some(was), Some(place), &standing, &live.object);
        live.at = at;
        let moves = live.object.moves;
        let ty = self.queues.get(live.queue).ty;
        self.catalogue.take(was, Shelf::Memory);
        self.catalogue.put(at, Shelf::Parked(ty), place);
        self.blamed.remove(&was);
        self.remembered.note(id, at);
        self.queues.ty_mut(ty).parked += 1;
        self.memory.when_committed(at.record, slot, Then::Leave);
        self.decide(Decision::new(self.now.wall, Step::Park, Some(reason.clone())), (id, moves));
        fx.push(Effect::Note(Note::Parked(id, reason)));
        self.lane.urge();
    }

    /// When an object that has failed so often may be tried again.
    pub(crate) fn backoff(&mut self, failed: u32) -> Span {
        use rand_core::Rng;
        let doubled = self.limits.backoff_first.times(1 << failed.saturating_sub(1).min(20));
        let span = doubled.0.min(self.limits.backoff_max.0);
        let width = span / 100 * u64::from(self.limits.backoff_jitter_percent);
        let jitter = if width == 0 { 0 } else { self.jitter.next_u64() % (2 * width) };
        Span(span - width + jitter)
    }

    /// Since when the oldest ready object of a queue waits, if that is known without a disk.
    pub(crate) fn waiting_since(&self, queue: QueueId) -> Option<Mono> {
        let slot = self.queues.get(queue).window.first()?;
        Some(self.memory.get(slot).since)
    }
}
