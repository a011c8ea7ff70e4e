//! The order in which a queue reads what of it is on its shelf.

use std::collections::{BTreeSet, VecDeque};

use crate::ids::{Loc, RecordNumber};

/// Records of so many numbers in a row share a block.
const BLOCK: u64 = 64;

/// The records with objects of one queue on its shelf. It follows from their pages.
///
/// Nearly always the objects of a record came where they stand, so that its number says when they came.
/// What was written again came before: its order is kept, here and in the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    own: Records,
    /// Two records may begin with the same place while what one of them holds is written again.
    moved: BTreeSet<(Loc, RecordNumber)>,
}

/// A set of record numbers: a queue that has something in nearly every record takes two bits for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Records(VecDeque<Block>);

/// Records of one block: its number, and a bit for each. At least one is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block(u64, u64);

impl Rest {
    /// A record has something of the queue. Its lowest place was `before`, where that is told by its page
    /// ([`Page::moved`](super::Page::moved)), and is `now`.
    pub(super) fn change(&mut self, record: RecordNumber, before: Option<Loc>, now: Option<Loc>) {
        match (before, now) {
            (None, None) => self.own.insert(record),
            (Some(before), Some(now)) if before == now => {}
            (_, Some(now)) => {
                match before {
                    Some(before) => _ = self.moved.remove(&(before, record)),
                    None => _ = self.own.remove(record),
                }
                self.moved.insert((now, record));
            }
            (Some(_), None) => unreachable!("what was moved stays so until it leaves"),
        }
    }

    /// A record has nothing of the queue any more. `moved` is what its page said.
    pub(super) fn leave(&mut self, record: RecordNumber, moved: Option<Loc>) {
        let was = match moved {
            Some(order) => self.moved.remove(&(order, record)),
            None => self.own.remove(record),
        };
        assert!(was, "{record} has something of the queue");
    }

    /// Whether a record has something of the queue, all of which came where it stands.
    pub(super) fn has_own(&self, record: RecordNumber) -> bool {
        self.own.contains(record)
    }

    /// The records in the order of arrival. `first` says where the first object of the queue stands in
    /// a record.
    pub(super) fn iter(
        &self,
        first: impl Fn(RecordNumber) -> Loc,
    ) -> impl Iterator<Item = RecordNumber> {
        let (mut own, mut moved) = (self.own.iter().peekable(), self.moved.iter().peekable());
        std::iter::from_fn(move || match (own.peek(), moved.peek()) {
            (Some(record), Some((order, _))) if is_before(*order, *record, &first) => {
                moved.next().map(|(_, record)| *record)
            }
            (Some(_), _) => own.next(),
            (None, _) => moved.next().map(|(_, record)| *record),
        })
    }

    /// Whether everything of it came behind a place.
    pub(super) fn is_behind(&self, place: Loc, first: impl Fn(RecordNumber) -> Loc) -> bool {
        self.moved.first().is_none_or(|(order, _)| place < *order)
            && self.own.first().is_none_or(|record| is_before(place, record, &first))
    }
}

/// Whether a place is before that of the first object of a record, which is looked for only where the
/// record's number does not say it.
fn is_before(place: Loc, record: RecordNumber, first: impl Fn(RecordNumber) -> Loc) -> bool {
    place.record < record || place.record == record && place < first(record)
}

impl Records {
    /// Adds a record. Nearly always it is the newest one.
    fn insert(&mut self, record: RecordNumber) {
        let (number, bit) = split(record);
        match self.0.back_mut() {
            Some(Block(last, bits)) if *last == number => *bits |= bit,
            Some(Block(last, _)) if *last > number => match self.position(number) {
                Ok(at) => self.0[at].1 |= bit,
                Err(at) => self.0.insert(at, Block(number, bit)),
            },
            _ => self.0.push_back(Block(number, bit)),
        }
    }

    /// Says whether it was there.
    fn remove(&mut self, record: RecordNumber) -> bool {
        let (number, bit) = split(record);
        let Ok(at) = self.position(number) else { return false };
        let bits = &mut self.0[at].1;
        let was = *bits & bit != 0;
        *bits &= !bit;
        if *bits == 0 {
            self.0.remove(at);
        }
        was
    }

    fn contains(&self, record: RecordNumber) -> bool {
        let (number, bit) = split(record);
        self.position(number).is_ok_and(|at| self.0[at].1 & bit != 0)
    }

    fn first(&self) -> Option<RecordNumber> {
        self.0.front().map(Block::first)
    }

    fn iter(&self) -> impl Iterator<Item = RecordNumber> {
        self.0.iter().flat_map(|block| {
            let but_the_first = |bits: &u64| Some(bits & (bits - 1)).filter(|bits| *bits != 0);
            let rests = std::iter::successors(Some(block.1), but_the_first);
            rests.map(|bits| Block(block.0, bits).first())
        })
    }

    fn position(&self, number: u64) -> Result<usize, usize> {
        // What is taken is the oldest, nearly always.
        if self.0.front().is_some_and(|Block(first, _)| *first == number) {
            return Ok(0);
        }
        self.0.binary_search_by_key(&number, |Block(number, _)| *number)
    }
}

impl Block {
    fn first(&self) -> RecordNumber {
        RecordNumber(self.0 * BLOCK + u64::from(self.1.trailing_zeros()))
    }
}

/// A record's block, and its bit there.
fn split(record: RecordNumber) -> (u64, u64) {
    (record.0 / BLOCK, 1 << (record.0 % BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_behave_like_a_set() {
        let mut records = Records::default();
        for n in [70, 3, 64, 200, 63, 70] {
            records.insert(RecordNumber(n));
        }
        let all = |records: &Records| records.iter().map(|n| n.0).collect::<Vec<_>>();
        assert_eq!(all(&records), [3, 63, 64, 70, 200]);
        assert!(records.contains(RecordNumber(63)) && !records.contains(RecordNumber(65)));
        assert!(records.remove(RecordNumber(200)) && !records.remove(RecordNumber(200)));
        assert!(!records.remove(RecordNumber(5)) && records.remove(RecordNumber(3)));
        assert_eq!((all(&records), records.first()), (vec![63, 64, 70], Some(RecordNumber(63))));
    }

    #[test]
    fn what_was_written_again_is_read_when_it_came() {
        let loc = |record, position| Loc { record: RecordNumber(record), position };
        let mut rest = Rest::default();
        [5, 9, 80].into_iter().for_each(|n| rest.own.insert(RecordNumber(n)));
        let moved = [(loc(5, 2), 90), (loc(5, 4), 91), (loc(7, 0), 92), (loc(99, 0), 100)];
        rest.moved.extend(moved.map(|(order, record)| (order, RecordNumber(record))));
        // The first object of each record stands at position 3.
        let first = |record: RecordNumber| loc(record.0, 3);
        let order: Vec<u64> = rest.iter(first).map(|n| n.0).collect();
        assert_eq!(order, [90, 5, 91, 92, 9, 80, 100]);
        assert!(rest.is_behind(loc(5, 1), first) && rest.is_behind(loc(4, 7), first));
        assert!(!rest.is_behind(loc(5, 2), first) && !rest.is_behind(loc(6, 0), first));
        rest.moved.pop_first();
        assert!(rest.is_behind(loc(5, 2), first) && !rest.is_behind(loc(5, 3), first));
    }
}
