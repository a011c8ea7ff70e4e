//! P7: an object is ready or leased in at most one place. `fold` sees that in the logs; here it is
//! seen in what is delivered.

use dpc_core::effect::Delivery;
use dpc_core::ids::LaneId;

use super::Checker;

impl Checker {
    pub(super) fn p07_sole_owner(&mut self, lane: LaneId, delivery: &Delivery) {
        let key = (delivery.object.id, delivery.object.birth);
        if self.model.doubtful.contains(&key) || delivery.object.possible_duplicate {
            return;
        }
        let owners = self.model.owners_of(&key);
        if owners.iter().any(|owner| *owner != lane) {
            let names: Vec<String> = owners.iter().map(LaneId::short).collect();
            let (id, at) = (key.0, lane.short());
            self.fail(
                "P7",
                format!("{id} was delivered at {at}, owned by {}", names.join(" and ")),
            );
        }
    }
}
