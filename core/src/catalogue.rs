//! What is alive where in the log: per record, which positions stand on which shelf, and per
//! queue, in which order its records are read.
//!
//! This is the index of a backlog larger than memory: its size grows with records and types; of many
//! types in a record it takes four bytes an object. It is derived: a checkpoint holds it, a replay rebuilds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Loc, RecordNumber};
use crate::recording::{SlicedMap, Slices};
use crate::time::Wall;

mod page;
mod positions;
mod rest;

pub(crate) use page::Page;
pub(crate) use positions::Positions;
use rest::Rest;

/// Bytes of an end that stands among its like, until enough of them were carried to know: the least that it
/// can be. It depends on the ids.
const PACKED_END_BYTES: u64 = 17;

/// How many are enough.
const PACKED_ENDS_MIN: u64 = 256;

/// At this many all weigh half from then on: what clients do changes.
const PACKED_ENDS_MAX: u64 = 65_536;

/// A queue: one type and the set of processors that have handled its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct QueueId(pub(crate) u32);

/// A type, numbered by this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TypeId(pub(crate) u32);

/// Why an entry is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Shelf {
    /// The object is in core's memory, whatever its state.
    Memory,
    /// Ready, on disk only.
    Ready(QueueId),
    /// Waiting for its time, on disk only.
    Delayed(TypeId),
    /// Parked, on disk only.
    Parked(TypeId),
    /// Held for an undecided transfer, on disk only.
    Held,
    /// The copy of an object that moved on.
    Shadow,
    /// The end of an object whose id is remembered.
    Ended,
}

/// The kinds of shelves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Ready,
    Delayed,
    Parked,
    Held,
    Shadow,
    Ended,
}

impl Kind {
    pub(crate) const COUNT: usize = Self::Ended as usize + 1;
}

impl Shelf {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Memory => Kind::Memory,
            Self::Ready(_) => Kind::Ready,
            Self::Delayed(_) => Kind::Delayed,
            Self::Parked(_) => Kind::Parked,
            Self::Held => Kind::Held,
            Self::Shadow => Kind::Shadow,
            Self::Ended => Kind::Ended,
        }
    }

    /// Whether what stands there waits for something, in nobody's hands.
    pub(crate) fn is_at_rest(self) -> bool {
        matches!(self, Self::Ready(_) | Self::Delayed(_) | Self::Parked(_))
    }
}

/// Records of so many numbers in a row, by whose pages checkpoints are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group(u64);

/// How many: a change of one page costs the next checkpoint as many.
pub(crate) const GROUP_RECORDS: u64 = 64;

/// What the last checkpoint said of a group, and what was counted there.
#[derive(Debug)]
struct Kept {
    written: Vec<u8>,
    counted: Counted,
}

/// What was counted in pages.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counted {
    /// The share of the records' bytes that live entries hold.
    live_bytes: u64,
    /// Of these, what ends hold.
    end_bytes: u64,
    ends: u64,
}

/// All records with something alive in them, and the record being written.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Catalogue {
    /// The pages of all records but the newest one.
    #[serde(skip)]
    pages: SlicedMap<RecordNumber, Page>,
    /// What each queue has on its shelf, by the queue's number. It follows from the pages.
    #[serde(skip)]
    rests: Vec<Rest>,
    /// What was written of groups in which nothing has changed since.
    #[serde(skip)]
    kept: BTreeMap<Group, Kept>,
    /// The newest record that anything was put into: most of what is put goes there.
    newest: (RecordNumber, Page),
    /// Records whose last shelf was emptied since the last sweep. An entry often goes from one
    /// shelf to another of the same record, so a record is forgotten only at the sweep.
    emptied: Vec<RecordNumber>,
    /// All pages, when they were last counted.
    counted: Counted,
    /// The bytes of ends that were carried of late, and how many of them: a checkpoint keeps them.
    pub(crate) packed_ends: (u64, u64),
}

impl Group {
    fn of(record: RecordNumber) -> Self {
        Self(record.0 / GROUP_RECORDS)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn first(self) -> RecordNumber {
        self.records().start
    }

    /// The first record of the group of that number, if there can be one.
    pub(crate) fn first_of(number: u64) -> Option<RecordNumber> {
        (number < u64::MAX / GROUP_RECORDS).then(|| Self(number).first())
    }

    fn records(self) -> std::ops::Range<RecordNumber> {
        RecordNumber(self.0 * GROUP_RECORDS)..RecordNumber((self.0 + 1) * GROUP_RECORDS)
    }

    /// Says once for each group, with the record that was just taken, that it was filled a while ago.
    pub(crate) fn filled_a_while_ago(taken: RecordNumber) -> Option<Self> {
        let is_first = taken.0.is_multiple_of(GROUP_RECORDS);
        Self::of(taken).0.checked_sub(2).filter(|_| is_first).map(Self)
    }
}

impl Catalogue {
    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 1] {
        [&mut self.pages]
    }

    /// Puts an entry on a shelf. `place` is that of its object in the order of arrival.
    pub(crate) fn put(&mut self, at: Loc, shelf: Shelf, place: Loc) {
        let page = self.page_to_put(at.record);
        let Shelf::Ready(queue) = shelf else { return page.put(at.position, shelf) };
        let (before, now) = page.put_ready(at, queue, place);
        self.rest_mut(queue).change(at.record, before, now);
    }

    /// The rest of a queue on its shelf.
    fn rest_mut(&mut self, queue: QueueId) -> &mut Rest {
        let n = queue.0 as usize;
        if self.rests.len() <= n {
            self.rests.resize_with(n + 1, Rest::default);
        }
        &mut self.rests[n]
    }

    /// Where the first object of a queue stands in a record of its rest.
    fn first_ready(&self, queue: QueueId, record: RecordNumber) -> Loc {
        let first = self.page(record).and_then(|page| page.first(Shelf::Ready(queue)));
        Loc { record, position: first.expect("the rest is in pages") }
    }

    /// The records with objects of a queue on its shelf, in the order in which they came.
    pub(crate) fn rest(&self, queue: QueueId) -> impl Iterator<Item = RecordNumber> {
        let first = move |record| self.first_ready(queue, record);
        self.rests.get(queue.0 as usize).into_iter().flat_map(move |rest| rest.iter(first))
    }

    /// Whether a record has objects of a queue on its shelf.
    pub(crate) fn has_rest(&self, queue: QueueId, record: RecordNumber) -> bool {
        let is_moved = || self.page(record).is_some_and(|page| page.moved(queue).is_some());
        let rest = self.rests.get(queue.0 as usize);
        rest.is_some_and(|rest| rest.has_own(record) || is_moved())
    }

    /// Whether an object of this place came before all of its queue's on the shelf.
    pub(crate) fn is_before_rest(&self, place: Loc, queue: QueueId) -> bool {
        let first = |record| self.first_ready(queue, record);
        self.rests.get(queue.0 as usize).is_none_or(|rest| rest.is_behind(place, first))
    }

    /// A queue has nothing more on its shelf in a record.
    fn leave_rest(&mut self, queue: QueueId, record: RecordNumber) {
        let moved = self.page_mut(record).and_then(|page| page.take_moved(queue));
        self.rest_mut(queue).leave(record, moved);
    }

    /// A record's page, made if there is none.
    fn page_to_put(&mut self, record: RecordNumber) -> &mut Page {
        if record > self.newest.0 {
            let (before, page) = std::mem::replace(&mut self.newest, (record, Page::default()));
            if !page.is_nothing() {
                self.pages.insert(before, page);
            }
        }
        if record == self.newest.0 {
            return &mut self.newest.1;
        }
        self.changes(record);
        self.pages.entry(record).or_default()
    }

    /// A page of a record that is not the newest one is about to change.
    fn changes(&mut self, record: RecordNumber) {
        // Nearly always it is one of the newest, of which nothing has been written.
        if self.kept.last_key_value().is_some_and(|(last, _)| Group::of(record) <= *last) {
            self.kept.remove(&Group::of(record));
        }
    }

    /// The groups in which there is a page, oldest first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Group> {
        let first_from = |record| self.first_from(record).map(Group::of);
        std::iter::successors(first_from(RecordNumber(0)), move |group| {
            first_from(group.records().end)
        })
    }

    /// The pages of a group.
    pub(crate) fn group(&self, group: Group) -> impl Iterator<Item = (&RecordNumber, &Page)> {
        let newest = self.newest().filter(|(record, _)| Group::of(**record) == group);
        self.pages.range(group.records()).chain(newest)
    }

    /// What was written of a group in which nothing has changed since.
    pub(crate) fn kept(&self, group: Group) -> Option<&[u8]> {
        self.kept.get(&group).map(|kept| &kept.written[..])
    }

    /// Whether what is written of a group would be kept: it is not yet, there is something in it, and
    /// it is not that of the newest record, which changes at once.
    pub(crate) fn wants(&self, group: Group) -> bool {
        group < Group::of(self.newest.0)
            && !self.kept.contains_key(&group)
            && self.group(group).next().is_some()
    }

    /// Keeps what is written of a group.
    pub(crate) fn keep(&mut self, group: Group, written: Vec<u8>) {
        let counted = counted(self.group(group));
        self.kept.insert(group, Kept { written, counted });
        // Others are left alone: a change costs something while a snapshot is being written.
        let loose = self.pages.range(group.records()).filter(|(_, page)| page.is_loose());
        let loose: Vec<RecordNumber> = loose.map(|(record, _)| *record).collect();
        for record in loose {
            self.pages.get_mut(&record).expect("just seen").tighten();
        }
    }

    /// The newest record, if there is anything of it.
    fn newest(&self) -> Option<(&RecordNumber, &Page)> {
        let (record, page) = &self.newest;
        (!page.is_nothing()).then_some((record, page))
    }

    fn page_mut(&mut self, record: RecordNumber) -> Option<&mut Page> {
        if record == self.newest.0 {
            return Some(&mut self.newest.1).filter(|page| !page.is_nothing());
        }
        self.changes(record);
        self.pages.get_mut(&record)
    }

    /// Takes an entry off a shelf.
    pub(crate) fn take(&mut self, at: Loc, shelf: Shelf) {
        let page = self.page_mut(at.record).expect("live entries have a page");
        page.take(at.position, shelf);
        let is_empty = page.is_empty();
        if let Shelf::Ready(queue) = shelf
            && page.first(shelf).is_none()
        {
            self.leave_rest(queue, at.record);
        }
        if is_empty {
            self.emptied.push(at.record);
        }
    }

    /// Takes everything off a shelf of a record that is not a queue's.
    pub(crate) fn take_all(&mut self, record: RecordNumber, shelf: Shelf) {
        let Some(page) = self.page_mut(record) else { return };
        if page.take_all(shelf) && page.is_empty() {
            self.emptied.push(record);
        }
    }

    /// Puts all of one queue that is on its shelf in a record into memory. The positions are those of
    /// [`Page::ready_of`].
    pub(crate) fn lift(&mut self, record: RecordNumber, ready: &[(QueueId, u32)]) {
        self.page_mut(record).expect("live entries have a page").lift(ready);
        self.leave_rest(ready[0].0, record);
    }

    /// The shelf an entry stands on, if it is alive.
    pub(crate) fn shelf_of(&self, at: Loc) -> Option<Shelf> {
        self.page(at.record)?.shelf_of(at.position)
    }

    /// A record is closed: its size is known. A record without anything alive is forgotten.
    pub(crate) fn close(&mut self, record: RecordNumber, wall: Wall, bytes: u32, entries: u32) {
        let Some(page) = self.page_mut(record) else { return };
        (page.wall, page.bytes, page.entries) = (wall, bytes.max(1), entries);
        if page.is_empty() {
            self.emptied.push(record);
        }
    }

    /// Forgets closed records in which nothing is alive any more.
    pub(crate) fn sweep(&mut self) {
        while let Some(record) = self.emptied.pop() {
            if !self.page(record).is_some_and(|p| p.is_empty() && p.bytes > 0) {
                continue;
            }
            if record == self.newest.0 {
                self.newest.1 = Page::default();
            } else {
                self.changes(record);
                self.pages.remove(&record);
            }
        }
    }

    pub(crate) fn page(&self, record: RecordNumber) -> Option<&Page> {
        if record == self.newest.0 {
            return self.newest().map(|(_, page)| page);
        }
        self.pages.get(&record)
    }

    /// Takes a page from a checkpoint, with the order of each queue in it where it is not that of the
    /// first position.
    pub(crate) fn restore(
        &mut self,
        record: RecordNumber,
        mut page: Page,
        orders: impl IntoIterator<Item = (QueueId, Loc)>,
    ) {
        orders.into_iter().for_each(|(queue, order)| page.set_moved(queue, order));
        page.tighten();
        self.note_rests(record, &page);
        *self.page_to_put(record) = page;
    }

    /// What follows from the pages: the order of the queues in them. Fails if one is not below `queues`.
    pub(crate) fn derive(&mut self, queues: u32) -> Option<()> {
        let pages = std::mem::take(&mut self.pages);
        let newest = std::mem::take(&mut self.newest);
        for (record, page) in pages.iter().chain([(&newest.0, &newest.1)]) {
            let unknown = |shelf| matches!(shelf, Shelf::Ready(queue) if queue.0 >= queues);
            if page.has(unknown) {
                return None;
            }
            self.note_rests(*record, page);
        }
        (self.pages, self.newest) = (pages, newest);
        Some(())
    }

    /// Panics if what is said of the queues is not what follows from the pages.
    pub(crate) fn check(&self) {
        let mut again = Self::default();
        self.iter().for_each(|(record, page)| again.note_rests(*record, page));
        let len = self.rests.len().max(again.rests.len());
        let rests = |c: &'_ Self| {
            let none = std::iter::repeat_n(Rest::default(), len - c.rests.len());
            c.rests.iter().cloned().chain(none).collect::<Vec<_>>()
        };
        assert_eq!(rests(self), rests(&again), "the queues' records");
    }

    fn note_rests(&mut self, record: RecordNumber, page: &Page) {
        for queue in page.queues() {
            self.rest_mut(queue).change(record, None, page.moved(queue));
        }
    }

    /// All records, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RecordNumber, &Page)> {
        self.pages.iter().chain(self.newest())
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len() + usize::from(self.newest().is_some())
    }

    /// The first record at or behind `from` with something alive.
    pub(crate) fn first_from(&self, from: RecordNumber) -> Option<RecordNumber> {
        // Nearly always nothing stands before it.
        let first = self.pages.first_key_value().map(|(n, _)| *n).filter(|n| *n >= from);
        let in_pages = first.or_else(|| self.pages.range(from..).next().map(|(n, _)| *n));
        in_pages.or_else(|| self.newest().map(|(n, _)| *n).filter(|n| *n >= from))
    }

    /// The share of the log's bytes that live entries hold, as last counted.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.counted.live_bytes
    }

    /// What live entries would take if they were carried, as last counted, roughly: ends stand among
    /// their like then, and nothing else does in their record.
    pub(crate) fn packed_bytes(&self) -> u64 {
        let Counted { live_bytes, end_bytes, ends } = self.counted;
        let one = match self.packed_ends {
            (bytes, count) if count >= PACKED_ENDS_MIN => bytes.div_ceil(count),
            _ => PACKED_END_BYTES,
        };
        live_bytes - end_bytes.saturating_sub(ends * one)
    }

    /// An end was carried, and takes so many bytes now.
    pub(crate) fn note_packed_end(&mut self, bytes: u64) {
        let (all, count) = &mut self.packed_ends;
        (*all, *count) = (*all + bytes, *count + 1);
        if *count >= PACKED_ENDS_MAX {
            (*all, *count) = (*all / 2, *count / 2);
        }
    }

    /// Counts live bytes anew: done now and then, not at each change.
    pub(crate) fn recount(&mut self) {
        let of_group = |group| match self.kept.get(&group) {
            Some(kept) => kept.counted,
            None => counted(self.group(group)),
        };
        self.counted = self.groups().map(of_group).fold(Counted::default(), Counted::and);
    }
}

impl Counted {
    fn of(page: &Page) -> Self {
        let (live, ends) = (page.alive(), page.ends());
        let share = |count| u64::from(page.bytes) * count / u64::from(page.entries.max(1));
        Self { live_bytes: share(live), end_bytes: share(ends), ends }
    }

    fn and(self, other: Self) -> Self {
        Self {
            live_bytes: self.live_bytes + other.live_bytes,
            end_bytes: self.end_bytes + other.end_bytes,
            ends: self.ends + other.ends,
        }
    }
}

fn counted<'a>(pages: impl Iterator<Item = (&'a RecordNumber, &'a Page)>) -> Counted {
    pages.map(|(_, page)| Counted::of(page)).fold(Counted::default(), Counted::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loc(record: u64, position: u32) -> Loc {
        Loc { record: RecordNumber(record), position }
    }

    #[test]
    fn a_closed_record_is_forgotten_with_its_last_live_entry() {
        let mut catalogue = Catalogue::default();
        catalogue.put(loc(1, 0), Shelf::Memory, loc(1, 0));
        catalogue.put(loc(1, 1), Shelf::Memory, loc(1, 1));
        catalogue.close(RecordNumber(1), Wall(5), 100, 2);
        catalogue.take(loc(1, 0), Shelf::Memory);
        assert_eq!(catalogue.shelf_of(loc(1, 1)), Some(Shelf::Memory));
        catalogue.take(loc(1, 1), Shelf::Memory);
        catalogue.put(loc(1, 0), Shelf::Ended, loc(1, 0));
        catalogue.sweep();
        assert_eq!(catalogue.page(RecordNumber(1)).map(|p| p.bytes), Some(100));
        catalogue.take(loc(1, 0), Shelf::Ended);
        catalogue.sweep();
        assert_eq!(catalogue.len(), 0);
    }

    #[test]
    fn records_come_oldest_first_wherever_their_pages_are_kept() {
        let mut catalogue = Catalogue::default();
        for record in [3, 5, 4, 7] {
            catalogue.put(loc(record, 0), Shelf::Memory, loc(record, 0));
        }
        let records = |c: &Catalogue| c.iter().map(|(record, _)| record.0).collect::<Vec<_>>();
        assert_eq!(records(&catalogue), [3, 4, 5, 7]);
        assert_eq!(catalogue.len(), 4);
        let first = |c: &Catalogue, from| c.first_from(RecordNumber(from)).map(|n| n.0);
        assert_eq!(
            [0, 4, 6, 7, 8].map(|n| first(&catalogue, n)),
            [Some(3), Some(4), Some(7), Some(7), None]
        );

        // The newest record is emptied before it is closed, and after.
        catalogue.take(loc(7, 0), Shelf::Memory);
        catalogue.sweep();
        assert_eq!((first(&catalogue, 6), catalogue.shelf_of(loc(7, 0))), (None, None));
        catalogue.put(loc(7, 1), Shelf::Ended, loc(7, 1));
        catalogue.close(RecordNumber(7), Wall(5), 100, 2);
        assert_eq!(catalogue.page(RecordNumber(7)).map(|p| p.bytes), Some(100));
        catalogue.take(loc(7, 1), Shelf::Ended);
        catalogue.sweep();
        assert_eq!(records(&catalogue), [3, 4, 5]);
    }
}
