//! From an object's id to its decisions and its end.
//!
//! References gather in memory in the order they were made. When there are enough of them, they are
//! sorted by id and written as one *part*: pages of references with a directory of each page's first
//! id. Nothing is ever updated in place, so a random id costs no more than an ordered one, and the
//! oldest part goes as a whole.

use dpc_core::Wall;
use dpc_core::ids::{ObjectId, RecordNumber};

use super::pack::{BadRow, Packer, Unpacker};
use super::rows::{TRACE_FIRST, TRACE_LAST};

/// What a reference points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Decided,
    Ended,
}

/// One decision for an object, or its end: an item of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ref {
    pub(super) id: ObjectId,
    pub(super) kind: Kind,
    pub(super) block: u64,
    pub(super) item: u32,
    pub(super) moves: u32,
}

/// What one part, or the memory, knows of an object, in order, capped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) refs: Vec<Ref>,
    pub(super) dropped: u64,
}

/// A part's entry in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// The first of its pages.
    pub(super) first_page: u64,
    /// The first id of each page.
    pub(super) fences: Vec<ObjectId>,
    /// The last id of all.
    pub(super) last: ObjectId,
    /// The block after its last block of decisions.
    pub(super) decided_end: u64,
    /// The block after its last block of finished objects.
    pub(super) ended_end: u64,
    /// When its first record was closed.
    pub(super) first_wall: Wall,
    /// When its last record was closed.
    pub(super) last_wall: Wall,
    /// The record after its last one.
    pub(super) next: RecordNumber,
}

impl Known {
    /// Takes what is known of one object in the order it was made, and caps it.
    pub(super) fn gather(refs: impl IntoIterator<Item = Ref>) -> Self {
        let mut known = Self::default();
        let mut end = None;
        let mut last = std::collections::VecDeque::new();
        for r in refs {
            if r.kind == Kind::Ended {
                end = Some(r);
            } else if known.refs.len() < TRACE_FIRST {
                known.refs.push(r);
            } else {
                if last.len() == TRACE_LAST {
                    last.pop_front();
                    known.dropped += 1;
                }
                last.push_back(r);
            }
        }
        known.refs.extend(last);
        known.refs.extend(end);
        known
    }

    /// Adds what a later part knows.
    pub(super) fn join(&mut self, later: Self) {
        let all = std::mem::take(&mut self.refs).into_iter().chain(later.refs);
        let joined = Self::gather(all);
        self.refs = joined.refs;
        self.dropped += joined.dropped + later.dropped;
    }

    /// The object's latest end.
    pub(super) fn end(&self) -> Option<&Ref> {
        self.refs.iter().rev().find(|r| r.kind == Kind::Ended)
    }
}

impl Part {
    /// The page that holds an id, if any does.
    pub(super) fn page_of(&self, id: ObjectId) -> Option<u64> {
        if id > self.last {
            return None;
        }
        let after = self.fences.partition_point(|first| *first <= id);
        after.checked_sub(1).map(|index| self.first_page + index as u64)
    }

    /// The page after its last one.
    pub(super) fn page_end(&self) -> u64 {
        self.first_page + self.fences.len() as u64
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let mut p = Packer::default();
        let last = [self.first_wall.0, self.last_wall.0, self.next.0];
        for n in [self.first_page, self.decided_end, self.ended_end].into_iter().chain(last) {
            p.int(n);
        }
        p.int(self.fences.len() as u64);
        self.fences.iter().for_each(|id| p.fixed(&id.0));
        p.fixed(&self.last.0);
        p.finish()
    }

    pub(super) fn unpack(body: &[u8]) -> Result<Self, BadRow> {
        let mut u = Unpacker::new(body);
        let mut part = Self {
            first_page: u.int()?,
            decided_end: u.int()?,
            ended_end: u.int()?,
            first_wall: Wall(u.int()?),
            last_wall: Wall(u.int()?),
            next: RecordNumber(u.int()?),
            fences: Vec::new(),
            last: ObjectId::default(),
        };
        for _ in 0..u.count()? {
            part.fences.push(ObjectId(u.fixed()?));
        }
        part.last = ObjectId(u.fixed()?);
        Ok(part)
    }
}

/// Puts references into pages by id, each with its first id.
pub(super) fn pages(refs: &[Ref]) -> Vec<(ObjectId, Vec<u8>)> {
    let order = by_id(refs);
    let of = |at: u32| &refs[at as usize];
    let mut pages = Vec::new();
    let mut page = (ObjectId::default(), Packer::default(), [0; 2]);
    for group in order.chunk_by(|a, b| of(*a).id == of(*b).id) {
        let id = of(group[0]).id;
        if page.1.len() >= PAGE_BYTES {
            let (first, full, _) = std::mem::take(&mut page);
            pages.push((first, full.finish()));
        }
        if page.1.len() == 0 {
            page.0 = id;
        }
        let known = Known::gather(group.iter().map(|at| *of(*at)));
        pack_known(&mut page.1, &mut page.2, id, &known);
    }
    if page.1.len() > 0 {
        pages.push((page.0, page.1.finish()));
    }
    pages
}

/// The positions of references in the order of their ids, those of one object as they were made.
///
/// What is sorted are words of the first 12 bytes of an id and its position: a third of a reference in
/// size, and two instructions to compare. Ids that begin alike are told apart afterwards.
fn by_id(refs: &[Ref]) -> Vec<u32> {
    const POSITION_BITS: u32 = 32;
    let id = |word: &u128| refs[*word as u32 as usize].id;
    let word = |(r, at): (&Ref, u32)| {
        u128::from_be_bytes(r.id.0) >> POSITION_BITS << POSITION_BITS | u128::from(at)
    };
    let mut words: Vec<u128> = refs.iter().zip(0..).map(word).collect();
    words.sort_unstable();
    for alike in words.chunk_by_mut(|a, b| a >> POSITION_BITS == b >> POSITION_BITS) {
        if alike.iter().any(|word| id(word) != id(&alike[0])) {
            alike.sort_by_key(id);
        }
    }
    words.into_iter().map(|word| word as u32).collect()
}

fn pack_known(p: &mut Packer, blocks: &mut [u64; 2], id: ObjectId, known: &Known) {
    p.fixed(&id.0);
    p.int(known.dropped);
    p.int(known.refs.len() as u64);
    known.refs.iter().for_each(|r| pack_ref(p, blocks, r));
}

fn pack_ref(p: &mut Packer, blocks: &mut [u64; 2], r: &Ref) {
    p.int(u64::from(r.item) << 1 | u64::from(r.kind == Kind::Ended));
    let block = &mut blocks[usize::from(r.kind == Kind::Ended)];
    p.near(*block, r.block);
    *block = r.block;
    p.int(u64::from(r.moves));
}

fn unpack_ref(u: &mut Unpacker<'_>, blocks: &mut [u64; 2], id: ObjectId) -> Result<Ref, BadRow> {
    let item = u.int()?;
    let kind = if item & 1 == 1 { Kind::Ended } else { Kind::Decided };
    let item = u32::try_from(item >> 1).map_err(|_| BadRow("an item's number"))?;
    let block = &mut blocks[usize::from(kind == Kind::Ended)];
    *block = u.near(*block)?;
    Ok(Ref { id, kind, block: *block, item, moves: u.u32()? })
}

/// What a page knows of an object.
pub(super) fn find(body: &[u8], id: ObjectId) -> Result<Known, BadRow> {
    let mut u = Unpacker::new(body);
    let mut blocks = [0; 2];
    while !u.is_done() {
        let here = ObjectId(u.fixed()?);
        let mut known = Known { refs: Vec::new(), dropped: u.int()? };
        for _ in 0..u.count()? {
            let r = unpack_ref(&mut u, &mut blocks, here)?;
            if here == id {
                known.refs.push(r);
            }
        }
        if here == id {
            return Ok(known);
        }
        if here > id {
            break;
        }
    }
    Ok(Known::default())
}

/// References in the order they were made, so that a restart need not make them again.
pub(super) fn pack_tail(refs: &[Ref]) -> Vec<u8> {
    let mut p = Packer::default();
    let mut blocks = [0; 2];
    for r in refs {
        p.fixed(&r.id.0);
        pack_ref(&mut p, &mut blocks, r);
    }
    p.finish()
}

/// Reads what [`pack_tail`] wrote.
pub(super) fn unpack_tail(body: &[u8], refs: &mut Vec<Ref>) -> Result<(), BadRow> {
    let mut u = Unpacker::new(body);
    let mut blocks = [0; 2];
    while !u.is_done() {
        let id = ObjectId(u.fixed()?);
        refs.push(unpack_ref(&mut u, &mut blocks, id)?);
    }
    Ok(())
}

/// Bytes at which a page is full.
const PAGE_BYTES: usize = 12 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(id: u8, n: u32) -> Ref {
        let id = ObjectId([id; 16]);
        Ref { id, kind: Kind::Decided, block: u64::from(n / 7), item: n, moves: n % 3 }
    }

    #[test]
    fn every_id_is_found_in_the_page_that_the_fences_name() {
        let refs: Vec<Ref> = (0..9_000u32).map(|n| decided((n * 31 % 251) as u8, n)).collect();
        let pages = pages(&refs);
        assert!(pages.len() > 1, "one page proves nothing");
        let part = Part {
            first_page: 10,
            fences: pages.iter().map(|(first, _)| *first).collect(),
            last: refs.iter().map(|r| r.id).max().expect("there are references"),
            ..Part::default()
        };
        assert_eq!(Part::unpack(&part.pack()), Ok(part.clone()));
        for id in 0..=255 {
            let id = ObjectId([id; 16]);
            let expected = Known::gather(refs.iter().filter(|r| r.id == id).copied());
            let found = match part.page_of(id) {
                None => Known::default(),
                Some(page) => find(&pages[page as usize - 10].1, id).expect("reads back"),
            };
            assert_eq!(found, expected);
        }
        let mut tail = Vec::new();
        unpack_tail(&pack_tail(&refs), &mut tail).expect("reads back");
        assert_eq!(tail, refs);
    }

    #[test]
    fn ids_that_begin_alike_are_told_apart() {
        let mut n = 7u32;
        let mut refs = Vec::new();
        for item in 0..3_000 {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut id = [0; 16];
            // A few begins, and a few ends of each.
            (id[11], id[15]) = ((n >> 16) as u8 % 3, (n >> 24) as u8 % 50);
            refs.push(Ref { id: ObjectId(id), ..decided(0, item) });
        }
        let mut expected: Vec<u32> = (0..3_000).collect();
        expected.sort_by_key(|at| refs[*at as usize].id);
        assert_eq!(by_id(&refs), expected);
    }

    #[test]
    fn joined_parts_keep_the_first_and_the_last() {
        let part = |from: u32, to: u32| Known::gather((from..to).map(|n| decided(1, n)));
        let mut known = part(0, 5);
        known.join(part(5, 300));
        known.join(part(300, 310));
        let items: Vec<u32> = known.refs.iter().map(|r| r.item).collect();
        let expected: Vec<u32> = (0..16).chain(310 - 48..310).collect();
        assert_eq!(items, expected);
        assert_eq!(known.dropped, 310 - 64);
    }
}
