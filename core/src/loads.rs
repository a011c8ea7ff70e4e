//! Records read back from the log, and who waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::catalogue::QueueId;
use crate::core::Core;
use crate::effect::{Effect, Effects};
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::limits::{LOADS_MAX, QUEUE_LOADS_MAX, TAKE_MAX};
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::queues::{Queue, Reading};
use crate::record::{Entry, How};
use crate::scan::ScanId;
use crate::subscriptions::Group;

/// Why a record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// The next page of a queue.
    Queue(QueueId),
    /// An id whose latest mention should be there.
    Resolve(ObjectId, Loc),
    /// The next step of a scan.
    Scan(ScanId),
    /// What an adopted lane gives to its heir next.
    Estate,
}

/// Records under way.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Loads {
    waiting: BTreeMap<RecordNumber, Vec<Purpose>>,
    /// Pages being read for queues, or read before their turn, and for how many.
    pages: BTreeMap<RecordNumber, usize>,
    /// Queues that want a page and have to wait for another to come, by the record that they wanted
    /// then: the oldest is read first, and whoever has got less far catches up with the others.
    starved: BTreeSet<(RecordNumber, QueueId)>,
    /// Those that have asked since this round began. They have the next one: whoever has an old
    /// backlog does not come before the others again and again (P12).
    next_round: BTreeSet<(RecordNumber, QueueId)>,
}

impl Loads {
    /// The pages that are being read for queues, and for how many each.
    pub(crate) fn pages(&self) -> &BTreeMap<RecordNumber, usize> {
        &self.pages
    }

    /// Whether no queue waits for its turn to read.
    pub(crate) fn nobody_waits(&self) -> bool {
        self.starved.is_empty() && self.next_round.is_empty()
    }

    fn is_full(&self) -> bool {
        self.pages.len() >= LOADS_MAX
    }

    /// A queue waits for a page.
    fn starve(&mut self, record: RecordNumber, queue: QueueId) {
        if !self.starved.contains(&(record, queue)) {
            self.next_round.insert((record, queue));
        }
    }

    /// A queue need not wait for this page any more. Says whether it did.
    fn end_starving(&mut self, record: RecordNumber, queue: QueueId) -> bool {
        self.starved.remove(&(record, queue)) | self.next_round.remove(&(record, queue))
    }

    /// The queue that has its turn, if one more page may be read.
    fn next_starved(&mut self) -> Option<QueueId> {
        if self.is_full() {
            return None;
        }
        if self.starved.is_empty() {
            std::mem::swap(&mut self.starved, &mut self.next_round);
        }
        self.starved.pop_first().map(|(_, queue)| queue)
    }

    /// A page is no longer read for a queue.
    fn end_page(&mut self, record: RecordNumber) {
        let readers = self.pages.get_mut(&record).expect("it is being read");
        *readers -= 1;
        if *readers == 0 {
            self.pages.remove(&record);
        }
    }

    /// The lowest record that is being read.
    pub(crate) fn lowest(&self) -> Option<RecordNumber> {
        self.waiting.first_key_value().map(|(record, _)| *record)
    }
}

impl Core {
    /// Asks for a record. One that is not committed yet is asked for when it is.
    pub(crate) fn load(&mut self, record: RecordNumber, purpose: Purpose, fx: &mut Effects) {
        let waiting = self.loads.waiting.entry(record).or_default();
        waiting.push(purpose);
        if waiting.len() == 1 {
            if self.lane.is_committed(record) {
                fx.push(Effect::Load(record));
            } else {
                self.lane.urge();
            }
        }
    }

    /// Records that were wanted before they were committed can be read now.
    pub(crate) fn load_committed(&mut self, record: RecordNumber, fx: &mut Effects) {
        if self.loads.waiting.contains_key(&record) {
            fx.push(Effect::Load(record));
        }
    }

    pub(crate) fn handle_loaded(&mut self, record: RecordNumber, bytes: &Bytes, fx: &mut Effects) {
        let Some(purposes) = self.loads.waiting.remove(&record) else { return };
        let entries = match crate::record::entries_with(bytes, &mut self.vocabulary) {
            Ok((_, entries)) => entries,
            Err(error) => return fx.push(Effect::Stop(format!("record {record}: {error}"))),
        };
        let mut pages = false;
        for purpose in purposes {
            match purpose {
                Purpose::Queue(queue) => {
                    pages = true;
                    self.on_page(record, queue, bytes.len(), &entries, fx);
                }
                Purpose::Resolve(id, at) => self.on_resolve_loaded(id, at, &entries, fx),
                Purpose::Scan(scan) => self.on_scan_loaded(scan, record, &entries, fx),
                Purpose::Estate => self.on_estate_loaded(&entries, fx),
            }
        }
        if pages {
            self.bring_in_others(record, bytes.len(), &entries, fx);
            while let Some(queue) = self.loads.next_starved() {
                self.want_page(queue, 0, fx);
            }
        }
    }

    /// Asks for a queue's next pages when its front runs low: for one, and for more if subscribers
    /// here and peers (`beyond`) would take more than a window's objects while it is read.
    pub(crate) fn want_page(&mut self, queue: QueueId, beyond: u64, fx: &mut Effects) {
        let window_objects = self.limits.window_objects;
        let q = self.queues.get(queue);
        if q.paged_count == 0 || q.window.len() >= (window_objects / 4).max(1) {
            return;
        }
        let ahead = q.window.len() as u64;
        if ahead > 0 && (self.is_window_full() || ahead >= self.soon(q, beyond)) {
            return;
        }
        let here = self.share_of(q, |group| group.free);
        let windows = here.saturating_add(beyond) / window_objects.max(1) as u64;
        let most = usize::try_from(windows).unwrap_or(usize::MAX).clamp(1, QUEUE_LOADS_MAX);
        while self.queues.get(queue).reading.len() < most {
            let Some(record) = self.next_page(queue) else { return };
            if self.loads.is_full() && !self.loads.pages.contains_key(&record) {
                self.loads.starve(record, queue);
                return;
            }
            *self.loads.pages.entry(record).or_default() += 1;
            self.queues.get_mut(queue).reading.push_back(Reading { record, early: false });
            self.load(record, Purpose::Queue(queue), fx);
        }
    }

    /// The page to read next for a queue: the first one that is not being read already.
    fn next_page(&self, queue: QueueId) -> Option<RecordNumber> {
        let reading = &self.queues.get(queue).reading;
        let is_read = |record: &RecordNumber| reading.iter().any(|it| it.record == *record);
        self.catalogue.rest(queue).find(|record| !is_read(record))
    }

    /// How many objects of a queue its subscribers here and peers may hold at once, and so take before
    /// its next page has come. A queue that read further ahead, because it happened to be the first, would
    /// read alone what others need a moment later.
    fn soon(&self, q: &Queue, beyond: u64) -> u64 {
        let receives = q.groups.iter().any(|group| self.takes.hold(*group));
        let at_least = if receives { TAKE_MAX.into() } else { 1 };
        self.share_of(q, |group| group.credit).saturating_add(beyond).max(at_least)
    }

    /// A queue's share of what its subscribers here have: the queues that wait for the same ones take turns.
    fn share_of(&self, q: &Queue, what: impl Fn(&Group) -> u64) -> u64 {
        let groups = q.groups.iter().map(|group| self.subs.group(*group));
        groups.map(|group| what(group).div_ceil(group.ready.len().max(1) as u64)).sum()
    }

    /// At most half of what may wait in memory does.
    fn has_much_room(&self) -> bool {
        self.memory.waiting_bytes < self.limits.window_bytes / 2
    }

    fn is_window_full(&self) -> bool {
        self.memory.waiting_bytes >= self.limits.window_bytes
    }

    /// A page of a queue has been read. One that overtakes an earlier one is not used: the order of
    /// the objects would be lost. It is read again in its turn.
    fn on_page(
        &mut self,
        record: RecordNumber,
        queue: QueueId,
        size: usize,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let q = self.queues.get_mut(queue);
        let at = q.reading.iter().position(|reading| reading.record == record);
        let at = at.expect("a page is read for a queue that has asked for it");
        if at > 0 && self.catalogue.rest(queue).next() != Some(record) {
            q.reading[at].early = true;
            return;
        }
        q.reading.remove(at);
        self.loads.end_page(record);
        self.loads.end_starving(record, queue);
        let page = self.catalogue.page(record);
        let ready = page.map_or(Vec::new(), |page| page.ready_of(queue));
        if ready.is_empty() {
            // It was written again elsewhere while it was read: the queue asks for that, if it has
            // not left altogether.
            if !self.queues.get(queue).is_empty() {
                self.stir(queue);
            }
        } else {
            self.bring_in(record, &ready, size, entries, fx);
        }
        self.read_early_again(queue, fx);
    }

    /// The page whose turn it is came too early: it is read again, unless what it held has been written
    /// elsewhere or taken since. Then its record may be gone.
    fn read_early_again(&mut self, queue: QueueId, fx: &mut Effects) {
        while let Some(next) = self.queues.get_mut(queue).reading.front_mut()
            && next.early
        {
            next.early = false;
            let record = next.record;
            if self.catalogue.has_rest(queue, record) {
                return self.load(record, Purpose::Queue(queue), fx);
            }
            self.queues.get_mut(queue).reading.pop_front();
            self.loads.end_page(record);
        }
    }

    /// Brings all ready objects of one queue in from a record that has been read.
    fn bring_in(
        &mut self,
        record: RecordNumber,
        ready: &[(QueueId, u32)],
        size: usize,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let queue = ready[0].0;
        let is_object =
            |at: u32| matches!(entries.get(at as usize), Some((_, Entry::Object { .. })));
        if let Some((_, at)) = ready.iter().find(|(_, at)| !is_object(*at)) {
            return fx.push(Effect::Stop(format!("{record}.{at} should be an object")));
        }
        self.catalogue.lift(record, ready);
        self.queues.get_mut(queue).paged_count -= ready.len() as u64;
        let share = ready.len() * 4 < entries.len();
        for (_, position) in ready {
            let (at, entry) = &entries[*position as usize];
            let Entry::Object { place, object, .. } = entry else { unreachable!("just seen") };
            let place = place.unwrap_or(*at);
            let mut object = (**object).clone();
            if share {
                unpin(&mut object, size);
            }
            let slot = self.admit(Arc::new(object), *at, place, queue);
            if self.blamed.remove(at) {
                self.count_failure(slot, crate::time::Span::ZERO, fx);
                // If all of the page are to blame, its subscribers have to ask for the next one.
                self.stir(queue);
            } else {
                self.bring_in_one(slot);
            }
        }
        self.tidy_queue(queue);
    }

    /// An object that comes from its shelf goes to the front of its queue, whatever the bounds: the
    /// page was asked for.
    fn bring_in_one(&mut self, slot: crate::memory::Slot) {
        let live = self.memory.get(slot);
        let (queue, place, weight) = (live.queue, live.place, live.object.footprint());
        if let Some(at) = live.object.expires_at {
            let id = live.object.id;
            self.expiring.insert((at, id));
        }
        self.set_phase(slot, crate::memory::Phase::Ready);
        self.memory.waiting_bytes += weight;
        self.queues.get_mut(queue).window.insert(place, slot);
        self.stir(queue);
    }

    /// Other queues take their share of a record that has been read anyway, if it is their next one: those
    /// that wait for it, and those of which subscribers here could take more, now or before long.
    fn bring_in_others(
        &mut self,
        record: RecordNumber,
        size: usize,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let Some(page) = self.catalogue.page(record) else { return };
        // Of all alike, lest those that come last have it read again.
        let much_room = self.has_much_room();
        for ready in page.ready().chunk_by(|(a, _), (b, _)| a == b) {
            let queue = ready[0].0;
            let starved = self.loads.end_starving(record, queue);
            let q = self.queues.get(queue);
            if self.catalogue.rest(queue).next() == Some(record)
                && q.window.len() < self.limits.window_objects
                && (starved || self.has_use(q, much_room))
            {
                self.bring_in(record, ready, size, entries, fx);
            }
        }
    }

    /// Whether subscribers here can take more of a queue or, while memory has much room, will before long: of what
    /// they hold at once, two times as much may be ahead, so that queues of which one has got a little
    /// further than the other need no page twice.
    fn has_use(&self, q: &Queue, much_room: bool) -> bool {
        let ahead = q.window.len() as u64;
        let before_long =
            much_room && !q.groups.is_empty() && ahead < self.soon(q, 0).saturating_mul(2);
        before_long
            || (!self.leases_are_full() && q.groups.iter().any(|group| self.subs.can_take(*group)))
    }

    /// A failed delivery: the object waits for its backoff, or is parked.
    pub(crate) fn count_failure(
        &mut self,
        slot: crate::memory::Slot,
        at_least: crate::time::Span,
        fx: &mut Effects,
    ) {
        let failed = {
            let live = self.memory.get_mut(slot);
            live.object_mut().failed += 1;
            live.object.failed
        };
        if failed >= self.limits.failed_deliveries {
            return self.park(slot, format!("{failed} failed deliveries").into(), fx);
        }
        let backoff = self.backoff(failed).max(at_least);
        let not_before = self.now.wall + backoff;
        self.memory.set_not_before(slot, not_before);
        self.return_object(slot, How::Returned);
    }
}

/// Copies a payload that would keep a whole record in memory for its own few bytes.
fn unpin(object: &mut Object, record_bytes: usize) {
    if object.entity.payload.len() * 4 < record_bytes {
        let cut = usize::from(planted(Bug::PayloadCut)).min(object.entity.payload.len());
        let whole = object.entity.payload.len() - cut;
        object.entity.payload = Bytes::copy_from_slice(&object.entity.payload[..whole]);
        let headers = Bytes::copy_from_slice(object.entity.headers.as_packed());
        object.entity.headers =
            crate::object::Headers::from_packed(headers).expect("they were well formed");
    }
}
