//! A history made anew from a whole log, for `dpc store rebuild-history`. The one that is there
//! stays until the new one is whole, and is kept beside it then.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dpc_core::Wall;
use dpc_core::ids::{LaneId, RecordNumber};

use super::book::{Book, PagesGo};
use super::db::DbResult;
use super::{HistoryError, HistoryOptions, folder};
use crate::files::sync_folder;

/// Bytes written in one transaction: nobody waits for its sync.
const STEP_BYTES: u64 = 32 << 20;

/// A history that is being made anew. Dropping it leaves what was there before as it was, and a file
/// that the next try removes.
pub(crate) struct Rebuilding {
    book: Book,
    fresh: PathBuf,
    path: PathBuf,
}

/// A history that was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    /// Nothing that was decided before is in it; `None` if the log was whole.
    pub(crate) kept_since: Option<Wall>,
    /// Where the history is that was there before, if there was one.
    pub(crate) before: Option<PathBuf>,
}

impl Rebuilding {
    /// Whether one may begin in the data folder `dir`: to be asked before a lane is claimed for it.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Kept`] if it holds what an earlier rebuild kept: the only one left of what the
    /// log no longer holds.
    pub(crate) fn check(dir: &Path) -> Result<(), HistoryError> {
        let kept = dir.join(folder::BEFORE);
        if kept.exists() { Err(HistoryError::Kept { path: kept }) } else { Ok(()) }
    }

    /// Begins with an empty history, in the data folder `dir`, of a lane whose last record is `last`.
    ///
    /// # Errors
    ///
    /// As of [`Self::check`], and [`HistoryError`] if the folder cannot be written.
    pub(crate) fn begin(
        dir: &Path,
        lane: LaneId,
        last: RecordNumber,
        options: HistoryOptions,
    ) -> Result<Self, HistoryError> {
        let (path, fresh) = (dir.join(folder::FILE), dir.join(folder::REBUILDING));
        Self::check(dir)?;
        folder::remove(&fresh).map_err(|error| unusable(&fresh, &error))?;
        let book = Book::open(&fresh, lane, last, options);
        let mut book = book.map_err(|error| error.into_public(&fresh))?;
        book.pages_go = PagesGo::WithTheRest;
        Ok(Self { book, fresh, path })
    }

    /// Takes in the next record of the log.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if it cannot be written: the disk is full, or fails.
    pub(crate) fn take(
        &mut self,
        number: RecordNumber,
        record: &Bytes,
    ) -> Result<(), HistoryError> {
        self.write(number, record).map_err(|error| error.into_public(&self.fresh))
    }

    fn write(&mut self, number: RecordNumber, record: &Bytes) -> DbResult<()> {
        self.book.apply(number, record, true)?;
        if self.book.unsynced() >= STEP_BYTES {
            self.book.sync()?;
        }
        Ok(())
    }

    /// Makes it durable, and the history that the node opens next.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if the files cannot be written or renamed. If the old history has been moved
    /// away and the new one is not in its place, a node begins a new one from the log.
    pub(crate) fn finish(mut self) -> Result<Rebuilt, HistoryError> {
        self.book.sync().map_err(|error| error.into_public(&self.fresh))?;
        let Self { book, fresh, path } = self;
        let kept_since = Some(book.state.kept_since).filter(|since| *since > Wall(0));
        drop(book);
        let before = replace(&path, &fresh).map_err(|error| unusable(&path, &error))?;
        Ok(Rebuilt { kept_since, before })
    }
}

/// Puts a closed database into the place of another one, which is kept.
fn replace(path: &Path, fresh: &Path) -> io::Result<Option<PathBuf>> {
    let dir = path.parent().expect("a file has a folder");
    let before = folder::keep_before(dir)?;
    folder::rename(fresh, path)?;
    sync_folder(dir)?;
    Ok(before)
}

fn unusable(path: &Path, error: &io::Error) -> HistoryError {
    HistoryError::Unusable { path: path.to_owned(), what: error.to_string() }
}
