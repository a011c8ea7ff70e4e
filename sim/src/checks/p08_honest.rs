//! P8: an answer is done, definitely not done, or unknown; "definitely not" has no effect.

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::object::{Hash16, Token};

use super::Checker;

impl Checker {
    /// A push that was refused each time it was tried is not there.
    pub(super) fn p08_push_refused(&mut self, lane: LaneId, id: ObjectId) {
        let p = &self.pushes[&(id, lane)];
        let certain = p.ok.is_none() && p.refused == p.tried;
        if certain && self.model.lane(lane).was_pushed(id) {
            self.fail("P8", format!("{id} was refused and is there"));
        }
    }

    /// A settle that was tried once and refused is not done.
    pub(super) fn p08_settle_refused(&mut self, token: &Token, content: Hash16) {
        let once = self.asked.get(token).is_none_or(|all| all.len() == 1);
        if once && self.model.has_mark(token, content) {
            self.fail("P8", format!("a settle of {} was refused and done", token.object));
        }
    }
}
