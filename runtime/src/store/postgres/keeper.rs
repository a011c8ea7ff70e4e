//! Whoever changes the lane: claims it, appends to it, says what is kept of it.
//!
//! An append is one statement: it moves the head from n - 1 to n if owner, epoch and number are
//! still right, and writes the record beside it. So it may be sent again after any fault: whichever
//! of the two arrives first is the one, the other changes nothing, and what stands at the number in
//! the end says how it went. Rows of the inbox go in the same statement.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::shared::{Changed, InboxRow, LaneRow, LaneState, Owner, Set, Update};
use dpc_core::store::{Appended, Claimed, StoreError};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::chain::Tip;
use super::super::pack::{packed, unpacked};
use super::super::trouble::{Patience, Trouble};
use super::head::{self, bits, row_of, signed, signed_epoch};
use super::session::{Session, within};

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

/// See the module.
pub(super) struct Keeper {
    pub(super) lane: Shared,
    pub(super) session: Session,
    /// How long an outage may last before the node gives up.
    pub(super) patience: Duration,
    /// This process.
    pub(super) me: Owner,
    /// Whom the lane is claimed from; nobody, if it is to be made.
    pub(super) from: Option<(Incarnation, Epoch)>,
}

/// What stands at a number, and who owns the lane.
struct Standing {
    head: LaneRow,
    hash: Option<[u8; 16]>,
}

impl Keeper {
    /// R3: the new epoch is committed, which makes durable whatever was committed before it; then
    /// the end of the log is read and compared with the head.
    pub(super) async fn claim(&mut self) -> Result<Claimed, StoreError> {
        {
            let mut lane = self.lane.borrow_mut();
            (lane.claimed, lane.failed) = (false, None);
        }
        let lane = self.lane.borrow().tip.lane;
        let epoch = match self.from {
            None => Epoch(1),
            Some((owner, epoch)) => {
                let set = Set::Claim(self.me.clone());
                let update = Update { lane, owner, epoch, number: None, set };
                match head::change(&mut self.session, update).await {
                    Changed::Done => epoch.next(),
                    Changed::Refused(found) => return Err(lost_claim(lane, found)),
                    Changed::Nothing(error) | Changed::Unknown(error) => return Err(error),
                }
            }
        };
        let mut patience = Patience::of(self.patience);
        // An earlier try may have made the lane.
        let mut made = false;
        let claimed = loop {
            match self.begin(lane, epoch, made).await {
                Ok(claimed) => break claimed,
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::NotSent(why) | Trouble::Lost(why)) => {
                    self.session.leave();
                    made = true;
                    tracing::warn!("the lane is not claimed yet: {why}");
                    if !patience.wait().await {
                        return Err(StoreError::Io(why));
                    }
                }
            }
        };
        self.from = Some((self.me.incarnation, epoch));
        let Claimed { epoch, first, last, last_hash } = claimed;
        let tip = Tip { lane, epoch, first, last, last_hash };
        *self.lane.borrow_mut() = Lane { tip, claimed: true, failed: None };
        Ok(claimed)
    }

    /// Makes the lane if it is to be a new one, and looks at what is owned now. May be repeated.
    async fn begin(
        &mut self,
        lane: LaneId,
        epoch: Epoch,
        mut made: bool,
    ) -> Result<Claimed, Trouble> {
        let (me, id) = (bits(self.me.incarnation), Uuid::from_bytes(lane.0));
        let client = &self.session.open().await?.client;
        if self.from.is_none() {
            let make = "INSERT INTO dpc.lane_head (lane, owner, node, address, epoch) \
                        VALUES ($1, $2, $3, $4, 1) ON CONFLICT DO NOTHING";
            let (name, address) = (self.me.name.as_str(), self.me.address.as_ref());
            made |= within(client.execute(make, &[&id, &me, &name, &address])).await? == 1;
        }
        let row = head::read(client, lane).await?;
        let mine = |row: &LaneRow| {
            row.owner.incarnation == self.me.incarnation
                && row.epoch == epoch
                && row.state == LaneState::Owned
                && (made || self.from.is_some())
        };
        let Some(row) = row.as_ref().filter(|row| mine(row)) else {
            return Err(Trouble::Refused(lost_claim(lane, row)));
        };
        let claimed =
            Claimed { epoch: row.epoch, first: row.first, last: row.number, last_hash: row.hash };
        let count = "SELECT count(*), min(number), max(number) FROM dpc.lane_log \
                     WHERE lane = $1 AND number >= $2";
        let row = within(client.query_one(count, &[&id, &signed(claimed.first)])).await?;
        check_count(lane, &claimed, &row).map_err(Trouble::Refused)?;
        self.check_last(lane, &claimed).await?;
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
        let record = unpacked(Bytes::copy_from_slice(row.get(0)));
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
        rows: &[InboxRow],
    ) -> Appended {
        let tip = self.lane.borrow().tip;
        if let Err(error) = tip.admit(epoch, number, &record) {
            return Appended::DefinitelyNot(error);
        }
        let hash = hash_of(&record);
        let rows = head::signed_rows(rows);
        let written = (&packed(&record), &*rows);
        let answer = self.append_at_last(epoch, number, &hash, written).await;
        let mut lane = self.lane.borrow_mut();
        match &answer {
            Appended::Committed => (lane.tip.last, lane.tip.last_hash) = (number, hash),
            Appended::DefinitelyNot(error) | Appended::Unknown(error) => {
                lane.failed.get_or_insert_with(|| error.clone());
            }
        }
        answer
    }

    /// Appends where what the caller has seen last is still the last.
    pub(super) async fn append_at_last(
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        hash: &[u8; 16],
        (record, rows): (&Bytes, &[i64]),
    ) -> Appended {
        let mut patience = Patience::of(self.patience);
        let mut sent = false;
        loop {
            let why = match self.try_append(epoch, number, hash, (record, rows)).await {
                Ok(true) => return Appended::Committed,
                Ok(false) => match self.look(number).await {
                    Ok(standing) => {
                        let me = self.me.incarnation;
                        return judge(standing.as_ref(), (me, epoch, number), hash, sent);
                    }
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
        (record, rows): (&Bytes, &[i64]),
    ) -> Result<bool, Trouble> {
        let uuid = Uuid::from_bytes(self.lane.borrow().tip.lane.0);
        let open = self.session.open().await?;
        let (me, epoch, number) = (bits(self.me.incarnation), signed_epoch(epoch), signed(number));
        let (hash, record): (&[u8], &[u8]) = (hash, record);
        let params: [&(dyn ToSql + Sync); 7] = [&uuid, &me, &epoch, &number, &hash, &record, &rows];
        let written = if rows.is_empty() {
            within(open.client.execute(&open.append, &params[..6])).await?
        } else {
            within(open.client.execute(&open.append_taking, &params)).await?
        };
        Ok(written == 1)
    }

    async fn look(&mut self, number: RecordNumber) -> Result<Option<Standing>, Trouble> {
        let uuid = Uuid::from_bytes(self.lane.borrow().tip.lane.0);
        let open = self.session.open().await?;
        let row = within(open.client.query_opt(&open.look, &[&uuid, &signed(number)])).await?;
        let standing = |row: Row| {
            let hash = row.get::<_, Option<&[u8]>>(10).and_then(|hash| hash.try_into().ok());
            Ok(Standing { head: row_of(&row)?, hash })
        };
        row.map(standing).transpose().map_err(Trouble::Refused)
    }

    /// Says from where on records are kept. The rows below go behind the commit path.
    pub(super) async fn truncate(&mut self, below: RecordNumber) -> Result<(), StoreError> {
        let tip = self.lane.borrow().tip;
        tip.may_truncate(below)?;
        if below <= tip.first {
            return Ok(());
        }
        match self.change_head(tip.epoch, Set::Truncate(below), None).await {
            Appended::Committed => {
                self.lane.borrow_mut().tip.first = below;
                Ok(())
            }
            Appended::DefinitelyNot(error) | Appended::Unknown(error) => Err(error),
        }
    }

    /// Proves that the lane is owned still, or ends it.
    pub(super) async fn renew_or_retire(&mut self, epoch: Epoch, set: Set) -> Appended {
        let tip = self.lane.borrow().tip;
        if epoch < tip.epoch {
            return Appended::DefinitelyNot(StoreError::Fenced { epoch: tip.epoch });
        }
        if epoch > tip.epoch {
            let why = format!("epoch {epoch} was never claimed");
            return Appended::DefinitelyNot(StoreError::Refused(why));
        }
        self.change_head(epoch, set, Some(tip.last)).await
    }

    async fn change_head(
        &mut self,
        epoch: Epoch,
        set: Set,
        number: Option<RecordNumber>,
    ) -> Appended {
        let (lane, owner) = (self.lane.borrow().tip.lane, self.me.incarnation);
        let update = Update { lane, owner, epoch, number, set };
        let answer = match head::change(&mut self.session, update).await {
            Changed::Done => return Appended::Committed,
            Changed::Refused(found) => {
                let epoch = found.map_or(epoch, |row| row.epoch);
                Appended::DefinitelyNot(StoreError::Fenced { epoch })
            }
            Changed::Nothing(error) => Appended::DefinitelyNot(error),
            Changed::Unknown(error) => Appended::Unknown(error),
        };
        if let Appended::DefinitelyNot(error) | Appended::Unknown(error) = &answer {
            self.lane.borrow_mut().failed.get_or_insert_with(|| error.clone());
        }
        answer
    }
}

/// Somebody else has the lane, or nobody ever will.
fn lost_claim(lane: LaneId, found: Option<LaneRow>) -> StoreError {
    match found {
        Some(row) if row.state == LaneState::Retired => {
            StoreError::Refused(format!("lane {lane} is retired"))
        }
        Some(row) => StoreError::Fenced { epoch: row.epoch },
        None => StoreError::Refused(format!("there is no lane {lane}")),
    }
}

/// How an append ended that moved nothing when it was sent for the last time.
fn judge(
    standing: Option<&Standing>,
    (me, epoch, number): (Incarnation, Epoch, RecordNumber),
    hash: &[u8; 16],
    sent: bool,
) -> Appended {
    let Some(Standing { head, hash: there }) = standing else {
        let error = StoreError::Io("the lane is gone from the database".into());
        return if sent { Appended::Unknown(error) } else { Appended::DefinitelyNot(error) };
    };
    if there.as_ref() == Some(hash) {
        return Appended::Committed;
    }
    let mine = head.owner.incarnation == me && head.epoch == epoch;
    if head.epoch > epoch || (mine && head.state != LaneState::Owned) {
        let error = StoreError::Fenced { epoch: head.epoch };
        // What the next owner has truncated already may have been this record.
        let gone = sent && number < head.first;
        return if gone { Appended::Unknown(error) } else { Appended::DefinitelyNot(error) };
    }
    let what = format!(
        "epoch {} and record {} stand there, epoch {epoch} and record {number} were to follow: the \
         database was set back",
        head.epoch, head.number
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
