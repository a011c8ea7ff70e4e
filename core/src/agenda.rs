//! What is to be looked at later: noted often, and taken seldom, in order.

use serde::{Deserialize, Serialize};

/// Notes beyond twice the items, before it is looked which are noted more than once.
const SLACK: usize = 64;

/// Items to look at, each once, in their order. Noting one costs a push onto a list, which is sorted when it is
/// taken, and when it has become longer than twice what was in it, and `SLACK`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Agenda<T> {
    noted: Vec<T>,
    /// How many there were when it was last sorted. That it is sorted follows from what was noted and from nothing
    /// else: a core that is restored from a snapshot has the same list.
    sorted: usize,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { noted: Vec::new(), sorted: 0 }
    }
}

impl<T: Ord + Copy> Agenda<T> {
    /// Notes an item, which may be noted already.
    pub(crate) fn note(&mut self, item: T) {
        if self.noted.last() == Some(&item) {
            return;
        }
        if self.noted.len() > 2 * self.sorted + SLACK {
            self.sort();
        }
        self.noted.push(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.noted.is_empty()
    }

    /// Nothing is to be looked at.
    pub(crate) fn clear(&mut self) {
        self.noted.clear();
        self.sorted = 0;
    }

    /// Takes all, in order. What is noted from now on is for the next time.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.sort();
        self.sorted = 0;
        std::mem::take(&mut self.noted)
    }

    /// Gives back the list of items that have been looked at: its memory serves the next ones.
    pub(crate) fn give_back(&mut self, mut taken: Vec<T>) {
        if taken.capacity() > self.noted.capacity() {
            taken.clear();
            taken.append(&mut self.noted);
            self.noted = taken;
        }
    }

    fn sort(&mut self) {
        self.noted.sort_unstable();
        self.noted.dedup();
        self.sorted = self.noted.len();
    }
}

impl<T: Ord + Copy> Extend<T> for Agenda<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.note(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_in_order() {
        let mut agenda = Agenda::default();
        agenda.extend([3, 1, 2, 1, 3, 3]);
        assert_eq!(agenda.take(), [1, 2, 3]);
        assert!(agenda.is_empty() && agenda.take().is_empty());
    }

    #[test]
    fn it_is_not_much_longer_than_twice_what_is_in_it_and_seldom_sorted() {
        let mut agenda = Agenda::default();
        let (mut longest, mut sorted) = (0, 0);
        for n in 0..100_000_u64 {
            let before = agenda.noted.len();
            agenda.note(n * 7 % 1_000);
            sorted += usize::from(agenda.noted.len() < before);
            longest = longest.max(agenda.noted.len());
        }
        assert!(longest <= 2 * 1_000 + SLACK + 1, "{longest}");
        assert!(sorted < 100, "{sorted}");
        assert_eq!(agenda.take(), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_comes_back_from_a_snapshot_is_as_it_was_and_stays_so() {
        let mut here = Agenda::default();
        here.extend(0..1_000_u64);
        let taken = here.take();
        here.give_back(taken);
        here.extend([2, 1]);
        let bytes = postcard::to_allocvec(&here).expect("it is plain data");
        let mut there: Agenda<u64> = postcard::from_bytes(&bytes).expect("just written");
        for n in 0..1_000 {
            let n = n * 7 % 20;
            here.note(n);
            there.note(n);
            assert_eq!(here.noted, there.noted);
        }
    }

    #[test]
    fn what_is_noted_while_it_is_looked_at_is_for_the_next_time() {
        let mut agenda = Agenda::default();
        agenda.extend([1, 2, 3]);
        let taken = agenda.take();
        agenda.note(1);
        agenda.give_back(taken);
        assert!(agenda.noted.capacity() >= 3, "the longer list stays");
        assert_eq!(agenda.take(), [1]);
    }
}
