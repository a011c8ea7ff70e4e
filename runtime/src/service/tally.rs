//! Which items of a request or stream are still without their answer.

use std::collections::BTreeMap;

use dpc_core::Answer;
use dpc_core::time::Wall;
use dpc_proto::v1;

use crate::wire::error;

/// What an item waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// One answer.
    One,
    /// One answer, which says how many leases it has settled.
    Transaction,
    /// Leases: a refusal for each that is refused, then one answer for all others.
    Leases {
        /// How many are not refused so far.
        left: u32,
        /// Whether the item named more than one.
        several: bool,
        /// Whether they are settled by it.
        settles: bool,
    },
}

impl Expect {
    /// Leases of a settlement.
    pub(crate) fn settles(count: usize) -> Self {
        Self::Leases { left: count_u32(count), several: count > 1, settles: true }
    }

    /// Leases of a begin or an extend.
    pub(crate) fn leases(count: usize) -> Self {
        Self::Leases { left: count_u32(count), several: count > 1, settles: false }
    }
}

/// What an answer means for its item.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// A refusal to pass on.
    pub(crate) refused: Option<v1::Refused>,
    /// The item has all its answers.
    pub(crate) ended: bool,
    /// What is not refused of it is done: said once, at the end.
    pub(crate) done: bool,
    /// How many leases this answer has settled.
    pub(crate) settled: u64,
    /// When the first of the extended leases ends.
    pub(crate) until: Option<Wall>,
}

/// The open items.
#[derive(Default)]
pub(crate) struct Tally {
    open: BTreeMap<u64, Expect>,
}

impl Tally {
    pub(crate) fn expect(&mut self, seq: u64, what: Expect) {
        self.open.insert(seq, what);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes an answer into account. One for an item that is not open is nothing.
    pub(crate) fn answer(&mut self, seq: u64, answer: &Answer) -> Outcome {
        let Some(expect) = self.open.get_mut(&seq) else { return Outcome::default() };
        let mut outcome = Outcome::default();
        match answer {
            Answer::Done(count) => {
                outcome.done = true;
                if matches!(expect, Expect::Transaction | Expect::Leases { settles: true, .. }) {
                    outcome.settled = *count;
                }
            }
            Answer::Extended(_, until) => {
                outcome.done = true;
                outcome.until = Some(*until);
            }
            Answer::RefusedAt(position, refusal) => {
                let error = error::refused(refusal, "");
                match expect {
                    Expect::One | Expect::Transaction => {
                        outcome.refused = Some(refused(seq, Some(*position), error));
                        outcome.ended = true;
                    }
                    Expect::Leases { left, several, .. } => {
                        *left = left.saturating_sub(1);
                        let position = several.then_some(*position);
                        outcome.refused = Some(refused(seq, position, error));
                        outcome.ended = !*several;
                        outcome.done = *several && *left == 0;
                    }
                }
            }
            Answer::Refused(refusal) => {
                outcome.refused = Some(refused(seq, None, error::refused(refusal, "")));
                outcome.ended = true;
            }
            Answer::Unknown(why) => {
                outcome.refused = Some(refused(seq, None, error::unknown(why)));
                outcome.ended = true;
            }
            Answer::Pushed { .. }
            | Answer::Taken(_)
            | Answer::View(_)
            | Answer::Views(_)
            | Answer::Types(_)
            | Answer::Subscriptions(_)
            | Answer::Nodes(_) => outcome.ended = true,
        }
        outcome.ended |= outcome.done;
        if outcome.ended {
            self.open.remove(&seq);
        }
        outcome
    }
}

/// A refusal of an item or a part of it.
pub(crate) fn refused(seq: u64, position: Option<u32>, error: v1::Error) -> v1::Refused {
    v1::Refused { seq, position, error: Some(error) }
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).expect("a request is bounded")
}

#[cfg(test)]
mod tests {
    use dpc_core::refusal::{Code, Refusal};

    use super::*;

    fn lost() -> Refusal {
        Refusal::new(Code::FailedPrecondition, "LEASE_LOST", "the lease is lost")
    }

    #[test]
    fn refused_leases_come_first_and_the_done_says_all_others() {
        let mut tally = Tally::default();
        tally.expect(7, Expect::settles(4));
        let part = tally.answer(7, &Answer::RefusedAt(2, Box::new(lost())));
        assert_eq!(part.refused.expect("passed on").position, Some(2));
        assert!(!part.ended);
        let last = tally.answer(7, &Answer::Done(3));
        assert!(last.ended && last.done && last.settled == 3);
        assert!(tally.is_empty());
        assert!(!tally.answer(7, &Answer::Done(1)).ended, "answered already");
    }

    #[test]
    fn the_refusal_of_a_single_lease_has_no_position_and_no_done() {
        let mut tally = Tally::default();
        tally.expect(1, Expect::settles(1));
        let outcome = tally.answer(1, &Answer::RefusedAt(0, Box::new(lost())));
        assert_eq!(outcome.refused.expect("passed on").position, None);
        assert!(outcome.ended && !outcome.done);
    }

    #[test]
    fn of_several_leases_all_refused_the_last_refusal_brings_the_done() {
        let mut tally = Tally::default();
        tally.expect(1, Expect::leases(2));
        assert!(!tally.answer(1, &Answer::RefusedAt(0, Box::new(lost()))).done);
        assert!(tally.answer(1, &Answer::RefusedAt(1, Box::new(lost()))).done);
    }
}
