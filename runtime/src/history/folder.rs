//! The files of the history.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The database.
pub(super) const FILE: &str = "history.db";
/// The database of a lane that the node had before, or of before a rebuild: nothing reads it.
pub(super) const BEFORE: &str = "history.db.before";
/// The database that a rebuild has not finished.
pub(super) const REBUILDING: &str = "history.db.rebuilding";
const ASIDE: &str = "history.db.damaged-";
const JOURNAL: &str = "-journal";

/// Renames a damaged database with its journal, and removes the one that was put aside before.
pub(super) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let folder = path.parent().expect("a file has a folder");
    let mut n = 1;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(tail) = name.to_str().and_then(|name| name.strip_prefix(ASIDE)) else { continue };
        let number = tail.strip_suffix(JOURNAL).unwrap_or(tail);
        if let Ok(old) = number.parse::<u64>() {
            n = n.max(old + 1);
            fs::remove_file(entry.path())?;
        }
    }
    let aside = folder.join(format!("{ASIDE}{n}"));
    rename(path, &aside)?;
    Ok(aside)
}

/// Moves the history of a data folder out of the way, to where the one of before was, if there is
/// one. The folder is not synced.
pub(crate) fn keep_before(dir: &Path) -> io::Result<Option<PathBuf>> {
    let (path, before) = (dir.join(FILE), dir.join(BEFORE));
    if !path.exists() {
        return Ok(None);
    }
    remove(&before)?;
    rename(&path, &before)?;
    Ok(Some(before))
}

/// Renames a database with its journal, if it is there.
pub(super) fn rename(path: &Path, to: &Path) -> io::Result<()> {
    if_there(fs::rename(path, to))?;
    if_there(fs::rename(beside(path), beside(to)))
}

/// Removes the database and its journal. The journal goes last: without it the database might be
/// taken for whole.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if_there(fs::remove_file(path))?;
    if_there(fs::remove_file(beside(path)))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(JOURNAL);
    name.into()
}

fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
