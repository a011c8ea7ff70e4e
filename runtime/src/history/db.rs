//! The SQLite database: sealed rows under consecutive keys, and when they are durable.
//!
//! There is one transaction from one sync point to the next. Its commit is the sync point: SQLite
//! syncs its journal, writes the changed pages and syncs the database. New pages need no journal, so
//! what is appended is written once. A process that dies in between finds, when it opens the
//! database again, the state of the last sync point, and asks the log for what came after. Only the
//! pages of a part that is being closed are committed ahead of that point.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::folder;
use super::pack::{BadRow, seal, unseal};

/// Tables of sealed rows under consecutive keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// One row: where everything stands.
    State,
    /// The directory of parts.
    Part,
    /// Pages of references.
    Page,
    /// Blocks of decisions.
    Decided,
    /// Blocks of finished objects.
    Ended,
    /// References that are in no part yet.
    Tail,
}

/// What went wrong with the database.
#[derive(Debug)]
pub(super) enum DbError {
    /// It holds something else than what was written into it.
    Damaged { place: String, what: String },
    /// The file system did not do as it was told.
    Failed(rusqlite::Error),
    /// The folder did not.
    Folder(std::io::Error),
    /// A later program wrote it.
    Newer { found: u64 },
}

pub(super) type DbResult<T> = Result<T, DbError>;

#[derive(Debug)]
pub(super) struct Db {
    conn: Connection,
    path: PathBuf,
}

impl Table {
    const ALL: [Self; 6] =
        [Self::State, Self::Part, Self::Page, Self::Decided, Self::Ended, Self::Tail];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Part => "part",
            Self::Page => "page",
            Self::Decided => "decided",
            Self::Ended => "ended",
            Self::Tail => "tail",
        }
    }
}

impl Db {
    /// Opens the database, or makes an empty one. Up to `checked` bytes, its structure is checked.
    pub(super) fn open(path: &Path, checked: u64) -> DbResult<Self> {
        let is_new = !path.exists();
        if is_new {
            create(path)?;
        }
        let conn = Connection::open(path)?;
        conn.set_prepared_statement_cache_capacity(64);
        // One process owns the data folder, so the lock is taken once. The journal is kept between
        // transactions, because deleting it would need one more sync of the folder each time.
        conn.pragma_update(None, "locking_mode", "exclusive")?;
        conn.pragma_update(None, "journal_mode", "persist")?;
        conn.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_MAX)?;
        conn.pragma_update(None, "synchronous", "full")?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let db = Self { conn, path: path.to_owned() };
        if !is_new && db.bytes_used()? <= checked {
            db.check_structure()?;
        }
        Ok(db)
    }

    /// SQLite's own look at how its pages hang together; what is in the rows is sealed. It costs a
    /// read of the whole file, so a large one is only checked where it is read.
    fn check_structure(&self) -> DbResult<()> {
        let found: String = self.conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found == "ok" { Ok(()) } else { Err(self.damaged("its structure", found)) }
    }

    /// Damage at a place in this file.
    pub(super) fn damaged(&self, place: &str, what: impl Into<String>) -> DbError {
        DbError::Damaged { place: format!("{}: {place}", self.path.display()), what: what.into() }
    }

    /// Damage found behind a seal.
    pub(super) fn bad(&self, table: Table, key: u64, bad: BadRow) -> DbError {
        self.damaged(&format!("table {} row {key}", table.name()), bad.0)
    }

    /// Starts the transaction that the next sync ends.
    pub(super) fn begin(&self) -> DbResult<()> {
        if self.conn.is_autocommit() {
            self.conn.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    /// Makes everything so far durable.
    pub(super) fn commit(&self) -> DbResult<()> {
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("COMMIT")?;
        }
        Ok(())
    }

    /// Adds a row. A row that is already there is damage: keys are used once, but for those of pages whose part
    /// was never closed.
    pub(super) fn add(&self, table: Table, key: u64, body: Vec<u8>) -> DbResult<()> {
        let sql = format!("INSERT INTO {}(key, body) VALUES(?, ?)", table.name());
        let row = seal(table.name(), key, body);
        self.conn.prepare_cached(&sql)?.execute(params![to_sql(key), row])?;
        Ok(())
    }

    /// Writes the row that says where everything stands.
    pub(super) fn set_state(&self, body: Vec<u8>) -> DbResult<()> {
        let row = seal(Table::State.name(), 0, body);
        let sql = "INSERT OR REPLACE INTO state(key, body) VALUES(0, ?)";
        self.conn.prepare_cached(sql)?.execute([row])?;
        Ok(())
    }

    /// The row that says where everything stands, unless nothing has been written yet.
    pub(super) fn state(&self) -> DbResult<Option<Vec<u8>>> {
        self.find(Table::State, 0)
    }

    /// A row that must be there.
    pub(super) fn row(&self, table: Table, key: u64) -> DbResult<Vec<u8>> {
        let missing = || self.bad(table, key, BadRow("it is missing"));
        self.find(table, key)?.ok_or_else(missing)
    }

    fn find(&self, table: Table, key: u64) -> DbResult<Option<Vec<u8>>> {
        let sql = format!("SELECT body FROM {} WHERE key = ?", table.name());
        let mut statement = self.conn.prepare_cached(&sql)?;
        let row = statement.query_row([to_sql(key)], |row| row.get::<_, Vec<u8>>(0)).optional()?;
        let Some(mut row) = row else { return Ok(None) };
        let body = unseal(table.name(), key, &row).map_err(|bad| self.bad(table, key, bad))?;
        let length = body.len();
        row.truncate(length);
        Ok(Some(row))
    }

    /// Removes rows that must be there.
    pub(super) fn remove(&self, table: Table, keys: Range<u64>) -> DbResult<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let sql = format!("DELETE FROM {} WHERE key >= ? AND key < ?", table.name());
        let bounds = params![to_sql(keys.start), to_sql(keys.end)];
        let removed = self.conn.prepare_cached(&sql)?.execute(bounds)? as u64;
        let expected = keys.end - keys.start;
        if removed == expected {
            return Ok(());
        }
        let place = format!("table {} rows {}..{}", table.name(), keys.start, keys.end);
        Err(self.damaged(&place, format!("{removed} rows instead of {expected}")))
    }

    /// Removes all rows from a key on.
    pub(super) fn remove_from(&self, table: Table, key: u64) -> DbResult<()> {
        let sql = format!("DELETE FROM {} WHERE key >= ?", table.name());
        self.conn.prepare_cached(&sql)?.execute([to_sql(key)])?;
        Ok(())
    }

    /// The counts of a type in a minute.
    pub(super) fn stats(&self, minute: u64, ty: &str) -> DbResult<Option<Vec<u8>>> {
        let sql = "SELECT body FROM stats WHERE minute = ? AND type = ?";
        let mut statement = self.conn.prepare_cached(sql)?;
        let row = statement
            .query_row(params![to_sql(minute), ty], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        row.map(|row| self.unseal_stats(minute, ty, &row)).transpose()
    }

    /// Sets the counts of a type in a minute.
    pub(super) fn set_stats(&self, minute: u64, ty: &str, body: Vec<u8>) -> DbResult<()> {
        let row = seal(&format!("stats/{ty}"), minute, body);
        let sql = "INSERT OR REPLACE INTO stats(minute, type, body) VALUES(?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![to_sql(minute), ty, row])?;
        Ok(())
    }

    /// The counts of a minute, by type, of which there must be so many.
    pub(super) fn stats_of(&self, minute: u64, count: u64) -> DbResult<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT type, body FROM stats WHERE minute = ?";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([to_sql(minute)])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let (ty, row): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let body = self.unseal_stats(minute, &ty, &row)?;
            all.push((ty, body));
        }
        self.check_stats(minute, all.len() as u64, count)?;
        Ok(all)
    }

    /// Removes the counts of a minute, of which there must be so many.
    pub(super) fn remove_stats(&self, minute: u64, count: u64) -> DbResult<()> {
        let mut statement = self.conn.prepare_cached("DELETE FROM stats WHERE minute = ?")?;
        let removed = statement.execute([to_sql(minute)])? as u64;
        self.check_stats(minute, removed, count)
    }

    fn check_stats(&self, minute: u64, found: u64, expected: u64) -> DbResult<()> {
        if found == expected {
            return Ok(());
        }
        let place = format!("table stats minute {minute}");
        Err(self.damaged(&place, format!("{found} rows instead of {expected}")))
    }

    fn unseal_stats(&self, minute: u64, ty: &str, row: &[u8]) -> DbResult<Vec<u8>> {
        let body = unseal(&format!("stats/{ty}"), minute, row).map_err(|bad| {
            self.damaged(&format!("table stats minute {minute} type {ty}"), bad.0)
        })?;
        Ok(body.to_vec())
    }

    /// Bytes of pages that hold something.
    pub(super) fn bytes_used(&self) -> DbResult<u64> {
        let pages = self.pragma("page_count")?.saturating_sub(self.pragma("freelist_count")?);
        Ok(pages * self.pragma("page_size")?)
    }

    /// Bytes of pages that hold nothing.
    pub(super) fn bytes_free(&self) -> DbResult<u64> {
        Ok(self.pragma("freelist_count")? * self.pragma("page_size")?)
    }

    /// Gives free pages back to the file system at the next sync.
    pub(super) fn give_back(&self, bytes: u64) -> DbResult<()> {
        let pages = bytes / self.pragma("page_size")?.max(1);
        let mut statement = self.conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// From here on the database does not grow beyond so many bytes.
    #[cfg(test)]
    pub(super) fn limit(&self, bytes: u64) {
        let pages = bytes.cast_signed() / PAGE_BYTES;
        self.conn.pragma_update(None, "max_page_count", pages).expect("a number of pages");
    }

    fn pragma(&self, name: &str) -> DbResult<u64> {
        let mut statement = self.conn.prepare_cached(&format!("PRAGMA {name}"))?;
        let value: i64 = statement.query_row([], |row| row.get(0))?;
        Ok(value.cast_unsigned())
    }
}

impl From<rusqlite::Error> for DbError {
    /// What the file system refuses is a failure; everything else that can go wrong with statements
    /// that are known to be right is damage.
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(code, _) = &error {
            let is_cut = matches!(code.extended_code, IOERR_SHORT_READ | IOERR_CORRUPT_FS);
            let is_failure = matches!(
                code.code,
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::OutOfMemory
                    | ErrorCode::PermissionDenied
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
            );
            if is_failure && !is_cut {
                return Self::Failed(error);
            }
        }
        Self::Damaged { place: "the history".into(), what: error.to_string() }
    }
}

/// Makes an empty database under another name first: one that was cut to nothing by a fault is never
/// taken for a new one.
fn create(path: &Path) -> DbResult<()> {
    let fresh = path.with_extension("db.new");
    // A journal without its database is what a crash left of a removal; a new database must not
    // meet it.
    folder::remove(&fresh).and_then(|()| folder::remove(path)).map_err(DbError::Folder)?;
    let conn = Connection::open(&fresh)?;
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    conn.pragma_update(None, "auto_vacuum", "incremental")?;
    let mut sql = String::from("BEGIN;");
    for table in Table::ALL {
        let name = table.name();
        sql += &format!("CREATE TABLE {name}(key INTEGER PRIMARY KEY, body BLOB NOT NULL);");
    }
    sql += "CREATE TABLE stats(minute INTEGER, type TEXT, body BLOB NOT NULL,
                PRIMARY KEY(minute, type)) WITHOUT ROWID; COMMIT;";
    conn.execute_batch(&sql)?;
    conn.close().map_err(|(_, error)| error)?;
    std::fs::rename(&fresh, path).map_err(DbError::Folder)
}

/// Keys stay far below 2^63.
fn to_sql(key: u64) -> i64 {
    key.cast_signed()
}

const IOERR_SHORT_READ: i32 = 10 | 2 << 8;
const IOERR_CORRUPT_FS: i32 = 10 | 33 << 8;
const PAGE_BYTES: i64 = 4_096;
const CACHE_KIB: i64 = 8 << 10;
const JOURNAL_BYTES_MAX: i64 = 16 << 20;
