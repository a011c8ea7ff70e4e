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
    pub(super) fn none_of(claimed: &Claimed) -> Self {
        let total = (claimed.last.0 + 1).saturating_sub(claimed.first.0);
        Self { total, ..Self::default() }
    }

    /// Counts records.
    fn add(&mut self, records: &[(RecordNumber, Bytes)]) {
        self.records += records.len() as u64;
        self.bytes += records.iter().map(|(_, record)| record.len() as u64).sum::<u64>();
    }
}

/// Records that were read at once, with their numbers.
pub(crate) type Piece = Vec<(RecordNumber, Bytes)>;

/// Reads the whole log of a lane that was claimed. Each piece goes to `take`, checked by the store, and
/// `step` is told then how far that was. Returns how far it was in the end.
///
/// # Errors
///
/// [`StoreError`] of the store, of `take` or of `step`, and [`StoreError::Damaged`] if a record is
/// missing.
pub(crate) async fn carry<S: Store>(
    store: &mut S,
    claimed: &Claimed,
    mut take: impl AsyncFnMut(Piece) -> Result<(), StoreError>,
    mut step: impl AsyncFnMut(Carried) -> Result<(), StoreError>,
) -> Result<Carried, StoreError> {
    let mut carried = Carried::none_of(claimed);
    let mut next = claimed.first;
    while next <= claimed.last {
        let records = read(store, next, STEP_BYTES).await?;
        let Some((number, _)) = records.last() else {
            let (place, what) = (format!("record {next}"), "it is missing".into());
            return Err(StoreError::Damaged { place, what });
        };
        next = number.next();
        carried.add(&records);
        take(records).await?;
        step(carried).await?;
    }
    Ok(carried)
}
