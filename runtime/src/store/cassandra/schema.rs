//! The tables of dpc in a cluster: made, and recognised.

use std::time::Duration;

use dpc_core::store::StoreError;
use uuid::Uuid;

use super::super::Tables;
use super::super::trouble::Trouble;
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

/// The tables, in the order in which they are made; the last one says that all are there.
///
/// A table has an id that follows from its name. Two nodes of dpc that make it at the same moment
/// by two nodes of the cluster would else make two tables, one of which is lost with its rows.
const TABLES: [(&str, &str); 4] = [
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
         WITH CLUSTERING ORDER BY (number ASC, epoch DESC, part ASC)",
    ),
    (
        "beat",
        "cluster int, owner bigint, number bigint, written timestamp, \
         PRIMARY KEY (cluster, owner)) WITH default_time_to_live = 86400",
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
    let mut found = version(link, address).await?;
    let made = may_create && found.is_none() && create(link, address).await?;
    if found.is_none() && may_create {
        // What the driver knows of the tables is what its last look has shown.
        let looked = link.session.refresh_metadata().await;
        looked.map_err(|error| Trouble::NotSent(error.to_string()))?;
        found = version(link, address).await?;
    }
    let version = check(found, &link.fence(address), &address.keyspace);
    Ok(Tables { version: version.map_err(Trouble::Refused)?, made })
}

/// Makes keyspace and tables where they are not there. Says whether it was the one to finish it.
async fn create(link: &Link, address: &Address) -> Result<bool, Trouble> {
    let Address { keyspace, replication, .. } = address;
    let make = format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {} AND durable_writes = true",
        replication.cql()
    );
    apply(link, &make).await?;
    for (name, columns) in TABLES {
        let (id, with) =
            (id_of(keyspace, name), if columns.contains(" WITH ") { "AND" } else { "WITH" });
        let make =
            format!("CREATE TABLE IF NOT EXISTS {keyspace}.{name} ({columns} {with} id = {id}");
        apply(link, &make).await?;
    }
    sign(link, address).await
}

/// Notes version and fence, once. Says whether it was done just now.
async fn sign(link: &Link, address: &Address) -> Result<bool, Trouble> {
    let note = format!(
        "INSERT INTO {}.schema_version (name, version, fence, made) \
         VALUES (?, ?, ?, toTimestamp(now())) IF NOT EXISTS",
        address.keyspace
    );
    let fence = link.fence(address);
    let noted = link.ask(&note, (ROW, SCHEMA, fence)).await?;
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

/// Which version of the tables a keyspace has, and by whose quorum its lanes are fenced.
async fn version(link: &Link, address: &Address) -> Result<Option<(i32, String)>, Trouble> {
    let tables = link.tables(&address.keyspace);
    if TABLES.iter().any(|(name, _)| !tables.contains(*name)) {
        return Ok(None);
    }
    let ask =
        format!("SELECT version, fence FROM {}.schema_version WHERE name = ?", address.keyspace);
    let rows = link.ask(&ask, (ROW,)).await?.into_rows_result().map_err(unreadable)?;
    rows.maybe_first_row::<(i32, String)>().map_err(unreadable)
}

/// Refuses tables that this program does not know how to use, and says what to do.
fn check(found: Option<(i32, String)>, fence: &str, keyspace: &str) -> Result<i32, StoreError> {
    let why = match found {
        Some((SCHEMA, signed)) if signed == fence => return Ok(SCHEMA),
        Some((SCHEMA, signed)) => format!(
            "the lanes in keyspace {keyspace} are fenced by {signed}, and this configuration would \
             fence them by {fence}: two such nodes could both own a lane; set dc and consistency in \
             store.url as the others have them"
        ),
        Some((other, _)) => format!(
            "keyspace {keyspace} has version {other} of dpc's tables, and this program works with \
             version {SCHEMA}: use the dpc that made them"
        ),
        None => format!(
            "keyspace {keyspace} has no tables of dpc: make them with `dpc store init`, or let the \
             node do it with store.create_tables = true"
        ),
    };
    Err(StoreError::Refused(why))
}
