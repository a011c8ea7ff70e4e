//! P16: damaged stored data is refused with the place, never served and never silently cut.

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::store::StoreError;

use super::Checker;

impl Checker {
    /// What a store gives is what was committed under that number.
    pub(crate) fn p16_served(&mut self, lane: LaneId, number: RecordNumber, bytes: &Bytes) {
        if self.model.is_lost(lane) {
            return;
        }
        if self.model.lane(lane).hash_of(number).is_some_and(|hash| hash != hash_of(bytes)) {
            let name = lane.short();
            self.fail("P16", format!("record {number} of {name} was served changed"));
        }
    }

    /// A log that is claimed ends where the last acknowledged record is, or behind it.
    pub(crate) fn p16_not_cut(&mut self, lane: LaneId, last: RecordNumber) {
        let known = self.model.lane(lane).last();
        if last < known && !self.model.is_lost(lane) {
            let name = lane.short();
            self.fail(
                "P16",
                format!("{name} was opened up to record {last}, {known} was acknowledged"),
            );
        }
    }

    /// A lane is lost with its disk, or was put back to an old state.
    pub(crate) fn p16_lost(&mut self, lane: LaneId) {
        self.model.lose(lane);
    }

    /// A peer heard of a lane that it had known further on, and let it in.
    pub(crate) fn p16_let_in(&mut self, lane: LaneId, name: &dpc_core::names::Name) {
        let what = format!("{name} let {} in, which it had known further on", lane.short());
        self.fail("P16", what);
    }

    /// A node started from a damaged disk as if nothing were wrong.
    pub(crate) fn p16_unnoticed(&mut self, lane: LaneId, damaged: &[RecordNumber]) {
        let name = lane.short();
        self.fail("P16", format!("{name} is damaged at {damaged:?}, and nobody noticed"));
    }

    /// A store refuses what it has. It does so only if something is wrong, and says where.
    pub(crate) fn p16_refused(
        &mut self,
        lane: LaneId,
        error: &StoreError,
        damaged: &[RecordNumber],
    ) {
        let StoreError::Damaged { place, .. } = error else { return };
        let name = lane.short();
        if damaged.is_empty() {
            return self.fail("P16", format!("{name} is whole and was refused: {error}"));
        }
        // A damaged record is found by itself, or by the link of the one behind it.
        let near =
            |n: &RecordNumber| [n.0, n.0 + 1].iter().any(|n| place.ends_with(&format!(" {n}")));
        if !damaged.iter().any(near) {
            let what = format!("{name} is damaged at {damaged:?} and was refused for {place}");
            self.fail("P16", what);
        }
    }
}
