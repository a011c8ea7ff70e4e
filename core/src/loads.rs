//! Records read back from the log, and who waits for them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::catalogue::{QueueId, Shelf};
use crate::core::Core;
use crate::effect::{Effect, Effects};
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::limits::{LOADS_MAX, QUEUE_LOADS_MAX};
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::queues::Reading;
use crate::record::{Entry, How};
use crate::scan::ScanId;

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
    /// Pages being read for queues.
    pages: usize,
    /// Queues that want a page and have to wait for another to come.
    starved: BTreeSet<QueueId>,
}

impl Loads {
    /// How many pages are being read for queues.
    pub(crate) fn pages(&self) -> usize {
        self.pages
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
        let entries = match crate::record::entries(bytes) {
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
            for queue in std::mem::take(&mut self.loads.starved) {
                self.want_page(queue, 0, fx);
            }
        }
    }

    /// Asks for a queue's next pages when its front runs low: for one, and for more if subscribers
    /// here and peers (`beyond`) would take more than a window's objects while it is read.
    pub(crate) fn want_page(&mut self, queue: QueueId, beyond: u64, fx: &mut Effects) {
        let window_objects = self.limits.window_objects;
        let q = self.queues.get(queue);
        let full = self.memory.waiting_bytes >= self.limits.window_bytes && !q.window.is_empty();
        if q.window.len() >= (window_objects / 4).max(1) || full || q.paged.is_empty() {
            return;
        }
        let here: u64 = q.groups.iter().map(|group| self.subs.group(*group).free).sum();
        let windows = here.saturating_add(beyond) / window_objects.max(1) as u64;
        let most = usize::try_from(windows).unwrap_or(usize::MAX).clamp(1, QUEUE_LOADS_MAX);
        while self.queues.get(queue).reading.len() < most {
            let Some(record) = self.queues.get(queue).next_page() else { return };
            if self.loads.pages >= LOADS_MAX {
                self.loads.starved.insert(queue);
                return;
            }
            self.loads.pages += 1;
            self.queues.get_mut(queue).reading.push_back(Reading { record, early: false });
            self.load(record, Purpose::Queue(queue), fx);
        }
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
        if at > 0 && q.paged_records().next() != Some(record) {
            q.reading[at].early = true;
            return;
        }
        q.reading.remove(at);
        self.loads.pages -= 1;
        self.bring_in(record, queue, size, entries, fx);
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
            if self.queues.get(queue).paged_records().any(|paged| paged == record) {
                return self.load(record, Purpose::Queue(queue), fx);
            }
            self.queues.get_mut(queue).reading.pop_front();
            self.loads.pages -= 1;
        }
    }

    /// Brings the ready objects of one queue in from a record that has been read.
    fn bring_in(
        &mut self,
        record: RecordNumber,
        queue: QueueId,
        size: usize,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let Some(set) = self.catalogue.take_set(record, Shelf::Ready(queue)) else {
            // It was written again elsewhere while it was read: the queue asks for that, if it has
            // not left altogether.
            if !self.queues.get(queue).is_empty() {
                self.stir(queue);
            }
            return;
        };
        let q = self.queues.get_mut(queue);
        q.paged.remove(&(set.order, record));
        q.paged_count -= set.positions.len() as u64;
        let share = set.positions.len() * 4 < entries.len();
        for position in set.positions.iter() {
            let (at, entry) = &entries[position as usize];
            let Entry::Object { place, object, .. } = entry else {
                return fx.push(Effect::Stop(format!("{at} should be an object")));
            };
            let place = place.unwrap_or(*at);
            self.catalogue.put(*at, Shelf::Memory, place);
            let mut object = (**object).clone();
            if share {
                unpin(&mut object, size);
            }
            let slot = self.admit(object, *at, place, queue);
            if self.blamed.remove(at) {
                self.count_failure(slot, crate::time::Span::ZERO, fx);
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

    /// Other queues with demand take their share of a record that has been read anyway.
    fn bring_in_others(
        &mut self,
        record: RecordNumber,
        size: usize,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let Some(page) = self.catalogue.page(record) else { return };
        let queues: Vec<QueueId> = page
            .sets
            .iter()
            .filter_map(|s| match s.shelf {
                Shelf::Ready(queue) => Some((queue, s.order)),
                _ => None,
            })
            .filter(|(queue, order)| {
                let q = self.queues.get(*queue);
                let next = q.paged.first() == Some(&(*order, record));
                next && q.window.len() < self.limits.window_objects
                    && q.groups.iter().any(|g| self.subs.can_take(*g))
            })
            .map(|(queue, _)| queue)
            .collect();
        for queue in queues {
            self.bring_in(record, queue, size, entries, fx);
        }
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
        self.memory.get_mut(slot).object_mut().not_before = Some(not_before);
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
