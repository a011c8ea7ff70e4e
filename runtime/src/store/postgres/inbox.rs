//! The inbox: what callers have pushed inside their own transactions by `dpc.dpc_push`, on its way
//! to a node (R9), and what they have finalised by `dpc.dpc_settle`.
//!
//! A row is first marked with a lane and its epoch, and is that owner's alone then: nobody else
//! takes it while the lane has this owner, and an owner that was fenced cannot remove it any more,
//! because it goes with the commit of a record (see [`super::keeper`]). So a row becomes an object
//! of one lane, whatever connections, nodes or the server do meanwhile. A mark whose answer was lost
//! is found again by its owner's next look.

use std::sync::Arc;

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, ObjectId};
use dpc_core::object::Token;
use dpc_core::refusal::Refusal;
use dpc_core::shared::InboxRow;
use dpc_core::store::StoreError;
use dpc_core::time::{Span, Wall};
use tokio::sync::Notify;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::trouble::Trouble;
use super::head::{bits, counted, signed_epoch, signed_rows};
use super::session::{Way, connect_hearing, within};
use super::{PostgresOptions, parse};

/// Marks rows that nobody has, or whose owner was replaced or declared dead. At most 256 of them and
/// 4 MiB, but one in any case.
const TAKE: &str = "\
    WITH free AS (SELECT i.seq, octet_length(i.payload) AS bytes FROM dpc.inbox i \
        WHERE i.refused IS NULL AND (i.lane IS NULL OR (i.lane = $1 AND i.epoch = $2::bigint) \
            OR EXISTS (SELECT FROM dpc.lane_head o WHERE o.lane = i.lane AND (o.epoch > i.epoch \
                OR (o.epoch = i.epoch AND o.state <> 'owned')))) \
        ORDER BY i.seq LIMIT 256 FOR UPDATE OF i SKIP LOCKED), \
    fitting AS (SELECT seq, sum(bytes) OVER (ORDER BY seq) - bytes AS before FROM free) \
    UPDATE dpc.inbox i SET lane = $1, epoch = $2::bigint FROM fitting f \
    WHERE i.seq = f.seq AND f.before < 4194304 AND EXISTS (SELECT FROM dpc.lane_head h \
        WHERE h.lane = $1 AND h.epoch = $2::bigint AND h.owner = $3::bigint AND h.state = 'owned') \
    RETURNING i.seq, i.id, i.type, i.payload, \
        ARRAY(SELECT h.key FROM jsonb_each_text(i.headers) h ORDER BY h.key), \
        ARRAY(SELECT h.value FROM jsonb_each_text(i.headers) h ORDER BY h.key), \
        (extract(epoch FROM i.not_before) * 1000)::bigint, \
        (extract(epoch FROM i.expires_at) * 1000)::bigint";

/// Rows whose objects this lane has already.
const REMOVE: &str = "DELETE FROM dpc.inbox \
    WHERE seq = ANY($3::bigint[]) AND lane = $1 AND epoch = $2::bigint";

/// Rows that this node cannot take now: any node may.
const PUT_BACK: &str = "UPDATE dpc.inbox SET lane = NULL, epoch = NULL \
    WHERE seq = ANY($3::bigint[]) AND lane = $1 AND epoch = $2::bigint";

/// Rows that no node can take.
const REFUSE: &str = "UPDATE dpc.inbox i SET refused = r.why, lane = NULL, epoch = NULL \
    FROM unnest($3::bigint[], $4::text[]) AS r (seq, why) \
    WHERE i.seq = r.seq AND i.lane = $1 AND i.epoch = $2::bigint";

/// Settles of this owner's leases that nobody has looked at.
const SETTLES: &str = "SELECT s.token FROM dpc.settled s \
    WHERE s.lane = $1 AND s.epoch = $2::bigint AND s.outcome IS NULL ORDER BY s.at LIMIT 256";

/// What became of them.
const NOTE_SETTLED: &str = "UPDATE dpc.settled s SET outcome = o.outcome \
    FROM unnest($3::uuid[], $4::text[]) AS o (object, outcome) \
    WHERE s.object = o.object AND s.lane = $1 AND s.epoch = $2::bigint AND s.outcome IS NULL";

/// Final objects whose idempotency time is over. What was not applied stays for as long as an object
/// can wait: its next holder has to learn of it.
const FORGET_SETTLED: &str = "DELETE FROM dpc.settled WHERE object IN (SELECT s.object \
    FROM dpc.settled s WHERE (s.outcome = 'done' AND s.at < now() - $1::bigint * interval '1 second') \
    OR s.at < now() - interval '365 days' LIMIT 4096)";

/// Ids whose idempotency time is over. A few at a time: the next look removes more.
const FORGET: &str = "DELETE FROM dpc.inbox_id WHERE id IN (SELECT k.id FROM dpc.inbox_id k \
    WHERE k.at < now() - $1::bigint * interval '1 second' \
    AND NOT EXISTS (SELECT FROM dpc.inbox i WHERE i.id = k.id) ORDER BY k.at LIMIT 4096)";

/// A row as it was pushed.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) row: InboxRow,
    pub(crate) id: ObjectId,
    pub(crate) ty: String,
    pub(crate) payload: Bytes,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) not_before: Option<Wall>,
    pub(crate) expires_at: Option<Wall>,
}

/// What became of rows that did not go with a record.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Their objects are in the lane: pushed before.
    pub(crate) known: Vec<InboxRow>,
    /// The node cannot take them now.
    pub(crate) back: Vec<InboxRow>,
    /// No node can take them, and why.
    pub(crate) refused: Vec<(InboxRow, String)>,
}

/// The inbox as the owner of one lane sees it.
pub struct PostgresInbox {
    way: Way,
    lane: Uuid,
    epoch: i64,
    owner: i64,
    client: Option<Client>,
    news: Arc<Notify>,
}

impl PostgresInbox {
    /// The inbox for the owner of a lane that was claimed with this epoch. The first connection is
    /// made by the first look.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the address cannot be understood.
    pub fn open(
        options: &PostgresOptions,
        (lane, epoch): (LaneId, Epoch),
        owner: Incarnation,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            way: parse(&options.url, options.tls.as_ref())?,
            lane: Uuid::from_bytes(lane.0),
            epoch: signed_epoch(epoch),
            owner: bits(owner),
            client: None,
            news: Arc::default(),
        })
    }

    /// Waits until somebody has pushed since the last look.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes rows, in the order of their pushes. Those that were taken before and are not decided
    /// come again: whoever calls must not have them in hand any more.
    pub(crate) async fn take(&mut self) -> Result<Vec<Row>, StoreError> {
        let (lane, epoch, owner) = (self.lane, self.epoch, self.owner);
        let taken =
            self.run(async |client| within(client.query(TAKE, &[&lane, &epoch, &owner])).await);
        let mut rows: Vec<Row> = taken.await?.iter().map(row_of).collect();
        rows.sort_by_key(|row| row.row);
        Ok(rows)
    }

    /// Writes what became of rows. After an error they are this owner's still.
    pub(crate) async fn decide(&mut self, decided: &Decided) -> Result<(), StoreError> {
        let (lane, epoch) = (self.lane, self.epoch);
        let (rows, why): (Vec<InboxRow>, Vec<&str>) =
            decided.refused.iter().map(|(row, why)| (*row, why.as_str())).unzip();
        let (known, back) = (signed_rows(&decided.known), signed_rows(&decided.back));
        let refused = signed_rows(&rows);
        self.run(async |client| {
            let changes: [(&str, &[i64], &[&(dyn ToSql + Sync)]); 3] = [
                (REMOVE, &known, &[&lane, &epoch, &known]),
                (PUT_BACK, &back, &[&lane, &epoch, &back]),
                (REFUSE, &refused, &[&lane, &epoch, &refused, &why]),
            ];
            for (change, rows, params) in changes {
                if !rows.is_empty() {
                    within(client.execute(change, params)).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Leases of this owner that callers have ended in transactions that are committed.
    pub(crate) async fn settles(&mut self) -> Result<Vec<Token>, StoreError> {
        let (lane, epoch) = (self.lane, self.epoch);
        let rows = self.run(async |client| within(client.query(SETTLES, &[&lane, &epoch])).await);
        let token = |row: &tokio_postgres::Row| {
            let bad = |error: Refusal| StoreError::Damaged {
                place: "table dpc.settled".into(),
                what: error.to_string(),
            };
            Token::from_bytes(row.get(0)).map_err(bad)
        };
        rows.await?.iter().map(token).collect()
    }

    /// Notes what became of settles. After an error they come again.
    pub(crate) async fn note_settled(
        &mut self,
        outcomes: impl Iterator<Item = (ObjectId, &str)>,
    ) -> Result<(), StoreError> {
        let (lane, epoch) = (self.lane, self.epoch);
        let (objects, outcomes): (Vec<Uuid>, Vec<&str>) =
            outcomes.map(|(object, outcome)| (Uuid::from_bytes(object.0), outcome)).unzip();
        self.run(async |client| {
            let params: [&(dyn ToSql + Sync); 4] = [&lane, &epoch, &objects, &outcomes];
            within(client.execute(NOTE_SETTLED, &params)).await
        })
        .await?;
        Ok(())
    }

    /// Forgets ids and final objects that are older than this. Says how many rows wait for a person, and
    /// why the first of them was refused.
    pub(crate) async fn tidy(&mut self, age: Span) -> Result<Option<(u64, String)>, StoreError> {
        let seconds = i64::try_from(age.0 / 1_000_000).expect("microseconds have more digits");
        let refused = "SELECT count(*) OVER (), refused FROM dpc.inbox \
                       WHERE refused IS NOT NULL ORDER BY seq LIMIT 1";
        self.run(async |client| {
            within(client.execute(FORGET, &[&seconds])).await?;
            within(client.execute(FORGET_SETTLED, &[&seconds])).await?;
            let first = within(client.query_opt(refused, &[])).await?;
            Ok(first.map(|row| (counted(&row, 0), row.get(1))))
        })
        .await
    }

    /// Asks once, on the connection that listens. It is left after any failure.
    async fn run<T>(
        &mut self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let answer = match self.client().await {
            Ok(client) => ask(client).await,
            Err(trouble) => Err(trouble),
        };
        answer.map_err(|trouble| {
            self.client = None;
            trouble.into_error()
        })
    }

    async fn client(&mut self) -> Result<&Client, Trouble> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let news = Arc::clone(&self.news);
            let client = connect_hearing(&self.way, move || news.notify_one()).await?;
            // From here on nothing is missed; what was pushed before, the next look finds.
            within(client.batch_execute("LISTEN dpc_inbox")).await?;
            self.client = Some(client);
        }
        Ok(self.client.as_ref().expect("made above"))
    }
}

fn row_of(row: &tokio_postgres::Row) -> Row {
    let time = |column: usize| {
        let ms = row.get::<_, Option<i64>>(column)?;
        Some(Wall(u64::try_from(ms).unwrap_or(0)))
    };
    let (keys, values): (Vec<String>, Vec<String>) = (row.get(4), row.get(5));
    Row {
        row: InboxRow(counted(row, 0)),
        id: ObjectId(row.get::<_, Uuid>(1).into_bytes()),
        ty: row.get(2),
        payload: Bytes::copy_from_slice(row.get(3)),
        headers: keys.into_iter().zip(values).collect(),
        not_before: time(6),
        expires_at: time(7),
    }
}
