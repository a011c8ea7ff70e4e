//! P3: at most one settle of a version commits (`fold` sees that in the logs), and the same settle
//! again gets the same answer.

use dpc_core::Answer;
use dpc_core::object::{Hash16, Token};
use dpc_core::refusal::Refusal;

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

    /// Nobody settles with a token that nobody was given, or that is another's, or with emits that
    /// cannot be.
    pub(crate) fn p03_forged(&mut self, token: &Token, content: Hash16, answer: &Answer) {
        // The same settle again, from whomever, has the same answer.
        let repeat = self.p03_is_repeat(token, content) || self.model.has_mark(token, content);
        if !repeat && matches!(answer, Answer::Done(n) if *n > 0) {
            self.fail("P3", format!("{} was settled by somebody who may not", token.object));
        }
    }

    /// Whether a settle repeats one that was answered done.
    fn p03_is_repeat(&self, token: &Token, content: Hash16) -> bool {
        self.done.get(token) == Some(&content)
    }

    /// A settle that was answered done is never said to be lost when it is repeated while its mark
    /// is kept.
    pub(super) fn p03_repeat_refused(&mut self, token: &Token, content: Hash16, why: &Refusal) {
        let again = self.p03_is_repeat(token, content) && self.model.keeps_mark(token, content);
        if again {
            let what = format!("a repeated settle of {} was refused: {why}", token.object);
            self.fail("P3", what);
        }
    }
}
