//! How a node that starts takes its own lane from a store that it shares: again, if nobody else has
//! it; else it begins with a new one.

use std::time::Duration;

use dpc_core::ids::RecordNumber;
use dpc_core::names::Name;
use dpc_core::shared::{LaneRow, LaneState, SharedStore};
use dpc_core::store::{Claimed, StoreError};
use tokio::sync::oneshot;

use crate::node::claim;
use crate::store::Seat;

/// How often a node that starts may lose the race for a lane.
const TRIES: u32 = 10;

/// Between two questions to a store that does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// A lane that was taken.
pub(crate) struct OwnLane<L> {
    /// Its store.
    pub(crate) store: L,
    /// What the claim found.
    pub(crate) claimed: Claimed,
}

/// Takes the lane of a seat, or gives the seat a new one. `kind` is the kind of the store, `patience`
/// how long it may be away. A lane that was claimed under `name` is this node's, too; a node that
/// was fenced gives none, or two copies of one folder would take the lane from each other for ever.
///
/// # Errors
///
/// [`StoreError::Damaged`] if the store has lost the lane or was set back; what the store refuses.
pub(crate) async fn take_own_lane<M: SharedStore + ?Sized>(
    store: &mut M,
    seat: &mut Seat,
    kind: &str,
    name: Option<&Name>,
    patience: Duration,
) -> Result<OwnLane<M::Lane>, StoreError> {
    let mut tries = 0;
    loop {
        let from = match standing(store, seat, name, patience).await? {
            Standing::New => None,
            Standing::Ours(row) => Some((row.owner.incarnation, row.epoch)),
            Standing::Theirs(row) => {
                let old = seat.lane();
                let lane = seat.renew(kind)?;
                tell_new(&row, &old.to_string(), &lane.to_string());
                None
            }
        };
        let mut own = store.lane(seat.lane(), from);
        match claim(&mut own).await {
            Ok(claimed) => {
                seat.note_claim(claimed.epoch)?;
                return Ok(OwnLane { store: own, claimed });
            }
            Err(StoreError::Fenced { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Takes the lane of a seat again, to read it. A lane that is another node's now, or that was never
/// claimed, is left alone.
///
/// # Errors
///
/// [`StoreError::Refused`] if the lane is not this seat's any more, or was never in the store; what
/// the store refuses.
pub(crate) async fn take_lane_again<M: SharedStore + ?Sized>(
    store: &mut M,
    seat: &Seat,
    name: &Name,
    patience: Duration,
) -> Result<OwnLane<M::Lane>, StoreError> {
    let lane = seat.lane();
    let row = match standing(store, seat, Some(name), patience).await? {
        Standing::Ours(row) => row,
        Standing::New => {
            return Err(StoreError::Refused(format!("lane {lane} was never in this store")));
        }
        Standing::Theirs(row) => {
            let (state, owner) = (row.state, &row.owner.name);
            return Err(StoreError::Refused(if state == LaneState::Retired {
                format!("lane {lane} was taken over by {owner}, and is empty and retired")
            } else {
                format!("lane {lane} was taken over by {owner}, which hands on what is in it")
            }));
        }
    };
    let mut own = store.lane(lane, Some((row.owner.incarnation, row.epoch)));
    let claimed = claim(&mut own).await?;
    seat.note_claim(claimed.epoch)?;
    Ok(OwnLane { store: own, claimed })
}

/// How the lane of a seat stands in the store.
enum Standing {
    /// It was never there.
    New,
    /// Its last claim was this node's.
    Ours(LaneRow),
    /// Somebody else has it, or nobody for good.
    Theirs(LaneRow),
}

async fn standing<M: SharedStore + ?Sized>(
    store: &mut M,
    seat: &Seat,
    name: Option<&Name>,
    patience: Duration,
) -> Result<Standing, StoreError> {
    let row = head(store, seat, patience).await?;
    let before = seat.claimed()?;
    let damaged = |what: String| StoreError::Damaged {
        place: format!("the head of lane {}, record {}", seat.lane(), RecordNumber(0)),
        what,
    };
    match row {
        None if before.is_none() => Ok(Standing::New),
        None => Err(damaged(
            "the lane is not in this store: it is another one, or it was restored from a backup that \
             is older than the lane"
                .into(),
        )),
        Some(row) if before > Some(row.epoch) => {
            let before = before.expect("it is greater than something");
            let epoch = row.epoch;
            Err(damaged(format!(
                "it has epoch {epoch}, and was claimed with {before}: the store was set back"
            )))
        }
        Some(row) if is_ours(&row, before == Some(row.epoch), name) => Ok(Standing::Ours(row)),
        Some(row) => Ok(Standing::Theirs(row)),
    }
}

/// The last claim was this folder's, or one that it had no time to note.
fn is_ours(row: &LaneRow, noted: bool, name: Option<&Name>) -> bool {
    row.state != LaneState::Retired && (noted || name == Some(&row.owner.name))
}

fn tell_new(row: &LaneRow, old: &str, new: &str) {
    let owner = &row.owner.name;
    if row.state == LaneState::Retired {
        tracing::warn!(
            "lane {old} was taken over and is retired: this node begins with lane {new}"
        );
    } else {
        tracing::warn!(
            "lane {old} was taken over by {owner}, which hands on what is in it: this node begins \
             with lane {new}"
        );
    }
}

async fn head<M: SharedStore + ?Sized>(
    store: &mut M,
    seat: &Seat,
    patience: Duration,
) -> Result<Option<LaneRow>, StoreError> {
    let began = tokio::time::Instant::now();
    loop {
        let (done, answer) = oneshot::channel();
        store.head(seat.lane(), Box::new(move |row| drop(done.send(row))));
        let gone = || Err(StoreError::Io("the store ended without an answer".into()));
        match answer.await.unwrap_or_else(|_| gone()) {
            Err(StoreError::Io(why)) if began.elapsed() < patience => {
                tracing::warn!("the store is not reached yet: {why}");
                tokio::time::sleep(PAUSE).await;
            }
            row => return row,
        }
    }
}
