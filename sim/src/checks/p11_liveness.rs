//! P11: with reachable free demand everything comes to its end. What has not is named.

use dpc_core::ids::{LaneId, ObjectId};

use super::Checker;

impl Checker {
    /// What is still on its way, with where it is.
    pub fn unfinished(&self) -> Vec<(LaneId, ObjectId)> {
        self.model.unfinished()
    }

    /// Whether everything has come to its end, or is parked.
    pub(crate) fn is_finished(&self) -> bool {
        self.model.is_finished()
    }
}
