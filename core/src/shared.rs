//! The contract of a store that several nodes share: what it offers besides each lane's log.
//!
//! Two kinds of data, never mixed in one table:
//!
//! - **Heads**: one row per lane ([`LaneRow`]), changed only by conditional updates ([`Update`]).
//!   The row is the fence: every commit of the lane, every renewal, the verdict that its owner is
//!   dead, the claim by another one and the end of the lane are all one compare-and-set of it, so
//!   they have one order.
//! - **Beats**: one number per incarnation, written plainly, read without any promise of freshness.
//!
//! The list of lanes is read from the heads, possibly stale. Nothing is decided by what a list
//! says: whoever acts on it names what it has seen as the condition of an update.
//!
//! A node that finds itself owner of a lane it does not run (a claim of its own arrived after it
//! had given up) claims it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use crate::names::Name;
use crate::object::Hash16;
use crate::store::{Appended, Done, Store, StoreError};
use crate::time::{Mono, Span};

/// How long a conditional update whose outcome is not known is sent again, before the answer is
/// *unknown*.
pub const RESEND: Span = Span::secs(45);

/// Who owns a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The start of the process that owns it.
    pub incarnation: Incarnation,
    /// The node's name, for people.
    pub name: Name,
    /// Where its node port listens.
    pub address: Arc<str>,
}

/// Where a lane is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneState {
    /// Its owner commits to it.
    Owned,
    /// Its owner was declared dead: none of the owner's updates succeeds any more. Only a claim
    /// ends this.
    Dead,
    /// It is empty for good. Its row stays, as the answer "never moved" for transfers of it that a
    /// receiver is still in doubt about (R8).
    Retired,
}

/// A lane's head: the only row that fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRow {
    /// The lane.
    pub lane: LaneId,
    /// Its owner, or its last one.
    pub owner: Owner,
    /// Counts the owners.
    pub epoch: Epoch,
    /// Where it is in its life.
    pub state: LaneState,
    /// The last published record; zero in a new lane.
    pub number: RecordNumber,
    /// That record's hash.
    pub hash: Hash16,
    /// The last record that was published before the present epoch began.
    pub began: RecordNumber,
    /// The first record that is kept. It stands here because truncation has to be fenced like a
    /// commit: what an old owner has forgotten the next one may still need. Rows below it are
    /// deleted plainly, whenever.
    pub first: RecordNumber,
}

/// What a read of the tables gives. It may be older than what another read gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The lanes.
    pub lanes: BTreeMap<LaneId, LaneRow>,
    /// The last beat of each incarnation.
    pub beats: BTreeMap<Incarnation, u64>,
}

/// One conditional update of a lane's head: nothing happens unless owner, epoch, number and state
/// are as named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The lane.
    pub lane: LaneId,
    /// Condition: its owner.
    pub owner: Incarnation,
    /// Condition: its epoch.
    pub epoch: Epoch,
    /// Condition: its last published record, where the change depends on it.
    pub number: Option<RecordNumber>,
    /// The change.
    pub set: Set,
}

/// What an update changes. Each also names the states in which it may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// The owner publishes one record more. In state owned.
    Publish {
        /// Its number.
        number: RecordNumber,
        /// Its hash.
        hash: Hash16,
    },
    /// The owner proves that it still owns the lane; nothing changes. In state owned.
    Renew,
    /// The owner forgets everything below this record. In state owned.
    Truncate(RecordNumber),
    /// An observer declares the owner dead. In state owned.
    Dead,
    /// A new owner, one epoch higher. Not in state retired.
    Claim(Owner),
    /// The owner ends the empty lane. In state owned.
    Retire,
}

/// What one try of an update came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It happened.
    Applied,
    /// Its condition did not hold; this is what stands there.
    NotApplied(Option<LaneRow>),
    /// It did not happen and never will: it was not sent, or refused as a whole.
    Nothing(StoreError),
    /// Nobody can tell: it may have happened, or happen later.
    Lost(StoreError),
}

/// How a conditional update ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It has happened.
    Done,
    /// It has not happened and never will: its condition did not hold. What stands there.
    Refused(Option<LaneRow>),
    /// It has not happened and never will: the store took none of the tries.
    Nothing(StoreError),
    /// Nobody can tell.
    Unknown(StoreError),
}

/// What every node of a mesh over one store asks of it. Every answer comes later, once, through
/// its [`Done`]; a handle that is dropped drops the answers it owes.
pub trait SharedStore {
    /// The store of one lane.
    type Lane: SharedLane;

    /// Writes this incarnation's beat. Plainly: a late one may overwrite a later one for a while.
    fn beat(&mut self, number: u64, done: Done<Result<(), StoreError>>);

    /// Reads all heads and beats, without any promise of freshness.
    fn table(&mut self, done: Done<Result<Table, StoreError>>);

    /// Reads one head as it is (serially).
    fn head(&mut self, lane: LaneId, done: Done<Result<Option<LaneRow>, StoreError>>);

    /// Declares a lane's owner dead, if it is still this owner at this epoch.
    fn declare_dead(&mut self, lane: LaneId, owner: Incarnation, epoch: Epoch, done: Done<Changed>);

    /// The store of a lane, not claimed yet. Its `claim` takes the lane from the owner and epoch
    /// named here, or makes a new lane if none are; if they do not stand there any more, the claim
    /// fails as [`StoreError::Fenced`], and for a retired lane as [`StoreError::Refused`].
    fn lane(&mut self, lane: LaneId, from: Option<(Incarnation, Epoch)>) -> Self::Lane;
}

/// A row of the inbox of a database: what a caller has pushed inside its own transaction (R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InboxRow(pub u64);

/// A lane's store whose head is shared. One update is in flight at a time: `renew` and `retire`
/// are asked for like an append, when none is under way.
pub trait SharedLane: Store {
    /// Writes the head as it is, under the condition of every append: proof of ownership for an
    /// owner that has nothing to commit (R6).
    fn renew(&mut self, epoch: Epoch, done: Done<Appended>);

    /// Ends the lane for good. Afterwards nothing is written to it and nobody claims it.
    fn retire(&mut self, epoch: Epoch, done: Done<Appended>);

    /// Appends as [`Store::append`] does, and removes these rows, which this owner has taken, from
    /// the inbox of the database: with the record, or not at all. A store without an inbox is never
    /// given any.
    fn append_taking(
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        record: Bytes,
        rows: Vec<InboxRow>,
        done: Done<Appended>,
    ) {
        assert!(rows.is_empty(), "rows come from the inbox of the store that they go back to");
        self.append(epoch, number, record, done);
    }
}

impl Update {
    /// Whether the update may happen to this row.
    pub fn holds(&self, row: &LaneRow) -> bool {
        let state = match self.set {
            Set::Claim(_) => row.state != LaneState::Retired,
            Set::Publish { .. } | Set::Renew | Set::Truncate(_) | Set::Dead | Set::Retire => {
                row.state == LaneState::Owned
            }
        };
        state
            && row.owner.incarnation == self.owner
            && row.epoch == self.epoch
            && self.number.is_none_or(|n| n == row.number)
    }

    /// Makes the change. The caller has found that it may happen.
    pub fn apply(&self, row: &mut LaneRow) {
        match &self.set {
            Set::Publish { number, hash } => (row.number, row.hash) = (*number, *hash),
            Set::Renew => {}
            Set::Truncate(below) => row.first = row.first.max(*below),
            Set::Dead => row.state = LaneState::Dead,
            Set::Retire => row.state = LaneState::Retired,
            Set::Claim(owner) => {
                row.owner = owner.clone();
                row.epoch = row.epoch.next();
                (row.state, row.began) = (LaneState::Owned, row.number);
            }
        }
    }

    /// What a row that was read after the update had been sent says of it: it happened, it did
    /// not and never will, or the row cannot tell. The row is one in which the update's condition
    /// does not hold (any more).
    pub fn verdict(&self, row: &LaneRow) -> Option<bool> {
        let mine = row.owner.incarnation == self.owner && row.epoch == self.epoch;
        match &self.set {
            Set::Publish { number, hash } if mine => {
                Some(row.number > *number || (row.number == *number && row.hash == *hash))
            }
            // Whoever took the lane next noted what had been published until then.
            Set::Publish { number, .. } if row.began < *number => Some(false),
            Set::Publish { .. } if row.epoch == self.epoch.next() => Some(true),
            Set::Publish { .. } => None,
            Set::Renew => Some(false),
            Set::Truncate(below) => Some(row.first >= *below),
            Set::Dead => Some(mine && row.state == LaneState::Dead),
            Set::Retire => Some(mine && row.state == LaneState::Retired),
            Set::Claim(owner) => {
                Some(row.owner.incarnation == owner.incarnation && row.epoch == self.epoch.next())
            }
        }
    }
}

/// An update under way: sent again, the same, until its outcome is known. Neither "assume it
/// failed" nor "assume it was done" is right for a lost answer, and the condition makes sure that
/// at most one of the copies happens.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The update.
    pub update: Update,
    deadline: Mono,
    /// An earlier try may have happened.
    lost: Option<StoreError>,
}

/// What follows from a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the same again, after a pause.
    Again,
    /// The outcome is known, or will not be.
    Answer(Changed),
}

impl Attempt {
    /// An update that is sent now for the first time.
    pub fn new(update: Update, now: Mono) -> Self {
        Self::until(update, now + RESEND)
    }

    /// The same for a caller who waits longer, or not so long.
    pub fn until(update: Update, deadline: Mono) -> Self {
        Self { update, deadline, lost: None }
    }

    /// Takes in what a try came to.
    pub fn on_tried(&mut self, now: Mono, tried: Tried) -> Next {
        match tried {
            Tried::Applied => Next::Answer(Changed::Done),
            Tried::NotApplied(row) => Next::Answer(self.decided_by(row)),
            Tried::Lost(error) => {
                self.lost = Some(error.clone());
                if now < self.deadline { Next::Again } else { self.give_up(error) }
            }
            Tried::Nothing(error) => {
                if now < self.deadline {
                    Next::Again
                } else {
                    self.give_up(error)
                }
            }
        }
    }

    fn give_up(&mut self, error: StoreError) -> Next {
        Next::Answer(match self.lost.take() {
            Some(lost) => Changed::Unknown(lost),
            None => Changed::Nothing(error),
        })
    }

    fn decided_by(&mut self, row: Option<LaneRow>) -> Changed {
        let Some(lost) = self.lost.take() else { return Changed::Refused(row) };
        match row.as_ref().and_then(|row| self.update.verdict(row)) {
            Some(true) => Changed::Done,
            Some(false) => Changed::Refused(row),
            None => Changed::Unknown(lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(n: u64) -> Owner {
        let name = Name::new("node", &format!("n{n}")).expect("a valid name");
        Owner { incarnation: Incarnation(n), name, address: format!("{n}").into() }
    }

    fn row() -> LaneRow {
        LaneRow {
            lane: LaneId([1; 16]),
            owner: owner(1),
            epoch: Epoch(3),
            state: LaneState::Owned,
            number: RecordNumber(7),
            hash: [7; 16],
            began: RecordNumber(5),
            first: RecordNumber(1),
        }
    }

    fn update(set: Set, number: Option<u64>) -> Update {
        let number = number.map(RecordNumber);
        Update { lane: LaneId([1; 16]), owner: Incarnation(1), epoch: Epoch(3), number, set }
    }

    fn publish() -> Update {
        update(Set::Publish { number: RecordNumber(8), hash: [8; 16] }, Some(7))
    }

    fn lost() -> Tried {
        Tried::Lost(StoreError::Io("no answer".into()))
    }

    #[test]
    fn a_dead_owner_changes_nothing_any_more() {
        let mut row = row();
        update(Set::Dead, None).apply(&mut row);
        for set in [Set::Renew, Set::Dead, Set::Retire, Set::Truncate(RecordNumber(5))] {
            assert!(!update(set.clone(), None).holds(&row), "{set:?}");
        }
        assert!(!publish().holds(&row));
        let claim = update(Set::Claim(owner(2)), Some(7));
        assert!(claim.holds(&row));
        claim.apply(&mut row);
        assert_eq!((row.epoch, row.state, row.began), (Epoch(4), LaneState::Owned, row.number));
        assert!(!claim.holds(&row), "one claim of two wins");
    }

    #[test]
    fn nobody_claims_a_retired_lane() {
        let mut row = row();
        update(Set::Retire, None).apply(&mut row);
        assert!(!update(Set::Claim(owner(2)), None).holds(&row));
    }

    /// What the row that refuses the second try says of the first one, whose answer was lost.
    fn resolved(row: &LaneRow) -> Changed {
        let mut attempt = Attempt::new(publish(), Mono(0));
        assert_eq!(attempt.on_tried(Mono(1), lost()), Next::Again);
        match attempt.on_tried(Mono(2), Tried::NotApplied(Some(row.clone()))) {
            Next::Answer(answer) => answer,
            Next::Again => panic!("a refused update is not sent again"),
        }
    }

    #[test]
    fn a_lost_answer_is_decided_by_the_row_that_refuses_the_next_try() {
        let mut in_already = row();
        publish().apply(&mut in_already);
        assert_eq!(resolved(&in_already), Changed::Done);
        let claim = |row: &mut LaneRow, by| {
            (row.owner, row.epoch, row.began) = (owner(by), row.epoch.next(), row.number);
        };
        let mut fenced_and_in = in_already.clone();
        claim(&mut fenced_and_in, 2);
        assert_eq!(resolved(&fenced_and_in), Changed::Done);
        let mut fenced_and_not_in = row();
        claim(&mut fenced_and_not_in, 2);
        (fenced_and_not_in.number, fenced_and_not_in.hash) = (RecordNumber(9), [9; 16]);
        assert!(matches!(resolved(&fenced_and_not_in), Changed::Refused(Some(_))));
        let mut twice = fenced_and_not_in;
        claim(&mut twice, 3);
        assert!(matches!(resolved(&twice), Changed::Unknown(_)), "the row has forgotten");
    }

    #[test]
    fn a_refusal_of_the_first_try_is_definite() {
        let mut attempt = Attempt::new(publish(), Mono(0));
        let answer = attempt.on_tried(Mono(1), Tried::NotApplied(Some(row())));
        assert_eq!(answer, Next::Answer(Changed::Refused(Some(row()))));
    }

    #[test]
    fn what_is_never_answered_stays_unknown() {
        let mut attempt = Attempt::new(publish(), Mono(0));
        assert_eq!(attempt.on_tried(Mono(0), lost()), Next::Again);
        let nothing = || Tried::Nothing(StoreError::Io("unavailable".into()));
        assert_eq!(attempt.on_tried(Mono(9), nothing()), Next::Again);
        let late = attempt.on_tried(Mono(0) + RESEND, nothing());
        let unknown = Changed::Unknown(StoreError::Io("no answer".into()));
        assert_eq!(late, Next::Answer(unknown), "the last try says nothing of the first one");
        let mut attempt = Attempt::new(publish(), Mono(0));
        let late = attempt.on_tried(Mono(0) + RESEND, nothing());
        assert!(matches!(late, Next::Answer(Changed::Nothing(_))), "no try was taken: {late:?}");
    }
}
