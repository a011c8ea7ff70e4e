//! The histories of lanes: rows that are written once and removed when their time is over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::store::StoreError;
use dpc_core::{Span, Wall};
use tokio::sync::mpsc;
use tokio_postgres::Client;
use uuid::Uuid;

use super::super::trouble::Trouble;
use super::head::counted;
use super::session::{Session, Way, within};
use super::{QUEUE_COUNT_MAX, dead, full, on_a_thread, ready};
use crate::history::shared::{Ask, FoundRow, HistoryTables, PartKey, PartRow, Row, RowKind};

/// The longest that something is kept: Postgres has no time beyond some thousands of years.
const KEEP_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// The tables as a thread with a connection of its own reaches them: neither commits nor beats wait
/// for it.
pub(super) struct PostgresHistory {
    asks: mpsc::Sender<Ask>,
}

impl PostgresHistory {
    /// The first connection is made by the first request.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if there is no thread for it.
    pub(super) fn open(way: Way, create_tables: bool) -> Result<Self, StoreError> {
        let (asks, asked) = mpsc::channel(QUEUE_COUNT_MAX);
        on_a_thread("dpc-history-db", async move || run(way, create_tables, asked).await)?;
        Ok(Self { asks })
    }
}

impl HistoryTables for PostgresHistory {
    fn ask(&self, ask: Ask) {
        match self.asks.try_send(ask) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(ask)) => ask.refuse(full()),
            Err(mpsc::error::TrySendError::Closed(ask)) => ask.refuse(dead()),
        }
    }
}

async fn run(way: Way, create_tables: bool, mut asked: mpsc::Receiver<Ask>) {
    let (mut session, mut is_ready) = (Session::new(way.clone()), false);
    while let Some(ask) = asked.recv().await {
        if !is_ready {
            match ready(&way, create_tables).await {
                Ok(_) => is_ready = true,
                Err(trouble) => {
                    ask.refuse(trouble.into_error());
                    continue;
                }
            }
        }
        match session.open().await {
            Ok(open) => {
                if !answer(&open.client, ask).await {
                    session.leave();
                }
            }
            Err(trouble) => ask.refuse(trouble.into_error()),
        }
    }
}

/// Answers one request. Says whether the connection is still good.
async fn answer(client: &Client, ask: Ask) -> bool {
    match ask {
        Ask::Write(row, keep, done) => tell(write(client, &row, keep).await, done),
        Ask::Close(row, keep, done) => {
            // As much goes as comes.
            let closed = async {
                close(client, &row, keep).await?;
                sweep(client).await
            };
            tell(closed.await, done)
        }
        Ask::Parts(since, done) => tell(parts(client, since).await, done),
        Ask::Find(lane, part, kind, key, done) => {
            tell(find(client, (lane, part), kind, &key).await, done)
        }
        Ask::Drop(row, done) => tell(remove(client, &row).await, done),
    }
}

fn tell<T>(answer: Result<T, Trouble>, done: impl FnOnce(Result<T, StoreError>)) -> bool {
    let is_good = matches!(answer, Ok(_) | Err(Trouble::Refused(_)));
    done(answer.map_err(Trouble::into_error));
    is_good
}

async fn write(client: &Client, row: &Row, keep: Span) -> Result<(), Trouble> {
    let sql = "INSERT INTO dpc.history_row (lane, part, kind, key, body, expires) \
               VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6)) \
               ON CONFLICT (lane, part, kind, key) \
               DO UPDATE SET body = excluded.body, expires = excluded.expires";
    let (lane, part, kind) = (uuid(row.lane), Uuid::from_bytes(row.part.0), row.kind.as_str());
    let keep = seconds(keep);
    within(client.execute(sql, &[&lane, &part, &kind, &row.key, &row.body, &keep])).await.map(drop)
}

async fn close(client: &Client, row: &PartRow, keep: Span) -> Result<(), Trouble> {
    let sql = "INSERT INTO dpc.history_part \
               (lane, part, node, first, next, whole, first_wall, last_wall, bytes, expires) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10)) \
               ON CONFLICT (lane, part) DO NOTHING";
    let (lane, part, node) = (uuid(row.lane), Uuid::from_bytes(row.part.0), &*row.node);
    let (from, to) = (time(row.first_wall), time(row.last_wall));
    let counts = [row.first.0, row.next.0, row.bytes];
    let [first, next, bytes] = counts.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let keep = seconds(keep);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 10] =
        [&lane, &part, &node, &first, &next, &row.whole, &from, &to, &bytes, &keep];
    within(client.execute(sql, &values)).await.map(drop)
}

async fn parts(client: &Client, since: Wall) -> Result<Vec<PartRow>, Trouble> {
    let sql = "SELECT lane, part, node, next, first_wall, last_wall, bytes, first, whole \
               FROM dpc.history_part WHERE last_wall >= $1 AND expires > now()";
    let rows = within(client.query(sql, &[&time(since)])).await?;
    let row_of = |row: &tokio_postgres::Row| PartRow {
        lane: LaneId(row.get::<_, Uuid>(0).into_bytes()),
        part: PartKey(row.get::<_, Uuid>(1).into_bytes()),
        node: row.get::<_, &str>(2).into(),
        next: RecordNumber(counted(row, 3)),
        first_wall: wall(row.get(4)),
        last_wall: wall(row.get(5)),
        bytes: counted(row, 6),
        first: RecordNumber(counted(row, 7)),
        whole: row.get(8),
    };
    Ok(rows.iter().map(row_of).collect())
}

async fn find(
    client: &Client,
    (lane, part): (LaneId, PartKey),
    kind: RowKind,
    key: &[u8],
) -> Result<Option<FoundRow>, Trouble> {
    let sql = "SELECT key, body FROM dpc.history_row WHERE lane = $1 AND part = $2 AND kind = $3 \
               AND key <= $4 ORDER BY key DESC LIMIT 1";
    let (lane, part) = (uuid(lane), Uuid::from_bytes(part.0));
    let row = within(client.query_opt(sql, &[&lane, &part, &kind.as_str(), &key])).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

async fn remove(client: &Client, row: &PartRow) -> Result<(), Trouble> {
    let (lane, part) = (uuid(row.lane), Uuid::from_bytes(row.part.0));
    for table in ["history_part", "history_row"] {
        let sql = format!("DELETE FROM dpc.{table} WHERE lane = $1 AND part = $2");
        within(client.execute(&sql, &[&lane, &part])).await?;
    }
    Ok(())
}

/// Removes some of what nobody needs any more: a few parts' worth.
pub(super) async fn sweep(client: &Client) -> Result<(), Trouble> {
    for (table, most) in [("history_part", 16), ("history_row", 1_024)] {
        let some = format!(
            "DELETE FROM dpc.{table} WHERE ctid = ANY(ARRAY(\
             SELECT ctid FROM dpc.{table} WHERE expires < now() LIMIT {most}))"
        );
        within(client.execute(&some, &[])).await?;
    }
    Ok(())
}

fn uuid(lane: LaneId) -> Uuid {
    Uuid::from_bytes(lane.0)
}

fn time(wall: Wall) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(wall.0)
}

fn wall(time: SystemTime) -> Wall {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn seconds(keep: Span) -> f64 {
    keep.to_std().min(KEEP_MAX).as_secs_f64()
}
