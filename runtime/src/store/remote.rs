//! The store of a lane whose log is kept behind a network: the caller's end, the queue of requests,
//! and how an append goes that is written ahead and then published by an update of the head.
//!
//! Changes of the lane are answered in their order; reads have a queue of their own and do not
//! wait for them. After a change that has failed nothing works until the next claim. How appends
//! go that are under way together, `ahead` says.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::shared::{Changed, LaneRow, LaneState, Set, SharedLane, Update};
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use super::ahead;
use super::chain::Tip;

/// The most requests that wait for the storage thread. A caller that goes beyond is refused.
pub(super) const QUEUE_COUNT_MAX: usize = 1024;

/// Appends under way at a time: while one is published, the next ones are written.
pub(super) const APPENDS_MAX: usize = 4;

/// The caller's end. Dropping it ends the work on the lane: what was under way then is decided by
/// the servers.
pub(super) struct Remote {
    changes: mpsc::Sender<Change>,
    reads: mpsc::Sender<Read>,
    _alive: oneshot::Sender<()>,
}

/// What changes a lane.
pub(super) enum Change {
    Claim(Done<Result<Claimed, StoreError>>),
    Append(Append),
    Truncate(RecordNumber, Done<Result<(), StoreError>>),
    /// [`Set::Renew`] or [`Set::Retire`].
    Head(Epoch, Set, Done<Appended>),
}

/// A record to be appended.
pub(super) struct Append {
    pub(super) epoch: Epoch,
    pub(super) number: RecordNumber,
    pub(super) record: Bytes,
    pub(super) done: Done<Appended>,
}

/// A read: from where on, how many bytes, and whom to tell.
pub(super) struct Read(pub(super) RecordNumber, pub(super) usize, pub(super) ReadDone);

/// The end of whoever does the work.
pub(super) struct Requests {
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) reads: mpsc::Receiver<Read>,
    /// Ends when the caller's end is dropped.
    pub(super) dropped: oneshot::Receiver<()>,
}

impl Remote {
    /// Both ends.
    pub(super) fn new() -> (Self, Requests) {
        let (changes, changes_in) = mpsc::channel(QUEUE_COUNT_MAX);
        let (reads, reads_in) = mpsc::channel(QUEUE_COUNT_MAX);
        let (alive, dropped) = oneshot::channel();
        let requests = Requests { changes: changes_in, reads: reads_in, dropped };
        (Self { changes, reads, _alive: alive }, requests)
    }

    fn change(&self, change: Change) {
        match self.changes.try_send(change) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(change)) => change.refuse(full()),
            Err(mpsc::error::TrySendError::Closed(change)) => change.refuse(dead()),
        }
    }
}

pub(super) fn full() -> StoreError {
    StoreError::Refused(format!("{QUEUE_COUNT_MAX} requests wait for the storage thread already"))
}

pub(super) fn dead() -> StoreError {
    StoreError::Io("the storage thread has died".into())
}

impl Change {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Claim(done) => done(Err(error)),
            Self::Append(Append { done, .. }) | Self::Head(.., done) => {
                done(Appended::DefinitelyNot(error));
            }
            Self::Truncate(_, done) => done(Err(error)),
        }
    }
}

impl Store for Remote {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.change(Change::Claim(done));
    }

    fn appends_max(&self) -> usize {
        APPENDS_MAX
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.change(Change::Append(Append { epoch, number, record, done }));
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        match self.reads.try_send(Read(from, bytes_max, done)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(read)) => (read.2)(Err(full())),
            Err(mpsc::error::TrySendError::Closed(read)) => (read.2)(Err(dead())),
        }
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.change(Change::Truncate(below, done));
    }
}

impl SharedLane for Remote {
    fn renew(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.change(Change::Head(epoch, Set::Renew, done));
    }

    fn retire(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.change(Change::Head(epoch, Set::Retire, done));
    }
}

/// What whoever changes the lane and whoever reads it both know of it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tip: Tip,
    pub(super) claimed: bool,
    /// The first failure: from then on everything gets it, until the next claim.
    pub(super) failed: Option<StoreError>,
    /// The lane was ended by this owner.
    pub(super) retired: bool,
}

pub(super) type Shared = Rc<RefCell<Lane>>;

impl Lane {
    /// A lane that was not claimed yet.
    pub(super) fn of(lane: LaneId) -> Shared {
        let tip = Tip {
            lane,
            epoch: Epoch(0),
            first: RecordNumber(1),
            last: RecordNumber(0),
            last_hash: [0; 16],
        };
        Rc::new(RefCell::new(Self { tip, claimed: false, failed: None, retired: false }))
    }

    /// Why nothing can be done now, if so.
    pub(super) fn error(&self) -> Option<StoreError> {
        match &self.failed {
            None if !self.claimed => Some(StoreError::Refused("claim the lane first".into())),
            failed => failed.clone(),
        }
    }

    pub(super) fn fail(&mut self, error: &StoreError) {
        self.failed.get_or_insert_with(|| error.clone());
    }
}

/// The end of a lane's log as a claim has found it.
pub(super) fn tip(lane: LaneId, claimed: &Claimed) -> Tip {
    let Claimed { epoch, first, last, last_hash } = *claimed;
    Tip { lane, epoch, first, last, last_hash }
}

/// Whoever changes the lane at the servers, outlasting their faults.
pub(super) trait Keep {
    /// This process.
    fn me(&self) -> Incarnation;

    /// Claims the lane (R3).
    async fn claim(&mut self) -> Result<Claimed, StoreError>;

    /// Writes a record where nothing reads it before it is published. After an error nothing ever
    /// will.
    async fn write(
        &self,
        epoch: Epoch,
        number: RecordNumber,
        record: &Bytes,
    ) -> Result<(), StoreError>;

    /// Makes an update of the head, and finds out how it ended.
    async fn update(&self, update: Update) -> Changed;
}

/// Answers changes until there are none any more. `kept` learns what is the first record kept.
pub(super) async fn change(
    keeper: &mut impl Keep,
    lane: Shared,
    mut changes: mpsc::Receiver<Change>,
    kept: watch::Sender<RecordNumber>,
) {
    let mut next = changes.recv().await;
    while let Some(change) = next.take() {
        let error = lane.borrow().error();
        match (change, error) {
            (Change::Claim(done), _) => {
                lane.borrow_mut().claimed = false;
                let claimed = keeper.claim().await;
                if let Ok(claimed) = &claimed {
                    let tip = tip(lane.borrow().tip.lane, claimed);
                    *lane.borrow_mut() = Lane { tip, claimed: true, failed: None, retired: false };
                    kept.send_replace(claimed.first);
                }
                done(claimed);
            }
            (change, Some(error)) => change.refuse(error),
            (Change::Append(first), None) => {
                next = ahead::append_all(keeper, &lane, first, &mut changes).await;
            }
            (Change::Truncate(below, done), None) => {
                let cut = truncate(keeper, &lane, below).await;
                kept.send_replace(lane.borrow().tip.first);
                done(cut);
            }
            (Change::Head(epoch, set, done), None) => {
                let refusal = lane.borrow().tip.admit_owner(epoch);
                done(match refusal {
                    Err(error) => Appended::DefinitelyNot(error),
                    Ok(()) => change_head(keeper, &lane, set, true).await,
                });
            }
        }
        if next.is_none() {
            next = changes.recv().await;
        }
    }
}

async fn truncate(
    keeper: &impl Keep,
    lane: &Shared,
    below: RecordNumber,
) -> Result<(), StoreError> {
    let tip = lane.borrow().tip;
    tip.may_truncate(below)?;
    if below <= tip.first {
        return Ok(());
    }
    match change_head(keeper, lane, Set::Truncate(below), false).await {
        Appended::Committed => {
            lane.borrow_mut().tip.first = below;
            Ok(())
        }
        Appended::DefinitelyNot(error) | Appended::Unknown(error) => Err(error),
    }
}

/// An update by the owner. After anything but *committed* nothing works until the next claim.
pub(super) async fn change_head(
    keeper: &impl Keep,
    lane: &Shared,
    set: Set,
    at_last: bool,
) -> Appended {
    let Tip { lane: id, epoch, last, .. } = lane.borrow().tip;
    let number = at_last.then_some(last);
    let ends = set == Set::Retire;
    let update = Update { lane: id, owner: keeper.me(), epoch, number, set };
    let answer = match keeper.update(update).await {
        Changed::Done => {
            lane.borrow_mut().retired = ends;
            return Appended::Committed;
        }
        Changed::Refused(found) => Appended::DefinitelyNot(refused(id, epoch, last, found)),
        Changed::Nothing(error) => Appended::DefinitelyNot(error),
        Changed::Unknown(error) => Appended::Unknown(error),
    };
    if let Appended::DefinitelyNot(error) | Appended::Unknown(error) = &answer {
        lane.borrow_mut().fail(error);
    }
    answer
}

/// Why an owner's update found another head than the owner knows.
fn refused(id: LaneId, epoch: Epoch, last: RecordNumber, found: Option<LaneRow>) -> StoreError {
    match found {
        Some(row) if row.epoch > epoch || row.state != LaneState::Owned => {
            StoreError::Fenced { epoch: row.epoch }
        }
        found => {
            let there = match found {
                Some(row) => {
                    format!("epoch {} and record {} stand there", row.epoch, row.number)
                }
                None => "nothing stands there".into(),
            };
            StoreError::Damaged {
                place: format!("table lane_head, lane {id}"),
                what: format!(
                    "{there}, and it had epoch {epoch} and record {last}: the database was set back"
                ),
            }
        }
    }
}
