//! Which ids this lane knows, and where it last wrote of them.
//!
//! The ids of the newest part of the log are kept in memory, except those of objects that are in
//! memory themselves: these are noted when they leave it, which spares most of them one of two
//! notes. A finished part's ids go to the id index on disk; a filter stays behind, so that a new id
//! is known to be new without asking.

use std::collections::{BTreeMap, BTreeSet};

use fastbloom::BloomFilter;
use serde::{Deserialize, Serialize};

use crate::effect::PartIds;
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::planted::{Bug, planted};
use crate::recording::{SlicedMap, Slices};
use crate::time::Wall;

mod noted;

use noted::Noted;

/// False positives of a part's filter: one in ten thousand unknown ids asks the index for nothing.
const FALSE_POSITIVES: f64 = 0.000_1;

/// How many ids of a part that has ended are put into its filter and its list with each record that is
/// written: so many for each id that was noted since, so that it is over when a quarter of the next part
/// is there, and so many at least.
const ENDING_PER_NOTE: usize = 4;
const ENDING_MIN: usize = 64;

/// A fixed seed: filters are the same on every machine.
const FILTER_SEED: u128 = 0x6470_635f_6964_5f66_696c_7465_725f_7631;

/// A finished part of the log, as the id index keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// The part's number.
    pub part: u64,
    /// The first record behind it.
    pub end: RecordNumber,
    /// The lowest id in it.
    pub min: ObjectId,
    /// The highest.
    pub max: ObjectId,
    /// The words of its filter.
    pub filter: Vec<u64>,
    /// How many ids it holds.
    pub count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Part {
    min: ObjectId,
    max: ObjectId,
    #[serde(with = "filter_words")]
    filter: BloomFilter,
}

/// A part that has ended, while its ids are still in memory: they are made ready for the index little by
/// little, because all at once they would hold everything up for as long as some thousand objects take.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    part: u64,
    /// The first record behind it.
    end: RecordNumber,
    /// The ids that are ready.
    #[serde(skip)]
    ids: Vec<(ObjectId, Loc)>,
    /// The lowest and the highest of them, and their filter.
    #[serde(skip)]
    known: Option<Part>,
    /// How many those are.
    ready: usize,
}

/// The ids of a lane.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Remembered {
    #[serde(skip)]
    recent: Noted,
    /// The ids of the part that is ending.
    #[serde(skip)]
    former: Noted,
    ending: Option<Ending>,
    #[serde(skip)]
    parts: SlicedMap<u64, Part>,
    /// The highest id in any of them.
    #[serde(skip)]
    highest: ObjectId,
    /// Records with remembered ends: the latest end in each, and how many. What is counted in
    /// `newest` is not in it yet.
    #[serde(skip)]
    ended: SlicedMap<RecordNumber, (Wall, u64)>,
    /// The same by time, oldest first.
    #[serde(skip)]
    ended_order: BTreeSet<(Wall, RecordNumber)>,
    ended_count: u64,
    /// Ends of one record at one time, which nearly all come in a row.
    newest: Option<(RecordNumber, Wall, u64)>,
}

/// What is known of an id without asking the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its latest mention.
    At(Loc),
    /// Certainly never seen, or forgotten.
    Absent,
    /// Perhaps in these parts, newest first.
    Perhaps(Vec<u64>),
}

impl Remembered {
    /// Nothing yet, of a lane whose parts hold about `part_ids` at most.
    pub(crate) fn new(seed: u64, part_ids: usize) -> Self {
        let [recent, former] = [(); 2].map(|()| Noted::new(seed, part_ids));
        Self { recent, former, ..Self::default() }
    }

    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 4] {
        [self.recent.slices(), self.former.slices(), &mut self.parts, &mut self.ended]
    }

    /// What follows from the slices.
    pub(crate) fn derive(&mut self) {
        self.look_for_highest();
        self.recent.derive();
        self.former.derive();
        if let Some(ending) = &mut self.ending {
            let ready = std::mem::take(&mut ending.ready);
            ending.take_in(&self.former, ready);
        }
        self.ended_order = self.ended.iter().map(|(record, (at, _))| (*at, *record)).collect();
    }

    pub(crate) fn note(&mut self, id: ObjectId, at: Loc) {
        self.recent.insert(id, at);
    }

    pub(crate) fn find(&self, id: ObjectId) -> Found {
        if let Some(at) = self.recent.get(id).or_else(|| self.in_former(id)) {
            return Found::At(*at);
        }
        if id > self.highest {
            // A new one of version 7: it begins with a later time than all that is in the index.
            return Found::Absent;
        }
        // It is the same for all of them.
        let mut hash_once = None;
        let mut is_perhaps_in = |part: &Part| {
            let (min, max, filter) = (part.min, part.max, &part.filter);
            let hash = || filter.source_hash(&id.0);
            id >= min && id <= max && filter.contains_hash(*hash_once.get_or_insert_with(hash))
        };
        let parts: Vec<u64> = self
            .parts
            .iter()
            .rev()
            .filter(|(_, part)| is_perhaps_in(part))
            .filter(|_| !planted(Bug::IdsForgottenWithTheirPart))
            .map(|(number, _)| *number)
            .collect();
        if parts.is_empty() { Found::Absent } else { Found::Perhaps(parts) }
    }

    /// Whether the index has a part.
    pub(crate) fn has(&self, part: u64) -> bool {
        self.parts.contains_key(&part)
    }

    pub(crate) fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Where an id was last mentioned in the part that is ending.
    pub(crate) fn in_former(&self, id: ObjectId) -> Option<&Loc> {
        self.ending.as_ref().and_then(|_| self.former.get(id))
    }

    /// Begins to end a part; the one before must have ended. `live` are objects in memory whose latest
    /// entry stands in the part; what is noted of an id and stands behind that counts.
    pub(crate) fn begin_to_end(
        &mut self,
        part: u64,
        end: RecordNumber,
        live: impl IntoIterator<Item = (ObjectId, Loc)>,
    ) {
        assert!(self.ending.is_none(), "one part ends at a time");
        for (id, at) in live {
            if self.recent.get(id).is_none_or(|noted| *noted < at) {
                self.recent.insert(id, at);
            }
        }
        if self.recent.len() > 0 {
            self.recent.swap(&mut self.former);
            self.ending = Some(Ending { part, end, ids: Vec::new(), known: None, ready: 0 });
        }
    }

    /// Goes on with the part that is ending: a step, or all that is left. Says which part it is when
    /// all of its ids are ready.
    pub(crate) fn go_on_ending(&mut self, all: bool) -> Option<u64> {
        let ending = self.ending.as_mut()?;
        let step = (ENDING_PER_NOTE * self.recent.len()).max(ending.ready + ENDING_MIN);
        ending.take_in(&self.former, if all { self.former.len() } else { step });
        (ending.ready == self.former.len()).then_some(ending.part)
    }

    /// The first record behind the part that is ending.
    pub(crate) fn ending_before(&self) -> Option<RecordNumber> {
        self.ending.as_ref().map(|ending| ending.end)
    }

    /// Ends the part whose ids are ready: they leave memory, a filter stays.
    pub(crate) fn end_part(&mut self) -> PartIds {
        let Ending { part, end, ids, known, ready } = self.ending.take().expect("a part is ending");
        assert_eq!(ready, self.former.len(), "all ids are ready");
        self.former.clear();
        self.add_part(part, end, ids, known.expect("a part that ends holds ids"))
    }

    /// Takes a part whose ids were read from its records.
    pub(crate) fn rebuild_part(
        &mut self,
        part: u64,
        end: RecordNumber,
        mut ids: Vec<(ObjectId, Loc)>,
    ) -> Option<PartIds> {
        if planted(Bug::FirstMentionCounts) {
            ids.reverse();
        }
        let ids = latest(ids);
        let ((min, _), (max, _)) = ids.first().copied().zip(ids.last().copied())?;
        let filter = filter_of(&ids);
        Some(self.add_part(part, end, ids, Part { min, max, filter }))
    }

    fn add_part(
        &mut self,
        number: u64,
        end: RecordNumber,
        ids: Vec<(ObjectId, Loc)>,
        part: Part,
    ) -> PartIds {
        let words = part.filter.as_slice().to_vec();
        self.put_part(number, part);
        PartIds { part: number, end, ids, filter: words }
    }

    /// Takes a part whose ids nobody has read yet: any id may be in it.
    pub(crate) fn restore_unread(&mut self, part: u64) {
        let filter = BloomFilter::from_vec(vec![u64::MAX]).seed(&FILTER_SEED).hashes(1);
        let (min, max) = (ObjectId([0; 16]), ObjectId([u8::MAX; 16]));
        self.put_part(part, Part { min, max, filter });
    }

    /// Takes a part back from the index at a restart.
    pub(crate) fn restore_part(&mut self, info: PartInfo) {
        let count = usize::try_from(info.count.max(1)).expect("parts are bounded");
        let filter = BloomFilter::from_vec(info.filter).seed(&FILTER_SEED).expected_items(count);
        self.put_part(info.part, Part { min: info.min, max: info.max, filter });
    }

    fn put_part(&mut self, number: u64, part: Part) {
        self.parts.insert(number, part);
        self.look_for_highest();
    }

    fn look_for_highest(&mut self) {
        self.highest = self.parts.values().map(|part| part.max).max().unwrap_or_default();
    }

    /// Forgets the parts below `part`: the log is cut there.
    pub(crate) fn drop_below(&mut self, part: u64) {
        if self.ending.take_if(|ending| ending.part < part).is_some() {
            self.former.clear();
        }
        while self.parts.first_key_value().is_some_and(|(number, _)| *number < part) {
            self.parts.pop_first();
        }
        self.look_for_highest();
    }

    /// Counts the end of an object in a record.
    pub(crate) fn note_end(&mut self, at: Wall, record: RecordNumber) {
        match &mut self.newest {
            Some((of, wall, count)) if *of == record && *wall == at => *count += 1,
            _ => {
                self.settle_newest();
                self.newest = Some((record, at, 1));
            }
        }
    }

    /// Counts the newest ends with those before them.
    fn settle_newest(&mut self) {
        if let Some((record, at, count)) = self.newest.take() {
            self.restore_ends(at, record, count);
        }
    }

    /// The oldest record whose ends are past their time, or too many. It is forgotten here; the
    /// caller takes its shelf.
    pub(crate) fn next_forgotten(&mut self, before: Wall, count_max: u64) -> Option<RecordNumber> {
        self.settle_newest();
        let &(at, record) = self.ended_order.first()?;
        if at >= before && self.ended_count <= count_max {
            return None;
        }
        self.drop_ends(record);
        Some(record)
    }

    /// One end of a record is written elsewhere now.
    pub(crate) fn drop_end(&mut self, record: RecordNumber) {
        self.settle_newest();
        let Some((at, count)) = self.ended.get_mut(&record) else { return };
        *count -= 1;
        self.ended_count -= 1;
        if *count == 0 {
            self.ended_order.remove(&(*at, record));
            self.ended.remove(&record);
        }
    }

    /// The ends of a record are forgotten.
    pub(crate) fn drop_ends(&mut self, record: RecordNumber) {
        self.settle_newest();
        if let Some((at, count)) = self.ended.remove(&record) {
            self.ended_order.remove(&(at, record));
            self.ended_count -= count;
        }
    }

    /// Every record with remembered ends, each once.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (RecordNumber, Wall, u64)> {
        let settled = self.ended.iter().map(|(record, (at, count))| (*record, *at, *count));
        let with_newest = move |(record, at, count): (RecordNumber, Wall, u64)| match self.newest {
            Some((newest, wall, more)) if newest == record => (record, at.max(wall), count + more),
            _ => (record, at, count),
        };
        settled.map(with_newest).chain(self.newest_alone())
    }

    /// How many those are.
    pub(crate) fn ends_len(&self) -> usize {
        self.ended.len() + usize::from(self.newest_alone().is_some())
    }

    /// The newest ends, if no others of their record are counted yet.
    fn newest_alone(&self) -> Option<(RecordNumber, Wall, u64)> {
        self.newest.filter(|(record, ..)| !self.ended.contains_key(record))
    }

    pub(crate) fn restore_ends(&mut self, at: Wall, record: RecordNumber, count: u64) {
        let kept = self.ended.entry(record).or_insert((Wall(0), 0));
        // Of the ends of a record nearly all have its time: the order changes with the first one.
        if kept.1 == 0 || kept.0 < at {
            self.ended_order.remove(&(kept.0, record));
            kept.0 = at;
            self.ended_order.insert((at, record));
        }
        kept.1 += count;
        self.ended_count += count;
    }
}

impl Ending {
    /// Makes ids ready, until so many are.
    fn take_in(&mut self, former: &Noted, until: usize) {
        let until = until.min(former.len());
        let Some((first, _)) = former.at(0) else { return };
        let empty = || Part { min: first, max: first, filter: empty_filter(former.len()) };
        let known = self.known.get_or_insert_with(empty);
        self.ids.reserve_exact(former.len() - self.ids.len());
        for (id, at) in (self.ready..until).filter_map(|position| former.at(position)) {
            (known.min, known.max) = (known.min.min(id), known.max.max(id));
            known.filter.insert(&id.0);
            self.ids.push((id, *at));
        }
        self.ready = until.max(self.ready);
    }
}

impl PartIds {
    /// What the index holds of a part, from all mentions of ids in its records, in their order.
    pub fn of(part: u64, end: RecordNumber, mentions: Vec<(ObjectId, Loc)>) -> Self {
        let ids = latest(mentions);
        let filter = filter_of(&ids).as_slice().to_vec();
        Self { part, end, ids, filter }
    }

    /// The same with its ids in order. That takes longer than all else that is done when a part ends, so
    /// whoever writes the index does it, beside the core.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.ids.sort_unstable_by_key(|(id, _)| *id);
        self
    }
}

/// Of several mentions of an id the last one counts.
fn latest(mentions: Vec<(ObjectId, Loc)>) -> Vec<(ObjectId, Loc)> {
    let latest: BTreeMap<ObjectId, Loc> = mentions.into_iter().collect();
    latest.into_iter().collect()
}

fn empty_filter(ids: usize) -> BloomFilter {
    BloomFilter::with_false_pos(FALSE_POSITIVES).seed(&FILTER_SEED).expected_items(ids)
}

fn filter_of(ids: &[(ObjectId, Loc)]) -> BloomFilter {
    let mut filter = empty_filter(ids.len());
    for (id, _) in ids {
        filter.insert(&id.0);
    }
    filter
}

/// A filter as a snapshot holds it: its words, and how many hashes it takes.
mod filter_words {
    use fastbloom::BloomFilter;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::FILTER_SEED;

    pub(super) fn serialize<S: Serializer>(filter: &BloomFilter, to: S) -> Result<S::Ok, S::Error> {
        (filter.num_hashes(), filter.as_slice()).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<BloomFilter, D::Error> {
        let (hashes, words) = <(u32, Vec<u64>)>::deserialize(from)?;
        if words.is_empty() {
            return Err(serde::de::Error::custom("a filter without words"));
        }
        Ok(BloomFilter::from_vec(words).seed(&FILTER_SEED).hashes(hashes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loc(record: u64) -> Loc {
        Loc { record: RecordNumber(record), position: 0 }
    }

    fn id(n: u8) -> ObjectId {
        ObjectId([n; 16])
    }

    #[test]
    fn a_part_holds_the_latest_of_what_is_noted_and_what_is_in_memory() {
        let mut remembered = Remembered::new(1, 100);
        remembered.note(id(3), loc(5));
        remembered.note(id(1), loc(2));
        remembered.note(id(4), loc(7));
        // The first is only in memory, the second came back to it, the third has ended since.
        let live = vec![(id(2), loc(3)), (id(1), loc(6)), (id(4), loc(4))];
        remembered.begin_to_end(1, RecordNumber(9), live);
        assert_eq!(remembered.go_on_ending(false), Some(1));
        let ids = remembered.end_part().sorted().ids;
        assert_eq!(ids, [(id(1), loc(6)), (id(2), loc(3)), (id(3), loc(5)), (id(4), loc(7))]);
        assert_eq!(remembered.find(id(2)), Found::Perhaps(vec![1]));
    }

    #[test]
    fn what_is_noted_is_known_from_a_snapshot() {
        let mut before = Remembered::new(1, 100);
        before.note(id(9), loc(1));
        before.begin_to_end(1, RecordNumber(2), []);
        before.note(id(3), loc(2));
        let fields = postcard::to_stdvec(&before).expect("it can be written");
        let mut after: Remembered = postcard::from_bytes(&fields).expect("it was written");
        for (from, to) in before.slices().into_iter().zip(after.slices()) {
            let mut bytes = Vec::new();
            from.begin();
            assert!(from.step(&mut { usize::MAX }, &mut bytes));
            assert_eq!(to.load(&bytes), Some(()));
        }
        after.derive();
        assert_eq!(after.find(id(9)), Found::At(loc(1)));
        assert_eq!(after.find(id(3)), Found::At(loc(2)));
        assert_eq!([4, 10].map(|n| after.find(id(n))), [const { Found::Absent }; 2]);
    }

    #[test]
    fn the_ids_of_a_part_that_is_ending_are_known_and_get_ready_little_by_little() {
        let numbered = |n: u64| ObjectId(u128::from(n).to_be_bytes());
        let mut remembered = Remembered::new(1, 100);
        (0..1000).for_each(|n| remembered.note(numbered(n), loc(n)));
        remembered.begin_to_end(1, RecordNumber(1000), []);
        assert_eq!(remembered.recent_len(), 0);
        let mut steps = 0;
        while remembered.go_on_ending(false).is_none() {
            // One that is noted again stands in the next part; the part that ends has it as it was.
            remembered.note(numbered(7 + steps), loc(2000));
            steps += 1;
            assert_eq!(remembered.find(numbered(7)), Found::At(loc(2000)));
            assert_eq!(remembered.find(numbered(999)), Found::At(loc(999)));
            assert_eq!(remembered.find(numbered(1000)), Found::Absent);
        }
        assert_eq!(steps, 15, "64 with each record");
        let ids = remembered.end_part().sorted().ids;
        assert!(ids.into_iter().eq((0..1000).map(|n| (numbered(n), loc(n)))));
        assert_eq!(remembered.find(numbered(7)), Found::At(loc(2000)));
        assert_eq!(remembered.find(numbered(999)), Found::Perhaps(vec![1]));

        // A part of which nothing is needed any more is not ended.
        remembered.begin_to_end(2, RecordNumber(2000), []);
        remembered.drop_below(3);
        assert_eq!(remembered.go_on_ending(true), None);
        assert_eq!(remembered.find(numbered(7)), Found::Absent);
    }

    #[test]
    fn an_id_above_all_parts_is_new_and_one_between_them_is_looked_for() {
        let mut remembered = Remembered::new(1, 100);
        for (part, ids) in [(1, [id(5), id(9)]), (2, [id(2), id(6)])] {
            remembered.rebuild_part(part, RecordNumber(9), ids.map(|id| (id, loc(part))).into());
        }
        assert_eq!(remembered.find(id(9)), Found::Perhaps(vec![1]));
        assert_eq!(remembered.find(id(6)), Found::Perhaps(vec![2]));
        assert_eq!([4, 7, 10].map(|n| remembered.find(id(n))), [const { Found::Absent }; 3]);
        remembered.restore_unread(3);
        assert_eq!(remembered.find(id(10)), Found::Perhaps(vec![3]));
        remembered.drop_below(4);
        assert_eq!(remembered.find(id(9)), Found::Absent);
    }

    #[test]
    fn ends_of_one_record_count_together_whenever_they_are_asked_for() {
        let mut remembered = Remembered::new(1, 100);
        let (first, second) = (RecordNumber(1), RecordNumber(2));
        for (at, record) in [(10, first), (10, first), (12, first), (11, second), (11, second)] {
            remembered.note_end(Wall(at), record);
        }
        let ends = |remembered: &Remembered| remembered.ends().collect::<Vec<_>>();
        assert_eq!(ends(&remembered), [(first, Wall(12), 3), (second, Wall(11), 2)]);
        remembered.drop_end(second);
        remembered.note_end(Wall(13), second);
        assert_eq!(ends(&remembered), [(first, Wall(12), 3), (second, Wall(13), 2)]);
        assert_eq!(remembered.next_forgotten(Wall(0), 4), Some(first));
        assert_eq!(remembered.next_forgotten(Wall(0), 4), None);
        assert_eq!(ends(&remembered), [(second, Wall(13), 2)]);
    }
}
