//! The log itself: fjall behind the few operations that a lane needs.
//!
//! Nothing here trusts fjall to notice damage. Its panics become errors, and its background threads
//! may die: [`make_room`] keeps an append out of the waits inside fjall that would then never
//! end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::RecordNumber;
use dpc_core::store::StoreError;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
};

use super::{damaged, disk_free, io_error};

/// fjall stops writers at 4 tables in memory, in a loop that does not end when the thread that
/// writes them out has died. At most one is added by an append that this bound let through.
const SEALED_MAX: usize = 2;

/// fjall slows writers down from 20 runs in level 0, and stops them at 30.
const RUNS_MAX: usize = 16;

/// A device with less room than this is called full when fjall does not say what went wrong.
const NEARLY_FULL_BYTES: u64 = 1 << 20;

pub(super) struct Log {
    path: PathBuf,
    database: Database,
    records: Keyspace,
}

/// How fjall is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Records held in memory until they are written out as a table. At most three times as much
    /// is held at once. Fixed when the folder is made.
    pub memtable_bytes: u64,
    /// Blocks of tables that reads keep in memory.
    pub cache_bytes: u64,
    /// Table files kept open.
    pub open_files_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { memtable_bytes: 16 << 20, cache_bytes: 8 << 20, open_files_max: 128 }
    }
}

impl Log {
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self, StoreError> {
        let (database, records) = open(path, "records", options)?;
        Ok(Self { path: path.to_owned(), database, records })
    }

    /// Writes one record and makes it durable.
    pub(super) fn put(&self, number: RecordNumber, record: Bytes) -> Result<(), StoreError> {
        self.guard(|| {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
            batch.insert(&self.records, key(number), record);
            batch.commit()
        })
    }

    /// Makes everything durable that was ever written.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.guard(|| self.database.persist(PersistMode::SyncAll))
    }

    /// Waits until an append will not be held up inside fjall.
    pub(super) fn make_room(&self) -> Result<(), StoreError> {
        make_room(&self.path, &self.database, &self.records)
    }

    pub(super) fn get(&self, number: RecordNumber) -> Result<Option<Bytes>, StoreError> {
        self.guard_read(number, || Ok(self.records.get(key(number))?.map(Bytes::from)))
    }

    /// The record with the lowest number from `from` on.
    pub(super) fn range(
        &self,
        from: RecordNumber,
    ) -> impl Iterator<Item = Result<(RecordNumber, Bytes), StoreError>> {
        let mut iter = self.records.range(key(from)..);
        let mut expected = from;
        std::iter::from_fn(move || {
            let next = self.guard_read(expected, || match iter.next() {
                None => Ok(None),
                Some(guard) => guard.into_inner().map(Some),
            });
            let (found, record) = match next {
                Ok(found) => found?,
                Err(error) => return Some(Err(error)),
            };
            let Ok(bytes) = <[u8; 8]>::try_from(&found[..]) else {
                return Some(Err(damaged(&self.path, format!("a key of {} bytes", found.len()))));
            };
            let number = RecordNumber(u64::from_be_bytes(bytes));
            expected = number.next();
            Some(Ok((number, Bytes::from(record))))
        })
    }

    /// Gives back the space of tables that hold nothing but records below `below`. The records
    /// themselves are no longer asked for, so a crash in between costs space only, and no
    /// tombstones are written.
    pub(super) fn forget_tables(&self, below: RecordNumber) -> Result<(), StoreError> {
        self.guard(|| Ok(self.records.tree.drop_range(..key(below))?))
    }

    /// The place of a record, as errors name it.
    pub(super) fn damaged(&self, number: RecordNumber, what: impl Into<String>) -> StoreError {
        StoreError::Damaged {
            place: format!("{}, record {number}", self.path.display()),
            what: what.into(),
        }
    }

    fn guard_read<T>(
        &self,
        number: RecordNumber,
        read: impl FnOnce() -> fjall::Result<T>,
    ) -> Result<T, StoreError> {
        self.guard(read).map_err(|error| match error {
            StoreError::Damaged { what, .. } => self.damaged(number, what),
            other => other,
        })
    }

    fn guard<T>(&self, call: impl FnOnce() -> fjall::Result<T>) -> Result<T, StoreError> {
        guard(&self.path, call)
    }
}

/// Opens a database with one table of records, by the rules that both the log and the index need.
pub(super) fn open(
    path: &Path,
    table: &str,
    options: &Options,
) -> Result<(Database, Keyspace), StoreError> {
    guard(path, || {
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .max_cached_files(Some(options.open_files_max))
            // The first of several leaves compactions to the others, and while those are busy it
            // turns in a circle. Records come in order: there is next to nothing to compact.
            .worker_threads(1)
            .open()?;
        let setup = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(options.memtable_bytes)
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

fn key(number: RecordNumber) -> [u8; 8] {
    number.0.to_be_bytes()
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
