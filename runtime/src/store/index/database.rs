//! fjall, which keeps the index.
//!
//! Its panics become errors, and its background threads may die: [`make_room`] keeps a write out of
//! the waits inside fjall that would then never end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use dpc_core::store::StoreError;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
};

use super::super::{damaged, disk_free, io_error};

/// fjall stops writers at 4 tables in memory, in a loop that does not end when the thread that
/// writes them out has died. At most one is added by an append that this bound let through.
const SEALED_MAX: usize = 2;

/// fjall slows writers down from 20 runs in level 0, and stops them at 30.
const RUNS_MAX: usize = 16;

/// A device with less room than this is called full when fjall does not say what went wrong.
const NEARLY_FULL_BYTES: u64 = 1 << 20;

/// Rows held in memory until they are written out as a table. At most three times as much is held.
const MEMTABLE_BYTES: u64 = 8 << 20;

/// Blocks of tables that reads keep in memory.
const CACHE_BYTES: u64 = 16 << 20;

/// Table files kept open.
const OPEN_FILES_MAX: usize = 128;

/// Opens a database with one table.
pub(super) fn open(path: &Path, table: &str) -> Result<(Database, Keyspace), StoreError> {
    guard(path, || {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(OPEN_FILES_MAX))
            // The first of several leaves compactions to the others, and while those are busy it
            // turns in a circle. Parts come in order: there is next to nothing to compact.
            .worker_threads(1)
            .open()?;
        let setup = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .expect_point_read_hits(true)
        };
        let records = database.keyspace(table, setup)?;
        Ok((database, records))
    })
}

/// Waits until a write to `table` will not be held up inside fjall.
pub(super) fn make_room(
    path: &Path,
    database: &Database,
    table: &Keyspace,
) -> Result<(), StoreError> {
    while table.tree.sealed_memtable_count() >= SEALED_MAX || table.tree.l0_run_count() >= RUNS_MAX
    {
        // Fails once a background thread has died, and writes nothing.
        guard(path, || database.persist(PersistMode::Buffer))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Calls fjall, and turns its errors and panics into this contract's.
pub(super) fn guard<T>(
    path: &Path,
    call: impl FnOnce() -> fjall::Result<T>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(meaning(path, error)),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(damaged(path, format!("the database panicked: {text}")))
        }
    }
}

fn meaning(path: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            match error.kind() {
                std::io::ErrorKind::NotFound
                | std::io::ErrorKind::AlreadyExists
                | std::io::ErrorKind::IsADirectory
                | std::io::ErrorKind::NotADirectory
                | std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::Other => damaged(path, error.to_string()),
                std::io::ErrorKind::PermissionDenied => {
                    StoreError::Refused(format!("{}: {error}", path.display()))
                }
                _ => io_error(path, &error),
            }
        }
        fjall::Error::Locked => {
            StoreError::Refused(format!("{} is locked by another process", path.display()))
        }
        fjall::Error::Poisoned => {
            let text = format!("{}: a background write failed earlier", path.display());
            match disk_free(path) {
                Ok(free) if free < NEARLY_FULL_BYTES => StoreError::Full(text),
                _ => StoreError::Io(text),
            }
        }
        other => damaged(path, other.to_string()),
    }
}
