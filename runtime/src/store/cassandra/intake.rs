//! A lane that comes from elsewhere: its records first, which nothing reads, then its head.

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::shared::{LaneRow, Owner};
use dpc_core::store::StoreError;

use super::super::portable::Intake;
use super::super::trouble::{Trouble, persist};
use super::head::{Heads, bits, condition, signed, uuid};
use super::keeper::write_once;
use super::reader::Bucket;
use super::session::Connection;
use super::{CassandraOptions, Way};

/// See the module. It may be written to again after a fault: a record is the same each time, and
/// of several tries the one under the highest epoch is read.
pub(crate) struct CassandraIntake {
    keyspace: String,
    heads: Heads,
}

impl CassandraIntake {
    /// The cluster. The first connection is made by the first request.
    ///
    /// # Errors
    ///
    /// As of [`Way::of`].
    pub(crate) fn open(options: CassandraOptions) -> Result<Self, StoreError> {
        let way = Way::of(&options)?;
        let keyspace = way.address.keyspace.clone();
        let heads = Heads::new(Connection::new(way, options.create_tables), options.patience);
        Ok(Self { keyspace, heads })
    }

    async fn make(&self, row: &LaneRow) -> Result<LaneRow, Trouble> {
        let text = format!(
            "INSERT INTO {}.lane_head (lane, owner, node, address, epoch, state, first, swept, \
             number, hash, began, claimed) VALUES (?, ?, ?, ?, ?, 'owned', ?, ?, ?, ?, ?, \
             toTimestamp(now())) IF NOT EXISTS",
            self.keyspace
        );
        let Owner { incarnation, name, address } = &row.owner;
        let [epoch, first, number, began] =
            [row.epoch.0, row.first.0, row.number.0, row.began.0].map(signed);
        // What earlier tries may have left in buckets before this one is not looked for.
        let swept = signed(Bucket::of(row.first).0);
        let values = (
            uuid(row.lane),
            bits(*incarnation),
            name.as_str(),
            &**address,
            epoch,
            first,
            swept,
            number,
            row.hash.as_slice(),
            began,
        );
        let open = self.heads.connection.open().await?;
        condition(open.link.ask(&text, values).await?)?;
        let found = self.heads.read(row.lane).await?;
        let gone = || Trouble::Lost("the head that was made is not there".into());
        found.map(|found| found.row).ok_or_else(gone)
    }
}

impl Intake for CassandraIntake {
    async fn head(&mut self, lane: LaneId) -> Result<Option<LaneRow>, StoreError> {
        let (heads, patience) = (&self.heads, self.heads.patience);
        let found = persist(patience, async || heads.read(lane).await).await?;
        Ok(found.map(|found| found.row))
    }

    async fn write(
        &mut self,
        lane: LaneId,
        epoch: Epoch,
        records: &[(RecordNumber, Bytes)],
    ) -> Result<(), StoreError> {
        let Heads { connection, patience, .. } = &self.heads;
        for (number, record) in records {
            let write = async || write_once(connection, lane, epoch, *number, record).await;
            persist(*patience, write).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, row: &LaneRow) -> Result<LaneRow, StoreError> {
        persist(self.heads.patience, async || self.make(row).await).await
    }
}
