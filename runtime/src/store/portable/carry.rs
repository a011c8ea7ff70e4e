//! Reading a whole log, a bounded piece at a time.

use bytes::Bytes;
use dpc_core::ids::RecordNumber;
use dpc_core::store::{Claimed, Store, StoreError};

use crate::node::read;

/// Bytes that are read at once, or one record if that is larger.
const STEP_BYTES: usize = 1 << 20;

/// How far a lane was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Records so far.
    pub(crate) records: u64,
    /// Records in all.
    pub(crate) total: u64,
    /// Bytes of the records so far.
    pub(crate) bytes: u64,
}

impl Carried {
    /// Nothing yet of a lane as it was claimed.
    pub(crate) fn none_of(claimed: &Claimed) -> Self {
        let total = (claimed.last.0 + 1).saturating_sub(claimed.first.0);
        Self { total, ..Self::default() }
    }

    /// Counts records.
    pub(crate) fn add(&mut self, records: &[(RecordNumber, Bytes)]) {
        self.records += records.len() as u64;
        self.bytes += records.iter().map(|(_, record)| record.len() as u64).sum::<u64>();
    }
}

/// The log of a lane that was claimed, piece by piece.
pub(crate) struct Pieces<'a, S> {
    store: &'a mut S,
    next: RecordNumber,
    last: RecordNumber,
}

impl<'a, S: Store> Pieces<'a, S> {
    /// From the first record on.
    pub(crate) fn of(store: &'a mut S, claimed: &Claimed) -> Self {
        Self { store, next: claimed.first, last: claimed.last }
    }

    /// The next records; none at the end. The store has checked them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the store, or [`StoreError::Damaged`] if a record is missing.
    pub(crate) async fn next(&mut self) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
        if self.next > self.last {
            return Ok(Vec::new());
        }
        let records = read(self.store, self.next, STEP_BYTES).await?;
        let Some((number, _)) = records.last() else {
            let (place, what) = (format!("record {}", self.next), "it is missing".into());
            return Err(StoreError::Damaged { place, what });
        };
        self.next = number.next();
        Ok(records)
    }
}
