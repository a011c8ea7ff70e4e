//! What peers' lanes were known to be, the latest of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::LaneId;
use crate::limits::PEERS_MAX;
use crate::record::PeerSeen;

/// Lanes of peers in the order in which something was last learnt of them. The order follows from
/// the log alone, so that a recovered node forgets the same ones.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Peers {
    by_lane: BTreeMap<LaneId, (u64, PeerSeen)>,
    by_age: BTreeMap<u64, LaneId>,
    last: u64,
}

impl Peers {
    /// Takes in what was learnt; the one that was silent for longest gives way.
    pub(crate) fn insert(&mut self, seen: PeerSeen) {
        self.remove(&seen.lane);
        if self.by_lane.len() == PEERS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_lane.remove(&oldest);
        }
        self.last += 1;
        self.by_age.insert(self.last, seen.lane);
        self.by_lane.insert(seen.lane, (self.last, seen));
    }

    pub(crate) fn remove(&mut self, lane: &LaneId) {
        if let Some((age, _)) = self.by_lane.remove(lane) {
            self.by_age.remove(&age);
        }
    }

    pub(crate) fn get(&self, lane: &LaneId) -> Option<&PeerSeen> {
        self.by_lane.get(lane).map(|(_, seen)| seen)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_lane.len()
    }

    /// All of them, those heard of last at the end.
    pub(crate) fn by_age(&self) -> impl DoubleEndedIterator<Item = &PeerSeen> {
        self.by_age.values().map(|lane| &self.by_lane[lane].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, RecordNumber};
    use crate::names::Name;

    fn seen(n: u128, number: u64) -> PeerSeen {
        PeerSeen {
            lane: LaneId(n.to_be_bytes()),
            name: Name::new("name", "a").expect("a valid name"),
            epoch: Epoch(1),
            number: RecordNumber(number),
        }
    }

    #[test]
    fn the_one_that_was_silent_for_longest_gives_way() {
        let mut peers = Peers::default();
        let all = PEERS_MAX as u128;
        (0..all).for_each(|n| peers.insert(seen(n, 1)));
        peers.insert(seen(0, 2));
        peers.insert(seen(all, 1));
        assert_eq!(peers.len(), PEERS_MAX);
        assert!(peers.get(&seen(1, 0).lane).is_none());
        assert_eq!(peers.get(&seen(0, 0).lane), Some(&seen(0, 2)));
        let latest: Vec<_> = peers.by_age().rev().take(2).cloned().collect();
        assert_eq!(latest, [seen(all, 1), seen(0, 2)]);
        peers.remove(&seen(0, 0).lane);
        assert_eq!((peers.len(), peers.by_age().count()), (PEERS_MAX - 1, PEERS_MAX - 1));
    }
}
