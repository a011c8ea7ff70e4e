//! The data folder: made once, locked while in use, and known by its FORMAT file.
//!
//! A new folder is made under the name `FORMAT.new`, which becomes `FORMAT` when everything else is
//! there and synced: a folder with `FORMAT.new` was never finished, so nothing in it was ever
//! acknowledged, and a folder with a log and neither file is damaged.
//!
//! FORMAT also says which store keeps the lane's log, if that is not the folder itself. Such a
//! folder holds who the lane is, and what can be built again from its log.
//!
//! A lane moves from the folder to a database when FORMAT changes: from then on nothing is served
//! from the log in the folder. `MOVING` stands there from a moment before until the database has
//! the lane for certain, and names the database, so that a move that was cut off goes on to no
//! other ([`Folder::open_to_move`]).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dpc_core::ids::{Epoch, LaneId};
use dpc_core::store::StoreError;

use super::head::Head;
use super::{damaged, io_error};
use crate::files::{if_there, sync_folder};
use crate::history;

/// The version of the folder's layout that this program makes, and the highest it opens.
const FORMAT: u32 = 2;

/// The last version whose logs are those of another database.
const FORMAT_OF_FJALL: u32 = 1;

const TITLE: &str = "dpc data folder";

/// The file that says that the lane was adopted and is empty for good.
const RETIRED: &str = "RETIRED";

/// Whether the lane of a folder was adopted and is empty for good.
pub fn is_retired(path: &Path) -> bool {
    path.join(RETIRED).exists()
}

/// The store whose log is in the folder.
pub(super) const EMBEDDED: &str = "embedded";

/// The file that says where the lane is being moved to.
const MOVING: &str = "MOVING";

/// The folder of an import that has not finished.
pub(super) const IMPORTING: &str = "importing";

/// A move that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moving {
    /// The store that gets the lane, and its address.
    pub(super) to: String,
    /// The epoch of the claim under which it was copied.
    pub(super) epoch: Epoch,
}

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
        let (lane, found) = match read_format(path)? {
            Some(found) => found,
            None => (make(path, store)?, store.to_owned()),
        };
        if found != store {
            let way = if found == EMBEDDED {
                "choose that store again, or another data_dir, or take the lane there with `dpc \
                 store move`"
            } else {
                "choose that store again, or another data_dir"
            };
            return Err(StoreError::Refused(format!(
                "data directory {} belongs to lane {lane}, which is kept in store \"{found}\", and \
                 store.kind is \"{store}\": {way}",
                path.display()
            )));
        }
        let folder = Self { path: path.to_owned(), lane, _lock: lock };
        folder.refuse_retired()?;
        match folder.moving()? {
            // It was cut off before the folder was given up: nobody else has the lane.
            Some(_) if store == EMBEDDED => folder.forget_move()?,
            Some(Moving { to, .. }) => {
                return Err(StoreError::Refused(format!(
                    "lane {lane} in data directory {} is on its way to {to}, which was cut off: let \
                     `dpc store move` finish it",
                    path.display()
                )));
            }
            None => {}
        }
        if_there(fs::remove_dir_all(path.join(IMPORTING))).map_err(|e| unusable(path, &e))?;
        Ok(folder)
    }

    /// Opens the folder of an embedded lane that is to be moved to another store, or whose move was
    /// cut off.
    pub(super) fn open_to_move(path: &Path) -> Result<Self, StoreError> {
        let nothing =
            |why: String| StoreError::Refused(format!("data directory {}: {why}", path.display()));
        if !path.join("FORMAT").exists() {
            return Err(nothing("there is no lane in it".into()));
        }
        let lock = lock(path)?;
        let (lane, found) = read_format(path)?.ok_or_else(|| nothing("it was deleted".into()))?;
        let folder = Self { path: path.to_owned(), lane, _lock: lock };
        folder.refuse_retired()?;
        if found != EMBEDDED && folder.moving()?.is_none() {
            return Err(nothing(format!(
                "lane {lane} is kept in store \"{found}\" already, and only an embedded one can be \
                 moved: `dpc node drain` hands on what a node on a database holds"
            )));
        }
        Ok(folder)
    }

    fn refuse_retired(&self) -> Result<(), StoreError> {
        if !is_retired(&self.path) {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "data directory {} was emptied by a node that adopted it, and its lane {} is retired: \
             delete the folder, or choose another data_dir",
            self.path.display(),
            self.lane
        )))
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
            history::keep_before(&self.path)?;
            if_there(fs::remove_dir_all(self.path.join("index")))?;
            if_there(fs::remove_file(self.path.join("CLAIMED")))?;
            sync_folder(&self.path)?;
            let lane = new_lane()?;
            replace(&self.path, "FORMAT", &text(lane, store))?;
            Ok(lane)
        };
        self.lane = renew().map_err(|error| unusable(&self.path, &error))?;
        Ok(self.lane)
    }

    /// Remembers a claim, durably.
    pub(super) fn note_claim(&self, epoch: Epoch) -> Result<(), StoreError> {
        note_claim(&self.path, epoch)
    }

    /// The move that was begun and has not ended, if there is one.
    pub(super) fn moving(&self) -> Result<Option<Moving>, StoreError> {
        moving(&self.path)
    }

    fn forget_move(&self) -> Result<(), StoreError> {
        let path = self.path.join(MOVING);
        if_there(fs::remove_file(&path)).map_err(|error| io_error(&path, &error))
    }
}

/// Remembers a claim of the lane of a folder, durably.
fn note_claim(folder: &Path, epoch: Epoch) -> Result<(), StoreError> {
    let noted = replace(folder, "CLAIMED", &format!("epoch {epoch}\n"));
    noted.map_err(|error| io_error(&folder.join("CLAIMED"), &error))
}

/// The move of the lane of a folder that was begun and has not ended.
pub(super) fn moving(folder: &Path) -> Result<Option<Moving>, StoreError> {
    let path = folder.join(MOVING);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(&path, &error)),
    };
    let mut lines = text.lines();
    let to = lines.next().and_then(|line| line.strip_prefix("to "));
    let epoch = lines.next().and_then(|line| line.strip_prefix("epoch ")?.parse().ok());
    match (to, epoch) {
        (Some(to), Some(epoch)) => Ok(Some(Moving { to: to.into(), epoch: Epoch(epoch) })),
        _ => Err(damaged(&path, "it does not say where the lane moves to")),
    }
}

/// Gives the log in a folder up for a lane that `store` is about to have: from here on nothing is
/// served from it. The caller holds the folder's lock.
pub(super) fn give_up(
    folder: &Path,
    lane: LaneId,
    store: &str,
    moving: &Moving,
) -> Result<(), StoreError> {
    let Moving { to, epoch } = moving;
    let give_up = || {
        replace(folder, MOVING, &format!("to {to}\nepoch {epoch}\n"))?;
        replace(folder, "FORMAT", &text(lane, store))
    };
    give_up().map_err(|error| io_error(folder, &error))
}

/// The store that a lane has moved to has it, claimed at an epoch: what the folder had of it goes
/// aside, as `before-move`, and the move is over. Says where it is.
pub(super) fn finish_move(folder: &Path, epoch: Epoch) -> Result<PathBuf, StoreError> {
    note_claim(folder, epoch)?;
    let aside = folder.join("before-move");
    let finish = || {
        fs::create_dir_all(&aside)?;
        for name in ["HEAD", "log"] {
            if_there(fs::rename(folder.join(name), aside.join(name)))?;
        }
        sync_folder(folder)?;
        if_there(fs::remove_file(folder.join(MOVING)))?;
        sync_folder(folder)
    };
    finish().map_err(|error| io_error(folder, &error))?;
    Ok(aside)
}

/// Makes the FORMAT of a folder whose log is in place.
pub(super) fn sign(folder: &Path, lane: LaneId) -> Result<(), StoreError> {
    let signed = replace(folder, "FORMAT", &text(lane, EMBEDDED));
    signed.map_err(|error| io_error(folder, &error))
}

/// The lane of a folder and the store that keeps it, if there is one.
fn read_format(folder: &Path) -> Result<Option<(LaneId, String)>, StoreError> {
    let format = folder.join("FORMAT");
    match fs::read(&format) {
        Ok(text) => parse(&format, &text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(folder, &error)),
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

/// Takes the lock of a folder.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
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
            "data directory {} is locked by another process{who}: stop it first",
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
    if path.join(IMPORTING).exists() {
        return Err(StoreError::Refused(format!(
            "an import into data directory {} was cut off: do it again, or empty the folder",
            path.display()
        )));
    }
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

/// A lane's id. The tokens of its leases begin with it, and are typed in shells, base64url: none begins with
/// a hyphen, which would make it an option.
fn new_lane() -> std::io::Result<LaneId> {
    /// Six bits that are a hyphen (RFC 4648, section 5).
    const HYPHEN: u8 = 62;
    let mut lane = LaneId([0; 16]);
    loop {
        getrandom::fill(&mut lane.0).map_err(std::io::Error::other)?;
        if lane.0[0] >> 2 != HYPHEN {
            return Ok(lane);
        }
    }
}

/// Writes a file that is there, whole, when this returns.
fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Gives a file of a folder another content, whole and durable when this returns.
fn replace(folder: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    write_synced(&new, text)?;
    fs::rename(&new, folder.join(name))?;
    sync_folder(folder)
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
    let format = format.ok_or_else(|| bad("it does not say its format"))?;
    match format {
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
            let moving = path.with_file_name(MOVING);
            if format <= FORMAT_OF_FJALL && moving.exists() {
                return Err(StoreError::Refused(format!(
                    "{}: the data directory has format {format}, and its lane is on its way to another \
                     store: let the dpc that has begun `dpc store move` finish it",
                    path.display()
                )));
            }
            if format <= FORMAT_OF_FJALL && store == EMBEDDED {
                return Err(StoreError::Refused(format!(
                    "{}: the data directory has format {format}, whose log this program does not read: \
                     write the lane to a file with the dpc that has made it (`dpc store export`), and \
                     take it into another data_dir with this one (`dpc store import`)",
                    path.display()
                )));
            }
            Ok((lane, store.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn no_token_of_a_new_lane_looks_like_an_option() {
        for _ in 0..2_000 {
            let token = URL_SAFE_NO_PAD.encode(new_lane().unwrap().0);
            assert!(!token.starts_with('-'), "{token}");
        }
    }
}
