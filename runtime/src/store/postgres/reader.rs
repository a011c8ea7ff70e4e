//! Whoever reads the lane, beside its appends, and whoever deletes what is not kept any more.

use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::shared::LaneState;
use dpc_core::store::{READ_BYTES_MAX, StoreError};
use tokio::sync::watch;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::chain::Tip;
use super::super::pack::unpacked;
use super::super::trouble::{Patience, Trouble};
use super::head::{self, signed};
use super::keeper::{Shared, damaged};
use super::session::{Session, within};

/// See the module.
pub(super) struct Reader {
    pub(super) lane: Shared,
    pub(super) session: Session,
    /// How long an outage may last.
    pub(super) patience: Duration,
}

impl Reader {
    /// Records from a number on: see [`dpc_core::store::Store::read`].
    pub(super) async fn read(
        &mut self,
        from: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
        if let Some(error) = self.lane.borrow().error() {
            return Err(error);
        }
        let tip = self.lane.borrow().tip;
        if from < tip.first {
            let what = format!("it was truncated, the first record is {}", tip.first);
            return Err(damaged(tip.lane, from, what));
        }
        if from > tip.last {
            return Ok(Vec::new());
        }
        let bytes_max = bytes_max.min(READ_BYTES_MAX);
        let mut patience = Patience::of(self.patience);
        loop {
            match self.try_read(&tip, from, bytes_max).await {
                Ok(records) => match check(&tip, from, records) {
                    Ok(records) => return Ok(records),
                    Err(damage) => return Err(self.why_missed(&tip, damage).await),
                },
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::NotSent(why) | Trouble::Lost(why)) => {
                    self.session.leave();
                    if !patience.wait().await {
                        return Err(StoreError::Io(why));
                    }
                }
            }
        }
    }

    /// What is not there any more may have been let go by the next owner, which is no damage.
    async fn why_missed(&mut self, tip: &Tip, damage: StoreError) -> StoreError {
        let head = match self.session.open().await {
            Ok(open) => head::read(&open.client, tip.lane).await,
            Err(trouble) => Err(trouble),
        };
        match head {
            Ok(Some(row)) if row.epoch > tip.epoch || row.state != LaneState::Owned => {
                StoreError::Fenced { epoch: row.epoch }
            }
            _ => damage,
        }
    }

    async fn try_read(
        &mut self,
        tip: &Tip,
        from: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, Trouble> {
        let uuid = Uuid::from_bytes(tip.lane.0);
        let most = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let open = self.session.open().await?;
        let (first, from, last) = (from, signed(from), signed(tip.last));
        let params: [&(dyn ToSql + Sync); 4] = [&uuid, &from, &last, &most];
        let rows = within(open.client.query(&open.read, &params)).await?;
        let record = |row: &tokio_postgres::Row| {
            let number = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
            (RecordNumber(number), unpacked(Bytes::copy_from_slice(row.get(1))))
        };
        let mut bytes = 0;
        let fits = |(number, record): &(RecordNumber, Bytes)| {
            bytes += record.len();
            bytes <= bytes_max || *number == first
        };
        // What the database has counted is what lies there, packed.
        Ok(rows.iter().map(record).take_while(fits).collect())
    }
}

/// Everything that was read follows from `from` without a gap, undamaged and linked.
fn check(
    tip: &Tip,
    from: RecordNumber,
    records: Vec<(RecordNumber, Bytes)>,
) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
    let mut previous = None;
    let mut expected = from;
    if records.is_empty() {
        return Err(damaged(tip.lane, from, "it is missing"));
    }
    for (number, record) in &records {
        let there = (*number == expected).then_some(record);
        tip.check(expected, there, previous).map_err(|what| damaged(tip.lane, expected, what))?;
        previous = Some(hash_of(record));
        expected = expected.next();
    }
    Ok(records)
}

/// Deletes rows below what is kept, a few at a time, whenever that has changed. What a fault leaves
/// behind goes with the next round: nothing reads it.
pub(super) async fn forget(
    lane: LaneId,
    mut session: Session,
    mut kept: watch::Receiver<RecordNumber>,
) {
    while kept.changed().await.is_ok() {
        let below = signed(*kept.borrow_and_update());
        if let Err(trouble) = forget_below(lane, &mut session, below).await {
            session.leave();
            tracing::warn!(below, "old records are not deleted yet: {}", trouble.into_error());
        }
    }
}

async fn forget_below(lane: LaneId, session: &mut Session, below: i64) -> Result<(), Trouble> {
    let uuid = Uuid::from_bytes(lane.0);
    loop {
        let open = session.open().await?;
        let gone = within(open.client.execute(&open.forget, &[&uuid, &below])).await?;
        if gone == 0 {
            return Ok(());
        }
    }
}
