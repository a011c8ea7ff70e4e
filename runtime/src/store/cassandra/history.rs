//! The histories of lanes: rows that are written once and go by themselves when their time is over.

use std::sync::Arc;

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::store::StoreError;
use dpc_core::{Span, Wall};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::super::trouble::Trouble;
use super::database::{self, Thread};
use super::head::{signed, unreadable, unsigned, uuid};
use super::session::Connection;
use crate::edge::wall_of_machine;
use crate::history::shared::{Ask, FoundRow, HistoryTables, PartKey, PartRow, Row};

/// The parts of histories that ended on one day stand together, so that all of a retention are found
/// with a few queries.
const DAY: Span = Span::secs(24 * 3_600);

/// Days that are asked for at a time.
const DAYS_AT_ONCE: usize = 8;

/// The longest time to live that Cassandra takes: twenty years.
const LIVE_MAX: u64 = 630_720_000;

/// The tables as the processes' storage thread reaches them.
pub(super) struct CassandraHistory {
    pub(super) asks: mpsc::Sender<database::Ask>,
    pub(super) _thread: Arc<Thread>,
}

impl HistoryTables for CassandraHistory {
    fn ask(&self, ask: Ask) {
        database::send(&self.asks, database::Ask::History(ask));
    }
}

/// Answers one request.
pub(super) async fn answer(connection: &Connection, ask: Ask) {
    match ask {
        Ask::Write(row, keep, done) => done(write(connection, row, keep).await),
        Ask::Close(row, keep, done) => done(close(connection, &row, keep).await),
        Ask::Parts(since, done) => done(parts(connection, since).await),
        Ask::Find(lane, part, kind, key, done) => {
            let (lane, part) = (uuid(lane), part_id(part));
            let values = (lane, part, kind.as_str(), key);
            done(find(connection, values).await.map_err(Trouble::into_error));
        }
        Ask::Drop(row, done) => done(remove(connection, &row).await),
    }
}

async fn write(connection: &Connection, row: Row, keep: Span) -> Result<(), StoreError> {
    let Row { lane, part, kind, key, body } = row;
    let values = (uuid(lane), part_id(part), kind.as_str(), key, body, seconds(keep));
    connection.ask(|it| &it.history.write, values).await.map(drop).map_err(Trouble::into_error)
}

async fn close(connection: &Connection, row: &PartRow, keep: Span) -> Result<(), StoreError> {
    let values = (
        day(row.last_wall),
        uuid(row.lane),
        part_id(row.part),
        signed(row.first.0),
        signed(row.next.0),
        row.whole,
        &*row.node,
        signed(row.first_wall.0),
        signed(row.last_wall.0),
        signed(row.bytes),
        seconds(keep),
    );
    connection.ask(|it| &it.history.close, values).await.map(drop).map_err(Trouble::into_error)
}

async fn parts(connection: &Connection, since: Wall) -> Result<Vec<PartRow>, StoreError> {
    // Clocks of nodes differ: a part may end tomorrow.
    let days = day(since)..=day(wall_of_machine()) + 1;
    let days = stream::iter(days).map(async |day| parts_of(connection, day).await);
    let rows: Vec<Vec<PartRow>> =
        days.buffered(DAYS_AT_ONCE).try_collect().await.map_err(Trouble::into_error)?;
    Ok(rows.into_iter().flatten().filter(|row| row.last_wall >= since).collect())
}

async fn parts_of(connection: &Connection, day: i64) -> Result<Vec<PartRow>, Trouble> {
    let answer = connection.ask(|it| &it.history.parts, (day,)).await?;
    let rows = answer.into_rows_result().map_err(unreadable)?;
    let rows =
        rows.rows::<(Uuid, Uuid, i64, i64, bool, String, i64, i64, i64)>().map_err(unreadable)?;
    rows.map(|row| {
        let (lane, part, first, next, whole, node, from, to, bytes) = row.map_err(unreadable)?;
        let [first, next, from, to, bytes] = [first, next, from, to, bytes].map(unsigned);
        Ok(PartRow {
            lane: LaneId(lane.into_bytes()),
            part: PartKey(part.into_bytes()),
            node: node.into(),
            first: RecordNumber(first),
            next: RecordNumber(next),
            whole,
            first_wall: Wall(from),
            last_wall: Wall(to),
            bytes,
        })
    })
    .collect()
}

async fn find(
    connection: &Connection,
    values: (Uuid, Uuid, &str, Vec<u8>),
) -> Result<Option<FoundRow>, Trouble> {
    let answer = connection.ask(|it| &it.history.find, values).await?;
    let rows = answer.into_rows_result().map_err(unreadable)?;
    rows.maybe_first_row::<(Vec<u8>, Vec<u8>)>().map_err(unreadable)
}

async fn remove(connection: &Connection, row: &PartRow) -> Result<(), StoreError> {
    let (lane, part) = (uuid(row.lane), part_id(row.part));
    let named = connection.ask(|it| &it.history.unname, (day(row.last_wall), lane, part)).await;
    named.map_err(Trouble::into_error)?;
    let dropped = connection.ask(|it| &it.history.remove, (lane, part)).await;
    dropped.map(drop).map_err(Trouble::into_error)
}

fn part_id(part: PartKey) -> Uuid {
    Uuid::from_bytes(part.0)
}

fn day(wall: Wall) -> i64 {
    signed(wall.0 / DAY.as_millis())
}

fn seconds(keep: Span) -> i32 {
    i32::try_from((keep.as_millis() / 1_000).clamp(1, LIVE_MAX)).expect("twenty years are fewer")
}
