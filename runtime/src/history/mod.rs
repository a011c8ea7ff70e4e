//! The history: what ended in this node's lane, every decision, and counts. SQLite beside the log,
//! behind the commit path, derived from the log and rebuildable from it.
//!
//! It has its own thread. The driver feeds it each committed record, which never waits: what does
//! not fit into the bounded queue is read from the log later. What the history needs from its owner
//! comes as a [`Report`]:
//!
//! - [`Report::Stands`]: everything below this number is durable here; the log may be cut there.
//! - [`Report::Wants`]: records to read from the log and to give to [`HistoryHandle::pulled`]. This
//!   is how it catches up after a start, after a rebuild, and when it was fed faster than it writes.
//! - [`Report::Behind`]: the alarm HISTORY_BEHIND is on or off. While it is on, only counts are kept
//!   and a trace says that detail was dropped.
//!
//! The database is written in one transaction from sync point to sync point, the number of the next
//! record with it, so that replaying records is harmless; only the pages of a part that closes go ahead, which
//! nothing names until it is closed. Rows are only ever appended; a *part* is a
//! stretch of the log with its references sorted by id, and the oldest part goes as a whole when the
//! history is too old or too large. Each row is sealed and each row that must be there is known, so
//! that damage is found when it is read: the file is then put aside as `history.db.damaged-<n>` and
//! the history is made anew from what the log still holds.

mod book;
mod counts;
mod db;
mod decided;
mod ended;
mod folder;
mod inbox;
mod index;
mod pack;
mod query;
mod rebuild;
mod rows;
pub(crate) mod shared;
mod state;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dpc_core::Span;
use dpc_core::ids::{LaneId, ObjectId, RecordNumber};
use dpc_core::store::StoreError;
use tokio::sync::oneshot;

use book::Book;
use db::DbError;
pub(crate) use folder::keep_before;
use inbox::{Ask, Query, Shared, Stop};
pub(crate) use rebuild::{Rebuilding, Rebuilt};
pub use rows::{
    Counts, Finished, List, ListQuery, Outcome, OutcomeKind, StatsQuery, StatsRow, TRACE_FIRST,
    TRACE_LAST, Trace, TraceLine,
};
use shared::SharedHistory;
use shared::sending::Sending;
use worker::Worker;

/// The bounds of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Most bytes of the database; the oldest part goes first.
    pub bytes: u64,
    /// How long it is kept, by the times in the log.
    pub time: Span,
    /// How many bytes of log it may be behind before it keeps counts only.
    pub lag: u64,
    /// Most bytes of records that wait in memory (one larger record may wait alone).
    pub queue: u64,
    /// Longest time from taking a record in to its being durable.
    pub sync: Span,
    /// Bytes of log after which a part ends.
    pub part_log: u64,
    /// A database of at most so many bytes has its structure checked as a whole when it is opened. A
    /// larger one is checked where it is read.
    pub checked: u64,
}

/// What the history tells its owner, from its own thread. The callback must not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything below this number is durable here.
    Stands(RecordNumber),
    /// Read the log from `from`, or from the first record kept if that is higher, about so many
    /// bytes, and give the answer to [`HistoryHandle::pulled`]. There is never more than one
    /// such wish open.
    Wants {
        /// The first record.
        from: RecordNumber,
        /// Most bytes.
        bytes: usize,
    },
    /// Whether only counts are kept: the alarm HISTORY_BEHIND.
    Behind(bool),
}

/// Why a history does not open.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The folder or the database cannot be used.
    #[error("history {}: {what}", path.display())]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// What happened.
        what: String,
    },
    /// What was kept of an earlier one would go.
    #[error("{} is there: it was kept when the history was last made anew; move it away or delete it",
             path.display())]
    Kept {
        /// The file.
        path: PathBuf,
    },
    /// A later program wrote it.
    #[error("history {}: format {found} is newer than {}, the newest this program reads; \
             start the newer program, or move the file away to have it rebuilt",
             path.display(), state::FORMAT)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The history has not yet taken in what was committed before the question.
    #[error("the history is behind: record {record} is not in it yet")]
    Behind {
        /// The last record committed before the question.
        record: RecordNumber,
    },
    /// Too many questions wait.
    #[error("{QUERIES_MAX} questions to the history wait already")]
    Busy,
    /// The history has been closed.
    #[error("the history is closed")]
    Closed,
}

/// A running history. Dropping it without [`History::close`] abandons what is not durable; it is
/// taken from the log again next time.
#[derive(Debug)]
pub struct History {
    handle: HistoryHandle,
    thread: Option<JoinHandle<()>>,
}

/// Feeds and asks a history, from any thread.
#[derive(Clone, Debug)]
pub struct HistoryHandle {
    shared: Arc<Shared>,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            time: Span::secs(24 * 3_600),
            lag: 1 << 30,
            queue: 16 << 20,
            sync: Span::secs(2),
            part_log: u64::MAX,
            checked: 64 << 20,
        }
    }
}

impl History {
    /// Opens the history in `dir/history.db` for a lane whose last record is `last`, or begins one.
    /// Returns, with it, the number below which everything is durable here: what it wants next.
    ///
    /// A damaged database is put aside with an error in the log, and rebuilt.
    pub fn open(
        dir: &Path,
        lane: LaneId,
        last: RecordNumber,
        options: HistoryOptions,
        report: Box<dyn FnMut(Report) + Send>,
    ) -> Result<(Self, RecordNumber), HistoryError> {
        Self::open_shared(dir, (lane, last, RecordNumber(1)), options, None, report)
    }

    /// The same, of a lane in a store that has tables for histories. An empty history begins with the
    /// record `from`, as the tables tell what was before. The log may be cut nowhere before
    /// [`Report::Stands`] says so.
    pub(crate) fn open_shared(
        dir: &Path,
        (lane, last, from): (LaneId, RecordNumber, RecordNumber),
        options: HistoryOptions,
        tables: Option<SharedHistory>,
        report: Box<dyn FnMut(Report) + Send>,
    ) -> Result<(Self, RecordNumber), HistoryError> {
        let path = dir.join(folder::FILE);
        let unusable = |what: String| HistoryError::Unusable { path: path.clone(), what };
        std::fs::create_dir_all(dir).map_err(|error| unusable(error.to_string()))?;
        let mut book = open_or_replace(&path, lane, last, &options)?;
        book.begin_at(from);
        let stands = if tables.is_some() { RecordNumber(0) } else { book.state.next };
        let shared = Arc::new(Shared::new(last, options.clone()));
        let sending = tables.map(|to| Sending::new(lane, to, shared.clone()));
        let worker = Worker {
            shared: shared.clone(),
            path: path.clone(),
            lane,
            options,
            report,
            book: Some(book),
            pulled: VecDeque::new(),
            pulling: None,
            retry_at: None,
            sync_at: None,
            queries: Vec::new(),
            sending,
            said: None,
            from,
            concludes: false,
            counted: last,
            is_behind: false,
            alarmed: false,
        };
        let thread = std::thread::Builder::new()
            .name("dpc-history".into())
            .spawn(|| worker.run())
            .map_err(|error| unusable(error.to_string()))?;
        Ok((Self { handle: HistoryHandle { shared }, thread: Some(thread) }, stands))
    }

    /// A handle to feed and to ask it.
    pub fn handle(&self) -> HistoryHandle {
        self.handle.clone()
    }

    /// Takes in what waits, makes it durable, and ends the thread.
    pub fn close(mut self) {
        self.stop(Stop::Close);
    }

    fn stop(&mut self, stop: Stop) {
        self.handle.shared.tell(|inbox| inbox.stop.get_or_insert(stop).to_owned());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the history's thread has panicked");
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop(Stop::Abandon);
        }
    }
}

impl HistoryHandle {
    /// Takes a committed record. Call it for each, in order. It never waits.
    pub fn feed(&self, number: RecordNumber, record: Bytes) {
        self.shared.feed(number, record);
    }

    /// The answer to [`Report::Wants`], as the store's `read` gives it.
    pub fn pulled(&self, answer: Result<Vec<(RecordNumber, Bytes)>, StoreError>) {
        self.shared.tell(|inbox| inbox.pulled = Some(answer));
    }

    /// Throws the database away and makes it anew from the log.
    pub fn rebuild(&self) {
        self.shared.tell(|inbox| inbox.rebuild = true);
    }

    /// The lane ends: as soon as everything has been taken in it goes to the shared tables.
    pub(crate) fn conclude(&self) {
        self.shared.tell(|inbox| inbox.conclude = true);
    }

    /// Bytes of log that were fed and are not in the history yet.
    pub fn lag(&self) -> u64 {
        self.shared.lock().lag
    }

    /// The latest end of an object in this lane.
    pub async fn object(&self, id: ObjectId) -> Result<Option<Finished>, QueryError> {
        self.ask(|to| Ask::Object(id, to)).await
    }

    /// This node's decisions for an object, in order, whether it has ended or not.
    pub async fn trace(&self, id: ObjectId) -> Result<Trace, QueryError> {
        self.ask(|to| Ask::Trace(id, to)).await
    }

    /// Finished objects, newest first.
    pub async fn list(&self, query: ListQuery) -> Result<List, QueryError> {
        self.ask(|to| Ask::List(query, to)).await
    }

    /// Counts by minute and type, in order.
    pub async fn stats(&self, query: StatsQuery) -> Result<Vec<StatsRow>, QueryError> {
        self.ask(|to| Ask::Stats(query, to)).await
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, QueryError>>) -> Ask,
    ) -> Result<T, QueryError> {
        let (to, answer) = oneshot::channel();
        let deadline = Instant::now() + QUERY_WAIT;
        self.shared.tell(|inbox| {
            if inbox.is_ended {
                return Err(QueryError::Closed);
            }
            if inbox.queries.len() >= QUERIES_MAX {
                return Err(QueryError::Busy);
            }
            inbox.queries.push_back(Query { after: inbox.last, deadline, ask: ask(to) });
            Ok(())
        })?;
        answer.await.unwrap_or(Err(QueryError::Closed))
    }
}

/// Opens the database; what is damaged, or ahead of the log that it is made from, is replaced.
fn open_or_replace(
    path: &Path,
    lane: LaneId,
    last: RecordNumber,
    options: &HistoryOptions,
) -> Result<Book, HistoryError> {
    let (place, what) = match Book::open(path, lane, last, options.clone()) {
        Ok(book) if book.state.next <= last.next() => return Ok(book),
        Ok(book) => {
            let next = book.state.next;
            let what = format!("it wants record {next}, but the log ends at {last}");
            ("table state row 0".to_owned(), what)
        }
        Err(DbError::Damaged { place, what }) => (place, what),
        Err(error) => return Err(error.into_public(path)),
    };
    let unusable = |what: String| HistoryError::Unusable { path: path.to_owned(), what };
    let aside = folder::put_aside(path).map_err(|error| unusable(error.to_string()))?;
    let (file, aside) = (path.display(), aside.display());
    tracing::error!(%file, place, what, %aside, "history damaged: put aside, to be rebuilt");
    Book::open(path, lane, last, options.clone()).map_err(|error| error.into_public(path))
}

impl DbError {
    fn into_public(self, path: &Path) -> HistoryError {
        let path = path.to_owned();
        match self {
            Self::Newer { found } => HistoryError::Newer { path, found },
            other => HistoryError::Unusable { path, what: other.to_string() },
        }
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { place, what } => write!(f, "damaged: {place}: {what}"),
            Self::Failed(error) => write!(f, "{error}"),
            Self::Folder(error) => write!(f, "{error}"),
            Self::Newer { found } => write!(f, "format {found} is newer"),
        }
    }
}

/// Most questions that wait.
const QUERIES_MAX: usize = 256;
/// How long a question waits for the history to catch up with what was fed before it.
const QUERY_WAIT: Duration = Duration::from_secs(2);
/// Bytes of log asked for at once.
const PULL_BYTES: usize = 4 << 20;
