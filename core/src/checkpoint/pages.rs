//! The pages of a checkpoint: of each record that something alive stands in, which positions stand on
//! which shelf.
//!
//! There is a page for each record whose ends are remembered, so there are many, and nearly all are as
//! they were at the last checkpoint. What a group of records says is therefore kept as it was written
//! until one of its pages changes ([`Catalogue::keep`](crate::catalogue::Catalogue::keep)), and new
//! groups are written ahead while records are taken: a checkpoint then copies bytes instead of looking
//! at each page, for which everything else would have to wait.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::catalogue::{GROUP_RECORDS, Group, Kind, Page, Positions, QueueId, Shelf, TypeId};
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
        let mut page = Page::new(wall, bytes, entries);
        let form = if layout < 3 { BY_SHELF } else { r.byte()? };
        let orders = match form {
            BY_SHELF => self.decode_by_shelf(r, (layout, record), &mut page)?,
            BY_POSITION => self.decode_by_position(r, record, &mut page)?,
            _ => return Err(r.bad("how a page is told")),
        };
        if !page.is_empty() {
            self.catalogue.restore(record, page, orders);
        }
        Ok(())
    }

    fn decode_by_shelf(
        &mut self,
        r: &mut Reader,
        (layout, record): (u8, RecordNumber),
        page: &mut Page,
    ) -> Result<Vec<(QueueId, Loc)>, BadEntry> {
        let mut orders = Vec::new();
        for _ in 0..r.count()? {
            let Set { shelf, moved, positions } = match layout {
                1 => self.decode_set_of_layout_1(r, record)?,
                _ => self.decode_set(r, record, page.entries)?,
            };
            // Most pages have one shelf.
            let is_taken = |position| page.shelf_of(position).is_some();
            if positions.is_empty() || !page.is_empty() && positions.iter().any(is_taken) {
                return Err(r.bad("a position that stands nowhere else"));
            }
            if let (Shelf::Ready(queue), Some(order)) = (shelf, moved) {
                orders.push((queue, order));
            }
            self.count(shelf, positions.len() as u64);
            page.put_all(shelf, positions);
        }
        Ok(orders)
    }

    fn decode_by_position(
        &mut self,
        r: &mut Reader,
        record: RecordNumber,
        page: &mut Page,
    ) -> Result<Vec<(QueueId, Loc)>, BadEntry> {
        let positions = decode_runs(r, page.entries)?;
        let mut before = 0;
        for position in positions.iter() {
            before = r.change(before)?;
            let shelf = self.shelf(r, (before & 7) as u8, before >> 3)?;
            self.count(shelf, 1);
            page.put(position, shelf);
        }
        let (mut orders, count) = (Vec::new(), r.count()?);
        let queues = if count > 0 { page.queues() } else { Vec::new() };
        for _ in 0..count {
            let queue = QueueId(r.u32()?);
            if queues.binary_search(&queue).is_err() {
                return Err(r.bad("a queue of this record"));
            }
            orders.push((queue, decode_place(r, record)?));
        }
        Ok(orders)
    }

    /// Counts what stands on a shelf.
    fn count(&mut self, shelf: Shelf, count: u64) {
        match shelf {
            Shelf::Ready(queue) => self.queues.get_mut(queue).paged_count += count,
            Shelf::Delayed(ty) => self.queues.ty_mut(ty).delayed += count,
            Shelf::Parked(ty) => self.queues.ty_mut(ty).parked += count,
            Shelf::Held | Shelf::Shadow | Shelf::Ended | Shelf::Memory => {}
        }
    }

    /// The shelf of a code and a number ([`code_of`]).
    fn shelf(&self, r: &Reader, code: u8, number: u64) -> Result<Shelf, BadEntry> {
        let bound = match code {
            READY => self.queues.len(),
            DELAYED | PARKED => self.queues.types_len(),
            _ => 1,
        };
        let number = u32::try_from(number).ok().filter(|n| (*n as usize) < bound);
        let number = number.ok_or_else(|| r.bad("the number of a queue or a type"))?;
        Ok(match code {
            READY => Shelf::Ready(QueueId(number)),
            DELAYED => Shelf::Delayed(TypeId(number)),
            PARKED => Shelf::Parked(TypeId(number)),
            HELD => Shelf::Held,
            SHADOW => Shelf::Shadow,
            ENDED => Shelf::Ended,
            _ => return Err(r.bad("a shelf")),
        })
    }

    fn decode_shelf(&self, r: &mut Reader, code: u8) -> Result<Shelf, BadEntry> {
        let number = if matches!(code, READY | DELAYED | PARKED) { r.int()? } else { 0 };
        self.shelf(r, code, number)
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
            true => Some(decode_place(r, record)?),
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

// How a page is told, since layout 3.
/// By its shelves, and the positions on each.
const BY_SHELF: u8 = 0;
/// By its positions, and the shelf of each beside that of the one before.
const BY_POSITION: u8 = 1;

/// With no more shelves than these a page is told by them: bits in words are shorter then, whatever the order.
const SHELVES_FEW: usize = 4;

// The codes of shelves.
const READY: u8 = 1;
const DELAYED: u8 = 2;
const PARKED: u8 = 3;
const HELD: u8 = 4;
const SHADOW: u8 = 5;
const ENDED: u8 = 6;

// How a set is told, beside the code of its shelf.
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
        encode_page(w, record, page);
    }
}

/// What stands on a page, by its shelves or by its positions, whichever is shorter.
fn encode_page(w: &mut Writer, record: RecordNumber, page: &Page) {
    let sets = page.sets();
    if sets.len() <= SHELVES_FEW {
        w.byte(BY_SHELF);
        return encode_by_shelf(w, record, page, &sets);
    }
    let (mut by_shelf, mut by_position) = (Writer::default(), Writer::default());
    encode_by_shelf(&mut by_shelf, record, page, &sets);
    encode_by_position(&mut by_position, record, page);
    let (form, shorter) = match by_position.len() < by_shelf.len() {
        true => (BY_POSITION, by_position),
        false => (BY_SHELF, by_shelf),
    };
    w.byte(form);
    w.fixed(shorter.as_slice());
}

fn encode_by_shelf(
    w: &mut Writer,
    record: RecordNumber,
    page: &Page,
    sets: &[(Shelf, Cow<'_, Positions>)],
) {
    w.int(sets.len() as u64);
    for (shelf, positions) in sets {
        let moved = match shelf {
            Shelf::Ready(queue) => page.moved(*queue),
            _ => None,
        };
        encode_set(w, record, *shelf, moved, positions);
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

/// The code of a shelf, and the number of its queue or type, if it has one.
fn code_of(shelf: Shelf) -> (u8, Option<u32>) {
    match shelf {
        Shelf::Ready(queue) => (READY, Some(queue.0)),
        Shelf::Delayed(ty) => (DELAYED, Some(ty.0)),
        Shelf::Parked(ty) => (PARKED, Some(ty.0)),
        Shelf::Held => (HELD, None),
        Shelf::Shadow => (SHADOW, None),
        Shelf::Ended => (ENDED, None),
        Shelf::Memory => unreachable!("it is written where it stands for whoever reads the log"),
    }
}

/// Types that come in turn have queues with numbers in a row: each takes one byte then.
fn encode_by_position(w: &mut Writer, record: RecordNumber, page: &Page) {
    let shelves_of = page.by_position();
    let positions: Positions = shelves_of.iter().map(|(position, _)| *position).collect();
    encode_runs(w, &positions, positions.runs().count());
    let mut before = 0;
    for (_, shelf) in shelves_of {
        let (code, number) = code_of(shelf);
        let now = u64::from(number.unwrap_or_default()) << 3 | u64::from(code);
        w.change(before, now);
        before = now;
    }
    let moved = page.all_moved();
    w.int(moved.len() as u64);
    if moved.is_empty() {
        return;
    }
    let queues = page.queues();
    let stands = |(queue, _): &(QueueId, Loc)| queues.binary_search(queue).is_ok();
    assert!(moved.iter().all(stands), "what would not be read is not written");
    for (queue, place) in moved {
        w.int(u64::from(queue.0));
        encode_place(w, record, *place);
    }
}

/// A place in the order of arrival of something that stands in a record.
fn encode_place(w: &mut Writer, record: RecordNumber, place: Loc) {
    w.change(record.0, place.record.0);
    w.int(u64::from(place.position));
}

fn decode_place(r: &mut Reader, record: RecordNumber) -> Result<Loc, BadEntry> {
    Ok(Loc { record: RecordNumber(r.change(record.0)?), position: r.u32()? })
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
    let (code, number) = code_of(shelf);
    w.byte(code | flags);
    number.iter().for_each(|n| w.int(u64::from(*n)));
    if let Some(order) = moved {
        encode_place(w, record, order);
    }
    if let Some(words) = words {
        w.int(words.len() as u64);
        words.iter().for_each(|word| w.fixed(&word.to_le_bytes()));
        return;
    }
    encode_runs(w, positions, runs);
}

/// There are so many runs.
fn encode_runs(w: &mut Writer, positions: &Positions, runs: usize) {
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

#[cfg(test)]
mod tests;
