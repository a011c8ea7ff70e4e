//! Scans: work that walks over records on disk, one at a time each, in the background: carrying
//! forward, due times, and what people order for many objects at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::{Kind, Shelf, TypeId};
use crate::core::Core;
use crate::decision::{Decision, Step};
use crate::effect::{Answer, Effects};
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::input::{ListState, ReplyTo};
use crate::lane::entry_bytes;
use crate::loads::Purpose;
use crate::memory::Slot;
use crate::names::Pattern;
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::record::{Ending, Entry, How, Standing};
use crate::remember::Found;
use crate::resolve::Waiting;
use crate::time::{Span, Wall};
use crate::view::View;

/// A scan's number.
pub(crate) type ScanId = u64;

/// What a scan does in each record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Writes what is alive again, so that the part can go.
    Carry,
    /// Looks for objects whose time has come.
    Due,
    /// Counts a failure for begun leases of the process before.
    Blame,
    /// Brings parked objects back into the flow.
    Redrive(Chosen),
    /// Ends parked objects.
    Discard(Chosen),
    /// Ends parked objects past their retention.
    OldParked(Wall),
    /// Collects objects for a listing.
    List(Listing),
    /// Brings back shadows.
    Reclaim { to: ReplyTo, places: BTreeSet<Loc>, done: u64 },
}

/// Parked objects that an order is for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chosen {
    pub(crate) to: ReplyTo,
    pub(crate) ty: Option<TypeId>,
    pub(crate) ids: Option<BTreeSet<ObjectId>>,
    pub(crate) done: u64,
}

/// A listing under way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) to: ReplyTo,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) state: Option<ListState>,
    pub(crate) since: Option<Wall>,
    pub(crate) limit: usize,
    pub(crate) found: Vec<View>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub(crate) work: Work,
    records: VecDeque<RecordNumber>,
    /// The record that is being read.
    reading: Option<RecordNumber>,
}

/// All scans under way.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Scans {
    pub(crate) scans: BTreeMap<ScanId, Scan>,
    last: ScanId,
}

impl Scans {
    /// Records in which something is due and that are not looked at yet. A checkpoint has to name
    /// them: nobody would look into them after a restart from it.
    pub(crate) fn due(&self) -> impl Iterator<Item = RecordNumber> {
        let scans = self.scans.values().filter(|s| matches!(s.work, Work::Due));
        scans.flat_map(|s| s.reading.into_iter().chain(s.records.iter().copied()))
    }

    pub(crate) fn is_carrying(&self) -> bool {
        self.scans.values().any(|s| matches!(s.work, Work::Carry))
    }

    pub(crate) fn len(&self) -> usize {
        self.scans.len()
    }

    fn has(&self, is: impl Fn(&Work) -> bool) -> bool {
        self.scans.values().any(|s| is(&s.work))
    }
}

impl Core {
    /// Starts work over records, in order.
    pub(crate) fn start_scan(
        &mut self,
        work: Work,
        records: impl IntoIterator<Item = RecordNumber>,
        fx: &mut Effects,
    ) {
        self.scans.last += 1;
        let id = self.scans.last;
        let scan = Scan { work, records: records.into_iter().collect(), reading: None };
        self.scans.scans.insert(id, scan);
        self.step_scan(id, fx);
    }

    pub(crate) fn step_scan(&mut self, id: ScanId, fx: &mut Effects) {
        let scan = self.scans.scans.get_mut(&id).expect("scans end by themselves");
        let enough = matches!(&scan.work, Work::List(l) if l.found.len() >= l.limit);
        // A record without anything alive may have been cut off the log since the scan began.
        while scan.records.front().is_some_and(|record| self.catalogue.page(*record).is_none()) {
            scan.records.pop_front();
        }
        scan.reading = scan.records.pop_front();
        match scan.reading {
            Some(record) if !enough => self.load(record, Purpose::Scan(id), fx),
            _ => {
                let scan = self.scans.scans.remove(&id).expect("just found");
                self.end_scan(scan.work, fx);
            }
        }
    }

    fn end_scan(&mut self, work: Work, fx: &mut Effects) {
        match work {
            Work::Redrive(chosen) | Work::Discard(chosen) => {
                self.reply_when_durable(chosen.to, Answer::Done(chosen.done), fx);
            }
            Work::Reclaim { to, done, .. } => self.reply_when_durable(to, Answer::Done(done), fx),
            Work::List(mut listing) => {
                listing.found.truncate(listing.limit);
                self.reply(listing.to, Answer::Views(listing.found), fx);
            }
            Work::Carry => self.on_carried(fx),
            Work::Due | Work::Blame | Work::OldParked(_) => {}
        }
    }

    pub(crate) fn on_scan_loaded(
        &mut self,
        id: ScanId,
        record: RecordNumber,
        entries: &[(Loc, Entry)],
        fx: &mut Effects,
    ) {
        let scan = self.scans.scans.get_mut(&id).expect("a scan waits for its record");
        let mut work = std::mem::replace(&mut scan.work, Work::Due);
        if let Work::Reclaim { places, .. } = &work {
            let copies = self.copies_in(entries, places);
            let ids: Vec<ObjectId> = copies.iter().map(|c| c.object.id).collect();
            self.scans.scans.get_mut(&id).expect("nothing ends a scan inside").work = work;
            let missing = self.unresolved(ids);
            return if missing.is_empty() {
                self.reclaim_looked_up(id, copies, fx);
            } else {
                self.look_up(missing, Waiting::Reclaim(id, copies), fx);
            };
        }
        for (at, entry) in entries {
            assert_eq!(at.record, record, "the edge answers what was asked");
            if let Some(shelf) = self.catalogue.shelf_of(*at)
                && !self.estates.is_locked(*at)
            {
                self.scan_entry(&mut work, *at, shelf, entry, fx);
            }
        }
        self.scans.scans.get_mut(&id).expect("nothing ends a scan inside").work = work;
        self.step_scan(id, fx);
    }

    fn scan_entry(
        &mut self,
        work: &mut Work,
        at: Loc,
        shelf: Shelf,
        entry: &Entry,
        fx: &mut Effects,
    ) {
        match (work, entry) {
            (Work::Carry, entry) => self.carry(at, shelf, entry),
            (Work::Due, Entry::Object { place, object, .. }) => {
                self.look_at_due(at, shelf, place.unwrap_or(at), object, fx);
            }
            (Work::Blame, Entry::Object { place, object, .. }) => {
                if let (Shelf::Ready(_), true) = (shelf, self.blamed.remove(&at)) {
                    let slot = self.lift(at, shelf, place.unwrap_or(at), object);
                    self.count_failure(slot, Span::ZERO, fx);
                }
            }
            (Work::Redrive(chosen), Entry::Object { place, object, .. })
                if self.is_chosen(chosen, shelf, object) =>
            {
                chosen.done += 1;
                let slot = self.lift(at, shelf, place.unwrap_or(at), object);
                self.redrive(slot);
            }
            (Work::Discard(chosen), Entry::Object { place, object, .. })
                if self.is_chosen(chosen, shelf, object) =>
            {
                chosen.done += 1;
                let slot = self.lift(at, shelf, place.unwrap_or(at), object);
                self.end(slot, Ending::Discarded("discarded by a person".into()), None);
            }
            (Work::OldParked(before), Entry::Object { place, object, .. })
                if matches!(shelf, Shelf::Parked(_)) && object.pushed_at < *before =>
            {
                let slot = self.lift(at, shelf, place.unwrap_or(at), object);
                self.end(slot, Ending::Discarded("parked_retention is over".into()), None);
            }
            (Work::List(listing), Entry::Object { standing, object, .. })
                if listing.wants(shelf, object) && listing.found.len() < listing.limit =>
            {
                let view = self.view_on_disk(shelf, standing, object);
                listing.found.push(view);
            }
            _ => {}
        }
    }

    fn is_chosen(&self, chosen: &Chosen, shelf: Shelf, object: &Object) -> bool {
        let Shelf::Parked(ty) = shelf else { return false };
        chosen.ty.is_none_or(|t| t == ty)
            && chosen.ids.as_ref().is_none_or(|ids| ids.contains(&object.id))
            && self.memory.by_id(object.id).is_none()
    }

    /// Brings an object from its shelf into memory, in nobody's hands.
    pub(crate) fn lift(&mut self, at: Loc, shelf: Shelf, place: Loc, object: &Object) -> Slot {
        let ty = self.queues.intern(&object.entity.ty);
        let queue = self.queue_for(ty, &object.handled);
        self.unshelve(at, shelf);
        self.catalogue.put(at, Shelf::Memory, place);
        self.admit(Arc::new(object.clone()), at, place, queue)
    }

    /// Takes an entry off its shelf, with the counts that go with it.
    pub(crate) fn unshelve(&mut self, at: Loc, shelf: Shelf) {
        self.catalogue.take(at, shelf);
        match shelf {
            Shelf::Ready(queue) => {
                self.queues.get_mut(queue).paged_count -= 1;
                self.tidy_queue(queue);
            }
            Shelf::Delayed(ty) => self.queues.ty_mut(ty).delayed -= 1,
            Shelf::Parked(ty) => self.queues.ty_mut(ty).parked -= 1,
            Shelf::Memory | Shelf::Held | Shelf::Shadow | Shelf::Ended => {}
        }
    }

    /// A parked object, lifted, flows again with a clean record of failures.
    pub(crate) fn redrive(&mut self, slot: Slot) {
        let object = self.memory.get_mut(slot).object_mut();
        (object.failed, object.not_before) = (0, None);
        if object.expires_at.is_some_and(|at| at <= self.now.wall) {
            object.expires_at = None;
        }
        let (id, moves) = (object.id, object.moves);
        self.decide(Decision::new(self.now.wall, Step::Redrive, None), (id, moves));
        self.return_object(slot, How::Redriven);
    }

    /// Starts to carry the survivors of the records below `end`.
    pub(crate) fn start_carry(&mut self, end: RecordNumber, fx: &mut Effects) {
        let records: Vec<_> =
            self.catalogue.iter().map(|(n, _)| *n).take_while(|n| *n < end).collect();
        self.start_scan(Work::Carry, records, fx);
    }

    /// Writes one live entry again.
    fn carry(&mut self, at: Loc, shelf: Shelf, entry: &Entry) {
        let before = self.lane.uncommitted();
        self.write_again(at, shelf, entry);
        let bytes = self.lane.uncommitted() - before;
        self.parts.note_unasked(bytes);
        if shelf == Shelf::Ended {
            self.catalogue.note_packed_end(bytes);
        }
    }

    fn write_again(&mut self, at: Loc, shelf: Shelf, entry: &Entry) {
        match (shelf, entry) {
            (Shelf::Memory, Entry::Object { object, .. }) => {
                let slot = self.memory.by_id(object.id).expect("memory holds what its shelf says");
                let to = self.rewrite(slot, How::Carried);
                self.after_carry(at, to, object.id);
            }
            (_, Entry::Object { place, standing, object, .. }) => {
                let place = place.unwrap_or(at);
                let standing = match (shelf, standing) {
                    (Shelf::Shadow, Standing::Shadow(t)) => Standing::Shadow(*t),
                    (Shelf::Shadow, _) => match self.transfers.shadow_of(at) {
                        Some(transfer) => Standing::Shadow(transfer),
                        None => return self.unshelve(at, shelf),
                    },
                    // A released object is ready although its entry says held: the shelf is right.
                    (Shelf::Ready(_) | Shelf::Delayed(_), _) => Standing::Flowing,
                    (Shelf::Parked(_), Standing::HeldParked(_, reason)) => {
                        Standing::Parked(reason.clone())
                    }
                    // The release stands before this entry in the log, though it is not durable.
                    (_, Standing::Held(transfer)) if self.transfers.is_releasing(*transfer) => {
                        Standing::Flowing
                    }
                    (_, Standing::HeldParked(transfer, reason))
                        if self.transfers.is_releasing(*transfer) =>
                    {
                        Standing::Parked(reason.clone())
                    }
                    _ => standing.clone(),
                };
                self.lane.reserve(entry_bytes(object));
                let was = Some(at);
                let to = self.lane.write_object(How::Carried, was, Some(place), &standing, object);
                self.reshelve(at, to, shelf, place, object);
                if shelf != Shelf::Shadow {
                    self.remembered.note(object.id, to);
                }
                self.after_carry(at, to, object.id);
            }
            (Shelf::Ended, Entry::End(end)) => {
                let mut end = end.clone();
                (end.was, end.carried_from) = (None, Some(at));
                let (id, wall) = (end.id, end.at);
                self.lane.reserve(2_048);
                let to = self.lane.write(&Entry::End(end));
                self.catalogue.take(at, shelf);
                self.catalogue.put(to, shelf, to);
                self.remembered.drop_end(at.record);
                if !self.transfers.end_carried(at, to) && !self.mentioned_later(id, at) {
                    self.remembered.note(id, to);
                }
                self.remembered.note_end(wall, to.record);
            }
            _ => unreachable!("only objects and ends are alive"),
        }
    }

    /// Whether something alive says more of an id than this entry.
    pub(crate) fn mentioned_later(&self, id: ObjectId, at: Loc) -> bool {
        if self.memory.by_id(id).is_some_and(|slot| self.memory.get(slot).at != at) {
            return true;
        }
        let found = self.remembered.find(id);
        matches!(found, Found::At(other) if other != at && self.catalogue.shelf_of(other).is_some())
    }

    fn reshelve(&mut self, at: Loc, to: Loc, shelf: Shelf, place: Loc, object: &Object) {
        self.unshelve(at, shelf);
        match shelf {
            Shelf::Ready(queue) => {
                // The queue may have been empty for a moment, and offered to nobody.
                self.shelve_ready(queue, to, place);
                self.stir(queue);
            }
            Shelf::Delayed(ty) => {
                self.queues.ty_mut(ty).delayed += 1;
                self.catalogue.put(to, shelf, place);
            }
            Shelf::Parked(ty) => {
                self.queues.ty_mut(ty).parked += 1;
                self.catalogue.put(to, shelf, place);
            }
            _ => {
                self.catalogue.put(to, shelf, place);
            }
        }
        let due = object.not_before.into_iter().chain(object.expires_at).min();
        if let (Some(due), Shelf::Ready(_) | Shelf::Delayed(_)) = (due, shelf) {
            self.watch_page(due, to.record);
        }
    }

    fn after_carry(&mut self, at: Loc, to: Loc, id: ObjectId) {
        self.transfers.carried(at, to);
        if self.blamed.remove(&at) {
            self.blamed.insert(to);
        }
        let begun = self.memory.by_id(id).is_some_and(|slot| match self.memory.get(slot).phase {
            crate::memory::Phase::Leased(n) => self.leases.get(n).is_some_and(|l| l.begun),
            _ => false,
        });
        if begun || self.blamed.contains(&to) {
            self.lane.write(&Entry::Begun(vec![to]));
        }
    }

    /// Looks into the records whose time has come.
    pub(crate) fn scan_due(&mut self, fx: &mut Effects) {
        let mut records = BTreeSet::new();
        while let Some((at, record)) = self.due_pages.first().copied() {
            if at > self.now.wall {
                break;
            }
            self.due_pages.pop_first();
            if self.catalogue.page(record).is_some() {
                records.insert(record);
            }
        }
        if !records.is_empty() {
            self.start_scan(Work::Due, records, fx);
        }
    }

    fn look_at_due(
        &mut self,
        at: Loc,
        shelf: Shelf,
        place: Loc,
        object: &Object,
        fx: &mut Effects,
    ) {
        let (Shelf::Ready(_) | Shelf::Delayed(_)) = shelf else { return };
        let expired = object.expires_at.is_some_and(|t| t <= self.now.wall);
        if expired && !self.clock_is_trusted() {
            self.doubted.insert(at.record);
            return;
        }
        // What would only go back to its shelf stays there until it is due.
        let ahead = if self.may_delay_in_memory() { Span::secs(1) } else { Span::ZERO };
        let soon = self.now.wall + ahead;
        let due = matches!(shelf, Shelf::Delayed(_)) && object.not_before.is_none_or(|t| t <= soon);
        if expired {
            let slot = self.lift(at, shelf, place, object);
            self.park(slot, "expired".into(), fx);
        } else if due {
            let slot = self.lift(at, shelf, place, object);
            self.flow(slot);
        } else {
            let times = object.not_before.into_iter().chain(object.expires_at);
            if let Some(next) = times.filter(|t| *t > self.now.wall).min() {
                self.watch_page(next, at.record);
            }
        }
    }

    /// Objects in memory that expire. Only what is ready or delayed does.
    pub(crate) fn expire_in_memory(&mut self, fx: &mut Effects) {
        use crate::memory::Phase;
        while self.clock_is_trusted() {
            let Some((at, id)) = self.expiring.first().copied() else { break };
            if at > self.now.wall {
                break;
            }
            self.expiring.pop_first();
            let slot = self.memory.by_id(id).expect("what leaves memory does not expire there");
            match self.memory.get(slot).phase {
                Phase::Ready => {
                    self.take_ready(slot);
                    self.park(slot, "expired".into(), fx);
                }
                Phase::Delayed(_) => self.park(slot, "expired".into(), fx),
                Phase::Leased(n) if planted(Bug::LeasedExpires) => {
                    self.end_lease(n, false);
                    self.park(slot, "expired".into(), fx);
                }
                // In somebody's hands: it is looked at when it comes back.
                _ => {}
            }
        }
    }

    /// Counts a failure for objects whose begun leases ended with the process before.
    pub(crate) fn scan_blamed(&mut self) {
        let records: BTreeSet<_> = self.blamed.iter().map(|at| at.record).collect();
        if !records.is_empty() {
            let mut fx = Effects::new();
            self.start_scan(Work::Blame, records, &mut fx);
            self.later.append(&mut fx);
        }
    }

    /// Ends parked objects that have been kept long enough.
    pub(crate) fn scan_old_parked(&mut self, fx: &mut Effects) {
        let Some(retention) = self.limits.parked_retention else { return };
        if !self.clock_is_trusted() || self.scans.has(|w| matches!(w, Work::OldParked(_))) {
            return;
        }
        let before = Wall(self.now.wall.0.saturating_sub(retention.as_millis()));
        let parked = |p: &crate::catalogue::Page| p.wall < before && p.has_kind([Kind::Parked]);
        let records: Vec<_> =
            self.catalogue.iter().filter(|(_, p)| parked(p)).map(|(n, _)| *n).collect();
        if !records.is_empty() {
            self.start_scan(Work::OldParked(before), records, fx);
        }
    }

    /// Records with something on these shelves.
    pub(crate) fn records_with(&self, wanted: impl Fn(Shelf) -> bool) -> Vec<RecordNumber> {
        self.catalogue.iter().filter(|(_, p)| p.has(&wanted)).map(|(n, _)| *n).collect()
    }
}

impl Listing {
    /// Whether an object belongs to the listing.
    pub(crate) fn wants(&self, shelf: Shelf, object: &Object) -> bool {
        let state = match shelf {
            Shelf::Ready(_) => ListState::Ready,
            Shelf::Delayed(_) => ListState::Delayed,
            Shelf::Parked(_) => ListState::Parked,
            Shelf::Held => ListState::Held,
            Shelf::Memory | Shelf::Shadow | Shelf::Ended => return false,
        };
        self.wants_state(state, object)
    }

    /// The same for an object in memory.
    pub(crate) fn wants_state(&self, state: ListState, object: &Object) -> bool {
        self.state.is_none_or(|s| s == state)
            && self.pattern.as_ref().is_none_or(|p| p.matches(&object.entity.ty))
            && self.since.is_none_or(|since| object.pushed_at >= since)
    }
}
