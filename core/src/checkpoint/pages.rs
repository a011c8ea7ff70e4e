//! The pages of a checkpoint: of each record that something alive stands in, which positions stand on
//! which shelf.
//!
//! There is a page for each record whose ends are remembered, so there are many, and nearly all are as
//! they were at the last checkpoint. What a group of records says is therefore kept as it was written
//! until one of its pages changes ([`Catalogue::keep`](crate::catalogue::Catalogue::keep)), and new
//! groups are written ahead while records are taken: a checkpoint then copies bytes instead of looking
//! at each page, for which everything else would have to wait.

use std::collections::BTreeMap;

use crate::catalogue::{Group, Page, Positions, QueueId, Set, Shelf};
use crate::core::Core;
use crate::ids::{Loc, RecordNumber};
use crate::memory::Phase;
use crate::record::{BadEntry, Reader, Writer};
use crate::time::Wall;
use crate::transfer::InState;

/// An object that stands somewhere for whoever reads the log: where it is, its shelf, its place.
type Standing = (Loc, Shelf, Loc);

impl Core {
    /// Pages with their shelves. Objects in memory stand as the log has them.
    pub(super) fn encode_pages(&mut self, w: &mut Writer) {
        w.int(self.catalogue.len() as u64);
        let mut in_memory = self.shelves_of_memory();
        let releasing = self.shelves_of_released();
        for standing in &releasing {
            in_memory.entry(standing.0.record).or_default().push(*standing);
        }
        for group in self.catalogue.groups().collect::<Vec<_>>() {
            self.keep_group(group);
            if let Some(kept) = self.catalogue.kept(group) {
                w.fixed(kept);
                continue;
            }
            for (record, page) in self.catalogue.group(group) {
                encode_head(w, *record, page);
                match follows_from_page(page) {
                    true => encode_sets(w, page.sets.iter().collect()),
                    false => encode_mixed(w, *record, page, &in_memory, &releasing),
                }
            }
        }
    }

    /// A record was taken: the group of records that was filled a while ago, whose objects have mostly
    /// ended, is written for the next checkpoint.
    pub(crate) fn write_pages_ahead(&mut self, taken: RecordNumber) {
        if let Some(group) = Group::filled_a_while_ago(taken) {
            self.keep_group(group);
        }
    }

    /// Writes a group of records to be kept, if it is not, and can be.
    fn keep_group(&mut self, group: Group) {
        if self.catalogue.wants(group)
            && let Some(written) = self.write_group(group)
        {
            self.catalogue.keep(group, written);
        }
    }

    /// What a checkpoint says of a group of records, if it follows from their pages alone.
    fn write_group(&self, group: Group) -> Option<Vec<u8>> {
        let mut w = Writer::default();
        for (record, page) in self.catalogue.group(group) {
            if !follows_from_page(page) {
                return None;
            }
            encode_head(&mut w, *record, page);
            encode_sets(&mut w, page.sets.iter().collect());
        }
        Some(w.as_slice().to_vec())
    }

    /// Panics if what is kept of a group is not what would be written now.
    pub(crate) fn check_pages(&self) {
        for group in self.catalogue.groups() {
            if let Some(kept) = self.catalogue.kept(group) {
                assert!(self.write_group(group).is_some_and(|now| now == kept), "{group:?}");
            }
        }
    }

    /// Objects on disk whose release has been written and not committed: they are ready for
    /// whoever reads the release, and a checkpoint stands behind it.
    fn shelves_of_released(&self) -> Vec<Standing> {
        let releasing = self.transfers.incoming.values();
        let releasing = releasing.filter(|i| matches!(i.state, InState::Releasing(_)));
        releasing
            .flat_map(|i| &i.items)
            .filter(|held| self.catalogue.shelf_of(held.at) == Some(Shelf::Held))
            .map(|held| (held.at, self.shelf_after(held), held.place))
            .collect()
    }

    /// Where the objects in memory would stand if the process ended now.
    fn shelves_of_memory(&self) -> BTreeMap<RecordNumber, Vec<Standing>> {
        let mut shelves = BTreeMap::<_, Vec<_>>::new();
        for (_, live) in self.memory.iter() {
            if self.catalogue.shelf_of(live.at) != Some(Shelf::Memory) {
                continue; // It has ended, or is parked: its shelf is its own.
            }
            let later = live.object.not_before.is_some_and(|t| t > self.now.wall);
            let shelf = match live.phase {
                Phase::Held(_) => Shelf::Held,
                _ if later => Shelf::Delayed(self.queues.get(live.queue).ty),
                _ => Shelf::Ready(live.queue),
            };
            shelves.entry(live.at.record).or_default().push((live.at, shelf, live.place));
        }
        shelves
    }

    pub(super) fn decode_pages(&mut self, r: &mut Reader) -> Result<(), BadEntry> {
        for _ in 0..r.count()? {
            let record = RecordNumber(r.int()?);
            // The last records before the checkpoint were closed and not yet sealed when it was
            // written, so their sizes are not in it; they are closed all the same.
            let (wall, bytes, entries) = (Wall(r.int()?), r.u32()?.max(1), r.u32()?);
            let wall = if wall == Wall(0) { self.now.wall } else { wall };
            let mut page = Page { wall, bytes, entries, sets: Vec::new() };
            for _ in 0..r.count()? {
                let set = self.decode_set(r)?;
                let count = set.positions.len() as u64;
                match set.shelf {
                    Shelf::Ready(queue) => {
                        let q = self.queues.get_mut(queue);
                        q.paged.insert((set.order, record));
                        q.paged_count += count;
                    }
                    Shelf::Delayed(ty) => self.queues.ty_mut(ty).delayed += count,
                    Shelf::Parked(ty) => self.queues.ty_mut(ty).parked += count,
                    Shelf::Held | Shelf::Shadow | Shelf::Ended | Shelf::Memory => {}
                }
                page.sets.push(set);
            }
            if page.bytes == 0 {
                // The record was being written with the checkpoint: its size was not known yet.
                let bytes = u32::try_from(self.limits.record_target_bytes).unwrap_or(u32::MAX);
                let entries = u32::try_from(page.live().max(1)).unwrap_or(u32::MAX);
                (page.wall, page.bytes, page.entries) = (self.now.wall, bytes, entries);
            }
            if !page.sets.is_empty() {
                self.catalogue.insert(record, page);
            }
        }
        Ok(())
    }

    fn decode_set(&self, r: &mut Reader) -> Result<Set, BadEntry> {
        let shelf = match r.byte()? {
            1 => {
                let queue = r.u32()?;
                if queue as usize >= self.queues.len() {
                    return Err(r.bad("a queue's number"));
                }
                Shelf::Ready(QueueId(queue))
            }
            2 => Shelf::Delayed(self.type_number(r)?),
            3 => Shelf::Parked(self.type_number(r)?),
            4 => Shelf::Held,
            5 => Shelf::Shadow,
            6 => Shelf::Ended,
            _ => return Err(r.bad("a shelf")),
        };
        let order = r.loc()?;
        let words = r.count()?;
        let positions = if words == 0 {
            Positions::One(r.u32()?)
        } else {
            let mut map = Vec::with_capacity(words);
            for _ in 0..words {
                map.push(u64::from_le_bytes(r.fixed()?));
            }
            Positions::Map(map)
        };
        Ok(Set { shelf, order, positions })
    }
}

/// Whether what a checkpoint says of a record does not depend on what becomes of its objects.
fn follows_from_page(page: &Page) -> bool {
    !page.sets.iter().any(|set| matches!(set.shelf, Shelf::Memory | Shelf::Held))
}

fn encode_head(w: &mut Writer, record: RecordNumber, page: &Page) {
    w.int(record.0);
    w.int(page.wall.0);
    w.int(u64::from(page.bytes));
    w.int(u64::from(page.entries));
}

/// The shelves of a page on which objects in memory stand, or some that are just being released.
fn encode_mixed(
    w: &mut Writer,
    record: RecordNumber,
    page: &Page,
    in_memory: &BTreeMap<RecordNumber, Vec<Standing>>,
    releasing: &[Standing],
) {
    let mut sets: Vec<Set> = Vec::new();
    for set in page.sets.iter().filter(|s| s.shelf != Shelf::Memory) {
        let mut set = set.clone();
        if set.shelf == Shelf::Held {
            for (at, ..) in releasing.iter().filter(|(at, ..)| at.record == record) {
                set.positions.remove(at.position);
            }
        }
        if !set.positions.is_empty() {
            sets.push(set);
        }
    }
    for (at, shelf, place) in in_memory.get(&record).into_iter().flatten() {
        add(&mut sets, *at, *shelf, *place);
    }
    encode_sets(w, sets.iter().collect());
}

fn encode_sets(w: &mut Writer, mut sets: Vec<&Set>) {
    sets.sort_by_key(|set| set.shelf);
    w.int(sets.len() as u64);
    sets.into_iter().for_each(|set| encode_set(w, set));
}

fn add(sets: &mut Vec<Set>, at: Loc, shelf: Shelf, place: Loc) {
    match sets.iter_mut().find(|s| s.shelf == shelf) {
        Some(set) => {
            set.positions.insert(at.position);
            set.order = set.order.min(place);
        }
        None => sets.push(Set { shelf, order: place, positions: Positions::One(at.position) }),
    }
}

fn encode_set(w: &mut Writer, set: &Set) {
    match set.shelf {
        Shelf::Ready(queue) => {
            w.byte(1);
            w.int(u64::from(queue.0));
        }
        Shelf::Delayed(ty) => {
            w.byte(2);
            w.int(u64::from(ty.0));
        }
        Shelf::Parked(ty) => {
            w.byte(3);
            w.int(u64::from(ty.0));
        }
        Shelf::Held => w.byte(4),
        Shelf::Shadow => w.byte(5),
        Shelf::Ended => w.byte(6),
        Shelf::Memory => unreachable!("memory is told by its shelves"),
    }
    w.loc(set.order);
    match &set.positions {
        Positions::One(position) => {
            w.int(0);
            w.int(u64::from(*position));
        }
        Positions::Map(words) => {
            w.int(words.len() as u64);
            words.iter().for_each(|word| w.fixed(&word.to_le_bytes()));
        }
    }
}
