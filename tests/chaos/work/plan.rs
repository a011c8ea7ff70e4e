//! What a subscriber does with a delivery.

use std::time::Duration;

use dpc_client::{Delivered, Entity, Verb};

use super::{EMITTED_TYPES, Repeat, TYPES, Thing};
use crate::dice::Dice;
use crate::history::{Made, Settle, Verb as Word, content_of};

/// An object is advanced to a new entity at most so often.
const VERSIONS_MAX: u32 = 4;

/// How a lease is to end.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// By its holder's word.
    Settle(Settling),
    /// It is let run out.
    Abandon,
    /// It is dropped, as by a handler that has panicked.
    Drop,
}

/// A settle.
#[derive(Clone, Debug)]
pub(super) struct Settling {
    pub(super) verb: Verb,
    pub(super) emits: Vec<Thing>,
    word: Word,
    next: Option<(String, String)>,
}

impl Settling {
    /// The plainest one.
    pub(super) fn finalise() -> Self {
        Self { verb: Verb::Finalise, emits: Vec::new(), word: Word::Finalise, next: None }
    }

    /// Its line in the history.
    pub(super) fn line(&self, delivered: &Delivered) -> Settle {
        Settle {
            id: delivered.id().to_string(),
            token: delivered.token().to_string(),
            verb: self.word,
            next: self.next.clone(),
        }
    }

    /// The objects that it makes.
    pub(super) fn objects(&self) -> Vec<Made> {
        self.emits.iter().map(Thing::made).collect()
    }

    /// What has to be known to repeat it as part of a call.
    pub(super) fn repeat(self, call: u64, delivered: &Delivered) -> Repeat {
        Repeat {
            call,
            node: delivered.node().to_owned(),
            token: delivered.token(),
            line: self.line(delivered),
            verb: self.verb,
            emits: self.emits,
        }
    }
}

/// Draws what to do with a delivery.
pub(super) fn draw(dice: &mut Dice, delivered: &Delivered, finishing: bool) -> Plan {
    if finishing {
        return Plan::Settle(Settling::finalise());
    }
    let mut settling = match dice.below(100) {
        0..4 => return Plan::Abandon,
        4..6 => return Plan::Drop,
        6..20 if delivered.version() < VERSIONS_MAX => advance(dice),
        20..26 => of(Verb::Advance(None), Word::Handled),
        26..34 => {
            let delay = dice.percent(50).then(|| dice.millis(0, 1_500));
            of(Verb::Release(delay), Word::Release)
        }
        34..40 => {
            let delay = dice.percent(50).then_some(Duration::ZERO);
            of(Verb::Fail(delay), Word::Fail)
        }
        40..43 => of(Verb::Reject("no use for it".to_owned()), Word::Reject),
        _ => Settling::finalise(),
    };
    let may_emit = TYPES.contains(&delivered.object_type());
    if may_emit && matches!(settling.word, Word::Finalise | Word::Advance) && dice.percent(30) {
        let count = dice.between(1, 3);
        settling.emits = (0..count).map(|_| Thing::draw(dice, &EMITTED_TYPES)).collect();
    }
    Plan::Settle(settling)
}

fn of(verb: Verb, word: Word) -> Settling {
    Settling { verb, emits: Vec::new(), word, next: None }
}

fn advance(dice: &mut Dice) -> Settling {
    let thing = Thing::draw(dice, &TYPES);
    let next = Some((thing.ty.to_owned(), content_of(&thing.payload)));
    let verb = Verb::Advance(Some(Entity::new(thing.ty, thing.payload)));
    Settling { verb, emits: Vec::new(), word: Word::Advance, next }
}
