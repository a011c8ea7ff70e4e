//! The pages of records, found by the record's number.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use serde::{Deserialize, Serialize};

use super::Page;
use crate::ids::RecordNumber;
use crate::recording::{SlicedSlab, Slices};

/// Pages in the order of their records. What was written together is delivered and settled together, so that
/// the next page that is asked for is mostly the one before: it is not looked for again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pages {
    pages: SlicedSlab<(RecordNumber, Page)>,
    #[serde(skip)]
    places: BTreeMap<RecordNumber, u32>,
    /// The last one that was to be changed, and its place.
    #[serde(skip)]
    last: Option<(RecordNumber, u32)>,
}

impl Pages {
    /// What goes into a snapshot in slices.
    pub(super) fn slices(&mut self) -> &mut dyn Slices {
        self.pages.slices()
    }

    /// What follows from the slices. `None` if a record has two pages.
    pub(super) fn derive(&mut self) -> Option<()> {
        self.places = self.pages.iter().map(|(place, (record, _))| (*record, place)).collect();
        (self.places.len() == self.pages.len()).then_some(())
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, record: RecordNumber) -> Option<&Page> {
        self.place(record).map(|place| &self.pages.get(place).1)
    }

    pub(super) fn get_mut(&mut self, record: RecordNumber) -> Option<&mut Page> {
        let place = self.place(record)?;
        self.last = Some((record, place));
        Some(&mut self.pages.get_mut(place).1)
    }

    /// The page of a record; an empty one if there was none.
    pub(super) fn get_or_insert(&mut self, record: RecordNumber) -> &mut Page {
        if self.place(record).is_none() {
            self.insert(record, Page::default());
        }
        self.get_mut(record).expect("just put there")
    }

    /// Puts the page of a record that has none.
    pub(super) fn insert(&mut self, record: RecordNumber, page: Page) {
        let before = self.places.insert(record, self.pages.insert((record, page)));
        assert!(before.is_none(), "a record has one page");
    }

    pub(super) fn remove(&mut self, record: RecordNumber) {
        if let Some(place) = self.places.remove(&record) {
            self.pages.remove(place);
            self.last = None;
        }
    }

    /// The pages of some records, in order.
    pub(super) fn range(
        &self,
        records: impl RangeBounds<RecordNumber>,
    ) -> impl Iterator<Item = (&RecordNumber, &Page)> {
        self.places.range(records).map(|(record, place)| (record, &self.pages.get(*place).1))
    }

    /// The first record at or behind `from` that has a page.
    pub(super) fn first_from(&self, from: RecordNumber) -> Option<RecordNumber> {
        // Nearly always nothing stands before it.
        let first = self.places.first_key_value().map(|(n, _)| *n).filter(|n| *n >= from);
        first.or_else(|| self.places.range(from..).next().map(|(n, _)| *n))
    }

    fn place(&self, record: RecordNumber) -> Option<u32> {
        match self.last {
            Some((last, place)) if last == record => Some(place),
            _ => self.places.get(&record).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Wall;

    #[test]
    fn a_page_is_found_as_long_as_it_is_there() {
        let page = |bytes| Page::new(Wall(1), bytes, 1);
        let record = RecordNumber;
        let mut pages = Pages::default();
        (1..=4).for_each(|n| pages.insert(record(n), page(n as u32)));
        let bytes = |pages: &Pages, n| pages.get(record(n)).map(|page| page.bytes);
        // The same one again and again, another one, and one that has gone and come back.
        for n in [2, 2, 3, 2] {
            pages.get_mut(record(n)).expect("it is there").bytes += 10;
        }
        assert_eq!([1, 2, 3, 5].map(|n| bytes(&pages, n)), [Some(1), Some(32), Some(13), None]);
        pages.remove(record(2));
        assert_eq!((bytes(&pages, 2), pages.get_mut(record(2)).is_none()), (None, true));
        pages.insert(record(9), page(9));
        pages.get_or_insert(record(2)).bytes = 7;
        assert_eq!((bytes(&pages, 2), bytes(&pages, 9), pages.len()), (Some(7), Some(9), 5));
        let some: Vec<u64> = pages.range(record(2)..record(9)).map(|(n, _)| n.0).collect();
        assert_eq!(some, [2, 3, 4]);
        let first = |from| pages.first_from(record(from)).map(|n| n.0);
        assert_eq!([0, 2, 5, 10].map(first), [Some(1), Some(2), Some(9), None]);
    }
}
