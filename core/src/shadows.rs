//! Whose the shadows are that stand in the log. An offer's objects mostly stand one behind the other, so
//! places are kept as runs: a handoff costs an entry for each record that it moves objects of, and a
//! place is found among any number of them.

use std::collections::BTreeMap;

use crate::ids::Loc;
use crate::record::TransferId;

/// Runs of places, by the first one of each: how many there are, and whose.
#[derive(Debug, Default)]
pub(crate) struct Shadows(BTreeMap<Loc, (u32, TransferId)>);

impl Shadows {
    /// Adds places of a transfer, in order. Nobody has them.
    pub(crate) fn add(&mut self, id: TransferId, places: impl IntoIterator<Item = Loc>) {
        let mut run: Option<(Loc, u32)> = None;
        for at in places {
            match &mut run {
                Some((first, count)) if behind(*first, *count) == Some(at) => *count += 1,
                _ => {
                    self.put(id, run.replace((at, 1)));
                }
            }
        }
        self.put(id, run);
    }

    fn put(&mut self, id: TransferId, run: Option<(Loc, u32)>) {
        if let Some((first, count)) = run.filter(|(_, count)| *count > 0) {
            self.0.insert(first, (count, id));
        }
    }

    /// Whose the shadow of a place is.
    pub(crate) fn get(&self, at: Loc) -> Option<TransferId> {
        self.run_of(at).map(|(_, _, id)| id)
    }

    /// The run that a place is in.
    fn run_of(&self, at: Loc) -> Option<(Loc, u32, TransferId)> {
        let (first, (count, id)) = self.0.range(..=at).next_back()?;
        let is_in = first.record == at.record && at.position - first.position < *count;
        is_in.then_some((*first, *count, *id))
    }

    /// Takes a place out, and says whose it was.
    pub(crate) fn remove(&mut self, at: Loc) -> Option<TransferId> {
        let (first, count, id) = self.run_of(at)?;
        let before = at.position - first.position;
        self.0.remove(&first);
        self.put(id, Some((first, before)));
        self.put(id, behind(at, 1).map(|next| (next, count - before - 1)));
        Some(id)
    }

    /// Takes all places of a transfer out, which are these, in order.
    pub(crate) fn remove_all<'a>(&mut self, places: impl IntoIterator<Item = &'a Loc>) {
        // A run is cut into pieces, and never grows: each begins at one of the places.
        let mut places = places.into_iter();
        while let Some(at) = places.next() {
            let (count, _) = self.0.remove(at).expect("the places are those of runs");
            // The others of the run follow.
            let others = count as usize - 1;
            assert_eq!(places.by_ref().take(others).count(), others, "a run is of one transfer");
        }
    }
}

/// The place that lies so far behind another one in its record.
fn behind(at: Loc, count: u32) -> Option<Loc> {
    Some(Loc { record: at.record, position: at.position.checked_add(count)? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::{Epoch, Incarnation, LaneId, RecordNumber};

    fn transfer(n: u64) -> TransferId {
        let (sender, receiver) = (LaneId([1; 16]), LaneId([2; 16]));
        TransferId { sender, receiver, epoch: Epoch(1), incarnation: Incarnation(1), n }
    }

    fn places(record: u64, positions: &[u32]) -> BTreeSet<Loc> {
        let at = |position: &u32| Loc { record: RecordNumber(record), position: *position };
        positions.iter().map(at).collect()
    }

    #[test]
    fn places_of_several_transfers_are_told_apart_whatever_is_taken_out() {
        let mut shadows = Shadows::default();
        let mut one = places(5, &[0, 1, 2, 3, 7, 8, u32::MAX]);
        one.extend(places(6, &[0]));
        let other = places(5, &[4, 5, 6]);
        shadows.add(transfer(1), one.iter().copied());
        shadows.add(transfer(2), other.iter().copied());
        assert_eq!(shadows.0.len(), 5, "runs");
        // From the middle, the end and the begin of runs, and again.
        for position in [2, 8, 0, 2] {
            let [at] = places(5, &[position]).into_iter().collect::<Vec<_>>()[..] else { panic!() };
            let is_there = one.remove(&at);
            assert_eq!(shadows.remove(at), is_there.then_some(transfer(1)), "{at}");
        }
        for record in 4..=7 {
            for at in places(record, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, u32::MAX]) {
                let of = |places: &BTreeSet<Loc>, n| places.contains(&at).then_some(transfer(n));
                let expected = of(&one, 1).or_else(|| of(&other, 2));
                assert_eq!(shadows.get(at), expected, "{at}");
            }
        }
        shadows.remove_all(&one);
        assert_eq!(shadows.0.len(), 1, "the other's");
        shadows.remove_all(&other);
        assert!(shadows.0.is_empty());
    }
}
