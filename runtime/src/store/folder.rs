//! The data folder: made once, locked while in use, and known by its FORMAT file.
//!
//! A new folder is made under the name `FORMAT.new`, which becomes `FORMAT` when everything else is
//! there and synced: a folder with `FORMAT.new` was never finished, so nothing in it was ever
//! acknowledged, and a folder with a log and neither file is damaged.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use dpc_core::ids::LaneId;
use dpc_core::store::StoreError;

use super::head::Head;
use super::{damaged, io_error};

/// The version of the folder's layout that this program makes, and the highest it opens.
const FORMAT: u32 = 1;

const TITLE: &str = "dpc data folder";

/// An open data folder. Dropping it gives the lock back.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) lane: LaneId,
    _lock: File,
}

impl Folder {
    /// Opens the folder at `path`, and makes it first if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(|error| unusable(path, &error))?;
        let lock = lock(path)?;
        let format = path.join("FORMAT");
        let lane = match fs::read(&format) {
            Ok(text) => parse(&format, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(unusable(path, &error)),
        };
        Ok(Self { path: path.to_owned(), lane, _lock: lock })
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

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path.join("LOCK"))
        .map_err(|error| unusable(path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The holder is named as a help only; the refusal stands without it.
            let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let who = if known { format!(" (pid {})", pid.trim()) } else { String::new() };
            return Err(StoreError::Refused(format!(
                "data directory {} is locked by another process{who}",
                path.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(unusable(path, &error)),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&mut file).map_err(|error| unusable(path, &error))?;
    Ok(file)
}

fn make(path: &Path) -> Result<LaneId, StoreError> {
    let unfinished = path.join("FORMAT.new");
    let (head, log) = (path.join("HEAD"), path.join("log"));
    if !unfinished.exists() && (head.exists() || log.exists()) {
        return Err(damaged(&path.join("FORMAT"), "it is missing, and a log is there"));
    }
    let make = || -> std::io::Result<LaneId> {
        let mut lane = LaneId([0; 16]);
        getrandom::fill(&mut lane.0).map_err(std::io::Error::other)?;
        write_synced(&unfinished, &text(lane))?;
        sync_folder(path)?;
        if log.exists() {
            fs::remove_dir_all(&log)?;
        }
        Head::make(&head, lane)?;
        fs::create_dir(&log)?;
        fs::rename(&unfinished, path.join("FORMAT"))?;
        sync_folder(path)?;
        Ok(lane)
    };
    let lane = make().map_err(|error| unusable(path, &error))?;
    tracing::info!(folder = %path.display(), %lane, "made a data folder");
    Ok(lane)
}

fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn text(lane: LaneId) -> String {
    let made = jiff::Timestamp::now();
    let body = format!("{TITLE}\nformat {FORMAT}\nlane {lane}\ncreated {made:.0}\n");
    let check = blake3::hash(body.as_bytes()).to_hex();
    format!("{body}check {check}\n")
}

fn parse(path: &Path, bytes: &[u8]) -> Result<LaneId, StoreError> {
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
            lane.ok_or_else(|| bad("it does not name its lane"))
        }
    }
}
