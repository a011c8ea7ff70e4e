//! P3: at most one settle of a version commits (`fold` sees that in the logs), and the same settle
//! again gets the same answer.

use dpc_core::object::{Hash16, Token};

use super::Checker;
use crate::coverage::Coverage;

impl Checker {
    /// Two settles of one lease are answered done only if they are the same.
    pub(super) fn p03_repeated(&mut self, token: &Token, content: Hash16, seen: &mut Coverage) {
        if let Some(before) = self.done.insert(*token, content) {
            seen.add("settle repeated and answered the same");
            if before != content {
                self.fail("P3", format!("{} was settled twice, differently", token.object));
            }
        }
    }

    /// A settle that was answered done is never refused when it is repeated.
    pub(super) fn p03_repeat_refused(&mut self, token: &Token, content: Hash16) {
        if self.done.get(token) == Some(&content) {
            self.fail("P3", format!("a repeated settle of {} was refused", token.object));
        }
    }
}
