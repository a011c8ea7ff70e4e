//! Whoever changes the lane: claims it, and writes its records ahead of their publication.
//!
//! The record comes first, by plain quorum writes that may be repeated; then one conditional update
//! of the head publishes it. Rows above the head's number are not part of the log, whoever wrote
//! them, and of several rows of one number the one of the highest epoch is: an owner begins to
//! write above whatever the owners before it have published.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::shared::{Changed, LaneRow, LaneState, Owner, Set, Update};
use dpc_core::store::{Claimed, RECORD_BYTES_MAX, StoreError};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::pack::packed;
use super::super::remote::{Keep, tip};
use super::super::trouble::{Patience, Trouble, persist};
use super::head::{Heads, signed, uuid};
use super::reader::{Bucket, Reader};
use super::session::{Connection, trouble};

/// The most bytes of a record in one row. A cluster refuses writes above half of a commit log
/// segment, which somebody may have made small, and stalls on large ones long before.
const PART_BYTES: usize = 512 << 10;

/// How many parts of a record are under way at a time.
const PARTS_AT_ONCE: usize = 4;

const _: () = assert!(RECORD_BYTES_MAX / PART_BYTES < 1 << 10, "parts are counted in an int");

/// See the module.
pub(super) struct Keeper {
    pub(super) lane: LaneId,
    pub(super) heads: Heads,
    /// Reads the last record at a claim.
    pub(super) reader: Reader,
    /// This process.
    pub(super) me: Owner,
    /// Whom the lane is claimed from; nobody, if it is to be made.
    pub(super) from: Option<(Incarnation, Epoch)>,
    /// The first bucket that may still be there.
    pub(super) swept: Rc<Cell<u64>>,
}

impl Keep for Keeper {
    fn me(&self) -> Incarnation {
        self.me.incarnation
    }

    /// R3: the claim is committed at a quorum, and from then on the head is final but for this
    /// owner; then it is read, together with the record that it names.
    async fn claim(&mut self) -> Result<Claimed, StoreError> {
        let patience = self.heads.patience;
        let epoch = match self.from {
            None => {
                let found = persist(patience, async || self.heads.read(self.lane).await).await?;
                if let Some(found) = found {
                    return Err(self.lost_claim(Some(found.row)));
                }
                persist(patience, async || self.heads.make(self.lane, &self.me).await).await?;
                Epoch(1)
            }
            Some(from) => self.take(from).await?,
        };
        let claimed = persist(patience, async || self.begin(epoch).await).await?;
        self.from = Some((self.me.incarnation, epoch));
        Ok(claimed)
    }

    async fn write(
        &self,
        epoch: Epoch,
        number: RecordNumber,
        record: &Bytes,
    ) -> Result<(), StoreError> {
        let Heads { connection, patience, .. } = &self.heads;
        let write = async || write_once(connection, self.lane, epoch, number, record).await;
        persist(*patience, write).await
    }

    async fn update(&self, update: Update) -> Changed {
        self.heads.change(update, self.swept.get()).await
    }
}

impl Keeper {
    /// Takes the lane from an owner. The number stands in the condition, because the head notes
    /// where the new epoch begins; so an owner that still publishes is raced with.
    async fn take(&self, (owner, epoch): (Incarnation, Epoch)) -> Result<Epoch, StoreError> {
        let patience = self.heads.patience;
        let mut races = Patience::of(patience);
        let from = |row: &LaneRow| {
            (row.owner.incarnation, row.epoch) == (owner, epoch) && row.state != LaneState::Retired
        };
        loop {
            let found = persist(patience, async || self.heads.read(self.lane).await).await?;
            let found = found.map(|standing| standing.row);
            let Some(row) = found.as_ref().filter(|row| from(row)) else {
                return Err(self.lost_claim(found));
            };
            let (number, set) = (Some(row.number), Set::Claim(self.me.clone()));
            let update = Update { lane: self.lane, owner, epoch, number, set };
            match self.heads.change(update, 0).await {
                Changed::Done => return Ok(epoch.next()),
                Changed::Refused(Some(row)) if from(&row) && races.wait().await => {}
                Changed::Refused(found) => return Err(self.lost_claim(found)),
                Changed::Nothing(error) | Changed::Unknown(error) => return Err(error),
            }
        }
    }

    /// Looks at what is owned now.
    async fn begin(&self, epoch: Epoch) -> Result<Claimed, Trouble> {
        let found = self.heads.read(self.lane).await?;
        let mine = |row: &LaneRow| {
            row.owner.incarnation == self.me.incarnation
                && row.epoch == epoch
                && row.state == LaneState::Owned
        };
        let Some(standing) = found.as_ref().filter(|standing| mine(&standing.row)) else {
            return Err(Trouble::Refused(self.lost_claim(found.map(|standing| standing.row))));
        };
        let LaneRow { epoch, first, number, hash, .. } = standing.row;
        let claimed = Claimed { epoch, first, last: number, last_hash: hash };
        self.reader.check_last(&tip(self.lane, &claimed)).await?;
        self.swept.set(standing.swept);
        Ok(claimed)
    }

    /// Somebody else has the lane, or nobody ever will.
    fn lost_claim(&self, found: Option<LaneRow>) -> StoreError {
        match found {
            Some(row) if row.state == LaneState::Retired => {
                StoreError::Refused(format!("lane {} is retired", self.lane))
            }
            Some(row) => StoreError::Fenced { epoch: row.epoch },
            None => StoreError::Refused(format!("there is no lane {}", self.lane)),
        }
    }
}

/// Writes a record's parts to a quorum. Nothing reads them before the head names them.
pub(super) async fn write_once(
    connection: &Connection,
    lane: LaneId,
    epoch: Epoch,
    number: RecordNumber,
    record: &Bytes,
) -> Result<(), Trouble> {
    let open = connection.open().await?;
    let record = packed(record);
    let parts = i32::try_from(record.len().div_ceil(PART_BYTES)).expect("asserted above");
    let key = (uuid(lane), signed(Bucket::of(number).0), signed(number.0), signed(epoch.0));
    let write = |(part, bytes): (i32, &[u8])| {
        let (open, bytes) = (&open, bytes.to_vec());
        async move {
            let values = (key.0, key.1, key.2, key.3, part, parts, bytes);
            let write = &open.statements.write;
            open.link.session.execute_unpaged(write, values).await
        }
    };
    let written: Result<Vec<_>, _> = stream::iter((0..).zip(record.chunks(PART_BYTES)))
        .map(write)
        .buffer_unordered(PARTS_AT_ONCE)
        .try_collect()
        .await;
    written.map(drop).map_err(|error| trouble(&error))
}
