//! The gate of persist-before-send: effects wait here for the commit that they name.

use std::collections::BTreeMap;

use dpc_core::Effect;
use dpc_core::ids::RecordNumber;

/// Holds effects until their records are durable. A forgotten sync cannot let one out.
#[derive(Default)]
pub(crate) struct Gate {
    committed: RecordNumber,
    held: BTreeMap<RecordNumber, Vec<Effect>>,
    /// Memory for the effects of another record.
    spare: Vec<Effect>,
}

impl Gate {
    /// A gate of a log that is durable up to `committed`.
    pub(crate) fn new(committed: RecordNumber) -> Self {
        Self { committed, held: BTreeMap::new(), spare: Vec::new() }
    }

    /// Holds the effect, or gives it back if it may pass now.
    pub(crate) fn pass(&mut self, effect: Effect) -> Option<Effect> {
        match ticket(&effect) {
            Some(number) if number > self.committed => {
                let held = self.held.entry(number);
                held.or_insert_with(|| std::mem::take(&mut self.spare)).push(effect);
                None
            }
            _ => Some(effect),
        }
    }

    /// The record is durable: what waited for it may go, in the order it came.
    pub(crate) fn open(&mut self, number: RecordNumber) -> Vec<Effect> {
        assert!(number > self.committed, "records become durable once and in order");
        self.committed = number;
        let mut due = Vec::new();
        while let Some(first) = self.held.first_entry()
            && *first.key() <= number
        {
            let mut effects = first.remove();
            if due.is_empty() {
                due = effects;
            } else {
                due.append(&mut effects);
            }
        }
        due
    }

    /// The last durable record.
    pub(crate) fn committed(&self) -> RecordNumber {
        self.committed
    }

    /// Takes back the memory of what [`Gate::open`] gave.
    pub(crate) fn give_back(&mut self, done: Vec<Effect>) {
        assert!(done.is_empty(), "every effect has been performed");
        self.spare = done;
    }
}

fn ticket(effect: &Effect) -> Option<RecordNumber> {
    match effect {
        Effect::Reply { after, .. } | Effect::Send { after, .. } => *after,
        Effect::Deliver(..)
        | Effect::LeaseEnded { .. }
        | Effect::CloseLink { .. }
        | Effect::Load(_)
        | Effect::LookUp { .. }
        | Effect::IndexPart(_)
        | Effect::Truncate { .. }
        | Effect::Note(_)
        | Effect::Renew
        | Effect::Retire
        | Effect::Fenced(_)
        | Effect::Stop(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use dpc_core::effect::Answer;
    use dpc_core::ids::RequestId;
    use dpc_core::input::ReplyTo;

    use super::*;

    fn reply(seq: u64, after: Option<u64>) -> Effect {
        Effect::Reply {
            to: ReplyTo { request: RequestId(1), seq },
            answer: Answer::Done(1),
            after: after.map(RecordNumber),
        }
    }

    fn seqs(effects: &[Effect]) -> Vec<u64> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Reply { to, .. } => to.seq,
                other => panic!("{other}"),
            })
            .collect()
    }

    #[test]
    fn nothing_passes_before_its_record_is_durable() {
        let mut gate = Gate::new(RecordNumber(4));
        assert!(gate.pass(reply(1, None)).is_some(), "no ticket: at once");
        assert!(gate.pass(reply(2, Some(4))).is_some(), "durable already");
        assert!(gate.pass(reply(3, Some(6))).is_none());
        assert!(gate.pass(reply(4, Some(5))).is_none());
        assert!(gate.pass(reply(5, Some(6))).is_none());
        assert_eq!(seqs(&gate.open(RecordNumber(5))), [4]);
        assert_eq!(seqs(&gate.open(RecordNumber(6))), [3, 5], "in the order they came");
        assert!(gate.held.is_empty());
        assert!(gate.pass(reply(6, Some(6))).is_some());
    }

    #[test]
    #[should_panic(expected = "once and in order")]
    fn a_record_becomes_durable_once() {
        let mut gate = Gate::new(RecordNumber(4));
        gate.open(RecordNumber(4));
    }
}
