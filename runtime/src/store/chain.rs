//! What every real store asks of a record before it writes it, and after it has read it: that it is
//! undamaged, of this lane and number, and linked to the record before.

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::{hash_of, open, open_header};
use dpc_core::store::{RECORD_BYTES_MAX, StoreError};

/// The end of a lane's log, and who may add to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) lane: LaneId,
    pub(super) epoch: Epoch,
    /// The lowest number that is kept.
    pub(super) first: RecordNumber,
    /// The last acknowledged record, and its hash.
    pub(super) last: RecordNumber,
    pub(super) last_hash: [u8; 16],
}

impl Tip {
    /// Whether `record` may be written next by the owner of `epoch`. A refusal changes nothing.
    pub(super) fn admit(
        &self,
        epoch: Epoch,
        number: RecordNumber,
        record: &Bytes,
    ) -> Result<(), StoreError> {
        self.admit_owner(epoch)?;
        let refused = |why: String| Err(StoreError::Refused(why));
        if number != self.last.next() {
            return refused(format!("record {number} does not follow record {}", self.last));
        }
        if record.len() > RECORD_BYTES_MAX {
            let bytes = record.len();
            return refused(format!("a record of {bytes} B, the limit is {RECORD_BYTES_MAX} B"));
        }
        match open_header(record) {
            Ok(header)
                if header.lane == self.lane
                    && header.number == number
                    && header.previous == self.last_hash =>
            {
                Ok(())
            }
            Ok(header) => refused(format!("{header:?} is not the next record of this log")),
            Err(bad) => refused(bad.to_string()),
        }
    }

    /// Whether the owner of `epoch` may change anything. A refusal changes nothing.
    pub(super) fn admit_owner(&self, epoch: Epoch) -> Result<(), StoreError> {
        if epoch < self.epoch {
            return Err(StoreError::Fenced { epoch: self.epoch });
        }
        if epoch > self.epoch {
            return Err(StoreError::Refused(format!("epoch {epoch} was never claimed")));
        }
        Ok(())
    }

    /// Checks a record that was read: that it is there, undamaged, of this lane and number, linked
    /// to the one before if that is known, and the acknowledged one if it is the last. The text
    /// says what is wrong with it.
    pub(super) fn check(
        &self,
        number: RecordNumber,
        record: Option<&Bytes>,
        previous: Option<[u8; 16]>,
    ) -> Result<(), String> {
        let record = record.ok_or_else(|| {
            format!("it is missing; HEAD says that the log reaches {}", self.last)
        })?;
        let (header, _) = open(record).map_err(|bad| bad.to_string())?;
        if (header.lane, header.number) != (self.lane, number) {
            return Err(format!("it is record {} of {}", header.number, header.lane));
        }
        if previous.is_some_and(|previous| previous != header.previous) {
            return Err("it is not linked to the record before it".into());
        }
        if number == self.last && hash_of(record) != self.last_hash {
            return Err("it is not the record that was acknowledged".into());
        }
        Ok(())
    }

    /// Whether the log may forget what lies below a number.
    pub(super) fn may_truncate(&self, below: RecordNumber) -> Result<(), StoreError> {
        if below <= self.last.next() {
            return Ok(());
        }
        let why = format!("cannot forget below {below}: the last record is {}", self.last);
        Err(StoreError::Refused(why))
    }
}
