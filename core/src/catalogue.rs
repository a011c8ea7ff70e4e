//! What is alive where in the log: per record, which positions stand on which shelf.
//!
//! This is the index of a backlog larger than memory: its size grows with records and types, not
//! with objects. It is derived: a checkpoint holds it, a replay rebuilds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Loc, RecordNumber};
use crate::recording::{SlicedMap, Slices};
use crate::time::Wall;

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

impl Shelf {
    /// Whether what stands there waits for something, in nobody's hands.
    pub(crate) fn is_at_rest(self) -> bool {
        matches!(self, Self::Ready(_) | Self::Delayed(_) | Self::Parked(_))
    }
}

/// The positions of one shelf in one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Set {
    pub(crate) shelf: Shelf,
    /// The lowest place of its objects in the order of arrival.
    pub(crate) order: Loc,
    pub(crate) positions: Positions,
}

/// One record as the catalogue knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) wall: Wall,
    pub(crate) bytes: u32,
    pub(crate) entries: u32,
    pub(crate) sets: Vec<Set>,
}

/// A set of positions: one, or a bitmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Positions {
    One(u32),
    Map(Vec<u64>),
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

impl Positions {
    pub(crate) fn insert(&mut self, position: u32) -> bool {
        if let Self::One(one) = *self {
            if one == position {
                return false;
            }
            let mut map = Self::Map(Vec::new());
            map.insert(one);
            *self = map;
        }
        let Self::Map(words) = self else { unreachable!("just made a map") };
        let (word, bit) = (position as usize / 64, 1u64 << (position % 64));
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let fresh = words[word] & bit == 0;
        words[word] |= bit;
        fresh
    }

    pub(crate) fn remove(&mut self, position: u32) -> bool {
        match self {
            Self::One(one) if *one == position => {
                *self = Self::Map(Vec::new());
                true
            }
            Self::One(_) => false,
            Self::Map(words) => {
                let Some(word) = words.get_mut(position as usize / 64) else { return false };
                let bit = 1u64 << (position % 64);
                let was = *word & bit != 0;
                *word &= !bit;
                was
            }
        }
    }

    pub(crate) fn contains(&self, position: u32) -> bool {
        match self {
            Self::One(one) => *one == position,
            Self::Map(words) => {
                words.get(position as usize / 64).is_some_and(|w| w & (1 << (position % 64)) != 0)
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Map(words) => words.iter().map(|w| w.count_ones() as usize).sum(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Map(words) => words.iter().all(|w| *w == 0),
        }
    }

    /// Those that follow each other: the first of them, and how many.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut positions = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = positions.next()?;
            let mut length = 1;
            while positions.next_if_eq(&(first + length)).is_some() {
                length += 1;
            }
            Some((first, length))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (one, words): (Option<u32>, &[u64]) = match self {
            Self::One(one) => (Some(*one), &[]),
            Self::Map(words) => (None, words),
        };
        one.into_iter().chain(words.iter().enumerate().flat_map(|(i, word)| {
            (0..64u32).filter(move |b| word & (1 << b) != 0).map(move |b| i as u32 * 64 + b)
        }))
    }
}

impl Page {
    fn counted(&self) -> Counted {
        let (mut live, mut ends) = (0, 0);
        for set in &self.sets {
            let count = set.positions.len() as u64;
            live += count;
            ends += if set.shelf == Shelf::Ended { count } else { 0 };
        }
        let share = |count| u64::from(self.bytes) * count / u64::from(self.entries.max(1));
        Counted { live_bytes: share(live), end_bytes: share(ends), ends }
    }

    /// Whether nothing was ever put into it.
    fn is_nothing(&self) -> bool {
        self.sets.is_empty() && self.bytes == 0
    }

    pub(crate) fn set(&self, shelf: Shelf) -> Option<&Set> {
        self.sets.iter().find(|s| s.shelf == shelf)
    }
}

impl Catalogue {
    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 1] {
        [&mut self.pages]
    }

    /// Puts an entry on a shelf. Says whether it is the first of that shelf in its record.
    pub(crate) fn put(&mut self, at: Loc, shelf: Shelf, place: Loc) -> bool {
        let page = self.page_to_put(at.record);
        if let Some(set) = page.sets.iter_mut().find(|s| s.shelf == shelf) {
            let fresh = set.positions.insert(at.position);
            assert!(fresh, "{at} is on {shelf:?} already");
            set.order = set.order.min(place);
            return false;
        }
        page.sets.push(Set { shelf, order: place, positions: Positions::One(at.position) });
        true
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

    /// Takes an entry off a shelf. Says whether the shelf is empty in that record now.
    pub(crate) fn take(&mut self, at: Loc, shelf: Shelf) -> bool {
        let page = self.page_mut(at.record).expect("live entries have a page");
        let i = page.sets.iter().position(|s| s.shelf == shelf);
        let i = i.unwrap_or_else(|| panic!("{at} is not on {shelf:?}"));
        let was = page.sets[i].positions.remove(at.position);
        assert!(was, "{at} is not on {shelf:?}");
        if !page.sets[i].positions.is_empty() {
            return false;
        }
        page.sets.swap_remove(i);
        if page.sets.is_empty() {
            self.emptied.push(at.record);
        }
        true
    }

    /// Takes a whole shelf off a record.
    pub(crate) fn take_set(&mut self, record: RecordNumber, shelf: Shelf) -> Option<Set> {
        let page = self.page_mut(record)?;
        let i = page.sets.iter().position(|s| s.shelf == shelf)?;
        let set = page.sets.swap_remove(i);
        if page.sets.is_empty() {
            self.emptied.push(record);
        }
        Some(set)
    }

    /// The shelf an entry stands on, if it is alive.
    pub(crate) fn shelf_of(&self, at: Loc) -> Option<Shelf> {
        let page = self.page(at.record)?;
        page.sets.iter().find(|s| s.positions.contains(at.position)).map(|s| s.shelf)
    }

    /// A record is closed: its size is known. A record without anything alive is forgotten.
    pub(crate) fn close(&mut self, record: RecordNumber, wall: Wall, bytes: u32, entries: u32) {
        let Some(page) = self.page_mut(record) else { return };
        (page.wall, page.bytes, page.entries) = (wall, bytes.max(1), entries);
        if page.sets.is_empty() {
            self.emptied.push(record);
        }
    }

    /// Forgets closed records in which nothing is alive any more.
    pub(crate) fn sweep(&mut self) {
        while let Some(record) = self.emptied.pop() {
            if !self.page(record).is_some_and(|p| p.sets.is_empty() && p.bytes > 0) {
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

    pub(crate) fn insert(&mut self, record: RecordNumber, page: Page) {
        *self.page_to_put(record) = page;
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
    fn and(self, other: Self) -> Self {
        Self {
            live_bytes: self.live_bytes + other.live_bytes,
            end_bytes: self.end_bytes + other.end_bytes,
            ends: self.ends + other.ends,
        }
    }
}

fn counted<'a>(pages: impl Iterator<Item = (&'a RecordNumber, &'a Page)>) -> Counted {
    pages.map(|(_, page)| page.counted()).fold(Counted::default(), Counted::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loc(record: u64, position: u32) -> Loc {
        Loc { record: RecordNumber(record), position }
    }

    #[test]
    fn positions_behave_like_a_set() {
        let mut positions = Positions::One(70);
        for p in [3, 200, 70, 3] {
            positions.insert(p);
        }
        assert_eq!(positions.iter().collect::<Vec<_>>(), [3, 70, 200]);
        assert!(positions.remove(70) && !positions.remove(70));
        assert_eq!(positions.len(), 2);
        assert!(positions.remove(3) && positions.remove(200) && positions.is_empty());
    }

    #[test]
    fn a_closed_record_is_forgotten_with_its_last_live_entry() {
        let mut catalogue = Catalogue::default();
        assert!(catalogue.put(loc(1, 0), Shelf::Memory, loc(1, 0)));
        assert!(!catalogue.put(loc(1, 1), Shelf::Memory, loc(1, 1)));
        catalogue.close(RecordNumber(1), Wall(5), 100, 2);
        assert!(!catalogue.take(loc(1, 0), Shelf::Memory));
        assert_eq!(catalogue.shelf_of(loc(1, 1)), Some(Shelf::Memory));
        assert!(catalogue.take(loc(1, 1), Shelf::Memory));
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
