//! Whoever changes the lane: claims it, appends to it, says what is kept of it.
//!
//! An append is one statement: it moves the head from n - 1 to n if owner and number are still
//! right, and writes the record beside it. So it may be sent again after any fault: whichever of
//! the two arrives first is the one, the other changes nothing, and what stands at the number in
//! the end says how it went.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::store::{Appended, Claimed, StoreError};
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::chain::Tip;
use super::super::folder::Folder;
use super::session::{Session, Trouble, within};

/// Between two tries after a fault: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What the keeper and the reader both know of the lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tip: Tip,
    pub(super) claimed: bool,
    /// The first failure: from then on everything gets it, until the next claim.
    pub(super) failed: Option<StoreError>,
}

pub(super) type Shared = Rc<RefCell<Lane>>;

impl Lane {
    pub(super) fn of(lane: LaneId) -> Shared {
        let tip = Tip {
            lane,
            epoch: Epoch(0),
            first: RecordNumber(1),
            last: RecordNumber(0),
            last_hash: [0; 16],
        };
        Rc::new(RefCell::new(Self { tip, claimed: false, failed: None }))
    }

    /// Why nothing can be done now, if so.
    pub(super) fn error(&self) -> Option<StoreError> {
        match &self.failed {
            None if !self.claimed => Some(StoreError::Refused("claim the lane first".into())),
            failed => failed.clone(),
        }
    }
}

/// The place that damage is named by.
pub(super) fn damaged(lane: LaneId, number: RecordNumber, what: impl Into<String>) -> StoreError {
    StoreError::Damaged {
        place: format!("table dpc.lane_log, lane {lane}, record {number}"),
        what: what.into(),
    }
}

/// Pauses that grow, up to an end.
pub(super) struct Patience {
    end: Instant,
    pause: Duration,
}

impl Patience {
    pub(super) fn of(span: Duration) -> Self {
        Self { end: Instant::now() + span, pause: PAUSE_MIN }
    }

    /// Waits for the next try. Says whether there is one.
    pub(super) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause > self.end {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// See the module.
pub(super) struct Keeper {
    pub(super) lane: Shared,
    pub(super) session: Session,
    /// How long an outage may last before the node gives up.
    pub(super) patience: Duration,
    /// The name of the node, for people who look at the table.
    pub(super) node: String,
    /// Where the last claim is remembered: the database must know of it.
    pub(super) folder: Folder,
}

/// What stands at a number.
struct Standing {
    epoch: Epoch,
    first: RecordNumber,
    last: RecordNumber,
    hash: Option<[u8; 16]>,
}

impl Keeper {
    /// R3: the new epoch is committed, which makes durable whatever was committed before it; then
    /// the end of the log is read and compared with the head.
    pub(super) async fn claim(&mut self) -> Result<Claimed, StoreError> {
        let mut patience = Patience::of(self.patience);
        let claimed = loop {
            match self.try_claim().await {
                Ok(claimed) => break claimed,
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::NotSent(why) | Trouble::Lost(why)) => {
                    self.session.leave();
                    tracing::warn!("the lane is not claimed yet: {why}");
                    // A claim that was made without our learning of it only costs an epoch.
                    if !patience.wait().await {
                        return Err(StoreError::Io(why));
                    }
                }
            }
        };
        self.folder.note_claim(claimed.epoch)?;
        let mut lane = self.lane.borrow_mut();
        let id = lane.tip.lane;
        let Claimed { epoch, first, last, last_hash } = claimed;
        *lane = Lane {
            tip: Tip { lane: id, epoch, first, last, last_hash },
            claimed: true,
            failed: None,
        };
        Ok(claimed)
    }

    async fn try_claim(&mut self) -> Result<Claimed, Trouble> {
        let id = self.lane.borrow().tip.lane;
        let (uuid, before) = (Uuid::from_bytes(id.0), self.folder.claimed());
        let before = before.map_err(Trouble::Refused)?;
        let node = self.node.clone();
        let client = &self.session.open().await?.client;
        if before.is_none() {
            let make = "INSERT INTO dpc.lane_head (lane) VALUES ($1) ON CONFLICT DO NOTHING";
            within(client.execute(make, &[&uuid])).await?;
        }
        let take = "UPDATE dpc.lane_head SET epoch = epoch + 1, claimed = now(), node = $2 \
                    WHERE lane = $1 RETURNING epoch, first, number, hash";
        let row = within(client.query_opt(take, &[&uuid, &node])).await?;
        let row = row.ok_or_else(|| {
            let what = "the lane is not in this database: it is another one, or it was restored \
                        from a backup that is older than the lane";
            Trouble::Refused(damaged(id, RecordNumber(0), what))
        })?;
        let epoch = Epoch(number(&row, 0));
        if let Some(before) = before.filter(|before| *before >= epoch) {
            let what = format!(
                "this claim has epoch {epoch}, an earlier one had {before}: the database was set back"
            );
            return Err(Trouble::Refused(damaged(id, RecordNumber(0), what)));
        }
        let claimed = Claimed {
            epoch,
            first: RecordNumber(number(&row, 1)),
            last: RecordNumber(number(&row, 2)),
            last_hash: hash(row.get(3)).map_err(|what| {
                Trouble::Refused(damaged(id, RecordNumber(number(&row, 2)), what))
            })?,
        };
        let count = "SELECT count(*), min(number), max(number) FROM dpc.lane_log \
                     WHERE lane = $1 AND number >= $2";
        let row = within(client.query_one(count, &[&uuid, &signed(claimed.first)])).await?;
        check_count(id, &claimed, &row).map_err(Trouble::Refused)?;
        self.check_last(id, &claimed).await?;
        Ok(claimed)
    }

    async fn check_last(&mut self, id: LaneId, claimed: &Claimed) -> Result<(), Trouble> {
        if claimed.last < claimed.first {
            return Ok(());
        }
        let open = self.session.open().await?;
        let uuid = Uuid::from_bytes(id.0);
        let row = "SELECT record FROM dpc.lane_log WHERE lane = $1 AND number = $2";
        let row = within(open.client.query_one(row, &[&uuid, &signed(claimed.last)])).await?;
        let record = Bytes::copy_from_slice(row.get(0));
        let Claimed { epoch, first, last, last_hash } = *claimed;
        let tip = Tip { lane: id, epoch, first, last, last_hash };
        let checked = tip.check(last, Some(&record), None);
        checked.map_err(|what| Trouble::Refused(damaged(id, last, what)))
    }

    /// Appends, whatever happens to the connection meanwhile. After anything but *committed*
    /// nothing works until the next claim.
    pub(super) async fn append(
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        record: Bytes,
    ) -> Appended {
        let tip = self.lane.borrow().tip;
        if let Err(error) = tip.admit(epoch, number, &record) {
            return Appended::DefinitelyNot(error);
        }
        let hash = hash_of(&record);
        let answer = self.append_at_last(epoch, number, &hash, &record).await;
        let mut lane = self.lane.borrow_mut();
        match &answer {
            Appended::Committed => (lane.tip.last, lane.tip.last_hash) = (number, hash),
            Appended::DefinitelyNot(error) | Appended::Unknown(error) => {
                lane.failed.get_or_insert_with(|| error.clone());
            }
        }
        answer
    }

    async fn append_at_last(
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        hash: &[u8; 16],
        record: &Bytes,
    ) -> Appended {
        let mut patience = Patience::of(self.patience);
        let mut sent = false;
        loop {
            let why = match self.try_append(epoch, number, hash, record).await {
                Ok(true) => return Appended::Committed,
                Ok(false) => match self.look(number).await {
                    Ok(standing) => return judge(&standing, (epoch, number), hash, sent),
                    Err(trouble) => trouble.into_error().to_string(),
                },
                Err(Trouble::Refused(error)) if sent => return Appended::Unknown(error),
                Err(Trouble::Refused(error)) => return Appended::DefinitelyNot(error),
                Err(Trouble::NotSent(why)) => why,
                Err(Trouble::Lost(why)) => {
                    sent = true;
                    why
                }
            };
            self.session.leave();
            tracing::warn!(%number, "a record is not committed yet: {why}");
            if !patience.wait().await {
                let error = StoreError::Io(why);
                return if sent {
                    Appended::Unknown(error)
                } else {
                    Appended::DefinitelyNot(error)
                };
            }
        }
    }

    async fn try_append(
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        hash: &[u8; 16],
        record: &Bytes,
    ) -> Result<bool, Trouble> {
        let uuid = Uuid::from_bytes(self.lane.borrow().tip.lane.0);
        let open = self.session.open().await?;
        let (epoch, number) = (signed_epoch(epoch), signed(number));
        let (hash, record): (&[u8], &[u8]) = (hash, record);
        let params: [&(dyn ToSql + Sync); 5] = [&uuid, &epoch, &number, &hash, &record];
        Ok(within(open.client.execute(&open.append, &params)).await? == 1)
    }

    async fn look(&mut self, number: RecordNumber) -> Result<Option<Standing>, Trouble> {
        let uuid = Uuid::from_bytes(self.lane.borrow().tip.lane.0);
        let open = self.session.open().await?;
        let row = within(open.client.query_opt(&open.look, &[&uuid, &signed(number)])).await?;
        Ok(row.map(|row| Standing {
            epoch: Epoch(self::number(&row, 0)),
            first: RecordNumber(self::number(&row, 1)),
            last: RecordNumber(self::number(&row, 2)),
            hash: row.get::<_, Option<&[u8]>>(3).and_then(|hash| hash.try_into().ok()),
        }))
    }

    /// Says from where on records are kept. The rows below go behind the commit path.
    pub(super) async fn truncate(&mut self, below: RecordNumber) -> Result<(), StoreError> {
        let tip = self.lane.borrow().tip;
        tip.may_truncate(below)?;
        if below <= tip.first {
            return Ok(());
        }
        let keep = "UPDATE dpc.lane_head SET first = greatest(first, $3) \
                    WHERE lane = $1 AND epoch = $2";
        let uuid = Uuid::from_bytes(tip.lane.0);
        let mut patience = Patience::of(self.patience);
        loop {
            let kept = match self.session.open().await {
                Ok(open) => {
                    let params = (&uuid, signed_epoch(tip.epoch), signed(below));
                    within(open.client.execute(keep, &[params.0, &params.1, &params.2])).await
                }
                Err(trouble) => Err(trouble),
            };
            match kept {
                Ok(1) => break,
                Ok(_) => return Err(StoreError::Fenced { epoch: tip.epoch.next() }),
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::NotSent(why) | Trouble::Lost(why)) => {
                    self.session.leave();
                    if !patience.wait().await {
                        return Err(StoreError::Io(why));
                    }
                }
            }
        }
        self.lane.borrow_mut().tip.first = below;
        Ok(())
    }
}

/// How an append ended that moved nothing when it was sent for the last time.
fn judge(
    standing: &Option<Standing>,
    (epoch, number): (Epoch, RecordNumber),
    hash: &[u8; 16],
    sent: bool,
) -> Appended {
    let Some(standing) = standing else {
        let error = StoreError::Io("the lane is gone from the database".into());
        return if sent { Appended::Unknown(error) } else { Appended::DefinitelyNot(error) };
    };
    if standing.hash.as_ref() == Some(hash) {
        return Appended::Committed;
    }
    if standing.epoch > epoch {
        let error = StoreError::Fenced { epoch: standing.epoch };
        // What the next owner has truncated already may have been this record.
        let gone = sent && number < standing.first;
        return if gone { Appended::Unknown(error) } else { Appended::DefinitelyNot(error) };
    }
    let what = format!(
        "epoch {} and record {} stand there, epoch {epoch} and record {number} were to follow: the \
         database was set back",
        standing.epoch, standing.last
    );
    Appended::DefinitelyNot(StoreError::Damaged { place: "table dpc.lane_head".into(), what })
}

fn check_count(id: LaneId, claimed: &Claimed, row: &Row) -> Result<(), StoreError> {
    let expected = (claimed.last.0 + 1).saturating_sub(claimed.first.0);
    let (count, min, max): (i64, Option<i64>, Option<i64>) = (row.get(0), row.get(1), row.get(2));
    let whole = u64::try_from(count) == Ok(expected)
        && (expected == 0
            || (min == Some(signed(claimed.first)) && max == Some(signed(claimed.last))));
    if whole {
        return Ok(());
    }
    let what = format!(
        "{count} records from {min:?} to {max:?} are there, and the head says {} to {}",
        claimed.first, claimed.last
    );
    Err(damaged(id, claimed.last, what))
}

fn hash(bytes: &[u8]) -> Result<[u8; 16], String> {
    bytes.try_into().map_err(|_| format!("the head's hash has {} bytes, not 16", bytes.len()))
}

/// Numbers are `bigint` there: both count up from zero, far below its end.
pub(super) fn signed(number: RecordNumber) -> i64 {
    i64::try_from(number.0).expect("records are counted one by one")
}

fn signed_epoch(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).expect("epochs are counted one by one")
}

fn number(row: &Row, column: usize) -> u64 {
    u64::try_from(row.get::<_, i64>(column)).unwrap_or(0)
}
