//! P2: whatever is stored or delivered was pushed, or emitted by a committed settle.

use dpc_core::effect::Delivery;
use dpc_core::ids::LaneId;

use super::Checker;

impl Checker {
    /// What is new in a log was pushed there by somebody, or emitted.
    pub(super) fn p02_new_in_log(&mut self, lane: LaneId) {
        for (id, entity_hash) in std::mem::take(&mut self.model.fresh) {
            let known = self.pushes.get(&(id, lane));
            if !known.is_some_and(|p| p.contents.contains(&entity_hash)) {
                self.broken.push(format!("P2: {id:?} was never pushed at {}", lane.short()));
            }
        }
    }

    /// What is delivered is in the log there, ready or held of a transfer whose MOVED is committed (P4: not
    /// before its commit), and as it is.
    pub(super) fn p02_p04_delivered_as_committed(&mut self, lane: LaneId, delivery: &Delivery) {
        let object = &delivery.object;
        let Some(thing) = self.model.deliverable(lane, object.id) else {
            let name = lane.short();
            let what = format!("{} was delivered at {name} and is not ready there", object.id);
            return self.fail("P4", what);
        };
        let o = &thing.object;
        let same = o.version == object.version
            && o.entity == object.entity
            && o.birth == object.birth
            && o.handled == object.handled;
        if !same {
            self.fail("P2", format!("{} was delivered as it never was", object.id));
        }
    }
}
