//! What a cluster does by its driver alone: records written and published as lanes have it, and
//! nothing of dpc around them. `dpc bench driver` measures nodes by it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dpc_core::store::StoreError;
use scylla::statement::Statement;
use uuid::Uuid;

use super::super::trouble::Trouble;
use super::head::condition;
use super::session::{Link, connect, trouble, unprepared};
use super::{CassandraOptions, Way, cassandra_tables};

/// Tables of its own, gone again afterwards.
const TABLES: [(&str, &str); 2] = [
    ("bench_log", "lane uuid, number bigint, record blob, PRIMARY KEY ((lane, number))"),
    ("bench_head", "lane uuid PRIMARY KEY, number bigint"),
];

/// Writes a record so many times, each to a quorum and then published by a conditional update, one
/// after the other. Returns what that took.
///
/// # Errors
///
/// [`StoreError`] at the first thing that goes wrong; nothing is tried again.
pub(crate) async fn cassandra_bare(
    options: &CassandraOptions,
    record: Bytes,
    records: u64,
) -> Result<Duration, StoreError> {
    let way = Way::of(options)?;
    // Makes the keyspace, too.
    cassandra_tables(options, true).await?;
    let write = async || {
        let link = connect(&way).await?;
        let keyspace = &way.address.keyspace;
        for (table, columns) in TABLES {
            let make = format!("CREATE TABLE IF NOT EXISTS {keyspace}.{table} ({columns})");
            link.ask(&make, ()).await?;
        }
        let took = write(&link, keyspace, record.to_vec(), records).await?;
        for (table, _) in TABLES {
            link.ask(&format!("DROP TABLE {keyspace}.{table}"), ()).await?;
        }
        Ok(took)
    };
    write().await.map_err(Trouble::into_error)
}

async fn write(
    link: &Link,
    keyspace: &str,
    record: Vec<u8>,
    records: u64,
) -> Result<Duration, Trouble> {
    let (session, lane) = (&link.session, Uuid::now_v7());
    let prepare = async |text: String| {
        session.prepare(Statement::new(text)).await.map_err(|error| unprepared(&error))
    };
    let log = format!("INSERT INTO {keyspace}.bench_log (lane, number, record) VALUES (?, ?, ?)");
    let head = format!("UPDATE {keyspace}.bench_head SET number = ? WHERE lane = ? IF number = ?");
    let (log, head) = (prepare(log).await?, prepare(head).await?);
    let begin =
        format!("INSERT INTO {keyspace}.bench_head (lane, number) VALUES (?, 0) IF NOT EXISTS");
    link.ask(&begin, (lane,)).await?;
    let began = Instant::now();
    for number in 1..=i64::try_from(records).unwrap_or(i64::MAX) {
        let written = session.execute_unpaged(&log, (lane, number, &record)).await;
        written.map_err(|error| trouble(&error))?;
        let moved = session.execute_unpaged(&head, (number, lane, number - 1)).await;
        if let Some(found) = condition(moved.map_err(|error| trouble(&error))?)? {
            let what = format!("record {number} is not published, there stands {found:?}");
            return Err(Trouble::Refused(StoreError::Io(what)));
        }
    }
    Ok(began.elapsed())
}
