//! A file into a folder.
//!
//! The file's own lane is put together first, aside, and only when the file has proved whole is a
//! new lane made of what is alive in it, and given the folder. Everything before that last step
//! lies in the folder `importing`, which no node serves from.

use std::fs;
use std::path::{Path, PathBuf};

use dpc_core::ids::LaneId;
use dpc_core::names::Name;
use dpc_core::store::StoreError;
use dpc_core::{Limits, Now};
use tokio::io::AsyncRead;

use super::super::folder::{IMPORTING, lock, sign};
use super::super::io_error;
use super::carry::Carried;
use super::unpack::unpack;
use crate::files::{if_there, sync_folder};
use crate::restored::bring_over;

/// What an import has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Imported {
    /// The lane of the file.
    pub(crate) from: LaneId,
    /// The new lane.
    pub(crate) lane: LaneId,
    /// The objects in it.
    pub(crate) objects: u64,
    /// What the file held.
    pub(crate) carried: Carried,
}

/// Makes a new lane in `data_dir` of what is alive in an exported file, which errors call `name`.
/// Its objects may be elsewhere, too, and are flagged so.
///
/// # Errors
///
/// [`StoreError::Refused`] if the folder is in use or holds something; [`StoreError::Damaged`] with
/// the place if the file is not whole. The folder holds no lane then, and another import may follow.
pub(crate) async fn import(
    (from, name): (impl AsyncRead + Unpin, &str),
    data_dir: &Path,
    (limits, now): (Limits, impl Fn() -> Now),
    step: impl FnMut(Carried),
) -> Result<Imported, StoreError> {
    let place = Place::take(data_dir)?;
    let (source, fresh) = (place.aside.join("file"), place.aside.join("lane"));
    let (from, carried) = unpack((from, name), &source, step).await?;
    let imported = Name::new("node_name", "imported").expect("a valid name");
    let brought = bring_over(&source, &fresh, imported, limits, now).await?;
    place.settle(&fresh, brought.lane)?;
    Ok(Imported { from, lane: brought.lane, objects: brought.objects, carried })
}

/// A folder that holds no lane yet, and is locked.
struct Place<'a> {
    folder: &'a Path,
    /// Where the import works.
    aside: PathBuf,
    _lock: fs::File,
}

impl<'a> Place<'a> {
    fn take(folder: &'a Path) -> Result<Self, StoreError> {
        let failed = |error: &std::io::Error| io_error(folder, error);
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let lock = lock(folder)?;
        let aside = folder.join(IMPORTING);
        let cut_off = aside.exists();
        let mut ours = vec!["LOCK", IMPORTING, "lost+found"];
        if cut_off && !folder.join("FORMAT").exists() {
            // An import that was cut off while it settled: without FORMAT they are nobody's.
            ours.extend(["HEAD", "log", "FORMAT.new"]);
        }
        for entry in fs::read_dir(folder).map_err(|error| failed(&error))? {
            let found = entry.map_err(|error| failed(&error))?.file_name();
            if !ours.iter().any(|name| found == **name) {
                return Err(StoreError::Refused(format!(
                    "data directory {} holds {} already: an import needs an empty one",
                    folder.display(),
                    found.display()
                )));
            }
        }
        let clear = || {
            if cut_off {
                if_there(fs::remove_file(folder.join("HEAD")))?;
                if_there(fs::remove_dir_all(folder.join("log")))?;
            }
            if_there(fs::remove_dir_all(&aside))?;
            fs::create_dir(&aside)?;
            sync_folder(folder)
        };
        clear().map_err(|error| failed(&error))?;
        Ok(Self { folder, aside, _lock: lock })
    }

    /// Gives the folder the lane that was made aside. FORMAT comes last: before it there is none.
    fn settle(self, fresh: &Path, lane: LaneId) -> Result<(), StoreError> {
        let Self { folder, aside, _lock } = self;
        let settle = || {
            for name in ["log", "HEAD"] {
                fs::rename(fresh.join(name), folder.join(name))?;
            }
            sync_folder(folder)
        };
        settle().map_err(|error| io_error(folder, &error))?;
        sign(folder, lane)?;
        if_there(fs::remove_dir_all(&aside)).map_err(|error| io_error(&aside, &error))
    }
}
