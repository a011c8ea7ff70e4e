//! A lane that comes from elsewhere: its records first, which nothing reads, then its head.

use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::shared::LaneRow;
use dpc_core::store::StoreError;
use uuid::Uuid;

use super::super::pack::packed;
use super::super::portable::Intake;
use super::super::trouble::{Trouble, persist};
use super::head::{self, bits, signed, signed_epoch};
use super::session::{Session, Way, within};
use super::{PostgresOptions, parse, ready};

/// See the module. It may be written to again after a fault: a record is the same each time.
pub(crate) struct PostgresIntake {
    way: Way,
    create_tables: bool,
    patience: Duration,
    session: Session,
}

impl PostgresIntake {
    /// The database. The first connection is made by the first request.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the address cannot be understood.
    pub(crate) fn open(options: &PostgresOptions) -> Result<Self, StoreError> {
        let way = parse(&options.url, options.tls.as_ref())?;
        let session = Session::new(way.clone());
        let PostgresOptions { create_tables, patience, .. } = *options;
        Ok(Self { way, create_tables, patience, session })
    }

    /// Asks something that may be asked twice, until there is an answer.
    async fn ask<T>(
        &mut self,
        mut one: impl AsyncFnMut(&tokio_postgres::Client) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let session = &mut self.session;
        persist(self.patience, async || {
            let asked = match session.open().await {
                Ok(open) => one(&open.client).await,
                Err(trouble) => Err(trouble),
            };
            if matches!(asked, Err(Trouble::NotSent(_) | Trouble::Lost(_))) {
                session.leave();
            }
            asked
        })
        .await
    }
}

impl Intake for PostgresIntake {
    async fn head(&mut self, lane: LaneId) -> Result<Option<LaneRow>, StoreError> {
        let (way, create) = (self.way.clone(), self.create_tables);
        persist(self.patience, async || ready(&way, create).await).await?;
        self.ask(async |client| head::read(client, lane).await).await
    }

    async fn write(
        &mut self,
        lane: LaneId,
        epoch: Epoch,
        records: &[(RecordNumber, Bytes)],
    ) -> Result<(), StoreError> {
        let (lane, epoch) = (Uuid::from_bytes(lane.0), signed_epoch(epoch));
        let packed: Vec<Bytes> = records.iter().map(|(_, record)| packed(record)).collect();
        let numbers: Vec<i64> = records.iter().map(|(number, _)| signed(*number)).collect();
        let records: Vec<&[u8]> = packed.iter().map(AsRef::as_ref).collect();
        // An earlier try may have left some of them.
        let write = "INSERT INTO dpc.lane_log (lane, number, epoch, record) \
                     SELECT $1, n, $2, r FROM unnest($3::bigint[], $4::bytea[]) AS u (n, r) \
                     ON CONFLICT (lane, number) \
                     DO UPDATE SET epoch = excluded.epoch, record = excluded.record";
        self.ask(async |client| {
            within(client.execute(write, &[&lane, &epoch, &numbers, &records])).await.map(drop)
        })
        .await
    }

    async fn publish(&mut self, row: &LaneRow) -> Result<LaneRow, StoreError> {
        let lane = Uuid::from_bytes(row.lane.0);
        let (owner, epoch) = (bits(row.owner.incarnation), signed_epoch(row.epoch));
        let (name, address) = (row.owner.name.as_str(), row.owner.address.as_ref());
        let [first, number, began] = [row.first, row.number, row.began].map(signed);
        let hash = row.hash.as_slice();
        let make = "INSERT INTO dpc.lane_head \
                    (lane, owner, node, address, epoch, first, number, hash, began) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
        self.ask(async |client| {
            within(client.execute(
                make,
                &[&lane, &owner, &name, &address, &epoch, &first, &number, &hash, &began],
            ))
            .await?;
            let found = head::read(client, row.lane).await?;
            found.ok_or_else(|| Trouble::Lost("the head that was made is not there".into()))
        })
        .await
    }
}
