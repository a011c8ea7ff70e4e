//! The tables of dpc in a database: made, and recognised.

use dpc_core::store::StoreError;
use tokio_postgres::Client;

use super::super::trouble::Trouble;
use super::session::within;

/// The version of the tables that this program makes, and the only one it works with.
const SCHEMA: i32 = 4;

/// The tables of version 2.
const TABLES: &str = include_str!("schema.sql");

/// From version 1 to version 2.
const UPGRADE: &str = include_str!("upgrade.sql");

/// From version 2 to version 3.
const INBOX: &str = include_str!("inbox.sql");
const SETTLE: &str = include_str!("settle.sql");

/// From version 3 to version 4.
const HISTORY: &str = include_str!("history.sql");

const VERSIONS: &str = "CREATE TABLE dpc.schema_version \
    (version int NOT NULL, made timestamptz NOT NULL DEFAULT now())";

/// Two nodes that start together make the tables once.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('dpc schema'))";

/// Which version of the tables a database has; none if it has none.
pub(super) async fn version(client: &Client) -> Result<Option<i32>, Trouble> {
    let there =
        within(client.query_one("SELECT to_regclass('dpc.schema_version') IS NOT NULL", &[]));
    if !there.await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = within(client.query_opt("SELECT max(version) FROM dpc.schema_version", &[])).await?;
    Ok(row.and_then(|row| row.get(0)))
}

/// Makes the tables where there are none, and brings those of an earlier version up to this one.
/// Says whether it did.
pub(super) async fn create(client: &mut Client) -> Result<bool, Trouble> {
    if version(client).await? == Some(SCHEMA) {
        return Ok(false);
    }
    let transaction = within(client.transaction()).await?;
    within(transaction.batch_execute(LOCK)).await?;
    within(transaction.batch_execute("CREATE SCHEMA IF NOT EXISTS dpc")).await?;
    let there =
        within(transaction.query_one("SELECT to_regclass('dpc.schema_version') IS NOT NULL", &[]));
    let version = if there.await?.get::<_, bool>(0) {
        let max = "SELECT max(version) FROM dpc.schema_version";
        within(transaction.query_one(max, &[])).await?.get::<_, Option<i32>>(0)
    } else {
        within(transaction.batch_execute(VERSIONS)).await?;
        None
    };
    let steps: &[&str] = match version {
        None => &[TABLES, INBOX, SETTLE, HISTORY],
        Some(1) => &[UPGRADE, INBOX, SETTLE, HISTORY],
        Some(2) => &[INBOX, SETTLE, HISTORY],
        Some(3) => &[HISTORY],
        // The check that follows says what is wrong with any other.
        Some(_) => return Ok(false),
    };
    for step in steps {
        within(transaction.batch_execute(step)).await?;
    }
    let note = format!("INSERT INTO dpc.schema_version (version) VALUES ({SCHEMA})");
    within(transaction.batch_execute(&note)).await?;
    within(transaction.commit()).await?;
    Ok(true)
}

/// Refuses tables that this program does not know how to use, and says what to do.
pub(super) fn check(found: Option<i32>) -> Result<i32, StoreError> {
    match found {
        Some(SCHEMA) => Ok(SCHEMA),
        Some(1) => Err(StoreError::Refused(
            "the database has version 1 of dpc's tables: `dpc store init` brings them up to date, \
             after which no dpc of before can write to them"
                .into(),
        )),
        Some(2) => Err(StoreError::Refused(
            "the database has version 2 of dpc's tables: `dpc store init` adds the inbox to them"
                .into(),
        )),
        Some(3) => Err(StoreError::Refused(
            "the database has version 3 of dpc's tables: `dpc store init` adds the history to them"
                .into(),
        )),
        Some(other) => Err(StoreError::Refused(format!(
            "the database has version {other} of dpc's tables, and this program works with version \
             {SCHEMA}: use the dpc that made them"
        ))),
        None => Err(StoreError::Refused(
            "the database has no tables of dpc: make them with `dpc store init`, or let the node \
             do it with store.create_tables = true"
                .into(),
        )),
    }
}
