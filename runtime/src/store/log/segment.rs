//! One file of the log, and the places of records in it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::{BadFrame, HEADER_BYTES, Header, open_start};
use dpc_core::store::StoreError;

use super::super::{io_error, needed};
use crate::files::{number_of, numbered};

/// How far the noted places of records lie apart, at least. A record is found from the noted one
/// before it, and a note takes 16 bytes of memory: 100 GB of log take 100 MB.
const MARK_BYTES: u64 = 16 << 10;

/// What is read at first, and what is read at most beyond a record.
const WINDOW_BYTES_MIN: usize = 16 << 10;
const WINDOW_BYTES_MAX: usize = 256 << 10;

/// Where a record names its lane, in every format.
const LANE_AT: usize = 8;

const EXTENSION: &str = "seg";

/// The place of the segment of that sequence number.
pub(super) fn path_of(log: &Path, sequence: u64) -> PathBuf {
    numbered(log, sequence, EXTENSION)
}

/// The segments that lie in the folder of a log, by their sequence numbers.
pub(super) fn list(log: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(log).map_err(|error| needed(log, &error))? {
        let path = entry.map_err(|error| needed(log, &error))?.path();
        found.extend(number_of(&path, EXTENSION).map(|sequence| (sequence, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// A segment that holds records.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    /// The record at its beginning. All others follow without a gap.
    pub(super) first: RecordNumber,
    /// Some of its records and where they begin, ascending, from the first on and as far as anybody
    /// has come yet.
    marks: Vec<(RecordNumber, u64)>,
}

impl Segment {
    pub(super) fn new(sequence: u64, path: PathBuf, first: RecordNumber) -> Self {
        Self { sequence, path, first, marks: vec![(first, 0)] }
    }

    /// Notes where a record begins, if it is far enough from the last one noted.
    pub(super) fn mark(&mut self, number: RecordNumber, at: u64) {
        if self.marks.last().is_some_and(|(_, last)| at >= last + MARK_BYTES) {
            self.marks.push((number, at));
        }
    }

    /// The last noted record that is not above `number`.
    pub(super) fn mark_before(&self, number: RecordNumber) -> (RecordNumber, u64) {
        let above = self.marks.partition_point(|(noted, _)| *noted <= number);
        self.marks[above.saturating_sub(1)]
    }
}

/// Reads the file of a segment, a window of bytes at a time.
pub(super) struct SegmentReader {
    pub(super) path: PathBuf,
    file: File,
    window: Vec<u8>,
    /// Where the window begins.
    from: u64,
}

impl SegmentReader {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|error| needed(path, &error))?;
        Ok(Self { path: path.to_owned(), file, window: Vec::new(), from: 0 })
    }

    /// Bytes from `at` on: `length` of them, or fewer where the file ends.
    pub(super) fn bytes(&mut self, at: u64, length: usize) -> Result<&[u8], StoreError> {
        let held = at.checked_sub(self.from).and_then(|skip| usize::try_from(skip).ok());
        let held = held.filter(|skip| skip + length <= self.window.len());
        let skip = match held {
            Some(skip) => skip,
            None => {
                self.read(at, length)?;
                0
            }
        };
        Ok(&self.window[skip..self.window.len().min(skip + length)])
    }

    fn read(&mut self, at: u64, length: usize) -> Result<(), StoreError> {
        // Whoever goes on reading gets more at once.
        let ahead = (self.window.len() * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        self.window.resize(length.max(ahead), 0);
        self.from = at;
        let mut filled = 0;
        while filled < self.window.len() {
            match self.file.read_at(&mut self.window[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(io_error(&self.path, &error));
                }
            }
        }
        self.window.truncate(filled);
        Ok(())
    }

    /// What stands at `at`, if it begins as a record of this lane does: its header, and its length. A
    /// record of a newer format is not nothing: it is refused.
    pub(super) fn start(
        &mut self,
        at: u64,
        lane: LaneId,
    ) -> Result<Option<(Header, usize)>, StoreError> {
        let start = self.bytes(at, HEADER_BYTES)?;
        match open_start(start) {
            Ok((header, length)) => Ok((header.lane == lane).then_some((header, length))),
            Err(newer @ BadFrame::Newer { .. }) if start[LANE_AT..].starts_with(&lane.0) => {
                let path = self.path.display();
                Err(StoreError::Refused(format!("{path}: the record at byte {at} has {newer}")))
            }
            Err(_) => Ok(None),
        }
    }
}
