//! The tables of dpc in a cluster: made, and recognised.

use std::time::{Duration, SystemTime};

use dpc_core::store::StoreError;
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use super::super::Tables;
use super::super::trouble::{Patience, Trouble};
use super::address::Address;
use super::head::{condition, unreadable};
use super::session::{Link, trouble};

/// The version of the tables that this program makes, and the only one it works with.
const SCHEMA: i32 = 1;

/// The one row of `schema_version`.
const ROW: &str = "dpc";

/// How often a statement about the schema is tried: right after a start, or beside another node's,
/// a cluster may answer that it does not know yet what was made a moment ago.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);

/// How long the whole of it is tried again: several nodes that make the tables at the same moment are
/// in each other's way, and a busy cluster answers such statements late.
const MAKING: Duration = Duration::from_secs(20);

/// What is packed before it comes is not packed again: that would cost a cluster a tenth of its processor
/// time. Cassandra says so in one way and ScyllaDB in the other.
const PACKED: [&str; 2] = ["{'enabled': 'false'}", "{'sstable_compression': ''}"];

/// The tables, in the order in which they are made; the last one says that all are there.
///
/// A table has an id that follows from its name. Two nodes of dpc that make it at the same moment
/// by two nodes of the cluster would else make two tables, one of which is lost with its rows.
const TABLES: [(&str, &str); 6] = [
    (
        "lane_head",
        "lane uuid PRIMARY KEY, owner bigint, node text, address text, epoch bigint, state text, \
         first bigint, swept bigint, number bigint, hash blob, began bigint, claimed timestamp) \
         WITH compaction = {'class': 'LeveledCompactionStrategy'}",
    ),
    (
        "lane_log",
        "lane uuid, bucket bigint, number bigint, epoch bigint, part int, parts int, record blob, \
         PRIMARY KEY ((lane, bucket), number, epoch, part)) \
         WITH CLUSTERING ORDER BY (number ASC, epoch DESC, part ASC) \
         AND compaction = {'class': 'SizeTieredCompactionStrategy', 'min_threshold': 16} \
         AND compression = PACKED",
    ),
    (
        "beat",
        "cluster int, owner bigint, number bigint, written timestamp, \
         PRIMARY KEY (cluster, owner)) WITH default_time_to_live = 86400",
    ),
    // What is in these two lives for a time and is then dropped, whole files at once. Rows go with the
    // part that names them.
    (
        "history_row",
        "lane uuid, part uuid, kind text, key blob, body blob, \
         PRIMARY KEY ((lane, part), kind, key)) WITH CLUSTERING ORDER BY (kind ASC, key DESC) \
         AND compaction = {'class': 'TimeWindowCompactionStrategy', \
         'compaction_window_unit': 'HOURS', 'compaction_window_size': 1} \
         AND compression = PACKED AND gc_grace_seconds = 10800",
    ),
    (
        "history_part",
        "day bigint, lane uuid, part uuid, first bigint, next bigint, whole boolean, \
         node text, first_wall bigint, last_wall bigint, bytes bigint, PRIMARY KEY (day, lane, part)) \
         WITH compaction = {'class': 'TimeWindowCompactionStrategy', \
         'compaction_window_unit': 'HOURS', 'compaction_window_size': 1} \
         AND gc_grace_seconds = 10800",
    ),
    ("schema_version", "name text PRIMARY KEY, version int, fence text, made timestamp)"),
];

/// Sees to it that the tables are there and are those of this program, and makes them first if it
/// may and has to.
pub(super) async fn ensure(
    link: &Link,
    address: &Address,
    may_create: bool,
) -> Result<Tables, Trouble> {
    let (mut patience, mut in_doubt) = (Patience::of(MAKING), false);
    // By it a process recognises what it has signed, if the answer was lost.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let stamp = CqlTimestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    loop {
        let failed = match ensure_once(link, address, may_create, (stamp, in_doubt)).await {
            Err(Trouble::Refused(error)) => return Err(Trouble::Refused(error)),
            Ok(tables) => return Ok(tables),
            Err(failed) => failed,
        };
        in_doubt |= matches!(failed, Trouble::Lost(_));
        if !may_create || !patience.wait().await {
            return Err(failed);
        }
        tracing::debug!("the tables are not made yet: {failed:?}");
    }
}

async fn ensure_once(
    link: &Link,
    address: &Address,
    may_create: bool,
    (stamp, in_doubt): (CqlTimestamp, bool),
) -> Result<Tables, Trouble> {
    let mut found = version(link, address).await?;
    let mut made = in_doubt && found.as_ref().is_some_and(|signed| signed.stamp == Some(stamp));
    if found.is_none() && may_create {
        made = create(link, address, stamp).await?;
        // What the driver knows of the tables is what its last look has shown.
        let looked = link.session.refresh_metadata().await;
        looked.map_err(|error| Trouble::NotSent(error.to_string()))?;
        found = version(link, address).await?;
        if found.is_none() {
            return Err(Trouble::NotSent("the cluster does not show the new tables yet".into()));
        }
    }
    let version = check(found, &link.fence(address), &address.keyspace);
    Ok(Tables { version: version.map_err(Trouble::Refused)?, made })
}

/// Makes keyspace and tables where they are not there. Says whether it was the one to finish it.
async fn create(link: &Link, address: &Address, stamp: CqlTimestamp) -> Result<bool, Trouble> {
    let Address { keyspace, replication, .. } = address;
    let make = format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {} AND durable_writes = true",
        replication.cql()
    );
    apply(link, &make).await?;
    for table in TABLES {
        make_table(link, keyspace, table).await?;
    }
    sign(link, address, stamp).await
}

async fn make_table(
    link: &Link,
    keyspace: &str,
    (name, columns): (&str, &str),
) -> Result<(), Trouble> {
    let (id, with) =
        (id_of(keyspace, name), if columns.contains(" WITH ") { "AND" } else { "WITH" });
    let make = format!("CREATE TABLE IF NOT EXISTS {keyspace}.{name} ({columns} {with} id = {id}");
    let [cassandra, scylla] = PACKED.map(|packed| make.replace("PACKED", packed));
    match apply(link, &cassandra).await {
        Err(Trouble::Refused(_)) if cassandra != scylla => apply(link, &scylla).await,
        made => made,
    }
}

/// Makes what programs made before there were tables for histories.
#[cfg(test)]
pub(super) async fn create_without_history(link: &Link, address: &Address) -> Result<(), Trouble> {
    let Address { keyspace, replication, .. } = address;
    let make = format!("CREATE KEYSPACE {keyspace} WITH replication = {}", replication.cql());
    apply(link, &make).await?;
    for table in TABLES.iter().filter(|(name, _)| !name.starts_with("history")) {
        make_table(link, keyspace, *table).await?;
    }
    sign(link, address, CqlTimestamp(1)).await.map(drop)
}

/// Notes version and fence, once. Says whether it was done just now.
async fn sign(link: &Link, address: &Address, stamp: CqlTimestamp) -> Result<bool, Trouble> {
    let note = format!(
        "INSERT INTO {}.schema_version (name, version, fence, made) VALUES (?, ?, ?, ?) \
         IF NOT EXISTS",
        address.keyspace
    );
    let fence = link.fence(address);
    let noted = link.ask(&note, (ROW, SCHEMA, fence, stamp)).await?;
    Ok(condition(noted)?.is_none())
}

/// A statement that changes the schema and may be repeated.
async fn apply(link: &Link, statement: &str) -> Result<(), Trouble> {
    for _ in 1..TRIES {
        match link.session.query_unpaged(statement, ()).await {
            Ok(_) => return Ok(()),
            Err(error) => tracing::debug!("{statement}: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let last = link.session.query_unpaged(statement, ()).await;
    last.map(drop).map_err(|error| trouble(&error))
}

fn id_of(keyspace: &str, table: &str) -> Uuid {
    let hash = blake3::hash(format!("dpc {SCHEMA} {keyspace}.{table}").as_bytes());
    let bytes: [u8; 16] = hash.as_bytes()[..16].try_into().expect("a hash is longer");
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What was noted of the tables.
struct Signed {
    version: i32,
    /// By whose quorum lanes are fenced.
    fence: String,
    /// When they were made, by the clock of whoever did.
    stamp: Option<CqlTimestamp>,
}

/// What a keyspace's tables are signed with; nothing, if they are not all there.
async fn version(link: &Link, address: &Address) -> Result<Option<Signed>, Trouble> {
    let tables = link.tables(&address.keyspace);
    if TABLES.iter().any(|(name, _)| !tables.contains(*name)) {
        return Ok(None);
    }
    let ask = format!(
        "SELECT version, fence, made FROM {}.schema_version WHERE name = ?",
        address.keyspace
    );
    let rows = link.ask(&ask, (ROW,)).await?.into_rows_result().map_err(unreadable)?;
    let row = rows.maybe_first_row::<(i32, String, Option<CqlTimestamp>)>().map_err(unreadable)?;
    Ok(row.map(|(version, fence, stamp)| Signed { version, fence, stamp }))
}

/// Refuses tables that this program does not know how to use, and says what to do.
fn check(found: Option<Signed>, fence: &str, keyspace: &str) -> Result<i32, StoreError> {
    let why = match found {
        Some(Signed { version: SCHEMA, fence: signed, .. }) if signed == fence => {
            return Ok(SCHEMA);
        }
        Some(Signed { version: SCHEMA, fence: signed, .. }) => format!(
            "the lanes in keyspace {keyspace} are fenced by {signed}, and this configuration would \
             fence them by {fence}: two such nodes could both own a lane; set dc and consistency in \
             store.url as the others have them"
        ),
        Some(Signed { version: other, .. }) => format!(
            "keyspace {keyspace} has version {other} of dpc's tables, and this program works with \
             version {SCHEMA}: use the dpc that made them"
        ),
        None => format!(
            "keyspace {keyspace} does not have all of dpc's tables: make them with `dpc store init`, or let the \
             node do it with store.create_tables = true"
        ),
    };
    Err(StoreError::Refused(why))
}
