//! P1: an OK means durable, and what was answered OK is final, live or parked ever after.

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::object::{Hash16, Token};

use super::Checker;

impl Checker {
    /// A push is answered OK only when its object is in the log. What is said to exist may have been
    /// held there for another node, and be that node's again.
    pub(super) fn p01_push_is_durable(&mut self, lane: LaneId, id: ObjectId, already: bool) {
        let elsewhere = already && self.model.lanes().any(|l| l.knows(id));
        if !self.model.lane(lane).knows(id) && !elsewhere {
            self.fail("P1", format!("{id} was answered OK and is not durable"));
        }
    }

    /// A settle is answered OK only when its mark is in the log.
    pub(super) fn p01_settle_is_durable(&mut self, token: &Token, version: u32, content: Hash16) {
        if !self.model.has_mark(token, content) {
            let what = format!("v{version} of {} was settled OK and is not", token.object);
            self.fail("P1", what);
        }
    }

    /// After everything: each push that was answered OK has an end, is parked, or lives.
    pub(crate) fn p01_all_kept(&mut self) {
        let mut lost = Vec::new();
        for ((id, lane), pushed) in &self.pushes {
            if pushed.ok.is_none() {
                continue;
            }
            if let Err(what) = self.model.trace_life(*id, *lane) {
                lost.push(format!("P1: {id} pushed at {}: {what}", lane.short()));
            }
        }
        self.broken.extend(lost);
    }
}
