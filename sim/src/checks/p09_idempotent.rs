//! P9: pushing an id again where it was pushed makes no second object, and the same id with other
//! content is refused. `fold` sees that no lane stores an id twice.

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::object::Push;

use super::Checker;

impl Checker {
    pub(super) fn p09_pushed(
        &mut self,
        lane: LaneId,
        push: &Push,
        answered: ObjectId,
        already: bool,
    ) {
        let id = push.id.expect("the world chooses ids");
        if answered != id {
            return self.fail("P9", format!("pushed {id}, answered {answered}"));
        }
        let everywhere = (id, LaneId([0; 16]))..=(id, LaneId([255; 16]));
        let alone_here = self.pushes.range(everywhere).count() == 1;
        let p = self.pushes.get_mut(&(id, lane)).expect("it was noted");
        // What was tried once is what was noted then.
        let noted = p.contents.first().filter(|_| p.tried == 1).copied();
        let hash = noted.unwrap_or_else(|| push.content_hash());
        let first = p.ok.replace(hash);
        let alone = p.tried == 1;
        // Of one id pushed at two nodes either may be the one that is known.
        if first.is_some_and(|h| h != hash) && alone_here {
            self.fail("P9", format!("{id} was taken with two contents"));
        }
        // It may have been held here for another node, and be that node's again.
        if already && alone && !self.model.lanes().any(|l| l.knows(id)) {
            self.fail("P9", format!("{id} is said to exist and does not"));
        }
    }
}
