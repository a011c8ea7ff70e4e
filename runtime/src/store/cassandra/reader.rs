//! Whoever reads the lane, beside its appends, and whoever drops what is not kept any more.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::shared::LaneState;
use dpc_core::store::{READ_BYTES_MAX, StoreError};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::response::PagingState;
use tokio::sync::watch;

use super::super::chain::Tip;
use super::super::pack::unpacked;
use super::super::remote::Shared;
use super::super::trouble::{Trouble, persist};
use super::head::{Heads, signed, unreadable, unsigned, uuid};
use super::session::{Connection, trouble};

/// How many records share a partition, which is deleted as a whole: 4 MiB of records of the usual
/// size, 512 MiB of the largest.
const BUCKET_RECORDS: u64 = 64;

/// How many rows one page has: at most 16 MiB, and as a rule far less.
const PAGE_ROWS_MAX: usize = 32;

/// A record of the usual size, to guess how many rows are wanted.
const RECORD_BYTES: usize = 64 << 10;

/// How many records one query of a long read asks for, and of which usual size they are together.
const SPAN_RECORDS: u64 = 16;
const SPAN_BYTES: usize = 4 << 20;

/// Queries of a long read under way at a time: one alone waits for the cluster most of the time.
const SPANS_AT_ONCE: usize = 4;

const _: () = assert!(BUCKET_RECORDS.is_multiple_of(SPAN_RECORDS), "a query is of one partition");

/// The partition of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket(pub(super) u64);

impl Bucket {
    pub(super) fn of(number: RecordNumber) -> Self {
        Self(number.0 / BUCKET_RECORDS)
    }

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The records from one number to another, in spans that each lie in one partition.
fn spans(
    from: RecordNumber,
    to: RecordNumber,
) -> impl Iterator<Item = (RecordNumber, RecordNumber)> {
    let span = |first: u64| first / SPAN_RECORDS * SPAN_RECORDS + SPAN_RECORDS - 1;
    std::iter::successors(Some(from.0), move |first| Some(span(*first) + 1))
        .take_while(move |first| *first <= to.0)
        .map(move |first| (RecordNumber(first), RecordNumber(span(first).min(to.0))))
}

/// The place that damage is named by.
pub(super) fn damaged(lane: LaneId, number: RecordNumber, what: impl Into<String>) -> StoreError {
    StoreError::Damaged {
        place: format!("table lane_log, lane {lane}, record {number}"),
        what: what.into(),
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) lane: Shared,
    pub(super) heads: Heads,
}

/// One part of a record.
struct Part {
    number: u64,
    epoch: u64,
    part: i32,
    parts: i32,
    bytes: Vec<u8>,
}

impl Reader {
    /// Records from a number on: see [`dpc_core::store::Store::read`].
    pub(super) async fn read(
        &self,
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
        let read = async || self.try_read(&tip, from, bytes_max).await;
        let records = persist(self.heads.patience, read).await?;
        match check(&tip, from, &records) {
            Ok(()) => Ok(records),
            Err(damage) => Err(self.fenced(&tip).await.unwrap_or(damage)),
        }
    }

    /// Whether the lane has another owner, who may have let go of what is missing.
    async fn fenced(&self, tip: &Tip) -> Option<StoreError> {
        let look = async || self.heads.read(tip.lane).await;
        let row = persist(self.heads.patience, look).await.ok()??.row;
        let gone = row.epoch > tip.epoch || row.state != LaneState::Owned;
        gone.then_some(StoreError::Fenced { epoch: row.epoch })
    }

    async fn try_read(
        &self,
        tip: &Tip,
        from: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, Trouble> {
        let read = |(first, last): (RecordNumber, RecordNumber)| async move {
            let found = self.bucket(tip.lane, first, last, bytes_max).await?;
            let whole = found.len() as u64 == last.0 + 1 - first.0;
            Ok::<_, Trouble>((found, whole))
        };
        let at_once = (bytes_max / SPAN_BYTES).clamp(1, SPANS_AT_ONCE);
        let mut spans = pin!(stream::iter(spans(from, tip.last)).map(read).buffered(at_once));
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some((found, whole)) = spans.try_next().await? {
            for (number, record) in found {
                if !records.is_empty() && bytes + record.len() > bytes_max {
                    return Ok(records);
                }
                bytes += record.len();
                records.push((number, record));
            }
            // Either enough was read, or one is missing: who checks them sees it.
            if !whole || bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    /// Records of one partition, up to `last` or as many as `bytes_max` asks for, and one more.
    async fn bucket(
        &self,
        lane: LaneId,
        from: RecordNumber,
        last: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, Trouble> {
        let connection = &self.heads.connection;
        let open = connection.open().await?;
        let mut statement = open.statements.read.clone();
        let rows = (bytes_max / RECORD_BYTES + 2).min(PAGE_ROWS_MAX);
        statement.set_page_size(i32::try_from(rows).expect("small"));
        let last = if bytes_max <= 1 { from } else { last };
        let values = (uuid(lane), signed(Bucket::of(from).0), signed(from.0), signed(last.0));
        let mut gathered = Gathered::default();
        let mut state = PagingState::start();
        loop {
            let session = &open.link.session;
            let page = session.execute_single_page(&statement, values, state).await;
            let (page, next) = page.map_err(|error| trouble(&error))?;
            let rows = page.into_rows_result().map_err(unreadable)?;
            for row in rows.rows::<(i64, i64, i32, i32, Vec<u8>)>().map_err(unreadable)? {
                let (number, epoch, part, parts, bytes) = row.map_err(unreadable)?;
                let [number, epoch] = [number, epoch].map(unsigned);
                gathered.take(Part { number, epoch, part, parts, bytes });
            }
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(gathered.finish(false)),
                ControlFlow::Continue(_) if gathered.is_enough(bytes_max) => {
                    return Ok(gathered.finish(true));
                }
                ControlFlow::Continue(more) => state = more,
            }
        }
    }

    /// Reads the last record of a lane that was just claimed: it must be there, and be the one that
    /// the head names.
    pub(super) async fn check_last(&self, tip: &Tip) -> Result<(), Trouble> {
        if tip.last < tip.first {
            return Ok(());
        }
        let records = self.try_read(tip, tip.last, 1).await?;
        check(tip, tip.last, &records).map_err(Trouble::Refused)
    }
}

/// Puts records together from their parts, which come in order, of each number the highest epoch
/// first: what a fenced owner has left under a lower one is not part of the log.
#[derive(Default)]
struct Gathered {
    records: Vec<(RecordNumber, Bytes)>,
    bytes: usize,
    open: Option<Unfinished>,
}

/// A record that is being put together.
struct Unfinished {
    number: u64,
    epoch: u64,
    /// The part that comes next, and how many there are.
    next: i32,
    parts: i32,
    body: Vec<u8>,
}

impl Gathered {
    fn take(&mut self, part: Part) {
        let Part { number, epoch, .. } = part;
        if self.open.as_ref().is_none_or(|open| open.number != number) {
            self.close();
            let parts = part.parts;
            self.open = Some(Unfinished { number, epoch, next: 0, parts, body: Vec::new() });
        }
        let open = self.open.as_mut().expect("it is there now");
        // A part that is missing leaves a record whose hash does not fit.
        if open.epoch == epoch && open.next == part.part {
            open.next += 1;
            open.body.extend_from_slice(&part.bytes);
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let record = unpacked(Bytes::from(open.body));
            self.bytes += record.len();
            self.records.push((RecordNumber(open.number), record));
        }
    }

    /// The records; the last one not if some of it is still to come.
    fn finish(mut self, more: bool) -> Vec<(RecordNumber, Bytes)> {
        if !more || self.open.as_ref().is_some_and(|open| open.next == open.parts) {
            self.close();
        }
        self.records
    }

    /// Whether as many bytes are there as were asked for, and a record in any case.
    fn is_enough(&self, bytes_max: usize) -> bool {
        let one = self.records.len()
            + usize::from(self.open.as_ref().is_some_and(|open| open.next == open.parts));
        self.bytes > bytes_max && one > 0
    }
}

/// Everything that was read follows from `from` without a gap, undamaged and linked.
fn check(
    tip: &Tip,
    from: RecordNumber,
    records: &[(RecordNumber, Bytes)],
) -> Result<(), StoreError> {
    let mut previous = None;
    let mut expected = from;
    if records.is_empty() {
        return Err(damaged(tip.lane, from, "it is missing"));
    }
    for (number, record) in records {
        let there = (*number == expected).then_some(record);
        tip.check(expected, there, previous).map_err(|what| damaged(tip.lane, expected, what))?;
        previous = Some(hash_of(record));
        expected = expected.next();
    }
    Ok(())
}

/// Drops buckets below what is kept, whenever that has changed, and counts in `swept` how far it
/// has come. What a fault leaves behind goes with the next round: nothing reads it.
pub(super) async fn sweep(
    lane: LaneId,
    connection: Connection,
    swept: Rc<Cell<u64>>,
    mut kept: watch::Receiver<RecordNumber>,
) {
    while kept.changed().await.is_ok() {
        let below = Bucket::of(*kept.borrow_and_update());
        sweep_below(lane, &connection, &swept, below).await;
    }
}

/// Drops what is left of the buckets below one.
pub(super) async fn sweep_below(
    lane: LaneId,
    connection: &Connection,
    swept: &Cell<u64>,
    below: Bucket,
) {
    while swept.get() < below.0 {
        let bucket = swept.get();
        let dropped = connection.ask(|it| &it.sweep, (uuid(lane), signed(bucket))).await;
        if let Err(trouble) = dropped {
            tracing::warn!(bucket, "old records are not dropped yet: {}", trouble.into_error());
            return;
        }
        // A claim may have set it back meanwhile; then it is done once more.
        if swept.get() == bucket {
            swept.set(bucket + 1);
        }
    }
}
