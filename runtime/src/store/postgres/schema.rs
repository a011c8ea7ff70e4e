//! The tables of dpc in a database: made, and recognised.

use dpc_core::store::StoreError;
use tokio_postgres::Client;

use super::session::{Trouble, within};

/// The version of the tables that this program makes, and the only one it works with.
const SCHEMA: i32 = 1;

const TABLES: &str = include_str!("schema.sql");

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

/// Makes the tables where there are none. Says whether it made them.
pub(super) async fn create(client: &mut Client) -> Result<bool, Trouble> {
    let transaction = within(client.transaction()).await?;
    within(transaction.batch_execute(LOCK)).await?;
    within(transaction.batch_execute("CREATE SCHEMA IF NOT EXISTS dpc")).await?;
    let there =
        within(transaction.query_one("SELECT to_regclass('dpc.schema_version') IS NOT NULL", &[]));
    if there.await?.get::<_, bool>(0) {
        return Ok(false);
    }
    within(transaction.batch_execute(TABLES)).await?;
    let note = format!(
        "CREATE TABLE dpc.schema_version (version int NOT NULL, made timestamptz NOT NULL DEFAULT now()); \
         INSERT INTO dpc.schema_version (version) VALUES ({SCHEMA})"
    );
    within(transaction.batch_execute(&note)).await?;
    within(transaction.commit()).await?;
    Ok(true)
}

/// Refuses tables that this program does not know how to use, and says what to do.
pub(super) fn check(found: Option<i32>) -> Result<i32, StoreError> {
    match found {
        Some(SCHEMA) => Ok(SCHEMA),
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
