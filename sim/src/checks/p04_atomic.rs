//! P4: emits exist iff their settle committed, a transaction is done whole or not at all (P8: and
//! a refused one not at all).

use dpc_core::Answer;
use dpc_core::ids::LaneId;
use dpc_core::input::{Settle, Transaction};
use dpc_core::object::Token;

use super::Checker;

impl Checker {
    /// What a settle that was answered done was to emit is in some log.
    pub(super) fn p04_emits_are_there(&mut self, settle: &Settle) {
        let ids = settle.emits().iter().filter_map(|e| e.id);
        let missing = ids.into_iter().find(|id| !self.model.lanes().any(|l| l.was_pushed(*id)));
        if let Some(id) = missing {
            self.fail("P4", format!("{id} was to be emitted and is not there"));
        }
    }

    pub(super) fn p04_p08_transaction(
        &mut self,
        lane: LaneId,
        tokens: &[(Token, u32)],
        transaction: &Transaction,
        answer: &Answer,
    ) {
        // What was asked before as well may have been done by that.
        let refused = matches!(answer, Answer::RefusedAt(..) | Answer::Refused(_));
        let before = |token: &Token| refused && self.asked.get(token).is_some_and(|a| a.len() > 1);
        let marks = tokens
            .iter()
            .zip(&transaction.settles)
            .filter(|((token, _), settle)| self.model.has_mark(token, settle.content_hash()))
            .filter(|((token, _), _)| !before(token))
            .count();
        let pushed = transaction.pushes.iter().filter_map(|p| p.id);
        let pushed = pushed.filter(|id| self.model.lane(lane).was_pushed(*id)).count();
        let (all, done) = (tokens.len() + transaction.pushes.len(), marks + pushed);
        match answer {
            Answer::Done(_) if done != all => {
                self.fail("P4", format!("{done} of {all} items of a transaction were done"));
            }
            _ if refused && done != 0 => {
                self.fail("P8", format!("a refused transaction did {done} of {all} items"));
            }
            _ => {}
        }
    }
}
