//! A lane from its folder into a database, where it goes on as the same lane.
//!
//! Three steps, each of which may be done again:
//!
//! 1. the records are written where nothing reads them yet;
//! 2. the folder is given up ([`give_up`]): no node serves the log in it any more;
//! 3. the lane's head is published: from then on a node may claim the lane there.
//!
//! Cut off before the second step the lane is in the folder, as before. Cut off after it the folder
//! names the only database that may get it, and the next try begins again with the first step:
//! nothing can have been added to the log meanwhile.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::shared::{LaneRow, LaneState, Owner};
use dpc_core::store::{Claimed, StoreError};

use super::super::embedded::Embedded;
use super::super::folder::{Moving, finish_move, give_up, moving};
use super::carry::{Carried, Piece, carry};
use crate::node::claim;

/// A database that can take in a lane as a whole. Everything may be asked of it twice.
#[allow(async_fn_in_trait, reason = "only this crate implements and calls it")]
pub(crate) trait Intake {
    /// The head of a lane.
    async fn head(&mut self, lane: LaneId) -> Result<Option<LaneRow>, StoreError>;

    /// Writes records of a lane that has no head, durably. Nothing reads them before
    /// [`Intake::publish`].
    async fn write(
        &mut self,
        lane: LaneId,
        epoch: Epoch,
        records: &[(RecordNumber, Bytes)],
    ) -> Result<(), StoreError>;

    /// Makes the head of a lane whose records have been written, unless it has one. Says which one
    /// it has.
    async fn publish(&mut self, row: &LaneRow) -> Result<LaneRow, StoreError>;
}

/// What a move has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The lane.
    pub(crate) lane: LaneId,
    /// What was carried now: nothing, if an earlier move had been cut off at its very end.
    pub(crate) carried: Carried,
    /// Where the folder's own log is kept now.
    pub(crate) before: PathBuf,
}

/// Moves the lane of `data_dir` into a database: `kind` is its kind, `place` its address, `owner`
/// the node that will claim the lane there.
///
/// # Errors
///
/// [`StoreError::Refused`] if the folder is in use, holds no embedded lane, or is on its way to
/// another database, or if the database has the lane already; whatever the two stores refuse.
/// The lane is in the folder still, unless the text says that the move has to be finished.
pub(crate) async fn move_lane(
    data_dir: &Path,
    to: &mut impl Intake,
    (kind, place): (&str, &str),
    owner: impl FnOnce(LaneId) -> Result<Owner, StoreError>,
    mut step: impl FnMut(Carried),
) -> Result<Moved, StoreError> {
    let (mut store, lane) = Embedded::open_to_move(data_dir)?;
    let target = format!("{kind} {place}");
    let begun = moving(data_dir)?;
    if let Some(begun) = begun.as_ref().filter(|begun| begun.to != target) {
        return Err(StoreError::Refused(format!(
            "lane {lane} is on its way to {}, and may be there already: it can go to no other store, \
             {target} is none; finish the move with that store's configuration",
            begun.to
        )));
    }
    let claimed = claim(&mut store).await?;
    let mut carried = Carried::default();
    let (noted, row) = match (begun, to.head(lane).await?) {
        // Nobody but the move that was begun could have put it there.
        (Some(begun), Some(row)) => (begun.epoch, row),
        (None, Some(row)) => {
            return Err(StoreError::Refused(format!(
                "the database has lane {lane} already, last owned by {} with epoch {}: the folder is \
                 an older copy of it",
                row.owner.name, row.epoch
            )));
        }
        (_, None) => {
            let row = head_of(lane, &claimed, owner(lane)?);
            let write = async |records: Piece| to.write(lane, claimed.epoch, &records).await;
            let told = async |carried| {
                step(carried);
                Ok(())
            };
            carried = carry(&mut store, &claimed, write, told).await?;
            let begun = Moving { to: target, epoch: claimed.epoch };
            give_up(data_dir, lane, kind, &begun)?;
            (claimed.epoch, to.publish(&row).await.map_err(unfinished)?)
        }
    };
    drop(store);
    // An earlier try may have been the one that has published.
    let before = finish_move(data_dir, noted.min(row.epoch)).map_err(unfinished)?;
    Ok(Moved { lane, carried, before })
}

/// The head that says what was copied.
fn head_of(lane: LaneId, claimed: &Claimed, owner: Owner) -> LaneRow {
    let Claimed { epoch, first, last, last_hash } = *claimed;
    LaneRow {
        lane,
        owner,
        epoch,
        state: LaneState::Owned,
        number: last,
        hash: last_hash,
        began: last,
        first,
    }
}

/// The folder has been given up: nobody serves the lane before the move has ended.
fn unfinished(error: StoreError) -> StoreError {
    const WHAT: &str = "the move is not finished, do it again";
    match error {
        StoreError::Io(why) => StoreError::Io(format!("{why}; {WHAT}")),
        StoreError::Refused(why) => StoreError::Refused(format!("{why}; {WHAT}")),
        StoreError::Full(why) => StoreError::Full(format!("{why}; {WHAT}")),
        other => other,
    }
}
