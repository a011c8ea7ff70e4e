//! What a server does by its driver alone: objects as rows, inserted in batches, and nothing of dpc
//! around them. `dpc bench driver` measures nodes by it.

use std::time::{Duration, Instant};

use dpc_core::store::StoreError;

use super::super::trouble::Trouble;
use super::session::{connect, within};
use super::{parse, ready};

/// A table of its own, gone again afterwards.
const MAKE: &str = "CREATE TABLE IF NOT EXISTS dpc.bench_log (run uuid, number bigint, \
    payload bytea NOT NULL, PRIMARY KEY (run, number))";

/// Inserts so many batches of rows, each of which is committed before the next one. Returns what that
/// took.
///
/// # Errors
///
/// [`StoreError`] at the first thing that goes wrong; nothing is tried again.
pub(crate) async fn postgres_bare(
    url: &str,
    payload: &[u8],
    rows: usize,
    batches: u64,
) -> Result<Duration, StoreError> {
    let way = parse(url, None)?;
    // Makes the schema, too.
    ready(&way, true).await.map_err(Trouble::into_error)?;
    let insert = async || {
        let client = connect(&way).await?;
        within(client.batch_execute(MAKE)).await?;
        let insert = "INSERT INTO dpc.bench_log (run, number, payload) \
                      SELECT $1, n, p FROM unnest($2::bigint[], $3::bytea[]) AS rows (n, p)";
        let insert = within(client.prepare(insert)).await?;
        let (run, payloads) = (uuid::Uuid::now_v7(), vec![payload; rows]);
        let began = Instant::now();
        let mut numbers = 0_i64..;
        for _ in 0..batches {
            let numbers: Vec<i64> = numbers.by_ref().take(rows).collect();
            within(client.execute(&insert, &[&run, &numbers, &payloads])).await?;
        }
        let took = began.elapsed();
        within(client.batch_execute("DROP TABLE dpc.bench_log")).await?;
        Ok(took)
    };
    insert().await.map_err(Trouble::into_error)
}
