//! P6: after a commit at an epoch no commit of that lane succeeds at a lower one, and every claim
//! has an epoch of its own, higher than all before.

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId};
use dpc_core::record::open_header;

use super::Checker;

impl Checker {
    /// A lane was claimed.
    pub(crate) fn p06_claimed(&mut self, lane: LaneId, epoch: Epoch) {
        if let Some(before) = self.claimed.insert(lane, epoch)
            && before >= epoch
            && !self.model.is_lost(lane)
        {
            let name = lane.short();
            self.fail("P6", format!("{name} was claimed with {before}, then with {epoch}"));
        }
    }

    /// Everything that was committed before a claim has been read: nothing below its epoch follows.
    pub(crate) fn p06_recovered(&mut self, lane: LaneId, epoch: Epoch) {
        self.model.raise_epoch(lane, epoch);
    }

    /// A record of a claimed lane carries no epoch above the claim's; `fold` sees that none falls.
    pub(super) fn p06_epoch_of_record(&mut self, lane: LaneId, bytes: &Bytes) {
        let (Ok(header), Some(claimed)) = (open_header(bytes), self.claimed.get(&lane)) else {
            return;
        };
        if header.epoch > *claimed && !self.model.is_lost(lane) {
            let (name, epoch) = (lane.short(), header.epoch);
            self.fail("P6", format!("a record of {name} has epoch {epoch}, claimed is {claimed}"));
        }
    }
}
