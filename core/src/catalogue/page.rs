//! What is alive in one record, and on which shelf.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Kind, Positions, QueueId, Shelf, TypeId};
use crate::ids::Loc;
use crate::time::Wall;

/// With more shelves than this a page says of each position where it stands. A set of positions for each
/// shelf would take more memory then, and what is asked for would be looked for among them. In tests
/// most records have more.
const SETS_MAX: usize = if cfg!(debug_assertions) { 4 } else { 32 };

/// So many positions are looked at together.
const STRIDE: usize = 16;

/// One record as the catalogue knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) wall: Wall,
    pub(crate) bytes: u32,
    pub(crate) entries: u32,
    stands: Stands,
    /// The lowest place in the order of arrival of each queue's objects here, where it is not that of the
    /// first of them: some were written again. By queue.
    moved: Vec<(QueueId, Loc)>,
}

/// The shelf of each live position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stands {
    /// There are few shelves: none is empty, and there are at most [`SETS_MAX`].
    Sets(Vec<Set>),
    /// There are many: the shelf of every position, and how many stand on shelves of each kind.
    Each { of: Vec<Code>, counts: [u32; Kind::COUNT] },
}

/// The positions of one shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Set {
    shelf: Shelf,
    positions: Positions,
}

/// A shelf as a number, or none: there is one for each object of a backlog of many types. The lowest bits
/// are its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Code(u32);

impl Default for Stands {
    fn default() -> Self {
        Self::Sets(Vec::new())
    }
}

impl Code {
    const NONE: Self = Self(0);

    fn of(shelf: Shelf) -> Self {
        let number = match shelf {
            Shelf::Ready(queue) => queue.0,
            Shelf::Delayed(ty) | Shelf::Parked(ty) => ty.0,
            Shelf::Memory | Shelf::Held | Shelf::Shadow | Shelf::Ended => 0,
        };
        assert!(number < 1 << 29, "types and queues are fewer than memory has room for");
        Self(number << 3 | (shelf.kind() as u32 + 1))
    }

    fn shelf(self) -> Option<Shelf> {
        let number = self.0 >> 3;
        Some(match self.0 & 7 {
            0 => return None,
            1 => Shelf::Memory,
            2 => Shelf::Ready(QueueId(number)),
            3 => Shelf::Delayed(TypeId(number)),
            4 => Shelf::Parked(TypeId(number)),
            5 => Shelf::Held,
            6 => Shelf::Shadow,
            _ => Shelf::Ended,
        })
    }
}

impl Page {
    /// A record of that time, bytes and entries, in which nothing is alive yet.
    pub(crate) fn new(wall: Wall, bytes: u32, entries: u32) -> Self {
        Self { wall, bytes, entries, ..Self::default() }
    }

    /// Whether nothing was ever put into it.
    pub(super) fn is_nothing(&self) -> bool {
        self.is_empty() && self.bytes == 0 && self.moved.is_empty()
    }

    /// Whether nothing is alive.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.stands {
            Stands::Sets(sets) => sets.is_empty(),
            Stands::Each { counts, .. } => *counts == [0; Kind::COUNT],
        }
    }

    /// How many entries are alive.
    pub(super) fn alive(&self) -> u64 {
        match &self.stands {
            Stands::Sets(sets) => sets.iter().map(|set| set.positions.len() as u64).sum(),
            Stands::Each { counts, .. } => counts.iter().copied().map(u64::from).sum(),
        }
    }

    /// How many of them are ends.
    pub(super) fn ends(&self) -> u64 {
        match &self.stands {
            Stands::Sets(sets) => {
                find(sets, Shelf::Ended).map_or(0, |set| set.positions.len() as u64)
            }
            Stands::Each { counts, .. } => u64::from(counts[Kind::Ended as usize]),
        }
    }

    /// The shelf of a position, if it is alive.
    pub(crate) fn shelf_of(&self, position: u32) -> Option<Shelf> {
        match &self.stands {
            Stands::Sets(sets) => {
                sets.iter().find(|set| set.positions.contains(position)).map(|set| set.shelf)
            }
            Stands::Each { of, .. } => of.get(position as usize).and_then(|code| code.shelf()),
        }
    }

    /// Whether anything stands on one of these shelves.
    pub(crate) fn has(&self, wanted: impl Fn(Shelf) -> bool) -> bool {
        match &self.stands {
            Stands::Sets(sets) => sets.iter().any(|set| wanted(set.shelf)),
            Stands::Each { of, .. } => of.iter().any(|code| code.shelf().is_some_and(&wanted)),
        }
    }

    /// Whether anything stands on a shelf of one of these kinds.
    pub(crate) fn has_kind<const N: usize>(&self, kinds: [Kind; N]) -> bool {
        match &self.stands {
            Stands::Sets(sets) => sets.iter().any(|set| kinds.contains(&set.shelf.kind())),
            Stands::Each { counts, .. } => kinds.iter().any(|kind| counts[*kind as usize] > 0),
        }
    }

    /// The first position on a shelf.
    pub(crate) fn first(&self, shelf: Shelf) -> Option<u32> {
        match &self.stands {
            Stands::Sets(sets) => find(sets, shelf)?.positions.iter().next(),
            Stands::Each { of, .. } => each(of, Code::of(shelf)).next(),
        }
    }

    /// The positions on the shelf of one queue.
    pub(crate) fn ready_of(&self, queue: QueueId) -> Vec<(QueueId, u32)> {
        let shelf = Shelf::Ready(queue);
        let and_queue = |position| (queue, position);
        match &self.stands {
            Stands::Sets(sets) => {
                let set = find(sets, shelf).into_iter();
                set.flat_map(|set| set.positions.iter().map(and_queue)).collect()
            }
            Stands::Each { of, .. } => each(of, Code::of(shelf)).map(and_queue).collect(),
        }
    }

    /// The positions of each shelf, in the order of the shelves.
    pub(crate) fn sets(&self) -> Vec<(Shelf, Cow<'_, Positions>)> {
        match &self.stands {
            Stands::Sets(sets) => {
                let each = sets.iter().map(|set| (set.shelf, Cow::Borrowed(&set.positions)));
                let mut sets: Vec<_> = each.collect();
                sets.sort_unstable_by_key(|(shelf, _)| *shelf);
                sets
            }
            Stands::Each { of, .. } => {
                let alive = (0..).zip(of).filter_map(|(i, code)| Some((code.shelf()?, i)));
                let mut alive: Vec<(Shelf, u32)> = alive.collect();
                alive.sort_unstable();
                let sets = alive.chunk_by(|(a, _), (b, _)| a == b);
                let positions = |set: &[(Shelf, u32)]| set.iter().map(|(_, i)| *i).collect();
                sets.map(|set| (set[0].0, Cow::Owned(positions(set)))).collect()
            }
        }
    }

    /// The queues with something on their shelves, in order.
    pub(crate) fn queues(&self) -> Vec<QueueId> {
        let queue = |shelf| match shelf {
            Shelf::Ready(queue) => Some(queue),
            _ => None,
        };
        let mut queues: Vec<QueueId> = match &self.stands {
            Stands::Sets(sets) => sets.iter().filter_map(|set| queue(set.shelf)).collect(),
            Stands::Each { of, .. } => {
                of.iter().filter_map(|code| code.shelf().and_then(queue)).collect()
            }
        };
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// The shelf of each live position, in order.
    pub(crate) fn by_position(&self) -> Vec<(u32, Shelf)> {
        match &self.stands {
            Stands::Sets(sets) => {
                let of_sets = sets.iter().flat_map(|set| {
                    let shelf = set.shelf;
                    set.positions.iter().map(move |position| (position, shelf))
                });
                let mut all: Vec<_> = of_sets.collect();
                all.sort_unstable_by_key(|(position, _)| *position);
                all
            }
            Stands::Each { of, .. } => {
                (0..).zip(of).filter_map(|(i, code)| Some((i, code.shelf()?))).collect()
            }
        }
    }

    /// The positions on the shelves of queues, by queue.
    pub(crate) fn ready(&self) -> Vec<(QueueId, u32)> {
        let mut ready = Vec::new();
        match &self.stands {
            Stands::Sets(sets) => {
                for set in sets {
                    if let Shelf::Ready(queue) = set.shelf {
                        ready.extend(set.positions.iter().map(|position| (queue, position)));
                    }
                }
                ready.sort_by_key(|(queue, _)| *queue);
            }
            Stands::Each { of, .. } => {
                ready.extend((0..).zip(of).filter_map(|(i, code)| match code.shelf() {
                    Some(Shelf::Ready(queue)) => Some((queue, i)),
                    _ => None,
                }));
                ready.sort_unstable();
            }
        }
        ready
    }

    /// Puts a position that stands nowhere on a shelf.
    pub(crate) fn put(&mut self, position: u32, shelf: Shelf) {
        match &mut self.stands {
            Stands::Sets(sets) => {
                if let Some(set) = sets.iter_mut().find(|set| set.shelf == shelf) {
                    let fresh = set.positions.insert(position);
                    return assert!(fresh, "position {position} is on {shelf:?} already");
                }
                if sets.len() < SETS_MAX {
                    return sets.push(Set { shelf, positions: Positions::One(position) });
                }
            }
            Stands::Each { of, counts } => {
                let at = position as usize;
                if of.len() <= at {
                    of.resize(at + 1, Code::NONE);
                }
                assert_eq!(of[at], Code::NONE, "position {position} is to stand on {shelf:?}");
                of[at] = Code::of(shelf);
                counts[shelf.kind() as usize] += 1;
                return;
            }
        }
        self.say_of_each();
        self.put(position, shelf);
    }

    /// The same for several.
    pub(crate) fn put_all(&mut self, shelf: Shelf, positions: Positions) {
        match &mut self.stands {
            Stands::Sets(sets) if sets.len() < SETS_MAX && find(sets, shelf).is_none() => {
                sets.push(Set { shelf, positions });
            }
            _ => positions.iter().for_each(|position| self.put(position, shelf)),
        }
    }

    /// Takes a position off its shelf.
    pub(crate) fn take(&mut self, position: u32, shelf: Shelf) {
        let was = match &mut self.stands {
            Stands::Sets(sets) => match sets.iter().position(|set| set.shelf == shelf) {
                Some(i) => {
                    let was = sets[i].positions.remove(position);
                    if sets[i].positions.is_empty() {
                        sets.swap_remove(i);
                    }
                    was
                }
                None => false,
            },
            Stands::Each { of, counts } => {
                let code = of.get_mut(position as usize).filter(|it| **it == Code::of(shelf));
                code.is_some_and(|code| {
                    *code = Code::NONE;
                    counts[shelf.kind() as usize] -= 1;
                    true
                })
            }
        };
        assert!(was, "position {position} is not on {shelf:?}");
    }

    /// Takes everything off a shelf. Says whether there was anything.
    pub(super) fn take_all(&mut self, shelf: Shelf) -> bool {
        match &mut self.stands {
            Stands::Sets(sets) => {
                let at = sets.iter().position(|set| set.shelf == shelf);
                at.map(|at| sets.swap_remove(at)).is_some()
            }
            Stands::Each { of, counts } => {
                let code = Code::of(shelf);
                let all = of.iter_mut().filter(|it| **it == code);
                let taken = all.map(|it| *it = Code::NONE).count();
                counts[shelf.kind() as usize] -= u32::try_from(taken).expect("records are bounded");
                taken > 0
            }
        }
    }

    /// Puts an object on another shelf. `place` is that of it in the order of arrival.
    pub(crate) fn change(&mut self, at: Loc, to: Shelf, place: Loc) {
        let from = self.shelf_of(at.position).expect("it is alive");
        self.take(at.position, from);
        match to {
            Shelf::Ready(queue) => _ = self.put_ready(at, queue, place),
            _ => self.put(at.position, to),
        }
    }

    /// Puts all of one queue that is on its shelf into memory. `ready` is what [`Page::ready_of`] says.
    pub(super) fn lift(&mut self, ready: &[(QueueId, u32)]) {
        let shelf = Shelf::Ready(ready[0].0);
        if let Stands::Sets(sets) = &mut self.stands {
            let at = sets.iter().position(|set| set.shelf == shelf).expect("it is on its shelf");
            let Set { positions, .. } = sets.swap_remove(at);
            assert_eq!(positions.len(), ready.len(), "all of it leaves its shelf");
            return self.put_all(Shelf::Memory, positions);
        }
        for (_, position) in ready {
            self.take(*position, shelf);
            self.put(*position, Shelf::Memory);
        }
    }

    /// Says of each position where it stands.
    fn say_of_each(&mut self) {
        // Once it is closed a record has no more entries.
        let of = Vec::with_capacity(self.entries as usize);
        let each = Stands::Each { of, counts: [0; Kind::COUNT] };
        if let Stands::Sets(sets) = std::mem::replace(&mut self.stands, each) {
            sets.into_iter().for_each(|set| self.put_all(set.shelf, set.positions));
        }
    }

    /// Whether it takes more memory than what is alive needs.
    pub(super) fn is_loose(&self) -> bool {
        let is_loose = match &self.stands {
            Stands::Sets(sets) => sets.capacity() > sets.len(),
            Stands::Each { of, .. } => of.capacity() > of.len() || self.fewer().is_some(),
        };
        is_loose || self.moved.capacity() > self.moved.len()
    }

    /// Takes no more memory than what is alive needs: it will not change much any more.
    pub(super) fn tighten(&mut self) {
        if let Some(sets) = self.fewer() {
            self.stands = Stands::Sets(sets);
        }
        match &mut self.stands {
            Stands::Sets(sets) => sets.shrink_to_fit(),
            Stands::Each { of, .. } => of.shrink_to_fit(),
        }
        self.moved.shrink_to_fit();
    }

    /// The sets of a page that says of each position where it stands, if they take half of its memory at
    /// most.
    fn fewer(&self) -> Option<Vec<Set>> {
        let Stands::Each { of, .. } = &self.stands else { return None };
        let mut sets = Vec::<Set>::new();
        for (position, code) in (0..).zip(of) {
            let Some(shelf) = code.shelf() else { continue };
            if let Some(set) = sets.iter_mut().find(|set| set.shelf == shelf) {
                set.positions.insert(position);
            } else if sets.len() < SETS_MAX {
                sets.push(Set { shelf, positions: Positions::One(position) });
            } else {
                return None;
            }
        }
        let bytes: usize = sets.iter().map(|set| size_of::<Set>() + set.positions.bytes()).sum();
        (2 * bytes <= of.len() * size_of::<Code>()).then_some(sets)
    }

    /// The lowest place of a queue's objects, where it is not that of the first of them.
    pub(crate) fn moved(&self, queue: QueueId) -> Option<Loc> {
        // Nearly always there are none.
        self.moved_at(queue).ok().map(|at| self.moved[at].1)
    }

    /// The same for all of which it is told, by queue.
    pub(crate) fn all_moved(&self) -> &[(QueueId, Loc)] {
        &self.moved
    }

    pub(super) fn set_moved(&mut self, queue: QueueId, order: Loc) {
        match self.moved_at(queue) {
            Ok(at) => self.moved[at].1 = order,
            Err(at) => self.moved.insert(at, (queue, order)),
        }
    }

    /// Puts an object on its queue's shelf. Says what [`Page::moved`] was before, and is now.
    pub(crate) fn put_ready(
        &mut self,
        at: Loc,
        queue: QueueId,
        place: Loc,
    ) -> (Option<Loc>, Option<Loc>) {
        self.put(at.position, Shelf::Ready(queue));
        let before = self.moved(queue);
        let is_first = before.map_or(place != at, |order| place < order);
        if is_first {
            let position = self.first(Shelf::Ready(queue)).expect("it was just put");
            self.set_moved(queue, place.min(Loc { record: at.record, position }));
        }
        (before, if is_first { self.moved(queue) } else { before })
    }

    pub(super) fn take_moved(&mut self, queue: QueueId) -> Option<Loc> {
        self.moved_at(queue).ok().map(|at| self.moved.remove(at).1)
    }

    fn moved_at(&self, queue: QueueId) -> Result<usize, usize> {
        self.moved.binary_search_by_key(&queue, |(queue, _)| *queue)
    }
}

fn find(sets: &[Set], shelf: Shelf) -> Option<&Set> {
    sets.iter().find(|set| set.shelf == shelf)
}

/// The positions of one shelf among those of all. Most strides have none of it, which is seen at once.
fn each(of: &[Code], code: Code) -> impl Iterator<Item = u32> {
    let strides = (0u32..).step_by(STRIDE).zip(of.chunks(STRIDE));
    strides
        .filter(move |(_, stride)| stride.iter().fold(false, |any, it| any | (*it == code)))
        .flat_map(move |(first, stride)| {
            (first..).zip(stride).filter(move |(_, it)| **it == code).map(|(position, _)| position)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RecordNumber;

    fn ready(n: u32) -> Shelf {
        Shelf::Ready(QueueId(n))
    }

    fn all(page: &Page) -> Vec<(Shelf, Vec<u32>)> {
        page.sets().into_iter().map(|(shelf, set)| (shelf, set.iter().collect())).collect()
    }

    #[test]
    fn each_shelf_has_its_number() {
        for shelf in [
            Shelf::Memory,
            ready(0),
            ready((1 << 29) - 1),
            Shelf::Delayed(TypeId(7)),
            Shelf::Parked(TypeId(7)),
            Shelf::Held,
            Shelf::Shadow,
            Shelf::Ended,
        ] {
            assert_eq!(Code::of(shelf).shelf(), Some(shelf));
        }
        assert_eq!(Code::NONE.shelf(), None);
    }

    /// The same is said of few shelves and of many.
    #[test]
    fn a_page_of_many_shelves_is_like_one_of_few() {
        let queues = u32::try_from(SETS_MAX).expect("few") + 1;
        let mut many = Page::new(Wall(1), 9, 100);
        (0..3 * queues).for_each(|position| many.put(position, ready(position % queues)));
        many.put(1_000, ready(0));
        assert!(matches!(many.stands, Stands::Each { .. }));
        assert_eq!((many.shelf_of(4), many.shelf_of(99)), (Some(ready(4)), None));
        assert_eq!(
            many.ready_of(QueueId(4)),
            [4, 4 + queues, 4 + 2 * queues].map(|n| (QueueId(4), n))
        );
        assert_eq!(many.ready()[13..16], many.ready_of(QueueId(4)));
        assert_eq!((many.first(ready(3)), many.first(Shelf::Held)), (Some(3), None));
        assert_eq!((many.ends(), many.alive()), (0, u64::from(3 * queues) + 1));
        assert!(many.has(|shelf| shelf == ready(2)) && !many.has(|shelf| shelf == Shelf::Held));
        assert!(many.has_kind([Kind::Held, Kind::Ready]) && !many.has_kind([Kind::Memory]));

        let mut few = Page::new(Wall(1), 9, 100);
        for queue in 0..4 {
            (0..3).for_each(|n| few.put(queue + n * queues, ready(queue)));
        }
        few.put(1_000, ready(0));
        (4..queues).for_each(|queue| assert!(many.take_all(ready(queue))));
        assert!(!many.take_all(ready(queues)));
        assert_eq!((all(&many), many.ready()), (all(&few), few.ready()));
        assert_eq!(many.by_position(), few.by_position());
        let at = |position| Loc { record: RecordNumber(1), position };
        for page in [&mut many, &mut few] {
            page.take(0, ready(0));
            page.change(at(1), Shelf::Memory, at(1));
        }
        assert_eq!(all(&many), all(&few));
        for page in [&mut many, &mut few] {
            page.lift(&page.ready_of(QueueId(2)));
        }
        assert_eq!(all(&many), all(&few));
        assert!(many.is_loose());
        many.tighten();
        assert_eq!((many.is_loose(), matches!(many.stands, Stands::Sets(_))), (false, true));
        assert_eq!((all(&many), many.alive()), (all(&few), few.alive()));
    }
}
