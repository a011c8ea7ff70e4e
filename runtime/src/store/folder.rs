//! The data folder: made once, locked while in use, and known by its FORMAT file.
//!
//! A new folder is made under the name `FORMAT.new`, which becomes `FORMAT` when everything else is
//! there and synced: a folder with `FORMAT.new` was never finished, so nothing in it was ever
//! acknowledged, and a folder with a log and neither file is damaged.
//!
//! FORMAT also says which store keeps the lane's log, if that is not the folder itself. Such a
//! folder holds who the lane is, and what can be built again from its log.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dpc_core::ids::{Epoch, LaneId};
use dpc_core::store::StoreError;

use super::head::Head;
use super::{damaged, io_error};

/// The version of the folder's layout that this program makes, and the highest it opens.
const FORMAT: u32 = 1;

const TITLE: &str = "dpc data folder";

/// Where the history of a lane stays that the folder has no more: its database, and its journal.
const HISTORY_BEFORE: [(&str, &str); 2] =
    [("history.db", "history.db.before"), ("history.db-journal", "history.db.before-journal")];

/// The file that says that the lane was adopted and is empty for good.
const RETIRED: &str = "RETIRED";

/// Whether the lane of a folder was adopted and is empty for good.
pub fn is_retired(path: &Path) -> bool {
    path.join(RETIRED).exists()
}

/// The store whose log is in the folder.
pub(super) const EMBEDDED: &str = "embedded";

/// An open data folder. Dropping it gives the lock back.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) lane: LaneId,
    _lock: File,
}

impl Folder {
    /// Opens the folder at `path` of a lane that `store` keeps, and makes it first if it is not
    /// there.
    pub(super) fn open(path: &Path, store: &str) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(|error| unusable(path, &error))?;
        let lock = lock(path)?;
        let format = path.join("FORMAT");
        let (lane, found) = match fs::read(&format) {
            Ok(text) => parse(&format, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (make(path, store)?, store.to_owned())
            }
            Err(error) => return Err(unusable(path, &error)),
        };
        if found != store {
            return Err(StoreError::Refused(format!(
                "data directory {} belongs to lane {lane}, which is kept in store \"{found}\", and \
                 store.kind is \"{store}\": choose that store again, or another data_dir",
                path.display()
            )));
        }
        if is_retired(path) {
            return Err(StoreError::Refused(format!(
                "data directory {} was emptied by a node that adopted it, and its lane {lane} is \
                 retired: delete the folder, or choose another data_dir",
                path.display()
            )));
        }
        Ok(Self { path: path.to_owned(), lane, _lock: lock })
    }

    /// Marks the lane as empty for good: the folder is not opened again.
    pub(super) fn retire(&self) -> Result<(), StoreError> {
        let marker = self.path.join(RETIRED);
        let mark = || -> std::io::Result<()> {
            let at = jiff::Timestamp::now();
            write_synced(&marker, &format!("lane {} was retired {at:.0}\n", self.lane))?;
            sync_folder(&self.path)
        };
        mark().map_err(|error| io_error(&marker, &error))
    }

    pub(super) fn head(&self) -> PathBuf {
        self.path.join("HEAD")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn rescue(&self) -> PathBuf {
        self.path.join("rescue")
    }

    /// The epoch of the last claim of a lane that is kept elsewhere, if it was ever claimed: that
    /// store must know of it.
    pub(super) fn claimed(&self) -> Result<Option<Epoch>, StoreError> {
        let path = self.path.join("CLAIMED");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&path, &error)),
        };
        let epoch = text.trim().strip_prefix("epoch ").and_then(|epoch| epoch.parse().ok());
        let epoch = epoch.ok_or_else(|| damaged(&path, "it does not name an epoch"))?;
        Ok(Some(Epoch(epoch)))
    }

    /// Gives a folder whose lane is kept elsewhere another, new one.
    pub(super) fn renew(&mut self, store: &str) -> Result<LaneId, StoreError> {
        let renew = || -> std::io::Result<LaneId> {
            for (history, before) in HISTORY_BEFORE {
                if_there(fs::rename(self.path.join(history), self.path.join(before)))?;
            }
            if_there(fs::remove_dir_all(self.path.join("index")))?;
            if_there(fs::remove_file(self.path.join("CLAIMED")))?;
            sync_folder(&self.path)?;
            let lane = new_lane()?;
            let new = self.path.join("FORMAT.new");
            write_synced(&new, &text(lane, store))?;
            fs::rename(&new, self.path.join("FORMAT"))?;
            sync_folder(&self.path)?;
            Ok(lane)
        };
        self.lane = renew().map_err(|error| unusable(&self.path, &error))?;
        Ok(self.lane)
    }

    /// Remembers a claim, durably.
    pub(super) fn note_claim(&self, epoch: Epoch) -> Result<(), StoreError> {
        let (path, new) = (self.path.join("CLAIMED"), self.path.join("CLAIMED.new"));
        let note = || -> std::io::Result<()> {
            write_synced(&new, &format!("epoch {epoch}\n"))?;
            fs::rename(&new, &path)?;
            sync_folder(&self.path)
        };
        note().map_err(|error| io_error(&path, &error))
    }
}

/// The folder cannot be used: the person who chose it has to act.
fn unusable(path: &Path, error: &std::io::Error) -> StoreError {
    match io_error(path, error) {
        full @ StoreError::Full(_) => full,
        _ => StoreError::Refused(format!(
            "data directory {} cannot be opened for writing: {error}",
            path.display()
        )),
    }
}

/// How long the lock is waited for while this process itself seems to hold it.
const OWN_LOCK_MAX: Duration = Duration::from_secs(2);

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path.join("LOCK"))
        .map_err(|error| unusable(path, &error))?;
    let began = Instant::now();
    loop {
        let holder = match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => holder(&mut file),
            Err(TryLockError::Error(error)) => return Err(unusable(path, &error)),
        };
        // A child that is just being started holds what its parent had open until it becomes another
        // program: a lock that was given back a moment ago may still be held by such a child.
        if holder == Some(std::process::id()) && began.elapsed() < OWN_LOCK_MAX {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        // The holder is named as a help only; the refusal stands without it.
        let who = holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        return Err(StoreError::Refused(format!(
            "data directory {} is locked by another process{who}",
            path.display()
        )));
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(|error| unusable(path, &error))?;
    Ok(file)
}

/// The process that the lock names.
fn holder(file: &mut File) -> Option<u32> {
    let mut pid = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut pid)).ok()?;
    pid.trim().parse().ok()
}

fn make(path: &Path, store: &str) -> Result<LaneId, StoreError> {
    let unfinished = path.join("FORMAT.new");
    let (head, log) = (path.join("HEAD"), path.join("log"));
    if !unfinished.exists() && (head.exists() || log.exists()) {
        return Err(damaged(&path.join("FORMAT"), "it is missing, and a log is there"));
    }
    let make = || -> std::io::Result<LaneId> {
        let lane = new_lane()?;
        write_synced(&unfinished, &text(lane, store))?;
        sync_folder(path)?;
        if log.exists() {
            fs::remove_dir_all(&log)?;
        }
        if store == EMBEDDED {
            Head::make(&head, lane)?;
            fs::create_dir(&log)?;
        }
        fs::rename(&unfinished, path.join("FORMAT"))?;
        sync_folder(path)?;
        Ok(lane)
    };
    let lane = make().map_err(|error| unusable(path, &error))?;
    tracing::info!(folder = %path.display(), %lane, "made a data folder");
    Ok(lane)
}

fn new_lane() -> std::io::Result<LaneId> {
    let mut lane = LaneId([0; 16]);
    getrandom::fill(&mut lane.0).map_err(std::io::Error::other)?;
    Ok(lane)
}

fn if_there(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that is there, whole, when this returns.
fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn text(lane: LaneId, store: &str) -> String {
    let made = jiff::Timestamp::now();
    let kept = if store == EMBEDDED { String::new() } else { format!("store {store}\n") };
    let body = format!("{TITLE}\nformat {FORMAT}\nlane {lane}\ncreated {made:.0}\n{kept}");
    let check = blake3::hash(body.as_bytes()).to_hex();
    format!("{body}check {check}\n")
}

/// The lane that a FORMAT file names, and the store that keeps it.
fn parse(path: &Path, bytes: &[u8]) -> Result<(LaneId, String), StoreError> {
    let bad = |what: &str| damaged(path, what);
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(bad("its first line is not that of a dpc data folder"));
    }
    let format = lines.next().and_then(|line| line.strip_prefix("format ")?.parse::<u32>().ok());
    match format.ok_or_else(|| bad("it does not say its format"))? {
        newer if newer > FORMAT => Err(StoreError::Refused(format!(
            "{}: the data directory has format {newer}, and this program knows formats up to \
             {FORMAT}: it was written by a newer dpc",
            path.display()
        ))),
        _ => {
            let (body, check) =
                text.rsplit_once("check ").ok_or_else(|| bad("its checksum is missing"))?;
            if format!("{}\n", blake3::hash(body.as_bytes()).to_hex()) != check {
                return Err(bad("its content does not match its checksum"));
            }
            let lane = lines.next().and_then(|line| line.strip_prefix("lane ")?.parse().ok());
            let store = lines.find_map(|line| line.strip_prefix("store ")).unwrap_or(EMBEDDED);
            let lane = lane.ok_or_else(|| bad("it does not name its lane"))?;
            Ok((lane, store.to_owned()))
        }
    }
}
