//! The pages of a checkpoint: of each record that something alive stands in, which positions stand on
//! which shelf.
//!
//! There is a page for each record whose ends are remembered, so there are many, and nearly all are as
//! they were at the last checkpoint. What a group of records says is therefore kept as it was written
//! until one of its pages changes ([`Catalogue::keep`](crate::catalogue::Catalogue::keep)), and new
//! groups are written ahead while records are taken: a checkpoint then copies bytes instead of looking
//! at each page, for which everything else would have to wait.

use std::collections::BTreeMap;

use crate::catalogue::{GROUP_RECORDS, Group, Kind, Page, Positions, QueueId, Shelf};
use crate::core::Core;
use crate::ids::{Loc, RecordNumber};
use crate::memory::Phase;
use crate::record::{BadEntry, Reader, Writer};
use crate::store::RECORD_BYTES_MAX;
use crate::time::Wall;
use crate::transfer::InState;

/// More entries than this have no room in a record: each takes two bytes.
const RECORD_ENTRIES_MAX: u32 = (RECORD_BYTES_MAX / 2) as u32;

/// The positions of one shelf in a record.
struct Set {
    shelf: Shelf,
    /// What [`Page::moved`] says of a queue.
    moved: Option<Loc>,
    positions: Positions,
}

/// An object that stands somewhere for whoever reads the log: where it is, its shelf, its place.
type Standing = (Loc, Shelf, Loc);

impl Core {
    /// Pages with their shelves, in groups. Objects in memory stand as the log has them.
    pub(super) fn encode_pages(&mut self, w: &mut Writer) {
        let mut in_memory = self.shelves_of_memory();
        for standing in self.shelves_of_released() {
            in_memory.entry(standing.0.record).or_default().push(standing);
        }
        let groups: Vec<Group> = self.catalogue.groups().collect();
        w.int(groups.len() as u64);
        for group in groups {
            self.keep_group(group);
            if let Some(kept) = self.catalogue.kept(group) {
                w.fixed(kept);
                continue;
            }
            let mut pages = self.begin_group(w, group);
            for (record, page) in self.catalogue.group(group) {
                match in_memory.get(record) {
                    Some(standing) => pages.write(w, *record, &as_written(page, standing)),
                    None => pages.write(w, *record, page),
                }
            }
        }
    }

    /// Begins to write a group.
    fn begin_group(&self, w: &mut Writer, group: Group) -> Beside {
        w.int(group.number());
        w.int(self.catalogue.group(group).count() as u64);
        Beside { first: group.first(), wall: Wall(0) }
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
        let mut pages = self.begin_group(&mut w, group);
        for (record, page) in self.catalogue.group(group) {
            if !follows_from_page(page) {
                return None;
            }
            pages.write(&mut w, *record, page);
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

    pub(super) fn decode_pages(&mut self, r: &mut Reader, layout: u8) -> Result<(), BadEntry> {
        if layout == 1 {
            for _ in 0..r.count()? {
                let record = RecordNumber(r.int()?);
                let wall = Wall(r.int()?);
                self.decode_page(r, layout, record, wall)?;
            }
            return Ok(());
        }
        for _ in 0..r.count()? {
            let first = Group::first_of(r.int()?).ok_or_else(|| r.bad("a group of records"))?;
            let (mut wall, mut free) = (Wall(0), 0);
            for _ in 0..r.count()? {
                let offset = r.byte()?;
                if !(free..GROUP_RECORDS).contains(&u64::from(offset)) {
                    return Err(r.bad("a record of its group, behind the one before"));
                }
                free = u64::from(offset) + 1;
                let record = RecordNumber(first.0 + u64::from(offset));
                wall = Wall(r.change(wall.0)?);
                self.decode_page(r, layout, record, wall)?;
            }
        }
        Ok(())
    }

    fn decode_page(
        &mut self,
        r: &mut Reader,
        layout: u8,
        record: RecordNumber,
        wall: Wall,
    ) -> Result<(), BadEntry> {
        // The last records before the checkpoint were closed and not yet sealed when it was
        // written, so their sizes are not in it; they are closed all the same.
        let (bytes, entries) = (r.u32()?.max(1), r.u32()?);
        if entries > RECORD_ENTRIES_MAX || self.catalogue.page(record).is_some() {
            return Err(r.bad("a record"));
        }
        let wall = if wall == Wall(0) { self.now.wall } else { wall };
        let (mut page, mut orders) = (Page::new(wall, bytes, entries), Vec::new());
        for _ in 0..r.count()? {
            let Set { shelf, moved, positions } = match layout {
                1 => self.decode_set_of_layout_1(r, record)?,
                _ => self.decode_set(r, record, entries)?,
            };
            let count = positions.len() as u64;
            // Most pages have one shelf.
            let is_taken = |position| page.shelf_of(position).is_some();
            if count == 0 || !page.is_empty() && positions.iter().any(is_taken) {
                return Err(r.bad("a position that stands nowhere else"));
            }
            match shelf {
                Shelf::Ready(queue) => {
                    self.queues.get_mut(queue).paged_count += count;
                    orders.extend(moved.map(|order| (queue, order)));
                }
                Shelf::Delayed(ty) => self.queues.ty_mut(ty).delayed += count,
                Shelf::Parked(ty) => self.queues.ty_mut(ty).parked += count,
                Shelf::Held | Shelf::Shadow | Shelf::Ended | Shelf::Memory => {}
            }
            page.put_all(shelf, positions);
        }
        if !page.is_empty() {
            self.catalogue.restore(record, page, orders);
        }
        Ok(())
    }

    fn decode_shelf(&self, r: &mut Reader, code: u8) -> Result<Shelf, BadEntry> {
        Ok(match code {
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
        })
    }

    fn decode_set(
        &self,
        r: &mut Reader,
        record: RecordNumber,
        entries: u32,
    ) -> Result<Set, BadEntry> {
        let flags = r.byte()?;
        let shelf = self.decode_shelf(r, flags & !(ELSEWHERE | BITMAP))?;
        let moved = match flags & ELSEWHERE != 0 {
            true => {
                let record = RecordNumber(r.change(record.0)?);
                Some(Loc { record, position: r.u32()? })
            }
            false => None,
        };
        let positions = match flags & BITMAP != 0 {
            true => decode_bitmap(r)?,
            false => decode_runs(r, entries)?,
        };
        Ok(Set { shelf, moved, positions })
    }

    fn decode_set_of_layout_1(
        &self,
        r: &mut Reader,
        record: RecordNumber,
    ) -> Result<Set, BadEntry> {
        let code = r.byte()?;
        let shelf = self.decode_shelf(r, code)?;
        let order = r.loc()?;
        let positions = match r.takes(0) {
            true => Positions::One(decode_position(r)?),
            false => decode_bitmap(r)?,
        };
        let first = positions.iter().next().map(|position| Loc { record, position });
        Ok(Set { shelf, moved: Some(order).filter(|_| first != Some(order)), positions })
    }
}

// How a set is told, beside the number of its shelf.
/// Its order is not the first of its positions, and written out.
const ELSEWHERE: u8 = 0x10;
/// Its positions are words of bits. Otherwise they are runs: how far each is from the one before, and
/// how much longer it is than one.
const BITMAP: u8 = 0x20;

/// What the next page of a group is told beside.
struct Beside {
    /// The first record of the group.
    first: RecordNumber,
    /// The time of the page before.
    wall: Wall,
}

impl Beside {
    fn write(&mut self, w: &mut Writer, record: RecordNumber, page: &Page) {
        let offset = record.0 - self.first.0;
        w.byte(u8::try_from(offset).expect("a group is some tens of records"));
        w.change(self.wall.0, page.wall.0);
        self.wall = page.wall;
        w.int(u64::from(page.bytes));
        w.int(u64::from(page.entries));
        let sets = page.sets();
        w.int(sets.len() as u64);
        for (shelf, positions) in sets {
            let moved = match shelf {
                Shelf::Ready(queue) => page.moved(queue),
                _ => None,
            };
            encode_set(w, record, shelf, moved, &positions);
        }
    }
}

/// Whether what a checkpoint says of a record does not depend on what becomes of its objects.
fn follows_from_page(page: &Page) -> bool {
    !page.has_kind([Kind::Memory, Kind::Held])
}

/// A page on which objects stand as whoever reads the log will find them.
fn as_written(page: &Page, standing: &[Standing]) -> Page {
    let mut page = page.clone();
    for (at, shelf, place) in standing {
        page.change(*at, *shelf, *place);
    }
    page
}

fn encode_set(
    w: &mut Writer,
    record: RecordNumber,
    shelf: Shelf,
    moved: Option<Loc>,
    positions: &Positions,
) {
    let runs = positions.runs().count();
    let words = match positions {
        // A run takes two to four bytes.
        Positions::Map(words) if 8 * words.len() < 3 * runs => Some(words),
        _ => None,
    };
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = flag(moved.is_some(), ELSEWHERE) | flag(words.is_some(), BITMAP);
    let (code, number) = match shelf {
        Shelf::Ready(queue) => (1, Some(queue.0)),
        Shelf::Delayed(ty) => (2, Some(ty.0)),
        Shelf::Parked(ty) => (3, Some(ty.0)),
        Shelf::Held => (4, None),
        Shelf::Shadow => (5, None),
        Shelf::Ended => (6, None),
        Shelf::Memory => unreachable!("memory is told by its shelves"),
    };
    w.byte(code | flags);
    number.iter().for_each(|n| w.int(u64::from(*n)));
    if let Some(order) = moved {
        w.change(record.0, order.record.0);
        w.int(u64::from(order.position));
    }
    if let Some(words) = words {
        w.int(words.len() as u64);
        words.iter().for_each(|word| w.fixed(&word.to_le_bytes()));
        return;
    }
    w.int(runs as u64);
    let mut behind = 0;
    for (first, length) in positions.runs() {
        w.int(u64::from(first - behind));
        w.int(u64::from(length - 1));
        behind = first + length;
    }
}

fn decode_position(r: &mut Reader) -> Result<u32, BadEntry> {
    let position = r.u32()?;
    if position < RECORD_ENTRIES_MAX { Ok(position) } else { Err(r.bad("a position")) }
}

fn decode_bitmap(r: &mut Reader) -> Result<Positions, BadEntry> {
    let (count, mut words) = (r.count()?, Vec::new());
    if count > RECORD_ENTRIES_MAX.div_ceil(u64::BITS) as usize {
        return Err(r.bad("positions"));
    }
    for _ in 0..count {
        words.push(u64::from_le_bytes(r.fixed()?));
    }
    Ok(Positions::Map(words))
}

/// Positions in a record of so many entries, or of one whose entries were not counted yet.
fn decode_runs(r: &mut Reader, entries: u32) -> Result<Positions, BadEntry> {
    let entries = if entries == 0 { RECORD_ENTRIES_MAX } else { entries };
    let (mut positions, mut behind) = (Positions::Map(Vec::new()), 0u32);
    let count = r.count()?;
    for _ in 0..count {
        let (gap, more) = (r.u32()?, r.u32()?);
        let first = behind.checked_add(gap);
        let last = first.and_then(|first| first.checked_add(more));
        let (Some(first), Some(last)) = (first, last.filter(|n| *n < entries)) else {
            return Err(r.bad("a position"));
        };
        if (count, more) == (1, 0) {
            return Ok(Positions::One(first));
        }
        (first..=last).for_each(|position| _ = positions.insert(position));
        behind = last + 1;
    }
    Ok(positions)
}
