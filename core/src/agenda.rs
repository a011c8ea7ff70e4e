//! What is to be looked at later: noted often, and taken seldom, in order.

use serde::{Deserialize, Serialize};

/// Items to look at, each once, in their order. Noting one costs a push onto a list; it is sorted when it
/// is taken, and when it is full, so that it is never longer than about twice what is in it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Agenda<T>(Vec<T>);

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord + Copy> Agenda<T> {
    /// Notes an item, which may be noted already.
    pub(crate) fn note(&mut self, item: T) {
        if self.0.last() == Some(&item) {
            return;
        }
        if self.0.len() == self.0.capacity() {
            self.sort();
        }
        self.0.push(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing is to be looked at.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// One is not to be looked at any more.
    pub(crate) fn forget(&mut self, item: T) {
        self.0.retain(|noted| *noted != item);
    }

    /// Takes all, in order. What is noted from now on is for the next time.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.sort();
        std::mem::take(&mut self.0)
    }

    /// Gives back the list of items that have been looked at, so that the next ones need no new one.
    pub(crate) fn give_back(&mut self, mut taken: Vec<T>) {
        if self.0.capacity() == 0 {
            taken.clear();
            self.0 = taken;
        }
    }

    fn sort(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
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
        agenda.forget(2);
        assert_eq!(agenda.take(), [1, 3]);
        assert!(agenda.is_empty() && agenda.take().is_empty());
    }

    #[test]
    fn it_is_not_longer_than_about_twice_what_is_in_it() {
        let mut agenda = Agenda::default();
        for n in 0..100_000_u64 {
            agenda.note(n % 7);
        }
        assert!(agenda.0.capacity() <= 16, "{}", agenda.0.capacity());
        assert_eq!(agenda.take(), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_is_noted_while_it_is_looked_at_is_for_the_next_time() {
        let mut agenda = Agenda::default();
        agenda.extend([1, 2]);
        let taken = agenda.take();
        agenda.note(1);
        agenda.give_back(taken);
        assert_eq!(agenda.take(), [1]);
    }
}
