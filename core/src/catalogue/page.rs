//! What is alive in one record, and on which shelf.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Positions, QueueId, Shelf, TypeId};
use crate::ids::Loc;
use crate::time::Wall;

/// With more shelves than this a page says of each position where it stands. A set of positions for each
/// shelf would take more memory then, and what is asked for would be looked for among them.
const SETS_MAX: usize = 16;

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
    /// There are many: the shelf of every position, and how many are alive.
    Each { of: Vec<Code>, alive: u32 },
}

/// The positions of one shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Set {
    shelf: Shelf,
    positions: Positions,
}

/// A shelf as a number, or none: there is one for each object of a backlog of many types.
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
        let (kind, number) = match shelf {
            Shelf::Memory => (1, 0),
            Shelf::Ready(queue) => (2, queue.0),
            Shelf::Delayed(ty) => (3, ty.0),
            Shelf::Parked(ty) => (4, ty.0),
            Shelf::Held => (5, 0),
            Shelf::Shadow => (6, 0),
            Shelf::Ended => (7, 0),
        };
        assert!(number < 1 << 29, "types and queues are fewer than memory has room for");
        Self(number << 3 | kind)
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
            Stands::Each { alive, .. } => *alive == 0,
        }
    }

    /// How many entries are alive.
    pub(super) fn alive(&self) -> u64 {
        match &self.stands {
            Stands::Sets(sets) => sets.iter().map(|set| set.positions.len() as u64).sum(),
            Stands::Each { alive, .. } => u64::from(*alive),
        }
    }

    /// How many stand on a shelf.
    pub(super) fn count(&self, shelf: Shelf) -> u64 {
        match &self.stands {
            Stands::Sets(sets) => find(sets, shelf).map_or(0, |set| set.positions.len() as u64),
            Stands::Each { of, .. } => {
                let code = Code::of(shelf);
                of.iter().filter(|it| **it == code).count() as u64
            }
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
        let mut sets: Vec<_> = match &self.stands {
            Stands::Sets(sets) => {
                return in_order(sets.iter().map(|set| (set.shelf, Cow::Borrowed(&set.positions))));
            }
            Stands::Each { of, .. } => {
                (0..).zip(of).filter_map(|(i, code)| Some((code.shelf()?, i))).collect()
            }
        };
        sets.sort_unstable();
        let set = |of_one: &[(Shelf, u32)]| {
            let (shelf, first) = of_one[0];
            let mut positions = Positions::One(first);
            of_one.iter().for_each(|(_, position)| _ = positions.insert(*position));
            (shelf, Cow::Owned(positions))
        };
        sets.chunk_by(|(a, _), (b, _)| a == b).map(set).collect()
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
            Stands::Each { of, alive } => {
                let at = position as usize;
                if of.len() <= at {
                    of.resize(at + 1, Code::NONE);
                }
                assert_eq!(of[at], Code::NONE, "position {position} is to stand on {shelf:?}");
                of[at] = Code::of(shelf);
                *alive += 1;
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
            Stands::Each { of, alive } => {
                let code = of.get_mut(position as usize).filter(|it| **it == Code::of(shelf));
                code.is_some_and(|code| {
                    (*code, *alive) = (Code::NONE, *alive - 1);
                    true
                })
            }
        };
        assert!(was, "position {position} is not on {shelf:?}");
    }

    /// Takes everything off a shelf. Says whether there was anything.
    pub(crate) fn take_all(&mut self, shelf: Shelf) -> bool {
        match &mut self.stands {
            Stands::Sets(sets) => {
                let at = sets.iter().position(|set| set.shelf == shelf);
                at.map(|at| sets.swap_remove(at)).is_some()
            }
            Stands::Each { of, alive } => {
                let (before, code) = (*alive, Code::of(shelf));
                for it in of.iter_mut().filter(|it| **it == code) {
                    (*it, *alive) = (Code::NONE, *alive - 1);
                }
                *alive < before
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

    /// Says of each position where it stands.
    fn say_of_each(&mut self) {
        // Once it is closed a record has no more entries.
        let each = Stands::Each { of: Vec::with_capacity(self.entries as usize), alive: 0 };
        if let Stands::Sets(sets) = std::mem::replace(&mut self.stands, each) {
            sets.into_iter().for_each(|set| self.put_all(set.shelf, set.positions));
        }
    }

    /// Takes no more memory than what is alive needs: it will not change much any more.
    pub(super) fn tighten(&mut self) {
        self.moved.shrink_to_fit();
        let sets = match &mut self.stands {
            Stands::Sets(sets) => return sets.shrink_to_fit(),
            Stands::Each { of, .. } => {
                of.shrink_to_fit();
                let mut sets = Vec::<Set>::new();
                for (position, code) in (0..).zip(of.iter()) {
                    let Some(shelf) = code.shelf() else { continue };
                    if let Some(set) = sets.iter_mut().find(|set| set.shelf == shelf) {
                        set.positions.insert(position);
                    } else if sets.len() < SETS_MAX / 2 {
                        sets.push(Set { shelf, positions: Positions::One(position) });
                    } else {
                        return;
                    }
                }
                sets
            }
        };
        self.stands = Stands::Sets(sets);
    }

    /// The lowest place of a queue's objects, where it is not that of the first of them.
    pub(crate) fn moved(&self, queue: QueueId) -> Option<Loc> {
        // Nearly always there are none.
        self.moved_at(queue).ok().map(|at| self.moved[at].1)
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

fn in_order<S>(sets: impl Iterator<Item = (Shelf, S)>) -> Vec<(Shelf, S)> {
    let mut sets: Vec<_> = sets.collect();
    sets.sort_unstable_by_key(|(shelf, _)| *shelf);
    sets
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
        assert!(matches!(many.stands, Stands::Each { .. }));
        assert_eq!((many.shelf_of(4), many.shelf_of(99)), (Some(ready(4)), None));
        assert_eq!(
            many.ready_of(QueueId(4)),
            [4, 4 + queues, 4 + 2 * queues].map(|n| (QueueId(4), n))
        );
        assert_eq!(many.ready()[12..15], many.ready_of(QueueId(4)));
        assert_eq!((many.first(ready(3)), many.first(Shelf::Held)), (Some(3), None));
        assert_eq!((many.count(ready(3)), many.alive()), (3, u64::from(3 * queues)));
        assert!(many.has(|shelf| shelf == ready(2)) && !many.has(|shelf| shelf == Shelf::Held));

        let mut few = Page::new(Wall(1), 9, 100);
        for queue in 0..4 {
            (0..3).for_each(|n| few.put(queue + n * queues, ready(queue)));
        }
        (4..queues).for_each(|queue| assert!(many.take_all(ready(queue))));
        assert!(!many.take_all(ready(queues)));
        assert_eq!((all(&many), many.ready()), (all(&few), few.ready()));
        let at = |position| Loc { record: RecordNumber(1), position };
        for page in [&mut many, &mut few] {
            page.take(0, ready(0));
            page.change(at(1), Shelf::Memory, at(1));
        }
        assert_eq!(all(&many), all(&few));
        many.tighten();
        assert!(matches!(many.stands, Stands::Sets(_)), "few are left");
        assert_eq!((all(&many), many.alive()), (all(&few), few.alive()));
    }
}
