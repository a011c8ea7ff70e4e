//! What a node's own disk holds of a lane that is kept elsewhere: who it is, and the epoch of its
//! last claim. Everything else in the folder can be built again from the lane.

use std::path::Path;

use dpc_core::ids::{Epoch, LaneId};
use dpc_core::store::StoreError;

use super::folder::Folder;

/// See the module. Dropping it gives the folder back.
pub struct Seat(Folder);

impl Seat {
    /// Opens the data folder at `path` for a lane that the store of this kind keeps, and makes it
    /// with a new lane if it is not there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the folder is in use, not writable, or of another store.
    pub fn open(path: &Path, kind: &str) -> Result<Self, StoreError> {
        Folder::open(path, kind).map(Self)
    }

    /// The lane.
    pub fn lane(&self) -> LaneId {
        self.0.lane
    }

    /// The epoch of the last claim, if the lane was ever claimed: the store must know of it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if what the folder says of it cannot be read.
    pub fn claimed(&self) -> Result<Option<Epoch>, StoreError> {
        self.0.claimed()
    }

    /// Remembers a claim, durably.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written; the claim stands all the same.
    pub fn note_claim(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.0.note_claim(epoch)
    }

    /// Another node has the lane, or it is no more: the folder gets a new one. What was derived from
    /// the old one goes, except for its history, which stays as `history.db.before`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the folder cannot be written. It has the old lane or the new one then.
    pub fn renew(&mut self, kind: &str) -> Result<LaneId, StoreError> {
        self.0.renew(kind)
    }
}
